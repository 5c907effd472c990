//! The command line as it is typed.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use pitr_console::{RepositoryArguments, Settings, SettingsError};
use pitr_core::{ParseSystemIdentifierError, SystemIdentifier};

/// Brings PostgreSQL clusters back from a pitr repository.
///
/// As restore_command:  restore_command = 'pitr-restore %f %p'
///
/// To a point in time:  pitr-restore --to DIR --target-time '2026-11-20 14:30:00+01'
///
/// What happened:       pitr-restore find --dropped
///
/// A table back:        pitr-restore table public.orders --before ID --into orders.sql
#[derive(Debug, Parser)]
#[command(
    name = "pitr-restore",
    version,
    subcommand_negates_reqs = true,
    subcommand_precedence_over_arg = true,
    disable_help_subcommand = true,
    override_usage = "pitr-restore [OPTIONS] %f %p\n       pitr-restore [OPTIONS] --to DIR [TARGET]\n       pitr-restore [OPTIONS] find [RANGE]\n       pitr-restore [OPTIONS] table NAME... --before ID --into FILE|CONNSTR",
    after_help = "Exit codes of %f %p: 0 fetched whole; 1 proven not to exist; above 125 in any \
                  doubt, so that recovery stops instead of ending early.\n\
                  Exit codes of --to: 0 done; 1 failed or refused; 2 wrong usage."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) repository: RepositoryArguments,

    /// Cluster in the repository [default: that of the data directory, or the only one]
    #[arg(long, value_name = "NUMBER", global = true)]
    pub(crate) system_identifier: Option<String>,

    /// Folder of "pitr-archive receive" on this machine: what it has received is used where the
    /// repository does not have it yet, the unfinished segment too [config: spool]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) spool: Option<PathBuf>,

    /// Segments that are fetched ahead of a server that recovers; 0: none [config: prefetch]
    /// [default: 1 GiB of them, 64 at most]
    #[arg(long, value_name = "SEGMENTS", global = true)]
    pub(crate) prefetch: Option<u32>,

    #[command(flatten)]
    pub(crate) fetch: FetchArguments,

    #[command(flatten)]
    pub(crate) restore: RestoreArguments,

    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what happened: drops, truncates, mass changes, restore points, with the way back
    Find(FindArguments),
    /// Take tables, a schema or a database as they were out of the archive, into a file or a server
    Table(TableArguments),
}

/// `pitr-restore table`.
#[derive(Debug, Args)]
pub(crate) struct TableArguments {
    /// Tables: name, schema.name or database.schema.name
    #[arg(value_name = "NAME", conflicts_with = "schema")]
    pub(crate) names: Vec<String>,

    /// As they were just before this: the id or LSN of something that "pitr-restore find" has told of
    #[arg(long, value_name = "ID")]
    pub(crate) before: String,

    /// Where they go: a file of SQL that is not there yet, or a connection string
    #[arg(long, value_name = "FILE|CONNSTR")]
    pub(crate) into: String,

    /// Take a whole schema; may be given several times
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) schema: Vec<String>,

    /// Database that the tables or the schema were in [default: that of the finding]; by itself: take it whole
    #[arg(long, value_name = "DATABASE")]
    pub(crate) database: Option<String>,

    /// Name for the table where it goes
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) rename: Option<String>,

    /// Schema for the tables where they go, made if it is not there
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) as_schema: Option<String>,

    /// Leave owners and privileges out
    #[arg(long)]
    pub(crate) no_owner: bool,

    /// Timeline on which it happened [default: the latest]
    #[arg(long, value_name = "TLI")]
    pub(crate) target_timeline: Option<String>,

    /// Folder to make the scratch copy in [default: beside the data directory or /var/tmp, wherever more is free]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,

    /// Folder of pg_ctl, postgres, pg_dump and psql
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `pitr-restore find`.
#[derive(Debug, Args)]
pub(crate) struct FindArguments {
    /// Search from here on: a time, an LSN or the name of a segment [default: the whole archive]
    #[arg(long, value_name = "WHERE")]
    pub(crate) from: Option<String>,

    /// Search up to here
    #[arg(long, value_name = "WHERE")]
    pub(crate) until: Option<String>,

    /// Timeline to search, with those it branched off from [default: the latest]
    #[arg(long, value_name = "TLI")]
    pub(crate) timeline: Option<String>,

    /// Only what was dropped or truncated; summaries say where, so that little is read
    #[arg(long)]
    pub(crate) dropped: bool,

    /// Only what happened to this table: name, schema.name or database.schema.name
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,

    /// Only this transaction, and everything that it did
    #[arg(long, value_name = "XID")]
    pub(crate) xid: Option<String>,

    /// Rows of a table from which on a DELETE or UPDATE is shown [default: 1000]
    #[arg(long, value_name = "ROWS")]
    pub(crate) min_rows: Option<u64>,

