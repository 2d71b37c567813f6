//! The operations that are described, for completion, default methods and paging. A test compares them with `spec/api/`.

/// An operation by its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) paging: Option<Paging>,
    /// The parameters of the query, if its other fields are in the body.
    pub(super) query: &'static [&'static str],
    /// The field that asks for a stream.
    pub(super) stream_field: Option<&'static str>,
}

/// How the pages of a list are turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paging {
    /// This field counts the pages, from 1.
    Number(&'static str),
    /// This field names the last item of the page before, which the response has as the second.
    Cursor(&'static str, &'static str),
}

impl Operation {
    const fn new(method: &'static str, path: &'static str) -> Self {
        Self {
            method,
            path,
            paging: None,
            query: &[],
            stream_field: None,
        }
    }

    const fn get(path: &'static str) -> Self {
        Self::new("GET", path)
    }

    const fn post(path: &'static str) -> Self {
        Self::new("POST", path)
    }

    const fn paged(mut self, paging: Paging) -> Self {
        self.paging = Some(paging);
        self
    }

    const fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }

    const fn streamed(mut self) -> Self {
        self.stream_field = Some("stream");
        self
    }
}

const CONVERSATION_ID: &str = "conversation_id";
const FEEDBACK: &str = "/v1/conversations/{conversation_id}/messages/{message_id}/feedback";

/// Sorted by path. Where a path has several methods, the first is the default.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/v1/bot/get_online_info"),
    Operation::get("/v1/bots").paged(Paging::Number("page_num")),
    Operation::get("/v1/bots/{bot_id}"),
    Operation::post("/v1/conversation/create"),
    Operation::post("/v1/conversation/message/create").query(&[CONVERSATION_ID]),
    Operation::post("/v1/conversation/message/delete").query(&[CONVERSATION_ID, "message_id"]),
    Operation::post("/v1/conversation/message/list")
        .query(&[CONVERSATION_ID])
        .paged(Paging::Cursor("after_id", "last_id")),
    Operation::post("/v1/conversation/message/modify").query(&[CONVERSATION_ID, "message_id"]),
    Operation::get("/v1/conversation/message/retrieve"),
    Operation::get("/v1/conversation/retrieve"),
    Operation::get("/v1/conversations").paged(Paging::Number("page_num")),
    Operation::new("PUT", "/v1/conversations/{conversation_id}"),
    Operation::new("DELETE", "/v1/conversations/{conversation_id}"),
    Operation::post("/v1/conversations/{conversation_id}/clear"),
    Operation::post(FEEDBACK),
    Operation::new("DELETE", FEEDBACK),
    Operation::get("/v1/space/published_bots_list").paged(Paging::Number("page_index")),
    Operation::get("/v1/users/me"),
    Operation::get("/v1/workspaces").paged(Paging::Number("page_num")),
    Operation::post("/v3/chat")
        .query(&[CONVERSATION_ID])
        .streamed(),
    Operation::post("/v3/chat/cancel"),
    Operation::get("/v3/chat/message/list"),
    Operation::get("/v3/chat/retrieve"),
    Operation::post("/v3/chat/submit_tool_outputs")
        .query(&[CONVERSATION_ID, "chat_id"])
        .streamed(),
];

/// The operation of a path, by its method or else the default one. The path may have its parameters in braces, or filled in.
pub(super) fn find(method: Option<&str>, path: &str) -> Option<&'static Operation> {
    let mut of_path = OPERATIONS
        .iter()
        .filter(|operation| matches(operation.path, path));
    match method {
        Some(method) => of_path.find(|operation| operation.method.eq_ignore_ascii_case(method)),
        None => of_path.next(),
    }
}

fn matches(described: &str, path: &str) -> bool {
    let (mut described, mut path) = (described.split('/'), path.split('/'));
    loop {
        match (described.next(), path.next()) {
            (None, None) => return true,
            (Some(described), Some(segment)) if described == segment => {}
            (Some(described), Some(segment))
                if described.starts_with('{') && !segment.is_empty() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_path_finds_its_operation() {
        let found = |method, path| find(method, path).map(|found| (found.method, found.path));
        assert_eq!(
            found(None, "/v1/bots/7101"),
            Some(("GET", "/v1/bots/{bot_id}"))
        );
        assert_eq!(found(None, "/v1/bots"), Some(("GET", "/v1/bots")));
        let path = "/v1/conversations/{conversation_id}";
        assert_eq!(found(None, "/v1/conversations/7"), Some(("PUT", path)));
        assert_eq!(found(Some("delete"), path), Some(("DELETE", path)));
        assert_eq!(found(None, "/v1/bots/"), None);
        assert_eq!(found(None, "/v1/files"), None);
    }

    #[test]
    fn the_operations_are_those_of_the_description() {
        let mut described = BTreeSet::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/api");
        let documents = fs::read_dir(folder).unwrap().map(|entry| {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            serde_saphyr::from_str::<Value>(&text).unwrap()
        });
        let documents: Vec<_> = documents.collect();
        let resolved = |parameter: &Value| match parameter["$ref"].as_str() {
            None => parameter.clone(),
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap();
                let mut found = documents.iter().filter_map(|each| each.pointer(pointer));
                found.next().unwrap().clone()
            }
        };
        for document in &documents {
            let Some(paths) = document["paths"].as_object() else {
                continue;
            };
            for (path, methods) in paths {
                for (method, operation) in methods.as_object().unwrap() {
                    let field = |name: &str| operation["x-coze-paging"][name].as_str();
                    let paging = match field("by") {
                        None => String::new(),
                        Some("cursor") => {
                            // `--paginate` knows these.
                            let back = (field("back"), field("previous"));
                            let known = (Some("before_id"), Some("first_id"));
                            assert!(back == known || back == (None, None), "{path}");
                            format!(" {} {}", field("page").unwrap(), field("next").unwrap())
                        }
                        Some(_) => format!(" {}", field("page").unwrap()),
                    };
                    let stream = match operation.to_string().contains("x-coze-stream") {
                        true => " stream",
                        false => "",
                    };
                    let parameters = operation["parameters"].as_array().into_iter().flatten();
                    let query = parameters
                        .map(resolved)
                        .filter(|each| each["in"] == "query");
                    let query = query.filter(|_| method != "get");
                    let query: String = query
                        .map(|each| format!(" ?{}", each["name"].as_str().unwrap()))
                        .collect();
                    let method = method.to_uppercase();
                    described.insert(format!("{method} {path}{paging}{stream}{query}"));
                }
            }
        }
        let known = OPERATIONS.iter().map(|operation| {
            let paging = match operation.paging {
                None => String::new(),
                Some(Paging::Number(page)) => format!(" {page}"),
                Some(Paging::Cursor(page, next)) => format!(" {page} {next}"),
            };
            let stream = operation.stream_field.map(|field| format!(" {field}"));
            let stream = stream.unwrap_or_default();
            let query = operation.query.iter().map(|name| format!(" ?{name}"));
            let query: String = query.collect();
            let Operation { method, path, .. } = operation;
            format!("{method} {path}{paging}{stream}{query}")
        });
        assert_eq!(known.collect::<BTreeSet<_>>(), described);
    }
}
