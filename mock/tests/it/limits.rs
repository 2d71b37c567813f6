//! Limits: options, control requests, and records.

use crate::client::*;
use coze_mock::{Builder, MockClock, MockCoze, defaults};
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const CENTURY: Duration = Duration::from_secs(3_155_760_000);
const ENDS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    CENTURY,
    CENTURY.saturating_add(Duration::from_nanos(1)),
    Duration::from_secs(i64::MAX as u64),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

type Setter = (&'static str, fn(Builder, Duration) -> Builder);
const TIMES: [Setter; 6] = [
    ("device_interval", Builder::device_interval),
    ("device_code_lifetime", Builder::device_code_lifetime),
    ("code_lifetime", Builder::code_lifetime),
    ("access_token_lifetime", Builder::access_token_lifetime),
    ("refresh_token_lifetime", Builder::refresh_token_lifetime),
    ("jwt_leeway", Builder::jwt_leeway),
];

fn refused(builder: Builder, option: &str, limit: &str) {
    let error = builder.build().expect_err(option).to_string();
    assert!(error.contains(option) && error.contains(limit), "{error}");
}

/// Runs all flows and ignores their results.
async fn exercise(client: &Client) {
    let device = client.start_device().await;
    assert_eq!(device.status, 200, "{}", device.json);
    for _ in 0..3 {
        let reply = client.poll(device.text("device_code")).await;
        assert!(reply.status.as_u16() < 500, "{}", reply.json);
    }
    let _ = client.mock.approve_device(device.text("user_code"));
    client.poll(device.text("device_code")).await;
    let page = client.web_page();
    client
        .get(&page["https://www.coze.test".len()..], "x")
        .await;
    let tokens = client.web_tokens().await;
    if tokens.status == 200 {
        let body = refresh(defaults::WEB_CLIENT_ID, tokens.text("refresh_token"));
        let secret = defaults::WEB_CLIENT_SECRET;
        let reply = client.post(TOKEN, secret, &body).await;
        assert!(reply.status.as_u16() < 500, "{}", reply.json);
        client
            .get("/v1/users/me", tokens.text("access_token"))
            .await;
    }
    let jwt = JwtParts::good("exercise").signed();
    client.post(TOKEN, &jwt, &jwt_body()).await;
    client.mock.clock().advance(Duration::MAX);
    client.poll(device.text("device_code")).await;
    client.post(TOKEN, &jwt, &jwt_body()).await;
    client.start_device().await;
}

#[tokio::test]
async fn extreme_durations_work_or_are_refused_by_name() {
    for (option, set) in TIMES {
        for time in ENDS {
            let builder = set(MockCoze::builder(), time);
            if time > CENTURY {
                refused(builder, option, "3155760000");
                continue;
            }
            exercise(&Client::of(builder)).await;
        }
    }
    let all = TIMES.iter().fold(MockCoze::builder(), |builder, (_, set)| {
        set(builder, CENTURY)
    });
    exercise(&Client::of(all)).await;
}

#[tokio::test]
async fn a_clock_at_its_maximum_works() {
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::MAX / 4));
    for clock in [
        end.unwrap_or(SystemTime::UNIX_EPOCH),
        SystemTime::UNIX_EPOCH,
    ] {
        let mock = MockCoze::builder().clock(MockClock::frozen_at(clock));
        exercise(&Client::with(mock.build().expect("a mock"))).await;
    }
}

#[test]
fn other_extreme_numbers_are_refused_by_name() {
    for time in [Duration::ZERO, Duration::from_secs(86_401), Duration::MAX] {
        refused(
            MockCoze::builder().head_timeout(time),
            "head_timeout",
            "86400s",
        );
        refused(
            MockCoze::builder().body_timeout(time),
            "body_timeout",
            "86400s",
        );
    }
    for number in [0, usize::MAX] {
        let builder = MockCoze::builder;
        refused(
            builder().max_connections(number),
            "max_connections",
            "65536",
        );
        refused(builder().log_capacity(number), "log_capacity", "1000000");
        refused(builder().log_bytes(number), "log_bytes", "1073741824");
    }
    for url in [
        "",
        "mock.example",
        "ftp://mock.example",
        "https://user@mock.example",
        "https://mock.example/?x",
        "javascript:alert(1)",
    ] {
        refused(MockCoze::builder().public_url(url), "public_url", "http");
    }
}

