//! A web application whose users sign in with their Coze accounts: login, callback, a page that calls the API, sign-out. The tokens
//! of all users are in one pool, over a store, and refreshed when they expire.
//!
//! Against Coze: set `COZE_WEB_OAUTH_CLIENT_ID`, `COZE_WEB_OAUTH_CLIENT_SECRET`, `COZE_WEB_OAUTH_REDIRECT_URI` (such as
//! `http://127.0.0.1:8080/callback`), and `COZE_API_BASE` for coze.cn; then open the address that it prints.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use axum::{
    Router,
    extract::{FromRequestParts, RawQuery, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use coze_api::prelude::*;
use coze_auth::{
    ConfiguredFlow, Error, Flow, Login, Url, UserFlow, UserPool, UserProvider, WebFlow,
};
use coze_auth_stores::FileStore;
use tokio::net::TcpListener;

/// What the handlers share.
#[derive(Clone)]
struct App {
    web: WebFlow,
    users: UserPool,
    redirect_uri: String,
    /// Pending logins, by session. A real application keeps them in its session store, with an expiry.
    logins: Arc<Mutex<HashMap<String, Login>>>,
}

const SESSION: &str = "session";

/// The user of a request, known by the session cookie. A real application looks up its own id of the user in the session.
struct User(UserProvider);

impl FromRequestParts<App> for User {
    type Rejection = Redirect;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Redirect> {
        let session = CookieJar::from_headers(&parts.headers)
            .get(SESSION)
            .cloned();
        let session = session.ok_or_else(|| Redirect::to("/login"))?;
        Ok(Self(app.users.user(session.value())))
    }
}

/// Starts a session, keeps the login in it, and redirects the browser to Coze.
async fn login(State(app): State<App>, jar: CookieJar) -> Result<Response, Failure> {
    let (url, login) = app.web.login(&app.redirect_uri).begin()?;
    let (high, low) = (getrandom::u64()?, getrandom::u64()?);
    let session = format!("{high:016x}{low:016x}");
    let mut logins = app.logins.lock().unwrap_or_else(PoisonError::into_inner);
    logins.insert(session.clone(), login);
    // Served by https, it is also `.secure(true)`.
    let cookie = Cookie::build((SESSION, session))
        .http_only(true)
        .same_site(SameSite::Lax)
        .path("/");
    Ok((jar.add(cookie), Redirect::to(url.as_str())).into_response())
}

/// Completes the login of this session, and stores the user's tokens. The login is removed first: it can be completed once.
async fn callback(
    State(app): State<App>,
    User(user): User,
    jar: CookieJar,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let login = jar.get(SESSION).and_then(|session| {
        let mut logins = app.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.remove(session.value())
    });
    let Some(login) = login else {
        return Ok(Redirect::to("/login").into_response());
    };
    let callback = format!("?{}", query.unwrap_or_default());
    let token = app.web.complete(login, &callback).await?;
    user.put(&token).await?;
    Ok(Redirect::to("/").into_response())
}

/// Calls the API with the user's token, which is refreshed first if it has expired.
async fn home(State(app): State<App>, User(user): User) -> Result<String, Failure> {
    let coze = CozeApi::new(app.web.client().clone(), user);
    let me = coze.users().me().send().await?;
    Ok(format!("Hello {}", me.user_name))
}

async fn sign_out(User(user): User, jar: CookieJar) -> Result<(CookieJar, &'static str), Failure> {
    user.sign_out().await?;
    let cookie = Cookie::build(SESSION).path("/");
    Ok((jar.remove(cookie), "You are signed out."))
}

/// Sends the user to the login if that helps. Else it logs the error, and shows a page without details.
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let coze = self.0.downcast_ref::<Error>();
        if coze.is_some_and(Error::needs_sign_in) {
            return Redirect::to("/login").into_response();
        }
        eprintln!("failed: {:#}", self.0);
        (StatusCode::BAD_GATEWAY, "Please try again.").into_response()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Web)?
    let config = coze_examples::mock_unless_configured(Flow::Web).await?;
    let redirect_uri = Url::parse(config.redirect_uri().context("no redirect URI")?)?;
    let ConfiguredFlow::Web(web) = config.build()? else {
        anyhow::bail!("this is not a web app");
    };

    // In your program: FileStore::in_default_folder("my-program")?, or a RedisStore for several replicas.
    let folder = tempfile::tempdir()?;
    let users = UserPool::builder(web.clone(), FileStore::new(folder.path().join("users"))).build();

    let router = Router::new()
        .route("/", get(home))
        .route("/login", get(login))
        .route(redirect_uri.path(), get(callback))
        .route("/sign-out", post(sign_out))
        .with_state(App {
            web,
            users: users.clone(),
            redirect_uri: redirect_uri.to_string(),
            logins: Arc::default(),
        });
    let port = redirect_uri.port_or_known_default().unwrap_or(80);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let site = redirect_uri.origin().ascii_serialization();
    println!("open {site}/");

    // In your program: tokio::signal::ctrl_c()
    let pages = &["GET /", "GET /", "GET /", "POST /sign-out"];
    axum::serve(listener, router)
        .with_graceful_shutdown(coze_examples::visit(site, pages))
        .await?;

    // Waits for saves, so that no refresh token is lost.
    users.shutdown().await?;
    println!("{} tokens refreshed", users.stats().requests);
    Ok(())
}
