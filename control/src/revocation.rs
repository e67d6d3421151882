//! After every change: which grants must not open new streams any more, which logins are over, which locks stand; and
//! everyone who watches is told at once.
//!
//! Entries are only ever added to what stands, and leave it when they would have ended anyway. So two of these passes may
//! run at once, and the slower one cannot take back what the faster one has told.

use std::collections::HashSet;
use std::sync::Arc;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::grant::{EXPIRY_LEEWAY, MAX_LIFETIME};
use portlatch_protocol::names::{Id, UserName};

use crate::api::problem::Denial;
use crate::control::Control;
use crate::grants::Asker;
use crate::store::StoreError;
use crate::watch::standing::Endings;

impl Control {
    /// Looks at all live grants again, revokes what does not stand any more, and tells the watchers.
    pub(crate) async fn reconsider_grants(&self) -> Result<(), StoreError> {
        let now = self.clock.time_of_day();
        let taken = still_taken(now);
        let grants = self.store.live_grants(taken).await?;
        let groundless: HashSet<Id> = self.store.grants_without_ground(taken).await?.into_iter().collect();
        // After the grants were read: one that was kept later was evaluated, or is looked at again, with what stands now.
        let standing = self.hub.now();
        let over: Vec<_> = grants
            .into_iter()
            .filter(|grant| groundless.contains(&grant.id) || !standing.still_allows(grant, now))
            .collect();
        let ids: Vec<Id> = over.iter().map(|grant| grant.id.clone()).collect();
        if !ids.is_empty() {
            self.store.revoke_grants(&ids, now).await?;
        }
        self.publish_endings(now).await?;
        for grant in over {
            let event = Event {
                user: Some(grant.login.user),
                login: Some(grant.login.login),
                device: Some(grant.login.device),
                resource: Some(grant.resource),
                port: Some(grant.port),
                grant: Some(grant.id),
                key_id: grant.presence.map(|presence| presence.device().clone()),
                ..Event::new(EventKind::GrantRevoke)
            };
            self.audit.note(event).await;
        }
        Ok(())
    }

    /// Forgets a login's proofs of presence, and revokes the grants that rest on one. Sessions that run go on.
    ///
    /// # Errors
    /// [`Denial::Unavailable`]: some of it may be forgotten.
    pub async fn forget_presence(&self, asker: Asker<'_>) -> Result<(), Denial> {
        let (login, now) = (&asker.login.login.login, self.clock.time_of_day());
        // The taps first: a grant that is being signed with one of them is either refused, or found below.
        let taps = self.store.forget_taps(login).await?;
        let grants = self.store.grants_with_presence(login, still_taken(now)).await?;
        if taps == 0 && grants.is_empty() {
            // Nothing new to tell, unless the attempt before broke on the way.
            self.publish_endings(now).await?;
            // Nothing rested on anything. Whoever says so again and again, with a login that is long over, fills no audit.
            if self.access_limits.records.take(login, self.clock.boot_time()) {
                self.audit.note(asker.event(EventKind::MfaForget)).await;
            }
            return Ok(());
        }
        self.store.revoke_grants(&grants, now).await?;
        self.publish_endings(now).await?;
        self.audit.note(asker.event(EventKind::MfaForget)).await;
        for grant in grants {
            let event = Event { grant: Some(grant), ..asker.event(EventKind::GrantRevoke) };
            self.audit.note(event).await;
        }
        Ok(())
    }

    /// Forgets taps that seem to come from the future, and revokes grants that would live longer than any may: the clock
    /// was set back, and they must not come to life again when it gets there.
    pub(crate) async fn forget_the_future(&self) -> Result<(), StoreError> {
        let now = self.clock.time_of_day();
        self.store.forget_future_taps(now).await?;
        let longest = now.after(MAX_LIFETIME + EXPIRY_LEEWAY);
        let from_later = self.store.live_grants(longest).await?;
        let ids: Vec<Id> = from_later.into_iter().map(|grant| grant.id).collect();
        self.store.revoke_grants(&ids, now).await?;
        self.publish_endings(now).await
    }

    /// Tells the watchers what the store knows to be over.
    pub(crate) async fn publish_endings(&self, now: TimeOfDay) -> Result<(), StoreError> {
        let revoked = self.store.revoked_grants(still_taken(now)).await?;
        let ended = self.store.ended_logins(now).await?;
        self.hub.change(|standing| {
            add(&mut standing.revoked, revoked, still_taken(now));
            add(&mut standing.ended_logins, ended, now);
            standing.locks = standing.world.locks(now);
        });
        Ok(())
    }

    /// Forgets the secrets of users who have no document any more. Only in a turn of changes: a user who is being made
    /// has a document before there are secrets.
    pub(crate) async fn forget_removed_users(&self) -> Result<Vec<UserName>, StoreError> {
        let known = self.store.users_with_secrets().await?;
        let standing = self.hub.now();
        let gone: Vec<UserName> = known.into_iter().filter(|user| !standing.has_user(user)).collect();
        for user in &gone {
            self.store.remove_user(user, self.clock.time_of_day()).await?;
            self.note_ended(self.ceremonies.forget_user(user), "user_gone").await;
            self.forget_pages_of(user, "user_gone").await;
        }
        Ok(gone)
    }
}

/// A grant that ended after this moment is taken by proxies still.
fn still_taken(now: TimeOfDay) -> TimeOfDay {
    let leeway = i64::try_from(EXPIRY_LEEWAY.as_millis()).unwrap_or(i64::MAX);
    TimeOfDay(now.0.saturating_sub(leeway))
}

fn add(endings: &mut Arc<Endings>, found: Vec<(Id, TimeOfDay)>, now: TimeOfDay) {
    let is_same =
        found.iter().all(|(id, _)| endings.contains_key(id)) && endings.values().all(|end| *end > now);
    // Left as it is, so that a watcher sees by the address that nothing is new.
    if is_same {
        return;
    }
    let endings = Arc::make_mut(endings);
    endings.extend(found);
    endings.retain(|_, end| *end > now);
}
