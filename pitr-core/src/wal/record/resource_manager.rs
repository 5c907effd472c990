//! Who wrote a record and knows how to replay it.

use std::fmt;

use crate::postgres_major::PostgresMajor;

/// The part of the server that wrote a record and replays it.
///
/// 0 to 21 are built in and the same in 13 to 18; 128 to 255 belong to
/// extensions (from 15 on). Prints the name that `pg_waldump` gives it.
///
/// Source: `RmgrId`, src/include/access/rmgr.h, src/include/access/rmgrlist.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceManager(u8);

/// In the order of their numbers.
const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

const FIRST_CUSTOM: u8 = 128;

impl ResourceManager {
    /// The log itself: checkpoints, segment switches, restore points.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Ends of transactions.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// Files of relations made and cut.
    pub const STORAGE: ResourceManager = ResourceManager(2);
    /// Databases made and dropped.
    pub const DATABASE: ResourceManager = ResourceManager(4);
    /// Tablespaces made and dropped.
    pub const TABLESPACE: ResourceManager = ResourceManager(5);
    /// The map of the catalogs that have no fixed file.
    pub const RELMAP: ResourceManager = ResourceManager(7);
    /// What a hot standby must know: locks, running transactions.
    pub const STANDBY: ResourceManager = ResourceManager(8);
    /// Rows of tables: many at once, pruning, freezing.
    pub const HEAP2: ResourceManager = ResourceManager(9);
    /// Rows of tables, one at a time.
    pub const HEAP: ResourceManager = ResourceManager(10);
    /// Messages of `pg_logical_emit_message`.
    pub const LOGICAL_MESSAGE: ResourceManager = ResourceManager(21);

    /// The manager of this number; `None` for 22 to 127, which are nobody's.
    ///
    /// Source: `RmgrIdIsValid`, src/include/access/rmgr.h.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < NAMES.len() || number >= FIRST_CUSTOM {
            Some(ResourceManager(number))
        } else {
            None
        }
    }

    /// The number.
    ///
    /// Source: `xl_rmid`.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether it belongs to an extension.
    pub const fn is_custom(self) -> bool {
        self.0 >= FIRST_CUSTOM
    }

    /// Whether a server of this version can have written records for it.
    pub fn exists_in(self, major: PostgresMajor) -> bool {
        !self.is_custom() || major.get() >= 15
    }
}

impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.pad(name),
            None => f.pad(&format!("custom{:03}", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_pg_waldump() {
        assert_eq!(ResourceManager::XLOG.to_string(), "XLOG");
        assert_eq!(ResourceManager::HEAP.to_string(), "Heap");
        assert_eq!(
            ResourceManager::LOGICAL_MESSAGE.to_string(),
            "LogicalMessage"
        );
        assert_eq!(ResourceManager::new(128).unwrap().to_string(), "custom128");
        assert_eq!(format!("{:<11}|", ResourceManager::HEAP2), "Heap2      |");
    }

    #[test]
    fn numbers_of_nobody_are_refused() {
        for number in 0..=255u8 {
            let valid = number <= 21 || number >= 128;
            assert_eq!(ResourceManager::new(number).is_some(), valid, "{number}");
        }
        let custom = ResourceManager::new(200).unwrap();
        assert!(!custom.exists_in(PostgresMajor::new(14).unwrap()));
        assert!(custom.exists_in(PostgresMajor::new(15).unwrap()));
    }
}
