//! Expands the extensions of a description into standard OpenAPI.
//!
//! Coze's responses share an envelope, its requests share headers, and lists, streams and constant headers have a few
//! forms. The description contains each of these once, as an extension (`x-coze-...`); `spec/api/base.yaml` explains
//! them. Each step here replaces one extension. The mock's schemas and the rules of `lint` use the result, with the
//! source positions.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::walk;

/// At the root: the parts of every operation.
pub(crate) const EVERY_OPERATION: &str = "x-coze-every-operation";
/// At the response 200: the contents of its envelope.
pub(crate) const DATA: &str = "x-coze-data";
/// At an operation: its second form, whose response is an event stream.
pub(crate) const STREAM: &str = "x-coze-stream";
/// At an operation: its paging.
pub(crate) const PAGING: &str = "x-coze-paging";
/// In the components: the events of streams.
pub(crate) const EVENTS: &str = "x-coze-events";

/// Where the nodes of the expanded tree come from, by the prefixes of their pointers.
#[derive(Debug, Default)]
pub(crate) struct Origins(Vec<(String, String)>);

impl Origins {
    fn add(&mut self, expanded: String, written: String) {
        self.0.push((expanded, written));
    }

    /// Maps a pointer in the expanded tree to one in the source.
    pub(crate) fn written(&self, pointer: &str) -> String {
        let origin = self
            .0
            .iter()
            .filter(|(expanded, _)| walk::is_within(pointer, expanded))
            .max_by_key(|(expanded, _)| expanded.len());
        match origin {
            Some((expanded, written)) => format!("{written}{}", &pointer[expanded.len()..]),
            None => pointer.to_owned(),
        }
    }
}

/// The tree in standard OpenAPI, and where its nodes come from.
pub(crate) fn expand(written: &Value) -> Result<(Value, Origins)> {
    let mut tree = written.clone();
    let mut origins = Origins::default();
    shared_by_every_operation(&mut tree);
    envelopes(&mut tree, &mut origins)?;
    streams(&mut tree);
    if let Value::Object(fields) = &mut tree {
        fields.remove(EVERY_OPERATION);
    }
    Ok((tree, origins))
}

/// The operations of a document, mutable, with their pointers.
pub(crate) fn operations_mut(
    tree: &mut Value,
) -> impl Iterator<Item = (String, &mut Map<String, Value>)> {
    let paths = tree.get_mut("paths").and_then(Value::as_object_mut);
    paths.into_iter().flatten().flat_map(|(path, item)| {
        let at = walk::join("/paths", path);
        item.as_object_mut()
            .into_iter()
            .flatten()
            .filter(|(method, _)| walk::METHODS.contains(&method.as_str()))
            .filter_map(move |(method, operation)| {
                Some((walk::join(&at, method), operation.as_object_mut()?))
            })
    })
}

/// Adds the parameters and the responses that every operation has. Those of the operation itself take precedence.
fn shared_by_every_operation(tree: &mut Value) {
    let Some(shared) = tree.get(EVERY_OPERATION).cloned() else {
        return;
    };
    for (_, operation) in operations_mut(tree) {
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        if let (Value::Array(own), Some(all)) = (parameters, shared["parameters"].as_array()) {
            own.extend(all.iter().cloned());
        }
        let responses = operation.entry("responses").or_insert_with(|| json!({}));
        if let Some(own) = responses.as_object_mut() {
            for (status, response) in shared["responses"].as_object().into_iter().flatten() {
                own.entry(status.clone())
                    .or_insert_with(|| response.clone());
            }
        }
    }
}

