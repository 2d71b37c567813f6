//! The authorization code flow (RFC 6749 section 4.1), with PKCE or a client secret.
//!
//! [`LoginBuilder`] generates `state` and builds the authorize URL. `code_of_callback` parses the callback and compares its
//! `state` with that of the [`Login`], before it reads anything else.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_oauth_client::types;
use coze_wire::{Secret, sanitize};
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::app::App;
use crate::{
    Endpoint, Error, ErrorCode, ErrorKind, Flow, Result, Token,
    input::{PathId, address},
    random,
};

/// The authorization code flow of an app, with PKCE or with a client secret.
#[derive(Debug, Clone)]
pub(super) struct AuthorizationCodeFlow {
    pub(super) app: Arc<App>,
}

impl AuthorizationCodeFlow {
    pub(super) fn login(&self, redirect_uri: String) -> LoginBuilder<'_> {
        LoginBuilder {
            app: &self.app,
            redirect_uri,
            workspace: None,
            state: None,
        }
    }

    /// Checks the callback and redeems its code.
    pub(super) async fn complete(&self, login: Login, callback: &str) -> Result<Token> {
        let app = &*self.app;
        let code = login
            .check_flow(app)
            .and_then(|()| code_of_callback(callback, &login.state))
            .map_err(|error| error.in_flow(app.flow()))?;
        let code_verifier = login.code_verifier.as_ref();
        let grant = types::AuthorizationCodeGrant {
            client_id: app.client_id().to_owned(),
            code: code.clone(),
            code_verifier: code_verifier.cloned(),
            grant_type: Default::default(),
            redirect_uri: login.redirect_uri,
        };
        let in_body = [&code].into_iter().chain(code_verifier).collect();
        let credentials = app.credentials(in_body);
        app.client().redeem_code(&credentials, grant).await
    }
}

/// Configures a login; returned by [`WebFlow::login`](crate::WebFlow::login) and [`PkceFlow::login`](crate::PkceFlow::login).
#[derive(Debug, Clone)]
#[must_use = "a login does nothing until `begin` is called"]
pub struct LoginBuilder<'a> {
    app: &'a App,
    redirect_uri: String,
    workspace: Option<String>,
    state: Option<Secret>,
}

impl LoginBuilder<'_> {
    /// Limits the grant to one workspace (enterprise plans).
    pub fn workspace(mut self, workspace_id: impl Into<String>) -> Self {
        self.workspace = Some(workspace_id.into());
        self
    }

    /// Uses this state instead of a random one. It must be unguessable, and different for every login.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(Secret::from(state.into()));
        self
    }

    /// Returns the authorize URL to redirect the browser to, and the [`Login`] to keep in the user's session until the callback
    /// arrives.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the redirect URI is not an absolute URI, the state is empty, or
    /// the workspace id is not valid in a URL path.
    pub fn begin(self) -> Result<(Url, Login)> {
        let flow = self.app.flow();
        self.checked().map_err(|error| error.in_flow(flow))
    }

    fn checked(mut self) -> Result<(Url, Login)> {
        let login = Login {
            state: self.take_state()?,
            redirect_uri: self.checked_redirect_uri()?,
            code_verifier: uses_pkce(self.app).then(random::string).transpose()?,
        };
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", self.app.client_id()),
            ("redirect_uri", &login.redirect_uri),
            ("state", login.state.expose()),
        ];
        let challenge = login.code_verifier.as_ref().map(s256);
        if let Some(challenge) = &challenge {
            parameters.extend([
                ("code_challenge", challenge.as_str()),
                ("code_challenge_method", "S256"),
            ]);
        }
        let url = self.authorize_url(self.app.client().endpoint(), &parameters)?;
        Ok((url, login))
    }

    fn take_state(&mut self) -> Result<Secret> {
        match self.state.take() {
            None => random::string(),
            Some(state) if state.expose().trim().is_empty() => {
                Err(Error::invalid_input("the state is empty"))
            }
            Some(state) => Ok(state),
        }
    }

    /// Checks that the redirect URI is a URI, and returns it unchanged: Coze compares it with the registered ones.
    fn checked_redirect_uri(&self) -> Result<String> {
        let redirect_uri = address("redirect URI", &self.redirect_uri)?;
        match Url::parse(&redirect_uri) {
            Ok(_) => Ok(redirect_uri),
            Err(error) => Err(Error::invalid_input(format!(
                "the redirect URI is not an absolute URI ({error}); give it exactly as registered"
            ))),
        }
    }

    /// The URL of the authorize page, for one workspace or for all.
    fn authorize_url(&self, endpoint: &Endpoint, parameters: &[(&str, &str)]) -> Result<Url> {
        let mut url = Url::parse(endpoint.www_base()).map_err(|error| {
            Error::invalid_input(format!("the WWW base is not a URL ({error})"))
        })?;
        let workspace = match &self.workspace {
            Some(id) => Some(PathId::new("workspace", id)?),
            None => None,
        };
        {
            let mut segments = url.path_segments_mut().map_err(|()| {
                Error::invalid_input("the WWW base can't have a path; use an https URL")
            })?;
            segments
                .pop_if_empty()
                .extend(["api", "permission", "oauth2"]);
            if let Some(workspace) = &workspace {
                segments.extend(["workspace_id", workspace.as_str()]);
            }
            segments.push("authorize");
        }
        url.query_pairs_mut().extend_pairs(parameters);
        Ok(url)
    }
}

