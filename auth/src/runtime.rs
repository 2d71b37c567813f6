//! Where requests for tokens run.
//!
//! A refresh of a rotating token depends on nothing but the process: it runs on one current-thread runtime of its own,
//! whose thread is started when it is needed and ends ten seconds after the last task. A caller's runtime may be
//! dropped right after the call, or stand still between two calls of `block_on`.
//!
//! Everything else runs on the caller's runtime where that has worker threads, and so makes progress without the caller;
//! else on the runtime of the process, too. So nobody waits for a request that nobody drives.
//!
//! Under a test clock everything runs on the caller's runtime, whose time is the test's.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, RuntimeFlavor},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::sleep,
};

use crate::{Error, ErrorKind, Result, clock::Clock};

/// Where a task may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsOn {
    /// The caller's runtime, if that makes progress by itself; else the process's.
    Callers,
    /// The process's runtime only: the task must not end with a runtime of somebody else's.
    Process,
}

pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts a task.
///
/// # Errors
///
/// When there is no runtime for it: the thread could not be started, or, under a test clock, the caller has none.
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

/// Whether the caller runs on the runtime of the process, which soon ends, and its connections with it.
pub(crate) fn is_process_runtime() -> bool {
    IS_PROCESS_RUNTIME.get()
}

thread_local! {
    static IS_PROCESS_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

/// How long the thread waits for another task.
const IDLE: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(10)
};

/// How tasks get to the thread, if there is one.
static TASKS: Mutex<Option<UnboundedSender<Task>>> = Mutex::new(None);

fn tasks() -> MutexGuard<'static, Option<UnboundedSender<Task>>> {
    lock(&TASKS)
}

/// Locks a mutex whose contents a panic can't have left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn spawn_on_process(task: Task) -> Result<()> {
    let mut sender = tasks();
    let task = match &*sender {
        // Refused by a thread that has died.
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
    // Its receiver is held by the thread.
    let _ = started.send(task);
    *sender = Some(started);
    Ok(())
}

/// Runs tasks until there has been none for a while.
async fn run(mut receiver: UnboundedReceiver<Task>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(task) = receiver.recv() => {
                running.spawn(task);
            }
            Some(_) = running.join_next() => {}
            () = sleep(IDLE), if running.is_empty() => {
                let mut sender = tasks();
                // Nobody can send while the lock is held.
                if receiver.is_empty() {
                    *sender = None;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a task, and says on which thread.
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
    fn the_thread_is_started_by_need_and_ends_when_it_is_idle() {
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
    async fn a_runtime_that_stands_still_between_two_calls_is_not_used() {
        let (tell, told) = tokio::sync::oneshot::channel();
        spawn(&Clock::System, RunsOn::Callers, async {
            tell.send(is_process_runtime()).unwrap();
        })
        .unwrap();
        assert!(told.await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn one_with_worker_threads_is() {
        let (tell, told) = tokio::sync::oneshot::channel();
        spawn(&Clock::System, RunsOn::Callers, async {
            tell.send(is_process_runtime()).unwrap();
        })
        .unwrap();
        assert!(!told.await.unwrap());
    }
}
