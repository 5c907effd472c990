//! The command line as it is typed.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pitr_console::{Failure, RepositoryArguments, TransferRate};
use pitr_store::encryption::NewKeys;

/// Archives the write-ahead log of PostgreSQL and takes base backups.
///
/// As archive_command:  archive_command = 'pitr-archive %p %f'
#[derive(Debug, Parser)]
#[command(
    name = "pitr-archive",
    version,
    subcommand_negates_reqs = true,
    override_usage = "pitr-archive [OPTIONS] %p %f\n       pitr-archive [OPTIONS] <COMMAND>",
    subcommand_precedence_over_arg = true,
    after_help = "Exit codes: 0 done and durable; 1 failed; 2 wrong usage. Never above 125."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) repository: RepositoryArguments,

    #[command(flatten)]
    pub(crate) push: PushArguments,

    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

impl Arguments {
    /// Why the command line cannot be carried out although it could be read:
    /// of repositories on both sides of the verb only those behind it arrive
    /// here.
    pub(crate) fn lost_repository(
        &self,
        words: impl IntoIterator<Item = OsString>,
    ) -> Option<Failure> {
        let named = words
            .into_iter()
            .filter(|word| word == "--repo" || word.as_encoded_bytes().starts_with(b"--repo="))
            .count();
        (self.verb.is_some() && named > self.repository.repo.len()).then(|| {
            Failure::new("--repo stands before the verb and behind it")
                .with_hint("Give all repositories on the same side of the verb.")
        })
    }
}

/// `pitr-archive %p %f`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PushArguments {
    /// The file to archive: archive_command's %p
    #[arg(value_name = "%p", required = true)]
    pub(crate) path: Option<PathBuf>,

    /// The name to archive it under: archive_command's %f
    #[arg(value_name = "%f", required = true)]
    pub(crate) name: Option<String>,

    /// Compression of what is archived: zstd[:1-19], xz[:0-9] or none [default: zstd:1]
    #[arg(long, value_name = "CODEC")]
    pub(crate) compression: Option<String>,

    /// System identifier of the cluster, where a file does not carry it and no
    /// data directory is near
    #[arg(long, value_name = "NUMBER")]
    pub(crate) system_identifier: Option<String>,

    /// Files that are archived together where several are ready; 0 or 1: each by itself
    /// [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) look_ahead: Option<usize>,

    /// How long further files are begun, in seconds: the server waits meanwhile [default: 3]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) look_ahead_seconds: Option<u64>,

    /// Folder for what is known of files archived ahead; safe to lose, outside of the data
    /// directory [default: $XDG_STATE_HOME/pitr, /var/lib/pitr or ~/.local/state/pitr]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a repository, or add a cluster to it
    Init(InitArguments),
    /// Take a base backup over the replication protocol
    Backup(BackupArguments),
    /// Bring in a backup that pg_basebackup wrote
    Import(ImportArguments),
    /// Stream the log into the repository as it is written
    Receive(ReceiveArguments),
    /// Show backups, timelines, WAL ranges and gaps
    List(ListArguments),
    /// Copy between repositories what one lacks; without --from and --to bring all that are
    /// configured level
    Sync(SyncArguments),
    /// Show who can read an encrypted repository, or let more people read it
    Key(KeyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    /// Let another cluster into an existing repository: name it by its data
    /// directory, --pgdata
    #[arg(long, conflicts_with_all = ["encrypt_to", "encrypt_to_file", "encrypt_key_file"])]
    pub(crate) add: bool,

    /// Data directory of the cluster to add
    #[arg(long, short = 'D', value_name = "DIR", requires = "add")]
    pub(crate) pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) readers: ReaderArguments,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Who shall be able to read an encrypted repository.
#[derive(Debug, Args)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct ReaderArguments {
    /// Encrypt, so that the holder of this age recipient's identity can read; may be given several
    /// times
    #[arg(long, value_name = "age1…")]
    pub(crate) encrypt_to: Vec<String>,

    /// The same for every recipient in this file, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) encrypt_to_file: Vec<PathBuf>,

    /// Encrypt, so that the holder of this key file (32 random bytes) can read
    #[arg(long, value_name = "FILE")]
    pub(crate) encrypt_key_file: Vec<PathBuf>,
}

