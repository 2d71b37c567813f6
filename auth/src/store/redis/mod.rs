//! A store in Redis, for the replicas of a service.

/// A script, after what all of them begin with.
macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("common.lua"), include_str!($name))
    };
}

mod builder;
mod failure;
mod lease;
mod link;
mod tls;

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use redis::{Cmd, FromRedisValue};
use zeroize::Zeroizing;

pub use builder::RedisStoreBuilder;

use self::{failure::Failure, lease::RedisLease, link::Link};
use super::{
    LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
    damaged_but_kept, envelope::UNEVEN, record::fingerprint,
};
use crate::{Error, ErrorKind, RefreshToken, Result};

/// Keeps sign-ins in Redis (5 or newer), for the replicas of a service. Clones are the same store, and share one
/// connection.
///
/// It connects when it is first used, and again after the connection was lost: a Redis that is down is an error of the
/// operation, not of the construction. Each operation that changes something is one Lua script, so it happens as a
/// whole or not at all, and may be repeated when its answer was lost. Times are Redis's own.
///
/// ```no_run
/// # async fn example(token: coze_auth::Token) -> coze_auth::Result<()> {
/// use coze_auth::store::{RedisStore, SignIn};
///
/// let store = RedisStore::connect("rediss://replica:secret@redis.example.com:6379/0")?;
/// let sign_in = SignIn::new(store, "customer-1")?;
/// sign_in.put(&token).await?;
/// # Ok(()) }
/// ```
///
/// # What is where
///
/// For the profile `customer-1` and the default prefix, with the braces:
///
/// | key | type | what |
/// |---|---|---|
/// | `coze-auth:{customer-1}` | hash | the sign-in: `record` (JSON), `sum` (its SHA-1), `refresh` (the fingerprint of its refresh token), `saved_at` (milliseconds) |
/// | `coze-auth:{customer-1}:lease` | string | who refreshes now |
/// | `coze-auth:{customer-1}:unreleased` | hash | `owner`, who has the lease or had it last and did not release it; `until` (milliseconds), by when that one must have saved; `formerly_until`, by when those before must have. It is gone with a release, or an hour after the lease |
/// | `coze-auth:{customer-1}:aside` | list | up to 8 records that were [set aside](Self::set_aside), the newest first |
/// | `coze-auth:{customer-1}:proof` | hash | for an instant: what [`prove_save`](super::Lease::prove_save) writes |
/// | `coze-auth:{customer-1}:other:…` | any | what was in the way of a sign-in, and is no hash |
///
/// In a profile's name, what is no ASCII letter, digit, `-`, `_`, `.` or `@` is percent-encoded. The records hold
/// tokens: whoever can read the database, its files, or its `MONITOR` and `SLOWLOG` can act as the person who signed in.
///
/// # What to rely on
///
/// - A Redis that is down, slow, full, read-only or without its disk fails the
///   [proof](super::Lease::prove_save) before a refresh. If it becomes full afterwards, a save succeeds all the same
///   (from Redis 7 on).
/// - A lease is [for its hold](LeaseKind::ForItsHold). One that is dropped unreleased is given back as well as can be.
///   One that was not given back is remembered for an hour: whoever takes it over is
///   [told](super::Lease::was_taken_over).
/// - A save that returned is in the primary's memory; whether it outlives the primary is up to Redis's
///   configuration. What a crash or a failover takes back is the newest refresh token, and a person has to sign in
///   again. The README of this project's repository says how to run Redis so that this is rare: an append-only file that is synced at every write, and
///   a primary that takes no write without a replica.
/// - It speaks with one primary. It does not follow a cluster's redirections, and asks no sentinel. After a failover it
///   connects again to the same address.
/// - Writing in plain text (`redis://`) is as safe as the network in between: elsewhere, use `rediss://`.
#[derive(Clone)]
pub struct RedisStore {
    link: Arc<Link>,
    key_prefix: Arc<str>,
    keep_for: Duration,
}

