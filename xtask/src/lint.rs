//! The rules for descriptions, on which the generator, the mock and readers
//! rely.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, ValidationError};
use serde_json::{Value, json};

use crate::document::Document;
use crate::expand::{EVENTS, EVERY_OPERATION};
use crate::place::Place;
use crate::{json_schema, walk};

/// A violation of a rule, and how to fix it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    source: String,
    place: Place,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.source, self.place, self.message)
    }
}

/// A finding whose position is a JSON pointer.
struct Problem {
    at: String,
    message: String,
}

impl Problem {
    fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            message: message.into(),
        }
    }
}

/// A rule checks a whole document.
type Rule = fn(&Value) -> Vec<Problem>;

const RULES: &[Rule] = &[
    operations_are_complete,
    fields_are_described,
    secrets_are_marked,
    examples_fit,
    references_resolve,
];

/// Rules about what is written, before it is expanded.
const WRITTEN_RULES: &[Rule] = &[components_are_used];

/// All findings in a document, in the order of the text.
pub(crate) fn findings(document: &Document) -> Result<Vec<Finding>> {
    let places = document.places()?;
    let findings: BTreeSet<Finding> = RULES
        .iter()
        .flat_map(|rule| rule(&document.tree))
        .chain(
            WRITTEN_RULES
                .iter()
                .flat_map(|rule| rule(&document.written)),
        )
        .map(|problem| {
            let (source, place) = places.of(&problem.at);
            Finding {
                source,
                place,
                message: problem.message,
            }
        })
        .collect();
    Ok(findings.into_iter().collect())
}

/// Every operation has an id, a summary, a tag, error responses and security.
fn operations_are_complete(tree: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for operation in walk::operations(tree) {
        let mut require = |holds: bool, message: &str| {
            if !holds {
                problems.push(Problem::new(&operation.at, message));
            }
        };
        require(
            is_text(operation.field("operationId")),
            "operation has no `operationId`; add one, the generated function is named after it",
        );
        require(
            is_text(operation.field("summary")),
            "operation has no `summary`; add one line that describes it",
        );
        require(
            operation
                .field("tags")
                .as_array()
                .is_some_and(|tags| !tags.is_empty()),
            "operation has no tag; add one to `tags`",
        );
        require(
            operation
                .field("responses")
                .as_object()
                .is_some_and(|responses| responses.keys().any(|status| is_error_status(status))),
            "operation has no error responses; add a response `default` or one for a 4xx status",
        );
        let security = match operation.field("security") {
            Value::Null => &tree["security"],
            own => own,
        };
        require(
            security
                .as_array()
                .is_some_and(|schemes| !schemes.is_empty()),
            "operation has no `security`; list the schemes that it accepts, including `{}` if none is required",
        );
    }
    problems
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

fn is_error_status(status: &str) -> bool {
    status == "default" || status.starts_with('4')
}

/// Every property and every parameter has a description, or refers to a schema
/// with one.
fn fields_are_described(tree: &Value) -> Vec<Problem> {
    fields(tree)
        .into_iter()
        .filter(|field| !is_text(&field.value["description"]))
        .filter(|field| {
            let referred = walk::reference(field.value).and(walk::dereference(tree, field.value));
            !referred.is_some_and(|schema| is_text(&schema["description"]))
        })
        .map(|field| {
            let Field { kind, name, .. } = field;
            let message = format!("{kind} `{name}` has no description; add one");
            Problem::new(field.at, message)
        })
        .collect()
}

/// Names that look like secrets but are public, each with the reason.
const PUBLIC: &[(&str, &str)] = &[
    ("user_code", "shown to the user, who types it in"),
    ("token_type", "the type of a token, not its value"),
    ("error_code", "identifies an error"),
    (
        "code_challenge",
        "intended to pass through the browser (RFC 7636 section 4.2)",
    ),
    ("code_challenge_method", "the name of a hash"),
    ("keyword", "the name of a bot's variable"),
    ("language_code", "a language"),
];

/// Parts of the names of secrets.
const TELLTALE: &[&str] = &["token", "secret", "code", "key", "verifier"];

/// Every string whose name looks like a secret is marked as one, or listed as public.
fn secrets_are_marked(tree: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for field in fields(tree) {
        let name = field.name.to_lowercase();
        if !TELLTALE.iter().any(|part| name.contains(part))
            || PUBLIC.iter().any(|(public, _)| name == *public)
            || !is_unmarked_string(tree, field.schema, 0)
        {
            continue;
        }
        let Field { kind, name, .. } = field;
        problems.push(Problem::new(
            field.at,
            format!(
                "{kind} `{name}` looks like a secret; add `format: password`, or list the name as public in xtask/src/lint.rs with the reason"
            ),
        ));
    }
    problems
}

/// Whether the schema accepts strings, directly or as one of several variants, without marking
/// them as secret.
fn is_unmarked_string(tree: &Value, schema: &Value, depth: usize) -> bool {
    const DEEPEST: usize = 8;
    let Some(schema) = walk::dereference(tree, schema).filter(|_| depth < DEEPEST) else {
        return false;
    };
    if schema["type"] == "string" {
        return schema["format"] != "password";
    }
    ["oneOf", "anyOf", "allOf"]
        .iter()
        .filter_map(|key| schema[*key].as_array())
        .flatten()
        .chain(schema.get("items"))
        .any(|part| is_unmarked_string(tree, part, depth + 1))
}

/// A property of a schema, or a parameter of an operation.
struct Field<'d> {
    at: String,
    kind: &'static str,
    name: &'d str,
    value: &'d Value,
    schema: &'d Value,
}

