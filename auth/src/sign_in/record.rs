//! The contents of a key in a store, and their JSON.
//!
//! ```json
//! {"checksum":"…","record":{"version":1,"write_id":"…","refresh_token":"…"},"padding":"…"}
//! ```
//!
//! The checksum covers the raw bytes of `record`, so it does not depend on how a JSON library orders or formats fields.
//! The padding reserves space for the successor while the record has an [intent](super::intent). A sign-out replaces
//! the record with a tombstone: `{"version":1,"write_id":"…","signed_out":["…"]}`.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::{Bearer, Secret, sanitize, sanitize_log_id};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, value::RawValue};
use zeroize::Zeroizing;

use super::intent::Intent;
use crate::{
    AccessToken, Error, ErrorCode, ErrorKind, RefreshToken, Result, Token,
    clock::Clock,
    random,
    store::{Contents, StoreError, StoreErrorKind},
};

/// The version of the JSON that this crate writes. Within a version, fields may be added.
const VERSION: u64 = 1;
/// The maximum number of replaced sign-ins that a record names.
const MOST_REPLACED: usize = 8;
/// The initial capacity of a buffer for a record. Longer records reallocate it.
const USUAL_LENGTH: usize = 8 * 1024;

/// A stored sign-in: its tokens, and how long the access token is valid.
///
/// `Debug` prints no secret. Unknown fields, from a later version of this crate, are preserved.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    version: u64,
    /// Identifies the write that stored it.
    pub(super) write_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_token: Option<Secret>,
    refresh_token: RefreshToken,
    /// By the server's clock, in UNIX seconds.
    expires_at: u64,
    /// The remaining lifetime of the access token at this write.
    life_ms: u64,
    /// The lifetime of the access token when it was received.
    #[serde(default)]
    lifetime_ms: u64,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "shown_log_id"
    )]
    log_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The API base of the endpoint that issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_base: Option<String>,
    /// The id of the sign-in: the fingerprint of its first refresh token.
    pub(super) sign_in: String,
    /// The number of refreshes: of two records of one sign-in, the one with the higher number is the successor.
    pub(super) generation: u64,
    /// Ids of the sign-ins that this one replaced, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) replaced: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<NotBefore>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) intents: Vec<Intent>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Why a sign-in has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    /// Coze's error code.
    #[serde(deserialize_with = "shown_text")]
    code: String,
    /// Coze's log id of the refusal.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "shown_log_id"
    )]
    log_id: Option<String>,
}

/// Stored text is shown to users, and anyone with write access to the store may have written it: sanitize it.
fn shown_text<'de, D: Deserializer<'de>>(stored: D) -> Result<String, D::Error> {
    Ok(sanitize(&String::deserialize(stored)?, &[]))
}

fn shown_log_id<'de, D: Deserializer<'de>>(stored: D) -> Result<Option<String>, D::Error> {
    let log_id = Option::<String>::deserialize(stored)?;
    Ok(log_id.and_then(|log_id| sanitize_log_id(&log_id, &[])))
}

/// No refresh is sent for this long after the write, because the server asked for a delay or was unavailable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NotBefore {
    pub(super) ms: u64,
    /// The HTTP status of the response; `None` if the connection failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
}

/// Replaces the record at a sign-out. Without it, a late `put` or save would find nothing and sign the user in again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tombstone {
    version: u64,
    pub(super) write_id: String,
    /// Ids of the sign-ins that the user has signed out of.
    pub(super) signed_out: Vec<String>,
}

/// What a key holds.
pub(super) enum Entry {
    Record(Box<Record>),
    Tombstone(Tombstone),
    /// Invalid contents, or contents of a newer version.
    Damaged(Error),
}

/// Contents to write, and the id of the write.
pub(super) struct Write {
    pub(super) contents: Contents,
    pub(super) write_id: String,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    checksum: String,
    #[serde(borrow)]
    record: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    padding: Option<String>,
}

