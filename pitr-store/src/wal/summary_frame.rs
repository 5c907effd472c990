//! The skippable frame at the end of a zstd object, which carries the
//! segment's summary.
//!
//! Every zstd reader passes over it, and a ranged read of the object's last
//! bytes gives the summary without the segment:
//!
//! | bytes | |
//! |---|---|
//! | 4 | magic number 0x184D2A59, little endian, as of all integers here |
//! | 4 | length of what follows |
//! | n | the summary, JSON |
//! | 4 | n |
//! | 4 | CRC-32C of the n bytes |
//! | 8 | `pitrsum1` |
//!
//! Source: "Skippable Frames", RFC 8878, section 3.1.2.

use pitr_core::crc32c;

/// Magic number of the frame: one of the sixteen that zstd readers pass over.
/// The seek table of a base backup's part has another.
const MAGIC: u32 = 0x184D_2A59;
/// Last bytes of the frame, and of the object.
const MARK: &[u8; 8] = b"pitrsum1";
const HEADER_BYTES: usize = 8;

/// Bytes behind the JSON: length, checksum, mark.
pub(super) const FOOTER_BYTES: usize = 16;
/// Longest summary that is written or read.
pub(super) const MAX_SUMMARY_BYTES: usize = 256 << 10;

/// Why the end of an object holds no summary that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SummaryFrameError {
    /// The frame is there and contradicts itself.
    #[error("its summary is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// The JSON cannot be read.
    #[error("its summary cannot be read: {reason}")]
    Document {
        /// What the parser said.
        reason: String,
    },
    /// A summary of a later version.
    #[error("its summary has format {found}, this version reads up to {known}")]
    Format {
        /// The format number in it.
        found: u32,
        /// The highest one that is known.
        known: u32,
    },
}

/// The whole frame around `summary`; `None` if it is too long to be read back.
pub(super) fn frame(summary: &[u8]) -> Option<Vec<u8>> {
    if summary.len() > MAX_SUMMARY_BYTES {
        return None;
    }
    let length = u32::try_from(summary.len()).ok()?;
    let content = u32::try_from(summary.len() + FOOTER_BYTES).ok()?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + summary.len() + FOOTER_BYTES);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&content.to_le_bytes());
    bytes.extend_from_slice(summary);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(summary).to_le_bytes());
    bytes.extend_from_slice(MARK);
    Some(bytes)
}

/// How long the summary is that ends with `footer`; `None` where there is none.
pub(super) fn length(footer: &[u8]) -> Result<Option<usize>, SummaryFrameError> {
    let Some(footer) = footer.last_chunk::<FOOTER_BYTES>() else {
        return Ok(None);
    };
    let (length, rest) = footer.split_at(4);
    if rest.last_chunk::<8>() != Some(MARK) {
        return Ok(None);
    }
    let length = length
        .first_chunk::<4>()
        .and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok())
        .filter(|length| *length <= MAX_SUMMARY_BYTES);
    match length {
        Some(length) => Ok(Some(length)),
        None => Err(SummaryFrameError::Damaged {
            what: "its length is beyond any summary's",
        }),
    }
}

/// The summary in `tail`, the last bytes of an object: frame header, `length`
/// bytes, footer.
pub(super) fn content(tail: &[u8], length: usize) -> Result<&[u8], SummaryFrameError> {
    let damaged = |what| SummaryFrameError::Damaged { what };
    let whole = HEADER_BYTES + length + FOOTER_BYTES;
    let start = tail
        .len()
        .checked_sub(whole)
        .ok_or(damaged("the object ends before it"))?;
    let frame = tail.get(start..).unwrap_or_default();
    let field = |at: usize| {
        let bytes = frame.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    if field(0) != Some(MAGIC) {
        return Err(damaged("its frame does not begin where it should"));
    }
    if field(4).and_then(|n| usize::try_from(n).ok()) != Some(length + FOOTER_BYTES) {
        return Err(damaged("its frame has another length"));
    }
    let summary = frame
        .get(HEADER_BYTES..HEADER_BYTES + length)
        .unwrap_or_default();
    if field(HEADER_BYTES + length + 4) != Some(crc32c::crc32c(summary)) {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(summary)
}

/// Whether a frame of this kind ends with `tail`, whatever its end says: then
/// its mark is damaged.
pub(super) fn ends_with_frame(tail: &[u8]) -> bool {
    let magic = MAGIC.to_le_bytes();
    tail.windows(HEADER_BYTES).enumerate().any(|(at, header)| {
        let Some((found, length)) = header.split_first_chunk::<4>() else {
            return false;
        };
        let length = length
            .first_chunk::<4>()
            .and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok());
        *found == magic && length == tail.len().checked_sub(at + HEADER_BYTES)
    })
}

/// Bytes from the end of an object that hold a summary of `length` bytes.
pub(super) const fn tail_bytes(length: usize) -> usize {
    HEADER_BYTES + length + FOOTER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_is_found_at_the_end() {
        let summary = br#"{"format":1}"#;
        let mut object = b"data before".to_vec();
        object.extend(frame(summary).unwrap());
        let found = length(&object).unwrap().unwrap();
        assert_eq!(content(&object, found).unwrap(), summary);
    }

    #[test]
    fn zstd_passes_over_it() {
        let mut object = zstd::encode_all(&b"segment"[..], 1).unwrap();
        object.extend(frame(b"{}").unwrap());
        assert_eq!(zstd::decode_all(&object[..]).unwrap(), b"segment");
    }

    #[test]
    fn an_object_without_one_has_none() {
        for object in [&b""[..], b"short", &[0; 4096]] {
            assert_eq!(length(object).unwrap(), None);
        }
    }

    #[test]
    fn every_changed_bit_of_it_is_noticed() {
        let object = frame(br#"{"format":1,"records":17}"#).unwrap();
        for bit in 0..object.len() * 8 {
            let mut changed = object.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = length(&changed).and_then(|found| match found {
                Some(found) => content(&changed, found).map(Some),
                None => Ok(None),
            });
            assert!(
                matches!(read, Err(_) | Ok(None)),
                "bit {bit} was not noticed"
            );
        }
    }

    #[test]
    fn a_frame_is_known_by_its_beginning_where_its_end_is_damaged() {
        let mut object = b"data before".to_vec();
        object.extend(frame(b"{}").unwrap());
        assert!(ends_with_frame(&object));
        let last = object.len() - 1;
        object[last] ^= 1;
        assert_eq!(length(&object).unwrap(), None);
        assert!(ends_with_frame(&object));
        assert!(!ends_with_frame(b"data before, and nothing more"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(tail: Vec<u8>, claimed in 0_usize..1 << 20) {
            let _ = ends_with_frame(&tail);
            let _ = length(&tail);
            let _ = content(&tail, claimed.min(MAX_SUMMARY_BYTES));
        }
    }
}
