//! Random strings, bytes and jitter from the operating system's generator. The generator of aws-lc-rs takes a third of a
//! second to start, which is too slow for a program that needs only one token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::Secret;
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result};

/// The length of a `state`, code verifier or `jti` before encoding.
const STRING_BYTES: usize = 32;

/// Returns 256 random bits as 43 URL-safe characters. Used for `state`, code verifiers and `jti`.
pub(crate) fn string() -> Result<Secret> {
    Ok(URL_SAFE_NO_PAD.encode(*bytes::<STRING_BYTES>()?).into())
}

pub(crate) fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut()).map_err(|error| {
        Error::new(
            ErrorKind::System,
            "the operating system has no random bytes",
        )
        .with_source(error)
    })?;
    Ok(bytes)
}

/// Uniformly distributed between 0 and 1; 1 if the operating system has no random bytes.
pub(crate) fn fraction() -> f64 {
    bytes().map_or(1.0, |bytes| {
        f64::from(u32::from_ne_bytes(*bytes)) / f64::from(u32::MAX)
    })
}

/// A factor between 0.75 and 1.25, so that many instances don't refresh at the same time.
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
    fn fractions_are_uniformly_distributed() {
        let fractions: Vec<f64> = (0..1000).map(|_| fraction()).collect();
        let mean = fractions.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
        assert!(fractions.iter().all(|each| (0.0..=1.0).contains(each)));
    }
}
