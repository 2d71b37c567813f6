//! What is changed in a description before progenitor sees it.
//!
//! The description says what is on the wire; the typed client needs a little less. Each step here
//! takes away one thing that progenitor cannot digest, or digests into a type that is worse to use.
//! The mock's schemas are made from the description as it stands, so that nothing is lost to its
//! checks.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::walk;

/// All normalisations, in the order in which they run.
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

/// The document as progenitor takes it.
pub(crate) fn for_progenitor(document: &Value) -> Value {
    let mut document = document.clone();
    for step in STEPS {
        step(&mut document);
    }
    document
}

/// Removes the operations tagged `browser`. A person's browser opens those pages; a client only
/// builds their URLs, and a generated function that fetches one would do nothing of use.
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

/// Removes header parameters. progenitor would ask for the user agent at every call; it is one for
/// all calls, and is set where the request leaves.
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

/// Renames the response `200` to `2XX` where there is a `default` too. progenitor takes `default`
/// for a second type of success beside a single code, and supports only one; beside the whole range
/// it knows that it means errors.
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

/// Removes the defaults of request fields, but for one-word enums. They tell what the server does
/// when a field is absent; progenitor would send them with every request.
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

/// The pointers of all schemas that a request body or a parameter is made of.
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

/// Makes a property optional whose value can only be one word, and which has it for its default
/// (`grant_type`): with that, progenitor fills it in, and always sends it. Required as it is on the
/// wire, every caller would have to spell it out.
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

/// Leaves nothing but type, format and documentation of a secret. progenitor replaces a schema by
/// our secret type only where it is exactly that; a limit beside it would silently give a plain
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

/// Removes the limits of all other strings. progenitor would wrap each limited string in a type of
/// its own, with a fallible constructor per field. The layers above check what a person hands in;
/// the mock checks what is sent.
fn unlimited_strings(document: &mut Value) {
    remove_from_schemas(document, "string", &["minLength", "maxLength", "pattern"]);
}

/// Removes the limits of integers, so that each stays the `i64` that its format says; with a
/// minimum of 1, progenitor would take `NonZeroU64`, and an answer outside the limits could not be
/// read at all.
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

/// Removes `not`, for which there is no Rust type. It tells the error shapes apart; in the client
/// their order does (progenitor makes an untagged enum, and the first variant that fits is taken).
fn drop_not(document: &mut Value) {
    // Outer schemas come last, so a pointer into a removed `not` is never looked up after its
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

    /// A document with one POST operation whose body and whose answer are the component schemas
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
    fn browser_pages_are_left_out_and_others_stay() {
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
    fn header_parameters_are_left_out_whether_inline_or_referred_to() {
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
    fn a_success_beside_default_becomes_a_range() {
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
    fn defaults_stay_in_answers_and_go_from_requests_at_any_depth() {
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
    fn a_word_without_alternative_is_filled_in() {
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
    fn nothing_beside_a_secret_keeps_it_from_being_one() {
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
    fn limits_go_and_everything_else_stays() {
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
    fn not_is_dropped_with_what_is_in_it() {
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
