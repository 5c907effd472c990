//! The number of a transaction.

use std::fmt;
use std::str::FromStr;

use crate::text::{canonical_decimal_u64, excerpt};

/// The 32-bit number of a transaction, as it stands in the WAL. At least 3: the lower ones are special.
///
/// Source: `TransactionId`, src/include/access/transam.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(u32);

impl TransactionId {
    /// The lowest number of a real transaction.
    ///
    /// Source: `FirstNormalTransactionId`.
    pub const FIRST_NORMAL: TransactionId = TransactionId(3);

    /// The transaction of this number; `None` for 0 to 2, which no transaction has.
    pub const fn new(number: u32) -> Option<Self> {
        if number < Self::FIRST_NORMAL.0 {
            None
        } else {
            Some(TransactionId(number))
        }
    }

    /// The transaction of a 64-bit number, as `pg_current_xact_id()` gives it: the epoch in the high half is dropped.
    pub fn from_full(number: u64) -> Option<Self> {
        u32::try_from(number & 0xFFFF_FFFF)
            .ok()
            .and_then(TransactionId::new)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether it was given out before `other`: numbers begin again after 2^32, and of any two that are in use
    /// at a time the earlier one is less than 2^31 behind.
    ///
    /// Source: `TransactionIdPrecedes`, src/backend/access/transam/transam.c.
    pub const fn precedes(self, other: TransactionId) -> bool {
        self.0.wrapping_sub(other.0) > u32::MAX / 2
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for TransactionId {
    type Err = ParseTransactionIdError;

    /// Reads a decimal number of 32 or, with an epoch, 64 bits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        canonical_decimal_u64(text)
            .and_then(TransactionId::from_full)
            .ok_or_else(|| ParseTransactionIdError {
                text: excerpt(text),
            })
    }
}

/// Text that is not the number of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a transaction: expected a decimal number from 3 on")]
pub struct ParseTransactionIdError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_order_in_which_they_are_given_out() {
        let xid = |number| TransactionId::new(number).unwrap();
        assert!(xid(3).precedes(xid(4)));
        assert!(!xid(4).precedes(xid(4)));
        assert!(!xid(4).precedes(xid(3)));
        assert!(xid(u32::MAX).precedes(xid(3)));
        assert!(!xid(3).precedes(xid(u32::MAX)));
    }

    #[test]
    fn an_epoch_is_dropped_as_the_server_does() {
        assert_eq!("779".parse::<TransactionId>().unwrap().get(), 779);
        assert_eq!("4294968075".parse::<TransactionId>().unwrap().get(), 779);
        assert_eq!(
            "18446744073709551615"
                .parse::<TransactionId>()
                .unwrap()
                .get(),
            u32::MAX
        );
    }

    #[test]
    fn numbers_that_no_transaction_has_are_refused() {
        for text in [
            "",
            "0",
            "1",
            "2",
            "4294967296",
            "-3",
            "+3",
            "03",
            "0x30B",
            "18446744073709551616",
        ] {
            assert!(text.parse::<TransactionId>().is_err(), "{text:?}");
        }
    }
}
