//! Tests of the guarantees of streams, with recorded bytes.

use bytes::Bytes;
use coze_api::{Error, ErrorCode, ErrorKind, EventStream, SendExt};
use coze_auth::testing::SendErrorKind;
use futures_util::{StreamExt, TryStreamExt, stream::FusedStream};

use crate::{
    operations::{Chat, ChatEvent, Client, Message},
    support::{Answer, Coze, Part, secs},
};

const CREATED: &str = "event:conversation.chat.created\n\
    data:{\"id\":\"7001\",\"conversation_id\":\"7381\",\"status\":\"created\"}\n\n";
const COMPLETED: &str = "event:conversation.chat.completed\n\
    data:{\"id\":\"7001\",\"conversation_id\":\"7381\",\"status\":\"completed\"}\n\n";
const DONE: &str = "event:done\ndata:\"[DONE]\"\n\n";
const REFUSED: &str = "event:error\ndata:{\"code\":4100,\"msg\":\"authentication is invalid\"}\n\n";

fn delta(content: &str) -> String {
    format!("event:conversation.message.delta\ndata:{{\"content\":\"{content}\"}}\n\n")
}

fn said(content: &str) -> ChatEvent {
    let content = content.to_owned();
    ChatEvent::MessageDelta(Message { content })
}

fn chat(status: &str) -> Chat {
    Chat {
        id: "7001".to_owned(),
        status: status.to_owned(),
    }
}

async fn stream(coze: &Coze) -> EventStream<ChatEvent> {
    Client::new(&coze.api()).stream_chat().send().await.unwrap()
}

/// The events of this body, and the final error, if there is one. Asserts that nothing follows.
async fn read(body: impl IntoIterator<Item = Part>) -> (Vec<ChatEvent>, Option<Error>) {
    let coze = Coze::new([Answer::events(body)]);
    let mut events = stream(&coze).await;
    let mut read = Vec::new();
    let error = loop {
        match events.next().await {
            None => break None,
            Some(Ok(event)) => read.push(event),
            Some(Err(error)) => break Some(error),
        }
    };
    assert!(events.is_terminated());
    for _ in 0..3 {
        assert!(events.next().await.is_none(), "the stream is fused");
    }
    assert_eq!(coze.open_bodies(), 0, "the connection is closed");
    (read, error)
}

fn whole() -> String {
    [CREATED, &delta("Hel"), &delta("lo 🌧 é"), COMPLETED, DONE].concat()
}

fn all() -> [ChatEvent; 4] {
    [
        ChatEvent::ChatCreated(chat("created")),
        said("Hel"),
        said("lo 🌧 é"),
        ChatEvent::ChatCompleted(chat("completed")),
    ]
}