/// Replaces `x-coze-data` with the schema and the examples of the whole response: the envelope with its contents, or an
/// error.
fn envelopes(tree: &mut Value, origins: &mut Origins) -> Result<()> {
    let whole = tree.clone();
    let shared = &whole[EVERY_OPERATION];
    for (at, operation) in operations_mut(tree) {
        let Some(response) = operation
            .get_mut("responses")
            .and_then(|responses| responses.get_mut("200"))
            .and_then(Value::as_object_mut)
        else {
            continue;
        };
        let Some(data) = response.remove(DATA) else {
            continue;
        };
        let envelope = walk::dereference(&whole, &shared["envelope"])
            .filter(|envelope| envelope.is_object())
            .with_context(|| {
                format!("{at}: `{DATA}` without an envelope in `{EVERY_OPERATION}`")
            })?;
        let response_at = format!("{at}/responses/200");
        let data_at = walk::join(&response_at, DATA);
        let content_at = format!("{response_at}/content/application~1json");
        let schema = Contents::of(&data).schema(&whole, envelope);
        let mut examples = Map::new();
        for (name, example) in data["examples"].as_object().into_iter().flatten() {
            let mut example = example.clone();
            let value = Contents::of(&data).answer(envelope, example["value"].take());
            example["value"] = value;
            let example_at = walk::join(&format!("{content_at}/examples"), name);
            let written_at = walk::join(&walk::join(&data_at, "examples"), name);
            let value_at = Contents::of(&data).value_at();
            origins.add(
                format!("{example_at}/value{value_at}"),
                format!("{written_at}/value"),
            );
            origins.add(example_at, written_at);
            examples.insert(name.clone(), example);
        }
        if data.get("schema").is_none() {
            examples.insert(
                "done".to_owned(),
                json!({"summary": "Success", "value": envelope["example"]}),
            );
        }
        for (name, example) in shared["examples"].as_object().into_iter().flatten() {
            examples
                .entry(name.clone())
                .or_insert_with(|| example.clone());
        }
        origins.add(content_at, data_at);
        if let Some(headers) = shared.get("headers") {
            response.insert("headers".to_owned(), headers.clone());
        }
        let error = json!({"$ref": "#/components/schemas/ApiError"});
        response.insert(
            "content".to_owned(),
            json!({"application/json": {
                "schema": {"oneOf": [schema, error]},
                "examples": examples,
            }}),
        );
    }
    Ok(())
}

/// Where the contents of a response are in the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents<'d> {
    /// The response has no contents.
    Nothing,
    /// In the field `data`.
    Data(&'d Value),
    /// The envelope itself.
    Whole(&'d Value),
}

impl<'d> Contents<'d> {
    /// Parses an `x-coze-data`.
    pub(crate) fn of(data: &'d Value) -> Self {
        match data.get("schema") {
            None => Self::Nothing,
            Some(schema) if data["whole"] == true => Self::Whole(schema),
            Some(schema) => Self::Data(schema),
        }
    }

    /// The schema of the whole response.
    fn schema(self, tree: &Value, envelope: &Value) -> Value {
        let mut schema = envelope.clone();
        if let Value::Object(fields) = &mut schema {
            fields.remove("example");
        }
        let (properties, required): (Map<String, Value>, Vec<Value>) = match self {
            Self::Nothing => return schema,
            Self::Data(contents) => {
                let property = [("data".to_owned(), contents.clone())];
                (property.into_iter().collect(), vec!["data".into()])
            }
            Self::Whole(contents) => {
                // `lint` reports a reference that does not resolve, with its line.
                let contents = walk::dereference(tree, contents).unwrap_or(&Value::Null);
                let list = |key: &str| contents[key].clone();
                (
                    serde_json::from_value(list("properties")).unwrap_or_default(),
                    serde_json::from_value(list("required")).unwrap_or_default(),
                )
            }
        };
        if let Some(own) = schema["properties"].as_object_mut() {
            own.extend(properties);
        }
        if let Some(own) = schema["required"].as_array_mut() {
            own.extend(required);
        }
        schema
    }

    /// A response with these contents.
    fn answer(self, envelope: &Value, contents: Value) -> Value {
        let mut answer = envelope["example"].clone();
        match (self, &mut answer, contents) {
            (Self::Data(_), Value::Object(answer), contents) => {
                answer.insert("data".to_owned(), contents);
            }
            (Self::Whole(_), Value::Object(answer), Value::Object(contents)) => {
                answer.extend(contents);
            }
            _ => {}
        }
        answer
    }

    /// The pointer of the contents in a response.
    fn value_at(self) -> &'static str {
        match self {
            Self::Data(_) => "/data",
            Self::Nothing | Self::Whole(_) => "",
        }
    }
}

