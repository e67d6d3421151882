//! What a key's thread says to the person, and asks: the thread waits for the answer, whoever shows it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::bus::KeyId;
use super::channel::Broken;
use super::trouble::Trouble;
use crate::keys::KeyNotice;
use crate::keys::pin_entry::{NoPin, Pin, PinQuestion};

/// What a thread tells of its key while it works.
#[derive(Debug)]
pub(super) enum News {
    /// For the person.
    Notice(KeyNotice),
    /// The person means this key: the others are to stop.
    Chosen,
    /// The key wants its PIN.
    Pin(PinQuestion, oneshot::Sender<Result<Pin, NoPin>>),
}

/// The person, as one key's thread has them.
pub(super) struct Person {
    pub(super) key: KeyId,
    pub(super) news: mpsc::Sender<(KeyId, News)>,
    /// Keys that the person may mean, this one among them.
    pub(super) candidates: Arc<AtomicUsize>,
}

impl Person {
    /// Tells them, if anybody listens.
    pub(super) fn notice(&self, notice: KeyNotice) {
        self.tell(News::Notice(notice));
    }

    /// Whether they must say by a touch which key they mean, before it is asked for more than a touch.
    pub(super) fn has_choice(&self) -> bool {
        self.candidates.load(Ordering::Relaxed) > 1
    }

    /// They mean this key.
    pub(super) fn chose(&self) {
        self.tell(News::Chosen);
    }

    /// Asks them for the PIN.
    pub(super) fn ask_pin(&self, question: PinQuestion) -> Result<Pin, Trouble> {
        let (answer, answered) = oneshot::channel();
        self.tell(News::Pin(question, answer));
        match answered.blocking_recv() {
            Ok(answer) => answer.map_err(Trouble::NoPin),
            // Nobody waits for this key any more.
            Err(_) => Err(Broken::Cancelled.into()),
        }
    }

    fn tell(&self, news: News) {
        // Nobody listens any more: then the thread learns it by its token.
        let _ = self.news.blocking_send((self.key.clone(), news));
    }
}
