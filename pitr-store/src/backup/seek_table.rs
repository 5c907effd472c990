//! The seek table of the Zstandard Seekable Format.
//!
//! Layout (all integers little endian), at the very end of the object:
//!
//! ```text
//! u32 0x184D2A5E            skippable frame magic
//! u32 size                  bytes that follow: entries and footer
//! { u32 compressed bytes, u32 raw bytes [, u32 checksum] } x number of frames
//! u32 number of frames
//! u8  descriptor            bit 7: entries have a checksum; bits 6..2 reserved (0)
//! u32 0x8F92EAB1            seekable magic
//! ```
//!
//! Source: `contrib/seekable_format/zstd_seekable_compression_format.md` of zstd.

use std::io;
use std::ops::Range;

use thiserror::Error;

/// Skippable frame magic of a seek table.
pub(super) const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;

/// Last four bytes of a seekable object.
pub(super) const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;

/// Bytes of the footer: number of frames, descriptor, magic.
pub(super) const FOOTER_BYTES: u64 = 9;

/// Bytes of the skippable frame's own header: magic and size.
const SKIPPABLE_HEADER_BYTES: u64 = 8;

/// Most raw bytes that a frame may hold, so that reading one stays cheap.
pub const MAX_FRAME_BYTES: u32 = 64 << 20;

/// Most frames of one object: with frames of 4 MiB, 4 TiB.
pub const MAX_FRAMES: u32 = 1 << 20;

/// A compressed frame can only be this much larger than its content.
const MAX_COMPRESSED_FRAME_BYTES: u32 = MAX_FRAME_BYTES + (1 << 20);

const CHECKSUM_FLAG: u8 = 0x80;
const RESERVED_BITS: u8 = 0x7C;

/// Where the frames of a seekable object lie, validated.
///
/// Frames follow one another without a hole from offset 0; the sums of their
/// lengths agree with the object that the table was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeekTable {
    /// End of each frame, exclusive; ascending in both fields.
    ends: Vec<FrameEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameEnd {
    raw: u64,
    compressed: u64,
}

/// One frame's place in the object and in the decompressed stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameSpan {
    /// Bytes of the frame in the object.
    pub compressed: Range<u64>,
    /// Bytes of its content in the decompressed stream.
    pub raw: Range<u64>,
}

/// Why the end of an object is no seek table that can be trusted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SeekTableError {
    /// Not even a footer fits.
    #[error("object of {object_bytes} bytes is too short for a seek table")]
    TooShort {
        /// Size of the object.
        object_bytes: u64,
    },
    /// The last four bytes are not the seekable magic: truncated, or made by another tool.
    #[error("object ends in {found:#010X}, not in the seekable magic {SEEKABLE_MAGIC:#010X}")]
    NoFooter {
        /// Last four bytes, little endian.
        found: u32,
    },
    /// Reserved bits of the descriptor are set.
    #[error("seek table descriptor {found:#04X} has reserved bits set")]
    ReservedBits {
        /// The descriptor.
        found: u8,
    },
    /// More frames than [`MAX_FRAMES`].
    #[error("seek table claims {found} frames, more than the limit of {MAX_FRAMES}")]
    TooManyFrames {
        /// Number in the footer.
        found: u32,
    },
    /// The table would not fit into the object.
    #[error("seek table of {table_bytes} bytes does not fit into an object of {object_bytes}")]
    DoesNotFit {
        /// Size that the footer implies.
        table_bytes: u64,
        /// Size of the object.
        object_bytes: u64,
    },
    /// The bytes handed in are not as long as the footer implies.
    #[error("seek table has {found} bytes, {expected} expected")]
    Length {
        /// Size that the footer implies.
        expected: u64,
        /// Bytes handed in.
        found: u64,
    },
    /// No skippable frame starts where the footer says.
    #[error("seek table starts with {found:#010X}, not with {SKIPPABLE_MAGIC:#010X}")]
    BadMagic {
        /// Four bytes at the table's start.
        found: u32,
    },
    /// The skippable frame's size and the footer disagree.
    #[error("seek table's frame says {found} bytes, its footer {expected}")]
    SizeMismatch {
        /// Size that the footer implies.
        expected: u64,
        /// Size in the skippable frame's header.
        found: u32,
    },
    /// A frame is larger than the limits allow.
    #[error("frame {frame} claims {raw_bytes} raw and {compressed_bytes} compressed bytes")]
    FrameTooLarge {
        /// Number of the frame, from 0.
        frame: u32,
        /// Its raw size.
        raw_bytes: u32,
        /// Its compressed size.
        compressed_bytes: u32,
    },
    /// The frames' lengths do not add up to the object.
    #[error("frames add up to {found} bytes, the object holds {expected} before its seek table")]
    SumMismatch {
        /// Bytes before the table.
        expected: u64,
        /// Sum of the frames.
        found: u64,
    },
}

