//! Scripted event streams: over a socket, byte by byte, and in process.

use crate::chats::question;
use crate::client::*;
use coze_mock::{
    Endpoint, Fault, MockClock, MockCoze, ScriptedReply, ScriptedStream, Times, defaults,
};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::ServiceExt as _;

const DONE: &str = "event:done\ndata:\"[DONE]\"\n\n";
const PAT: &str = defaults::PERSONAL_ACCESS_TOKEN;

/// Bytes that any script can be compared with: they have characters of several bytes.
const RAW: &str = "event:conversation.message.delta\ndata:{\"content\":\"星期三。\"}\n\nevent:x\ndata:1\n\nevent:done\ndata:\"[DONE]\"\n\n";

fn streamed(text: &str) -> Value {
    let mut body = question(text);
    body["stream"] = true.into();
    body
}

fn names(stream: &str) -> Vec<&str> {
    stream
        .lines()
        .filter_map(|line| line.strip_prefix("event:"))
        .collect()
}

/// What a plain TCP client receives.
struct Received {
    head: String,
    /// The chunks of the body, and whether the last one, which is empty, came.
    chunks: Vec<Vec<u8>>,
    is_complete: bool,
    error: Option<ErrorKind>,
}

impl Received {
    fn body(&self) -> String {
        String::from_utf8(self.chunks.concat()).expect("text")
    }
}

/// Sends a streamed question over a socket and reads until the connection ends.
async fn ask(mock: &MockCoze, text: &str) -> Received {
    let host = mock.address().expect("a socket");
    let body = streamed(text).to_string();
    let request = format!(
        "POST /v3/chat HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {PAT}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(host).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).await.err();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.expect("a head") + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let mut rest = &bytes[end..];
    let mut received = Received {
        head,
        chunks: Vec::new(),
        is_complete: false,
        error: error.map(|error| error.kind()),
    };
    if !received.head.contains("transfer-encoding: chunked") {
        let length = format!("content-length: {}\r\n", rest.len());
        received.is_complete = received.head.contains(&length);
        if !rest.is_empty() {
            received.chunks.push(rest.to_vec());
        }
        return received;
    }
    while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        rest = &rest[line + 2..];
        received.is_complete = size == 0;
        if size > 0 {
            received.chunks.push(rest[..size].to_vec());
        }
        rest = &rest[size + 2..];
    }
    received
}

async fn scripted(mock: &MockCoze, stream: ScriptedStream) -> Received {
    mock.faults().add(stream, Endpoint::CreateChat, Times::ONCE);
    ask(mock, "Will it rain?").await
}

#[tokio::test]
async fn a_reply_is_streamed_in_several_deltas_and_ends_with_done() {
    let mock = MockCoze::start().await.expect("a mock");
    let received = ask(&mock, "Will it rain?").await;
    assert!(
        received
            .head
            .contains("content-type: text/event-stream\r\n")
    );
    assert!(received.is_complete && received.error.is_none());
    let body = received.body();
    let expected = [
        "conversation.chat.created",
        "conversation.chat.in_progress",
        "conversation.message.delta",
        "conversation.message.delta",
        "conversation.message.delta",
        "conversation.message.delta",
        "conversation.message.delta",
        "conversation.message.completed",
        "conversation.chat.completed",
        "done",
    ];
    assert_eq!(names(&body), expected);
    assert_eq!(
        received.chunks.len(),
        expected.len(),
        "each event is sent on its own"
    );
    let contents: String = body
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|data| data["content"].as_str().map(str::to_owned))
        .collect();
    // All deltas, and then the whole.
    assert_eq!(contents, "You said: Will it rain?".repeat(2));
    mock.assert_clean();
}

#[tokio::test]
async fn a_cut_stream_ends_properly_without_done() {
    let mock = MockCoze::start().await.expect("a mock");
    let received = scripted(&mock, ScriptedStream::reply().cut_after(4)).await;
    assert!(received.is_complete && received.error.is_none());
    let body = received.body();
    assert_eq!(names(&body).len(), 4);
    assert!(body.ends_with("\n\n") && !body.contains("done"));
    let nothing = scripted(&mock, ScriptedStream::reply().cut_after(0)).await;
    assert!(nothing.is_complete && nothing.body().is_empty());
    let whole = scripted(&mock, ScriptedStream::reply().cut_after(99)).await;
    assert!(whole.body().ends_with(DONE));
}

