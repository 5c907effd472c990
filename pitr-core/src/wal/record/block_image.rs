//! Pages that travel within records.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16};
use nom::{IResult, Parser};

use crate::postgres_major::PostgresMajor;

/// Bytes in a page of data.
///
/// Source: `BLCKSZ`; servers compiled with another size are not supported.
const PAGE_SIZE: u16 = 8192;

/// A page as it was, or became, when the record was written.
///
/// The page is `bytes` decompressed, with `hole_len` zero bytes put in at
/// `hole_offset`. The checksum within it is not valid.
///
/// Source: `XLogRecordBlockImageHeader`, src/include/access/xlogrecord.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockImage<'a> {
    /// What the record holds of the page.
    pub bytes: &'a [u8],
    /// Where in the page the bytes that were left out begin.
    pub hole_offset: u16,
    /// Zero bytes that were left out.
    pub hole_len: u16,
    /// How `bytes` are compressed, if they are.
    pub compression: Option<ImageCompression>,
    /// Whether replay puts the image in place of the page; otherwise it is there for comparison alone.
    ///
    /// Source: `BKPIMAGE_APPLY`.
    pub apply: bool,
}

/// How an image is compressed.
///
/// Source: `BKPIMAGE_COMPRESSED`, src/include/access/xlogrecord.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageCompression {
    /// PostgreSQL's own, a bare stream without header.
    Pglz,
    /// A raw LZ4 block, not a frame (15 and later).
    Lz4,
    /// A Zstandard frame (15 and later).
    Zstd,
}

/// An image's header, before its bytes are found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageHeader {
    pub(crate) len: u16,
    hole_offset: u16,
    hole_len: u16,
    compression: Option<ImageCompression>,
    apply: bool,
}

impl ImageHeader {
    /// Length, hole and flags; `None` as the value if they contradict one another.
    ///
    /// Source: `DecodeXLogRecord`, src/backend/access/transam/xlogreader.c.
    pub(crate) fn fields(input: &[u8], major: PostgresMajor) -> IResult<&[u8], Option<Self>> {
        let (input, (len, hole_offset, flags)) = (le_u16, le_u16, le_u8).parse(input)?;
        let has_hole = flags & 0x01 != 0;
        let (apply, compression) = flags_of(flags, major);
        let (input, hole_len) = match (has_hole, compression.is_some()) {
            (true, true) => le_u16(input)?,
            (true, false) => (input, PAGE_SIZE.saturating_sub(len)),
            (false, _) => (input, 0),
        };
        let consistent = if has_hole {
            hole_offset != 0 && hole_len != 0 && len != PAGE_SIZE
        } else {
            hole_offset == 0 && (len == PAGE_SIZE) != compression.is_some()
        };
        let within = u32::from(hole_offset) + u32::from(hole_len) <= u32::from(PAGE_SIZE)
            && len <= PAGE_SIZE;
        let header = ImageHeader {
            len,
            hole_offset,
            hole_len,
            compression,
            apply,
        };
        Ok((input, (consistent && within).then_some(header)))
    }

    pub(crate) fn bytes<'a>(&self, payload: &'a [u8]) -> IResult<&'a [u8], BlockImage<'a>> {
        let (payload, bytes) = take(self.len).parse(payload)?;
        let image = BlockImage {
            bytes,
            hole_offset: self.hole_offset,
            hole_len: self.hole_len,
            compression: self.compression,
            apply: self.apply,
        };
        Ok((payload, image))
    }
}

/// 15 gave compression three bits and moved the flag for applying into the place of the old one.
fn flags_of(flags: u8, major: PostgresMajor) -> (bool, Option<ImageCompression>) {
    if major.get() < 15 {
        let compression = (flags & 0x02 != 0).then_some(ImageCompression::Pglz);
        return (flags & 0x04 != 0, compression);
    }
    let compression = if flags & 0x04 != 0 {
        Some(ImageCompression::Pglz)
    } else if flags & 0x08 != 0 {
        Some(ImageCompression::Lz4)
    } else if flags & 0x10 != 0 {
        Some(ImageCompression::Zstd)
    } else {
        None
    };
    (flags & 0x02 != 0, compression)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(flags: u8, major: u16) -> Option<ImageHeader> {
        let hole = [0x10, 0x00];
        let bytes = [&[0x00, 0x01, 0x20, 0x00, flags][..], &hole].concat();
        ImageHeader::fields(&bytes, PostgresMajor::new(major).unwrap())
            .unwrap()
            .1
    }

    #[test]
    fn flags_mean_what_their_version_says() {
        for (major, flags, apply, compression) in [
            (14, 0x05, true, None),
            (14, 0x03, false, Some(ImageCompression::Pglz)),
            (14, 0x07, true, Some(ImageCompression::Pglz)),
            (15, 0x03, true, None),
            (15, 0x07, true, Some(ImageCompression::Pglz)),
            (15, 0x05, false, Some(ImageCompression::Pglz)),
            (16, 0x0B, true, Some(ImageCompression::Lz4)),
            (18, 0x13, true, Some(ImageCompression::Zstd)),
        ] {
            let image = parsed(flags, major).unwrap();
            assert_eq!(image.apply, apply, "{major} {flags:#x}");
            assert_eq!(image.compression, compression, "{major} {flags:#x}");
            let hole_len = if compression.is_some() {
                16
            } else {
                8192 - 256
            };
            assert_eq!(image.hole_len, hole_len, "{major} {flags:#x}");
        }
    }

    #[test]
    fn a_hole_that_contradicts_the_length_is_refused() {
        let major = PostgresMajor::new(15).unwrap();
        let header = |bytes: &[u8]| ImageHeader::fields(bytes, major).unwrap().1;
        assert!(header(&[0, 0x20, 0, 0, 0x02]).is_some()); // a whole page
        assert!(header(&[0, 0x20, 1, 0, 0x03]).is_none()); // a whole page with a hole
        assert!(header(&[0, 0x10, 0, 0, 0x02]).is_none()); // half a page without one
        assert!(header(&[0, 0x10, 0, 0, 0x03]).is_none()); // a hole at 0
        assert!(header(&[0, 0x10, 0xFF, 0x1F, 0x03]).is_none()); // a hole that ends beyond
        assert!(header(&[0, 0x20, 0, 0, 0x06]).is_none()); // compressed, and no smaller
    }
}
