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
const EVENTS_A_CHUNK: u64 = 32;
const ROUNDS: usize = 7;
const CALLS: u64 = 2000;

#[allow(dead_code)]
fn main() -> Result<()> {
    let mode = std::env::args().nth(1).unwrap();
    let n: usize = std::env::args().nth(2).unwrap().parse()?;
    let server = start()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let base = format!("http://{server}");
    let coze = CozeApi::builder(FixedToken::new("pat_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01")?)
        .endpoint(Endpoint::custom(&base)?)
        .build()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    for _ in 0..n {
        let c = allocation_counter::measure(|| { match &*mode {
            "ours" => runtime.block_on(calls_of_coze(&coze)).map(drop).unwrap_or(()),
            _ => runtime.block_on(calls_of_reqwest(&http, &base)).map(drop).unwrap_or(()),
        }});
        println!("z allocations {} bytes {}", c.count_total / CALLS, c.bytes_total / CALLS);
        let took = match &*mode {
            "ours" => timed(|| runtime.block_on(calls_of_coze(&coze)), CALLS)?,
            _ => timed(|| runtime.block_on(calls_of_reqwest(&http, &base)), CALLS)?,
        };
        println!("{mode} cpu {:.1} elapsed {:.1}", took.cpu * 1e6, took.elapsed * 1e6);
    }
    Ok(())
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
    let response = http
        .post(url)
        .bearer_auth("pat_1")
        .body("{}")
        .send()
        .await?;
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
        let request = request
            .bearer_auth("pat_1")
            .timeout(Duration::from_secs(30));
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
        .header("x-tt-logid", "20260722083355ABCDEF0123456789AB");
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
