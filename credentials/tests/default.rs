//! Which credentials are found, and what is said when there are none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers panic on failure"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use coze_auth::{
    DeviceFlow, Endpoint, Error, ErrorKind, FixedToken, Flow, OAuthClient, PkceFlow, RefreshMode,
    Secret, StoreErrorKind, Token, TokenProvider, WebFlow,
};
use coze_credentials::{
    CredentialsBuilder, DefaultCredentials, ProfileConfig, Profiles, SecretPlace, Source, StoreKind,
};
use coze_mock::{Decision, MockCoze, defaults};

const REDIRECT_URI: &str = "http://127.0.0.1:8080/callback";

/// A machine with a mock, and with folders and an environment of its own.
struct Machine {
    mock: MockCoze,
    folder: tempfile::TempDir,
    variables: BTreeMap<&'static str, String>,
}

impl Machine {
    async fn new() -> Self {
        Self::with(MockCoze::builder()).await
    }

    async fn with(builder: coze_mock::Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        Self {
            mock: builder
                .device_interval(Duration::from_secs(1))
                .start()
                .await
                .unwrap(),
            folder,
            variables: BTreeMap::new(),
        }
    }

    fn set(&mut self, name: &'static str, value: impl Into<String>) -> &mut Self {
        self.variables.insert(name, value.into());
        self
    }

    fn profiles(&self) -> Profiles {
        Profiles::in_folder(self.folder.path().join("user"), "test")
    }

