//! [`WebFlow`]: authorization code with a client secret, for web applications with a backend.

use coze_wire::Secret;

use super::{
    app::App,
    authorization_code::{AuthorizationCodeFlow, Login, LoginBuilder},
};
use crate::{ClientId, Flow, OAuthClient, Result, Token};

/// The authorization code flow of a web application, whose backend keeps a client secret.
///
/// 1. [`login`](Self::login) returns the URL of Coze's authorize page, and a [`Login`] to keep in the user's session.
/// 2. Coze redirects the browser to the redirect URI; [`complete`](Self::complete) checks `state` and exchanges the code
///    for a [`Token`].
/// 3. [`refresh`](crate::UserFlow::refresh) gets the next token. Refresh tokens are single-use.
///
/// Sources: RFC 6749 section 4.1; <https://www.coze.cn/open/docs/developer_guides/oauth_code>.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::{Endpoint, OAuthClient, UserFlow, WebFlow};
///
/// let web = WebFlow::new(OAuthClient::new(Endpoint::COM)?, "client-id".into(), "client-secret".into())?;
///
/// let (url, login) = web.login("https://example.com/callback").begin()?;
/// // Keep `login` in the session and redirect the browser to `url`. In the handler of the callback:
/// let token = web.complete(login, "/callback?code=…&state=…").await?;
///
/// if let Some(refresh_token) = token.refresh_token() {
///     let next = web.refresh(refresh_token).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct WebFlow(pub(super) AuthorizationCodeFlow);

impl WebFlow {
    /// Creates the flow of one web application.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id or secret is empty or can't
    /// be sent. Surrounding white space, a pair of quotation marks and `\n`, as env files leave them, are removed.
    pub fn new(client: OAuthClient, client_id: ClientId, client_secret: Secret) -> Result<Self> {
        let app = App::new(Flow::Web, client, &client_id, Some(&client_secret))?;
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
    /// - [`StateMismatch`](crate::ErrorKind::StateMismatch): the callback belongs to another login.
    /// - [`Refused`](crate::ErrorKind::Refused): the user refused, or Coze refused the code.
    /// - [`InvalidCallback`](crate::ErrorKind::InvalidCallback): the callback contains no code.
    /// - Errors of the transport, and invalid responses. The code may have been redeemed; start a new login.
    pub async fn complete(&self, login: Login, callback: &str) -> Result<Token> {
        self.0.complete(login, callback).await
    }
}
