//! Signed in at the pages: for a quarter of an hour without use, for a working day at most, and not a moment longer than the
//! user may.

use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Id, UserName};

use super::Visit;
use super::secrets::{CookieHash, CookieSecret};
use crate::api::problem::Denial;
use crate::control::Control;
use crate::store::web_sessions::NewWebSession;

/// How long a session lasts without use.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// How long it lasts at most.
const LONGEST: Duration = Duration::from_secs(8 * 3600);
/// How exactly the last use is remembered: every use would be a write.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebSession {
    /// Who.
    pub(crate) user: UserName,
    /// What the session is known by.
    pub(crate) hash: CookieHash,
}

impl Control {
    /// Signs a user in at the pages.
    ///
    /// # Errors
    /// [`Denial::BadLogin`] if user or key have gone meanwhile.
    pub(crate) async fn open_web_session(
        &self,
        user: &UserName,
        key_id: Option<&Id>,
        visit: Visit,
        amr: Vec<String>,
    ) -> Result<CookieSecret, Denial> {
        let now = self.clock.time_of_day();
        let secret = CookieSecret::random();
        let session = NewWebSession { hash: &secret.hash(), user, key_id, expires: now.after(LONGEST) };
        if !self.store.add_web_session(&session, now).await? {
            return Err(Denial::BadLogin);
        }
        let (detail, key_id) = (Some("pages".to_owned()), key_id.cloned());
        let event = Event { amr, key_id, detail, ..at(EventKind::Login, user, visit) };
        // What is not in the audit did not happen.
        if let Err(error) = self.audit.write(event).await {
            self.store.end_web_session(&secret.hash()).await?;
            return Err(error.into());
        }
        Ok(secret)
    }

    /// Who is signed in with this cookie, if anybody is.
    ///
    /// # Errors
    /// [`Denial::Unavailable`].
    pub(crate) async fn web_session(&self, secret: &CookieSecret) -> Result<Option<WebSession>, Denial> {
        let (hash, now) = (secret.hash(), self.clock.time_of_day());
        let Some(session) = self.store.web_session(&hash).await? else { return Ok(None) };
        let standing = self.hub.now();
        let is_idle = session.last_used.after(IDLE) <= now;
        // One that was used in the future: the clock was set back, and nobody can tell how old it is.
        let is_over = is_idle || session.expires <= now || session.last_used > now;
        let is_welcome =
            standing.has_user(&session.user) && standing.lock_on_user(&session.user, now).is_none();
        if is_over || !is_welcome {
            self.store.end_web_session(&hash).await?;
            return Ok(None);
        }
        if is_older(session.last_used, TOUCH_EVERY, now) {
            self.store.touch_web_session(&hash, now).await?;
        }
        Ok(Some(WebSession { user: session.user, hash }))
    }

    /// Signs out.
    ///
    /// # Errors
    /// [`Denial::Unavailable`].
    pub(crate) async fn close_web_session(&self, session: &WebSession, visit: Visit) -> Result<(), Denial> {
        if self.store.end_web_session(&session.hash).await? {
            let detail = Some("pages".to_owned());
            self.audit.note(Event { detail, ..at(EventKind::Logout, &session.user, visit) }).await;
        }
        Ok(())
    }
}

fn is_older(time: TimeOfDay, than: Duration, now: TimeOfDay) -> bool {
    time.after(than) <= now
}

/// An event of this user at the pages.
pub(super) fn at(kind: EventKind, user: &UserName, visit: Visit) -> Event {
    let client_addr = Some(visit.address.to_string());
    Event { user: Some(user.clone()), client_addr, ..Event::new(kind) }
}
