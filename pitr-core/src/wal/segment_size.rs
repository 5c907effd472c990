//! The size of the log's files.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in one WAL segment: a power of two from 1 MiB to 1 GiB, fixed by `initdb --wal-segsize`.
///
/// Needed to read any segment name: the same name stands for other positions
/// under another size. Stored in `pg_control` and in the long header of every
/// segment's first page. In JSON it is the number of bytes.
///
/// Source: `IsValidWalSegSize`, src/include/access/xlog_internal.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct WalSegmentSize(u32);

impl WalSegmentSize {
    /// 16 MiB, what `initdb` takes unless told otherwise.
    pub const DEFAULT: WalSegmentSize = WalSegmentSize(16 << 20);
    /// 1 MiB.
    pub const SMALLEST: WalSegmentSize = WalSegmentSize(1 << 20);
    /// 1 GiB.
    pub const LARGEST: WalSegmentSize = WalSegmentSize(1 << 30);

    /// Checks a size in bytes.
    ///
    /// # Errors
    /// If it is not a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<Self, WalSegmentSizeError> {
        match u32::try_from(bytes) {
            Ok(size)
                if size.is_power_of_two()
                    && (Self::SMALLEST.0..=Self::LARGEST.0).contains(&size) =>
            {
                Ok(WalSegmentSize(size))
            }
            _ => Err(WalSegmentSizeError { bytes }),
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Segments in one "log", the 4 GiB that share the middle eight digits of a segment name.
    ///
    /// From 4 (1 GiB) to 4096 (1 MiB); 256 for the usual 16 MiB.
    ///
    /// Source: `XLogSegmentsPerXLogId`, src/include/access/xlog_internal.h.
    pub const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// The highest segment number that the 64-bit address space holds.
    pub(crate) const fn last_number(self) -> u64 {
        u64::MAX / self.bytes()
    }
}

impl TryFrom<u64> for WalSegmentSize {
    type Error = WalSegmentSizeError;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        WalSegmentSize::new(bytes)
    }
}

impl From<WalSegmentSize> for u64 {
    fn from(size: WalSegmentSize) -> Self {
        size.bytes()
    }
}

impl fmt::Display for WalSegmentSize {
    /// In mebibytes, as `16 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

/// A number of bytes that no cluster has as its WAL segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes is no WAL segment size: expected a power of two from 1 MiB to 1 GiB")]
pub struct WalSegmentSizeError {
    /// What stood there.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_from_one_mebibyte_to_one_gibibyte_are_sizes() {
        for shift in 0..64 {
            assert_eq!(
                WalSegmentSize::new(1 << shift).is_ok(),
                (20..=30).contains(&shift),
                "2^{shift}"
            );
        }
        for bytes in [
            0,
            1,
            (16 << 20) - 1,
            (16 << 20) + 1,
            3 << 20,
            u64::MAX,
            (1 << 32) | (16 << 20),
        ] {
            assert_eq!(
                WalSegmentSize::new(bytes),
                Err(WalSegmentSizeError { bytes })
            );
        }
    }

    #[test]
    fn segments_per_log_follow_the_size() {
        assert_eq!(WalSegmentSize::SMALLEST.segments_per_log(), 4096);
        assert_eq!(WalSegmentSize::DEFAULT.segments_per_log(), 256);
        assert_eq!(WalSegmentSize::LARGEST.segments_per_log(), 4);
    }

    #[test]
    fn json_form_is_a_checked_number() {
        assert_eq!(
            serde_json::to_string(&WalSegmentSize::DEFAULT).unwrap(),
            "16777216"
        );
        assert_eq!(
            serde_json::from_str::<WalSegmentSize>("1048576").unwrap(),
            WalSegmentSize::SMALLEST
        );
        assert!(serde_json::from_str::<WalSegmentSize>("1048577").is_err());
    }
}
