//! Authorization code with a client secret: a web application with a backend.

use std::sync::Arc;

use coze_wire::Secret;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    app::App,
    browser::{LoginOptions, complete},
};
use crate::{Flow, OAuthClient, RefreshToken, Result, Token};

/// The authorization code flow of a web application: its backend keeps a client secret.
///
/// 1. [`login`](Self::login) gives the address of Coze's authorize page, and a [`WebLogin`] to keep in
///    the person's session.
/// 2. The browser comes back; [`complete`](Self::complete) checks the state and turns the code into a
///    [`Token`].
/// 3. [`refresh`](Self::refresh) gets the next token. Each refresh token works once.
///
/// Sources: RFC 6749 section 4.1; <https://www.coze.cn/open/docs/developer_guides/oauth_code>.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::{Endpoint, OAuthClient, WebFlow};
///
/// let web = WebFlow::new(OAuthClient::new(Endpoint::COM)?, "client-id", "client-secret")?;
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
pub struct WebFlow(pub(super) Arc<App>);

impl WebFlow {
    /// The flow of one web application.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id or secret is empty or can't
    /// be sent. What env files leave around them (white space, a pair of quotation marks, `\n`) is dropped.
    pub fn new(
        client: OAuthClient,
        client_id: impl AsRef<str>,
        client_secret: impl AsRef<str>,
    ) -> Result<Self> {
        let (id, secret) = (client_id.as_ref(), Some(client_secret.as_ref()));
        App::new(Flow::Web, client, id, secret).map(Self)
    }

    /// Begins a login that will come back to this redirect URI, which must be one of the (at most 3)
    /// registered ones, letter by letter.
    pub fn login(&self, redirect_uri: impl Into<String>) -> WebLoginBuilder<'_> {
        WebLoginBuilder {
            flow: self,
            options: LoginOptions::new(redirect_uri.into()),
        }
    }

    /// Completes a login with what the browser came back with: the callback's whole URL, its path and
    /// query, or its query alone.
    ///
    /// # Errors
    ///
    /// - [`StateMismatch`](crate::ErrorKind::StateMismatch): the callback belongs to another login.
    /// - [`Refused`](crate::ErrorKind::Refused): the person said no, or Coze did not take the code.
    /// - [`InvalidCallback`](crate::ErrorKind::InvalidCallback): there is no code in it.
    /// - Those of the transport and of answers that are none; a code that may have been sent is spent.
    pub async fn complete(&self, login: WebLogin, callback: &str) -> Result<Token> {
        complete(&self.0, &login.state, login.redirect_uri, None, callback).await
    }

    /// Gets the next token. The refresh token sent is dead afterwards, and the answer holds a new one.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) with [`InvalidGrant`](crate::ErrorCode::InvalidGrant)
    /// when the refresh token is invalid, used or older than 30 days: the person must sign in again.
    /// Else as [`complete`](Self::complete).
    pub async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        self.0.refresh(refresh_token).await
    }
}

/// A login about to begin; see [`WebFlow::login`].
#[derive(Debug, Clone)]
#[must_use = "a login does nothing until it begins"]
pub struct WebLoginBuilder<'a> {
    flow: &'a WebFlow,
    options: LoginOptions,
}

impl WebLoginBuilder<'_> {
    /// Limits the grant to one workspace (enterprise plans).
    pub fn workspace(mut self, workspace_id: impl Into<String>) -> Self {
        self.options.workspace = Some(workspace_id.into());
        self
    }

    /// Uses this state instead of a random one. It must be unguessable, and different every time.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.options.state = Some(Secret::from(state.into()));
        self
    }

    /// The address to send the browser to, and what to keep in the person's session until it comes
    /// back.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the redirect URI is no absolute URI, the
    /// state is empty, or the workspace id can't stand in a path.
    pub fn begin(self) -> Result<(Url, WebLogin)> {
        let begun = self.options.begin(&self.flow.0, &[]);
        let (url, state, redirect_uri) = begun.map_err(|error| error.in_flow(Flow::Web))?;
        let login = WebLogin {
            state,
            redirect_uri,
        };
        Ok((url, login))
    }
}

/// A login under way: what must be known again when the browser comes back. Keep it in the person's
/// session (it serialises), where nobody else can read or replace it.
///
/// `Debug` prints no secret; the serialised form holds the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebLogin {
    state: Secret,
    redirect_uri: String,
}
