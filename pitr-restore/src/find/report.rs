//! What was found, for people and for programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use pitr_console::quoting::shell_word;
use pitr_console::{ByteCount, Elapsed, PointInTime};
use pitr_core::{Finding, FoundEvent, FoundObject, ObjectKind, Sureness, Timestamp};
use serde_json::{Value, json};

use super::before::FindingId;
use super::ground::Ground;
use super::reach::Reach;
use super::search::Searched;
use crate::arguments::Arguments;
use crate::plan::elsewhere::Elsewhere;
use crate::restore_command::has_password;
use crate::sources::Sources;

/// Most objects that a line names.
const MAX_NAMED: usize = 5;

/// A finding, and whether the moment before it can be reached.
#[derive(Debug)]
pub(super) struct TimedFinding {
    pub(super) finding: Finding,
    pub(super) reach: Reach,
}

/// What was found, and in what.
pub(super) struct FindReport<'a> {
    pub(super) ground: &'a Ground,
    pub(super) sources: &'a Sources,
    pub(super) searched: &'a Searched,
    pub(super) findings: &'a [TimedFinding],
    /// Where else in the archive the transaction that was asked for is.
    pub(super) elsewhere: &'a [Elsewhere],
    pub(super) arguments: &'a Arguments,
    /// The timeline that was asked for.
    pub(super) timeline_named: Option<&'a str>,
}

