//! `why`: which rule decides on a port, told to the user whom it concerns or to an administrator. Nothing is decided here
//! and nothing recorded.

use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::ceremony::{ExecTarget, Explanation};
use portlatch_protocol::names::{ResourceId, UserName};
use portlatch_protocol::resource::MfaNeed;

use crate::api::problem::Denial;
use crate::control::Control;
use crate::documents::values::format_duration;
use crate::grants::{Asker, sign::tap_expiry};
use crate::login::seconds_until;
use crate::policy::Concerned;
use crate::policy::explain::{Reader, Story};

impl Control {
    /// Tells a login's own user why a port can be opened or not.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn why(&self, asker: Asker<'_>, target: &ExecTarget) -> Result<Explanation, Denial> {
        if !self.access_limits.takes_question(asker, self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        let (login, now) = (&asker.login.login, self.clock.time_of_day());
        let concerned = Concerned {
            user: &login.user,
            login: Some(&login.login),
            device: Some(&login.device),
            resource: Some(&target.resource),
        };
        let Story { mut steps, outcome } =
            self.hub.now().world.explain(concerned, target.port, Reader::User, now);
        let left = until(asker.login.expires, now);
        steps.insert(0, format!("the login on {} ends in {left}", login.device));
        let outcome = outcome.and_then(|terms| match terms.pin_source_ip && !asker.is_at_home() {
            true => Err(Denial::SourceAddress.to_string()),
            false => Ok(terms),
        });
        let terms = match outcome {
            Ok(terms) => terms,
            Err(why) => {
                steps.push(format!("refused: {why}"));
                return Ok(Explanation::refused(steps));
            }
        };
        // Whatever was tapped for an attach before the present one serves nobody any more.
        let remembered = self.tap_serving(asker, None, target, &terms).await?;
        let Some(tap) = remembered.filter(|_| terms.mfa != MfaNeed::None) else {
            steps.push(after(terms.mfa).to_owned());
            return Ok(Explanation::allowed(terms.mfa, steps));
        };
        let end = TimeOfDay(tap_expiry(&tap, terms.mfa_interval).saturating_mul(1000));
        let (ago, more) = (since(tap.time, now), until(end, now));
        steps.push(format!("allowed: a tap of {ago} ago opens it for {more} more"));
        let proved_for = Some(seconds_until(end, now));
        Ok(Explanation { proved_for, ..Explanation::allowed(terms.mfa, steps) })
    }

    /// Tells an administrator why a user can open a port or not.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn why_of(
        &self,
        user: &UserName,
        resource: &ResourceId,
        port: u16,
    ) -> Result<Explanation, Denial> {
        let (standing, now) = (self.hub.now(), self.clock.time_of_day());
        let concerned = Concerned { user, login: None, device: None, resource: Some(resource) };
        let Story { mut steps, outcome } =
            standing.world.explain(concerned, port, Reader::Administrator, now);
        let terms = match outcome {
            Ok(terms) => terms,
            Err(why) => {
                steps.push(format!("refused: {why}"));
                return Ok(Explanation::refused(steps));
            }
        };
        steps.extend(standing.world.tell_locks(&self.store.logins_of(user).await?, now));
        let dialling = standing.proxies_of(resource);
        steps.push(match dialling.is_empty() {
            true => "no proxy that may dial it serves now: nobody gets through until one does".to_owned(),
            false => format!("it is dialled by {}", dialling.join(", ")),
        });
        if self.store.credentials(user).await?.is_empty() {
            steps.push(format!("{user} has no security key yet, and so no login"));
        }
        steps.push(after(terms.mfa).to_owned());
        Ok(Explanation::allowed(terms.mfa, steps))
    }
}

const fn after(need: MfaNeed) -> &'static str {
    match need {
        MfaNeed::None => "allowed without a tap",
        MfaNeed::Tap => "allowed after a tap",
        MfaNeed::TapOrCode => "allowed after a tap or a code",
    }
}

fn until(end: TimeOfDay, now: TimeOfDay) -> String {
    format_duration(Duration::from_millis(u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0)))
}

fn since(start: TimeOfDay, now: TimeOfDay) -> String {
    until(now, start)
}
