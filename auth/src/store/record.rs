//! What is stored of a sign-in, and its JSON.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, RefreshToken, Result, Token};

/// The version of the JSON that this crate writes. Within a version, fields may be added.
const VERSION: u64 = 1;

/// A sign-in as it is stored: its tokens, and how long the access token was valid when it was stored.
///
/// `Debug` prints no secret; [`to_json`](Self::to_json) holds them. Fields that a later version of this crate has
/// added are kept.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    version: u64,
    /// Empty where the answer's could not be used.
    #[serde(default)]
    access_token: Secret,
    refresh_token: RefreshToken,
    /// By the server's clock.
    expires_at: u64,
    /// What was left of the access token's life when this was written.
    life_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The fingerprint of the refresh token that was redeemed for this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    follows: Option<String>,
    /// The fingerprint of the refresh token that the person's sign-in brought, if it has been redeemed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    began_with: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dead: Option<Dead>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Why a sign-in is over: only the person can begin another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dead {
    /// Coze's word.
    pub code: String,
    /// Coze's log id of the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_id: Option<String>,
}

impl Record {
    /// The record of a token that has just come, or of one that still lives.
    ///
    /// # Errors
    ///
    /// [`InvalidAnswer`](ErrorKind::InvalidAnswer) when it came without a refresh token.
    pub fn of(token: &Token) -> Result<Self> {
        let refresh_token = token.refresh_token().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidAnswer,
                "there is no refresh token, so the sign-in can't be kept",
            )
            .with_log_id(token.log_id().map(str::to_owned))
        })?;
        Ok(Self::with(token, refresh_token.clone()))
    }

    /// The record of a refresh token alone, which comes with no access token: the first refresh brings one.
    pub(crate) fn of_refresh_token(refresh_token: RefreshToken, client_id: &str) -> Self {
        Self {
            version: VERSION,
            access_token: Secret::default(),
            refresh_token,
            expires_at: 0,
            life_ms: 0,
            log_id: None,
            client_id: Some(client_id.to_owned()),
            follows: None,
            began_with: None,
            dead: None,
            other: Map::new(),
        }
    }

    /// The record that takes this one's place, of the token that its refresh token was redeemed for. If no other
    /// refresh token was issued, the old one stays (RFC 6749 section 6).
    pub(crate) fn successor(&self, token: &Token) -> Self {
        let refresh_token = token.refresh_token().unwrap_or(&self.refresh_token);
        self.followed_by(Self::with(token, refresh_token.clone()))
    }

    /// The same, where the answer's access token can't be used.
    pub(crate) fn successor_without_access_token(&self, refresh_token: &RefreshToken) -> Self {
        let client_id = self.client_id.clone();
        self.followed_by(Self {
            client_id,
            ..Self::of_refresh_token(refresh_token.clone(), "")
        })
    }

    fn followed_by(&self, successor: Self) -> Self {
        let redeemed = fingerprint(&self.refresh_token);
        Self {
            began_with: Some(self.began_with.clone().unwrap_or_else(|| redeemed.clone())),
            follows: Some(redeemed),
            other: self.other.clone(),
            ..successor
        }
    }

    fn with(token: &Token, refresh_token: RefreshToken) -> Self {
        let since_epoch = token
            .expires_at()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let life = token.remaining().as_millis();
        Self {
            version: VERSION,
            access_token: token.access_token().clone(),
            refresh_token,
            expires_at: since_epoch.as_secs(),
            life_ms: u64::try_from(life).unwrap_or(u64::MAX),
            log_id: token.log_id().map(str::to_owned),
            client_id: token.client_id().map(str::to_owned),
            follows: None,
            began_with: None,
            dead: None,
            other: Map::new(),
        }
    }

    /// The same, marked as over.
    pub(crate) fn died(&self, of: &Error) -> Self {
        let code = of.code().map(ToString::to_string);
        Self {
            dead: Some(Dead {
                code: code.unwrap_or_else(|| "unknown".to_owned()),
                log_id: of.log_id().map(str::to_owned),
            }),
            ..self.clone()
        }
    }

    /// The access token; empty, with a life of zero, where the answer's could not be used, or none is known yet.
    #[must_use]
    pub fn access_token(&self) -> &Secret {
        &self.access_token
    }

    /// The refresh token, which works once.
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

    /// How long the access token had to live when it was stored.
    #[must_use]
    pub fn life_when_stored(&self) -> Duration {
        Duration::from_millis(self.life_ms)
    }

    /// Coze's log id of the answer that brought it.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The client id of the app that the person granted it to: no other can redeem its refresh token. `None` if it is
    /// not known.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// Why the sign-in is over, if it is. Its refresh token is not sent any more.
    #[must_use]
    pub fn dead(&self) -> Option<&Dead> {
        self.dead.as_ref()
    }

    /// Whether both hold the same refresh token: what a compare-and-set compares.
    #[must_use]
    pub fn holds(&self, refresh_token: &RefreshToken) -> bool {
        self.refresh_token.secret().ct_eq(refresh_token.expose())
    }

    /// Whether this was got for that refresh token.
    #[must_use]
    pub fn follows(&self, redeemed: &RefreshToken) -> bool {
        self.follows.as_deref() == Some(fingerprint(redeemed).as_str())
    }

    /// Whether this is what has become, by one refresh or by many, of the sign-in that brought that refresh token. Then
    /// that one is spent, and must not be [`put`](super::Store::put) in this one's place.
    #[must_use]
    pub fn descends_from(&self, first: &RefreshToken) -> bool {
        self.follows(first) || self.began_with.as_deref() == Some(fingerprint(first).as_str())
    }

    /// What a store writes. It holds secrets, and is wiped when dropped.
    ///
    /// # Errors
    ///
    /// None that is known of: strings and numbers always have a JSON.
    pub fn to_json(&self) -> Result<Zeroizing<String>> {
        // Its growth would leave copies behind that nobody wipes.
        let mut json = Zeroizing::new(Vec::with_capacity(MOST_JSON));
        serde_json::to_writer(&mut *json, self)
            .map_err(|error| Error::of_store("the sign-in can't be written as JSON", error))?;
        let json = String::from_utf8(std::mem::take(&mut *json));
        json.map(Zeroizing::new)
            .map_err(|_| Error::new(ErrorKind::Store, "the sign-in's JSON is no UTF-8"))
    }

    /// What a store has read.
    ///
    /// # Errors
    ///
    /// [`StoreDamaged`](ErrorKind::StoreDamaged) when it is no sign-in, is cut short, or was written by a
    /// newer version of this crate. It quotes nothing of what was read.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let damaged = |error: serde_json::Error| {
            Error::new(
                ErrorKind::StoreDamaged,
                format!(
                    "what is stored is not a sign-in: {} at line {}, column {}",
                    what_is_wrong(&error),
                    error.line(),
                    error.column()
                ),
            )
        };
        let Versioned { version } = serde_json::from_slice(json).map_err(damaged)?;
        if version > VERSION {
            return Err(Error::new(
                ErrorKind::StoreDamaged,
                format!(
                    "the stored sign-in has version {version}, and this program knows {VERSION} at most: \
                     a newer program wrote it, so update this one"
                ),
            ));
        }
        let record: Self = serde_json::from_slice(json).map_err(damaged)?;
        if record.refresh_token.secret().is_empty() {
            return Err(Error::new(
                ErrorKind::StoreDamaged,
                "what is stored is not a sign-in: its refresh token is empty",
            ));
        }
        Ok(record)
    }
}

