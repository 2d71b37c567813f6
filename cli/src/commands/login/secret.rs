//! A secret that the user types, without showing it.

use std::io;

use tokio::sync::oneshot;

/// Asks for it, in a thread of its own: a read from a terminal can't be cancelled. If the future is dropped, because of a signal, the
/// terminal shows what is typed again.
pub(super) async fn typed(prompt: &'static str) -> io::Result<String> {
    #[cfg(unix)]
    let _as_before = terminal::AsBefore::new();
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = sender.send(rpassword::prompt_password(prompt));
    });
    let typed = receiver.await;
    typed.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into()))
}

#[cfg(unix)]
mod terminal {
    use std::fs::File;

    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

    /// Restores the settings of the terminal when it is dropped.
    pub(super) struct AsBefore(Option<(File, Termios)>);

    impl AsBefore {
        pub(super) fn new() -> Self {
            let terminal = File::open("/dev/tty").ok();
            Self(terminal.and_then(|terminal| {
                let settings = tcgetattr(&terminal).ok()?;
                Some((terminal, settings))
            }))
        }
    }

    impl Drop for AsBefore {
        fn drop(&mut self) {
            if let Some((terminal, settings)) = &self.0 {
                // It may be gone.
                let _ = tcsetattr(terminal, OptionalActions::Now, settings);
            }
        }
    }
}