#[tokio::test]
async fn a_chat_whose_stream_was_cut_can_be_retrieved() {
    let client = Client::new();
    let cut = ScriptedStream::reply().cut_after(1);
    client
        .mock
        .faults()
        .add(cut, Endpoint::CreateChat, Times::ONCE);
    let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
    let text = std::str::from_utf8(&reply.body).expect("text");
    let data = text.split_once("data:").expect("data").1;
    let chat: Value = serde_json::from_str(data).expect("JSON");
    let id = |name: &str| chat[name].as_str().expect("an id").to_owned();
    let path = format!(
        "/v3/chat/retrieve?conversation_id={}&chat_id={}",
        id("conversation_id"),
        id("id")
    );
    let chat = client.get(&path, PAT).await;
    assert_eq!(chat.json["data"]["status"], "completed");
}

#[tokio::test]
async fn a_reset_stream_ends_with_a_reset() {
    let mock = MockCoze::start().await.expect("a mock");
    let received = scripted(&mock, ScriptedStream::reply().reset_after(2)).await;
    assert!(!received.is_complete);
    assert_eq!(names(&received.body()).len(), 2);
    if cfg!(not(windows)) {
        assert_eq!(received.error, Some(ErrorKind::ConnectionReset));
    }
    let again = ask(&mock, "Hi").await;
    assert!(again.is_complete, "the next connection is served");
}

#[tokio::test]
async fn an_error_event_ends_a_stream() {
    let mock = MockCoze::start().await.expect("a mock");
    let stream = ScriptedStream::raw(RAW).error_after(1, 5000, "event interval error");
    let received = scripted(&mock, stream).await;
    let first = RAW.split_inclusive("\n\n").next().expect("an event");
    assert_eq!(
        received.body(),
        format!("{first}event:error\ndata:{{\"code\":5000,\"msg\":\"event interval error\"}}\n\n")
    );
    assert!(received.is_complete);
}

#[tokio::test]
async fn a_refused_stream_is_json_with_status_200() {
    let mock = MockCoze::start().await.expect("a mock");
    let received = scripted(&mock, ScriptedStream::refused(4000, "Bad request.")).await;
    assert!(received.head.starts_with("http/1.1 200"));
    assert!(received.head.contains("content-type: application/json"));
    let body: Value = serde_json::from_str(&received.body()).expect("JSON");
    assert_eq!(
        (&body["code"], &body["msg"]),
        (&json!(4000), &json!("Bad request."))
    );
    let record = mock.requests().remove(0);
    assert_eq!(record.faults, ["scripted stream"]);
}

#[tokio::test]
async fn raw_bytes_are_sent_as_they_are() {
    let mock = MockCoze::start().await.expect("a mock");
    let received = scripted(&mock, ScriptedStream::raw(RAW)).await;
    assert_eq!(received.body(), RAW);
    assert_eq!(received.chunks.len(), 3);
    let bytes = vec![0xff, b'\n', 0xfe];
    let received = scripted(&mock, ScriptedStream::raw(bytes.clone())).await;
    assert_eq!(received.chunks, [bytes]);
    assert!(received.head.contains("content-type: text/event-stream"));
    let nothing = scripted(&mock, ScriptedStream::raw("")).await;
    assert!(nothing.is_complete && nothing.chunks.is_empty());
}

#[tokio::test]
async fn comments_and_a_byte_order_mark_are_added() {
    let mock = MockCoze::start().await.expect("a mock");
    let received = scripted(&mock, ScriptedStream::raw(RAW).comments()).await;
    let commented: String = RAW
        .split_inclusive("\n\n")
        .map(|event| format!(":keepalive\n\n{event}"))
        .collect();
    assert_eq!(received.body(), commented);
    let received = scripted(&mock, ScriptedStream::raw(RAW).byte_order_mark()).await;
    assert_eq!(received.body(), format!("\u{feff}{RAW}"));
    let both = ScriptedStream::raw(RAW).comments().byte_order_mark();
    assert_eq!(
        scripted(&mock, both).await.body(),
        format!("\u{feff}{commented}")
    );
}

