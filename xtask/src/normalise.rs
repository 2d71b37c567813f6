//! Normalises a description for progenitor.
//!
//! The description specifies the wire format; the typed client needs less. Each step here
//! removes one thing that progenitor does not support, or for which it generates a type that is worse to use.
//! The mock's schemas are generated from the original description, so that its checks
//! are complete.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::walk;

/// All normalisations in their order.
const STEPS: &[fn(&mut Value)] = &[
    leave_out_browser_pages,
    leave_headers_to_the_http_client,
    success_is_a_range,
    leave_defaults_to_the_server,
    fill_in_one_word_enums,
    bare_secrets,
    unlimited_strings,
    unlimited_integers,
    drop_not,
];

/// The document for progenitor.
pub(crate) fn for_progenitor(document: &Value) -> Value {
    let mut document = document.clone();
    for step in STEPS {
        step(&mut document);
    }
    document
}

/// The normalisations for a client whose builders are ours: progenitor makes its types only.
const TYPE_STEPS: &[fn(&mut Value)] = &[
    leave_defaults_to_the_server,
    only_types,
    bare_secrets,
    unlimited_strings,
    unlimited_integers,
    drop_not,
    inline_maps,
    lists_can_be_null,
];

/// The document for the types of a client.
pub(crate) fn for_types(document: &Value) -> Value {
    let mut document = document.clone();
    for step in TYPE_STEPS {
        step(&mut document);
    }
    document
}

/// Keeps the schemas only, without those of the envelope and of errors: the client above reads both.
fn only_types(document: &mut Value) {
    document["paths"] = Value::Object(Map::new());
    let mut schemas = document["components"]["schemas"].take();
    if let Value::Object(schemas) = &mut schemas {
        for read_above in ["Envelope", "SuccessCode", "AnswerDetail", "ApiError"] {
            schemas.remove(read_above);
        }
    }
    document["components"] = serde_json::json!({"schemas": schemas});
}

/// Puts a component that is a map without properties in the place of each reference to it. It would be a newtype; a map is easier to use.
fn inline_maps(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object();
    let maps: Vec<(String, Value)> = schemas
        .into_iter()
        .flatten()
        .filter(|(_, schema)| {
            schema.get("additionalProperties").is_some() && schema.get("properties").is_none()
        })
        .map(|(name, schema)| (format!("#/components/schemas/{name}"), schema.clone()))
        .collect();
    for pointer in walk::schemas(document).all {
        if let Some(schema) = document.pointer_mut(&pointer)
            && let Some(target) = walk::reference(schema)
            && let Some((_, map)) = maps.iter().find(|(name, _)| name == target)
        {
            *schema = map.clone();
        }
    }
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        schemas.retain(|name, _| {
            !maps
                .iter()
                .any(|(map, _)| map.ends_with(&format!("/{name}")))
        });
    }
}

/// Lets a list or a map that is not required be null, so that its type is an `Option`: absent, null and empty then stay apart, and a list can be
/// cleared.
fn lists_can_be_null(document: &mut Value) {
    for pointer in walk::schemas(document).all {
        let Some(Value::Object(schema)) = document.pointer_mut(&pointer) else {
            continue;
        };
        let required = schema.get("required").cloned().unwrap_or_default();
        let is_required = |name: &str| {
            required
                .as_array()
                .is_some_and(|all| all.iter().any(|each| each == name))
        };
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (name, property) in properties.into_iter().flatten() {
            let is_list =
                property["type"] == "array" || property.get("additionalProperties").is_some();
            if is_list && !is_required(name) {
                property["nullable"] = Value::Bool(true);
            }
        }
    }
}

/// Removes the operations tagged `browser`. A user's browser opens those pages; a client only
/// builds their URLs, so a generated function that fetches one would be useless.
fn leave_out_browser_pages(document: &mut Value) {
    let Some(Value::Object(paths)) = document.get_mut("paths") else {
        return;
    };
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        item.retain(|_, operation| !is_tagged(operation, "browser"));
    }
    paths.retain(|_, item| item.as_object().is_some_and(has_operation));
}

fn is_tagged(operation: &Value, tag: &str) -> bool {
    operation["tags"]
        .as_array()
        .is_some_and(|tags| tags.iter().any(|each| each == tag))
}

