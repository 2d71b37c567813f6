//! `coze api`: any operation of the API, also those that no crate describes, with the token in it.

mod operations;

use std::{
    collections::HashSet,
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser, ValueParserFactory},
};
use coze_api::{RawBody, Reply, SendExt as _};
use coze_auth::ErrorKind;
use coze_wire::{
    Call, Dispatcher, EventNames, Events, Operation, OperationInfo, Raw, Retry, StreamEvent,
    Unbuilt,
    reqwest::{
        Method, Request, Url,
        header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    },
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{
    Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use tokio::{sync::oneshot, time::timeout};

use self::operations::{OPERATIONS, Paging, find};
use crate::{
    args::Api,
    failure::{Exit, Failure, Result},
    json,
    session::Session,
    terminal::{PrintableLines, Terminal, output_is_terminal},
};

/// All but the unreserved characters of RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(crate) async fn run(options: Api, session: &Session<'_>) -> Result<()> {
    let mut request = RawRequest::new(&options).await?;
    let api = session.api().await?;
    let terminal = session.terminal;
    if options.stream {
        return print_events(&request, &api.dispatcher(), api.base(), terminal).await;
    }
    let dispatcher = api.dispatcher();
    let mut pages = options.paginate.then(|| request.pages()).transpose()?;
    loop {
        let sent = request.send(&dispatcher, api.base());
        let response = timeout(options.timeout, sent).await;
        let response = response.map_err(|_| too_slow(&request, options.timeout))??;
        let Some(pages) = &mut pages else {
            return print_body(response, terminal).await;
        };
        let page = parsed(&response)?;
        let text = String::from_utf8_lossy(json_of(&response));
        terminal.print_json(json::on_one_line(&text)).await?;
        match pages.next(&page) {
            Next::Page(field, value) => request.set(field, &value.into())?,
            Next::End => return Ok(()),
            Next::Unknown => return Err(incomplete(&response)),
        }
    }
}

fn too_slow(request: &RawRequest, timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    let message = format!("the call took longer than {timeout}");
    Failure::new(Exit::Network, message).with_hint(match request.method {
        Method::GET => "give it more time: --timeout",
        _ => {
            "Coze may have processed the request: check what it was to change before you send it again, with more time: --timeout"
        }
    })
}

/// A list has more pages than could be requested.
fn incomplete(response: &Reply<RawBody>) -> Failure {
    let what = "the list has more pages, but the response has no new items or no new cursor";
    invalid(response, what)
}

fn invalid(response: &Reply<RawBody>, what: impl Into<String>) -> Failure {
    let error = coze_auth::Error::new(ErrorKind::InvalidAnswer, what);
    error
        .with_log_id(response.log_id().map(str::to_owned))
        .into()
}

/// Whether a response is JSON by its type or, without a type, by its contents.
fn is_json(response: &RawBody) -> bool {
    let Some(content_type) = response.content_type() else {
        return serde_json::from_slice::<IgnoredAny>(json_of(response)).is_ok();
    };
    let media_type = content_type.split(';').next().unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

/// A body without a byte order mark, which is no JSON.
fn json_of(response: &RawBody) -> &[u8] {
    response.strip_prefix(b"\xef\xbb\xbf").unwrap_or(response)
}

/// A response as JSON.
fn parsed<T: DeserializeOwned>(response: &Reply<RawBody>) -> Result<T> {
    serde_json::from_slice(json_of(response))
        .map_err(|error| invalid(response, format!("the response is not JSON: {error}")))
}

/// Prints a response unchanged, then fails if it was to be JSON and is not. On a terminal, JSON is indented, and what is not text
/// is not shown.
async fn print_body(response: Reply<RawBody>, terminal: &Terminal) -> Result<()> {
    // As of HEAD, or with status 204, whatever its type is.
    if response.is_empty() {
        return Ok(());
    }
    let is_json = is_json(&response);
    let checked = match is_json && !response.trim_ascii().is_empty() {
        true => parsed::<IgnoredAny>(&response).map(drop),
        false => Ok(()),
    };
    if !output_is_terminal() {
        terminal
            .print_bytes(response.into_inner().into_bytes())
            .await?;
        return checked;
    }
    let text = std::str::from_utf8(json_of(&response)).ok();
    let Some(text) = text.filter(|text| !text.contains('\0')) else {
        let kind = response.content_type().unwrap_or("no stated type");
        let message = format!(
            "the response has {} bytes of {kind}, which are not shown on a terminal",
            response.len()
        );
        return Err(Failure::usage(message).with_hint("write it into a file: coze api PATH > FILE"));
    };
    if is_json && checked.is_ok() {
        return terminal.print_json(json::indented(text)).await;
    }
    let text = format!("{}\n", PrintableLines(text));
    terminal.print_bytes(text).await?;
    checked
}

async fn print_events(
    request: &RawRequest,
    dispatcher: &Dispatcher,
    base: &str,
    terminal: &Terminal,
) -> Result<()> {
    let http = request.http(base, "text/event-stream")?;
    let mut events = StreamCall(dispatcher.clone(), http).send().await?;
    while let Some(RawEvent { event, data }) = events.try_next().await? {
        let data = match serde_json::from_str::<IgnoredAny>(&data) {
            Ok(_) => json::on_one_line(&data),
            Err(_) => Value::String(data).to_string(),
        };
        let event = Value::String(event);
        terminal
            .print_json(format_args!(r#"{{"data":{data},"event":{event}}}"#))
            .await?;
    }
    Ok(())
}

/// The path of an operation. All described paths are its possible values, for completion; others are accepted too.
#[derive(Clone, Debug)]
pub(crate) struct ApiPath(String);

impl ValueParserFactory for ApiPath {
    type Parser = ApiPathParser;

    fn value_parser() -> ApiPathParser {
        ApiPathParser
    }
}

#[derive(Clone)]
pub(crate) struct ApiPathParser;

impl TypedValueParser for ApiPathParser {
    type Value = ApiPath;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> std::result::Result<ApiPath, Error> {
        let parser = StringValueParser::new().try_map(|text| {
            let (path, _) = text.split_once('?').unwrap_or((&text, ""));
            if path.contains("://") {
                return Err("it is a path, such as /v1/users/me: the site is that of the token");
            }
            // The parser of URLs drops these, or what follows them, or turns them into others.
            let is_changed = |c: char| matches!(c, '#' | '\\') || c.is_control();
            if text.contains(is_changed) || text.ends_with(' ') {
                return Err(
                    "a URL can't have such a character: write # as %23, \\ as %5C, a blank at the end as %20, and a line break as %0A",
                );
            }
            // On Windows, Git Bash turns a leading slash into a folder.
            Ok(ApiPath(format!("/{}", text.trim_start_matches('/'))))
        });
        parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let mut paths: Vec<_> = OPERATIONS.iter().map(|operation| operation.path).collect();
        paths.dedup();
        Some(Box::new(paths.into_iter().map(PossibleValue::new)))
    }
}

/// A request without its site.
struct RawRequest {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Option<Json>,
    paging: Option<Paging>,
}

impl RawRequest {
    async fn new(options: &Api) -> Result<Self> {
        let (path, query) = match options.path.0.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (options.path.0.as_str(), None),
        };
        let method = options.method.as_deref();
        let operation = find(method, path);
        if options.stream && operation.is_some_and(|operation| operation.stream_field.is_none()) {
            return Err(Failure::usage(format!(
                "{path} is not known as a stream: leave out --stream"
            )));
        }
        let has_body = !options.fields.is_empty()
            || !options.json_fields.is_empty()
            || options.input.is_some();
        let method = match (method, operation) {
            (Some(method), _) => method.to_ascii_uppercase(),
            (None, Some(operation)) => operation.method.to_owned(),
            (None, None) if has_body => "POST".to_owned(),
            (None, None) => "GET".to_owned(),
        };
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| Failure::usage(format!("{method} is not an HTTP method")))?;

        let input = match &options.input {
            Some(path) => Some(read_input(path).await?),
            None => None,
        };
        let mut request = Self {
            path: String::new(),
            query: Vec::new(),
            body: input,
            paging: operation.and_then(|operation| operation.paging),
            method,
        };
        let mut fields = fields(options)?;
        request.path = filled(path, &mut fields)?;
        let query = query.unwrap_or_default();
        let url = Url::parse(&format!("http://localhost{}?{query}", request.path));
        let url = url.map_err(|_| Failure::usage("the path is not valid"))?;
        // The parser of URLs removes ".", and ".." with the segment before it.
        if !percent_decode_str(url.path()).eq(percent_decode_str(&request.path)) {
            let message = format!("the path {path} would be sent as {}", url.path());
            return Err(Failure::usage(message).with_hint("name the path that is to be called"));
        }
        request.query.extend(url.query_pairs().into_owned());
        let in_query = operation.map_or(&[][..], |operation| operation.query);
        for (key, value) in fields {
            if in_query.contains(&key.as_str()) {
                request.set_query(&key, &value);
            } else {
                request.set(&key, &value)?;
            }
        }
        let stream_field = operation.and_then(|operation| operation.stream_field);
        if let (true, Some(field)) = (options.stream, stream_field) {
            request.set_body(field, &Value::Bool(true).into())?;
        }
        Ok(request)
    }

    fn set(&mut self, field: &str, value: &Json) -> Result<()> {
        if self.method == Method::GET {
            self.set_query(field, value);
            return Ok(());
        }
        self.set_body(field, value)
    }

    fn set_query(&mut self, key: &str, value: &Json) {
        self.query.retain(|(name, _)| name != key);
        self.query.push((key.to_owned(), value.shown()));
    }

    fn set_body(&mut self, key: &str, value: &Json) -> Result<()> {
        let body = self.body.as_ref().map_or("{}", |body| &body.0);
        let Some(body) = json::with_member(body, key, &value.0) else {
            return Err(Failure::usage(
                "fields can't be added to an input that is not a JSON object",
            ));
        };
        self.body = Some(Json(body));
        Ok(())
    }

    fn http(&self, base: &str, accept: &'static str) -> Result<Request> {
        let url = format!("{}{}", base.trim_end_matches('/'), self.path);
        let mut url =
            Url::parse(&url).map_err(|error| Failure::usage(format!("{url}: {error}")))?;
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        let mut request = Request::new(self.method.clone(), url);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Some(body) = &self.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.0.clone().into());
        }
        Ok(request)
    }

    async fn send(&self, dispatcher: &Dispatcher, base: &str) -> Result<Reply<RawBody>> {
        let http = self.http(base, "application/json, */*")?;
        let dispatcher = dispatcher.clone();
        // The caller limits the whole call.
        let unlimited = Duration::MAX;
        Ok(match self.method {
            Method::GET => ReadCall(dispatcher, http).timeout(unlimited).send().await?,
            _ => {
                WriteCall(dispatcher, http)
                    .timeout(unlimited)
                    .send()
                    .await?
            }
        })
    }

    /// The value of a field in the query or the body.
    fn value(&self, field: &str) -> Option<String> {
        let in_query = self.query.iter().find(|(key, _)| key == field);
        let in_body = || {
            let value = json::member(&self.body.as_ref()?.0, field);
            value.filter(|value| value != "null")
        };
        in_query
            .map(|(_, value)| value.clone())
            .or_else(|| Some(Json(in_body()?).shown()))
    }

    fn pages(&self) -> Result<Pages> {
        let Some(paging) = self.paging else {
            return Err(Failure::usage(format!(
                "{} is not known as a list: turn its pages with -f",
                self.path
            )));
        };
        let has = |field: &str| {
            let id = self.value(field);
            id.is_some_and(|id| !matches!(&*id, "" | "0"))
        };
        // Messages before a position are listed backwards.
        let goes_back = has("before_id") && !has("after_id");
        let paging = match paging {
            Paging::Cursor("after_id", "last_id") if goes_back => {
                Paging::Cursor("before_id", "first_id")
            }
            other => other,
        };
        let mut pages = Pages::new(paging);
        match paging {
            Paging::Number(field) => {
                let number = self.value(field).map_or(Ok(1), |number| number.parse());
                pages.number = number.map_err(|_| Failure::usage("the page is not a number"))?;
            }
            Paging::Cursor(field, _) => {
                pages.cursors.extend(self.value(field));
            }
        }
        Ok(pages)
    }
}

