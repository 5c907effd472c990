//! Why a connection's work is over.

use pitr_console::Failure;
use pitr_postgres::QueryError;
use pitr_store::spool::SpoolError;

use crate::backup::query_failure;

/// What is to be done after a failure.
#[derive(Debug)]
pub(super) enum Ending {
    /// It may go better next time.
    Again(Failure),
    /// It will not, until somebody changes something; or going on would hide a loss.
    Never(Failure),
}

impl From<QueryError> for Ending {
    fn from(error: QueryError) -> Self {
        Self::Again(query_failure(error))
    }
}

impl From<SpoolError> for Ending {
    fn from(error: SpoolError) -> Self {
        let failure = Failure::from(error);
        let detail = "Nothing more is confirmed to the server until it can be written: commits that \
                      wait for this receiver go on waiting.";
        Self::Again(failure.with_detail(detail))
    }
}
