//! The request of each flow and variant, one snapshot each: a change of a request shows in a review
//! as a changed file, whatever caused it (the flows, the spec, the generator, the HTTP stack).
//!
//! `INSTA_UPDATE=always cargo test -p coze-tests requests` rewrites the snapshots.

use std::time::Duration;

use coze_auth::{Endpoint, FixedToken, JwtTokenRequest, OAuthClient, Scope, UserFlow, reqwest};

use tokio::sync::OnceCell;

use crate::support::{
    ACCOUNT, BOTS, CALLBACK, Coze, ENTERPRISE, REDIRECT_URI, SESSION_NAME, STATE, Sent, WORKSPACE,
    device, jwt, offline_client, pkce, pkce_login, refresh_token, web,
};

/// An id that would change the path if it were not percent-encoded.
const ODD_ID: &str = "a/../b?c#d%2Fé \"<>`{}|^";

/// One test for each function, and a list of all for the modules that compare them.
macro_rules! requests {
    ($($name:ident),+ $(,)?) => {
        mod snapshot {
            $(
                #[tokio::test]
                async fn $name() {
                    super::assert_snapshot(stringify!($name), &super::$name().await);
                }
            )+
        }

        /// Every request of this module by name; created once.
        pub(crate) async fn all() -> &'static [(&'static str, Sent)] {
            static ALL: OnceCell<Vec<(&'static str, Sent)>> = OnceCell::const_new();
            ALL.get_or_init(|| async { vec![$((stringify!($name), $name().await)),+] })
                .await
        }
    };
}

requests![
    web_authorize_url,
    web_authorize_url_for_a_workspace,
    web_authorize_url_with_a_random_state,
    web_authorize_url_for_a_workspace_with_an_odd_id,
    web_authorize_url_below_a_path,
    web_exchange,
    web_refresh,
    pkce_authorize_url,
    pkce_authorize_url_for_a_workspace,
    pkce_authorize_url_with_random_values,
    pkce_exchange,
    pkce_refresh,
    device_code,
    device_code_for_a_workspace,
    device_code_for_a_workspace_with_an_odd_id,
    device_token,
    device_refresh,
    jwt_plain,
    jwt_duration,
    jwt_scope,
    jwt_full_scope,
    jwt_session_name,
    jwt_session_context_device,
    jwt_session_context_consumer,
    jwt_account,
    jwt_account_with_an_odd_id,
    jwt_enterprise,
    jwt_enterprise_with_an_odd_id,
    jwt_everything_for_an_enterprise,
    jwt_everything_for_an_account,
    base_url_with_a_trailing_slash,
    base_url_with_a_path,
    user_agent_with_a_product,
    fixed_token_on_an_api_call,
];

fn assert_snapshot(name: &str, sent: &Sent) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_sort_maps(true);
    settings.bind(|| insta::assert_json_snapshot!(name, sent));
}

fn com() -> OAuthClient {
    offline_client(Endpoint::COM)
}

async fn web_authorize_url() -> Sent {
    let web = web(com());
    let (url, _) = web.login(REDIRECT_URI).state(STATE).begin().unwrap();
    Sent::authorize_url(&url)
}

async fn web_authorize_url_for_a_workspace() -> Sent {
    let web = web(com());
    let login = web.login(REDIRECT_URI).state(STATE).workspace(WORKSPACE);
    Sent::authorize_url(&login.begin().unwrap().0)
}

async fn web_authorize_url_with_a_random_state() -> Sent {
    let web = web(com());
    let (url, _) = web.login(REDIRECT_URI).begin().unwrap();
    Sent::authorize_url(&url).with_random("state")
}

async fn web_authorize_url_for_a_workspace_with_an_odd_id() -> Sent {
    let web = web(com());
    let login = web.login(REDIRECT_URI).state(STATE).workspace(ODD_ID);
    Sent::authorize_url(&login.begin().unwrap().0)
}

