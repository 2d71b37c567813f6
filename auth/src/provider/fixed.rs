//! [`FixedToken`]: a token that was created in the Coze console.

use std::{fmt, sync::Arc};

use super::{TokenFuture, TokenProvider, slot::Copies};
use crate::{AccessToken, Endpoint, Error, Flow, Result, Token, input::credential};

/// A personal access token (PAT) or service access token (SAT): created in the Coze console, sent unchanged, never
/// refreshed.
///
/// Sources: <https://www.coze.cn/open/docs/developer_guides/pat>,
/// <https://www.coze.cn/open/docs/developer_guides/service_token>.
///
/// ```
/// use coze_auth::FixedToken;
///
/// let token = FixedToken::new("pat_abc\n")?;
/// assert_eq!(token.access_token().authorization().as_bytes(), b"Bearer pat_abc");
/// assert_eq!(format!("{token:?}"), "FixedToken(****)");
/// # Ok::<(), coze_auth::Error>(())
/// ```
///
/// It can also be a [`Token`] of a flow, for a program that ends before the token expires:
///
/// ```no_run
/// # async fn example(jwt: coze_auth::JwtFlow) -> coze_auth::Result<()> {
/// let token = coze_auth::FixedToken::from(jwt.token().await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FixedToken {
    copies: Arc<Copies>,
    endpoint: Option<Endpoint>,
}

impl FixedToken {
    /// Wraps a token. Surrounding white space, one pair of quotation marks and escaped line breaks, as env files
    /// contain them, are removed.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is empty or contains a character that no token contains. The
    /// error names the character, never the token.
    pub fn new(token: impl AsRef<str>) -> Result<Self> {
        Self::named("token", token.as_ref())
    }

    /// Sets the endpoint at which the token is valid. An API client uses it by default.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    pub(crate) fn named(name: &str, token: &str) -> Result<Self> {
        let checked = || {
            let token = credential(name, token)?;
            AccessToken::of(&token).map(Self::from)
        };
        checked().map_err(|error: Error| error.in_flow(Flow::Token))
    }

    /// The token, ready to be sent.
    #[must_use]
    pub fn access_token(&self) -> &AccessToken {
        self.copies.token()
    }
}

impl From<AccessToken> for FixedToken {
    fn from(token: AccessToken) -> Self {
        Self {
            copies: Arc::new(Copies::of(&token)),
            endpoint: None,
        }
    }
}

impl From<Token> for FixedToken {
    fn from(token: Token) -> Self {
        AccessToken::from(token).into()
    }
}

impl TokenProvider for FixedToken {
    fn cached(&self) -> Option<AccessToken> {
        Some(self.copies.copy(self.copies.read()).clone())
    }

    fn fetch(&self) -> TokenFuture<'_> {
        let token = self.copies.token().clone();
        Box::pin(std::future::ready(Ok(token)))
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }
}

impl fmt::Debug for FixedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FixedToken(****)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_token_of_a_flow_converts_into_a_fixed_token() {
        let life = std::time::Duration::from_secs(900);
        let token = Token::for_test("czs_1", life, &crate::clock::Clock::System);
        let fixed = FixedToken::from(token);
        assert_eq!(fixed.cached().unwrap().expose(), "czs_1");
        assert_eq!(fixed.access_token().expose(), "czs_1");
    }

    #[test]
    fn a_token_is_trimmed_and_an_invalid_one_is_refused_and_not_printed() {
        let token = FixedToken::new(" \tpat_abc\r\n").unwrap();
        assert_eq!(token.access_token().expose(), "pat_abc");
        assert!(token.access_token().authorization().is_sensitive());
        for bad in ["", " \n", "hush\nhush", "hush hush", "hush\u{e9}"] {
            let error = FixedToken::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }
}
