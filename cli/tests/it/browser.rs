//! A PKCE sign-in through Chromium. The test is skipped, with a message, without chromedriver (Debian's package `chromium-driver`); with
//! `COZE_TESTS_REQUIRE_BROWSER=1` it fails.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use coze_mock::defaults;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, json};

use crate::{
    left_out::left_out,
    support::{Dialog, World, start_mock},
};

const REQUIRED: &str = "COZE_TESTS_REQUIRE_BROWSER";
/// For what happens in the browser.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Chromium, and the program that controls it.
struct Browser {
    driver: Child,
    page: Client,
}

impl Browser {
    /// `None` if there is no browser here.
    async fn start() -> Option<Self> {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = driver.ok()?;
        let lines = BufReader::new(driver.stdout.take()?).lines();
        let ready = "started successfully on port ";
        let port = { lines.map_while(Result::ok) }.find_map(|line| {
            let (_, port) = line.split_once(ready)?;
            Some(port.trim_end_matches('.').to_owned())
        })?;
        // Root can't use Chromium's sandbox.
        let options = json!({"args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]});
        let capabilities = Map::from_iter([("goog:chromeOptions".to_owned(), options)]);
        let page = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Some(Self { driver, page })
    }

    /// The text of the page, when it has this heading.
    async fn text_under(&self, heading: &str) -> String {
        let heading = format!("//h1[contains(., '{heading}')]");
        let wait = self.page.wait().at_most(TIMEOUT);
        wait.for_element(Locator::XPath(&heading)).await.unwrap();
        let body = self.page.find(Locator::Css("body")).await.unwrap();
        body.text().await.unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_signs_in_through_chromium() {
    let Some(browser) = Browser::start().await else {
        return left_out("there is no chromedriver", REQUIRED);
    };
    let mock = start_mock().await;
    let world = World::new();
    // What `coze login` opens: a program that leaves the address to the test.
    let opener = world.path().join("opener");
    std::fs::write(
        &opener,
        "#!/bin/sh\necho \"$1\" >opened.tmp\nmv opened.tmp opened\n",
    )
    .unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o700)).unwrap();
    let world = world.set("BROWSER", opener.to_str().unwrap());

    let login = Dialog::start(world.command([
        "login",
        "--flow",
        "pkce",
        "--client-id",
        defaults::PKCE_CLIENT_ID,
        "--site",
        mock.url(),
        "--redirect-uri",
        "http://127.0.0.1:0/callback",
    ]));
    let opened = world.path().join("opened");
    let address = tokio::time::timeout(TIMEOUT, async {
        loop {
            if let Ok(address) = std::fs::read_to_string(&opened) {
                break address;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let address = address.await.unwrap();
    browser.page.goto(address.trim()).await.unwrap();
    let consent = browser.text_under("use your Coze account?").await;
    assert!(consent.contains(defaults::PKCE_CLIENT_ID), "{consent}");

    let approve = Locator::Css("button[value=approve]");
    let approve = browser.page.find(approve).await.unwrap();
    approve.click().await.unwrap();
    let page = browser.text_under("Signed in").await;
    assert!(page.contains("return to coze"), "{page}");
    login.end().success();
    browser.page.clone().close().await.unwrap();

    let token = world.run(&["token"]);
    assert!(mock.granted(token.success().trim_end()).is_some());
    mock.assert_clean();
}
