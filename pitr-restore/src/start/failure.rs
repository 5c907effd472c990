//! Why the target was not reached.

use std::path::PathBuf;

use pitr_console::Explain;
use pitr_core::Lsn;

/// Why the target was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The program could not be run.
    #[error("could not run \"{}\": {source}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// `pg_ctl` refused.
    #[error("pg_ctl could not start the server: {said}")]
    PgCtl {
        /// What it said.
        said: String,
    },
    /// The server ended before it was there.
    #[error("the server has ended before the target was reached:\n{last_words}")]
    Ended {
        /// Why, in its own words.
        last_words: String,
        /// Its log.
        log: PathBuf,
    },
    /// The server pauses where the log raises a setting of the original's above
    /// its own.
    ///
    /// Source: `RecoveryRequiresIntParameter`, src/backend/access/transam/xlogrecovery.c.
    #[error(
        "the server has paused before the target: the original was given {name} = {needed}, and here it is {found}"
    )]
    SettingTooLow {
        /// The setting.
        name: &'static str,
        /// What this server has.
        found: u32,
        /// What the original had from here on.
        needed: u32,
        /// Where it is to be changed.
        directory: PathBuf,
    },
    /// Replay ended before the archived log did.
    #[error("the server has gone into production at {lsn}, and the archived log goes on to {end}")]
    EndedEarly {
        /// End of the last record that was replayed.
        lsn: Lsn,
        /// End of the archived log.
        end: Lsn,
    },
    /// The server went into production where it should have paused.
    #[error("the server has reached the target but went into production instead of pausing")]
    PromotedInstead,
}

impl Explain for StartError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Run { .. } | Self::PgCtl { .. } => {
                "The cluster is restored; start it by hand to see more.".to_owned()
            }
            Self::Ended { last_words, log } => {
                let says = |text: &str| last_words.contains(text);
                let known = if says("recovery ended before configured recovery target was reached") {
                    "The archived log holds nothing at or after the target: leave the target out to recover to its end. "
                } else if says("before consistent recovery point") {
                    "The target lies before the end of the backup: choose an older one with --backup. "
                } else if says("could not bind") || says("could not create any") || says(".lock\" already exists") {
                    "Another server uses the port: choose one with --port. "
                } else {
                    ""
                };
                format!("{known}The whole log: {}", log.display())
            }
            Self::SettingTooLow {
                name,
                needed,
                directory,
                ..
            } => format!(
                "Set {name} = {needed} in {}, and start the server again (pg_ctl restart): recovery goes on.",
                directory.join("postgresql.auto.conf").display()
            ),
            Self::EndedEarly { .. } => {
                "What was committed later is not in it. PostgreSQL takes a record that it cannot read for \
                 the end of the log: its log says which, and \"pitr-archive verify\" what is damaged."
                    .to_owned()
            }
            Self::PromotedInstead => {
                "It could not take read-only connections before the target, and then PostgreSQL does not \
                 pause (a transaction with many subtransactions was open since the backup). \
                 --target-action shutdown stops there in any case."
                    .to_owned()
            }
        })
    }
}
