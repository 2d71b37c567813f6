//! A store in Redis, shared by the replicas of a service.

mod builder;
mod connection;
mod failure;
mod tls;

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, LockLifetime, Owner, Profile, Store, StoreError, StoreFuture,
    Stored, TryLock, Version,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use redis::{Cmd, FromRedisValue};

pub use builder::RedisStoreBuilder;

use self::connection::Connections;

/// Keeps sign-ins in Redis (5 or newer), shared by the replicas of a service. Clones share the store and its connections.
///
/// It connects when it is first used, and again after the connection was lost. If Redis is down, operations fail, not the
/// construction. Each tokio runtime that uses the store has its own connection. Each change is one Lua script, so it is atomic. Ages
/// are measured with Redis's clock.
///
/// ```no_run
/// use coze_auth_stores::RedisStore;
///
/// let store = RedisStore::new("rediss://replica:secret@redis.example.com:6379/0")?;
/// # Ok::<(), coze_auth::store::StoreError>(())
/// ```
///
/// # Keys
///
/// The keys of the profile `customer-1`, with the default prefix. The braces place all keys of a profile in one hash slot of a cluster.
///
/// | key | value |
/// |---|---|
/// | `coze-auth:{customer-1}` | the sign-in: the time of its write in milliseconds, a space, and its JSON |
/// | `coze-auth:{customer-1}:lock` | the id and the name of the owner that refreshes the sign-in. It expires with its TTL |
/// | `coze-auth:{customer-1}:quarantine:0` to `:7` | sign-ins that were replaced, or that were saved too late |
///
/// All are strings, and there are no other keys. If another program has stored a key of another type, its `DUMP` is loaded as a damaged
/// sign-in. Characters of a profile's name other than ASCII letters, digits, `-`, `_`, `.` and `@` are percent-encoded.
///
/// Sign-ins contain tokens: anyone who can read the database, its files, or its `MONITOR` and `SLOWLOG` can act as the users.
///
/// # Guarantees and limits
///
/// - When Redis is out of memory, it still accepts writes that do not make a sign-in longer, and writes to the quarantine. Sign-ins are
///   padded before a refresh token is sent, so that the new refresh token can be saved.
/// - A completed write is in the primary's memory. Its durability depends on Redis's configuration. A crash or a failover that loses the
///   write may end a sign-in. `docs/redis.md` describes a configuration that makes this rare: fsync of the append-only file on every
///   write, and a primary that rejects writes without a replica.
/// - The store uses one primary, and refuses to read from a replica. It supports neither redirections of a cluster nor Sentinel. After
///   a failover it connects again to the same address.
/// - [`list`](Store::list) scans all keys of the database, a thousand at a time.
#[derive(Clone)]
pub struct RedisStore {
    connections: Arc<Connections>,
    key_prefix: Arc<str>,
    keep_for: Duration,
}

/// The scripts are sent with each command. So they need not be loaded after a restart, and `EVAL` is the only permission that they need.
const LOAD: &str = concat!(include_str!("common.lua"), include_str!("load.lua"));
const COMPARE_AND_SET: &str = concat!(
    include_str!("common.lua"),
    include_str!("compare_and_set.lua")
);
const LOCK: &str = include_str!("lock.lua");
const UNLOCK: &str = include_str!("unlock.lua");

/// The number of digits of a write's time, which suffices until the year 2286. A space follows.
const TIME_LEN: usize = 13;
/// A write time up to this far in the future counts as now: Redis's clock may be adjusted.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// How many keys Redis examines in one step of a scan.
const SCAN_COUNT: usize = 1000;

const IN_KEYS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'@');

impl RedisStore {
    /// A store in the Redis at this URL, such as `rediss://user:password@host:6379/0`. `rediss` uses TLS; `redis` is not encrypted, and
    /// allowed for this machine only. No I/O happens here: the store connects when it is first used.
    ///
    /// # Errors
    ///
    /// Those of [`RedisStoreBuilder::build`].
    pub fn new(url: impl AsRef<str>) -> Result<Self, StoreError> {
        Self::builder(url).build()
    }