impl ReaderArguments {
    pub(crate) fn keys(&self) -> NewKeys {
        NewKeys {
            recipients: self.encrypt_to.clone(),
            recipient_files: self.encrypt_to_file.clone(),
            key_files: self.encrypt_key_file.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeyArguments {
    #[command(subcommand)]
    pub(crate) verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Let more people read, also what is there already; needs a key that opens the repository
    Add(KeyAddArguments),
    /// Show who can read
    List(KeyListArguments),
}

#[derive(Debug, Args)]
pub(crate) struct KeyAddArguments {
    #[command(flatten)]
    pub(crate) readers: ReaderArguments,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KeyListArguments {
    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// Connection string of the server, over libpq's environment (PGHOST, PGPORT, …)
    #[arg(long, short = 'd', value_name = "CONNSTR")]
    pub(crate) dbname: Option<String>,

    /// Label that PostgreSQL writes into backup_label
    #[arg(long, value_name = "TEXT", default_value = "pitr base backup")]
    pub(crate) label: String,

    /// Checkpoint at the start: fast, or spread over checkpoint_completion_target
    #[arg(long, value_name = "fast|spread", default_value = "fast")]
    pub(crate) checkpoint: CheckpointMode,

    /// Threads that compress [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Most that the server sends per second: 100M, 512kB; a bare number counts
    /// kilobytes [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub(crate) max_rate: Option<TransferRate>,

    /// Parts on their way to the repository at once [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) parts_in_flight: Option<NonZeroUsize>,

    /// How far to step back behind other processes, 0 (not at all) to 19 [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=19))]
    pub(crate) nice: Option<u8>,

    /// How long to wait for the next segment that the backup needs, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wal_wait: Option<u64>,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How the server makes the checkpoint that a backup starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CheckpointMode {
    /// At once, at full speed.
    Fast,
    /// Slowly, as a regular one: minutes.
    Spread,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The folder that pg_basebackup wrote, plain (-Fp) or tar (-Ft), compressed or not
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// Threads that compress [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Parts on their way to the repository at once [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) parts_in_flight: Option<NonZeroUsize>,

    /// How far to step back behind other processes, 0 (not at all) to 19 [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=19))]
    pub(crate) nice: Option<u8>,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What arrives is synced in the spool and confirmed at once: named in \
                  synchronous_standby_names (as pitr-receive, or by application_name), no commit is \
                  acknowledged before. SIGTERM and SIGINT end it cleanly."
)]
pub(crate) struct ReceiveArguments {
    /// Connection string of the server, over libpq's environment (PGHOST, PGPORT, …)
    #[arg(long, short = 'd', value_name = "CONNSTR")]
    pub(crate) dbname: Option<String>,

    /// Private folder on a disk of this machine for what is not in the repository yet; the same
    /// every time [config: spool]
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,

    /// Replication slot that keeps the log on the server until it was received
    #[arg(long, short = 'S', value_name = "NAME")]
    pub(crate) slot: Option<String>,

    /// Make the slot where the server does not have it
    #[arg(long, requires = "slot")]
    pub(crate) create_slot: bool,

    /// Use a slot that lives as long as the connection
    #[arg(long, conflicts_with_all = ["create_slot", "drop_slot"])]
    pub(crate) temporary_slot: bool,

    /// Remove the slot from the server, and do nothing else
    #[arg(long, requires = "slot", conflicts_with = "create_slot")]
    pub(crate) drop_slot: bool,

    /// End when the connection is lost, in place of connecting again
    #[arg(long, short = 'n')]
    pub(crate) no_loop: bool,

    /// Compression of what is archived: zstd[:1-19], xz[:0-9] or none [default: zstd:1]
    #[arg(long, value_name = "CODEC")]
    pub(crate) compression: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only this cluster
    #[arg(long, value_name = "NUMBER")]
    pub(crate) system_identifier: Option<String>,

    /// Show segments that were archived with damaged records, by their summaries
    #[arg(long)]
    pub(crate) damaged: bool,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SyncArguments {
    /// Repository to copy from
    #[arg(long, value_name = "URL", requires = "to")]
    pub(crate) from: Option<String>,

    /// Repository to copy into: made by "pitr-archive init"; nothing in it is overwritten
    #[arg(long, value_name = "URL", requires = "from")]
    pub(crate) to: Option<String>,

    /// Only this cluster
    #[arg(long, value_name = "NUMBER")]
    pub(crate) system_identifier: Option<String>,

    /// How many files are copied at the same time [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Show what would be copied, by names alone
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("pitr-archive").chain(words.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn two_words_are_a_push_and_a_verb_is_a_verb() {
        let push = parse(&["--repo", "/r", "pg_wal/X", "X"]).unwrap();
        assert!(push.verb.is_none());
        assert_eq!(push.push.name.as_deref(), Some("X"));
        let push = parse(&["pg_wal/X", "X", "--repo", "/r"]).unwrap();
        assert_eq!(push.repository.repo, ["/r"]);
        for words in [&["--repo", "/r", "init"], &["init", "--repo", "/r"]] {
            let init = parse(words).unwrap();
            assert!(matches!(init.verb, Some(Verb::Init(_))));
            assert_eq!(init.repository.repo, ["/r"]);
        }
    }

    #[test]
    fn no_repository_gets_lost_between_the_sides_of_the_verb() {
        let lost = |words: &[&str]| {
            let arguments = parse(words).unwrap();
            arguments
                .lost_repository(words.iter().map(OsString::from))
                .is_some()
        };
        assert!(!lost(&["--repo", "/a", "--repo=/b", "list"]));
        assert!(!lost(&["list", "--repo", "/a", "--repo=/b"]));
        assert!(!lost(&["--repo", "/a", "pg_wal/X", "X", "--repo", "/b"]));
        assert!(lost(&["--repo", "/a", "list", "--repo", "/b"]));
    }

    #[test]
    fn a_push_with_a_word_missing_is_wrong_usage() {
        assert!(parse(&["pg_wal/X"]).is_err());
        assert!(parse(&[]).is_err());
    }
}