    fn working_folder(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn builder(&self) -> CredentialsBuilder {
        let variables = self.variables.clone();
        DefaultCredentials::builder()
            .variables(move |name| variables.get(name).map(Into::into))
            .working_folder(self.working_folder())
            .profiles(self.profiles())
    }

    async fn find(&self) -> Result<DefaultCredentials, Error> {
        self.builder().find().await
    }

    async fn refusal(&self) -> Error {
        let error = self.find().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hush"), "{text}");
        error
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::custom(self.mock.url()).unwrap()
    }

    fn client(&self) -> OAuthClient {
        OAuthClient::new(self.endpoint()).unwrap()
    }

    /// A sign-in by this flow to the mock's app for it.
    async fn sign_in(&self, flow: Flow) -> (ProfileConfig, Token) {
        let client = self.client();
        let (client_id, token) = match flow {
            Flow::Device => {
                let device = DeviceFlow::new(client, defaults::DEVICE_CLIENT_ID).unwrap();
                let authorization = device.start().await.unwrap();
                self.mock.approve_device(authorization.user_code()).unwrap();
                let token = device.poll(&authorization).await.unwrap();
                (defaults::DEVICE_CLIENT_ID, token)
            }
            Flow::Pkce => {
                let pkce = PkceFlow::new(client, defaults::PKCE_CLIENT_ID).unwrap();
                let (url, login) = pkce.login(REDIRECT_URI).begin().unwrap();
                let callback = self
                    .mock
                    .authorize(url.as_str(), Decision::Approve)
                    .unwrap();
                let token = pkce.complete(login, callback.as_str()).await.unwrap();
                (defaults::PKCE_CLIENT_ID, token)
            }
            _ => {
                let (id, secret) = (defaults::WEB_CLIENT_ID, defaults::WEB_CLIENT_SECRET);
                let web = WebFlow::new(client, id.into(), secret.into()).unwrap();
                let (url, login) = web.login(REDIRECT_URI).begin().unwrap();
                let callback = self
                    .mock
                    .authorize(url.as_str(), Decision::Approve)
                    .unwrap();
                let token = web.complete(login, callback.as_str()).await.unwrap();
                (id, token)
            }
        };
        let config = ProfileConfig::new(flow, client_id, self.endpoint()).unwrap();
        (config, token)
    }

    /// Signs in to this profile, as the command line does.
    async fn log_in(&self, profile: &str, flow: Flow) -> Token {
        let (config, token) = self.sign_in(flow).await;
        let secret = (flow == Flow::Web).then(|| Secret::from(defaults::WEB_CLIENT_SECRET));
        let put = self.profiles();
        put.put(profile, &config, secret.as_ref(), &token)
            .await
            .unwrap();
        token
    }

    fn write_config(&self, path: &Path, client_type: &str, client_id: &str, more: &str) {
        let url = self.mock.url();
        let json = format!(
            r#"{{"client_type":"{client_type}","client_id":"{client_id}","coze_api_base":"{url}"{more}}}"#
        );
        fs::write(path, json).unwrap();
    }

    fn write_jwt_config(&self, path: &Path) {
        let key = self
            .mock
            .default_jwt_private_key_pem()
            .unwrap()
            .replace('\n', "\\n");
        let key_id = defaults::JWT_PUBLIC_KEY_ID;
        let more = format!(r#","public_key_id":"{key_id}","private_key":"{key}""#);
        self.write_config(path, "jwt", defaults::JWT_CLIENT_ID, &more);
    }
}

/// The access token that is found.
async fn token(credentials: &DefaultCredentials) -> String {
    credentials.token().await.unwrap().expose().to_owned()
}

#[tokio::test]
async fn the_first_place_that_is_there_is_taken() {
    let mut machine = Machine::new().await;
    let signed_in = machine.log_in("default", Flow::Device).await;
    let at_work = machine.log_in("work", Flow::Pkce).await;

    let found = machine.find().await.unwrap();
    assert_eq!(found.source(), &Source::Profile("default".to_owned()));
    assert_eq!(found.flow(), Some(Flow::Device));
    assert_eq!(found.endpoint(), Some(&machine.endpoint()));
    assert_eq!(token(&found).await, signed_in.access_token().expose());

    machine.set("COZE_PROFILE", "work");
    let found = machine.find().await.unwrap();
    assert_eq!(found.source(), &Source::Profile("work".to_owned()));
    assert_eq!(token(&found).await, at_work.access_token().expose());

    let file = machine.working_folder().join("coze_oauth_config.json");
    machine.write_jwt_config(&file);
    let found = machine.find().await.unwrap();
    assert_eq!(found.source(), &Source::File(file.clone()));
    assert_eq!(found.flow(), Some(Flow::Jwt));
    assert!(token(&found).await.starts_with("czs_"));

    let elsewhere = machine.folder.path().join("elsewhere.json");
    machine.write_jwt_config(&elsewhere);
    machine.set("COZE_OAUTH_CONFIG", " \"../elsewhere.json\"\n");
    let found = machine.find().await.unwrap();
    let path = machine.working_folder().join("../elsewhere.json");
    assert_eq!(found.source(), &Source::File(path));

    let url = machine.mock.url().to_owned();
    let key = machine.mock.default_jwt_private_key_pem().unwrap();
    machine
        .set("COZE_API_BASE", url)
        .set("COZE_JWT_OAUTH_CLIENT_ID", defaults::JWT_CLIENT_ID)
        .set("COZE_JWT_OAUTH_PUBLIC_KEY_ID", defaults::JWT_PUBLIC_KEY_ID)
        .set("COZE_JWT_OAUTH_PRIVATE_KEY", key);
    let found = machine.find().await.unwrap();
    assert_eq!(
        (found.source(), found.flow()),
        (&Source::Environment, Some(Flow::Jwt))
    );
    assert!(token(&found).await.starts_with("czs_"));

    machine.set("COZE_API_TOKEN", "pat_of_the_environment");
    let found = machine.find().await.unwrap();
    assert_eq!(
        (found.source(), found.flow()),
        (&Source::Environment, Some(Flow::Token))
    );
    assert_eq!(token(&found).await, "pat_of_the_environment");
    assert_eq!(found.endpoint(), Some(&machine.endpoint()));

    // What the caller passes comes first: nothing else is asked.
    let named = machine.builder().profile("default").find().await.unwrap();
    assert_eq!(token(&named).await, signed_in.access_token().expose());
    let passed = FixedToken::new("pat_passed")
        .unwrap()
        .with_endpoint(Endpoint::CN);
    let passed = machine
        .builder()
        .provider(passed)
        .profile("work")
        .find()
        .await
        .unwrap();
    assert_eq!((passed.source(), passed.flow()), (&Source::Caller, None));
    assert_eq!(passed.client().endpoint(), &Endpoint::CN);
    assert_eq!(token(&passed).await, "pat_passed");
    machine.mock.assert_clean();
}

#[tokio::test]
async fn when_nothing_is_there_every_place_is_listed() {
    let mut machine = Machine::new().await;
    let error = machine.refusal().await;
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
    assert!(error.needs_sign_in());
    let config = machine.working_folder().join("coze_oauth_config.json");
    let profile = machine.profiles().path("default").unwrap();
    let expected = format!(
        "no credentials were found: the environment has neither COZE_API_TOKEN nor the variables of a flow \
         (COZE_WEB_OAUTH_…, COZE_PKCE_OAUTH_…, COZE_DEVICE_OAUTH_…, COZE_JWT_OAUTH_…); COZE_OAUTH_CONFIG is not set; \
         {} does not exist; profile default: {} does not exist",
        config.display(),
        profile.display(),
    );
    assert_eq!(error.to_string(), expected);

    // Empty variables and a base without credentials are nothing.
    machine
        .set("COZE_API_TOKEN", " ")
        .set("COZE_OAUTH_CONFIG", "")
        .set("COZE_PROFILE", "")
        .set("COZE_API_BASE", "https://api.coze.cn");
    assert_eq!(machine.refusal().await.to_string(), expected);

    machine.set("COZE_PROFILE", "work");
    let error = machine.refusal().await.to_string();
    assert!(error.contains("profile work: "), "{error}");
    let error = machine.builder().profile("other").find().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
    let path = machine.profiles().path("other").unwrap();
    assert_eq!(
        error.to_string(),
        format!("profile other: {} does not exist", path.display())
    );
}

#[tokio::test]
async fn a_place_that_is_there_and_can_not_be_used_is_named_and_not_passed_over() {
    let signed_in = async || {
        let machine = Machine::new().await;
        machine.log_in("default", Flow::Device).await;
        machine
    };
    let configuration = async |machine: &Machine, parts: &[&str]| {
        let error = machine.refusal().await;
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    };

    let mut machine = signed_in().await;
    machine.set("COZE_WEB_OAUTH_CLIENT_ID", "id");
    let half = "COZE_WEB_OAUTH_CLIENT_SECRET is not set (flow web)";
    configuration(&machine, &["the environment: ", half]).await;

    let mut machine = signed_in().await;
    machine
        .set("COZE_PKCE_OAUTH_CLIENT_ID", "id")
        .set("COZE_DEVICE_OAUTH_CLIENT_ID", "id");
    configuration(&machine, &["several flows: pkce, device"]).await;
    // A token takes precedence over both.
    machine.set("COZE_API_TOKEN", "pat");
    assert_eq!(machine.find().await.unwrap().flow(), Some(Flow::Token));

    let mut machine = signed_in().await;
    machine.set("COZE_API_TOKEN", "hush hush");
    configuration(&machine, &["the environment: COZE_API_TOKEN"]).await;

    let mut machine = signed_in().await;
    machine.set("COZE_OAUTH_CONFIG", "missing.json");
    configuration(&machine, &["missing.json can't be read"]).await;
    machine.set("COZE_OAUTH_CONFIG", r#"{"client_secret":"hush"}"#);
    configuration(&machine, &["the configuration itself"]).await;

    let machine = signed_in().await;
    let file = machine.working_folder().join("coze_oauth_config.json");
    fs::create_dir(&file).unwrap();
    configuration(
        &machine,
        &["coze_oauth_config.json can't be read: it is a directory"],
    )
    .await;
    fs::remove_dir(&file).unwrap();
    fs::write(
        &file,
        r#"{"client_type":"web","client_id":"id","client_secret":"#,
    )
    .unwrap();
    configuration(&machine, &["coze_oauth_config.json is not valid JSON"]).await;
    #[cfg(unix)]
    {
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("nowhere", &file).unwrap();
        configuration(&machine, &["coze_oauth_config.json can't be read"]).await;
    }

    let mut machine = signed_in().await;
    machine.set("COZE_PROFILE", "../hush");
    configuration(
        &machine,
        &["the environment: COZE_PROFILE: the name of a profile"],
    )
    .await;

    let machine = signed_in().await;
    let path = machine.profiles().path("default").unwrap();
    fs::write(&path, "{").unwrap();
    configuration(&machine, &["default.json is not a valid profile"]).await;
}

#[tokio::test]
async fn a_sign_in_that_is_missing_ended_or_damaged_is_named() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Device).await;
    let profiles = machine.profiles();
    let sign_in = profiles.sign_in("default", StoreKind::File).unwrap();
    sign_in.sign_out().await.unwrap();
    let error = machine.refusal().await;
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
    let store = machine.folder.path().join("user").join("sign-ins");
    let expected = format!(
        "profile default: there is no sign-in in {}",
        store.display()
    );
    assert_eq!(error.to_string(), expected);

    let machine = Machine::new().await;
    let token = machine.log_in("default", Flow::Device).await;
    machine
        .mock
        .revoke_sign_in(token.refresh_token().unwrap().expose());
    let credentials = machine.find().await.unwrap();
    credentials.invalidate(&credentials.token().await.unwrap());
    assert!(credentials.token().await.unwrap_err().needs_sign_in());
    let error = machine.refusal().await;
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
    let expected = "profile default: the sign-in has ended (invalid_grant)";
    assert_eq!(error.to_string(), expected);

    let machine = Machine::new().await;
    machine.log_in("default", Flow::Device).await;
    let store = machine.folder.path().join("user/sign-ins/default.json");
    fs::write(&store, "hush").unwrap();
    let error = machine.refusal().await;
    assert_eq!(error.kind(), ErrorKind::Store(StoreErrorKind::Damaged));
    assert!(error.to_string().contains("profile default"), "{error}");
}

/// Otherwise a file in a folder that another person has written could send the refresh token to another server.
#[tokio::test]
async fn an_app_of_users_uses_the_profile_of_the_same_app_and_endpoint_only() {
    let machine = Machine::new().await;
    let file = machine.working_folder().join("coze_oauth_config.json");
    machine.write_config(&file, "device", defaults::DEVICE_CLIENT_ID, "");
    let error = machine.refusal().await;
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
    let text = error.to_string();
    assert!(
        text.contains("coze_oauth_config.json describes an app of flow device"),
        "{text}"
    );

    let signed_in = machine.log_in("default", Flow::Device).await;
    let found = machine.find().await.unwrap();
    assert_eq!(found.source(), &Source::File(file.clone()));
    assert_eq!(token(&found).await, signed_in.access_token().expose());

    machine.write_config(&file, "device", "another-app", "");
    let other_app = machine.refusal().await;
    let other = MockCoze::start().await.unwrap();
    let json = fs::read_to_string(&file).unwrap();
    let json = json.replace("another-app", defaults::DEVICE_CLIENT_ID);
    fs::write(&file, json.replace(machine.mock.url(), other.url())).unwrap();
    let other_endpoint = machine.refusal().await;
    for error in [other_app, other_endpoint] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(
            text.contains("profile default is a sign-in to another app"),
            "{text}"
        );
    }
    assert_eq!(other.request_count(), 0);
    // The profile itself is not affected.
    assert!(machine.builder().profile("default").find().await.is_ok());
}

