//! Our JWTs, verified by another implementation: `jsonwebtoken` with the public key, as a server would.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use coze_auth::{
    Endpoint, ErrorKind, Flow, JwtFlow, JwtTokenRequest, OAuthClient, SignFuture, Signer,
};
use serde_json::{Value, json};

use crate::support::{
    CLIENT_ID, InProcess, KEY_ID, SESSION_NAME, Step, TestKey, decoded_jwt, jwt, token_answer,
};

/// A server that grants every request, by the real clock, which verification uses too.
fn granting() -> InProcess {
    InProcess::start(SystemTime::now(), [Step::json(200, &token_answer())])
}

fn flow(client: OAuthClient, signer: impl Signer) -> JwtFlow {
    JwtFlow::new(client, CLIENT_ID.into(), KEY_ID.into(), signer).unwrap()
}

/// The JWTs that were sent as bearer tokens.
fn jwts(server: &InProcess) -> Vec<String> {
    let bearer = |authorization: &Option<String>| {
        let authorization = authorization.as_deref().expect("no Authorization was sent");
        authorization.strip_prefix("Bearer ").unwrap().to_owned()
    };
    server
        .recorded()
        .iter()
        .map(|r| bearer(&r.authorization))
        .collect()
}

fn claims(jwt: &str) -> Value {
    decoded_jwt(jwt).unwrap().1
}

#[tokio::test]
async fn a_jwt_verifies_with_the_public_key() {
    let server = granting();
    let request = JwtTokenRequest::default()
        .session_name(SESSION_NAME)
        .custom_consumer("consumer_1");
    jwt(server.client()).token_for(&request).await.unwrap();

    let [jwt] = &jwts(&server)[..] else {
        panic!("one request was expected: {:?}", server.recorded())
    };
    let verified = TestKey::get().verify(jwt, "api.coze.com").unwrap();
    assert_eq!(verified.header.kid.as_deref(), Some(KEY_ID));
    assert_eq!(verified.claims["iss"], CLIENT_ID);
    assert_eq!(verified.claims["session_name"], SESSION_NAME);
    assert_eq!(
        verified.claims["session_context"],
        json!({"device_info": {"custom_consumer": "consumer_1"}})
    );
}

#[tokio::test]
async fn a_session_context_holds_a_device_a_consumer_or_both() {
    let server = granting();
    let jwt = jwt(server.client());
    let both = JwtTokenRequest::default()
        .device_id("d")
        .custom_consumer("c");
    for request in [
        JwtTokenRequest::default().device_id("d"),
        JwtTokenRequest::default().custom_consumer("c"),
        both,
    ] {
        jwt.token_for(&request).await.unwrap();
    }
    let contexts: Vec<_> = jwts(&server)
        .iter()
        .map(|jwt| claims(jwt)["session_context"]["device_info"].clone())
        .collect();
    assert_eq!(
        contexts,
        [
            json!({"device_id": "d"}),
            json!({"custom_consumer": "c"}),
            json!({"device_id": "d", "custom_consumer": "c"}),
        ]
    );
}

#[tokio::test]
async fn a_modified_jwt_does_not_verify() {
    let server = granting();
    let jwt = jwt(server.client());
    jwt.token_for(&JwtTokenRequest::default().session_name("me"))
        .await
        .unwrap();
    jwt.token_for(&JwtTokenRequest::default().session_name("you"))
        .await
        .unwrap();

    let [mine, yours] = &jwts(&server)[..] else {
        panic!("two requests were expected: {:?}", server.recorded())
    };
    let parts = |jwt: &str| jwt.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mine, yours) = (parts(mine), parts(yours));
    let forged = format!("{}.{}.{}", mine[0], yours[1], mine[2]);
    assert!(TestKey::get().verify(&forged, "api.coze.com").is_err());
}

