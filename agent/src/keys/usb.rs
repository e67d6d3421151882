//! USB security keys (CTAP2 over HID), by the crate ctap-hid-fido2 held at arm's length: it blocks without a deadline,
//! may panic on a key's bytes, and reports errors as text. So each key is used on a thread of its own, one use at a
//! time; whoever waits here has deadlines and may walk away, and a thread that never comes back keeps only its key busy.
//!
//! ```text
//! use ---- every 300 ms ----> list the keys
//!  |                            | new and free: a thread asks it     (3 s after plugging in: some keys take the first
//!  |<--- the first answer ------'                                     request after that as touched)
//!  '---- over: CTAPHID_CANCEL to the others
//! ```

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ctap_hid_fido2::{FidoKeyHid, FidoKeyHidFactory, HidParam, LibCfg, get_fidokey_devices};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use webauthn_rs_proto::{
    PublicKeyCredential, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
    RegisterPublicKeyCredential,
};

use super::usb_error::{Meaning, meaning};
use super::{Attempt, KeyError, KeyNotice, SecurityKey};

mod operation;

use operation::Operation;

/// How often keys are looked for: plugging one in is noticed at once, and listing costs a few files.
const POLL: Duration = Duration::from_millis(300);
/// Some keys take the first request within two seconds of being plugged in as touched (Nitrokey Passkey).
const SETTLE: Duration = Duration::from_secs(3);
/// Longest wait for one key: longer than any key's own time for a touch (about 30 s), so only a dead one takes it.
const PATIENCE: Duration = Duration::from_secs(90);
/// Hiccups that are forgiven in one use.
const HICCUPS: u32 = 2;
/// Keys used at once: nobody has more plugged in on purpose.
const MAX_KEYS: usize = 8;

/// Every USB security key of the machine that the user may open.
#[derive(Debug, Default)]
pub(crate) struct UsbKeys {
    /// The devices whose threads have not come back.
    busy: Busy,
}

/// The devices in use. A std mutex: held for a line, never across a wait.
type Busy = Arc<Mutex<HashSet<String>>>;
/// An open device, for whoever must stop it.
type Handle = Arc<Mutex<Option<Arc<FidoKeyHid>>>>;

/// One use of whichever key answers first.
struct Use<A> {
    operation: Arc<dyn Operation<Answer = A>>,
    attempt: Attempt,
    answers: mpsc::Sender<(String, Outcome<A>)>,
    running: HashMap<String, (Handle, Instant)>,
    first_seen: HashMap<String, Option<Instant>>,
    wrong: HashSet<String>,
    hiccups: u32,
}

/// A key that is there at the first look was not plugged in just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Later,
}

/// What a key said, and after how long.
struct Outcome<A> {
    result: Result<A, WorkError>,
    lasted: Duration,
}

enum WorkError {
    NoAccess,
    Library(String),
    Panicked,
}

