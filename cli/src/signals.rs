//! The signals that end the program.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlC as Signal, ctrl_c};

use crate::failure::Exit;

/// Listens from its creation on, so that no signal is missed. What can't be listened to keeps its effect.
///
/// A signal that was ignored when the program was started stays so, as SIGHUP after `nohup` or SIGINT in a background job of a script:
/// listening would undo that. Only Linux tells; elsewhere, SIGHUP is left alone, and the others are listened to.
pub(crate) struct Signals {
    hangup: Option<Signal>,
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    #[cfg(unix)]
    pub(crate) fn new() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").ok();
        let listen = |kind: SignalKind, unless_known: bool| {
            let is_ignored = status.as_deref().and_then(|status| ignores(status, kind));
            let listens = !is_ignored.unwrap_or(unless_known);
            listens.then(|| signal(kind).ok()).flatten()
        };
        Self {
            hangup: listen(SignalKind::hangup(), true),
            interrupt: listen(SignalKind::interrupt(), false),
            terminate: listen(SignalKind::terminate(), false),
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

/// Whether this status of a process (proc_pid_status(5)) has a signal among the ignored ones.
#[cfg(unix)]
fn ignores(status: &str, kind: SignalKind) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u128::from_str_radix(mask?.trim(), 16).ok()?;
    // The lowest bit is signal 1.
    let bit = kind.as_raw_value() - 1;
    Some(mask >> bit & 1 == 1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_tells_the_ignored_signals() {
        let status = |mask: &str| format!("SigBlk:\t1\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        let (hangup, interrupt) = (SignalKind::hangup(), SignalKind::interrupt());
        assert_eq!(ignores(&status("0000000000001001"), hangup), Some(true));
        assert_eq!(ignores(&status("0000000000001006"), hangup), Some(false));
        assert_eq!(ignores(&status("0000000000001006"), interrupt), Some(true));
        assert_eq!(ignores(&status("?"), hangup), None);
        assert_eq!(ignores("Name:\tcoze\n", hangup), None);
    }
}
