//! Shared by both tests: the mock, a store, and a user who signs in.

use std::path::Path;
use std::time::Duration;

use coze_auth::{SignIn, WebFlow};
use serde::Deserialize;
use tempfile::TempDir;

use crate::background::{Background, ends_with_input};
use crate::mock::Mock;
use crate::redis::Redis;
use crate::setup::{Place, Setup, StoreName};
use crate::{Result, coze};

const START_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Stage {
    pub(crate) mock: Mock,
    pub(crate) setup: Setup,
    flow: WebFlow,
    _mock_program: Background,
    _redis: Option<Redis>,
    _folder: TempDir,
}

/// The ready line of the mock.
#[derive(Deserialize)]
struct Ready {
    coze_api_base: String,
    control: String,
    apps: Vec<App>,
}

#[derive(Deserialize)]
struct App {
    client_type: String,
    client_id: String,
    #[serde(default)]
    client_secret: String,
}

impl Stage {
    pub(crate) fn set(mock: &Path, options: &[String], store: StoreName) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = ends_with_input(mock);
        command
            .args(["--listen", "127.0.0.1:0", "--quiet"])
            .args(options);
        let (mock_program, mock_lines) = Background::start(command)?;
        let ready = mock_lines
            .recv_timeout(START_TIMEOUT)
            .map_err(|_| "the mock did not start")?;
        let ready: Ready = serde_json::from_str(&ready)?;
        let app = ready
            .apps
            .into_iter()
            .find(|app| app.client_type == "web")
            .ok_or("the mock has no web app")?;
        let redis = match store {
            StoreName::Redis => Some(Redis::start(folder.path())?),
            StoreName::File | StoreName::Plain => None,
        };
        let place = folder.path().join("sign-ins");
        let store = match (store, &redis) {
            (StoreName::Redis, Some(redis)) => Place::Redis(redis.url.clone()),
            (StoreName::Plain, _) => {
                std::fs::create_dir(&place)?;
                Place::Plain(place)
            }
            _ => Place::File(place),
        };
        let setup = Setup {
            api_base: ready.coze_api_base,
            client_id: app.client_id,
            client_secret: app.client_secret,
            store,
        };
        Ok(Self {
            mock: Mock::at(&ready.control),
            flow: coze::flow(&setup, coze::client(&setup)?.build()?)?,
            setup,
            _mock_program: mock_program,
            _redis: redis,
            _folder: folder,
        })
    }

    /// Lets a user sign in, whatever is stored. Returns the number of the sign-in in the mock's ledger.
    pub(crate) async fn user_signs_in(&self, sign_in: &SignIn) -> Result<u64> {
        let (url, login) = self.flow.login("http://127.0.0.1:8080/callback").begin()?;
        let callback = self.mock.approve(url.as_str())?;
        let token = self.flow.complete(login, &callback).await?;
        sign_in.put(&token).await?;
        self.mock.sign_in_of(token.access_token().expose())
    }
}
