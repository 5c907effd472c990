//! Hints of the typed errors below the commands.

use std::error::Error;

/// An error that can say what the DBA can do about it.
pub trait Explain: Error {
    /// What the DBA can do about it.
    fn hint(&self) -> Option<String>;
}

/// The crates below have `hint` as a method of their own, since they know no
/// terminal; here it becomes what a [`Failure`](crate::Failure) is made of.
macro_rules! explain {
    ($($error:ty),+ $(,)?) => {$(
        impl Explain for $error {
            fn hint(&self) -> Option<String> {
                <$error>::hint(self)
            }
        }
    )+};
}

explain!(
    pitr_core::BackupManifestError,
    pitr_core::ControlFileError,
    pitr_core::PathError,
    pitr_core::WalFileNameError,
    pitr_store::AddressError,
    pitr_store::ClaimError,
    pitr_store::FetchError,
    pitr_store::PushError,
    pitr_store::RepositoryError,
    pitr_store::StoreError,
    pitr_store::backup::BackupCopyError,
    pitr_store::backup::BackupReadError,
    pitr_store::backup::BackupWriteError,
    pitr_store::encryption::EncryptionError,
    pitr_store::spool::SpoolError,
    pitr_store::wal::CopyError,
    pitr_store::wal::IdentifyError,
    pitr_store::wal::MemberError,
);

impl Explain for pitr_store::CodecError {
    fn hint(&self) -> Option<String> {
        Some("Give zstd, zstd:LEVEL, xz, xz:LEVEL or none.".to_owned())
    }
}
