//! Every call that sends one request, so that a test can cover all of them.

use coze_auth::{
    DeviceAuthorization, Flow, JwtTokenRequest, OAuthClient, Poll, RefreshToken, Result, Token,
    UserFlow,
};
use tokio::sync::OnceCell;

use super::{
    ACCOUNT, CALLBACK, Coze, ENTERPRISE, REDIRECT_URI, STATE, WORKSPACE, device, jwt, pkce,
    refresh_token, web,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    WebExchange,
    WebRefresh,
    PkceExchange,
    PkceRefresh,
    DeviceStart,
    DeviceStartInWorkspace,
    DevicePollOnce,
    DeviceRefresh,
    Jwt,
    JwtForAccount,
    JwtForEnterprise,
}

/// The result of a successful call.
#[derive(Debug, Clone)]
pub(crate) enum Brought {
    Token(Box<Token>),
    Authorization(Box<DeviceAuthorization>),
    NotYet,
}

impl Brought {
    pub(crate) fn token(self) -> Token {
        match self {
            Self::Token(token) => *token,
            other => panic!("expected a token, not {other:?}"),
        }
    }

    pub(crate) fn authorization(self) -> DeviceAuthorization {
        match self {
            Self::Authorization(authorization) => *authorization,
            other => panic!("expected an authorization, not {other:?}"),
        }
    }
}

/// A device code from a working server.
async fn authorization() -> &'static DeviceAuthorization {
    static AUTHORIZATION: OnceCell<DeviceAuthorization> = OnceCell::const_new();
    AUTHORIZATION
        .get_or_init(|| async { Coze::start().await.device().start().await.unwrap() })
        .await
}

impl Call {
    pub(crate) const ALL: [Self; 11] = [
        Self::WebExchange,
        Self::WebRefresh,
        Self::PkceExchange,
        Self::PkceRefresh,
        Self::DeviceStart,
        Self::DeviceStartInWorkspace,
        Self::DevicePollOnce,
        Self::DeviceRefresh,
        Self::Jwt,
        Self::JwtForAccount,
        Self::JwtForEnterprise,
    ];

    pub(crate) fn flow(self) -> Flow {
        match self {
            Self::WebExchange | Self::WebRefresh => Flow::Web,
            Self::PkceExchange | Self::PkceRefresh => Flow::Pkce,
            Self::DeviceStart
            | Self::DeviceStartInWorkspace
            | Self::DevicePollOnce
            | Self::DeviceRefresh => Flow::Device,
            Self::Jwt | Self::JwtForAccount | Self::JwtForEnterprise => Flow::Jwt,
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::DeviceStart => "/api/permission/oauth2/device/code",
            Self::DeviceStartInWorkspace => "/api/permission/oauth2/workspace_id/7001/device/code",
            Self::JwtForAccount => "/api/permission/oauth2/account/9001/token",
            Self::JwtForEnterprise => "/api/permission/oauth2/enterprise_id/ent_1/token",
            _ => "/api/permission/oauth2/token",
        }
    }

    /// Whether the result is a token rather than a device authorization.
    pub(crate) fn brings_token(self) -> bool {
        !matches!(self, Self::DeviceStart | Self::DeviceStartInWorkspace)
    }

    /// Sends the request through this client.
    pub(crate) async fn make(self, client: &OAuthClient) -> Result<Brought> {
        let client = client.clone();
        let rt: RefreshToken = refresh_token();
        let token = match self {
            Self::WebExchange => {
                let web = web(client);
                let (_, login) = web.login(REDIRECT_URI).state(STATE).begin()?;
                web.complete(login, CALLBACK).await?
            }
            Self::WebRefresh => web(client).refresh(&rt).await?,
            Self::PkceExchange => {
                let pkce = pkce(client);
                let (_, login) = pkce.login(REDIRECT_URI).state(STATE).begin()?;
                pkce.complete(login, CALLBACK).await?
            }
            Self::PkceRefresh => pkce(client).refresh(&rt).await?,
            Self::DeviceStart => {
                let authorization = device(client).start().await?;
                return Ok(Brought::Authorization(Box::new(authorization)));
            }
            Self::DeviceStartInWorkspace => {
                let authorization = device(client).start_in_workspace(WORKSPACE).await?;
                return Ok(Brought::Authorization(Box::new(authorization)));
            }
            Self::DevicePollOnce => match device(client).poll_once(authorization().await).await? {
                Poll::Granted(token) => token,
                _ => return Ok(Brought::NotYet),
            },
            Self::DeviceRefresh => device(client).refresh(&rt).await?,
            Self::Jwt => jwt(client).token().await?,
            Self::JwtForAccount => {
                let request = JwtTokenRequest::default().account(ACCOUNT);
                jwt(client).token_for(&request).await?
            }
            Self::JwtForEnterprise => {
                let request = JwtTokenRequest::default().enterprise(ENTERPRISE);
                jwt(client).token_for(&request).await?
            }
        };
        Ok(Brought::Token(Box::new(token)))
    }
}
