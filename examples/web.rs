//! Authorization code with a client secret: a web server with a login and a callback route.
//!
//! Against Coze: set `COZE_WEB_OAUTH_CLIENT_ID`, `COZE_WEB_OAUTH_CLIENT_SECRET`,
//! `COZE_WEB_OAUTH_REDIRECT_URI` (such as `http://127.0.0.1:8080/callback`), and `COZE_API_BASE` for coze.cn;
//! then open the address that it prints. Against the mock it acts as the browser; with the argument
//! `--browser` it waits for yours.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use coze_auth::{ConfiguredFlow, Endpoint, Flow, Login, Url, WebFlow};
use coze_examples::{Stage, approve_in_browser, shown, users_me};
use coze_mock::MockCoze;
use tokio::net::TcpListener;

/// What the handlers share.
#[derive(Clone)]
struct App {
    web: WebFlow,
    endpoint: Endpoint,
    redirect_uri: String,
    /// Pending logins by session. A real application keeps them in its session store.
    logins: Arc<Mutex<HashMap<String, Login>>>,
}

const SESSION: &str = "session";

/// Redirects the browser to Coze, and stores the login in the user's session.
async fn login(State(app): State<App>, jar: CookieJar) -> Result<Response, Failure> {
    let (url, login) = app.web.login(&app.redirect_uri).begin()?;
    let session = format!(
        "{:032x}",
        u128::from(getrandom::u64()?) << 64 | u128::from(getrandom::u64()?)
    );
    app.logins
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(session.clone(), login);
    let cookie = Cookie::build((SESSION, session))
        .http_only(true)
        .same_site(SameSite::Lax)
        .path("/");
    Ok((jar.add(cookie), Redirect::to(url.as_str())).into_response())
}

/// Handles the callback. The login is removed from the session, so it can be completed only once.
async fn callback(
    State(app): State<App>,
    jar: CookieJar,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let login = jar.get(SESSION).and_then(|session| {
        app.logins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(session.value())
    });
    let Some(login) = login else {
        return Ok((StatusCode::BAD_REQUEST, "no pending login; start at /login").into_response());
    };
    let token = app
        .web
        .complete(login, &format!("?{}", query.unwrap_or_default()))
        .await?;
    let user = users_me(&app.endpoint, token.authorization()).await?;
    println!(
        "token  {}, for {} s, with {} refresh token",
        shown(token.access_token().expose()),
        token.remaining().as_secs(),
        if token.refresh_token().is_some() {
            "a"
        } else {
            "no"
        },
    );
    println!("user   {} ({})", user.user_name, user.user_id);
    Ok(Html("<p>You are signed in, and may close this page.</p>").into_response())
}

/// Converts an error to a page without details, and logs all details.
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("login failed: {:#}", self.0);
        (
            StatusCode::BAD_GATEWAY,
            "The login failed; please try again.",
        )
            .into_response()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Web).await?;
    let endpoint = stage.config.endpoint().clone();
    let configured = stage.config.redirect_uri().map(Url::parse).transpose()?;
    let ConfiguredFlow::Web(web) = stage.config.build()? else {
        anyhow::bail!("the configuration is for another flow");
    };

    let port = configured.as_ref().and_then(Url::port_or_known_default);
    let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).await?;
    let here = format!("http://{}", listener.local_addr()?);
    let path = configured
        .as_ref()
        .map_or("/callback", Url::path)
        .to_owned();
    let redirect_uri = configured.map_or_else(|| format!("{here}{path}"), String::from);
    let router = Router::new()
        .route("/login", get(login))
        .route(&path, get(callback))
        .with_state(App {
            web,
            endpoint,
            redirect_uri,
            logins: Arc::default(),
        });
    println!("open   {here}/login");
    let server = axum::serve(listener, router);

    match stage.mock {
        Some(mock) if !std::env::args().any(|argument| argument == "--browser") => {
            let server = tokio::spawn(async { server.await });
            play_browser(&here, &mock).await?;
            server.abort();
            Ok(())
        }
        _ => Ok(server.await?),
    }
}

/// Acts as the user's browser: follows the login to the authorize page, approves, and follows the callback.
async fn play_browser(here: &str, mock: &MockCoze) -> anyhow::Result<()> {
    let browser = coze_wire::http_client(here)?;
    let to_coze = browser.get(format!("{here}/login")).send().await?;
    let header = |name: &str| {
        let value = to_coze.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .with_context(|| format!("the login page set no {name}"))
    };
    let session = header("set-cookie")?.split(';').next().unwrap_or_default();
    println!("coze   {}", header("location")?);

    let callback = approve_in_browser(mock, header("location")?)?;
    let page = browser
        .get(callback)
        .header("cookie", session)
        .send()
        .await?;
    ensure!(
        page.status().is_success(),
        "the callback page says {}",
        page.status()
    );
    println!("page   {}", page.text().await?);
    Ok(())
}