    /// Seconds from which on a transaction is called long
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) long: u64,

    /// MiB of log from which on a transaction is called large
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub(crate) large: u64,

    /// Seconds without a commit from which on it was quiet
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) quiet: u64,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Arguments {
    /// The settings, for what a person typed: a path is where it is from here.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub(crate) fn settings(&self) -> Result<Settings, SettingsError> {
        let mut settings = Settings::load(&self.repository)?;
        if let Some(spool) = &self.spool {
            // the server runs its command somewhere else
            settings.spool = Some(std::path::absolute(spool).unwrap_or_else(|_| spool.clone()));
        }
        settings.prefetch = self.prefetch.or(settings.prefetch);
        Ok(settings)
    }

    /// `--system-identifier`, understood.
    pub(crate) fn system_identifier(
        &self,
    ) -> Result<Option<SystemIdentifier>, ParseSystemIdentifierError> {
        self.system_identifier
            .as_deref()
            .map(str::parse)
            .transpose()
    }
}

/// `pitr-restore %f %p`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fetching one file (restore_command)")]
pub(crate) struct FetchArguments {
    /// The file that PostgreSQL asks for: restore_command's %f
    #[arg(value_name = "%f", required_unless_present = "to")]
    pub(crate) name: Option<OsString>,

    /// Where PostgreSQL wants it: restore_command's %p
    #[arg(value_name = "%p", required_unless_present = "to")]
    pub(crate) path: Option<PathBuf>,

    /// Timeline that recovery follows [default: read from the data directory]
    #[arg(long, value_name = "TLI", conflicts_with = "to")]
    pub(crate) timeline: Option<String>,

    /// Begin to fetch ahead, after %f or from it on; the hook starts itself so
    #[arg(long, value_name = "WHERE", hide = true, conflicts_with = "to")]
    pub(crate) fetch_ahead: Option<AheadArgument>,
}

/// `--fetch-ahead`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AheadArgument {
    /// The server has the segment that is named.
    After,
    /// The segment that is named is the first one it will ask for.
    From,
}

/// `pitr-restore --to DIR`.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Restoring a cluster",
    group = ArgGroup::new("target").args(["target_time", "target_lsn", "target_xid", "target_name", "target_immediate", "before"])
)]
pub(crate) struct RestoreArguments {
    /// Data directory to make: absent or empty, or with --delta one of the same cluster
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,

    /// Recover to this time: ISO 8601, "2026-11-20 14:30:00+01" or "10 minutes ago"
    #[arg(long, value_name = "TIME", requires = "to")]
    pub(crate) target_time: Option<String>,

    /// Recover to this position in the write-ahead log
    #[arg(long, value_name = "LSN", requires = "to")]
    pub(crate) target_lsn: Option<String>,

    /// Recover to the end of this transaction
    #[arg(long, value_name = "XID", requires = "to")]
    pub(crate) target_xid: Option<String>,

    /// Recover to this restore point (pg_create_restore_point)
    #[arg(long, value_name = "NAME", requires = "to")]
    pub(crate) target_name: Option<String>,

    /// Recover to the end of the base backup, and no further
    #[arg(long, requires = "to")]
    pub(crate) target_immediate: bool,

    /// Recover to just before something that "pitr-restore find" has told of, by its id or LSN
    #[arg(long, value_name = "ID", requires = "to")]
    pub(crate) before: Option<String>,

    /// Stop just before the target instead of just after it (time, LSN, xid)
    #[arg(long, requires = "target")]
    pub(crate) exclusive: bool,

    /// Timeline to recover along: latest, current (the backup's own) or a number [default: latest]
    #[arg(long, value_name = "TLI", requires = "to")]
    pub(crate) target_timeline: Option<String>,

    /// What the server does at the target [default: pause; with --before: promote]
    #[arg(long, value_name = "ACTION", requires = "target")]
    pub(crate) target_action: Option<ActionArgument>,

    /// Base backup to start from [default: the newest that ends before the target]
    #[arg(long, value_name = "LABEL", requires = "to")]
    pub(crate) backup: Option<String>,

    /// Put the tablespace at OLD into the directory NEW; may be given several times
    #[arg(long, value_name = "OLD=NEW", requires = "to")]
    pub(crate) tablespace: Vec<OsString>,

    /// Bring a data directory of the same cluster to the backup's state: files that
    /// differ are written anew, what the backup does not hold is deleted
    #[arg(long, requires = "to")]
    pub(crate) delta: bool,

    /// Show the plan and stop
    #[arg(long, requires = "to")]
    pub(crate) dry_run: bool,

    /// Start the server and wait until the target is reached
    #[arg(long, requires = "to", conflicts_with = "dry_run")]
    pub(crate) start: bool,