impl SecurityKey for UsbKeys {
    fn enrol(
        &self,
        options: PublicKeyCredentialCreationOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<RegisterPublicKeyCredential, KeyError>> {
        let operation = operation::Enrol { options, client_data: attempt.client_data.clone() };
        Box::pin(self.first_answer(Arc::new(operation), attempt))
    }

    fn assert(
        &self,
        options: PublicKeyCredentialRequestOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<PublicKeyCredential, KeyError>> {
        let operation = operation::Assert { options, client_data: attempt.client_data.clone() };
        Box::pin(self.first_answer(Arc::new(operation), attempt))
    }
}

impl UsbKeys {
    async fn first_answer<A: Send + 'static>(
        &self,
        operation: Arc<dyn Operation<Answer = A>>,
        attempt: Attempt,
    ) -> Result<A, KeyError> {
        let (answers, mut answered) = mpsc::channel(MAX_KEYS);
        let mut this_use = Use {
            operation,
            attempt: attempt.clone(),
            answers,
            running: HashMap::new(),
            first_seen: HashMap::new(),
            wrong: HashSet::new(),
            hiccups: 0,
        };
        let mut poll = tokio::time::interval(POLL);
        let mut look = Look::First;
        loop {
            tokio::select! {
                biased;
                () = attempt.cancel.cancelled() => return Err(KeyError::Cancelled),
                Some((path, outcome)) = answered.recv() => {
                    if let Some(answer) = this_use.handle_outcome(&path, outcome)? {
                        return Ok(answer);
                    }
                }
                _ = poll.tick() => {
                    let present = list().await?;
                    this_use.handle_present(&present, look, &self.busy)?;
                    look = Look::Later;
                }
            }
        }
    }
}

/// The paths of the keys that are plugged in.
async fn list() -> Result<Vec<String>, KeyError> {
    let listed = tokio::task::spawn_blocking(|| catch_unwind(get_fidokey_devices));
    let listed = listed.await.ok().and_then(Result::ok);
    let devices = listed.ok_or_else(|| KeyError::Broken("USB devices cannot be listed".to_owned()))?;
    let paths = devices.into_iter().filter_map(|device| match device.param {
        HidParam::Path(path) => Some(path),
        HidParam::VidPid { .. } => None,
    });
    Ok(paths.take(MAX_KEYS).collect())
}

impl<A: Send + 'static> Use<A> {
    fn handle_present(&mut self, present: &[String], look: Look, busy: &Busy) -> Result<(), KeyError> {
        self.first_seen.retain(|path, _| present.contains(path));
        self.wrong.retain(|path| present.contains(path));
        self.give_up_on_the_silent()?;
        for path in present {
            let since = (look == Look::Later).then(Instant::now);
            let seen = *self.first_seen.entry(path.clone()).or_insert(since);
            let is_settled = seen.is_none_or(|seen| seen.elapsed() >= SETTLE);
            if is_settled && !self.wrong.contains(path) && !self.running.contains_key(path) {
                self.start(path, busy);
            }
        }
        if present.is_empty() {
            self.attempt.notice(KeyNotice::PlugIn);
        }
        Ok(())
    }

    fn give_up_on_the_silent(&mut self) -> Result<(), KeyError> {
        match self.running.values().any(|(_, started)| started.elapsed() >= PATIENCE) {
            true => Err(KeyError::Broken("it is silent".to_owned())),
            false => Ok(()),
        }
    }

    fn start(&mut self, path: &str, busy: &Busy) {
        let is_free = busy.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        if !is_free {
            return;
        }
        let (busy, path) = (busy.clone(), path.to_owned());
        let (operation, answers) = (self.operation.clone(), self.answers.clone());
        let handle = Handle::default();
        self.running.insert(path.clone(), (handle.clone(), Instant::now()));
        let work = move || {
            let started = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| use_key(&path, &handle, operation.as_ref())));
            let result = result.unwrap_or(Err(WorkError::Panicked));
            *handle.lock().unwrap_or_else(PoisonError::into_inner) = None;
            busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
            // Nobody may be waiting any more: then the answer is worth nothing.
            let _ = answers.blocking_send((path, Outcome { result, lasted: started.elapsed() }));
        };
        if std::thread::Builder::new().name("security-key".to_owned()).spawn(work).is_err() {
            tracing::warn!("no thread for the security key: trying again");
        }
    }

    fn handle_outcome(&mut self, path: &str, outcome: Outcome<A>) -> Result<Option<A>, KeyError> {
        self.running.remove(path);
        let text = match outcome.result {
            Ok(answer) => return Ok(Some(answer)),
            Err(WorkError::NoAccess) => return Err(KeyError::NoAccess { device: path.to_owned() }),
            Err(WorkError::Panicked) => "the key's bytes make no sense".to_owned(),
            Err(WorkError::Library(text)) => text,
        };
        match meaning(&text, outcome.lasted) {
            Meaning::AskAgain => {}
            Meaning::WrongKey => {
                self.wrong.insert(path.to_owned());
                self.attempt.notice(KeyNotice::WrongKey);
            }
            Meaning::Hiccup if self.hiccups < HICCUPS => self.hiccups += 1,
            Meaning::Hiccup => return Err(KeyError::Broken(crate::safe_text::safe(&text))),
            Meaning::Final(error) => return Err(error),
        }
        Ok(None)
    }
}

/// However the use ends, the keys that still blink are told to stop. CANCEL may block behind the key's own reader, so it
/// has a thread too.
impl<A> Drop for Use<A> {
    fn drop(&mut self) {
        for (handle, _) in self.running.values() {
            let handle = handle.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(device) = handle else { continue };
            let stop = move || catch_unwind(AssertUnwindSafe(|| device.cancel_selection().is_ok()));
            let _ = std::thread::Builder::new().name("security-key-stop".to_owned()).spawn(stop);
        }
    }
}

