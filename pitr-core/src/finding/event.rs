//! What was found.

use crate::finding::object::FoundObject;
use crate::lsn::Lsn;
use crate::timestamp::Timestamp;

/// Something that happened, and the last moment before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The record by which it happened: for what a transaction did, its commit.
    pub lsn: Lsn,
    /// Recovery that stops just before this record has everything as it was.
    ///
    /// The same as `lsn` but for `DROP DATABASE`, which takes the files away
    /// before it is committed.
    pub safe_lsn: Lsn,
    /// When, by the server's clock.
    pub time: Option<Timestamp>,
    /// The transaction.
    pub xid: Option<u32>,
    /// What happened.
    pub event: FoundEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundEvent {
    /// A restore point was made.
    RestorePoint {
        /// Its name.
        name: String,
    },
    /// Tables, views, indexes, sequences or schemas were dropped.
    Drop {
        /// What was dropped, what it was about first.
        objects: Vec<FoundObject>,
    },
    /// Tables were emptied.
    Truncate {
        /// The tables.
        objects: Vec<FoundObject>,
    },
    /// A database was dropped.
    DropDatabase {
        /// The database.
        database: FoundObject,
    },
    /// Tables or indexes were written anew with their rows: `VACUUM FULL`,
    /// `CLUSTER`, `REINDEX`, some of `ALTER TABLE`, `REFRESH MATERIALIZED VIEW`.
    Rewrite {
        /// What was rewritten.
        objects: Vec<FoundObject>,
    },
    /// A transaction deleted many rows of a table.
    Delete {
        /// The table.
        table: FoundObject,
        /// How many.
        rows: u64,
    },
    /// A transaction updated many rows of a table.
    Update {
        /// The table.
        table: FoundObject,
        /// How many.
        rows: u64,
    },
    /// A transaction ran for a long time.
    LongTransaction {
        /// The first commit of another transaction after its first record.
        since: Timestamp,
        /// Its first record.
        first_lsn: Lsn,
    },
    /// A transaction wrote much.
    LargeTransaction {
        /// Bytes of its records.
        bytes: u64,
        /// Its first record.
        first_lsn: Lsn,
    },
    /// Nothing was committed for a while; the finding is at the commit that ended it.
    Quiet {
        /// The last commit before.
        since: Timestamp,
    },
    /// The transaction that was asked for has ended.
    Transaction(TransactionFound),
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq)]
pub struct TransactionFound {
    /// Whether it was committed.
    pub committed: bool,
    /// Its first record, as far as the log was read.
    pub first_lsn: Lsn,
    /// Bytes of its records.
    pub bytes: u64,
    /// Rows that it inserted, updated and deleted, by table.
    pub tables: Vec<TableRows>,
}

/// Rows of a table that a transaction changed.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRows {
    /// The table.
    pub table: FoundObject,
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
}

impl FoundEvent {
    /// A word for programs: `drop`, `truncate` and so on.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            FoundEvent::RestorePoint { .. } => "restore_point",
            FoundEvent::Drop { .. } => "drop",
            FoundEvent::Truncate { .. } => "truncate",
            FoundEvent::DropDatabase { .. } => "drop_database",
            FoundEvent::Rewrite { .. } => "rewrite",
            FoundEvent::Delete { .. } => "delete",
            FoundEvent::Update { .. } => "update",
            FoundEvent::LongTransaction { .. } => "long_transaction",
            FoundEvent::LargeTransaction { .. } => "large_transaction",
            FoundEvent::Quiet { .. } => "quiet",
            FoundEvent::Transaction(_) => "transaction",
        }
    }

    /// Whether data were lost by a drop or a truncate.
    #[must_use]
    pub const fn is_drop(&self) -> bool {
        matches!(
            self,
            FoundEvent::Drop { .. } | FoundEvent::Truncate { .. } | FoundEvent::DropDatabase { .. }
        )
    }

    /// The objects that it is about.
    #[must_use]
    pub fn objects(&self) -> Vec<&FoundObject> {
        match self {
            FoundEvent::Drop { objects }
            | FoundEvent::Truncate { objects }
            | FoundEvent::Rewrite { objects } => objects.iter().collect(),
            FoundEvent::DropDatabase { database } => vec![database],
            FoundEvent::Delete { table, .. } | FoundEvent::Update { table, .. } => vec![table],
            FoundEvent::Transaction(found) => {
                found.tables.iter().map(|table| &table.table).collect()
            }
            FoundEvent::RestorePoint { .. }
            | FoundEvent::LongTransaction { .. }
            | FoundEvent::LargeTransaction { .. }
            | FoundEvent::Quiet { .. } => Vec::new(),
        }
    }
}
