//! The signals that end the program.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlC as Signal, ctrl_c};

use crate::failure::Exit;

/// Listens from its creation on, so that no signal is missed. What can't be listened to keeps its effect.
pub(crate) struct Signals {
    hangup: Option<Signal>,
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    #[cfg(unix)]
    pub(crate) fn new() -> Self {
        let listen = |kind| signal(kind).ok();
        Self {
            hangup: ends_at_hangup()
                .then(|| listen(SignalKind::hangup()))
                .flatten(),
            interrupt: listen(SignalKind::interrupt()),
            terminate: listen(SignalKind::terminate()),
        }
    }

    #[cfg(windows)]
    pub(crate) fn new() -> Self {
        Self {
            hangup: None,
            interrupt: ctrl_c().ok(),
            terminate: None,
        }
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            biased;
            () = received(&mut self.hangup) => Exit::HungUp,
            () = received(&mut self.interrupt) => Exit::Interrupted,
            () = received(&mut self.terminate) => Exit::Terminated,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Whether SIGHUP is to end this program. If it was started with `nohup`, SIGHUP is ignored, and listening would undo that.
/// Only Linux tells.
#[cfg(unix)]
fn ends_at_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| ignores_hangup(&status) == Some(false))
}

/// Whether this status of a process (proc_pid_status(5)) has SIGHUP among the ignored signals.
#[cfg(unix)]
fn ignores_hangup(status: &str) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u128::from_str_radix(mask?.trim(), 16).ok()?;
    // The lowest bit is signal 1.
    let bit = SignalKind::hangup().as_raw_value() - 1;
    Some(mask >> bit & 1 == 1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_tells_the_ignored_signals() {
        let status = |mask: &str| format!("SigBlk:\t1\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert_eq!(ignores_hangup(&status("0000000000001001")), Some(true));
        assert_eq!(ignores_hangup(&status("0000000000001006")), Some(false));
        assert_eq!(ignores_hangup(&status("?")), None);
        assert_eq!(ignores_hangup("Name:\tcoze\n"), None);
    }
}
