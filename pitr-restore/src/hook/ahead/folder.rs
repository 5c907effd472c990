//! The folder in `pg_wal` in which segments wait until the server asks for them.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pitr_core::{SegmentName, WalFileName};
use rustix::fs::OFlags;

/// Its name. It lies on the file system of `%p`, so that handing a segment over
/// is a rename; base backups skip what is called so, `pg_rewind` neither copies
/// it nor stumbles over it, and to the server it is no file of the log.
///
/// Source: `PG_TEMP_FILE_PREFIX`, src/include/storage/fd.h; `sendDir`,
/// src/backend/backup/basebackup.c; `check_file_excluded`,
/// src/bin/pg_rewind/filemap.c; `RemoveOldXlogFiles`, src/backend/access/transam/xlog.c.
pub(crate) const FOLDER: &str = "pgsql_tmp_pitr_ahead";

/// The name under which a server in recovery wants a segment, whichever it is.
///
/// Source: `XLogFileRead`, src/backend/access/transam/xlogrecovery.c.
const WANTED_AS: &str = "RECOVERYXLOG";

/// Held by the process that fills the folder, as long as it lives.
const LOCK: &str = "lock";
/// Where the segments come from, and for whom.
const ORIGIN: &str = "origin.json";
/// The last segment that the server got in another way.
const ASKED: &str = "asked";
/// What a file is called while it is being written.
const NEW: &str = "new";
/// Suffix of a segment that is still being written.
const PART: &str = "part";
/// Suffix of what is to be said when the segment is handed over.
const NOTES: &str = "notes";

/// How long the lock is tried for: whoever only looks at it has it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The folder for one data directory, which need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AheadFolder {
    path: PathBuf,
}

/// The folder, in the hands of this process alone.
#[derive(Debug)]
pub(crate) struct HeldFolder {
    folder: AheadFolder,
    lock: File,
}

/// What the hook told of where the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) segment: SegmentName,
    /// Inode and time of the file: the same segment may be asked for again.
    told: (u64, i64, i64),
}

impl AheadFolder {
    /// That beside `destination`, where a server in recovery wants a segment;
    /// `None` where somebody else asks, or the place is none of a server's.
    pub(crate) fn beside(destination: &Path) -> Option<Self> {
        let wal = destination.parent()?;
        (destination.file_name() == Some(OsStr::new(WANTED_AS))
            && wal.file_name() == Some(OsStr::new("pg_wal")))
        .then(|| Self {
            path: wal.join(FOLDER),
        })
    }

