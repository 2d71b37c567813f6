//! [`PkceFlow`]: authorization code with PKCE, for public clients.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::Secret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    app::App,
    authorization_code::{AuthorizationCodeFlow, CodeChallengeMethod, Login, LoginBuilder, Proof},
};
use crate::{ClientId, Error, Flow, OAuthClient, RefreshToken, Result, Token};

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
pub struct PkceFlow(pub(super) AuthorizationCodeFlow<CodeVerifier>);

impl PkceFlow {
    /// Creates the flow of one public client.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id is empty or contains a control
    /// character. Surrounding white space is removed.
    pub fn new(client: OAuthClient, client_id: impl Into<ClientId>) -> Result<Self> {
        let app = App::new(Flow::Pkce, client, &client_id.into(), None)?;
        Ok(Self(AuthorizationCodeFlow::of(app)))
    }

    /// Starts a login. The redirect URI must be identical to one of those that are registered for the app (at most 3).
    pub fn login(&self, redirect_uri: impl Into<String>) -> LoginBuilder<'_, CodeVerifier> {
        self.0.login(redirect_uri.into())
    }

    /// Completes a login: checks the callback's `state` and redeems its code. `callback` is the whole URL, its path and
    /// query, or its query alone.
    ///
    /// # Errors
    ///
    /// As [`WebFlow::complete`](crate::WebFlow::complete).
    pub async fn complete(&self, login: Login<CodeVerifier>, callback: &str) -> Result<Token> {
        self.0.complete(login, callback).await
    }

    /// Redeems a refresh token. It is invalid afterwards; the returned token contains its successor.
    ///
    /// # Errors
    ///
    /// As [`WebFlow::refresh`](crate::WebFlow::refresh).
    pub async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        self.0.app.refresh(refresh_token).await
    }
}

/// A code verifier (RFC 7636 section 4.1): 43 to 128 of the characters `A-Z a-z 0-9 - . _ ~`.
///
/// [`PkceFlow::login`] generates a random one; pass your own only if it was generated elsewhere.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "Secret")]
pub struct CodeVerifier(Secret);

impl CodeVerifier {
    /// Wraps a verifier that was generated elsewhere.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it has another length or other characters.
    pub fn new(code_verifier: impl Into<String>) -> Result<Self> {
        let code_verifier = Secret::from(code_verifier.into());
        let text = code_verifier.expose();
        if !(43..=128).contains(&text.len()) {
            return Err(Error::invalid_input(format!(
                "the code verifier has {} bytes; RFC 7636 requires 43 to 128",
                text.len()
            )));
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        {
            return Err(Error::invalid_input(
                "the code verifier contains a character other than A-Z a-z 0-9 - . _ ~ (RFC 7636)",
            ));
        }
        Ok(Self(code_verifier))
    }
}

impl Proof for CodeVerifier {
    /// 43 characters (256 bits) from the operating system's random source.
    fn random() -> Result<Self> {
        crate::random::string().map(Self)
    }

    fn secret(&self) -> Option<&Secret> {
        Some(&self.0)
    }

    /// `BASE64URL-NOPAD(SHA256(ASCII(code_verifier)))` for S256, the verifier itself for plain.
    fn challenge(&self, method: CodeChallengeMethod) -> Option<Zeroizing<String>> {
        let verifier = self.0.expose();
        Some(Zeroizing::new(match method {
            CodeChallengeMethod::Plain => verifier.to_owned(),
            CodeChallengeMethod::S256 => {
                let digest =
                    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
                URL_SAFE_NO_PAD.encode(digest)
            }
        }))
    }
}

impl TryFrom<String> for CodeVerifier {
    type Error = Error;

    fn try_from(code_verifier: String) -> Result<Self> {
        Self::new(code_verifier)
    }
}

impl From<CodeVerifier> for Secret {
    fn from(code_verifier: CodeVerifier) -> Self {
        code_verifier.0
    }
}

impl fmt::Debug for CodeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeVerifier(****)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_matches_rfc_7636_appendix_b() {
        let verifier = CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert_eq!(
            **verifier.challenge(CodeChallengeMethod::S256).unwrap(),
            *"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn an_invalid_verifier_is_refused_and_not_printed() {
        for bad in [
            "hush".to_owned(),
            "x".repeat(42),
            "x".repeat(129),
            format!("{}!", "hush".repeat(11)),
            "é".repeat(30),
        ] {
            let error = CodeVerifier::new(bad).unwrap_err().to_string();
            assert!(error.contains("RFC 7636"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        for valid in ["x".repeat(43), "-._~".repeat(32)] {
            assert!(CodeVerifier::new(valid).is_ok());
        }
    }

    #[test]
    fn a_random_verifier_is_valid_and_a_login_survives_serialisation() {
        let client = OAuthClient::new(crate::Endpoint::CN).unwrap();
        let pkce = PkceFlow::new(client, "id").unwrap();
        let login = pkce.login("https://example.com/cb").state("hush-state");
        let (_, login) = login.begin().unwrap();
        let verifier = login.code_verifier.0.expose();
        assert!(CodeVerifier::new(verifier).is_ok());

        let stored = serde_json::to_string(&login).unwrap();
        let again: Login<CodeVerifier> = serde_json::from_str(&stored).unwrap();
        assert!(again.code_verifier.0.ct_eq(verifier));
        let printed = format!("{again:?}");
        assert!(
            !printed.contains(verifier) && !printed.contains("hush"),
            "{printed}"
        );
        let short = stored.replace(verifier, "short");
        assert!(serde_json::from_str::<Login<CodeVerifier>>(&short).is_err());
        // A serialised PKCE login is not accepted as a login of the web flow.
        assert!(serde_json::from_str::<Login>(&stored).is_err());
    }
}
