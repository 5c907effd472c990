//! Marks of life on a local store: a locked file beside what is worked on.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags, openat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use super::lock::{LockOutcome, is_still, try_lock};
use super::{FILE_MODE, LocalStore, system_error};
use crate::key::ObjectKey;
use crate::store::{Hold, Operation, StoreError};

/// The locked file `.NAME.hold` beside NAME. The lock goes with the process;
/// the file goes with the guard, or with the next one who takes it.
struct HeldFile {
    folder: OwnedFd,
    name: String,
    /// Keeps the lock.
    file: OwnedFd,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        // Still locked: nobody else can have taken the name over.
        if is_still(self.folder.as_fd(), &self.name, self.file.as_fd()) {
            let _ = unlinkat(&self.folder, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Takes the mark on `key`, or tells that somebody may have it.
///
/// Where the file system has no locks, life cannot be told from death: then a
/// file that is there counts as held.
pub(super) fn take(store: &LocalStore, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
    let folder = store.make_folder(key.parent().as_ref())?;
    let name = format!(".{}.hold", key.file_name());
    let location = || store.text(Some(key));
    let base = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let open = |flags| retry_on_intr(|| openat(&folder, name.as_str(), flags, FILE_MODE));
        let (file, fresh) = match open(base | OFlags::EXCL) {
            Ok(file) => (file, true),
            Err(Errno::EXIST) => match open(base) {
                Ok(file) => (file, false),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(system_error(e, Operation::Lock, location())),
            },
            Err(e) => return Err(system_error(e, Operation::Lock, location())),
        };
        match try_lock(file.as_fd()) {
            Ok(LockOutcome::Taken) => {
                if !is_still(folder.as_fd(), &name, file.as_fd()) {
                    continue;
                }
            }
            Ok(LockOutcome::HeldByOther) => return Ok(None),
            Ok(LockOutcome::Unsupported) if fresh => {}
            Ok(LockOutcome::Unsupported) => return Ok(None),
            Err(e) => return Err(system_error(e, Operation::Lock, location())),
        }
        return Ok(Some(Hold::new(HeldFile { folder, name, file })));
    }
}