/// Turns the pages of a list.
struct Pages {
    paging: Paging,
    number: u64,
    items: u64,
    last: Option<Value>,
    /// All that were sent: one that comes again would begin an endless cycle.
    cursors: HashSet<String>,
}

impl Pages {
    fn new(paging: Paging) -> Self {
        Self {
            paging,
            number: 1,
            items: 0,
            last: None,
            cursors: HashSet::new(),
        }
    }

    /// What follows this page.
    fn next(&mut self, response: &Value) -> Next {
        let data = &response["data"];
        let member = |name: &str| {
            let inner = data.get(name);
            inner.or_else(|| response.get(name)).cloned()
        };
        let items = items(data);
        let items_of_page = items.map_or(0, Vec::len) as u64;
        let is_repeated = self.last.as_ref() == Some(data);
        self.last = Some(data.clone());
        self.items += items_of_page;
        let has_more = member("has_more").and_then(|has_more| has_more.as_bool());
        // As the typed client has it: an empty page is the last, whatever it says.
        if items_of_page == 0 || has_more == Some(false) {
            return Next::End;
        }
        let end = match (self.paging, has_more) {
            (Paging::Cursor(..), Some(true)) => Next::Unknown,
            _ => Next::End,
        };
        if is_repeated {
            return end;
        }
        match self.paging {
            Paging::Number(field) => {
                let total = member("total").or_else(|| member("total_count"));
                let total = total
                    .and_then(|total| total.as_u64())
                    .filter(|total| *total > 0);
                if total.is_some_and(|total| self.items >= total) {
                    return Next::End;
                }
                self.number += 1;
                Next::Page(field, self.number.into())
            }
            Paging::Cursor(field, next) => {
                let next = member(next);
                let cursor = next.as_ref().and_then(cursor);
                match next.filter(|_| cursor.is_some_and(|cursor| self.cursors.insert(cursor))) {
                    Some(next) => Next::Page(field, next),
                    None => end,
                }
            }
        }
    }
}