/// Longer records grow, and are still right.
const MOST_JSON: usize = 16 * 1024;

/// serde's own text may quote a value.
pub(super) fn what_is_wrong(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Eof => "it is cut short",
        serde_json::error::Category::Syntax => "it is no JSON",
        serde_json::error::Category::Data => "a field is missing or of another type",
        serde_json::error::Category::Io => "it can't be read",
    }
}

/// Tells refresh tokens apart without telling them.
pub(crate) fn fingerprint(refresh_token: &RefreshToken) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, refresh_token.expose().as_bytes()))
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("access_token", &self.access_token)
            .field("refresh_token", &self.refresh_token)
            .field("expires_at", &self.expires_at())
            .field("life_when_stored", &self.life_when_stored())
            .field("log_id", &self.log_id)
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = r#"{"version":1,"access_token":"czu_hush","refresh_token":"rt_hush",
        "expires_at":1800000000,"life_ms":899000,"log_id":"2026","of_the_future":{"a":[1]}}"#;

    #[test]
    fn fields_of_the_future_are_kept() {
        let record = Record::from_json(STORED.as_bytes()).unwrap();
        let json: Value = serde_json::from_str(&record.to_json().unwrap()).unwrap();
        assert_eq!(json, serde_json::from_str::<Value>(STORED).unwrap());
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let newer = STORED.replace("\"version\":1", "\"version\":2");
        let error = Record::from_json(newer.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreDamaged);
        assert!(error.to_string().contains("update"), "{error}");
    }

    #[test]
    fn what_is_no_record_is_an_error_that_quotes_nothing_of_it() {
        let without_token = STORED.replace("rt_hush", "");
        let wrong_type = STORED.replace("899000", "\"hush\"");
        let cut = &STORED[..60];
        for (bad, what) in [
            ("", "cut short"),
            (cut, "cut short"),
            ("hush", "no JSON"),
            ("{}", "field"),
            ("[]", "field"),
            (wrong_type.as_str(), "field"),
            (without_token.as_str(), "empty"),
        ] {
            let error = Record::from_json(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StoreDamaged, "{bad}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(what), "{bad}: {text}");
            assert!(!text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let record = Record::from_json(STORED.as_bytes()).unwrap();
        assert!(!format!("{record:?}").contains("hush"));
    }

    #[test]
    fn a_fingerprint_tells_what_it_follows() {
        let redeemed = RefreshToken::new("rt_before").unwrap();
        let mut record = Record::from_json(STORED.as_bytes()).unwrap();
        assert!(!record.follows(&redeemed));
        record.follows = Some(fingerprint(&redeemed));
        assert!(record.follows(&redeemed) && record.descends_from(&redeemed));
        assert!(!record.follows(record.refresh_token()));
        record.follows = Some(fingerprint(&RefreshToken::new("rt_between").unwrap()));
        record.began_with = Some(fingerprint(&redeemed));
        assert!(!record.follows(&redeemed) && record.descends_from(&redeemed));
        assert!(!record.descends_from(record.refresh_token()));
    }
}
