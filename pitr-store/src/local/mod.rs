//! A store in a folder of this machine: a disk, or a mounted network disk.

mod folder;
mod hold;
mod lock;
mod publish;
mod read;
mod remove;

use std::io::Read;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

use crate::key::ObjectKey;
use crate::store::{
    Entry, Hold, ObjectMeta, ObjectTrace, ObjectWriter, Operation, SpaceLimit, Store, StoreError,
};

/// Permission bits of every file that a store makes, whatever the umask is.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// Permission bits of every folder that a store makes, whatever the umask is.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);

/// A store in a folder.
///
/// The root may be reached through symbolic links; inside the root none is
/// followed. The root is opened at the first use and kept open: a disk that is
/// unmounted or mounted over while this process runs makes no object look
/// absent.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    root_fd: OnceLock<OwnedFd>,
}

impl LocalStore {
    /// The store in the folder `root`, which should be an absolute path.
    /// Touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            root_fd: OnceLock::new(),
        }
    }

    /// The folder that holds the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `key` lies: for messages, and for tools that read a store by hand.
    pub fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn text(&self, key: Option<&ObjectKey>) -> String {
        match key {
            Some(key) => self.path(key).display().to_string(),
            None => self.root.display().to_string(),
        }
    }
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.text(None)
    }

    fn object_location(&self, key: &ObjectKey) -> String {
        self.text(Some(key))
    }

    fn establish(&self) -> Result<(), StoreError> {
        self.make_root()
    }

    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(publish::LocalWriter::begin(self, key, rivals)?))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        Ok(Box::new(read::LocalReader::open(self, key)?))
    }

    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        read::LocalReader::open(self, key)?.range(range)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.stat_object(key)
    }

    fn trace(&self, key: &ObjectKey) -> Result<Option<ObjectTrace>, StoreError> {
        self.trace_object(key)
    }

    fn shows_at_once(&self) -> bool {
        true
    }

    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        self.list_folder(folder)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.sync_object(key)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.remove_object(key)
    }

    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.remove_folder(folder)
    }

    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        hold::take(self, key)
    }
}

/// The store's error for what the system answered to `operation`.
///
/// `ENOENT` stays an I/O error here: whether it proves an absence depends on
/// the call, and each caller decides that for itself.
fn system_error(errno: Errno, operation: Operation, location: String) -> StoreError {
    match errno {
        Errno::ACCESS | Errno::PERM => StoreError::PermissionDenied {
            operation,
            location,
        },
        Errno::NOSPC => StoreError::NoSpace {
            operation,
            location,
            limit: SpaceLimit::Disk,
            needed_bytes: None,
            available_bytes: None,
        },
        Errno::DQUOT => StoreError::NoSpace {
            operation,
            location,
            limit: SpaceLimit::Quota,
            needed_bytes: None,
            available_bytes: None,
        },
        other => StoreError::Io {
            operation,
            location,
            source: other.into(),
        },
    }
}

/// [`system_error`], with what is free on the disk of `folder` where it is full.
fn full_error(
    folder: BorrowedFd<'_>,
    errno: Errno,
    operation: Operation,
    location: String,
    needed: Option<u64>,
) -> StoreError {
    let mut error = system_error(errno, operation, location);
    if let StoreError::NoSpace {
        limit,
        needed_bytes,
        available_bytes,
        ..
    } = &mut error
    {
        *needed_bytes = needed;
        if *limit == SpaceLimit::Disk
            && let Ok(stat) = retry_on_intr(|| fstatvfs(folder))
        {
            *available_bytes = Some(stat.f_bavail.saturating_mul(stat.f_frsize));
            // File systems without a fixed number of inodes say 0 of 0.
            if stat.f_files > 0 && stat.f_favail == 0 {
                *limit = SpaceLimit::Inodes;
            }
        }
    }
    error
}

#[cfg(test)]
mod tests;
