//! The user's pages: what they show, and their protection against forged requests.

use crate::client::*;
use coze_mock::{App, Decision, MockCoze, defaults};
use http::Method;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn path_of(url: &str) -> &str {
    &url["https://www.coze.test".len()..]
}

/// The page that a browser shows after the redirect of the authorize endpoint.
async fn open(client: &Client, path: &str) -> (Reply, String) {
    let mut reply = client.call(Method::GET, path, &[], "").await;
    if reply.status == 302 {
        let location = reply.header("location").expect("a location").to_owned();
        let path = location.strip_prefix("https://api.coze.test");
        let path = path.unwrap_or_else(|| panic!("{location} is elsewhere"));
        reply = client.call(Method::GET, path, &[], "").await;
    }
    let page = String::from_utf8(reply.body.to_vec()).expect("text");
    (reply, page)
}

fn ticket(page: &str) -> &str {
    let (_, rest) = page
        .split_once("name=\"ticket\" value=\"")
        .unwrap_or_else(|| panic!("no form in {page}"));
    rest.split('"').next().expect("a ticket")
}

async fn decide(client: &Client, form: &str, ticket: &str, decision: &str) -> Reply {
    client
        .call(
            Method::POST,
            form,
            &[FORM],
            &format!("ticket={ticket}&decision={decision}"),
        )
        .await
}

#[tokio::test]
async fn the_consent_form_redirects_to_the_callback_once() {
    let client = Client::new();
    for (decision, begins) in [
        ("approve", "http://127.0.0.1:8080/callback?code="),
        ("deny", "http://127.0.0.1:8080/callback?error=access_denied"),
    ] {
        let (reply, page) = open(&client, path_of(&client.web_page())).await;
        assert_eq!(reply.status, 200);
        assert!(page.contains("Mock web app") && page.contains(REDIRECT));
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(
            policy.contains("default-src 'none'")
                && policy.contains("form-action 'self' http://127.0.0.1:8080"),
            "{policy}"
        );
        let sent = decide(&client, "/_mock/consent", ticket(&page), decision).await;
        assert_eq!(sent.status, 303);
        assert!(
            sent.header("location")
                .expect("a location")
                .starts_with(begins)
        );
        let again = decide(&client, "/_mock/consent", ticket(&page), decision).await;
        assert_eq!(
            (again.status.as_u16(), again.header("location")),
            (400, None),
            "a form is single-use"
        );
    }
    client.mock.assert_clean();
}

#[tokio::test]
async fn the_authorize_endpoint_redirects_to_its_consent_page() {
    let client = Client::of(MockCoze::builder().public_url("https://coze.example"));
    let url = client.web_page();
    let sent = client.call(Method::GET, path_of(&url), &[], "").await;
    assert_eq!((sent.status.as_u16(), sent.body.len()), (302, 0));
    let location = sent.header("location").expect("a location").to_owned();
    let page = location.strip_prefix("https://coze.example");
    let page = page.expect("the URL under which clients reach the mock");
    let (path, key) = page.split_once("?authorize_key=").expect("a key");
    // It can be reloaded until the user decides.
    for _ in 0..2 {
        let (reply, text) = open(&client, page).await;
        assert_eq!(reply.status, 200);
        assert!(text.contains("Mock web app"), "{text}");
        assert_eq!(ticket(&text), key);
    }
    let decided = decide(&client, path, key, "approve").await;
    assert_eq!(decided.status, 303);
    for stale in [page, path, &format!("{path}?authorize_key=guessed")] {
        let (reply, text) = open(&client, stale).await;
        assert_eq!(reply.status, 400, "{stale}");
        assert!(!text.contains("<form"), "{text}");
    }
    client.mock.assert_clean();
    let outcomes: Vec<_> = client.mock.requests().iter().map(|r| r.status()).collect();
    assert_eq!(
        outcomes,
        [Some(302)],
        "visits of the mock's own pages are not recorded"
    );
}

