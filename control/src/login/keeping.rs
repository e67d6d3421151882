//! What a login can do about itself: have its tunnel key certified, and end.

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::{TunnelCertificate, TunnelRequest};
use portlatch_protocol::identity::Login;

use super::{encode, proven};
use crate::api::problem::Denial;
use crate::control::Control;
use crate::grants::Asker;
use crate::store::logins::StoredLogin;

impl Control {
    /// Ends a login; harmless if it has ended.
    ///
    /// # Errors
    /// [`Denial::Unavailable`].
    pub async fn logout(&self, login: &StoredLogin) -> Result<(), Denial> {
        let ended = self.store.end_login(&login.login.login, self.clock.time_of_day()).await?;
        // Everybody has been told of it before: whoever says so again and again costs a look-up.
        if !ended && self.hub.now().ended_logins.contains_key(&login.login.login) {
            return Ok(());
        }
        self.reconsider_grants().await?;
        if ended {
            let Login { user, login, device } = login.login.clone();
            let (user, login, device) = (Some(user), Some(login), Some(device));
            self.audit.note(Event { user, login, device, ..Event::new(EventKind::Logout) }).await;
        }
        Ok(())
    }

    /// Certifies a tunnel key for a login, until the login's end.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn certify_tunnel(
        &self,
        Asker { login, address }: Asker<'_>,
        request: &TunnelRequest,
    ) -> Result<TunnelCertificate, Denial> {
        if !self.login_limits.tunnels.take(&login.login.login, address, self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        let key = proven(&request.csr)?;
        if key.spki() == login.spki {
            return Err(Denial::BadRequest("the tunnel key must not be the login key".to_owned()));
        }
        let now = self.clock.time_of_day();
        if !self.store.add_tunnel_key(&login.login.login, key.thumbprint(), now).await? {
            return Err(Denial::LoginEnded);
        }
        let certificate = self.signer().tunnel(&login.login, &key, login.expires, now)?;
        Ok(TunnelCertificate { certificate: encode(&certificate), thumbprint: key.thumbprint().clone() })
    }
}
