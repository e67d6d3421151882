//! The link to the daemon: kept up for as long as the agent runs, begun anew whenever it breaks.
//!
//! The task owns the socket. It tells its owner what happens; the owner speaks through the sender that comes with
//! [`LinkEvent::Up`], and drops it to have the link begun anew.

use std::path::PathBuf;
use std::time::Duration;

use portlatch_protocol::attach::{ToAgent, ToDaemon};
use tokio::sync::mpsc;

use super::{Conversation, DaemonError, Reader, Writer};

/// Messages to the daemon that wait: a catalogue of 4,096 resources in parts of 16, and some.
const OUTGOING: usize = 512;
/// First and longest pause before the daemon is tried again: until it is found, its programs are refused, and a connect
/// on this machine costs next to nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What happens on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The daemon is there.
    Up(mpsc::Sender<ToDaemon>),
    /// It says something.
    Message(Box<ToAgent>),
    /// It is gone, or could not be reached.
    Down(DaemonError),
}

/// The link's task.
#[derive(Debug)]
pub(crate) struct Link {
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// Where events go.
    pub(crate) events: mpsc::Sender<LinkEvent>,
}

impl Link {
    /// Keeps the link up until nobody listens any more.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = match Conversation::begin(&self.socket).await {
                Ok(conversation) => {
                    pause = FIRST_PAUSE;
                    self.converse(conversation).await
                }
                Err(error) => error,
            };
            tracing::debug!(error = %ended, "no link to the daemon");
            if self.events.send(LinkEvent::Down(ended)).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn converse(&self, conversation: Conversation) -> DaemonError {
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        if self.events.send(LinkEvent::Up(sender)).await.is_err() {
            return DaemonError::Ended;
        }
        let Conversation { reader, writer } = conversation;
        // Each direction on its own: neither waits for the other, and neither is cut off in the middle of a frame.
        tokio::select! {
            error = self.hear(reader) => error,
            error = speak(writer, outgoing) => error,
        }
    }

    async fn hear(&self, mut reader: Reader) -> DaemonError {
        loop {
            match reader.next().await {
                Ok(message) => {
                    if self.events.send(LinkEvent::Message(Box::new(message))).await.is_err() {
                        return DaemonError::Ended;
                    }
                }
                Err(error) => return error,
            }
        }
    }
}

async fn speak(mut writer: Writer, mut outgoing: mpsc::Receiver<ToDaemon>) -> DaemonError {
    while let Some(message) = outgoing.recv().await {
        if let Err(error) = writer.send(&message).await {
            return error;
        }
    }
    DaemonError::Ended
}
