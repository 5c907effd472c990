//! One session for everything that a store does, made at the first use and
//! made anew when it breaks.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{Status, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};

use super::connect::{ConnectError, Link};
use crate::store::lease::HeldMarks;
use crate::store::retry::Retry;
use crate::store::server_address::ServerAddress;
use crate::store::server_error::ServerError;
use crate::store::{Medium, Operation, SftpOptions, StoreError};

/// How long the last user of a session waits for its good-bye to be sent.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// The server and the session with it, shared by a store and whatever it has
/// opened. Callers block; a thread of its own drives the connection.
pub(super) struct Session {
    pub(super) address: ServerAddress,
    pub(super) options: SftpOptions,
    driver: OnceLock<Driver>,
    link: Mutex<Option<Arc<Link>>>,
    /// Whether the server's rename refuses to overwrite, as far as known.
    create_only: AtomicBool,
    /// The marks of life that were taken in this session.
    pub(super) held: HeldMarks,
}

/// The thread that drives sockets and timers while callers wait.
struct Driver {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Driver {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("sftp".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                // A name look-up may still run, and cannot be called off.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get()
            && let Some(link) = self.link.get_mut().take()
            && !link.is_closed()
            && Handle::try_current().is_err()
        {
            driver.handle.block_on(async {
                let _ = tokio::time::timeout(GOOD_BYE, link.end()).await;
            });
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has answered, and not what was hoped for.
    Answered(Status),
    /// There was no answer to be had.
    Store(StoreError),
}

impl Failure {
    /// Whether the server said that there is no such file. Proves nothing by
    /// itself: see `absence`.
    pub(super) fn is_no_such_file(&self) -> bool {
        matches!(self, Self::Answered(status) if status.status_code == StatusCode::NoSuchFile)
    }

    /// The store's error, where nothing more is known of the case.
    pub(super) fn into_store(self, operation: Operation, location: String) -> StoreError {
        let status = match self {
            Self::Store(error) => return error,
            Self::Answered(status) => status,
        };
        match status.status_code {
            StatusCode::PermissionDenied => StoreError::PermissionDenied {
                operation,
                location,
            },
            code => {
                let hint = match code {
                    StatusCode::Failure => Some(
                        "OpenSSH says no more than \"Failure\": a quota that is used up, a failing disk, or a limit of the server's file system.".to_owned(),
                    ),
                    StatusCode::NoSuchFile => Some(
                        "A folder on the way may have been removed, or its disk unmounted."
                            .to_owned(),
                    ),
                    _ => None,
                };
                let code = code.to_string();
                let answer = if status.error_message.is_empty()
                    || status.error_message.eq_ignore_ascii_case(&code)
                {
                    code
                } else {
                    format!("{code}: {}", one_line(&status.error_message))
                };
                ServerError::Answered {
                    operation,
                    location,
                    answer,
                    hint,
                }
                .into()
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A server's words as they may stand in a message.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

/// Whether an error says that the connection is of no use any more, and how.
pub(super) fn broken(error: &SftpError) -> Option<String> {
    match error {
        SftpError::Status(status) => matches!(
            status.status_code,
            StatusCode::NoConnection | StatusCode::ConnectionLost
        )
        .then(|| status.status_code.to_string()),
        SftpError::Limited(_) => None,
        other => Some(other.to_string()),
    }
}

impl Session {
    pub(super) fn new(address: ServerAddress, options: SftpOptions) -> Self {
        Self {
            address,
            options,
            driver: OnceLock::new(),
            link: Mutex::new(None),
            create_only: AtomicBool::new(true),
            held: HeldMarks::default(),
        }
    }

    pub(super) fn is_create_only(&self) -> bool {
        self.create_only.load(Ordering::Relaxed)
    }

    pub(super) fn adopt(&self, medium: &Medium) {
        self.create_only
            .store(medium.create_only, Ordering::Relaxed);
    }

    pub(super) fn budget(&self) -> Duration {
        Duration::from_secs(self.options.retry_seconds)
    }

    /// The runtime's handle; starts it at the first use.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn runtime(&self) -> Result<&Handle, StoreError> {
        if let Some(driver) = self.driver.get() {
            return Ok(&driver.handle);
        }
        let driver = Driver::start().map_err(|source| StoreError::Io {
            operation: Operation::Open,
            location: self.address.location(),
            source,
        })?;
        // Another thread may have been faster; then this one's ends here.
        Ok(&self.driver.get_or_init(|| driver).handle)
    }

    /// Runs `work` on this thread while the driver serves the connection.
    pub(super) fn block<T, E: From<StoreError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.runtime()?.block_on(work)
    }

    /// The session, made if there is none.
    ///
    /// # Errors
    /// The server cannot be reached for as long as `retry` lets us try, or
    /// does not let us in.
    pub(super) async fn link(&self, retry: &mut Retry) -> Result<Arc<Link>, StoreError> {
        let mut place = self.link.lock().await;
        if let Some(link) = place.as_ref()
            && !link.is_closed()
        {
            return Ok(Arc::clone(link));
        }
        loop {
            match Link::connect(&self.address, &self.options).await {
                Ok(link) => {
                    let link = Arc::new(link);
                    *place = Some(Arc::clone(&link));
                    return Ok(link);
                }
                Err(ConnectError::Refused(error)) => return Err(error.into()),
                Err(ConnectError::Passing(reason)) => match retry.next_pause() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        return Err(ServerError::Unreachable {
                            server: self.address.server(),
                            reason: one_line(&reason),
                            tried_for: retry.elapsed(),
                        }
                        .into());
                    }
                },
            }
        }
    }

    /// Forgets a session that broke.
    pub(super) async fn forget(&self, broken: &Arc<Link>) {
        let mut place = self.link.lock().await;
        if place.as_ref().is_some_and(|link| Arc::ptr_eq(link, broken)) {
            *place = None;
        }
    }

    /// Runs one or more requests, again from the beginning when the connection
    /// breaks on them. `request` gets the number of the try, from 0: after a
    /// lost answer the first one may have been carried out.
    ///
    /// # Errors
    /// What the server answered, or why it does not.
    pub(super) async fn call<T, F, Answer>(
        &self,
        operation: Operation,
        location: &str,
        request: F,
    ) -> Result<T, Failure>
    where
        F: Fn(Arc<Link>, u32) -> Answer,
        Answer: Future<Output = Result<T, SftpError>>,
    {
        let mut retry = Retry::new(self.budget());
        let mut number = 0;
        loop {
            let link = self.link(&mut retry).await?;
            let error = match request(Arc::clone(&link), number).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(reason) = broken(&error) else {
                return Err(match error {
                    SftpError::Status(status) => Failure::Answered(status),
                    other => Failure::Store(
                        ServerError::Answered {
                            operation,
                            location: location.to_owned(),
                            answer: other.to_string(),
                            hint: None,
                        }
                        .into(),
                    ),
                });
            };
            self.forget(&link).await;
            number += 1;
            self.pause(&mut retry, operation, location, &reason).await?;
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `ConnectionLost` when there is none.
    pub(super) async fn pause(
        &self,
        retry: &mut Retry,
        operation: Operation,
        location: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        match retry.next_pause() {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(ServerError::ConnectionLost {
                operation,
                location: location.to_owned(),
                reason: one_line(reason),
                tried_for: retry.elapsed(),
            }
            .into()),
        }
    }
}
