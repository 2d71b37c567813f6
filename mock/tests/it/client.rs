//! A minimal in-process client, which sends exactly what a test specifies.

use coze_mock::{
    Builder, Decision, MockBody, MockClock, MockCoze, MockService, ServiceError, defaults,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tower::ServiceExt as _;

pub(crate) const TOKEN: &str = "/api/permission/oauth2/token";
pub(crate) const DEVICE: &str = "/api/permission/oauth2/device/code";
/// The deprecated bot endpoints.
pub(crate) const OLD_BOTS: &str = "/v1/space/published_bots_list";
pub(crate) const OLD_BOT: &str = "/v1/bot/get_online_info";
pub(crate) const REDIRECT: &str = "http://127.0.0.1:8080/callback";
pub(crate) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
pub(crate) const JWT_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 7636, appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// A whole second, so that expiry times can be compared exactly.
pub(crate) const START: u64 = 1_800_000_000;

pub(crate) struct Client {
    pub(crate) mock: MockCoze,
    service: MockService,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: bytes::Bytes,
    /// The body, or null if it is not JSON.
    pub(crate) json: Value,
    /// Whether the body ended in an error.
    pub(crate) cut_off: bool,
}

/// The bytes of a body, and whether it was incomplete.
async fn read(mut body: MockBody) -> (bytes::Bytes, bool) {
    let mut bytes = bytes::BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().expect("bytes")),
            Err(error) => {
                assert!(error.is_cut_off() || error.is_connection_reset(), "{error}");
                return (bytes.freeze(), true);
            }
        }
    }
    (bytes.freeze(), false)
}

impl Reply {
    pub(crate) fn text(&self, field: &str) -> &str {
        let value = self.json[field].as_str();
        value.unwrap_or_else(|| panic!("no {field} in {} {}", self.status, self.json))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Status and error code, as in `400 invalid_grant`.
    pub(crate) fn refusal(&self) -> String {
        format!(
            "{} {}",
            self.status.as_u16(),
            self.json["error_code"].as_str().unwrap_or("-")
        )
    }
}

pub(crate) fn frozen() -> MockClock {
    MockClock::frozen_at(SystemTime::UNIX_EPOCH + Duration::from_secs(START))
}

impl Client {
    /// A client of a strict mock with the default apps and a frozen clock.
    pub(crate) fn new() -> Self {
        Self::of(MockCoze::builder())
    }

    pub(crate) fn of(builder: Builder) -> Self {
        Self::with(builder.clock(frozen()).build().expect("a mock"))
    }

    pub(crate) fn with(mock: MockCoze) -> Self {
        Self {
            service: mock.service(),
            mock,
        }
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<bytes::Bytes>>,
    ) -> Result<Reply, ServiceError> {
        let (parts, body) = self.service.clone().oneshot(request).await?.into_parts();
        let (body, cut_off) = read(body).await;
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Reply {
            status: parts.status,
            headers: parts.headers,
            body,
            json,
            cut_off,
        })
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://api.coze.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::from(body.to_owned()))
            .expect("a request");
        self.send(request).await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str, bearer: &str) -> Reply {
        self.call(
            Method::GET,
            path,
            &[("authorization", &format!("Bearer {bearer}"))],
            "",
        )
        .await
    }

    /// Posts JSON; with a bearer token unless it is empty.
    pub(crate) async fn post(&self, path: &str, bearer: &str, body: &Value) -> Reply {
        let authorization = format!("Bearer {bearer}");
        let mut headers = vec![("content-type", "application/json")];
        if !bearer.is_empty() {
            headers.push(("authorization", &authorization));
        }
        self.call(Method::POST, path, &headers, &body.to_string())
            .await
    }

    pub(crate) fn web_page(&self) -> String {
        authorize_url("", defaults::WEB_CLIENT_ID, REDIRECT, "xyz", "")
    }

    pub(crate) fn pkce_page(&self) -> String {
        let challenge = format!("&code_challenge={CHALLENGE}&code_challenge_method=S256");
        authorize_url("", defaults::PKCE_CLIENT_ID, REDIRECT, "xyz", &challenge)
    }

    /// Lets the user approve, and returns the code of the callback.
    pub(crate) fn approved(&self, page: &str) -> String {
        code_of(
            &self
                .mock
                .authorize(page, Decision::Approve)
                .expect("a callback"),
        )
    }

    pub(crate) async fn web_tokens(&self) -> Reply {
        let code = self.approved(&self.web_page());
        self.post(TOKEN, defaults::WEB_CLIENT_SECRET, &web_code(&code))
            .await
    }

    pub(crate) async fn start_device(&self) -> Reply {
        self.post(
            DEVICE,
            "",
            &json!({"client_id": defaults::DEVICE_CLIENT_ID}),
        )
        .await
    }

    pub(crate) async fn poll(&self, device_code: &str) -> Reply {
        self.post(TOKEN, "", &device_poll(device_code)).await
    }
}

pub(crate) fn code_of(callback: &url::Url) -> String {
    let code = callback.query_pairs().find(|(name, _)| name == "code");
    code.unwrap_or_else(|| panic!("no code in {callback}"))
        .1
        .into_owned()
}

/// `more` is appended to the query unchanged.
pub(crate) fn authorize_url(
    workspace: &str,
    client_id: &str,
    redirect_uri: &str,
    state: &str,
    more: &str,
) -> String {
    let mut url = url::Url::parse("https://www.coze.test/").expect("a URL");
    url.set_path(&format!("/api/permission/oauth2/{workspace}authorize"));
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", client_id)
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("state", state);
    format!("{url}{more}")
}

pub(crate) fn web_code(code: &str) -> Value {
    json!({"grant_type": "authorization_code", "client_id": defaults::WEB_CLIENT_ID, "code": code, "redirect_uri": REDIRECT})
}

pub(crate) fn pkce_code(code: &str) -> Value {
    json!({"grant_type": "authorization_code", "client_id": defaults::PKCE_CLIENT_ID, "code": code,
        "redirect_uri": REDIRECT, "code_verifier": VERIFIER})
}

pub(crate) fn refresh(client_id: &str, refresh_token: &str) -> Value {
    json!({"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token})
}

pub(crate) fn device_poll(device_code: &str) -> Value {
    json!({"grant_type": DEVICE_GRANT, "client_id": defaults::DEVICE_CLIENT_ID, "device_code": device_code})
}

/// The parts of a JWT that the mock accepts, for tests to change.
pub(crate) struct JwtParts {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl JwtParts {
    pub(crate) fn good(jti: &str) -> Self {
        Self {
            header: json!({"alg": "RS256", "typ": "JWT", "kid": defaults::JWT_PUBLIC_KEY_ID}),
            claims: json!({"iss": defaults::JWT_CLIENT_ID, "aud": "api.coze.test", "iat": START, "exp": START + 600,
                "jti": format!("{jti:0>40}")}),
        }
    }

    pub(crate) fn signed(&self) -> String {
        use base64::Engine as _;
        let part = |value: &Value| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
        };
        let message = format!("{}.{}", part(&self.header), part(&self.claims));
        let pem = defaults::jwt_private_key_pem().expect("a key");
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::RS256)
            .expect("a signature");
        format!("{message}.{signature}")
    }
}

pub(crate) fn jwt_body() -> Value {
    json!({"grant_type": JWT_GRANT})
}
