//! How an object gets into a local store: whole, durable, once.
//!
//! [`LocalWriter::begin`] takes a temporary name in the object's own folder,
//! [`LocalWriter::publish`] does the rest in one function, so that no caller
//! can leave a step out:
//!
//! 1. sync the file: an object that shows has its content on the disk;
//! 2. rename to the final name, which fails where that name exists;
//! 3. sync the folder: the name survives power loss.
//!
//! [`LocalWriter::publish_beside`] gives the third step back as a [`Shown`], to be done for
//! many objects of the folder at once.
//!
//! The temporary name is always the same for a key (`.NAME.tmp`) and its file
//! is locked while somebody writes it. A free lock means a dead writer: the
//! next one takes the file over, so that no crash leaves debris for ever.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, fsync, ftruncate, linkat, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::folder::sync_folder;
use super::lock::{LockOutcome, is_still, lock_folder, try_lock};
use super::{FILE_MODE, LocalStore, full_error, system_error};
use crate::key::ObjectKey;
use crate::store::shown::FolderId;
use crate::store::{ObjectWriter, Operation, Shown, StoreError};

/// How many writers may be at one key at once; the next one is told to wait.
const SLOTS: u32 = 8;

/// An object being written under a temporary name.
#[derive(Debug)]
pub(super) struct LocalWriter {
    folder: OwnedFd,
    key: ObjectKey,
    rivals: Vec<ObjectKey>,
    temp: Temp,
    /// `None` once given up: the temporary file is gone.
    file: Option<File>,
    /// Whether the content is on the disk.
    synced: bool,
    /// Whether showing the file has been tried: it may have worked, whatever
    /// the answer was.
    may_show: bool,
    written_bytes: u64,
    root: std::path::PathBuf,
}

#[derive(Debug)]
struct Temp {
    name: String,
    /// Whether the file system has locks: only then can a dead writer's file
    /// be told from a living one's.
    locked: bool,
}