#[tokio::test]
async fn the_secret_of_a_web_app_comes_from_the_store_or_a_variable_and_is_in_no_file_of_a_profile()
{
    let mut machine = Machine::new().await;
    machine.log_in("default", Flow::Web).await;
    let path = machine.profiles().path("default").unwrap();
    let json = fs::read_to_string(&path).unwrap();
    assert!(!json.contains(defaults::WEB_CLIENT_SECRET), "{json}");
    let refreshed = async |machine: &Machine| {
        let found = machine.find().await?;
        found.invalidate(&found.token().await?);
        found.token().await
    };
    refreshed(&machine).await.unwrap();

    let (config, fresh) = machine.sign_in(Flow::Web).await;
    let without = machine.profiles().put("other", &config, None, &fresh).await;
    assert_eq!(without.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(machine.profiles().list().unwrap(), ["default"]);

    let place = SecretPlace::Variable("MY_SECRET".to_owned());
    let config = config.with_client_secret_from(place);
    machine
        .profiles()
        .put("default", &config, None, &fresh)
        .await
        .unwrap();
    let error = machine.refusal().await;
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    assert!(
        text.contains("the environment variable MY_SECRET is not set"),
        "{text}"
    );
    machine.set("MY_SECRET", defaults::WEB_CLIENT_SECRET);
    refreshed(&machine).await.unwrap();
    machine.mock.assert_clean();
}

#[tokio::test]
async fn a_change_of_a_profile_reaches_the_provider_that_was_found_with_it() {
    let machine = Machine::new().await;
    let first = machine.log_in("default", Flow::Device).await;
    let profiles = machine.profiles();
    let found = machine.builder().profiles(profiles.clone()).find().await;
    let found = found.unwrap();
    let served = found.token().await.unwrap();
    assert_eq!(served.expose(), first.access_token().expose());

    let (config, other) = machine.sign_in(Flow::Device).await;
    profiles
        .put("default", &config, None, &other)
        .await
        .unwrap();
    let served = found.token().await.unwrap();
    assert_eq!(served.expose(), other.access_token().expose());
    profiles.sign_out("default").await.unwrap();
    assert!(found.token().await.unwrap_err().needs_sign_in());
}

#[track_caller]
fn assert_no_secret_is_left(machine: &Machine) {
    for entry in fs::read_dir(machine.folder.path().join("user/sign-ins")).unwrap() {
        let path = entry.unwrap().path();
        let contents = fs::read_to_string(&path).unwrap();
        for secret in ["czu_", defaults::WEB_CLIENT_SECRET] {
            assert!(!contents.contains(secret), "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_user_who_signs_out_leaves_no_secret_behind() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Web).await;
    assert!(machine.profiles().sign_out("default").await.unwrap());
    assert!(!machine.profiles().sign_out("default").await.unwrap());
    assert_eq!(machine.profiles().list().unwrap(), [""; 0]);
    assert_no_secret_is_left(&machine);
    assert!(
        machine
            .refusal()
            .await
            .to_string()
            .contains("no credentials were found")
    );
}

/// A login that was interrupted while it was being saved, or a profile whose file was deleted.
#[tokio::test]
async fn a_sign_in_without_its_profile_can_be_deleted() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Web).await;
    assert!(machine.profiles().remove("default").unwrap());
    assert!(machine.profiles().sign_out("default").await.unwrap());
    let sign_in = { machine.profiles() }
        .sign_in("default", StoreKind::File)
        .unwrap();
    assert!(sign_in.load().await.unwrap().is_none());
    assert_no_secret_is_left(&machine);
    assert!(!machine.profiles().sign_out("default").await.unwrap());

    machine.log_in("default", Flow::Web).await;
    assert!(machine.profiles().remove("default").unwrap());
    let store = machine.folder.path().join("user/sign-ins/default.json");
    fs::write(&store, "damaged").unwrap();
    assert!(machine.profiles().sign_out("default").await.unwrap());
    assert_no_secret_is_left(&machine);
}

#[tokio::test]
async fn a_sign_in_to_another_app_deletes_the_client_secret_of_the_earlier_one() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Web).await;
    let token = machine.log_in("default", Flow::Device).await;
    let found = machine.find().await.unwrap();
    assert_eq!(
        found.token().await.unwrap().expose(),
        token.access_token().expose()
    );
    for entry in fs::read_dir(machine.folder.path().join("user/sign-ins")).unwrap() {
        let path = entry.unwrap().path();
        let contents = fs::read_to_string(&path).unwrap();
        let secret = defaults::WEB_CLIENT_SECRET;
        assert!(!contents.contains(secret), "{}", path.display());
    }
}

