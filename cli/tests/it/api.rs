use std::time::Duration;

use coze_mock::{Bot, MockCoze, defaults};
use serde_json::json;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, body_json, header, method, path, query_param},
};

use crate::{
    assert_run,
    support::{World, events},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_called_with_the_token() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_token(&mock);
    assert_run!(world.run(&["api", "/v1/users/me"]));
    assert_run!(world.run(&["api", "v1/bots/{bot_id}", "-f", "bot_id=7101"]));
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_jwt_app_is_used_too() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_jwt_app(&mock);
    assert!(
        world
            .run(&["api", "/v1/workspaces"])
            .success()
            .contains("7001")
    );
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_are_printed_one_a_line() {
    let mut mock = MockCoze::builder();
    for number in 0..5 {
        let bot = Bot::new(format!("72{number}"), "one more", defaults::WORKSPACE_ID);
        mock = mock.bot(bot);
    }
    let mock = mock.start().await.unwrap();
    let world = World::with_token(&mock);
    let run = world.run(&[
        "api",
        "/v1/bots",
        "--paginate",
        "-f",
        "workspace_id=7001",
        "-f",
        "page_size=3",
    ]);
    let pages = run.success().lines().map(|line| {
        let page: serde_json::Value = serde_json::from_str(line).unwrap();
        page["data"]["items"].as_array().unwrap().len()
    });
    assert_eq!(pages.collect::<Vec<_>>(), [3, 3, 1]);
    mock.assert_clean();
}

async fn server(response: ResponseTemplate, matched: impl wiremock::Match + 'static) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(matched)
        .respond_with(response)
        .mount(&server)
        .await;
    server
}

fn world(server: &MockServer) -> World {
    World::new()
        .set("COZE_API_BASE", server.uri())
        .set("COZE_API_TOKEN", "pat_hush")
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_in_the_body_or_the_query_as_described() {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_json(json!({"code": 0, "data": {"id": "8"}}));
    Mock::given(method("POST"))
        .and(path("/v1/conversation/message/create"))
        .and(query_param("conversation_id", "7"))
        .and(body_json(
            json!({"role": "user", "content": "12", "meta_data": {"a": true}}),
        ))
        .and(header("authorization", "Bearer pat_hush"))
        .respond_with(answer)
        .mount(&server)
        .await;
    let run = world(&server).run(&[
        "api",
        "/v1/conversation/message/create",
        "-f",
        "conversation_id=7",
        "-f",
        "role=user",
        "-f",
        "content=12",
        "-F",
        r#"meta_data={"a":true}"#,
    ]);
    assert_run!(run);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_the_body_of_any_operation() {
    let answer = ResponseTemplate::new(200).set_body_json(json!({"code": 0, "msg": ""}));
    let server = server(answer, body_json(json!({"not": "described", "more": "1"}))).await;
    let arguments = ["api", "/v9/unknown", "--input", "-", "-f", "more=1"];
    let run = world(&server).run_with_input(&arguments, r#"{"not": "described"}"#);
    assert_run!(run);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_keeps_its_digits() {
    const INPUT: &str = "{ \"b\": 1.10,\n \"a\": 123456789012345678901234567890, \"b\": [-0] }\n";
    for (arguments, input, expected) in [
        (&["--input", "-"][..], INPUT, INPUT),
        (&["--input", "-"], "[1e400]\n", "[1e400]\n"),
        (
            &[
                "--input",
                "-",
                "-f",
                "a=é\"",
                "-F",
                "c={\"z\": 1.0, \"a\": 1e400}",
            ],
            INPUT,
            r#"{"b":1.10,"b":[-0],"a":"é\"","c":{"z": 1.0, "a": 1e400}}"#,
        ),
        (
            &["-F", "id=1e400", "-F", "a=2.50"],
            "",
            r#"{"id":1e400,"a":2.50}"#,
        ),
    ] {
        let answer = ResponseTemplate::new(200).set_body_json(json!({"code": 0}));
        let server = server(answer, any()).await;
        let arguments = [&["api", "/v9/any"], arguments].concat();
        let run = world(&server).run_with_input(&arguments, input);
        run.success();
        let sent = &server.received_requests().await.unwrap()[0].body;
        assert_eq!(String::from_utf8_lossy(sent), expected);
    }
    let answer = ResponseTemplate::new(200).set_body_json(json!({"code": 0}));
    let server = server(answer, query_param("id", "1e400")).await;
    let arguments = ["api", "-X", "GET", "/v9/any", "-F", "id=1e400"];
    world(&server).run(&arguments).success();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_printed_as_they_come() {
    let stream = events(&[
        ("conversation.message.delta", r#"{"content":"Hi"}"#),
        ("new.event", "no json"),
        ("done", r#""[DONE]""#),
    ]);
    let answer = ResponseTemplate::new(200).set_body_raw(stream, "text/event-stream");
    let body = json!({"bot_id": "7101", "user_id": "u", "stream": true});
    let server = server(answer, body_json(body)).await;
    let arguments = [
        "api",
        "/v3/chat",
        "--stream",
        "-f",
        "bot_id=7101",
        "-f",
        "user_id=u",
    ];
    assert_run!(world(&server).run(&arguments));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_end_marker_is_a_failure_of_the_network() {
    let stream = events(&[("conversation.message.delta", r#"{"content":"Hi"}"#)]);
    let answer = ResponseTemplate::new(200).set_body_raw(stream, "text/event-stream");
    let server = server(answer, path("/v3/chat")).await;
    assert_run!(world(&server).run(&["api", "/v3/chat", "--stream"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_failures_of_the_server_have_their_exit_codes() {
    let refusal = json!({"code": 4200, "msg": "Requested resource bot_id=1 does not exist", "detail": {"logid": "20260101000000ABC"}});
    let refusal = ResponseTemplate::new(200).set_body_json(refusal);
    let refusing = server(refusal, path("/v1/bots/1")).await;
    assert_run!(world(&refusing).run(&["api", "/v1/bots/1"]));

    let gateway = ResponseTemplate::new(502).set_body_raw("<html>Bad Gateway</html>", "text/html");
    let failing = server(gateway, path("/v3/chat/cancel")).await;
    assert_run!(world(&failing).run(&["api", "/v3/chat/cancel"]));

    // Whatever the code of a server's failure is.
    for (status, code, expected) in [
        (500, 700_000, 6),
        (503, 4200, 6),
        (429, 4000, 6),
        (200, 4013, 6),
        (400, 4000, 4),
    ] {
        let body = json!({"code": code, "msg": "it failed"});
        let body = ResponseTemplate::new(status).set_body_json(body);
        let failing = server(body, path("/v3/chat/cancel")).await;
        let run = world(&failing).run(&["api", "/v3/chat/cancel"]);
        assert_eq!(run.code, expected, "{status} {code}: {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_with_a_hint() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_token(&mock).set("COZE_API_TOKEN", "pat_wrong");
    let run = world.run(&["api", "/v1/users/me"]);
    assert_run!(run);
    assert!(!run.to_string().contains("pat_wrong"));
}

#[test]
fn no_connection_is_a_failure_of_the_network() {
    let world = World::new()
        .set("COZE_API_BASE", "http://127.0.0.1:9")
        .set("COZE_API_TOKEN", "pat_hush");
    let run = world.run(&["api", "-X", "DELETE", "/v1/conversations/7"]);
    assert_run!(run);
}

#[test]
fn wrong_usage_sends_nothing() {
    let world = World::new()
        .set("COZE_API_BASE", "http://127.0.0.1:9")
        .set("COZE_API_TOKEN", "pat_hush");
    for (name, arguments) in [
        ("a_url", &["api", "https://example.com/v1"][..]),
        ("no_value", &["api", "/v1/bots/{bot_id}"]),
        ("no_json", &["api", "/v1/bots", "-F", "page_num=x"]),
        ("no_list", &["api", "/v1/users/me", "--paginate"]),
        ("no_stream", &["api", "/v1/users/me", "--stream"]),
        ("a_fragment", &["api", "/v1/conversations/12#34"]),
        ("a_parent", &["api", "/v1/conversations/12/../34"]),
        ("no_key", &["api", "/v1/users/me", "-f", "=x"]),
        ("no_duration", &["api", "/v1/users/me", "--timeout", "soon"]),
        (
            "timeout_of_a_stream",
            &["api", "/v3/chat", "--stream", "--timeout", "1m"],
        ),
    ] {
        let run = world.run(arguments);
        assert_eq!(run.code, 2, "{name}: {run}");
        insta::assert_snapshot!(name, run.to_string());
    }
}

#[test]
fn no_other_path_is_called_than_the_one_that_is_given() {
    let world = World::new()
        .set("COZE_API_BASE", "http://127.0.0.1:9")
        .set("COZE_API_TOKEN", "pat_hush");
    for path in [
        "/v1/conversations/12#34",
        "/v1/conversations/12#",
        "/v1/conversations/12?a=1#b",
        "/v1/conversations/12\t34",
        "/v1/conversations/1\r\n2",
        "/v1/conversations/12?a=1\n2",
        "/v1/conversations\\12",
        "/v1/conversations/12 ",
        "/v1/conversations/12?a=1 ",
        "/v1/conversations/./12",
        "/v1/conversations/12/..",
        "/v1/conversations/%2e%2E/34",
    ] {
        let run = world.run(&["api", "-X", "DELETE", path]);
        assert_eq!(run.code, 2, "{path:?}: {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_may_have_any_other_character() {
    for (given, sent) in [
        ("/v9/a b/扣", "/v9/a%20b/%E6%89%A3"),
        ("/v9/a%2Fb%23", "/v9/a%2Fb%23"),
        ("/v9/a..b/...", "/v9/a..b/..."),
        ("/v9/\"<>`'|^", "/v9/%22%3C%3E%60'|^"),
    ] {
        let answer = ResponseTemplate::new(200).set_body_json(json!({"code": 0}));
        let server = server(answer, any()).await;
        world(&server).run(&["api", given]).success();
        let requests = server.received_requests().await.unwrap();
        let decoded = |path: &str| path.replace("%7C", "|").replace("%5E", "^");
        assert_eq!(decoded(requests[0].url.path()), sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_in_the_query_is_sent() {
    let answer = ResponseTemplate::new(200).set_body_json(json!({"code": 0}));
    let server = server(answer, query_param("from", "https://example.com/a")).await;
    let run = world(&server).run(&["api", "/v9/copy?from=https://example.com/a"]);
    run.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_not_json_is_printed_as_it_is() {
    for (kind, body) in [
        ("image/png", &b"\x89PNG\r\n\x1a\n\x00\xff"[..]),
        ("text/plain; charset=utf-8", b"\x1b[31mred\r\n"),
        ("text/csv", b""),
        ("text/json-lines", b"{\"b\": 1}\n{\"a\": 2}\n"),
    ] {
        let answer = ResponseTemplate::new(200).set_body_raw(body, kind);
        let server = server(answer, any()).await;
        let output = world(&server).command(["api", "/v9/file"]).output();
        let output = output.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        assert_eq!(output.stdout, body, "{kind}");
    }
}

/// Bodies whose JSON no type of this program holds, and none.
const ODD_JSON: &[&str] = &[
    r#"{"code":0,"data":{"id":123456789012345678901234567890,"z":1,"a":2.50,"a":3}}"#,
    "{ \"code\" : 0,\r\n\t\"data\": [1e400, -0, 1E5] }\n",
    r#"{"code":0,"data":"x\ud83d"}"#,
    r#""text""#,
    "\u{feff}[\"a\\/b\", \"\u{9b}\u{202e}\"]",
    "",
    "\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn json_is_printed_unchanged() {
    let deep = format!(
        r#"{{"code":0,"data":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for body in ODD_JSON.iter().copied().chain([deep.as_str()]) {
        let answer = ResponseTemplate::new(200).set_body_raw(body, "application/json");
        let run = world(&server(answer, any()).await).run(&["api", "/v9/any"]);
        assert_eq!(run.success(), body);
        assert_eq!(run.stderr, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_body_is_a_success() {
    for (status, arguments) in [
        (204, &["api", "-X", "DELETE", "/v9/any"][..]),
        (200, &["api", "-X", "HEAD", "/v1/users/me"]),
    ] {
        let answer =
            ResponseTemplate::new(status).insert_header("content-type", "application/json");
        let run = world(&server(answer, any()).await).run(arguments);
        assert_eq!((run.success(), run.stderr.as_str()), ("", ""));
    }
    let answer = ResponseTemplate::new(404).insert_header("content-type", "application/json");
    let run = world(&server(answer, any()).await).run(&["api", "-X", "HEAD", "/v1/users/me"]);
    assert_ne!(run.code, 0, "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_events_keep_their_digits() {
    let page = r#"{"code": 0, "data": {"items": [123456789012345678901234567890, {"a": 2.50, "a": 3}], "total": 2}}"#;
    let answer = ResponseTemplate::new(200).set_body_raw(page, "application/json");
    let run = world(&server(answer, any()).await).run(&["api", "/v1/bots", "--paginate"]);
    let line = page.replace(": ", ":").replace(", ", ",") + "\n";
    assert_eq!(run.success(), line);

    let stream = events(&[
        (
            "new",
            r#"{"b": 123456789012345678901234567890, "a": "\ud83d"}"#,
        ),
        ("done", r#""[DONE]""#),
    ]);
    let answer = ResponseTemplate::new(200).set_body_raw(stream, "text/event-stream");
    let run = world(&server(answer, any()).await).run(&["api", "/v3/chat", "--stream"]);
    let line = r#"{"data":{"b":123456789012345678901234567890,"a":"\ud83d"},"event":"new"}"#;
    assert_eq!(run.success(), format!("{line}\n"));
}

/// What a terminal shows of a call; each byte is read as a character of its own.
#[cfg(unix)]
async fn shown(body: impl Into<Vec<u8>>, kind: &str, arguments: &[&str]) -> String {
    let answer = ResponseTemplate::new(200).set_body_raw(body, kind);
    let server = server(answer, any()).await;
    let world = world(&server);
    let mut command = world.command(arguments);
    command.stdin(std::process::Stdio::inherit());
    let mut terminal = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    terminal.exp_eof().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn bytes_that_are_not_text_are_not_shown_on_a_terminal() {
    let arguments = ["api", "/v9/file"];
    let binary = shown(b"\x1b[31mID3\x00", "audio/mpeg", &arguments).await;
    assert!(binary.contains("9 bytes of audio/mpeg"), "{binary}");
    assert!(!binary.contains("ID3"), "{binary}");
    let text = shown(b"\x1b[31mred", "audio/mpeg", &arguments).await;
    assert!(text.contains(r"\u{1b}[31mred"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn json_on_a_terminal_is_indented_and_controls_nothing() {
    let arguments = ["api", "/v9/file"];
    for body in ODD_JSON {
        let shown = shown(*body, "application/json", &arguments).await;
        // The blanks of these bodies are all between tokens.
        let without_blanks = |text: &str| text.replace(|c: char| c.is_whitespace(), "");
        let expected = body.replace('\u{feff}', "");
        let expected = expected
            .replace('\u{9b}', r"\u009b")
            .replace('\u{202e}', r"\u202e");
        assert_eq!(without_blanks(&shown), without_blanks(&expected), "{shown}");
    }
    let shown_json = shown(r#"{"code":0,"data":[1]}"#, "application/json", &arguments).await;
    assert!(
        shown_json.contains("\"data\": [\r\n    1\r\n  ]"),
        "{shown_json}"
    );

    let user = "{\"code\":0,\"data\":{\"user_id\":\"1\",\"user_name\":\"a\u{9b}31m\u{202e}b❤\u{fe0f}\",\"nick_name\":\"\",\"avatar_url\":\"\"}}";
    let stream = format!("event:new\ndata:{user}\n\nevent:done\ndata:\n\n");
    for (body, kind, arguments) in [
        (user, "application/json", &["whoami", "--json"][..]),
        (
            &stream,
            "text/event-stream",
            &["api", "/v3/chat", "--stream"],
        ),
    ] {
        let shown = shown(body, kind, arguments).await;
        assert!(shown.contains(r"a\u009b31m\u202eb"), "{shown}");
    }
    // Not for programs.
    let answer = ResponseTemplate::new(200).set_body_raw(user, "application/json");
    let server = server(answer, any()).await;
    let run = world(&server).run(&["whoami", "--json"]);
    assert!(run.success().contains("a\u{9b}31m\u{202e}b"), "{run}");
    // On one line, a name has no control characters. Emoji stay whole.
    let run = world(&server).run(&["whoami"]);
    let name = "a\\u{9b}31m\\u{202e}b❤\u{fe0f} (user id 1)";
    assert!(run.success().starts_with(name), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_whatever_its_type_is() {
    let body = r#"{"code":4200,"msg":"no such file"}"#;
    let odd = r#"{"code":4200,"msg":"no such file","data":[1e400,"\ud83d"],"data":1}"#;
    for (kind, body) in [
        ("application/octet-stream", body),
        ("application/json", body),
        ("application/json", odd),
    ] {
        let answer = ResponseTemplate::new(200).set_body_raw(body, kind);
        let run = world(&server(answer, any()).await).run(&["api", "/v9/file"]);
        assert_eq!((run.code, run.stdout.as_str()), (4, ""), "{run}");
        assert!(run.stderr.contains("no such file"), "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_cut_is_a_failure_of_the_server() {
    let body = r#"{"code":0,"data":{"name":"#;
    let answer = ResponseTemplate::new(200).set_body_raw(body, "application/json; charset=utf-8");
    let server = server(answer, any()).await;
    assert_run!(world(&server).run(&["api", "/v9/file"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_not_json_are_a_failure_of_the_server() {
    let answer = ResponseTemplate::new(200).set_body_raw("<html>", "text/html");
    let run = world(&server(answer, any()).await).run(&["api", "/v1/bots", "--paginate"]);
    assert_eq!((run.code, run.stdout.as_str()), (6, ""), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_timeout() {
    let answer = ResponseTemplate::new(200).set_delay(Duration::from_secs(600));
    let server = server(answer, any()).await;
    assert_run!(world(&server).run(&["api", "/v1/users/me", "--timeout", "1s"]));
    assert_run!(world(&server).run(&["api", "/v3/chat/cancel", "--timeout", "1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_of_cursors_ends_as_a_failure_of_the_server() {
    let server = MockServer::start().await;
    for (after_id, last_id) in [(None, "1"), (Some("1"), "2"), (Some("2"), "1")] {
        let page =
            json!({"code": 0, "data": [{"id": last_id}], "last_id": last_id, "has_more": true});
        let body = match after_id {
            Some(after_id) => json!({"limit": 1, "after_id": after_id}),
            None => json!({"limit": 1}),
        };
        Mock::given(body_json(body))
            .respond_with(ResponseTemplate::new(200).set_body_json(page))
            .up_to_n_times(1)
            .mount(&server)
            .await;
    }
    let path = "/v1/conversation/message/list";
    let arguments = [
        "api",
        path,
        "--paginate",
        "-F",
        "limit=1",
        "-f",
        "conversation_id=7",
    ];
    let run = world(&server).run(&arguments);
    assert_eq!((run.code, run.stdout.lines().count()), (6, 3), "{run}");
    assert!(run.stderr.contains("the list has more pages"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_before_a_position_are_listed_backwards() {
    let server = MockServer::start().await;
    for (before_id, ids, has_more) in [("7", ["5", "6"], true), ("5", ["3", "4"], false)] {
        let data = ids.map(|id| json!({"id": id}));
        let page = json!({"code": 0, "data": data, "first_id": ids[0], "last_id": ids[1], "has_more": has_more});
        Mock::given(body_json(json!({"before_id": before_id})))
            .respond_with(ResponseTemplate::new(200).set_body_json(page))
            .expect(1)
            .mount(&server)
            .await;
    }
    let path = "/v1/conversation/message/list";
    let fields = ["-f", "conversation_id=c", "-f", "before_id=7"];
    let run = world(&server).run(&[&["api", path, "--paginate"], &fields[..]].concat());
    assert_eq!(run.success().lines().count(), 2);
}
