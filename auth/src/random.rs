//! Random strings, bytes and jitter, all from the library that also signs and hashes.

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::Secret;
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result};

/// Random bytes in a state, a code verifier or a JWT's id: 43 characters once encoded.
const STRING_BYTES: usize = 32;

/// A string of 43 URL-safe characters: 256 bits.
pub(crate) fn string() -> Result<Secret> {
    Ok(URL_SAFE_NO_PAD.encode(*bytes::<STRING_BYTES>()?).into())
}

pub(crate) fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(bytes.as_mut()).map_err(|error| {
        Error::new(ErrorKind::System, "the system gave no random bytes").with_source(error)
    })?;
    Ok(bytes)
}

/// Evenly spread over 0 to 1; 1 where the system has no random bytes.
pub(crate) fn fraction() -> f64 {
    bytes().map_or(1.0, |bytes| {
        f64::from(u32::from_ne_bytes(*bytes)) / f64::from(u32::MAX)
    })
}

/// Spreads the refreshes of many instances: 0.75 to 1.25.
pub(crate) fn jitter() -> f64 {
    0.75 + fraction() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_strings_have_43_characters_and_differ() {
        let (one, other) = (string().unwrap(), string().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one.expose(), other.expose());
    }

    #[test]
    fn fractions_are_spread() {
        let fractions: Vec<f64> = (0..1000).map(|_| fraction()).collect();
        let mean = fractions.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
        assert!(fractions.iter().all(|each| (0.0..=1.0).contains(each)));
    }
}
