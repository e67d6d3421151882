//! What is the cluster's: whether control answers this login, and what time it is there.

use portlatch_clock::Clock;
use portlatch_protocol::api::Catalogue;

use super::finding::Finding;
use super::in_time;
use crate::control::{ApiError, Control, Glance, Trust};
use crate::files::Files;
use crate::login::{self, Login};

/// A difference that is told of (design section 1).
const SKEW: u64 = 30;
/// From here on certificates look as if they were not valid yet, or no more.
const LARGE_SKEW: u64 = 300;

/// Control's findings, and what it lists.
pub(super) async fn look(
    files: &Files,
    login: Option<&Login>,
    clock: &Clock,
) -> (Vec<Finding>, Option<Catalogue>) {
    let control = match login {
        Some(login) => Control::for_login(login, clock),
        None => match of_last_login(files, clock) {
            Some(control) => control,
            // Where no cluster was ever known there is none to look at.
            None => return (Vec::new(), None),
        },
    };
    let looked = in_time("control", async { Ok(glance(control).await) }).await;
    match looked {
        Ok(Ok(glance)) => seen(glance, login, clock),
        Ok(Err(error)) => (vec![Finding::error("control", &error)], None),
        Err(late) => (vec![late], None),
    }
}

async fn glance(control: Result<Control, ApiError>) -> Result<Glance, ApiError> {
    control?.glance().await
}

/// Control as somebody sees it who is not logged in.
fn of_last_login(files: &Files, clock: &Clock) -> Option<Result<Control, ApiError>> {
    let (address, _) = login::last_used(files)?;
    let ca = login::known_ca(files, &address.host)?;
    Some(Control::before_login(&address, Trust::Ca(ca), clock))
}

fn seen(glance: Glance, login: Option<&Login>, clock: &Clock) -> (Vec<Finding>, Option<Catalogue>) {
    let Glance { time, catalogue } = glance;
    let answers = match &catalogue {
        Ok(catalogue) => {
            let yours = match catalogue.resources.len() {
                1 => "1 resource is yours".to_owned(),
                count => format!("{count} resources are yours"),
            };
            Finding::ok("control", format!("it answers; {yours}"))
        }
        Err(_) if login.is_none() => Finding::ok("control", "it answers"),
        Err(error) if error.is_login_over() => {
            Finding::fail("control", "it does not take this login any more", "run `portlatch login`")
        }
        Err(error) => Finding::error("control", error),
    };
    let skew = time.map(|theirs| skew(clock.time_of_day().seconds(), theirs));
    (std::iter::once(answers).chain(skew).collect(), catalogue.ok())
}

/// How far this machine's clock is from control's.
fn skew(ours: i64, theirs: i64) -> Finding {
    let (by, side) = (ours.abs_diff(theirs), if ours > theirs { "ahead of" } else { "behind" });
    let text = format!("this machine's is {by} s {side} control's");
    let advice = "have it set by the network: `timedatectl set-ntp true`";
    match by {
        0..=SKEW => Finding::ok("clock", "it shows control's time"),
        _ if by < LARGE_SKEW => Finding::warn("clock", text, advice),
        _ => Finding::fail("clock", text, advice),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_clock_is_well_within_half_a_minute() {
        assert_eq!(skew(1000, 1030).state, State::Ok);
        let behind = skew(1000, 1031);
        assert_eq!(
            (behind.state, behind.text.as_str()),
            (State::Warn, "this machine's is 31 s behind control's")
        );
        assert_eq!(skew(1299, 1000).state, State::Warn);
        let ahead = skew(1300, 1000);
        assert_eq!(
            (ahead.state, ahead.text.as_str()),
            (State::Fail, "this machine's is 300 s ahead of control's")
        );
    }
}