fn use_key<A>(path: &str, handle: &Handle, operation: &dyn Operation<Answer = A>) -> Result<A, WorkError> {
    // The library prints its keep-alive text to standard output unless it is empty.
    let mut config = LibCfg::init();
    config.keep_alive_msg = String::new();
    let device = FidoKeyHidFactory::create_by_params(&[HidParam::Path(path.to_owned())], &config);
    let device = Arc::new(device.map_err(|error| open_error(path, &error.to_string()))?);
    *handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(device.clone());
    operation.run(&device).map_err(|error| WorkError::Library(error.to_string()))
}

/// The library does not say why it could not open the device; the kernel does.
fn open_error(path: &str, text: &str) -> WorkError {
    let denied = std::fs::OpenOptions::new().read(true).write(true).open(path);
    match denied {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => WorkError::NoAccess,
        Ok(_) | Err(_) => WorkError::Library(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::ClientData;
    use tokio_util::sync::CancellationToken;

    fn this_use() -> (Use<()>, mpsc::Receiver<KeyNotice>) {
        struct Nothing;
        impl Operation for Nothing {
            type Answer = ();
            fn run(&self, _: &FidoKeyHid) -> anyhow::Result<()> {
                Ok(())
            }
        }
        let (notices, noticed) = mpsc::channel(NOTICED);
        let client_data = ClientData::for_login(b"x", &"h.example".parse().unwrap());
        let attempt = Attempt { client_data, cancel: CancellationToken::new(), notices };
        let this_use = Use {
            operation: Arc::new(Nothing),
            attempt,
            answers: mpsc::channel(1).0,
            running: HashMap::new(),
            first_seen: HashMap::new(),
            wrong: HashSet::new(),
            hiccups: 0,
        };
        (this_use, noticed)
    }
    const NOTICED: usize = 4;

    fn failed(text: &str) -> Outcome<()> {
        Outcome { result: Err(WorkError::Library(text.to_owned())), lasted: Duration::from_secs(1) }
    }

    #[test]
    fn with_no_key_the_person_is_asked_for_one() {
        let (mut this_use, mut noticed) = this_use();
        this_use.handle_present(&[], Look::First, &Arc::default()).unwrap();
        assert_eq!(noticed.try_recv(), Ok(KeyNotice::PlugIn));
    }

    #[test]
    fn a_key_that_was_just_plugged_in_is_left_alone_for_a_while() {
        let (mut this_use, _noticed) = this_use();
        let busy = Arc::default();
        this_use.handle_present(&[], Look::First, &busy).unwrap();
        this_use.handle_present(&["/dev/hidraw-none".to_owned()], Look::Later, &busy).unwrap();
        assert!(this_use.running.is_empty());
    }

    #[test]
    fn a_wrong_key_is_not_asked_again_until_it_was_taken_out() {
        let (mut this_use, mut noticed) = this_use();
        let path = "/dev/hidraw-none";
        assert!(this_use.handle_outcome(path, failed("response_status err = 0x2E X")).unwrap().is_none());
        assert_eq!(noticed.try_recv(), Ok(KeyNotice::WrongKey));
        this_use.handle_present(&[path.to_owned()], Look::First, &Arc::default()).unwrap();
        assert!(this_use.running.is_empty());
        this_use.handle_present(&[], Look::Later, &Arc::default()).unwrap();
        assert!(this_use.wrong.is_empty());
    }

    #[test]
    fn a_few_hiccups_are_forgiven() {
        let (mut this_use, _noticed) = this_use();
        for _ in 0..HICCUPS {
            assert!(this_use.handle_outcome("p", failed("ciborium parse error")).is_ok());
        }
        assert!(matches!(
            this_use.handle_outcome("p", failed("ciborium parse error")),
            Err(KeyError::Broken(_))
        ));
    }

    #[tokio::test]
    async fn a_cancelled_use_ends_without_a_key() {
        let (this_use, _noticed) = this_use();
        this_use.attempt.cancel.cancel();
        let operation = this_use.operation.clone();
        let ended = UsbKeys::default().first_answer(operation, this_use.attempt.clone()).await;
        assert_eq!(ended, Err(KeyError::Cancelled));
    }
}
