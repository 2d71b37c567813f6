//! Tests of retries: what is retried, when, and what is not.

use coze_api::{CozeApi, ErrorCode, ErrorKind, SendExt};
use coze_auth::{FixedToken, testing::SendErrorKind};

use crate::{
    operations::Client,
    support::{Answer, Coze, Part, secs},
};

const CHAT: &str = r#"{"code":0,"msg":"","data":{"id":"7001","status":"completed"}}"#;

fn well() -> Answer {
    Answer::json(200, CHAT)
}

fn client(coze: &Coze) -> Client {
    Client::new(&coze.api())
}

#[tokio::test(start_paused = true)]
async fn a_reply_has_the_data_and_the_log_id() {
    let coze = Coze::new([
        well(),
        Answer::json(
            200,
            r#"{"code":0,"msg":"","data":[{"content":"Hi"}],"has_more":true}"#,
        ),
        Answer::json(200, r#"{"code":0,"msg":""}"#),
    ]);
    let client = client(&coze);
    let chat = client.retrieve_chat().send().await.unwrap();
    assert_eq!((&*chat.id, chat.log_id()), ("7001", Some("log-1")));
    let page = client.messages().send().await.unwrap();
    assert!(page.has_more);
    assert_eq!(page.data[0].content, "Hi");
    let deleted = client.delete().send().await.unwrap();
    assert_eq!(deleted.log_id(), Some("log-1"));
}

#[tokio::test(start_paused = true)]
async fn an_error_with_status_200_is_an_error_for_every_response_form() {
    let refused = || Answer::json(200, r#"{"code":4200,"msg":"no such chat"}"#);
    let coze = Coze::new([refused(), refused(), refused()]);
    let client = client(&coze);
    for error in [
        client.retrieve_chat().send().await.err().unwrap(),
        client.messages().send().await.err().unwrap(),
        client.delete().send().await.err().unwrap(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.code(), Some(&ErrorCode::Api(4200)));
        assert_eq!(error.log_id(), Some("log-1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_does_not_match_the_description_names_the_member() {
    for (text, named) in [
        (r#"{"code":0,"data":{"id":7001,"status":"x"}}"#, "data.id"),
        (r#"{"code":0,"data":{"id":"7001"}}"#, "status"),
        (r#"{"code":0}"#, "data"),
    ] {
        let coze = Coze::new([Answer::json(200, text)]);
        let error = client(&coze).retrieve_chat().send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_retried_after_retryable_errors() {
    for failure in [
        Answer::Fails(SendErrorKind::Connect),
        Answer::Fails(SendErrorKind::NotProcessed),
        Answer::Fails(SendErrorKind::Interrupted),
        Answer::json(500, "{}"),
        Answer::json(503, "no"),
        Answer::json(429, "{}"),
        Answer::json(200, r#"{"code":4013,"msg":"too many requests"}"#),
    ] {
        let coze = Coze::new([failure, well()]);
        assert!(client(&coze).retrieve_chat().send().await.is_ok());
        assert_eq!(coze.requests().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_not_retried_after_other_errors() {
    for failure in [
        Answer::json(400, r#"{"code":4000,"msg":"wrong"}"#),
        Answer::json(404, "{}"),
        Answer::json(200, "{}"),
        Answer::Fails(SendErrorKind::Timeout),
    ] {
        let coze = Coze::new([failure]);
        assert!(client(&coze).retrieve_chat().send().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_not_sent_before_retry_after() {
    for status in [429, 503] {
        let busy = || Answer::json(status, "{}").header("retry-after", "17");
        let coze = Coze::new([busy(), busy(), well()]);
        client(&coze).retrieve_chat().send().await.unwrap();
        let requests = coze.requests();
        for pair in requests.windows(2) {
            let waited = pair[1].at.duration_since(pair[0].at);
            assert_eq!(waited.as_secs(), 17, "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn delays_grow_and_the_number_of_attempts_is_limited() {
    let coze = Coze::new((0..3).map(|_| Answer::json(502, "no")));
    let error = client(&coze).retrieve_chat().send().await.unwrap_err();
    assert!(error.is_retryable());
    let requests = coze.requests();
    let first = requests[1].at.duration_since(requests[0].at).as_millis();
    let second = requests[2].at.duration_since(requests[1].at).as_millis();
    assert!((374..=626).contains(&first), "{first}");
    assert!((749..=1251).contains(&second), "{second}");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_retries_is_configurable() {
    let coze = Coze::new([Answer::json(502, "no")]);
    assert!(
        client(&coze)
            .retrieve_chat()
            .retries(0)
            .send()
            .await
            .is_err()
    );

    let coze = Coze::new((0..5).map(|_| Answer::json(502, "no")).chain([well()]));
    client(&coze)
        .retrieve_chat()
        .retries(5)
        .send()
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_beyond_the_longest_wait_is_returned_to_the_caller() {
    let coze = Coze::new([Answer::json(503, "{}").header("retry-after", "3600")]);
    let error = client(&coze).retrieve_chat().send().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(secs(3600)));
    assert_eq!(coze.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_retried_only_if_it_was_not_processed() {
    for not_processed in [SendErrorKind::Connect, SendErrorKind::NotProcessed] {
        let coze = Coze::new([Answer::Fails(not_processed), well()]);
        client(&coze).create_chat().send().await.unwrap();
        let requests = coze.requests();
        assert_eq!(requests[0].body, requests[1].body);
    }
    for failure in [
        Answer::Fails(SendErrorKind::Interrupted),
        Answer::Fails(SendErrorKind::Timeout),
        Answer::json(500, "{}"),
        Answer::json(503, "{}").header("retry-after", "1"),
        Answer::json(429, "{}"),
    ] {
        let coze = Coze::new([failure]);
        assert!(client(&coze).create_chat().send().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_been_processed_says_how_to_check() {
    let cut = Answer::Response {
        status: 200,
        headers: vec![],
        body: vec![r#"{"code":0,"da"#.into(), Part::Reset],
    };
    for (failure, is_unknown) in [
        (Answer::Fails(SendErrorKind::Interrupted), true),
        (Answer::Never, true),
        (cut, true),
        (Answer::json(502, "<html>"), true),
        (Answer::json(500, r#"{"code":5000,"msg":"failed"}"#), true),
        (Answer::json(408, r#"{"code":4008,"msg":"late"}"#), true),
        (Answer::json(408, "{}"), true),
        (Answer::json(400, r#"{"code":4000,"msg":"wrong"}"#), false),
    ] {
        let coze = Coze::new([failure]);
        let error = client(&coze).create_chat().send().await.unwrap_err();
        assert_eq!(error.is_fate_unknown(), is_unknown, "{error:?}");
        assert!(!error.is_retryable(), "{error:?}");
        assert_eq!(error.conversation_id(), Some("7381"));
        assert_eq!(
            error.hint().contains("conversation id"),
            is_unknown,
            "{}",
            error.hint()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_got_a_429_delays_its_next_requests() {
    let busy = Answer::json(429, "{}").header("retry-after", "20");
    let coze = Coze::new([busy, well(), well()]);
    let api = coze.api();
    let client = Client::new(&api);
    let other = Client::new(&api.clone());
    assert!(client.create_chat().send().await.is_err());
    tokio::time::sleep(secs(5)).await;
    let (one, two) = tokio::join!(client.retrieve_chat().send(), other.create_chat().send());
    assert!(one.is_ok() && two.is_ok());
    let requests = coze.requests();
    for request in &requests[1..] {
        assert_eq!(request.at.duration_since(requests[0].at).as_secs(), 20);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_got_a_429_with_a_long_retry_after_sends_nothing() {
    let coze = Coze::new([Answer::json(429, "{}").header("retry-after", "3600")]);
    let client = client(&coze);
    assert!(client.create_chat().send().await.is_err());
    let error = client.retrieve_chat().send().await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(429));
    assert!(error.retry_after().unwrap() > secs(3500));
    assert_eq!(coze.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_for_every_response_form() {
    let refused = || Answer::json(200, r#"{"code":4100,"msg":"authentication is invalid"}"#);
    let coze = Coze::new([refused(), well()]);
    client(&coze).create_chat().send().await.unwrap();
    assert_eq!(coze.tokens(), ["token-0", "token-1"]);

    let coze = Coze::new([refused()]);
    let api = CozeApi::new(coze.client(), FixedToken::new("pat_1").unwrap());
    let error = Client::new(&api).create_chat().send().await.unwrap_err();
    assert!(error.is_token_refused(), "there is no other token");
}

#[tokio::test(start_paused = true)]
async fn a_call_has_its_own_timeout() {
    let began = tokio::time::Instant::now();
    let coze = Coze::new([Answer::Never, Answer::Never]);
    let client = client(&coze);
    for (call, seconds) in [
        (client.retrieve_chat().timeout(secs(100)), 100),
        (client.retrieve_chat().timeout(secs(2)), 102),
    ] {
        let error = call.send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_limit_is_32_mib_by_default_and_configurable() {
    let body = |length: usize| {
        let frame = CHAT.len() - "completed".len();
        CHAT.replace("completed", &"x".repeat(length - frame))
    };
    const LIMIT: usize = 32 * 1024 * 1024;
    let coze = Coze::new([
        Answer::json(200, &body(LIMIT)),
        Answer::json(200, &body(LIMIT + 1)),
        Answer::json(200, &body(101)),
    ]);
    let client = client(&coze);
    client.retrieve_chat().send().await.unwrap();
    for error in [
        client.retrieve_chat().send().await.unwrap_err(),
        client
            .retrieve_chat()
            .body_limit(100)
            .send()
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_error_shows_the_token() {
    for failure in [
        Answer::json(400, r#"{"code":4000,"msg":"token-0 is wrong"}"#),
        Answer::json(200, "token-0"),
    ] {
        let coze = Coze::new([failure]);
        let error = client(&coze).create_chat().send().await.unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("token-0"),
            "{error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_invalidated_even_if_the_body_can_not_be_sent_again() {
    let refused = Answer::json(200, r#"{"code":4100,"msg":"authentication is invalid"}"#);
    let coze = Coze::new([refused, well()]);
    let client = client(&coze);
    let error = client.create_chat().streaming().send().await.unwrap_err();
    assert!(error.is_token_refused(), "{error}");
    assert_eq!(error.conversation_id(), Some("7381"));
    client.create_chat().streaming().send().await.unwrap();
    assert_eq!(coze.tokens(), ["token-0", "token-1"]);
}

#[tokio::test(start_paused = true)]
async fn the_delay_between_retries_grows_to_30_seconds_and_all_retries_are_made() {
    let coze = Coze::new((0..13).map(|_| Answer::json(502, "no")));
    let call = client(&coze).retrieve_chat().retries(12);
    call.send().await.unwrap_err();
    let requests = coze.requests();
    assert_eq!(requests.len(), 13);
    for pair in requests[7..].windows(2) {
        let waited = pair[1].at.duration_since(pair[0].at).as_millis();
        assert!((22_499..=30_001).contains(&waited), "{waited}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_the_rate_limit_start_apart_and_heed_a_new_one() {
    let busy = |wait| Answer::json(429, "{}").header("retry-after", wait);
    let coze = Coze::new(
        [busy("20"), busy("10")]
            .into_iter()
            .chain((0..9).map(|_| well())),
    );
    let client = client(&coze);
    assert!(client.create_chat().send().await.is_err());
    let calls = (0..10).map(|_| client.create_chat().send());
    let done = futures_util::future::join_all(calls).await;
    assert_eq!(done.iter().filter(|done| done.is_err()).count(), 1);
    let requests = coze.requests();
    let at = |request: &crate::support::Request| request.at - requests[0].at;
    let second = at(&requests[1]);
    assert_eq!(second.as_secs(), 20);
    // Calls that happen to start in the same millisecond don't know of the new limit.
    let later = requests.iter().map(at).filter(|at| *at > second);
    let mut starts: Vec<_> = later.collect();
    for start in &starts {
        assert_eq!((*start - second).as_secs(), 10, "the new limit is heeded");
    }
    starts.dedup();
    assert!(starts.len() > 1, "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_success_without_data_needs_a_code_or_no_error() {
    for (text, expected) in [
        (r#"{"code":0,"msg":""}"#, Ok(())),
        (r#"{"code":"0","msg":"","data":null}"#, Ok(())),
        (r#"{"code":null,"data":{}}"#, Ok(())),
        (r#"{"error_code":"access_deny"}"#, Err(ErrorKind::Refused)),
        (r#"{"error":"broken"}"#, Err(ErrorKind::Refused)),
        (r#"{"code":"4200","msg":"gone"}"#, Err(ErrorKind::Refused)),
    ] {
        let coze = Coze::new([Answer::json(200, text)]);
        let sent = client(&coze).delete().send().await;
        let outcome = sent.map(|_| ()).map_err(|error| error.kind());
        assert_eq!(outcome, expected, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_code_of_a_success_is_read_tolerantly() {
    for code in [r#""0""#, "null", "0.0", r#""""#] {
        let data = || {
            Answer::json(
                200,
                &CHAT.replace(r#""code":0"#, &format!("\"code\":{code}")),
            )
        };
        let whole = Answer::json(
            200,
            &format!("{{\"code\":{code},\"data\":[],\"has_more\":false}}"),
        );
        let coze = Coze::new([data(), whole]);
        let client = client(&coze);
        client.retrieve_chat().send().await.unwrap();
        client.messages().send().await.unwrap();
    }
    let refused = r#"{"error_code":"access_deny","data":{"id":"7001","status":"x"}}"#;
    let coze = Coze::new([Answer::json(200, refused)]);
    let error = client(&coze).retrieve_chat().send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}
