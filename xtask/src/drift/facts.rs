//! The facts of an OpenAPI document: what each operation sends and receives, without prose.
//!
//! A fact is a place and its type. Places are written as
//!
//! - `query page_num`, `path bot_id`, `header Agw-Js-Conv`: a parameter.
//! - `request = application/json`, `answer = text/event-stream`: a media type of the body, or of the answer 200.
//! - `request limit`, `answer data.items[].id`, `answer data{}.id`: a field; `[]` are the items of an array, `{}` the values of
//!   a map.
//! - `stream event`, `stream data.id`: a field of the events in an event stream.
//! - `request order = desc`: a word of an enum.
//!
//! Documents that are not valid OpenAPI are read, too. Formats are ignored, except `binary`: Coze's own are not formats
//! of OpenAPI, and its documents disagree about 32 and 64 bits. A reference that does not resolve is [`ANY`]; one to an
//! enclosing schema is [`AGAIN`].

use std::collections::BTreeMap;

use serde_json::Value;

use crate::expand::{EVENTS, STREAM};

/// Places, each with its type.
pub(crate) type Facts = BTreeMap<String, String>;

/// The facts of each operation, `POST /v3/chat`.
pub(crate) type Operations = BTreeMap<String, Facts>;

/// The type of a fact whose document gives none.
pub(crate) const ANY: &str = "any";

/// The type of an object inside an object of the same schema. Its contents are not repeated.
pub(crate) const AGAIN: &str = "object, again";

/// The type of an enum's word, and of a media type.
pub(crate) const WORD: &str = "word";

const METHODS: &[&str] = &["delete", "get", "patch", "post", "put"];

/// Parameters that OpenAPI ignores, because it describes them in other ways.
const NOT_PARAMETERS: &[&str] = &["Accept", "Authorization", "Content-Type"];

/// The facts of all operations of `document`.
pub(crate) fn of(document: &Value) -> Operations {
    let mut operations = Operations::new();
    for (path, item) in entries(document.get("paths")) {
        for (method, operation) in entries(Some(item)) {
            if !METHODS.contains(&method.as_str()) {
                continue;
            }
            let key = format!("{} {}", method.to_uppercase(), readable_path(path));
            let mut reader = Reader {
                document,
                facts: operations.remove(&key).unwrap_or_default(),
                open: Vec::new(),
            };
            reader.parameters(item);
            reader.parameters(operation);
            reader.body("request", operation.get("requestBody"));
            reader.body("answer", operation.pointer("/responses/200"));
            reader.events(operation);
            operations.insert(key, reader.facts);
        }
    }
    operations
}

/// `/v1/bots/:bot_id` of a documentation page is `/v1/bots/{bot_id}`. A fragment that distinguishes two operations of a
/// path is removed.
fn readable_path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or(path);
    let steps = path.split('/').map(|step| match step.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => step.to_owned(),
    });
    steps.collect::<Vec<_>>().join("/")
}

struct Reader<'a> {
    document: &'a Value,
    facts: Facts,
    /// The references that lead to the current schema.
    open: Vec<String>,
}

impl<'a> Reader<'a> {
    fn parameters(&mut self, holder: &'a Value) {
        for parameter in items(holder.get("parameters")) {
            let Some(parameter) = self.resolved(parameter) else {
                continue;
            };
            let (Some(place), Some(name)) = (text(parameter, "in"), text(parameter, "name")) else {
                continue;
            };
            let ignored = NOT_PARAMETERS
                .iter()
                .any(|ignored| ignored.eq_ignore_ascii_case(name));
            if !(place == "header" && ignored) {
                self.schema(parameter.get("schema"), &format!("{place} {name}"));
            }
        }
    }

