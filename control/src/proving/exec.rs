//! One command on several resources: one tap, remembered for exactly the ports that the person saw. Grants for them are
//! signed one at a time, as they are asked for, and the policy is looked at for each.

use std::collections::HashSet;

use portlatch_audit::EventKind;
use portlatch_protocol::api::AccessRequest;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, ExecRequest, ExecTarget, MAX_EXEC_RESOURCES,
};
use portlatch_protocol::grant::MAX_LIFETIME;

use super::{Demand, Proved};
use crate::api::problem::Denial;
use crate::ceremony::purpose::about;
use crate::control::{Control, random_id};
use crate::grants::Asker;
use crate::policy::Terms;
use crate::presence::Presence;
use crate::store::taps::{Tap, TapScope};
use crate::webauthn::TapStrength;

/// What a person is told of a port that is not for this login, whether or not there is such a resource.
const NOT_ALLOWED: &str = "no role of yours allows it";

impl Control {
    pub(super) async fn demand_of_exec(
        &self,
        asker: Asker<'_>,
        exec: &ExecRequest,
    ) -> Result<Demand, Denial> {
        check_list(&exec.targets)?;
        // The tunnel key is that of all targets; any of them will do to ask about it.
        self.check_tunnel_key(asker, &access(exec, &exec.targets[0])).await?;
        let terms = self.terms_of_all(asker, exec).await?;
        let strength = match terms.iter().any(|terms| terms.user_verification) {
            true => TapStrength::Verification,
            false => TapStrength::Presence,
        };
        // A code is no proof that somebody has read a list (design section 6).
        Ok(Demand { strength, ..Demand::KEY })
    }

    /// The terms of each target; if any of them is refused, so is the whole, with the names of those.
    async fn terms_of_all(&self, asker: Asker<'_>, exec: &ExecRequest) -> Result<Vec<Terms>, Denial> {
        let (mut all, mut refused) = (Vec::with_capacity(exec.targets.len()), Vec::new());
        for target in &exec.targets {
            match self.terms(asker, &access(exec, target)).await {
                Ok((_, terms)) => all.push(terms),
                Err(Denial::Unavailable) => return Err(Denial::Unavailable),
                Err(denial @ (Denial::Locked(_) | Denial::SourceAddress)) => {
                    refused.push(format!("{target}: {denial}"));
                }
                Err(_) => refused.push(format!("{target}: {NOT_ALLOWED}")),
            }
        }
        match refused.is_empty() {
            true => Ok(all),
            false => Err(Denial::Refused(refused.join("; "))),
        }
    }

    pub(super) async fn conclude_exec(
        &self,
        asker: Asker<'_>,
        exec: &ExecRequest,
        Proved { presence, time, shown, .. }: Proved,
    ) -> Result<CeremonyOutcome, Denial> {
        let terms = self.terms_of_all(asker, exec).await?;
        let wanted = CeremonyPurpose::Exec(exec.clone());
        let shortfall = match presence {
            Presence::Code { .. } => Some("code_not_allowed"),
            Presence::Tap(_) => terms.iter().find_map(|terms| presence.shortfall(terms)),
        };
        if let Some(shortfall) = shortfall {
            self.fell_short(asker, &wanted, &presence, shortfall).await;
            return Err(Denial::BadAssertion);
        }
        self.audit.write(presence.on(about(&wanted, asker.event(shown.event())))).await?;
        let shortest = terms.iter().map(|terms| terms.mfa_interval).min().unwrap_or(MAX_LIFETIME);
        let lifetime = shortest.min(MAX_LIFETIME);
        let tap = |target: &ExecTarget| Tap {
            id: random_id(),
            login: asker.login.login.login.clone(),
            tunnel_key: exec.tunnel_key.clone(),
            scope: TapScope::Port(target.resource.clone(), target.port),
            presence: presence.clone(),
            time,
            lifetime,
        };
        let taps: Vec<Tap> = exec.targets.iter().map(tap).collect();
        if !self.store.add_taps(&taps).await? {
            let event = about(&wanted, asker.event(EventKind::AccessDenied));
            return Err(self.ground_gone(asker, event).await);
        }
        Ok(CeremonyOutcome::Remembered { expires_in: lifetime.as_secs(), amr: presence.amr() })
    }
}

fn access(exec: &ExecRequest, target: &ExecTarget) -> AccessRequest {
    AccessRequest {
        resource: target.resource.clone(),
        port: target.port,
        tunnel_key: exec.tunnel_key.clone(),
        program: exec.program.clone(),
        pid: None,
    }
}

fn check_list(targets: &[ExecTarget]) -> Result<(), Denial> {
    if targets.is_empty() {
        return Err(Denial::BadRequest("an exec names at least one resource".to_owned()));
    }
    if targets.len() > MAX_EXEC_RESOURCES {
        return Err(Denial::BadRequest(format!(
            "an exec names at most {MAX_EXEC_RESOURCES} resources: choose fewer by their labels"
        )));
    }
    let distinct: HashSet<_> = targets.iter().map(|target| &target.resource).collect();
    match distinct.len() == targets.len() {
        true => Ok(()),
        false => Err(Denial::BadRequest("an exec names each resource once, with one port".to_owned())),
    }
}
