//! Converts the schema dialect of OpenAPI 3.0 to JSON Schema 2020-12.

use serde_json::{Map, Value, json};

/// Keywords of OpenAPI that JSON Schema does not have and that do not affect validity.
const WITHOUT_MEANING: &[&str] = &[
    "deprecated",
    "example",
    "externalDocs",
    "readOnly",
    "writeOnly",
    "xml",
];

/// Converts one schema and everything nested in it.
pub(crate) fn from_openapi(schema: &Value) -> Value {
    let Value::Object(openapi) = schema else {
        return schema.clone(); // `additionalProperties: false`
    };
    if let Some(target) = crate::walk::reference(schema) {
        // OpenAPI 3.0 ignores the siblings of `$ref`.
        return json!({"$ref": definition(target)});
    }
    let mut converted = Map::new();
    for (key, value) in openapi {
        let key = key.as_str();
        if WITHOUT_MEANING.contains(&key) || key.starts_with("x-") {
            continue;
        }
        match key {
            "nullable" | "exclusiveMinimum" | "exclusiveMaximum" => {}
            "discriminator" => {
                converted.insert("x-discriminator".to_owned(), discriminator(value));
            }
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                let properties = properties.map(|(name, each)| (name.clone(), from_openapi(each)));
                converted.insert(key.to_owned(), properties.collect());
            }
            "items" | "additionalProperties" | "not" => {
                converted.insert(key.to_owned(), from_openapi(value));
            }
            "allOf" | "anyOf" | "oneOf" => {
                let parts = value.as_array().into_iter().flatten().map(from_openapi);
                converted.insert(key.to_owned(), parts.collect());
            }
            _ => {
                converted.insert(key.to_owned(), value.clone());
            }
        }
    }
    exclusive_limits(openapi, &mut converted);
    allow_null(openapi, &mut converted);
    converted.sort_keys();
    Value::Object(converted)
}

/// All schema components, as a map for `$defs`.
pub(crate) fn definitions(document: &Value) -> Value {
    document["components"]["schemas"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.clone(), from_openapi(schema)))
        .collect()
}

/// The location of a schema component in the converted document.
fn definition(target: &str) -> String {
    target.replace("#/components/schemas/", "#/$defs/")
}

/// A boolean next to the limit in OpenAPI 3.0; the limit itself in JSON Schema.
fn exclusive_limits(openapi: &Map<String, Value>, converted: &mut Map<String, Value>) {
    for (flag, limit) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        if openapi.get(flag) == Some(&Value::Bool(true))
            && let Some(value) = converted.remove(limit)
        {
            converted.insert(flag.to_owned(), value);
        }
    }
}

/// `nullable` adds the type null, and the value null to an enum.
fn allow_null(openapi: &Map<String, Value>, converted: &mut Map<String, Value>) {
    if openapi.get("nullable") != Some(&Value::Bool(true)) {
        return;
    }
    if let Some(kind) = converted.get_mut("type") {
        *kind = json!([kind, "null"]);
    }
    if let Some(Value::Array(values)) = converted.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

/// Kept as an extension keyword: a validator can select the intended schema, and report
/// errors of that schema, where `oneOf` could only report that no schema
/// matches.
fn discriminator(openapi: &Value) -> Value {
    let mapping: Map<String, Value> = openapi["mapping"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(word, target)| {
            let target = target.as_str().unwrap_or_default();
            (word.clone(), definition(target).into())
        })
        .collect();
    json!({"property": openapi["propertyName"], "mapping": mapping})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_between_the_dialects_is_converted() {
        let cases = [
            (
                json!({"$ref": "#/components/schemas/A", "description": "ignored"}),
                json!({"$ref": "#/$defs/A"}),
            ),
            (
                json!({"type": "string", "nullable": true, "enum": ["a"]}),
                json!({"type": ["string", "null"], "enum": ["a", null]}),
            ),
            (
                json!({"type": "string", "nullable": false}),
                json!({"type": "string"}),
            ),
            (
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true,
                    "maximum": 9, "exclusiveMaximum": false}),
                json!({"type": "integer", "exclusiveMinimum": 1, "maximum": 9}),
            ),
            (
                json!({"type": "string", "example": "a", "xml": {}, "readOnly": true, "title": "T"}),
                json!({"type": "string", "title": "T"}),
            ),
            (
                json!({"additionalProperties": false, "properties": {
                    "example": {"items": {"type": "string", "nullable": true}}}}),
                json!({"additionalProperties": false, "properties": {
                    "example": {"items": {"type": ["string", "null"]}}}}),
            ),
            (
                json!({"not": {"anyOf": [{"$ref": "#/components/schemas/A"}]}}),
                json!({"not": {"anyOf": [{"$ref": "#/$defs/A"}]}}),
            ),
            (
                json!({"oneOf": [{"$ref": "#/components/schemas/A"}],
                    "discriminator": {
                        "propertyName": "kind", "mapping": {"a": "#/components/schemas/A"}}}),
                json!({"oneOf": [{"$ref": "#/$defs/A"}],
                    "x-discriminator": {"property": "kind", "mapping": {"a": "#/$defs/A"}}}),
            ),
        ];
        for (openapi, expected) in cases {
            assert_eq!(from_openapi(&openapi), expected, "{openapi}");
        }
    }
}