impl FindReport<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for timed in self.findings {
            let finding = &timed.finding;
            write!(text, "{}", FindingId(finding.lsn))?;
            if let Some(time) = finding.time {
                write!(text, "  {}", local_time(time))?;
            }
            write!(text, "  LSN {}", finding.lsn)?;
            if let Some(xid) = finding.xid {
                write!(text, "  transaction {xid}")?;
            }
            writeln!(text, "\n    {}", what(finding))?;
            if let Some(doubt) = doubt(finding) {
                writeln!(text, "    {doubt}")?;
            }
            match &timed.reach {
                Reach::From(label) => {
                    let before = before(finding);
                    writeln!(text, "    {before} can be reached from backup {label}:")?;
                    for command in self.commands(finding, &timed.reach) {
                        writeln!(text, "        {command}")?;
                    }
                }
                Reach::Not { reason, .. } => {
                    writeln!(text, "    the moment before it cannot be reached: {reason}")?;
                }
            }
            writeln!(text)?;
        }
        if self.searched.begin.is_none() {
            let timeline = self.ground.timeline();
            return writeln!(
                text,
                "nothing: no archived log of timeline {timeline} lies there"
            );
        }
        let found = match self.findings.len() {
            0 => "nothing".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        };
        write!(text, "{found} on timeline {}", self.ground.timeline())?;
        if let (Some(begin), Some(end)) = (self.searched.begin, self.searched.end) {
            write!(text, " from {begin} to {end}")?;
        }
        writeln!(
            text,
            ", {} of {} segments read{}",
            self.searched.segments_read,
            self.searched.segments,
            if self.searched.segments_read < self.searched.segments {
                ", the others by their summaries"
            } else {
                ""
            }
        )?;
        for place in self.elsewhere {
            let time = place
                .time
                .map_or_else(String::new, |time| format!(", {}", local_time(time)));
            let (timeline, lsn) = (place.timeline, place.lsn);
            writeln!(
                text,
                "a transaction of this number ends on timeline {timeline} at {lsn}{time}: --timeline {timeline}"
            )?;
        }
        match self.searched.names_from.as_slice() {
            [] => writeln!(
                text,
                "names are those that the log itself shows: no base backup lies before it"
            ),
            labels => {
                let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
                writeln!(
                    text,
                    "names are those of base backup {}, followed through the log",
                    labels.join(" and ")
                )
            }
        }
    }

    /// The commands that lead to the moment before a finding.
    fn commands(&self, finding: &Finding, reach: &Reach) -> Vec<String> {
        let Reach::From(label) = reach else {
            return Vec::new();
        };
        let id = FindingId(finding.lsn);
        let mut restore = self.command();
        let directory = self.directory(*label);
        restore.push_str(&format!(
            " --to {} --before {id}",
            word(&format!("{directory}-before-{id}"))
        ));
        if let Some(timeline) = self.timeline_named {
            restore.push_str(&format!(" --target-timeline {}", word(timeline)));
        }
        let mut commands = vec![restore];
        commands.extend(self.rescue(finding));
        commands
    }

    /// The command that puts back what was lost, and nothing else.
    fn rescue(&self, finding: &Finding) -> Option<String> {
        let (what, file) = match &finding.event {
            FoundEvent::Drop { objects } | FoundEvent::Truncate { objects } => {
                let tables: Vec<&FoundObject> =
                    objects.iter().filter(|object| has_rows(object)).collect();
                // one database at a time, which those of one transaction are
                let names: Option<Vec<String>> =
                    tables.iter().map(|table| argument(table)).collect();
                let names = names.filter(|names| !names.is_empty())?;
                (names.join(" "), tables.first()?.name.clone()?)
            }
            FoundEvent::Delete { table, .. } | FoundEvent::Update { table, .. } => {
                (argument(table)?, table.name.clone()?)
            }
            FoundEvent::DropDatabase { database } => {
                let name = database.database_name.clone()?;
                (format!("--database {}", word(&name)), name)
            }
            _ => return None,
        };
        let id = FindingId(finding.lsn);
        let mut command = format!(
            "{} table {what} --before {id} --into {}",
            self.command(),
            word(&format!("{file}-{id}.sql"))
        );
        if let Some(timeline) = self.timeline_named {
            command.push_str(&format!(" --target-timeline {}", word(timeline)));
        }
        Some(command)
    }

    /// The command up to its verb, with what leads to this repository.
    fn command(&self) -> String {
        let mut command = "pitr-restore".to_owned();
        let arguments = self.arguments;
        // a password is never shown: whoever gave one gives it again
        let shown = |repo: &&String| !has_password(repo);
        for repo in arguments.repository.repo.iter().filter(shown) {
            command.push_str(&format!(" --repo {}", word(repo)));
        }
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let repository = &arguments.repository;
        for (flag, value) in [
            ("--config", path(&repository.config)),
            ("--identity", path(&repository.identity)),
            (
                "--encryption-key-file",
                path(&repository.encryption_key_file),
            ),
            ("--spool", path(&arguments.spool)),
            ("--system-identifier", arguments.system_identifier.clone()),
        ] {
            if let Some(value) = value {
                command.push_str(&format!(" {flag} {}", word(&value)));
            }
        }
        command
    }

    /// Where the original lies: a copy beside it is on the same disk.
    fn directory(&self, label: pitr_store::backup::Label) -> String {
        let info = self.sources.backup_info(label);
        let original = info.and_then(|info| info.origin.data_directory);
        original.map_or_else(
            || "/var/tmp/pitr".to_owned(),
            |path| path.trim_end_matches('/').to_owned(),
        )
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "repository": self.sources.locations(),
            "system_identifier": self.ground.log().identity().system_identifier,
            "timeline": self.ground.timeline(),
            "from": self.searched.begin,
            "until": self.searched.end,
            "segments": self.searched.segments,
            "segments_read": self.searched.segments_read,
            "names_from_backups": self.searched.names_from,
            "missing_segments": self.searched.gaps,
            "elsewhere": self.elsewhere.iter().map(|place| json!({
                "timeline": place.timeline,
                "lsn": place.lsn,
                "time": place.time.and_then(rfc3339),
            })).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(|timed| self.finding_json(timed)).collect::<Vec<_>>(),
        })
    }

    fn finding_json(&self, timed: &TimedFinding) -> Value {
        let finding = &timed.finding;
        let mut document = json!({
            "id": FindingId(finding.lsn).to_string(),
            "kind": finding.event.kind(),
            "lsn": finding.lsn,
            "time": finding.time.and_then(rfc3339),
            "xid": finding.xid,
            "what": what(finding),
            "objects": finding.event.objects().into_iter().map(object_json).collect::<Vec<_>>(),
            "safe_point": {
                "lsn": finding.safe_lsn,
                "exclusive": true,
            },
            "reachable": matches!(timed.reach, Reach::From(_)),
            "backup": match &timed.reach {
                Reach::From(label) => json!(label),
                Reach::Not { .. } => Value::Null,
            },
            "why_not": match &timed.reach {
                Reach::From(_) => Value::Null,
                Reach::Not { reason, hint } => json!({"message": reason, "hint": hint}),
            },
            "commands": self.commands(finding, &timed.reach),
        });
        let more = match &finding.event {
            FoundEvent::RestorePoint { name } => json!({"name": name}),
            FoundEvent::Delete { rows, .. } | FoundEvent::Update { rows, .. } => {
                json!({"rows": rows})
            }
            FoundEvent::LongTransaction { since, first_lsn } => {
                json!({"running_since": rfc3339(*since), "first_lsn": first_lsn})
            }
            FoundEvent::LargeTransaction { bytes, first_lsn } => {
                json!({"bytes": bytes, "first_lsn": first_lsn})
            }
            FoundEvent::Quiet { since } => json!({"quiet_since": rfc3339(*since)}),
            FoundEvent::Transaction(found) => json!({
                "committed": found.committed,
                "first_lsn": found.first_lsn,
                "bytes": found.bytes,
                "tables": found.tables.iter().map(|rows| json!({
                    "table": rows.table.to_string(),
                    "inserted": rows.inserted,
                    "updated": rows.updated,
                    "deleted": rows.deleted,
                })).collect::<Vec<_>>(),
            }),
            _ => json!({}),
        };
        if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
            document.extend(more);
        }
        document
    }
}

/// Whether it holds rows that can be put back.
fn has_rows(object: &FoundObject) -> bool {
    matches!(
        object.kind,
        ObjectKind::Table | ObjectKind::PartitionedTable | ObjectKind::MaterializedView
    )
}