impl Record {
    /// The record of a fresh sign-in.
    pub(super) fn fresh(token: &Token) -> Result<Self> {
        let refresh_token = token.refresh_token().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidAnswer,
                "there is no refresh token, so the sign-in can't be stored",
            )
            .with_log_id(token.log_id().map(str::to_owned))
        })?;
        let mut record = Self::of_refresh_token(refresh_token, (None, None));
        record.set_access_token(token);
        Ok(record)
    }

    /// The record of a refresh token without an access token, which the first refresh gets. `app` is the client id, and
    /// the API base.
    pub(super) fn of_refresh_token(
        refresh_token: &RefreshToken,
        (client_id, api_base): (Option<&str>, Option<&str>),
    ) -> Self {
        Self {
            version: VERSION,
            write_id: String::new(),
            access_token: None,
            refresh_token: refresh_token.clone(),
            expires_at: 0,
            life_ms: 0,
            lifetime_ms: 0,
            log_id: None,
            client_id: client_id.map(str::to_owned),
            api_base: api_base.map(str::to_owned),
            sign_in: fingerprint(refresh_token),
            generation: 0,
            replaced: Vec::new(),
            ended: None,
            not_before: None,
            intents: Vec::new(),
            other: Map::new(),
        }
    }

    /// The successor of this record, without an access token. If the response has no refresh token, the old one stays
    /// valid (RFC 6749 section 6).
    pub(super) fn successor(&self, refresh_token: Option<&RefreshToken>, generation: u64) -> Self {
        let refresh_token = refresh_token.unwrap_or(&self.refresh_token);
        Self {
            sign_in: self.sign_in.clone(),
            generation,
            replaced: self.replaced.clone(),
            other: self.other.clone(),
            ..Self::of_refresh_token(refresh_token, (self.client_id(), self.api_base()))
        }
    }

    /// Sets the access token, with its lifetime that remains now.
    pub(super) fn set_access_token(&mut self, token: &Token) {
        let expires_at = token.expires_at().duration_since(SystemTime::UNIX_EPOCH);
        self.access_token = Some(Secret::from(token.access_token().expose()));
        self.expires_at = expires_at.unwrap_or_default().as_secs();
        self.life_ms = millis(token.remaining());
        self.lifetime_ms = millis(token.lifetime());
        self.log_id = token.log_id().map(str::to_owned);
        if let Some(client_id) = token.client_id() {
            self.client_id = Some(client_id.to_owned());
        }
        if let Some(api_base) = token.api_base() {
            self.api_base = Some(api_base.to_owned());
        }
    }

    /// A copy for the next write, which restarts the record's age: every duration is reduced by the current age. If the
    /// age is unknown, the access token's lifetime and `not_before` become zero, and intents are unchanged.
    pub(super) fn rebased(&self, age: Option<Duration>) -> Self {
        let mut record = self.clone();
        record.life_ms = age.map_or(0, |age| self.life_ms.saturating_sub(millis(age)));
        record.not_before = self.not_before.clone().and_then(|mut not_before| {
            not_before.ms = not_before.ms.saturating_sub(millis(age?));
            (not_before.ms > 0).then_some(not_before)
        });
        let fingerprint = self.fingerprint();
        record.intents = super::intent::carried_over(&self.intents, &fingerprint, age);
        record
    }

    /// Marks the record as ended.
    pub(super) fn with_ended(mut self, refusal: &Error) -> Self {
        let code = refusal.code().map(ToString::to_string);
        self.ended = Some(Ended {
            code: code.unwrap_or_else(|| "unknown".to_owned()),
            log_id: refusal.log_id().map(str::to_owned),
        });
        self
    }

    /// A copy for quarantine, with no remaining lifetime: its age would restart.
    pub(super) fn quarantined(&self) -> Self {
        Self {
            life_ms: 0,
            not_before: None,
            intents: Vec::new(),
            ..self.clone()
        }
    }

    /// Records the ids of the sign-ins that this one replaces, newest first.
    pub(super) fn replaces<'a>(&mut self, ids: impl IntoIterator<Item = &'a String>) {
        self.replaced = newest(ids.into_iter().filter(|id| **id != self.sign_in));
    }

    /// Contents to write, with a new write id.
    pub(super) fn write(&self, padding: usize) -> Result<Write, StoreError> {
        let write_id = random_id()?;
        let record = Self {
            write_id: write_id.clone(),
            ..self.clone()
        };
        Ok(Write {
            contents: sealed(&record, padding)?,
            write_id,
        })
    }

    /// The stored token, with this remaining lifetime.
    pub(super) fn token(&self, life: Duration, clock: &Clock) -> Result<Token> {
        let unusable = |why: &dyn fmt::Display| {
            Error::new(
                ErrorKind::Store(StoreErrorKind::Damaged),
                format!("the stored access token {why}"),
            )
        };
        let access_token = self
            .access_token
            .as_ref()
            .ok_or_else(|| unusable(&"is missing"))?;
        let access_token = Bearer::new(access_token).map_err(|why| unusable(&why))?;
        let access_token = AccessToken::of_bearer(access_token);
        let mut token = Token::valid_from_now(access_token, life, clock);
        token.refresh_token = Some(self.refresh_token.clone());
        token.expires_at = self.expires_at();
        token.log_id.clone_from(&self.log_id);
        token.client_id.clone_from(&self.client_id);
        token.api_base.clone_from(&self.api_base);
        Ok(token)
    }

    /// The access token. `None` if only the refresh token is known: it was imported, or the last refresh returned an
    /// unusable access token.
    #[must_use]
    pub fn access_token(&self) -> Option<&Secret> {
        self.access_token.as_ref()
    }

    /// The refresh token. It is single-use.
    #[must_use]
    pub fn refresh_token(&self) -> &RefreshToken {
        &self.refresh_token
    }

    /// When the access token expires, **by the server's clock**.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(self.expires_at))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The remaining lifetime of the access token when the record was loaded. Zero if it is not known.
    #[must_use]
    pub fn life(&self) -> Duration {
        Duration::from_millis(self.life_ms)
    }

    /// The lifetime of the access token when it was received.
    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_millis(self.lifetime_ms.max(self.life_ms))
    }

    /// The client id of the app that the sign-in was granted to: no other app can redeem its refresh token. `None` if
    /// it is not known.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// The [API base](crate::Endpoint::api_base) of the endpoint that issued the tokens: they are sent nowhere else.
    /// `None` if it is not known, because an earlier version has stored the sign-in.
    #[must_use]
    pub fn api_base(&self) -> Option<&str> {
        self.api_base.as_deref()
    }

    /// Why the sign-in has ended, if it has: an error with Coze's code and log id. Its refresh token is no longer sent, and the
    /// user has to sign in again.
    #[must_use]
    pub fn ended(&self) -> Option<Error> {
        self.has_ended().then(|| self.end("the sign-in has ended"))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The error of a sign-in that has ended.
    pub(super) fn end(&self, what: impl Into<String>) -> Error {
        let ended = self.ended.as_ref();
        let code = ended.map(|ended| ErrorCode::from_word(&ended.code));
        Error::new(ErrorKind::NotSignedIn, what)
            .with_code(code.unwrap_or(ErrorCode::InvalidGrant))
            .with_log_id(ended.and_then(|ended| ended.log_id.clone()))
    }

    /// Whether it holds this refresh token.
    pub(super) fn holds(&self, refresh_token: &RefreshToken) -> bool {
        self.refresh_token.secret().ct_eq(refresh_token.expose())
    }

    /// Whether it is the given record, or a later generation of the same sign-in.
    pub(super) fn descends_from(
        &self,
        sign_in: &str,
        generation: u64,
        token: &RefreshToken,
    ) -> bool {
        self.sign_in == sign_in
            && (self.generation > generation || self.generation == generation && self.holds(token))
    }

    pub(super) fn fingerprint(&self) -> String {
        fingerprint(&self.refresh_token)
    }
}

