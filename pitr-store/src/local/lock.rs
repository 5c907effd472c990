//! Locks on files and folders of a local store.
//!
//! A lock belongs to an open file and ends with it, so that it never outlives
//! its process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::system_error;
use crate::store::{Operation, StoreError};

/// How long a writer waits for others that compare names in the same folder.
/// They hold the lock for the length of a rename.
const FOLDER_LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// What a try at a lock has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockOutcome {
    Taken,
    HeldByOther,
    /// The file system has no locks.
    Unsupported,
}

/// Takes the exclusive lock of an open file, if it is free.
pub(super) fn try_lock(file: BorrowedFd<'_>) -> Result<LockOutcome, Errno> {
    match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(LockOutcome::Taken),
        Err(Errno::WOULDBLOCK) => Ok(LockOutcome::HeldByOther),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL | Errno::BADF) => {
            Ok(LockOutcome::Unsupported)
        }
        Err(e) => Err(e),
    }
}

/// Whether `name` in `folder` is the open `file`, and not a successor.
pub(super) fn is_still(folder: BorrowedFd<'_>, name: &str, file: BorrowedFd<'_>) -> bool {
    let (Ok(named), Ok(open)) = (statat(folder, name, AtFlags::SYMLINK_NOFOLLOW), fstat(file))
    else {
        return false;
    };
    named.st_dev == open.st_dev && named.st_ino == open.st_ino
}

/// Locks a folder against other writers that look for rivals in it. `None`
/// where the file system has no locks: then two writers with different codecs
/// at the same moment may both win, each with a whole object.
pub(super) fn lock_folder(
    folder: BorrowedFd<'_>,
    location: &str,
) -> Result<Option<OwnedFd>, StoreError> {
    let failed = |e| system_error(e, Operation::Lock, location.to_owned());
    // A description of its own, so that the lock ends with this descriptor.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = retry_on_intr(|| openat(folder, ".", flags, Mode::empty())).map_err(failed)?;
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match try_lock(lock.as_fd()).map_err(failed)? {
            LockOutcome::Taken => return Ok(Some(lock)),
            LockOutcome::Unsupported => return Ok(None),
            LockOutcome::HeldByOther if begin.elapsed() > FOLDER_LOCK_PATIENCE => {
                return Err(StoreError::Busy {
                    operation: Operation::Publish,
                    location: location.to_owned(),
                });
            }
            LockOutcome::HeldByOther => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
