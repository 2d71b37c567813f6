//! Calls of the API: an event stream beside its floor, the bare parser and `serde_json` over the same bytes, and beside `async-openai`'s;
//! one JSON call beside bare `reqwest` with the same types.
//!
//! The server has a thread of its own. Measured is the processor time of the thread that calls, so that the server's does not count.

#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_openai::{Client as OpenAi, config::OpenAIConfig};
use bytes::Bytes;
use coze_api::{CozeApi, SendExt, types};
use coze_auth::{Endpoint, FixedToken};
use coze_benches::{
    report::{Goal, Report},
    run::Run,
};
use futures_util::StreamExt;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use sse_stream::SseByteStream;
use tokio::{net::TcpListener, runtime};

/// An event as a chat has them.
const EVENT: &str = "event:conversation.message.delta\ndata:{\"id\":\"7382159494123470858\",\"conversation_id\":\"7381473525342978089\",\
    \"bot_id\":\"7379462189365198898\",\"role\":\"assistant\",\"type\":\"answer\",\"content\":\"It will\",\"content_type\":\"text\",\
    \"chat_id\":\"7382159487131697202\"}\n\n";
/// A token and a log id as Coze has them: each answer's log id is compared with the token.
const TOKEN: &str = "pat_Zk3mQ9xV7bN2cR5tY8wE1uI4oP6aS0dFgHjKlMnBvCxZqWeRtYuIoPaSdFgHjKl";
const LOG_ID: &str = "20260722083355ABCDEF0123456789AB";
const EVENTS_A_CHUNK: u64 = 32;
const ROUNDS: usize = 7;
const CALLS: u64 = 2000;

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let events = run.choose(100_000, 10_000);
    let long = run.choose(1_000_000, 50_000);
    let server = start()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let base = format!("http://{server}");
    let coze = CozeApi::builder(FixedToken::new(TOKEN)?)
        .endpoint(Endpoint::custom(&base)?)
        .build()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = |events: u64| format!("{base}/v3/chat?conversation_id={events}");
    let ours = |events: u64| runtime.block_on(through_coze(&coze, events));
    let floor = |events: u64| runtime.block_on(through_parser(&http, &url(events)));
    let peer = |events: u64| {
        let config = OpenAIConfig::new()
            .with_api_key(TOKEN)
            .with_api_base(format!("{base}/{events}"));
        runtime.block_on(through_openai(OpenAi::with_config(config)))
    };

    let mut report = Report::new();
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..run.choose(ROUNDS, 2) {
        times[0].push(cpu(|| ours(events), events)?);
        times[1].push(cpu(|| floor(events), events)?);
        times[2].push(cpu(|| peer(events), events)?);
    }
    let ratios = times[0]
        .iter()
        .zip(&times[1])
        .map(|(ours, floor)| ours / floor);
    let ratio = median(ratios.collect());
    let [ours_took, floor_took, peer_took] = times.map(median);
    for (name, took) in [
        ("coze-api", ours_took),
        ("sse-stream and serde_json", floor_took),
        ("async-openai", peer_took),
    ] {
        let row = format!("event stream: events per second of processor time, {name}");
        report.figure(row, 1.0 / took, "1/s", "");
    }
    let row = "event stream: processor time of an event, beside the bare parser and serde_json";
    report.goal(row, ratio, "x", Goal::AtMost(1.2), "", "");

    for (name, read) in [
        ("coze-api", &ours as &dyn Fn(u64) -> Result<u64>),
        ("sse-stream and serde_json", &floor),
        ("async-openai", &peer),
    ] {
        let mut read_all = Ok(0);
        let counted = allocation_counter::measure(|| read_all = read(events));
        ensure!(read_all? == events, "{name} lost events");
        let row = format!("event stream: allocations of an event, {name}");
        report.figure(row, counted.count_total as f64 / events as f64, "", "");
    }
    let mut read_all = Ok(0);
    let counted = allocation_counter::measure(|| read_all = ours(long));
    ensure!(read_all? == long, "events were lost");
    report.goal(
        format!("event stream of {long} events: most bytes in use at a time"),
        counted.bytes_max as f64 / 1024.0,
        "KiB",
        Goal::AtMost(1024.0),
        "",
        "",
    );

    let call = || runtime.block_on(calls_of_coze(&coze));
    let bare = || runtime.block_on(calls_of_reqwest(&http, &base));
    let mut ratios = [Vec::new(), Vec::new()];
    let mut more = Vec::new();
    for _ in 0..run.choose(ROUNDS, 2) {
        let (ours, floor) = (timed(call, CALLS)?, timed(bare, CALLS)?);
        ratios[0].push(ours.elapsed / floor.elapsed);
        ratios[1].push(ours.cpu / floor.cpu);
        more.push(ours.cpu - floor.cpu);
    }
    let [elapsed, processor] = ratios.map(median);
    let note = "on loopback, where the network takes no time";
    let why = "kept for a retry: the request, with its headers; kept for errors: the URL, the token's copy; \
               a buffer that is wiped, a timer for head and body, the log id's comparison with the token, two headers that name the client";
    let row = "one call: elapsed time, beside bare reqwest with the same types";
    report.goal(row, elapsed, "x", Goal::AtMost(1.05), note, why);
    let note = format!("{:.1} µs more", median(more) * 1e6);
    let row = "one call: processor time, beside bare reqwest with the same types";
    report.figure(row, processor, "x", note);
    for (name, calls) in [
        ("coze-api", &call as &dyn Fn() -> Result<u64>),
        ("bare reqwest", &bare),
    ] {
        let mut made = Ok(0);
        let counted = allocation_counter::measure(|| made = calls());
        ensure!(made? == CALLS, "{name} lost calls");
        let row = format!("one call: allocations, {name}");
        report.figure(row, counted.count_total as f64 / CALLS as f64, "", "");
    }
    report.finish(&run)
}

