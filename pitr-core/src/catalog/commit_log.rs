//! What became of transactions, as `pg_xact` says.

/// Transactions in one file of `pg_xact`: 32 pages of 8192 bytes, two bits each.
///
/// Source: `CLOG_XACTS_PER_PAGE`, src/backend/access/transam/clog.c;
/// `SLRU_PAGES_PER_SEGMENT`, src/include/access/slru.h.
pub const TRANSACTIONS_PER_COMMIT_LOG_FILE: u32 = 32 * 8192 * 4;

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    Aborted,
    /// Still running, or ended by a crash.
    Open,
}

/// The file of `pg_xact` that tells of a transaction.
#[must_use]
pub(crate) fn file_of(xid: u32) -> u32 {
    xid / TRANSACTIONS_PER_COMMIT_LOG_FILE
}

/// What a file of `pg_xact` says of a transaction; `None` beyond its end.
///
/// Source: `TransactionIdGetStatus`, src/backend/access/transam/clog.c.
pub(crate) fn outcome(file: &[u8], xid: u32) -> Option<Outcome> {
    let index = xid % TRANSACTIONS_PER_COMMIT_LOG_FILE;
    let byte = *file.get((index / 4) as usize)?;
    Some(match (byte >> ((index % 4) * 2)) & 3 {
        1 => Outcome::Committed,
        2 => Outcome::Aborted,
        // a subtransaction that is committed while its parent is not yet
        _ => Outcome::Open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_say_what_became_of_a_transaction() {
        let file = [0b1110_0100];
        let of = |xid| outcome(&file, xid);
        assert_eq!(of(0), Some(Outcome::Open));
        assert_eq!(of(1), Some(Outcome::Committed));
        assert_eq!(of(2), Some(Outcome::Aborted));
        assert_eq!(of(3), Some(Outcome::Open));
        assert_eq!(of(4), None);
        assert_eq!(
            of(TRANSACTIONS_PER_COMMIT_LOG_FILE + 1),
            Some(Outcome::Committed)
        );
        assert_eq!(file_of(TRANSACTIONS_PER_COMMIT_LOG_FILE + 1), 1);
    }
}
