//! What the hook has to say of a segment that was fetched ahead: who fetched it
//! has no log to say it in.

use pitr_console::Console;
use serde::{Deserialize, Serialize};

/// A warning that goes with a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// What is to be said.
    pub(crate) message: String,
    /// What can be done about it.
    pub(crate) hint: Option<String>,
}

impl Note {
    /// The notes of one segment, for their file.
    pub(crate) fn to_bytes(notes: &[Self]) -> Vec<u8> {
        serde_json::to_vec(notes).unwrap_or_default()
    }

    /// What stands in the file; nothing where it cannot be understood.
    pub(crate) fn parse(bytes: &[u8]) -> Vec<Self> {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// Says it.
    pub(crate) fn say(&self, console: Console) {
        console.warn(&self.message, None, self.hint.as_deref());
    }
}
