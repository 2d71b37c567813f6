//! Utilities to test programs that use this crate: a controllable clock, an in-process transport, and a test
//! [suite](store) for your own stores.
//!
//! With tokio's paused time (`#[tokio::test(start_paused = true)]`, which needs tokio's feature `test-util`), every
//! timeout of an HTTP client fires at once while a socket is awaited. Tests of behaviour over time therefore call a
//! service directly: [`in_process`] adapts any [`tower_service::Service`], such as an axum router or the service
//! of `coze-mock`. [`TestClock::advance`] then advances the clocks of the client and of the mock.

pub mod store;

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyDataStream, BodyExt};
use tower_service::Service;

pub use crate::clock::TestClock;
pub use coze_wire::{SendError, SendErrorKind, SendFuture, Transport};

/// A transport that sends requests to a service in the same process, which is cloned for each request.
///
/// An error of the service is reported as a connection that was closed after the request was sent
/// ([`SendErrorKind::Interrupted`]), unless it is a [`SendError`].
///
/// ```
/// use coze_auth::{DeviceFlow, Endpoint, ErrorKind, OAuthClient, testing::in_process};
/// use http_body_util::Full;
/// use bytes::Bytes;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let teapot = tower::service_fn(|_: http::Request<reqwest::Body>| async {
///     Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::from("tea")))
/// });
/// let client = OAuthClient::builder()
///     .endpoint(Endpoint::custom("http://localhost").unwrap())
///     .transport(in_process(teapot))
///     .build()
///     .unwrap();
/// let device = DeviceFlow::new(client, "client-id").unwrap();
/// assert_eq!(device.start().await.unwrap_err().kind(), ErrorKind::InvalidAnswer);
/// # });
/// ```
pub fn in_process<S, R>(service: S) -> impl Transport
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    R: http_body::Body + Send + 'static,
    R::Data: Into<Bytes> + Send,
    R::Error: Into<Box<dyn Error + Send + Sync>>,
{
    InProcess {
        service: Mutex::new(service),
    }
}

struct InProcess<S> {
    // A service need not be `Sync`; it is cloned under the lock.
    service: Mutex<S>,
}

impl<S, R> Transport for InProcess<S>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    R: http_body::Body + Send + 'static,
    R::Data: Into<Bytes> + Send,
    R::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn send(&self, request: reqwest::Request) -> SendFuture<'_> {
        let mut service = self
            .service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move {
            let request = http::Request::<reqwest::Body>::try_from(request)
                .map_err(|error| SendError::from_reqwest(&error, &[]))?;
            std::future::poll_fn(|context| service.poll_ready(context))
                .await
                .map_err(|error| send_error(error.into()))?;
            let response = service
                .call(request)
                .await
                .map_err(|error| send_error(error.into()))?;
            Ok(response
                .map(|body| {
                    let data = body.map_frame(|frame| frame.map_data(Into::<Bytes>::into));
                    reqwest::Body::wrap_stream(BodyDataStream::new(Box::pin(data)))
                })
                .into())
        })
    }
}

fn send_error(error: Box<dyn Error + Send + Sync>) -> SendError {
    match error.downcast::<SendError>() {
        Ok(error) => *error,
        Err(error) => SendError::new(SendErrorKind::Interrupted, error.to_string()),
    }
}