/// URL parsers accept characters that are invalid in a header.
#[tokio::test]
async fn the_redirect_to_the_consent_page_is_a_valid_header() {
    for (public_url, base) in [
        (
            "http://b\u{fc}cher.test/",
            "http://xn--bcher-kva.test/_mock/",
        ),
        ("http://a\n.test", "http://a.test/_mock/"),
        (" http:a.test/ x//", "http://a.test/%20x/_mock/"),
    ] {
        let client = Client::of(MockCoze::builder().public_url(public_url));
        let sent = client
            .call(Method::GET, path_of(&client.web_page()), &[], "")
            .await;
        let location = sent.header("location").expect("a location");
        assert!(location.starts_with(base), "{location}");
    }
}

#[tokio::test]
async fn the_user_opens_a_double_slash_where_a_browser_may() {
    let url = Client::new().web_page().replace("/api/", "//api/");
    let lenient = Client::of(MockCoze::builder().lenient(true));
    assert!(lenient.mock.authorize(&url, Decision::Approve).is_ok());
    assert_eq!(lenient.mock.violations().len(), 1);
    let strict = Client::new();
    assert!(strict.mock.authorize(&url, Decision::Approve).is_err());
}

#[tokio::test]
async fn a_lenient_mock_does_not_require_a_state() {
    let client = Client::of(MockCoze::builder().lenient(true));
    let good = client.web_page();
    for url in [
        good.replace("&state=xyz", ""),
        good.replace("state=xyz", "state="),
    ] {
        for decision in [Decision::Approve, Decision::Deny] {
            let callback = client.mock.authorize(&url, decision).expect("a callback");
            assert!(
                !callback.query_pairs().any(|(name, _)| name == "state"),
                "{callback}"
            );
        }
        let (reply, page) = open(&client, path_of(&url)).await;
        assert!(reply.status == 200 && page.contains("<form"), "{page}");
    }
    let url = format!("{good}&state=abc");
    assert!(
        client.mock.authorize(&url, Decision::Approve).is_err(),
        "a duplicate state is still refused"
    );
}

#[tokio::test]
async fn a_form_from_another_origin_is_refused() {
    let client = Client::new();
    let (_, page) = open(&client, path_of(&client.web_page())).await;
    let body = format!("ticket={}&decision=approve", ticket(&page));
    for header in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let reply = client
            .call(Method::POST, "/_mock/consent", &[FORM, header], &body)
            .await;
        assert_eq!(reply.status, 403, "{header:?}");
    }
    assert_eq!(
        decide(&client, "/_mock/consent", "guessed", "approve")
            .await
            .status,
        400
    );
    assert_eq!(
        decide(&client, "/_mock/device", ticket(&page), "approve")
            .await
            .status,
        400,
        "a form of another page"
    );
}