const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "-0.0",
    "0.5",
    "4294967295",
    "4294967296",
    "3155760000",
    "3155760001",
    "3155760000001",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e400",
    "null",
    "\"5\"",
];

/// Every control request with a number is answered by 200, or by 400 with a reason.
#[tokio::test(start_paused = true)]
async fn control_requests_with_extreme_numbers_work_or_are_refused() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    let tokens = client.web_tokens().await;
    let mut refresh_token = tokens.text("refresh_token").to_owned();
    for number in NUMBERS {
        for body in [
            json!({"latency": {"millis": "N"}}),
            json!({"status": {"status": "N"}}),
            json!({"status": {"status": 503, "retry_after": {"seconds": "N"}}}),
            json!({"status": {"status": 503, "retry_after": {"date_in_seconds": "N"}}}),
            json!({"redirect": {"status": "N", "location": "x"}}),
            json!({"skewed_date": {"seconds": "N"}}),
            json!({"short_lived_tokens": {"seconds": "N"}}),
            json!({"edited": {"edits": [{"set": {"at": "/expires_in", "value": "N"}},
                {"expiry": {"form": "relative_millis", "shift_seconds": "N"}}]}}),
            json!({"edited": {"edits": [{"expiry": {"form": "absolute_millis", "shift_seconds": "N"}}]}}),
            json!({"edited": {"framing": {"end": {"missing": "N"}, "cut": {"bytes": "N"}}}}),
            json!({"scripted": {"status": "N"}}),
            json!({"scripted": {"status": 200, "body": ["N"]}}),
        ] {
            let fault = body.to_string().replace("\"N\"", number);
            let body = format!("{{\"fault\":{fault},\"target\":\"any\",\"times\":1}}");
            let added = send(&client, "faults", &body).await;
            assert!(
                matches!(added.status.as_u16(), 200 | 400),
                "{body}: {}",
                added.json
            );
            let body = refresh(defaults::WEB_CLIENT_ID, &refresh_token);
            let sent = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body);
            // The client gives up on a latency of a century.
            if let Ok(reply) = tokio::time::timeout(Duration::from_secs(1), sent).await
                && let Some(next) = reply.json["refresh_token"].as_str()
            {
                next.clone_into(&mut refresh_token);
            }
            client.call(Method::DELETE, "/_mock/faults", &[], "").await;
        }
        let times = format!("{{\"fault\":\"truncated_json\",\"times\":{number}}}");
        send(&client, "faults", &times).await;
        client.call(Method::DELETE, "/_mock/faults", &[], "").await;
        for path in ["requests?since=", "ledger?sign_in=", "faults/"] {
            let method = match path {
                "faults/" => Method::DELETE,
                _ => Method::GET,
            };
            let path = format!("/_mock/{path}{}", number.replace('"', ""));
            let status = client.call(method, &path, &[], "").await.status.as_u16();
            assert!(matches!(status, 200 | 400 | 404), "{path}: {status}");
        }
        let body = format!("{{\"seconds\":{number}}}");
        let moved = send(&client, "clock/advance", &body).await;
        let within = number
            .parse::<f64>()
            .is_ok_and(|seconds| (0.0..=3_155_760_000.0).contains(&seconds));
        assert_eq!(moved.status == 200, within, "{body}: {}", moved.json);
        assert!(
            within || moved.text("error").len() > 10,
            "{body}: {}",
            moved.json
        );
        exercise(&client).await;
        assert_eq!(send(&client, "reset", "").await.status, 200);
        let tokens = client.web_tokens().await;
        tokens.text("refresh_token").clone_into(&mut refresh_token);
    }
    let beyond = send(&client, "clock/advance", "{\"seconds\":3155760001}").await;
    assert!(beyond.text("error").contains("3155760000"));
    for fault in [
        "{\"latency\":{\"millis\":3155760000001}}",
        "{\"short_lived_tokens\":{\"seconds\":18446744073709551615}}",
        "{\"skewed_date\":{\"seconds\":-9223372036854775808}}",
    ] {
        let added = send(&client, "faults", &format!("{{\"fault\":{fault}}}")).await;
        assert_eq!(added.status, 400, "{fault}");
        assert!(added.text("error").contains("100 years"), "{}", added.json);
    }
    let jwt = JwtParts::good("last").signed();
    assert_eq!(client.post(TOKEN, &jwt, &jwt_body()).await.status, 200);
}