    /// Configures a store in the Redis at this URL.
    pub fn builder(url: impl AsRef<str>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.as_ref())
    }

    fn record_key(&self, profile: &Profile) -> String {
        let name = utf8_percent_encode(profile.name(), IN_KEYS);
        format!("{}{{{name}}}", self.key_prefix)
    }

    fn key(&self, key: &Key) -> String {
        let record = self.record_key(key.profile());
        match key.slot() {
            None => record,
            Some(slot) => format!("{record}:quarantine:{slot}"),
        }
    }

    fn lock_key(&self, key: &Key) -> String {
        self.key(key) + ":lock"
    }

    /// The profile of a record's key; `None` for other keys.
    fn profile_of(&self, key: &[u8]) -> Option<Profile> {
        let key = str::from_utf8(key).ok()?;
        let name = key.strip_prefix(&*self.key_prefix)?;
        let name = name.strip_prefix('{')?.strip_suffix('}')?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        let profile = Profile::new(name).ok()?;
        (self.record_key(&profile) == key).then_some(profile)
    }

    async fn run<T: FromRedisValue>(
        &self,
        verb: &str,
        what: &(dyn fmt::Display + Sync),
        command: impl Fn(bool) -> Cmd + Send + Sync,
    ) -> Result<T, StoreError> {
        let outcome = self.connections.run(command).await;
        outcome.map_err(|failure| {
            let redis = &self.connections;
            let message = format!("Redis at {redis} could not {verb} {what}: {failure}");
            StoreError::new(failure.kind(), &message)
        })
    }

    async fn scan(&self) -> Result<Vec<Profile>, StoreError> {
        let pattern = literal_in_pattern(&self.key_prefix) + "{*}";
        let mut profiles = BTreeSet::new();
        let mut cursor = 0_u64;
        loop {
            let command = |_| {
                redis::cmd("SCAN")
                    .arg(cursor)
                    .arg("MATCH")
                    .arg(&pattern)
                    .arg("COUNT")
                    .arg(SCAN_COUNT)
                    .take()
            };
            let (next, keys): (u64, Vec<Vec<u8>>) =
                self.run("list", &"the profiles", command).await?;
            profiles.extend(keys.iter().filter_map(|key| self.profile_of(key)));
            if next == 0 {
                return Ok(profiles.into_iter().collect());
            }
            cursor = next;
        }
    }
}

impl Store for RedisStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let name = self.key(key);
            let keys = [&name, &format!("{name}:probe")];
            let loaded: Loaded = self.run("load", key, |_| eval(LOAD, &keys)).await?;
            Ok(loaded.stored())
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        Box::pin(async move {
            let asked = Instant::now();
            let name = self.key(key);
            let command = |is_repeated: bool| {
                let mut command = eval(COMPARE_AND_SET, &[&name]);
                command
                    .arg(expected.map_or(&[][..], Version::as_ref))
                    .arg(u8::from(is_repeated))
                    .arg(u8::from(key.slot().is_some()))
                    .arg(milliseconds(self.keep_for))
                    .arg(milliseconds(asked.elapsed()))
                    .arg(new.map(Contents::expose));
                command
            };
            let version: Option<Vec<u8>> = self.run("change", key, command).await?;
            Ok(match version {
                None => CompareAndSet::Conflict,
                Some(version) if version.is_empty() => CompareAndSet::Done(None),
                Some(version) => CompareAndSet::Done(Some(Version::new(version))),
            })
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        Box::pin(async move {
            let name = self.lock_key(key);
            let asking = format!("{} {}", owner.id(), owner.name());
            let command = |_| {
                let mut command = eval(LOCK, &[&name]);
                command.arg(&asking).arg(milliseconds(ttl).max(1));
                command
            };
            let holder: Option<Vec<u8>> = self.run("lock", key, command).await?;
            Ok(match holder {
                None => TryLock::Acquired(LockLifetime::Ttl),
                Some(holder) => TryLock::Held {
                    by: name_of(&holder),
                },
            })
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let name = self.lock_key(key);
            let command = |_| {
                let mut command = eval(UNLOCK, &[&name]);
                command.arg(owner.id());
                command
            };
            let _: u64 = self.run("unlock", key, command).await?;
            Ok(())
        })
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        Box::pin(async move { self.scan().await.map(Some) })
    }
}

fn eval(script: &str, keys: &[&String]) -> Cmd {
    redis::cmd("EVAL")
        .arg(script)
        .arg(keys.len())
        .arg(keys)
        .take()
}

/// Limited to 100 years: Redis rejects a TTL that overflows its clock.
fn milliseconds(time: Duration) -> u64 {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let milliseconds = time.min(LONGEST).as_millis();
    u64::try_from(milliseconds).unwrap_or(u64::MAX)
}

/// A pattern that matches only this text.
fn literal_in_pattern(text: &str) -> String {
    text.chars().fold(String::new(), |mut pattern, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
        pattern
    })
}

/// The name of a lock's owner, which follows the id. Other programs may have written it, so it is filtered.
fn name_of(holder: &[u8]) -> Option<String> {
    let holder = String::from_utf8_lossy(holder);
    let (_, name) = holder.split_once(' ')?;
    Some(crate::shown_name(name))
}