fn has_operation(item: &Map<String, Value>) -> bool {
    item.values()
        .any(|operation| operation.get("responses").is_some())
}

/// Removes header parameters. progenitor would require the user agent for every call; it is the same for
/// all calls, and is set by the HTTP client.
fn leave_headers_to_the_http_client(document: &mut Value) {
    let whole = document.clone();
    let is_header = |parameter: &Value| {
        let parameter = walk::dereference(&whole, parameter);
        parameter.is_some_and(|parameter| parameter["in"] == "header")
    };
    let Some(Value::Object(paths)) = document.get_mut("paths") else {
        return;
    };
    for item in paths.values_mut() {
        drop_parameters(item, &is_header);
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            drop_parameters(operation, &is_header);
        }
    }
}

fn drop_parameters(holder: &mut Value, unwanted: &impl Fn(&Value) -> bool) {
    if let Some(Value::Array(parameters)) = holder.get_mut("parameters") {
        parameters.retain(|parameter| !unwanted(parameter));
    }
}

/// Renames the response `200` to `2XX` if there is also a `default`. Next to a single status, progenitor treats `default`
/// as a second type of success, and supports only one; next to the whole range
/// it treats it as the errors.
fn success_is_a_range(document: &mut Value) {
    let Some(Value::Object(paths)) = document.get_mut("paths") else {
        return;
    };
    let operations = paths
        .values_mut()
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut);
    for operation in operations {
        if let Some(Value::Object(responses)) = operation.get_mut("responses")
            && responses.contains_key("default")
            && let Some(success) = responses.remove("200")
        {
            responses.insert("2XX".to_owned(), success);
        }
    }
}

/// Removes the defaults of request fields, except for single-value enums. They describe what the server does
/// if a field is absent; progenitor would send them with every request.
fn leave_defaults_to_the_server(document: &mut Value) {
    let requests = sent_in_requests(document);
    for pointer in walk::schemas(document).all {
        let is_sent = requests
            .iter()
            .any(|root| pointer == *root || pointer.starts_with(&format!("{root}/")));
        if is_sent
            && let Some(Value::Object(schema)) = document.pointer_mut(&pointer)
            && !is_one_word_enum(schema)
        {
            schema.remove("default");
        }
    }
}

/// The pointers of all schemas in request bodies and parameters.
fn sent_in_requests(document: &Value) -> BTreeSet<String> {
    let mut roots = BTreeSet::new();
    for pointer in walk::schemas(document).all {
        let is_body = pointer.contains("/requestBody/") || pointer.contains("/requestBodies/");
        if is_body || pointer.contains("/parameters/") {
            roots.insert(pointer);
        }
    }
    let mut waiting: Vec<String> = roots.iter().cloned().collect();
    while let Some(pointer) = waiting.pop() {
        for (_, target) in walk::references(document, &pointer) {
            if let Some(target) = target
                && roots.insert(target.clone())
            {
                waiting.push(target);
            }
        }
    }
    roots
}

/// Makes a property optional if it has only one possible value, which is also its default
/// (`grant_type`): progenitor then always sends that value. If it were required, as on the
/// wire, every caller would have to set it.
fn fill_in_one_word_enums(document: &mut Value) {
    for pointer in walk::schemas(document).all {
        let Some(Value::Object(schema)) = document.pointer_mut(&pointer) else {
            continue;
        };
        let filled_in: Vec<Value> = schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(_, property)| property.as_object().is_some_and(is_one_word_enum))
            .map(|(name, _)| Value::from(name.as_str()))
            .collect();
        if let Some(Value::Array(required)) = schema.get_mut("required") {
            required.retain(|name| !filled_in.contains(name));
        }
    }
}

fn is_one_word_enum(schema: &Map<String, Value>) -> bool {
    let words = schema.get("enum").and_then(Value::as_array);
    words.is_some_and(|words| words.len() == 1) && schema.contains_key("default")
}

/// Keeps only type, format and documentation of a secret. progenitor replaces a schema by
/// the secret type only if it is exactly that; with a limit it would silently generate a plain
/// string, which `Debug` prints.
fn bare_secrets(document: &mut Value) {
    const KEPT: &[&str] = &["type", "format", "description", "title", "nullable"];
    for pointer in walk::schemas(document).all {
        if let Some(Value::Object(schema)) = document.pointer_mut(&pointer)
            && schema
                .get("format")
                .is_some_and(|format| format == "password")
        {
            schema.retain(|key, _| KEPT.contains(&key.as_str()));
        }
    }
}

