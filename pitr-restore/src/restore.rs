//! `pitr-restore --to DIR`: plan, refuse or confirm, lay down, settings,
//! `pg_control` last.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::Utc;
use pitr_console::{ByteCount, Console, Elapsed, Exit, Failure, Progress, Settings};
use pitr_core::RecoveryTargetTimeline;
use pitr_store::backup::BackupReader;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::configuration::{Configured, configure};
use crate::earlier_restores::{EarlierRestores, RestoreFigures};
use crate::find::before::{BeforeFinding, FindingId};
use crate::find::ground::Ground;
use crate::find::reach::just_before;
use crate::lay_down::marker::MARKER;
use crate::lay_down::{Comparison, Swept, UnfinishedCluster, survey};
use crate::layout::Layout;
use crate::plan::make::{LookAt, make};
use crate::plan::report::PlanReport;
use crate::port;
use crate::recovery_settings::RecoverySettings;
use crate::request::RestoreRequest;
use crate::restore_command::RestoreCommand;
use crate::role::{Machine, Role, RoleChoice};
use crate::sources::Sources;
use crate::start::head_start::HeadStart;
use crate::start::tools::ServerTools;
use crate::start::{Expected, Reached, Start};
use crate::unarchived;

/// Restores a cluster into `to`.
pub(crate) fn run(arguments: &Arguments, to: &Path, console: Console) -> Exit {
    let request = match RestoreRequest::resolve(arguments, to, Utc::now()) {
        Ok(request) => request,
        Err(error) => {
            console.fail(&error.into());
            return Exit::WrongUsage;
        }
    };
    match restore(arguments, &request, console) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            console.fail(&failure);
            Exit::Failed
        }
    }
}

fn restore(
    arguments: &Arguments,
    request: &RestoreRequest,
    console: Console,
) -> Result<(), Failure> {
    let settings = arguments.settings()?;
    let mut sources = Sources::open(&settings, request.system_identifier, console)?;
    let named;
    let request = match request.before {
        None => request,
        Some(id) => {
            named = before(&mut sources, request, id, settings.threads, console)?;
            &named
        }
    };
    // a restore reads every segment anyway
    let look_at = if arguments.restore.dry_run {
        LookAt::Few
    } else {
        LookAt::All
    };
    let (reader, plan) = make(&mut sources, request, look_at, console)?;
    let layout = Layout::arrange(&reader, request)?;
    if layout.directory.is_occupied() {
        unarchived::check(layout.directory.path(), &sources.archives())?;
    }
    let info = reader.info();
    let tools = if arguments.restore.start {
        let named = arguments.restore.pg_bin.as_deref();
        let named = named.or(settings.pg_bin.as_deref());
        Some(ServerTools::find(info.postgres_major, named)?)
    } else {
        None
    };
    let role = RoleChoice::choose(
        request.role,
        &info.origin,
        [&request.directory, layout.directory.path()],
        &Machine::this(),
    );
    let command = RestoreCommand::new(
        &settings,
        &settings.repositories()?,
        info.system_identifier,
        plan.choice.timeline,
    )?;
    sources
        .command_to_try(&command, |repositories| {
            RestoreCommand::new(
                &settings,
                repositories,
                info.system_identifier,
                plan.choice.timeline,
            )
        })?
        .try_out(layout.owner.as_ref())?;

    let earlier = EarlierRestores::load();
    let replayed_bytes = plan
        .coverage
        .segments
        .saturating_mul(info.segment_size.bytes());
    let report = PlanReport {
        repository: reader.repository_location(),
        info,
        plan: &plan,
        request,
        layout: &layout,
        role,
        estimate: earlier.estimate(info.sizes.raw_bytes, replayed_bytes),
    };
    let json = arguments.restore.json;
    if !json {
        result(console, &report.text())?;
    }
    for note in &plan.notes {
        console.warn(note.to_string(), None, note.hint().as_deref());
    }
    if arguments.restore.dry_run {
        let mut document = report.json();
        let comparing = Progress::start(console, "comparing", info.sizes.raw_bytes);
        let delta = survey(&layout, &reader, settings.threads, &comparing)?;
        comparing.finish();
        if let Some((comparison, swept)) = &delta {
            document["delta"] = delta_json(comparison, swept);
            console.log(delta_text(
                comparison,
                swept,
                "would be written",
                "would be deleted",
            ));
        }
        return if json {
            result_json(console, &document)
        } else {
            console.log("dry run: nothing was made");
            Ok(())
        };
    }

    let recovery = RecoverySettings {
        label: info.label.to_string(),
        restore_command: command.setting(),
        target: &plan.target,
        action: request.action,
        timeline: if plan.choice.has_history {
            plan.choice.timeline.to_string()
        } else {
            // by number the server would ask for its history file
            "current".to_owned()
        },
        role: role.role,
        port: port::choose(request.port, role.role, &reader, console)?,
        // before 15 no server reads ahead, and none knows the setting
        // ... and where a repository does not answer, what it reads may be doubtful
        no_read_ahead: (plan.gap_behind || !sources.all_answer())
            && info.postgres_major.get() >= 15,
        recorded: &plan.required_settings(&info.settings),
    };
    let begun = Instant::now();
    let configured = lay_down(&reader, &layout, &recovery, &settings, console)
        .map_err(|failure| elsewhere(failure, &sources.others_with(&reader)))
        .map_err(|failure| how_to_continue(failure, &layout))?;
    tell(&configured, &layout, role, tools.is_some(), console);
    let copied = begun.elapsed();
    let started = Instant::now();
    if tools.is_some() {
        let head_start = HeadStart {
            command: &command,
            directory: layout.directory.path(),
            owner: layout.owner.as_ref(),
            path: &plan.choice.path,
            end: plan.coverage.end,
            segment_size: info.segment_size,
            prefetch: settings.prefetch,
        };
        head_start.give();
    }
    let reached = match &tools {
        None => None,
        Some(tools) => Some(
            Start {
                tools,
                directory: layout.directory.path(),
                owner: layout.owner.as_ref(),
                config_file: configured.config_file.as_deref(),
                expected: Expected::of(request.has_target(), request.action),
                has_target: request.has_target(),
                segment_size: info.segment_size,
                path: &plan.choice.path,
                end: plan.coverage.end,
            }
            .run(console)?,
        ),
    };
    let replayed = reached.is_some();
    // what --delta finds in place is not copied
    if !layout.directory.is_occupied() {
        earlier.remember(RestoreFigures {
            copied_bytes: info.sizes.raw_bytes,
            copied_ms: milliseconds(copied),
            replayed_bytes: replayed.then_some(replayed_bytes),
            replayed_ms: replayed.then(|| milliseconds(started.elapsed())),
        });
    }
    if json {
        let mut document = report.json();
        document["restored"] = json!(true);
        document["server"] = reached.as_ref().map_or(Value::Null, Reached::json);
        return result_json(console, &document);
    }
    match reached {
        None => Ok(()),
        Some(reached) => result(console, &reached.text()),
    }
}

