//! Tests of lists: which page is next, and where a list ends.

use coze_api::{Error, ErrorKind, SendExt, types::ChatEvent};
use futures_util::{StreamExt, TryStreamExt};

use crate::{
    operations::{Client, Message},
    support::{Answer, Coze},
};

/// A page with these items and further members.
fn page(items: &[&str], beside: &str) -> Answer {
    let items: Vec<_> = items
        .iter()
        .map(|item| format!(r#"{{"content":"{item}"}}"#))
        .collect();
    let items = items.join(",");
    Answer::json(
        200,
        &format!(r#"{{"code":0,"data":{{"items":[{items}]{beside}}}}}"#),
    )
}

async fn contents(coze: &Coze, by_token: bool) -> Vec<String> {
    let client = Client::new(&coze.api());
    let items = if by_token {
        client.files().by_item()
    } else {
        client.bots(1).by_item()
    };
    let items: Vec<Message> = items.try_collect().await.unwrap();
    items.into_iter().map(|item| item.content).collect()
}

fn queries(coze: &Coze) -> Vec<String> {
    let requests = coze.requests();
    let query = |url: &str| url.split_once('?').unwrap_or_default().1.to_owned();
    requests.iter().map(|request| query(&request.url)).collect()
}

#[tokio::test(start_paused = true)]
async fn numbered_pages_end_at_an_empty_page() {
    let coze = Coze::new([page(&["a", "b"], ""), page(&["c"], ""), page(&[], "")]);
    assert_eq!(contents(&coze, false).await, ["a", "b", "c"]);
    let numbers = [1, 2, 3].map(|number| format!("page_num={number}&page_size=2"));
    assert_eq!(
        queries(&coze),
        numbers,
        "the page size is that of the caller"
    );
}

#[tokio::test(start_paused = true)]
async fn numbered_pages_end_where_the_response_says_so() {
    let coze = Coze::new([
        page(&["a", "b"], r#","total":3"#),
        page(&["c"], r#","total":3"#),
    ]);
    assert_eq!(contents(&coze, false).await, ["a", "b", "c"]);
    let more = |more| format!(r#","has_more":{more}"#);
    let coze = Coze::new([page(&["a"], &more(true)), page(&["b"], &more(false))]);
    assert_eq!(contents(&coze, false).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_repeats_the_previous_one_ends_the_list() {
    let coze = Coze::new([page(&["a", "b"], ""), page(&["a", "b"], "")]);
    assert_eq!(contents(&coze, false).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_starts_at_the_requested_page() {
    let coze = Coze::new([page(&["c"], r#","total":3"#), page(&[], r#","total":3"#)]);
    let client = Client::new(&coze.api());
    let pages: Vec<_> = client.bots(2).by_page().collect().await;
    assert_eq!(pages.len(), 1);
    let only = pages[0].as_ref().unwrap();
    assert_eq!((only.total, only.log_id()), (Some(3), Some("log-1")));
    assert!(queries(&coze)[0].starts_with("page_num=2"));
}

#[tokio::test(start_paused = true)]
async fn pages_by_token_continue_while_there_is_a_new_token() {
    let next = |token: &str| format!(r#","next":"{token}","has_more":true"#);
    let coze = Coze::new([
        page(&["a"], &next("t1")),
        page(&["b"], &next("t2")),
        page(&["c"], r#","next":"""#),
    ]);
    assert_eq!(contents(&coze, true).await, ["a", "b", "c"]);
    assert_eq!(queries(&coze), ["", "page_token=t1", "page_token=t2"]);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_ends_the_list() {
    let next = |token: &str| format!(r#","next":"{token}""#);
    let coze = Coze::new([
        page(&["a"], &next("t1")),
        page(&["b"], &next("t2")),
        page(&["c"], &next("t1")),
    ]);
    assert_eq!(contents(&coze, true).await, ["a", "b", "c"]);
}

/// The contents before the end of a list by token, and the error at its end.
async fn until_error(answers: impl IntoIterator<Item = Answer>) -> (Vec<String>, Error) {
    let coze = Coze::new(answers);
    let items: Vec<_> = Client::new(&coze.api()).files().by_item().collect().await;
    let mut contents = Vec::new();
    let mut errors = Vec::new();
    for item in items {
        match item {
            Ok(item) => contents.push(item.content),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    (contents, errors.remove(0))
}

#[tokio::test(start_paused = true)]
async fn more_pages_without_a_new_token_are_an_error() {
    let more = |token: &str| format!(r#","has_more":true{token}"#);
    let t1 = more(r#","next":"t1""#);
    for token in ["", r#","next":null"#, r#","next":"""#, r#","next":"t1""#] {
        let answers = [page(&["a"], &t1), page(&["b"], &more(token))];
        let (contents, error) = until_error(answers).await;
        assert_eq!(contents, ["a", "b"], "the pages so far: {token}");
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
        assert_eq!(error.operation(), Some("list_by_token"));
        assert_eq!(error.log_id(), Some("log-1"));
    }
    let answers = [page(&["a"], &t1), page(&["a"], &more(r#","next":"t2""#))];
    let (contents, error) = until_error(answers).await;
    assert_eq!(contents, ["a"], "a repeated page");
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
}

#[tokio::test(start_paused = true)]
async fn an_empty_page_ends_the_list_whatever_it_says() {
    let coze = Coze::new([
        page(&["a"], r#","next":"t1","has_more":true"#),
        page(&[], r#","has_more":true"#),
    ]);
    assert_eq!(contents(&coze, true).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn messages_are_listed_by_the_id_of_the_last_one() {
    let more = r#"{"code":0,"data":[{"id":"2"},{"id":"1"}],"last_id":"1","has_more":true}"#;
    let last = r#"{"code":0,"data":[{"id":"0"}],"last_id":"0","has_more":false}"#;
    let coze = Coze::new([more, last].map(|text| Answer::json(200, text)));
    let list = coze.api().messages().list().conversation_id("c");
    let messages: Vec<_> = list.by_item().try_collect().await.unwrap();
    let ids = messages.iter().filter_map(|each| each.id.as_deref());
    assert_eq!(ids.collect::<Vec<_>>(), ["2", "1", "0"]);
    let requests = coze.requests();
    let bodies = requests.iter().map(|request| request.body.as_str());
    assert_eq!(bodies.collect::<Vec<_>>(), ["{}", r#"{"after_id":"1"}"#]);
}

#[tokio::test(start_paused = true)]
async fn messages_before_a_position_are_listed_backwards() {
    let more =
        r#"{"code":0,"data":[{"id":"5"},{"id":"6"}],"first_id":"5","last_id":"6","has_more":true}"#;
    let last = r#"{"code":0,"data":[{"id":"4"}],"first_id":"4","last_id":"4","has_more":false}"#;
    let coze = Coze::new([more, last].map(|text| Answer::json(200, text)));
    let list = coze.api().messages().list().conversation_id("c");
    let pages = list.before_id("7").by_page();
    let pages: Vec<_> = pages.try_collect().await.unwrap();
    assert_eq!(pages.len(), 2);
    let requests = coze.requests();
    let bodies = requests.iter().map(|request| request.body.as_str());
    let expected = [r#"{"before_id":"7"}"#, r#"{"before_id":"5"}"#];
    assert_eq!(bodies.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_its_list_is_an_empty_list() {
    for text in [
        r#"{"code":0,"has_more":true,"first_id":"0","last_id":"0"}"#,
        r#"{"has_more":true,"first_id":"0","last_id":"0"}"#,
        r#"{"code":0,"data":null,"has_more":true}"#,
    ] {
        let coze = Coze::new([Answer::json(200, text)]);
        let list = coze.api().messages().list().conversation_id("c");
        let messages: Vec<_> = list.by_item().try_collect().await.unwrap();
        assert!(messages.is_empty(), "{text}: {messages:?}");
    }
    for text in [r#"{"code":0,"msg":""}"#, r#"{"code":0,"data":null}"#] {
        let coze = Coze::new([Answer::json(200, text)]);
        let list = coze.api().chat().list_messages();
        let list = list.conversation_id("c").chat_id("d");
        assert!(list.send().await.unwrap().is_empty(), "{text}");
    }
    let coze = Coze::new([Answer::json(200, r#"{"code":0,"data":{}}"#)]);
    let bots = coze.api().bots().list().workspace_id("w");
    assert!(bots.send().await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn neither_an_error_nor_a_missing_object_is_an_empty_list() {
    for text in [
        r#"{"code":4000,"msg":"no"}"#,
        r#"{"error_code":"invalid_request","error_message":"no"}"#,
    ] {
        let coze = Coze::new([Answer::json(200, text), Answer::json(200, text)]);
        let api = coze.api();
        let list = api.chat().list_messages();
        let list = list.conversation_id("c").chat_id("d");
        let error = list.retries(0).send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{text}");
        let list = api.messages().list().conversation_id("c");
        let error = list.retries(0).send().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{text}");
    }
    let coze = Coze::new([Answer::json(200, r#"{"code":0}"#)]);
    let error = coze.api().users().me().retries(0).send().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert!(error.to_string().contains("no `data`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_delta_without_content_does_not_end_a_stream() {
    let text: String = [
        r#""content":"a""#,
        r#""content":null"#,
        "",
        r#""content":"b""#,
    ]
    .map(|content| format!("event:conversation.message.delta\ndata:{{{content}}}\n\n"))
    .concat();
    let text = text + "event:done\ndata:\"[DONE]\"\n\n";
    let coze = Coze::new([Answer::events([text.as_str().into()])]);
    let chat = coze.api().chat().stream().bot_id("B").user_id("u");
    let events = chat.message("Hello").send().await.unwrap();
    let events: Vec<_> = events.try_collect().await.unwrap();
    let contents = events.iter().map(|event| match event {
        ChatEvent::MessageDelta(message) => message.content.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(contents.collect::<Vec<_>>(), ["a", "", "", "b"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_list() {
    let coze = Coze::new([
        page(&["a"], ""),
        Answer::json(400, r#"{"code":4000,"msg":"no"}"#),
    ]);
    let client = Client::new(&coze.api());
    let items: Vec<_> = client.bots(1).retries(0).by_item().collect().await;
    assert_eq!(items.len(), 2);
    assert_eq!(items[1].as_ref().unwrap_err().kind(), ErrorKind::Refused);
}
