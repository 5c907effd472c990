//! The write-ahead log of one cluster in a repository.

mod ahead;
mod catalog;
mod compare;
mod copy;
mod fetch;
mod fingerprint;
mod identify;
mod layout;
#[cfg(test)]
mod listing_tests;
mod push;
mod push_all;
mod push_error;
mod recent;
mod recollection;
mod scan;
mod source;
mod summary;
mod summary_frame;
#[cfg(test)]
mod tests;
mod text_file;
mod turn;

use std::sync::Arc;

use crate::codec::Encoding;
use crate::key::ObjectKey;
use crate::repository::ClusterIdentity;
use crate::store::{Store, StoreError};
use pitr_core::WalFileName;

pub use ahead::EncodedAhead;
pub use catalog::{StoredSegment, TimelineContent, WalGap, WalRange};
pub use compare::Origin;
pub use copy::{Copied, CopyError};
pub use fetch::{FetchError, Fetched};
pub use fingerprint::{Fingerprint, Fingerprinter};
pub use identify::{IdentifyError, SegmentIdentity, identify};
pub use push::Pushed;
pub use push_all::{MemberError, MemberPush, push_to_all, push_to_all_in_turn};
pub use push_error::PushError;
pub use recent::{CaughtUp, catch_up};
pub use recollection::{ArchiveAddress, Recollected, Recollection};
pub use source::{WalBytes, WalFile, WalSource};
pub use summary::{SummaryError, summary_at_end, summary_to_frame};
pub use summary_frame::SummaryFrameError;
pub use text_file::{MAX_TEXT_FILE_BYTES, TextFileError, check_text_file};
pub use turn::{PushedInTurn, Turn};

/// The stored log of one cluster: [`push`](Self::push), [`locate`](Self::locate),
/// [`fetch_to`](Self::fetch_to), and what there is.
#[derive(Clone, Debug)]
pub struct WalArchive {
    store: Arc<dyn Store>,
    folder: ObjectKey,
    cluster: ClusterIdentity,
    /// Of the repository, as its document says.
    created: Arc<str>,
    recollection: Option<Arc<dyn Recollection>>,
    scans: bool,
}

/// A file of the log as it lies in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// What PostgreSQL calls it.
    pub name: WalFileName,
    /// Where it lies in the store.
    pub key: ObjectKey,
    /// The same for messages.
    pub location: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Bytes that it takes in the store.
    pub stored_bytes: u64,
}

impl WalArchive {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        cluster_folder: &ObjectKey,
        cluster: ClusterIdentity,
        created: Arc<str>,
    ) -> Self {
        Self {
            store,
            folder: layout::wal_folder(cluster_folder),
            cluster,
            created,
            recollection: None,
            scans: true,
        }
    }

    /// The same, with what was written down of objects that it holds: a push asks
    /// it before it reads a stored object.
    #[must_use]
    pub fn with_recollection(mut self, recollection: Option<Arc<dyn Recollection>>) -> Self {
        self.recollection = recollection;
        self
    }

    /// Whether objects show at once ([`Store::shows_at_once`]).
    pub fn shows_at_once(&self) -> bool {
        self.store.shows_at_once()
    }

    /// Pushes without reading the records, and so without summaries and without
    /// noticing damage: for the benchmark that tells what the scan costs, and
    /// for nothing else.
    #[doc(hidden)]
    #[must_use]
    pub fn without_scan_to_compare(mut self) -> Self {
        self.scans = false;
        self
    }

    /// Tells `store` what a push of `name` for this cluster is going to ask;
    /// whether it has begun to ask it.
    pub(crate) fn expect_push(
        store: &dyn Store,
        documents: &[ObjectKey],
        cluster_folder: &ObjectKey,
        name: &WalFileName,
    ) -> bool {
        let names = layout::keys(&layout::wal_folder(cluster_folder), name);
        let names: Vec<ObjectKey> = names.into_iter().map(|(key, _)| key).collect();
        store.expect(documents, &names)
    }

    /// Whose log it is.
    pub fn cluster(&self) -> ClusterIdentity {
        self.cluster
    }

    /// The stored copy of `name`, whatever codec it was stored with. `Ok(None)`
    /// only if its absence is proven.
    ///
    /// # Errors
    /// The store failed, or something that is no object has the name.
    pub fn locate(&self, name: &WalFileName) -> Result<Option<StoredObject>, StoreError> {
        Ok(self.locate_all(name)?.into_iter().next())
    }

    /// Every stored copy of `name`, the one that [`WalArchive::locate`] gives
    /// first. There is one at most, but where the medium has no locks: there two
    /// writers with different codecs can have passed each other. Who reads
    /// compares them.
    pub(super) fn locate_all(&self, name: &WalFileName) -> Result<Vec<StoredObject>, StoreError> {
        let (keys, encodings): (Vec<_>, Vec<_>) =
            layout::keys(&self.folder, name).into_iter().unzip();
        let there = self.store.which_of(&keys)?.into_iter();
        Ok(there
            .filter_map(|(place, meta)| {
                let key = keys.get(place)?.clone();
                Some(StoredObject {
                    name: *name,
                    location: self.store.object_location(&key),
                    key,
                    encoding: encodings.get(place).copied()?,
                    stored_bytes: meta.size,
                })
            })
            .collect())
    }

    /// Longest content that `name` can have.
    fn max_content_bytes(&self, name: &WalFileName) -> u64 {
        match name {
            WalFileName::Segment(_) | WalFileName::Partial(_) => self.cluster.segment_size.bytes(),
            WalFileName::History(_) | WalFileName::Backup { .. } => MAX_TEXT_FILE_BYTES,
        }
    }
}