impl SeekTable {
    /// Notes the next frame.
    ///
    /// # Errors
    /// `InvalidInput` if a limit of this module is passed.
    pub fn push(&mut self, compressed_bytes: usize, raw_bytes: usize) -> io::Result<()> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "frame is too large");
        let compressed = u32::try_from(compressed_bytes).map_err(|_| too_large())?;
        let raw = u32::try_from(raw_bytes).map_err(|_| too_large())?;
        if raw > MAX_FRAME_BYTES || compressed > MAX_COMPRESSED_FRAME_BYTES {
            return Err(too_large());
        }
        if self.frames() >= MAX_FRAMES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("more than {MAX_FRAMES} frames in one object"),
            ));
        }
        self.push_checked(compressed, raw);
        Ok(())
    }

    /// Adds a frame whose lengths are within the limits: at most `MAX_FRAMES`
    /// times 65 MiB, so that no sum can overflow.
    fn push_checked(&mut self, compressed_bytes: u32, raw_bytes: u32) {
        self.ends.push(FrameEnd {
            raw: self.raw_bytes() + u64::from(raw_bytes),
            compressed: self.compressed_bytes() + u64::from(compressed_bytes),
        });
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> u32 {
        // never more than MAX_FRAMES
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    /// Length of the decompressed stream.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.ends.last().map_or(0, |end| end.raw)
    }

    /// Length of all frames, the seek table itself excluded.
    #[must_use]
    pub fn compressed_bytes(&self) -> u64 {
        self.ends.last().map_or(0, |end| end.compressed)
    }

    /// The frame that holds the byte at `raw_offset` of the decompressed
    /// stream, or `None` past its end.
    #[must_use]
    pub fn frame_at(&self, raw_offset: u64) -> Option<FrameSpan> {
        let frame = self.ends.partition_point(|end| end.raw <= raw_offset);
        let end = self.ends.get(frame)?;
        let start = match frame
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
        {
            Some(start) => *start,
            None => FrameEnd {
                raw: 0,
                compressed: 0,
            },
        };
        Some(FrameSpan {
            compressed: start.compressed..end.compressed,
            raw: start.raw..end.raw,
        })
    }

    /// The skippable frame that ends a seekable object.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let frames = self.frames();
        let content = frames.saturating_mul(8).saturating_add(9);
        let mut bytes = Vec::with_capacity(self.ends.len() * 8 + 17);
        bytes.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&content.to_le_bytes());
        let mut before = FrameEnd {
            raw: 0,
            compressed: 0,
        };
        for end in &self.ends {
            for length in [end.compressed - before.compressed, end.raw - before.raw] {
                // `push` has checked that it fits
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&length.to_le_bytes());
            }
            before = *end;
        }
        bytes.extend_from_slice(&frames.to_le_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        bytes
    }

    /// Length of the whole table, skippable frame header and footer included,
    /// from the last nine bytes of an object of `object_bytes`.
    ///
    /// Never more than `object_bytes`, nor than 12 MiB and a few bytes.
    ///
    /// # Errors
    /// `TooShort`, `NoFooter`, `ReservedBits`, `TooManyFrames`, `DoesNotFit`.
    pub fn length_from_footer(footer: &[u8], object_bytes: u64) -> Result<u64, SeekTableError> {
        let too_short = SeekTableError::TooShort { object_bytes };
        let Some((&[f0, f1, f2, f3, descriptor, m0, m1, m2, m3], [])) =
            footer.split_first_chunk::<9>()
        else {
            return Err(too_short);
        };
        if object_bytes < SKIPPABLE_HEADER_BYTES + FOOTER_BYTES {
            return Err(too_short);
        }
        let magic = u32::from_le_bytes([m0, m1, m2, m3]);
        if magic != SEEKABLE_MAGIC {
            return Err(SeekTableError::NoFooter { found: magic });
        }
        if descriptor & RESERVED_BITS != 0 {
            return Err(SeekTableError::ReservedBits { found: descriptor });
        }
        let frames = u32::from_le_bytes([f0, f1, f2, f3]);
        if frames > MAX_FRAMES {
            return Err(SeekTableError::TooManyFrames { found: frames });
        }
        let table_bytes =
            SKIPPABLE_HEADER_BYTES + u64::from(frames) * entry_bytes(descriptor) + FOOTER_BYTES;
        if table_bytes > object_bytes {
            return Err(SeekTableError::DoesNotFit {
                table_bytes,
                object_bytes,
            });
        }
        Ok(table_bytes)
    }

    /// Parses `table`, the last bytes of an object of `object_bytes`, from
    /// skippable magic to seekable magic.
    ///
    /// Entries with checksums, as other writers make them, are read; the
    /// checksums are passed over, since every frame carries its own.
    ///
    /// # Errors
    /// Any [`SeekTableError`]. Nothing is allocated beyond 16 bytes for each
    /// entry that is really there.
    pub fn parse(table: &[u8], object_bytes: u64) -> Result<Self, SeekTableError> {
        let found = table.len() as u64;
        let footer = table.split_last_chunk::<9>();
        let (_, footer) = footer.ok_or(SeekTableError::TooShort { object_bytes })?;
        let expected = Self::length_from_footer(footer, object_bytes)?;
        if found != expected {
            return Err(SeekTableError::Length { expected, found });
        }
        let descriptor = footer[4];
        let (header, rest) = table
            .split_first_chunk::<8>()
            .ok_or(SeekTableError::TooShort { object_bytes })?;
        let [g0, g1, g2, g3, s0, s1, s2, s3] = *header;
        let magic = u32::from_le_bytes([g0, g1, g2, g3]);
        if magic != SKIPPABLE_MAGIC {
            return Err(SeekTableError::BadMagic { found: magic });
        }
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        if u64::from(size) != expected - SKIPPABLE_HEADER_BYTES {
            return Err(SeekTableError::SizeMismatch {
                expected: expected - SKIPPABLE_HEADER_BYTES,
                found: size,
            });
        }
        let entries = &rest[..rest.len() - footer.len()];
        let width = if descriptor & CHECKSUM_FLAG == 0 {
            8
        } else {
            12
        };
        let mut parsed = Self {
            ends: Vec::with_capacity(entries.len() / width),
        };
        for entry in entries.chunks_exact(width) {
            let [c0, c1, c2, c3, r0, r1, r2, r3, ..] = *entry else {
                return Err(SeekTableError::Length { expected, found });
            };
            let compressed_bytes = u32::from_le_bytes([c0, c1, c2, c3]);
            let raw_bytes = u32::from_le_bytes([r0, r1, r2, r3]);
            if raw_bytes > MAX_FRAME_BYTES || compressed_bytes > MAX_COMPRESSED_FRAME_BYTES {
                return Err(SeekTableError::FrameTooLarge {
                    frame: parsed.frames(),
                    raw_bytes,
                    compressed_bytes,
                });
            }
            parsed.push_checked(compressed_bytes, raw_bytes);
        }
        let before_table = object_bytes - expected;
        if parsed.compressed_bytes() != before_table {
            return Err(SeekTableError::SumMismatch {
                expected: before_table,
                found: parsed.compressed_bytes(),
            });
        }
        Ok(parsed)
    }
}

