//! The `Authorization: Bearer` header.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::Secret;

/// An `Authorization: Bearer <credential>` header value. It is marked sensitive, so that HTTP libraries neither print it
/// nor add it to the HPACK table, and is wiped when its last copy is dropped.
///
/// Coze accepts a client secret (web flow), a JWT (JWT flow) or an access token (API calls) this way:
/// <https://www.coze.cn/open/docs/developer_guides/authentication>, RFC 6750 section 2.1.
///
/// ```
/// use coze_wire::{Bearer, Secret};
///
/// let bearer = Bearer::new(&Secret::from("pat_abc"))?;
/// assert_eq!(bearer.header_value().as_bytes(), b"Bearer pat_abc");
/// assert!(bearer.header_value().is_sensitive());
/// # Ok::<(), coze_wire::InvalidBearer>(())
/// ```
#[derive(Clone)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// Creates the header value for a credential.
    ///
    /// # Errors
    ///
    /// [`InvalidBearer`] if the credential is empty or contains anything but visible ASCII
    /// characters: a line break would end the header, and white space would end the credential.
    pub fn new(credential: &Secret) -> Result<Self, InvalidBearer> {
        Self::build(credential, Bytes::from_owner)
    }

    /// Like [`new`](Self::new), but the reference count has its own cache lines, which costs 200 bytes. Use it for a value
    /// that one core clones for each request while other cores clone their own copies.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn padded(credential: &Secret) -> Result<Self, InvalidBearer> {
        Self::build(credential, |header| Bytes::from_owner(Padded(header)))
    }

    fn build(
        credential: &Secret,
        shared: impl FnOnce(Zeroizing<Vec<u8>>) -> Bytes,
    ) -> Result<Self, InvalidBearer> {
        let text = credential.expose();
        if text.is_empty() {
            return Err(InvalidBearer::Empty);
        }
        if let Some(position) = text.bytes().position(|b| !b.is_ascii_graphic()) {
            return Err(InvalidBearer::Character { position });
        }
        // The header value borrows a buffer that is wiped when its last copy is dropped.
        let header = Zeroizing::new(format!("Bearer {text}").into_bytes());
        let mut value = HeaderValue::from_maybe_shared(shared(header))
            .map_err(|_| InvalidBearer::Character { position: 0 })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    pub(crate) fn credential(&self) -> Secret {
        let header = self.0.to_str().unwrap_or_default();
        Secret::from(header.strip_prefix("Bearer ").unwrap_or(header))
    }

    /// The header value, marked sensitive.
    #[must_use]
    #[inline]
    pub fn header_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// Aligned to two 64-byte cache lines, which processors fetch together. `Bytes` stores the reference count before the data.
#[repr(align(128))]
struct Padded(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Padded {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bearer> for HeaderValue {
    fn from(bearer: Bearer) -> Self {
        bearer.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(****)")
    }
}

/// Why a credential can't be sent as a bearer. It contains the position of the invalid character, never the character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidBearer {
    /// The credential is empty.
    Empty,
    /// A character that is not visible ASCII.
    Character {
        /// The byte at which it stands, counted from 0.
        position: usize,
    },
}

impl fmt::Display for InvalidBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Character { position } => write!(
                f,
                "contains white space, a line break or a non-ASCII character at byte {position}"
            ),
        }
    }
}

impl std::error::Error for InvalidBearer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_would_break_the_header_is_refused_without_being_printed() {
        for (credential, expected) in [
            ("", InvalidBearer::Empty),
            ("hush\r\nX: y", InvalidBearer::Character { position: 4 }),
            ("hush hush", InvalidBearer::Character { position: 4 }),
            ("hushé", InvalidBearer::Character { position: 4 }),
        ] {
            let error = Bearer::new(&Secret::from(credential)).unwrap_err();
            assert_eq!(error, expected, "{credential:?}");
            assert!(!format!("{error} {error:?}").contains("hush"));
        }
    }

    #[test]
    fn debug_is_redacted() {
        let credential = Secret::from("hush");
        for bearer in [Bearer::new(&credential), Bearer::padded(&credential)] {
            let bearer = bearer.unwrap();
            assert_eq!(bearer.header_value().as_bytes(), b"Bearer hush");
            assert_eq!(format!("{bearer:?}"), "Bearer(****)");
            assert_eq!(format!("{:?}", bearer.header_value()), "Sensitive");
        }
    }
}