impl Tombstone {
    /// A tombstone for these sign-ins.
    pub(super) fn ending<'a>(
        ids: impl IntoIterator<Item = &'a String>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            version: VERSION,
            write_id: random_id()?,
            signed_out: newest(ids),
        })
    }

    pub(super) fn write(&self) -> Result<Write, StoreError> {
        Ok(Write {
            contents: sealed(self, 0)?,
            write_id: self.write_id.clone(),
        })
    }
}

impl Entry {
    /// Parses contents. An error does not quote them.
    pub(super) fn of(contents: &Contents) -> Self {
        Self::parse(contents.expose()).unwrap_or_else(Self::Damaged)
    }

    fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
            signed_out: Option<Value>,
        }
        let damaged = |what: String| Error::new(ErrorKind::Store(StoreErrorKind::Damaged), what);
        let unreadable = |error: serde_json::Error| {
            damaged(format!(
                "the stored contents are not a sign-in: {} at line {}, column {}",
                what_is_wrong(&error),
                error.line(),
                error.column()
            ))
        };
        let Envelope {
            checksum, record, ..
        } = serde_json::from_slice(json).map_err(unreadable)?;
        let record = record.get();
        if checksum != hash(record.as_bytes()) {
            return Err(damaged(
                "the checksum of the stored sign-in does not match: it was edited or is damaged"
                    .to_owned(),
            ));
        }
        let Versioned {
            version,
            signed_out,
        } = serde_json::from_str(record).map_err(unreadable)?;
        if version > VERSION {
            return Err(damaged(format!(
                "the stored sign-in has version {version}, but this program supports only {VERSION}: \
                 a newer program wrote it, so update this one"
            )));
        }
        if signed_out.is_some() {
            return Ok(Self::Tombstone(
                serde_json::from_str(record).map_err(unreadable)?,
            ));
        }
        let record: Record = serde_json::from_str(record).map_err(unreadable)?;
        if record.refresh_token.expose().is_empty() {
            return Err(damaged(
                "the stored sign-in has no refresh token".to_owned(),
            ));
        }
        Ok(Self::Record(Box::new(record)))
    }

    /// The id of the write that stored it.
    pub(super) fn write_id(&self) -> Option<&str> {
        match self {
            Self::Record(record) => Some(&record.write_id),
            Self::Tombstone(tombstone) => Some(&tombstone.write_id),
            Self::Damaged(_) => None,
        }
    }

    /// Ids of the sign-ins that a replacement has to name, newest first.
    pub(super) fn ids(&self) -> Vec<&String> {
        match self {
            Self::Record(record) => std::iter::once(&record.sign_in)
                .chain(&record.replaced)
                .collect(),
            Self::Tombstone(tombstone) => tombstone.signed_out.iter().collect(),
            Self::Damaged(_) => Vec::new(),
        }
    }
}

