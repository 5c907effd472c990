//! Settings of the primary that a recovering server must not fall below.

use serde::{Deserialize, Serialize};

/// The settings that recovery compares with those of the server that wrote the WAL.
///
/// With `hot_standby = on`, a server whose own settings are lower refuses to
/// start, or stops replaying where the primary had raised them.
///
/// Source: `CheckRequiredParameterValues`, src/backend/access/transam/xlog.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequiredSettings {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
}

impl RequiredSettings {
    /// Each setting with its name in `postgresql.conf`.
    pub const fn named(&self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }

    /// The higher of both, setting by setting.
    pub fn max(&self, other: &RequiredSettings) -> RequiredSettings {
        RequiredSettings {
            max_connections: self.max_connections.max(other.max_connections),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_prepared_transactions: self
                .max_prepared_transactions
                .max(other.max_prepared_transactions),
            max_locks_per_transaction: self
                .max_locks_per_transaction
                .max(other.max_locks_per_transaction),
        }
    }
}
