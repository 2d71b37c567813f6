//! Compares the spec with the requests: nothing undocumented may be sent, and every part of the spec must be used by a
//! request.
//!
//! The spec is read as JSON Schemas from `mock/schemas/coze-oauth.json`, which `cargo xtask gen` generates.
//! A test in `xtask` checks that each secret of the spec is a `Secret` in the generated
//! types.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{requests, support::Sent};

/// The parts of the description that are needed here.
#[derive(Debug, Deserialize)]
struct Spec {
    operations: Vec<Operation>,
    #[serde(rename = "$defs")]
    definitions: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Operation {
    operation_id: String,
    method: String,
    path: String,
    security: Vec<String>,
    parameters: Vec<Parameter>,
    request: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    name: String,
    #[serde(rename = "in")]
    location: String,
    required: bool,
    schema: Value,
}

#[tokio::test]
async fn everything_that_is_sent_is_in_the_spec() {
    let spec = Spec::read();
    let mut wrong = Vec::new();
    for (name, sent) in spec_requests().await {
        for problem in spec.problems(&sent) {
            wrong.push(format!("{name}: {problem}\nwhat was sent: {sent:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn everything_in_the_spec_is_sent() {
    let spec = Spec::read();
    let mut never_sent: BTreeSet<String> =
        spec.operations.iter().flat_map(|o| o.all(&spec)).collect();
    assert!(
        never_sent.len() > 40,
        "the spec seems to be incomplete: {never_sent:?}"
    );
    for (_, sent) in spec_requests().await {
        for (operation, values) in spec.operation_of(&sent) {
            for item in operation.hit_by(&spec, &sent, &values) {
                never_sent.remove(&item);
            }
        }
    }
    assert!(
        never_sent.is_empty(),
        "no request of requests.rs sends these: {never_sent:#?}"
    );
}

#[tokio::test]
async fn a_field_outside_the_spec_would_be_noticed() {
    let spec = Spec::read();
    let (_, good) = spec_requests().await.remove(0);
    assert_eq!(spec.problems(&good), Vec::<String>::new());

    let mut more_query = good.clone();
    more_query.query.push(("prompt".to_owned(), "x".to_owned()));
    let mut elsewhere = good.clone();
    elsewhere.path.push_str("/more");
    let exchange = requests::all().await;
    let (_, exchange) = exchange
        .iter()
        .find(|(name, _)| *name == "web_exchange")
        .unwrap();
    let mut more_body = exchange.clone();
    more_body.body.as_mut().unwrap()["scope"] = json!("x");
    let mut no_code = exchange.clone();
    let fields = no_code.body.as_mut().and_then(Value::as_object_mut);
    fields.unwrap().remove("code").unwrap();
    let mut unknown_grant = exchange.clone();
    unknown_grant.body.as_mut().unwrap()["grant_type"] = json!("password");
    for changed in [more_query, elsewhere, more_body, no_code, unknown_grant] {
        assert!(!spec.problems(&changed).is_empty(), "{changed:#?}");
    }
}

/// All requests that the spec must describe. API calls have a separate spec. The base
/// URL's path is not part of the spec.
async fn spec_requests() -> Vec<(&'static str, Sent)> {
    let mut requests = requests::all().await.to_vec();
    requests.retain(|(name, _)| *name != "fixed_token_on_an_api_call");
    for (_, sent) in &mut requests {
        if let Some(path) = sent.path.strip_prefix("/pre/") {
            sent.path = format!("/{path}");
        }
    }
    requests
}

impl Spec {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mock/schemas/coze-oauth.json");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    /// The operations that match a request, with the values in its path. There must be exactly one.
    fn operation_of(&self, sent: &Sent) -> Vec<(&Operation, BTreeMap<String, String>)> {
        self.operations
            .iter()
            .filter(|operation| operation.method == sent.method)
            .filter_map(|operation| Some((operation, values_in_path(&operation.path, &sent.path)?)))
            .collect()
    }

    /// The deviations of a request from the spec.
    fn problems(&self, sent: &Sent) -> Vec<String> {
        let operations = self.operation_of(sent);
        let [(operation, values)] = &operations[..] else {
            return vec![format!("{} operations have this path", operations.len())];
        };
        let mut problems = operation.parameter_problems(self, sent, values);
        problems.extend(operation.credential_problem(sent));
        match (&operation.request, &sent.body) {
            (None, None) => {}
            (Some(schema), Some(body)) => {
                problems.extend(self.violations(&self.schema_for(schema, body), body));
            }
            (schema, _) => problems.push(format!("a body is expected: {}", schema.is_some())),
        }
        problems
    }

    /// The schema of this body: the variant selected by `grant_type`, if there is one, so that a
    /// violation is reported instead of "none of four".
    fn schema_for(&self, schema: &Value, body: &Value) -> Value {
        let discriminator = &self.resolved(schema)["x-discriminator"];
        let Some(property) = discriminator["property"].as_str() else {
            return schema.clone();
        };
        match body[property].as_str() {
            Some(word) if discriminator["mapping"][word].is_string() => {
                json!({"$ref": discriminator["mapping"][word]})
            }
            _ => schema.clone(),
        }
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            None => schema,
            Some(reference) => self.definition(reference),
        }
    }

    fn definition(&self, reference: &str) -> &Value {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        &self.definitions[name]
    }

    fn violations(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut whole = json!({"allOf": [schema]});
        whole["$defs"] = json!(self.definitions);
        let validator = jsonschema::validator_for(&whole).unwrap();
        validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    /// The paths of all fields that a schema allows, at every level.
    fn fields_of(&self, schema: &Value) -> BTreeSet<String> {
        let schema = self.resolved(schema);
        let mut fields = BTreeSet::new();
        let variants = schema["oneOf"].as_array().into_iter().flatten();
        for variant in variants {
            let name = variant["$ref"].as_str().unwrap_or_default();
            let name = name.rsplit('/').next().unwrap_or_default();
            for field in self.fields_of(variant) {
                fields.insert(format!("{name}{field}"));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            fields.insert(format!(".{name}"));
            for field in self.fields_of(property) {
                fields.insert(format!(".{name}{field}"));
            }
        }
        if schema["items"].is_object() {
            fields.insert("[]".to_owned());
            for field in self.fields_of(&schema["items"]) {
                fields.insert(format!("[]{field}"));
            }
        }
        fields
    }

    /// The same for a body that was sent, prefixed by its grant.
    fn fields_in(&self, schema: &Value, body: &Value) -> BTreeSet<String> {
        let variant = self.schema_for(schema, body);
        let name = match variant == *schema {
            true => "",
            false => variant["$ref"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap(),
        };
        let mut fields = BTreeSet::new();
        collect_fields(name, body, &mut fields);
        fields
    }
}

impl Operation {
    /// Every field that the spec defines for this operation.
    fn all(&self, spec: &Spec) -> BTreeSet<String> {
        let mut all = BTreeSet::from([self.operation_id.clone()]);
        for parameter in &self.parameters {
            all.insert(format!("{} {}", self.operation_id, parameter.name));
        }
        for credential in &self.security {
            all.insert(format!("{} with {credential}", self.operation_id));
        }
        for field in self
            .request
            .iter()
            .flat_map(|schema| spec.fields_of(schema))
        {
            all.insert(format!("{} {field}", self.operation_id));
        }
        all
    }

    /// The fields of it that a request sends.
    fn hit_by(&self, spec: &Spec, sent: &Sent, values: &BTreeMap<String, String>) -> Vec<String> {
        let id = &self.operation_id;
        let query = sent.query.iter().map(|(name, _)| name);
        let mut hit = vec![id.clone(), format!("{id} with {}", credential(sent))];
        hit.extend(
            values
                .keys()
                .chain(query)
                .map(|name| format!("{id} {name}")),
        );
        if let (Some(schema), Some(body)) = (&self.request, &sent.body) {
            let fields = spec.fields_in(schema, body);
            hit.extend(fields.iter().map(|field| format!("{id} {field}")));
        }
        hit
    }

    fn parameter_problems(
        &self,
        spec: &Spec,
        sent: &Sent,
        values: &BTreeMap<String, String>,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, _) in &sent.query {
            let known = |p: &Parameter| p.location == "query" && p.name == *name;
            if !self.parameters.iter().any(known) {
                problems.push(format!("the spec has no query parameter {name}"));
            }
        }
        for parameter in &self.parameters {
            let value = match parameter.location.as_str() {
                "path" => values.get(&parameter.name),
                "query" => sent
                    .query
                    .iter()
                    .find(|(n, _)| *n == parameter.name)
                    .map(|(_, v)| v),
                other => panic!("parameters in {other} are not supported here"),
            };
            match value {
                // Described in the snapshot instead of shown, because it is random.
                Some(value) if value.ends_with(" random chars>") => {}
                Some(value) => problems.extend(spec.violations(&parameter.schema, &json!(value))),
                None if parameter.required => {
                    problems.push(format!("the required {} is missing", parameter.name));
                }
                None => {}
            }
        }
        problems
    }

    fn credential_problem(&self, sent: &Sent) -> Option<String> {
        let credential = credential(sent);
        let allowed = self.security.iter().any(|allowed| allowed == credential);
        (!allowed).then(|| {
            format!(
                "the credential is {credential}, not one of {:?}",
                self.security
            )
        })
    }
}

/// The security scheme that a request uses.
fn credential(sent: &Sent) -> &'static str {
    match (&sent.jwt, sent.headers.contains_key("authorization")) {
        (Some(_), _) => "jwt",
        (None, true) => "clientSecret",
        (None, false) => "none",
    }
}

/// The values in a path for the names in the spec's path; `None` if the paths do not match.
fn values_in_path(pattern: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let (pattern, path): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), path.split('/').collect());
    if pattern.len() != path.len() {
        return None;
    }
    let mut values = BTreeMap::new();
    for (expected, given) in pattern.into_iter().zip(path) {
        match expected.strip_prefix('{').and_then(|e| e.strip_suffix('}')) {
            Some(name) => {
                values.insert(name.to_owned(), given.to_owned());
            }
            None if expected == given => {}
            None => return None,
        }
    }
    Some(values)
}

fn collect_fields(path: &str, value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = format!("{path}.{name}");
                collect_fields(&path, value, fields);
                fields.insert(path);
            }
        }
        Value::Array(items) => {
            for item in items {
                let path = format!("{path}[]");
                collect_fields(&path, item, fields);
                fields.insert(path);
            }
        }
        _ => {}
    }
}
