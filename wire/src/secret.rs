//! A string that must not be seen.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret string: an access or refresh token, a code, a verifier, a client secret, a key.
///
/// `Debug` prints `Secret(****)`, there is no `Display`, and the memory is overwritten when the
/// value is dropped. Reading it takes an explicit [`expose`](Secret::expose), so that every such
/// place can be found by name.
///
/// It serialises as the plain string, because that is what a request body or a session store needs.
///
/// ```
/// use coze_wire::Secret;
///
/// let token = Secret::from("czu_abc");
/// assert_eq!(format!("{token:?}"), "Secret(****)");
/// assert_eq!(token.expose(), "czu_abc");
/// ```
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself. Keep the borrow short, and never format it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both secrets are the same, compared in constant time (for a given length).
    #[must_use]
    pub fn ct_eq(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::from(secret.to_owned())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_the_secret_nor_its_length() {
        assert_eq!(
            format!("{:?} {:#?}", Secret::from("hush"), Secret::from("")),
            "Secret(****) Secret(****)"
        );
    }

    #[test]
    fn json_carries_the_plain_string_both_ways() {
        let secret: Secret = serde_json::from_str("\"hush\"").unwrap();
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"hush\"");
    }

    #[test]
    fn comparison_tells_same_from_different() {
        let secret = Secret::from("hush");
        assert!(secret.ct_eq("hush"));
        assert!(!secret.ct_eq("hus"));
        assert!(!secret.ct_eq("husk"));
    }
}
