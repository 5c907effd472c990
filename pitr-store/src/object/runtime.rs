//! The thread that talks to remote stores for the whole process.
//!
//! Stores are blocking and used from several threads at once; the clients of
//! object stores are not. One thread drives one `current_thread` runtime and
//! every connection with it, started by the first remote operation. Who asks
//! waits on a channel for the answer.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Its handle; `Err` with the reason if the thread could not be started.
static RUNTIME: OnceLock<Result<Handle, io::ErrorKind>> = OnceLock::new();

/// The running thread's handle.
///
/// # Errors
/// The system gave no thread or no event queue.
pub(super) fn handle() -> io::Result<&'static Handle> {
    RUNTIME
        .get_or_init(|| start().map_err(|error| error.kind()))
        .as_ref()
        .map_err(|kind| io::Error::from(*kind))
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("pitr-remote".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Runs `future` on the thread and waits for its outcome. Never called on the
/// thread itself.
///
/// # Errors
/// As [`handle`]; also if the future was cut short by a panic.
pub(super) fn run<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> io::Result<T> {
    begin(future)?.wait()
}

/// Something that goes on while the caller does other work.
#[derive(Debug)]
pub(super) struct Pending<T>(mpsc::Receiver<T>);

/// Starts `future` on the thread.
///
/// # Errors
/// As [`handle`].
pub(super) fn begin<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> io::Result<Pending<T>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    handle()?.spawn(async move {
        // who does not wait any more does not want to know
        let _ = sender.send(future.await);
    });
    Ok(Pending(receiver))
}

impl<T> Pending<T> {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// It was cut short by a panic.
    pub(super) fn wait(self) -> io::Result<T> {
        self.0
            .recv()
            .map_err(|_| io::Error::other("the thread for remote stores gave no answer"))
    }

    /// Waits for the outcome, but no longer than `limit`.
    pub(super) fn wait_at_most(self, limit: std::time::Duration) -> Option<T> {
        self.0.recv_timeout(limit).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_are_served_at_once() {
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(8));
        let workers: Vec<_> = (0..8)
            .map(|number| {
                let barrier = std::sync::Arc::clone(&barrier);
                // none comes through before all have come
                thread::spawn(move || {
                    run(async move {
                        barrier.wait().await;
                        number
                    })
                })
            })
            .collect();
        for (number, worker) in workers.into_iter().enumerate() {
            assert_eq!(worker.join().unwrap().unwrap(), number);
        }
    }
}
