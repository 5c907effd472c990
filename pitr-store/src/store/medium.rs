//! What a medium can promise, and what was found out about it.

use serde::{Deserialize, Serialize};

/// What `init` found out about the medium by trying it: the field `medium` of
/// `pitr.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// Whether the medium itself refuses to write an object whose key is
    /// taken. Where it does not, a writer looks before and reads back after,
    /// and of two that write at the same moment both may believe to have won.
    pub create_only: bool,
}

/// Which of the promises of a [`Store`](super::Store) that depend on the medium
/// it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// Of several writers of the same key one wins, whatever the moment.
    pub create_only: bool,
    /// Of several writers of rival keys one wins, whatever the moment. Where
    /// this does not hold, at most one wins and the others are told; what they
    /// wrote may stay beside the winner's.
    pub exclusive_rivals: bool,
}

impl Promises {
    /// What a file system with locks keeps.
    pub const ALL: Self = Self {
        create_only: true,
        exclusive_rivals: true,
    };

    /// What the owner of the repository has to know: a sentence for each
    /// promise without which two archivers can harm each other.
    pub fn warnings(self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if !self.create_only {
            warnings.push(
                "this medium cannot refuse to overwrite: of two servers that archive the same file name here at the same moment, one may replace what the other was told is safe",
            );
        }
        warnings
    }
}