/// Looks up what `--before` names, and aims at the moment before it.
fn before(
    sources: &mut Sources,
    request: &RestoreRequest,
    id: FindingId,
    threads: usize,
    console: Console,
) -> Result<RestoreRequest, Failure> {
    let inventory = sources.inventory(console)?;
    let mut ground = Ground::survey(inventory, request.timeline)?;
    let found = BeforeFinding::look_up(&mut ground, sources, id, threads, console)?;
    console.log(format!(
        "at {}: {}; recovery stops just before LSN {}",
        id.0,
        found.what(),
        found.safe_lsn
    ));
    Ok(RestoreRequest {
        target: just_before(found.safe_lsn),
        // the timeline that was searched
        timeline: match request.timeline {
            RecoveryTargetTimeline::Latest => RecoveryTargetTimeline::Id(ground.timeline()),
            named => named,
        },
        ..request.clone()
    })
}

/// From the first directory to a cluster that is whole.
pub(crate) fn lay_down(
    reader: &BackupReader,
    layout: &Layout,
    recovery: &RecoverySettings<'_>,
    settings: &Settings,
    console: Console,
) -> Result<Configured, Failure> {
    let info = reader.info();
    // files are made with the modes that they are given, and nobody else's
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cluster = UnfinishedCluster::begin(layout, info)?;
    let comparing = Progress::start(console, "comparing", info.sizes.raw_bytes);
    let in_place = cluster.compare(reader, settings.threads, &comparing)?;
    comparing.finish();
    if let Some(comparison) = &in_place {
        let swept = cluster.sweep(reader, comparison)?;
        tell_delta(comparison, &swept, console);
    }
    let progress = Progress::start(console, "restoring", info.sizes.raw_bytes);
    // a store that answers slowly keeps fewer threads busy than there are cores
    let workers = settings.threads.max(settings.parts_in_flight.get());
    cluster.unpack(reader, in_place.as_ref(), workers, &progress)?;
    progress.finish();
    let configured = configure(&cluster, info, recovery)?;
    cluster.finish()?;
    console.log(format!(
        "{} files, {} restored and checked in {}",
        info.sizes.files,
        ByteCount(progress.done_bytes()),
        Elapsed(progress.elapsed())
    ));
    Ok(configured)
}