/// The result of `load.lua`.
struct Loaded {
    value: Option<Contents>,
    version: Option<Vec<u8>>,
    now: u64,
}

impl FromRedisValue for Loaded {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        let (value, version, now) =
            <(Option<Vec<u8>>, Option<Vec<u8>>, u64)>::from_redis_value(value)?;
        Ok(Self {
            value: value.map(Contents::from),
            version,
            now,
        })
    }
}

impl Loaded {
    fn stored(self) -> Option<Stored> {
        let (value, version) = (self.value?, Version::new(self.version?));
        let (contents, age) = match written_at(value.expose()) {
            Some((at, contents)) => (contents.to_vec().into(), age(at, self.now)),
            // Another program has written it.
            None => (value, None),
        };
        Some(Stored::new(contents, version, age))
    }
}

/// The time of the write, and the contents.
fn written_at(value: &[u8]) -> Option<(u64, &[u8])> {
    let (time, contents) = value.split_at_checked(TIME_LEN)?;
    let time = str::from_utf8(time).ok()?.parse().ok()?;
    Some((time, contents.strip_prefix(b" ")?))
}

/// `None` if Redis's clock was set back, or a failover led to a server whose clock is behind.
fn age(written_at: u64, now: u64) -> Option<Duration> {
    match now.checked_sub(written_at) {
        Some(age) => Some(Duration::from_millis(age)),
        None if Duration::from_millis(written_at - now) > CLOCK_TOLERANCE => None,
        None => Some(Duration::ZERO),
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &format_args!("{}", self.connections))
            .field("tls", &self.connections.tls.is_some())
            .field("database", &self.connections.login.db())
            .field("key_prefix", &self.key_prefix)
            .field("keep_for", &self.keep_for)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> RedisStore {
        RedisStore::new("redis://127.0.0.1").unwrap()
    }

    #[test]
    fn all_keys_of_a_profile_are_in_one_hash_slot() {
        for (name, tag) in [
            ("default", "{default}"),
            ("ann@example.com", "{ann@example.com}"),
            ("a}:lock", "{a%7D%3Alock}"),
            ("扣子 %", "{%E6%89%A3%E5%AD%90%20%25}"),
        ] {
            let profile = Profile::new(name).unwrap();
            let key = Key::record(&profile);
            let slot = Key::quarantine_slots(&profile).nth(7).unwrap();
            assert_eq!(store().key(&key), format!("coze-auth:{tag}"));
            assert_eq!(store().lock_key(&key), format!("coze-auth:{tag}:lock"));
            assert_eq!(store().key(&slot), format!("coze-auth:{tag}:quarantine:7"));
        }
    }

    #[test]
    fn only_the_key_of_a_record_yields_a_profile() {
        for name in ["default", "a}:lock", "扣子 %", "{a}"] {
            let profile = Profile::new(name).unwrap();
            let key = Key::record(&profile);
            let slot = Key::quarantine_slots(&profile).next().unwrap();
            let named = |key: String| store().profile_of(key.as_bytes());
            assert_eq!(named(store().key(&key)), Some(profile));
            assert_eq!(named(store().lock_key(&key)), None);
            assert_eq!(named(store().key(&slot)), None);
        }
        for other in [
            "",
            "coze-auth:",
            "coze-auth:{}",
            "coze-auth:{a b}",
            "my:{a}",
        ] {
            assert_eq!(store().profile_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_age_is_unknown_when_the_clock_was_set_back() {
        let of = |value: &str, now| {
            let loaded = Loaded {
                value: Some(value.as_bytes().to_vec().into()),
                version: Some(b"version".to_vec()),
                now,
            };
            let stored = loaded.stored().unwrap();
            (stored.contents.expose().to_vec(), stored.age)
        };
        let written = "1900000000000 {}";
        for (now, age) in [
            (1_900_000_001_000, Some(Duration::from_secs(1))),
            (1_899_999_998_000, Some(Duration::ZERO)),
            (1_899_999_997_999, None),
        ] {
            assert_eq!(of(written, now), (b"{}".to_vec(), age), "{now}");
        }
        for foreign in ["", "{}", "1900000000000{}", "x900000000000 {}"] {
            assert_eq!(of(foreign, 0), (foreign.as_bytes().to_vec(), None));
        }
    }

    #[test]
    fn a_ttl_is_limited() {
        assert_eq!(milliseconds(Duration::from_secs(2)), 2000);
        assert!(milliseconds(Duration::MAX) < u64::MAX >> 20);
    }

    #[test]
    fn a_prefix_is_matched_literally() {
        assert_eq!(literal_in_pattern("a*[b]\\?:^"), r"a\*\[b\]\\\?:\^");
    }
}
