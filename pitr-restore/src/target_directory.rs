//! The directory that a cluster is to be restored into, before anything is
//! made.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use pitr_console::Explain;
use pitr_core::SystemIdentifier;
use pitr_postgres::DataDirectory;

use crate::lay_down::marker::{MARKER, UnfinishedRestore};
use crate::postmaster::PostmasterFile;

/// A place that a restore may fill: absent, an empty directory, or with
/// `--delta` one that holds what may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetDirectory {
    path: PathBuf,
    exists: bool,
    is_occupied: bool,
    /// The nearest directory that exists: itself, or one above it.
    ground: PathBuf,
}

/// Why a place cannot be filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OccupiedError {
    /// A server runs there.
    #[error("a PostgreSQL server runs in \"{}\" (process {pid})", path.display())]
    ServerRunning {
        /// The place.
        path: PathBuf,
        /// Its postmaster.
        pid: i32,
    },
    /// A restore was begun there and not finished.
    #[error("\"{}\" holds an unfinished restore of backup {label}", path.display())]
    Unfinished {
        /// The place.
        path: PathBuf,
        /// The backup that was being laid down.
        label: String,
        /// Every folder that it was filling.
        folders: Vec<PathBuf>,
    },
    /// A server's process is left that works there, without its postmaster.
    #[error("process {pid} of a PostgreSQL server still works in \"{}\"", path.display())]
    ServerProcess {
        /// The place.
        path: PathBuf,
        /// The process.
        pid: i32,
    },
    /// What is there cannot be told to be this cluster's.
    #[error("\"{}\" is not empty, and no data directory of cluster {expected}: {reason}", path.display())]
    NoDataDirectory {
        /// The place.
        path: PathBuf,
        /// The cluster that is to be restored.
        expected: SystemIdentifier,
        /// What was found instead.
        reason: String,
    },
    /// Another cluster's data directory.
    #[error("\"{}\" belongs to cluster {found}, and the backup is of cluster {expected}", path.display())]
    OtherCluster {
        /// The place.
        path: PathBuf,
        /// The cluster that is to be restored.
        expected: SystemIdentifier,
        /// The one that was found.
        found: SystemIdentifier,
    },
    /// A folder that is not known to be a tablespace of the data directory.
    #[error("\"{}\" is not empty, and the data directory has no link to it in pg_tblspc", path.display())]
    ForeignTablespace {
        /// The place.
        path: PathBuf,
    },
    /// Something is there.
    #[error("\"{}\" is not empty: it holds \"{}\"", path.display(), name.display())]
    NotEmpty {
        /// The place.
        path: PathBuf,
        /// One of the names in it.
        name: PathBuf,
    },
    /// A file, or anything else that is no directory.
    #[error("\"{}\" is not a directory", path.display())]
    NotADirectory {
        /// The place.
        path: PathBuf,
    },
    /// This user cannot make files there.
    #[error("this user may not write into \"{}\"", path.display())]
    NotWritable {
        /// The nearest directory that exists.
        path: PathBuf,
    },
    /// A server refuses a data directory of another user.
    #[error("\"{}\" belongs to user {found}, and the restore runs as user {expected}", path.display())]
    OtherOwner {
        /// The place.
        path: PathBuf,
        /// Number of its owner.
        found: u32,
        /// Number of the user who restores.
        expected: u32,
    },
    /// It could not be examined.
    #[error("could not examine \"{}\": {source}", path.display())]
    Io {
        /// The place.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Explain for OccupiedError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::ServerRunning { path, .. } => format!(
                "Restore into another directory, or stop the server (pg_ctl stop -D {0}) and move {0} away.",
                path.display()
            ),
            Self::Unfinished { folders, .. } => format!(
                "It was interrupted and cannot be used. Run the same command again with --delta to finish it, or empty {} first.",
                folders
                    .iter()
                    .map(|folder| folder.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
            Self::NotEmpty { path, name } if name == Path::new("lost+found") => format!(
                "\"{0}\" is a mount point: restore into a directory below it, as {0}/data.",
                path.display()
            ),
            Self::NotEmpty { .. } => {
                "Name a directory that is empty or does not exist: nothing is overwritten without --delta."
                    .to_owned()
            }
            Self::NotADirectory { .. } => {
                "Name a directory that is empty or does not exist.".to_owned()
            }
            Self::ServerProcess { pid, .. } => format!(
                "Its postmaster is gone, and it may still write: end it (kill {pid}) and try again."
            ),
            Self::NoDataDirectory { .. } | Self::OtherCluster { .. } => {
                "--delta replaces nothing but a data directory of the same cluster. Name that, or an empty directory."
                    .to_owned()
            }
            Self::ForeignTablespace { .. } => {
                "It may be another server's: name the place that the data directory's own link leads to, or an empty one."
                    .to_owned()
            }
            Self::NotWritable { path } if !rustix::process::geteuid().is_root() => format!(
                "Make the directory for this user first: sudo install -d -o \"$(id -un)\" -m 700 {}/…",
                path.display().to_string().trim_end_matches('/')
            ),
            Self::NotWritable { .. } | Self::OtherOwner { .. } => {
                "Run it as the user that is to run the server: sudo -u postgres pitr-restore …"
                    .to_owned()
            }
            Self::Io { .. } => return None,
        })
    }
}

