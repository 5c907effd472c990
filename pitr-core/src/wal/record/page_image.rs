//! The page that an image stands for.

use crate::wal::record::block_image::{BlockImage, ImageCompression};

/// Bytes in a page of data.
///
/// Source: `BLCKSZ`; servers compiled with another size are not supported.
pub(crate) const PAGE_BYTES: usize = 8192;

/// Why an image is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageImageError {
    /// What is stored does not decompress.
    #[error("page image is no {} data", name(*compression))]
    Undecodable {
        /// How it is compressed.
        compression: ImageCompression,
    },
    /// Image and hole together are no page.
    #[error("page image holds {found} bytes without its hole, expected {expected}")]
    Length {
        /// Bytes of a page without the hole.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
}

const fn name(compression: ImageCompression) -> &'static str {
    match compression {
        ImageCompression::Pglz => "pglz",
        ImageCompression::Lz4 => "LZ4",
        ImageCompression::Zstd => "Zstandard",
    }
}

impl BlockImage<'_> {
    /// The whole page of 8192 bytes, decompressed and with its hole.
    ///
    /// # Errors
    /// If what is stored does not decompress to a page without its hole.
    ///
    /// Source: `RestoreBlockImage`, src/backend/access/transam/xlogreader.c.
    pub fn page(&self) -> Result<Vec<u8>, PageImageError> {
        let hole_len = usize::from(self.hole_len);
        let expected = PAGE_BYTES.saturating_sub(hole_len);
        let undecodable = |compression| PageImageError::Undecodable { compression };
        let decoded = match self.compression {
            None => self.bytes.to_vec(),
            Some(compression @ ImageCompression::Pglz) => {
                pglz(self.bytes, expected).ok_or(undecodable(compression))?
            }
            Some(compression @ ImageCompression::Lz4) => {
                let mut page = vec![0; expected];
                let len = lz4_flex::block::decompress_into(self.bytes, &mut page)
                    .map_err(|_| undecodable(compression))?;
                page.truncate(len);
                page
            }
            Some(compression @ ImageCompression::Zstd) => {
                zstd::bulk::decompress(self.bytes, expected)
                    .map_err(|_| undecodable(compression))?
            }
        };
        let found = decoded.len();
        let (before, after) = decoded
            .split_at_checked(usize::from(self.hole_offset))
            .filter(|_| found == expected)
            .ok_or(PageImageError::Length { expected, found })?;
        let mut page = Vec::with_capacity(PAGE_BYTES);
        page.extend_from_slice(before);
        page.resize(before.len() + hole_len, 0);
        page.extend_from_slice(after);
        Ok(page)
    }
}

/// Decompresses PostgreSQL's own format to exactly `expected` bytes; `None` if
/// it is not that.
///
/// Source: `pglz_decompress`, src/common/pg_lzcompress.c.
fn pglz(mut input: &[u8], expected: usize) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(expected);
    while output.len() < expected {
        let (&control, rest) = input.split_first()?;
        input = rest;
        for bit in 0..8 {
            if input.is_empty() || output.len() >= expected {
                break;
            }
            if control & (1 << bit) == 0 {
                let (&byte, rest) = input.split_first()?;
                output.push(byte);
                input = rest;
                continue;
            }
            let (&[first, second], rest) = input.split_first_chunk::<2>()?;
            input = rest;
            let mut len = usize::from(first & 0x0F) + 3;
            let offset = (usize::from(first & 0xF0) << 4) | usize::from(second);
            if len == 18 {
                let (&more, rest) = input.split_first()?;
                len += usize::from(more);
                input = rest;
            }
            let from = output.len().checked_sub(offset).filter(|_| offset > 0)?;
            // what is copied may be what this very copy has written
            for at in from..from + len.min(expected - output.len()) {
                output.push(*output.get(at)?);
            }
        }
    }
    input.is_empty().then_some(output)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(bytes: &[u8], compression: Option<ImageCompression>, hole_len: u16) -> BlockImage<'_> {
        BlockImage {
            bytes,
            hole_offset: if hole_len == 0 { 0 } else { 4 },
            hole_len,
            compression,
            apply: true,
        }
    }

    #[test]
    fn every_compression_gives_the_page_back() {
        let mut page = vec![0u8; PAGE_BYTES];
        page[..4].copy_from_slice(b"page");
        page[8000..8006].copy_from_slice(b"column");
        let without_hole: Vec<u8> = [&page[..4], &page[4004..]].concat();
        let lz4 = lz4_flex::block::compress(&without_hole);
        let zstd = zstd::bulk::compress(&without_hole, 3).unwrap();
        for (bytes, compression) in [
            (&without_hole, None),
            (&lz4, Some(ImageCompression::Lz4)),
            (&zstd, Some(ImageCompression::Zstd)),
        ] {
            assert!(image(bytes, compression, 4000).page().unwrap() == page);
        }
    }

    #[test]
    fn pglz_copies_what_it_has_just_written() {
        // "ab", then nine bytes from two before: overlapping
        assert_eq!(
            pglz(&[0b100, b'a', b'b', 6, 2], 11).unwrap(),
            b"abababababa"
        );
        // a length of 18 goes on in a further byte
        assert_eq!(pglz(&[0b10, b'x', 0x0F, 1, 2], 21).unwrap(), [b'x'; 21]);
        for broken in [&[0b10, b'x', 6, 2][..], &[0b1, 0, 0], &[0b10, b'x', 6], &[]] {
            assert!(pglz(broken, 11).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn an_image_of_another_length_is_refused() {
        assert!(matches!(
            image(&[0; 100], None, 8000).page(),
            Err(PageImageError::Length {
                expected: 192,
                found: 100
            })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), hole_len in 0u16..9000) {
            for compression in [None, Some(ImageCompression::Pglz), Some(ImageCompression::Lz4), Some(ImageCompression::Zstd)] {
                if let Ok(page) = image(&bytes, compression, hole_len).page() {
                    prop_assert_eq!(page.len(), PAGE_BYTES);
                }
            }
        }
    }
}