    /// clone: archives nothing; primary: archives where the original did
    /// [default: primary where it came from, else clone]
    #[arg(long, value_name = "ROLE", requires = "to")]
    pub(crate) role: Option<RoleArgument>,

    /// Port of the restored server [default: as in the backup]
    #[arg(long, visible_alias = "pg-port", value_name = "PORT", requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Folder of pg_ctl and postgres, for --start
    #[arg(long, value_name = "DIR", requires = "to")]
    pub(crate) pg_bin: Option<PathBuf>,

    /// Report in JSON
    #[arg(long, requires = "to")]
    pub(crate) json: bool,
}

/// `--target-action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActionArgument {
    /// Stay read-only at the target, to look before going on.
    Pause,
    /// Become a primary on a new timeline.
    Promote,
    /// Shut down; starting again stops at the same place.
    Shutdown,
}

/// `--role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArgument {
    /// Archives nothing.
    Clone,
    /// Archives where the original did.
    Primary,
}

/// Reads the command line; the first word is the program's name.
///
/// # Errors
/// What is wrong with it, or the help that was asked for.
pub(crate) fn parse(
    words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Arguments, clap::Error> {
    let arguments = Arguments::try_parse_from(words)?;
    if arguments.restore.to.is_some() && arguments.fetch.name.is_some() {
        return Err(Arguments::command().error(
            ErrorKind::ArgumentConflict,
            "--to restores a cluster, and %f %p fetch one file: only one of them can be done",
        ));
    }
    Ok(arguments)
}

/// Whether the words ask for anything but one file.
///
/// Asked before the command line is known to be right: whatever does not
/// clearly ask for a restore or for help is treated as a `restore_command`,
/// whose wrong usage PostgreSQL must not take for "no such file".
pub(crate) fn is_for_a_person(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> bool {
    let mut may_be_verb = true;
    words.into_iter().any(|word| {
        let word = word.as_ref();
        let bytes = word.as_encoded_bytes();
        let is_flag = ["--to", "--help", "-h", "--version", "-V"]
            .iter()
            .any(|flag| word == *flag)
            || bytes.starts_with(b"--to=");
        let is_verb = may_be_verb && VERBS.iter().any(|verb| word == *verb);
        // the first word that is neither an option nor may be the value of one
        may_be_verb &= bytes.starts_with(b"-");
        is_flag || is_verb
    })
}

/// Words that name what a person asks for; no file of the log is called so.
const VERBS: [&str; 2] = ["find", "table"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        super::parse(std::iter::once("pitr-restore").chain(words.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn two_words_are_a_fetch() {
        let fetch = parse(&["--repo", "/r", "--timeline", "2", "NAME", "pg_wal/X"]).unwrap();
        assert_eq!(fetch.fetch.name.unwrap(), "NAME");
        assert!(fetch.restore.to.is_none());
    }

    #[test]
    fn a_word_missing_or_too_many_is_wrong_usage() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["NAME"]).is_err());
        assert!(parse(&["NAME", "pg_wal/X", "more"]).is_err());
        assert!(parse(&["--to", "/d", "NAME", "pg_wal/X"]).is_err());
        assert!(parse(&["--dry-run", "NAME", "pg_wal/X"]).is_err());
    }

    #[test]
    fn one_target_at_most() {
        assert!(parse(&["--to", "/d", "--target-lsn", "0/1", "--target-xid", "5"]).is_err());
        assert!(parse(&["--to", "/d", "--exclusive"]).is_err());
        assert!(parse(&["--to", "/d", "--target-action", "pause"]).is_err());
        let lsn = parse(&["--to", "/d", "--target-lsn", "0/1", "--exclusive"]).unwrap();
        assert!(lsn.restore.exclusive);
    }

    #[test]
    fn what_is_not_clearly_for_a_person_is_for_the_server() {
        assert!(is_for_a_person(["--to", "/d"]));
        assert!(is_for_a_person(["--to=/d"]));
        assert!(is_for_a_person(["--help"]));
        assert!(!is_for_a_person(["--too", "/d"]));
        assert!(!is_for_a_person([] as [&str; 0]));
        assert!(!is_for_a_person(["X", "pg_wal/--to"]));
        assert!(is_for_a_person(["find", "--from"]));
        assert!(!is_for_a_person(["X", "find"]));
    }

    #[test]
    fn a_verb_is_a_verb_wherever_the_repository_is_named() {
        for words in [
            &["--repo", "/r", "find", "--dropped"][..],
            &["find", "--repo", "/r", "--dropped"],
        ] {
            let find = parse(words).unwrap();
            assert_eq!(find.repository.repo, ["/r"]);
            assert!(matches!(find.verb, Some(Verb::Find(find)) if find.dropped));
        }
        assert!(parse(&["find", "--to", "/d"]).is_err());
    }
}
