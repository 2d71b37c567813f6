//! The lower bounds of the cost of a cached token and of an exchange.

use std::{hint::black_box, sync::Arc};

use anyhow::Result;
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use http::HeaderValue;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{keys::RawSigner, server::TokenServer};

/// A token and its expiry behind one `arc-swap` guard, checked against both coarse clocks.
pub struct Floor(ArcSwap<Entry>);

/// The guarded value.
pub struct Entry {
    authorization: HeaderValue,
    ends_monotonic: u64,
    ends_wall: u64,
}

impl Floor {
    /// Creates a floor with a token of usual length that lives a day.
    ///
    /// # Errors
    ///
    /// Never, with that token.
    pub fn new() -> Result<Self> {
        let token = Zeroizing::new(format!("Bearer czs_{:060}", 1).into_bytes());
        let mut authorization = HeaderValue::from_maybe_shared(Bytes::from_owner(token))?;
        authorization.set_sensitive(true);
        let (monotonic, wall) = both_clocks();
        let day = 86_400 * 1_000_000_000;
        Ok(Self(ArcSwap::new(Arc::new(Entry {
            authorization,
            ends_monotonic: monotonic + day,
            ends_wall: wall + day,
        }))))
    }

    /// The token, borrowed.
    #[inline]
    pub fn borrow(&self) -> Option<Guard<Arc<Entry>>> {
        let entry = self.0.load();
        let (monotonic, wall) = both_clocks();
        (monotonic < entry.ends_monotonic && wall < entry.ends_wall).then_some(entry)
    }

    /// The token, owned.
    #[inline]
    pub fn cached(&self) -> Option<HeaderValue> {
        let entry = self.0.load();
        let (monotonic, wall) = both_clocks();
        (monotonic < entry.ends_monotonic && wall < entry.ends_wall)
            .then(|| entry.authorization.clone())
    }
}

impl Entry {
    pub fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }
}

/// The coarse clocks, monotonic and wall, in nanoseconds.
#[inline]
pub fn both_clocks() -> (u64, u64) {
    let nanos = |id| {
        let time = clock_gettime(id);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    };
    (
        nanos(ClockId::MonotonicCoarse),
        nanos(ClockId::RealtimeCoarse),
    )
}

/// A bare exchange: one signature, one JSON POST, one JSON response.
pub struct BareExchange {
    http: reqwest::Client,
    url: String,
    signer: RawSigner,
    /// A message of the length of a JWT's header and claims.
    message: Vec<u8>,
    /// A bearer of the length of a JWT.
    jwt: String,
}

#[derive(Serialize)]
struct Grant {
    duration_seconds: u64,
    grant_type: &'static str,
}

/// The response of a token server.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    pub access_token: String,
    pub expires_in: u64,
}

impl BareExchange {
    /// Creates an exchange with a server on loopback.
    ///
    /// # Errors
    ///
    /// If there is no key.
    pub fn new(server: &TokenServer) -> Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder().no_proxy().build()?,
            url: server.token_uri(),
            signer: RawSigner::new()?,
            message: vec![b'm'; 384],
            jwt: "j".repeat(384 + 1 + 342),
        })
    }

    /// Signs and posts.
    ///
    /// # Errors
    ///
    /// If the server returns no token.
    pub async fn exchange(&self) -> reqwest::Result<Answer> {
        black_box(self.signer.sign(&self.message));
        self.post().await
    }

    /// Posts.
    ///
    /// # Errors
    ///
    /// If the server returns no token.
    pub async fn post(&self) -> reqwest::Result<Answer> {
        let grant = Grant {
            duration_seconds: 900,
            grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer",
        };
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.jwt)
            .json(&grant);
        request.send().await?.error_for_status()?.json().await
    }
}
