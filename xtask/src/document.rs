//! One OpenAPI document, read from its file, or joined from the files of a folder.
//!
//! It is kept in the forms that the commands need: the texts (for positions), the tree as it is written, and the tree in
//! standard OpenAPI, where everything that the description says only once is [expanded](crate::expand).

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use openapiv3::{Components, OpenAPI, Paths, Tag};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::expand::{self, Origins};
use crate::place::{Place, Places};
use crate::walk;

/// The file of a folder that holds what the others share.
const BASE: &str = "base.yaml";

/// An OpenAPI document and its source.
#[derive(Debug)]
pub(crate) struct Document {
    /// The path relative to the workspace, of a file or a folder.
    pub(crate) source: String,
    parts: Vec<Part>,
    /// As it is written, joined. Keys are sorted at every level, so that nothing depends on serde_json's map type, which
    /// other crates of a build can change by a feature.
    pub(crate) written: Value,
    /// Standard OpenAPI.
    pub(crate) tree: Value,
    /// Which nodes of `tree` come from where in `written`.
    origins: Origins,
}

/// A file of a document.
#[derive(Debug)]
struct Part {
    /// Relative to the workspace.
    source: String,
    text: String,
}

/// What a file beside the base may hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(default, rename = "tags")]
    _tags: Vec<Tag>,
    #[serde(default, rename = "paths")]
    _paths: Paths,
    #[serde(default, rename = "components")]
    _components: Components,
}

impl Document {
    /// Reads `source`, a path relative to `root`: a file, or a folder with the files of one description.
    pub(crate) fn read(root: &Path, source: &str) -> Result<Self> {
        let path = root.join(source);
        if !path.is_dir() {
            return Self::parse(source, read_text(&path)?);
        }
        let mut parts = Vec::new();
        for name in names(&path)? {
            parts.push(Part {
                text: read_text(&path.join(&name))?,
                source: format!("{source}/{name}"),
            });
        }
        Self::join(source, parts)
    }

    /// Parses `text` as the contents of `source`.
    pub(crate) fn parse(source: &str, text: String) -> Result<Self> {
        let part = Part {
            source: source.to_owned(),
            text,
        };
        Self::join(source, vec![part])
    }

    /// Joins the files of one description. The first holds what all share.
    fn join(source: &str, parts: Vec<Part>) -> Result<Self> {
        let mut written = Value::Object(Map::new());
        for (index, part) in parts.iter().enumerate() {
            let tree: Value = serde_saphyr::from_str(&part.text)
                .map_err(|error| with_place(&part.source, &error))?;
            // Deserialised from the text, not from the tree, so that an error has a line number.
            if index == 0 {
                serde_saphyr::from_str::<OpenAPI>(&part.text).map(drop)
            } else {
                serde_saphyr::from_str::<Group>(&part.text).map(drop)
            }
            .map_err(|error| with_place(&part.source, &error))
            .context("it is YAML, but not OpenAPI 3.0")?;
            if let Some(pointer) = add(&mut written, tree, "") {
                let line = Places::read(&part.text)?.of(&pointer);
                bail!(
                    "{}:{line}: `{pointer}` is in an earlier file too; rename one of them",
                    part.source
                );
            }
        }
        written.sort_all_objects();
        let (mut tree, origins) =
            expand::expand(&written).with_context(|| format!("cannot expand {source}"))?;
        tree.sort_all_objects();
        Ok(Self {
            source: source.to_owned(),
            parts,
            written,
            tree,
            origins,
        })
    }

    /// The file, line and column of a node of the tree.
    pub(crate) fn places(&self) -> Result<DocumentPlaces<'_>> {
        let read = |part: &Part| {
            let places = Places::read(&part.text).with_context(|| part.source.clone())?;
            Ok((part.source.clone(), places))
        };
        Ok(DocumentPlaces {
            parts: self.parts.iter().map(read).collect::<Result<_>>()?,
            origins: &self.origins,
        })
    }
}

/// The positions of all nodes of a document.
pub(crate) struct DocumentPlaces<'d> {
    parts: Vec<(String, Places)>,
    origins: &'d Origins,
}

impl DocumentPlaces<'_> {
    /// The file and the position of a node, or of its closest ancestor that is written.
    pub(crate) fn of(&self, pointer: &str) -> (String, Place) {
        let pointer = self.origins.written(pointer);
        let mut best: Option<(usize, String, Place)> = None;
        for (source, places) in &self.parts {
            let (depth, place) = places.closest(&pointer);
            if best.as_ref().is_none_or(|(deepest, ..)| depth > *deepest) {
                best = Some((depth, source.clone(), place));
            }
        }
        best.map_or_else(
            || (String::new(), Place::START),
            |(_, source, place)| (source, place),
        )
    }
}