fn uses_pkce(app: &App) -> bool {
    app.flow() == Flow::Pkce
}

/// The code challenge, `BASE64URL-NOPAD(SHA256(ASCII(code_verifier)))` (RFC 7636 section 4.2). The method `plain` would show
/// the verifier itself to anyone who sees the URL.
fn s256(code_verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, code_verifier.expose().as_bytes()))
}

/// The state of a login between the redirect to the authorize page and the callback: `state`, the redirect URI and, for a
/// [`PkceFlow`](crate::PkceFlow), the code verifier.
///
/// Keep it in memory or, serialised, in the user's session on the server, where nobody else can read or replace it.
/// `Debug` prints no secret; the serialised form contains the state and the verifier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    state: Secret,
    redirect_uri: String,
    /// 43 characters (RFC 7636 section 4.1), 256 bits from the operating system's random source.
    code_verifier: Option<Secret>,
}

impl Login {
    /// A stored login may be passed to another flow than it began with.
    fn check_flow(&self, app: &App) -> Result<()> {
        match (uses_pkce(app), &self.code_verifier) {
            (true, None) => Err(Error::invalid_input(
                "the login has no code verifier, so it did not begin with this flow",
            )),
            (false, Some(_)) => Err(Error::invalid_input(
                "the login has a code verifier, so it began with PKCE",
            )),
            _ => Ok(()),
        }
    }
}

impl Login {
    /// Checks whether this callback completes the login, without redeeming its code. A program that listens for callbacks
    /// itself can ignore those that don't belong to the login, instead of ending it.
    ///
    /// ```
    /// # fn example(pkce: coze_auth::PkceFlow) -> coze_auth::Result<()> {
    /// use coze_auth::ErrorKind;
    ///
    /// let (url, login) = pkce.login("http://127.0.0.1:8080/callback").begin()?;
    /// let error = login.check("/callback?code=…&state=of-another-login").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::StateMismatch);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`StateMismatch`](ErrorKind::StateMismatch): the callback belongs to another login.
    /// - [`Refused`](ErrorKind::Refused): the user refused, or Coze did.
    /// - [`InvalidCallback`](ErrorKind::InvalidCallback): the callback contains no code.
    pub fn check(&self, callback: &str) -> Result<()> {
        code_of_callback(callback, &self.state).map(drop)
    }
}

/// Extracts the code from a callback: its whole URL, its path and query, or its query alone.
///
/// `state` is compared first and in constant time, so that nothing else in a forged callback is trusted.
fn code_of_callback(callback: &str, state: &Secret) -> Result<Secret> {
    let parameters = Parameters::of_callback(callback)?;
    if state.is_empty() {
        return Err(Error::new(
            ErrorKind::StateMismatch,
            "the stored login has no state, so the callback can't be checked",
        ));
    }
    let returned = parameters.one("state")?.ok_or_else(|| {
        Error::new(
            ErrorKind::StateMismatch,
            "the callback has no state, so it may be forged",
        )
    })?;
    if !state.ct_eq(returned.expose()) {
        return Err(Error::new(
            ErrorKind::StateMismatch,
            "the callback's state differs from the login's",
        ));
    }
    if let Some(error) = parameters.one("error")? {
        let mut secrets = vec![state.clone()];
        secrets.extend(parameters.one("code")?);
        let description = parameters.one("error_description")?;
        let code = sanitize(error.expose(), &secrets);
        return Err(Error::new(ErrorKind::Refused, "the login was refused")
            .with_code(ErrorCode::from_word(&code))
            .with_message(description.map(|d| sanitize(d.expose(), &secrets))));
    }
    parameters
        .one("code")?
        .filter(|code| !code.is_empty())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidCallback,
                "the callback contains neither a code nor an error",
            )
        })
}

/// The parameters of a callback. All values are kept as secrets, because the code is one.
struct Parameters(Vec<(String, Secret)>);

