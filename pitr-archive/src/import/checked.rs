//! Every file is checked against the manifest while it is stored.

use std::collections::BTreeMap;
use std::io::{self, Read};

use pitr_console::Failure;
use pitr_core::{BackupManifest, FileChecksum, FileHasher, ManifestFile};

use crate::manifest_proof::{differs, is_unlisted};

/// The files of a manifest that have not come yet.
pub(super) struct Checklist<'m> {
    open: BTreeMap<&'m [u8], &'m ManifestFile>,
}

impl<'m> Checklist<'m> {
    pub(super) fn new(manifest: &'m BackupManifest) -> Self {
        Self {
            open: manifest
                .files
                .iter()
                .map(|file| (file.path.as_slice(), file))
                .collect(),
        }
    }

    /// The manifest's entry for a file that is about to be read; `None` for
    /// what a manifest does not list.
    pub(super) fn take(
        &mut self,
        path: &[u8],
        size: u64,
    ) -> Result<Option<&'m ManifestFile>, Failure> {
        let Some(file) = self.open.remove(path) else {
            if is_unlisted(path) {
                return Ok(None);
            }
            return Err(differs(path, "it is in the backup and not in the manifest"));
        };
        if file.size != size {
            return Err(differs(
                path,
                &format!("the manifest says {} bytes, it has {size}", file.size),
            ));
        }
        Ok(Some(file))
    }

    /// That every file of the manifest has come.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self.open.keys().find(|path| !is_unlisted(path)) {
            Some(path) => Err(differs(path, "it is in the manifest and not in the backup")),
            None => Ok(()),
        }
    }
}

/// Passes bytes on and computes their checksum by the manifest's algorithm.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Option<FileHasher>,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R, checksum: Option<&FileChecksum>) -> Self {
        let hasher = checksum.map(|checksum| FileHasher::new(checksum.algorithm));
        Self { inner, hasher }
    }

    /// Compares what passed with what the manifest has.
    pub(super) fn matches(self, expected: Option<&FileChecksum>) -> bool {
        match expected {
            None => true,
            Some(expected) => self.hasher.map(FileHasher::finish).as_ref() == Some(expected),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use pitr_core::ChecksumAlgorithm;

    use super::*;

    #[test]
    fn a_file_with_another_checksum_is_noticed() {
        let mut hasher = FileHasher::new(ChecksumAlgorithm::Sha256);
        hasher.update(b"123456789");
        let checksum = hasher.finish();
        let matches = |bytes: &[u8]| {
            let mut hashing = Hashing::new(bytes, Some(&checksum));
            io::copy(&mut hashing, &mut io::sink()).unwrap();
            hashing.matches(Some(&checksum))
        };
        assert!(matches(b"123456789"));
        assert!(!matches(b"123456780"));
    }
}
