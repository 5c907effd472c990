//! `pitr-restore table`: a table, a schema or a database as it was, taken out of
//! a scratch copy that nobody else sees.

mod child;
mod copy;
mod destination;
mod scratch;
mod selection;
mod sql;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use pitr_console::{Console, Exit, Explain, Failure};
use pitr_core::{
    ParseRecoveryTargetTimelineError, ParseSystemIdentifierError, RecoveryTargetTimeline,
};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::arguments::{Arguments, TableArguments};
use crate::find::before::{BeforeFinding, FindingId, ParseFindingIdError};
use crate::find::ground::Ground;
use crate::find::reach::{Reach, Reaches};
use crate::sources::Sources;
use crate::start::tools::ServerTools;
use copy::{Copy, CopyRequest, PORT};
use destination::Destination;
use scratch::Scratch;
use selection::{Selection, SelectionError, Table, TableName};

/// A word of the command line that means nothing.
#[derive(Debug, thiserror::Error)]
enum RescueUsageError {
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("--before: {0}")]
    Before(ParseFindingIdError),
    #[error("--target-timeline: {0}")]
    Timeline(ParseRecoveryTargetTimelineError),
    #[error("--system-identifier: {0}")]
    SystemIdentifier(ParseSystemIdentifierError),
    #[error("nothing was named that should be rescued")]
    Nothing,
    #[error("--as renames one table, and {found} were named")]
    Renamed { found: String },
}

impl Explain for RescueUsageError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Selection(error) => error.hint(),
            Self::Before(error) => error.hint(),
            Self::Timeline(_) | Self::SystemIdentifier(_) => None,
            Self::Nothing => Some(
                "Name tables, or a schema with --schema, or a database with --database.".to_owned(),
            ),
            Self::Renamed { .. } => {
                Some("--as-schema puts several into a schema of their own.".to_owned())
            }
        }
    }
}

/// What is asked for, understood.
struct RescueRequest {
    selection: Selection,
    before: FindingId,
    timeline: RecoveryTargetTimeline,
    destination: Destination,
}

/// Rescues and reports.
pub(crate) fn run(arguments: &Arguments, rescue: &TableArguments, console: Console) -> Exit {
    let request = match resolve(arguments, rescue) {
        Ok(request) => request,
        Err(error) => {
            console.fail(&error.into());
            return Exit::WrongUsage;
        }
    };
    match carry_out(arguments, rescue, &request, console) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            console.fail(&failure);
            Exit::Failed
        }
    }
}

fn resolve(
    arguments: &Arguments,
    rescue: &TableArguments,
) -> Result<RescueRequest, RescueUsageError> {
    arguments
        .system_identifier()
        .map_err(RescueUsageError::SystemIdentifier)?;
    let selection = if !rescue.names.is_empty() {
        let names = rescue.names.iter().map(|name| TableName::parse(name));
        Selection::Tables(names.collect::<Result<_, _>>()?)
    } else if !rescue.schema.is_empty() {
        Selection::Schemas(rescue.schema.clone())
    } else if rescue.database.is_some() {
        Selection::Database
    } else {
        return Err(RescueUsageError::Nothing);
    };
    if rescue.rename.is_some() {
        let is_one = matches!(&selection, Selection::Tables(names) if names.len() == 1);
        if !is_one {
            let found = match &selection {
                Selection::Tables(names) => names.len().to_string(),
                _ => "all of a schema or database".to_owned(),
            };
            return Err(RescueUsageError::Renamed { found });
        }
    }
    Ok(RescueRequest {
        selection,
        before: rescue.before.parse().map_err(RescueUsageError::Before)?,
        timeline: rescue
            .target_timeline
            .as_deref()
            .map_or(Ok(RecoveryTargetTimeline::Latest), str::parse)
            .map_err(RescueUsageError::Timeline)?,
        destination: Destination::parse(&rescue.into),
    })
}