impl Parameters {
    fn of_callback(callback: &str) -> Result<Self> {
        let without_fragment = callback.trim().split('#').next().unwrap_or_default();
        // A bare query may contain a question mark (RFC 3986 section 3.4).
        let is_location =
            without_fragment.starts_with(['/', '?']) || Url::parse(without_fragment).is_ok();
        let query = if is_location {
            without_fragment.split_once('?').map(|(_, query)| query)
        } else {
            Some(without_fragment)
        };
        let query = query
            .filter(|query| query.contains('='))
            .ok_or_else(|| Error::new(ErrorKind::InvalidCallback, "the callback has no query"))?;
        Ok(Self(
            form_urlencoded::parse(query.as_bytes())
                .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
                .collect(),
        ))
    }

    /// The parameter with this name. A repeated parameter is refused (RFC 6749 section 3.1).
    fn one(&self, name: &str) -> Result<Option<Secret>> {
        let mut values = self.0.iter().filter(|(n, _)| n == name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Error::new(
                ErrorKind::InvalidCallback,
                format!("the callback contains {name} more than once"),
            ));
        }
        Ok(first.map(|(_, value)| value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OAuthClient, PkceFlow, WebFlow};

    fn code(callback: &str) -> Result<String> {
        code_of_callback(callback, &Secret::from("st/&=")).map(|code| code.expose().to_owned())
    }

    #[test]
    fn the_challenge_matches_rfc_7636_appendix_b() {
        let verifier = Secret::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(
            s256(&verifier),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[tokio::test]
    async fn a_login_survives_serialisation_and_is_completed_only_by_its_flow() {
        let client = OAuthClient::new(Endpoint::CN).unwrap();
        let pkce = PkceFlow::new(client.clone(), "id").unwrap();
        let web = WebFlow::new(client, "id".into(), "secret".into()).unwrap();
        let login = pkce.login("https://example.com/cb").state("hush-state");
        let (_, login) = login.begin().unwrap();
        let verifier = login.code_verifier.as_ref().unwrap().expose();
        assert_eq!(verifier.len(), 43);

        let stored = serde_json::to_string(&login).unwrap();
        let again: Login = serde_json::from_str(&stored).unwrap();
        assert!(again.code_verifier.as_ref().unwrap().ct_eq(verifier));
        let printed = format!("{again:?}");
        assert!(
            !printed.contains(verifier) && !printed.contains("hush"),
            "{printed}"
        );

        let callback = "?code=c&state=hush-state";
        let error = web.complete(again, callback).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let login = web.login("https://example.com/cb").state("hush-state");
        let (_, login) = login.begin().unwrap();
        let error = pkce.complete(login, callback).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_callback_is_accepted_as_url_path_or_query() {
        for callback in [
            "https://example.com/cb?x=1&code=hush&state=st%2F%26%3D#frag",
            "/cb?code=hush&state=st%2F%26%3D",
            "?code=hush&state=st%2F%26%3D",
            "code=hush&state=st%2F%26%3D\n",
        ] {
            assert_eq!(code(callback).unwrap(), "hush", "{callback}");
        }
    }

    #[test]
    fn a_state_mismatch_is_reported_before_anything_else() {
        for callback in [
            "?code=hush",
            "?code=hush&state=",
            "?code=hush&state=other",
            "?error=access_denied",
            "?error=access_denied&state=other",
        ] {
            let error = code(callback).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StateMismatch, "{callback}");
            assert!(!format!("{error} {error:?}").contains("hush"));
        }
    }

    #[test]
    fn a_login_checks_a_callback_without_redeeming_it() {
        let login = Login {
            state: Secret::from("st"),
            redirect_uri: String::new(),
            code_verifier: None,
        };
        assert!(login.check("?code=hush&state=st").is_ok());
        for (callback, kind) in [
            ("?code=hush&state=other", ErrorKind::StateMismatch),
            ("?error=access_denied&state=st", ErrorKind::Refused),
            ("?state=st", ErrorKind::InvalidCallback),
        ] {
            assert_eq!(
                login.check(callback).unwrap_err().kind(),
                kind,
                "{callback}"
            );
        }
    }

    #[test]
    fn a_refusal_in_the_callback_becomes_an_error_with_its_code() {
        let error =
            code("?error=access_denied&error_description=no%0Away&state=st%2F%26%3D").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.code(), Some(&ErrorCode::AccessDenied));
        assert_eq!(error.message(), Some("no way"));
        let error = code("?error=server_error&state=st%2F%26%3D").unwrap_err();
        assert_eq!(
            error.code(),
            Some(&ErrorCode::Other("server_error".to_owned()))
        );
    }

    #[test]
    fn a_callback_without_exactly_one_code_is_refused() {
        for callback in [
            "",
            "https://example.com/cb",
            "?state=st%2F%26%3D",
            "?code=&state=st%2F%26%3D",
            "?code=hush&code=hush2&state=st%2F%26%3D",
            "?code=hush&state=st%2F%26%3D&state=st%2F%26%3D",
        ] {
            let error = code(callback).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidCallback, "{callback}");
            assert!(!format!("{error} {error:?}").contains("hush"));
        }
    }
}
