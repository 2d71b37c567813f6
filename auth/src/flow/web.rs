//! Authorization code with a client secret: a web application with a backend.

use coze_wire::Secret;

use super::{
    app::App,
    authorization_code::{AuthorizationCodeFlow, Login, LoginBuilder},
};
use crate::{ClientId, Flow, OAuthClient, RefreshToken, Result, Token};

/// The authorization code flow of a web application: its backend keeps a client secret.
///
/// 1. [`login`](Self::login) gives the address of Coze's authorize page, and a [`Login`] to keep in
///    the user's session.
/// 2. The browser comes back; [`complete`](Self::complete) checks the state and turns the code into a
///    [`Token`].
/// 3. [`refresh`](Self::refresh) gets the next token. Refresh tokens are single-use.
///
/// Sources: RFC 6749 section 4.1; <https://www.coze.cn/open/docs/developer_guides/oauth_code>.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::{Endpoint, OAuthClient, WebFlow};
///
/// let web = WebFlow::new(OAuthClient::new(Endpoint::COM)?, "client-id".into(), "client-secret".into())?;
///
/// let (url, login) = web.login("https://example.com/callback").begin()?;
/// // Keep `login` in the session, send the browser to `url`, and when it comes back:
/// let token = web.complete(login, "/callback?code=…&state=…").await?;
///
/// if let Some(refresh_token) = token.refresh_token() {
///     let next = web.refresh(refresh_token).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct WebFlow(pub(super) AuthorizationCodeFlow<()>);

impl WebFlow {
    /// The flow of one web application.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id or secret is empty or can't
    /// be sent. What env files leave around them (white space, a pair of quotation marks, `\n`) is dropped.
    pub fn new(client: OAuthClient, client_id: ClientId, client_secret: Secret) -> Result<Self> {
        let app = App::new(Flow::Web, client, &client_id, Some(&client_secret))?;
        Ok(Self(AuthorizationCodeFlow::of(app)))
    }

    /// Begins a login that will come back to this redirect URI, which must be one of the (at most 3)
    /// registered ones, letter by letter.
    pub fn login(&self, redirect_uri: impl Into<String>) -> LoginBuilder<'_> {
        self.0.login(redirect_uri.into())
    }

    /// Completes a login with what the browser came back with: the callback's whole URL, its path and
    /// query, or its query alone.
    ///
    /// # Errors
    ///
    /// - [`StateMismatch`](crate::ErrorKind::StateMismatch): the callback belongs to another login.
    /// - [`Refused`](crate::ErrorKind::Refused): the user refused, or Coze refused the code.
    /// - [`InvalidCallback`](crate::ErrorKind::InvalidCallback): there is no code in it.
    /// - Those of the transport and of invalid responses; a code that may have been sent is redeemed.
    pub async fn complete(&self, login: Login, callback: &str) -> Result<Token> {
        self.0.complete(login, callback).await
    }

    /// Gets the next token. The refresh token sent is redeemed by it, and the response holds a new one.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) with [`InvalidGrant`](crate::ErrorCode::InvalidGrant)
    /// when the refresh token is invalid, used or older than 30 days: the user must sign in again.
    /// Else as [`complete`](Self::complete).
    pub async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        self.0.app.refresh(refresh_token).await
    }
}