/// What follows a page.
#[derive(Debug, PartialEq)]
enum Next {
    /// The page that this field with this value asks for.
    Page(&'static str, Value),
    /// Nothing.
    End,
    /// More, but the response does not say how to ask for it.
    Unknown,
}

/// A value that can be a cursor: a number, or a text that is not empty.
fn cursor(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// JSON as text: no number is changed.
#[derive(Clone, Debug, PartialEq)]
struct Json(String);

impl Json {
    /// A value as it is in a query or a path.
    fn shown(&self) -> String {
        serde_json::from_str(&self.0).unwrap_or_else(|_| json::on_one_line(&self.0))
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(value.to_string())
    }
}

impl FromStr for Json {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> serde_json::Result<Self> {
        let _: IgnoredAny = serde_json::from_str(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// The items of a page: its data, or the list in it.
fn items(data: &Value) -> Option<&Vec<Value>> {
    let in_object = || data.as_object()?.values().find_map(Value::as_array);
    data.as_array().or_else(in_object)
}

fn fields(options: &Api) -> Result<Vec<(String, Json)>> {
    let texts = options.fields.iter();
    let texts = texts.map(|(key, value)| Ok((key.clone(), Value::from(value.as_str()).into())));
    let json = options.json_fields.iter().map(|(key, value)| {
        let value = value.parse().map_err(|error| {
            Failure::usage(format!("the field {key} is not JSON: {error}"))
                .with_hint("use -f for a text")
        })?;
        Ok((key.clone(), value))
    });
    texts.chain(json).collect()
}

/// The path with its parameters, which are taken from the fields.
fn filled(path: &str, fields: &mut Vec<(String, Json)>) -> Result<String> {
    let segments = path.split('/').map(|segment| {
        let name = segment
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'));
        let Some(name) = name else {
            return Ok(segment.to_owned());
        };
        let index = fields.iter().position(|(key, _)| key == name);
        let missing = || Failure::usage(format!("the path needs a value: -f {name}=…"));
        let value = fields.remove(index.ok_or_else(missing)?).1.shown();
        if matches!(value.as_str(), "" | "." | "..") {
            let message = format!("{name} is empty, or can't be a part of a path");
            return Err(Failure::usage(message));
        }
        Ok(utf8_percent_encode(&value, ENCODED).to_string())
    });
    Ok(segments.collect::<Result<Vec<_>>>()?.join("/"))
}

/// Reads an input in a thread of its own: a read from a terminal or a pipe can't be cancelled.
async fn read_input(path: &Path) -> Result<Json> {
    let (sender, receiver) = oneshot::channel();
    let file = PathBuf::from(path);
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = match file.to_str() {
            Some("-") => io::stdin().read_to_string(&mut text).map(|_| text),
            _ => std::fs::read_to_string(file),
        };
        let _ = sender.send(read);
    });
    let read = receiver.await.map_err(io::Error::other).flatten();
    let name = path.display();
    let text = read.map_err(|error| Failure::io(format_args!("{name} can't be read"), &error))?;
    text.parse()
        .map_err(|error| Failure::usage(format!("{name} is not JSON: {error}")))
}

/// A call that changes nothing.
struct ReadCall(Dispatcher, Request);
/// A call that may change something.
struct WriteCall(Dispatcher, Request);
/// A call that answers with events.
struct StreamCall(Dispatcher, Request);

impl Operation for ReadCall {
    type Answer = Raw;
    const INFO: &'static OperationInfo = &OperationInfo {
        id: "api",
        retry: Retry::Read,
    };

    fn into_call(self) -> std::result::Result<Call, Unbuilt> {
        Ok(Call::new(self.0, Self::INFO, self.1))
    }
}

impl Operation for WriteCall {
    type Answer = Raw;
    const INFO: &'static OperationInfo = &OperationInfo {
        id: "api",
        retry: Retry::Write,
    };

    fn into_call(self) -> std::result::Result<Call, Unbuilt> {
        Ok(Call::new(self.0, Self::INFO, self.1))
    }
}

impl Operation for StreamCall {
    type Answer = Events<RawEvent>;
    const INFO: &'static OperationInfo = WriteCall::INFO;

