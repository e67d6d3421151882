//! Text that others chose (programs, resources, servers), made fit for a terminal: no control characters, no escape
//! sequences, nothing that turns the direction of the line around, and not longer than a line bears.

use portlatch_protocol::api::ceremony::MAX_EXEC_RESOURCES;

/// Longest text from elsewhere inside a line of ours (notes: "cap 64 chars").
pub(crate) const MAX_SHOWN: usize = 64;
/// Longest sentence of a server that is shown.
pub(crate) const MAX_SENTENCE: usize = 512;
/// Longest account of what a prompt is about: a command on as many resources as there may be, with the longest names.
const MAX_MATTER: usize = MAX_SENTENCE + MAX_EXEC_RESOURCES * (LONGEST_NAME + 2);
/// Of the protocol's names.
const LONGEST_NAME: usize = 64;

/// `text` for the inside of a line.
pub(crate) fn safe(text: &str) -> String {
    cut(text, MAX_SHOWN)
}

/// A server's sentence.
pub(crate) fn safe_sentence(text: &str) -> String {
    cut(text, MAX_SENTENCE)
}

/// What a prompt is about: every resource of a command is named.
pub(crate) fn safe_matter(text: &str) -> String {
    cut(text, MAX_MATTER)
}

/// What the operating system said, without its number, which tells people nothing.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = without_number(&text);
    text.strip_prefix("failed to lookup address information: ").unwrap_or(text).to_owned()
}

/// What somebody says that the operating system said, likewise.
pub(crate) fn without_number(text: &str) -> &str {
    text.split(" (os error ").next().unwrap_or_default()
}

/// An error's text, as the sentence of its own that it becomes.
pub(crate) fn sentence(text: &str) -> String {
    // A host's name is written as it is.
    if text.split(' ').next().is_some_and(|word| word.contains('.')) {
        return text.to_owned();
    }
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn cut(text: &str, limit: usize) -> String {
    let mut shown: String = without_escapes(text).filter(|c| is_harmless(*c)).take(limit + 1).collect();
    if shown.chars().count() > limit {
        shown = shown.chars().take(limit.saturating_sub(1)).collect();
        shown.push('…');
    }
    shown
}

/// Drops ANSI control sequences whole, so that `ESC [ 3 1 m` does not leave `[31m` behind.
fn without_escapes(text: &str) -> impl Iterator<Item = char> + '_ {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        while chars.next_if_eq(&'\u{1b}').is_some() {
            if chars.next_if_eq(&'[').is_none() {
                continue;
            }
            // ECMA-48: parameters and intermediates, then one final byte.
            while chars.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
            chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
        }
        chars.next()
    })
}

fn is_harmless(c: char) -> bool {
    let is_format = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !is_format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_begins_with_a_capital_letter_or_a_host() {
        assert_eq!(sentence("the tap failed."), "The tap failed.");
        assert_eq!(sentence("proxy.example.com is silent."), "proxy.example.com is silent.");
    }

    #[test]
    fn what_the_system_said_comes_without_its_number() {
        let refused = std::io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(plain(&refused), "Connection refused");
        let name = "failed to lookup address information: Name or service not known";
        assert_eq!(plain(&std::io::Error::other(name)), "Name or service not known");
    }

    #[test]
    fn escape_sequences_leave_nothing_behind() {
        assert_eq!(safe("\u{1b}[31;1mpsql\u{1b}[0m\u{1b}[2J"), "psql");
        assert_eq!(safe("a\u{1b}"), "a");
        assert_eq!(safe("a\u{9b}31mb"), "a31mb");
    }

    #[test]
    fn control_and_bidi_characters_are_dropped() {
        assert_eq!(safe("ps\r\nql\u{202e}txt.exe\u{2066}\u{200b}"), "psqltxt.exe");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let shown = safe(&"x".repeat(1000));
        assert_eq!(shown.chars().count(), MAX_SHOWN);
        assert!(shown.ends_with('…'));
        assert_eq!(safe(&"y".repeat(MAX_SHOWN)), "y".repeat(MAX_SHOWN));
    }

    #[test]
    fn every_resource_of_a_command_is_named() {
        let names = vec!["n".repeat(64); MAX_EXEC_RESOURCES].join(", ");
        let matter = format!("{}, pid 4194304 on 64 resources: {names}", "p".repeat(MAX_SHOWN));
        assert_eq!(safe_matter(&matter), matter);
        assert!(safe_matter(&"x".repeat(100_000)).chars().count() <= MAX_MATTER);
    }

    #[test]
    fn ordinary_names_pass_unchanged() {
        assert_eq!(safe("Größe-日本 (v2)"), "Größe-日本 (v2)");
    }
}
