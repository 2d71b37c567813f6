//! The inputs of all tests, and a server that accepts and records every request.
//!
//! The inputs equal those of the recorded requests in `golden/`, so that both can be compared.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{
    DeviceFlow, Endpoint, EndpointBuilder, JwtFlow, Login, OAuthClient, OAuthClientBuilder,
    PkceFlow, RefreshToken, WebFlow, reqwest,
};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use super::{Sent, TestKey};

pub(crate) const CLIENT_ID: &str = "test-client.app.coze";
pub(crate) const CLIENT_SECRET: &str = "test-secret";
pub(crate) const REDIRECT_URI: &str = "https://example.com/cb?x=1#frag";
pub(crate) const STATE: &str = "st/&=";
/// The callback URL of a login that began with [`STATE`].
pub(crate) const CALLBACK: &str = "https://example.com/cb?x=1&code=code_abc&state=st%2F%26%3D#frag";
pub(crate) const REFRESH_TOKEN: &str = "rt_abc";
pub(crate) const WORKSPACE: &str = "7001";
pub(crate) const ACCOUNT: &str = "9001";
pub(crate) const ENTERPRISE: &str = "ent_1";
pub(crate) const SESSION_NAME: &str = "user 1";
pub(crate) const KEY_ID: &str = "kid_1";
pub(crate) const BOTS: [&str; 2] = ["bot_1", "bot_2"];
/// RFC 7636 appendix B.
pub(crate) const CODE_VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// The host of the API, which resolves to the recording server, so that no port appears in a JWT.
const API_HOST: &str = "api.coze.test";

/// The recording server. Its tokens are `at_<number of the request>`.
pub(crate) struct Coze {
    server: MockServer,
}

impl Coze {
    pub(crate) async fn start() -> Self {
        let server = MockServer::start().await;
        let requests = AtomicUsize::new(0);
        Mock::given(any())
            .respond_with(move |request: &Request| {
                let number = requests.fetch_add(1, Ordering::SeqCst) + 1;
                let mut answer = good_answer(request.url.path());
                if answer.get("access_token").is_some() {
                    answer["access_token"] = json!(format!("at_{number}"));
                }
                ResponseTemplate::new(200)
                    .insert_header("x-tt-logid", "log_1")
                    .set_body_json(answer)
            })
            .mount(&server)
            .await;
        Self { server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *self.server.address()
    }

    /// `http://api.coze.test:…` followed by `suffix`.
    pub(crate) fn api_base(&self, rest: &str) -> String {
        format!("http://{API_HOST}:{}{rest}", self.address().port())
    }

    pub(crate) fn endpoint_builder(&self, rest: &str) -> EndpointBuilder {
        Endpoint::builder(self.api_base(rest)).allow_http_host(API_HOST)
    }

    pub(crate) fn endpoint(&self, rest: &str) -> Endpoint {
        self.endpoint_builder(rest).build().unwrap()
    }

    /// A client whose base URL has a path or a slash.
    pub(crate) fn client_at(&self, rest: &str) -> OAuthClientBuilder {
        OAuthClient::builder().endpoint(self.endpoint(rest)).http({
            let address = self.address();
            move || http_finding(address)
        })
    }

    pub(crate) fn client(&self) -> OAuthClient {
        self.client_at("").build().unwrap()
    }

    /// Resolves the API host to this server only.
    pub(crate) fn http(&self) -> reqwest::ClientBuilder {
        http_finding(self.address())
    }

    pub(crate) fn web(&self) -> WebFlow {
        web(self.client())
    }

    pub(crate) fn pkce(&self) -> PkceFlow {
        pkce(self.client())
    }

    pub(crate) fn device(&self) -> DeviceFlow {
        device(self.client())
    }

    pub(crate) fn jwt(&self) -> JwtFlow {
        jwt(self.client())
    }

    /// All requests so far, in order.
    pub(crate) async fn sent(&self) -> Vec<Sent> {
        let requests = self.server.received_requests().await.unwrap();
        requests.iter().map(Sent::request).collect()
    }

    /// The one request that was made.
    pub(crate) async fn only_sent(&self) -> Sent {
        let mut sent = self.sent().await;
        assert_eq!(sent.len(), 1, "expected one request: {sent:#?}");
        sent.remove(0)
    }

    /// The last request that was made.
    pub(crate) async fn last_sent(&self) -> Sent {
        self.sent().await.pop().expect("no request was made")
    }
}

pub(crate) fn web(client: OAuthClient) -> WebFlow {
    WebFlow::new(client, CLIENT_ID.into(), CLIENT_SECRET.into()).unwrap()
}

pub(crate) fn pkce(client: OAuthClient) -> PkceFlow {
    PkceFlow::new(client, CLIENT_ID).unwrap()
}

pub(crate) fn device(client: OAuthClient) -> DeviceFlow {
    DeviceFlow::new(client, CLIENT_ID).unwrap()
}

pub(crate) fn jwt(client: OAuthClient) -> JwtFlow {
    JwtFlow::new(
        client,
        CLIENT_ID.into(),
        KEY_ID.into(),
        TestKey::get().signer(),
    )
    .unwrap()
}

pub(crate) fn refresh_token() -> RefreshToken {
    RefreshToken::new(REFRESH_TOKEN).unwrap()
}

/// A login of the PKCE flow with this verifier, as a session would have kept it.
pub(crate) fn login_with(code_verifier: &str) -> Login {
    let login =
        json!({"state": STATE, "redirect_uri": REDIRECT_URI, "code_verifier": code_verifier});
    serde_json::from_value(login).unwrap()
}

pub(crate) fn pkce_login() -> Login {
    login_with(CODE_VERIFIER)
}

/// The code challenge of a verifier (RFC 7636 section 4.2).
pub(crate) fn s256(code_verifier: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, code_verifier.as_bytes());
    URL_SAFE_NO_PAD.encode(digest)
}

/// Coze's successful response for this path. The token expires in 2100.
pub(crate) fn good_answer(path: &str) -> Value {
    if path.ends_with("/device/code") {
        return device_answer();
    }
    if path.ends_with("/users/me") {
        return json!({"code": 0, "msg": "", "data": {"user_id": "u1"}});
    }
    token_answer()
}

pub(crate) fn token_answer() -> Value {
    json!({
        "access_token": "at_1",
        "expires_in": 4_102_444_800_i64,
        "refresh_token": "rt_1",
        "token_type": "Bearer",
    })
}

pub(crate) fn device_answer() -> Value {
    json!({
        "device_code": "dc_1",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://www.coze.com/device",
        "expires_in": 300,
        "interval": 5,
    })
}

/// A client that only builds URLs, so it needs no CA certificates.
pub(crate) fn offline_client(endpoint: Endpoint) -> OAuthClient {
    OAuthClient::builder()
        .endpoint(endpoint)
        .http(|| reqwest::Client::builder().tls_certs_only([]))
        .build()
        .unwrap()
}

/// Resolves the API host to this address only.
pub(crate) fn http_finding(address: SocketAddr) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .resolve(API_HOST, address)
}
