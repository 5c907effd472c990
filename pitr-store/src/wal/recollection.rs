//! What this host remembers of objects that it has stored.

use std::fmt;

use super::fingerprint::Fingerprint;
use super::source::WalSource;
use super::{PushError, StoredObject, WalArchive, push};
use crate::key::ObjectKey;
use crate::store::{ObjectTrace, StoreError};
use pitr_core::SystemIdentifier;

/// Which log is meant, beyond doubt: another repository at the same place, or the same
/// one seen under another address, is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArchiveAddress {
    /// Where the repository lies; no secret.
    pub location: String,
    /// When it was made, as its `pitr.json` says.
    pub created: String,
    /// Whose log it is.
    pub system_identifier: SystemIdentifier,
}

/// An object as it was when it had been stored and was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recollected {
    /// Tells it from any object that took its place since.
    pub trace: ObjectTrace,
    /// Its content.
    pub fingerprint: Fingerprint,
}

/// Something that outlives the process and remembers objects.
///
/// What it says spares reading the object: an object with the same trace is the one
/// that was remembered, and an offered file with the same fingerprint is its content.
/// So it must not say what was not written down after the object was durable. To
/// forget is safe at any time: then contents are compared.
pub trait Recollection: Send + Sync + fmt::Debug {
    /// What is remembered of the object `key` there.
    fn of(&self, address: &ArchiveAddress, key: &ObjectKey) -> Option<Recollected>;
}

impl WalArchive {
    /// Which log this is.
    pub fn address(&self) -> ArchiveAddress {
        ArchiveAddress {
            location: self.store.location(),
            created: self.created.to_string(),
            system_identifier: self.cluster.system_identifier,
        }
    }

    /// What is to be remembered of a stored object with this content. `Ok(None)` if
    /// it is not there any more.
    ///
    /// # Errors
    /// Of the store.
    pub fn recollect(
        &self,
        object: &StoredObject,
        fingerprint: Fingerprint,
    ) -> Result<Option<Recollected>, StoreError> {
        Ok(self
            .store
            .trace(&object.key)?
            .map(|trace| Recollected { trace, fingerprint }))
    }

    /// The fingerprint of the source, if `stored` is remembered as having the same
    /// content. Whatever is not as it was is no error: then contents are
    /// compared.
    pub(super) fn is_recollected(
        &self,
        stored: &StoredObject,
        source: &mut dyn WalSource,
    ) -> Result<Option<Fingerprint>, PushError> {
        let Some(recollection) = &self.recollection else {
            return Ok(None);
        };
        let Some(known) = recollection
            .of(&self.address(), &stored.key)
            .filter(|known| known.fingerprint.content_bytes() == source.content_bytes())
        else {
            return Ok(None);
        };
        if !matches!(self.store.trace(&stored.key), Ok(Some(trace)) if trace == known.trace) {
            return Ok(None);
        }
        let offered = Fingerprint::of_source(source).map_err(|e| push::source_error(source, e))?;
        Ok(offered.filter(|offered| *offered == known.fingerprint))
    }
}
