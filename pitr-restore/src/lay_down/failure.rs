//! How laying down fails.

use std::io;
use std::path::{Path, PathBuf};

use pitr_console::Explain;
use pitr_core::TablespaceMapError;
use pitr_store::backup::{BackupReadError, PartName};

use super::root::Root;

/// Why a backup could not be laid down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayDownError {
    /// The backup could not be read, or is damaged.
    #[error(transparent)]
    Backup(#[from] BackupReadError),
    /// A file could not be made.
    #[error("could not {operation} \"{}\": {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The disk is full.
    #[error("could not write \"{}\": no space left on device: {available_bytes} bytes available", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes free there.
        available_bytes: u64,
    },
    /// The backup's tablespace map cannot be rewritten.
    #[error("could not move the tablespaces: {0}")]
    TablespaceMap(TablespaceMapError),
    /// A part belongs to no tablespace of the backup.
    #[error("part {part} belongs to a tablespace that the backup does not list")]
    UnknownTablespace {
        /// The part.
        part: PartName,
    },
    /// The backup's tablespace map names a tablespace that the backup does not
    /// list: nobody was asked where it is to go.
    #[error("tablespace_map puts tablespace {oid} into \"{}\", and the backup does not list it", path.display())]
    UnmappedTablespace {
        /// The tablespace.
        oid: u32,
        /// Its place.
        path: PathBuf,
    },
    /// A file that is held in memory is too large to be what it is called.
    #[error("\"{path}\" has {bytes} bytes, too many for such a file")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// The backup has no control file.
    #[error("the backup has no global/pg_control")]
    NoControlFile,
    /// A server, or another restore, has the directory.
    #[error("a server or another restore works in \"{}\" (process {pid})", path.display())]
    Running {
        /// The directory.
        path: PathBuf,
        /// Its process.
        pid: i32,
    },
    /// Another thread failed first.
    #[error("the restore was given up")]
    GivenUp,
}

impl Explain for LayDownError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Backup(error) => error.hint(),
            Self::NoSpace { .. } => Some("Free space there, or restore elsewhere.".to_owned()),
            Self::NoControlFile
            | Self::UnknownTablespace { .. }
            | Self::UnmappedTablespace { .. } => {
                Some("Restore from another backup: see \"pitr-archive list\".".to_owned())
            }
            Self::Running { .. } => Some("Stop it first.".to_owned()),
            Self::Io { .. } | Self::TablespaceMap(_) | Self::TooLarge { .. } | Self::GivenUp => {
                None
            }
        }
    }
}

/// The error behind one that came while a member was read.
pub(super) fn read_failed(error: io::Error) -> LayDownError {
    match BackupReadError::recover(error) {
        Ok(error) => error.into(),
        Err(source) => LayDownError::Io {
            operation: "read",
            path: PathBuf::from("backup"),
            source,
        },
    }
}

/// The error to report where writing `path` below `root` failed.
pub(super) fn write_failed(root: &Root, path: &Path) -> impl FnOnce(io::Error) -> LayDownError {
    move |source| {
        if source.kind() == io::ErrorKind::StorageFull {
            let available_bytes =
                rustix::fs::fstatvfs(root).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
            return LayDownError::NoSpace {
                path: path.to_owned(),
                available_bytes,
            };
        }
        failed("write", path)(source)
    }
}

/// The error to report where `operation` on `path` failed.
pub(super) fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> LayDownError {
    let path = path.to_owned();
    move |source| LayDownError::Io {
        operation,
        path,
        source,
    }
}
