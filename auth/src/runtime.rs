//! Chooses the runtime on which token requests run.
//!
//! The refresh of a rotating token must survive the caller's runtime, which may be dropped right after the call, or make
//! no progress between two calls of `block_on`. It runs on a current-thread runtime that the process shares. The thread
//! of that runtime is started on demand and ends ten seconds after the last task.
//!
//! Other requests run on the caller's runtime if it has worker threads, because then it makes progress without the
//! caller. Otherwise they run on the process's runtime too.
//!
//! Under a test clock, everything runs on the caller's runtime, so that it follows the test's time.

use std::{
    cell::Cell,
    future::Future,
    pin::{Pin, pin},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{
    runtime::{Builder, Handle, RuntimeFlavor},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::timeout,
};

use crate::{Error, ErrorKind, Result, clock::Clock};

/// Where a task may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsOn {
    /// The caller's runtime if it has worker threads, else the process's.
    Callers,
    /// Only the process's runtime: the task must outlive the caller's runtime.
    Process,
}

pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts a task.
///
/// # Errors
///
/// If the thread can't be started or, under a test clock, if there is no tokio runtime.
pub(crate) fn spawn(
    clock: &Clock,
    on: RunsOn,
    task: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let callers = Handle::try_current().ok();
    if !clock.is_systems() {
        let callers = callers.ok_or_else(|| {
            Error::new(
                ErrorKind::System,
                "under a test clock, a provider needs the test's tokio runtime",
            )
        })?;
        callers.spawn(task);
        return Ok(());
    }
    match callers.filter(|callers| callers.runtime_flavor() != RuntimeFlavor::CurrentThread) {
        Some(callers) if on == RunsOn::Callers => {
            callers.spawn(task);
            Ok(())
        }
        _ => spawn_on_process(Box::pin(task)),
    }
}

/// Whether the current thread is the process's runtime. Connections opened there close when it ends.
pub(crate) fn is_process_runtime() -> bool {
    IS_PROCESS_RUNTIME.get()
}

thread_local! {
    static IS_PROCESS_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

/// How long the idle thread waits for another task.
const IDLE: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(10)
};

/// Sends tasks to the thread; `None` if it is not running.
static TASKS: Mutex<Option<UnboundedSender<Task>>> = Mutex::new(None);

fn tasks() -> MutexGuard<'static, Option<UnboundedSender<Task>>> {
    lock(&TASKS)
}

/// Locks a mutex and ignores poisoning. Only for data that a panic can't leave inconsistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn spawn_on_process(task: Task) -> Result<()> {
    let mut sender = tasks();
    let task = match &*sender {
        // Fails if the thread has panicked.
        Some(running) => match running.send(task) {
            Ok(()) => return Ok(()),
            Err(refused) => refused.0,
        },
        None => task,
    };
    let no_thread = |error| {
        Error::new(
            ErrorKind::System,
            "the thread that gets tokens could not be started",
        )
        .with_source(error)
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_thread)?;
    let (started, receiver) = unbounded_channel();
    thread::Builder::new()
        .name("coze-auth".to_owned())
        .spawn(move || {
            IS_PROCESS_RUNTIME.set(true);
            runtime.block_on(run(receiver));
        })
        .map_err(no_thread)?;
    // Can't fail: the thread owns the receiver.
    let _ = started.send(task);
    *sender = Some(started);
    Ok(())
}

/// Runs tasks until none has been running for `IDLE`.
async fn run(mut receiver: UnboundedReceiver<Task>) {
    let mut running = JoinSet::new();
    loop {
        if running.is_empty() {
            match timeout(IDLE, receiver.recv()).await {
                Ok(Some(task)) => {
                    running.spawn(task);
                }
                Ok(None) => return,
                Err(_) => {
                    let mut sender = tasks();
                    // No task can be sent while the lock is held.
                    if receiver.is_empty() {
                        *sender = None;
                        return;
                    }
                }
            }
        } else {
            let received = match select(pin!(receiver.recv()), pin!(running.join_next())).await {
                Either::Left((task, _)) => task,
                Either::Right(_) => None,
            };
            if let Some(task) = received {
                running.spawn(task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Runs a task and returns the id of its thread.
    fn thread_of(on: RunsOn) -> thread::ThreadId {
        let (tell, told) = std::sync::mpsc::channel();
        spawn(&Clock::System, on, async move {
            sleep(Duration::from_millis(1)).await;
            tell.send((thread::current().id(), is_process_runtime()))
                .unwrap();
        })
        .unwrap();
        let (id, is_process) = told.recv().unwrap();
        assert!(is_process || on == RunsOn::Callers);
        id
    }

    #[test]
    fn the_thread_starts_on_demand_and_ends_when_idle() {
        let first = thread_of(RunsOn::Process);
        assert_eq!(thread_of(RunsOn::Process), first, "it is still there");
        let began = std::time::Instant::now();
        while tasks().is_some() {
            assert!(began.elapsed() < Duration::from_secs(10), "it never ends");
            thread::sleep(Duration::from_millis(5));
        }
        assert_ne!(thread_of(RunsOn::Process), first);
    }

    #[tokio::test]
    async fn a_current_thread_runtime_of_the_caller_is_not_used() {
        let (tell, told) = tokio::sync::oneshot::channel();
        spawn(&Clock::System, RunsOn::Callers, async {
            tell.send(is_process_runtime()).unwrap();
        })
        .unwrap();
        assert!(told.await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_multi_thread_runtime_of_the_caller_is_used() {
        let (tell, told) = tokio::sync::oneshot::channel();
        spawn(&Clock::System, RunsOn::Callers, async {
            tell.send(is_process_runtime()).unwrap();
        })
        .unwrap();
        assert!(!told.await.unwrap());
    }
}