/// The envelope around a record or a tombstone.
fn sealed(record: &impl Serialize, padding: usize) -> Result<Contents, StoreError> {
    let record = json(record)?;
    let raw: &RawValue = serde_json::from_slice(&record).map_err(|error| {
        StoreError::new(StoreErrorKind::Other, "the sign-in's JSON can't be read")
            .with_source(error)
    })?;
    let envelope = Envelope {
        checksum: hash(&record),
        record: raw,
        padding: (padding > 0).then(|| random_text(padding)).transpose()?,
    };
    Ok(json(&envelope)?.into())
}

/// Serializes into a large buffer: reallocation would leave copies of secrets that are not wiped.
fn json(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let mut json = Zeroizing::new(Vec::with_capacity(USUAL_LENGTH));
    serde_json::to_writer(&mut *json, value).map_err(|error| {
        StoreError::new(
            StoreErrorKind::Other,
            "the sign-in can't be written as JSON",
        )
        .with_source(error)
    })?;
    Ok(json)
}

fn newest<'a>(ids: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut newest: Vec<String> = Vec::new();
    for id in ids {
        if newest.len() < MOST_REPLACED && !newest.contains(id) {
            newest.push(id.clone());
        }
    }
    newest
}

/// Not serde's message, which may quote a value.
fn what_is_wrong(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Eof => "they are truncated",
        serde_json::error::Category::Syntax => "they are not JSON",
        serde_json::error::Category::Data => "a field is missing or of another type",
        serde_json::error::Category::Io => "they can't be read",
    }
}

/// Identifies a refresh token without revealing it: 128 bits of its SHA-256.
pub(super) fn fingerprint(refresh_token: &RefreshToken) -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, refresh_token.expose().as_bytes()).as_ref()[..16])
}

pub(super) fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

fn random_bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, StoreError> {
    random::bytes().map_err(|error| {
        StoreError::new(StoreErrorKind::Other, "the system provided no random bytes")
            .with_source(error)
    })
}

fn random_id() -> Result<String, StoreError> {
    random_bytes::<16>().map(|bytes| URL_SAFE_NO_PAD.encode(*bytes))
}

/// Random, so that a store that compresses its contents reserves most of the padding: base64 compresses to three
/// quarters at best.
fn random_text(length: usize) -> Result<String, StoreError> {
    let mut text = String::with_capacity(length + 64);
    while text.len() < length {
        text.push_str(&URL_SAFE_NO_PAD.encode(*random_bytes::<48>()?));
    }
    text.truncate(length);
    Ok(text)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("access_token", &self.access_token)
            .field("refresh_token", &self.refresh_token)
            .field("expires_at", &self.expires_at())
            .field("life", &self.life())
            .field("log_id", &self.log_id)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
