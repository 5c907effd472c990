//! What both commands share at the terminal: messages, exit codes, configuration, progress, times.
//!
//! The two commands are used by `PostgreSQL` (as `archive_command` and
//! `restore_command`), by cron, and by a person. Whatever they say goes
//! through here, so that it reads the same everywhere: messages in
//! `PostgreSQL`'s manner on stderr, results on stdout, and exit codes that
//! `PostgreSQL` understands.

mod exit;
mod explain;
mod failure;
mod message;
mod point_in_time;
mod progress;
mod quantity;
pub mod quoting;
mod repository;
mod settings;
mod transfer_rate;

pub use exit::{Exit, guard};
pub use explain::Explain;
pub use failure::Failure;
pub use message::{Console, Severity};
pub use point_in_time::{ParseTimeError, PointInTime};
pub use progress::Progress;
pub use quantity::{ByteCount, Elapsed};
pub use repository::{
    choose_cluster, choose_clusters, open_repository, open_repository_for_push,
    parse_system_identifier, repository_set,
};
pub use settings::{RepositoryArguments, Settings, SettingsError};
pub use transfer_rate::{ParseTransferRateError, TransferRate};
