//! A process that refreshes as fast as possible until it is killed. Undisturbed, it measures the duration of a refresh.

use std::time::{Duration, Instant};

use clap::Args;
use coze_auth::{CachedProvider, SignIn, TokenProvider as _, WebFlow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::coze::Api;
use crate::probe::Steps;
use crate::setup::Setup;
use crate::tally::{label, quantile};
use crate::{Result, coze, micros};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    profile: String,
    /// End after this many refreshes; default: run until killed
    #[arg(long)]
    refreshes: Option<u64>,
    /// Check that the API accepts the new tokens
    #[arg(long)]
    call: bool,
}

/// The durations of the steps of a refresh, in microseconds: median and 95th percentile.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// From one refresh to the next.
    pub(crate) cycle_us: u64,
    pub(crate) request_us: u64,
    pub(crate) request_p95_us: u64,
    pub(crate) save_us: u64,
    pub(crate) save_p95_us: u64,
}

pub(crate) async fn run(setup: Setup, options: Options) -> Result<()> {
    let flow = coze::flow(&setup, coze::client(&setup)?.build()?)?;
    let (sign_in, timings) = setup.timed_sign_in(&options.profile)?;
    let api = options.call.then(|| Api::new(&setup)).transpose()?;
    // Connections and other setup belong to the start.
    if let Err(error) = sign_in.load().await {
        return give_up(&label(&error));
    }
    println!("{}", json!({"ready": true}));
    let began = Instant::now();
    let mut refreshes = 0;
    while options.refreshes.is_none_or(|most| refreshes < most) {
        if let Err(why) = refresh(&flow, &sign_in, api.as_ref()).await {
            return give_up(&why);
        }
        refreshes += 1;
    }
    let pace = pace(&timings.take(), began.elapsed()).ok_or("it has refreshed nothing")?;
    println!("{}", serde_json::to_string(&pace)?);
    Ok(())
}

/// A new provider each time, because a provider accepts only one refused token in ten seconds.
async fn refresh(flow: &WebFlow, sign_in: &SignIn, api: Option<&Api>) -> Result<(), String> {
    let provider = coze::provider(flow, sign_in)
        .refresh(coze_auth::RefreshMode::InLine)
        .build();
    let old = token_of(&provider).await?;
    provider.invalidate(&old);
    let new = token_of(&provider).await?;
    if new.expose() == old.expose() {
        return Err("the refused token was returned again".to_owned());
    }
    if let Some(api) = api
        && !api.takes(&new).await.map_err(|error| error.to_string())?
    {
        return Err("the API refuses the new token".to_owned());
    }
    Ok(())
}

async fn token_of(provider: &CachedProvider) -> Result<coze_auth::AccessToken, String> {
    provider.token().await.map_err(|error| label(&error))
}

fn give_up(why: &str) -> Result<()> {
    println!("{}", json!({"error": why}));
    Err(why.into())
}

fn pace(steps: &[Steps], took: Duration) -> Option<Pace> {
    let cycles = u32::try_from(steps.len()).ok().filter(|&steps| steps > 0)?;
    let requests: Vec<_> = steps.iter().map(|step| micros(step.request)).collect();
    let saves: Vec<_> = steps.iter().map(|step| micros(step.save)).collect();
    Some(Pace {
        cycle_us: micros(took / cycles),
        request_us: quantile(&requests, 0.5)?,
        request_p95_us: quantile(&requests, 0.95)?,
        save_us: quantile(&saves, 0.5)?,
        save_p95_us: quantile(&saves, 0.95)?,
    })
}
