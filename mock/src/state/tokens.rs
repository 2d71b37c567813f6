//! Access tokens, and the ledger of refresh tokens: for each sign-in, all generations in order.

use super::{Sweep, forget_first};
use crate::clock::millis;
use crate::limits::{self, bytes_of};
use crate::secret::{Digest, digest_of, fingerprint_of};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The flow by which a token was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Grant {
    /// Authorization code, with a secret or with PKCE.
    AuthorizationCode,
    /// Device authorization.
    Device,
    /// JWT.
    Jwt,
    /// Registered with the mock: a personal or service access token.
    Fixed,
}

/// The properties of an access token.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GrantedToken {
    /// The flow by which it was obtained.
    pub flow: Grant,
    /// The app; empty for a fixed token.
    pub client_id: String,
    /// When it expires, in seconds since the UNIX epoch; `None` for a fixed token.
    pub expires_at: Option<u64>,
    /// The workspace that it is limited to.
    pub workspace_id: Option<String>,
    /// The account in the path of the exchange.
    pub account_id: Option<String>,
    /// The enterprise in the path of the exchange.
    pub enterprise_id: Option<String>,
    /// The JWT's `session_name`.
    pub session_name: Option<String>,
    /// The JWT's `session_context`.
    pub session_context: Option<Value>,
    /// The requested scope.
    pub scope: Option<Value>,
    /// The sign-in that it belongs to: the [`TokenFamily::id`].
    pub sign_in: Option<u64>,
}

impl GrantedToken {
    pub(crate) fn new(flow: Grant, client_id: &str, expires_at: Option<u64>) -> Self {
        Self {
            flow,
            client_id: client_id.to_owned(),
            expires_at,
            workspace_id: None,
            account_id: None,
            enterprise_id: None,
            session_name: None,
            session_context: None,
            scope: None,
            sign_in: None,
        }
    }

    /// The bytes that the client controls.
    fn bytes(&self) -> usize {
        let texts = [&self.session_name, &self.account_id, &self.enterprise_id];
        let values = [&self.session_context, &self.scope];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        texts + values.into_iter().flatten().map(bytes_of).sum::<usize>()
    }

    fn ends_at(&self) -> Duration {
        self.expires_at.map_or(Duration::MAX, Duration::from_secs)
    }
}

/// One sign-in of a user and its token family.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TokenFamily {
    /// Counts up from 1.
    pub id: u64,
    /// The app.
    pub client_id: String,
    /// How the user signed in.
    pub flow: Grant,
    /// The workspace that it is limited to.
    pub workspace_id: Option<String>,
    /// When the token family was revoked, in milliseconds since the UNIX epoch.
    pub revoked_at_unix_ms: Option<u64>,
    /// When the user's login session ended. A refresh is refused with `access_deny` afterwards.
    pub login_ended_at_unix_ms: Option<u64>,
    /// The number of oldest generations that were dropped because of the mock's limit.
    pub forgotten_generations: usize,
    /// The refresh tokens, oldest first. The last one is valid, unless the sign-in has ended.
    pub generations: Vec<Generation>,
}

/// One refresh token.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Generation {
    /// Its [`fingerprint`](crate::fingerprint).
    pub refresh_token: String,
    /// The fingerprint of the access token that was issued with it.
    pub access_token: String,
    /// When it was issued, in milliseconds since the UNIX epoch.
    pub issued_at_unix_ms: u64,
    /// When it was redeemed.
    pub redeemed_at_unix_ms: Option<u64>,
    /// When it was sent again after that.
    pub reused_at_unix_ms: Vec<u64>,
    #[serde(skip)]
    refresh_digest: Digest,
    #[serde(skip)]
    access_digest: Digest,
    #[serde(skip)]
    expires_at: Duration,
}

impl TokenFamily {
    /// The fingerprint of the refresh token that is still valid.
    #[must_use]
    pub fn live_refresh_token(&self) -> Option<&str> {
        let last = self.generations.last()?;
        let ended = self.revoked_at_unix_ms.is_some() || self.login_ended_at_unix_ms.is_some();
        (!ended && last.redeemed_at_unix_ms.is_none()).then_some(last.refresh_token.as_str())
    }

