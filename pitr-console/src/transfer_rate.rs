//! A limit of bytes per second, as `pg_basebackup --max-rate` takes it.

use std::fmt;
use std::str::FromStr;

use crate::ByteCount;

/// Kilobytes (1024 bytes) per second, within what a server takes: 32 kB to 1 GB.
///
/// Shape: a number with an optional unit, `kB`, `MB` or `GB` (or their first
/// letter, in any case); without one it counts kilobytes, as in
/// `pg_basebackup`.
///
/// Source: `MAX_RATE_LOWER` and `MAX_RATE_UPPER`, src/include/backup/basebackup.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferRate {
    kb_per_s: u32,
}

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTransferRateError {
    /// Not a number with one of the units.
    #[error(
        "\"{found}\" is no rate: expected a number of kilobytes per second, or one with kB, MB or GB"
    )]
    Shape {
        /// What was given.
        found: String,
    },
    /// No server takes it.
    #[error("rate \"{found}\" is out of range: a server takes 32 kB to 1 GB per second")]
    Range {
        /// What was given.
        found: String,
    },
}

impl TransferRate {
    /// In kilobytes of 1024 bytes per second: what `MAX_RATE` takes.
    #[must_use]
    pub fn kb_per_s(self) -> u32 {
        self.kb_per_s
    }
}

impl FromStr for TransferRate {
    type Err = ParseTransferRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || ParseTransferRateError::Shape {
            found: text.to_owned(),
        };
        let range = || ParseTransferRateError::Range {
            found: text.to_owned(),
        };
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(shape)?;
        if number.is_empty() {
            return Err(shape());
        }
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "k" | "kb" => 1,
            "m" | "mb" => 1 << 10,
            "g" | "gb" => 1 << 20,
            _ => return Err(shape()),
        };
        let number: u64 = number.parse().map_err(|_| range())?;
        let kb_per_s = number
            .checked_mul(factor)
            .and_then(|kb| u32::try_from(kb).ok())
            .filter(|kb| (32..=1_048_576).contains(kb))
            .ok_or_else(range)?;
        Ok(Self { kb_per_s })
    }
}

impl fmt::Display for TransferRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteCount(u64::from(self.kb_per_s) << 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_pg_basebackup_reads_it_and_with_units() {
        for (text, kb_per_s) in [
            ("32", 32),
            ("100k", 100),
            ("100 kB", 100),
            ("20M", 20 << 10),
            ("20mb", 20 << 10),
            ("1GB", 1 << 20),
        ] {
            let rate: TransferRate = text.parse().unwrap();
            assert_eq!(rate.kb_per_s(), kb_per_s, "{text}");
        }
        assert_eq!(
            "20M".parse::<TransferRate>().unwrap().to_string(),
            "20 MB/s"
        );
    }

    #[test]
    fn what_no_server_takes_is_refused_here() {
        for text in [
            "31",
            "0",
            "2GB",
            "1048577",
            "99999999999999999999",
            "18014398509481984M",
        ] {
            let error = text.parse::<TransferRate>().unwrap_err();
            assert!(
                matches!(error, ParseTransferRateError::Range { .. }),
                "{text}"
            );
        }
        for text in ["", "fast", "-1", "1.5M", "10 TB", "10 M B"] {
            let error = text.parse::<TransferRate>().unwrap_err();
            assert!(
                matches!(error, ParseTransferRateError::Shape { .. }),
                "{text}"
            );
        }
    }
}