async fn send(client: &Client, path: &str, body: &str) -> Reply {
    let json = [("content-type", "application/json")];
    let headers = if body.is_empty() { &[][..] } else { &json };
    client
        .call(Method::POST, &format!("/_mock/{path}"), headers, body)
        .await
}

#[tokio::test]
async fn planned_faults_are_bounded() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    for _ in 0..1000 {
        let added = send(&client, "faults", "{\"fault\":\"truncated_json\"}").await;
        assert_eq!(added.status, 200);
    }
    let added = send(&client, "faults", "{\"fault\":\"truncated_json\"}").await;
    assert_eq!(added.status, 409);
    assert!(added.text("error").contains("1000"), "{}", added.json);
}

/// A zero takes two bytes in JSON and 32 in memory.
#[tokio::test]
async fn faults_are_bounded_in_bytes() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    let zeros = vec![0; 200_000];
    let fault = json!({"fault": {"edited": {"edits": [{"set": {"at": "/x", "value": zeros}}]}}});
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let added = send(&client, "faults", &fault.to_string()).await;
        statuses.push(added.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 409, 409]);
}

#[tokio::test]
async fn a_record_names_a_limited_number_of_faults() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    for _ in 0..1000 {
        let fault = "{\"fault\":{\"skewed_date\":{\"seconds\":1}},\"times\":\"forever\"}";
        assert_eq!(send(&client, "faults", fault).await.status, 200);
    }
    client.get("/v1/users/me", "x").await;
    let requests = client.mock.requests();
    let faults = &requests.last().expect("a record").faults;
    assert_eq!(faults.len(), 21);
    assert_eq!(faults[20], "980 more");
}

#[tokio::test]
async fn faults_that_can_never_apply_are_refused() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    for (fault, word) in [
        ("{\"fault\":\"truncated_json\",\"times\":0}", "forever"),
        ("{\"fault\":\"truncated_json\",\"times\":-1}", "forever"),
        ("{\"fault\":{\"status\":{\"status\":100}}}", "200 to 999"),
        ("{\"fault\":{\"status\":{\"status\":199}}}", "200 to 999"),
    ] {
        let added = send(&client, "faults", fault).await;
        assert_eq!(added.status, 400, "{fault}");
        assert!(added.text("error").contains(word), "{}", added.json);
    }
}