    fn body(&mut self, root: &str, body: Option<&'a Value>) {
        let Some(body) = body.and_then(|body| self.resolved(body)) else {
            return;
        };
        for (media_type, content) in entries(body.get("content")) {
            // The merged document has an empty object for an empty body.
            if root == "request" && self.is_empty(content.get("schema")) {
                continue;
            }
            self.insert(format!("{root} = {media_type}"), WORD);
            let (root, schema) = match (media_type.as_str(), content.get("schema")) {
                (_, None) => continue,
                ("text/event-stream", Some(schema)) => ("stream", schema),
                (_, Some(schema)) => (root, schema),
            };
            // A stream that is described as a string has no events.
            if (root, type_of(schema)) != ("stream", Some("string")) {
                self.schema(Some(schema), root);
            }
        }
    }

    /// The events in our own description, which are in an extension.
    fn events(&mut self, operation: &'a Value) {
        let name = operation.get(STREAM).and_then(|form| text(form, "events"));
        let Some(stream) =
            name.and_then(|name| self.document.get("components")?.get(EVENTS)?.get(name))
        else {
            return;
        };
        self.insert("stream".to_owned(), "object");
        self.insert("stream event".to_owned(), "string");
        for key in ["end", "error"] {
            for event in items(stream.get(key)).iter().filter_map(Value::as_str) {
                self.insert(format!("stream event = {event}"), WORD);
            }
        }
        for (event, content) in entries(stream.get("events")) {
            self.insert(format!("stream event = {event}"), WORD);
            self.schema(content.get("data"), "stream data");
        }
    }

    fn schema(&mut self, schema: Option<&'a Value>, place: &str) {
        let Some(schema) = schema else {
            return self.insert(place.to_owned(), ANY);
        };
        if let Some(target) = text(schema, "$ref") {
            if self.open.iter().any(|open| open == target) {
                return self.insert(place.to_owned(), AGAIN);
            }
            self.open.push(target.to_owned());
            let resolved = self.target(target);
            self.schema(resolved, place);
            self.open.pop();
            return;
        }
        let alternatives = ["allOf", "anyOf", "oneOf"].map(|key| items(schema.get(key)));
        match type_of(schema) {
            Some(type_) => self.insert(place.to_owned(), type_),
            None if alternatives.iter().all(|parts| parts.is_empty()) => {
                self.insert(place.to_owned(), ANY);
            }
            None => {}
        }
        for part in alternatives.into_iter().flatten() {
            self.schema(Some(part), place);
        }
        for word in items(schema.get("enum")) {
            let word = match word {
                Value::String(word) => word.clone(),
                word => word.to_string(),
            };
            self.insert(format!("{place} = {word}"), WORD);
        }
        if let Some(schema) = schema.get("items") {
            self.schema(Some(schema), &format!("{place}[]"));
        }
        match schema.get("additionalProperties") {
            None | Some(Value::Bool(false)) => {}
            values => self.schema(values, &format!("{place}{{}}")),
        }
        let is_root = !place.contains(' ');
        let separator = if is_root { ' ' } else { '.' };
        for (name, schema) in entries(schema.get("properties")) {
            self.schema(Some(schema), &format!("{place}{separator}{name}"));
        }
    }

    /// Adds a fact. A place with two descriptions has both types.
    fn insert(&mut self, place: String, type_: &str) {
        let types = self.facts.entry(place).or_default();
        if types.split(" or ").all(|known| known != type_) {
            if !types.is_empty() {
                types.push_str(" or ");
            }
            types.push_str(type_);
        }
    }

    /// `node`, or the target of its reference.
    fn resolved(&self, node: &'a Value) -> Option<&'a Value> {
        match text(node, "$ref") {
            Some(target) => self.target(target),
            None => Some(node),
        }
    }

    /// Whether `schema` is an object without fields.
    fn is_empty(&self, schema: Option<&'a Value>) -> bool {
        let Some(schema) = schema.and_then(|schema| self.resolved(schema)) else {
            return true;
        };
        type_of(schema) == Some("object")
            && schema.get("additionalProperties").is_none()
            && entries(schema.get("properties")).next().is_none()
    }

    fn target(&self, reference: &str) -> Option<&'a Value> {
        self.document.pointer(reference.strip_prefix('#')?)
    }
}

