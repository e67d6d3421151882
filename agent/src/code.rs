//! A code of an authenticator app on its way from a person's fingers to control: never printed, never logged, wiped from
//! memory when it has been handed on.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Digits of a code: RFC 6238's apps show six; some can be set to eight.
const DIGITS: std::ops::RangeInclusive<usize> = 6..=8;

/// A code.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Code(Zeroizing<String>);

impl Code {
    /// The code that was typed, with or without spaces; `None` if it is none.
    pub(crate) fn typed(text: &str) -> Option<Self> {
        let mut digits = Zeroizing::new(String::with_capacity(*DIGITS.end()));
        for c in text.chars().filter(|c| *c != ' ') {
            if !c.is_ascii_digit() || digits.len() == *DIGITS.end() {
                return None;
            }
            digits.push(c);
        }
        DIGITS.contains(&digits.len()).then_some(Self(digits))
    }

    /// The digits.
    pub(crate) fn digits(&self) -> &str {
        &self.0
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::typed(&text).ok_or_else(|| serde::de::Error::custom("no code"))
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(code)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_to_eight_digits_are_a_code_and_nothing_else_is() {
        for (text, digits) in [("123456", "123456"), (" 123 456 ", "123456"), ("12345678", "12345678")] {
            assert_eq!(Code::typed(text).unwrap().digits(), digits);
        }
        for text in ["", "12345", "123456789", "12345a", "١٢٣٤٥٦", "-123456", "123\t456"] {
            assert!(Code::typed(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_code_is_never_printed() {
        assert!(!format!("{:?}", Code::typed("123456")).contains("123456"));
    }
}
