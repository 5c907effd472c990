//! Why one of several repositories does not have a file.

use std::time::Duration;

use crate::repository::ClaimError;
use crate::store::StoreError;
use crate::wal::PushError;

/// Why one repository does not have the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The repository cannot be opened, or is not this cluster's.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The file was not stored there.
    #[error(transparent)]
    Push(#[from] PushError),
    /// As many as required had it, and this one was still at work.
    #[error("repository \"{location}\" was not done {} s after the others", waited.as_secs())]
    Late {
        /// The repository.
        location: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Nothing was stored here, because another repository refuses the file.
    #[error(
        "nothing was stored in repository \"{location}\", because another one refuses the file"
    )]
    NotTried {
        /// The repository.
        location: String,
    },
    /// No thread was to be had, or it has died.
    #[error("could not work on repository \"{location}\": {reason}")]
    Thread {
        /// The repository.
        location: String,
        /// What the system said.
        reason: String,
    },
}

impl MemberError {
    /// Whether the file certainly does not belong there, whatever is tried
    /// again: the repository is another cluster's, or has other content under
    /// the name.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Claim(ClaimError::OwnedByOther { .. } | ClaimError::Changed { .. })
                | Self::Push(
                    PushError::Conflict { .. } | PushError::Identify(_) | PushError::TextFile(_)
                )
        )
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Claim(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::Late { .. } | Self::NotTried { .. } | Self::Thread { .. } => None,
        }
    }
}

impl From<StoreError> for MemberError {
    fn from(error: StoreError) -> Self {
        Self::Push(error.into())
    }
}
