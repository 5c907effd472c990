//! The server that asks the restore hook for a file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use pitr_core::{
    ClusterState, PageHeader, SegmentName, SystemIdentifier, TimelineHistory, TimelineHistoryError,
    TimelineId, WalFileName, WalSegmentSize,
};
use pitr_postgres::{DataDirectory, ReadControlFileError};

/// Largest history file that is read: a line for each of some thousand
/// ancestors.
const MAX_HISTORY_BYTES: u64 = 1 << 20;

/// The server that asks for a file, seen through its data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AskingServer {
    directory: DataDirectory,
}

/// Why the asking server cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskingServerError {
    /// A file of it could not be read.
    #[error("could not read \"{}\": {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Its control file cannot be read or understood.
    #[error(transparent)]
    Control(ReadControlFileError),
    /// A history file that the server keeps is damaged.
    #[error("could not understand \"{}\": {source}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TimelineHistoryError,
    },
}

impl AskingServerError {
    /// What the administrator can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Control(error) => error.hint(),
            Self::Io { .. } | Self::History { .. } => None,
        }
    }
}

impl AskingServer {
    /// The server that `%p` belongs to, if there is one: its data directory is
    /// the folder above `pg_wal` where `%p` lies in such a one, else the
    /// working directory, which under `PostgreSQL` is the data directory.
    ///
    /// # Errors
    /// If it cannot be told whether there is a control file.
    pub(crate) fn of(destination: &Path) -> Result<Option<Self>, AskingServerError> {
        let above = DataDirectory::above_wal_file(destination);
        for directory in above.into_iter().chain([DataDirectory::new(".")]) {
            let found = Self { directory };
            if found.has("global/pg_control")? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether it follows a primary, and so asks again for what it did not
    /// get. Where both signal files lie, this one wins. In doubt it does not.
    ///
    /// Source: `readRecoverySignalFile`, src/backend/access/transam/xlogrecovery.c.
    pub(crate) fn is_standby(&self) -> bool {
        self.directory.has_standby_signal()
    }

    /// Which cluster it is.
    pub(crate) fn system_identifier(&self) -> Result<SystemIdentifier, AskingServerError> {
        self.directory
            .control_file()
            .map(|control| control.system_identifier)
            .map_err(AskingServerError::Control)
    }

    /// The histories that lie in its `pg_wal`.
    pub(crate) fn histories(&self) -> Result<Vec<TimelineHistory>, AskingServerError> {
        let folder = self.directory.join("pg_wal");
        let mut histories = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
            let name = entry.map_err(failed(&folder))?.file_name();
            if let Some(Ok(WalFileName::History(timeline))) = name.to_str().map(str::parse)
                && let Some(history) = self.history(timeline)?
            {
                histories.push(history);
            }
        }
        Ok(histories)
    }

    /// The history of one timeline, if it lies in `pg_wal`.
    pub(crate) fn history(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<TimelineHistory>, AskingServerError> {
        let name = WalFileName::History(timeline).to_string();
        let path = self.directory.join("pg_wal").join(name);
        let bytes = match read_start(&path, MAX_HISTORY_BYTES) {
            Ok(bytes) => bytes,
            // the server renames such files into their place and away
            Err(AskingServerError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        TimelineHistory::parse(timeline, &bytes)
            .map(Some)
            .map_err(|source| AskingServerError::History { path, source })
    }

    /// Whether its `pg_wal` holds a segment under its own name. A file that was
    /// made or recycled for that name in advance is not the segment: its first
    /// page says another position or nothing.
    ///
    /// Source: `RemoveXlogFile` and `XLogFileInit`, src/backend/access/transam/xlog.c.
    pub(crate) fn holds(
        &self,
        segment: &SegmentName,
        size: WalSegmentSize,
    ) -> Result<bool, AskingServerError> {
        let path = self.directory.join(format!("pg_wal/{segment}"));
        let page = match read_start(&path, PageHeader::LONG_LEN as u64) {
            Ok(page) => page,
            Err(AskingServerError::Io { source, .. }) if is_absence(&source) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(PageHeader::parse(&page).is_ok_and(|page| {
            segment
                .start(size)
                .is_ok_and(|start| page.page_address == start)
        }))
    }

    /// Whether it is not this server that asks but `pg_rewind`, for the log of
    /// a server at rest: it wants the file at its own name in `pg_wal`, where
    /// a server in recovery never wants it.
    ///
    /// Source: `RestoreArchivedFile`, src/fe_utils/archive.c, and that of
    /// src/backend/access/transam/xlogarchive.c; `sanityChecks`,
    /// src/bin/pg_rewind/pg_rewind.c.
    pub(crate) fn is_rewound(
        &self,
        destination: &Path,
        segment: &SegmentName,
    ) -> Result<bool, AskingServerError> {
        if DataDirectory::above_wal_file(destination).as_ref() != Some(&self.directory)
            || destination.file_name() != Some(OsStr::new(&segment.to_string()))
        {
            return Ok(false);
        }
        let control = self
            .directory
            .control_file()
            .map_err(AskingServerError::Control)?;
        Ok(matches!(
            control.state,
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery
        ))
    }

    /// Absence has to be proven here too: it decides what a hook may answer.
    fn has(&self, member: &str) -> Result<bool, AskingServerError> {
        let path = self.directory.join(member);
        match std::fs::metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(source) => Err(AskingServerError::Io { path, source }),
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn read_start(path: &Path, max_bytes: u64) -> Result<Vec<u8>, AskingServerError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max_bytes).read_to_end(&mut bytes))
        .map_err(failed(path))?;
    Ok(bytes)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AskingServerError {
    let path = path.to_owned();
    move |source| AskingServerError::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["global", "pg_wal"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("global/pg_control"), "x").unwrap();
        dir
    }

    fn server(dir: &tempfile::TempDir) -> AskingServer {
        AskingServer::of(&dir.path().join("pg_wal/RECOVERYXLOG"))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn it_is_found_above_pg_wal_and_nowhere_else() {
        let dir = directory();
        assert_eq!(server(&dir).directory.path(), dir.path());
        let elsewhere = AskingServer::of(&dir.path().join("other/X")).unwrap();
        assert_eq!(elsewhere, None);
    }

    #[test]
    fn the_histories_in_pg_wal_are_read_and_nothing_else_is() {
        let dir = directory();
        let wal = dir.path().join("pg_wal");
        std::fs::write(wal.join("00000002.history"), "1\t0/5000100\tr\n").unwrap();
        std::fs::write(wal.join("0000000100000000000000A1"), "").unwrap();
        std::fs::write(wal.join("x.history"), "").unwrap();
        let server = server(&dir);
        assert_eq!(server.histories().unwrap().len(), 1);
        std::fs::write(wal.join("00000003.history"), "garbage\n").unwrap();
        assert!(matches!(
            server.histories(),
            Err(AskingServerError::History { .. })
        ));
    }

    #[test]
    fn a_damaged_control_file_is_an_error_and_no_absence() {
        let dir = directory();
        assert!(matches!(
            server(&dir).system_identifier(),
            Err(AskingServerError::Control(_))
        ));
    }

    #[test]
    fn a_standby_is_told_by_its_signal_file() {
        let dir = directory();
        assert!(!server(&dir).is_standby());
        std::fs::write(dir.path().join("standby.signal"), "").unwrap();
        assert!(server(&dir).is_standby());
    }
}
