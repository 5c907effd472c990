//! The scratch copy: a clone that nobody but this rescue can reach.

use std::path::Path;

use pitr_console::{Console, Failure, Settings};
use pitr_core::{Lsn, RecoveryTargetTimeline, TargetAction, TimelineId};
use pitr_postgres::{ConnectOptions, Connection, Mode};

use super::scratch::Scratch;
use super::sql::literal;
use crate::arguments::RoleArgument;
use crate::find::reach::just_before;
use crate::layout::Layout;
use crate::os_user::OsUser;
use crate::plan::make::{LookAt, make};
use crate::recovery_settings::RecoverySettings;
use crate::request::{RestoreRequest, TablespaceMapping};
use crate::restore::lay_down;
use crate::restore_command::RestoreCommand;
use crate::role::Role;
use crate::settings_file::{Setting, SettingsFile};
use crate::sources::Sources;
use crate::start::tools::ServerTools;
use crate::start::{Expected, Start};

/// Port of the socket: nobody else's is in its folder.
pub(crate) const PORT: u16 = 5432;

/// Everybody who can reach the socket may do anything: its folder is closed to
/// all but the server's user.
const HBA: &[u8] = b"local all all trust\n";

/// What a copy is restored from and to.
pub(crate) struct CopyRequest<'c> {
    pub(crate) sources: &'c mut Sources,
    pub(crate) settings: &'c Settings,
    pub(crate) tools: &'c ServerTools,
    pub(crate) timeline: TimelineId,
    pub(crate) safe_lsn: Lsn,
}

/// A scratch copy whose server runs.
#[derive(Debug)]
pub(crate) struct Copy<'s> {
    scratch: &'s Scratch,
    user: String,
}

impl<'s> Copy<'s> {
    /// Restores it into `scratch`, starts it, and waits until it stands just
    /// before what happened.
    ///
    /// # Errors
    /// Those of any restore.
    pub(crate) fn make(
        request: CopyRequest<'_>,
        scratch: &'s Scratch,
        console: Console,
    ) -> Result<Self, Failure> {
        let mut restore = RestoreRequest {
            directory: scratch.data(),
            system_identifier: None,
            target: just_before(request.safe_lsn),
            before: None,
            target_time: None,
            timeline: RecoveryTargetTimeline::Id(request.timeline),
            // a paused server still holds the lock of the very transaction that
            // took the table away: nobody could read it
            action: TargetAction::Promote,
            backup: None,
            tablespaces: Vec::new(),
            role: Some(RoleArgument::Clone),
            port: Some(PORT),
            delta: false,
        };
        let (reader, plan) = make(request.sources, &restore, LookAt::All, console)?;
        let info = reader.info();
        restore.tablespaces = info
            .tablespaces
            .iter()
            .map(|tablespace| TablespaceMapping {
                old: (&tablespace.location).into(),
                new: scratch
                    .path()
                    .join(format!("tablespace-{}", tablespace.oid)),
            })
            .collect();
        let layout = Layout::arrange(&reader, &restore)?;
        let owner = layout.owner.as_ref();
        // made by us, since its parent is ours alone
        scratch.folder("data", owner)?;
        for tablespace in &info.tablespaces {
            scratch.folder(&format!("tablespace-{}", tablespace.oid), owner)?;
        }
        let command = RestoreCommand::new(
            request.settings,
            &request.settings.repositories()?,
            info.system_identifier,
            plan.choice.timeline,
        )?;
        request
            .sources
            .command_to_try(&command, |repositories| {
                RestoreCommand::new(
                    request.settings,
                    repositories,
                    info.system_identifier,
                    plan.choice.timeline,
                )
            })?
            .try_out(owner)?;
        let recovery = RecoverySettings {
            label: info.label.to_string(),
            restore_command: command.setting(),
            target: &plan.target,
            action: restore.action,
            timeline: if plan.choice.has_history {
                plan.choice.timeline.to_string()
            } else {
                "current".to_owned()
            },
            role: Role::Clone,
            port: restore.port,
            // ... as for any restore
            no_read_ahead: (plan.gap_behind || !request.sources.all_answer())
                && info.postgres_major.get() >= 15,
            recorded: &plan.required_settings(&info.settings),
        };
        let configured = lay_down(&reader, &layout, &recovery, request.settings, console)?;
        scratch.folder("socket", owner)?;
        let hba = scratch.file("pg_hba.conf", HBA, owner)?;
        seclude(scratch, &hba, info.postgres_major.get())?;
        Start {
            tools: request.tools,
            directory: layout.directory.path(),
            owner,
            config_file: configured.config_file.as_deref(),
            expected: Expected::Production,
            has_target: true,
            segment_size: info.segment_size,
            path: &plan.choice.path,
            end: plan.coverage.end,
        }
        .run(console)?;
        let user = superuser(scratch, owner)?;
        console.log(format!(
            "the scratch copy in \"{}\" is as everything was just before LSN {}",
            scratch.path().display(),
            request.safe_lsn
        ));
        Ok(Self { scratch, user })
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn socket_folder(&self) -> std::path::PathBuf {
        self.scratch.socket_folder()
    }

    /// Connects to one of its databases, and gives up the prepared transactions
    /// in it: what one of them dropped is locked as long as it is neither.
    pub(crate) fn connect(&self, database: &str) -> Result<Connection, Failure> {
        let mut connection = connect(self.scratch, &self.user, database).map_err(|error| {
            Failure::new(format!(
                "could not connect to database \"{database}\" of the scratch copy: {error}"
            ))
        })?;
        let mut query = |sql: &str| {
            let rows = connection.query(sql);
            rows.map_err(|error| Failure::from_error(&error))
        };
        let prepared =
            query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")?;
        for gid in prepared.iter().filter_map(|row| row.get(0)) {
            query(&format!("ROLLBACK PREPARED {}", literal(gid)))?;
        }
        Ok(connection)
    }
}

/// Settings over everybody's: reachable by nobody, small beside production, and
/// without a care for what becomes of it.
fn seclude(scratch: &Scratch, hba: &Path, major: u16) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let socket_folder = scratch.socket_folder();
    let mut settings = vec![
        Setting::new("listen_addresses", ""),
        Setting::new(
            "unix_socket_directories",
            socket_folder.as_os_str().as_bytes().to_vec(),
        ),
        Setting::new("unix_socket_group", ""),
        Setting::new("unix_socket_permissions", "0700"),
        Setting::new("hba_file", hba.as_os_str().as_bytes().to_vec()),
        Setting::new("external_pid_file", ""),
        Setting::new("ssl", "off"),
        Setting::new("logging_collector", "off"),
        Setting::new("log_destination", "stderr"),
        Setting::new("shared_buffers", "128MB"),
        Setting::new("huge_pages", "off"),
        Setting::new("fsync", "off"),
        Setting::new("full_page_writes", "off"),
        Setting::new("autovacuum", "off"),
        Setting::new("max_standby_archive_delay", "-1"),
        Setting::new("statement_timeout", "0"),
        Setting::new("lock_timeout", "0"),
        Setting::new("idle_in_transaction_session_timeout", "0"),
        Setting::new("default_transaction_read_only", "off"),
        Setting::new("hot_standby", "on"),
    ];
    if major >= 17 {
        settings.push(Setting::new("summarize_wal", "off"));
        settings.push(Setting::new("event_triggers", "off"));
        settings.push(Setting::new("transaction_timeout", "0"));
    }
    let path = scratch.data().join("postgresql.auto.conf");
    let failed = |error| Failure::new(format!("could not write \"{}\": {error}", path.display()));
    let mut file = SettingsFile::parse(&std::fs::read(&path).map_err(failed)?);
    file.remove(settings.iter().map(|setting| setting.name.as_str()));
    file.append("pitr-restore: a scratch copy, for one rescue", &settings);
    // the file is there, and stays its owner's
    std::fs::write(&path, file.to_bytes()).map_err(failed)
}