/// Removes the limits of all other strings. progenitor would generate a newtype with a fallible
/// constructor for each. The layers above validate inputs, and
/// the mock validates requests.
fn unlimited_strings(document: &mut Value) {
    remove_from_schemas(document, "string", &["minLength", "maxLength", "pattern"]);
}

/// Removes the limits of integers, so that each is the `i64` of its format; with a
/// minimum of 1, progenitor would use `NonZeroU64`, and a response outside the limits could not be
/// parsed.
fn unlimited_integers(document: &mut Value) {
    remove_from_schemas(
        document,
        "integer",
        &[
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ],
    );
}

fn remove_from_schemas(document: &mut Value, kind: &str, keys: &[&str]) {
    for pointer in walk::schemas(document).all {
        if let Some(Value::Object(schema)) = document.pointer_mut(&pointer)
            && schema.get("type").is_some_and(|each| each == kind)
        {
            schema.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
}

/// Removes `not`, which has no Rust equivalent. It distinguishes the error shapes; in the client
/// their order does (progenitor generates an untagged enum, and the first matching variant is used).
fn drop_not(document: &mut Value) {
    // Outer schemas are last, so a pointer into a removed `not` is never used after its
    // removal.
    for pointer in walk::schemas(document).all {
        if let Some(Value::Object(schema)) = document.pointer_mut(&pointer) {
            schema.remove("not");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A document with one POST operation whose body and response are the component schemas
    /// `Sent` and `Answered`.
    fn document(sent: Value, answered: Value) -> Value {
        let content = |name: &str| {
            let target = format!("#/components/schemas/{name}");
            json!({"application/json": {"schema": {"$ref": target}}})
        };
        json!({
            "paths": {"/a": {"post": {
                "requestBody": {"content": content("Sent")},
                "responses": {"200": {"content": content("Answered")}},
            }}},
            "components": {"schemas": {"Sent": sent, "Answered": answered}},
        })
    }

    #[test]
    fn browser_pages_are_removed() {
        let mut document = json!({"paths": {
            "/page": {"servers": [], "get": {"tags": ["browser"], "responses": {}}},
            "/both": {
                "get": {"tags": ["browser"], "responses": {}},
                "post": {"tags": ["token"], "responses": {}},
            },
        }});

        leave_out_browser_pages(&mut document);

        assert_eq!(
            document,
            json!({"paths": {"/both": {"post": {"tags": ["token"], "responses": {}}}}})
        );
    }

    #[test]
    fn header_parameters_are_removed_inline_and_by_reference() {
        let mut document = json!({
            "paths": {"/a": {
                "parameters": [{"name": "h", "in": "header"}, {"name": "p", "in": "path"}],
                "get": {"parameters": [
                    {"$ref": "#/components/parameters/H"}, {"$ref": "#/components/parameters/Q"},
                ]},
            }},
            "components": {"parameters": {
                "H": {"name": "h", "in": "header"}, "Q": {"name": "q", "in": "query"},
            }},
        });

        leave_headers_to_the_http_client(&mut document);

        assert_eq!(
            document["paths"]["/a"],
            json!({
                "parameters": [{"name": "p", "in": "path"}],
                "get": {"parameters": [{"$ref": "#/components/parameters/Q"}]},
            })
        );
    }

    #[test]
    fn a_success_next_to_default_becomes_a_range() {
        let mut document = json!({"paths": {"/a": {
            "get": {"responses": {"200": 1, "default": 2}},
            "put": {"responses": {"200": 1, "404": 2}},
        }}});

        success_is_a_range(&mut document);

        assert_eq!(
            document["paths"]["/a"],
            json!({
                "get": {"responses": {"2XX": 1, "default": 2}},
                "put": {"responses": {"200": 1, "404": 2}},
            })
        );
    }

    #[test]
    fn defaults_are_removed_from_requests_only() {
        let nested = json!({"properties": {"n": {"type": "integer", "default": 900}}});
        let mut document = document(
            json!({"properties": {
                "inner": {"$ref": "#/components/schemas/Nested"},
                "kind": {"type": "string", "enum": ["one"], "default": "one"},
            }}),
            json!({"properties": {"interval": {"type": "integer", "default": 5}}}),
        );
        document["components"]["schemas"]["Nested"] = nested;

        leave_defaults_to_the_server(&mut document);

        let schemas = &document["components"]["schemas"];
        assert_eq!(
            schemas["Nested"]["properties"]["n"],
            json!({"type": "integer"})
        );
        assert_eq!(schemas["Sent"]["properties"]["kind"]["default"], "one");
        assert_eq!(schemas["Answered"]["properties"]["interval"]["default"], 5);
    }

    #[test]
    fn a_single_value_enum_becomes_optional() {
        let mut document = document(
            json!({
                "required": ["grant_type", "choice", "id"],
                "properties": {
                    "grant_type": {"type": "string", "enum": ["one"], "default": "one"},
                    "choice": {"type": "string", "enum": ["one", "two"], "default": "one"},
                    "id": {"type": "string"},
                },
            }),
            json!({}),
        );

        fill_in_one_word_enums(&mut document);

        assert_eq!(
            document["components"]["schemas"]["Sent"]["required"],
            json!(["choice", "id"])
        );
    }

    #[test]
    fn secrets_keep_only_type_format_and_documentation() {
        let mut document = document(
            json!({"properties": {"code": {
                "type": "string", "format": "password", "description": "The code.",
                "minLength": 1, "maxLength": 9, "pattern": "a", "example": "a", "x-note": "n",
            }}}),
            json!({}),
        );

        bare_secrets(&mut document);

        assert_eq!(
            document["components"]["schemas"]["Sent"]["properties"]["code"],
            json!({"type": "string", "format": "password", "description": "The code."})
        );
    }

    #[test]
    fn only_limits_are_removed() {
        let mut document = document(
            json!({"properties": {
                "id": {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "a", "format": "uri"},
                "count": {"type": "integer", "minimum": 1, "maximum": 9, "format": "int64"},
                "list": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
            }}),
            json!({}),
        );

        unlimited_strings(&mut document);
        unlimited_integers(&mut document);

        assert_eq!(
            document["components"]["schemas"]["Sent"]["properties"],
            json!({
                "id": {"type": "string", "format": "uri"},
                "count": {"type": "integer", "format": "int64"},
                "list": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            })
        );
    }

    #[test]
    fn only_types_remain_without_those_of_the_envelope() {
        let mut document = document(json!({"type": "object"}), json!({}));
        document["components"]["schemas"]["Envelope"] = json!({});
        document["components"]["responses"] = json!({"A": {}});

        only_types(&mut document);

        assert_eq!(
            document,
            json!({"paths": {}, "components": {"schemas": {"Sent": {"type": "object"}, "Answered": {}}}})
        );
    }

    #[test]
    fn maps_take_the_place_of_references_to_them() {
        let map = json!({"type": "object", "additionalProperties": true});
        let reference = json!({"$ref": "#/components/schemas/Answered"});
        let mut document = document(json!({"properties": {"map": reference}}), map.clone());

        inline_maps(&mut document);

        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas, &json!({"Sent": {"properties": {"map": map}}}));
    }

    #[test]
    fn lists_that_are_not_required_can_be_null() {
        let list = json!({"type": "array", "items": {"type": "string"}});
        let mut document = document(
            json!({"required": ["needed"], "properties": {
                "needed": list, "list": list, "map": {"additionalProperties": true}, "text": {"type": "string"},
            }}),
            json!({}),
        );

        lists_can_be_null(&mut document);

        let properties = &document["components"]["schemas"]["Sent"]["properties"];
        assert_eq!(properties["list"]["nullable"], true);
        assert_eq!(properties["map"]["nullable"], true);
        assert!(properties["needed"].get("nullable").is_none());
        assert!(properties["text"].get("nullable").is_none());
    }

    #[test]
    fn not_is_removed_with_its_contents() {
        let mut document = document(
            json!({}),
            json!({"type": "object", "not": {"anyOf": [{"not": {"required": ["a"]}}]}}),
        );

        drop_not(&mut document);

        assert_eq!(
            document["components"]["schemas"]["Answered"],
            json!({"type": "object"})
        );
    }
}
