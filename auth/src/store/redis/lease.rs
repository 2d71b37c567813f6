//! The lease in Redis: a key with its owner's name, which goes away by itself. Another, which lives longer, tells who has
//! not released it.

use std::{future::Future, time::Duration};

use tokio::runtime::Handle;

use super::{RedisStore, Reply, eval, milliseconds, random};
use crate::{
    Error, Result,
    error::presentable,
    store::{Lease, Leasing, Profile, Record, StoreFuture, record::fingerprint},
};

/// How long after its hold an owner that has not released its lease is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);

const ASK: &str = script!("lease.lua");
const PROVE: &str = script!("prove.lua");
const RELEASE: &str = include_str!("release.lua");

pub(super) struct RedisLease {
    store: RedisStore,
    profile: Profile,
    owner: String,
    /// Whether Redis may hold it for this owner.
    may_be_held: bool,
    was_taken_over: bool,
}

impl RedisLease {
    /// Asks once.
    pub(super) async fn ask(
        store: &RedisStore,
        profile: &Profile,
        hold: Duration,
    ) -> Result<Leasing> {
        // Made before it is known to be held: whoever gives up waiting for the answer gives it back too.
        let mut lease = Self {
            store: store.clone(),
            profile: profile.clone(),
            owner: format!("{:032x} {}", random()?, this_process()),
            may_be_held: true,
            was_taken_over: false,
        };
        let mut command = eval(ASK, &lease.keys());
        command
            .arg(&lease.owner)
            .arg(milliseconds(hold))
            .arg(milliseconds(hold.saturating_add(REMEMBERED)));
        let (held_by, was_taken_over): (Option<Vec<u8>>, bool) =
            store.run("lease the sign-in", profile, &command).await?;
        lease.was_taken_over = was_taken_over;
        Ok(match held_by {
            None => Leasing::Got(Box::new(lease)),
            Some(owner) => {
                lease.may_be_held = false;
                Leasing::Held {
                    by: process_of(&owner),
                }
            }
        })
    }

    fn key(&self) -> String {
        self.store.key(&self.profile, ":lease")
    }

    fn keys(&self) -> [String; 2] {
        [self.key(), self.store.key(&self.profile, ":unreleased")]
    }

    async fn prove(&self, record: &Record) -> Result<()> {
        let proof = self.store.key(&self.profile, ":proof");
        // Its content is nobody's business.
        let as_long = " ".repeat(record.to_json()?.len());
        let profile = self.store.key(&self.profile, "");
        let mut command = eval(PROVE, &[self.key(), profile, proof]);
        command
            .arg(&self.owner)
            .arg(fingerprint(record.refresh_token()))
            .arg(as_long);
        let verb = "show that it can save the sign-in";
        let reply: Reply = self.store.run(verb, &self.profile, &command).await?;
        if reply.is_done() {
            return Ok(());
        }
        if reply.kind == "lost" {
            return Err(Error::lease_lost(&self.profile));
        }
        // Damage is its own error.
        self.store.stored(&self.profile, &reply)?;
        Err(Error::moved_on(&self.profile))
    }

    /// Gives it back, if it is still this owner's.
    fn give_back(&mut self) -> impl Future<Output = Result<()>> + Send + use<> {
        self.may_be_held = false;
        let mut command = eval(RELEASE, &self.keys());
        command.arg(&self.owner);
        let (store, profile) = (self.store.clone(), self.profile.clone());
        async move {
            let verb = "release the lease on the sign-in";
            let _: u64 = store.run(verb, &profile, &command).await?;
            Ok(())
        }
    }
}

impl Lease for RedisLease {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(self.prove(record))
    }

    fn was_taken_over(&self) -> bool {
        self.was_taken_over
    }

    fn release(mut self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(self.give_back())
    }
}

/// Without a runtime, or without Redis, it ends after its hold.
impl Drop for RedisLease {
    fn drop(&mut self) {
        if self.may_be_held
            && let Ok(runtime) = Handle::try_current()
        {
            let given_back = self.give_back();
            runtime.spawn(async {
                let _ = given_back.await;
            });
        }
    }
}

/// Who has a lease, for people who read of it.
fn this_process() -> String {
    let process = format!("process {}", std::process::id());
    match host() {
        Some(host) => format!("{process} on {host}"),
        None => process,
    }
}

#[cfg(unix)]
fn host() -> Option<String> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    (!host.is_empty()).then_some(host)
}

#[cfg(not(unix))]
fn host() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

/// What follows the random part. Anybody may have written it.
fn process_of(owner: &[u8]) -> Option<String> {
    let owner = String::from_utf8_lossy(owner);
    let (_, process) = owner.split_once(' ')?;
    Some(presentable(process, &[]))
}
