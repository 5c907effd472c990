//! Every file is checked against the manifest while it is stored.

use std::collections::BTreeMap;
use std::io::{self, Read};

use pitr_console::Failure;
use pitr_core::{BackupManifest, ChecksumAlgorithm, FileChecksum, ManifestFile};
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

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
    state: State,
}

enum State {
    Nothing,
    Crc32c(u32),
    Sha(Box<dyn DynDigest + Send>),
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R, checksum: Option<&FileChecksum>) -> Self {
        let state = match checksum.map(|checksum| checksum.algorithm) {
            None => State::Nothing,
            Some(ChecksumAlgorithm::Crc32c) => State::Crc32c(0),
            Some(ChecksumAlgorithm::Sha224) => State::Sha(Box::new(Sha224::default())),
            Some(ChecksumAlgorithm::Sha256) => State::Sha(Box::new(Sha256::default())),
            Some(ChecksumAlgorithm::Sha384) => State::Sha(Box::new(Sha384::default())),
            Some(ChecksumAlgorithm::Sha512) => State::Sha(Box::new(Sha512::default())),
        };
        Self { inner, state }
    }

    /// Compares what passed with what the manifest has.
    pub(super) fn matches(self, expected: Option<&FileChecksum>) -> bool {
        let Some(expected) = expected else {
            return true;
        };
        match self.state {
            State::Nothing => false,
            State::Crc32c(crc) => expected.crc32c() == Some(crc),
            State::Sha(digest) => *digest.finalize() == *expected.value,
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match &mut self.state {
            State::Nothing => {}
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, &buffer[..count]),
            State::Sha(digest) => digest.update(&buffer[..count]),
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_of_a_manifest_is_computed() {
        // values of "123456789" by the sha*sum tools and of CRC-32C by its check value
        for (algorithm, value) in [
            (ChecksumAlgorithm::Crc32c, "839206e3"),
            (
                ChecksumAlgorithm::Sha224,
                "9b3e61bf29f17c75572fae2e86e17809a4513d07c8a18152acf34521",
            ),
            (
                ChecksumAlgorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            let value: Vec<u8> = (0..value.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&value[i..i + 2], 16).unwrap())
                .collect();
            let checksum = FileChecksum { algorithm, value };
            let hash = |bytes: &[u8]| {
                let mut hashing = Hashing::new(bytes, Some(&checksum));
                io::copy(&mut hashing, &mut io::sink()).unwrap();
                hashing.matches(Some(&checksum))
            };
            assert!(hash(b"123456789"), "{algorithm}");
            assert!(!hash(b"123456780"), "{algorithm}");
        }
    }
}
