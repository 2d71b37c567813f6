//! The memory of idle sessions and users, and of waiting callers. A separate program, because its allocator counts
//! the bytes in use, which is reproducible, unlike the resident memory of a process.

#![forbid(unsafe_code)]

use std::{
    alloc::System,
    future::Future,
    net::TcpListener,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use cap::Cap;
use coze_auth::{
    Endpoint, JwtFlow, OAuthClient, RefreshToken, SessionPool, SignFuture, Signer, UserFlow,
    UserPool, WebFlow, store::MemoryStore,
};
use coze_benches::{
    report::{Goal, Report},
    run::Run,
    server::{TOKEN_LENGTH, TokenServer},
};

#[global_allocator]
static BYTES: Cap<System> = Cap::new(System, usize::MAX);

/// Bytes in use, after other threads have freed their memory.
fn in_use() -> f64 {
    let mut before = BYTES.allocated();
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = BYTES.allocated();
        if now.abs_diff(before) < 1024 {
            return now as f64;
        }
        before = now;
    }
}

/// Signs nothing: the cost of a signature is measured elsewhere.
struct Unsigned;

impl Signer for Unsigned {
    fn sign<'a>(&'a self, _: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async { Ok(vec![0; 256]) })
    }
}

fn jwt(base: &str) -> Result<JwtFlow> {
    let flow = JwtFlow::new(
        OAuthClient::new(Endpoint::custom(base)?)?,
        "1234567890123".into(),
        "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE".into(),
        Unsigned,
    )?;
    Ok(flow)
}

fn name(number: u64) -> String {
    format!("user-{number:07}")
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);
const FILLERS: u64 = 64;

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new();
    sessions(&run, &runtime, &mut report)?;
    users(&run, &runtime, &mut report)?;
    waiters(&run, &runtime, &mut report)?;
    report.finish(&run)?;
    // The waiting callers are still waiting.
    std::process::exit(0)
}

fn sessions(run: &Run, runtime: &tokio::runtime::Runtime, report: &mut Report) -> Result<()> {
    let sessions = run.choose(200_000, 20_000);
    let server = TokenServer::start()?;
    let flow = jwt(&server.base())?;
    let new_pool = |capacity| {
        SessionPool::builder(flow.clone())
            .capacity(capacity)
            .idle_timeout(A_DAY)
            .max_concurrent_requests(FILLERS as usize)
            .build()
    };
    // Connections and buffers are allocated before the measurement.
    let warm = new_pool(20_000);
    runtime.block_on(fill(&warm, 20_000))?;
    drop(warm);
    let before = in_use();
    let pool = new_pool(sessions + sessions / 5);
    runtime.block_on(fill(&pool, sessions))?;
    let takes = in_use() - before;
    let kept = pool.stats().cached;
    ensure!(kept == sessions, "of {sessions} only {kept} are kept");
    report.goal(
        format!("memory: bytes of each of {sessions} idle sessions"),
        takes / sessions as f64,
        "bytes",
        Goal::AtMost(400.0),
        format!("a token of {TOKEN_LENGTH}, a name of {}", name(0).len()),
        "",
    );
    Ok(())
}

/// Gets a token for each session, at this concurrency.
async fn fill(pool: &SessionPool, sessions: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let fillers: Vec<_> = (0..FILLERS)
        .map(|_| {
            let (pool, next) = (pool.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= sessions {
                        return anyhow::Ok(());
                    }
                    pool.session(name(number)).token().await?;
                }
            })
        })
        .collect();
    for filler in fillers {
        filler.await??;
    }
    Ok(())
}

const USER_TOKEN_LENGTH: usize = 48;

fn users(run: &Run, runtime: &tokio::runtime::Runtime, report: &mut Report) -> Result<()> {
    let users = run.choose(100_000, 5_000);
    let server = TokenServer::start()?;
    server.grant_to_users(USER_TOKEN_LENGTH);
    let client = OAuthClient::new(Endpoint::custom(server.base())?)?;
    let flow = WebFlow::new(client, "client-id".into(), "client-secret".into())?;
    runtime.block_on(async {
        // The same tokens serve for all users: each is stored, loaded and served separately.
        let signed_in = flow.refresh(&RefreshToken::new("czr_0")?).await?;
        let pool = UserPool::builder(flow, MemoryStore::new())
            .capacity(users + users / 5)
            .idle_timeout(A_DAY)
            .build();
        for number in 0..users {
            pool.user(name(number)).put(&signed_in).await?;
        }
        let before = in_use();
        for number in 0..users {
            pool.user(name(number)).token().await?;
        }
        let takes = in_use() - before;
        let stats = pool.stats();
        ensure!(stats.cached == users, "{stats:?}");
        ensure!(
            stats.requests == 0 && stats.loaded_from_store == users,
            "{stats:?}"
        );
        report.goal(
            format!("memory: bytes of each of {users} idle signed-in users"),
            takes / users as f64,
            "bytes",
            Goal::AtMost(1024.0),
            format!(
                "a token of {USER_TOKEN_LENGTH}, a name of {}; without the store",
                name(0).len()
            ),
            "",
        );
        Ok(())
    })
}

const MAX_CONCURRENT_REQUESTS: usize = 32;

fn waiters(run: &Run, runtime: &tokio::runtime::Runtime, report: &mut Report) -> Result<()> {
    let waiters = run.choose(200_000_u64, 20_000);
    // Connections are accepted, but there are no responses.
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let base = format!("http://{}", listener.local_addr()?);
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept() {
            counted.fetch_add(1, Ordering::SeqCst);
            open.push(connection);
        }
    });
    let pool = SessionPool::builder(jwt(&base)?)
        .max_concurrent_requests(MAX_CONCURRENT_REQUESTS)
        .build();
    let _entered = runtime.enter();
    let before = in_use();
    let mut waiting: Vec<Pin<Box<dyn Future<Output = bool> + Send>>> = (0..waiters)
        .map(|number| {
            let session = pool.session(name(number));
            Box::pin(async move { session.token().await.is_ok() }) as _
        })
        .collect();
    let their_own = in_use() - before;
    let before = in_use();
    for waiting in &mut waiting {
        let polled = waiting
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        ensure!(polled.is_pending(), "a silent server has answered");
    }
    let takes = in_use() - before;
    let requests = connections.load(Ordering::SeqCst);
    report.goal(
        format!("memory: requests of {waiters} sessions to a silent server"),
        requests as f64,
        "",
        Goal::AtMost(MAX_CONCURRENT_REQUESTS as f64),
        "",
        "",
    );
    report.goal(
        format!("memory: bytes of each of {waiters} callers who wait for it"),
        takes / waiters as f64,
        "bytes",
        Goal::AtMost(512.0),
        format!(
            "beside their futures, which take {:.0} each with their provider; the requests included",
            their_own / waiters as f64
        ),
        "",
    );
    std::mem::forget(waiting);
    Ok(())
}