impl LocalWriter {
    pub(super) fn begin(
        store: &LocalStore,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Self, StoreError> {
        let parent = key.parent();
        if rivals.iter().any(|rival| rival.parent() != parent) {
            return Err(StoreError::Unsupported {
                location: store.text(Some(key)),
                missing: "a key that stands for the same object lies in another folder",
            });
        }
        let folder = store.make_folder(parent.as_ref())?;
        let (file, temp) = take_temp(folder.as_fd(), key.file_name()).map_err(|failure| {
            let location = store.text(Some(key));
            match failure {
                TempFailure::AllTaken => StoreError::Busy {
                    operation: Operation::Create,
                    location,
                },
                TempFailure::System(errno) => {
                    full_error(folder.as_fd(), errno, Operation::Create, location, None)
                }
            }
        })?;
        Ok(Self {
            folder,
            key: key.clone(),
            rivals: rivals.to_vec(),
            temp,
            file: Some(file),
            synced: false,
            may_show: false,
            written_bytes: 0,
            root: store.root.clone(),
        })
    }

    fn location(&self, key: &ObjectKey) -> String {
        self.root.join(key.as_str()).display().to_string()
    }

    /// Removes the temporary file, and says why.
    fn give_up(&mut self, errno: Errno, operation: Operation, pending_bytes: usize) -> StoreError {
        self.abort();
        let pending = u64::try_from(pending_bytes).unwrap_or(u64::MAX);
        full_error(
            self.folder.as_fd(),
            errno,
            operation,
            self.location(&self.key),
            Some(self.written_bytes.saturating_add(pending)),
        )
    }

    fn abort(&mut self) {
        let Some(file) = self.file.take() else {
            return;
        };
        if !is_still(self.folder.as_fd(), &self.temp.name, file.as_fd()) {
            return;
        }
        // Frees the space at once, whoever else has the file open. But a
        // network disk that reports a failed rename may have done it, and then
        // somebody may have found the object: it keeps its content.
        let is_ours_alone = fstat(&file).is_ok_and(|stat| stat.st_nlink == 1);
        if is_ours_alone && !self.may_show {
            let _ = ftruncate(&file, 0);
        }
        let _ = unlinkat(&self.folder, self.temp.name.as_str(), AtFlags::empty());
    }

    /// The first of the key and its rivals that exists.
    fn existing(&self) -> Result<Option<&ObjectKey>, StoreError> {
        for key in std::iter::once(&self.key).chain(&self.rivals) {
            match exists(self.folder.as_fd(), key.file_name()) {
                Ok(false) => {}
                Ok(true) => return Ok(Some(key)),
                Err(e) => return Err(system_error(e, Operation::Stat, self.location(key))),
            }
        }
        Ok(None)
    }

    fn already_exists(&self, key: &ObjectKey) -> StoreError {
        StoreError::AlreadyExists {
            key: key.clone(),
            location: self.location(key),
        }
    }

    /// Removes what dead writers of the same object left. For tidiness only:
    /// it may fail.
    fn sweep(&self) {
        if self.temp.locked {
            for key in std::iter::once(&self.key).chain(&self.rivals) {
                sweep(self.folder.as_fd(), key.file_name());
            }
        }
    }
}

impl Write for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else {
            return Err(given_up(self.location(&self.key)).into());
        };
        self.synced = false;
        match file.write(bytes) {
            Ok(count) => {
                self.written_bytes = self
                    .written_bytes
                    .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                Ok(count)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                Err(self.give_up(errno, Operation::Write, bytes.len()).into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LocalWriter {
    /// Renames the file to its name, where neither that nor a rival is taken.
    fn appear(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let location = self.location(&self.key);
        // Rivals have other names, so the rename alone cannot see them.
        let lock = match self.rivals.as_slice() {
            [] => None,
            _ => lock_folder(self.folder.as_fd(), &location)?,
        };
        if let Some(key) = self.existing()? {
            return Err(self.already_exists(key));
        }
        let Some(file) = self.file.as_ref() else {
            return Err(given_up(location));
        };
        if !is_still(self.folder.as_fd(), &self.temp.name, file.as_fd()) {
            return Err(StoreError::Io {
                operation: Operation::Publish,
                location,
                source: io::Error::other("its temporary file was removed by somebody else"),
            });
        }
        self.may_show = true;
        let (folder, temp, name) = (
            self.folder.as_fd(),
            self.temp.name.as_str(),
            self.key.file_name(),
        );
        let renamed = match rename_without_replacing(folder, temp, name) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                link_without_replacing(folder, temp, name, file.as_fd())
            }
            other => other,
        };
        drop(lock);
        match renamed {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(self.already_exists(&self.key)),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return Err(StoreError::Unsupported {
                    location,
                    missing: "the file system can neither rename without replacing nor link files",
                });
            }
            Err(errno) => return Err(self.give_up(errno, Operation::Publish, 0)),
        }
        // Published: from here on nothing may remove it, because somebody else
        // may have found it and told his server that it is stored.
        self.file = None;
        Ok(())
    }
}

impl ObjectWriter for LocalWriter {
    fn publish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.appear()?;
        sync_folder(self.folder.as_fd(), self.location(&self.key))?;
        self.sweep();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let location = self.location(&self.key);
        let Some(file) = self.file.as_ref() else {
            return Err(given_up(location));
        };
        if self.synced {
            return Ok(());
        }
        // Spares the sync where the answer is known already.
        if let Some(key) = self.existing()? {
            return Err(self.already_exists(key));
        }
        // A failed sync is final: the kernel may have dropped the pages and
        // would call the next sync a success. So the file goes.
        if let Err(errno) = retry_on_intr(|| fsync(file)) {
            return Err(self.give_up(errno, Operation::Sync, 0));
        }
        self.synced = true;
        Ok(())
    }

    fn publish_beside(mut self: Box<Self>) -> Result<Shown, StoreError> {
        // before it appears: afterwards nothing may fail but the sync
        let location = self.location(&self.key);
        let failed = |operation| move |errno| system_error(errno, operation, location);
        let folder = self.folder.try_clone().map_err(|source| StoreError::Io {
            operation: Operation::Open,
            location: self.location(&self.key),
            source,
        })?;
        let stat = fstat(&folder).map_err(failed(Operation::Stat))?;
        self.appear()?;
        self.sweep();
        let location = self.location(&self.key);
        let id = FolderId {
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        Ok(Shown::in_folder(id, move || {
            sync_folder(folder.as_fd(), location)
        }))
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.abort();
            self.sweep();
        }
    }
}

fn given_up(location: String) -> StoreError {
    StoreError::Io {
        operation: Operation::Write,
        location,
        source: io::Error::other("an earlier write of it has failed"),
    }
}