    /// That of a data directory.
    pub(crate) fn of(data_directory: &Path) -> Self {
        Self {
            path: data_directory.join("pg_wal").join(FOLDER),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a segment lies that is whole, checked and on disk.
    pub(crate) fn segment(&self, name: SegmentName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Where a segment is written.
    pub(crate) fn part(&self, name: SegmentName) -> PathBuf {
        self.path.join(format!("{name}.{PART}"))
    }

    /// Where it stands what is to be said of a segment.
    pub(crate) fn notes(&self, name: SegmentName) -> PathBuf {
        self.path.join(format!("{name}.{NOTES}"))
    }

    /// Whether a living process fills it. What a dead one left is not used: so
    /// no segment is older than the process that wrote it, none was torn by a
    /// crash of the machine, and none belongs to another run.
    pub(crate) fn is_held(&self) -> bool {
        let lock = OpenOptions::new()
            .read(true)
            .custom_flags(nofollow_flag())
            .open(self.path.join(LOCK));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Makes it, if it is not there, and takes it. `None` where another process
    /// has it, or the file system knows no locks.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn hold(&self) -> io::Result<Option<HeldFolder>> {
        let begun = Instant::now();
        loop {
            if let Some(held) = self.try_hold()? {
                return Ok(Some(held));
            }
            if begun.elapsed() > LOCK_PATIENCE {
                return Ok(None);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    fn try_hold(&self) -> io::Result<Option<HeldFolder>> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // a link would lead the sweep somewhere else
        if !std::fs::symlink_metadata(&self.path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let path = self.path.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nofollow_flag())
            .open(&path);
        let lock = match lock {
            Ok(lock) => lock,
            // its last holder took the folder away just now
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                // a file system without locks is left as it was
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_dir(&self.path);
                return Err(error);
            }
        }
        let mine = lock.metadata()?;
        let is_still_there = std::fs::symlink_metadata(&path)
            .is_ok_and(|there| there.ino() == mine.ino() && there.dev() == mine.dev());
        Ok(is_still_there.then(|| HeldFolder {
            folder: self.clone(),
            lock,
        }))
    }

    /// Takes away what a dead process left; a living one keeps its folder.
    pub(crate) fn sweep(&self) {
        if self.path.exists()
            && !self.is_held()
            && let Ok(Some(held)) = self.try_hold()
        {
            held.remove();
        }
    }

    /// The origin's words, if there are any.
    pub(crate) fn origin(&self) -> Option<Vec<u8>> {
        std::fs::read(self.path.join(ORIGIN)).ok()
    }

    /// Tells the process that fills it to end.
    pub(crate) fn dismiss(&self) {
        // where it is not there any more, that is what was wanted
        let _ = std::fs::remove_file(self.path.join(ORIGIN));
    }

    /// When something was put into it or taken out of it.
    pub(crate) fn changed(&self) -> Option<(i64, i64)> {
        let found = std::fs::metadata(&self.path).ok()?;
        Some((found.mtime(), found.mtime_nsec()))
    }

    /// The last segment that the server got in another way.
    pub(crate) fn asked(&self) -> Option<Asked> {
        let mut file = File::open(self.path.join(ASKED)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let found = file.metadata().ok()?;
        Some(Asked {
            segment: segment_name(&text)?,
            told: (found.ino(), found.ctime(), found.ctime_nsec()),
        })
    }

    /// Tells the process that fills it where the server is.
    ///
    /// # Errors
    /// If that cannot be written: then it goes on where it was.
    pub(crate) fn tell_asked(&self, name: SegmentName) -> io::Result<()> {
        self.replace(ASKED, name.to_string().as_bytes())
    }

    /// The segments that are whole.
    pub(crate) fn segments(&self) -> io::Result<Vec<SegmentName>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            if let Some(name) = entry?.file_name().to_str().and_then(segment_name) {
                segments.push(name);
            }
        }
        Ok(segments)
    }

    /// Puts a small file in one step.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.path.join(format!("{name}.{NEW}"));
        let _ = std::fs::remove_file(&new);
        create(&new)?.write_all(bytes)?;
        std::fs::rename(new, self.path.join(name))
    }
}

impl HeldFolder {
    /// The folder.
    pub(crate) fn folder(&self) -> &AheadFolder {
        &self.folder
    }

    /// Takes away everything but the lock.
    ///
    /// # Errors
    /// If something cannot be taken away.
    pub(crate) fn empty(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder.path)? {
            let name = entry?.file_name();
            if name.to_str().is_some_and(is_ours) {
                remove_if_there(&self.folder.path.join(name))?;
            }
        }
        Ok(())
    }

    /// Says where the segments come from; from here on they are served.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(crate) fn tell_origin(&self, origin: &[u8]) -> io::Result<()> {
        self.folder.replace(ORIGIN, origin)
    }

    /// Takes one segment away.
    pub(crate) fn discard(&self, name: SegmentName) {
        // what stays behind goes with the folder
        let _ = remove_if_there(&self.folder.segment(name));
        let _ = remove_if_there(&self.folder.notes(name));
    }

    /// Takes the folder away. What is not ours stays, and the folder with it.
    pub(crate) fn remove(self) {
        self.folder.dismiss();
        let _ = self.empty();
        // while it is still held: nobody takes a lock that is no more
        let _ = remove_if_there(&self.folder.path.join(LOCK));
        let _ = std::fs::remove_dir(&self.folder.path);
        drop(self.lock);
    }
}