#[tokio::test]
async fn a_reset_resets_the_clock_unless_told_otherwise() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    let mut number = 0;
    let mut status_of_a_jwt = async |client: &Client| {
        number += 1;
        let jwt = JwtParts::good(&number.to_string()).signed();
        let reply = client.post(TOKEN, &jwt, &jwt_body()).await;
        reply.status.as_u16()
    };
    let day = "{\"seconds\":86400}";
    for (path, body, status) in [
        ("reset", "", 200),
        ("reset", "{}", 200),
        ("reset", "{\"clock\":true}", 200),
        ("clock/reset", "{}", 200),
        ("clock/reset", "", 200),
        ("reset", "{\"clock\":false}", 401),
        ("clock", "{}", 401),
    ] {
        send(&client, "clock/reset", "").await;
        send(&client, "clock/advance", day).await;
        assert_eq!(status_of_a_jwt(&client).await, 401, "a day later");
        send(&client, path, body).await;
        assert_eq!(status_of_a_jwt(&client).await, status, "{path} {body}");
    }
    for body in ["{\"clock\":1}", "{\"clok\":true}", "[]x", "clock=true"] {
        let refused = send(&client, "reset", body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.json);
    }

    client.mock.clock().advance(Duration::from_secs(86_400));
    client.mock.reset_keeping_clock();
    assert_eq!(status_of_a_jwt(&client).await, 401);
    client.mock.reset();
    assert_eq!(status_of_a_jwt(&client).await, 200);
    client.mock.assert_clean();
}

fn size_of<T: serde::Serialize>(kept: &T) -> usize {
    serde_json::to_string(kept).expect("JSON").len()
}

#[tokio::test]
async fn the_record_of_a_large_request_is_small_and_lists_what_was_dropped() {
    let client = Client::new();
    let long = "x".repeat(60_000);
    let pairs: String = (0..8_000).map(|number| format!("&p{number}=")).collect();
    let many = vec!["a"; 100_000];
    let jwt = JwtParts {
        claims: json!({"iss": long}),
        ..JwtParts::good("1")
    };
    let bearer = format!("Bearer {}", jwt.signed());
    let json = ("content-type", "application/json");
    let headers = [json, ("accept", long.as_str())];
    for (path, headers, body, missing) in [
        (format!("/v1/{long}"), &[][..], Value::Null, "path: "),
        (format!("/v1/bots?{pairs}"), &[], Value::Null, "query: "),
        (
            TOKEN.to_owned(),
            &headers,
            json!({}),
            "headers: 1 of 2 pairs",
        ),
        (
            TOKEN.to_owned(),
            &[json],
            json!({"code": many}),
            "body: 400",
        ),
        (
            TOKEN.to_owned(),
            &[json],
            json!({"client_id": long}),
            "body: 600",
        ),
        (
            TOKEN.to_owned(),
            &[("authorization", bearer.as_str())],
            json!({}),
            "jwt: 60",
        ),
        (
            TOKEN.to_owned(),
            &[json],
            json!({"code": long.repeat(20)}),
            "body: more than 1048576 bytes, refused",
        ),
    ] {
        let sent = client
            .call(Method::POST, &path, headers, &body.to_string())
            .await;
        assert!((400..500).contains(&sent.status.as_u16()), "{missing}");
        let requests = client.mock.requests();
        let record = requests.last().expect("a record");
        assert!(size_of(record) < 80 * 1024, "{missing}");
        assert!(record.to_string().len() < 1024, "{missing}");
        assert!(
            record.dropped.iter().any(|said| said.starts_with(missing)),
            "{missing}: {:?}",
            record.dropped
        );
    }
    assert!(client.mock.violations().len() <= 7 * 100);
    client.start_device().await;
    let requests = client.mock.requests();
    assert!(requests.last().expect("a record").dropped.is_empty());
}

