//! `BASE_BACKUP`: the files of a running cluster as tar archives.

mod announcement;
mod command;
mod error;
mod stream;

pub use announcement::{BackupEnd, BackupStart, Tablespace};
pub use command::{BaseBackupOptions, CheckpointMode, ManifestChecksum};
pub use error::BackupError;
pub use stream::{BackupMember, BaseBackup, MemberReader};
