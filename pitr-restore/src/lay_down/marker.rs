//! The mark of a restore that is not finished.

use std::path::{Path, PathBuf};

use pitr_core::SystemIdentifier;
use serde::{Deserialize, Serialize};

/// Its name in the data directory that is being filled.
pub(crate) const MARKER: &str = "pitr-restore.unfinished";

/// What a restore notes before its first file and takes away after its last:
/// whoever finds it knows that the directory is not whole, and what else was
/// being filled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedRestore {
    /// Label of the backup.
    pub(crate) label: String,
    /// The cluster that it is of.
    #[serde(default)]
    pub(crate) system_identifier: Option<SystemIdentifier>,
    /// Folders that are being filled: nothing in them is anybody else's.
    pub(crate) folders: Vec<PathBuf>,
}

impl UnfinishedRestore {
    /// Reads a marker; `None` where there is none. One that was cut short by
    /// a crash still marks the directory.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| Self {
            label: "(unknown)".to_owned(),
            system_identifier: None,
            folders: path.parent().map(Path::to_owned).into_iter().collect(),
        }))
    }
}
