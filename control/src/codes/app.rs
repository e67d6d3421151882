//! Time-based one-time passwords (RFC 6238), as every authenticator app makes them: SHA-1, six digits, 30 seconds. Pure.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Hostname, UserName};
use totp_rs::{Algorithm, Builder, Totp};
use zeroize::Zeroizing;

/// Bytes of a secret: what RFC 4226 section 4 recommends.
pub(crate) const SECRET_BYTES: usize = 20;
/// Seconds of a step.
const STEP: u64 = 30;
/// Digits of a code.
const DIGITS: u8 = 6;
/// How many steps a code may be early or late: a clock that is off, and the time that typing takes (RFC 6238 section
/// 5.2).
const SKEW: u64 = 1;

/// A code as somebody typed it, once it has the form of one.
pub(crate) struct TypedCode(Zeroizing<String>);

impl TypedCode {
    /// Reads six ASCII digits; people and apps put a space between the third and the fourth.
    pub(crate) fn read(typed: &str) -> Option<Self> {
        // A longer text is not even copied.
        if typed.len() > 4 * usize::from(DIGITS) {
            return None;
        }
        let digits: Zeroizing<String> = Zeroizing::new(typed.chars().filter(|c| *c != ' ').collect());
        let is_code = digits.len() == usize::from(DIGITS) && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_code.then_some(Self(digits))
    }
}

/// A new secret.
pub(crate) fn new_secret() -> Zeroizing<Vec<u8>> {
    let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
    getrandom::fill(&mut secret).expect("the system has randomness");
    secret
}

/// The step whose code this is, among those that count at `now`. Each is computed, whichever fits.
pub(crate) fn matching_step(secret: &[u8], code: &TypedCode, now: TimeOfDay) -> Option<u64> {
    let totp = totp(secret, None)?;
    let current = u64::try_from(now.seconds()).ok()? / STEP;
    let steps = current.saturating_sub(SKEW)..=current + SKEW;
    steps.fold(None, |found, step| totp.check(&code.0, step * STEP).or(found))
}

/// What an app is told, as the QR code holds it: the secret is in it.
pub(crate) fn uri(cluster: &Hostname, user: &UserName, secret: &[u8]) -> Option<Zeroizing<String>> {
    totp(secret, Some((cluster, user)))?.to_url().ok().map(Zeroizing::new)
}

fn totp(secret: &[u8], labels: Option<(&Hostname, &UserName)>) -> Option<Totp> {
    let secret: [u8; SECRET_BYTES] = secret.try_into().ok()?;
    let builder = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_step_duration(STEP)
        // The window is looked at here, every step of it.
        .with_skew(0)
        .with_secret(totp_rs::Secret::new_stack(secret));
    let builder = match labels {
        Some((cluster, user)) => {
            let issuer = format!("Portlatch {cluster}");
            builder.with_issuer(Some(issuer)).with_account_name(user.as_str())
        }
        None => builder,
    };
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, SHA-1; the last six of its eight digits.
    const VECTORS: [(i64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];
    const SECRET: &[u8] = b"12345678901234567890";

    fn at(seconds: i64) -> TimeOfDay {
        TimeOfDay(seconds * 1000)
    }

    fn step_of(code: &str, seconds: i64) -> Option<u64> {
        matching_step(SECRET, &TypedCode::read(code).unwrap(), at(seconds))
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (seconds, code) in VECTORS {
            let step = u64::try_from(seconds).unwrap() / 30;
            assert_eq!(step_of(code, seconds), Some(step), "{seconds} s");
        }
    }

    // B: skew of one step either way passes, of two does not.
    #[test]
    fn a_code_counts_one_step_early_and_late_and_no_further() {
        let (seconds, code) = (1_234_567_890, "005924");
        let step = u64::try_from(seconds).unwrap() / 30;
        let within: Vec<Option<u64>> = (-3..=3).map(|steps| step_of(code, seconds + steps * 30)).collect();
        assert_eq!(within, [None, None, Some(step), Some(step), Some(step), None, None]);
    }

    // B: non-digits, long, Unicode digits.
    #[test]
    fn only_six_ascii_digits_have_the_form_of_a_code() {
        for good in ["005924", "005 924", " 005924 "] {
            assert!(TypedCode::read(good).is_some(), "{good:?}");
        }
        let long = "1".repeat(100_000);
        for bad in [
            "",
            "12345",
            "1234567",
            "+12345",
            "-12345",
            "12345a",
            "１２３４５６",
            "٠٠٥٩٢٤",
            "005\u{a0}924",
            "0x5924",
            &long,
        ] {
            assert!(TypedCode::read(bad).is_none(), "{} characters", bad.len());
        }
    }

    #[test]
    fn the_uri_says_what_an_app_must_know() {
        let (cluster, user) =
            ("proxy.example.com".parse().unwrap(), "jerry+admin@example.com".parse().unwrap());
        let uri = uri(&cluster, &user, SECRET).unwrap();
        assert_eq!(
            uri.as_str(),
            "otpauth://totp/Portlatch%20proxy.example.com:jerry%2Badmin%40example.com\
             ?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Portlatch%20proxy.example.com"
        );
    }

    #[test]
    fn secrets_are_long_enough_and_differ() {
        let (one, other) = (new_secret(), new_secret());
        assert_eq!(one.len() * 8, 160);
        assert_ne!(one, other);
    }
}
