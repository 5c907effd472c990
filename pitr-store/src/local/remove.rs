//! Removing objects and folders of a local store.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use super::folder::{kind_of, names, sync_folder};
use super::{LocalStore, system_error};
use crate::key::ObjectKey;
use crate::store::{NodeKind, Operation, StoreError};

/// Deepest folder that is removed below the one named. The layout has four
/// levels; what lies deeper is not ours.
const MAX_DEPTH: usize = 16;

impl LocalStore {
    pub(super) fn remove_object(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = || self.text(Some(key));
        let parent = key.parent();
        let Some(folder) = self.open_folder(parent.as_ref())? else {
            return Err(StoreError::NotFound {
                location: location(),
            });
        };
        match retry_on_intr(|| unlinkat(&folder, key.file_name(), AtFlags::empty())) {
            Ok(()) => sync_folder(folder.as_fd(), self.text(parent.as_ref())),
            Err(Errno::NOENT) => Err(StoreError::NotFound {
                location: location(),
            }),
            Err(Errno::ISDIR | Errno::PERM)
                if matches!(
                    kind_of(folder.as_fd(), key.file_name()),
                    Ok(NodeKind::Folder)
                ) =>
            {
                Err(StoreError::WrongKind {
                    location: location(),
                    expected: NodeKind::Object,
                    found: NodeKind::Folder,
                })
            }
            Err(e) => Err(system_error(e, Operation::Delete, location())),
        }
    }

    pub(super) fn remove_folder(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let parent = key.parent();
        let Some(above) = self.open_folder(parent.as_ref())? else {
            return Ok(());
        };
        let Some(folder) = self.open_folder(Some(key))? else {
            return Ok(());
        };
        let failed = |e| system_error(e, Operation::Delete, self.text(Some(key)));
        empty(folder, MAX_DEPTH).map_err(failed)?;
        match retry_on_intr(|| unlinkat(&above, key.file_name(), AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e)),
        }
        sync_folder(above.as_fd(), self.text(parent.as_ref()))
    }
}

/// Removes everything in `folder`, hidden names included; links are removed,
/// never followed.
fn empty(folder: OwnedFd, depth: usize) -> Result<(), Errno> {
    // Read first, then remove: a folder changed while it is read may skip names.
    let mut found = Vec::new();
    for entry in names(folder.as_fd())? {
        found.push(entry?.file_name().to_owned());
    }
    for name in found {
        remove_one(folder.as_fd(), &name, depth)?;
    }
    Ok(())
}

fn remove_one(folder: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match retry_on_intr(|| openat(folder, name, flags, Mode::empty())) {
        Ok(inner) => {
            let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
            empty(inner, depth)?;
            gone(retry_on_intr(|| unlinkat(folder, name, AtFlags::REMOVEDIR)))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            gone(retry_on_intr(|| unlinkat(folder, name, AtFlags::empty())))
        }
        Err(e) => Err(e),
    }
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