async fn through_coze(coze: &CozeApi, events: u64) -> Result<u64> {
    let chat = coze.chat().stream().bot_id("1").user_id("1").message("Hi");
    let mut stream = chat.conversation_id(events.to_string()).send().await?;
    let mut count = 0;
    while let Some(event) = stream.try_next().await? {
        let types::ChatEvent::MessageDelta(message) = event else {
            bail!("another event");
        };
        count += u64::from(!black_box(message).content.is_empty());
    }
    Ok(count)
}

async fn through_parser(http: &reqwest::Client, url: &str) -> Result<u64> {
    let response = http.post(url).bearer_auth(TOKEN).body("{}").send().await?;
    let mut stream = SseByteStream::new(response.bytes_stream());
    let mut count = 0;
    while let Some(event) = stream.next().await {
        let event = event?;
        if event.event.as_deref() == Some("done") {
            break;
        }
        let message: types::Message = serde_json::from_str(&event.data.context("no data")?)?;
        count += u64::from(!black_box(message).content.is_empty());
    }
    Ok(count)
}

async fn through_openai(client: OpenAi<OpenAIConfig>) -> Result<u64> {
    let request = serde_json::json!({"stream": true});
    let chat = client.chat();
    let mut stream = chat
        .create_stream_byot::<_, types::Message>(request)
        .await?;
    let mut count = 0;
    while let Some(message) = stream.next().await {
        count += u64::from(!black_box(message?).content.is_empty());
    }
    Ok(count)
}

async fn calls_of_coze(coze: &CozeApi) -> Result<u64> {
    for _ in 0..CALLS {
        let chat = coze.chat().retrieve().conversation_id("1").chat_id("1");
        black_box(chat.send().await?);
    }
    Ok(CALLS)
}

async fn calls_of_reqwest(http: &reqwest::Client, base: &str) -> Result<u64> {
    #[derive(Deserialize)]
    struct Envelope {
        code: i64,
        data: types::Chat,
    }
    for _ in 0..CALLS {
        let request = http.get(format!("{base}/v3/chat/retrieve"));
        let request = request.query(&[("conversation_id", "1"), ("chat_id", "1")]);
        let request = request.bearer_auth(TOKEN).timeout(Duration::from_secs(30));
        let answer: Envelope = request.send().await?.json().await?;
        ensure!(answer.code == 0);
        black_box(answer.data);
    }
    Ok(CALLS)
}

/// Seconds that one of many takes.
struct Took {
    /// Of this thread's processor time.
    cpu: f64,
    elapsed: f64,
}

fn cpu(work: impl Fn() -> Result<u64>, of: u64) -> Result<f64> {
    Ok(timed(work, of)?.cpu)
}

fn timed(work: impl Fn() -> Result<u64>, of: u64) -> Result<Took> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let (began, began_cpu) = (Instant::now(), now());
    ensure!(work()? == of, "something was lost");
    Ok(Took {
        cpu: (now() - began_cpu) / of as f64,
        elapsed: began.elapsed().as_secs_f64() / of as f64,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn start() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (connection, _) = listener.accept().await?;
                connection.set_nodelay(true)?;
                let serve = http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service_fn(answer));
                tokio::spawn(serve);
            }
            #[expect(unreachable_code, reason = "names the type of the error")]
            std::io::Result::Ok(())
        })
    });
    Ok(address)
}

type Answer = Result<Response<BoxBody<Bytes, Infallible>>, Infallible>;

fn answer(request: Request<Incoming>) -> impl Future<Output = Answer> {
    let path = request.uri().path();
    let (kind, body) = if path == "/v3/chat/retrieve" {
        let chat = "{\"code\":0,\"msg\":\"\",\"data\":{\"id\":\"7382159487131697202\",\"conversation_id\":\"7381473525342978089\",\
            \"bot_id\":\"7379462189365198898\",\"created_at\":1795266000,\"last_error\":{\"code\":0,\"msg\":\"\"},\
            \"status\":\"completed\",\"usage\":{\"token_count\":633,\"output_count\":19,\"input_count\":614}}}";
        ("application/json", Full::from(chat).boxed())
    } else if path == "/v3/chat" {
        let events = request.uri().query().unwrap_or_default();
        let events = events.rsplit('=').next().unwrap_or_default();
        (
            "text/event-stream",
            events_of(events, "event:done\ndata:\"[DONE]\"\n\n"),
        )
    } else {
        let events = path.split('/').nth(1).unwrap_or_default();
        ("text/event-stream", events_of(events, "data: [DONE]\n\n"))
    };
    let response = Response::builder()
        .header(CONTENT_TYPE, kind)
        .header("x-tt-logid", LOG_ID);
    async { Ok(response.body(body).unwrap_or_default()) }
}

fn events_of(events: &str, end: &'static str) -> BoxBody<Bytes, Infallible> {
    let events: u64 = events.parse().unwrap_or_default();
    let chunk = Bytes::from(EVENT.repeat(EVENTS_A_CHUNK as usize));
    let whole = (0..events / EVENTS_A_CHUNK).map(move |_| chunk.clone());
    let rest = EVENT.repeat((events % EVENTS_A_CHUNK) as usize);
    let frames = whole.chain([Bytes::from(rest), Bytes::from(end)]);
    let frames = frames.filter(|frame| !frame.is_empty());
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(
        frames.map(|frame| Ok(Frame::data(frame))),
    )))
}
