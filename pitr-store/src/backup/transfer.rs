//! Parts on their way to the store, several at once.
//!
//! PostgreSQL's stream cannot be rewound, and a part is not kept once it has
//! been sent: a transfer that fails is taken up again inside the store's own
//! writer, which sends the failed piece once more, within its budget. When that
//! is spent the backup fails, and every other transfer is given up.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::object::BackupObject;
use super::write_error::BackupWriteError;
use crate::{Operation, StoreError};

/// What all transfers of a backup share: how many bytes wait for the store,
/// and the first failure.
#[derive(Debug)]
pub(super) struct Transfers {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that may wait, all parts together.
    limit_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: u64,
    given_up: bool,
    first_error: Option<BackupWriteError>,
    saw_foreign: bool,
}

impl Transfers {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            limit_bytes,
        }
    }

    /// Ends every transfer as soon as its store lets go of it; none is
    /// published that has not begun to be.
    pub(super) fn give_up(&self) {
        self.state().given_up = true;
        self.changed.notify_all();
    }

    /// What failed first, if it has not been told yet.
    pub(super) fn take_error(&self) -> Option<BackupWriteError> {
        self.state().first_error.take()
    }

    /// Whether a part of somebody else was found in the place of one of ours.
    pub(super) fn saw_foreign(&self) -> bool {
        self.state().saw_foreign
    }

    /// The error behind one that writing to a part gave.
    pub(super) fn failure(&self, error: io::Error) -> BackupWriteError {
        self.take_error()
            .unwrap_or_else(|| StoreError::from_io(error, Operation::Write, "backup").into())
    }

    fn fail(&self, error: BackupWriteError) {
        let mut state = self.state();
        state.given_up = true;
        state.saw_foreign |= matches!(error, BackupWriteError::Foreign { .. });
        state.first_error.get_or_insert(error);
        drop(state);
        self.changed.notify_all();
    }

    fn has_given_up(&self) -> bool {
        self.state().given_up
    }

    /// Waits until `bytes` more may wait for the store. What is larger than
    /// the limit waits alone.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        loop {
            if state.given_up {
                return Err(given_up());
            }
            let after = state.waiting_bytes.saturating_add(bytes);
            if after <= self.limit_bytes || state.waiting_bytes == 0 {
                state.waiting_bytes = after;
                return Ok(());
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn release(&self, bytes: u64) {
        let mut state = self.state();
        state.waiting_bytes = state.waiting_bytes.saturating_sub(bytes);
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // each field is set at once: a thread that panicked left it whole
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn given_up() -> io::Error {
    io::Error::other("the backup was given up")
}

#[derive(Debug)]
enum Order {
    Write(Vec<u8>),
    Publish,
}

/// One part on its way: what is written to it is handed to the store by a
/// thread of its own.
///
/// Dropped before [`PartTransfer::publish`] it leaves nothing in the store.
#[derive(Debug)]
pub(super) struct PartTransfer {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<bool>>,
    transfers: Arc<Transfers>,
}

/// A part that is being made durable.
#[derive(Debug)]
pub(super) struct Publishing {
    thread: JoinHandle<bool>,
    transfers: Arc<Transfers>,
}

impl PartTransfer {
    /// Starts the thread `name`.
    pub(super) fn start(
        object: BackupObject,
        name: String,
        transfers: &Arc<Transfers>,
    ) -> Result<Self, BackupWriteError> {
        let (orders, queue) = channel();
        let shared = Arc::clone(transfers);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let fuse = Fuse { transfers: &shared };
                let published = carry(object, &queue, &shared);
                std::mem::forget(fuse);
                published
                    .map_err(|error| shared.fail(error))
                    .unwrap_or(false)
            })
            .map_err(BackupWriteError::Threads)?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
            transfers: Arc::clone(transfers),
        })
    }

    /// Lets the part be published as soon as everything has been handed over.
    pub(super) fn publish(mut self) -> Result<Publishing, BackupWriteError> {
        let told = self
            .orders
            .take()
            .is_some_and(|orders| orders.send(Order::Publish).is_ok());
        match self.thread.take() {
            Some(thread) if told => Ok(Publishing {
                thread,
                transfers: Arc::clone(&self.transfers),
            }),
            thread => {
                self.thread = thread;
                Err(self.transfers.failure(given_up()))
            }
        }
    }
}

impl Publishing {
    /// Whether it has ended, well or not.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the part is durable.
    pub(super) fn wait(self) -> Result<(), BackupWriteError> {
        match self.thread.join() {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(self
                .transfers
                .take_error()
                .unwrap_or(BackupWriteError::ThreadStopped)),
        }
    }
}

impl Write for PartTransfer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.transfers.reserve(bytes.len() as u64)?;
        let orders = self.orders.as_ref().ok_or_else(given_up)?;
        orders
            .send(Order::Write(bytes.to_vec()))
            .map_err(|_| given_up())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PartTransfer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // the object must be gone before somebody removes its folder
            let _ = thread.join();
        }
    }
}

/// Carries orders out; `false` where it was not told to publish.
fn carry(
    mut object: BackupObject,
    orders: &Receiver<Order>,
    transfers: &Transfers,
) -> Result<bool, BackupWriteError> {
    while let Ok(order) = orders.recv() {
        if transfers.has_given_up() {
            return Ok(false);
        }
        match order {
            Order::Write(bytes) => {
                object.write_all(&bytes).map_err(|error| {
                    StoreError::from_io(error, Operation::Write, &object.location())
                })?;
                transfers.release(bytes.len() as u64);
            }
            Order::Publish => {
                object.publish()?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Lets nobody wait for a thread that panicked.
struct Fuse<'a> {
    transfers: &'a Transfers,
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        self.transfers.fail(BackupWriteError::ThreadStopped);
    }
}
