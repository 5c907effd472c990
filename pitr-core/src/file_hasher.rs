//! Checksums of files as a backup manifest has them.

use crate::crc32c;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::manifest_file::{ChecksumAlgorithm, FileChecksum};

/// Computes a file's checksum by one of a manifest's algorithms, piece by piece.
///
/// Source: `pg_checksum_update`, src/common/checksum_helper.c.
pub struct FileHasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

enum State {
    Crc32c(u32),
    Sha(Box<dyn DynDigest + Send>),
}

impl FileHasher {
    /// Begins a checksum.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let state = match algorithm {
            ChecksumAlgorithm::Crc32c => State::Crc32c(0),
            ChecksumAlgorithm::Sha224 => State::Sha(Box::new(Sha224::default())),
            ChecksumAlgorithm::Sha256 => State::Sha(Box::new(Sha256::default())),
            ChecksumAlgorithm::Sha384 => State::Sha(Box::new(Sha384::default())),
            ChecksumAlgorithm::Sha512 => State::Sha(Box::new(Sha512::default())),
        };
        Self { algorithm, state }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            State::Sha(digest) => digest.update(bytes),
        }
    }

    /// The checksum of everything that was taken.
    #[must_use]
    pub fn finish(self) -> FileChecksum {
        match self.state {
            State::Crc32c(crc) => FileChecksum::from_crc32c(crc),
            State::Sha(digest) => FileChecksum {
                algorithm: self.algorithm,
                value: digest.finalize().into_vec(),
            },
        }
    }
}

impl std::fmt::Debug for FileHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileHasher")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
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
            let mut hasher = FileHasher::new(algorithm);
            hasher.update(b"1234");
            hasher.update(b"");
            hasher.update(b"56789");
            let checksum = hasher.finish();
            assert_eq!(checksum.algorithm, algorithm);
            assert_eq!(checksum.to_string(), value);
        }
        for algorithm in [ChecksumAlgorithm::Sha384, ChecksumAlgorithm::Sha512] {
            let checksum = FileHasher::new(algorithm).finish();
            assert_eq!(checksum.value.len(), algorithm.value_len());
        }
    }
}
