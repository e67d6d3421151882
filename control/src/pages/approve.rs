//! `/mfa/{id}`: what an agent waits for, shown to its own user: what, who and from where; to be approved with a tap, or
//! denied.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::browser::{TYPED_CODE, return_path};
use portlatch_protocol::api::ceremony::{CeremonyPurpose, DeviceChange, MfaDevice, MfaDeviceKind};
use portlatch_protocol::names::{Id, ResourceId, UserName};

use super::fields::{Answered, SignedForm, SignedIn};
use super::frame::{Asks, CeremonyForm, Page, Weight, form_token, without_script};
use super::sign_in::{Begun, Nothing};
use super::trouble::Trouble;
use crate::api::problem::Denial;
use crate::browser::approval::{self, Claimed, CrossDevice};
use crate::browser::waiting::Waiting;
use crate::control::Control;

/// The request that a path names; what is no name names nothing.
pub(super) fn named(path: &str) -> Result<Id, Trouble> {
    path.parse().map_err(|_| Trouble::NotThere)
}

/// The page.
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
    who: SignedIn,
) -> Result<Page, Trouble> {
    let id = named(&id)?;
    let waiting = control.waiting(&id, &who.session.user).ok_or(Trouble::NotThere)?;
    let token = who.token();
    let path = format!("/mfa/{id}");
    let (begin, finish) = (format!("{path}/begin"), format!("{path}/approve"));
    let form = CeremonyForm {
        asks: Asks::Get,
        begin: &begin,
        finish: &finish,
        token: &token,
        button: "Approve with your key",
        weight: Weight::Main,
    };
    let near = Near::of(waiting.address, who.address);
    let runs = Runs::of(asked.runs(), waiting.cross, near);
    let changed = changed_device(&control, &waiting).await?;
    let main = html! {
        p.lead { (lead(&waiting.wanted)) }
        (without_script())
        div.card {
            (facts(&control, &waiting, changed.as_ref(), who.address))
            p.alert role="alert" data-over {}
            (near.warning(asked.runs()))
            (form.with(&runs.fields("approve")))
            (runs.link(waiting.cross, &path))
            form.deny method="post" action=(format!("{path}/deny")) {
                (form_token(&token))
                button.danger type="submit" { "Deny" }
                p.hint { "Nothing is opened then. If you did not start it yourself, tell your administrator." }
            }
        }
    };
    let title = heading(&waiting.wanted);
    Ok(Page::new(title, main).signed_in(who.shown()).leads_to_loopback(waiting.port))
}

/// What waits, as a question.
pub(super) fn heading(wanted: &CeremonyPurpose) -> String {
    match wanted {
        CeremonyPurpose::Open(open) => format!("Open {}?", open.resource.name),
        CeremonyPurpose::Exec(exec) => match exec.targets.len() {
            1 => "Run a command on one resource?".to_owned(),
            count => format!("Run a command on {count} resources?"),
        },
        CeremonyPurpose::ManageDevices(_) => "Change your keys?".to_owned(),
    }
}

/// Why the page is there, and what to look at.
const fn lead(wanted: &CeremonyPurpose) -> &'static str {
    match wanted {
        CeremonyPurpose::Open(_) => {
            "A program waits to be connected. Approve it only if you have just started it yourself."
        }
        CeremonyPurpose::Exec(_) => {
            "A command waits to be run. Approve it only if you have just started it yourself."
        }
        CeremonyPurpose::ManageDevices(_) => {
            "A change of your keys waits. Approve it only if you have just asked for it yourself."
        }
    }
}

/// The key or app that is to be changed, if it is one that is there.
async fn changed_device(control: &Control, waiting: &Waiting) -> Result<Option<MfaDevice>, Denial> {
    let CeremonyPurpose::ManageDevices(change) = &waiting.wanted else { return Ok(None) };
    let (DeviceChange::Remove { device } | DeviceChange::Rename { device, .. }) = change else {
        return Ok(None);
    };
    let devices = control.store.mfa_devices(&waiting.login.user).await?;
    Ok(devices.into_iter().find(|known| known.id == *device))
}

