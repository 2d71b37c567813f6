//! [`LoopbackLogin`]: sign-in by the browser of this machine, for desktop and command-line programs (RFC 8252).
//!
//! | file | what |
//! |---|---|
//! | `listener.rs` | the sockets of the redirect URI |
//! | `server.rs` | which request is the callback, and what the others are answered |
//! | `page.rs` | what the browser shows |
//! | `browser.rs` | opening the browser |

mod browser;
mod listener;
mod page;
mod server;

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use coze_auth::{Error, ErrorKind, Login, PkceFlow, Result, Token, Url, WebFlow};
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

pub use self::browser::open_browser;
use self::{
    listener::Listener,
    server::{Callback, Server},
};

/// How long the user may take, unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long the browser may take to read the last page.
const LAST_PAGE: Duration = Duration::from_secs(2);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Open = Box<dyn FnOnce(Url) -> BoxFuture<io::Result<()>> + Send>;
type Paste = Box<dyn FnMut(Option<Error>) -> BoxFuture<Option<String>> + Send>;

/// A flow whose user comes back by a redirect: [`PkceFlow`] or [`WebFlow`]. The trait is sealed.
pub trait RedirectFlow: sealed::Sealed + Clone + Send + Sync {}

impl<F: sealed::Sealed + Clone + Send + Sync> RedirectFlow for F {}

mod sealed {
    use super::{Future, Login, Result, Token, Url};

    pub trait Sealed {
        fn begin(&self, redirect_uri: &str, workspace: Option<&str>) -> Result<(Url, Login)>;

        fn redeem(
            &self,
            login: Login,
            callback: &str,
        ) -> impl Future<Output = Result<Token>> + Send;
    }
}

macro_rules! redirect_flows {
    ($($flow:ident),*) => {$(
        impl sealed::Sealed for $flow {
            fn begin(
                &self,
                redirect_uri: &str,
                workspace: Option<&str>,
            ) -> Result<(Url, Login)> {
                let login = self.login(redirect_uri);
                match workspace {
                    Some(workspace_id) => login.workspace(workspace_id).begin(),
                    None => login.begin(),
                }
            }

            async fn redeem(&self, login: Login, callback: &str) -> Result<Token> {
                self.complete(login, callback).await
            }
        }
    )*};
}

redirect_flows!(PkceFlow, WebFlow);

/// Signs a user in by the browser of this machine: listens on the redirect URI, opens the browser, waits for the callback, redeems its
/// code, and shows the result in the browser.
///
/// ```no_run
/// # async fn example(pkce: coze_auth::PkceFlow) -> coze_auth::Result<()> {
/// use coze_credentials::LoopbackLogin;
///
/// let token = LoopbackLogin::new(&pkce, "http://127.0.0.1:8080/callback")
///     .program("My program")
///     .run()
///     .await?;
/// # Ok(()) }
/// ```
///
/// # The redirect URI
///
/// It is `http`, and its host is `localhost`, an address in 127.0.0.0/8 or `[::1]`. For `localhost` the program listens on 127.0.0.1 and
/// on `[::1]`, because browsers use either. Coze compares a redirect URI with the registered ones character by character, so register one
/// with a fixed port, and give it exactly so. Without a port it is port 80, which most systems reserve. Port 0 stands for any free port
/// (RFC 8252 section 7.3), for a server that allows that: Coze does not, the mock does.
///
/// # What ends a login, and what does not
///
/// Only a request for the path of the redirect URI with the `state` of this login is its callback: with a code, or with a refusal. All else
/// is answered and ignored: another state or none (an old tab, another program, an attack), another path (such as a favicon), another
/// method, an incomplete request. A request has 10 seconds and 16 KiB for its head, and at most 64 connections are open; so a hanging
/// connection does not block the login. The port is free again when the future ends or is dropped.
///
/// The pages load nothing, contain no script, token or code, and are not cached.
///
/// Source: RFC 8252 sections 7.3 and 8.
#[must_use = "nothing happens before `run`"]
pub struct LoopbackLogin<F> {
    flow: F,
    redirect_uri: String,
    workspace: Option<String>,
    program: Option<String>,
    timeout: Duration,
    listens: bool,
    open: Open,
    paste: Option<Paste>,
}

impl<F: RedirectFlow> LoopbackLogin<F> {
    /// A login by this flow. The redirect URI must be identical to one of those that are registered for the app.
    pub fn new(flow: &F, redirect_uri: impl Into<String>) -> Self {
        Self {
            flow: flow.clone(),
            redirect_uri: redirect_uri.into(),
            workspace: None,
            program: None,
            timeout: TIMEOUT,
            listens: true,
            open: Box::new(|url| Box::pin(async move { open_browser(&url).await })),
            paste: None,
        }
    }

    /// Limits the grant to one workspace (enterprise plans).
    pub fn workspace(mut self, workspace_id: impl Into<String>) -> Self {
        self.workspace = Some(workspace_id.into());
        self
    }

