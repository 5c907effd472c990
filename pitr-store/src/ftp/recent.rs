//! The last bytes of an upload, kept until the server is sure to have them.

use std::collections::VecDeque;

/// More than what lies between a writer and the server's file: the buffers of
/// both sockets, and the server's own.
const KEPT_BYTES: u64 = 16 << 20;

/// What is kept in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Of what was written, the end.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes that were written in all.
    written: u64,
    kept: u64,
}

impl Recent {
    /// Notes what was written.
    pub(super) fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = |piece: &Vec<u8>| PIECE_BYTES.saturating_sub(piece.len());
            if self.pieces.back().is_none_or(|last| room(last) == 0) {
                self.pieces.push_back(Vec::new());
            }
            let Some(last) = self.pieces.back_mut() else {
                return;
            };
            let (taken, rest) = bytes.split_at(bytes.len().min(room(last)));
            last.extend_from_slice(taken);
            bytes = rest;
            let taken = length(taken);
            self.written = self.written.saturating_add(taken);
            self.kept = self.kept.saturating_add(taken);
            while let Some(first) = self.pieces.front().map(|piece| length(piece))
                && self.kept.saturating_sub(first) >= KEPT_BYTES
            {
                self.pieces.pop_front();
                self.kept = self.kept.saturating_sub(first);
            }
        }
    }

    /// Bytes that were written in all.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// What was written from `offset` on; `None` where that is not kept any
    /// more, or was never written.
    pub(super) fn since(&self, offset: u64) -> Option<impl Iterator<Item = &[u8]>> {
        let mut skip = offset.checked_sub(self.written.saturating_sub(self.kept))?;
        if offset > self.written {
            return None;
        }
        Some(self.pieces.iter().filter_map(move |piece| {
            let skipped = skip.min(length(piece));
            skip -= skipped;
            let rest = piece.get(usize::try_from(skipped).ok()?..)?;
            (!rest.is_empty()).then_some(rest)
        }))
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::noise;

    #[test]
    fn what_was_written_last_is_kept_and_nothing_else_is_given() {
        let bytes = noise(40 << 20, 1);
        let mut recent = Recent::default();
        for chunk in bytes.chunks(333_333) {
            recent.note(chunk);
        }
        assert_eq!(recent.written(), 40 << 20);
        for offset in [
            24 << 20,
            (24 << 20) + 1,
            30_000_000,
            (40 << 20) - 1,
            40 << 20,
        ] {
            let since: Vec<u8> = recent.since(offset).unwrap().flatten().copied().collect();
            assert!(
                since == bytes[usize::try_from(offset).unwrap()..],
                "{offset}"
            );
        }
        assert!(recent.since(0).is_none());
        assert!(recent.since(20 << 20).is_none());
        assert!(recent.since((40 << 20) + 1).is_none());
        let kept: usize = recent.pieces.iter().map(Vec::len).sum();
        assert!(kept <= (16 << 20) + PIECE_BYTES, "{kept}");
    }
}
