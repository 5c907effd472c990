//! How much goes into the log.

/// How much a server writes into its log.
///
/// Source: `WalLevel`, src/include/access/xlog.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for crash recovery alone: such WAL cannot be archived or recovered across.
    Minimal,
    /// Enough for archiving and standbys.
    Replica,
    /// Enough for logical decoding as well.
    Logical,
}

impl WalLevel {
    /// The word of `postgresql.conf`.
    pub const fn as_str(self) -> &'static str {
        match self {
            WalLevel::Minimal => "minimal",
            WalLevel::Replica => "replica",
            WalLevel::Logical => "logical",
        }
    }

    pub(crate) fn from_number(number: i32) -> Option<Self> {
        [WalLevel::Minimal, WalLevel::Replica, WalLevel::Logical]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}
