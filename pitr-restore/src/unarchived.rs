//! Log that lies in a data directory and nowhere else.

use std::io;
use std::path::{Path, PathBuf};

use pitr_console::{Explain, Failure};
use pitr_core::WalFileName;
use pitr_store::wal::WalArchive;

/// Names told at most.
const TOLD: usize = 3;

/// Why a `pg_wal` must not be emptied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnarchivedError {
    /// The server has not archived them, and the repository does not have them.
    #[error(
        "{} of \"{}\" not in the repository, from {} on",
        if names.len() == 1 { "1 segment is".to_owned() } else { format!("{} segments are", names.len()) },
        path.display(), names.first().map_or("", String::as_str)
    )]
    Segments {
        /// `pg_wal`.
        path: PathBuf,
        /// Their names, in order.
        names: Vec<String>,
    },
    /// It could not be examined.
    #[error("could not examine \"{}\": {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Explain for UnarchivedError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Segments { path, names } => Some(format!(
                "--delta would delete them, and the commits in them. Archive them first (pitr-archive {0}/NAME NAME, for {1}), or delete their .ready files in {0}/archive_status.",
                path.display(),
                match names.get(..TOLD) {
                    Some(first) if names.len() > TOLD => format!("{}, …", first.join(", ")),
                    _ => names.join(", "),
                }
            )),
            Self::Io { .. } => None,
        }
    }
}

/// Refuses a data directory with segments that its server wanted to archive and
/// that none of the `archives` holds.
///
/// A `pg_wal` that is a link is taken away as a link, and its segments stay.
///
/// Source: `XLogArchiveNotify`, src/backend/access/transam/xlogarchive.c.
pub(crate) fn check(data_directory: &Path, archives: &[WalArchive]) -> Result<(), Failure> {
    let pg_wal = data_directory.join("pg_wal");
    if !std::fs::symlink_metadata(&pg_wal).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let mut names = Vec::new();
    for name in ready(&pg_wal)? {
        let text = name.to_string();
        if pg_wal.join(&text).exists() && !is_in_any(archives, &name)? {
            names.push(text);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    Err(UnarchivedError::Segments {
        path: pg_wal,
        names,
    }
    .into())
}

fn is_in_any(archives: &[WalArchive], name: &WalFileName) -> Result<bool, Failure> {
    for archive in archives {
        if archive.locate(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Segments, whole or partial, that wait to be archived.
fn ready(pg_wal: &Path) -> Result<Vec<WalFileName>, UnarchivedError> {
    let path = pg_wal.join("archive_status");
    let failed = |source| UnarchivedError::Io {
        path: path.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        if let Some(name) = name.and_then(|name| name.parse::<WalFileName>().ok())
            && matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_))
        {
            names.push(name);
        }
    }
    Ok(names)
}