#[tokio::test]
async fn a_store_can_be_signed_out_of_without_losing_the_profile() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Web).await;
    let config = machine.profiles().load("default").unwrap().unwrap();
    let profiles = machine.profiles();
    let sign_out = async || {
        let signed_out = profiles.sign_out_of("default", StoreKind::File);
        signed_out.await.unwrap();
    };
    // Another program has signed in to this store.
    sign_out().await;
    assert!(machine.find().await.is_ok());

    let moved = config.with_store(StoreKind::Keyring);
    profiles.save("default", &moved).unwrap();
    sign_out().await;
    assert_no_secret_is_left(&machine);
    assert_eq!(profiles.load("default").unwrap(), Some(moved));
}

/// Holds the lock under which the client secret of the profile `default` is changed.
fn hold_client_secret(machine: &Machine) -> fs::File {
    let path = "user/sign-ins/default%20client%20secret.change";
    let path = machine.folder.path().join(path);
    let lock = fs::File::options().write(true).open(path).unwrap();
    lock.lock().unwrap();
    lock
}

async fn until(is_so: impl AsyncFn() -> bool) {
    for _ in 0..400 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_does_not_delete_a_sign_in_that_came_later() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Web).await;
    let (config, token) = machine.sign_in(Flow::Device).await;
    let secret = hold_client_secret(&machine);
    let profiles = machine.profiles();
    let signing_out = tokio::spawn(async move { profiles.sign_out("default").await });
    let sign_in = { machine.profiles() }
        .sign_in("default", StoreKind::File)
        .unwrap();
    until(async || sign_in.load().await.unwrap().is_none()).await;
    let (profiles, saved) = (machine.profiles(), config.clone());
    let later = tokio::spawn(async move {
        profiles
            .put("default", &saved, None, &token)
            .await
            .map(drop)
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    secret.unlock().unwrap();
    assert!(signing_out.await.unwrap().unwrap());
    later.await.unwrap().unwrap();
    assert_eq!(machine.profiles().load("default").unwrap(), Some(config));
    assert_eq!(machine.find().await.unwrap().flow(), Some(Flow::Device));
}

/// If the program is killed before the configuration is saved, the earlier one must not use what is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_is_never_beside_the_configuration_of_another_app() {
    let machine = Machine::new().await;
    let token = machine.log_in("default", Flow::Web).await;
    let profiles = machine.profiles();
    let config = profiles.load("default").unwrap().unwrap();
    let (id, new) = (config.client_id().clone(), Secret::from("the new secret"));
    let elsewhere = ProfileConfig::new(Flow::Web, id, Endpoint::CN).unwrap();
    let secret = hold_client_secret(&machine);
    let putting = {
        let (profiles, token) = (machine.profiles(), token.clone());
        let (elsewhere, new) = (elsewhere.clone(), new.clone());
        tokio::spawn(async move {
            let put = profiles.put("default", &elsewhere, Some(&new), &token);
            put.await.map(drop)
        })
    };
    until(async || profiles.load("default").unwrap().is_none()).await;
    secret.unlock().unwrap();
    putting.await.unwrap().unwrap();
    assert_eq!(profiles.load("default").unwrap(), Some(elsewhere));

    // The same app again: its profile is there all the time.
    let again = machine.log_in("work", Flow::Web).await;
    let config = profiles.load("work").unwrap();
    let new = Secret::from(defaults::WEB_CLIENT_SECRET);
    let put = profiles.put("work", config.as_ref().unwrap(), Some(&new), &again);
    put.await.unwrap();
    assert_eq!(profiles.load("work").unwrap(), config);
}

