//! Pushing a file beside others whose order matters.

use std::fmt;

use super::ahead::EncodedAhead;
use super::fingerprint::Fingerprint;
use super::{PushError, Pushed, WalArchive, WalSource};
use crate::codec::Codec;
use crate::store::Shown;
use pitr_core::WalFileName;

/// A file's place among others that are pushed at the same time.
///
/// A later file is not to show where an earlier one failed: the archive would have a
/// hole until somebody makes it good.
pub trait Turn: Sync {
    /// Called when the object is whole and durable but for its name. With `in_order`
    /// it waits until all files before this one show, or never will. Whether the object
    /// may show.
    fn comes(&self, in_order: bool) -> bool;

    /// Whether the file is stored although records in it are damaged: the
    /// warning belongs to the call that the server made for it.
    fn takes_damaged(&self) -> bool;
}

impl fmt::Debug for dyn Turn + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

/// What a push in its turn has come to.
#[derive(Debug)]
pub struct PushedInTurn {
    /// The file is in the repository.
    pub pushed: Pushed,
    /// It survives power loss once this is settled.
    pub shown: Shown,
    /// Its content, where it is known to be that of the object.
    pub fingerprint: Option<Fingerprint>,
}

impl WalArchive {
    /// The same as [`WalArchive::push`], beside other files: it shows when its turn
    /// comes, and is durable once [`PushedInTurn::shown`] is settled. `ahead`: as in
    /// [`WalArchive::push_encoded`].
    ///
    /// # Errors
    /// As [`WalArchive::push`]; `Withdrawn` if the turn never comes, or for a damaged
    /// segment that the turn does not take. Then nothing was stored.
    pub fn push_in_turn(
        &self,
        name: &WalFileName,
        source: &mut dyn WalSource,
        codec: Codec,
        ahead: Option<EncodedAhead>,
        turn: &dyn Turn,
    ) -> Result<PushedInTurn, PushError> {
        self.push_when(name, source, codec, ahead, Some(turn))
    }
}