/// A role that may read everything: the usual names first.
fn superuser(scratch: &Scratch, owner: Option<&OsUser>) -> Result<String, Failure> {
    let own = OsUser::by_uid(rustix::process::geteuid().as_raw());
    let names = [owner, own.as_ref()]
        .into_iter()
        .flatten()
        .map(|user| user.name.clone());
    let candidates: Vec<String> = std::env::var("PGUSER")
        .into_iter()
        .chain(["postgres".to_owned()])
        .chain(names)
        .collect();
    let mut last = None;
    for user in &candidates {
        let asked = connect(scratch, user, "template1").map(|mut connection| {
            let rows = connection.query(
                "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin \
                 ORDER BY rolname <> current_user, oid LIMIT 1",
            );
            rows.ok()
                .and_then(|rows| Some(rows.first()?.get(0)?.to_owned()))
        });
        match asked {
            Ok(Some(superuser)) => return Ok(superuser),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(Failure::new(format!(
        "no role of the scratch copy lets itself be used, tried: {}",
        candidates.join(", ")
    ))
    .with_detail(last.unwrap_or_default())
    .with_hint("PGUSER names a role that can log in."))
}

fn connect(scratch: &Scratch, user: &str, database: &str) -> Result<Connection, String> {
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let conninfo = format!(
        "host={} port={PORT} user={} dbname={} connect_timeout=10 sslmode=disable",
        quoted(&scratch.socket_folder().to_string_lossy()),
        quoted(user),
        quoted(database)
    );
    // nothing of the surroundings: they may lead to production
    let surroundings: std::collections::BTreeMap<String, String> =
        std::collections::BTreeMap::new();
    let options = ConnectOptions::resolve(Some(&conninfo), &surroundings)
        .map_err(|error| error.to_string())?
        .with_program_name("pitr-restore");
    Connection::connect(&options, Mode::Sql).map_err(|error| error.to_string())
}
