//! The server that the log comes from, and the slot on it.

use pitr_console::{Console, Failure};
use pitr_core::{Lsn, TimelineHistory, TimelineId};
use pitr_postgres::{
    ConnectOptions, Connection, Mode, QueryError, SlotLifetime, SlotName, SlotPosition, SystemInfo,
};
use pitr_store::ClusterIdentity;

use super::ending::Ending;
use crate::backup::{query_failure, segment_size};

/// SQLSTATE of a slot that is there already.
const DUPLICATE_OBJECT: &str = "42710";

/// First version that tells of a slot on a replication connection.
const READ_SLOT_SINCE: u32 = 150_000;

/// How the log is kept on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot {
    None,
    /// Made for each connection.
    Temporary(SlotName),
    Permanent {
        name: SlotName,
        create: bool,
    },
}

impl Slot {
    pub(super) fn name(&self) -> Option<&SlotName> {
        match self {
            Self::None => None,
            Self::Temporary(name) | Self::Permanent { name, .. } => Some(name),
        }
    }
}

/// What the server says of itself and of the slot.
pub(super) struct Server {
    pub(super) connection: Connection,
    pub(super) identity: ClusterIdentity,
    pub(super) system: SystemInfo,
    /// Of the server's timeline; of the first, one without a file.
    pub(super) history: TimelineHistory,
    /// What the slot keeps, where there is one that tells.
    pub(super) slot: Option<SlotPosition>,
}

pub(super) fn connect(
    options: &ConnectOptions,
    slot: &Slot,
    console: Console,
) -> Result<Server, Ending> {
    let mut connection = Connection::connect(options, Mode::Replication)
        .map_err(|error| Ending::Again(Failure::from_error(&error).with_hint_of(error.hint())))?;
    connection.on_notice(move |notice| {
        console.warn(
            format!("the server says: {}", notice.message),
            notice.detail.as_deref(),
            notice.hint.as_deref(),
        );
    });
    let major = connection.major().ok_or_else(|| {
        let version = connection.server_version();
        Ending::Never(
            Failure::new(format!("PostgreSQL {version} is not supported"))
                .with_hint("Supported are PostgreSQL 14 to 18."),
        )
    })?;
    // before anything else is asked: from here on nothing is removed
    let slot_position = prepare_slot(&mut connection, options, slot, console)?;
    let system = connection.identify_system()?;
    let segment_size = segment_size(&mut connection).map_err(Ending::Never)?;
    let history = history(&mut connection, system.timeline)?;
    Ok(Server {
        identity: ClusterIdentity {
            system_identifier: system.system_identifier,
            major,
            segment_size,
        },
        connection,
        system,
        history,
        slot: slot_position,
    })
}

fn history(connection: &mut Connection, timeline: TimelineId) -> Result<TimelineHistory, Ending> {
    if timeline == TimelineId::FIRST {
        return Ok(TimelineHistory::root(timeline));
    }
    let file = connection.timeline_history(timeline)?;
    TimelineHistory::parse(timeline, &file.content).map_err(|error| {
        Ending::Never(
            Failure::new(format!("\"{}\" of the server cannot be read", file.name))
                .with_detail(error.to_string()),
        )
    })
}

fn prepare_slot(
    connection: &mut Connection,
    options: &ConnectOptions,
    slot: &Slot,
    console: Console,
) -> Result<Option<SlotPosition>, Ending> {
    match slot {
        Slot::None => Ok(None),
        Slot::Temporary(name) => {
            connection.create_physical_slot(name, SlotLifetime::Temporary)?;
            Ok(read(connection, options, name))
        }
        Slot::Permanent { name, create } => {
            if *create {
                match connection.create_physical_slot(name, SlotLifetime::Permanent) {
                    Ok(()) => console.log(format!("made replication slot \"{name}\"")),
                    Err(error) if error.code() == Some(DUPLICATE_OBJECT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(read(connection, options, name))
        }
    }
}

/// What the slot keeps; `None` where it does not exist, or cannot be asked.
/// That it does not exist is said by the server when it is used.
fn read(
    connection: &mut Connection,
    options: &ConnectOptions,
    name: &SlotName,
) -> Option<SlotPosition> {
    if connection.server_version_num() >= READ_SLOT_SINCE {
        return connection.read_slot(name).ok().flatten();
    }
    // 14 tells on a connection for SQL alone, which this role may not be let in to
    let mut sql = Connection::connect(options, Mode::Sql).ok()?;
    let rows = sql
        .query(&format!(
            "SELECT restart_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = '{name}'"
        ))
        .ok()?;
    let restart = rows.first()?.get(0).and_then(|lsn| lsn.parse().ok());
    Some(SlotPosition {
        restart: restart.filter(|lsn: &Lsn| lsn.is_valid()),
        timeline: None,
    })
}

/// Removes the slot from the server.
pub(super) fn drop_slot(options: &ConnectOptions, name: &SlotName) -> Result<(), Failure> {
    let mut connection = Connection::connect(options, Mode::Replication)
        .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?;
    connection.drop_slot(name).map_err(query_failure)
}

/// Whether the log that was asked for is not there any more.
pub(super) fn is_removed(error: &QueryError) -> bool {
    // ERRCODE_UNDEFINED_FILE: "requested WAL segment ... has already been removed"
    error.code() == Some("58P01")
}

/// What the server says of a slot that cannot be used, made a failure.
pub(super) fn slot_failure(error: QueryError, slot: &Slot) -> Ending {
    let Some(name) = slot.name() else {
        return error.into();
    };
    let says = error.to_string();
    match error.code() {
        // ERRCODE_UNDEFINED_OBJECT
        Some("42704") => Ending::Never(
            Failure::new(format!("replication slot \"{name}\" does not exist"))
                .with_detail(format!("The server says: {says}"))
                .with_hint(
                    "A slot that was there before has been dropped, or the server was replaced by \
                     one without it: check for a gap with \"pitr-archive list\", and take a base \
                     backup if there is one. --create-slot makes the slot.",
                ),
        ),
        // ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        Some("55000") if !is_of_other_kind(&error) => lost(name, &says),
        _ => error.into(),
    }
}

/// A logical slot, which was never one for this.
///
/// Source: `StartReplication`, src/backend/replication/walsender.c.
fn is_of_other_kind(error: &QueryError) -> bool {
    matches!(error, QueryError::Server { message } if message.routine.as_deref() == Some("StartReplication"))
}

/// The server has given up keeping log for the slot.
pub(super) fn lost(name: &SlotName, says: &str) -> Ending {
    Ending::Never(
        Failure::new(format!(
            "replication slot \"{name}\" was lost: the server has removed log that was not received"
        ))
        .with_detail(format!("The server says: {says}"))
        .with_hint(format!(
            "Unless archive_command has archived it, what lies between is gone, and no recovery from \
             an older base backup gets past it. Drop the slot (pitr-archive receive --slot {name} \
             --drop-slot), start again with --create-slot, then take a base backup. \
             max_slot_wal_keep_size of the server limits what is kept for a slot."
        )),
    )
}
