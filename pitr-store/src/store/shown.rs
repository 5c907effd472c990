//! Objects whose names are made durable together.

use std::fmt;

use super::StoreError;

/// What is left to do for a folder.
type SyncFolder = Box<dyn FnOnce() -> Result<(), StoreError> + Send>;

/// An object that shows. Nobody may be told that it is stored before
/// [`Shown::settle_all`] has returned `Ok` for it.
#[must_use = "its name may not survive power loss yet"]
pub struct Shown(Option<(FolderId, SyncFolder)>);

/// Device and inode of the folder that holds the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FolderId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Shown {
    /// There is nothing left to do.
    pub fn durable() -> Self {
        Self(None)
    }

    /// Durable once `sync` has synced the folder.
    pub(crate) fn in_folder(
        folder: FolderId,
        sync: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) -> Self {
        Self(Some((folder, Box::new(sync))))
    }

    /// Makes the names of all these objects durable: each folder is synced once.
    ///
    /// # Errors
    /// A folder could not be synced: then none of the objects counts as stored.
    pub fn settle_all(shown: impl IntoIterator<Item = Self>) -> Result<(), StoreError> {
        // of each folder one; all of them were shown before this call
        let mut folders: Vec<(FolderId, SyncFolder)> = Vec::new();
        for (folder, sync) in shown.into_iter().filter_map(|shown| shown.0) {
            if !folders.iter().any(|(known, _)| *known == folder) {
                folders.push((folder, sync));
            }
        }
        folders.into_iter().try_for_each(|(_, sync)| sync())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown")
            .field(&self.0.as_ref().map(|(folder, _)| folder))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_folder_is_synced_once_and_no_failure_is_lost() {
        let synced = Arc::new(AtomicU32::new(0));
        let shown = |inode, fails: bool| {
            let synced = Arc::clone(&synced);
            let folder = FolderId { device: 1, inode };
            Shown::in_folder(folder, move || {
                synced.fetch_add(1, Ordering::Relaxed);
                if fails {
                    return Err(StoreError::NotFound {
                        location: "x".to_owned(),
                    });
                }
                Ok(())
            })
        };
        Shown::settle_all([
            shown(1, false),
            Shown::durable(),
            shown(1, false),
            shown(2, false),
        ])
        .unwrap();
        assert_eq!(synced.load(Ordering::Relaxed), 2);
        Shown::settle_all([shown(1, false), shown(2, true)]).unwrap_err();
    }
}