async fn web_authorize_url_below_a_path() -> Sent {
    let below = Endpoint::custom("https://api.example.com/pre/").unwrap();
    let web = web(offline_client(below));
    let (url, _) = web.login(REDIRECT_URI).state(STATE).begin().unwrap();
    Sent::authorize_url(&url)
}

async fn web_exchange() -> Sent {
    let coze = Coze::start().await;
    let web = coze.web();
    let (_, login) = web.login(REDIRECT_URI).state(STATE).begin().unwrap();
    web.complete(login, CALLBACK).await.unwrap();
    coze.only_sent().await
}

async fn web_refresh() -> Sent {
    let coze = Coze::start().await;
    coze.web().refresh(&refresh_token()).await.unwrap();
    coze.only_sent().await
}

async fn pkce_authorize_url() -> Sent {
    let pkce = pkce(com());
    let login = pkce.login(REDIRECT_URI).state(STATE);
    let (url, _) = login.begin().unwrap();
    Sent::authorize_url(&url).with_random("code_challenge")
}

async fn pkce_authorize_url_for_a_workspace() -> Sent {
    let pkce = pkce(com());
    let login = pkce.login(REDIRECT_URI).state(STATE).workspace(WORKSPACE);
    let (url, _) = login.begin().unwrap();
    Sent::authorize_url(&url).with_random("code_challenge")
}

async fn pkce_authorize_url_with_random_values() -> Sent {
    let pkce = pkce(com());
    let (url, _) = pkce.login(REDIRECT_URI).begin().unwrap();
    Sent::authorize_url(&url)
        .with_random("state")
        .with_random("code_challenge")
}

async fn pkce_exchange() -> Sent {
    let coze = Coze::start().await;
    let pkce = coze.pkce();
    pkce.complete(pkce_login(), CALLBACK).await.unwrap();
    coze.only_sent().await
}

async fn pkce_refresh() -> Sent {
    let coze = Coze::start().await;
    coze.pkce().refresh(&refresh_token()).await.unwrap();
    coze.only_sent().await
}

async fn device_code() -> Sent {
    let coze = Coze::start().await;
    coze.device().start().await.unwrap();
    coze.only_sent().await
}

async fn device_code_for_a_workspace() -> Sent {
    let coze = Coze::start().await;
    let device = coze.device();
    device.start_in_workspace(WORKSPACE).await.unwrap();
    coze.only_sent().await
}

async fn device_code_for_a_workspace_with_an_odd_id() -> Sent {
    let coze = Coze::start().await;
    coze.device().start_in_workspace(ODD_ID).await.unwrap();
    coze.only_sent().await
}

async fn device_token() -> Sent {
    let coze = Coze::start().await;
    let device = device(coze.client());
    let authorization = device.start().await.unwrap();
    device.poll_once(&authorization).await.unwrap();
    coze.last_sent().await
}

async fn device_refresh() -> Sent {
    let coze = Coze::start().await;
    coze.device().refresh(&refresh_token()).await.unwrap();
    coze.only_sent().await
}

async fn jwt_for(request: JwtTokenRequest) -> Sent {
    let coze = Coze::start().await;
    coze.jwt().token_for(&request).await.unwrap();
    coze.only_sent().await
}

async fn jwt_plain() -> Sent {
    let coze = Coze::start().await;
    coze.jwt().token().await.unwrap();
    coze.only_sent().await
}

async fn jwt_duration() -> Sent {
    jwt_for(JwtTokenRequest::default().duration(Duration::from_secs(1800))).await
}

async fn jwt_scope() -> Sent {
    jwt_for(JwtTokenRequest::default().scope(Scope::bot_chat(BOTS))).await
}

async fn jwt_full_scope() -> Sent {
    jwt_for(JwtTokenRequest::default().scope(full_scope())).await
}

