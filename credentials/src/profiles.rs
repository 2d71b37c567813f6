//! [`Profiles`]: the files of the profiles, and the stores of their sign-ins.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use coze_auth::{
    ConfiguredFlow, Error, ErrorKind, OAuthClient, RefreshToken, Result, Secret, SignIn, Token,
    store::{CompareAndSet, Contents, Key, Profile, Store, StoreError, StoreErrorKind, Version},
};
use coze_auth_stores::FileStore;
use etcetera::BaseStrategy;

use crate::{
    ProfileConfig, SecretPlace, StoreKind,
    default::{DEFAULT_PROFILE, PROGRAM},
    lock::{self, ProfileLock},
};

/// The most that is read of a profile's file.
const LONGEST_FILE: u64 = 64 * 1024;
/// The longest name of a profile, in characters.
const LONGEST_NAME: usize = 64;
/// How often a value is written again after a conflict with another process. Each conflict is a change of another process, and each
/// process makes a few.
const ATTEMPTS: usize = 100;
/// The key of the value by which a store is checked. A space keeps it apart from the names of profiles.
const CHECK: &str = "store check";
/// After the name of a profile, in the key of its client secret. The spaces keep it apart from the names of profiles.
const CLIENT_SECRET: &str = " client secret";
/// The stores that this crate was built with.
const STORES: &[StoreKind] = &[
    StoreKind::File,
    #[cfg(feature = "keyring")]
    StoreKind::Keyring,
];

/// The profiles of one user: for each, a small file with its [`ProfileConfig`], and its sign-in in a store. Clones share the stores and the sign-ins.
///
/// | | profiles | sign-ins |
/// |---|---|---|
/// | Linux and others | `$XDG_CONFIG_HOME/coze/profiles`, by default under `~/.config` | `$XDG_STATE_HOME/coze/sign-ins`, by default under `~/.local/state` |
/// | macOS | `~/Library/Application Support/coze/profiles` | `~/Library/Application Support/coze/sign-ins` |
/// | Windows | `%LOCALAPPDATA%\coze\profiles` | `%LOCALAPPDATA%\coze\sign-ins` |
///
/// A program that signs users in, start to end:
///
/// ```no_run
/// # async fn example(device: coze_auth::DeviceFlow) -> coze_auth::Result<()> {
/// use coze_auth::{Endpoint, Flow};
/// use coze_credentials::{ProfileConfig, Profiles, StoreKind};
///
/// let profiles = Profiles::in_default_folder("my-program")?;
/// let config = ProfileConfig::new(Flow::Device, "client-id", Endpoint::COM)?;
///
/// // Before the user signs in: a store that does not work must not cost a sign-in.
/// profiles.check("default", &config).await?;
/// let authorization = device.start().await?;
/// println!("open {}", authorization.verification_uri_complete());
/// let token = device.poll(&authorization).await?;
/// profiles.put("default", &config, None, &token).await?;
/// # Ok(()) }
/// ```
///
/// The name of a profile has at most 64 of the characters `a-z`, `0-9`, `.`, `_` and `-`, and begins with a letter or a digit.
///
/// One program at a time changes a profile: the others wait, for at most 10 s. The lock is the operating system's, on the file
/// `NAME.lock` beside the profile, which must not be deleted while a program uses it.
#[derive(Debug, Clone)]
pub struct Profiles {
    folder: PathBuf,
    files: FileStore,
    program: String,
    /// One handle for each sign-in, so that a change reaches the providers in this process.
    sign_ins: Arc<Mutex<HashMap<(String, StoreKind), SignIn>>>,
}

impl Profiles {
    /// The profiles of this program, in the platform's default folders. Those of the program `coze` are the profiles of `coze`.
    ///
    /// # Errors
    ///
    /// If the program's name is not a valid folder name, or the user has no home folder: those of
    /// [`FileStore::in_default_folder`].
    pub fn in_default_folder(program: &str) -> Result<Self> {
        let files = FileStore::in_default_folder(program)?;
        let platform = etcetera::base_strategy::choose_native_strategy().map_err(|error| {
            let what = "there is no home folder for profiles: set HOME";
            StoreError::new(StoreErrorKind::Other, what).with_source(error)
        })?;
        let folder = if cfg!(windows) {
            // The data folder roams to the user's other machines, and the sign-ins don't.
            platform.cache_dir()
        } else if cfg!(target_vendor = "apple") {
            platform.data_dir()
        } else {
            platform.config_dir()
        };
        Ok(Self {
            folder: folder.join(program).join("profiles"),
            files,
            program: program.to_owned(),
            sign_ins: Arc::default(),
        })
    }