/// The files of a folder, the base first, the others by name.
fn names(folder: &Path) -> Result<Vec<String>> {
    let cannot_list = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot_list)? {
        let name = entry.with_context(cannot_list)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.retain(|name| {
        Path::new(name)
            .extension()
            .is_some_and(|ending| ending == "yaml")
    });
    names.sort_by_key(|name| (name != BASE, name.clone()));
    Ok(names)
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Adds the entries of `from` to `into`, and returns the pointer of the first that is there already. Paths, tags and components
/// are joined; everything else is one entry, as is each path and each component.
fn add(into: &mut Value, from: Value, at: &str) -> Option<String> {
    let joined = |pointer: &str| {
        matches!(pointer, "/paths" | "/components")
            || pointer
                .strip_prefix("/components/")
                .is_some_and(|kind| !kind.contains('/'))
    };
    match (into, from) {
        (Value::Array(into), Value::Array(mut from)) => into.append(&mut from),
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                let here = walk::join(at, &key);
                match into.get_mut(&key) {
                    None => drop(into.insert(key, value)),
                    Some(present) if joined(&here) || here == "/tags" => {
                        if let Some(twice) = add(present, value, &here) {
                            return Some(twice);
                        }
                    }
                    Some(_) => return Some(here),
                }
            }
        }
        _ => return Some(at.to_owned()),
    }
    None
}

fn with_place(source: &str, error: &serde_saphyr::Error) -> anyhow::Error {
    match error.location() {
        Some(at) => anyhow!("{source}:{}:{}: {error}", at.line(), at.column()),
        None => anyhow!("{source}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();

        let error = Document::read(folder.path(), "spec/absent.yaml").unwrap_err();

        assert!(
            format!("{error:#}").contains("spec/absent.yaml"),
            "{error:#}"
        );
    }

    #[test]
    fn broken_yaml_is_named_with_its_line() {
        let text = "openapi: 3.0.3\ninfo: {title: A\npaths: {}\n";

        let error = Document::parse("spec/a.yaml", text.to_owned()).unwrap_err();

        assert!(
            format!("{error:#}").starts_with("spec/a.yaml:"),
            "{error:#}"
        );
    }

    #[test]
    fn yaml_that_is_not_openapi_is_named() {
        let error = Document::parse("spec/a.yaml", "openapi: 3.0.3\n".to_owned()).unwrap_err();

        let text = format!("{error:#}");
        assert!(text.contains("spec/a.yaml"), "{text}");
        assert!(text.contains("not OpenAPI 3.0"), "{text}");
    }

    const BASE_FILE: &str = "openapi: 3.0.3
info: {title: A, version: 1.0.0}
paths: {}
components:
  schemas:
    Shared: {type: string}
";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("spec/api")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join("spec/api").join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_is_joined_and_every_node_has_the_place_of_its_file() {
        let folder = folder(&[
            (
                "a.yaml",
                "tags: [{name: a}]\npaths:\n  /a: {get: {responses: {}}}\ncomponents:\n  schemas:\n    A: {type: string}\n",
            ),
            ("b.yaml", "tags: [{name: b}]\npaths:\n\n\n  /b: {}\n"),
            ("base.yaml", BASE_FILE),
        ]);

        let document = Document::read(folder.path(), "spec/api").unwrap();

        let tree = &document.tree;
        assert_eq!(tree["tags"][1]["name"], "b");
        assert!(tree["paths"]["/a"]["get"].is_object());
        let places = document.places().unwrap();
        let place = |pointer: &str| {
            let (source, place) = places.of(pointer);
            format!("{source}:{place}")
        };
        assert_eq!(place("/paths/~1b"), "spec/api/b.yaml:5:3");
        assert_eq!(
            place("/paths/~1a/get/parameters"),
            "spec/api/a.yaml:3:8",
            "the closest ancestor"
        );
        assert_eq!(
            place("/components/schemas/Shared"),
            "spec/api/base.yaml:6:5"
        );
    }

    #[test]
    fn what_two_files_define_is_named_with_its_line() {
        let folder = folder(&[
            ("base.yaml", BASE_FILE),
            (
                "a.yaml",
                "components:\n  schemas:\n    Shared: {type: string}\n",
            ),
        ]);

        let error = Document::read(folder.path(), "spec/api").unwrap_err();

        assert_eq!(
            error.to_string(),
            "spec/api/a.yaml:3:5: `/components/schemas/Shared` is in an earlier file too; rename one of them"
        );
    }

    #[test]
    fn a_group_that_is_not_openapi_is_named_with_its_line() {
        let folder = folder(&[
            ("base.yaml", BASE_FILE),
            ("a.yaml", "paths: {}\npath: {}\n"),
        ]);

        let error = Document::read(folder.path(), "spec/api").unwrap_err();

        let text = format!("{error:#}");
        assert!(text.contains("spec/api/a.yaml:2:1"), "{text}");
    }
}
