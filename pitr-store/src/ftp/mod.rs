//! A store on an FTP server, for where there is nothing else.
//!
//! What FTP cannot do, and what takes its place here:
//!
//! - **Once**: rename overwrites on most servers, and cannot be told not to. A
//!   writer looks before, and reads back after.
//! - **Durable**: nothing syncs. Durable means what the server means when it says
//!   that a transfer is complete.
//! - **Absence**: the server refuses the file, and lists the folder without it.

mod connection;
mod folder;
mod hold;
mod netrc;
mod publish;
mod read;
mod recent;
mod transfer;

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use crate::key::ObjectKey;
use crate::store::server_address::ServerAddress;
use crate::store::{
    Entry, FtpOptions, Hold, Medium, NodeKind, ObjectMeta, ObjectWriter, Operation, Promises,
    Store, StoreError,
};
use connection::Server;

/// A store in a folder of an FTP server.
pub(crate) struct FtpStore {
    server: Arc<Server>,
}

impl FtpStore {
    /// The store at `address`. Touches nothing.
    pub(crate) fn new(address: ServerAddress, options: FtpOptions) -> Self {
        Self {
            server: Arc::new(Server::new(address, options)),
        }
    }
}

impl fmt::Debug for FtpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FtpStore").field(&self.location()).finish()
    }
}

impl Store for FtpStore {
    fn location(&self) -> String {
        self.server.text(None)
    }

    fn promises(&self) -> Promises {
        Promises {
            create_only: false,
            exclusive_rivals: false,
        }
    }

    fn probe(&self) -> Result<Option<Medium>, StoreError> {
        // Nothing to be tried: a server that refuses once may replace when two
        // rename at the same moment.
        Ok(Some(Medium { create_only: false }))
    }

    fn establish(&self) -> Result<(), StoreError> {
        self.server.make_root()
    }

    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(publish::FtpWriter::begin(
            &self.server,
            key,
            rivals,
        )?))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        Ok(Box::new(read::FtpReader::open(&self.server, key)?))
    }

    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        read::FtpReader::open(&self.server, key)?.range(range)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.server.stat_object(key)
    }

    fn which_of(&self, keys: &[ObjectKey]) -> Result<Vec<(usize, ObjectMeta)>, StoreError> {
        let Some(first) = keys.first() else {
            return Ok(Vec::new());
        };
        let folder = first.parent();
        if keys.iter().any(|key| key.parent() != folder) {
            return Err(StoreError::Unsupported {
                location: self.object_location(first),
                missing: "a key that stands for the same object lies in another folder",
            });
        }
        let listed = self.server.look_into(folder.as_ref(), Operation::Stat)?;
        let listed = listed.unwrap_or_default();
        let mut there = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            match listed.iter().find(|file| file.name == key.file_name()) {
                None => {}
                Some(file) if file.kind == NodeKind::Object => {
                    there.push((place, ObjectMeta { size: file.size }));
                }
                Some(file) => {
                    return Err(StoreError::WrongKind {
                        location: self.object_location(key),
                        expected: NodeKind::Object,
                        found: file.kind,
                    });
                }
            }
        }
        Ok(there)
    }

    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        self.server.list_folder(folder)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        match self.server.stat_object(key)? {
            Some(_) => Ok(()),
            None => Err(StoreError::NotFound {
                location: self.object_location(key),
            }),
        }
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.server.remove_object(key)
    }

    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.server.remove_folder(folder)
    }

    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        hold::take(&self.server, key)
    }
}

#[cfg(test)]
mod tests;
