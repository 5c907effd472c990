//! A part of a record, for joining it with the others.

use crate::crc32c;
use serde::{Deserialize, Serialize};

use crate::wal::record::header::RecordHeader;

/// A part of a record that lies in several segments: enough of it to prove the record's CRC once all parts are there.
///
/// In JSON `{"bytes", "head", "crc32c"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenPart", into = "WrittenPart")]
pub struct RecordPart {
    /// The first bytes, as many as a record's header may have in it.
    head: [u8; RecordHeader::LEN],
    /// Bytes of the part, page headers excluded.
    bytes: u64,
    /// CRC-32C of what follows the head.
    crc32c: u32,
}

impl RecordPart {
    /// A part without a byte.
    pub(crate) const EMPTY: RecordPart = RecordPart {
        head: [0; RecordHeader::LEN],
        bytes: 0,
        crc32c: 0,
    };

    /// The part of a record, or of its rest, of `bytes` bytes, that begins with `beginning`; CRC of what follows its
    /// first 24 bytes.
    pub(crate) fn new(beginning: &[u8], bytes: u64, crc32c: u32) -> Self {
        let mut part = Self::EMPTY;
        for (target, byte) in part.head.iter_mut().zip(beginning) {
            *target = *byte;
        }
        RecordPart {
            bytes,
            crc32c,
            ..part
        }
    }

    /// Bytes of the part, page headers excluded.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn head(&self) -> &[u8] {
        let len = usize::try_from(self.bytes).unwrap_or(RecordHeader::LEN);
        self.head.get(..len).unwrap_or(&self.head)
    }

    /// Adds what comes next.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let missing = RecordHeader::LEN - self.head().len();
        let (head, rest) = bytes.split_at(missing.min(bytes.len()));
        let begin = self.head().len();
        if let Some(target) = self.head.get_mut(begin..begin + head.len()) {
            target.copy_from_slice(head);
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, rest);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }

    /// Both parts as one, where `next` follows this one.
    #[must_use]
    pub fn join(mut self, next: &RecordPart) -> RecordPart {
        let head = next.head();
        let bytes = self.bytes.saturating_add(next.bytes);
        self.append(head);
        let behind = next.bytes.saturating_sub(head.len() as u64);
        RecordPart {
            bytes,
            crc32c: crc32c::crc32c_combine(self.crc32c, next.crc32c, behind),
            ..self
        }
    }

    /// The CRC that the record's header has, and the one that its bytes give, if this is a whole record.
    pub fn crcs(&self) -> Option<(u32, u32)> {
        let header = RecordHeader::parse(self.head()).ok()?;
        if u64::from(header.total_len) != self.bytes {
            return None;
        }
        let covered = self.head.get(..RecordHeader::CRC_COVERS)?;
        Some((header.crc, crc32c::crc32c_append(self.crc32c, covered)))
    }
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
struct WrittenPart {
    bytes: u64,
    head: String,
    crc32c: u32,
}

impl From<RecordPart> for WrittenPart {
    fn from(part: RecordPart) -> Self {
        WrittenPart {
            bytes: part.bytes,
            head: part
                .head()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            crc32c: part.crc32c,
        }
    }
}

impl TryFrom<WrittenPart> for RecordPart {
    type Error = RecordPartError;

    fn try_from(written: WrittenPart) -> Result<Self, RecordPartError> {
        let expected = written.bytes.min(RecordHeader::LEN as u64);
        let digits = written.head.as_bytes();
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok()?;
            let lower_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
            pair.iter()
                .all(lower_hex)
                .then(|| u8::from_str_radix(text, 16).ok())?
        };
        let head: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        match head {
            Some(head) if digits.len() as u64 == 2 * expected => {
                Ok(RecordPart::new(&head, written.bytes, written.crc32c))
            }
            _ => Err(RecordPartError {
                expected_digits: 2 * expected,
            }),
        }
    }
}

/// The first bytes of a part are not written as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("head of a part of a record: expected {expected_digits} lower-case hex digits")]
pub(crate) struct RecordPartError {
    expected_digits: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut record = u32::try_from(24 + body.len())
            .unwrap()
            .to_le_bytes()
            .to_vec();
        record.extend([7; 16]);
        record[17] = 10;
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        record
    }

    proptest! {
        #[test]
        fn parts_prove_the_record_that_they_make_up(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0usize..224, 0..4),
            changed in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let mut record = record(&body);
            if let Some(place) = changed {
                // the length tells whether it is whole, so that it is not changed here
                let place = 4 + place.index(record.len() - 4);
                record[place] ^= if place == 17 { 1 } else { 0x10 };
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(record.len())).collect();
            cuts.extend([0, record.len()]);
            cuts.sort_unstable();
            let mut whole = RecordPart::EMPTY;
            for cut in cuts.windows(2) {
                let mut part = RecordPart::EMPTY;
                // however they come
                for piece in record[cut[0]..cut[1]].chunks(13) {
                    part.append(piece);
                }
                let json = serde_json::to_string(&part).unwrap();
                prop_assert_eq!(serde_json::from_str::<RecordPart>(&json).unwrap(), part);
                whole = whole.join(&part);
            }
            let (expected, computed) = whole.crcs().unwrap();
            prop_assert_eq!(expected == computed, changed.is_none());
        }
    }

    #[test]
    fn a_head_of_another_length_is_refused() {
        for json in [
            r#"{"bytes":3,"head":"0102","crc32c":0}"#,
            r#"{"bytes":1,"head":"0102","crc32c":0}"#,
            r#"{"bytes":1,"head":"+1","crc32c":0}"#,
            r#"{"bytes":1,"head":"é","crc32c":0}"#,
        ] {
            assert!(serde_json::from_str::<RecordPart>(json).is_err(), "{json}");
        }
        assert!(
            serde_json::from_str::<RecordPart>(r#"{"bytes":2,"head":"0102","crc32c":0}"#).is_ok()
        );
    }
}
