//! Tests of responses that are not parsed.

use coze_api::{Error, ErrorCode, ErrorKind, RawBody, Reply, SendExt};

use crate::{
    operations::Client,
    support::{Answer, Coze, Part},
};

const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n\x00\xff{";

fn answer(kind: &str, body: &'static [u8]) -> Answer {
    Answer::response(200, kind, [Part::Bytes(body.into())])
}

async fn download(answer: Answer) -> Result<Reply<RawBody>, Error> {
    let coze = Coze::new([answer]);
    Client::new(&coze.api()).download().send().await
}

#[tokio::test(start_paused = true)]
async fn a_body_is_returned_with_its_type_as_it_is() {
    let file = download(answer("image/png", PICTURE)).await.unwrap();
    assert_eq!(&**file, PICTURE);
    assert_eq!(file.content_type(), Some("image/png"));
    assert_eq!(file.log_id(), Some("log-1"));
    assert!(!format!("{file:?}").contains("PNG"), "{file:?}");
    assert_eq!(file.into_inner().into_bytes(), PICTURE);

    let nothing = Answer::Response {
        status: 204,
        headers: Vec::new(),
        body: Vec::new(),
    };
    let nothing = download(nothing).await.unwrap();
    assert_eq!((nothing.len(), nothing.content_type()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn json_and_text_are_returned_unless_they_are_an_error_of_coze() {
    for body in [
        r#"{"code":0,"msg":"","data":{"id":"7001"}}"#,
        r#"{"error":null,"name":"mine"}"#,
        r#"{"code":0,"data":"#,
        "[1]",
        "{not JSON",
        "data: 1\n\n",
    ] {
        let file = download(answer("text/event-stream", body.as_bytes()));
        assert_eq!(&**file.await.unwrap(), body.as_bytes());
    }
    for kind in ["application/json", "application/octet-stream"] {
        for body in [
            &br#"{"code":4000,"msg":"wrong"}"#[..],
            b"\xef\xbb\xbf\n {\"code\":4000,\"msg\":\"wrong\"}",
        ] {
            let error = download(answer(kind, body)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert_eq!(error.code(), Some(&ErrorCode::Api(4000)));
            assert_eq!(error.message(), Some("wrong"));
            assert_eq!(error.log_id(), Some("log-1"));
            assert_eq!(error.operation(), Some("download"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_status_than_2xx_is_an_error_whatever_the_body_is() {
    for status in [302, 404, 500] {
        let page = |_| Answer::response(status, "text/html", ["<html>".into()]);
        let coze = Coze::new([0; 3].map(page));
        let error = Client::new(&coze.api()).download().send().await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
        assert_eq!(error.status().map(|status| status.as_u16()), Some(status));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_for_a_body_that_is_not_parsed() {
    let refused = Answer::json(200, r#"{"code":4100,"msg":"authentication is invalid"}"#);
    let coze = Coze::new([refused, answer("image/png", PICTURE)]);
    let file = Client::new(&coze.api()).download().send().await.unwrap();
    assert_eq!(&**file, PICTURE);
    assert_eq!(coze.tokens(), ["token-0", "token-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_or_cut_is_an_error() {
    for body in [PICTURE, b"{}         "] {
        let limited = |limit| {
            let coze = Coze::new([answer("image/png", body)]);
            let call = Client::new(&coze.api()).download().body_limit(limit);
            call.send()
        };
        assert!(limited(body.len()).await.is_ok());
        let error = limited(body.len() - 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
        assert!(error.to_string().contains("longer than"), "{error}");

        let cut = || Answer::response(200, "image/png", [Part::Bytes(body.into()), Part::Reset]);
        let coze = Coze::new([cut(), cut(), cut()]);
        let sent = Client::new(&coze.api()).download().send().await;
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