fn fields(tree: &Value) -> Vec<Field<'_>> {
    let schemas = walk::schemas(tree);
    let properties = schemas
        .all
        .iter()
        .map(|at| walk::join(at, "properties"))
        .flat_map(|at| {
            let properties = tree.pointer(&at).and_then(Value::as_object);
            properties
                .into_iter()
                .flatten()
                .map(move |(name, value)| Field {
                    at: walk::join(&at, name),
                    kind: "property",
                    name,
                    value,
                    schema: value,
                })
        });
    let parameters = schemas.holders.iter().filter_map(|at| {
        let value = tree.pointer(at)?;
        value.get("in")?;
        Some(Field {
            at: at.clone(),
            kind: "parameter",
            name: value.get("name")?.as_str()?,
            value,
            schema: value.get("schema")?,
        })
    });
    properties.chain(parameters).collect()
}

/// Every example and every default is valid against its schema.
fn examples_fit(tree: &Value) -> Vec<Problem> {
    let definitions = json_schema::definitions(tree);
    let mut problems = Vec::new();
    for (schema_at, example_at) in examples(tree) {
        let (Some(schema), Some(example)) = (tree.pointer(&schema_at), tree.pointer(&example_at))
        else {
            continue;
        };
        let schema = pick_variant(json_schema::from_openapi(schema), example, &definitions);
        // Most schemas with examples refer to no other schema, and compile much faster without the definitions.
        let schema = if walk::references(tree, &schema_at).is_empty() {
            schema
        } else {
            json!({"allOf": [schema], "$defs": definitions})
        };
        let validator = match jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&schema)
        {
            Ok(validator) => validator,
            Err(error) => {
                problems.push(Problem::new(
                    schema_at,
                    format!("schema is not valid: {error}"),
                ));
                continue;
            }
        };
        for error in validator.iter_errors(example) {
            let error = closest(&error);
            problems.push(Problem::new(
                format!("{example_at}{}", error.instance_path()),
                format!("example does not match its schema: {error}; fix one of them"),
            ));
        }
    }
    problems
}

/// The error to report. That a value matches none of several schemas tells little; why it does not match
/// one of them tells more. The error deepest in the value comes from the schema that
/// matches best.
fn closest<'e, 'i>(error: &'e ValidationError<'i>) -> &'e ValidationError<'i> {
    match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let objections = context.iter().filter_map(|objections| objections.first());
            objections
                .map(closest)
                .min_by_key(|objection| Reverse(objection.instance_path().iter().count()))
                .unwrap_or(error)
        }
        _ => error,
    }
}

