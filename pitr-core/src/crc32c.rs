//! CRC-32C (Castagnoli), the checksum of records, `pg_control`, manifests and the store's parts.
//!
//! Computed with whatever the processor has: of blocks of kilobytes that is folding in
//! vector registers, twice as fast as its own CRC instruction.
//!
//! Source: src/include/port/pg_crc32c.h (`INIT_CRC32C`, `COMP_CRC32C`, `FIN_CRC32C`).

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32/ISCSI is what its specification calls it.
const CRC32C: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// Of these bytes; 0 of none.
///
/// ```
/// assert_eq!(pitr_core::crc32c::crc32c(b"123456789"), 0xE306_9283);
/// ```
#[must_use]
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Of what `crc` is the checksum of, followed by these bytes.
#[must_use]
#[inline]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CRC32C, u64::from(!crc));
    digest.update(bytes);
    low(digest.finalize())
}

/// Of what `crc` is the checksum of, followed by `length` bytes whose own checksum is `next`.
#[must_use]
pub fn crc32c_combine(crc: u32, next: u32, length: u64) -> u32 {
    low(crc_fast::checksum_combine(
        CRC32C,
        u64::from(crc),
        u64::from(next),
        length,
    ))
}

/// The 32 bits of a checksum that is handed out in 64.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half of a CRC of 32 bits is empty"
)]
fn low(crc: u64) -> u32 {
    crc as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the polynomial says.
    fn by_definition(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82F6_3B78 * (crc & 1));
            }
        }
        !crc
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    #[test]
    fn every_length_and_every_alignment_gives_what_the_definition_gives() {
        let bytes = noise(9000);
        for length in (0..1300).chain([2047, 4096, 8191, 8192, 8193]) {
            for begin in [0, 1, 7, 8, 13, 40] {
                let bytes = &bytes[begin..begin + length];
                let expected = by_definition(bytes);
                assert_eq!(crc32c(bytes), expected, "{length} bytes at {begin}");
                assert_eq!(
                    crc32c_append(0, bytes),
                    expected,
                    "{length} bytes at {begin}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_checksum_can_be_continued_and_two_be_joined(
            bytes in proptest::collection::vec(any::<u8>(), 0..20_000), at in any::<prop::sample::Index>()
        ) {
            let (one, other) = bytes.split_at(at.index(bytes.len() + 1));
            let whole = crc32c(&bytes);
            prop_assert_eq!(whole, by_definition(&bytes));
            prop_assert_eq!(crc32c_append(crc32c(one), other), whole);
            let length = u64::try_from(other.len()).unwrap();
            prop_assert_eq!(crc32c_combine(crc32c(one), crc32c(other), length), whole);
        }
    }
}
