//! The bytes of an encrypted object.
//!
//! ```text
//! header   8  "pitrenc", format
//!         32  public half of a key pair that was made for this object
//! chunks      AES-256-GCM of 64 KiB each, the last one shorter; tag of 16 bytes behind each
//! trailer 32  digest of the content, or zeros
//!          1  kind of the digest
//!          7  "pitrend"
//! ```

use super::document::ENCRYPTION_FORMAT;
use super::error::Damage;

pub(super) const MAGIC: &[u8; 7] = b"pitrenc";
pub(super) const END_MAGIC: &[u8; 7] = b"pitrend";
pub(super) const HEADER_BYTES: usize = 40;
pub(super) const TRAILER_BYTES: usize = 40;
/// Bytes of content in every chunk but the last.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
pub(super) const TAG_BYTES: usize = 16;
/// A whole chunk as it is stored.
pub(super) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// The format as the header's byte has it.
#[expect(clippy::cast_possible_truncation, reason = "1")]
const FORMAT_BYTE: u8 = ENCRYPTION_FORMAT as u8;

/// The first bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Public half of the object's own key pair.
    pub(super) ephemeral: [u8; 32],
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..7].copy_from_slice(MAGIC);
        bytes[7] = FORMAT_BYTE;
        bytes[8..].copy_from_slice(&self.ephemeral);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let Some((magic, [format, ephemeral @ ..])) = bytes.split_at_checked(MAGIC.len()) else {
            return Err(Damage::Header);
        };
        if magic != MAGIC {
            return Err(Damage::Header);
        }
        if *format != FORMAT_BYTE {
            return Err(Damage::Format { found: *format });
        }
        let ephemeral = ephemeral.try_into().map_err(|_| Damage::Header)?;
        Ok(Self { ephemeral })
    }
}

/// The last bytes of an object; the seal of its last chunk covers them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// SHA-256 of the header's public key and, behind it, SHA-256 of the content.
    pub(super) digest: Option<[u8; 32]>,
}

impl Trailer {
    const NO_DIGEST: u8 = 0;
    const SALTED_SHA_256: u8 = 1;

    pub(super) fn to_bytes(self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..32].copy_from_slice(&self.digest.unwrap_or_default());
        bytes[32] = match self.digest {
            Some(_) => Self::SALTED_SHA_256,
            None => Self::NO_DIGEST,
        };
        bytes[33..].copy_from_slice(END_MAGIC);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let Some((digest, [kind, magic @ ..])) = bytes.split_at_checked(32) else {
            return Err(Damage::End);
        };
        if magic != END_MAGIC {
            return Err(Damage::End);
        }
        let digest = <[u8; 32]>::try_from(digest).map_err(|_| Damage::End)?;
        match *kind {
            Self::NO_DIGEST if digest == [0; 32] => Ok(Self { digest: None }),
            Self::SALTED_SHA_256 => Ok(Self {
                digest: Some(digest),
            }),
            _ => Err(Damage::End),
        }
    }
}

/// What the sizes of an object say of its inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes of the content.
    pub(super) content_bytes: u64,
    /// Chunks, at least one.
    pub(super) chunks: u64,
}

const fn wide(bytes: usize) -> u64 {
    bytes as u64
}

impl Extent {
    /// Of an object with `stored_bytes`; `None` if none can have that size.
    pub(super) fn of_stored(stored_bytes: u64) -> Option<Self> {
        let chunk_bytes = wide(SEALED_CHUNK_BYTES);
        let sealed = stored_bytes
            .checked_sub(wide(HEADER_BYTES + TRAILER_BYTES))
            .filter(|sealed| *sealed >= wide(TAG_BYTES))?;
        let chunks = sealed.div_ceil(chunk_bytes);
        let last = sealed - (chunks - 1) * chunk_bytes;
        // only an empty content has an empty last chunk
        if last < wide(TAG_BYTES) || (chunks > 1 && last == wide(TAG_BYTES)) {
            return None;
        }
        Some(Self {
            content_bytes: sealed - chunks * wide(TAG_BYTES),
            chunks,
        })
    }

    /// Where chunk `number` begins in the object.
    pub(super) fn chunk_offset(number: u64) -> u64 {
        wide(HEADER_BYTES).saturating_add(number.saturating_mul(wide(SEALED_CHUNK_BYTES)))
    }

    /// Which chunk holds byte `offset` of the content.
    pub(super) fn chunk_of(offset: u64) -> u64 {
        offset / wide(CHUNK_BYTES)
    }

    /// Where chunk `number` begins in the content.
    pub(super) fn content_offset(number: u64) -> u64 {
        number.saturating_mul(wide(CHUNK_BYTES))
    }

    /// Whether chunk `number` is the last one.
    pub(super) fn is_last(&self, number: u64) -> bool {
        number.saturating_add(1) == self.chunks
    }

    /// Bytes of the object.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.content_bytes
            .saturating_add(self.chunks.saturating_mul(wide(TAG_BYTES)))
            .saturating_add(wide(HEADER_BYTES + TRAILER_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_s_size_follows_from_the_object_s() {
        let chunk = wide(CHUNK_BYTES);
        for (content, chunks) in [
            (0, 1),
            (1, 1),
            (chunk - 1, 1),
            (chunk, 1),
            (chunk + 1, 2),
            (2 * chunk, 2),
            (2 * chunk + 1, 3),
        ] {
            let stored = 80 + content + 16 * chunks;
            let extent = Extent::of_stored(stored).unwrap();
            assert_eq!((extent.content_bytes, extent.chunks), (content, chunks));
            assert_eq!(extent.stored_bytes(), stored);
        }
    }

    #[test]
    fn a_size_that_no_object_has_is_refused() {
        let whole = 80 + wide(SEALED_CHUNK_BYTES);
        for stored in [0, 79, 80, 95, whole + 1, whole + 15, whole + 16] {
            assert_eq!(Extent::of_stored(stored), None, "{stored}");
        }
        assert!(Extent::of_stored(whole + 17).is_some());
        assert!(Extent::of_stored(u64::MAX).is_none_or(|extent| extent.chunks > 1 << 40));
    }

    #[test]
    fn header_and_trailer_read_back_and_nothing_else_does() {
        let header = Header { ephemeral: [7; 32] };
        let bytes = header.to_bytes();
        assert!(Header::parse(&bytes) == Ok(header));
        assert!(Header::parse(&bytes[..39]).is_err());
        let mut newer = bytes;
        newer[7] = 2;
        assert!(matches!(
            Header::parse(&newer),
            Err(Damage::Format { found: 2 })
        ));
        for digest in [None, Some([9; 32])] {
            let bytes = Trailer { digest }.to_bytes();
            assert!(Trailer::parse(&bytes) == Ok(Trailer { digest }));
            assert!(Trailer::parse(&bytes[..39]).is_err());
        }
    }
}
