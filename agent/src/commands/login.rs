//! `portlatch login`: at a page of the cluster; or here, with password and tap, with a key that verifies its user, or by the
//! enrolment of a new user. Then the login certificate.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_clock::Clock;
use portlatch_protocol::api::{FirstFactor, LoginAnswer, LoginGranted, LoginProof, LoginRequest, Secret};
use portlatch_protocol::names::{DeviceName, Hostname, UserName};
use portlatch_protocol::tls::CaPin;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::logout::goodbye;
use super::own_key::UseOfKey;
use super::{AGENT_TIME, ask_agent};
use crate::address::ClusterAddress;
use crate::cli::{Login, LoginPlace};
use crate::control::{Control, Trust};
use crate::failure::Failure;
use crate::files::Files;
use crate::keys::Key;
use crate::local::Want;
use crate::login::{self, GrantedCertificates};
use crate::service::Enter;
use crate::terminal::{self, say};

mod browser;

/// Longest device name (the protocol's names have at most 64 characters).
const MAX_DEVICE: usize = 64;
/// Where a script writes the password.
const PASSWORD_LINE: &str = "the password goes on the first one";

/// Signs in and keeps the login.
pub(crate) async fn login(options: &Login, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let (address, last_user) = cluster_and_last_user(options, files)?;
    let trust = trust(options, files, &address)?;
    let control = Control::before_login(&address, trust.clone(), clock)?;
    let login_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(no_key)?;
    let csr = STANDARD.encode(csr(&login_key)?);
    let granted = match options.place() {
        LoginPlace::Terminal => {
            let user = user(options, last_user)?;
            let proof = first_factor(options).await?;
            let request = LoginRequest { user, device: device_name(), proof };
            let second = match options.recovery_code {
                true => SecondFactor::RecoveryCode(recovery_code(options).await?),
                false => SecondFactor::Key(chosen_key(options, files)),
            };
            sign_in_here(&control, &address, &request, csr, second).await?
        }
        LoginPlace::Browser => {
            say(&format!("Connecting to {address} ..."))?;
            let asked = browser::Asked { user: options.user.clone(), device: device_name(), csr };
            browser::sign_in(&control, &address, asked).await?
        }
    };
    let granted = certificates(granted, &address.host, &trust)?;
    let key_pem = Zeroizing::new(login_key.serialize_pem());
    let before = login::read(files).ok().flatten();
    let file = login::save(files, &address, &granted, &key_pem, options.mfa_mode.unwrap_or_default(), clock)?;
    if let Some(before) = before {
        end_another_s(&before, &file, clock).await;
    }
    let until = crate::status::rfc3339(file.expires);
    say(&format!("Logged in to {} as {}, until {until}.", file.cluster, file.user))?;
    match ask_agent(files, &Want::LoginChanged, AGENT_TIME).await? {
        Some(_) => {}
        None => say("Start `portlatch agent`, so that your programs can connect.")?,
    }
    Ok(())
}

/// The login that was here before, if it was another user's or another cluster's: nobody has its key any more, and the
/// cluster need not wait for its end.
async fn end_another_s(before: &login::Login, now: &login::LoginFile, clock: &Clock) {
    let is_same = before.file.user == now.user && before.file.cluster == now.cluster;
    if is_same || before.file.time_left(clock.time_of_day()).is_none() {
        return;
    }
    if let Err(error) = goodbye(before, clock).await {
        tracing::info!(%error, "the login that was here before ends by itself");
    }
}

/// What follows the password.
enum SecondFactor {
    Key((Key, Enter)),
    RecoveryCode(Secret),
}

async fn recovery_code(options: &Login) -> Result<Secret, Failure> {
    let code = match options.password_stdin {
        true => given("the recovery code goes on the second one")?,
        false => asked("Recovery code").await?,
    };
    Ok(Secret(code.to_string()))
}

async fn sign_in_here(
    control: &Control,
    address: &ClusterAddress,
    request: &LoginRequest,
    csr: String,
    second: SecondFactor,
) -> Result<LoginGranted, Failure> {
    say(&format!("Connecting to {address} ..."))?;
    let challenge = control.begin_login(request).await?;
    let proof = match second {
        SecondFactor::Key((key, enter)) => {
            let use_of_key = UseOfKey {
                task: challenge.task,
                time: Duration::from_secs(challenge.expires_in),
                cluster: &address.host,
                too_late: "nobody tapped the security key in time: run `portlatch login` again",
            };
            LoginProof::Key { credential: use_of_key.run(&key, &enter).await? }
        }
        SecondFactor::RecoveryCode(code) => LoginProof::RecoveryCode { code },
    };
    let answer = LoginAnswer { proof, csr };
    Ok(control.finish_login(&challenge.ceremony, &answer).await?)
}

/// The cluster, and who logged in there last.
fn cluster_and_last_user(
    options: &Login,
    files: &Files,
) -> Result<(ClusterAddress, Option<UserName>), Failure> {
    let last = login::last_used(files);
    let last_address = last.as_ref().map(|(address, _)| address.clone());
    let address = options.proxy.clone().or(last_address);
    let address =
        address.ok_or_else(|| Failure::Usage("say which cluster: --proxy HOST[:PORT]".to_owned()))?;
    let of_last = last.filter(|(last, _)| last.host == address.host).map(|(_, user)| user);
    Ok((address, of_last))
}

/// Who logs in here.
fn user(options: &Login, last: Option<UserName>) -> Result<UserName, Failure> {
    let of_system = || std::env::var("USER").ok().and_then(|name| name.parse().ok());
    let user = options.user.clone().or(last).or_else(of_system);
    user.ok_or_else(|| Failure::Usage("say who you are: --user NAME".to_owned()))
}

