//! Maps a JSON pointer to line and column in the YAML text.

use std::fmt;

use anyhow::{Context, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// The positions of all nodes of a YAML text.
pub(crate) struct Places {
    document: Spanned<Node>,
}

/// A line and a column, both starting at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl Place {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// A node with the positions of its keys and items, without the values of scalars.
enum Node {
    Mapping(Vec<(Spanned<String>, Spanned<Node>)>),
    Sequence(Vec<Spanned<Node>>),
    Scalar,
}

impl Places {
    pub(crate) fn read(text: &str) -> Result<Self> {
        let document =
            serde_saphyr::from_str(text).context("cannot determine positions in the text")?;
        Ok(Self { document })
    }

    /// The position of `pointer`: the key of a mapping's entry, or the start of a sequence's item. A
    /// pointer to a missing node gives the position of its closest existing ancestor.
    pub(crate) fn of(&self, pointer: &str) -> Place {
        self.closest(pointer).1
    }

    /// As [`of`](Self::of), with how many steps of the pointer exist.
    pub(crate) fn closest(&self, pointer: &str) -> (usize, Place) {
        let mut node = &self.document;
        let mut place = Place::from(node.defined);
        let mut depth = 0;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let Some((at, next)) = node.value.enter(&step) else {
                break;
            };
            place = at.into();
            node = next;
            depth += 1;
        }
        (depth, place)
    }
}

impl Node {
    /// The entry or item `step`: where it starts, and its value.
    fn enter(&self, step: &str) -> Option<(Location, &Spanned<Self>)> {
        match self {
            Self::Mapping(entries) => entries
                .iter()
                .find(|(key, _)| key.value == step)
                .map(|(key, value)| (key.defined, value)),
            Self::Sequence(items) => {
                let item = items.get(step.parse::<usize>().ok()?)?;
                Some((item.defined, item))
            }
            Self::Scalar => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Mapping(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::Sequence(items))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
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