/// What a data directory that was there had, and what became of the rest.
fn tell_delta(comparison: &Comparison, swept: &Swept, console: Console) {
    console.log(delta_text(comparison, swept, "written", "deleted"));
    for link in &swept.links {
        console.warn(
            format!("\"{}\" was a link to a folder, and was taken away", link.display()),
            Some("What it leads to was left as it is."),
            Some("Delete that folder if it is not needed any more; a pg_wal that belongs there is linked again before the server starts."),
        );
    }
}

fn delta_text(comparison: &Comparison, swept: &Swept, written: &str, deleted: &str) -> String {
    format!(
        "{} files, {} are as in the backup; {} files, {} {written}; {} others {deleted}",
        comparison.same_files,
        ByteCount(comparison.same_bytes),
        comparison.other_files,
        ByteCount(comparison.other_bytes),
        swept.files
    )
}

fn delta_json(comparison: &Comparison, swept: &Swept) -> Value {
    json!({
        "same_files": comparison.same_files,
        "same_bytes": comparison.same_bytes,
        "written_files": comparison.other_files,
        "written_bytes": comparison.other_bytes,
        "deleted_files": swept.files,
    })
}

/// Where the same backup can be had, if it was the copy that failed.
fn elsewhere(failure: Failure, others: &[String]) -> Failure {
    let Some(other) = others.first() else {
        return failure;
    };
    let before = failure
        .hint()
        .map_or_else(String::new, |hint| format!("{hint}\n"));
    failure.with_hint(format!(
        "{before}Repository \"{other}\" has the same backup: where this copy is at fault, name that one first with --repo."
    ))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a failed restore leaves, and what to do about it.
fn how_to_continue(failure: Failure, layout: &Layout) -> Failure {
    // nothing was touched
    if !layout.directory.path().join(MARKER).exists() {
        return failure;
    }
    let folders: Vec<String> = layout
        .folders()
        .filter(|folder| folder.path().exists())
        .map(|folder| folder.path().display().to_string())
        .collect();
    let before = failure
        .hint()
        .map_or_else(String::new, |hint| format!("{hint}\n"));
    failure.with_hint(format!(
        "{before}What was restored so far cannot be used. Run the same command again with --delta to finish it, or empty {} to begin again.",
        folders.join(" and ")
    ))
}

/// What was done beyond copying, and how it goes on.
fn tell(
    configured: &Configured,
    layout: &Layout,
    role: RoleChoice,
    starts: bool,
    console: Console,
) {
    let directory = layout.directory.path().display();
    if !configured.removed.is_empty() {
        console.log(format!(
            "older settings taken out of postgresql.auto.conf: {}",
            configured.removed.join(", ")
        ));
    }
    if !configured.made.is_empty() {
        console.warn(
            format!(
                "the backup holds no {}: made with the least that a server needs",
                configured.made.join(", ")
            ),
            None,
            Some("The original server kept its configuration outside of the data directory; copy what is needed from there."),
        );
    }
    if let Some(other) = &configured.other_data_directory {
        console.warn(
            format!(
                "postgresql.conf named another data directory: {}",
                other.display()
            ),
            Some("A server started here would have used that one. The line was taken out."),
            None,
        );
    }
    let ignored: String = configured
        .made
        .iter()
        .copied()
        .chain(
            configured
                .other_data_directory
                .is_some()
                .then_some("postgresql.conf"),
        )
        .chain(layout.moves_tablespaces().then_some("tablespace_map"))
        .map(|name| format!(" --ignore={name}"))
        .collect();
    console.log(format!(
        "pg_verifybackup --no-parse-wal{ignored} {directory} checks it once more"
    ));
    if starts {
        tell_of_clone(role, console);
        return;
    }
    let options = configured
        .config_file
        .as_ref()
        .map_or_else(String::new, |file| {
            format!(
                " -o \"-c config_file={} -c data_directory={directory}\"",
                file.display()
            )
        });
    console.log(format!(
        "the {} is ready: pg_ctl start -D {directory}{options}",
        role.role
    ));
    tell_of_clone(role, console);
}

/// How a clone becomes a primary later.
fn tell_of_clone(role: RoleChoice, console: Console) {
    if role.role != Role::Clone {
        return;
    }
    let names: Vec<String> = Role::Clone
        .settings()
        .into_iter()
        .map(|setting| setting.name)
        .collect();
    console.log(format!(
        "to make a primary of it later: ALTER SYSTEM RESET {}; then restart it",
        names.join("; ALTER SYSTEM RESET ")
    ));
}

fn result(console: Console, text: &str) -> Result<(), Failure> {
    console
        .result(text)
        .map_err(|error| Failure::new(format!("could not write the result: {error}")))
}

fn result_json(console: Console, document: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::new(format!("could not write the result: {error}")))?;
    result(console, &text)
}