/// The pointers of all pairs of a schema and its example or default.
fn examples(tree: &Value) -> Vec<(String, String)> {
    let found = walk::schemas(tree);
    let mut pairs = Vec::new();
    for at in &found.all {
        for key in ["example", "default"] {
            let example_at = walk::join(at, key);
            if tree.pointer(&example_at).is_some() {
                pairs.push((at.clone(), example_at));
            }
        }
    }
    for at in &found.holders {
        let schema_at = walk::join(at, "schema");
        let example_at = walk::join(at, "example");
        if tree.pointer(&example_at).is_some() {
            pairs.push((schema_at.clone(), example_at));
        }
        let named_at = walk::join(at, "examples");
        let named = tree.pointer(&named_at).and_then(Value::as_object);
        for name in named.into_iter().flat_map(|named| named.keys()) {
            if let Some((example_at, _)) = walk::resolve(tree, &walk::join(&named_at, name)) {
                pairs.push((schema_at.clone(), walk::join(&example_at, "value")));
            }
        }
    }
    for (events, table) in tree["components"][EVENTS].as_object().into_iter().flatten() {
        let at = walk::join(&format!("/components/{EVENTS}"), events);
        for name in table["events"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.keys())
        {
            let event_at = walk::join(&format!("{at}/events"), name);
            pairs.push((format!("{event_at}/data"), format!("{event_at}/example")));
        }
    }
    pairs
}

/// The variant that the discriminator of `schema` selects for `example`, else `schema` itself. An error
/// in the example is then reported for that variant.
fn pick_variant(schema: Value, example: &Value, definitions: &Value) -> Value {
    let target = schema["$ref"]
        .as_str()
        .and_then(|target| target.strip_prefix("#/$defs/"));
    let discriminator = match target {
        Some(name) => &definitions[name]["x-discriminator"],
        None => &schema["x-discriminator"],
    };
    let word = discriminator["property"]
        .as_str()
        .and_then(|property| example[property].as_str());
    match word.and_then(|word| discriminator["mapping"][word].as_str()) {
        Some(variant) => json!({"$ref": variant}),
        None => schema,
    }
}

/// Every reference resolves in this document.
fn references_resolve(tree: &Value) -> Vec<Problem> {
    walk::references(tree, "")
        .into_iter()
        .filter(|(_, target)| {
            let found = target
                .as_deref()
                .and_then(|target| walk::resolve(tree, target));
            found.is_none()
        })
        .map(|(at, _)| Problem::new(at, "reference does not resolve; fix it, or add its target"))
        .collect()
}

