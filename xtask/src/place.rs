//! Maps a JSON pointer to line and column in the YAML text.

use std::fmt;

use anyhow::{Context, Result};
use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};

/// The positions of all nodes of a YAML text.
pub(crate) struct Places<'t> {
    document: MarkedYaml<'t>,
}

/// A line and a column, both starting at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl<'t> Places<'t> {
    pub(crate) fn read(text: &'t str) -> Result<Self> {
        let document = MarkedYaml::load_from_str(text)
            .context("cannot determine positions in the text")?
            .into_iter()
            .next()
            .context("the file is empty")?;
        Ok(Self { document })
    }

    /// The position of `pointer`: the key of a mapping's entry, or the start of a sequence's item. A
    /// pointer to a missing node gives the position of its closest existing ancestor.
    pub(crate) fn of(&self, pointer: &str) -> Place {
        let mut node = &self.document;
        let mut place = Place::from(node.span.start);
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let Some((at, next)) = enter(node, &step) else {
                break;
            };
            place = at.into();
            node = next;
        }
        place
    }
}

/// The entry or item `step` of `node`: where it starts, and its value.
fn enter<'n, 't>(node: &'n MarkedYaml<'t>, step: &str) -> Option<(Marker, &'n MarkedYaml<'t>)> {
    match &node.data {
        YamlData::Mapping(entries) => entries
            .iter()
            .find(|(key, _)| is_key(key, step))
            .map(|(key, value)| (key.span.start, value)),
        YamlData::Sequence(items) => {
            let item = items.get(step.parse::<usize>().ok()?)?;
            Some((item.span.start, item))
        }
        _ => None,
    }
}

fn is_key(key: &MarkedYaml<'_>, step: &str) -> bool {
    match &key.data {
        YamlData::Value(Scalar::String(text)) => text == step,
        // An unquoted status code.
        YamlData::Value(Scalar::Integer(number)) => number.to_string() == step,
        _ => false,
    }
}

impl From<Marker> for Place {
    fn from(marker: Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_resolve_to_keys_items_or_the_closest_ancestor() {
        let text = "a:\n  b/c:\n    - one\n    - two: 2\n  200: ok\n";
        let places = Places::read(text).unwrap();

        for (pointer, line, column) in [
            ("", 1, 1),
            ("/a", 1, 1),
            ("/a/b~1c", 2, 3),
            ("/a/b~1c/0", 3, 7),
            ("/a/b~1c/1/two", 4, 7),
            ("/a/200", 5, 3),
            ("/a/b~1c/1/absent/deeper", 4, 7),
        ] {
            assert_eq!(places.of(pointer), Place { line, column }, "{pointer}");
        }
    }
}