fn exists(folder: BorrowedFd<'_>, name: &str) -> Result<bool, Errno> {
    match retry_on_intr(|| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Why there is no temporary file.
#[derive(Debug)]
enum TempFailure {
    /// Living writers have all the slots.
    AllTaken,
    System(Errno),
}

impl From<Errno> for TempFailure {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// What a try at one temporary name has come to.
enum Claim {
    Ours(File),
    HeldByOther,
    /// Something is in the way that this user cannot write: another user's
    /// file, a link, a folder.
    InTheWay(Errno),
    NoLocks,
}

fn temp_name(name: &str, slot: u32) -> String {
    match slot {
        0 => format!(".{name}.tmp"),
        _ => format!(".{name}.{slot}.tmp"),
    }
}

/// An empty, locked file under the first temporary name of `name` that no
/// living writer has.
fn take_temp(folder: BorrowedFd<'_>, name: &str) -> Result<(File, Temp), TempFailure> {
    let mut obstacle = None;
    for slot in 0..SLOTS {
        let temp = temp_name(name, slot);
        match claim(folder, &temp)? {
            Claim::Ours(file) => {
                return Ok((
                    file,
                    Temp {
                        name: temp,
                        locked: true,
                    },
                ));
            }
            Claim::HeldByOther => {}
            Claim::InTheWay(errno) => obstacle = Some(errno),
            Claim::NoLocks => return take_unlocked(folder, name),
        }
    }
    Err(obstacle.map_or(TempFailure::AllTaken, TempFailure::System))
}

fn claim(folder: BorrowedFd<'_>, temp: &str) -> Result<Claim, Errno> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    loop {
        let file = match retry_on_intr(|| openat(folder, temp, flags, FILE_MODE)) {
            Ok(file) => file,
            Err(e @ (Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::ISDIR | Errno::NXIO)) => {
                return Ok(Claim::InTheWay(e));
            }
            Err(e) => return Err(e),
        };
        let stat = fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(Claim::InTheWay(Errno::EXIST));
        }
        let lock = try_lock(file.as_fd());
        if stat.st_size == 0 && !matches!(lock, Ok(LockOutcome::Taken | LockOutcome::HeldByOther)) {
            // Most likely made by this open. Should it be a writer's after all,
            // its publish notices the loss.
            let _ = unlinkat(folder, temp, AtFlags::empty());
        }
        match lock? {
            LockOutcome::Taken => {}
            LockOutcome::HeldByOther => return Ok(Claim::HeldByOther),
            LockOutcome::Unsupported => return Ok(Claim::NoLocks),
        }
        // Its writer may have published or removed it between open and lock:
        // then this is no temporary file any more, and must not be touched.
        if !is_still(folder, temp, file.as_fd()) {
            continue;
        }
        // A writer killed between link and unlink leaves a second name of a
        // published object: that is not to be truncated, only unlinked.
        let stat = fstat(&file)?;
        if stat.st_nlink > 1 {
            unlinkat(folder, temp, AtFlags::empty())?;
            continue;
        }
        let emptied = match stat.st_size {
            0 => Ok(()),
            _ => ftruncate(&file, 0),
        };
        if let Err(e) = emptied.and_then(|()| fchmod(&file, FILE_MODE)) {
            let _ = unlinkat(folder, temp, AtFlags::empty());
            return Err(e);
        }
        return Ok(Claim::Ours(File::from(file)));
    }
}

/// A temporary file under a name of its own, where locks do not exist and a
/// dead writer's file cannot be told from a living one's.
fn take_unlocked(folder: BorrowedFd<'_>, name: &str) -> Result<(File, Temp), TempFailure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let process = std::process::id();
    for count in 0..1000_u32 {
        // 4 hex digits of the clock tell apart processes of several machines.
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos());
        let temp = format!(
            ".{name}.{:x}{:04x}{count:x}.tmp",
            process & 0xFFFF,
            clock & 0xFFFF
        );
        match retry_on_intr(|| openat(folder, temp.as_str(), flags, FILE_MODE)) {
            Ok(file) => {
                if let Err(e) = fchmod(&file, FILE_MODE) {
                    let _ = unlinkat(folder, temp.as_str(), AtFlags::empty());
                    return Err(e.into());
                }
                return Ok((
                    File::from(file),
                    Temp {
                        name: temp,
                        locked: false,
                    },
                ));
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(TempFailure::AllTaken)
}

fn rename_without_replacing(folder: BorrowedFd<'_>, temp: &str, name: &str) -> Result<(), Errno> {
    retry_on_intr(|| renameat_with(folder, temp, folder, name, RenameFlags::NOREPLACE))
}

/// For file systems whose rename cannot refuse to replace (NFS): a link does.
fn link_without_replacing(
    folder: BorrowedFd<'_>,
    temp: &str,
    name: &str,
    file: BorrowedFd<'_>,
) -> Result<(), Errno> {
    match retry_on_intr(|| linkat(folder, temp, folder, name, AtFlags::empty())) {
        Ok(()) => {}
        // An NFS server repeats a request whose answer was lost, and then
        // finds our own link.
        Err(Errno::EXIST) if is_still(folder, name, file) => {}
        Err(e) => return Err(e),
    }
    // A failure leaves a second name of the object: the next writer of the
    // same key unlinks it.
    let _ = retry_on_intr(|| unlinkat(folder, temp, AtFlags::empty()));
    Ok(())
}

/// Removes the temporary files of `name` whose writers are dead.
pub(super) fn sweep(folder: BorrowedFd<'_>, name: &str) {
    for slot in 0..SLOTS {
        let temp = temp_name(name, slot);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let Ok(file) = openat(folder, temp.as_str(), flags, Mode::empty()) else {
            continue;
        };
        if matches!(try_lock(file.as_fd()), Ok(LockOutcome::Taken))
            && is_still(folder, &temp, file.as_fd())
        {
            let _ = unlinkat(folder, temp.as_str(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(File::open(dir.path()).unwrap());
        (dir, fd)
    }

    #[test]
    fn a_link_publishes_without_replacing_where_rename_cannot() {
        let (dir, folder) = folder();
        let path = dir.path().join(".a.tmp");
        fs::write(&path, "new").unwrap();
        let file = File::open(&path).unwrap();
        link_without_replacing(folder.as_fd(), ".a.tmp", "a", file.as_fd()).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        assert!(!path.exists());

        fs::write(&path, "other").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(
            link_without_replacing(folder.as_fd(), ".a.tmp", "a", file.as_fd()),
            Err(Errno::EXIST)
        );
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
    }

    #[test]
    fn our_own_link_found_again_is_success() {
        let (dir, folder) = folder();
        let path = dir.path().join(".a.tmp");
        fs::write(&path, "new").unwrap();
        fs::hard_link(&path, dir.path().join("a")).unwrap();
        let file = File::open(&path).unwrap();
        link_without_replacing(folder.as_fd(), ".a.tmp", "a", file.as_fd()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_second_name_of_a_published_object_is_never_truncated() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("a"), "published").unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join(".a.tmp")).unwrap();
        let (_file, temp) = take_temp(folder.as_fd(), "a").unwrap();
        assert_eq!(temp.name, ".a.tmp");
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"published");
        assert_eq!(fs::read(dir.path().join(".a.tmp")).unwrap(), b"");
    }

    #[test]
    fn what_shows_keeps_its_content_whatever_the_system_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path());
        let key = ObjectKey::parse("a").unwrap();
        let shown = dir.path().join("a");
        // a link and a rename that were done, and whose answers were lost
        for by_link in [true, false] {
            let mut writer = Box::new(LocalWriter::begin(&store, &key, &[]).unwrap());
            writer.write_all(b"whole").unwrap();
            let temp = dir.path().join(&writer.temp.name);
            if by_link {
                fs::hard_link(&temp, &shown).unwrap();
            } else {
                fs::rename(&temp, &shown).unwrap();
            }
            writer.publish().unwrap_err();
            assert_eq!(fs::read(&shown).unwrap(), b"whole", "{by_link}");
            assert!(!temp.exists());
            fs::remove_file(&shown).unwrap();
        }
        // and one that a stale view does not even show
        let mut writer = LocalWriter::begin(&store, &key, &[]).unwrap();
        writer.write_all(b"whole").unwrap();
        let mut open = File::open(dir.path().join(&writer.temp.name)).unwrap();
        writer.may_show = true;
        writer.give_up(Errno::IO, Operation::Publish, 0);
        let mut content = String::new();
        io::Read::read_to_string(&mut open, &mut content).unwrap();
        assert_eq!(content, "whole");
    }

    #[test]
    fn without_locks_every_writer_has_a_name_of_its_own() {
        let (dir, folder) = folder();
        let (_a, first) = take_unlocked(folder.as_fd(), "a").unwrap();
        let (_b, second) = take_unlocked(folder.as_fd(), "a").unwrap();
        assert_ne!(first.name, second.name);
        assert!(first.name.starts_with(".a.") && first.name.ends_with(".tmp"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
