//! Answers as people and programs read them. Whatever came from elsewhere is shown without characters that a terminal
//! would obey.

use std::io::{self, Write};

use portlatch_protocol::api::ceremony::Explanation;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::tls::CaPin;
use serde_json::{Value as Json, json};

use super::DocumentKind;
use crate::admin::{IssuedToken, SessionLine};
use crate::documents::labels::Labels;
use crate::documents::people::LockDocument;
use crate::documents::resource::ResourceDocument;
use crate::documents::role::{RoleDocument, Rule};
use crate::documents::{Document, to_yaml};

/// Widest column but the last: what is longer pushes the rest of its line, not of all lines.
const MAX_WIDTH: usize = 48;
const YES_OR_NO: [&str; 2] = ["no", "yes"];

/// A text without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value on lines of its own.
pub(super) fn json(out: &mut dyn Write, value: &Json) -> io::Result<()> {
    writeln!(out, "{value:#}")
}

/// Documents as one writes them.
pub(super) fn yaml(out: &mut dyn Write, documents: &[Json]) -> io::Result<()> {
    for (position, document) in documents.iter().enumerate() {
        if position > 0 {
            writeln!(out, "---")?;
        }
        write!(out, "{}", to_yaml(document))?;
    }
    Ok(())
}

/// What programs get for a user's token.
pub(super) fn user_json(token: &IssuedToken) -> Json {
    json!({ "user": token.name, "token": token.token, "link": token.link, "expires": token.expires })
}

/// What programs get for a proxy's token.
pub(super) fn proxy_json(token: &IssuedToken) -> Json {
    json!({ "proxy": token.name, "token": token.token, "link": token.link, "expires": token.expires })
}

/// A user's enrolment token, and what the user types with it.
pub(super) fn enrolment(out: &mut dyn Write, token: &IssuedToken, pin: Option<CaPin>) -> io::Result<()> {
    let IssuedToken { name, token, link, expires } = token;
    writeln!(out, "{name} can enrol once, until {expires}:")?;
    if let Some(link) = link {
        writeln!(out, "  link   {link}")?;
    }
    writeln!(out, "  token  {token}")?;
    let cluster = link.as_ref().and_then(|link| link.split_once("/enrol#"));
    match (cluster, pin) {
        (Some((cluster, _)), Some(pin)) => {
            writeln!(out, "In a terminal instead of a browser:")?;
            writeln!(out, "  portlatch login --proxy {cluster} --user {name} --enrol {token} --ca-pin {pin}")
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// A proxy's join token.
pub(super) fn join(out: &mut dyn Write, token: &IssuedToken) -> io::Result<()> {
    let IssuedToken { name, expires, .. } = token;
    writeln!(
        out,
        "{name} can join once, until {expires} (proxies of this version cannot: it is for later ones):"
    )?;
    writeln!(out, "  token  {}", token.token)
}

/// Which rule decides: a line for each step.
pub(super) fn explanation(out: &mut dyn Write, explanation: &Explanation) -> io::Result<()> {
    for step in &explanation.steps {
        writeln!(out, "{}", printable(step))?;
    }
    Ok(())
}

/// Live sessions.
pub(super) fn sessions(out: &mut dyn Write, sessions: &[SessionLine]) -> io::Result<()> {
    let header = ["ID", "STARTED", "USER", "DEVICE", "RESOURCE", "TARGET", "CLIENT", "IN", "OUT", "PROGRAM"]
        .map(str::to_owned);
    let row = |session: &SessionLine| {
        vec![
            session.id.to_string(),
            session.started.clone(),
            session.user.to_string(),
            session.device.to_string(),
            format!("{}:{}", session.resource, session.port),
            session.target.clone(),
            session.client_addr.clone(),
            session.bytes_in.to_string(),
            session.bytes_out.to_string(),
            session.program.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    columns(out, std::iter::once(header.to_vec()).chain(sessions.iter().map(row)).collect())
}

/// Documents of one kind as a table.
pub(super) fn table(out: &mut dyn Write, kind: DocumentKind, documents: &[Json]) -> io::Result<()> {
    let header: &[&str] = match kind {
        DocumentKind::ClusterAuthPreference => &["NAME", "TAP", "FACTORS"],
        DocumentKind::VnetConfig => &["NAME", "ZONES"],
        DocumentKind::Role => &["NAME", "TAP", "ALLOW", "DENY"],
        DocumentKind::Resource(_) => &["NAME", "HOST", "TARGET", "PORTS", "LABELS", "DESCRIPTION"],
        DocumentKind::User => &["NAME", "ROLES"],
        DocumentKind::Lock => &["NAME", "TARGET", "EXPIRES", "MESSAGE"],
    };
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    columns(out, std::iter::once(header).chain(documents.iter().map(row)).collect())
}

fn row(json: &Json) -> Vec<String> {
    match Document::from_json(json) {
        Ok(Document::AuthPreference(preference)) => vec![
            crate::documents::cluster::AUTH_PREFERENCE_NAME.to_owned(),
            YES_OR_NO[usize::from(preference.require_session_mfa)].to_owned(),
            if preference.allows_otp { "webauthn, otp" } else { "webauthn" }.to_owned(),
        ],
        Ok(Document::Vnet(vnet)) => {
            let zones: Vec<&str> = vnet.zones.iter().map(|zone| zone.suffix.as_str()).collect();
            vec![crate::documents::cluster::VNET_CONFIG_NAME.to_owned(), zones.join(", ")]
        }
        Ok(Document::Role(role)) => role_row(&role),
        Ok(Document::Resource(resource)) => resource_row(&resource),
        Ok(Document::User(user)) => {
            let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
            vec![user.name.to_string(), roles.join(", ")]
        }
        Ok(Document::Lock(lock)) => lock_row(&lock, json),
        // A newer control's document: its name at least.
        Err(_) => vec![json["metadata"]["name"].as_str().unwrap_or("?").to_owned()],
    }
}

fn role_row(role: &RoleDocument) -> Vec<String> {
    let kinds = |rule: &Rule| {
        let mut parts: Vec<String> = rule.labels.keys().map(ToString::to_string).collect();
        if !rule.ports.is_empty() {
            parts.push(format!("ports {}", ports(&rule.ports)));
        }
        if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
    };
    vec![
        role.name.to_string(),
        YES_OR_NO[usize::from(role.options.require_session_mfa)].to_owned(),
        kinds(&role.allow),
        kinds(&role.deny),
    ]
}

fn resource_row(resource: &ResourceDocument) -> Vec<String> {
    let host = resource
        .public_addr
        .as_ref()
        .map_or_else(|| format!("{}.(zone)", resource.id.name), ToString::to_string);
    vec![
        resource.id.name.to_string(),
        host,
        resource.target.clone(),
        ports(resource.ports.ranges()),
        labels(&resource.header.labels),
        resource.header.description.clone(),
    ]
}

fn lock_row(lock: &LockDocument, json: &Json) -> Vec<String> {
    let target = json["spec"]["target"].as_object().and_then(|target| target.iter().next());
    let target = target.map(|(kind, name)| format!("{kind} {}", name.as_str().unwrap_or("?")));
    let expires = json["spec"]["expires"].as_str().unwrap_or("never");
    vec![lock.id.to_string(), target.unwrap_or_default(), expires.to_owned(), lock.message.clone()]
}

fn ports(ranges: &[PortRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn labels(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Writes rows with their columns below each other.
fn columns(out: &mut dyn Write, rows: Vec<Vec<String>>) -> io::Result<()> {
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).min(MAX_WIDTH)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