#[test]
fn an_invalid_audience_is_refused() {
    for audience in [
        "",
        "https://api.coze.cn",
        "a b",
        "\u{1b}[31m",
        "[::1",
        "api.coze.cn:",
    ] {
        refused(MockCoze::builder().audience(audience), "audience", "host");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let client = Client::new();
    for (length, status) in [(1024 * 1024, 400), (1024 * 1024 + 1, 413)] {
        let body = format!("\"{}\"", "x".repeat(length - 2));
        let json = [("content-type", "application/json")];
        for path in [TOKEN, DEVICE] {
            let sent = client.call(Method::POST, path, &json, &body).await;
            assert_eq!(sent.status, status, "{length}");
        }
    }
}

#[tokio::test]
async fn the_log_is_bounded_in_bytes() {
    const BYTES: usize = 256 * 1024;
    let builder = MockCoze::builder().log_bytes(BYTES);
    let client = Client::of(builder.control_endpoints(true));
    let body = json!({"client_id": "x".repeat(20_000)});
    for _ in 0..100 {
        client.post(DEVICE, "", &body).await;
    }
    let requests = client.mock.requests();
    assert!(size_of(&requests) < BYTES, "{}", size_of(&requests));
    assert!(requests.len() >= 8, "{}", requests.len());
    assert_eq!(requests.last().map(|record| record.number), Some(100));
    assert_eq!(
        client.mock.forgotten_requests() + requests.len() as u64,
        client.mock.request_count()
    );
    let listed = client
        .call(Method::GET, "/_mock/requests", &[], "")
        .await
        .json;
    assert_eq!(listed["forgotten"], client.mock.forgotten_requests());
    assert_eq!(listed["more"], false);
    client.mock.reset();
    assert_eq!(client.mock.forgotten_requests(), 0);
}

#[tokio::test]
async fn requests_are_listed_in_parts() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    let body = json!({"client_id": "x".repeat(20_000)});
    for _ in 0..100 {
        client.post(DEVICE, "", &body).await;
    }
    let mut numbers = Vec::new();
    for part in 1.. {
        let since = numbers.last().map_or(0, |number: &u64| *number);
        let path = format!("/_mock/requests?since={since}");
        let listed = client.call(Method::GET, &path, &[], "").await;
        assert!(listed.body.len() < 2 * 1024 * 1024, "{}", listed.body.len());
        let requests = listed.json["requests"].as_array().expect("a list");
        numbers.extend(
            requests
                .iter()
                .filter_map(|record| record["number"].as_u64()),
        );
        if listed.json["more"] == false {
            assert!(part > 1, "2 MB in one response");
            break;
        }
    }
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn violations_beyond_the_limit_are_counted() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    let query: String = (0..5_000).map(|number| format!("&p{number}=")).collect();
    client
        .get(
            &format!("/v1/workspaces?{query}"),
            defaults::PERSONAL_ACCESS_TOKEN,
        )
        .await;
    assert_eq!(client.mock.violations().len(), 100);
    let listed = client
        .call(Method::GET, "/_mock/violations", &[], "")
        .await
        .json;
    assert_eq!(listed["ever"], 5_000);
}

#[tokio::test]
async fn an_id_in_a_path_has_a_maximum_length() {
    let client = Client::new();
    for (length, status) in [(256, 200), (257, 400)] {
        let id = "7".repeat(length);
        let path = format!("/api/permission/oauth2/workspace_id/{id}/device/code");
        let body = json!({"client_id": defaults::DEVICE_CLIENT_ID});
        let sent = client.post(&path, "", &body).await;
        assert_eq!(sent.status, status, "{length}: {}", sent.json);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_resets_are_safe() {
    let client = std::sync::Arc::new(Client::of(MockCoze::builder().control_endpoints(true)));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..40 {
        let client = std::sync::Arc::clone(&client);
        all.spawn(async move {
            for _ in 0..10 {
                if number % 4 == 0 {
                    assert_eq!(send(&client, "reset", "").await.status, 200);
                } else {
                    client.start_device().await;
                    let code = client.approved(&client.web_page());
                    let secret = defaults::WEB_CLIENT_SECRET;
                    let tokens = client.post(TOKEN, secret, &web_code(&code)).await;
                    assert!(tokens.status == 200 || tokens.refusal() == "400 invalid_grant");
                }
            }
        });
    }
    all.join_all().await;
    client.mock.reset();
    assert_eq!(client.web_tokens().await.status, 200);
    assert_eq!(client.mock.ledger().len(), 1);
}
