//! A server's data directory, as far as it must be read from outside.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr_core::{ControlFile, ControlFileError};

/// How often `pg_control` is read before a bad checksum is believed.
///
/// A running server writes it in place, so that a reader may see half of an
/// update; `pg_controldata` and `pg_basebackup` retry likewise.
///
/// Source: `get_controlfile`, src/common/controldata_utils.c.
const CONTROL_FILE_TRIES: u32 = 10;
const CONTROL_FILE_PAUSE: Duration = Duration::from_millis(10);

/// A folder that holds, or should hold, a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDirectory {
    path: PathBuf,
}

/// Why `pg_control` of a data directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadControlFileError {
    /// It is not there, or may not be read.
    #[error("could not read \"{}\"", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is there and is no control file, also after trying again.
    #[error("\"{}\" is not a valid control file", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ControlFileError,
    },
}

impl ReadControlFileError {
    /// What the DBA can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some(
                "Name a data directory, and run this as a user who may read it: \
                 usually the one who runs the server."
                    .to_owned(),
            ),
            Self::Invalid { source, .. } => source.hint(),
        }
    }

    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl DataDirectory {
    /// The folder `path`, whatever it holds.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The data directory whose `pg_wal` holds `file`, told by the words of
    /// the path alone: PostgreSQL passes `pg_wal/NAME` relative to it, and
    /// `pg_wal` may be a link to another disk. `None` where the path does not
    /// run through a `pg_wal`.
    #[must_use]
    pub fn above_wal_file(file: &Path) -> Option<Self> {
        let wal = file.parent()?;
        if wal.file_name() != Some(OsStr::new("pg_wal")) {
            return None;
        }
        let above = wal.parent()?;
        Some(Self::new(if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        }))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of `name` in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Whether the server would start as a standby from here.
    #[must_use]
    pub fn has_standby_signal(&self) -> bool {
        self.join("standby.signal").exists()
    }

    /// Reads `global/pg_control`, also while the server writes it.
    ///
    /// # Errors
    /// See [`ReadControlFileError`].
    pub fn control_file(&self) -> Result<ControlFile, ReadControlFileError> {
        let path = self.join("global/pg_control");
        let mut tries = 1;
        loop {
            let bytes = read_beginning(&path).map_err(|source| {
                let path = path.clone();
                ReadControlFileError::Unreadable { path, source }
            })?;
            match ControlFile::parse(&bytes) {
                Ok(control) => return Ok(control),
                Err(_) if tries < CONTROL_FILE_TRIES => {
                    tries += 1;
                    std::thread::sleep(CONTROL_FILE_PAUSE);
                }
                Err(source) => return Err(ReadControlFileError::Invalid { path, source }),
            }
        }
    }
}

/// As much of a regular file as a control file has.
fn read_beginning(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut bytes = Vec::with_capacity(ControlFile::FILE_LEN);
    let limit = u64::try_from(ControlFile::FILE_LEN).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_told_by_the_path_of_a_wal_file() {
        let above = |path: &str| {
            DataDirectory::above_wal_file(Path::new(path)).map(|d| d.path().display().to_string())
        };
        assert_eq!(above("pg_wal/X").as_deref(), Some("."));
        assert_eq!(above("/srv/data/pg_wal/X").as_deref(), Some("/srv/data"));
        assert_eq!(above("./pg_wal/X").as_deref(), Some("."));
        assert_eq!(above("/tmp/X"), None);
        assert_eq!(above("X"), None);
    }

    #[test]
    fn an_endless_control_file_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("global")).unwrap();
        let path = dir.path().join("global/pg_control");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let data = DataDirectory::new(dir.path());
        let error = data.control_file().unwrap_err();
        assert!(matches!(error, ReadControlFileError::Invalid { .. }));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = data.control_file().unwrap_err();
        assert!(matches!(error, ReadControlFileError::Unreadable { .. }));
    }

    #[test]
    fn a_folder_without_a_control_file_is_told_from_one_with_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDirectory::new(dir.path());
        assert!(data.control_file().unwrap_err().is_absence());
        std::fs::create_dir(dir.path().join("global")).unwrap();
        std::fs::write(dir.path().join("global/pg_control"), [0; 8192]).unwrap();
        let error = data.control_file().unwrap_err();
        assert!(matches!(error, ReadControlFileError::Invalid { .. }));
        assert!(!error.is_absence());
    }
}