fn trust(options: &Login, files: &Files, address: &ClusterAddress) -> Result<Trust, Failure> {
    let known = || login::known_ca(files, &address.host).map(Trust::Ca);
    options.ca_pin.map(Trust::Pin).or_else(known).ok_or_else(|| {
        Failure::Usage(format!(
            "{} is not known on this machine yet: add --ca-pin sha256:..., which its administrator has from `portlatch-proxy init`",
            address.host
        ))
    })
}

async fn first_factor(options: &Login) -> Result<FirstFactor, Failure> {
    // The key says who is there, and that it is its owner.
    if options.passkey {
        return Ok(FirstFactor::Passkey);
    }
    let secret = |text: Zeroizing<String>| Secret(text.to_string());
    let proof = match (&options.enrol, options.password_stdin) {
        (None, true) => FirstFactor::Password { password: secret(given(PASSWORD_LINE)?) },
        (None, false) => FirstFactor::Password { password: secret(asked("Password").await?) },
        (Some(token), true) => enrolment(token, secret(given(PASSWORD_LINE)?)),
        (Some(token), false) => {
            let password = asked("New password").await?;
            if *asked("New password, once more").await? != *password {
                return Err(Failure::because("the two passwords differ: try again"));
            }
            enrolment(token, secret(password))
        }
    };
    Ok(proof)
}

/// A secret from a script, and which line it should stand in.
fn given(place: &str) -> Result<Zeroizing<String>, Failure> {
    let line = terminal::read_line()?;
    match line.is_empty() {
        true => Err(Failure::Failed(format!("a line of standard input is empty: {place}"))),
        false => Ok(line),
    }
}

/// A secret from the person.
async fn asked(question: &str) -> Result<Zeroizing<String>, Failure> {
    if !terminal::has_keyboard() {
        return Err(Failure::Usage(
            "there is no terminal to ask for the password: use --password-stdin".to_owned(),
        ));
    }
    terminal::ask_secret(question).await
}

fn enrolment(token: &str, new_password: Secret) -> FirstFactor {
    FirstFactor::Enrolment { token: Secret(token.to_owned()), new_password }
}

/// What the machine calls itself, in the characters that a device's name may have.
fn device_name() -> DeviceName {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    device_name_of(name.trim())
}

fn device_name_of(name: &str) -> DeviceName {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.trim_start_matches(['.', '-']).chars().map(allowed).take(MAX_DEVICE).collect();
    let name = name.trim_start_matches('-').parse();
    name.unwrap_or_else(|_| "this-machine".parse().expect("a name of ours is a name"))
}

#[cfg(feature = "software-key")]
fn chosen_key(options: &Login, files: &Files) -> (Key, Enter) {
    super::key(options.software_key, files)
}

#[cfg(not(feature = "software-key"))]
fn chosen_key(_: &Login, _: &Files) -> (Key, Enter) {
    super::usb_key()
}

fn csr(key: &KeyPair) -> Result<Vec<u8>, Failure> {
    let mut params = CertificateParams::default();
    // Control writes its own subject; what the request says of it counts for nothing.
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(no_key)?;
    Ok(request.der().to_vec())
}

fn no_key(error: rcgen::Error) -> Failure {
    Failure::Failed(format!("no login key could be made: {error}"))
}

/// What control handed out must be of the cluster and the CA that were meant.
fn certificates(
    granted: LoginGranted,
    cluster: &Hostname,
    trust: &Trust,
) -> Result<GrantedCertificates, Failure> {
    let foreign = || Failure::because("the server's answer is of another cluster: tell its administrator");
    let certificate = STANDARD.decode(&granted.certificate).map_err(|_| foreign())?;
    let ca = STANDARD.decode(&granted.ca).map_err(|_| foreign())?;
    let is_meant = granted.cluster == *cluster
        && match trust {
            Trust::Pin(pin) => CaPin::of(&ca) == *pin,
            Trust::Ca(known) => **known == *ca,
        };
    match is_meant {
        true => Ok(GrantedCertificates { granted, certificate: certificate.into(), ca: ca.into() }),
        false => Err(foreign()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_s_name_becomes_a_device_s() {
        assert_eq!(device_name_of("laptop.example.com").as_str(), "laptop.example.com");
        assert_eq!(device_name_of("Jerry's Laptop").as_str(), "Jerry-s-Laptop");
        assert_eq!(device_name_of("-x").as_str(), "x");
        assert_eq!(device_name_of("").as_str(), "this-machine");
        assert_eq!(device_name_of(&"n".repeat(300)).as_str().len(), 64);
    }

    #[test]
    fn an_answer_of_another_ca_is_not_kept() {
        let granted = LoginGranted {
            cluster: "h.example".parse().unwrap(),
            user: "jerry".parse().unwrap(),
            login: "0a".parse().unwrap(),
            device: "laptop".parse().unwrap(),
            certificate: STANDARD.encode(b"certificate"),
            ca: STANDARD.encode(b"ca"),
            expires_in: 1,
        };
        let cluster = "h.example".parse().unwrap();
        assert!(certificates(granted.clone(), &cluster, &Trust::Pin(CaPin::of(b"ca"))).is_ok());
        assert!(certificates(granted.clone(), &cluster, &Trust::Pin(CaPin::of(b"other"))).is_err());
        assert!(
            certificates(granted, &"other.example".parse().unwrap(), &Trust::Pin(CaPin::of(b"ca"))).is_err()
        );
    }
}