#[tokio::test]
async fn every_jwt_has_a_long_unique_id() {
    let server = granting();
    let jwt = jwt(server.client());
    for _ in 0..1000 {
        jwt.token().await.unwrap();
    }

    let jwts = jwts(&server);
    let ids: BTreeSet<_> = jwts
        .iter()
        .map(|jwt| claims(jwt)["jti"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((jwts.len(), ids.len()), (1000, 1000), "a repeated id");
    for id in ids {
        assert!(id.len() > 32, "{id} has {} bytes", id.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_jwt_is_backdated_30_s_and_valid_for_ten_minutes() {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_900);
    let server = InProcess::start(wall, [Step::json(200, &token_answer())]);
    let jwt = jwt(server.client());
    let day = JwtTokenRequest::default().duration(Duration::from_secs(86_399));
    jwt.token_for(&day).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    jwt.token().await.unwrap();

    let times: Vec<_> = jwts(&server)
        .iter()
        .map(|jwt| (claims(jwt)["iat"].clone(), claims(jwt)["exp"].clone()))
        .collect();
    assert_eq!(
        times,
        [
            (json!(1_799_999_970), json!(1_800_000_570)),
            (json!(1_800_000_030), json!(1_800_000_630)),
        ]
    );
    assert_eq!(server.recorded()[0].body["duration_seconds"], 86_399);
}

#[tokio::test]
async fn the_audience_is_the_api_host_or_that_of_the_endpoint() {
    let custom = |base: &str| Endpoint::builder(base);
    for (endpoint, expected) in [
        (Endpoint::COM, "api.coze.com"),
        (Endpoint::CN, "api.coze.cn"),
        (
            custom("https://api.example.com:8443/pre").build().unwrap(),
            "api.example.com",
        ),
        (
            custom("https://proxy.example.com")
                .audience("api.coze.cn")
                .build()
                .unwrap(),
            "api.coze.cn",
        ),
    ] {
        let server = granting();
        let client = server
            .client_builder()
            .endpoint(endpoint.clone())
            .build()
            .unwrap();
        let jwt = flow(client, TestKey::get().signer());
        jwt.token().await.unwrap();

        let jwt = jwts(&server).remove(0);
        let verified = TestKey::get().verify(&jwt, expected);
        assert!(verified.is_ok(), "{endpoint:?}: {verified:?}");
    }
}

/// A slow key service that counts its calls.
struct KeyService {
    asked: Arc<AtomicUsize>,
    answer: fn(&[u8]) -> Result<Vec<u8>, std::io::Error>,
}

impl Signer for KeyService {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.asked.fetch_add(1, Ordering::SeqCst);
            Ok((self.answer)(message)?)
        })
    }
}

#[tokio::test]
async fn a_key_service_signs_each_jwt_once() {
    let server = granting();
    let asked = Arc::new(AtomicUsize::new(0));
    let service = KeyService {
        asked: Arc::clone(&asked),
        answer: |message| Ok(TestKey::get().sign(message)),
    };
    let jwt = flow(server.client(), service);
    jwt.token().await.unwrap();
    jwt.token().await.unwrap();

    for jwt in jwts(&server) {
        TestKey::get().verify(&jwt, "api.coze.com").unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_failing_signer_sends_nothing_and_its_error_is_the_source() {
    let server = granting();
    let service = KeyService {
        asked: Arc::default(),
        answer: |_| Err(std::io::Error::other("the key service is unavailable")),
    };
    let jwt = flow(server.client(), service);
    let error = jwt.token().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Signing);
    assert_eq!(error.flow(), Some(Flow::Jwt));
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("the key service is unavailable"));
    assert!(server.recorded().is_empty(), "{:?}", server.recorded());
}

#[tokio::test]
async fn an_empty_signature_is_not_sent() {
    let server = granting();
    let service = KeyService {
        asked: Arc::default(),
        answer: |_| Ok(Vec::new()),
    };
    let jwt = flow(server.client(), service);

    assert_eq!(jwt.token().await.unwrap_err().kind(), ErrorKind::Signing);
    assert!(server.recorded().is_empty(), "{:?}", server.recorded());
}

#[tokio::test]
async fn an_invalid_request_is_neither_signed_nor_sent() {
    let server = granting();
    let asked = Arc::new(AtomicUsize::new(0));
    let service = KeyService {
        asked: Arc::clone(&asked),
        answer: |message| Ok(TestKey::get().sign(message)),
    };
    let jwt = flow(server.client(), service);
    for request in [
        JwtTokenRequest::default().duration(Duration::ZERO),
        JwtTokenRequest::default().duration(Duration::from_secs(86_400)),
        JwtTokenRequest::default().account(".."),
        JwtTokenRequest::default().enterprise(""),
        JwtTokenRequest::default().session_name("\n"),
        JwtTokenRequest::default().scope(coze_auth::Scope::default()),
    ] {
        let error = jwt.token_for(&request).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidInput,
            "{request:?}: {error}"
        );
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    assert!(server.recorded().is_empty(), "{:?}", server.recorded());
}