    /// Profiles in another folder, whose sign-ins are in the folder `sign-ins` in it. `program` is the service under which a
    /// keyring shows them. No I/O happens here.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>, program: &str) -> Self {
        let folder = folder.into();
        Self {
            files: FileStore::new(folder.join("sign-ins")),
            folder: folder.join("profiles"),
            program: program.to_owned(),
            sign_ins: Arc::default(),
        }
    }

    /// The file of a profile, which need not exist.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if this can't be the name of a profile.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        require_name(name)?;
        Ok(self.folder.join(format!("{name}.json")))
    }

    /// Loads the configuration of a profile; `None` if there is no such profile.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration), which names the file, if it can't be read, is not valid, or if other users of
    /// the system may change it: they could redirect the refresh token.
    pub fn load(&self, name: &str) -> Result<Option<ProfileConfig>> {
        let path = self.path(name)?;
        let loaded = match read(&path) {
            Ok(text) => ProfileConfig::from_json(&path.display().to_string(), &text),
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        };
        let way_out = match (self.program.as_str(), name) {
            (PROGRAM, DEFAULT_PROFILE) => ": coze login --replace".to_owned(),
            (PROGRAM, name) => format!(": coze login --profile {name} --replace"),
            _ => String::new(),
        };
        loaded.map(Some).map_err(|error| {
            let what = format!("{error}; correct it, or sign in again to replace it{way_out}");
            Error::new(error.kind(), what)
        })
    }

    /// Saves the configuration of a profile: the file is replaced as a whole, and has mode 0600. A program that signs a user in calls
    /// [`put`](Self::put) instead, which waits until no other program changes the profile.
    ///
    /// # Errors
    ///
    /// [`Store`](ErrorKind::Store), which names the file, if it can't be written; [`InvalidInput`](ErrorKind::InvalidInput) if the
    /// name can't be that of a profile, or the endpoint is plain `http` on another machine.
    pub fn save(&self, name: &str, config: &ProfileConfig) -> Result<()> {
        let path = self.path(name)?;
        let json = config.to_json()?;
        let written = write(&self.folder, &path, json.as_bytes());
        written.map_err(|error| not_changed("written", &path, error))
    }

    /// The names of the profiles, sorted.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if the folder can't be read.
    pub fn list(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &self.folder, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", &self.folder, &error))?;
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Removes the configuration of a profile, but not its sign-in: see [`sign_out`](Self::sign_out). `false` if there was none.
    ///
    /// # Errors
    ///
    /// [`Store`](ErrorKind::Store) if the file can't be removed.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(not_changed("removed", &path, error)),
        }
    }

    /// The sign-in of a profile. Does not access the store. Clones of these profiles share it: after [`put`](Self::put) and
    /// [`sign_out`](Self::sign_out), the providers that were built with it serve the former user's token no longer.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if this program was built without this kind of store.
    pub fn sign_in(&self, name: &str, store: StoreKind) -> Result<SignIn> {
        self.path(name)?;
        let mut sign_ins = self.sign_ins.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = sign_ins.entry((name.to_owned(), store));
        Ok(match entry {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => new.insert(SignIn::new(self.store(store)?, name)?).clone(),
        })
    }

    /// Keeps a fresh sign-in: its configuration, the client secret of a web app, and the token. Call it again with the same token if
    /// it fails.
    ///
    /// A profile of another app is removed before the client secret is written, so that the secret is never used at another endpoint.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput), before anything is written, if the store is the place of the client secret and none is
    /// given; [`Busy`](StoreErrorKind::Busy) if another program does not finish its change of the profile in time; those of
    /// [`save`](Self::save), [`SignIn::put`] and the store.
    pub async fn put(
        &self,
        name: &str,
        config: &ProfileConfig,
        client_secret: Option<&Secret>,
        token: &Token,
    ) -> Result<SignIn> {
        self.keep(name, config, client_secret, Granted::Token(token))
            .await
    }

    /// The same for a refresh token without an access token, which the first refresh gets: that of
    /// [`Error::refresh_token`](Error::refresh_token), if the response to the login was unusable otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`put`](Self::put).
    pub async fn put_refresh_token(
        &self,
        name: &str,
        config: &ProfileConfig,
        client_secret: Option<&Secret>,
        refresh_token: &RefreshToken,
    ) -> Result<SignIn> {
        let granted = Granted::RefreshToken(refresh_token);
        self.keep(name, config, client_secret, granted).await
    }

    async fn keep(
        &self,
        name: &str,
        config: &ProfileConfig,
        client_secret: Option<&Secret>,
        granted: Granted<'_>,
    ) -> Result<SignIn> {
        let sign_in = self.sign_in(name, config.store())?;
        let secret = match (config.client_secret_place(), client_secret) {
            (Some(SecretPlace::Store), Some(secret)) => {
                Some(Contents::from(secret.expose().as_bytes().to_vec()))
            }
            (Some(SecretPlace::Store), None) => {
                let what = "the client secret of the web app is missing";
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
            _ => None,
        };
        config.to_json()?;
        create_folder(&self.folder).map_err(|error| not_changed("created", &self.folder, error))?;
        let _lock = self.lock(name).await?;
        // The token first, because it can't be requested again. It is not sent to another endpoint.
        match granted {
            Granted::Token(token) => sign_in.put(token).await?,
            Granted::RefreshToken(refresh_token) => {
                let (client_id, endpoint) = (config.client_id().as_ref(), config.endpoint());
                let put = sign_in.put_refresh_token(refresh_token, client_id, endpoint);
                put.await?;
            }
        }
        if let Ok(Some(earlier)) = self.load(name)
            && !earlier.is_of_same_app(config)
        {
            self.remove(name)?;
        }
        // Or deletes that of an earlier app.
        set(sign_in.store(), &secret_key(name)?, secret.as_ref()).await?;
        self.save(name, config)?;
        Ok(sign_in)
    }

    /// Waits for the lock of a profile. The folder must exist.
    async fn lock(&self, name: &str) -> Result<ProfileLock> {
        let path = self.path(name)?.with_extension("lock");
        ProfileLock::take(&path).await.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let (path, limit) = (path.display(), lock::TIMEOUT.as_secs());
                let what = format!(
                    "another program has been changing profile {name} for more than {limit} s: it has locked {path}"
                );
                StoreError::new(StoreErrorKind::Busy, &what).into()
            }
            _ => not_changed("locked", &path, error),
        })
    }

    /// The same for a sign-out. Without a folder that can be written, no program changes the profile.
    async fn lock_if_possible(&self, name: &str) -> Result<Option<ProfileLock>> {
        match self.lock(name).await {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == ErrorKind::Store(StoreErrorKind::Busy) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Signs the user of a profile out: deletes its tokens and the client secret from the store, and then its configuration.
    /// `false` if there was nothing to delete. Coze has no endpoint to revoke tokens, so they stay valid until they expire.
    ///
    /// Without a configuration (it was lost, or a login was interrupted while it was being saved), or if it can't be
    /// [loaded](Self::load), it is unknown which store has the sign-in. It is then deleted from each store that this crate was built
    /// with; a keyring that can't be reached is skipped.
    ///
    /// # Errors
    ///
    /// [`Busy`](StoreErrorKind::Busy) if another program does not finish its change of the profile in time; those of
    /// [`SignIn::sign_out`], the store and [`remove`](Self::remove). What is left can be deleted by another call.
    pub async fn sign_out(&self, name: &str) -> Result<bool> {
        let _lock = self.lock_if_possible(name).await?;
        let loaded = self.load(name);
        let has_file = !matches!(loaded, Ok(None));
        let has_signed_out = match loaded {
            Ok(Some(config)) => {
                let sign_in = self.sign_in(name, config.store())?;
                delete(&sign_in, name).await?;
                true
            }
            Ok(None) => self.delete_everywhere(name).await?,
            Err(error) if error.kind() == ErrorKind::Configuration => {
                self.delete_everywhere(name).await?
            }
            Err(error) => return Err(error),
        };
        Ok((has_file && self.remove(name)?) || has_signed_out)
    }

    async fn delete_everywhere(&self, name: &str) -> Result<bool> {
        let mut outcome = Ok(false);
        for &kind in STORES {
            match self.delete_if_there(name, kind).await {
                Ok(is_deleted) => outcome = outcome.map(|others| others || is_deleted),
                Err(error) if kind == StoreKind::File => outcome = Err(error),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Deletes the tokens and the client secret of a profile from this store, and leaves its configuration: for a profile whose
    /// sign-in is now in another store. Nothing is deleted if the sign-in is in this store after all, because another program has
    /// signed the user in.
    ///
    /// # Errors
    ///
    /// [`Busy`](StoreErrorKind::Busy) if another program does not finish its change of the profile in time; those of
    /// [`sign_in`](Self::sign_in), [`SignIn::sign_out`] and the store. What is left can be deleted by another call.
    pub async fn sign_out_of(&self, name: &str, kind: StoreKind) -> Result<()> {
        let _lock = self.lock_if_possible(name).await?;
        match self.load(name) {
            Ok(Some(config)) if config.store() == kind => Ok(()),
            _ => self.delete_if_there(name, kind).await.map(drop),
        }
    }

    /// `false` if the store has no tokens and no client secret of this profile.
    async fn delete_if_there(&self, name: &str, kind: StoreKind) -> Result<bool> {
        let sign_in = self.sign_in(name, kind)?;
        let is_signed_in = match sign_in.load().await {
            Ok(record) => record.is_some(),
            Err(error) if error.kind() == ErrorKind::Store(StoreErrorKind::Damaged) => true,
            Err(error) => return Err(error),
        };
        let is_there = is_signed_in
            || !sign_in.quarantined().await?.is_empty()
            || sign_in.store().load(&secret_key(name)?).await?.is_some();
        if is_there {
            delete(&sign_in, name).await?;
        }
        Ok(is_there)
    }

    /// The names of the profiles, and of sign-ins whose profile is lost, sorted: for a program that signs out of all. Keyrings can't
    /// be listed. A user may have signed out of some that are not profiles.
    ///
    /// # Errors
    ///
    /// Those of [`list`](Self::list) and the stores.
    pub async fn list_with_sign_ins(&self) -> Result<Vec<String>> {
        let mut names = self.list()?;
        for &kind in STORES {
            let listed = self.store(kind)?.list().await?;
            for profile in listed.unwrap_or_default() {
                let name = profile.name();
                let name = name.strip_suffix(CLIENT_SECRET).unwrap_or(name);
                names.extend(is_name(name).then(|| name.to_owned()));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The client secret of a profile's web app; `None` if the app has none, or if it is not where the configuration says.
    /// `variable` returns the value of an environment variable.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Configuration`](ErrorKind::Configuration) if the value is not valid text.
    pub async fn client_secret(
        &self,
        name: &str,
        config: &ProfileConfig,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Option<Secret>> {
        let not_text = |_| {
            let what = format!("profile {name}: the client secret is not valid text");
            Error::new(ErrorKind::Configuration, what)
        };
        match config.client_secret_place() {
            None => Ok(None),
            Some(SecretPlace::Variable(variable_name)) => {
                let value = variable(variable_name).filter(|value| !value.is_empty());
                let value = value.map(|value| value.into_string().map_err(|_| not_text(())));
                Ok(value.transpose()?.map(Secret::from))
            }
            Some(SecretPlace::Store) => {
                let stored = self.store(config.store())?.load(&secret_key(name)?).await;
                let stored = stored?;
                let Some(stored) = stored else {
                    return Ok(None);
                };
                let text = std::str::from_utf8(stored.contents.expose());
                text.map(|text| Some(Secret::from(text)))
                    .map_err(|_| not_text(()))
            }
        }
    }

    /// Builds the flow of a profile's app, with its client secret if it has one, on a client for the profile's endpoint.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration), which says where the client secret was looked for, if it is missing; else those of
    /// [`client_secret`](Self::client_secret) and [`ProfileConfig::build`].
    pub async fn flow(
        &self,
        name: &str,
        config: &ProfileConfig,
        client: &OAuthClient,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<ConfiguredFlow> {
        let secret = self.client_secret(name, config, variable).await?;
        if let (None, Some(place)) = (&secret, config.client_secret_place()) {
            let place = match place {
                SecretPlace::Variable(name) => {
                    format!("the environment variable {name} is not set")
                }
                SecretPlace::Store => {
                    format!("it is not in the store ({}); sign in again", config.store())
                }
            };
            let what =
                format!("profile {name}: the client secret of the web app is missing: {place}");
            return Err(Error::new(ErrorKind::Configuration, what));
        }
        config.build(client, secret)
    }

    /// Checks, before a user signs in, that the sign-in could be kept: writes a file into the folder of the profiles, and a value into
    /// the store, and deletes both. It also takes the locks that a change of this profile needs, and loads what a change replaces. A
    /// profile that exists is not changed.
    ///
    /// # Errors
    ///
    /// [`Store`](ErrorKind::Store) if the file of the profile or its sign-in could not be written, or the store fails;
    /// [`Configuration`](ErrorKind::Configuration) if this program was built without this kind of store; else those of
    /// [`save`](Self::save).
    pub async fn check(&self, name: &str, config: &ProfileConfig) -> Result<()> {
        let path = self.path(name)?;
        let json = config.to_json()?;
        check_file(&self.folder, &path, json.as_bytes())
            .map_err(|error| not_changed("written", &path, error))?;
        drop(self.lock(name).await?);
        let store = self.store(config.store())?;
        check_store(&store).await?;
        check_values(&store, name).await
    }

    /// A store of the sign-ins.
    ///
    /// # Errors
    ///
    /// Those of [`sign_in`](Self::sign_in).
    pub fn store(&self, kind: StoreKind) -> Result<Arc<dyn Store>> {
        match kind {
            StoreKind::File => Ok(Arc::new(self.files.clone())),
            #[cfg(feature = "keyring")]
            StoreKind::Keyring => {
                let store = coze_auth_stores::KeyringStore::new(self.program.as_str());
                Ok(Arc::new(store?))
            }
            #[cfg(not(feature = "keyring"))]
            StoreKind::Keyring => Err(Error::new(
                ErrorKind::Configuration,
                format!("{} was built without the keyring", self.program),
            )),
        }
    }

    /// Where a store keeps the sign-ins, for messages.
    pub(crate) fn shown_store(&self, kind: StoreKind) -> String {
        match kind {
            StoreKind::File => self.files.folder().display().to_string(),
            StoreKind::Keyring => "the keyring".to_owned(),
        }
    }
}

/// What a login has got.
#[derive(Clone, Copy)]
enum Granted<'a> {
    Token(&'a Token),
    RefreshToken(&'a RefreshToken),
}

/// Where the store keeps the client secret of a profile.
fn secret_key(profile: &str) -> Result<Key> {
    let name = format!("{profile}{CLIENT_SECRET}");
    Ok(Key::record(&Profile::new(name)?))
}

/// Deletes the tokens and the client secret.
async fn delete(sign_in: &SignIn, name: &str) -> Result<()> {
    sign_in.sign_out().await?;
    set(sign_in.store(), &secret_key(name)?, None).await
}

/// Sets or deletes a value, whatever is there.
async fn set(store: &Arc<dyn Store>, key: &Key, new: Option<&Contents>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let stored = store.load(key).await?;
        if stored.is_none() && new.is_none() {
            return Ok(());
        }
        let version = stored.as_ref().map(|stored| &stored.version);
        let written = store.compare_and_set(key, version, new).await;
        if let CompareAndSet::Done(_) = written? {
            return Ok(());
        }
    }
    Err(busy())
}

fn busy() -> Error {
    let what = "other processes change the value faster than it can be written";
    Error::new(ErrorKind::Store(StoreErrorKind::Busy), what)
}

/// Writes a value, loads it, and deletes it, also after a failure. Processes may check a store at the same time: they share the key.
async fn check_store(store: &Arc<dyn Store>) -> Result<()> {
    let key = Key::record(&Profile::new(CHECK)?);
    let checked = write_and_load(store, &key).await;
    let deleted = set(store, &key, None).await;
    checked.and(deleted)
}

/// Checks that the values of a profile could be replaced, and changes none: loads them, and tries changes that can't match.
async fn check_values(store: &Arc<dyn Store>, name: &str) -> Result<()> {
    let profile = Profile::new(name)?;
    let record = Key::record(&profile);
    let no_version = Version::new(*b"the version of no value");
    for key in [&record, &secret_key(name)?] {
        store.load(key).await?;
        let _ = store.compare_and_set(key, Some(&no_version), None).await?;
    }
    // What is replaced goes into quarantine, whose slots are all read.
    for slot in Key::quarantine_slots(&profile) {
        store.load(&slot).await?;
    }
    Ok(())
}

/// Returns once the store has a value that was not there before: this one, or that of another process.
async fn write_and_load(store: &Arc<dyn Store>, key: &Key) -> Result<()> {
    let mut outcome = Err(busy());
    for attempt in 0..ATTEMPTS {
        let before = store.load(key).await?;
        let version = before.as_ref().map(|before| &before.version);
        let contents = Contents::from(unique_value(attempt));
        let written = store.compare_and_set(key, version, Some(&contents)).await?;
        if !matches!(written, CompareAndSet::Done(_)) {
            continue;
        }
        let after = store.load(key).await?.map(|after| after.contents);
        let before = before.map(|before| before.contents);
        let bytes = |contents: &Option<Contents>| {
            let contents = contents.as_ref();
            contents.map(|contents| contents.expose().to_vec())
        };
        match bytes(&after) {
            Some(after) if Some(&after) != bytes(&before).as_ref() => return Ok(()),
            // Another process may have deleted it, at the end of its check.
            _ => {
                let what = "the store has lost a value that it had confirmed";
                outcome = Err(Error::new(ErrorKind::Store(StoreErrorKind::Other), what));
            }
        }
    }
    outcome
}

/// A value that no other process writes, nor another attempt of this one.
fn unique_value(attempt: usize) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = now.unwrap_or_default().as_nanos();
    let process = std::process::id();
    format!(r#"{{"check":"{process} {nanoseconds} {attempt}"}}"#).into_bytes()
}

pub(crate) fn require_name(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    let what = format!(
        "the name of a profile has at most {LONGEST_NAME} of the characters a-z, 0-9, ., _ and -, and begins with a letter or a digit"
    );
    Err(Error::new(ErrorKind::InvalidInput, what))
}

/// A valid file name on every platform, with or without case.
fn is_name(name: &str) -> bool {
    const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
    let stem = name.split('.').next().unwrap_or_default();
    let is_numbered = |device: &str| {
        let number = stem.strip_prefix(device).map(str::as_bytes);
        matches!(number, Some([b'0'..=b'9']))
    };
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && !name.ends_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && !DEVICES.contains(&stem)
        && !is_numbered("com")
        && !is_numbered("lpt")
}

/// Also if something else is where the folder should be: a check and a save say so.
fn is_missing(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read(path: &Path) -> io::Result<String> {
    // A pipe would block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = fs::File::open(path)?;
    refuse_writable_by_others(&file.metadata()?)?;
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(unix)]
fn refuse_writable_by_others(metadata: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if is_ours && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let what = "other users may change it: give it to this user, with mode 600";
    Err(io::Error::other(what))
}

#[cfg(not(unix))]
fn refuse_writable_by_others(_: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

/// Replaces a file as a whole.
fn write(folder: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    temporary_file(folder, contents)?.persist(path)?;
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Does all of [`write`] but the replacement.
fn check_file(folder: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    temporary_file(folder, contents)?.close()?;
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A complete file that gets its name later. It has mode 0600.
fn temporary_file(folder: &Path, contents: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    create_folder(folder)?;
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(folder)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(unix)]
fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(not(unix))]
fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

fn failed(done: &str, path: &Path, error: &io::Error) -> Error {
    let what = format!("{} can't be {done}: {error}", path.display());
    Error::new(ErrorKind::Configuration, what)
}

/// The failure of a change, which no input fixes.
fn not_changed(done: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreErrorKind::NotPermitted
        }
        _ => StoreErrorKind::Other,
    };
    let what = format!("{} can't be {done}", path.display());
    StoreError::new(kind, &what).with_source(error).into()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use coze_auth::{
        Endpoint, Flow,
        store::{Owner, StoreFuture, Stored, TryLock, Version},
    };

    use super::*;

    fn config() -> ProfileConfig {
        ProfileConfig::new(Flow::Pkce, "client-id", Endpoint::CN).unwrap()
    }

    #[test]
    fn profiles_are_saved_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path().join("new"), "test");
        assert_eq!(profiles.load("default").unwrap(), None);
        assert!(profiles.list().unwrap().is_empty());
        assert!(!profiles.remove("default").unwrap());
        for name in ["work", "default", "work"] {
            profiles.save(name, &config()).unwrap();
        }
        fs::write(folder.path().join("new/profiles/NOTES.txt"), "").unwrap();
        assert_eq!(profiles.list().unwrap(), ["default", "work"]);
        assert_eq!(profiles.load("work").unwrap(), Some(config()));
        assert!(profiles.remove("work").unwrap());
        assert_eq!(profiles.list().unwrap(), ["default"]);
    }

    #[test]
    fn a_name_is_a_file_name_everywhere() {
        let profiles = Profiles::in_folder("x", "test");
        for name in [
            "default",
            "0",
            "a.b_c-d",
            &"a".repeat(64),
            "con2",
            "com",
            "comx",
        ] {
            assert!(profiles.path(name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "a.",
            "a/b",
            "a\\b",
            "A",
            "ü",
            "a b",
            "a\n",
            "con",
            "nul.x",
            "com1",
            "lpt9.txt",
            &"a".repeat(65),
        ] {
            let error = profiles.path(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_change_a_profile() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        profiles.save("default", &config()).unwrap();
        let path = profiles.path("default").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        for (mode, is_refused) in [(0o644, false), (0o620, true), (0o602, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let loaded = profiles.load("default");
            assert_eq!(loaded.is_err(), is_refused, "{mode:o}");
            if let Err(error) = loaded {
                let error = error.to_string();
                assert!(
                    error.contains("default.json can't be read: other users"),
                    "{error}"
                );
            }
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = profiles.load("default").unwrap_err().to_string();
        assert!(error.contains("it is not a regular file"), "{error}");
    }

    #[tokio::test]
    async fn folder_and_store_are_checked_before_a_user_signs_in() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        profiles.check("default", &config()).await.unwrap();
        let store = profiles.store(StoreKind::File).unwrap();
        assert_eq!(store.list().await.unwrap().unwrap_or_default(), []);
        assert_eq!(profiles.load("default").unwrap(), None);
        let files = || {
            let files = fs::read_dir(folder.path().join("profiles")).unwrap();
            let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            files.filter(|file| !file.ends_with(".lock")).count()
        };
        assert_eq!(files(), 0);

        profiles.save("default", &config()).unwrap();
        let other = ProfileConfig::new(Flow::Device, "other", Endpoint::COM).unwrap();
        profiles.check("default", &other).await.unwrap();
        assert_eq!(profiles.load("default").unwrap(), Some(config()));
        assert_eq!(files(), 1);

        fs::create_dir(folder.path().join("profiles/work.json")).unwrap();
        for (name, is_usable) in [("default", true), ("work", false)] {
            let checked = profiles.check(name, &other).await;
            assert_eq!(checked.is_ok(), is_usable, "{checked:?}");
            let saved = profiles.save(name, &other);
            assert_eq!(saved.is_ok(), is_usable, "{saved:?}");
        }
    }

    /// What would make a save fail after the user has signed in.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_check_fails_if_a_value_of_the_profile_could_not_be_replaced() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let open_to_all = |path: &Path| {
            fs::write(path, "{}").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        };
        let is_folder = |path: &Path| fs::create_dir(path).unwrap();
        let is_link = |path: &Path| symlink("elsewhere", path).unwrap();
        type Spoil<'a> = &'a dyn Fn(&Path);
        let cases: [(&str, Spoil<'_>); 8] = [
            ("default.json", &open_to_all),
            ("default.json", &is_folder),
            ("default.json", &is_link),
            ("default.change", &open_to_all),
            ("default.change", &is_folder),
            ("default%20client%20secret.json", &open_to_all),
            ("default%20client%20secret.change", &is_link),
            ("default.quarantine-3.json", &open_to_all),
        ];
        for (file, spoil) in cases {
            let folder = tempfile::tempdir().unwrap();
            let profiles = Profiles::in_folder(folder.path(), "test");
            profiles.check("other", &config()).await.unwrap();
            spoil(&folder.path().join("sign-ins").join(file));
            let error = profiles.check("default", &config()).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
            assert!(error.to_string().contains(file), "{error}");
            profiles.check("other", &config()).await.unwrap();
        }
    }

    // On Windows, a locked file can't be opened.
    #[tokio::test]
    #[cfg(unix)]
    async fn a_check_fails_while_another_process_is_stuck_in_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        profiles.check("default", &config()).await.unwrap();
        let change = folder.path().join("sign-ins/default.change");
        let stuck = fs::File::options().write(true).open(change).unwrap();
        stuck.lock().unwrap();
        let error = profiles.check("default", &config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store(StoreErrorKind::Busy));
        profiles.check("other", &config()).await.unwrap();
        stuck.unlock().unwrap();
        profiles.check("default", &config()).await.unwrap();
    }

    #[tokio::test]
    async fn a_check_changes_no_value_of_the_profile() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        let store = profiles.store(StoreKind::File).unwrap();
        let record = Key::record(&Profile::new("default").unwrap());
        let keys = [record, secret_key("default").unwrap()];
        for key in &keys {
            let value = Contents::from(b"a value".to_vec());
            set(&store, key, Some(&value)).await.unwrap();
        }
        profiles.check("default", &config()).await.unwrap();
        for key in &keys {
            let stored = store.load(key).await.unwrap().unwrap();
            assert_eq!(stored.contents.expose(), b"a value");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_program_at_a_time_changes_a_profile() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        profiles.save("default", &config()).unwrap();
        let lock = profiles.lock("default").await.unwrap();
        let changes = [
            profiles.check("default", &config()).await,
            profiles.sign_out("default").await.map(drop),
            profiles.sign_out_of("default", StoreKind::File).await,
        ];
        for changed in changes {
            let error = changed.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Store(StoreErrorKind::Busy));
            let error = error.to_string();
            assert!(error.contains("another program"), "{error}");
            assert!(error.contains("default.lock"), "{error}");
        }
        assert_eq!(profiles.load("default").unwrap(), Some(config()));
        profiles.check("other", &config()).await.unwrap();
        drop(lock);
        assert!(profiles.sign_out("default").await.unwrap());
    }

    #[tokio::test]
    async fn a_profile_that_can_not_be_loaded_names_the_way_out_and_is_signed_out_of() {
        for (program, name, way_out) in [
            (
                "coze",
                "default",
                "sign in again to replace it: coze login --replace",
            ),
            (
                "coze",
                "work",
                "to replace it: coze login --profile work --replace",
            ),
            ("my-program", "work", "or sign in again to replace it"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let profiles = Profiles::in_folder(folder.path(), program);
            profiles.save(name, &config()).unwrap();
            let store = profiles.store(StoreKind::File).unwrap();
            let key = Key::record(&Profile::new(name).unwrap());
            let value = Contents::from(b"a damaged record".to_vec());
            set(&store, &key, Some(&value)).await.unwrap();
            fs::write(profiles.path(name).unwrap(), "damaged").unwrap();
            let error = profiles.load(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().ends_with(way_out), "{error}");
            assert_eq!(profiles.list_with_sign_ins().await.unwrap(), [name]);
            assert!(profiles.sign_out(name).await.unwrap());
            assert_eq!(profiles.load(name).unwrap(), None);
            let left = store.load(&key).await.unwrap().unwrap();
            let left = String::from_utf8(left.contents.expose().to_vec()).unwrap();
            assert!(left.contains("signed_out"), "{left}");
            assert!(!profiles.sign_out(name).await.unwrap());
        }
    }

    #[tokio::test]
    async fn sign_ins_without_a_profile_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        profiles.save("work", &config()).unwrap();
        let store = profiles.store(StoreKind::File).unwrap();
        let record = |name| Key::record(&Profile::new(name).unwrap());
        let value = Contents::from(b"a value".to_vec());
        for key in [
            record("lost"),
            record("work"),
            secret_key("web").unwrap(),
            record("Not A Profile"),
            record(CHECK),
        ] {
            set(&store, &key, Some(&value)).await.unwrap();
        }
        assert_eq!(profiles.list().unwrap(), ["work"]);
        let all = profiles.list_with_sign_ins().await.unwrap();
        assert_eq!(all, ["lost", "web", "work"]);
    }

    #[tokio::test]
    async fn a_folder_or_a_store_that_can_not_be_written_is_a_failure_of_the_store() {
        for folder_name in ["profiles", "sign-ins"] {
            let folder = tempfile::tempdir().unwrap();
            let profiles = Profiles::in_folder(folder.path(), "test");
            fs::write(folder.path().join(folder_name), "").unwrap();
            let error = profiles.check("default", &config()).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
            assert!(error.to_string().contains(folder_name), "{error}");
            if folder_name == "profiles" {
                let error = profiles.save("default", &config()).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_processes_may_check_a_store_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut checks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            // With stores of its own, as in a process of its own.
            let profiles = Profiles::in_folder(folder.path(), "test");
            checks.spawn(async move { profiles.check("default", &config()).await });
        }
        while let Some(checked) = checks.join_next().await {
            checked.unwrap().unwrap();
        }
        let store = FileStore::new(folder.path().join("sign-ins"));
        assert_eq!(store.list().await.unwrap().unwrap_or_default(), []);
    }

    #[tokio::test]
    async fn a_check_deletes_what_another_process_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::in_folder(folder.path(), "test");
        let store = profiles.store(StoreKind::File).unwrap();
        let key = Key::record(&Profile::new(CHECK).unwrap());
        let left = Contents::from(b"{}".to_vec());
        set(&store, &key, Some(&left)).await.unwrap();
        profiles.check("default", &config()).await.unwrap();
        assert!(store.load(&key).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_failed_check_leaves_nothing_in_the_store() {
        for fault in [Fault::SecondLoadFails, Fault::LosesWrites] {
            let folder = tempfile::tempdir().unwrap();
            let (inner, store) = faulty(folder.path(), fault);
            let error = check_store(&store).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
            let expected = match fault {
                Fault::SecondLoadFails => "it failed",
                _ => "lost a value",
            };
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(inner.list().await.unwrap().unwrap_or_default(), []);
        }
    }

    #[tokio::test]
    async fn a_check_succeeds_while_another_process_checks_the_store() {
        for fault in [
            Fault::AnotherDeletesTheFirst,
            Fault::AnotherReplacesTheFirst,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (inner, store) = faulty(folder.path(), fault);
            check_store(&store).await.unwrap();
            assert_eq!(inner.list().await.unwrap().unwrap_or_default(), []);
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        SecondLoadFails,
        LosesWrites,
        AnotherDeletesTheFirst,
        AnotherReplacesTheFirst,
    }

    struct Faulty {
        inner: FileStore,
        fault: Fault,
        loads: AtomicUsize,
        writes: AtomicUsize,
    }

    /// A store, and the same with a fault.
    fn faulty(folder: &Path, fault: Fault) -> (FileStore, Arc<dyn Store>) {
        let inner = FileStore::new(folder.join("sign-ins"));
        let store = Faulty {
            inner: inner.clone(),
            fault,
            loads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
        };
        (inner, Arc::new(store))
    }

    impl Store for Faulty {
        fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
            let loads = self.loads.fetch_add(1, Ordering::Relaxed);
            if self.fault == Fault::SecondLoadFails && loads == 1 {
                let error = StoreError::new(StoreErrorKind::Other, "it failed");
                return Box::pin(async { Err(error) });
            }
            self.inner.load(key)
        }

        fn compare_and_set<'a>(
            &'a self,
            key: &'a Key,
            expected: Option<&'a Version>,
            new: Option<&'a Contents>,
        ) -> StoreFuture<'a, CompareAndSet> {
            Box::pin(async move {
                let written = self.inner.compare_and_set(key, expected, new).await?;
                let is_first = self.writes.fetch_add(1, Ordering::Relaxed) == 0;
                let other = Contents::from(b"{}".to_vec());
                let then = match self.fault {
                    Fault::LosesWrites => None,
                    Fault::AnotherDeletesTheFirst if is_first => None,
                    Fault::AnotherReplacesTheFirst if is_first => Some(&other),
                    _ => return Ok(written),
                };
                if let CompareAndSet::Done(Some(version)) = &written {
                    let _ = self.inner.compare_and_set(key, Some(version), then).await?;
                }
                Ok(written)
            })
        }

        fn try_lock<'a>(
            &'a self,
            key: &'a Key,
            owner: &'a Owner,
            ttl: Duration,
        ) -> StoreFuture<'a, TryLock> {
            self.inner.try_lock(key, owner, ttl)
        }

        fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
            self.inner.unlock(key, owner)
        }

        fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
            self.inner.list()
        }
    }

    #[cfg(not(feature = "keyring"))]
    #[test]
    fn a_program_without_the_keyring_says_so() {
        let profiles = Profiles::in_folder("x", "my-program");
        let error = profiles.sign_in("default", StoreKind::Keyring).unwrap_err();
        assert_eq!(
            error.to_string(),
            "my-program was built without the keyring"
        );
    }
}
