//! Asking the recovering server how far it has come.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use pitr_core::{Lsn, TimelineId};
use pitr_postgres::{ConnectOptions, Connection, Mode, QueryError};

use crate::os_user::OsUser;
use crate::postmaster::PostmasterFile;

/// A connection to the server that was started.
pub(crate) struct Session {
    connection: Connection,
}

/// How far the server has come, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReplayState {
    /// Whether it still replays, or pauses.
    pub(crate) in_recovery: bool,
    /// Whether it pauses.
    pub(crate) paused: bool,
    /// End of the last record that was replayed.
    pub(crate) lsn: Option<Lsn>,
    /// Time of the last commit or abort that was replayed.
    pub(crate) last_commit: Option<DateTime<Utc>>,
    /// Timeline of the last checkpoint.
    pub(crate) timeline: Option<TimelineId>,
    /// Whether the server itself said this, and not its files.
    pub(crate) said_by_server: bool,
    /// The settings that recovery checks, by name; those that are not known
    /// are missing.
    pub(crate) settings: BTreeMap<String, u32>,
}

/// Variables of the environment that say who connects. Those that say where
/// are not looked at: it is this server and no other.
const VARIABLES: [&str; 4] = ["PGUSER", "PGPASSWORD", "PGPASSFILE", "HOME"];

impl Session {
    /// Connects by the socket that `postmaster.pid` names, as the owner of the
    /// data directory unless `PGUSER` says otherwise. `None` where that does
    /// not work: the server's files tell the rest.
    pub(crate) fn open(server: &PostmasterFile, user: &OsUser) -> Option<Self> {
        let environment: BTreeMap<String, String> = VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        let mut conninfo = format!("port={} dbname=postgres connect_timeout=5", server.port?);
        match (&server.socket_dir, &server.listen_address) {
            (Some(folder), _) => {
                conninfo.push_str(&format!(" host={}", quoted(folder.to_str()?)));
            }
            (None, Some(_)) => conninfo.push_str(" host=localhost"),
            (None, None) => return None,
        }
        if !environment.contains_key("PGUSER") {
            conninfo.push_str(&format!(" user={}", quoted(&user.name)));
        }
        let options = ConnectOptions::resolve(Some(&conninfo), &environment)
            .ok()?
            .with_program_name("pitr-restore");
        let connection = connect_as(options, user)?;
        Some(Self { connection })
    }

    pub(crate) fn ask(&mut self) -> Result<ReplayState, QueryError> {
        // the state of a pause is asked for differently since 14
        let paused = if self.connection.server_version_num() >= 140_000 {
            "pg_get_wal_replay_pause_state() = 'paused'"
        } else {
            "pg_is_wal_replay_paused()"
        };
        let rows = self.connection.query(&format!(
            "SELECT pg_is_in_recovery(), \
             CASE WHEN pg_is_in_recovery() THEN {paused} ELSE false END, \
             pg_last_wal_replay_lsn(), \
             to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', \
                     'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
             (SELECT timeline_id FROM pg_control_checkpoint()), \
             (SELECT string_agg(name || ' ' || setting, ',') FROM pg_settings \
              WHERE name IN ('max_connections', 'max_worker_processes', 'max_wal_senders', \
                             'max_prepared_transactions', 'max_locks_per_transaction'))"
        ))?;
        let row = rows.first();
        let value = |position| row.and_then(|row| row.get(position));
        Ok(ReplayState {
            said_by_server: true,
            in_recovery: value(0) == Some("t"),
            paused: value(1) == Some("t"),
            lsn: value(2).and_then(|text| text.parse().ok()),
            last_commit: value(3).and_then(|text| text.parse().ok()),
            timeline: value(4).and_then(|text| text.parse().ok()),
            settings: value(5)
                .unwrap_or_default()
                .split(',')
                .filter_map(|setting| {
                    let (name, value) = setting.split_once(' ')?;
                    Some((name.to_owned(), value.parse().ok()?))
                })
                .collect(),
        })
    }
}

/// Connects as `user`. Where that is not us (root restores for him), the
/// server would see root at the other end of its socket, and `peer` would
/// refuse: so the one thread that connects becomes that user before. The
/// system notes who connects when it does, and never again.
///
/// Source: unix(7), `SO_PEERCRED`.
fn connect_as(options: ConnectOptions, user: &OsUser) -> Option<Connection> {
    let me = rustix::process::geteuid();
    if me == user.owner.uid || !me.is_root() {
        return Connection::connect(&options, Mode::Sql).ok();
    }
    let uid = user.owner.uid;
    std::thread::spawn(move || {
        rustix::thread::set_thread_res_uid(None, Some(uid), None).ok()?;
        Connection::connect(&options, Mode::Sql).ok()
    })
    .join()
    .ok()?
}

/// A value of a connection string.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}
