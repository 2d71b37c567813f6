//! What the flows share that sign users in: the app that a user grants tokens to, and how it gets the next one.

use std::sync::Arc;

use coze_wire::Secret;

use crate::{
    ClientId, DeviceFlow, Error, Flow, OAuthClient, PkceFlow, RefreshToken, Result, Token, WebFlow,
    client::Credentials, input::credential,
};

/// A flow that signs users in, and whose tokens come with a refresh token: [`WebFlow`], [`PkceFlow`] or [`DeviceFlow`]. It
/// can't be implemented for other types.
///
/// A provider or a pool takes any of them: [`CachedProvider::stored`](crate::CachedProvider::stored),
/// [`CachedProvider::in_memory`](crate::CachedProvider::in_memory), [`UserPool::builder`](crate::UserPool::builder).
///
/// ```
/// use coze_auth::{CachedProvider, SignIn, UserFlow};
///
/// fn provider(flow: &impl UserFlow, sign_in: SignIn) -> CachedProvider {
///     CachedProvider::stored(flow, sign_in).build()
/// }
/// ```
pub trait UserFlow: sealed::Sealed {}

impl<F: sealed::Sealed + ?Sized> UserFlow for F {}

pub(crate) mod sealed {
    /// Keeps the trait to this crate.
    pub trait Sealed {
        fn app(&self) -> &std::sync::Arc<super::App>;
    }

    impl<F: Sealed + ?Sized> Sealed for &F {
        fn app(&self) -> &std::sync::Arc<super::App> {
            F::app(self)
        }
    }
}

/// The app that a user grants tokens to.
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

        impl $flow {
            /// The client that it sends its requests through: an API client that takes it too goes to the same endpoint, and
            /// shares its connections.
            #[must_use]
            pub fn client(&self) -> &OAuthClient {
                sealed::Sealed::app(self).client()
            }
        }
    )*};
}

user_flows!(WebFlow: |web| &web.0.app, PkceFlow: |pkce| &pkce.0.app, DeviceFlow: |device| &device.0);