fn full_scope() -> Scope {
    Scope::default()
        .account_permissions(["Connector.botChat"])
        .bots(BOTS)
        .workspace_permissions([WORKSPACE], ["Bot.getMetadata"])
        .workflow_permissions(["7501"], ["Workflow.run"])
}

async fn jwt_session_name() -> Sent {
    jwt_for(JwtTokenRequest::default().session_name(SESSION_NAME)).await
}

async fn jwt_session_context_device() -> Sent {
    jwt_for(JwtTokenRequest::default().device_id("device_1")).await
}

async fn jwt_session_context_consumer() -> Sent {
    jwt_for(JwtTokenRequest::default().custom_consumer("consumer_1")).await
}

async fn jwt_account() -> Sent {
    jwt_for(JwtTokenRequest::default().account(ACCOUNT)).await
}

async fn jwt_account_with_an_odd_id() -> Sent {
    jwt_for(JwtTokenRequest::default().account(ODD_ID)).await
}

async fn jwt_enterprise() -> Sent {
    jwt_for(JwtTokenRequest::default().enterprise(ENTERPRISE)).await
}

async fn jwt_enterprise_with_an_odd_id() -> Sent {
    jwt_for(JwtTokenRequest::default().enterprise(ODD_ID)).await
}

fn everything() -> JwtTokenRequest {
    JwtTokenRequest::default()
        .duration(Duration::from_secs(86_399))
        .scope(full_scope())
        .session_name(SESSION_NAME)
        .custom_consumer("consumer_1")
}

async fn jwt_everything_for_an_enterprise() -> Sent {
    jwt_for(everything().enterprise(ENTERPRISE)).await
}

async fn jwt_everything_for_an_account() -> Sent {
    jwt_for(everything().account(ACCOUNT)).await
}

async fn base_url_with_a_trailing_slash() -> Sent {
    let coze = Coze::start().await;
    let web = web(coze.client_at("/").build().unwrap());
    web.refresh(&refresh_token()).await.unwrap();
    coze.only_sent().await
}

async fn base_url_with_a_path() -> Sent {
    let coze = Coze::start().await;
    let jwt = jwt(coze.client_at("/pre/").build().unwrap());
    let request = JwtTokenRequest::default().account(ACCOUNT);
    jwt.token_for(&request).await.unwrap();
    coze.only_sent().await
}

async fn user_agent_with_a_product() -> Sent {
    let coze = Coze::start().await;
    let client = coze.client_at("").product("my-service/1.2");
    let device = device(client.build().unwrap());
    device.start().await.unwrap();
    coze.only_sent().await
}

async fn fixed_token_on_an_api_call() -> Sent {
    let coze = Coze::start().await;
    let token = FixedToken::new("pat_abc\n").unwrap();
    let http: reqwest::Client = coze.http().build().unwrap();
    http.get(coze.api_base("/v1/users/me"))
        .header("authorization", token.access_token().authorization())
        .send()
        .await
        .unwrap();
    coze.only_sent().await
}

#[tokio::test]
async fn an_id_is_encoded_alike_in_page_and_api_paths() {
    for id in [ODD_ID, "7001"] {
        let web = web(com());
        let login = web.login(REDIRECT_URI).state(STATE).workspace(id);
        let (page, _) = login.begin().unwrap();
        let coze = Coze::start().await;
        coze.device().start_in_workspace(id).await.unwrap();
        let api = coze.only_sent().await.path;
        let id_in = |path: &str| path.split('/').nth(5).map(str::to_owned);
        assert_eq!(id_in(page.path()), id_in(&api), "{id:?}");
    }
}

#[tokio::test]
async fn an_id_that_url_parsers_would_shorten_is_not_sent() {
    let coze = Coze::start().await;
    for id in ["a\tb", "a\nb"] {
        assert!(
            web(com())
                .login(REDIRECT_URI)
                .workspace(id)
                .begin()
                .is_err()
        );
        assert!(coze.device().start_in_workspace(id).await.is_err());
    }
    assert_eq!(coze.sent().await.len(), 0);
}