impl TargetDirectory {
    /// Examines `path`, which must be absolute.
    ///
    /// # Errors
    /// Whatever forbids to fill it; nothing was changed.
    pub(crate) fn examine(path: &Path) -> Result<Self, OccupiedError> {
        Self::examine_with(path, &|path| check_empty(path).map(|()| false))
    }

    /// As [`TargetDirectory::examine`], but takes a data directory of
    /// `cluster` as well: whole, or left by a restore that was interrupted.
    ///
    /// # Errors
    /// As there; a server that runs, or a process that one has left.
    pub(crate) fn examine_data_directory(
        path: &Path,
        cluster: SystemIdentifier,
    ) -> Result<Self, OccupiedError> {
        Self::examine_with(path, &|path| match check_empty(path) {
            Ok(()) => Ok(false),
            Err(OccupiedError::NotEmpty { .. } | OccupiedError::Unfinished { .. }) => {
                check_cluster(path, cluster).map(|()| true)
            }
            Err(error) => Err(error),
        })
    }

    /// As [`TargetDirectory::examine`], but takes the folder of a tablespace
    /// that `data_directory` is known to use as well.
    pub(crate) fn examine_tablespace(
        path: &Path,
        oid: u32,
        data_directory: &Self,
    ) -> Result<Self, OccupiedError> {
        Self::examine_with(path, &|path| match check_empty(path) {
            Ok(()) => Ok(false),
            Err(OccupiedError::NotEmpty { .. }) if data_directory.uses(path, oid) => Ok(true),
            Err(OccupiedError::NotEmpty { path, .. }) => {
                Err(OccupiedError::ForeignTablespace { path })
            }
            Err(error) => Err(error),
        })
    }

    /// Whether this data directory has its tablespace `oid` in `path`: by its
    /// link, or by the mark of a restore that was filling both.
    fn uses(&self, path: &Path, oid: u32) -> bool {
        let link = self.path.join(format!("pg_tblspc/{oid}"));
        let is_link = std::fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink());
        let linked = is_link && std::fs::canonicalize(&link).is_ok_and(|found| found == path);
        linked
            || UnfinishedRestore::read(&self.path.join(MARKER))
                .is_some_and(|unfinished| unfinished.folders.iter().any(|folder| folder == path))
    }

    fn examine_with(
        path: &Path,
        occupied: &dyn Fn(&Path) -> Result<bool, OccupiedError>,
    ) -> Result<Self, OccupiedError> {
        let mut is_occupied = false;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OccupiedError::Io { path, source }
        };
        // a link to the directory is a usual thing; what it leads to is filled
        let (path, exists) = match std::fs::canonicalize(path) {
            Ok(real) => (real, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), false),
            Err(error) => return Err(failed(path)(error)),
        };
        let (path, ground) = if exists {
            is_occupied = occupied(&path)?;
            (path.clone(), path)
        } else {
            let (real, ground) = without_links(&path).map_err(failed(&path))?;
            if real.symlink_metadata().is_ok()
                && path.components().any(|p| p == Component::ParentDir)
            {
                // by way of a folder that does not exist it leads to one that does
                return Self::examine_with(&real, occupied);
            }
            (real, ground)
        };
        let metadata = std::fs::metadata(&ground).map_err(failed(&ground))?;
        if !metadata.is_dir() {
            return Err(OccupiedError::NotADirectory { path: ground });
        }
        let me = rustix::process::geteuid();
        if exists && !me.is_root() && metadata.uid() != me.as_raw() {
            return Err(OccupiedError::OtherOwner {
                path,
                found: metadata.uid(),
                expected: me.as_raw(),
            });
        }
        let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&ground, wanted).map_err(|errno| match errno {
            rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS => OccupiedError::NotWritable {
                path: ground.clone(),
            },
            other => failed(&ground)(other.into()),
        })?;
        Ok(Self {
            path,
            exists,
            is_occupied,
            ground,
        })
    }

    /// The directory, without links: one place has one name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds anything that is to be replaced.
    pub(crate) fn is_occupied(&self) -> bool {
        self.is_occupied
    }

    /// Whether it exists already.
    pub(crate) fn exists(&self) -> bool {
        self.exists
    }

    /// The file system that it lies on, or will: device, and bytes free there
    /// for this user.
    pub(crate) fn room(&self) -> io::Result<(u64, u64)> {
        let device = std::fs::metadata(&self.ground)?.dev();
        let fs = rustix::fs::statvfs(&self.ground)?;
        Ok((device, fs.f_bavail.saturating_mul(fs.f_frsize)))
    }
}

