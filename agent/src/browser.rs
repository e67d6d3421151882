//! A page of the cluster, answered in the person's browser: open it, and wait for what comes of it.
//!
//! ```text
//! prepare ──► announce (port, hash of a secret) ──► control makes the page ──► open it ──► answered
//!                                                      on this machine:  redirect ─► loopback ─► code + secret ─► control
//!                                                      on another one:   code typed ─► control ─► secret alone
//!                                                      denied:                          control ─► at once
//! ```
//!
//! The secret never leaves this process before the end, so that whoever gets hold of the redirect has half of what it
//! takes. Not here: who may approve what (control decides), and what is shown in a prompt.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::browser::{PageDecision, return_path};
use portlatch_protocol::api::ceremony::{BrowserOffer, BrowserProof, BrowserReturn};
use portlatch_protocol::api::{ProblemCode, Secret};
use portlatch_protocol::names::{Hostname, Id};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::control::ApiError;

mod loopback;
mod opener;

pub(crate) use opener::{Opened, open};

const SECRET_BYTES: usize = 32;
/// Codes that control does not know, of one page: somebody on this machine makes them up. Each costs it a record.
const MAX_WRONG_CODES: u32 = 20;
/// Pause before control is asked again that could not be reached; the redirect is waited for meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A page that is about to be opened.
pub(crate) struct Page {
    listener: TcpListener,
    port: u16,
    secret: Zeroizing<String>,
}

/// How a page ended without an approval.
#[derive(Debug)]
pub(crate) enum PageEnd {
    /// The person said no there.
    Denied,
    /// Control says that it is over.
    Failed(ApiError),
    /// Whoever waited has waited long enough.
    Stopped,
}

/// Why a page is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server names a page that is not its own: tell its administrator")]
pub(crate) struct ForeignPage;

impl Page {
    /// Listens for the redirect, on a port of the system's choice of this machine's own address.
    ///
    /// # Errors
    /// The system's, if it has no port left.
    pub(crate) async fn prepare() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(secret.as_mut_slice()).map_err(io::Error::other)?;
        Ok(Self { listener, port, secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_slice())) })
    }

    /// What control is told of it.
    pub(crate) fn announce(&self) -> BrowserReturn {
        let secret_hash = URL_SAFE_NO_PAD.encode(Sha256::digest(self.secret.as_bytes()));
        BrowserReturn { port: self.port, secret_hash }
    }

    /// The secret, for asking control about a login that has no certificate yet.
    pub(crate) fn secret(&self) -> Secret {
        Secret(self.secret.to_string())
    }

    /// Waits for the answer, the redirect's code or control's word, and takes what was approved with `finish`. `ask` asks
    /// control once and waits for a while; `None` from it means that nothing was decided yet. A code that control does not
    /// know is somebody else's who found the port: the page is waited for further. Ends with the ceremony or with `stop`;
    /// but what control is just taking is waited for, since it cannot be called off. Whoever drops this stops listening.
    ///
    /// # Errors
    /// [`PageEnd`].
    pub(crate) async fn answered<A, F, T>(
        &self,
        ceremony: &Id,
        ask: impl Fn() -> A,
        finish: impl Fn(BrowserProof) -> F,
        stop: impl Future<Output = ()>,
    ) -> Result<T, PageEnd>
    where
        A: Future<Output = Result<Option<PageDecision>, ApiError>>,
        F: Future<Output = Result<T, ApiError>>,
    {
        let path = return_path(ceremony);
        let (codes, mut found) = mpsc::channel(1);
        let with_code = |code| BrowserProof { code, secret: self.secret() };
        let (mut wrong_codes, is_trying, is_over) = (0, AtomicBool::new(false), AtomicBool::new(false));
        let redeemed = async {
            while let Some(code) = found.recv().await {
                is_trying.store(true, Ordering::Relaxed);
                match finish(with_code(Some(code))).await {
                    Err(error)
                        if is_unknown_code(&error)
                            && wrong_codes < MAX_WRONG_CODES
                            && !is_over.load(Ordering::Relaxed) =>
                    {
                        wrong_codes += 1
                    }
                    ended => return ended.map_err(PageEnd::Failed),
                }
                is_trying.store(false, Ordering::Relaxed);
            }
            std::future::pending().await
        };
        let serving = loopback::serve_codes(&self.listener, self.port, &path, codes);
        tokio::pin!(redeemed, serving);
        let decision = tokio::select! {
            biased;
            redeemed = &mut redeemed => return redeemed,
            () = &mut serving => return redeemed.await,
            () = stop => Err(PageEnd::Stopped),
            decision = decided(ask, ASK_AGAIN) => decision.map_err(PageEnd::Failed),
        };
        match decision {
            // What is being taken at this moment is not there any more to be asked about; no code comes after it.
            Err(_) if is_trying.load(Ordering::Relaxed) => {
                is_over.store(true, Ordering::Relaxed);
                redeemed.await
            }
            Err(end) => Err(end),
            Ok(PageDecision::Approved) => finish(with_code(None)).await.map_err(PageEnd::Failed),
            Ok(PageDecision::Denied) => Err(PageEnd::Denied),
        }
    }
}

