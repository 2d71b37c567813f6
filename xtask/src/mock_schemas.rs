//! The parts of a description that the mock needs: its operations, and its schemas as JSON Schema
//! 2020-12.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::document::Document;
use crate::expand::{EVENTS, PAGING, STREAM};
use crate::{json_schema, walk};

/// The file that the mock reads.
#[derive(Serialize)]
struct Contract<'d> {
    generated_by: &'static str,
    from: &'d str,
    operations: Vec<Operation<'d>>,
    /// The events of streams: by the name of the table, and by the name of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Value>,
    #[serde(rename = "$defs")]
    definitions: Value,
}

#[derive(Serialize)]
struct Operation<'d> {
    operation_id: &'d str,
    method: String,
    path: &'d str,
    tags: &'d [Value],
    /// Names of the accepted security schemes; `none` for no credential.
    security: Vec<&'d str>,
    parameters: Vec<Parameter<'d>>,
    /// The schema of the JSON body, if there is a body.
    request: Option<Value>,
    /// The schema of the JSON body by status. A response without a JSON body, such as a page, is not listed.
    responses: Map<String, Value>,
    /// How the operation is asked for an event stream, and the table of its events.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'d Value>,
    /// Which field of a page holds what.
    #[serde(skip_serializing_if = "Option::is_none")]
    paging: Option<&'d Value>,
    examples: Examples,
}

/// The examples of JSON bodies.
#[derive(Serialize)]
struct Examples {
    /// By name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    request: Map<String, Value>,
    /// Those of the answer 200, by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    answer: Map<String, Value>,
}

/// A parameter in the path or the query. Headers are not listed.
#[derive(Serialize)]
struct Parameter<'d> {
    name: &'d str,
    r#in: &'d str,
    required: bool,
    schema: Value,
}

/// The contents of the mock's file for this document.
pub(crate) fn render(document: &Document) -> Result<String> {
    let tree = &document.tree;
    let mut operations = walk::operations(tree)
        .into_iter()
        .map(|operation| {
            describe(tree, &operation)
                .with_context(|| format!("{}: operation at {}", document.source, operation.at))
        })
        .collect::<Result<Vec<_>>>()?;
    operations.sort_by_key(|operation| operation.operation_id);
    let contract = Contract {
        generated_by: "cargo xtask gen",
        from: &document.source,
        operations,
        events: tree["components"].get(EVENTS).map(events).transpose()?,
        definitions: json_schema::definitions(tree),
    };
    let mut text = serde_json::to_string_pretty(&contract)?;
    text.push('\n');
    Ok(text)
}

fn describe<'d>(tree: &'d Value, operation: &walk::Operation<'d>) -> Result<Operation<'d>> {
    let shared_parameters = &tree["paths"][operation.path]["parameters"];
    let parameters = [shared_parameters, operation.field("parameters")]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|entry| parameter(tree, entry).transpose())
        .collect::<Result<Vec<_>>>()?;
    let request = match operation.field("requestBody") {
        Value::Null => None,
        body => json_body(dereference(tree, body)?),
    };
    let mut responses = Map::new();
    for (status, response) in operation
        .field("responses")
        .as_object()
        .into_iter()
        .flatten()
    {
        if let Some(schema) = json_body(dereference(tree, response)?) {
            responses.insert(status.clone(), schema);
        }
    }
    Ok(Operation {
        operation_id: operation
            .field("operationId")
            .as_str()
            .context("has no operationId")?,
        method: operation.method.to_uppercase(),
        path: operation.path,
        tags: operation
            .field("tags")
            .as_array()
            .map_or(&[], Vec::as_slice),
        security: security(tree, operation),
        parameters,
        request,
        responses,
        stream: operation.fields.get(STREAM),
        paging: operation.fields.get(PAGING),
        examples: Examples {
            request: examples(tree, operation.field("requestBody"))?,
            answer: examples(tree, &operation.field("responses")["200"])?,
        },
    })
}

/// The examples of the JSON body of a request or a response.
fn examples(tree: &Value, holder: &Value) -> Result<Map<String, Value>> {
    let body = &dereference(tree, holder)?["content"]["application/json"];
    let mut found = Map::new();
    for (name, example) in body["examples"].as_object().into_iter().flatten() {
        let value = dereference(tree, example)?["value"].clone();
        found.insert(name.clone(), value);
    }
    Ok(found)
}

/// The tables of events, with the schemas of their data in the other dialect.
fn events(tables: &Value) -> Result<Value> {
    let mut tables = tables.clone();
    for table in tables.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let events = table["events"]
            .as_object_mut()
            .context("a table of events has no `events`")?;
        for event in events.values_mut() {
            event["data"] = json_schema::from_openapi(&event["data"]);
        }
    }
    Ok(tables)
}

/// The schemes that an operation accepts: its own, else those of the document.
fn security<'d>(tree: &'d Value, operation: &walk::Operation<'d>) -> Vec<&'d str> {
    operation
        .fields
        .get("security")
        .or_else(|| tree.get("security"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|schemes| schemes.keys().next().map_or("none", String::as_str))
        .collect()
}

fn parameter<'d>(tree: &'d Value, entry: &'d Value) -> Result<Option<Parameter<'d>>> {
    let entry = dereference(tree, entry)?;
    let place = entry["in"].as_str().context("a parameter has no `in`")?;
    if !matches!(place, "path" | "query") {
        return Ok(None);
    }
    Ok(Some(Parameter {
        name: entry["name"].as_str().context("a parameter has no name")?,
        r#in: place,
        required: entry["required"].as_bool().unwrap_or(false),
        schema: json_schema::from_openapi(&entry["schema"]),
    }))
}

/// The schema of the JSON body of a request or a response.
fn json_body(holder: &Value) -> Option<Value> {
    holder["content"]["application/json"]
        .get("schema")
        .map(json_schema::from_openapi)
}

/// `value`, or the target if it is a reference.
fn dereference<'d>(tree: &'d Value, value: &'d Value) -> Result<&'d Value> {
    walk::dereference(tree, value)
        .with_context(|| format!("the reference {value} does not resolve"))
}
