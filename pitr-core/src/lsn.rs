//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// A byte position in the write-ahead log of one cluster.
///
/// Zero is "no position" (`InvalidXLogRecPtr`): no record starts there. As
/// text it is `high/low` in hex. This type prints the form of PostgreSQL 18
/// and older (`0/5000028`) and reads that of 19 (`0/05000028`) as well; every
/// version reads the short form. In JSON it is that text.
///
/// ```
/// use pitr_core::Lsn;
/// let lsn: Lsn = "16/B374D848".parse()?;
/// assert_eq!(lsn.get(), 0x16_B374_D848);
/// assert_eq!("0/05000028".parse::<Lsn>()?.to_string(), "0/5000028");
/// # Ok::<(), pitr_core::ParseLsnError>(())
/// ```
///
/// Source: `XLogRecPtr`, src/include/access/xlogdefs.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// No position: `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);

    /// The position `bytes` from the beginning of the log.
    pub const fn new(bytes: u64) -> Self {
        Lsn(bytes)
    }

    /// Bytes from the beginning of the log.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is a position at all, that is, not [`Lsn::INVALID`].
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on; `None` past the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Lsn(sum)),
            None => None,
        }
    }

    /// The position `bytes` earlier; `None` before the beginning of the log.
    pub const fn checked_sub(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_sub(bytes) {
            Some(difference) => Some(Lsn(difference)),
            None => None,
        }
    }

    /// Bytes from `earlier` to this position; `None` if `earlier` is the later one.
    pub const fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl From<u64> for Lsn {
    fn from(bytes: u64) -> Self {
        Lsn(bytes)
    }
}

impl From<Lsn> for u64 {
    fn from(lsn: Lsn) -> Self {
        lsn.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF))
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Reads one to eight hex digits, a slash, one to eight hex digits.
    ///
    /// Either case, and any zero padding within the eight digits.
    ///
    /// Source: `pg_lsn_in_internal`, src/backend/utils/adt/pg_lsn.c.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let halves = text
            .split_once('/')
            .and_then(|(high, low)| Some((half(high)?, half(low)?)));
        match halves {
            Some((high, low)) => Ok(Lsn((u64::from(high) << 32) | u64::from(low))),
            None => Err(ParseLsnError {
                text: crate::text::excerpt(text),
            }),
        }
    }
}

fn half(digits: &str) -> Option<u32> {
    let fits =
        (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        u32::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

serde_as_text!(Lsn);

/// Text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not an LSN: expected two hex numbers of at most eight digits around a slash, as in 0/5000028"
)]
pub struct ParseLsnError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_spellings_of_postgres_18_and_19_are_read() {
        for text in ["0/5000028", "0/05000028", "00000000/05000028", "0/5000028"] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn::new(0x500_0028), "{text}");
        }
        assert_eq!("ff/abcdef01".parse::<Lsn>().unwrap().get(), 0xFF_ABCD_EF01);
        assert_eq!("FFFFFFFF/FFFFFFFF".parse::<Lsn>().unwrap().get(), u64::MAX);
    }

    #[test]
    fn what_postgres_refuses_is_refused() {
        for text in [
            "",
            "/",
            "0/",
            "/0",
            "0",
            "5000028",
            "0/000000000",
            "123456789/0",
            "0x1/2",
            "+1/2",
            "1/-2",
            "1/2/3",
            " 1/2",
            "1/2 ",
            "G/0",
            "1/\u{0661}",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn arithmetic_never_wraps() {
        assert_eq!(Lsn::new(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn::INVALID.checked_sub(1), None);
        assert_eq!(Lsn::new(5).bytes_since(Lsn::new(6)), None);
        assert_eq!(Lsn::new(6).bytes_since(Lsn::new(5)), Some(1));
    }

    #[test]
    fn json_form_is_the_text() {
        let json = serde_json::to_string(&Lsn::new(0x16_B374_D848)).unwrap();
        assert_eq!(json, "\"16/B374D848\"");
        assert_eq!(
            serde_json::from_str::<Lsn>(&json).unwrap(),
            Lsn::new(0x16_B374_D848)
        );
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: u64) {
            let lsn = Lsn::new(bytes);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
            let padded = format!("{:X}/{:08X}", bytes >> 32, bytes & 0xFFFF_FFFF);
            prop_assert_eq!(padded.parse::<Lsn>().unwrap(), lsn);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Lsn>();
        }
    }
}