/// How `pitr-restore table` takes it; `None` where that is not known.
fn argument(table: &FoundObject) -> Option<String> {
    let (database, schema, name) = (
        table.database_name.as_ref()?,
        table.schema.as_ref()?,
        table.name.as_ref()?,
    );
    // a name with dots in it cannot be told from several
    let parts = [database, schema, name];
    let is_plain = parts.iter().all(|part| !part.contains('.'));
    is_plain.then(|| word(&format!("{database}.{schema}.{name}")))
}

fn object_json(object: &FoundObject) -> Value {
    json!({
        "kind": object.kind.as_str(),
        "database": object.database_name,
        "database_oid": object.database,
        "schema": object.schema,
        "name": object.name,
        "oid": object.oid,
        "file": object.file.map(|file| file.to_string()),
        "estimated_rows": object.estimated_rows,
        "name_is": object.sureness.as_str(),
    })
}

/// What happened, in SQL's words.
pub(crate) fn what(finding: &Finding) -> String {
    match &finding.event {
        FoundEvent::RestorePoint { name } => format!("restore point \"{name}\""),
        FoundEvent::Drop { objects } => format!("DROP {}", listed(objects)),
        FoundEvent::Truncate { objects } => format!("TRUNCATE {}", listed(objects)),
        FoundEvent::Rewrite { objects } => format!("rewrite of {}", listed(objects)),
        FoundEvent::DropDatabase { database } => format!("DROP DATABASE {database}"),
        FoundEvent::Delete { table, rows } => format!("DELETE of {rows} rows of {table}"),
        FoundEvent::Update { table, rows } => format!("UPDATE of {rows} rows of {table}"),
        FoundEvent::LongTransaction { since, .. } => format!(
            "long transaction: ran for more than {}",
            span(*since, finding.time)
        ),
        FoundEvent::LargeTransaction { bytes, .. } => {
            format!("large transaction: wrote {} of log", ByteCount(*bytes))
        }
        FoundEvent::Quiet { since } => format!(
            "quiet: nothing was committed for {} before, since {}",
            span(*since, finding.time),
            local_time(*since)
        ),
        FoundEvent::Transaction(found) => {
            let mut text = format!(
                "transaction {}, {} of log from {} on",
                if found.committed {
                    "committed"
                } else {
                    "rolled back"
                },
                ByteCount(found.bytes),
                found.first_lsn
            );
            for rows in &found.tables {
                text.push_str(&format!(
                    "\n    {}: {} rows inserted, {} updated, {} deleted",
                    rows.table, rows.inserted, rows.updated, rows.deleted
                ));
            }
            text
        }
    }
}

/// `TABLE a, b, SEQUENCE c, with 2 indexes`.
fn listed(objects: &[FoundObject]) -> String {
    let is_main = |object: &&FoundObject| object.kind != ObjectKind::Index;
    let has_main = objects.iter().any(|object| is_main(&object));
    let named: Vec<&FoundObject> = objects
        .iter()
        .filter(|object| !has_main || is_main(object))
        .collect();
    let mut text = String::new();
    let mut kind = None;
    for object in named.iter().take(MAX_NAMED) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        if kind != Some(object.kind) {
            kind = Some(object.kind);
            text.push_str(&object.kind.as_str().to_uppercase());
            text.push(' ');
        }
        text.push_str(&object.to_string());
        if let Some(rows) = object.estimated_rows.filter(|rows| *rows > 0)
            && object.kind != ObjectKind::Index
            && object.kind != ObjectKind::Sequence
        {
            text.push_str(&format!(" (about {rows} rows)"));
        }
    }
    if named.len() > MAX_NAMED {
        text.push_str(&format!(" and {} more", named.len() - MAX_NAMED));
    }
    match objects.len() - named.len() {
        0 => {}
        1 => text.push_str(", with 1 index"),
        count => text.push_str(&format!(", with {count} indexes")),
    }
    text
}

/// What is not sure of a finding.
fn doubt(finding: &Finding) -> Option<&'static str> {
    let objects = finding.event.objects();
    let least = objects.iter().map(|object| object.sureness).min()?;
    match least {
        Sureness::Backup => None,
        Sureness::Log => Some("the name is that which the log shows, and may have changed since"),
        Sureness::Numbers => Some("the name is not known, only the numbers are"),
    }
}

fn before(finding: &Finding) -> String {
    if finding.safe_lsn == finding.lsn {
        "the moment before it".to_owned()
    } else {
        // the files go before the commit: stopping there would be too late
        format!(
            "the moment before it, LSN {} (the files go before the commit),",
            finding.safe_lsn
        )
    }
}

fn span(since: Timestamp, until: Option<Timestamp>) -> String {
    let micros = until.map_or(0, |until| until.micros().saturating_sub(since.micros()));
    let micros = u64::try_from(micros).unwrap_or(0);
    Elapsed(std::time::Duration::from_micros(micros)).to_string()
}

pub(crate) fn local_time(time: Timestamp) -> String {
    time.to_datetime().map_or_else(
        || time.to_string(),
        |time| PointInTime::local(time).to_string(),
    )
}

fn rfc3339(time: Timestamp) -> Option<String> {
    Some(time.to_datetime()?.to_rfc3339())
}

fn word(text: &str) -> String {
    String::from_utf8_lossy(&shell_word(text.as_bytes())).into_owned()
}