/// Every component is used by some operation. Security schemes are named, not referenced, and are
/// not checked.
fn components_are_used(tree: &Value) -> Vec<Problem> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![
        "/paths".to_owned(),
        format!("/{EVERY_OPERATION}"),
        format!("/components/{EVENTS}"),
    ];
    while let Some(from) = waiting.pop() {
        for (_, target) in walk::references(tree, &from) {
            if let Some(target) = target
                && reached.insert(target.clone())
            {
                waiting.push(target);
            }
        }
    }
    let mut problems = Vec::new();
    for (kind, components) in tree["components"].as_object().into_iter().flatten() {
        if kind == "securitySchemes" || kind.starts_with("x-") {
            continue;
        }
        for name in components
            .as_object()
            .into_iter()
            .flat_map(|components| components.keys())
        {
            let at = walk::join(&walk::join("/components", kind), name);
            let within = format!("{at}/");
            if !reached
                .iter()
                .any(|target| *target == at || target.starts_with(&within))
            {
                let message = format!(
                    "`{name}` in components/{kind} is used by no operation; remove it, or refer to it"
                );
                problems.push(Problem::new(at, message));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small description without findings.
    const CLEAN: &str = "\
openapi: 3.0.3
info: {title: Small, version: 1.0.0}
paths:
  /a/{id}:
    post:
      operationId: post_a
      tags: [a]
      summary: Posts a.
      security: [{}]
      parameters:
        - name: id
          in: path
          required: true
          description: Which a.
          example: '7'
          schema: {type: string}
      requestBody:
        content:
          application/json:
            schema: {$ref: '#/components/schemas/Sent'}
            examples:
              one: {$ref: '#/components/examples/One'}
      responses:
        '200':
          description: Done.
          headers:
            x-count: {description: How many., example: 1, schema: {type: integer}}
        default:
          description: Not done.
components:
  examples:
    One:
      value:
        kind: a
        access_token: abc
  schemas:
    Sent:
      oneOf:
        - $ref: '#/components/schemas/A'
      discriminator:
        propertyName: kind
        mapping: {a: '#/components/schemas/A'}
    A:
      type: object
      required: [kind]
      properties:
        kind: {description: The kind., type: string, enum: [a], default: a}
        access_token: {description: A token., type: string, format: password}
        user_code:
          description: Typed in by a user.
          type: string
          example: AB
        list:
          description: A list.
          type: array
          items:
            type: object
            properties:
              size:
                description: A size.
                type: integer
";

    fn lint(text: &str) -> Vec<String> {
        let document = Document::parse("spec/small.yaml", text.to_owned()).unwrap();
        let findings = findings(&document).unwrap();
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_clean_description_has_no_findings() {
        assert_eq!(lint(CLEAN), Vec::<String>::new());
    }

    /// The position of the first `needle` in `text`, in the form of a finding.
    fn place_of(text: &str, needle: &str) -> String {
        let at = text.find(needle).unwrap();
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before
            .chars()
            .rev()
            .take_while(|each| *each != '\n')
            .count()
            + 1;
        format!("{line}:{column}")
    }

    #[test]
    fn each_broken_rule_gives_one_finding_at_its_place() {
        // The replaced text, its replacement, the first text at the position of the finding, and how the finding
        // starts.
        let cases = [
            (
                "operationId: post_a",
                "x-id: none",
                "post:",
                "operation has no `operationId`",
            ),
            (
                "summary: Posts a.",
                "x-summary: none",
                "post:",
                "operation has no `summary`",
            ),
            (
                "summary: Posts a.",
                "summary: ' '",
                "post:",
                "operation has no `summary`",
            ),
            ("tags: [a]", "x-tags: none", "post:", "operation has no tag"),
            ("tags: [a]", "tags: []", "post:", "operation has no tag"),
            (
                "security: [{}]",
                "x-security: none",
                "post:",
                "operation has no `security`",
            ),
            (
                "security: [{}]",
                "security: []",
                "post:",
                "operation has no `security`",
            ),
            (
                "default:\n          desc",
                "'500':\n          desc",
                "post:",
                "operation has no error responses",
            ),
            (
                "description: Which a.",
                "x-note: none",
                "name: id",
                "parameter `id` has no description",
            ),
            (
                "description: A list.",
                "x-note: none",
                "list:",
                "property `list` has no description",
            ),
            (
                "description: A size.",
                "x-note: none",
                "size:",
                "property `size` has no description",
            ),
            (
                ", format: password",
                "",
                "access_token: {",
                "property `access_token` looks like a secret",
            ),
            (
                "user_code:",
                "CodeVerifier:",
                "CodeVerifier:",
                "property `CodeVerifier` looks like a secret",
            ),
            (
                "name: id",
                "name: key",
                "name: key",
                "parameter `key` looks like a secret",
            ),
            (
                "example: AB",
                "example: 7",
                "example: 7",
                "example does not match its schema: 7 is not of type \"string\"",
            ),
            (
                "example: '7'",
                "example: 7",
                "example: 7",
                "example does not match its schema: 7 is not of type \"string\"",
            ),
            (
                "example: 1,",
                "example: many,",
                "example: many",
                "example does not match its schema: \"many\" is not of type \"integer\"",
            ),
            (
                "access_token: abc",
                "access_token: 5",
                "access_token: 5",
                "example does not match its schema: 5 is not of type \"string\"",
            ),
            (
                "default: a}",
                "default: b}",
                "default: b}",
                "example does not match its schema: \"b\" is not",
            ),
            (
                "one: {$ref",
                "bad: {value: {kind: b}}\n              one: {$ref",
                "kind: b",
                "example does not match its schema: \"b\" is not",
            ),
            (
                "  schemas:\n",
                "  schemas:\n    Lonely: {type: object}\n",
                "Lonely",
                "`Lonely` in components/schemas is used by no operation",
            ),
            (
                "one: {$ref",
                "two: {$ref: '#/x'}\n              one: {$ref",
                "$ref: '#/x'",
                "reference does not resolve",
            ),
            (
                "mapping: {a: ",
                "mapping: {b: '#/x', a: ",
                "b: '#/x'",
                "reference does not resolve",
            ),
        ];
        for (from, to, place, message) in cases {
            assert!(
                CLEAN.contains(from),
                "{from:?} is not in the clean description"
            );
            let text = CLEAN.replacen(from, to, 1);
            let found = lint(&text);
            let expected = format!("spec/small.yaml:{}: {message}", place_of(&text, place));
            assert!(
                found.len() == 1 && found[0].starts_with(&expected),
                "{to:?} for {from:?} should give {expected:?}, gives {found:#?}"
            );
        }
    }

    #[test]
    fn every_public_name_needs_its_entry() {
        for (name, reason) in PUBLIC {
            assert!(
                TELLTALE.iter().any(|part| name.contains(part)),
                "the entry of {name} is not needed"
            );
            assert!(!reason.is_empty(), "{name} is listed without a reason");
        }
    }
}