/// An invalid authorize URL is reported on a page, without a redirect.
#[tokio::test]
async fn an_invalid_authorize_url_is_answered_by_a_page() {
    let client = Client::new();
    let web = defaults::WEB_CLIENT_ID;
    let good = client.web_page();
    let cases = [
        ("state missing", good.replace("&state=xyz", ""), "state"),
        ("state empty", good.replace("state=xyz", "state="), "state"),
        ("state twice", format!("{good}&state=abc"), "state"),
        (
            "response type",
            good.replace("response_type=code", "response_type=token"),
            "response_type",
        ),
        (
            "unknown parameter",
            format!("{good}&client_secret=hush"),
            "client_secret",
        ),
        (
            "unknown app",
            authorize_url("", "nobody", REDIRECT, "xyz", ""),
            "client id",
        ),
        (
            "device app",
            authorize_url("", defaults::DEVICE_CLIENT_ID, REDIRECT, "xyz", ""),
            "invalid app type",
        ),
        (
            "redirect elsewhere",
            authorize_url("", web, "https://evil.example/callback", "xyz", ""),
            "not registered",
        ),
        (
            "redirect with user",
            authorize_url(
                "",
                web,
                "http://127.0.0.1:80@evil.example/callback",
                "xyz",
                "",
            ),
            "not registered",
        ),
        (
            "redirect to script",
            authorize_url("", web, "javascript:alert(1)", "xyz", ""),
            "not registered",
        ),
        (
            "redirect with more",
            authorize_url("", web, &format!("{REDIRECT}?x=1"), "xyz", ""),
            "not registered",
        ),
        (
            "pkce without challenge",
            authorize_url("", defaults::PKCE_CLIENT_ID, REDIRECT, "xyz", ""),
            "code_challenge",
        ),
        (
            "method alone",
            format!("{good}&code_challenge_method=S256"),
            "code_challenge_method",
        ),
        (
            "challenge too short",
            format!("{good}&code_challenge=abc&code_challenge_method=S256"),
            "code_challenge",
        ),
        (
            "unknown method",
            format!("{good}&code_challenge={CHALLENGE}&code_challenge_method=S512"),
            "code_challenge_method",
        ),
    ];
    for (name, url, text) in cases {
        let (reply, page) = open(&client, path_of(&url)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("location")),
            (400, None),
            "{name}"
        );
        assert!(
            page.contains(text) && !page.contains("<form"),
            "{name}: {page}"
        );
        assert!(
            client.mock.authorize(&url, Decision::Approve).is_err(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn no_request_injects_markup() {
    const EVIL: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>";
    let app = App::web("evil", "s")
        .name(EVIL)
        .redirect_uri(format!("https://e.com/?{EVIL}"));
    let client = Client::of(MockCoze::builder().app(app));
    let encoded: String = url::form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
    let pages = [
        path_of(&authorize_url(
            "",
            "evil",
            &format!("https://e.com/?{EVIL}"),
            EVIL,
            "",
        ))
        .to_owned(),
        path_of(&authorize_url(
            &format!("workspace_id/{encoded}/"),
            "evil",
            &format!("https://e.com/?{EVIL}"),
            "s",
            "",
        ))
        .to_owned(),
        path_of(&authorize_url("", EVIL, REDIRECT, EVIL, "")).to_owned(),
        format!("/api/permission/oauth2/authorize?{encoded}={encoded}"),
        format!("/_mock/device?user_code={encoded}"),
    ];
    for path in pages {
        let (reply, page) = open(&client, &path).await;
        assert_eq!(
            reply.header("content-type"),
            Some("text/html; charset=utf-8"),
            "{path}"
        );
        assert!(
            !page.contains("<script") && !page.contains("<img"),
            "{path}: {page}"
        );
        assert_eq!(page.matches("<style>").count(), 1);
    }
    // A state with line breaks is percent-encoded in the `Location` header.
    let url = authorize_url(
        "",
        defaults::WEB_CLIENT_ID,
        REDIRECT,
        "a\r\nset-cookie: b",
        "",
    );
    let (_, page) = open(&client, path_of(&url)).await;
    let sent = decide(&client, "/_mock/consent", ticket(&page), "approve").await;
    assert!(
        sent.header("location")
            .expect("a location")
            .ends_with("state=a%0D%0Aset-cookie%3A+b")
    );
    assert!(sent.header("set-cookie").is_none());
}

#[tokio::test]
async fn the_device_page_accepts_the_code_and_asks_for_consent() {
    let client = Client::new();
    for (decision, poll) in [("approve", "200 -"), ("deny", "400 access_denied")] {
        let device = client.start_device().await;
        assert_eq!(
            device.text("verification_uri"),
            "https://api.coze.test/_mock/device"
        );
        let (_, page) = open(&client, "/_mock/device").await;
        assert!(page.contains("name=\"user_code\""));
        let (reply, page) = open(&client, "/_mock/device?user_code=NOT-THIS").await;
        assert!(reply.status == 404 && page.contains("role=\"alert\""));
        let code = device.text("user_code");
        let (_, page) = open(
            &client,
            &format!(
                "/_mock/device?user_code={}",
                code.to_lowercase().replace('-', "")
            ),
        )
        .await;
        assert!(
            page.contains(code) && page.contains("Mock device app"),
            "{page}"
        );
        assert_eq!(
            decide(&client, "/_mock/device", ticket(&page), decision)
                .await
                .status,
            200
        );
        assert_eq!(
            client.poll(device.text("device_code")).await.refusal(),
            poll
        );
        assert_eq!(
            decide(&client, "/_mock/device", ticket(&page), decision)
                .await
                .status,
            400,
            "a form is single-use"
        );
    }
}
