//! One OpenAPI document, read from its file.
//!
//! It is kept in the three forms that the commands need: the text (for positions), a tree of JSON
//! values (for normalisations, schemas and rules), and the types of `openapiv3` (which validate that it is
//! OpenAPI 3.0).

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use openapiv3::OpenAPI;
use serde_json::Value;

/// An OpenAPI document and its source.
#[derive(Debug)]
pub(crate) struct Document {
    /// The path relative to the workspace, for findings and generated files.
    pub(crate) source: String,
    pub(crate) text: String,
    /// Keys are sorted at every level, so that nothing depends on serde_json's map type, which
    /// other crates of a build can change by a feature.
    pub(crate) tree: Value,
}

impl Document {
    /// Reads `source`, a path relative to `root`.
    pub(crate) fn read(root: &Path, source: &str) -> Result<Self> {
        let path = root.join(source);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(source, text)
    }

    /// Parses `text` as the contents of `source`.
    pub(crate) fn parse(source: &str, text: String) -> Result<Self> {
        let mut tree: Value =
            serde_saphyr::from_str(&text).map_err(|error| with_place(source, &error))?;
        tree.sort_all_objects();
        let document = Self {
            source: source.to_owned(),
            text,
            tree,
        };
        // Deserialised from the text, not from the tree, so that an error has a line number.
        serde_saphyr::from_str::<OpenAPI>(&document.text)
            .map_err(|error| with_place(source, &error))
            .context("it is YAML, but not OpenAPI 3.0")?;
        Ok(document)
    }
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
}
