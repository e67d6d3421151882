//! The line that a person types beside a prompt: pure, bytes of the terminal in, what to show and whole lines out.
//! Digits of a code never show; what was typed is wiped from memory when it is of no use any more.

use zeroize::Zeroizing;

/// Longest line: commands and codes are far shorter.
const MAX_TYPED: usize = 64;
/// Most bytes of a character in UTF-8.
const MAX_WIDTH: usize = 4;
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
    /// The bytes so far of a character that has several.
    begun: Zeroizing<Vec<u8>>,
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
        if !byte.is_ascii() {
            return self.handle_wide(byte);
        }
        if !self.begun.is_empty() {
            self.begun.clear();
            self.push(char::REPLACEMENT_CHARACTER);
        }
        match byte {
            b'\r' | b'\n' => return Some(Edit::Line(std::mem::take(&mut self.typed))),
            BACKSPACE | DELETE => drop(self.typed.pop()),
            ERASE_LINE => self.typed = Zeroizing::default(),
            ERASE_WORD => {
                let kept = self.typed.trim_end().rfind(' ').map_or(0, |space| space + 1);
                self.typed.truncate(kept);
            }
            b' '..=b'~' => return self.push(char::from(byte)),
            _ => return None,
        }
        Some(Edit::Changed)
    }

    /// A byte of a character that has several (UTF-8). What is none leaves a mark: a PIN that lacks a letter is a wrong one.
    fn handle_wide(&mut self, byte: u8) -> Option<Edit> {
        let is_first = byte & 0xc0 != 0x80;
        let before = match is_first && !self.begun.is_empty() {
            true => self.push(char::REPLACEMENT_CHARACTER),
            false => None,
        };
        if is_first {
            self.begun = Zeroizing::new(Vec::with_capacity(MAX_WIDTH));
        }
        self.begun.push(byte);
        let whole = match std::str::from_utf8(&self.begun) {
            Ok(text) => text.chars().next(),
            Err(error) if error.error_len().is_none() => return before,
            Err(_) => Some(char::REPLACEMENT_CHARACTER),
        };
        self.begun.clear();
        whole.filter(|c| !c.is_control()).and_then(|c| self.push(c)).or(before)
    }

    /// One more character, while there is room.
    fn push(&mut self, c: char) -> Option<Edit> {
        if self.typed.len() + c.len_utf8() > MAX_TYPED {
            return None;
        }
        // The room is made once: a string that grows leaves copies behind.
        if self.typed.capacity() < MAX_TYPED {
            self.typed = Zeroizing::new(String::with_capacity(MAX_TYPED));
        }
        self.typed.push(c);
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
        assert_eq!(typed(b"\x1b[A\x1b[1;5CdO\x1bOP\x01\xc2\x9b\r").0, ["dO"]);
    }

    #[test]
    fn letters_beyond_ascii_are_typed_and_taken_back_whole() {
        assert_eq!(typed("Größe-日本😀\r".as_bytes()).0, ["Größe-日本😀"]);
        assert_eq!(typed("pö\x7fi日\x7fn\r".as_bytes()).0, ["pin"]);
        assert_eq!(typed("ä 日\x17b\r".as_bytes()).0, ["ä b"]);
    }

    #[test]
    fn bytes_that_are_no_characters_leave_a_mark_each() {
        // As a terminal of another encoding sends them (ISO 8859-1).
        assert_eq!(typed(b"gr\xf6\xdfe\r").0, ["gr\u{fffd}\u{fffd}e"]);
        assert_eq!(typed(b"\xe6\x97\r").0, ["\u{fffd}"]);
        assert_eq!(typed(b"\x80\xff\r").0, ["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        assert_eq!(typed(&[b'x'; 10_000]).1.len(), MAX_TYPED);
        assert_eq!(typed("ä".repeat(10_000).as_bytes()).1.len(), MAX_TYPED);
        assert_eq!(typed(&[b'\x80'; 10_000]).1.chars().count(), MAX_TYPED / 3);
    }
}
