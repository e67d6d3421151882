//! A refusal in the words of the resource's own protocol, where its document asks for that (`mfa.refusal: protocol`):
//! the program shows it to the person who waits, where a reset would look like a crash.
//!
//! It is spoken only where a tap was asked for and did not come; what the policy forbids looks closed. A program that
//! insists on TLS hears none of it (mfa.md 5.2): it gets the reset, or where the protocol asks beforehand the answer that
//! there is no TLS (PostgreSQL's `N`: psql with `sslmode=require` then says so and ends).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portlatch_protocol::refusal::RefusalReason;

use crate::flow::{Flow, FlowReset};

mod messages;

/// How long a program has to ask, to read the words and to hang up.
const TIME_TO_SPEAK: Duration = Duration::from_secs(5);
/// Most that is read of a program's first request: PostgreSQL's start-up message and HTTP's head are shorter.
const MAX_HEARD: usize = 16 * 1024;

/// The protocols that have words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Postgres,
    MySql,
    Ssh,
    Http,
}

impl Spoken {
    /// The protocol as a resource document names it.
    pub(super) fn named(protocol: &str) -> Option<Self> {
        match protocol {
            "postgres" => Some(Self::Postgres),
            "mysql" => Some(Self::MySql),
            "ssh" => Some(Self::Ssh),
            "http" => Some(Self::Http),
            _ => None,
        }
    }
}

/// Whether a refusal for this reason is put into words: only where a tap would have helped.
pub(super) const fn is_spoken(reason: RefusalReason) -> bool {
    match reason {
        RefusalReason::Denied
        | RefusalReason::TimedOut
        | RefusalReason::QueueFull
        | RefusalReason::CoolDown => true,
        RefusalReason::NoLogin
        | RefusalReason::UnknownPort
        | RefusalReason::Policy
        | RefusalReason::Locked
        | RefusalReason::TargetRefused
        | RefusalReason::TargetUnreachable
        | RefusalReason::NoProxy
        | RefusalReason::Limit => false,
    }
}

/// Tells the program in its own protocol, and ends its connection; with a reset where it does not understand.
pub(super) async fn speak(flow: &Flow, protocol: Spoken, reason: RefusalReason) {
    let mut heard = Heard { flow, bytes: BytesMut::new() };
    let spoken = tokio::time::timeout(TIME_TO_SPEAK, converse(&mut heard, protocol, reason)).await;
    if !matches!(spoken, Ok(Ok(()))) {
        flow.reset();
    }
}

/// The program cannot be told.
#[derive(Debug)]
struct Unspeakable;

impl From<FlowReset> for Unspeakable {
    fn from(_: FlowReset) -> Self {
        Self
    }
}

async fn converse(heard: &mut Heard<'_>, protocol: Spoken, reason: RefusalReason) -> Result<(), Unspeakable> {
    let message = match protocol {
        Spoken::MySql => messages::mysql(reason),
        Spoken::Ssh => messages::ssh(reason),
        Spoken::Postgres => {
            heard.postgres_startup().await?;
            messages::postgres(reason)
        }
        Spoken::Http => {
            heard.http_head().await?;
            messages::http(reason)
        }
    };
    heard.say(message).await?;
    heard.flow.finish();
    // Closed with unread bytes, the connection would be reset and the words lost: hear it out.
    while heard.flow.read().await?.is_some() {}
    Ok(())
}

/// What a program has sent before it is told.
struct Heard<'a> {
    flow: &'a Flow,
    bytes: BytesMut,
}

impl Heard<'_> {
    /// Passes PostgreSQL's questions for encryption (answered with no) and returns after its start-up message.
    async fn postgres_startup(&mut self) -> Result<(), Unspeakable> {
        loop {
            match messages::postgres_request(&self.bytes) {
                messages::PostgresRequest::Incomplete => self.more().await?,
                messages::PostgresRequest::Encryption => {
                    let _ = self.bytes.split_to(messages::POSTGRES_ENCRYPTION_REQUEST);
                    self.say(Bytes::from_static(b"N")).await?;
                }
                messages::PostgresRequest::StartUp => return Ok(()),
                messages::PostgresRequest::Foreign => return Err(Unspeakable),
            }
        }
    }

    async fn http_head(&mut self) -> Result<(), Unspeakable> {
        while !messages::is_http_head(&self.bytes).ok_or(Unspeakable)? {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Unspeakable> {
        let chunk = self.flow.read().await?.ok_or(Unspeakable)?;
        if self.bytes.len() + chunk.len() > MAX_HEARD {
            return Err(Unspeakable);
        }
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    async fn say(&self, message: Bytes) -> Result<(), Unspeakable> {
        Ok(self.flow.write(&mut [message]).await?)
    }
}
