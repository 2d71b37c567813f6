//! The contract: validates requests by the schemas that are generated from the OpenAPI description.
//!
//! A finding names the location and the rule, never a value: the value may be a misplaced secret.

use crate::answer::{OAuthErrorCode, Refusal};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::limits;
use crate::printable::Name;
use crate::record::{Note, Tolerance, Violation};
use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// The schemas, written by `cargo xtask gen`: one document per OpenAPI description.
const DOCUMENTS: [&str; 2] = [
    include_str!("../schemas/coze-oauth.json"),
    include_str!("../schemas/coze-api.json"),
];

/// The findings about one request.
pub(crate) struct Findings {
    pub(crate) lenient: bool,
    pub(crate) request: u64,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) violations: Vec<Violation>,
    /// Violations beyond the limit: counted, not listed.
    pub(crate) unlisted: u64,
    pub(crate) notes: Vec<Note>,
}

impl Findings {
    pub(crate) fn new(lenient: bool, request: u64, endpoint: Option<Endpoint>) -> Self {
        Self {
            lenient,
            request,
            endpoint,
            violations: Vec::new(),
            unlisted: 0,
            notes: Vec::new(),
        }
    }

    /// Records a violation that is refused in both modes.
    pub(crate) fn violation(&mut self, place: impl Into<String>, rule: impl Into<String>) {
        self.push(place.into(), rule.into(), None);
    }

    /// Records a violation that lenient mode accepts. Returns whether it is accepted.
    pub(crate) fn tolerates(
        &mut self,
        tolerance: Tolerance,
        place: impl Into<String>,
        rule: impl Into<String>,
    ) -> bool {
        self.push(place.into(), rule.into(), self.lenient.then_some(tolerance));
        self.lenient
    }

    pub(crate) fn note(&mut self, place: &str, advice: &str) {
        self.notes.push(Note {
            request: self.request,
            place: place.to_owned(),
            advice: advice.to_owned(),
        });
    }

    fn push(&mut self, place: String, rule: String, tolerated: Option<Tolerance>) {
        if self.violations.len() >= limits::VIOLATIONS_OF_A_REQUEST {
            self.unlisted += 1;
            return;
        }
        self.violations.push(Violation {
            request: self.request,
            endpoint: self.endpoint,
            place,
            rule,
            tolerated,
        });
    }
}

/// All operations, with validators that are compiled once per process.
pub(crate) struct Contract {
    operations: HashMap<String, Operation>,
    /// The ids in the examples of answers.
    example_ids: HashSet<String>,
}

struct Operation {
    method: String,
    path: String,
    parameters: Vec<Parameter>,
    request: Option<RequestBody>,
    /// Whether a body can ask for an event stream.
    streams: bool,
    /// The examples of a success, by name.
    examples: Vec<Value>,
}

struct Parameter {
    name: String,
    place: &'static str,
    required: bool,
    /// The JSON type that its text represents.
    kind: Option<String>,
    validator: Validator,
}

enum RequestBody {
    One(BodySchema),
    ByProperty {
        property: String,
        variants: HashMap<String, BodySchema>,
    },
}

struct BodySchema {
    schema: Value,
    validator: Validator,
}

#[derive(Deserialize)]
struct Document {
    operations: Vec<OperationDocument>,
    #[serde(rename = "$defs")]
    defs: Map<String, Value>,
}

#[derive(Deserialize)]
struct OperationDocument {
    operation_id: String,
    method: String,
    path: String,
    parameters: Vec<ParameterDocument>,
    request: Option<Value>,
    stream: Option<Value>,
    #[serde(default)]
    examples: ExamplesDocument,
}

#[derive(Deserialize, Default)]
struct ExamplesDocument {
    #[serde(default)]
    answer: Map<String, Value>,
}

#[derive(Deserialize)]
struct ParameterDocument {
    name: String,
    #[serde(rename = "in")]
    place: String,
    required: bool,
    schema: Value,
}