/// Control does not know the code. It says the same of a ceremony that is over, which the next question shows.
fn is_unknown_code(error: &ApiError) -> bool {
    error.code() == Some(ProblemCode::CeremonyEnded)
}

async fn decided<F>(ask: impl Fn() -> F, pause: Duration) -> Result<PageDecision, ApiError>
where
    F: Future<Output = Result<Option<PageDecision>, ApiError>>,
{
    loop {
        match ask().await {
            Ok(Some(decision)) => return Ok(decision),
            Ok(None) => {}
            // Control said so itself: it is over.
            Err(error @ ApiError::Problem(_)) if error.code().is_some_and(is_final) => return Err(error),
            Err(error) if error.is_login_over() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "control did not say what was decided at the page");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

const fn is_final(code: ProblemCode) -> bool {
    !matches!(code, ProblemCode::Unavailable | ProblemCode::RateLimited)
}

/// The page's address, if it is one of this cluster's, and can be nothing else to the program that opens it.
///
/// # Errors
/// [`ForeignPage`].
pub(crate) fn own_page<'a>(offer: &'a BrowserOffer, cluster: &Hostname) -> Result<&'a str, ForeignPage> {
    let (authority, path) =
        offer.url.strip_prefix("https://").and_then(|rest| rest.split_once('/')).ok_or(ForeignPage)?;
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    let is_own = host.eq_ignore_ascii_case(cluster.as_str())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
        && path.chars().all(is_plain);
    is_own.then_some(offer.url.as_str()).ok_or(ForeignPage)
}

