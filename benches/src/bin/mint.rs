//! Making a JWT, claims and signature, beside the raw signature; on one thread and on two.

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{Endpoint, JwtFlow, OAuthClient, PrivateKey, SignFuture, Signer};
use coze_benches::{
    keys::{self, RawSigner},
    report::{Goal, Report},
    rounds::{Contender, Rounds},
    run::Run,
};
use futures_util::FutureExt;

/// Signs, puts the JWT together, and refuses to give the signature away: so a call for a token ends where the
/// request would begin. What is measured is all that a JWT takes, plus the error, which is a little too much.
struct StopsHere {
    key: PrivateKey,
    /// The last message that was signed.
    message: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Signer for StopsHere {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        if let Some(kept) = &self.message {
            message.clone_into(&mut kept.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let signing = self.key.sign(message);
        Box::pin(async move {
            let mut jwt = String::from_utf8_lossy(message).into_owned();
            jwt.push('.');
            URL_SAFE_NO_PAD.encode_string(signing.await?, &mut jwt);
            black_box(&jwt);
            Err("it ends here".into())
        })
    }
}

fn flow(message: Option<Arc<Mutex<Vec<u8>>>>) -> Result<JwtFlow> {
    let signer = StopsHere {
        key: PrivateKey::from_pem(keys::private_key_pem()?)?,
        message,
    };
    let flow = JwtFlow::builder(OAuthClient::new(Endpoint::COM)?)
        .client_id("1234567890123")
        .key_id("AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE")
        .signer(signer)
        .build()?;
    Ok(flow)
}

fn main() -> Result<()> {
    let run = Run::from_args()?;

    // What is signed: the raw signature gets a message of the same length.
    let message = Arc::new(Mutex::new(Vec::new()));
    let ended = flow(Some(Arc::clone(&message)))?.token().now_or_never();
    ended
        .context("signing waits for nothing")?
        .err()
        .context("no request is made")?;
    let message = message
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();

    let raw = RawSigner::new()?;
    let flow = flow(None)?;
    let one_thread = vec![
        Contender::new("raw signature", |repetitions| {
            for _ in 0..repetitions {
                black_box(raw.sign(black_box(&message)));
            }
        }),
        Contender::new("mint", |repetitions| {
            for _ in 0..repetitions {
                let _ = black_box(flow.token().now_or_never());
            }
        }),
    ];
    let two_threads: Vec<_> = one_thread.iter().map(Contender::on_two_threads).collect();
    let (rounds, batch) = run.choose(
        (300, Duration::from_millis(10)),
        (5, Duration::from_millis(2)),
    );
    let measured = Rounds::measure(&[one_thread, two_threads].concat(), rounds, batch);

    let mut report = Report::new();
    for threads in ["", ", two threads"] {
        let (mint, raw) = (format!("mint{threads}"), format!("raw signature{threads}"));
        report.goal(
            format!("JWT {mint}: against the raw signature"),
            measured.ratio(&mint, &raw),
            "x",
            Goal::AtMost(1.03),
            format!(
                "{:.1} us; raw {:.1} us (claims of {} bytes, encoded)",
                measured.seconds(&mint) * 1e6,
                measured.seconds(&raw) * 1e6,
                message.len()
            ),
            "",
        );
    }
    report.finish(&run)
}
