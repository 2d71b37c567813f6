//! Opens the browser.

use std::{io, thread};

use coze_auth::Url;
use tokio::sync::oneshot;

/// Opens this page in the user's browser.
///
/// # Errors
///
/// If there is no browser, or it could not be started.
pub async fn open_browser(url: &Url) -> io::Result<()> {
    let url = url.clone();
    let (sender, opened) = oneshot::channel();
    // A browser in a terminal keeps its caller until it ends; a blocking thread of tokio would keep the program from exiting.
    thread::Builder::new()
        .name("open-browser".to_owned())
        .spawn(move || {
            let _ = sender.send(webbrowser::open(url.as_str()));
        })?;
    opened
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that opens it has ended")))
}
