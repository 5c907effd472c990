//! What a backup has to know of the server that it is taken from.

use std::collections::BTreeMap;

use pitr_console::{Console, Failure};
use pitr_core::{PostgresMajor, SystemIdentifier, WalSegmentSize};
use pitr_postgres::{ConnectOptions, Connection, Endpoint, Mode, ProcessEnvironment, QueryError};
use pitr_store::ClusterIdentity;
use pitr_store::backup::{Origin, Settings};

/// SQLSTATE of a setting that this role may not see.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// First version that knows `archive_library`.
const ARCHIVE_LIBRARY_SINCE: u32 = 150_000;

/// A replication connection, and what was asked over it.
pub(super) struct Server {
    pub(super) connection: Connection,
    pub(super) facts: Facts,
}

/// What the server said of itself.
pub(super) struct Facts {
    pub(super) system_identifier: SystemIdentifier,
    pub(super) major: PostgresMajor,
    pub(super) version: String,
    pub(super) segment_size: WalSegmentSize,
    pub(super) settings: Settings,
    pub(super) origin: Origin,
    pub(super) archiving: Archiving,
}

/// Whether anything would bring the backup's WAL into the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Archiving {
    On,
    Off { why: String },
    Unknown,
}

impl Facts {
    pub(super) fn identity(&self) -> ClusterIdentity {
        ClusterIdentity {
            system_identifier: self.system_identifier,
            major: self.major,
            segment_size: self.segment_size,
        }
    }
}

/// Connects for replication and asks.
pub(super) fn connect(
    connection_string: Option<&str>,
    console: Console,
) -> Result<Server, Failure> {
    let options = ConnectOptions::resolve(connection_string, &ProcessEnvironment)
        .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?;
    for warning in options.warnings() {
        console.warn(warning.to_string(), None, None);
    }
    let mut connection = Connection::connect(&options, Mode::Replication)
        .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?;
    connection.on_notice(move |notice| {
        console.warn(
            format!("the server says: {}", notice.message),
            notice.detail.as_deref(),
            notice.hint.as_deref(),
        );
    });
    let facts = ask(&mut connection)?;
    Ok(Server { connection, facts })
}

fn ask(connection: &mut Connection) -> Result<Facts, Failure> {
    let system = connection.identify_system().map_err(query_failure)?;
    let version = connection.server_version().to_owned();
    let major = connection.major().ok_or_else(|| {
        Failure::new(format!("PostgreSQL {version} is not supported"))
            .with_hint("Supported are PostgreSQL 14 to 18.")
    })?;
    let mut settings = Settings {
        max_connections: number(connection, "max_connections")?,
        max_worker_processes: number(connection, "max_worker_processes")?,
        max_wal_senders: number(connection, "max_wal_senders")?,
        max_prepared_transactions: number(connection, "max_prepared_transactions")?,
        max_locks_per_transaction: number(connection, "max_locks_per_transaction")?,
        wal_level: show(connection, "wal_level")?,
        data_checksums: show(connection, "data_checksums")?.map(|value| value == "on"),
        other: BTreeMap::new(),
    };
    // a copy that is started without the server's configuration file needs these
    for name in ["server_encoding", "lc_messages", "shared_preload_libraries"] {
        if let Some(value) = show(connection, name)? {
            settings.other.insert(name.to_owned(), value);
        }
    }
    Ok(Facts {
        system_identifier: system.system_identifier,
        major,
        version,
        segment_size: segment_size(connection)?,
        settings,
        origin: origin(connection)?,
        archiving: archiving(connection)?,
    })
}

/// Where the server's files are; which machine only if it is surely this one.
fn origin(connection: &mut Connection) -> Result<Origin, Failure> {
    let here = match connection.endpoint() {
        Endpoint::Socket { .. } => true,
        Endpoint::Tcp { address, .. } => address.is_some_and(|a| a.ip().is_loopback()),
    };
    Ok(Origin {
        data_directory: show(connection, "data_directory")?,
        config_file: show(connection, "config_file")?,
        hba_file: show(connection, "hba_file")?,
        hostname: here.then(pitr_postgres::host::name).flatten(),
        machine_id: here.then(pitr_postgres::host::machine_id).flatten(),
    })
}

fn archiving(connection: &mut Connection) -> Result<Archiving, Failure> {
    let Some(mode) = show(connection, "archive_mode")? else {
        return Ok(Archiving::Unknown);
    };
    if mode == "off" {
        return Ok(Archiving::Off {
            why: "archive_mode is off".to_owned(),
        });
    }
    // an older server would write the question into its log as an error
    let library = if connection.server_version_num() >= ARCHIVE_LIBRARY_SINCE {
        show(connection, "archive_library")?
    } else {
        None
    };
    let command = show(connection, "archive_command")?;
    // a command that is not set reads "(disabled)" where archive_mode is off, and "" elsewhere
    let unset = |value: &Option<String>| value.as_deref().is_none_or(str::is_empty);
    if command.is_some() && unset(&command) && unset(&library) {
        return Ok(Archiving::Off {
            why: "archive_command is not set".to_owned(),
        });
    }
    Ok(Archiving::On)
}

pub(crate) fn segment_size(connection: &mut Connection) -> Result<WalSegmentSize, Failure> {
    let text = show(connection, "wal_segment_size")?.unwrap_or_default();
    let bytes = match text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    ) {
        (digits, "MB") => digits.parse::<u64>().ok().map(|n| n << 20),
        (digits, "GB") => digits.parse::<u64>().ok().map(|n| n << 30),
        (digits, "kB") => digits.parse::<u64>().ok().map(|n| n << 10),
        (digits, "B" | "") => digits.parse::<u64>().ok(),
        _ => None,
    };
    bytes
        .and_then(|bytes| WalSegmentSize::new(bytes).ok())
        .ok_or_else(|| Failure::new(format!("could not read wal_segment_size \"{text}\"")))
}

/// A setting; `None` where this server has none of the name, or does not show
/// it to this role.
fn show(connection: &mut Connection, name: &str) -> Result<Option<String>, Failure> {
    match connection.show(name) {
        Ok(value) => Ok(Some(value)),
        Err(error @ QueryError::Server { .. }) => match error.code() {
            // undefined_object: another version
            Some(INSUFFICIENT_PRIVILEGE | "42704") => Ok(None),
            _ => Err(query_failure(error)),
        },
        Err(error) => Err(query_failure(error)),
    }
}

fn number(connection: &mut Connection, name: &str) -> Result<Option<u32>, Failure> {
    Ok(show(connection, name)?.and_then(|value| value.parse().ok()))
}

pub(crate) fn query_failure(error: QueryError) -> Failure {
    let failure = Failure::from_error(&error).with_hint_of(error.hint());
    match error.detail() {
        Some(detail) => failure.with_detail(detail),
        None => failure,
    }
}