fn carry_out(
    arguments: &Arguments,
    rescue: &TableArguments,
    request: &RescueRequest,
    console: Console,
) -> Result<(), Failure> {
    let settings = arguments.settings()?;
    let identifier = arguments
        .system_identifier()
        .map_err(|error| Failure::from_error(&error))?;
    let mut sources = Sources::open(&settings, identifier, console)?;
    let major = sources.identity()?.major;
    let named_bin = rescue.pg_bin.as_deref().or(settings.pg_bin.as_deref());
    let tools = ServerTools::find(major, named_bin)?;
    for name in ["pg_dump", "psql"] {
        let path = tools.program(name);
        if !path.is_file() {
            return Err(
                Failure::new(format!("there is no \"{}\"", path.display())).with_hint(format!(
                    "Install the client programs of PostgreSQL {major}."
                )),
            );
        }
    }
    let inventory = sources.inventory(console)?;
    let mut ground = Ground::survey(inventory, request.timeline)?;
    let threads = settings.threads;
    let found = BeforeFinding::look_up(&mut ground, &sources, request.before, threads, console)?;
    console.log(format!(
        "at {}: {}; the scratch copy stops just before LSN {}",
        request.before.0,
        found.what(),
        found.safe_lsn
    ));
    let database = selection::database(
        rescue.database.as_deref(),
        &request.selection,
        &found.findings,
    )?;
    for table in request.selection.not_among(&found.findings) {
        console.log(format!(
            "table \"{table}\" is none of those that it happened to: it is looked for in the copy"
        ));
    }
    request.destination.check(&arriving(rescue, request))?;
    let label = match Reaches::new(&mut ground, &sources, console).to(found.safe_lsn)? {
        Reach::From(label) => label,
        Reach::Not { reason, hint } => return Err(Failure::new(reason).with_hint_of(hint)),
    };

    let info = sources.backup_info(label);
    let original = info.and_then(|info| info.origin.data_directory);
    let parent = match &rescue.scratch {
        Some(parent) => std::path::absolute(parent)
            .map_err(|error| Failure::new(format!("--scratch: {error}")))?,
        None => scratch::choose_parent(original.as_deref().map(Path::new)),
    };
    let pg_ctl = tools.program("pg_ctl");
    scratch::sweep(&parent, &pg_ctl, console);
    let scratch = Scratch::make(&parent, &request.before.to_string())?;
    let guard = Removal::of(&scratch, &pg_ctl, console)?;
    let timeline = ground.timeline();
    drop(ground);
    let copy_request = CopyRequest {
        sources: &mut sources,
        settings: &settings,
        tools: &tools,
        timeline,
        safe_lsn: found.safe_lsn,
    };
    let rescued = Copy::make(copy_request, &scratch, console)
        .and_then(|copy| take_out(&copy, &database, rescue, request, &tools, &scratch));
    guard.remove();
    let report = rescued?;
    let text = if rescue.json {
        serde_json::to_string_pretty(&report.json(&request.destination))
            .map_err(|error| Failure::new(format!("could not write the result: {error}")))?
    } else {
        report.text(&request.destination)
    };
    console
        .result(text)
        .map_err(|error| Failure::new(format!("could not write the result: {error}")))
}

/// Tables under the names that they will have at the destination.
fn arriving(rescue: &TableArguments, request: &RescueRequest) -> Vec<(Option<String>, String)> {
    let Selection::Tables(names) = &request.selection else {
        return Vec::new();
    };
    names
        .iter()
        .map(|table| {
            let schema = rescue.as_schema.clone().or_else(|| table.schema.clone());
            let name = rescue.rename.clone().unwrap_or_else(|| table.name.clone());
            (schema, name)
        })
        .collect()
}

/// From the running copy to the destination.
fn take_out(
    copy: &Copy<'_>,
    database: &str,
    rescue: &TableArguments,
    request: &RescueRequest,
    tools: &ServerTools,
    scratch: &Scratch,
) -> Result<RescueReport, Failure> {
    let mut connection = copy.connect(database)?;
    let mut tables = request.selection.tables(&mut connection, database)?;
    let mut counts = Vec::with_capacity(tables.len());
    for table in &tables {
        let rows = if table.is_partitioned {
            0
        } else {
            selection::count(&mut connection, table)?
        };
        counts.push(rows);
    }
    let was: Vec<Table> = tables.clone();
    let renamed = selection::rename(
        &mut connection,
        &request.selection,
        &mut tables,
        rescue.rename.as_deref(),
        rescue.as_schema.as_deref(),
    )?;
    drop(connection);
    let dump = dump(copy, database, &renamed, &tables, rescue, tools, scratch)?;
    request.destination.put(&dump, &tools.program("psql"))?;
    let mut report = RescueReport {
        database: database.to_owned(),
        tables: Vec::new(),
    };
    for ((was, table), rows) in was.into_iter().zip(tables).zip(counts) {
        // a materialized view has what its query gives there
        let loaded = if table.is_partitioned || table.is_materialized {
            None
        } else {
            request.destination.count(&table.schema, &table.name)?
        };
        report.tables.push(RescuedTable {
            was,
            now: table,
            rows,
            loaded,
        });
    }
    for table in &report.tables {
        if let Some(loaded) = table.loaded
            && loaded != table.rows
        {
            return Err(Failure::new(format!(
                "{} has {loaded} rows now, and {} were rescued",
                table.now.qualified(),
                table.rows
            ))
            .with_hint(
                "Somebody may have changed it meanwhile. --into FILE writes them to a file.",
            ));
        }
    }
    Ok(report)
}