const IN_KEYS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'@');

/// How often a fresh sign-in is put when something else is stored at the same moment.
const PUTS: usize = 5;

/// The scripts are sent whole each time: so they are there after a restart, and need no permission but that for `EVAL`.
const LOAD: &str = script!("load.lua");
const SAVE: &str = script!("save.lua");
/// The refresh token has been redeemed, and its successor takes no more room than it did: so Redis, where it can be told
/// (since version 7), is to take it although its memory has become full.
const SAVE_THOUGH_FULL: &str = concat!("#!lua flags=allow-oom\n", script!("save.lua"));
const PUT: &str = script!("put.lua");
const REMOVE: &str = script!("remove.lua");

impl RedisStore {
    /// The store in the Redis at this URL, such as `rediss://user:password@host:6379/0`: the scheme `redis` is plain
    /// text, `rediss` is TLS. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// Those of [`RedisStoreBuilder::build`].
    pub fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::builder(url).build()
    }

    /// Sets up a store in the Redis at this URL.
    pub fn builder(url: impl AsRef<str>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.as_ref())
    }

    /// What was set aside for a profile, the oldest first: sign-ins that were over or damaged when a fresh one came, and
    /// answers that came too late. One that can't be understood is its error.
    ///
    /// # Errors
    ///
    /// [`Store`](crate::ErrorKind::Store) when Redis can't be read.
    pub async fn set_aside(&self, profile: &Profile) -> Result<Vec<Result<Record>>> {
        let key = self.key(profile, ":aside");
        let command = redis::cmd("LRANGE").arg(key).arg(0).arg(-1).take();
        let newest_first: Vec<Vec<u8>> = self
            .run("read what is set aside", profile, &command)
            .await?;
        let records = newest_first.into_iter().rev().map(Zeroizing::new);
        Ok(records.map(|json| Record::from_json(&json)).collect())
    }

    fn key(&self, profile: &Profile, suffix: &str) -> String {
        let name = utf8_percent_encode(profile.name(), IN_KEYS);
        format!("{}{{{name}}}{suffix}", self.key_prefix)
    }

    fn keep_for_ms(&self) -> u64 {
        milliseconds(self.keep_for)
    }

    async fn run<T: FromRedisValue>(
        &self,
        verb: &str,
        profile: &Profile,
        command: &Cmd,
    ) -> Result<T> {
        let outcome = self.link.run(command).await;
        outcome.map_err(|failure| self.failed(verb, profile, &failure))
    }

    fn failed(&self, verb: &str, profile: &Profile, failure: &Failure) -> Error {
        let redis = &self.link;
        let what = format!("Redis at {redis} could not {verb} for profile {profile}: {failure}");
        Error::new(failure.kind(), what)
    }

    async fn read(&self, profile: &Profile) -> Result<Reply> {
        let key = self.key(profile, "");
        self.run("load the sign-in", profile, &eval(LOAD, &[key]))
            .await
    }

    fn stored(&self, profile: &Profile, reply: &Reply) -> Result<Option<Stored>> {
        let understood = match reply.kind.as_str() {
            "none" => return Ok(None),
            "hash" => reply.stored(),
            _ => Err(damaged("the key is of another type")),
        };
        understood.map(Some).map_err(|error| {
            Error::new(
                ErrorKind::StoreDamaged,
                format!(
                    "Redis at {}, key {}: {}",
                    self.link,
                    self.key(profile, ""),
                    error.what()
                ),
            )
        })
    }

    async fn save_once(
        &self,
        asked: Instant,
        profile: &Profile,
        redeemed: &RefreshToken,
        successor: &Record,
    ) -> Result<Reply> {
        let json = successor.to_json()?;
        let by = |script| {
            let mut command = eval(
                script,
                &[self.key(profile, ""), self.key(profile, ":aside")],
            );
            command
                .arg(fingerprint(redeemed))
                .arg(fingerprint(successor.refresh_token()))
                .arg(json.as_str())
                .arg(self.keep_for_ms())
                .arg(since(asked));
            Cow::Owned(command)
        };
        let mut outcome = self.link.run_made(|| by(SAVE_THOUGH_FULL)).await;
        if outcome.as_ref().is_err_and(Failure::is_unknown_refusal) {
            outcome = self.link.run_made(|| by(SAVE)).await;
        }
        outcome.map_err(|failure| self.failed("save the sign-in", profile, &failure))
    }

    /// One try to put a record in the place of what was seen there.
    async fn put_over(
        &self,
        asked: Instant,
        seen: &Reply,
        profile: &Profile,
        record: &Record,
    ) -> Result<Reply> {
        let keys = [
            self.key(profile, ""),
            self.key(profile, ":aside"),
            self.key(profile, ":proof"),
            self.key(profile, &format!(":other:{:032x}", random()?)),
        ];
        let json = record.to_json()?;
        let command = || {
            let mut command = eval(PUT, &keys);
            command
                .arg(&seen.kind)
                .arg(seen.record.as_deref().map_or(&[][..], Vec::as_slice))
                .arg(seen.when_replaced())
                .arg(fingerprint(record.refresh_token()))
                .arg(json.as_str())
                .arg(self.keep_for_ms())
                .arg(since(asked));
            Cow::Owned(command)
        };
        let outcome = self.link.run_made(command).await;
        outcome.map_err(|failure| self.failed("store the sign-in", profile, &failure))
    }
}

