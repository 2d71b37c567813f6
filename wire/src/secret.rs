//! A string that is never printed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret string: an access or refresh token, an authorization code, a code verifier, a client secret, a key.
///
/// `Debug` prints `Secret(****)`, there is no `Display`, and the memory is overwritten on drop. To read the secret, call
/// [`expose`](Secret::expose); all such places can be found by searching for that name.
///
/// It serializes as the plain string, which request bodies and stores need.
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
    /// The secret itself. Do not print or log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in constant time (for strings of equal length).
    #[must_use]
    pub fn ct_eq(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// Whether the string is empty.
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
    fn only_equal_strings_compare_as_equal() {
        let secret = Secret::from("hush");
        assert!(secret.ct_eq("hush"));
        assert!(!secret.ct_eq("hus"));
        assert!(!secret.ct_eq("husk"));
    }
}