    fn generation(&mut self, number: usize) -> Option<&mut Generation> {
        let at = number.checked_sub(self.forgotten_generations)?;
        self.generations.get_mut(at)
    }

    /// How often a redeemed refresh token was sent again.
    #[must_use]
    pub fn reuse_attempts(&self) -> usize {
        self.generations
            .iter()
            .map(|generation| generation.reused_at_unix_ms.len())
            .sum()
    }
}

/// The two properties of Coze's refresh that are not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RefreshPolicy {
    pub(crate) reuse_revokes_family: bool,
    pub(crate) refresh_revokes_access_token: bool,
}

/// Why a refresh token is not redeemed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotRedeemed {
    Invalid(&'static str),
    LoginEnded,
}

pub(crate) struct NewTokenFamily {
    pub(crate) client_id: String,
    pub(crate) flow: Grant,
    pub(crate) workspace_id: Option<String>,
}

/// A new access token and refresh token.
pub(crate) struct Pair<'a> {
    pub(crate) access_token: &'a str,
    pub(crate) access_expires_at: u64,
    pub(crate) refresh_token: &'a str,
    pub(crate) refresh_expires_at: Duration,
}

/// All tokens of one mock.
#[derive(Default)]
pub(crate) struct Tokens {
    access: HashMap<Digest, GrantedToken>,
    access_bytes: usize,
    /// The sign-in and the generation of each refresh token. Generations are counted from the first, including dropped ones.
    refresh: HashMap<Digest, (u64, usize)>,
    sign_ins: BTreeMap<u64, TokenFamily>,
    last_sign_in: u64,
    sweep: Sweep,
}

impl Tokens {
    pub(crate) fn insert_access(
        &mut self,
        access_token: &str,
        granted: GrantedToken,
        now: Duration,
    ) {
        if self.sweep.is_due(self.access.len()) {
            let now = now.as_secs();
            self.access
                .retain(|_, granted| granted.expires_at.is_none_or(|expires_at| now < expires_at));
            self.weigh_access();
        }
        self.access_bytes += granted.bytes();
        let too_many = self.access.len() >= limits::ACCESS_TOKENS;
        if too_many || self.access_bytes > limits::ACCESS_TOKEN_BYTES {
            forget_first(&mut self.access, 1, GrantedToken::ends_at);
            self.weigh_access();
            self.access_bytes += granted.bytes();
        }
        self.access.insert(digest_of(access_token), granted);
    }

    fn weigh_access(&mut self) {
        self.access_bytes = self.access.values().map(GrantedToken::bytes).sum();
    }

    /// The properties of a token, if it is valid.
    pub(crate) fn access(&self, access_token: &str, now: Duration) -> Option<&GrantedToken> {
        let granted = self.access.get(&digest_of(access_token))?;
        granted
            .expires_at
            .is_none_or(|expires_at| now.as_secs() < expires_at)
            .then_some(granted)
    }

    pub(crate) fn revoke_access(&mut self, access_token: &str) -> bool {
        self.access.remove(&digest_of(access_token)).is_some()
    }

    pub(crate) fn open_sign_in(&mut self, new: NewTokenFamily) -> u64 {
        if self.sign_ins.len() >= limits::SIGN_INS || self.refresh.len() >= limits::GENERATIONS {
            self.forget_oldest_sign_in();
        }
        self.last_sign_in += 1;
        let id = self.last_sign_in;
        let sign_in = TokenFamily {
            id,
            client_id: new.client_id,
            flow: new.flow,
            workspace_id: new.workspace_id,
            revoked_at_unix_ms: None,
            login_ended_at_unix_ms: None,
            forgotten_generations: 0,
            generations: Vec::new(),
        };
        self.sign_ins.insert(id, sign_in);
        id
    }

    fn forget_oldest_sign_in(&mut self) {
        let Some((_, oldest)) = self.sign_ins.pop_first() else {
            return;
        };
        for generation in &oldest.generations {
            self.refresh.remove(&generation.refresh_digest);
        }
    }

