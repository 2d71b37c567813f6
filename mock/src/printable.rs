//! Text from requests, made safe for messages and logs.

use std::fmt;

/// A name chosen by a client, safe to show in a message: shortened, without control characters.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(80) {
            let harmless = character.is_ascii_alphanumeric() || "_-./:$@ ".contains(character);
            write!(f, "{}", if harmless { character } else { '?' })?;
        }
        if self.0.chars().nth(80).is_some() {
            f.write_str("...")?;
        }
        Ok(())
    }
}