/// The response to a login was cut after the refresh token.
#[tokio::test]
async fn a_refresh_token_is_kept_without_an_access_token() {
    let machine = Machine::new().await;
    let (config, token) = machine.sign_in(Flow::Device).await;
    let refresh_token = token.refresh_token().unwrap();
    let profiles = machine.profiles();
    let put = profiles.put_refresh_token("default", &config, None, refresh_token);
    let record = put.await.unwrap().load().await.unwrap().unwrap();
    assert_eq!(record.client_id(), Some(defaults::DEVICE_CLIENT_ID));
    assert_eq!(record.api_base(), Some(machine.mock.url()));
    let found = machine.find().await.unwrap();
    assert!(self::token(&found).await.starts_with("czu_"));
    machine.mock.assert_clean();
}

/// Two programs signed in at once, and the configuration of one is beside the sign-in of the other.
#[tokio::test]
async fn a_sign_in_is_not_sent_to_the_endpoint_of_another_profile() {
    let machine = Machine::new().await;
    machine.log_in("default", Flow::Device).await;
    let other = MockCoze::start().await.unwrap();
    let endpoint = Endpoint::custom(other.url()).unwrap();
    let config = ProfileConfig::new(Flow::Device, defaults::DEVICE_CLIENT_ID, endpoint).unwrap();
    machine.profiles().save("default", &config).unwrap();
    let found = machine.find().await.unwrap();
    let error = found.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(other.url()), "{error}");
    assert_eq!(other.request_count(), 0);
}