    /// Adds the next generation of a sign-in and its access token.
    pub(crate) fn add_generation(&mut self, sign_in: u64, pair: &Pair<'_>, now: Duration) {
        let oldest = self.sign_ins.first_key_value().map(|(id, _)| *id);
        if self.refresh.len() >= limits::GENERATIONS && oldest != Some(sign_in) {
            self.forget_oldest_sign_in();
        }
        let Some(family) = self.sign_ins.get_mut(&sign_in) else {
            return;
        };
        if family.generations.len() >= limits::GENERATIONS_OF_A_SIGN_IN {
            let half = family.generations.len() / 2;
            for generation in family.generations.drain(..half) {
                self.refresh.remove(&generation.refresh_digest);
            }
            family.forgotten_generations += half;
        }
        let refresh_digest = digest_of(pair.refresh_token);
        let access_digest = digest_of(pair.access_token);
        let number = family.forgotten_generations + family.generations.len();
        self.refresh.insert(refresh_digest, (sign_in, number));
        family.generations.push(Generation {
            refresh_token: fingerprint_of(&refresh_digest),
            access_token: fingerprint_of(&access_digest),
            issued_at_unix_ms: millis(now),
            redeemed_at_unix_ms: None,
            reused_at_unix_ms: Vec::new(),
            refresh_digest,
            access_digest,
            expires_at: pair.refresh_expires_at,
        });
        let granted = GrantedToken {
            workspace_id: family.workspace_id.clone(),
            sign_in: Some(sign_in),
            ..GrantedToken::new(family.flow, &family.client_id, Some(pair.access_expires_at))
        };
        self.insert_access(pair.access_token, granted, now);
    }

    /// Replaces an access token by another string.
    pub(crate) fn rename_access(&mut self, known: &str, sent: &str) {
        let (known, sent) = (digest_of(known), digest_of(sent));
        let Some(granted) = self.access.remove(&known) else {
            return;
        };
        self.access.insert(sent, granted);
        let generations = self
            .sign_ins
            .values_mut()
            .rev()
            .flat_map(|family| &mut family.generations);
        if let Some(generation) = { generations }.find(|one| one.access_digest == known) {
            generation.access_digest = sent;
            generation.access_token = fingerprint_of(&sent);
        }
    }

    /// Replaces a refresh token by another string.
    pub(crate) fn rename_refresh(&mut self, known: &str, sent: &str) {
        let (known, sent) = (digest_of(known), digest_of(sent));
        let Some((sign_in, at)) = self.refresh.remove(&known) else {
            return;
        };
        self.refresh.insert(sent, (sign_in, at));
        let family = self.sign_ins.get_mut(&sign_in);
        if let Some(generation) = family.and_then(|family| family.generation(at)) {
            generation.refresh_digest = sent;
            generation.refresh_token = fingerprint_of(&sent);
        }
    }

    /// Redeems a refresh token, which is invalid afterwards, and returns its sign-in.
    pub(crate) fn redeem_refresh(
        &mut self,
        refresh_token: &str,
        client_id: &str,
        policy: RefreshPolicy,
        now: Duration,
    ) -> Result<u64, NotRedeemed> {
        let Some(&(id, at)) = self.refresh.get(&digest_of(refresh_token)) else {
            return Err(NotRedeemed::Invalid("the refresh token is unknown"));
        };
        let family = self
            .sign_ins
            .get_mut(&id)
            .filter(|family| family.client_id == client_id);
        let Some(family) = family else {
            return Err(NotRedeemed::Invalid(
                "the refresh token belongs to another app",
            ));
        };
        let revoked = family.revoked_at_unix_ms.is_some();
        let login_ended = family.login_ended_at_unix_ms.is_some();
        let Some(generation) = family.generation(at) else {
            return Err(NotRedeemed::Invalid("the refresh token is unknown"));
        };
        if generation.redeemed_at_unix_ms.is_some() {
            if generation.reused_at_unix_ms.len() < limits::REUSES {
                generation.reused_at_unix_ms.push(millis(now));
            }
            if policy.reuse_revokes_family {
                self.revoke_family(id, now);
            }
            return Err(NotRedeemed::Invalid(
                "the refresh token was already redeemed",
            ));
        }
        if revoked {
            return Err(NotRedeemed::Invalid("the sign-in was revoked"));
        }
        if now >= generation.expires_at {
            return Err(NotRedeemed::Invalid("the refresh token has expired"));
        }
        if login_ended {
            return Err(NotRedeemed::LoginEnded);
        }
        generation.redeemed_at_unix_ms = Some(millis(now));
        if policy.refresh_revokes_access_token {
            let access = generation.access_digest;
            self.access.remove(&access);
        }
        Ok(id)
    }

