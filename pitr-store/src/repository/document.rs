//! The JSON documents of a repository: what they hold, how they are read.

use pitr_core::{PostgresMajor, SystemIdentifier, WalSegmentSize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::RepositoryError;
use crate::encryption::{ENCRYPTION_FORMAT, EncryptionDocument, EncryptionError};
use crate::key::ObjectKey;
use crate::store::{Medium, Store, StoreError};

/// The format of a repository, and of every document in it, that this build
/// reads and writes.
pub const FORMAT: u32 = 1;

/// The format of `pitr.json` in an encrypted repository: a reader that knows
/// nothing of encryption must not take ciphertext for damage, nor write its own
/// plain text beside it.
pub const ENCRYPTED_FORMAT: u32 = 2;

/// No document of the repository's root is larger; a backup's has its own limit.
const MAX_DOCUMENT_BYTES: u64 = 64 * 1024;

/// `pitr.json`: makes a folder a repository. Written by `init` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryDocument {
    /// [`FORMAT`], or [`ENCRYPTED_FORMAT`].
    pub format: u32,
    /// When it was made: `2026-11-20T07:45:02Z`. For people.
    pub created: String,
    /// What made it: name and version. For people.
    pub tool: String,
    /// What `init` found out about the medium; `None` where its nature says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// How what lies in it is encrypted; `None` where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionDocument>,
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
    parse(store, key, &read_bytes(store, key, &[FORMAT])?)
}

/// Reads `pitr.json`.
pub(super) fn read_repository(
    store: &dyn Store,
    key: &ObjectKey,
) -> Result<RepositoryDocument, RepositoryError> {
    /// What tells a newer format of encryption from a broken document.
    #[derive(Deserialize)]
    struct EncryptionOnly {
        encryption: Option<FormatOnly>,
    }
    let bytes = read_bytes(store, key, &[FORMAT, ENCRYPTED_FORMAT])?;
    let EncryptionOnly { encryption } = parse(store, key, &bytes)?;
    if let Some(FormatOnly { format }) = encryption
        && format != u64::from(ENCRYPTION_FORMAT)
    {
        return Err(RepositoryError::from(EncryptionError::UnknownFormat {
            location: store.object_location(key),
            found: format,
        }));
    }
    let document: RepositoryDocument = parse(store, key, &bytes)?;
    if document.format == ENCRYPTED_FORMAT && document.encryption.is_none() {
        let source = serde::de::Error::missing_field("encryption");
        let location = store.object_location(key);
        return Err(DocumentError::Syntax { location, source }.into());
    }
    Ok(document)
}

/// The bytes of a document of one of these formats.
fn read_bytes(
    store: &dyn Store,
    key: &ObjectKey,
    formats: &[u32],
) -> Result<Vec<u8>, DocumentError> {
    let bytes = store.read_whole(key, MAX_DOCUMENT_BYTES)?;
    let FormatOnly { format } = parse(store, key, &bytes)?;
    if !formats.iter().any(|known| format == u64::from(*known)) {
        return Err(DocumentError::UnknownFormat {
            location: store.object_location(key),
            found: format,
        });
    }
    Ok(bytes)
}

fn parse<D: DeserializeOwned>(
    store: &dyn Store,
    key: &ObjectKey,
    bytes: &[u8],
) -> Result<D, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Syntax {
        location: store.object_location(key),
        source,
    })
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