impl Contract {
    pub(crate) fn load() -> Result<&'static Self, Error> {
        static CONTRACT: OnceLock<Result<Contract, String>> = OnceLock::new();
        CONTRACT
            .get_or_init(Self::parse)
            .as_ref()
            .map_err(|why| Error::Contract(why.clone()))
    }

    fn parse() -> Result<Self, String> {
        let mut operations = HashMap::new();
        let mut example_ids = HashSet::new();
        for text in DOCUMENTS {
            let mut document: Document =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            document.defs.values_mut().for_each(close_objects);
            for operation in document.operations {
                let id = operation.operation_id.clone();
                let operation = Operation::compile(operation, &document.defs)
                    .map_err(|error| format!("operation {id}: {error}"))?;
                for example in &operation.examples {
                    collect_ids(example, &mut example_ids);
                }
                operations.insert(id, operation);
            }
        }
        Ok(Self {
            operations,
            example_ids,
        })
    }

    fn operation(&self, endpoint: Endpoint) -> Option<&Operation> {
        self.operations.get(endpoint.operation_id())
    }

    /// The method and the path template of an endpoint.
    pub(crate) fn method_and_path(&self, endpoint: Endpoint) -> Option<(&str, &str)> {
        let operation = self.operation(endpoint)?;
        Some((&operation.method, &operation.path))
    }

    /// Whether the endpoint takes a JSON body.
    pub(crate) fn takes_body(&self, endpoint: Endpoint) -> bool {
        self.operation(endpoint)
            .is_some_and(|operation| operation.request.is_some())
    }

    /// Whether this body asks the endpoint for an event stream.
    pub(crate) fn asks_for_stream(&self, endpoint: Endpoint, body: Option<&Value>) -> bool {
        let streams = self
            .operation(endpoint)
            .is_some_and(|operation| operation.streams);
        streams && body.is_some_and(|body| body.get("stream") == Some(&Value::Bool(true)))
    }

    /// Whether an example of an answer has this id.
    pub(crate) fn is_example_id(&self, id: &str) -> bool {
        self.example_ids.contains(id)
    }

    /// The described answer to a request with these ids, if they are all from examples: one that has them, else the first one.
    pub(crate) fn example(&self, endpoint: Endpoint, ids: &[&str]) -> Option<&Value> {
        if !ids.iter().all(|id| self.is_example_id(id)) {
            return None;
        }
        let examples = &self.operation(endpoint)?.examples;
        let matching = examples.iter().find(|example| {
            let mut known = HashSet::new();
            collect_ids(example, &mut known);
            ids.iter().all(|id| known.contains(*id))
        });
        matching.or(examples.first())
    }

    /// Checks path and query. The response reports the first violation.
    pub(crate) fn check_parameters(
        &self,
        endpoint: Endpoint,
        path_ids: &[(String, String)],
        query: &[(String, String)],
        findings: &mut Findings,
    ) -> Result<(), Refusal> {
        let Some(operation) = self.operation(endpoint) else {
            return Ok(());
        };
        let mut first = None;
        let mut breach = |findings: &mut Findings, place: String, name: &str, rule: String| {
            findings.violation(place, rule);
            first.get_or_insert_with(|| Refusal::invalid_request(name));
        };
        for parameter in &operation.parameters {
            let place = format!("{}/{}", parameter.place, parameter.name);
            let sent = if parameter.place == "path" {
                path_ids
            } else {
                query
            };
            let values: Vec<&str> = sent
                .iter()
                .filter(|(name, _)| *name == parameter.name)
                .map(|(_, value)| value.as_str())
                .collect();
            match values.as_slice() {
                // A parameter without a value counts as omitted (RFC 6749 section 3.1).
                [] | [""] if parameter.required => {
                    if findings.lenient && place == "query/state" {
                        findings.tolerates(Tolerance::MissingState, place, "required");
                    } else {
                        breach(findings, place, &parameter.name, "required".into());
                    }
                }
                [] | [""] => {}
                [value] => {
                    if let Some(rule) = parameter.broken_rule(value, findings) {
                        breach(findings, place, &parameter.name, rule);
                    }
                }
                _ => breach(
                    findings,
                    place,
                    &parameter.name,
                    "given more than once".into(),
                ),
            }
        }
        for (name, _) in query {
            if !operation
                .parameters
                .iter()
                .any(|known| known.place == "query" && known.name == *name)
            {
                let name = Name(name).to_string();
                breach(
                    findings,
                    format!("query/{name}"),
                    &name,
                    "unknown query parameter".into(),
                );
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Checks a JSON body, and returns it without the fields that lenient mode ignores.
    pub(crate) fn check_body(
        &self,
        endpoint: Endpoint,
        mut body: Value,
        findings: &mut Findings,
    ) -> Result<Value, Refusal> {
        let Some(request) = self
            .operation(endpoint)
            .and_then(|operation| operation.request.as_ref())
        else {
            return Ok(body);
        };
        let Value::Object(fields) = &body else {
            findings.violation("body", "must be a JSON object");
            return Err(Refusal::invalid_request("body"));
        };
        let schema = match request {
            RequestBody::One(schema) => schema,
            RequestBody::ByProperty { property, variants } => match fields.get(property) {
                Some(Value::String(value)) => match variants.get(value) {
                    Some(schema) => schema,
                    None => {
                        findings.violation(
                            format!("body/{property}"),
                            "not one of the documented values",
                        );
                        return Err(unsupported_grant_type(value));
                    }
                },
                found => {
                    let rule = if found.is_some() {
                        "must be a string"
                    } else {
                        "required"
                    };
                    findings.violation(format!("body/{property}"), rule);
                    return Err(Refusal::invalid_request(property));
                }
            },
        };
        if findings.lenient {
            drop_tolerated(&mut body, &schema.schema, "body", findings);
        }
        schema.check(&body, findings)?;
        Ok(body)
    }
}

fn unsupported_grant_type(value: &str) -> Refusal {
    Refusal::new(
        OAuthErrorCode::UnsupportedGrantType,
        format!("not supported grant type: {}", Name(value)),
    )
}

impl Operation {
    fn compile(document: OperationDocument, defs: &Map<String, Value>) -> Result<Self, String> {
        let mut parameters = Vec::new();
        for parameter in document.parameters {
            parameters.push(Parameter::compile(parameter, defs)?);
        }
        let request = document
            .request
            .map(|schema| RequestBody::compile(&schema, defs))
            .transpose()?;
        let answers = document.examples.answer.into_values();
        Ok(Self {
            method: document.method,
            path: document.path,
            parameters,
            request,
            streams: document.stream.is_some(),
            examples: answers.filter(|answer| answer["code"] == 0).collect(),
        })
    }
}

impl Parameter {
    fn compile(document: ParameterDocument, defs: &Map<String, Value>) -> Result<Self, String> {
        let validator = compile(&document.schema, defs)?;
        let kind = resolve(&document.schema, defs)?
            .get("type")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let place = if document.place == "path" {
            "path"
        } else {
            "query"
        };
        Ok(Self {
            name: document.name,
            place,
            required: document.required,
            kind,
            validator,
        })
    }

    /// Parses the text of a path or query parameter as its JSON type; falls back to a string.
    fn instance(&self, value: &str) -> Value {
        let parsed = match self.kind.as_deref() {
            Some("integer") => value.parse::<i64>().ok().map(Value::from),
            Some("number") => value.parse::<f64>().ok().map(Value::from),
            Some("boolean") => value.parse::<bool>().ok().map(Value::from),
            _ => None,
        };
        parsed.unwrap_or_else(|| Value::String(value.to_owned()))
    }

    fn broken_rule(&self, value: &str, findings: &mut Findings) -> Option<String> {
        let instance = self.instance(value);
        for error in self.validator.iter_errors(&instance) {
            // A plain challenge is the verifier itself, so it is equally short.
            let short = self.name == "code_challenge"
                && matches!(error.kind(), ValidationErrorKind::MinLength { .. });
            if !short || !findings.lenient {
                return Some(rule(error.kind()));
            }
            findings.tolerates(
                Tolerance::ShortVerifier,
                "query/code_challenge",
                rule(error.kind()),
            );
        }
        None
    }
}

impl RequestBody {
    fn compile(schema: &Value, defs: &Map<String, Value>) -> Result<Self, String> {
        let resolved = resolve(schema, defs)?;
        let Some(discriminator) = resolved.get("x-discriminator") else {
            return Ok(Self::One(BodySchema::compile(schema, defs)?));
        };
        let property = discriminator["property"]
            .as_str()
            .ok_or("x-discriminator without property")?
            .to_owned();
        let mapping = discriminator["mapping"]
            .as_object()
            .ok_or("x-discriminator without mapping")?;
        let mut variants = HashMap::new();
        for (value, target) in mapping {
            variants.insert(
                value.clone(),
                BodySchema::compile(&json!({ "$ref": target }), defs)?,
            );
        }
        Ok(Self::ByProperty { property, variants })
    }
}

impl BodySchema {
    fn compile(schema: &Value, defs: &Map<String, Value>) -> Result<Self, String> {
        Ok(Self {
            schema: inline(schema, defs, 0)?,
            validator: compile(schema, defs)?,
        })
    }

    fn check(&self, body: &Value, findings: &mut Findings) -> Result<(), Refusal> {
        let mut refusal: Option<Refusal> = None;
        for error in self.validator.iter_errors(body) {
            let path = error.instance_path().as_str().to_owned();
            let short = path == "/code_verifier"
                && matches!(error.kind(), ValidationErrorKind::MinLength { .. });
            if short && findings.lenient {
                findings.tolerates(
                    Tolerance::ShortVerifier,
                    "body/code_verifier",
                    rule(error.kind()),
                );
                continue;
            }
            let parameter = match error.kind() {
                ValidationErrorKind::Required { property } => {
                    join(&path, property.as_str().unwrap_or_default())
                }
                ValidationErrorKind::AdditionalProperties { unexpected } => {
                    join(&path, unexpected.first().map_or("", String::as_str))
                }
                _ => join(&path, ""),
            };
            let parameter = Name(&parameter).to_string();
            findings.violation(format!("body/{parameter}"), rule(error.kind()));
            refusal.get_or_insert_with(|| match (error.kind(), body.get("grant_type")) {
                (
                    ValidationErrorKind::Enum { .. } | ValidationErrorKind::Constant { .. },
                    Some(Value::String(value)),
                ) if path == "/grant_type" => unsupported_grant_type(value),
                _ => Refusal::invalid_request(&parameter),
            });
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// A JSON pointer and a property as one path: `scope/account_permission`.
fn join(pointer: &str, property: &str) -> String {
    let pointer = pointer.trim_start_matches('/');
    match (pointer, property) {
        ("", property) => property.to_owned(),
        (pointer, "") => pointer.to_owned(),
        (pointer, property) => format!("{pointer}/{property}"),
    }
}

/// Describes the rule. No arm prints the value that was sent.
fn rule(kind: &ValidationErrorKind) -> String {
    match kind {
        ValidationErrorKind::Required { .. } => "required".into(),
        ValidationErrorKind::AdditionalProperties { .. } => "unknown field".into(),
        ValidationErrorKind::Type { kind } => match kind {
            jsonschema::error::TypeKind::Single(kind) => format!("must be of type {kind}"),
            jsonschema::error::TypeKind::Multiple(_) => "must be of another type".into(),
        },
        ValidationErrorKind::MinLength { limit } => format!("at least {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("at most {limit} characters"),
        ValidationErrorKind::MinItems { limit } => format!("at least {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("at most {limit} items"),
        ValidationErrorKind::MinProperties { limit } => format!("at least {limit} fields"),
        ValidationErrorKind::MaxProperties { limit } => format!("at most {limit} fields"),
        ValidationErrorKind::Minimum { limit } => format!("at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("at most {limit}"),
        ValidationErrorKind::Pattern { pattern } => format!("must match {pattern}"),
        ValidationErrorKind::Enum { options } => format!("one of {options}"),
        ValidationErrorKind::Constant { expected_value } => format!("must be {expected_value}"),
        other => other.keyword().to_owned(),
    }
}

/// Removes null options and unknown fields at any depth, as lenient mode does, and records each.
fn drop_tolerated(value: &mut Value, schema: &Value, place: &str, findings: &mut Findings) {
    match value {
        Value::Object(fields) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                return;
            };
            let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
            let required = |name: &str| {
                schema
                    .get("required")
                    .and_then(Value::as_array)
                    .is_some_and(|names| names.iter().any(|known| known == name))
            };
            fields.retain(|name, field| {
                let place = format!("{place}/{}", Name(name));
                match properties.get(name) {
                    None if closed => {
                        !findings.tolerates(Tolerance::UnknownField, place, "unknown field")
                    }
                    Some(_) if field.is_null() && !required(name) => !findings.tolerates(
                        Tolerance::NullOption,
                        place,
                        "an absent option is omitted, not null",
                    ),
                    _ => true,
                }
            });
            for (name, field) in fields.iter_mut() {
                if let Some(schema) = properties.get(name) {
                    drop_tolerated(field, schema, &format!("{place}/{}", Name(name)), findings);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else {
                return;
            };
            for (at, item) in items.iter_mut().enumerate() {
                drop_tolerated(item, schema, &format!("{place}/{at}"), findings);
            }
        }
        _ => {}
    }
}

/// Lets an object with named properties have no others: a strict mock refuses unknown fields, which a description of
/// answers must permit.
fn close_objects(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close_objects);
            if fields.get("properties").is_some_and(Value::is_object) {
                fields
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close_objects),
        _ => {}
    }
}

/// Collects the values of `id` and of all members whose name ends with `_id`.
fn collect_ids(json: &Value, ids: &mut HashSet<String>) {
    match json {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(id) if name == "id" || name.ends_with("_id") => {
                        ids.insert(id.clone());
                    }
                    field => collect_ids(field, ids),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_ids(item, ids)),
        _ => {}
    }
}

fn compile(schema: &Value, defs: &Map<String, Value>) -> Result<Validator, String> {
    let mut root = schema.as_object().cloned().unwrap_or_default();
    root.insert(
        "$schema".into(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("$defs".into(), Value::Object(defs.clone()));
    jsonschema::validator_for(&Value::Object(root)).map_err(|error| error.to_string())
}

fn resolve<'a>(schema: &'a Value, defs: &'a Map<String, Value>) -> Result<&'a Value, String> {
    let Some(reference) = schema.get("$ref") else {
        return Ok(schema);
    };
    let name = reference
        .as_str()
        .and_then(|reference| reference.strip_prefix("#/$defs/"));
    name.and_then(|name| defs.get(name))
        .ok_or_else(|| format!("cannot resolve {reference}"))
}

/// A schema with its references resolved, for [`drop_tolerated`].
fn inline(schema: &Value, defs: &Map<String, Value>, depth: u8) -> Result<Value, String> {
    if depth > 16 {
        return Err("request schemas are nested too deeply".into());
    }
    Ok(match resolve(schema, defs)? {
        Value::Object(fields) => {
            let mut out = Map::new();
            for (name, field) in fields {
                out.insert(name.clone(), inline(field, defs, depth + 1)?);
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| inline(item, defs, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        other => other.clone(),
    })
}
