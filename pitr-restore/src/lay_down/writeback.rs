//! Writing to the disk while the next files are still being unpacked.
//!
//! Left to itself the system keeps gigabytes in memory and writes them at the
//! one sync at the end, with the processors idle meanwhile.

use std::fs::File;
use std::num::NonZeroU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::Advice;

/// Bytes of a file that are handed to the disk at once. Smaller files are left
/// to the sync at the end, which writes them in the best order.
const PIECE_BYTES: u64 = 8 << 20;

/// Pieces that may wait for the disk: when they do, nobody waits for them.
const WAITING: usize = 64;

/// Where unpacked pieces are announced.
#[derive(Debug, Clone)]
pub(super) struct Writeback {
    pieces: SyncSender<Piece>,
}

/// A piece of a file that is complete.
#[derive(Debug)]
struct Piece {
    file: File,
    offset: u64,
    length: u64,
}

/// The other end, to be served by a thread.
#[derive(Debug)]
pub(super) struct Flusher {
    pieces: Receiver<Piece>,
}

/// How far one file has been announced.
#[derive(Debug, Default)]
pub(super) struct Written {
    announced: u64,
    total: u64,
}

impl Writeback {
    pub(super) fn new() -> (Self, Flusher) {
        let (sender, pieces) = sync_channel(WAITING);
        (Self { pieces: sender }, Flusher { pieces })
    }

    /// Takes note of `bytes` more that were written to the end of `file`.
    pub(super) fn note(&self, file: &File, written: &mut Written, bytes: u64) {
        written.total += bytes;
        let length = written.total - written.announced;
        if length < PIECE_BYTES {
            return;
        }
        // only a hint: where the disk is behind, the next piece takes this one along
        if let Ok(file) = file.try_clone()
            && self
                .pieces
                .try_send(Piece {
                    file,
                    offset: written.announced,
                    length,
                })
                .is_ok()
        {
            written.announced = written.total;
        }
    }
}

impl Flusher {
    /// Starts the writing of every piece, until nobody announces any more.
    ///
    /// Linux has no portable call for it but this one: `POSIX_FADV_DONTNEED`
    /// begins to write what is dirty and drops only what is clean, so that the
    /// pages just written stay in memory for the server. Whether the writing
    /// succeeds is told by the sync at the end.
    ///
    /// Source: `generic_fadvise`, mm/fadvise.c.
    pub(super) fn serve(self) {
        for piece in self.pieces {
            let length = NonZeroU64::new(piece.length);
            let _ = rustix::fs::fadvise(&piece.file, piece.offset, length, Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn every_large_piece_is_announced_and_nothing_twice() {
        let mut file = tempfile::tempfile().unwrap();
        let (writeback, flusher) = Writeback::new();
        let mut written = Written::default();
        let chunk = vec![1; 1 << 20];
        for _ in 0..20 {
            file.write_all(&chunk).unwrap();
            writeback.note(&file, &mut written, chunk.len() as u64);
        }
        drop(writeback);
        let pieces: Vec<(u64, u64)> = flusher
            .pieces
            .iter()
            .map(|piece| (piece.offset, piece.length))
            .collect();
        assert_eq!(pieces, [(0, PIECE_BYTES), (PIECE_BYTES, PIECE_BYTES)]);
    }

    #[test]
    fn nobody_waits_for_a_disk_that_is_behind() {
        let file = tempfile::tempfile().unwrap();
        let (writeback, flusher) = Writeback::new();
        let mut written = Written::default();
        for _ in 0..2 * WAITING {
            writeback.note(&file, &mut written, PIECE_BYTES);
        }
        drop(writeback);
        flusher.serve();
        assert_eq!(written.announced, PIECE_BYTES * WAITING as u64);
    }
}
