//! Folders of a local store: opened without following links, made durable from
//! the root down.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, fsync, mkdirat, openat, statat,
};
use rustix::io::{Errno, retry_on_intr};

use super::{FOLDER_MODE, LocalStore, full_error, system_error};
use crate::key::ObjectKey;
use crate::store::{Entry, EntryKind, NodeKind, Operation, StoreError};

const FOLDER_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What `name` is in `folder`, links not followed.
pub(super) fn kind_of(folder: BorrowedFd<'_>, name: &str) -> Result<NodeKind, Errno> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(node_kind(FileType::from_raw_mode(stat.st_mode)))
}

pub(super) fn node_kind(file_type: FileType) -> NodeKind {
    match file_type {
        FileType::RegularFile => NodeKind::Object,
        FileType::Directory => NodeKind::Folder,
        FileType::Symlink => NodeKind::Link,
        _ => NodeKind::Special,
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(folder: BorrowedFd<'_>, location: String) -> Result<(), StoreError> {
    retry_on_intr(|| fsync(folder)).map_err(|e| system_error(e, Operation::Sync, location))
}

/// Names in `folder` except `.` and `..`.
pub(super) fn names(
    folder: BorrowedFd<'_>,
) -> Result<impl Iterator<Item = Result<rustix::fs::DirEntry, Errno>>, Errno> {
    let dir = retry_on_intr(|| Dir::read_from(folder))?;
    Ok(dir.filter(|entry| {
        entry.as_ref().map_or(true, |entry| {
            !matches!(entry.file_name().to_bytes(), b"." | b"..")
        })
    }))
}

/// Whether nothing is published in `folder`: no name but those that begin with
/// a dot, which are work in progress.
fn is_unused(folder: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in names(folder)? {
        if !is_hidden(entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_hidden(name: &CStr) -> bool {
    name.to_bytes().starts_with(b".")
}

impl LocalStore {
    /// The root, opened once.
    ///
    /// # Errors
    /// `RootMissing`: never made here, see [`LocalStore::make_root`].
    pub(super) fn root_fd(&self) -> Result<BorrowedFd<'_>, StoreError> {
        if let Some(fd) = self.root_fd.get() {
            return Ok(fd.as_fd());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| openat(CWD, &self.root, flags, Mode::empty())).map_err(|e| {
            let location = self.text(None);
            match e {
                Errno::NOENT => StoreError::RootMissing { location },
                Errno::NOTDIR => StoreError::WrongKind {
                    location,
                    expected: NodeKind::Folder,
                    found: NodeKind::Object,
                },
                other => system_error(other, Operation::Open, location),
            }
        })?;
        Ok(self.root_fd.get_or_init(|| fd).as_fd())
    }

    /// Makes the root and what is missing above it, each folder durable in its
    /// parent. A root that is there is left as it is, but made durable too.
    pub(super) fn make_root(&self) -> Result<(), StoreError> {
        make_path(&self.root)?;
        self.root_fd().map(|_| ())
    }

    /// The folder `key` (`None`: the root). `Ok(None)` if it does not exist,
    /// which is proven, because the root does.
    pub(super) fn open_folder(
        &self,
        key: Option<&ObjectKey>,
    ) -> Result<Option<OwnedFd>, StoreError> {
        let mut folder = duplicate(self.root_fd()?, || self.text(None))?;
        let Some(key) = key else {
            return Ok(Some(folder));
        };
        for (depth, name) in key.components().enumerate() {
            match retry_on_intr(|| openat(&folder, name, FOLDER_FLAGS, Mode::empty())) {
                Ok(next) => folder = next,
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(self.folder_error(folder.as_fd(), depth, key, e)),
            }
        }
        Ok(Some(folder))
    }

    /// The folder `key`, made where it is missing.
    ///
    /// Who then publishes in it can rely on this: every folder from the root
    /// down to it survives power loss. A folder that holds a published name
    /// was made durable before that name appeared; one that holds none may
    /// come from a process killed between `mkdir` and `fsync`, so its parent
    /// is synced (again) before anything is put into it.
    pub(super) fn make_folder(&self, key: Option<&ObjectKey>) -> Result<OwnedFd, StoreError> {
        let mut folder = duplicate(self.root_fd()?, || self.text(None))?;
        let Some(key) = key else {
            return Ok(folder);
        };
        let location = || self.text(Some(key));
        // The parent of `folder`, while `folder` is not known to be durable in it.
        let mut parent: Option<OwnedFd> = None;
        for (depth, name) in key.components().enumerate() {
            let next = match retry_on_intr(|| openat(&folder, name, FOLDER_FLAGS, Mode::empty())) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    settle(parent.as_ref(), folder.as_fd(), location)?;
                    self.make_one(folder.as_fd(), depth, name, key)?
                }
                Err(e) => return Err(self.folder_error(folder.as_fd(), depth, key, e)),
            };
            parent = Some(std::mem::replace(&mut folder, next));
        }
        settle(parent.as_ref(), folder.as_fd(), location)?;
        Ok(folder)
    }

    /// Makes and opens the folder `name`; somebody else may be faster. Its
    /// entry is not durable yet.
    fn make_one(
        &self,
        folder: BorrowedFd<'_>,
        depth: usize,
        name: &str,
        key: &ObjectKey,
    ) -> Result<OwnedFd, StoreError> {
        let made = match retry_on_intr(|| mkdirat(folder, name, FOLDER_MODE)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => {
                let location = self.text(Some(key));
                return Err(full_error(folder, e, Operation::Create, location, None));
            }
        };
        if made {
            // The umask may have taken bits away.
            chmodat(folder, name, FOLDER_MODE, AtFlags::empty())
                .map_err(|e| system_error(e, Operation::Create, self.text(Some(key))))?;
        }
        retry_on_intr(|| openat(folder, name, FOLDER_FLAGS, Mode::empty()))
            .map_err(|e| self.folder_error(folder, depth, key, e))
    }

    /// The error for a folder on the way to `key` that could not be opened.
    fn folder_error(
        &self,
        folder: BorrowedFd<'_>,
        depth: usize,
        key: &ObjectKey,
        errno: Errno,
    ) -> StoreError {
        let mut path = self.root.clone();
        path.extend(key.components().take(depth + 1));
        let location = path.display().to_string();
        if matches!(errno, Errno::NOTDIR | Errno::LOOP)
            && let Some(name) = key.components().nth(depth)
            && let Ok(found) = kind_of(folder, name)
        {
            return StoreError::WrongKind {
                location,
                expected: NodeKind::Folder,
                found,
            };
        }
        system_error(errno, Operation::Open, location)
    }

    pub(super) fn list_folder(&self, key: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        let Some(folder) = self.open_folder(key)? else {
            return Ok(Vec::new());
        };
        let failed = |e| system_error(e, Operation::List, self.text(key));
        let mut entries = Vec::new();
        for entry in names(folder.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(name) = entry
                .file_name()
                .to_str()
                .ok()
                .filter(|n| ObjectKey::is_component(n))
            else {
                continue;
            };
            let kind = match entry.file_type() {
                // a long timeline has thousands of these: what the folder says of them is enough
                FileType::Directory => EntryKind::Folder,
                _ => match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind_of_entry(&stat),
                    // Deleted since the folder was read.
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(failed(e)),
                },
            };
            entries.push(Entry {
                name: name.to_owned(),
                kind,
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

fn kind_of_entry(stat: &rustix::fs::Stat) -> EntryKind {
    match node_kind(FileType::from_raw_mode(stat.st_mode)) {
        NodeKind::Object => EntryKind::Object {
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
        NodeKind::Folder => EntryKind::Folder,
        NodeKind::Link | NodeKind::Special => EntryKind::Other,
    }
}

/// Syncs `parent` if nothing is published in `folder` yet.
fn settle(
    parent: Option<&OwnedFd>,
    folder: BorrowedFd<'_>,
    location: impl Fn() -> String,
) -> Result<(), StoreError> {
    let Some(parent) = parent else {
        return Ok(());
    };
    if is_unused(folder).map_err(|e| system_error(e, Operation::List, location()))? {
        sync_folder(parent.as_fd(), location())?;
    }
    Ok(())
}

fn duplicate(fd: BorrowedFd<'_>, location: impl Fn() -> String) -> Result<OwnedFd, StoreError> {
    fd.try_clone_to_owned().map_err(|source| StoreError::Io {
        operation: Operation::Open,
        location: location(),
        source,
    })
}

/// Whether a folder could not be synced because of who asks or what it lies on.
fn is_beyond_reach(error: &StoreError) -> bool {
    match error {
        StoreError::PermissionDenied { .. } => true,
        StoreError::Io { source, .. } => matches!(
            Errno::from_io_error(source),
            Some(Errno::INVAL | Errno::ROFS | Errno::NOSYS | Errno::OPNOTSUPP)
        ),
        _ => false,
    }
}

/// `mkdir -p`, with every new entry synced in its parent.
fn make_path(path: &Path) -> Result<(), StoreError> {
    let location = || path.display().to_string();
    let failed = |e| system_error(e, Operation::Create, location());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let sync_parent = || match retry_on_intr(|| {
        openat(
            CWD,
            parent.unwrap_or_else(|| Path::new(".")),
            flags,
            Mode::empty(),
        )
    }) {
        Ok(fd) => sync_folder(fd.as_fd(), location()),
        Err(e) => Err(failed(e)),
    };
    match retry_on_intr(|| openat(CWD, path, flags, Mode::empty())) {
        // Perhaps made by an `init` that was killed before the sync. Where the
        // parent cannot be synced by this user or at all (above a mount point),
        // the administrator made this folder.
        Ok(_) => match sync_parent() {
            Err(error) if !is_beyond_reach(&error) => return Err(error),
            _ => {}
        },
        Err(Errno::NOENT) => {
            if let Some(parent) = parent {
                make_path(parent)?;
            }
            let made = match retry_on_intr(|| mkdirat(CWD, path, FOLDER_MODE)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(e) => return Err(failed(e)),
            };
            if made {
                chmodat(CWD, path, FOLDER_MODE, AtFlags::empty()).map_err(failed)?;
            }
            sync_parent()?;
        }
        Err(Errno::NOTDIR) => {
            return Err(StoreError::WrongKind {
                location: location(),
                expected: NodeKind::Folder,
                found: NodeKind::Object,
            });
        }
        Err(e) => return Err(failed(e)),
    }
    Ok(())
}
