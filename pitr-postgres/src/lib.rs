//! A blocking connection to a running PostgreSQL server: libpq settings, authentication, TLS, SQL and replication commands.
//!
//! It reaches a server by the same settings as psql and pg_basebackup do
//! (connection strings, `PG*` variables, service files, `.pgpass`), and speaks
//! the two dialects that a backup and a receiver need: plain SQL in the simple
//! query protocol, and physical replication, streaming included.
//!
//! ```no_run
//! use pitr_postgres::{ConnectOptions, Connection, Mode, ProcessEnvironment};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ConnectOptions::resolve(Some("service=prod"), &ProcessEnvironment)?;
//! let mut connection = Connection::connect(&options, Mode::Replication)?;
//! let system = connection.identify_system()?;
//! println!("{} on timeline {}", system.system_identifier, system.timeline);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here starts a thread or a runtime, and nothing of TLS is loaded
//! before a server has agreed to speak it.
#![forbid(unsafe_code)]

mod base_backup;
mod connect;
mod connection;
mod data_directory;
pub mod host;
mod options;
mod query_error;
mod replication;
mod row;
mod server_message;
mod streaming;
mod wire;

pub use base_backup::{
    BackupEnd, BackupError, BackupMember, BackupStart, BaseBackup, BaseBackupOptions,
    CheckpointMode, ManifestChecksum, MemberReader, Tablespace,
};
pub use connect::endpoint::Endpoint;
pub use connect::error::{ConnectError, ConnectFailure, FailedAttempt, ServerRefusal};
pub use connect::tls::certificate::NameMismatch;
pub use connect::tls::error::TlsError;
pub use connection::{Connection, Mode};
pub use data_directory::{DataDirectory, ReadControlFileError};
pub use options::environment::{Environment, ProcessEnvironment};
pub use options::error::OptionsError;
pub use options::password::{Password, PasswordOrigin};
pub use options::tls::{
    ChannelBinding, RootCertificate, SslMode, SslNegotiation, TlsOptions, TlsVersion,
};
pub use options::variables::variables_of;
pub use options::{ConnectOptions, Host, HostTarget, Keepalive, OptionsWarning, SessionTarget};
pub use query_error::QueryError;
pub use replication::{SystemInfo, TimelineHistoryFile};
pub use row::Row;
pub use server_message::ServerMessage;
pub use streaming::{
    NextTimeline, ParseSlotNameError, SlotLifetime, SlotName, SlotPosition, StreamEvent, Wait,
    WalStream,
};