/// Asserts that this body is parsed as the whole stream, in chunks of every size.
async fn assert_whole(text: &str) {
    for size in [text.len(), 1, 2, 3, 7] {
        let parts = text.as_bytes().chunks(size);
        let parts = parts.map(|part| Part::Bytes(Bytes::copy_from_slice(part)));
        let (events, error) = read(parts).await;
        assert!(error.is_none(), "{size}: {error:?}");
        assert_eq!(events, all(), "chunks of {size}: {text:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_stream_is_parsed_in_chunks_of_every_size() {
    assert_whole(&whole()).await;
}

#[tokio::test(start_paused = true)]
async fn line_endings_spaces_comments_and_a_byte_order_mark_are_accepted() {
    let text = whole();
    assert_whole(&text.replace('\n', "\r\n")).await;
    assert_whole(&text.replace('\n', "\r")).await;
    assert_whole(&text.replace("data:", "data: ").replace("event:", "event: ")).await;
    assert_whole(&format!("\u{feff}{text}")).await;
    assert_whole(&format!("\u{feff}: hello\n\n{text}")).await;
    assert_whole(&text.replace("\n\n", "\n\n:keepalive\n\n")).await;
    assert_whole(&text.replace("data:", ":keepalive\nid: 7\nretry: 10\ndata:")).await;
    assert_whole(&text.replace(r#""content":"#, "\ndata:\"content\":")).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_marker_without_its_empty_line_is_accepted() {
    assert_whole(whole().trim_end()).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_before_the_end_marker_is_an_error_with_the_ids_of_the_chat() {
    let text = whole();
    let marker = text.len() - DONE.len();
    for length in 0..marker {
        let cut = Bytes::copy_from_slice(&text.as_bytes()[..length]);
        let (events, error) = read([Part::Bytes(cut)]).await;
        assert!(all().starts_with(&events), "{length}: {events:?}");
        let error = error.expect("an error");
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{length}: {error}");
        assert_eq!(error.log_id(), Some("log-1"));
        assert_eq!(error.operation(), Some("stream_chat"));
        if length >= CREATED.len() {
            assert_eq!(error.chat_id(), Some("7001"), "{length}");
            assert_eq!(error.conversation_id(), Some("7381"), "{length}");
            assert!(error.hint().contains("retrieve"), "{}", error.hint());
            let shown = error.to_string();
            assert!(shown.contains("7001") && shown.contains("7381"), "{shown}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_is_one_error() {
    let (events, error) = read([CREATED.into(), Part::Reset, Part::Reset, DONE.into()]).await;
    assert_eq!(events, [ChatEvent::ChatCreated(chat("created"))]);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(
        (error.log_id(), error.chat_id()),
        (Some("log-1"), Some("7001"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_unknown_event_is_returned_unchanged() {
    let unknown = "event: conversation.mood\ndata: {\"mood\": \"sunny\"}\n\ndata: bare\n\n";
    let (events, error) = read([unknown.into(), DONE.into()]).await;
    assert!(error.is_none(), "{error:?}");
    let other = |event: &str, data: &str| ChatEvent::Other {
        event: event.to_owned(),
        data: data.to_owned(),
    };
    let mood = other("conversation.mood", r#"{"mood": "sunny"}"#);
    assert_eq!(events, [mood, other("message", "bare")]);
}

#[tokio::test(start_paused = true)]
async fn an_error_event_is_an_error_with_code_message_and_log_id() {
    for (event, code, message) in [
        (
            "event:error\ndata:{\"code\":4016,\"msg\":\"busy\"}\n\n",
            Some(4016),
            Some("busy"),
        ),
        (
            "event: Error\ndata: {\"error_code\":4000,\"error_message\":\"wrong\"}\n\n",
            Some(4000),
            Some("wrong"),
        ),
        ("event:error\ndata:{}\n\n", None, None),
        ("event:error\ndata:oops\n\n", None, None),
        ("event:error\n\n", None, None),
    ] {
        let (events, error) = read([CREATED.into(), event.into(), DONE.into()]).await;
        assert_eq!(events.len(), 1, "{event}");
        let error = error.expect(event);
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.code(), code.map(ErrorCode::Api).as_ref(), "{event}");
        assert_eq!(error.message(), message, "{event}");
        assert_eq!(
            (error.log_id(), error.chat_id()),
            (Some("log-1"), Some("7001"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_event_that_repeats_the_token_does_not_show_it() {
    let event = "event:error\ndata:{\"code\":4100,\"msg\":\"token-0 is wrong\"}\n\n";
    let error = read([CREATED.into(), event.into()]).await.1.unwrap();
    assert!(
        !format!("{error} {error:?}").contains("token-0"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_match_the_description_is_named() {
    let event = "event:conversation.message.delta\ndata:{\"content\":[1]}\n\n";
    let (events, error) = read([CREATED.into(), event.into(), DONE.into()]).await;
    assert_eq!(events.len(), 1);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    let shown = error.to_string();
    assert!(
        shown.contains("conversation.message.delta") && shown.contains("content"),
        "{shown}"
    );
    assert_eq!(
        (error.log_id(), error.chat_id()),
        (Some("log-1"), Some("7001"))
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_text_are_an_error() {
    let bad = Bytes::from_static(b"event:x\ndata:\xff\xfe\n\n");
    let error = read([CREATED.into(), Part::Bytes(bad)]).await.1.unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_a_stream_without_an_end_marker() {
    let interrupt = "event: Interrupt\ndata: {\"content\":\"which town?\"}\n\n";
    let (events, error) = read([interrupt.into()]).await;
    assert!(error.is_none(), "{error:?}");
    let content = "which town?".to_owned();
    assert_eq!(events, [ChatEvent::Interrupted(Message { content })]);
}

#[tokio::test(start_paused = true)]
async fn data_after_the_end_marker_is_not_read() {
    let debug = "event: done\ndata: {\"debug_url\":\"https://example.com\"}\n\n";
    let coze = Coze::new([Answer::events([debug.into(), CREATED.into(), Part::Reset])]);
    let mut events = stream(&coze).await;
    assert!(events.next().await.is_none());
    assert_eq!(
        events.end_data(),
        Some(r#"{"debug_url":"https://example.com"}"#)
    );
    assert_eq!(coze.open_bodies(), 0);
}

#[tokio::test(start_paused = true)]
async fn json_instead_of_a_stream_is_returned_as_its_error() {
    let text = r#"{"code":4000,"msg":"Request parameter error","detail":{"logid":"log-2"}}"#;
    let coze = Coze::new([Answer::json(200, text)]);
    let error = Client::new(&coze.api())
        .stream_chat()
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.code(), Some(&ErrorCode::Api(4000)));
    assert_eq!(error.message(), Some("Request parameter error"));
    assert_eq!(error.log_id(), Some("log-1"));
    assert_eq!(error.conversation_id(), Some("7381"), "from the request");

    let coze = Coze::new([Answer::json(200, r#"{"code":0,"data":{"id":"7001"}}"#)]);
    let error = Client::new(&coze.api())
        .stream_chat()
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_before_the_first_event() {
    for refusal in [
        Answer::json(
            200,
            r#"{"code":4101,"msg":"The token you entered is incorrect"}"#,
        ),
        Answer::json(200, r#"{"code":4100,"msg":"authentication is invalid"}"#),
        Answer::json(401, "{}"),
        Answer::events([REFUSED.into()]),
        // Neither comments nor an event without data are the first event, and it may arrive in parts.
        Answer::events([
            ":ping\n\nevent:nothing\n\n".into(),
            Part::Wait(secs(50)),
            ":ping\n\n".into(),
            Part::Wait(secs(50)),
            REFUSED[..20].into(),
            REFUSED[20..].into(),
            Part::Wait(secs(1000)),
        ]),
    ] {
        let coze = Coze::new([refusal, Answer::events([whole().as_str().into()])]);
        let events: Vec<_> = stream(&coze).await.try_collect().await.unwrap();
        assert_eq!(events, all());
        assert_eq!(coze.tokens(), ["token-0", "token-1"]);
        let requests = coze.requests();
        assert_eq!(requests[0].body, requests[1].body, "the same request");
        assert_eq!(requests[0].url, requests[1].url);
    }
    let json = || Answer::json(200, r#"{"code":4100,"msg":"authentication is invalid"}"#);
    let event = || Answer::events([REFUSED.into()]);
    for refused in [[json(), json()], [event(), event()], [json(), event()]] {
        let coze = Coze::new(refused);
        let sent = Client::new(&coze.api()).stream_chat().send().await;
        let error = sent.unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::Api(4100)));
        assert!(!error.is_fate_unknown(), "{error:?}");
        assert_eq!(coze.tokens().len(), 2, "once");
        assert_eq!(coze.open_bodies(), 0, "the connections are closed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_event_with_another_error_is_an_error_of_the_stream() {
    let event = "event:error\ndata:{\"code\":4016,\"msg\":\"busy\"}\n\n";
    let coze = Coze::new([Answer::events([event.into()])]);
    let mut events = stream(&coze).await;
    assert!(!events.is_terminated(), "the error is not read");
    let error = events.try_next().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::Api(4016)));
    assert!(events.is_terminated());
    assert_eq!(coze.tokens().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_after_the_first_event_is_not_renewed() {
    let coze = Coze::new([Answer::events([CREATED.into(), REFUSED.into()])]);
    let mut events = stream(&coze).await;
    assert!(events.try_next().await.unwrap().is_some());
    assert!(events.try_next().await.unwrap_err().is_token_refused());
    assert_eq!(coze.tokens().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_its_log_id_and_the_ids_of_its_first_event_from_the_start() {
    let coze = Coze::new([Answer::events([
        Part::Wait(secs(5)),
        whole().as_str().into(),
    ])]);
    let events = stream(&coze).await;
    assert_eq!(events.log_id(), Some("log-1"));
    assert_eq!(events.chat_id(), Some("7001"));
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_a_stream_is_not_limited() {
    let part = || [Part::Wait(secs(59)), delta("x").as_str().into()];
    let body = (0..100).flat_map(|_| part()).chain([DONE.into()]);
    let body = [Part::from(CREATED)].into_iter().chain(body);
    let (events, error) = read(body).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(events.len(), 101);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_ends_at_the_idle_timeout() {
    let began = tokio::time::Instant::now();
    let (events, error) = read([CREATED.into(), Part::Wait(secs(61)), DONE.into()]).await;
    assert_eq!(events.len(), 1);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed().as_secs(), 60);
    assert_eq!(
        (error.log_id(), error.chat_id()),
        (Some("log-1"), Some("7001"))
    );

    let coze = Coze::new([Answer::events([CREATED.into(), Part::Wait(secs(6))])]);
    let call = Client::new(&coze.api()).stream_chat().idle_timeout(secs(5));
    let mut events = call.send().await.unwrap();
    assert!(events.try_next().await.unwrap().is_some());
    assert_eq!(
        events.try_next().await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
}

#[tokio::test(start_paused = true)]
async fn a_comment_keeps_a_stream_alive() {
    let comments = (0..5).flat_map(|_| [Part::Wait(secs(50)), ":keepalive\n\n".into()]);
    let (_, error) = read(
        [CREATED.into()]
            .into_iter()
            .chain(comments)
            .chain([DONE.into()]),
    )
    .await;
    assert!(error.is_none(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_call_covers_the_head_and_the_first_byte() {
    let began = tokio::time::Instant::now();
    let coze = Coze::new([Answer::Never]);
    let call = Client::new(&coze.api()).stream_chat().timeout(secs(7));
    let error = call.send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_fate_unknown());
    assert_eq!(began.elapsed().as_secs(), 7);

    let coze = Coze::new([Answer::events([Part::Wait(secs(8)), CREATED.into()])]);
    let call = Client::new(&coze.api()).stream_chat().timeout(secs(7));
    let error = call.send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.log_id(), Some("log-1"));
    assert_eq!(began.elapsed().as_secs(), 14);
}

#[tokio::test(start_paused = true)]
async fn an_event_over_the_limit_is_an_error_and_one_at_the_limit_is_not() {
    let event = delta("0123456789");
    for (limit, fits) in [(event.len(), true), (event.len() - 1, false)] {
        for size in [1, 5, 1000] {
            let text = format!("{event}{event}{DONE}");
            let parts = text.as_bytes().chunks(size);
            let parts = parts.map(|part| Part::Bytes(Bytes::copy_from_slice(part)));
            let coze = Coze::new([Answer::events(parts)]);
            let call = Client::new(&coze.api()).stream_chat().event_limit(limit);
            let events: Result<Vec<_>, _> = call.send().await.unwrap().try_collect().await;
            match events {
                Ok(events) => assert_eq!((events.len(), fits), (2, true)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
                    assert!(!fits, "{size}: {error}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_event_is_read_to_the_default_limit_of_16_mib() {
    let chunk = Bytes::from(vec![b'x'; 1024 * 1024]);
    let parts = std::iter::repeat_n(Part::Bytes(chunk), 17);
    let parts = [Part::from("data:")].into_iter().chain(parts);
    let (_, error) = read(parts.chain([Part::Wait(secs(1_000_000))])).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::InvalidAnswer);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_stream_closes_its_connection() {
    let coze = Coze::new([Answer::events([CREATED.into(), Part::Wait(secs(1000))])]);
    let mut events = stream(&coze).await;
    assert!(events.try_next().await.unwrap().is_some());
    assert_eq!(coze.open_bodies(), 1);
    drop(events);
    assert_eq!(coze.open_bodies(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_not_processed_is_retried() {
    let failed = Answer::Fails(SendErrorKind::Connect);
    let coze = Coze::new([failed, Answer::events([whole().as_str().into()])]);
    let events: Vec<_> = stream(&coze).await.collect().await;
    assert_eq!(events.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_missing_parameter_is_named_and_nothing_is_sent() {
    let coze = Coze::new([]);
    let call = Client::new(&coze.api()).stream_chat().without_user();
    let error = call.send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("user_id"), "{error}");
    assert!(coze.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cut_stream_of_a_write_is_not_to_be_sent_again() {
    let undescribed = "event:conversation.message.delta\ndata:{\"content\":[1]}\n\n";
    let end = |part: &str| vec![Part::from(": hello\n\n"), part.into()];
    let reset = vec![Part::from(": hello\n\n"), Part::Reset];
    let silent = vec![Part::from(": hello\n\n"), Part::Wait(secs(61))];
    for (body, kind) in [
        (vec![], ErrorKind::Interrupted),
        (vec![Part::Reset], ErrorKind::Interrupted),
        (end("event:con"), ErrorKind::Interrupted),
        (reset, ErrorKind::Interrupted),
        (silent, ErrorKind::Timeout),
        (end(undescribed), ErrorKind::InvalidAnswer),
    ] {
        let coze = Coze::new([Answer::events(body)]);
        let error = match Client::new(&coze.api()).stream_chat().send().await {
            Err(error) => error,
            Ok(mut events) => {
                assert_eq!(events.conversation_id(), Some("7381"), "of the request");
                events.try_next().await.unwrap_err()
            }
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.is_fate_unknown(), "{error:?}");
        assert!(!error.is_retryable(), "{error:?}");
        assert_eq!(error.conversation_id(), Some("7381"), "{error}");
        let hint = error.hint();
        assert!(hint.contains("list the messages"), "{hint}");
    }
    let named = [CREATED, undescribed].concat();
    let error = read([named.as_str().into()]).await.1.unwrap();
    assert!(error.hint().contains("retrieve"), "{}", error.hint());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_match_is_described_without_its_value() {
    for (data, expected) in [
        (
            r#"{"id":"7001","status":["a private text"]}"#,
            "conversation.chat.created's status is an array, where a string was expected",
        ),
        (
            r#""a private text""#,
            "conversation.chat.created is a string, where struct Chat was expected",
        ),
        (
            r#"{"id":"7001","mood":"a private text"}"#,
            "conversation.chat.created has no `status`",
        ),
        (
            r#"{"id":"a private text"#,
            "conversation.chat.created is not valid JSON",
        ),
    ] {
        let event = format!("event:conversation.chat.created\ndata:{data}\n\n");
        let error = read([event.as_str().into()]).await.1.unwrap();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains("private"), "{shown}");
    }
}

/// A success without a `Content-Type`.
fn untyped(body: Vec<Part>) -> Answer {
    Answer::Response {
        status: 200,
        headers: vec![("x-tt-logid", "log-1".to_owned())],
        body,
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_content_type_is_read() {
    let text = whole();
    for size in [text.len(), 1] {
        let parts = text.as_bytes().chunks(size);
        let parts = parts.map(|part| Part::Bytes(Bytes::copy_from_slice(part)));
        let coze = Coze::new([untyped(parts.collect())]);
        let events: Vec<_> = stream(&coze).await.try_collect().await.unwrap();
        assert_eq!(events, all());
    }
}

#[tokio::test(start_paused = true)]
async fn json_that_is_labelled_as_a_stream_or_not_at_all_is_returned_as_its_error() {
    let json = |code: u32| format!("\u{feff}\r\n {{\"code\":{code},\"msg\":\"no\"}}");
    for size in [1, 2, 1000] {
        let parts = |code| -> Vec<Part> {
            let text = json(code);
            let parts = text.as_bytes().chunks(size);
            let parts = parts.map(|part| Part::Bytes(Bytes::copy_from_slice(part)));
            parts.collect()
        };
        for answer in [Answer::events(parts(4000)), untyped(parts(4000))] {
            let coze = Coze::new([answer]);
            let sent = Client::new(&coze.api()).stream_chat().send().await;
            let error = sent.unwrap_err();
            assert_eq!(error.code(), Some(&ErrorCode::Api(4000)), "{error}");
            assert_eq!(error.message(), Some("no"));
            assert_eq!(error.log_id(), Some("log-1"));
        }
        for refused in [Answer::events(parts(4100)), untyped(parts(4100))] {
            let coze = Coze::new([refused, Answer::events([whole().as_str().into()])]);
            let events: Vec<_> = stream(&coze).await.try_collect().await.unwrap();
            assert_eq!(events, all());
            assert_eq!(coze.tokens(), ["token-0", "token-1"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_polls_too_late_reads_what_has_arrived() {
    let soon = || Part::Wait(std::time::Duration::from_millis(500));
    let body = [
        CREATED.into(),
        soon(),
        delta("a").as_str().into(),
        soon(),
        delta("b").as_str().into(),
        Part::Wait(secs(1000)),
    ];
    let coze = Coze::new([Answer::events(body)]);
    let mut events = stream(&coze).await;
    assert!(events.try_next().await.unwrap().is_some());
    for text in ["a", "b"] {
        tokio::time::advance(secs(100)).await;
        assert_eq!(events.try_next().await.unwrap(), Some(said(text)));
    }
    tokio::time::advance(secs(100)).await;
    let began = tokio::time::Instant::now();
    let error = events.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed().as_secs(), 1, "once");
}

#[tokio::test(start_paused = true)]
async fn comments_do_not_count_as_a_part_of_an_event() {
    let event = delta("0123456789");
    for end in ["\n", "\r\n", "\r"] {
        let comments = format!(":keepalive{end}{end}").repeat(100);
        let event = event.replace('\n', end);
        let within = event.replace("data:", &format!(":{}{end}data:", "x".repeat(1000)));
        let text = format!("{comments}{event}{comments}{within}{comments}{DONE}");
        // The line feed of a split CRLF may not be counted.
        for (limit, fits) in [(event.len(), true), (event.len() - 2, false)] {
            for size in [1, 7, 100_000] {
                let parts = text.as_bytes().chunks(size);
                let parts = parts.map(|part| Part::Bytes(Bytes::copy_from_slice(part)));
                let coze = Coze::new([Answer::events(parts)]);
                let call = Client::new(&coze.api()).stream_chat().event_limit(limit);
                let events: Result<Vec<_>, _> = call.send().await.unwrap().try_collect().await;
                assert_eq!(events.is_ok(), fits, "{end:?} {size}: {events:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_end_of_the_body_cuts_is_not_returned() {
    for cut in [
        "event:conversation.mood\ndata:{\"mood\":\"sun",
        "event:conversation.mood\ndata:{\"mood\":\"sunny\"",
        "event:error\ndata:{\"code\":40",
        "event:error\n",
        "data:bare",
    ] {
        let (events, error) = read([CREATED.into(), cut.into()]).await;
        assert_eq!(events.len(), 1, "{cut}: {events:?}");
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{cut}: {error}");
    }
    let mood = "event:conversation.mood\ndata:{\"mood\":\"sunny\"}";
    assert_eq!(read([mood.into()]).await.0.len(), 1, "it is whole");
    let reported = "event:error\ndata:{\"code\":4016}";
    let error = read([reported.into()]).await.1.unwrap();
    assert_eq!(error.code(), Some(&ErrorCode::Api(4016)), "it is whole");
}

#[tokio::test(start_paused = true)]
async fn a_text_of_an_event_is_made_safe_with_the_secrets_of_the_call() {
    let coze = Coze::new([Answer::events([whole().as_str().into()])]);
    let events = stream(&coze).await;
    let shown = events.sanitized("you sent\u{1b}[31m token-0,\nthat is wrong");
    assert_eq!(shown, "you sent [31m ****, that is wrong");
}
