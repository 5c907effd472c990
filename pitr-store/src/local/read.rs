//! Reading objects of a local store.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, fsync, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::folder::{kind_of, node_kind, sync_folder};
use super::publish::sweep;
use super::{LocalStore, system_error};
use crate::key::ObjectKey;
use crate::store::{NodeKind, ObjectMeta, ObjectTrace, Operation, StoreError};

/// An object open for reading. Its errors name it.
#[derive(Debug)]
pub(super) struct LocalReader {
    file: File,
    location: String,
}

impl LocalReader {
    pub(super) fn open(store: &LocalStore, key: &ObjectKey) -> Result<Self, StoreError> {
        let location = store.text(Some(key));
        let Some(folder) = store.open_folder(key.parent().as_ref())? else {
            return Err(StoreError::NotFound { location });
        };
        // NONBLOCK: a pipe in an object's place must not stop the process.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let name = key.file_name();
        let fd = match retry_on_intr(|| openat(&folder, name, flags, Mode::empty())) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(StoreError::NotFound { location }),
            Err(errno) => {
                if matches!(errno, Errno::LOOP | Errno::NXIO | Errno::NODEV)
                    && let Ok(found) = kind_of(folder.as_fd(), name)
                {
                    return Err(wrong_kind(location, found));
                }
                return Err(system_error(errno, Operation::Open, location));
            }
        };
        let stat = fstat(&fd).map_err(|e| system_error(e, Operation::Stat, location.clone()))?;
        match node_kind(FileType::from_raw_mode(stat.st_mode)) {
            NodeKind::Object => Ok(Self {
                file: File::from(fd),
                location,
            }),
            found => Err(wrong_kind(location, found)),
        }
    }

    /// The bytes of `range`, all of them.
    pub(super) fn range(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let size_bytes = self.size()?;
        let out_of_range = || StoreError::OutOfRange {
            location: self.location.clone(),
            begin: range.start,
            end: range.end,
            size_bytes,
        };
        // Checked against the real size before anything is allocated.
        if range.start > range.end || range.end > size_bytes {
            return Err(out_of_range());
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| out_of_range())?;
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, range.start)
            .map_err(|e| self.error(e))?;
        Ok(bytes)
    }

    fn size(&self) -> Result<u64, StoreError> {
        let stat = fstat(&self.file)
            .map_err(|e| system_error(e, Operation::Stat, self.location.clone()))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn error(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            operation: Operation::Read,
            location: self.location.clone(),
            source,
        }
    }
}

impl Read for LocalReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|e| {
            if e.kind() == io::ErrorKind::Interrupted {
                e
            } else {
                self.error(e).into()
            }
        })
    }
}

fn wrong_kind(location: String, found: NodeKind) -> StoreError {
    StoreError::WrongKind {
        location,
        expected: NodeKind::Object,
        found,
    }
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

impl LocalStore {
    pub(super) fn stat_object(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        Ok(self.system_stat(key)?.map(|stat| ObjectMeta {
            size: size_of(&stat),
        }))
    }

    /// By its inode and the time of its last change, which no program can set.
    pub(super) fn trace_object(&self, key: &ObjectKey) -> Result<Option<ObjectTrace>, StoreError> {
        Ok(self.system_stat(key)?.map(|stat| {
            let version = format!("{}:{}.{}", stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
            ObjectTrace::of_version(size_of(&stat), &version)
        }))
    }

    fn system_stat(&self, key: &ObjectKey) -> Result<Option<Stat>, StoreError> {
        let Some(folder) = self.open_folder(key.parent().as_ref())? else {
            return Ok(None);
        };
        match retry_on_intr(|| statat(&folder, key.file_name(), AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => match node_kind(FileType::from_raw_mode(stat.st_mode)) {
                NodeKind::Object => Ok(Some(stat)),
                found => Err(wrong_kind(self.text(Some(key)), found)),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(system_error(e, Operation::Stat, self.text(Some(key)))),
        }
    }

    /// Syncs an object and the folder that holds it.
    ///
    /// An object that shows has been synced by its writer, and so has the way
    /// to its folder; only its own entry may be missing on the disk. The file
    /// is synced all the same: it may have been put there by other means.
    pub(super) fn sync_object(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let object = LocalReader::open(self, key)?;
        let failed = |e| system_error(e, Operation::Sync, self.text(Some(key)));
        retry_on_intr(|| fsync(&object.file)).map_err(failed)?;
        let parent = key.parent();
        match self.open_folder(parent.as_ref())? {
            Some(folder) => {
                sync_folder(folder.as_fd(), self.text(parent.as_ref()))?;
                sweep(folder.as_fd(), key.file_name());
                Ok(())
            }
            None => Err(StoreError::NotFound {
                location: self.text(Some(key)),
            }),
        }
    }
}