    /// Revokes a sign-in with all its tokens.
    pub(crate) fn revoke_family(&mut self, sign_in: u64, now: Duration) -> bool {
        let Some(family) = self.sign_ins.get_mut(&sign_in) else {
            return false;
        };
        family.revoked_at_unix_ms.get_or_insert(millis(now));
        for generation in &family.generations {
            self.access.remove(&generation.access_digest);
        }
        true
    }

    /// Ends the user's login session. The access token stays valid.
    pub(crate) fn end_login(&mut self, sign_in: u64, now: Duration) -> bool {
        let Some(family) = self.sign_ins.get_mut(&sign_in) else {
            return false;
        };
        family.login_ended_at_unix_ms.get_or_insert(millis(now));
        true
    }

    pub(crate) fn ledger(&self) -> Vec<TokenFamily> {
        self.sign_ins.values().cloned().collect()
    }

    pub(crate) fn sign_in(&self, id: u64) -> Option<TokenFamily> {
        self.sign_ins.get(&id).cloned()
    }

    /// The sign-in of a refresh token, whether or not the token is valid.
    pub(crate) fn sign_in_of(&self, refresh_token: &str) -> Option<u64> {
        self.refresh
            .get(&digest_of(refresh_token))
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(tokens: &mut Tokens) -> u64 {
        tokens.open_sign_in(NewTokenFamily {
            client_id: "app".into(),
            flow: Grant::Device,
            workspace_id: None,
        })
    }

    fn refresh(tokens: &mut Tokens, sign_in: u64, number: usize) {
        let pair = Pair {
            access_token: &format!("a{number}"),
            access_expires_at: u64::MAX,
            refresh_token: &format!("r{number}"),
            refresh_expires_at: Duration::MAX,
        };
        tokens.add_generation(sign_in, &pair, Duration::ZERO);
    }

    #[test]
    fn a_sign_in_keeps_only_its_latest_generations() {
        let mut tokens = Tokens::default();
        let id = sign_in(&mut tokens);
        let count = limits::GENERATIONS_OF_A_SIGN_IN + 3;
        for number in 0..count {
            refresh(&mut tokens, id, number);
        }
        let family = tokens.sign_in(id).expect("the sign-in");
        assert!(family.generations.len() <= limits::GENERATIONS_OF_A_SIGN_IN);
        assert_eq!(
            family.forgotten_generations + family.generations.len(),
            count
        );
        assert_eq!(tokens.refresh.len(), family.generations.len());
        let policy = RefreshPolicy::default();
        let redeem = |tokens: &mut Tokens, token: String| {
            tokens.redeem_refresh(&token, "app", policy, Duration::ZERO)
        };
        assert!(redeem(&mut tokens, "r0".into()).is_err(), "forgotten");
        assert_eq!(
            redeem(&mut tokens, format!("r{}", count - 1)).ok(),
            Some(id)
        );
        let family = tokens.sign_in(id).expect("the sign-in");
        assert_eq!(family.live_refresh_token(), None);
    }

    #[test]
    fn token_properties_are_bounded_in_bytes() {
        let mut tokens = Tokens::default();
        let fixed = GrantedToken::new(Grant::Fixed, "", None);
        tokens.insert_access("fixed", fixed, Duration::ZERO);
        for number in 0..70u64 {
            let granted = GrantedToken {
                session_name: Some("x".repeat(limits::ACCESS_TOKEN_BYTES / 32)),
                ..GrantedToken::new(Grant::Jwt, "app", Some(1_000 + number))
            };
            tokens.insert_access(&number.to_string(), granted, Duration::ZERO);
            let kept: usize = tokens.access.values().map(GrantedToken::bytes).sum();
            assert!(kept <= limits::ACCESS_TOKEN_BYTES, "{kept}");
        }
        assert!(tokens.access("69", Duration::ZERO).is_some(), "the latest");
        assert!(tokens.access("0", Duration::ZERO).is_none(), "the first");
        assert!(tokens.access("fixed", Duration::ZERO).is_some());
    }
}
