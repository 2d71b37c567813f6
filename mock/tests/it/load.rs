//! Concurrent requests.

use crate::client::*;
use coze_mock::{MockClock, MockCoze};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test(start_paused = true)]
async fn a_thousand_devices_sign_in_at_once() {
    let mock = MockCoze::builder()
        .clock(MockClock::following_tokio())
        .build()
        .expect("a mock");
    let client = Arc::new(Client::with(mock));
    let mut devices = JoinSet::new();
    for number in 0..1000u64 {
        let client = Arc::clone(&client);
        devices.spawn(async move {
            let device = client.start_device().await;
            let interval =
                Duration::from_secs(device.json["interval"].as_u64().expect("an interval"));
            let user_code = device.text("user_code").to_owned();
            let person = Arc::clone(&client);
            let decided = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(17 * number)).await;
                person
                    .mock
                    .approve_device(&user_code)
                    .expect("a pending device authorization");
            });
            loop {
                let reply = client.poll(device.text("device_code")).await;
                if reply.status == 200 {
                    decided.await.expect("a decision");
                    return reply.text("access_token").to_owned();
                }
                assert_eq!(reply.refusal(), "400 authorization_pending");
                tokio::time::sleep(interval).await;
            }
        });
    }
    let tokens: HashSet<String> = devices.join_all().await.into_iter().collect();
    assert_eq!(tokens.len(), 1000);
    assert_eq!(client.mock.ledger().len(), 1000);
    client.mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_redeemed_once_under_concurrency() {
    let client = Arc::new(Client::new());
    let tokens = client.web_tokens().await;
    let body = refresh(
        coze_mock::defaults::WEB_CLIENT_ID,
        tokens.text("refresh_token"),
    );
    let mut racers = JoinSet::new();
    for _ in 0..200 {
        let (client, body) = (Arc::clone(&client), body.clone());
        racers.spawn(async move {
            client
                .post(TOKEN, coze_mock::defaults::WEB_CLIENT_SECRET, &body)
                .await
                .status
                .as_u16()
        });
    }
    let won = racers
        .join_all()
        .await
        .into_iter()
        .filter(|status| *status == 200)
        .count();
    assert_eq!(won, 1);
    assert_eq!(client.mock.ledger()[0].reuse_attempts(), 199);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jwt_is_redeemed_once_under_concurrency() {
    let client = Arc::new(Client::new());
    let jwt = JwtParts::good("1").signed();
    let mut racers = JoinSet::new();
    for _ in 0..100 {
        let (client, jwt) = (Arc::clone(&client), jwt.clone());
        racers.spawn(async move { client.post(TOKEN, &jwt, &jwt_body()).await.status.as_u16() });
    }
    let won = racers
        .join_all()
        .await
        .into_iter()
        .filter(|status| *status == 200)
        .count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn the_log_keeps_the_latest_requests() {
    let client = Client::of(MockCoze::builder().log_capacity(10));
    for _ in 0..25 {
        client.start_device().await;
    }
    let numbers: Vec<u64> = client
        .mock
        .requests()
        .iter()
        .map(|record| record.number)
        .collect();
    assert_eq!(numbers, (16..=25).collect::<Vec<_>>());
    assert_eq!(client.mock.request_count(), 25);
}
