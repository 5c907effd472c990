//! Stretches of the log read on all cores, and handed on in their order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use pitr_console::Progress;
use pitr_core::{Digest, DigestBuilder, Interest, WalFileName};
use pitr_store::wal::FetchError;

use super::stretch::{Piece, Stretch};
use crate::archived_log::{ArchivedLog, LogError};

/// Bytes of the log that are read at a time, about: a segment's beginning is
/// read twice wherever a record goes on in it.
const RUN_BYTES: u64 = 64 << 20;
/// Runs that are read ahead for each thread.
const AHEAD: usize = 2;

/// What came of reading a run.
pub(super) type Read = Result<Digest, LogError>;

/// The runs of consecutive pieces that `wanted` takes, each of some segments.
pub(super) fn runs(stretch: &Stretch, wanted: &[bool], threads: usize) -> Vec<Range<usize>> {
    let size = stretch.segment_bytes();
    let count = wanted.iter().filter(|wanted| **wanted).count();
    // small archives are divided among the threads as well
    let by_bytes = usize::try_from(RUN_BYTES / size).unwrap_or(1).max(1);
    let longest = by_bytes.min(count.div_ceil(threads.max(1) * AHEAD).max(1));
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, wanted) in wanted.iter().enumerate() {
        if !wanted {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == index && run.len() < longest => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

/// Reads `runs` of a stretch on several threads; `follow` gets each in its
/// order, with the index of the run.
///
/// # Errors
/// The first of `follow`, which ends the reading.
pub(super) fn read_runs<E: Send>(
    log: &ArchivedLog,
    stretch: &Stretch,
    runs: &[Range<usize>],
    interest: &Arc<Interest>,
    threads: usize,
    progress: &Progress,
    mut follow: impl FnMut(usize, Read) -> Result<(), E>,
) -> Result<(), E> {
    let shelf = Shelf::default();
    let next = AtomicUsize::new(0);
    let window = threads.max(1) * AHEAD;
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, runs.len().max(1)) {
            scope.spawn(|| {
                // whatever ends this thread must not leave the others waiting
                let _open = CloseOnPanic(&shelf);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(run) = runs.get(index) else { return };
                    if !shelf.wait_for_room(index, window) {
                        return;
                    }
                    let read = read_run(log, stretch, run, interest, progress);
                    shelf.put(index, read);
                }
            });
        }
        for index in 0..runs.len() {
            let Some(read) = shelf.take(index) else { break };
            if let Err(error) = follow(index, read) {
                shelf.close();
                return Err(error);
            }
        }
        Ok(())
    })
}

/// Reads the pieces of one run, and of the next as much as its last record needs.
///
/// What was read of a damaged copy is thrown away: where there is another copy
/// of that segment, the run is read once more with it.
pub(super) fn read_run(
    log: &ArchivedLog,
    stretch: &Stretch,
    run: &Range<usize>,
    interest: &Arc<Interest>,
    progress: &Progress,
) -> Read {
    let mut copies = Copies::default();
    let read = loop {
        match read_copies(log, stretch, run, interest, &mut copies) {
            Ok(digest) => break Ok(digest),
            Err(Unread::Anew) => {}
            Err(Unread::Failed(error)) => break Err(error),
        }
    };
    let count = u64::try_from(run.len()).unwrap_or(u64::MAX);
    progress.advance(count.saturating_mul(stretch.segment_bytes()));
    read
}

/// Which copy of each segment is read, and why none before it.
#[derive(Default)]
struct Copies {
    passed_over: BTreeMap<WalFileName, (usize, FetchError)>,
}

/// Why a run was not read.
enum Unread {
    /// A copy of a segment is damaged: the next one is to be tried.
    Anew,
    Failed(LogError),
}

fn read_copies(
    log: &ArchivedLog,
    stretch: &Stretch,
    run: &Range<usize>,
    interest: &Arc<Interest>,
    copies: &mut Copies,
) -> Result<Digest, Unread> {
    let pieces = stretch.pieces.get(run.clone()).unwrap_or(&[]);
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return Ok(Digest::default());
    };
    let size = log.identity().segment_size;
    let mut builder = DigestBuilder::new(first.number, last.until, size, Arc::clone(interest));
    if matches!(last.name, WalFileName::Partial(_)) {
        builder = builder.may_end();
    }
    for piece in pieces {
        copies.feed(log, piece, &mut |bytes| {
            builder.feed(bytes);
            true
        })?;
    }
    for piece in stretch.pieces.get(run.end..).unwrap_or(&[]) {
        if !builder.wants_more() {
            break;
        }
        copies.feed(log, piece, &mut |bytes| {
            let wants_more = builder.wants_more();
            if wants_more {
                builder.feed(bytes);
            }
            wants_more
        })?;
    }
    Ok(builder.finish())
}

impl Copies {
    fn feed(
        &mut self,
        log: &ArchivedLog,
        piece: &Piece,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Unread> {
        let passed_over = self.passed_over.get(&piece.name);
        let mut copy = passed_over.map_or(0, |(copy, _)| *copy);
        match log.read_copy(&piece.name, &mut copy, sink) {
            Ok(true) => Ok(()),
            // no copy is left: the first one's damage is told
            Ok(false) => Err(Unread::Failed(LogError::Damaged(
                match self.passed_over.remove(&piece.name) {
                    Some((_, error)) => error,
                    None => FetchError::Absent { name: piece.name },
                },
            ))),
            Err(LogError::Damaged(error)) => {
                match self.passed_over.get_mut(&piece.name) {
                    Some((passed, _)) => *passed = copy,
                    None => {
                        self.passed_over.insert(piece.name, (copy, error));
                    }
                }
                Err(Unread::Anew)
            }
            Err(error) => Err(Unread::Failed(error)),
        }
    }
}

/// What was read and not handed on yet.
#[derive(Default)]
struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    read: BTreeMap<usize, Read>,
    /// The run that is handed on next.
    next: usize,
    is_closed: bool,
}

impl Shelf {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until run `index` may be read; `false` if nobody wants it any more.
    fn wait_for_room(&self, index: usize, window: usize) -> bool {
        let mut state = self.state();
        while !state.is_closed && index >= state.next + window {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_closed
    }

    fn put(&self, index: usize, read: Read) {
        self.state().read.insert(index, read);
        self.changed.notify_all();
    }

    fn take(&self, index: usize) -> Option<Read> {
        let mut state = self.state();
        loop {
            if let Some(read) = state.read.remove(&index) {
                state.next = index + 1;
                self.changed.notify_all();
                return Some(read);
            }
            if state.is_closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }
}

struct CloseOnPanic<'s>(&'s Shelf);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_of_consecutive_pieces() {
        let stretch = Stretch::of_numbers(3, 12);
        let mut wanted = vec![true; 10];
        wanted[4] = false;
        let divided = runs(&stretch, &wanted, 1);
        assert_eq!(divided.iter().map(Range::len).sum::<usize>(), 9);
        assert!(divided.iter().all(|run| !run.contains(&4)));
        // each within the bound of bytes: four segments of 16 MiB
        assert!(divided.iter().all(|run| run.len() <= 4), "{divided:?}");
        assert!(runs(&stretch, &[false; 10], 4).is_empty());
    }
}