fn eval(script: &str, keys: &[String]) -> Cmd {
    redis::cmd("EVAL")
        .arg(script)
        .arg(keys.len())
        .arg(keys)
        .take()
}

fn random() -> Result<u128> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(
            ErrorKind::System,
            "the operating system gave no random bytes",
        )
        .with_source(error)
    })?;
    Ok(u128::from_le_bytes(bytes))
}

/// In milliseconds; how long the command is under way after it was made can't be told.
fn since(asked: Instant) -> u64 {
    u64::try_from(asked.elapsed().as_millis()).unwrap_or_default()
}

/// Redis refuses a time that its clock can't count to.
fn milliseconds(time: Duration) -> u64 {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let milliseconds = time.min(LONGEST).as_millis();
    u64::try_from(milliseconds).unwrap_or(u64::MAX).max(1)
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::StoreDamaged, what)
}

/// What the scripts return.
struct Reply {
    /// `done`, or the type of the profile's key.
    kind: String,
    record: Option<Zeroizing<Vec<u8>>>,
    refresh: Option<String>,
    saved_at: Option<u64>,
    now: Option<u64>,
}

impl FromRedisValue for Reply {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        type Fields = (
            String,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<Vec<u8>>,
            Option<u64>,
        );
        let (kind, record, refresh, saved_at, now) = Fields::from_redis_value(value)?;
        let text = |field: Option<Vec<u8>>| field.and_then(|text| String::from_utf8(text).ok());
        Ok(Self {
            kind,
            record: record.map(Zeroizing::new),
            refresh: text(refresh),
            saved_at: text(saved_at).and_then(|number| number.parse().ok()),
            now,
        })
    }
}

impl Reply {
    fn is_done(&self) -> bool {
        self.kind == "done"
    }

    fn stored(&self) -> Result<Stored> {
        let json = self.record.as_deref();
        let json = json.ok_or_else(|| damaged("the hash has no field \"record\""))?;
        let record = Record::from_json(json)?;
        // What a save compares. Another one would let none succeed.
        if self.refresh.as_deref() != Some(&fingerprint(record.refresh_token())) {
            return Err(damaged(
                "the fields of the hash do not belong together: something else has changed them",
            ));
        }
        let (Some(saved_at), Some(now)) = (self.saved_at, self.now) else {
            return Err(damaged("the field \"saved_at\" is no time"));
        };
        let age = match now.checked_sub(saved_at) {
            Some(age) => Duration::from_millis(age),
            // Redis's clock was set back.
            None if Duration::from_millis(saved_at - now) > UNEVEN => Duration::MAX,
            None => Duration::ZERO,
        };
        Ok(Stored::new(record, age))
    }

