//! The part that the user flows (web, PKCE, device) share: the credentials of the OAuth app, and refreshing its tokens.

use std::sync::Arc;

use coze_wire::Secret;

use crate::{
    ClientId, DeviceFlow, Error, Flow, OAuthClient, PkceFlow, RefreshToken, Result, Token, WebFlow,
    client::Credentials, input::credential,
};

/// A flow that signs users in and issues refresh tokens: [`WebFlow`], [`PkceFlow`] or [`DeviceFlow`]. The trait is sealed.
///
/// Accepted by [`CachedProvider::stored`](crate::CachedProvider::stored),
/// [`CachedProvider::in_memory`](crate::CachedProvider::in_memory) and [`UserPool::builder`](crate::UserPool::builder).
///
/// ```
/// use coze_auth::{CachedProvider, SignIn, UserFlow};
///
/// fn provider(flow: &impl UserFlow, sign_in: SignIn) -> CachedProvider {
///     CachedProvider::stored(flow, sign_in).build()
/// }
/// ```
pub trait UserFlow: sealed::Sealed {
    /// The client that sends this flow's requests. Share it with an API client to use the same endpoint and connections.
    fn client(&self) -> &OAuthClient {
        self.app().client()
    }

    /// Redeems a refresh token. It is invalid afterwards; the returned token contains its successor.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) with [`InvalidGrant`](crate::ErrorCode::InvalidGrant)
    /// when the refresh token is invalid, already redeemed or older than 30 days: the user must sign in again.
    /// Errors of the transport, and invalid responses: the refresh token may have been redeemed.
    fn refresh(&self, refresh_token: &RefreshToken) -> impl Future<Output = Result<Token>> + Send {
        self.app().refresh(refresh_token)
    }
}

impl<F: sealed::Sealed + ?Sized> UserFlow for F {}

pub(crate) mod sealed {
    /// Prevents implementations outside this crate.
    pub trait Sealed {
        fn app(&self) -> &std::sync::Arc<super::App>;
    }

    impl<F: Sealed + ?Sized> Sealed for &F {
        fn app(&self) -> &std::sync::Arc<super::App> {
            F::app(self)
        }
    }
}

/// An OAuth app as one flow uses it: its credentials, and the client that sends the requests.
#[derive(Debug)]
pub struct App {
    flow: Flow,
    client: OAuthClient,
    client_id: ClientId,
    client_secret: Option<Secret>,
}

impl App {
    pub(super) fn new(
        flow: Flow,
        client: OAuthClient,
        client_id: &ClientId,
        client_secret: Option<&Secret>,
    ) -> Result<Arc<Self>> {
        let secret = |secret: &Secret| credential("client secret", secret.expose());
        let checked = || {
            Ok(Arc::new(Self {
                flow,
                client,
                client_id: client_id.checked()?,
                client_secret: client_secret.map(secret).transpose()?,
            }))
        };
        checked().map_err(|error: Error| error.in_flow(flow))
    }

    pub(crate) fn flow(&self) -> Flow {
        self.flow
    }

    pub(crate) fn client(&self) -> &OAuthClient {
        &self.client
    }

    pub(crate) fn client_id(&self) -> &str {
        self.client_id.as_ref()
    }

    pub(super) fn credentials<'a>(&'a self, body: Vec<&'a Secret>) -> Credentials<'a> {
        Credentials {
            flow: self.flow,
            bearer: self.client_secret.as_ref(),
            body,
        }
    }

    pub(crate) async fn refresh(&self, refresh_token: &RefreshToken) -> Result<Token> {
        let secret = self.client_secret.as_ref();
        self.client
            .refresh(self.flow, self.client_id(), secret, refresh_token)
            .await
    }
}

macro_rules! user_flows {
    ($($flow:ident: $app:expr),*) => {$(
        impl sealed::Sealed for $flow {
            fn app(&self) -> &Arc<App> {
                let app: fn(&Self) -> &Arc<App> = $app;
                app(self)
            }
        }
    )*};
}

user_flows!(WebFlow: |web| &web.0.app, PkceFlow: |pkce| &pkce.0.app, DeviceFlow: |device| &device.0);