fn type_of(schema: &Value) -> Option<&str> {
    match (text(schema, "type"), text(schema, "format")) {
        (Some("string"), Some("binary")) => Some("binary"),
        (Some(type_), _) => Some(type_),
        (None, _) if schema.get("properties").is_some() => Some("object"),
        (None, _) if schema.get("items").is_some() => Some("array"),
        (None, _) => None,
    }
}

fn text<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    node.get(key)?.as_str()
}

fn entries(map: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.and_then(Value::as_object).into_iter().flatten()
}

fn items(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(yaml: &str) -> String {
        let operations = of(&serde_saphyr::from_str(yaml).unwrap());
        let mut lines = String::new();
        for (operation, facts) in operations {
            lines += &format!("{operation}\n");
            for (place, type_) in facts {
                lines += &format!("  {place}: {type_}\n");
            }
        }
        lines
    }

    #[test]
    fn every_place_of_an_operation_has_its_type() {
        let found = facts(
            "
paths:
  /v1/bots/:bot_id:
    parameters:
      - {name: bot_id, in: path, schema: {type: string}}
    post:
      parameters:
        - {name: Authorization, in: header, schema: {type: string}}
        - {name: Agw-Js-Conv, in: header, schema: {type: string, enum: [str]}}
      requestBody:
        content:
          multipart/form-data:
            schema:
              properties:
                file: {type: string, format: binary}
                sizes: {items: {type: integer, format: i64, enum: [1, 2]}}
      responses:
        '200':
          content:
            application/json:
              schema:
                allOf: [{$ref: '#/components/schemas/Answer'}]
            text/event-stream:
              schema: {properties: {event: {type: string}}}
  /v3/chat:
    post:
      x-coze-stream: {events: ChatEvent}
      responses: {'200': {content: {text/event-stream: {schema: {type: string}}}}}
components:
  x-coze-events:
    ChatEvent:
      end: [done]
      error: [error]
      events:
        created: {data: {type: object, properties: {status: {type: string}}}}
        delta: {data: {type: object, properties: {content: {type: string}}}}
  schemas:
    Answer:
      type: object
      properties:
        data: {type: object, additionalProperties: {type: string}}
",
        );

        assert_eq!(
            found,
            "POST /v1/bots/{bot_id}
  answer: object
  answer = application/json: word
  answer = text/event-stream: word
  answer data: object
  answer data{}: string
  header Agw-Js-Conv: string
  header Agw-Js-Conv = str: word
  path bot_id: string
  request: object
  request = multipart/form-data: word
  request file: binary
  request sizes: array
  request sizes[]: integer
  request sizes[] = 1: word
  request sizes[] = 2: word
  stream: object
  stream event: string
POST /v3/chat
  answer = text/event-stream: word
  stream: object
  stream data: object
  stream data.content: string
  stream data.status: string
  stream event: string
  stream event = created: word
  stream event = delta: word
  stream event = done: word
  stream event = error: word
"
        );
    }

    #[test]
    fn dangling_references_cycles_and_empty_bodies_are_read() {
        let found = facts(
            "
paths:
  /v1/folders:
    get:
      requestBody: {content: {application/json: {schema: {type: object}}}}
      responses:
        '200':
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Folder'}
components:
  schemas:
    Folder:
      type: object
      properties:
        inner: {type: array, format: list, items: {$ref: '#/components/schemas/Folder'}}
        owner: {$ref: '#/components/schemas/Absent'}
",
        );

        assert_eq!(
            found,
            "GET /v1/folders
  answer: object
  answer = application/json: word
  answer inner: array
  answer inner[]: object, again
  answer owner: any
"
        );
    }
}