/// Adds the event stream to the responses of an operation that has a streamed form.
fn streams(tree: &mut Value) {
    for (_, operation) in operations_mut(tree) {
        if operation.contains_key(STREAM)
            && let Some(content) = operation
                .get_mut("responses")
                .and_then(|responses| responses.get_mut("200"))
                .and_then(|response| response.get_mut("content"))
                .and_then(Value::as_object_mut)
        {
            content.insert(
                "text/event-stream".to_owned(),
                json!({"schema": {"type": "string"}}),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(operation: Value) -> Value {
        json!({
            "x-coze-every-operation": {
                "envelope": {"$ref": "#/components/schemas/Envelope"},
                "parameters": [{"$ref": "#/components/parameters/Agent"}],
                "headers": {"x-tt-logid": {"$ref": "#/components/headers/LogId"}},
                "examples": {"refused": {"$ref": "#/components/examples/Refused"}},
                "responses": {"default": {"$ref": "#/components/responses/ApiError"}},
            },
            "paths": {"/a": {"get": operation}},
            "components": {"schemas": {
                "Envelope": {
                    "type": "object",
                    "required": ["code"],
                    "properties": {"code": {"type": "integer"}},
                    "example": {"code": 0},
                },
                "Page": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "array"}, "has_more": {"type": "boolean"}},
                },
            }},
        })
    }

    fn expanded(operation: Value) -> Value {
        let (tree, _) = expand(&document(operation)).unwrap();
        assert!(tree.get(EVERY_OPERATION).is_none());
        tree["paths"]["/a"]["get"].clone()
    }

    #[test]
    fn every_operation_gets_what_all_share_and_keeps_its_own() {
        let operation = expanded(json!({
            "parameters": [{"name": "id", "in": "query"}],
            "responses": {"200": {"description": "Done."}},
        }));

        assert_eq!(
            operation["parameters"],
            json!([{"name": "id", "in": "query"}, {"$ref": "#/components/parameters/Agent"}])
        );
        assert_eq!(
            operation["responses"],
            json!({
                "200": {"description": "Done."},
                "default": {"$ref": "#/components/responses/ApiError"},
            })
        );
        let own = expanded(json!({"responses": {"default": {"description": "Another."}}}));
        assert_eq!(own["responses"]["default"]["description"], "Another.");
    }

    /// The schema and the examples of a response.
    fn answer(data: Value) -> (Value, Value) {
        let operation = expanded(json!({"responses": {"200": {"x-coze-data": data}}}));
        let content = &operation["responses"]["200"]["content"]["application/json"];
        assert_eq!(
            content["schema"]["oneOf"][1],
            json!({"$ref": "#/components/schemas/ApiError"})
        );
        (
            content["schema"]["oneOf"][0].clone(),
            content["examples"].clone(),
        )
    }

    #[test]
    fn data_is_put_into_the_envelope() {
        let (schema, examples) = answer(json!({
            "schema": {"$ref": "#/components/schemas/Thing"},
            "examples": {"one": {"summary": "One", "value": {"id": "1"}}},
        }));

        assert_eq!(
            schema,
            json!({
                "type": "object",
                "required": ["code", "data"],
                "properties": {
                    "code": {"type": "integer"},
                    "data": {"$ref": "#/components/schemas/Thing"},
                },
            })
        );
        assert_eq!(
            examples,
            json!({
                "one": {"summary": "One", "value": {"code": 0, "data": {"id": "1"}}},
                "refused": {"$ref": "#/components/examples/Refused"},
            })
        );
    }

    #[test]
    fn contents_can_be_the_whole_envelope_or_missing() {
        let (schema, examples) = answer(json!({
            "whole": true,
            "schema": {"$ref": "#/components/schemas/Page"},
            "examples": {"one": {"value": {"data": [], "has_more": false}}},
        }));
        assert_eq!(schema["required"], json!(["code", "data"]));
        assert_eq!(schema["properties"]["has_more"], json!({"type": "boolean"}));
        assert_eq!(
            examples["one"]["value"],
            json!({"code": 0, "data": [], "has_more": false})
        );

        let (schema, examples) = answer(json!({}));
        assert_eq!(schema["required"], json!(["code"]));
        assert_eq!(examples["done"]["value"], json!({"code": 0}));
    }

    #[test]
    fn an_expanded_node_is_traced_to_what_is_written() {
        let (_, origins) = expand(&document(json!({"responses": {"200": {"x-coze-data": {
            "schema": {"type": "string"}, "examples": {"one": {"value": "a"}},
        }}}})))
        .unwrap();

        let written = "/paths/~1a/get/responses/200/x-coze-data";
        let expanded = "/paths/~1a/get/responses/200/content/application~1json";
        for (pointer, origin) in [
            ("/examples/one/value/data/x", "/examples/one/value/x"),
            ("/examples/one/summary", "/examples/one/summary"),
            ("/schema", "/schema"),
        ] {
            assert_eq!(
                origins.written(&format!("{expanded}{pointer}")),
                format!("{written}{origin}")
            );
        }
        assert_eq!(origins.written("/paths/~1a"), "/paths/~1a");
    }

    #[test]
    fn an_operation_with_a_streamed_form_answers_with_a_stream_too() {
        let operation = expanded(json!({
            "x-coze-stream": {"field": "stream"},
            "responses": {"200": {"x-coze-data": {}}},
        }));

        let content = operation["responses"]["200"]["content"]
            .as_object()
            .unwrap();
        let types: Vec<_> = content.keys().collect();
        assert_eq!(types, ["application/json", "text/event-stream"]);
    }
}
