//! Recovery codes: ten, each good for one login in place of the tap.
//!
//! A code has 80 random bits, so nobody guesses one, however fast: its hash need not be slow, as a password's must. It is
//! keyed under the key file, so that a copy of the database alone cannot even be searched.

use portlatch_protocol::names::UserName;
use zeroize::Zeroizing;

use crate::keys::{KEYED_HASH_BYTES, Keys};

/// Codes of one user.
pub(crate) const COUNT: usize = 10;
/// Characters of a code: five bits each.
const LENGTH: usize = 16;
/// Characters of a group; between groups there is a hyphen, for the eye.
const GROUP: usize = 4;
/// Crockford's base 32: nothing that is read as something else.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Longest text that is looked at: a code with something between all of its characters.
const MAX_TYPED: usize = 64;

/// New codes, as they are shown.
pub(crate) fn new_codes() -> Vec<Zeroizing<String>> {
    (0..COUNT).map(|_| new_code()).collect()
}

fn new_code() -> Zeroizing<String> {
    let mut random = Zeroizing::new([0_u8; LENGTH]);
    getrandom::fill(random.as_mut_slice()).expect("the system has randomness");
    let mut code = Zeroizing::new(String::with_capacity(LENGTH + LENGTH / GROUP));
    for (at, byte) in random.iter().enumerate() {
        if at > 0 && at % GROUP == 0 {
            code.push('-');
        }
        code.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    code
}

/// The hash under which a code is kept; nothing if the text has not the form of one.
pub(crate) fn hash(keys: &Keys, user: &UserName, typed: &str) -> Option<[u8; KEYED_HASH_BYTES]> {
    let code = normal(typed)?;
    Some(keys.keyed_hash(&format!("recovery/{user}"), code.as_bytes()))
}

/// The code without what people add to it, and with what they mistake put right.
fn normal(typed: &str) -> Option<Zeroizing<String>> {
    if typed.len() > MAX_TYPED {
        return None;
    }
    let mut code = Zeroizing::new(String::with_capacity(LENGTH));
    for character in typed.chars().filter(|c| !matches!(c, ' ' | '-')) {
        let character = match character.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        if !ALPHABET.contains(&u8::try_from(character).ok()?) {
            return None;
        }
        code.push(character);
    }
    (code.len() == LENGTH).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_however_it_is_typed() {
        let code = "0123-4567-89ab-cdef";
        let plain = normal(code).unwrap();
        for typed in
            ["0123456789abcdef", "0123 4567 89AB CDEF", " O123-4567-89ab-cdef ", "ol23-4567-89ab-cdef"]
        {
            assert_eq!(normal(typed), Some(plain.clone()), "{typed}");
        }
        let long = "0".repeat(100_000);
        for typed in [
            "",
            "0123-4567-89ab-cde",
            "0123-4567-89ab-cdef0",
            "0123-4567-89ab-cdeu",
            "０123456789abcdef",
            &long,
        ] {
            assert_eq!(normal(typed), None, "{} characters", typed.len());
        }
    }

    #[test]
    fn codes_are_ten_and_differ_and_are_typed_as_they_are_shown() {
        let codes = new_codes();
        let distinct: std::collections::HashSet<&str> = codes.iter().map(|code| code.as_str()).collect();
        assert_eq!((codes.len(), distinct.len()), (10, 10));
        for code in &codes {
            assert_eq!(normal(code).unwrap().len() * 5, 80, "bits");
        }
    }
}
