//! One stream of bytes for several repositories.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

use super::{MemberError, Members, Order, PATIENCE, State};

/// What is handed over at once.
const BLOCK_BYTES: usize = 128 * 1024;

/// How often a full queue is looked at again.
const STALL_PAUSE: Duration = Duration::from_millis(2);

/// Hands what is written to it to all members that are still writing.
pub(super) struct Tee<'m> {
    pub(super) members: &'m mut Members,
    block: Vec<u8>,
}

impl<'m> Tee<'m> {
    pub(super) fn new(members: &'m mut Members) -> Self {
        Self {
            members,
            block: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    pub(super) fn send_block(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block: Arc<[u8]> = Arc::from(self.block.as_slice());
        self.block.clear();
        self.send_all(|| Order::Block(Arc::clone(&block)));
    }

    /// To those whose queue has room first, so that a slow one holds up nobody
    /// who is not.
    pub(super) fn send_all(&mut self, order: impl Fn() -> Order) {
        let mut waiting: BTreeMap<usize, Order> = self
            .members
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.state.is_writing())
            .map(|(index, _)| (index, order()))
            .collect();
        let begun = Instant::now();
        loop {
            waiting = waiting
                .into_iter()
                .filter_map(|(index, order)| {
                    let orders = self.members.members.get(index)?.orders.as_ref()?;
                    match orders.try_send(order) {
                        Ok(()) => None,
                        Err(TrySendError::Full(order)) => Some((index, order)),
                        // it has failed; why comes as an event
                        Err(TrySendError::Disconnected(_)) => None,
                    }
                })
                .collect();
            while let Ok((index, event)) = self.members.events.try_recv() {
                self.members.take(index, event);
            }
            if waiting.is_empty() {
                return;
            }
            let others = self
                .members
                .members
                .iter()
                .enumerate()
                .filter(|(index, member)| {
                    !waiting.contains_key(index)
                        && (member.state.is_writing() || member.state.is_done())
                })
                .count();
            if others >= self.members.required && begun.elapsed() > PATIENCE {
                for index in waiting.keys() {
                    if let Some(member) = self.members.members.get_mut(*index) {
                        member.orders = None;
                        member.state = State::Settled(Err(MemberError::Late {
                            location: member.location.clone(),
                            waited: PATIENCE,
                        }));
                    }
                }
                return;
            }
            std::thread::sleep(STALL_PAUSE);
        }
    }
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES.saturating_sub(self.block.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
        self.block.extend_from_slice(taken);
        if self.block.len() >= BLOCK_BYTES {
            self.send_block();
            if !self.members.anybody_writes() {
                return Err(io::Error::other("no repository takes it any more"));
            }
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