    /// The name of the program, which the page tells the user to return to.
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.program = Some(name.into());
        self
    }

    /// How long the user may take; 5 minutes by default. The exchange of the code is not included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Does this with the authorize URL, instead of [opening the browser](open_browser): to show it, or in a test. The program listens
    /// already. An error ends the login.
    ///
    /// ```
    /// use coze_credentials::{LoopbackLogin, open_browser};
    ///
    /// # fn example(pkce: coze_auth::PkceFlow) {
    /// let login = LoopbackLogin::new(&pkce, "http://127.0.0.1:8080/callback").open_with(|url| async move {
    ///     println!("open {url}");
    ///     let _ = open_browser(&url).await; // on a server there is none
    ///     Ok(())
    /// });
    /// # }
    /// ```
    pub fn open_with<Fut>(mut self, open: impl FnOnce(Url) -> Fut + Send + 'static) -> Self
    where
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.open = Box::new(|url| Box::pin(open(url)));
        self
    }

    /// Also accepts a callback that the user pastes: the address to which the browser was sent, even if it shows an error there. `paste`
    /// is called once, and again with the error if the text is not the callback of this login. `None` means that the user pastes nothing
    /// more.
    ///
    /// ```
    /// use coze_credentials::LoopbackLogin;
    ///
    /// # fn example(pkce: coze_auth::PkceFlow) {
    /// let login = LoopbackLogin::new(&pkce, "http://127.0.0.1:8080/callback").paste_with(|error| async move {
    ///     if let Some(error) = error {
    ///         println!("{error}; paste the whole address");
    ///     }
    ///     let (sender, receiver) = tokio::sync::oneshot::channel();
    ///     // A thread of its own: a read from a terminal can't be cancelled.
    ///     std::thread::spawn(move || {
    ///         let mut line = String::new();
    ///         let read = std::io::stdin().read_line(&mut line);
    ///         let _ = sender.send(read.ok().filter(|length| *length > 0).map(|_| line));
    ///     });
    ///     receiver.await.ok().flatten()
    /// });
    /// # }
    /// ```
    pub fn paste_with<Fut>(
        mut self,
        mut paste: impl FnMut(Option<Error>) -> Fut + Send + 'static,
    ) -> Self
    where
        Fut: Future<Output = Option<String>> + Send + 'static,
    {
        self.paste = Some(Box::new(move |error| Box::pin(paste(error))));
        self
    }

    /// Listens on no port: the callback can only be [pasted](Self::paste_with). For a browser on another machine; the redirect URI may
    /// then be any that is registered.
    pub fn without_listener(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Signs the user in. Keep the token: see [`Profiles::put`](crate::Profiles::put) and [`SignIn::put`](coze_auth::SignIn::put).
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused): the user refused, or Coze refused the code.
    /// - [`NotSignedIn`](ErrorKind::NotSignedIn): the timeout elapsed, or there is no listener and no further text can be pasted.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the program can't listen on this redirect URI.
    /// - [`System`](ErrorKind::System): the port is in use, or no browser could be opened.
    /// - Those of the [exchange](PkceFlow::complete). The code may have been redeemed; start a new login.
    pub async fn run(self) -> Result<Token> {
        let ends = Instant::now() + self.timeout;
        let listener = match self.listens {
            true => Some(Listener::bind(&self.redirect_uri).await?),
            false => None,
        };
        let redirect_uri = listener.as_ref().map(Listener::redirect_uri);
        let redirect_uri = redirect_uri.unwrap_or(&self.redirect_uri).to_owned();
        let (url, login) = self.flow.begin(&redirect_uri, self.workspace.as_deref())?;

        let check = {
            let login = login.clone();
            Arc::new(move |callback: &str| login.check(callback)) as Arc<server::Check>
        };
        let mut server = Server::new(listener, Arc::clone(&check), self.program);
        let mut opening = Some((self.open)(url));
        let mut paste = self.paste;
        let mut pasting = paste.as_mut().map(|paste| paste(None));
        let callback = loop {
            if pasting.is_none() && !self.listens {
                let what = "no callback was pasted";
                return Err(Error::new(ErrorKind::NotSignedIn, what));
            }
            tokio::select! {
                // The user sees the address before the question for a callback.
                biased;
                opened = wait(&mut opening) => {
                    opening = None;
                    opened.map_err(|error| {
                        let what = format!("no browser could be opened: {error}");
                        Error::new(ErrorKind::System, what)
                    })?;
                }
                callback = server.callback() => break callback,
                () = sleep_until(ends) => return Err(server.too_late(self.timeout)),
                pasted = wait(&mut pasting) => {
                    pasting = None;
                    let Some(text) = pasted else { continue };
                    match check(&text) {
                        Err(error) if is_stray(&error) => {
                            pasting = paste.as_mut().map(|paste| paste(Some(error)));
                            // A `paste` that never waits must not keep the browser and the time from being looked at.
                            yield_now().await;
                        }
                        // A refusal is reported by the flow.
                        _ => break Callback::pasted(text),
                    }
                }
            }
        };

        let redeeming = self.flow.redeem(login, callback.text());
        let result = tokio::select! {
            result = redeeming => result,
            // During the exchange the browser may request a favicon.
            never = server.answer_forever() => match never {},
        };
        let shown = callback.show(result.as_ref().map(drop));
        let _ = timeout(LAST_PAGE, async {
            tokio::select! {
                () = shown => {}
                never = server.answer_forever() => match never {},
            }
        })
        .await;
        result
    }
}

/// Whether a callback does not belong to the login, which goes on.
fn is_stray(error: &Error) -> bool {
    error.kind() != ErrorKind::Refused
}

/// Waits for the future, if there is one, else forever.
async fn wait<T>(future: &mut Option<BoxFuture<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl<F> fmt::Debug for LoopbackLogin<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackLogin")
            .field("redirect_uri", &self.redirect_uri)
            .field("workspace", &self.workspace)
            .field("timeout", &self.timeout)
            .field("listens", &self.listens)
            .finish_non_exhaustive()
    }
}