#[tokio::test]
async fn a_program_can_tell_what_was_named_from_what_was_found() {
    let mut machine = Machine::new().await;
    let file = machine.working_folder().join("coze_oauth_config.json");
    machine.write_config(&file, "device", defaults::DEVICE_CLIENT_ID, "");
    let builder = machine.builder();
    assert_eq!(builder.named_profile().unwrap(), None);
    assert_eq!(builder.named_configuration_file().unwrap(), None);
    let named = builder.profile("work").named_profile().unwrap();
    assert_eq!(named.as_deref(), Some("work"));

    machine
        .set("COZE_PROFILE", "home")
        .set("COZE_OAUTH_CONFIG", "coze_oauth_config.json");
    let builder = machine.builder();
    let named = builder.named_profile().unwrap();
    assert_eq!(named.as_deref(), Some("home"));
    assert_eq!(builder.named_configuration_file().unwrap(), Some(file));
    machine.set("COZE_PROFILE", "../home");
    assert!(machine.builder().named_profile().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_programs_at_the_expiry_refresh_once() {
    let lifetime = Duration::from_secs(2);
    let machine = Machine::with(MockCoze::builder().access_token_lifetime(lifetime)).await;
    machine.log_in("default", Flow::Device).await;
    tokio::time::sleep(lifetime).await;
    let before = machine.mock.requests().len();
    // Each with stores and locks of its own, as in separate processes.
    let mut programs = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let builder = machine.builder().refresh(RefreshMode::InLine);
        programs.spawn(async move { builder.find().await?.token().await });
    }
    let mut tokens = std::collections::BTreeSet::new();
    while let Some(got) = programs.join_next().await {
        tokens.insert(got.unwrap().unwrap().expose().to_owned());
    }
    let refreshes = machine.mock.requests().len() - before;
    // On a stalled machine the new token may end, too, before the last program has it.
    assert_eq!(refreshes, tokens.len());
    assert!(refreshes <= 3, "{refreshes} refreshes");
    machine.mock.assert_clean();
}

#[tokio::test]
async fn the_configuration_of_an_app_is_found_without_a_sign_in() {
    let mut machine = Machine::new().await;
    let none = machine.builder().find_configuration(None).unwrap();
    assert!(none.is_none());
    let error = machine
        .builder()
        .configuration(Some(Flow::Jwt))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    for part in [
        "no app is configured",
        "no variables of flow jwt",
        "COZE_OAUTH_CONFIG is not set",
    ] {
        assert!(text.contains(part), "{text}");
    }
    machine.set("COZE_DEVICE_OAUTH_CLIENT_ID", "of-the-environment");
    let (source, config) = machine.builder().configuration(None).unwrap();
    assert_eq!((source, config.flow()), (Source::Environment, Flow::Device));
    assert_eq!(config.client_id().unwrap().as_ref(), "of-the-environment");

    let file = machine.working_folder().join("coze_oauth_config.json");
    machine.write_jwt_config(&file);
    let (source, config) = machine.builder().configuration(Some(Flow::Jwt)).unwrap();
    assert_eq!((source, config.flow()), (Source::File(file), Flow::Jwt));
    let error = machine
        .builder()
        .configuration(Some(Flow::Pkce))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("describes an app of flow jwt, not of flow pkce")
    );
}
