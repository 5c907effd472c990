//! Other copies of the same base backup.

use std::fmt;
use std::sync::OnceLock;

use super::read_error::BackupReadError;
use super::reader::BackupReader;

type Tell = dyn Fn(&BackupReadError, &BackupReader) + Send + Sync;

/// Where a base backup may be had that turns out damaged in one place.
///
/// A copy counts only if its description and its index are the same: sizes,
/// paths, places and checksums of every file.
pub struct Elsewhere {
    find: Box<dyn Fn() -> Vec<BackupReader> + Send + Sync>,
    copies: OnceLock<Vec<BackupReader>>,
    /// Told of what is wrong, and of the copy that is tried next.
    pub(super) tell: Box<Tell>,
}

impl Elsewhere {
    /// `find` opens backups of the same label, once, when one is needed; `tell`
    /// is called for every damage that another copy stands in for.
    pub fn new(
        find: impl Fn() -> Vec<BackupReader> + Send + Sync + 'static,
        tell: impl Fn(&BackupReadError, &BackupReader) + Send + Sync + 'static,
    ) -> Self {
        Self {
            find: Box::new(find),
            copies: OnceLock::new(),
            tell: Box::new(tell),
        }
    }

    pub(super) fn copies_of(&self, reader: &BackupReader) -> &[BackupReader] {
        self.copies.get_or_init(|| {
            let mut copies = (self.find)();
            copies.retain(|copy| copy.info() == reader.info() && copy.index() == reader.index());
            copies
        })
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").finish_non_exhaustive()
    }
}