    fn into_call(self) -> std::result::Result<Call, Unbuilt> {
        Ok(Call::new(self.0, Self::INFO, self.1))
    }
}

/// An event, unchanged.
struct RawEvent {
    event: String,
    data: String,
}

impl StreamEvent for RawEvent {
    // Those of chats and of workflows.
    const NAMES: &'static EventNames = &EventNames {
        end: &["done", "Done"],
        interrupt: &["Interrupt"],
        error: &["error", "Error"],
    };

    fn read<'de, D: Deserializer<'de>>(
        _: &str,
        _: D,
    ) -> std::result::Result<Option<Self>, D::Error> {
        Ok(None)
    }

    fn other(event: String, data: String) -> Self {
        Self { event, data }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_are_counted_until_the_total() {
        let mut counted = Pages::new(Paging::Number("page_num"));
        let page = |id: u8| json!({"data": {"items": [id, id], "total": 3}});
        assert_eq!(counted.next(&page(1)), Next::Page("page_num", 2.into()));
        assert_eq!(counted.next(&page(2)), Next::End);
    }

    #[test]
    fn a_repeated_page_is_the_last() {
        let by_cursor = Paging::Cursor("after_id", "last_id");
        for (paging, has_more, end) in [
            (Paging::Number("page_num"), json!(null), Next::End),
            (Paging::Number("page_num"), json!(true), Next::End),
            (by_cursor, json!(null), Next::End),
            (by_cursor, json!(true), Next::Unknown),
        ] {
            let mut pages = Pages::new(paging);
            let page = |last_id: u8| json!({"data": [1], "last_id": last_id, "has_more": has_more});
            assert!(matches!(pages.next(&page(1)), Next::Page(..)));
            assert_eq!(pages.next(&page(2)), end, "{has_more}");
        }
    }

    #[test]
    fn an_empty_page_is_the_last() {
        for page in [
            json!({"has_more": true, "last_id": "0"}),
            json!({"data": [], "last_id": "8", "has_more": true}),
        ] {
            let mut pages = Pages::new(Paging::Cursor("after_id", "last_id"));
            assert_eq!(pages.next(&page), Next::End, "{page}");
            let full = json!({"data": [7], "last_id": "7", "has_more": true});
            assert!(matches!(pages.next(&full), Next::Page(..)));
            assert_eq!(pages.next(&page), Next::End, "{page}");
        }
    }

    #[test]
    fn a_cursor_leads_on_while_there_is_more() {
        let mut pages = Pages::new(Paging::Cursor("after_id", "last_id"));
        let page =
            |id: &str, more: bool| json!({"data": [{"id": id}], "last_id": id, "has_more": more});
        let second = Next::Page("after_id", "7".into());
        assert_eq!(pages.next(&page("7", true)), second);
        assert_eq!(pages.next(&page("8", false)), Next::End);
    }

    #[test]
    fn only_texts_and_numbers_are_cursors() {
        for (last_id, is_cursor) in [
            (json!("7"), true),
            (json!(7), true),
            (json!(""), false),
            (json!(null), false),
            (json!(true), false),
            (json!({"id": 7}), false),
            (json!(["7"]), false),
        ] {
            for (has_more, end) in [(json!(true), Next::Unknown), (json!(null), Next::End)] {
                let mut pages = Pages::new(Paging::Cursor("after_id", "last_id"));
                let page = json!({"data": [{"id": 7}], "last_id": last_id, "has_more": has_more});
                let expected = match is_cursor {
                    true => Next::Page("after_id", last_id.clone()),
                    false => end,
                };
                assert_eq!(pages.next(&page), expected, "{last_id}");
            }
        }
    }

    #[test]
    fn a_cycle_of_cursors_ends() {
        let mut pages = Pages::new(Paging::Cursor("after_id", "last_id"));
        let page = |id: Value| json!({"data": [id], "last_id": id, "has_more": true});
        for id in [json!("1"), json!(2), json!("3")] {
            let expected = Next::Page("after_id", id.clone());
            assert_eq!(pages.next(&page(id)), expected);
        }
        assert_eq!(pages.next(&page(json!("2"))), Next::Unknown);
    }

    #[test]
    fn parameters_of_a_path_are_taken_from_the_fields() {
        let field = |name: &str, value: &str| (name.to_owned(), Json(value.to_owned()));
        let mut fields = vec![field("b", r#""x\/y""#), field("c", "1")];
        assert_eq!(filled("/v1/{b}/d", &mut fields).unwrap(), "/v1/x%2Fy/d");
        assert_eq!(fields, [field("c", "1")]);
        assert!(filled("/v1/{b}", &mut fields).is_err());
        assert!(filled("/v1/{b}", &mut vec![field("b", r#""..""#)]).is_err());
    }
}
