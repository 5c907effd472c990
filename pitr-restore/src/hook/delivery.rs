//! The file that `PostgreSQL` asked for, on its way to `%p`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A file beside `%p` that becomes `%p` in one step, once it is whole.
///
/// Dropping it without [`Delivery::finish`] removes it. What a killed process
/// leaves is taken over by the next fetch into the same place: the name is
/// always the same, and a lock on it tells the living from the dead (a hook
/// may outlive the server that started it, and the next server then asks for
/// the same place again).
///
/// Nothing is synced here: the server does that before it uses the file's
/// final name, and until then asks for it again after a crash.
/// Source: `KeepFileRestoredFromArchive`, src/backend/access/transam/xlogarchive.c,
/// calls `durable_rename`, which syncs the file, renames, syncs the folder.
#[derive(Debug)]
pub(crate) struct Delivery {
    file: File,
    temporary: PathBuf,
    destination: PathBuf,
    written_bytes: u64,
    finished: bool,
}

/// Why a file could not be put where `PostgreSQL` wants it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// `%p` names no file, as `/` or an empty word.
    #[error("\"{}\" names no file to write", path.display())]
    NoFileName {
        /// What was given.
        path: PathBuf,
    },
    /// No room left.
    #[error(
        "could not write \"{}\": no space left on device: {needed_bytes} bytes needed, \
         {available_bytes} available, {} missing", path.display(),
        needed_bytes.saturating_sub(*available_bytes)
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Size of the file, as far as known.
        needed_bytes: u64,
        /// What this user may use there once the unfinished file is gone.
        available_bytes: u64,
    },
    /// Any other failure of the operating system.
    #[error("could not {operation} \"{}\": {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl DeliveryError {
    /// What the administrator can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoFileName { .. } => {
                Some("The setting is restore_command = 'pitr-restore %f %p'.".to_owned())
            }
            Self::NoSpace { .. } => Some("Free space on the disk of pg_wal.".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

impl Delivery {
    /// Opens the temporary file beside `destination`.
    pub(crate) fn begin(destination: &Path) -> Result<Self, DeliveryError> {
        let mut name =
            OsString::from(
                destination
                    .file_name()
                    .ok_or_else(|| DeliveryError::NoFileName {
                        path: destination.to_owned(),
                    })?,
            );
        name.push(".pitr-tmp");
        let temporary = destination.with_file_name(name);
        let file = open_alone(&temporary)?;
        Ok(Self {
            file,
            temporary,
            destination: destination.to_owned(),
            written_bytes: 0,
            finished: false,
        })
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), DeliveryError> {
        std::fs::rename(&self.temporary, &self.destination)
            .map_err(failed("rename to", &self.destination))?;
        self.finished = true;
        Ok(())
    }

    /// The error to report after writing failed with `source`.
    ///
    /// `needed_bytes` is the size of the whole file, if it is known.
    pub(crate) fn write_error(self, source: io::Error, needed_bytes: u64) -> DeliveryError {
        if source.kind() != io::ErrorKind::StorageFull {
            return failed("write", &self.temporary)(source);
        }
        let path = self.destination.clone();
        let needed_bytes = needed_bytes.max(self.written_bytes);
        // counted after the unfinished file was given up
        let _ = self.file.set_len(0);
        let available_bytes = rustix::fs::fstatvfs(&self.file)
            .map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        DeliveryError::NoSpace {
            path,
            needed_bytes,
            available_bytes,
        }
    }
}

impl Write for Delivery {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.written_bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.finished {
            // nobody is left to tell; the next fetch takes it over
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Opens `path` empty, with nobody else writing to it.
fn open_alone(path: &Path) -> Result<File, DeliveryError> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nofollow_flag())
            .open(path)
            .map_err(failed("create", path))?;
        // A file system without locks has no orphan to tell us of either.
        if let Err(error) = file.lock()
            && error.kind() != io::ErrorKind::Unsupported
        {
            return Err(failed("lock", path)(error));
        }
        let mine = file.metadata().map_err(failed("examine", path))?;
        // while we waited, its owner may have renamed or removed it
        let still_there = std::fs::symlink_metadata(path)
            .is_ok_and(|there| there.ino() == mine.ino() && there.dev() == mine.dev());
        if still_there {
            file.set_len(0).map_err(failed("truncate", path))?;
            return Ok(file);
        }
    }
}

fn nofollow_flag() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeliveryError {
    let path = path.to_owned();
    move |source| DeliveryError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    }

    #[test]
    fn nothing_shows_before_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let destination = dir.path().join("RECOVERYXLOG");
        let mut delivery = Delivery::begin(&destination).unwrap();
        delivery.write_all(b"half").unwrap();
        assert!(!destination.exists());
        drop(delivery);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_a_dead_process_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let destination = dir.path().join("RECOVERYXLOG");
        std::fs::write(dir.path().join("RECOVERYXLOG.pitr-tmp"), "longer debris").unwrap();
        std::fs::write(&destination, "old").unwrap();
        let mut delivery = Delivery::begin(&destination).unwrap();
        delivery.write_all(b"new").unwrap();
        delivery.finish().unwrap();
        assert_eq!(std::fs::read(&destination).unwrap(), b"new");
        assert_eq!(names(dir.path()).len(), 1);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("X.pitr-tmp")).unwrap();
        assert!(Delivery::begin(&dir.path().join("X")).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_place_that_is_no_file_is_refused() {
        for path in ["", "/", "..", "a/.."] {
            assert!(matches!(
                Delivery::begin(Path::new(path)),
                Err(DeliveryError::NoFileName { .. })
            ));
        }
    }
}
