//! Several repositories that are to hold the same.

use std::sync::Arc;

use super::{Repository, RepositoryError};
use crate::encryption::KeySource;
use crate::store::Store;
use crate::wal::Recollection;

/// The repositories that one server archives into and restores from, in the
/// order of the setting. One alone is a set too.
#[derive(Clone, Debug)]
pub struct RepositorySet {
    stores: Vec<Arc<dyn Store>>,
    required: usize,
    keys: KeySource,
    recollection: Option<Arc<dyn Recollection>>,
}

/// A repository that gave no answer.
#[derive(Debug)]
pub struct Unreached {
    /// Where it is.
    pub location: String,
    /// Why it gave none.
    pub error: RepositoryError,
}

/// What became of opening a set.
#[derive(Debug, Default)]
pub struct Reached {
    /// Those that answered, in the order of the setting.
    pub repositories: Vec<Repository>,
    /// Those that did not.
    pub unreached: Vec<Unreached>,
}

impl RepositorySet {
    /// A set of the repositories on `stores`. `required` of them (all, where
    /// `None`) must have what is written before it counts as done.
    pub fn new(stores: Vec<Arc<dyn Store>>, required: Option<usize>) -> Self {
        let all = stores.len();
        Self {
            stores,
            required: required.unwrap_or(all).clamp(1, all.max(1)),
            keys: KeySource::default(),
            recollection: None,
        }
    }

    /// The same, with what was written down of objects in the repositories
    /// ([`WalArchive::with_recollection`]).
    ///
    /// [`WalArchive::with_recollection`]: crate::wal::WalArchive::with_recollection
    #[must_use]
    pub fn with_recollection(mut self, recollection: Option<Arc<dyn Recollection>>) -> Self {
        self.recollection = recollection;
        self
    }

    /// What was written down of objects in the repositories.
    pub fn recollection(&self) -> Option<&Arc<dyn Recollection>> {
        self.recollection.as_ref()
    }

    /// The same, opened with these keys where something is encrypted.
    #[must_use]
    pub fn with_keys(mut self, keys: KeySource) -> Self {
        self.keys = keys;
        self
    }

    /// The keys that the repositories are opened with.
    pub fn keys(&self) -> &KeySource {
        &self.keys
    }

    /// Opens the repository on one of [`RepositorySet::stores`].
    ///
    /// # Errors
    /// As [`Repository::open_with`].
    pub fn open_one(&self, store: &Arc<dyn Store>) -> Result<Repository, RepositoryError> {
        Repository::open_with(Arc::clone(store), &self.keys)
    }

    /// The stores, in the order of the setting.
    pub fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    /// How many must have what is written before it counts as done.
    pub fn required(&self) -> usize {
        self.required
    }

    /// Opens all of them, at the same time where there are several: one that
    /// is slow to fail does not keep the others waiting.
    pub fn open(&self) -> Reached {
        let mut reached = Reached::default();
        let opened: Vec<_> = if let [one] = self.stores.as_slice() {
            vec![self.open_one(one)]
        } else {
            std::thread::scope(|scope| {
                let threads: Vec<_> = self
                    .stores
                    .iter()
                    .map(|store| {
                        let thread = std::thread::Builder::new();
                        thread.spawn_scoped(scope, move || self.open_one(store))
                    })
                    .collect();
                threads
                    .into_iter()
                    .zip(&self.stores)
                    .map(|(thread, store)| match thread.map(|thread| thread.join()) {
                        Ok(Ok(opened)) => opened,
                        // no thread was to be had
                        Ok(Err(_)) | Err(_) => self.open_one(store),
                    })
                    .collect()
            })
        };
        for (store, opened) in self.stores.iter().zip(opened) {
            match opened {
                Ok(repository) => reached.repositories.push(repository),
                Err(error) => reached.unreached.push(Unreached {
                    location: store.location(),
                    error,
                }),
            }
        }
        reached
    }
}
