//! The thread of one repository.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use pitr_core::WalFileName;

use super::{Event, MemberError, Order};
use crate::codec::Encoding;
use crate::encryption::KeySource;
use crate::repository::{ClaimError, ClusterIdentity, Repository};
use crate::store::{ObjectWriter, Operation, Store, StoreError};
use crate::wal::Recollection;

/// One repository's thread.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: KeySource,
    pub(super) recollection: Option<Arc<dyn Recollection>>,
    pub(super) identity: ClusterIdentity,
    pub(super) name: WalFileName,
    pub(super) encoding: Encoding,
    pub(super) tell: Sender<(usize, Event)>,
    pub(super) orders: Receiver<Order>,
}

impl Worker {
    pub(super) fn run(self) {
        let event = match self.work() {
            Ok(true) => Event::Published,
            // nobody waits any more
            Ok(false) => return,
            Err(error) => Event::Failed(error),
        };
        let _ = self.tell.send((self.index, event));
    }

    /// Whether the object was published.
    fn work(&self) -> Result<bool, MemberError> {
        let repository =
            Repository::open_with(Arc::clone(&self.store), &self.keys).map_err(ClaimError::from)?;
        let archive = repository.claim(&self.identity)?.wal();
        let archive = archive.with_recollection(self.recollection.clone());
        let store = Arc::clone(&archive.store);
        let standing = archive.locate(&self.name)?;
        let (key, rivals) = archive.target(&self.name, self.encoding)?;
        let _ = self
            .tell
            .send((self.index, Event::Reached { archive, standing }));
        let location = store.object_location(&key);
        let mut writer: Option<Box<dyn ObjectWriter>> = None;
        for order in &self.orders {
            match order {
                Order::Begin => {
                    // an unfinished one gives up its name and room first
                    drop(writer.take());
                    writer = Some(store.create(&key, &rivals)?);
                }
                Order::Block(bytes) => {
                    if let Some(writer) = &mut writer {
                        writer.write_all(&bytes).map_err(|error| {
                            StoreError::from_io(error, Operation::Write, &location)
                        })?;
                    }
                }
                Order::Publish(digest) => {
                    if let Some(mut writer) = writer.take() {
                        if let Some(digest) = &digest {
                            writer.set_content_digest(digest);
                        }
                        writer.publish()?;
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}
