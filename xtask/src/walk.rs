//! Traverses an OpenAPI document: finds its schemas and references.
//!
//! Positions are JSON pointers (RFC 6901), which serde_json resolves and [`crate::place`] maps
//! to line and column.

use serde_json::{Map, Value};

/// Maps with arbitrary keys, in which a key `schema` has no special
/// meaning.
const NAMED: &[&str] = &[
    "callbacks",
    "content",
    "encoding",
    "headers",
    "links",
    "parameters",
    "paths",
    "requestBodies",
    "responses",
    "securitySchemes",
];

/// The schemas of a document.
#[derive(Default)]
pub(crate) struct Schemas {
    /// The pointer of each, nested schemas first.
    pub(crate) all: Vec<String>,
    /// The pointers of the parameters, headers and media types with a schema.
    pub(crate) holders: Vec<String>,
}

/// The JSON pointers of all schemas in the document, nested schemas first.
pub(crate) fn schemas(document: &Value) -> Schemas {
    let mut found = Schemas::default();
    outside_schemas(document, String::new(), &mut found);
    found
}

fn outside_schemas(node: &Value, at: String, found: &mut Schemas) {
    match node {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                outside_schemas(item, format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let here = join(&at, key);
                match key.as_str() {
                    "schema" => {
                        within_schema(value, here, found);
                        found.holders.push(at.clone());
                    }
                    "schemas" => named(value, &here, found, within_schema),
                    "example" | "examples" => {}
                    key if key.starts_with("x-") => {}
                    key if NAMED.contains(&key) && value.is_object() => {
                        named(value, &here, found, outside_schemas);
                    }
                    _ => outside_schemas(value, here, found),
                }
            }
        }
        _ => {}
    }
}

