//! Passwords: argon2id, with the same work whether or not the user exists.
//!
//! Two computations run at once and a bounded number waits, so that a flood of logins costs time and never memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::{PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use portlatch_protocol::api::Secret;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Argon2id with 19 MiB, two passes, one lane: OWASP's first choice for servers that also do other work.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Computations at once: 38 MiB at most.
const AT_ONCE: usize = 2;
/// Requests that wait for their turn at once; at some 20 ms each the last has waited about a second.
const MAX_WAITING: usize = 64;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// NIST SP 800-63B section 5.1.1.2: at least eight characters.
pub const SHORTEST: usize = 8;
/// Longer ones are a flood, not a password.
pub const LONGEST: usize = 1024;

/// Why there is no answer about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short or too long to be set.
    #[error("a password has between {SHORTEST} and {LONGEST} characters")]
    Length,
    /// Too many are being checked.
    #[error("too many logins at once: try again in a moment")]
    Busy,
    /// The computation failed, which does not happen on a working machine.
    #[error("passwords cannot be checked now")]
    Broken,
}

/// Hashes and checks passwords.
#[derive(Debug)]
pub struct Passwords {
    work: Params,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// What the password of an unknown user is compared with.
    nobody: Arc<str>,
}

impl Passwords {
    /// Ready for use.
    ///
    /// # Errors
    /// [`PasswordError::Broken`] if argon2 does not work here.
    pub fn new() -> Result<Self, PasswordError> {
        Self::with(Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| PasswordError::Broken)?)
    }

    fn with(work: Params) -> Result<Self, PasswordError> {
        let mut unknown = [0; 32];
        getrandom::fill(&mut unknown).map_err(|_| PasswordError::Broken)?;
        let nobody = hash(&unknown, &work)?.into();
        Ok(Self { work, turns: Arc::new(Semaphore::new(AT_ONCE)), waiting: AtomicUsize::new(0), nobody })
    }

    /// As little work as argon2 can be given, for what is tried thousands of times around it.
    #[cfg(test)]
    pub(crate) fn quick() -> Self {
        let least = Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None);
        Self::with(least.expect("the least is allowed")).expect("argon2 works here")
    }

    /// The hash of a new password, in PHC form.
    ///
    /// # Errors
    /// [`PasswordError`] if it cannot be a password, or too many are waiting.
    pub async fn hash(&self, password: &Secret) -> Result<String, PasswordError> {
        if password.0.chars().count() < SHORTEST || password.0.len() > LONGEST {
            return Err(PasswordError::Length);
        }
        let (password, work) = (Zeroizing::new(password.0.clone().into_bytes()), self.work.clone());
        self.compute(move || hash(&password, &work)).await?
    }

    /// Whether this is the password behind `stored`; without a hash the same work, and no.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] if too many are waiting.
    pub async fn verify(&self, password: &Secret, stored: Option<&str>) -> Result<bool, PasswordError> {
        let is_known = stored.is_some();
        let stored: Arc<str> = stored.map_or_else(|| self.nobody.clone(), Arc::from);
        let is_too_long = password.0.len() > LONGEST;
        let password = Zeroizing::new(password.0.clone().into_bytes());
        let is_right = self
            .compute(move || {
                let parsed = PasswordHash::new(&stored).map_err(|_| PasswordError::Broken)?;
                // The work is the one that the hash says.
                Ok(Argon2::default().verify_password(&password, &parsed).is_ok())
            })
            .await??;
        Ok(is_right && is_known && !is_too_long)
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _waiting = Waiting::enter(&self.waiting)?;
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| PasswordError::Busy)?.map_err(|_| PasswordError::Broken)?;
        // The turn goes into the computation: a request that gives up does not make room for another one early.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|_| PasswordError::Broken)
    }
}

/// A place among those that wait or compute.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Result<Self, PasswordError> {
        let place = Self(count);
        match count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING {
            true => Ok(place),
            false => Err(PasswordError::Busy),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hash(password: &[u8], work: &Params) -> Result<String, PasswordError> {
    let mut salt = [0; Salt::RECOMMENDED_LENGTH];
    getrandom::fill(&mut salt).map_err(|_| PasswordError::Broken)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, work.clone());
    let hash: PasswordHash =
        argon2.hash_password_with_salt(password, &salt).map_err(|_| PasswordError::Broken)?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    #[tokio::test]
    async fn the_right_password_passes_and_others_do_not() {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash(&secret("correct horse")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(passwords.verify(&secret("correct horse"), Some(&stored)).await.unwrap());
        assert!(!passwords.verify(&secret("correct horsf"), Some(&stored)).await.unwrap());
        assert!(!passwords.verify(&secret(""), Some(&stored)).await.unwrap());
    }

    #[tokio::test]
    async fn an_unknown_user_costs_the_same_work_and_gets_no() {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash(&secret("correct horse")).await.unwrap();
        let parameters = |hash: &str| hash.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(parameters(&stored), parameters(&passwords.nobody));
        assert!(!passwords.verify(&secret("correct horse"), None).await.unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_a_password_is_refused() {
        let passwords = Passwords::new().unwrap();
        for bad in ["", "seven77", &"x".repeat(LONGEST + 1)] {
            assert_eq!(passwords.hash(&secret(bad)).await, Err(PasswordError::Length));
        }
    }

    #[tokio::test]
    async fn a_flood_is_turned_away_and_leaves_no_trace() {
        let passwords = Arc::new(Passwords::new().unwrap());
        let attempts: Vec<_> = (0..2 * MAX_WAITING)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.verify(&secret("guess"), None).await })
            })
            .collect();
        let mut busy = 0;
        for attempt in attempts {
            busy += usize::from(attempt.await.unwrap() == Err(PasswordError::Busy));
        }
        assert!(busy > 0, "all were taken");
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(passwords.verify(&secret("guess"), None).await, Ok(false));
    }
}
