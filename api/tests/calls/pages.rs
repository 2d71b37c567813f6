//! Tests of lists: which page is next, and where a list ends.

use coze_api::{ErrorKind, SendExt};
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