fn within_schema(schema: &Value, at: String, found: &mut Schemas) {
    let Value::Object(fields) = schema else {
        return; // `additionalProperties: false`
    };
    for (key, value) in fields {
        let here = join(&at, key);
        match key.as_str() {
            "properties" => named(value, &here, found, within_schema),
            "items" | "additionalProperties" | "not" => within_schema(value, here, found),
            "allOf" | "anyOf" | "oneOf" => {
                for (index, part) in value.as_array().into_iter().flatten().enumerate() {
                    within_schema(part, format!("{here}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    found.all.push(at);
}

fn named(map: &Value, at: &str, found: &mut Schemas, visit: fn(&Value, String, &mut Schemas)) {
    for (name, value) in map.as_object().into_iter().flatten() {
        visit(value, join(at, name), found);
    }
}

/// All references below `from`, at any depth: the position of each, and the pointer that
/// it refers to. The targets of a discriminator count, values of examples do not. A reference to
/// another file has no pointer.
pub(crate) fn references(document: &Value, from: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    if let Some(node) = document.pointer(from) {
        collect_references(node, from.to_owned(), &mut found);
    }
    found
}

fn collect_references(node: &Value, at: String, found: &mut Vec<(String, Option<String>)>) {
    match node {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_references(item, format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            let are_names = ["/properties", "/responses", "/examples", "/schemas"]
                .iter()
                .any(|map| at.ends_with(map));
            for (key, value) in fields {
                let here = join(&at, key);
                match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => found.push((here, local(target))),
                    ("mapping", Value::Object(targets)) if at.ends_with("/discriminator") => {
                        for (word, target) in targets {
                            let target = target.as_str().and_then(local);
                            found.push((join(&here, word), target));
                        }
                    }
                    ("example" | "value" | "default" | "enum", _) if !are_names => {}
                    _ => collect_references(value, here, found),
                }
            }
        }
        _ => {}
    }
}

/// The pointer of a reference within this document.
fn local(target: &str) -> Option<String> {
    target.strip_prefix('#').map(str::to_owned)
}

/// Appends a key to a JSON pointer.
pub(crate) fn join(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Whether a pointer is `outer`, or leads to something in it.
pub(crate) fn is_within(pointer: &str, outer: &str) -> bool {
    pointer
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The target of `value`, if it is a reference.
pub(crate) fn reference(value: &Value) -> Option<&str> {
    value.get("$ref")?.as_str()
}

/// Follows references from `pointer` to a node that is not a reference. `None` if one does
/// not resolve, or if there is a cycle.
pub(crate) fn resolve<'d>(document: &'d Value, pointer: &str) -> Option<(String, &'d Value)> {
    const LONGEST_CHAIN: usize = 16;
    let mut pointer = pointer.to_owned();
    for _ in 0..LONGEST_CHAIN {
        let value = document.pointer(&pointer)?;
        match reference(value) {
            Some(target) => pointer = local(target)?,
            None => return Some((pointer, value)),
        }
    }
    None
}

/// `value`, or the target if it is a reference.
pub(crate) fn dereference<'d>(document: &'d Value, value: &'d Value) -> Option<&'d Value> {
    match reference(value) {
        Some(target) => resolve(document, &local(target)?).map(|(_, found)| found),
        None => Some(value),
    }
}

/// One operation of a document.
pub(crate) struct Operation<'d> {
    /// Its JSON pointer.
    pub(crate) at: String,
    pub(crate) path: &'d str,
    /// In lower case.
    pub(crate) method: &'d str,
    pub(crate) fields: &'d Map<String, Value>,
}

impl<'d> Operation<'d> {
    /// A field of the operation, null if absent.
    pub(crate) fn field(&self, name: &str) -> &'d Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }
}

/// The fields of a path that are operations.
pub(crate) const METHODS: &[&str] = &[
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// All operations of a document.
pub(crate) fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let at = join("/paths", path);
        for (method, operation) in item.as_object().into_iter().flatten() {
            if let Value::Object(fields) = operation
                && METHODS.contains(&method.as_str())
            {
                found.push(Operation {
                    at: join(&at, method),
                    path,
                    method,
                    fields,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_are_found_everywhere_except_in_examples() {
        let document = json!({
            "paths": {"/a": {"post": {
                "parameters": [{"name": "id", "schema": {"type": "string"}}],
                "requestBody": {"content": {"application/json": {
                    "schema": {"type": "array", "items": {"type": "string"}},
                    "example": {"schema": {}},
                }}},
                "responses": {"200": {"headers": {"schema": {"schema": {"type": "string"}}}}},
            }}},
            "components": {"schemas": {"schema": {
                "properties": {"items": {"type": "string"}, "example": {"type": "string"}},
                "additionalProperties": false,
                "example": {"schema": {}},
            }}},
        });

        let mut found = schemas(&document);
        found.all.sort();
        found.holders.sort();

        assert_eq!(
            found.all,
            [
                "/components/schemas/schema",
                "/components/schemas/schema/properties/example",
                "/components/schemas/schema/properties/items",
                "/paths/~1a/post/parameters/0/schema",
                "/paths/~1a/post/requestBody/content/application~1json/schema",
                "/paths/~1a/post/requestBody/content/application~1json/schema/items",
                "/paths/~1a/post/responses/200/headers/schema/schema",
            ]
        );
        assert_eq!(
            found.holders,
            [
                "/paths/~1a/post/parameters/0",
                "/paths/~1a/post/requestBody/content/application~1json",
                "/paths/~1a/post/responses/200/headers/schema",
            ]
        );
    }

    #[test]
    fn references_are_followed_and_cycles_end() {
        let document = json!({
            "a": {"$ref": "#/b"}, "b": {"$ref": "#/c"}, "c": 1,
            "x": {"$ref": "#/y"}, "y": {"$ref": "#/x"},
            "lost": {"$ref": "#/nowhere"}, "file": {"$ref": "other.yaml#/a"},
        });

        assert_eq!(resolve(&document, "/a"), Some(("/c".to_owned(), &json!(1))));
        for unresolved in ["/x", "/lost", "/file"] {
            assert_eq!(resolve(&document, unresolved), None, "{unresolved}");
        }
    }

    #[test]
    fn references_are_collected_from_discriminators_and_from_properties_of_any_name() {
        let document = json!({
            "properties": {"example": {"$ref": "#/a"}},
            "discriminator": {"mapping": {"b/": "#/b"}},
            "example": {"$ref": "#/not-a-reference"},
            "responses": {"default": {"$ref": "#/c"}},
        });

        assert_eq!(
            references(&document, ""),
            [
                (
                    "/discriminator/mapping/b~1".to_owned(),
                    Some("/b".to_owned())
                ),
                ("/properties/example/$ref".to_owned(), Some("/a".to_owned())),
                ("/responses/default/$ref".to_owned(), Some("/c".to_owned())),
            ]
        );
    }
}
