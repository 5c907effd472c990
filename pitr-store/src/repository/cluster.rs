//! One cluster's part of a repository.

use std::sync::Arc;

use pitr_core::{PostgresMajor, SystemIdentifier, WalSegmentSize};

use super::document::ClusterDocument;
use crate::backup::BackupCatalog;
use crate::key::ObjectKey;
use crate::store::Store;
use crate::wal::WalArchive;

/// What tells a cluster from every other, and its log from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterIdentity {
    /// Given by `initdb`; copies and restored clusters keep it.
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL major version.
    pub major: PostgresMajor,
    /// Bytes in one WAL segment.
    pub segment_size: WalSegmentSize,
}

/// A cluster that a repository knows.
#[derive(Clone, Debug)]
pub struct Cluster {
    store: Arc<dyn Store>,
    folder: ObjectKey,
    document: ClusterDocument,
    /// When the repository was made.
    created: Arc<str>,
}

impl Cluster {
    pub(super) fn new(
        store: Arc<dyn Store>,
        folder: ObjectKey,
        document: ClusterDocument,
        created: &str,
    ) -> Self {
        Self {
            store,
            folder,
            document,
            created: Arc::from(created),
        }
    }

    /// Who the cluster is.
    pub fn identity(&self) -> ClusterIdentity {
        ClusterIdentity {
            system_identifier: self.document.system_identifier,
            major: self.document.postgres_major,
            segment_size: self.document.wal_segment_size,
        }
    }

    /// What `cluster.json` says.
    pub fn document(&self) -> &ClusterDocument {
        &self.document
    }

    /// The store with what the cluster's objects hold
    /// ([`Repository::content`](super::Repository::content)).
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The folder of everything that belongs to this cluster.
    pub fn folder(&self) -> &ObjectKey {
        &self.folder
    }

    /// The cluster's write-ahead log.
    pub fn wal(&self) -> WalArchive {
        WalArchive::new(
            Arc::clone(&self.store),
            &self.folder,
            self.identity(),
            Arc::clone(&self.created),
        )
    }

    /// Its base backups.
    #[must_use]
    pub fn backups(&self) -> BackupCatalog {
        let folder = ObjectKey::of_layout(format!("{}/backups", self.folder));
        BackupCatalog::new(Arc::clone(&self.store), folder)
    }
}