#[tokio::test]
async fn characters_are_split_across_chunks() {
    let mock = MockCoze::start().await.expect("a mock");
    for size in [1, 2, 7] {
        let received = scripted(&mock, ScriptedStream::raw(RAW).chunks_of(size)).await;
        assert_eq!(received.body(), RAW);
        assert!(received.chunks.iter().all(|chunk| chunk.len() <= size));
    }
    let received = scripted(&mock, ScriptedStream::raw(RAW).chunks_of(1)).await;
    assert_eq!(received.chunks.len(), RAW.len());
}

/// A mock whose clock follows tokio's, and an in-process client.
fn in_process() -> Client {
    let clock = MockClock::following_tokio();
    Client::with(MockCoze::builder().clock(clock).build().expect("a mock"))
}

/// The frames of a streamed answer with the times of their arrival.
async fn frames(
    client: &Client,
) -> (
    Vec<(Duration, bytes::Bytes)>,
    Option<coze_mock::ServiceError>,
) {
    let request = http::Request::post("https://api.coze.test/v3/chat")
        .header("authorization", format!("Bearer {PAT}"))
        .header("content-type", "application/json")
        .body(Full::<bytes::Bytes>::from(streamed("Hi").to_string()))
        .expect("a request");
    let start = Instant::now();
    let response = client.mock.service().oneshot(request).await;
    let mut body = response.expect("a response").into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => frames.push((start.elapsed(), frame.into_data().expect("bytes"))),
            Err(error) => {
                assert!(body.frame().await.is_none(), "nothing after an error");
                return (frames, Some(error));
            }
        }
    }
    (frames, None)
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_pauses_before_the_first_event_and_between_events() {
    let client = in_process();
    let slow = ScriptedStream::raw(RAW)
        .first_event_after(Duration::from_secs(30))
        .pause(Duration::from_millis(700));
    client
        .mock
        .faults()
        .add(slow, Endpoint::CreateChat, Times::ONCE);
    let (frames, error) = frames(&client).await;
    assert!(error.is_none());
    let times: Vec<u128> = frames.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times.len(), 3);
    for (time, expected) in times.iter().zip([30_000, 30_700, 31_400]) {
        // Timers have a resolution of a millisecond.
        assert!((expected..expected + 10).contains(time), "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_process_a_reset_is_an_error_of_the_body() {
    let client = in_process();
    client.mock.faults().add(
        ScriptedStream::reply().reset_after(3),
        Endpoint::CreateChat,
        Times::ONCE,
    );
    let (received, error) = frames(&client).await;
    assert_eq!(received.len(), 3);
    assert!(error.expect("an error").is_connection_reset());
    let (received, error) = frames(&client).await;
    assert!(error.is_none() && received.last().expect("an event").1 == DONE);
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_stream_falls_silent() {
    let client = in_process();
    let reply = ScriptedReply::new().unfinished();
    client
        .mock
        .faults()
        .add(reply, Endpoint::CreateChat, Times::Forever);
    let day = Duration::from_secs(86_400);
    assert!(tokio::time::timeout(day, frames(&client)).await.is_err());
    // A script that ends the stream ends this one too.
    let cut = ScriptedStream::reply().cut_after(1);
    client
        .mock
        .faults()
        .add(cut, Endpoint::CreateChat, Times::ONCE);
    let (frames, error) = frames(&client).await;
    assert!(error.is_none() && frames.len() == 1);
}

#[tokio::test]
async fn tools_are_called_in_a_stream() {
    let client = Client::new();
    let tool = ScriptedReply::new().tool_call("read_thermometer", r#"{"room":"hall"}"#);
    client
        .mock
        .faults()
        .add(tool, Endpoint::CreateChat, Times::ONCE);
    let reply = client.post("/v3/chat", PAT, &streamed("How warm?")).await;
    let text = std::str::from_utf8(&reply.body).expect("text");
    let expected = [
        "conversation.chat.created",
        "conversation.chat.in_progress",
        "conversation.message.completed",
        "conversation.chat.requires_action",
        "done",
    ];
    assert_eq!(names(text), expected);
    let data = text.split("data:").nth(4).expect("data");
    let data = data.split('\n').next().unwrap_or_default();
    let chat: Value = serde_json::from_str(data).expect("JSON");
    let id = |name: &str| chat[name].as_str().expect("an id").to_owned();
    let path = format!(
        "/v3/chat/submit_tool_outputs?conversation_id={}&chat_id={}",
        id("conversation_id"),
        id("id")
    );
    let body =
        json!({"stream": true, "tool_outputs": [{"tool_call_id": "call_1", "output": "21"}]});
    // A script for any endpoint applies to this stream too.
    let faults = client.mock.faults();
    faults.add(
        ScriptedStream::reply().comments(),
        Endpoint::SubmitToolOutputs,
        Times::ONCE,
    );
    let reply = client.post(&path, PAT, &body).await;
    let text = std::str::from_utf8(&reply.body).expect("text");
    assert!(text.starts_with(":keepalive\n\nevent:conversation.chat.in_progress\n"));
    assert!(text.contains("The tools answered: 21"));
    assert!(text.ends_with(DONE));
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_script_applies_only_to_requests_for_a_stream() {
    let client = Client::new();
    let faults = client.mock.faults();
    faults.add(
        ScriptedStream::raw(RAW),
        coze_mock::Target::Any,
        Times::ONCE,
    );
    faults.add(
        ScriptedReply::new().text("It will rain."),
        coze_mock::Target::Any,
        Times::ONCE,
    );
    client.get("/v1/users/me", PAT).await;
    assert_eq!(faults.pending().len(), 2);
    let plain = client.post("/v3/chat", PAT, &question("Hi")).await;
    assert_eq!(plain.json["code"], 0);
    assert_eq!(faults.pending().len(), 1, "the reply was for it");
    let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
    assert_eq!(reply.body, RAW);
    // A script does not hide a refusal.
    faults.add(
        ScriptedStream::reply().cut_after(1),
        Endpoint::CreateChat,
        Times::ONCE,
    );
    let refused = client.post("/v3/chat", "wrong", &streamed("Hi")).await;
    assert_eq!(refused.json["code"], 4101);
}

#[tokio::test]
async fn scripts_apply_to_one_request_after_another() {
    let client = Client::new();
    let faults = client.mock.faults();
    for text in ["First.", "Second."] {
        let reply = ScriptedReply::new().text(text);
        faults.add(reply, Endpoint::CreateChat, Times::ONCE);
    }
    for events in [9, 3] {
        let cut = ScriptedStream::reply().cut_after(events);
        faults.add(cut, Endpoint::CreateChat, Times::ONCE);
    }
    let mut replies = Vec::new();
    for _ in 0..3 {
        let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let says = |words: &str| text.contains(&format!("\"content\":\"{words}\""));
        let said = ["First.", "Second.", "You said: Hi"].map(says);
        replies.push((said, names(&text).len()));
    }
    let expected = [
        ([true, false, false], 6),
        ([false, true, false], 3),
        ([false, false, true], 8),
    ];
    assert_eq!(replies, expected);
}

#[tokio::test]
async fn a_request_that_starts_no_chat_uses_up_no_script() {
    let mut without_user = streamed("Hi");
    without_user["user_id"] = Value::Null;
    for (times, uses) in [(Times::ONCE, 1), (Times::Next(2), 2)] {
        for (what, token, body, status) in [
            ("a bad token", "wrong", streamed("Hi"), 200),
            ("an invalid body", PAT, without_user.clone(), 400),
            ("a fault", PAT, streamed("Hi"), 503),
        ] {
            let client = Client::new();
            let faults = client.mock.faults();
            if status == 503 {
                faults.add(Fault::status(503), Endpoint::CreateChat, Times::ONCE);
            }
            let reply = ScriptedReply::new().text("It will rain.");
            faults.add(reply, Endpoint::CreateChat, times);
            let cut = ScriptedStream::reply().cut_after(3);
            faults.add(cut, Endpoint::CreateChat, times);
            let refused = client.post("/v3/chat", token, &body).await;
            assert_eq!(refused.status, status, "{what}");
            assert_ne!(refused.json["code"], 0, "{what}");
            let names = client.mock.requests().remove(0).faults;
            assert!(names.iter().all(|name| name == "status 503"), "{names:?}");
            for _ in 0..uses {
                let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                assert!(text.contains(r#""content":"It ""#), "{what}: {text}");
                assert_eq!(self::names(&text).len(), 3, "{what}: {text}");
                let names = client.mock.requests().pop().expect("a record").faults;
                assert_eq!(names, ["scripted reply", "scripted stream"], "{what}");
            }
            assert!(faults.pending().is_empty(), "{what}");
            let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
            assert!(reply.body.ends_with(DONE.as_bytes()), "{what}");
        }
    }
}

#[tokio::test]
async fn scripts_are_planned_over_http() {
    let client = Client::of(MockCoze::builder().control_endpoints(true));
    let plan = async |fault: Value| {
        let body = json!({"fault": fault});
        client.post("/_mock/faults", "", &body).await
    };
    for (fault, expected) in [
        (
            json!({"stream": {"content": {"raw": RAW}, "end": {"cut": 1}}}),
            RAW.split_inclusive("\n\n")
                .next()
                .expect("an event")
                .to_owned(),
        ),
        (
            json!({"stream": {"content": {"raw": [104, 105]}, "byte_order_mark": true}}),
            "\u{feff}hi".to_owned(),
        ),
        (
            json!({"stream": {"content": {"raw": "event:done\n\n"}, "comments": true, "chunk_bytes": 1,
                "first_event_millis": 1, "pause_millis": 1}}),
            ":keepalive\n\nevent:done\n\n".to_owned(),
        ),
        (
            json!({"stream": {"content": {"raw": ""}, "end": {"error": {"after": 0, "code": 1, "msg": "x"}}}}),
            "event:error\ndata:{\"code\":1,\"msg\":\"x\"}\n\n".to_owned(),
        ),
    ] {
        let planned = plan(fault.clone()).await;
        assert_eq!(planned.status, 200, "{fault}: {}", planned.json);
        let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
        assert_eq!(std::str::from_utf8(&reply.body), Ok(&*expected), "{fault}");
    }
    plan(json!({"stream": {"content": {"refused": {"code": 4000, "msg": "Bad request."}}}})).await;
    let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
    assert_eq!(reply.json["code"], 4000);
    plan(json!({"stream": {"end": {"reset": 2}}})).await;
    let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
    assert!(reply.cut_off);
    plan(json!({"reply": {"text": "It will rain.", "tool_calls": [{"name": "look", "arguments": "{}"}]}})).await;
    let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(text.contains("requires_action"));

    let list = client
        .call(http::Method::GET, "/_mock/faults", &[], "")
        .await;
    assert_eq!(list.json["faults"], json!([]));
    for wrong in [
        json!({"stream": {"end": {"cut": -1}}}),
        json!({"stream": {"chunk_bytes": 0}}),
        json!({"stream": {"pause_millis": 3_155_760_000_001_u64}}),
        json!({"stream": {"ends": "cut"}}),
        json!({"reply": {"answer": "x"}}),
    ] {
        assert_eq!(plan(wrong.clone()).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_latency_comes_before_the_headers_of_a_stream() {
    tokio::time::pause();
    let client = in_process();
    let faults = client.mock.faults();
    let latency = Duration::from_secs(90);
    faults.add(Fault::latency(latency), Endpoint::CreateChat, Times::ONCE);
    let start = Instant::now();
    let reply = client.post("/v3/chat", PAT, &streamed("Hi")).await;
    // Timers have a resolution of a millisecond.
    assert!((latency..latency + Duration::from_secs(1)).contains(&start.elapsed()));
    assert!(reply.body.ends_with(DONE.as_bytes()));
}