/// What, who, and from where.
fn facts(control: &Control, waiting: &Waiting, changed: Option<&MfaDevice>, browser: IpAddr) -> Markup {
    let host = |resource: &ResourceId, user: &UserName| {
        let catalogue = control.hub.now().catalogue(user, control.cluster());
        let found = catalogue.resources.into_iter().find(|listed| listed.id == *resource);
        found.map_or_else(|| resource.name.to_string(), |listed| listed.host.to_string())
    };
    let user = &waiting.login.user;
    html! {
        dl.facts {
            @match &waiting.wanted {
                CeremonyPurpose::Open(open) => {
                    dt { "Resource" } dd { (open.resource) }
                    dt { "Address" } dd { (host(&open.resource, user)) ":" (open.port) }
                    dt { "Program" } dd { (program(open.program.as_deref(), open.pid)) }
                }
                CeremonyPurpose::Exec(exec) => {
                    dt { "Command" } dd { code { (exec.program.as_deref().unwrap_or("unknown")) } }
                    dt { "Resources" }
                    dd { ul.plain { @for target in &exec.targets {
                        li { (target.resource) " (" (host(&target.resource, user)) ":" (target.port) ")" }
                    } } }
                }
                CeremonyPurpose::ManageDevices(change) => {
                    dt { "Change" } dd { (change_of(change, changed)) }
                }
            }
            dt { "Asked by" } dd { (waiting.login.device) ", at " (waiting.address) }
            dt { "This browser" } dd { "at " (browser) }
            dt { "Time left" } dd data-left=(waiting.left.as_secs()) { (waiting.left.as_secs()) " seconds" }
        }
    }
}

fn program(name: Option<&str>, pid: Option<u32>) -> String {
    match (name, pid) {
        (Some(name), Some(pid)) => format!("{name}, process {pid}"),
        (Some(name), None) => name.to_owned(),
        (None, _) => "an unknown program".to_owned(),
    }
}

fn change_of(change: &DeviceChange, changed: Option<&MfaDevice>) -> String {
    let it = changed.map_or_else(
        || "a key or app that is not there any more".to_owned(),
        |device| {
            let kind = match device.kind {
                MfaDeviceKind::SecurityKey => "security key",
                MfaDeviceKind::Passkey => "passkey",
                MfaDeviceKind::App => "authenticator app",
            };
            format!("the {kind} “{}”", device.name)
        },
    );
    match change {
        DeviceChange::AddKey { name } => format!("add the security key “{name}”"),
        DeviceChange::AddApp { name } => format!("add the authenticator app “{name}”"),
        DeviceChange::Remove { .. } => format!("remove {it}"),
        DeviceChange::Rename { name, .. } => format!("rename {it} to “{name}”"),
        DeviceChange::RecoveryCodes => "make new recovery codes".to_owned(),
    }
}

/// Whether the browser seems to be where the request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Near {
    /// By its address.
    Here,
    /// Its address is another one.
    Unknown,
}

impl Near {
    pub(super) fn of(agent: IpAddr, browser: IpAddr) -> Self {
        match agent.to_canonical() == browser.to_canonical() {
            true => Self::Here,
            false => Self::Unknown,
        }
    }

    /// What is said where the two addresses differ; but not where the agent itself opened the page: then they are two of one
    /// machine.
    pub(super) fn warning(self, said: Option<Runs>) -> Markup {
        if self == Self::Here || said == Some(Runs::Here) {
            return html! {};
        }
        html! {
            p.warning {
                strong { "The addresses differ." }
                " The program may run on another machine, or take another way through the network. Go on only if you \
                  started it yourself."
            }
        }
    }
}

/// Where the program runs, as the agent or the person says. Nothing rests on it: whoever says "here" wrongly sends the answer
/// to a machine that does not wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// On the browser's own machine.
    Here,
    /// On another one, which shows a code.
    Elsewhere,
}

/// What the link says: the agent's, which knows whether it opened the page itself, or the one between the two pages.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Asked {
    runs: Option<String>,
}

impl Asked {
    /// Where the program runs, if the link says so.
    pub(super) fn runs(&self) -> Option<Runs> {
        self.runs.as_deref().and_then(Runs::parse)
    }
}