/// Makes a file that is not there, for its owner alone.
///
/// # Errors
/// As of opening; also where something is there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn segment_name(text: &str) -> Option<SegmentName> {
    match text.parse() {
        Ok(WalFileName::Segment(name)) => Some(name),
        _ => None,
    }
}

/// Whether a name is one that is given here, the lock's aside.
fn is_ours(name: &str) -> bool {
    let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
    match suffix {
        "" => stem == ASKED || segment_name(stem).is_some(),
        PART | NOTES => segment_name(stem).is_some(),
        _ => {
            name == ORIGIN
                || name
                    .strip_suffix(".new")
                    .is_some_and(|n| n == ORIGIN || n == ASKED)
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn nofollow_flag() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, AheadFolder) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let folder = AheadFolder::of(dir.path());
        (dir, folder)
    }

    #[test]
    fn it_lies_beside_what_a_recovering_server_wants_and_nowhere_else() {
        let beside = |path: &str| AheadFolder::beside(Path::new(path));
        assert_eq!(
            beside("pg_wal/RECOVERYXLOG").unwrap().path(),
            Path::new("pg_wal/pgsql_tmp_pitr_ahead")
        );
        // a history, pg_rewind, a person
        for other in [
            "pg_wal/RECOVERYHISTORY",
            "/data/pg_wal/000000010000000000000001",
            "/tmp/RECOVERYXLOG",
            "RECOVERYXLOG",
        ] {
            assert_eq!(beside(other), None);
        }
    }

    #[test]
    fn one_process_holds_it_and_its_end_lets_it_go() {
        let (_dir, folder) = folder();
        assert!(!folder.is_held());
        let held = folder.hold().unwrap().unwrap();
        assert!(folder.is_held());
        assert!(folder.try_hold().unwrap().is_none());
        // the living one's folder is not swept
        folder.sweep();
        assert!(folder.path().exists());
        drop(held);
        assert!(!folder.is_held());
        assert!(folder.try_hold().unwrap().is_some());
    }

    #[test]
    fn what_a_dead_process_left_is_swept() {
        let (_dir, folder) = folder();
        let held = folder.hold().unwrap().unwrap();
        held.tell_origin(b"{}").unwrap();
        let name = segment_name("000000010000000000000001").unwrap();
        folder.tell_asked(name).unwrap();
        for path in [folder.segment(name), folder.part(name), folder.notes(name)] {
            std::fs::write(path, "x").unwrap();
        }
        std::fs::write(folder.path().join("asked.new"), "x").unwrap();
        std::fs::write(folder.path().join("origin.json.new"), "x").unwrap();
        drop(held);
        folder.sweep();
        assert!(!folder.path().exists());
    }

    #[test]
    fn the_same_segment_told_again_is_news() {
        let (_dir, folder) = folder();
        let _held = folder.hold().unwrap().unwrap();
        let name = segment_name("000000010000000000000001").unwrap();
        folder.tell_asked(name).unwrap();
        let first = folder.asked().unwrap();
        assert_eq!(folder.asked(), Some(first));
        folder.tell_asked(name).unwrap();
        assert_eq!(folder.asked().unwrap().segment, name);
        assert_ne!(folder.asked(), Some(first));
    }

    #[test]
    fn what_is_not_ours_stays() {
        let (_dir, folder) = folder();
        let held = folder.hold().unwrap().unwrap();
        let other = folder.path().join("precious");
        std::fs::write(&other, "x").unwrap();
        held.remove();
        assert!(other.exists());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (dir, folder) = folder();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("000000010000000000000001"), "x").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path()).unwrap();
        assert!(folder.hold().is_err());
        folder.sweep();
        assert!(elsewhere.join("000000010000000000000001").exists());
    }
}