fn entry_bytes(descriptor: u8) -> u64 {
    if descriptor & CHECKSUM_FLAG == 0 {
        8
    } else {
        12
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(frames: &[(usize, usize)]) -> SeekTable {
        let mut table = SeekTable::default();
        for (compressed, raw) in frames {
            table.push(*compressed, *raw).unwrap();
        }
        table
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let bytes = table(&[(0x11, 0x1234), (0x22, 0x05)]).to_bytes();
        let expected: &[u8] = &[
            0x5E, 0x2A, 0x4D, 0x18, 25, 0, 0, 0, // skippable frame of 25 bytes
            0x11, 0, 0, 0, 0x34, 0x12, 0, 0, // first frame
            0x22, 0, 0, 0, 0x05, 0, 0, 0, // second
            2, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F, // footer
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn entries_with_checksums_are_read() {
        let bytes: &[u8] = &[
            0x5E, 0x2A, 0x4D, 0x18, 21, 0, 0, 0, //
            0x11, 0, 0, 0, 0x34, 0x12, 0, 0, 0xAA, 0xBB, 0xCC, 0xDD, //
            1, 0, 0, 0, 0x80, 0xB1, 0xEA, 0x92, 0x8F,
        ];
        let parsed = SeekTable::parse(bytes, 0x11 + 29).unwrap();
        assert_eq!(parsed, table(&[(0x11, 0x1234)]));
    }

    #[test]
    fn each_lie_is_told_by_its_name() {
        let good = table(&[(100, 1000), (50, 10)]).to_bytes();
        let size = 150 + good.len() as u64;
        assert!(SeekTable::parse(&good, size).is_ok());

        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            SeekTable::parse(&bytes, size).unwrap_err()
        };
        let last = good.len() - 1;
        assert!(matches!(with(last, 0), SeekTableError::NoFooter { .. }));
        assert!(matches!(
            with(last - 4, 0x04),
            SeekTableError::ReservedBits { found: 4 }
        ));
        assert!(matches!(
            with(last - 5, 0xFF),
            SeekTableError::TooManyFrames { .. }
        ));
        assert!(matches!(
            with(last - 7, 1),
            SeekTableError::DoesNotFit { .. }
        ));
        assert!(matches!(with(last - 8, 1), SeekTableError::Length { .. }));
        assert!(matches!(with(0, 0x50), SeekTableError::BadMagic { .. }));
        assert!(matches!(with(4, 0), SeekTableError::SizeMismatch { .. }));
        assert!(matches!(with(8, 101), SeekTableError::SumMismatch { .. }));
        assert!(matches!(
            with(15, 0xFF),
            SeekTableError::FrameTooLarge { frame: 0, .. }
        ));
        assert!(matches!(
            SeekTable::parse(&good[9..], size),
            Err(SeekTableError::Length { .. })
        ));
        assert!(matches!(
            SeekTable::parse(&good[..4], 4),
            Err(SeekTableError::TooShort { object_bytes: 4 })
        ));
    }

    #[test]
    fn an_offset_finds_its_frame_also_beside_empty_ones() {
        let table = table(&[(10, 100), (5, 0), (7, 1)]);
        assert_eq!(table.frame_at(0).unwrap().compressed, 0..10);
        assert_eq!(table.frame_at(99).unwrap().raw, 0..100);
        let last = table.frame_at(100).unwrap();
        assert_eq!((last.compressed, last.raw), (15..22, 100..101));
        assert_eq!(table.frame_at(101), None);
        assert_eq!(SeekTable::default().frame_at(0), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in proptest::collection::vec((0usize..5_000_000, 0usize..(4 << 20)), 0..200)) {
            let table = table(&frames);
            let bytes = table.to_bytes();
            let size = table.compressed_bytes() + bytes.len() as u64;
            prop_assert_eq!(SeekTable::parse(&bytes, size).unwrap(), table);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in any::<u64>()) {
            let _ = SeekTable::parse(&bytes, size);
            let _ = SeekTable::length_from_footer(&bytes, size);
        }

        #[test]
        fn no_change_to_a_good_table_makes_it_panic(
            frames in proptest::collection::vec((0usize..5_000, 0usize..9_000), 0..20),
            at in any::<prop::sample::Index>(), byte in any::<u8>(), slack in -40i64..40,
        ) {
            let table = table(&frames);
            let mut bytes = table.to_bytes();
            let size = table.compressed_bytes() + bytes.len() as u64;
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = SeekTable::parse(&bytes, size.saturating_add_signed(slack));
        }
    }
}