impl Runs {
    /// As a link says it.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "here" => Some(Self::Here),
            "elsewhere" => Some(Self::Elsewhere),
            _ => None,
        }
    }

    /// As [`Self::parse`] reads it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// As the link says, or else as the addresses look; where another machine is out of the question, here.
    pub(super) const fn of(said: Option<Self>, cross: CrossDevice, near: Near) -> Self {
        match (cross, said, near) {
            (CrossDevice::Refused, _, _) | (_, Some(Self::Here), _) | (_, None, Near::Here) => Self::Here,
            (CrossDevice::WithCode, Some(Self::Elsewhere), _)
            | (CrossDevice::WithCode, None, Near::Unknown) => Self::Elsewhere,
        }
    }

    /// The fields of a form; `form` tells those of several forms apart.
    pub(super) fn fields(self, form: &str) -> Markup {
        if self == Self::Here {
            return html! { input type="hidden" name="place" value="here"; };
        }
        let (id, hint) = (format!("{form}-code"), format!("{form}-code-hint"));
        html! {
            input type="hidden" name="place" value="elsewhere";
            div.field {
                label for=(id) { "Code" }
                p.hint id=(hint) {
                    "Read the four characters off your own other machine. A code that somebody sends or tells you is a \
                     trick: do not type it."
                }
                input.code id=(id) name="code" type="text" required maxlength=(TYPED_CODE + 2) autocomplete="off"
                    autocapitalize="characters" spellcheck="false" aria-describedby=(hint);
            }
        }
    }

    /// The link to the other page, where another machine is a question.
    pub(super) fn link(self, cross: CrossDevice, path: &str) -> Markup {
        match (cross, self) {
            (CrossDevice::Refused, _) => html! {},
            (CrossDevice::WithCode, Self::Here) => html! {
                p.other-way { a href=(format!("{path}?runs=elsewhere")) { "The program runs on another machine" } }
            },
            (CrossDevice::WithCode, Self::Elsewhere) => html! {
                p.other-way { a href=(format!("{path}?runs=here")) { "The program runs on this computer" } }
            },
        }
    }
}

/// Where the browser is, as the form says.
#[derive(serde::Deserialize)]
pub(super) struct Placed {
    #[serde(default)]
    place: String,
    #[serde(default)]
    code: String,
}

impl Placed {
    /// As control takes it.
    pub(super) fn claimed(self) -> Claimed {
        match self.place.as_str() {
            "elsewhere" => Claimed::Elsewhere(Secret(self.code)),
            _ => Claimed::Here,
        }
    }
}

/// Makes the challenge for the tap.
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    SignedForm { who, fields }: SignedForm<Placed>,
) -> Result<Json<Begun>, Trouble> {
    let id = named(&id)?;
    let begun = control.begin_approval(who.visit(), &who.session.user, &id, &fields.claimed()).await;
    Ok(Json(begun.map_err(trouble)?.into()))
}

/// Approves.
pub(super) async fn approve(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    SignedForm { who, fields }: SignedForm<Answered>,
) -> Result<Response, Trouble> {
    let id = named(&id)?;
    let back = |trouble: Trouble| trouble.back(format!("/mfa/{id}"));
    let (challenge, credential) = fields.read().map_err(back)?;
    let approved = control.finish_approval(who.visit(), &who.session.user, &challenge, &credential).await;
    match approved.map_err(|denial| back(trouble(denial)))? {
        Some(redirect) => Ok(to_agent(&id, &redirect)),
        None => Ok(approved_elsewhere().signed_in(who.shown()).into_response()),
    }
}

/// Back to the agent that listens on this machine.
pub(super) fn to_agent(id: &Id, redirect: &approval::Redirect) -> Response {
    let approval::Redirect { port, code } = redirect;
    Redirect::to(&format!("http://127.0.0.1:{port}{}?code={}", return_path(id), code.0)).into_response()
}

/// What is said after an approval for another machine.
pub(super) fn approved_elsewhere() -> Page {
    let main = html! { p.notice role="status" { "Go back to the other machine: the program there goes on by itself. You can close this window." } };
    Page::new("Approved", main)
}

/// Denies.
pub(super) async fn deny(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    SignedForm { who, fields: Nothing {} }: SignedForm<Nothing>,
) -> Result<Page, Trouble> {
    let id = named(&id)?;
    control.deny_waiting(&who.session.user, &id).await.map_err(trouble)?;
    let main = html! {
        p.notice role="status" { "The program was refused, and nothing was opened. You can close this window." }
        p { "If you did not start it yourself, tell your administrator: somebody else may be using your login." }
    };
    Ok(Page::new("Denied", main).signed_in(who.shown()))
}

/// What is not there and what is over look alike.
pub(super) fn trouble(denial: Denial) -> Trouble {
    if matches!(denial, Denial::NotFound | Denial::CeremonyEnded) {
        return Trouble::NotThere;
    }
    denial.into()
}
