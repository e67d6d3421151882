//! The login at a page of the cluster: the browser on this machine signs in and returns here; or, where the roles allow
//! it, one on another machine, with a typed code.

use std::time::Duration;

use portlatch_protocol::api::LoginGranted;
use portlatch_protocol::api::browser::BrowserLoginRequest;
use portlatch_protocol::names::{DeviceName, UserName};

use crate::address::ClusterAddress;
use crate::browser::{self, Opened, Page, PageEnd};
use crate::control::Control;
use crate::failure::Failure;
use crate::terminal::say;

/// Who signs in, and as what.
pub(super) struct Asked {
    /// Nobody else may, where this is given.
    pub(super) user: Option<UserName>,
    /// What the machine calls itself.
    pub(super) device: DeviceName,
    /// The request for the login certificate, in base64.
    pub(super) csr: String,
}

/// Opens the page, and waits for what comes of it.
pub(super) async fn sign_in(
    control: &Control,
    address: &ClusterAddress,
    asked: Asked,
) -> Result<LoginGranted, Failure> {
    let page = Page::prepare().await?;
    let Asked { user, device, csr } = asked;
    let request = BrowserLoginRequest { user, device, csr, browser: page.announce() };
    let begun = control.begin_browser_login(&request).await?;
    let url = browser::own_page(&begun.browser, &address.host)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let ask = || control.browser_login_decision(&begun.ceremony, page.secret());
    let finish = async |proof| control.finish_browser_login(&begun.ceremony, &proof).await;
    let late = tokio::time::sleep(Duration::from_secs(begun.expires_in));
    tokio::select! {
        answered = page.answered(&begun.ceremony, ask, finish, late) => answered.map_err(|end| match end {
            PageEnd::Denied => Failure::Denied("the login was denied in the browser".to_owned()),
            PageEnd::Failed(error) => error.into(),
            PageEnd::Stopped => {
                Failure::because("nobody signed in at the page in time: run `portlatch login` again")
            }
        }),
        unsaid = invite(url, begun.browser.code.as_deref()) => Err(unsaid),
    }
}

/// Opens the page and says what to do; ends only where nobody can be told.
async fn invite(url: &str, code: Option<&str>) -> Failure {
    let opened = browser::open(url).await;
    let mut lines = browser::invitation(url, code, opened);
    if opened != Opened::Yes {
        lines.push(
            "Or sign in here, with a security key at this machine: portlatch login --native".to_owned(),
        );
    }
    match lines.iter().try_for_each(|line| say(line)) {
        Ok(()) => std::future::pending().await,
        Err(error) => error.into(),
    }
}
