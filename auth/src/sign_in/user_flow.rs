//! The flows whose tokens a user granted, and refresh tokens renew.

use crate::{DeviceFlow, Flow, OAuthClient, PkceFlow, RefreshToken, Result, Token, WebFlow};

/// What a refresh token was redeemed for.
pub(super) struct Answer {
    /// The refresh token that takes its place, if there is another.
    pub(super) refresh_token: Option<RefreshToken>,
    /// The access token, or why it can't be used. The refresh token lives either way.
    pub(super) token: Result<Token>,
}

/// A flow whose tokens a user granted.
pub(crate) enum UserFlow {
    Web(WebFlow),
    Pkce(PkceFlow),
    Device(DeviceFlow),
}

impl UserFlow {
    pub(super) fn kind(&self) -> Flow {
        match self {
            Self::Web(_) => Flow::Web,
            Self::Pkce(_) => Flow::Pkce,
            Self::Device(_) => Flow::Device,
        }
    }

    pub(crate) fn client(&self) -> &OAuthClient {
        match self {
            Self::Web(flow) => flow.client(),
            Self::Pkce(flow) => flow.client(),
            Self::Device(flow) => flow.client(),
        }
    }

    pub(super) fn client_id(&self) -> &str {
        match self {
            Self::Web(flow) => flow.client_id(),
            Self::Pkce(flow) => flow.client_id(),
            Self::Device(flow) => flow.client_id(),
        }
    }

    pub(super) async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Answer> {
        let token = match self {
            Self::Web(flow) => flow.refresh(refresh_token).await,
            Self::Pkce(flow) => flow.refresh(refresh_token).await,
            Self::Device(flow) => flow.refresh(refresh_token).await,
        }?;
        Ok(Answer {
            refresh_token: token.refresh_token().cloned(),
            token: Ok(token),
        })
    }
}
