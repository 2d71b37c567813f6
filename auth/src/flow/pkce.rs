//! [`PkceFlow`]: authorization code with PKCE, for public clients.

use super::{
    app::App,
    authorization_code::{AuthorizationCodeFlow, Login, LoginBuilder},
};
use crate::{ClientId, Flow, OAuthClient, Result, Token};

/// The authorization code flow of a public client, which can't keep a secret: a desktop, mobile or single-page application.
///
/// It is used like [`WebFlow`](crate::WebFlow). Instead of a client secret, each login has its own code verifier; the
/// authorize URL contains only the verifier's hash (`S256`).
///
/// Sources: RFC 7636; <https://www.coze.cn/open/docs/developer_guides/oauth_pkce>.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::{Endpoint, OAuthClient, PkceFlow};
///
/// let pkce = PkceFlow::new(OAuthClient::new(Endpoint::COM)?, "client-id")?;
///
/// let (url, login) = pkce.login("http://127.0.0.1:8080/callback").begin()?;
/// // Open `url` in a browser. When the callback arrives:
/// let token = pkce.complete(login, "/callback?code=…&state=…").await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PkceFlow(pub(super) AuthorizationCodeFlow);

impl PkceFlow {
    /// Creates the flow of one public client.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id is empty or contains a control
    /// character. Surrounding white space is removed.
    pub fn new(client: OAuthClient, client_id: impl Into<ClientId>) -> Result<Self> {
        let app = App::new(Flow::Pkce, client, &client_id.into(), None)?;
        Ok(Self(AuthorizationCodeFlow { app }))
    }

    /// Starts a login. The redirect URI must be identical to one of those that are registered for the app (at most 3).
    pub fn login(&self, redirect_uri: impl Into<String>) -> LoginBuilder<'_> {
        self.0.login(redirect_uri.into())
    }

    /// Completes a login: checks the callback's `state` and redeems its code. `callback` is the whole URL, its path and
    /// query, or its query alone.
    ///
    /// # Errors
    ///
    /// As [`WebFlow::complete`](crate::WebFlow::complete).
    pub async fn complete(&self, login: Login, callback: &str) -> Result<Token> {
        self.0.complete(login, callback).await
    }
}
