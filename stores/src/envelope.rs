//! The format of a file or a credential: a header line about the write, then the unchanged contents.
//!
//! ```json
//! {"written_at_ms":1800000000000,"replaces":"5f70…","sha256":"9f86…"}
//! {"contents": "of any kind"}
//! ```
//!
//! Without a valid header line, as after an edit by hand, everything is contents, of unknown age.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant, SystemTime},
};

use coze_auth::store::{Contents, Stored, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A write time up to this far in the future counts as now: clocks are coarse, and are adjusted.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The time of the write, by the store's clock.
    written_at_ms: u64,
    /// The version that this write replaces; none if it creates the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    /// The hash of the contents, which detects a partial write. Only for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// The profile, if its name can't be recovered from the file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
}

pub(crate) struct Envelope {
    pub(crate) header: Option<Header>,
    pub(crate) contents: Contents,
    pub(crate) version: Version,
}

impl Header {
    /// `now` is the time by the store's clock. The time between the call (`asked`) and now is subtracted, because the caller
    /// measured the remaining lifetime of the token before the call, and the store may have waited for a lock.
    pub(crate) fn new(now: SystemTime, asked: Instant) -> Self {
        let written_at = now.checked_sub(asked.elapsed()).unwrap_or(now);
        let since_epoch = written_at.duration_since(SystemTime::UNIX_EPOCH);
        let written_at_ms = since_epoch.unwrap_or_default().as_millis();
        Self {
            written_at_ms: written_at_ms.try_into().unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Adds the hash of the contents and the version that they replace.
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
        // The header contains no secret, and its serialization can't fail.
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

    /// Whether the contents have the hash of the header.
    pub(crate) fn is_complete(&self) -> bool {
        let header = self.header.as_ref();
        header.is_some_and(|header| header.sha256.as_deref() == Some(&hex(&self.version)))
    }

    /// Whether it is complete and replaces this version.
    pub(crate) fn follows(&self, current: Option<&Version>) -> bool {
        let replaces = self
            .header
            .as_ref()
            .and_then(|header| header.replaces.clone());
        self.is_complete() && replaces == current.map(hex)
    }

    /// `now` must come from the clock that set the time of the write.
    pub(crate) fn stored(self, now: SystemTime) -> Stored {
        let age = self.header.and_then(|header| age(header.written_at(), now));
        Stored::new(self.contents, self.version, age)
    }
}

/// `None` if the write is in the future: the clock was set back since.
fn age(written_at: SystemTime, now: SystemTime) -> Option<Duration> {
    match now.duration_since(written_at) {
        Ok(age) => Some(age),
        Err(later) => (later.duration() <= CLOCK_TOLERANCE).then_some(Duration::ZERO),
    }
}

/// A unique name for a text that can't be a name itself, as it is too long or contains other characters.
pub(crate) fn hash(text: &str) -> String {
    hex(&Version::of(&Contents::from(text.as_bytes().to_vec())))
}

fn hex(version: &Version) -> String {
    version
        .as_ref()
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a string can't fail.
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
    fn sealed_contents_can_be_opened() {
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
                "only the line break is missing"
            );
        }
        assert!(Envelope::open(&sealed("first", None)).follows(None));
    }

    #[test]
    fn text_without_a_header_is_contents() {
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