/// What a person reads while the page waits.
pub(crate) fn invitation(url: &str, code: Option<&str>, opened: Opened) -> Vec<String> {
    // Whoever opens it by hand may do so anywhere, and two machines behind one router have one address: it asks for the code,
    // where there is one.
    let runs = if code.is_some() { "?runs=elsewhere" } else { "" };
    let by_hand = format!("Open this page: {url}{runs}");
    let mut lines = match opened {
        Opened::Yes => vec![format!("Your browser opens {url}")],
        Opened::NoDisplay => vec!["There is no screen here to open a browser on.".to_owned(), by_hand],
        Opened::NoBrowser => vec!["No browser could be started: set BROWSER to yours.".to_owned(), by_hand],
    };
    if let Some(code) = code {
        lines.push(format!("On another machine type this code there: {code} (your roles must allow it)"));
    } else if opened != Opened::Yes {
        lines.push("It must be a browser on this machine.".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use portlatch_protocol::api::Problem;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Longest wait for what must come: far beyond what it takes, so that a busy machine does not fail a test.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn offer(url: &str) -> BrowserOffer {
        BrowserOffer { url: url.to_owned(), code: None }
    }

    #[test]
    fn only_the_cluster_s_own_pages_are_opened() {
        let cluster = "proxy.example.com".parse().unwrap();
        for own in ["https://proxy.example.com/mfa/0a", "https://Proxy.example.com:8443/login/device/0a"] {
            assert_eq!(own_page(&offer(own), &cluster), Ok(own));
        }
        for foreign in [
            "http://proxy.example.com/mfa/0a",
            "https://proxy.example.com.evil/mfa/0a",
            "https://proxy.example.com@evil/mfa/0a",
            "https://proxy.example.com:x/mfa/0a",
            "https://proxy.example.com",
            "https://proxy.example.com/mfa/0a?x=$(id)",
            "https://proxy.example.com/mfa/0a;id",
            "file:///etc/passwd",
            "--help",
            "",
        ] {
            assert_eq!(own_page(&offer(foreign), &cluster), Err(ForeignPage), "{foreign}");
        }
    }

    #[test]
    fn a_page_that_is_opened_by_hand_asks_for_the_code_where_there_is_one() {
        let url = "https://proxy.example.com/login/device/0a";
        let lines = |code, opened| invitation(url, code, opened).join("\n");
        for opened in [Opened::NoDisplay, Opened::NoBrowser] {
            let said = lines(Some("AC34"), opened);
            assert!(said.contains(&format!("Open this page: {url}?runs=elsewhere\n")), "{said}");
            assert!(said.contains("AC34"), "{said}");
            let said = lines(None, opened);
            assert!(said.contains(&format!("Open this page: {url}\nIt must be a browser on this machine.")));
        }
        assert!(lines(Some("AC34"), Opened::Yes).starts_with(&format!("Your browser opens {url}\n")));
    }

    #[tokio::test]
    async fn what_is_announced_is_the_secret_s_hash_and_not_the_secret() {
        let page = Page::prepare().await.unwrap();
        let announced = page.announce();
        assert_eq!(announced.secret_hash, URL_SAFE_NO_PAD.encode(Sha256::digest(&page.secret().0)));
        assert_ne!(announced.secret_hash, page.secret().0);
        assert_ne!(Page::prepare().await.unwrap().secret(), page.secret());
    }

    fn ended() -> ApiError {
        ApiError::Problem(Problem { code: ProblemCode::CeremonyEnded, message: String::new() })
    }

    /// As the browser of whoever knows the path does.
    async fn redirect(port: u16, path: &str, code: &str) {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = format!("GET {path}?code={code} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    /// What comes of the page while the browsers do their work.
    async fn beside<T>(browsers: impl Future<Output = ()>, answered: impl Future<Output = T>) -> T {
        let browsers = async {
            browsers.await;
            std::future::pending::<Infallible>().await
        };
        let come = async {
            tokio::select! {
                answered = answered => answered,
                never = browsers => match never {},
            }
        };
        tokio::time::timeout(PATIENCE, come).await.expect("the page ends")
    }

    #[tokio::test]
    async fn a_made_up_code_does_not_use_up_the_page() {
        let page = Page::prepare().await.unwrap();
        let ceremony: Id = "0a0b".parse().unwrap();
        let nothing_yet = || std::future::pending();
        let finish = |proof: BrowserProof| async move {
            let code = proof.code.unwrap().0;
            if code == "good" { Ok(code) } else { Err(ended()) }
        };
        let (port, path) = (page.port, return_path(&ceremony));
        let browsers = async {
            redirect(port, &path, "made-up").await;
            redirect(port, &path, "good").await;
        };
        let answered = page.answered(&ceremony, nothing_yet, finish, std::future::pending());
        assert_eq!(beside(browsers, answered).await.unwrap(), "good");
    }

    #[tokio::test]
    async fn what_control_is_just_giving_is_not_over() {
        let page = Page::prepare().await.unwrap();
        let ceremony: Id = "0a0b".parse().unwrap();
        let (taken, mut is_taken) = tokio::sync::watch::channel(false);
        // Control says that it is over as soon as it was taken, before the answer is there.
        let ask = || {
            let mut is_taken = taken.subscribe();
            async move {
                is_taken.wait_for(|taken| *taken).await.unwrap();
                Err(ended())
            }
        };
        let finish = |_| {
            taken.send_replace(true);
            async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                Ok("granted")
            }
        };
        let (port, path) = (page.port, return_path(&ceremony));
        let answered = page.answered(&ceremony, ask, finish, std::future::pending());
        assert_eq!(beside(redirect(port, &path, "good"), answered).await.unwrap(), "granted");
        assert!(*is_taken.borrow_and_update());
    }

    #[tokio::test]
    async fn no_code_is_waited_for_after_the_last_one_of_a_page_that_is_over() {
        let page = Page::prepare().await.unwrap();
        let ceremony: Id = "0a0b".parse().unwrap();
        let (taken, asked) = (tokio::sync::watch::channel(false).0, tokio::sync::watch::channel(false).0);
        let ask = || async {
            taken.subscribe().wait_for(|taken| *taken).await.unwrap();
            asked.send_replace(true);
            Err(ended())
        };
        let finish = |_| async {
            taken.send_replace(true);
            asked.subscribe().wait_for(|asked| *asked).await.unwrap();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            Err::<(), _>(ended())
        };
        let (port, path) = (page.port, return_path(&ceremony));
        let answered = page.answered(&ceremony, ask, finish, std::future::pending());
        let end = beside(redirect(port, &path, "late"), answered).await.unwrap_err();
        assert!(matches!(end, PageEnd::Failed(error) if is_unknown_code(&error)));
    }

    #[tokio::test]
    async fn what_control_is_just_taking_is_not_called_off() {
        for (is_known, code) in [(true, "good"), (false, "made-up")] {
            let page = Page::prepare().await.unwrap();
            let ceremony: Id = "0a0b".parse().unwrap();
            let (taken, stopped) =
                (tokio::sync::watch::channel(false).0, tokio::sync::watch::channel(false).0);
            let nothing_yet = || std::future::pending();
            let finish = |_| async {
                taken.send_replace(true);
                stopped.subscribe().wait_for(|stopped| *stopped).await.unwrap();
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                if is_known { Ok("changed") } else { Err(ended()) }
            };
            let stop = async {
                taken.subscribe().wait_for(|taken| *taken).await.unwrap();
                stopped.send_replace(true);
            };
            let (port, path) = (page.port, return_path(&ceremony));
            let answered = page.answered(&ceremony, nothing_yet, finish, stop);
            match beside(redirect(port, &path, code), answered).await {
                Ok(outcome) => assert_eq!((outcome, is_known), ("changed", true)),
                Err(end) => assert!(!is_known, "{end:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_page_that_nobody_answers_stops_when_it_is_told_to() {
        let page = Page::prepare().await.unwrap();
        let ceremony: Id = "0a0b".parse().unwrap();
        let nothing_yet = || std::future::pending();
        let finish = |_| std::future::ready(Ok(()));
        let answered = page.answered(&ceremony, nothing_yet, finish, std::future::ready(()));
        assert!(matches!(beside(async {}, answered).await, Err(PageEnd::Stopped)));
    }

    #[tokio::test]
    async fn a_control_that_cannot_be_reached_is_asked_again() {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let ask = || async {
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => Err(ApiError::Silent { host: "h".into(), waited: Duration::ZERO }),
                1 => Ok(None),
                _ => Ok(Some(PageDecision::Denied)),
            }
        };
        assert_eq!(decided(ask, Duration::ZERO).await.unwrap(), PageDecision::Denied);
    }

    #[tokio::test]
    async fn a_ceremony_that_is_over_is_not_waited_for() {
        let over = || async { Err(ended()) };
        assert_eq!(decided(over, Duration::ZERO).await.unwrap_err().code(), Some(ProblemCode::CeremonyEnded));
    }
}