/// Dumps into the scratch directory: what fails half-way reaches nobody.
fn dump(
    copy: &Copy<'_>,
    database: &str,
    selection: &Selection,
    tables: &[Table],
    rescue: &TableArguments,
    tools: &ServerTools,
    scratch: &Scratch,
) -> Result<PathBuf, Failure> {
    let path = scratch.file("dump.sql", b"", None)?;
    let failed = |error: std::io::Error| {
        Failure::new(format!("could not write \"{}\": {error}", path.display()))
    };
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .map_err(failed)?;
    if let (Some(schema), Selection::Tables(_)) = (&rescue.as_schema, selection) {
        use std::io::Write as _;
        // pg_dump of tables does not make their schema
        writeln!(
            file,
            "CREATE SCHEMA IF NOT EXISTS {};",
            sql::identifier(schema)
        )
        .map_err(failed)?;
    }
    let program = tools.program("pg_dump");
    let mut command = Command::new(&program);
    // the scratch copy and no other server
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
        .arg("--no-password")
        .args(selection.dump_arguments(tables))
        .args(
            rescue
                .no_owner
                .then_some(["--no-owner", "--no-privileges"])
                .into_iter()
                .flatten(),
        )
        .env("PGHOST", copy.socket_folder())
        .env("PGPORT", PORT.to_string())
        .env("PGUSER", copy.user())
        .env("PGDATABASE", database)
        .stdin(Stdio::null())
        .stdout(file);
    let output = command.stderr(Stdio::piped()).output().map_err(|error| {
        Failure::new(format!("could not run \"{}\": {error}", program.display()))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Failure::new(format!("pg_dump failed: {said}")));
    }
    Ok(path)
}

/// What was rescued.
struct RescueReport {
    database: String,
    tables: Vec<RescuedTable>,
}

struct RescuedTable {
    was: Table,
    now: Table,
    rows: u64,
    /// Rows at the destination, counted there.
    loaded: Option<u64>,
}

impl Table {
    fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl RescueReport {
    fn text(&self, destination: &Destination) -> String {
        let mut text = String::new();
        for table in self.tables.iter().filter(|table| !table.now.is_partitioned) {
            let renamed = if table.was == table.now {
                String::new()
            } else {
                format!(" as {}", table.now.qualified())
            };
            let counted = if table.now.is_materialized {
                ", refreshed where it goes"
            } else if table.loaded.is_some() {
                ", counted there"
            } else {
                ""
            };
            text.push_str(&format!(
                "{}.{}{renamed}: {} rows{counted}\n",
                self.database,
                table.was.qualified(),
                table.rows
            ));
        }
        text.push_str(&match destination {
            Destination::File(path) => {
                format!("written to {}: load it with psql -1 -f", path.display())
            }
            Destination::Server(_) => format!("loaded into {}", destination.place()),
        });
        text
    }

    fn json(&self, destination: &Destination) -> Value {
        json!({
            "database": self.database,
            "into": destination.place(),
            "tables": self.tables.iter().map(|table| json!({
                "schema": table.was.schema,
                "name": table.was.name,
                "as_schema": table.now.schema,
                "as_name": table.now.name,
                "partitioned": table.now.is_partitioned,
                "materialized_view": table.now.is_materialized,
                "rows": table.rows,
                "rows_loaded": table.loaded,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Removes the scratch copy: at the end, after an error, and when somebody
/// interrupts. What is killed outright leaves it, marked, to the next rescue.
struct Removal {
    path: PathBuf,
    pg_ctl: PathBuf,
    console: Console,
    signals: Handle,
    watcher: Option<JoinHandle<()>>,
}

impl Removal {
    fn of(scratch: &Scratch, pg_ctl: &Path, console: Console) -> Result<Self, Failure> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|error| Failure::new(format!("could not watch for signals: {error}")))?;
        let handle = signals.handle();
        let (path, program) = (scratch.path().to_owned(), pg_ctl.to_owned());
        let watcher = std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                child::end();
                let removed = scratch::remove(&path, Some(&program));
                let outcome = match removed {
                    Ok(()) => "the scratch copy was removed".to_owned(),
                    Err(error) => format!("\"{}\" is left: {error}", path.display()),
                };
                console.fail(&Failure::new(format!("interrupted; {outcome}")));
                std::process::exit(1);
            }
        });
        Ok(Self {
            path: scratch.path().to_owned(),
            pg_ctl: pg_ctl.to_owned(),
            console,
            signals: handle,
            watcher: Some(watcher),
        })
    }

    fn remove(self) {
        drop(self);
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Err(error) = scratch::remove(&self.path, Some(&self.pg_ctl)) {
            self.console.warn(
                format!(
                    "the scratch copy \"{}\" is left: {error}",
                    self.path.display()
                ),
                None,
                Some("Stop the server in it and remove it."),
            );
        }
        self.signals.close();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
