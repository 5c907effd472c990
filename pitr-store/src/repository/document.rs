//! The JSON documents of a repository: what they hold, how they are read.

use pitr_core::{PostgresMajor, SystemIdentifier, WalSegmentSize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;
use crate::store::{Medium, Store, StoreError};

/// The only format of a repository that this build reads and writes.
pub const FORMAT: u32 = 1;

/// No document of the repository's root is larger; a backup's has its own limit.
const MAX_DOCUMENT_BYTES: u64 = 64 * 1024;

/// `pitr.json`: makes a folder a repository. Written by `init` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryDocument {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was made: `2026-11-20T07:45:02Z`. For people.
    pub created: String,
    /// What made it: name and version. For people.
    pub tool: String,
    /// What `init` found out about the medium; `None` where its nature says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
}

/// `claim.json`: which cluster's push made a fresh repository its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimDocument {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
}

/// `<system identifier>/cluster.json`: the cluster is known to this repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDocument {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster; the same as the folder's name.
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL major version.
    pub postgres_major: PostgresMajor,
    /// Bytes in one segment of its log.
    pub wal_segment_size: WalSegmentSize,
    /// When it came into this repository: `2026-11-20T07:45:02Z`. For people.
    pub first_seen: String,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The store failed; [`StoreError::NotFound`] where the document is absent.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A format that this build does not know.
    #[error("\"{location}\" has format {found}, this build reads format {FORMAT}")]
    UnknownFormat {
        /// The document.
        location: String,
        /// Its format.
        found: u64,
    },
    /// Not the JSON that belongs there.
    #[error("\"{location}\" cannot be read: {source}")]
    Syntax {
        /// The document.
        location: String,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// Its content belongs elsewhere.
    #[error("\"{location}\" is about cluster {found}, the folder is that of cluster {expected}")]
    WrongCluster {
        /// The document.
        location: String,
        /// The cluster by the folder's name.
        expected: SystemIdentifier,
        /// The cluster by the document.
        found: SystemIdentifier,
    },
}

impl DocumentError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::UnknownFormat { .. } => Some(
                "The repository was made by a newer version of pitr: install that one here too."
                    .to_owned(),
            ),
            Self::Syntax { location, .. } | Self::WrongCluster { location, .. } => Some(format!(
                "Nothing of pitr ever changes \"{location}\" once it is there. Find out who did; docs/store-format.md shows what belongs in it."
            )),
        }
    }
}

/// The format alone, so that a newer document is told from a broken one.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

/// Reads a document of this format.
pub(crate) fn read<D: DeserializeOwned>(
    store: &dyn Store,
    key: &ObjectKey,
) -> Result<D, DocumentError> {
    let bytes = store.read_whole(key, MAX_DOCUMENT_BYTES)?;
    let location = || store.object_location(key);
    let syntax = |source| DocumentError::Syntax {
        location: location(),
        source,
    };
    let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(syntax)?;
    if format != u64::from(FORMAT) {
        return Err(DocumentError::UnknownFormat {
            location: location(),
            found: format,
        });
    }
    serde_json::from_slice(&bytes).map_err(syntax)
}

/// Publishes a document, for people to read as well.
pub(crate) fn put(
    store: &dyn Store,
    key: &ObjectKey,
    document: &impl Serialize,
) -> Result<(), DocumentError> {
    let mut bytes =
        serde_json::to_vec_pretty(document).map_err(|source| DocumentError::Syntax {
            location: store.object_location(key),
            source,
        })?;
    bytes.push(b'\n');
    Ok(store.put(key, &[], &bytes)?)
}

/// The clock's time as documents hold it.
pub(crate) fn now() -> String {
    chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
