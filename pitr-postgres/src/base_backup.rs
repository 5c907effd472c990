//! `BASE_BACKUP`: the files of a running cluster as tar archives.

mod command;
mod error;
mod stream;

pub use command::{BaseBackupOptions, CheckpointMode, ManifestChecksum};
pub use error::BackupError;
pub use stream::{BackupEnd, BackupMember, BackupStart, BaseBackup, MemberReader, Tablespace};
