//! The flows whose tokens a person granted, and refresh tokens renew.

use crate::{DeviceFlow, Flow, OAuthClient, PkceFlow, RefreshToken, Result, Token, WebFlow};

/// A flow whose tokens a person granted.
pub(in crate::provider) enum UserFlow {
    Web(WebFlow),
    Pkce(PkceFlow),
    Device(DeviceFlow),
}

impl UserFlow {
    pub(in crate::provider) fn kind(&self) -> Flow {
        match self {
            Self::Web(_) => Flow::Web,
            Self::Pkce(_) => Flow::Pkce,
            Self::Device(_) => Flow::Device,
        }
    }

    pub(in crate::provider) fn client(&self) -> &OAuthClient {
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

    pub(super) async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        match self {
            Self::Web(flow) => flow.refresh(refresh_token).await,
            Self::Pkce(flow) => flow.refresh(refresh_token).await,
            Self::Device(flow) => flow.refresh(refresh_token).await,
        }
    }
}
