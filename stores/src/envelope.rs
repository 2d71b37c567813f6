//! What a file or a keyring's credential holds: a line about one write, then the contents as they are.
//!
//! ```json
//! {"written_at_ms":1800000000000,"replaces":"5f70…","sha256":"9f86…"}
//! {"contents": "of any kind"}
//! ```
//!
//! What has no such line, because somebody edited it, is contents of unknown age.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant, SystemTime},
};

use coze_auth::store::{Contents, Stored, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A clock may go back so far without having been set: it is coarse, or is being corrected.
const UNEVEN: Duration = Duration::from_secs(2);

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Header {
    /// By the store's clock.
    written_at_ms: u64,
    /// The version that it replaces; none for one that is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    /// Of the contents: shows that they are complete. Only where they can be written in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Whose it is, where the name of the file does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
}

/// What was read.
pub(crate) struct Envelope {
    pub(crate) header: Option<Header>,
    pub(crate) contents: Contents,
    pub(crate) version: Version,
}

impl Header {
    /// Of contents that are written at this time by the store's clock, by a caller who asked for it then: what is left of a token's
    /// life was measured then, and the store may have waited for its turn since.
    pub(crate) fn new(now: SystemTime, asked: Instant) -> Self {
        let written_at = now.checked_sub(asked.elapsed()).unwrap_or(now);
        let since_epoch = written_at.duration_since(SystemTime::UNIX_EPOCH);
        let written_at_ms = since_epoch.unwrap_or_default().as_millis();
        Self {
            written_at_ms: written_at_ms.try_into().unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The same, so that a reader can tell whether the contents are complete, and what they were to replace.
    pub(crate) fn completing(self, contents: &Contents, expected: Option<&Version>) -> Self {
        Self {
            replaces: expected.map(hex),
            sha256: Some(hex(&Version::of(contents))),
            ..self
        }
    }

    pub(crate) fn written_at(&self) -> SystemTime {
        let written_at = Duration::from_millis(self.written_at_ms);
        SystemTime::UNIX_EPOCH
            .checked_add(written_at)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub(crate) fn seal(&self, contents: &Contents) -> Zeroizing<Vec<u8>> {
        // It holds no secret, and can't fail.
        let line = serde_json::to_string(self).unwrap_or_default();
        let mut sealed =
            Zeroizing::new(Vec::with_capacity(line.len() + 1 + contents.expose().len()));
        let _ = writeln!(*sealed, "{line}");
        sealed.extend_from_slice(contents.expose());
        sealed
    }
}

impl Envelope {
    pub(crate) fn open(sealed: &[u8]) -> Self {
        let (line, rest) = match sealed.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&sealed[..end], &sealed[end + 1..]),
            None => (sealed, &[][..]),
        };
        let header: Option<Header> = serde_json::from_slice(line).ok();
        let contents = Contents::from(if header.is_some() { rest } else { sealed }.to_vec());
        Self {
            header,
            version: Version::of(&contents),
            contents,
        }
    }

    /// Whether nothing of the contents is missing.
    pub(crate) fn is_complete(&self) -> bool {
        let header = self.header.as_ref();
        header.is_some_and(|header| header.sha256.as_deref() == Some(&hex(&self.version)))
    }

    /// Whether it is complete, and was to replace what is there now.
    pub(crate) fn follows(&self, current: Option<&Version>) -> bool {
        let replaces = self
            .header
            .as_ref()
            .and_then(|header| header.replaces.clone());
        self.is_complete() && replaces == current.map(hex)
    }

    /// `now` is by the clock that stamped it.
    pub(crate) fn stored(self, now: SystemTime) -> Stored {
        let age = self.header.and_then(|header| age(header.written_at(), now));
        Stored::new(self.contents, self.version, age)
    }
}

/// Unknown for what was written later than now: the clock was set back since.
fn age(written_at: SystemTime, now: SystemTime) -> Option<Duration> {
    match now.duration_since(written_at) {
        Ok(age) => Some(age),
        Err(later) => (later.duration() <= UNEVEN).then_some(Duration::ZERO),
    }
}

/// Tells texts apart that are too long, or of the wrong characters, for a name.
pub(crate) fn hash(text: &str) -> String {
    hex(&Version::of(&Contents::from(text.as_bytes().to_vec())))
}

fn hex(version: &Version) -> String {
    version
        .as_bytes()
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to memory can't fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(contents: &str, expected: Option<&Version>) -> Vec<u8> {
        let contents = Contents::from(contents.as_bytes().to_vec());
        let header = Header::new(SystemTime::now(), Instant::now());
        header
            .completing(&contents, expected)
            .seal(&contents)
            .to_vec()
    }

    #[test]
    fn what_is_sealed_is_opened() {
        let one = Version::new([1]);
        let other = Version::new([2]);
        for contents in ["", "\n", "{\"a\":1}\n", "no JSON", "\u{0}"] {
            let sealed = sealed(contents, Some(&one));
            let opened = Envelope::open(&sealed);
            assert_eq!(opened.contents.expose(), contents.as_bytes());
            assert!(opened.follows(Some(&one)));
            assert!(!opened.follows(Some(&other)) && !opened.follows(None));
            let cut = Envelope::open(&sealed[..sealed.len() - 1]);
            assert_eq!(
                cut.is_complete(),
                contents.is_empty(),
                "only its line's end is missing"
            );
        }
        assert!(Envelope::open(&sealed("first", None)).follows(None));
    }

    #[test]
    fn what_has_no_header_is_contents() {
        for sealed in ["", "\n", "hush", "{}", "{\"written_at_ms\":\"x\"}\nhush"] {
            let opened = Envelope::open(sealed.as_bytes());
            assert_eq!(opened.contents.expose(), sealed.as_bytes());
            assert!(!opened.is_complete() && !opened.follows(None));
            assert_eq!(opened.stored(SystemTime::now()).age, None);
        }
    }

    #[test]
    fn an_age_is_unknown_when_the_clock_was_set_back() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        assert_eq!(age(now - second, now), Some(second));
        assert_eq!(age(now + second, now), Some(Duration::ZERO));
        assert_eq!(age(now + 3 * second, now), None);
    }
}
