//! The line that a person types beside a prompt: pure, bytes of the terminal in, what to show and whole lines out.
//! Digits of a code never show; what was typed is wiped from memory when it is of no use any more.

use zeroize::Zeroizing;

/// Longest line: commands and codes are far shorter.
const MAX_TYPED: usize = 64;
/// What stands for a character that is not shown.
const MASK: char = '•';

const BACKSPACE: u8 = 0x08;
const ERASE_LINE: u8 = 0x15;
const ERASE_WORD: u8 = 0x17;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// What a byte brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The line looks different now.
    Changed,
    /// Enter was pressed.
    Line(Zeroizing<String>),
}

/// The line so far.
#[derive(Default)]
pub(crate) struct LineEditor {
    typed: Zeroizing<String>,
    sequence: Sequence,
}

/// Keys such as the arrows send a sequence (ECMA-48), which is passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    Begun,
    Inside,
}

impl std::fmt::Debug for LineEditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineEditor").finish_non_exhaustive()
    }
}

impl LineEditor {
    /// One byte of the terminal.
    pub(crate) fn handle_byte(&mut self, byte: u8) -> Option<Edit> {
        if self.passes_over(byte) {
            return None;
        }
        match byte {
            b'\r' | b'\n' => return Some(Edit::Line(std::mem::take(&mut self.typed))),
            BACKSPACE | DELETE => drop(self.typed.pop()),
            ERASE_LINE => self.typed = Zeroizing::default(),
            ERASE_WORD => {
                let kept = self.typed.trim_end().rfind(' ').map_or(0, |space| space + 1);
                self.typed.truncate(kept);
            }
            // The room is made once: a string that grows leaves copies behind.
            b' '..=b'~' if self.typed.len() < MAX_TYPED => {
                if self.typed.capacity() < MAX_TYPED {
                    self.typed = Zeroizing::new(String::with_capacity(MAX_TYPED));
                }
                self.typed.push(char::from(byte));
            }
            _ => return None,
        }
        Some(Edit::Changed)
    }

    /// The line as others at the screen may see it: whatever could be of a code is masked.
    pub(crate) fn shown(&self) -> String {
        // "lift 12" and the like are no secrets; a digit anywhere else may be one of a code.
        if self.typed.trim_start().starts_with("lift") {
            return self.typed.to_string();
        }
        self.typed.chars().map(|c| if c.is_ascii_digit() { MASK } else { c }).collect()
    }

    fn passes_over(&mut self, byte: u8) -> bool {
        self.sequence = match (self.sequence, byte) {
            (_, ESCAPE) => Sequence::Begun,
            (Sequence::None, _) => return false,
            (Sequence::Begun, b'[' | b'O') => Sequence::Inside,
            (Sequence::Inside, 0x20..=0x3f) => Sequence::Inside,
            (Sequence::Begun | Sequence::Inside, _) => Sequence::None,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was entered, and what was shown just before.
    fn typed(bytes: &[u8]) -> (Vec<String>, String) {
        let (mut editor, mut lines) = (LineEditor::default(), Vec::new());
        for byte in bytes {
            if let Some(Edit::Line(line)) = editor.handle_byte(*byte) {
                lines.push(line.to_string());
            }
        }
        (lines, editor.shown())
    }

    #[test]
    fn a_code_is_entered_and_never_shown() {
        assert_eq!(typed(b"123 456").1, "••• •••");
        assert_eq!(typed(b"code 123456").1, "code ••••••");
        assert_eq!(typed(b"code 123456\r"), (vec!["code 123456".to_owned()], String::new()));
    }

    #[test]
    fn numbers_that_are_no_codes_are_shown() {
        assert_eq!(typed(b"lift 12").1, "lift 12");
    }

    #[test]
    fn what_was_mistyped_can_be_taken_back() {
        assert_eq!(typed(b"dx\x7f\r").0, ["d"]);
        assert_eq!(typed(b"code 12\x15d\r").0, ["d"]);
        assert_eq!(typed(b"code 12\x17\x7f34\r").0, ["code34"]);
        assert_eq!(typed(b"\x7f\x7f\r").0, [""]);
    }

    #[test]
    fn arrows_and_other_keys_leave_nothing_behind() {
        assert_eq!(typed(b"\x1b[A\x1b[1;5CdO\x1bOP\x01\xc3\xa4\r").0, ["dO"]);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        assert_eq!(typed(&[b'x'; 10_000]).1.len(), MAX_TYPED);
    }
}
