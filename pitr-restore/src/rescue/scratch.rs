//! The directory of a scratch copy: made for one rescue, and gone after it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pitr_console::{Console, Explain};
use rustix::fs::FlockOperation;

use crate::os_user::OsUser;
use crate::postmaster::PostmasterFile;
use crate::start::as_user;

/// How the directories of scratch copies are called.
const PREFIX: &str = "pitr-rescue-";
/// What lies in each, and is held as long as its rescue runs.
const MARK: &str = "scratch-copy-of-pitr-restore";
/// More than any server needs to end at once.
const REMOVE_TRIES: u32 = 50;
const REMOVE_EVERY: Duration = Duration::from_millis(100);
/// Longest path of a socket: `sun_path`, less the socket's own name.
const MAX_SOCKET_FOLDER: usize = 107 - "/.s.PGSQL.65535".len();

/// The directory of one scratch copy.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Held until the end: who else could hold it knows that we are gone.
    _mark: File,
}

/// Why there is no scratch directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// It could not be made.
    #[error("could not make \"{}\": {source}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The server's socket would have too long a path.
    #[error("\"{}\" is too long a path for the socket of the scratch copy", path.display())]
    TooLong {
        /// The directory.
        path: PathBuf,
    },
}

impl Explain for ScratchError {
    fn hint(&self) -> Option<String> {
        Some("Name another directory with --scratch, for this user to write to.".to_owned())
    }
}

impl Scratch {
    /// Makes a directory of its own in `parent`.
    pub(crate) fn make(parent: &Path, name: &str) -> Result<Self, ScratchError> {
        let path = parent.join(format!("{PREFIX}{name}-{}", std::process::id()));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ScratchError::Make { path, source }
        };
        if path.as_os_str().len() + "/socket".len() > MAX_SOCKET_FOLDER {
            return Err(ScratchError::TooLong { path });
        }
        // the server's user has to pass through it, and no more than that
        let mode = if rustix::process::geteuid().is_root() {
            0o711
        } else {
            0o700
        };
        DirBuilder::new()
            .mode(mode)
            .create(&path)
            .map_err(failed(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed(&path))?;
        let mark = path.join(MARK);
        let file = File::create_new(&mark).map_err(failed(&mark))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed(&mark)(errno.into()))?;
        Ok(Self { path, _mark: file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> PathBuf {
        data_of(&self.path)
    }

    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// Makes a folder in it that belongs to `owner`.
    pub(crate) fn folder(&self, name: &str, owner: Option<&OsUser>) -> Result<(), ScratchError> {
        let path = self.path.join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.and_then(|()| give(&path, owner))
            .map_err(|source| ScratchError::Make { path, source })
    }

    /// Writes a file in it that belongs to `owner`.
    pub(crate) fn file(
        &self,
        name: &str,
        bytes: &[u8],
        owner: Option<&OsUser>,
    ) -> Result<PathBuf, ScratchError> {
        let path = self.path.join(name);
        let written = fs::write(&path, bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .and_then(|()| give(&path, owner));
        match written {
            Ok(()) => Ok(path),
            Err(source) => Err(ScratchError::Make { path, source }),
        }
    }
}

fn give(path: &Path, owner: Option<&OsUser>) -> io::Result<()> {
    match owner {
        Some(user) => std::os::unix::fs::chown(
            path,
            Some(user.owner.uid.as_raw()),
            Some(user.owner.gid.as_raw()),
        ),
        None => Ok(()),
    }
}

fn data_of(scratch: &Path) -> PathBuf {
    scratch.join("data")
}

/// Ends the server of a scratch copy and removes all of it.
///
/// # Errors
/// What of it could not be removed.
pub(crate) fn remove(scratch: &Path, pg_ctl: Option<&Path>) -> io::Result<()> {
    let data = data_of(scratch);
    let mut tries = 0;
    loop {
        let is_running = || {
            let server = PostmasterFile::read(&data).ok().flatten();
            server.is_some_and(|server| server.is_alive())
        };
        if is_running() {
            stop(&data, pg_ctl);
        }
        // somebody may still be writing to it
        match fs::remove_dir_all(scratch) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tries >= REMOVE_TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        std::thread::sleep(REMOVE_EVERY);
    }
}

/// Nothing of it is kept, so that it need not be shut down well.
fn stop(data: &Path, pg_ctl: Option<&Path>) {
    let Some(pg_ctl) = pg_ctl else {
        return;
    };
    let mut command = Command::new(pg_ctl);
    command
        .args(["stop", "--mode", "immediate", "--silent", "--pgdata"])
        .arg(data)
        .current_dir("/");
    if rustix::process::geteuid().is_root()
        && let Ok(Some(owner)) = OsUser::owner_of(data)
    {
        as_user(&mut command, &owner);
    }
    // what still runs is tried again
    let _ = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Removes what rescues have left in `parent` that were killed.
pub(crate) fn sweep(parent: &Path, pg_ctl: &Path, console: Console) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && fs::symlink_metadata(&path).is_ok_and(|metadata| {
                metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw()
            });
        if !is_ours || !is_abandoned(&path) {
            continue;
        }
        match remove(&path, Some(pg_ctl)) {
            Ok(()) => console.log(format!(
                "\"{}\", which a rescue that was killed had left, was removed",
                path.display()
            )),
            Err(error) => console.warn(
                format!(
                    "\"{}\", which a rescue that was killed has left, could not be removed: {error}",
                    path.display()
                ),
                None,
                Some("Stop the server in it, if one runs, and remove it."),
            ),
        }
    }
}

/// Whether nobody holds its mark any more. Without a mark it is not ours, or
/// its maker has not come to it yet.
fn is_abandoned(scratch: &Path) -> bool {
    let Ok(mark) = File::open(scratch.join(MARK)) else {
        return false;
    };
    rustix::fs::flock(&mark, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Where a copy of `needed_bytes` goes by itself: beside the original's data
/// directory or into `/var/tmp`, wherever more is free.
pub(crate) fn choose_parent(original: Option<&Path>) -> PathBuf {
    let var_tmp = PathBuf::from("/var/tmp");
    let beside = original.and_then(Path::parent);
    let writable = beside.filter(|path| {
        rustix::fs::access(
            *path,
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        )
        .is_ok()
    });
    let free = |path: &Path| {
        rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    };
    match writable {
        Some(beside) if free(beside) > free(&var_tmp) => beside.to_owned(),
        _ => var_tmp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_living_rescue_holds_is_left_alone_and_what_a_dead_one_left_goes() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(parent.path(), "one").unwrap();
        scratch.folder("data", None).unwrap();
        let no_pg_ctl = Path::new("/nonexistent");
        sweep(parent.path(), no_pg_ctl, Console::quiet());
        assert!(scratch.path().exists());
        // what has no mark is not ours
        let foreign = parent.path().join(format!("{PREFIX}foreign"));
        fs::create_dir(&foreign).unwrap();
        let path = scratch.path().to_owned();
        // the lock goes with the process, or here with the file
        drop(scratch);
        sweep(parent.path(), no_pg_ctl, Console::quiet());
        assert!(!path.exists() && foreign.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let parent = PathBuf::from(format!("/{}", "long/".repeat(20)));
        assert!(matches!(
            Scratch::make(&parent, "one"),
            Err(ScratchError::TooLong { .. })
        ));
    }
}