fn check_empty(path: &Path) -> Result<(), OccupiedError> {
    let failed = |source| OccupiedError::Io {
        path: path.to_owned(),
        source,
    };
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(OccupiedError::NotADirectory {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let Some(first) = entries.next() else {
        return Ok(());
    };
    if let Some(server) = PostmasterFile::read(path).map_err(failed)?
        && server.is_alive()
    {
        return Err(OccupiedError::ServerRunning {
            path: path.to_owned(),
            pid: server.pid.as_raw_pid(),
        });
    }
    if let Some(unfinished) = UnfinishedRestore::read(&path.join(MARKER)) {
        return Err(OccupiedError::Unfinished {
            path: path.to_owned(),
            label: unfinished.label,
            folders: unfinished.folders,
        });
    }
    Err(OccupiedError::NotEmpty {
        path: path.to_owned(),
        name: first.map_err(failed)?.file_name().into(),
    })
}

/// That what lies in `path` is of `cluster`, and that nobody works there.
fn check_cluster(path: &Path, expected: SystemIdentifier) -> Result<(), OccupiedError> {
    let other = |found| OccupiedError::OtherCluster {
        path: path.to_owned(),
        expected,
        found,
    };
    let unknown = |reason: String| OccupiedError::NoDataDirectory {
        path: path.to_owned(),
        expected,
        reason,
    };
    if let Some(pid) = server_process_in(path) {
        return Err(OccupiedError::ServerProcess {
            path: path.to_owned(),
            pid,
        });
    }
    match UnfinishedRestore::read(&path.join(MARKER)) {
        Some(UnfinishedRestore {
            system_identifier: Some(found),
            ..
        }) if found == expected => return Ok(()),
        Some(UnfinishedRestore {
            system_identifier: Some(found),
            ..
        }) => return Err(other(found)),
        Some(_) => {
            return Err(unknown(
                "an unfinished restore, and its mark does not say of which cluster".to_owned(),
            ));
        }
        None => {}
    }
    match DataDirectory::new(path).control_file() {
        Ok(control) if control.system_identifier == expected => Ok(()),
        Ok(control) => Err(other(control.system_identifier)),
        Err(error) => Err(unknown(error.to_string())),
    }
}

/// A process of a server whose working directory is `path`, as far as this user
/// may look: those that a postmaster leaves behind when it is killed go on
/// writing.
///
/// Source: `ChangeToDataDir`, src/backend/utils/init/miscinit.c.
fn server_process_in(path: &Path) -> Option<i32> {
    let is_server = |process: &Path| {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        name.starts_with("postgres") || name.starts_with("postmaster")
    };
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let process = entry.path();
            let works_there = std::fs::read_link(process.join("cwd")).ok()? == path;
            (works_there && is_server(&process)).then_some(pid)
        })
}

/// A path that does not exist, by its real name, and the nearest directory
/// above it that does.
fn without_links(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    for above in path.ancestors().skip(1) {
        match std::fs::canonicalize(above) {
            Ok(ground) => {
                let rest = path.strip_prefix(above).unwrap_or(path);
                let mut real = ground.clone();
                for part in rest.components() {
                    match part {
                        // nothing of it exists, so nothing of it is a link
                        Component::ParentDir => {
                            real.pop();
                        }
                        part => real.push(part),
                    }
                }
                return Ok((real, ground));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_and_an_empty_directory_are_vacant() {
        let dir = tempfile::tempdir().unwrap();
        let empty = TargetDirectory::examine(dir.path()).unwrap();
        assert!(empty.exists());
        let absent = TargetDirectory::examine(&dir.path().join("a/b")).unwrap();
        assert!(!absent.exists());
        assert_eq!(empty.room().unwrap().0, absent.room().unwrap().0);
    }

    #[test]
    fn a_directory_that_holds_anything_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert!(matches!(
            TargetDirectory::examine(dir.path()),
            Err(OccupiedError::NotEmpty { name, .. }) if name == Path::new("x")
        ));
        assert!(matches!(
            TargetDirectory::examine(&dir.path().join("x")),
            Err(OccupiedError::NotADirectory { .. })
        ));
        assert!(matches!(
            TargetDirectory::examine(&dir.path().join("x/y")),
            Err(OccupiedError::Io { .. } | OccupiedError::NotADirectory { .. })
        ));
    }

    #[test]
    fn a_running_server_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        std::fs::write(dir.path().join("postmaster.pid"), format!("{pid}\n")).unwrap();
        assert!(matches!(
            TargetDirectory::examine(dir.path()),
            Err(OccupiedError::ServerRunning { .. })
        ));
    }

    #[test]
    fn a_place_has_one_name_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        for name in [
            "link/a/b",
            "real/x/../a/b",
            "real/a/c/../b",
            "link/../real/a/b",
        ] {
            let vacant = TargetDirectory::examine(&dir.path().join(name)).unwrap();
            assert_eq!(vacant.path(), real.join("a/b"), "{name}");
            assert!(!vacant.exists());
        }
        // the way round does not hide what is there
        std::fs::write(real.join("x"), "").unwrap();
        assert!(matches!(
            TargetDirectory::examine(&dir.path().join("absent/../real")),
            Err(OccupiedError::NotEmpty { .. })
        ));
    }

    #[test]
    fn a_link_to_an_empty_directory_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let vacant = TargetDirectory::examine(&link).unwrap();
        assert_eq!(vacant.path(), real.canonicalize().unwrap());
    }
}