    fn descends_from(&self, record: &Record) -> bool {
        let stored = self.stored();
        stored.is_ok_and(|stored| stored.record.descends_from(record.refresh_token()))
    }

    /// What to do with it when a fresh sign-in comes: the script's word.
    fn when_replaced(&self) -> &'static str {
        match (self.kind.as_str(), &self.record, self.stored()) {
            ("none", ..) => "replace",
            ("hash", Some(_), Ok(stored)) if stored.record.dead().is_none() => "replace",
            ("hash", Some(_), _) => "set aside",
            _ => "rename",
        }
    }
}

impl Store for RedisStore {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let reply = self.read(profile).await?;
            self.stored(profile, &reply)
        })
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        Box::pin(async move {
            let asked = Instant::now();
            let reply = self.save_once(asked, profile, redeemed, successor).await?;
            if reply.is_done() {
                return Ok(Saved::Saved);
            }
            let stored = self.stored(profile, &reply).map_err(|error| {
                let aside = self.key(profile, ":aside");
                damaged_but_kept(&error, format_args!("key {aside}"))
            })?;
            Ok(Saved::MovedOn(stored.map(Box::new)))
        })
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let asked = Instant::now();
            let mut seen = self.read(profile).await?;
            for _ in 0..PUTS {
                if seen.descends_from(record) {
                    return Ok(());
                }
                seen = self.put_over(asked, &seen, profile, record).await?;
                if seen.is_done() {
                    return Ok(());
                }
            }
            Err(Error::new(
                ErrorKind::StoreBusy,
                format!("the sign-in of profile {profile} changes faster than it can be replaced"),
            ))
        })
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            let mut command = eval(REMOVE, &[self.key(profile, "")]);
            command.arg(fingerprint(read.refresh_token()));
            let reply: Reply = self.run("remove the sign-in", profile, &command).await?;
            let is_gone = reply.is_done() || reply.kind == "none";
            Ok(if is_gone {
                Removed::Removed
            } else {
                Removed::MovedOn
            })
        })
    }

    fn lease<'a>(&'a self, profile: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing> {
        Box::pin(RedisLease::ask(self, profile, hold))
    }

    fn lease_kind(&self) -> LeaseKind {
        LeaseKind::ForItsHold
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &format_args!("{}", self.link))
            .field("tls", &self.link.tls.is_some())
            .field("database", &self.link.login.db())
            .field("key_prefix", &self.key_prefix)
            .field("keep_for", &self.keep_for)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> String {
        let store = RedisStore::connect("redis://127.0.0.1").unwrap();
        store.key(&Profile::new(name).unwrap(), ":lease")
    }

    #[test]
    fn all_keys_of_a_profile_are_in_one_slot_whatever_its_name() {
        assert_eq!(key("default"), "coze-auth:{default}:lease");
        assert_eq!(key("ann@example.com"), "coze-auth:{ann@example.com}:lease");
        assert_eq!(key("a}:lease"), "coze-auth:{a%7D%3Alease}:lease");
        assert_eq!(key("扣子 %"), "coze-auth:{%E6%89%A3%E5%AD%90%20%25}:lease");
    }

    #[test]
    fn a_time_that_redis_can_not_count_is_cut() {
        assert_eq!(milliseconds(Duration::from_secs(2)), 2000);
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert!(milliseconds(Duration::MAX) < u64::MAX >> 20);
    }

    #[tokio::test]
    async fn a_redis_that_is_down_is_an_error_that_says_what_and_where() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let store = RedisStore::connect(format!("redis://ann:hush@{address}")).unwrap();
        let profile = Profile::new("default").unwrap();
        let error = store.load(&profile).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        let text = format!("{error} {error:?}");
        assert!(text.contains(&format!("Redis at {address}")), "{text}");
        assert!(text.contains("load the sign-in"), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
}
