//! The file names of a key.
//!
//! Two keys never share a file, not even on a file system that folds case or normalizes Unicode: all characters except lower-case
//! letters, digits, `-` and `_` are encoded. So a file is never hidden, a name can't leave the folder, and the profile's part ends at
//! the first dot.

use std::fmt::Write;

use coze_auth::store::{Key, Profile};

use crate::envelope::hash;

/// Names that are longer when encoded are shortened, and end with a hash. With the longest extension a file name has at most 143
/// bytes, the limit of eCryptfs; other file systems allow 255.
const LONGEST: usize = 88;
/// How much of a longer name remains readable.
const READABLE: usize = 23;

/// Device names of Windows, which are reserved with any extension.
const DEVICES: [&str; 6] = ["con", "conin$", "conout$", "prn", "aux", "nul"];
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];
/// Windows also treats these as device numbers.
const SUPERSCRIPTS: [&str; 3] = ["¹", "²", "³"];

/// The part of the file names before the extension.
pub(super) fn stem(key: &Key) -> String {
    let profile = profile_stem(key.profile());
    match key.slot() {
        None => profile,
        Some(slot) => format!("{profile}.quarantine-{slot}"),
    }
}

fn profile_stem(profile: &Profile) -> String {
    let name = profile.name();
    let mut encoded = String::with_capacity(name.len() * 3);
    for (at, byte) in name.bytes().enumerate() {
        let plain = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if plain && !(at == 0 && is_device(name)) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(encoded, "%{byte:02x}");
        }
    }
    if encoded.len() <= LONGEST {
        return encoded;
    }
    encoded.truncate(READABLE);
    encoded.push(HASHED);
    encoded.push_str(&hash(name));
    encoded
}

/// Separates the hash. An encoded name contains no plus sign.
const HASHED: char = '+';

/// Whether the profile's name can't be recovered from the file name.
pub(super) fn is_hashed(stem: &str) -> bool {
    stem.contains(HASHED)
}

/// Decodes the profile's name; `None` if the stem is not a valid encoding.
pub(super) fn decoded(stem: &str) -> Option<String> {
    let mut name = Vec::with_capacity(stem.len());
    let mut rest = stem.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                name.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            plain => name.push(*plain),
        }
    }
    String::from_utf8(name).ok()
}

fn is_device(name: &str) -> bool {
    let numbered = || {
        let (word, number) = name.split_at_checked(3)?;
        let is_one = number.parse::<u8>().is_ok_and(|number| number <= 9);
        Some(NUMBERED_DEVICES.contains(&word) && (is_one || SUPERSCRIPTS.contains(&number)))
    };
    DEVICES.contains(&name) || numbered().unwrap_or_default()
}

/// Whether this is a valid folder name on every platform, which no platform alters.
pub(super) fn is_portable(name: &str) -> bool {
    let before_dot = name.split_once('.').map_or(name, |(before, _)| before);
    let is_forbidden = |char: char| char.is_control() || "<>:\"/\\|?*".contains(char);
    !before_dot.is_empty()
        && !name.ends_with(['.', ' '])
        && !name.contains(is_forbidden)
        && !is_device(&before_dot.trim_end().to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn stem_of(name: &str) -> String {
        stem(&Key::record(&Profile::new(name).unwrap()))
    }

    #[test]
    fn a_plain_name_is_not_encoded() {
        for name in ["default", "a-b_c9", "console", "com10", "-", "_"] {
            assert_eq!(stem_of(name), name);
        }
    }

    #[test]
    fn other_characters_are_encoded() {
        for (name, stem) in [
            ("Default", "%44efault"),
            ("me@example.com", "me%40example%2ecom"),
            ("../up", "%2e%2e%2fup"),
            (".", "%2e"),
            ("a b", "a%20b"),
            ("%41", "%2541"),
            ("é", "%c3%a9"),
            ("nul", "%6eul"),
            ("com1", "%63om1"),
            ("com¹", "%63om%c2%b9"),
            ("conin$", "%63onin%24"),
        ] {
            assert_eq!(stem_of(name), stem, "{name}");
            assert_eq!(decoded(stem).unwrap(), name);
        }
    }

    #[test]
    fn a_quarantine_slot_has_its_own_files() {
        let profile = Profile::new("default").unwrap();
        let slot = Key::quarantine_slots(&profile).nth(3).unwrap();
        assert_eq!(stem(&slot), "default.quarantine-3");
        for invalid in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn no_two_profiles_share_a_name_and_each_fits() {
        let long = "ü".repeat(64);
        let longer = format!("{}v", "ü".repeat(63));
        let names = [
            "a",
            "A",
            "%41",
            "%61",
            "a.",
            "a.json",
            "a.other",
            "a.quarantine-1",
            "e\u{301}",
            "\u{e9}",
            "ß",
            "SS",
            "ss",
            "con",
            "CON",
            "%63on",
            "a+b",
            "a%2bb",
            long.as_str(),
            longer.as_str(),
            &long.to_uppercase(),
            &"x".repeat(128),
            &"x".repeat(127),
            &stem_of(&long),
        ]
        .map(str::to_owned);
        let stems: HashSet<_> = names.iter().map(|name| stem_of(name)).collect();
        assert_eq!(stems.len(), names.len());
        let folded: HashSet<_> = stems.iter().map(|stem| stem.to_lowercase()).collect();
        assert_eq!(folded, stems);
        for stem in stems {
            assert!(stem.len() <= LONGEST, "{stem}");
            assert!(!stem.contains(['.', '/', '\\', ':']), "{stem}");
        }
    }
}
