//! The descriptions of this repository.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::document::Document;

/// Every description and the crate that is generated from it. To add one, add an entry here and a crate skeleton under
/// `generated/`.
pub(crate) const SPECS: &[Spec] = &[
    Spec {
        name: "coze-oauth",
        source: "spec/coze-oauth.yaml",
        client: "coze-oauth-client",
        style: Style::Exchange,
    },
    Spec {
        name: "coze-api",
        source: API,
        client: "coze-api-client",
        style: Style::Calls,
    },
];

/// The description of the API: a folder with one file per group.
pub(crate) const API: &str = "spec/api";

/// One description.
#[derive(Debug)]
pub(crate) struct Spec {
    /// The name of the mock's schemas in `mock/schemas/`, without `.json`.
    pub(crate) name: &'static str,
    /// The file or the folder, relative to the workspace.
    pub(crate) source: &'static str,
    /// The crate under `generated/` that holds the typed client.
    pub(crate) client: &'static str,
    pub(crate) style: Style,
}

/// The form of a typed client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A builder sends its request itself, with `exchange`, over the client's `Exchange`.
    Exchange,
    /// A builder is an `Operation`, which a dispatcher sends: with a token, retries, and streams.
    Calls,
}

/// The description of the API in standard OpenAPI: its files joined, and its extensions expanded.
///
/// # Errors
///
/// If a file can't be read or is not OpenAPI, or if two files define the same: with the file, and the line if it is
/// known.
pub fn load(root: &Path) -> Result<Value> {
    Ok(Document::read(root, API)?.tree)
}
