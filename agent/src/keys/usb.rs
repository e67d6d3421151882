//! USB security keys (CTAP2 over HID). Each is used on a thread of its own, one use at a time: a device may block, be
//! silent, or send nonsense, and whoever waits here has deadlines and may walk away.
//!
//! ```text
//! use ---- every 300 ms ----> list the keys
//!  |                            | new, settled and free: a thread asks it (operation.rs)
//!  |<--- the first answer ------'   channel.rs: CTAPHID    ctap.rs: CTAP2    pin.rs: PIN and finger
//!  '---- over: each thread is called off, and sends CANCEL
//! ```
//!
//! A key without any of the credentials does not blink; where another one does, it waits for a touch as well, so that
//! whoever touches the wrong one hears of it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::BoxFuture;
use webauthn_rs_proto::{
    PublicKeyCredential, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
    RegisterPublicKeyCredential,
};

use super::{Attempt, KeyError, SecurityKey};
use crate::safe_text::plain;

mod bus;
mod channel;
mod ctap;
mod descriptor;
mod framing;
mod hidraw;
mod operation;
mod patience;
mod person;
mod pin;
mod race;
mod seat;
mod trouble;

use bus::{Bus, Found, KeyId, OpenError};
use operation::Operation;
use patience::{PATIENCE, Patience};

/// Every USB security key of the machine that the user may open.
#[derive(Debug)]
pub(crate) struct UsbKeys(Machine);

/// A key that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluggedIn {
    /// `/dev/hidraw3`.
    pub(crate) device: String,
    /// Why it cannot be used, and what to do; none if it can.
    pub(crate) trouble: Option<String>,
}

/// The keys, and those whose threads have not come back.
#[derive(Debug, Clone)]
struct Machine {
    bus: Arc<dyn Bus>,
    /// A std mutex: held for a line, never across a wait.
    busy: Arc<Mutex<HashSet<KeyId>>>,
    patience: Patience,
}

impl UsbKeys {
    /// The keys of this machine.
    pub(crate) fn new() -> Self {
        Self::on(Arc::new(hidraw::Hidraw), PATIENCE)
    }

    /// The keys that are plugged in, and what keeps each from being used.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn plugged_in(&self) -> std::io::Result<Vec<PluggedIn>> {
        let Machine { bus, .. } = &self.0;
        let look = |Found { key, .. }: Found| {
            let trouble = bus.open(&key).err().map(|error| match error {
                OpenError::NoAccess(why) => why,
                OpenError::Io(error) => format!("{} cannot be opened: {}", key.device, plain(&error)),
            });
            PluggedIn { device: key.device, trouble }
        };
        Ok(bus.list()?.into_iter().map(look).collect())
    }

    fn on(bus: Arc<dyn Bus>, patience: Patience) -> Self {
        Self(Machine { bus, busy: Arc::default(), patience })
    }

    fn race<A: Send + 'static>(
        &self,
        operation: impl Operation<Answer = A> + 'static,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<A, KeyError>> {
        Box::pin(race::first_answer(self.0.clone(), Arc::new(operation), attempt))
    }
}

/// Whoever was called off has a moment to tell its key: a process that ends takes the threads along, and a key that heard
/// nothing blinks on.
impl Drop for UsbKeys {
    fn drop(&mut self) {
        let until = Instant::now() + self.0.patience.farewell;
        while self.0.is_any_busy() && Instant::now() < until {
            std::thread::sleep(self.0.patience.glance);
        }
    }
}

impl SecurityKey for UsbKeys {
    fn enrol(
        &self,
        options: PublicKeyCredentialCreationOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<RegisterPublicKeyCredential, KeyError>> {
        self.race(operation::Enrol { options, client_data: attempt.client_data.clone() }, attempt)
    }

    fn assert(
        &self,
        options: PublicKeyCredentialRequestOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<PublicKeyCredential, KeyError>> {
        self.race(operation::Assert { options, client_data: attempt.client_data.clone() }, attempt)
    }
}

impl Machine {
    /// Takes a key for one thread; says whether it was free.
    fn take(&self, key: &KeyId) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone())
    }

    fn is_any_busy(&self) -> bool {
        !self.busy.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn give_back(&self, key: &KeyId) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests;
