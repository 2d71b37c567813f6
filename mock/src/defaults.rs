//! The defaults of a mock: one app of each type, one personal access token, one workspace and two bots.

use crate::app::App;
use crate::error::Error;
use crate::keys;

/// The client id of the default web app.
pub const WEB_CLIENT_ID: &str = "mock-web.app.coze";
/// Its client secret.
pub const WEB_CLIENT_SECRET: &str = "mock-web-secret";
/// The client id of the default PKCE app.
pub const PKCE_CLIENT_ID: &str = "mock-pkce.app.coze";
/// The client id of the default device app.
pub const DEVICE_CLIENT_ID: &str = "mock-device.app.coze";
/// The client id of the default JWT app.
pub const JWT_CLIENT_ID: &str = "mock-jwt.app.coze";
/// The fingerprint (`kid`) of its public key.
pub const JWT_PUBLIC_KEY_ID: &str = "mock-key-1";
/// The redirect URIs of the web and PKCE apps. The port `*` stands for any.
pub const REDIRECT_URIS: [&str; 3] = [
    "http://127.0.0.1:*/callback",
    "http://localhost:*/callback",
    "https://example.com/callback",
];
/// A personal access token that never expires.
pub const PERSONAL_ACCESS_TOKEN: &str = "pat_mock_0123456789abcdefghijklmnopqrstuvwxyz";
/// The workspace.
pub const WORKSPACE_ID: &str = "7001";
/// The first bot in it, for programs that need one.
pub const BOT_ID: &str = BOT_IDS[0];
/// The bots in it.
pub const BOT_IDS: [&str; 2] = ["7101", "7102"];

/// The default apps: web, PKCE, device, JWT.
#[must_use]
pub fn apps() -> Vec<App> {
    let with_redirects = |app: App| {
        REDIRECT_URIS
            .iter()
            .fold(app, |app, redirect_uri| app.redirect_uri(*redirect_uri))
    };
    vec![
        with_redirects(App::web(WEB_CLIENT_ID, WEB_CLIENT_SECRET).name("Mock web app")),
        with_redirects(App::pkce(PKCE_CLIENT_ID).name("Mock PKCE app")),
        App::device(DEVICE_CLIENT_ID).name("Mock device app"),
        App::jwt(JWT_CLIENT_ID)
            .name("Mock JWT app")
            .generated_key(JWT_PUBLIC_KEY_ID),
    ]
}

/// The private key of the default JWT app, PKCS#8 PEM. It is generated once per process, on first use.
///
/// # Errors
///
/// [`Error::KeyGeneration`] if the pair could not be generated.
pub fn jwt_private_key_pem() -> Result<&'static str, Error> {
    Ok(&keys::generated()?.private_pem)
}
