//! The CRC of everything that was read, with the help of those of the records in it.

use crate::crc32c;

/// A stretch of a record whose bytes a CRC was led over on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CrcStretch {
    /// Of its first byte.
    pub(crate) position: u64,
    pub(crate) bytes: usize,
    /// The CRC before it, and behind it.
    pub(crate) before: u32,
    pub(crate) behind: u32,
}

impl CrcStretch {
    /// Bytes from which on a stretch spares more than it costs.
    pub(crate) const LEAST: usize = 1024;
}

/// CRC-32C of what `crc` is that of, and then of `chunk`, whose first byte is at `position`.
///
/// Two CRCs that are led over the same bytes differ in the end by what their
/// difference in the beginning becomes, whatever the bytes are. So a stretch
/// need not be read again: its CRC behind is moved by that difference.
/// `stretches` are in order; what does not lie in the chunk is not made use of.
pub(crate) fn append(mut crc: u32, chunk: &[u8], position: u64, stretches: &[CrcStretch]) -> u32 {
    let mut done = 0;
    for stretch in stretches {
        let begin = stretch.position.checked_sub(position);
        let Some(begin) = begin.and_then(|begin| usize::try_from(begin).ok()) else {
            continue;
        };
        let end = begin.saturating_add(stretch.bytes);
        let (Some(between), true) = (chunk.get(done..begin), end <= chunk.len()) else {
            continue;
        };
        let Some(difference) = behind_zeros(
            crc32c::crc32c_append(crc, between) ^ stretch.before,
            stretch.bytes,
        ) else {
            continue;
        };
        crc = stretch.behind ^ difference;
        done = end;
    }
    crc32c::crc32c_append(crc, chunk.get(done..).unwrap_or(&[]))
}

/// The polynomial, its bits in the order in which a CRC-32C holds them.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Lengths are put together of this many powers of two: more than a page of 64 KiB may hold.
const POWERS: usize = 18;

/// What becomes of four bits at each place.
type Zeros = [[u32; 16]; 8];

/// What becomes of a state of the computation, before or after its inversion, over 1, 2, 4, ... bytes of zeros.
static FORTH: [Zeros; POWERS] = powers(over_one(false));

/// What it was 1, 2, 4, ... bytes of zeros before.
static BACK: [Zeros; POWERS] = powers(over_one(true));

/// What becomes of `state` over so many zeros; `None` of more than there can be in a page.
///
/// The length is put together of as few powers of two as can be, added or
/// subtracted: what fills a page is 8192 less a header.
#[inline]
fn behind_zeros(mut state: u32, bytes: usize) -> Option<u32> {
    if bytes >> (POWERS - 1) != 0 {
        return None;
    }
    // no two neighbouring bits of the two are set (non-adjacent form)
    let thrice = 3 * bytes;
    let (mut added, mut subtracted) = ((thrice & !bytes) >> 1, (bytes & !thrice) >> 1);
    while added != 0 {
        state = over(FORTH.get(added.trailing_zeros() as usize)?, state);
        added &= added - 1;
    }
    while subtracted != 0 {
        state = over(BACK.get(subtracted.trailing_zeros() as usize)?, state);
        subtracted &= subtracted - 1;
    }
    Some(state)
}

#[inline]
const fn over(zeros: &Zeros, state: u32) -> u32 {
    zeros[0][(state & 15) as usize]
        ^ zeros[1][(state >> 4 & 15) as usize]
        ^ zeros[2][(state >> 8 & 15) as usize]
        ^ zeros[3][(state >> 12 & 15) as usize]
        ^ zeros[4][(state >> 16 & 15) as usize]
        ^ zeros[5][(state >> 20 & 15) as usize]
        ^ zeros[6][(state >> 24 & 15) as usize]
        ^ zeros[7][(state >> 28) as usize]
}

/// The same for each power of two, of what moves a state over one byte.
const fn powers(over_one: Zeros) -> [Zeros; POWERS] {
    let mut all = [over_one; POWERS];
    let mut power = 1;
    while power < POWERS {
        let mut place = 0;
        while place < 8 {
            let mut bits: u32 = 0;
            while bits < 16 {
                let half = over(&all[power - 1], bits << (4 * place));
                all[power][place][bits as usize] = over(&all[power - 1], half);
                bits += 1;
            }
            place += 1;
        }
        power += 1;
    }
    all
}

/// Over one byte of zeros, bit by bit, or back.
const fn over_one(back: bool) -> Zeros {
    let mut zeros = [[0; 16]; 8];
    let mut place = 0;
    while place < 8 {
        let mut bits: u32 = 0;
        while bits < 16 {
            let mut state = bits << (4 * place);
            let mut bit = 0;
            while bit < 8 {
                state = match (back, state & 1, state >> 31) {
                    (false, 1, _) => state >> 1 ^ POLYNOMIAL,
                    (false, _, _) => state >> 1,
                    // the polynomial's highest bit is set: that is where it was added
                    (true, _, 1) => (state ^ POLYNOMIAL) << 1 | 1,
                    (true, _, _) => state << 1,
                };
                bit += 1;
            }
            zeros[place][bits as usize] = state;
            bits += 1;
        }
        place += 1;
    }
    zeros
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_crc_of_the_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..70_000),
            cuts in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u32>()), 0..9),
            begun in any::<u32>(),
        ) {
            let mut places: Vec<_> = cuts.iter().map(|(place, crc)| (place.index(bytes.len() + 1), *crc)).collect();
            places.sort_unstable();
            // every second stretch has been computed by somebody
            let stretches: Vec<_> = places.chunks_exact(2).map(|pair| {
                let (begin, before) = pair[0];
                let stretch = &bytes[begin..pair[1].0];
                CrcStretch {
                    position: 1000 + begin as u64,
                    bytes: stretch.len(),
                    before,
                    behind: crc32c::crc32c_append(before, stretch),
                }
            }).collect();
            prop_assert_eq!(append(begun, &bytes, 1000, &stretches), crc32c::crc32c_append(begun, &bytes));
        }
    }

    #[test]
    fn what_lies_elsewhere_is_not_made_use_of() {
        let stretch = |position, bytes| CrcStretch {
            position,
            bytes,
            before: 1,
            behind: 2,
        };
        let stretches = [
            stretch(90, 5),
            stretch(99, 5),
            stretch(107, 4),
            stretch(u64::MAX, 1),
        ];
        assert_eq!(
            append(7, b"0123456789", 100, &stretches),
            crc32c::crc32c_append(7, b"0123456789")
        );
    }
}
