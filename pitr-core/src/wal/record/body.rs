//! What follows a record's header.

use nom::IResult;
use nom::number::complete::{le_u8, le_u16, le_u32};

use crate::postgres_major::PostgresMajor;
use crate::wal::record::block_reference::{BlockHeader, BlockReference, HAS_IMAGE};
use crate::wal::record::header::RecordHeader;
use crate::wal::record::relation_file::RelationFile;

/// Highest number of a block reference.
///
/// Source: `XLR_MAX_BLOCK_ID`, src/include/access/xlogrecord.h.
const MAX_BLOCK_ID: u8 = 32;
const TOPLEVEL_XID: u8 = 252;
const ORIGIN: u8 = 253;
const DATA_LONG: u8 = 254;
const DATA_SHORT: u8 = 255;

type Failed<'a> = nom::Err<nom::error::Error<&'a [u8]>>;

/// What follows a record's header, taken apart: blocks, and the resource manager's own data.
///
/// Borrows from the record and allocates nothing.
///
/// Source: `DecodeXLogRecord`, src/backend/access/transam/xlogreader.c.
#[derive(Debug, Clone, Copy)]
pub struct RecordBody<'a> {
    major: PostgresMajor,
    /// The headers, which say how the payload is divided.
    headers: &'a [u8],
    /// Images and data of the blocks, in the order of the headers.
    payload: &'a [u8],
    main_data: &'a [u8],
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
    block_count: usize,
    image_bytes: usize,
    first_relation: Option<RelationFile>,
}

impl<'a> RecordBody<'a> {
    /// Takes apart `body`, all bytes of a record but its 24-byte header, as a server of `major` wrote it.
    ///
    /// # Errors
    /// [`RecordBodyError`] if the headers in it contradict one another or the
    /// record's length. In a record whose CRC is right that never happens but
    /// by a defect of the server, or of this crate.
    pub fn parse(body: &'a [u8], major: PostgresMajor) -> Result<Self, RecordBodyError> {
        let truncated = |_: Failed<'_>| RecordBodyError::Truncated;
        let mut input = body;
        let mut announced = 0usize;
        let mut parsed = RecordBody {
            major,
            headers: body,
            payload: &[],
            main_data: &[],
            origin: None,
            toplevel_xid: None,
            block_count: 0,
            image_bytes: 0,
            first_relation: None,
        };
        let mut main_len = 0usize;
        let mut last_block = None;
        let mut relation = None;
        // the headers end where what they have announced is all that is left
        while input.len() > announced {
            let (rest, id) = byte(input).map_err(truncated)?;
            input = match id {
                0..=MAX_BLOCK_ID => {
                    if last_block.is_some_and(|last| last >= id) {
                        return Err(RecordBodyError::BlockOrder { id });
                    }
                    let (rest, header) = BlockHeader::parse(rest, id, major, relation)?;
                    last_block = Some(id);
                    relation = Some(header.relation);
                    parsed.first_relation.get_or_insert(header.relation);
                    announced += header.payload_len();
                    parsed.block_count += 1;
                    parsed.image_bytes += header.image_len();
                    rest
                }
                DATA_SHORT | DATA_LONG => {
                    let (rest, len) = data_len(rest, id).map_err(truncated)?;
                    main_len = len;
                    announced = announced
                        .checked_add(len)
                        .ok_or(RecordBodyError::Truncated)?;
                    rest
                }
                ORIGIN => {
                    let (rest, origin) = le_u16(rest).map_err(truncated)?;
                    parsed.origin = Some(origin);
                    rest
                }
                TOPLEVEL_XID => {
                    let (rest, xid) = le_u32(rest).map_err(truncated)?;
                    parsed.toplevel_xid = Some(xid);
                    rest
                }
                _ => return Err(RecordBodyError::UnknownId { id }),
            };
            if matches!(id, DATA_SHORT | DATA_LONG) {
                // "by convention, the main data fragment is always last"
                break;
            }
        }
        if input.len() != announced {
            return Err(RecordBodyError::PayloadLength {
                announced,
                found: input.len(),
            });
        }
        let headers_len = body.len() - input.len();
        parsed.headers = body.get(..headers_len).unwrap_or(&[]);
        let blocks_len = input.len() - main_len;
        (parsed.payload, parsed.main_data) = input.split_at(blocks_len);
        Ok(parsed)
    }

    /// The blocks, in the order of their numbers.
    pub fn blocks(&self) -> Blocks<'a> {
        Blocks {
            major: self.major,
            headers: self.headers,
            payload: self.payload,
            relation: None,
        }
    }

    /// The first block, for records that are about no more than one.
    pub fn first_block(&self) -> Option<BlockReference<'a>> {
        self.blocks().next()
    }

    /// The relation that the first block belongs to.
    pub const fn first_relation(&self) -> Option<RelationFile> {
        self.first_relation
    }

    /// Number of blocks, 0 to 33.
    pub const fn block_count(&self) -> usize {
        self.block_count
    }

    /// Bytes of page images in the record, compressed as they are.
    ///
    /// `pg_waldump` leaves them out of the first of its two lengths.
    pub const fn image_bytes(&self) -> usize {
        self.image_bytes
    }

    /// What the resource manager wrote down for the record as a whole.
    pub const fn main_data(&self) -> &'a [u8] {
        self.main_data
    }

    /// Replication origin that the change came from.
    ///
    /// Source: `XLR_BLOCK_ID_ORIGIN`.
    pub const fn origin(&self) -> Option<u16> {
        self.origin
    }

    /// Transaction to which the subtransaction that wrote the record belongs, on its first record at `wal_level = logical`.
    ///
    /// Source: `XLR_BLOCK_ID_TOPLEVEL_XID` (14 and later).
    pub const fn toplevel_xid(&self) -> Option<u32> {
        self.toplevel_xid
    }
}

/// The blocks of a record, from [`RecordBody::blocks`].
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    major: PostgresMajor,
    headers: &'a [u8],
    payload: &'a [u8],
    relation: Option<RelationFile>,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = BlockReference<'a>;

    fn next(&mut self) -> Option<BlockReference<'a>> {
        loop {
            let (&id, rest) = self.headers.split_first()?;
            // origin and top-level transaction may stand anywhere before the main data
            let skipped = match id {
                0..=MAX_BLOCK_ID => {
                    let (rest, header) =
                        BlockHeader::parse(rest, id, self.major, self.relation).ok()?;
                    let (payload, reference) = header.reference(self.payload).ok()?;
                    (self.headers, self.payload) = (rest, payload);
                    self.relation = Some(header.relation);
                    return Some(reference);
                }
                ORIGIN => 2,
                TOPLEVEL_XID => 4,
                _ => return None,
            };
            self.headers = rest.get(skipped..)?;
        }
    }
}

/// The relation of a record's first block, from the bytes behind its header
/// and without a look at the rest.
#[inline]
pub(crate) fn first_relation(body: &[u8], major: PostgresMajor) -> Option<RelationFile> {
    // nearly every record about rows: block 0, without an image
    if let Some((&[0, flags, _, _], rest)) = body.split_first_chunk::<4>()
        && flags & HAS_IMAGE == 0
        && let Some(&[t0, t1, t2, t3, d0, d1, d2, d3, r0, r1, r2, r3]) = rest.first_chunk()
    {
        // in registers: by way of memory this took longer than anything else in a search of all records
        return Some(RelationFile {
            tablespace: u32::from_le_bytes([t0, t1, t2, t3]),
            database: u32::from_le_bytes([d0, d1, d2, d3]),
            relation: u32::from_le_bytes([r0, r1, r2, r3]),
        });
    }
    first_relation_of_any(body, major)
}

/// Whether the record that `bytes` begins with certainly changes a relation with a file number that no catalog has
/// from the start: block 0, without an image.
///
/// Source: `FirstNormalObjectId`, src/include/access/transam.h.
#[inline]
pub(crate) fn begins_with_users_relation(bytes: &[u8]) -> bool {
    let Some((_, block)) = bytes.split_at_checked(RecordHeader::LEN) else {
        return false;
    };
    let Some(&[id, flags, _, _, _, _, _, _, _, _, _, _, r0, r1, r2, r3]) = block.first_chunk()
    else {
        return false;
    };
    let number = u32::from_le_bytes([r0, r1, r2, r3]);
    (id == 0) & (flags & HAS_IMAGE == 0) & (number >= FIRST_NORMAL_NUMBER)
}

/// Numbers of what users make; those below are the server's own.
const FIRST_NORMAL_NUMBER: u32 = 16384;

#[inline(never)]
fn first_relation_of_any(body: &[u8], major: PostgresMajor) -> Option<RelationFile> {
    let mut input = body;
    loop {
        let (&id, rest) = input.split_first()?;
        let skipped = match id {
            0..=MAX_BLOCK_ID => {
                let (_, header) = BlockHeader::parse(rest, id, major, None).ok()?;
                return Some(header.relation);
            }
            ORIGIN => 2,
            TOPLEVEL_XID => 4,
            _ => return None,
        };
        input = rest.get(skipped..)?;
    }
}

fn byte(input: &[u8]) -> IResult<&[u8], u8> {
    le_u8(input)
}

fn data_len(input: &[u8], id: u8) -> IResult<&[u8], usize> {
    if id == DATA_SHORT {
        let (input, len) = le_u8(input)?;
        return Ok((input, usize::from(len)));
    }
    let (input, len) = le_u32(input)?;
    Ok((input, len as usize))
}

/// Why the body of a record cannot be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordBodyError {
    /// The reader did not keep the record; see [`WalReader::hold_at_most`](crate::WalReader::hold_at_most).
    #[error("record of {total_len} bytes was checked but is too long to be held: {held} bytes are")]
    NotHeld {
        /// Length of the record.
        total_len: u32,
        /// Bytes from its beginning that are held.
        held: usize,
    },
    /// The headers go on beyond the record.
    #[error("record ends within its headers")]
    Truncated,
    /// What the headers announce is not what is there.
    #[error("headers of the record announce {announced} bytes of data, found {found}")]
    PayloadLength {
        /// Sum of the lengths in the headers.
        announced: usize,
        /// Bytes after the headers.
        found: usize,
    },
    /// A kind of header that there is not.
    #[error("unknown header {id} in the record")]
    UnknownId {
        /// First byte of the header.
        id: u8,
    },
    /// Block references come in ascending order.
    #[error("block reference {id} is out of order")]
    BlockOrder {
        /// The reference that follows one of the same or a higher number.
        id: u8,
    },
    /// A fork that relations do not have.
    #[error("block reference {id} names fork {found}, expected 0 to 3")]
    Fork {
        /// The reference.
        id: u8,
        /// What stood there.
        found: u8,
    },
    /// A length of data and the flag for data disagree.
    #[error("block reference {id} has {data_len} bytes of data, against its flags")]
    DataLength {
        /// The reference.
        id: u8,
        /// The length.
        data_len: u16,
    },
    /// Length, hole and flags of an image contradict one another.
    #[error("image of block reference {id} has a length or a hole that contradicts its flags")]
    Image {
        /// The reference.
        id: u8,
    },
    /// "The same relation as before" where nothing was before.
    #[error("block reference {id} names the relation of the one before it, but is the first")]
    NoRelation {
        /// The reference.
        id: u8,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::record::relation_file::Fork;

    fn major(number: u16) -> PostgresMajor {
        PostgresMajor::new(number).unwrap()
    }

    fn block_header(
        id: u8,
        flags: u8,
        data_len: u16,
        relation: Option<u32>,
        block: u32,
    ) -> Vec<u8> {
        let mut bytes = vec![id, flags];
        bytes.extend(data_len.to_le_bytes());
        for oid in relation.into_iter().flat_map(|oid| [1663, 5, oid]) {
            bytes.extend(u32::to_le_bytes(oid));
        }
        bytes.extend(block.to_le_bytes());
        bytes
    }

    #[test]
    fn blocks_take_their_share_of_the_payload_in_order() {
        let body = [
            &block_header(0, 0x20, 3, Some(1259), 7)[..],
            &block_header(1, 0xE0 | 2, 2, None, 8),
            &[ORIGIN, 4, 0, TOPLEVEL_XID, 9, 0, 0, 0, DATA_SHORT, 4],
            b"abcde",
            b"main",
        ]
        .concat();
        let parsed = RecordBody::parse(&body, major(15)).unwrap();
        assert_eq!(parsed.main_data(), b"main");
        assert_eq!(parsed.origin(), Some(4));
        assert_eq!(parsed.toplevel_xid(), Some(9));
        let blocks: Vec<_> = parsed.blocks().collect();
        assert_eq!((blocks.len(), parsed.block_count()), (2, 2));
        assert_eq!((blocks[0].block, blocks[0].data), (7, &b"abc"[..]));
        assert_eq!((blocks[1].block, blocks[1].data), (8, &b"de"[..]));
        assert_eq!(blocks[0].relation, blocks[1].relation);
        assert_eq!(blocks[1].fork, Fork::VisibilityMap);
        assert!(!blocks[0].will_init && blocks[1].will_init);
    }

    #[test]
    fn images_are_found_and_counted() {
        let mut body = vec![0, 0x10, 0, 0];
        body.extend([0x04, 0x00, 0x02, 0x00, 0x03]); // four bytes, hole at 2
        for oid in [1663u32, 5, 2610, 3] {
            body.extend(oid.to_le_bytes());
        }
        body.extend(b"page");
        let parsed = RecordBody::parse(&body, major(15)).unwrap();
        assert_eq!(parsed.image_bytes(), 4);
        let block = parsed.first_block().unwrap();
        let image = block.image.unwrap();
        assert_eq!(
            (image.bytes, image.hole_offset, image.hole_len),
            (&b"page"[..], 2, 8188)
        );
        assert!(image.apply && block.data.is_empty());
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let parse = |body: &[u8]| RecordBody::parse(body, major(15)).map(|_| ());
        assert_eq!(parse(&[]), Ok(()));
        assert_eq!(parse(&[DATA_SHORT]), Err(RecordBodyError::Truncated));
        assert_eq!(
            parse(&[DATA_SHORT, 2, 0]),
            Err(RecordBodyError::PayloadLength {
                announced: 2,
                found: 1
            })
        );
        assert_eq!(
            parse(&[DATA_LONG, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
            Err(RecordBodyError::PayloadLength {
                announced: 0xFFFF_FFFF,
                found: 1
            })
        );
        assert_eq!(parse(&[33, 0]), Err(RecordBodyError::UnknownId { id: 33 }));
        let first = block_header(0, 0x20, 1, Some(1), 1);
        assert_eq!(
            parse(&[&first[..], &first, b"12"].concat()),
            Err(RecordBodyError::BlockOrder { id: 0 })
        );
        assert_eq!(
            parse(&block_header(0, 0x80, 0, None, 1)),
            Err(RecordBodyError::NoRelation { id: 0 })
        );
        assert_eq!(
            parse(&block_header(0, 0, 1, Some(1), 1)),
            Err(RecordBodyError::DataLength { id: 0, data_len: 1 })
        );
        assert_eq!(
            parse(&block_header(0, 4, 0, Some(1), 1)),
            Err(RecordBodyError::Fork { id: 0, found: 4 })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..128), number in 13u16..=19) {
            if let Ok(parsed) = RecordBody::parse(&body, major(number)) {
                prop_assert_eq!(parsed.blocks().count(), parsed.block_count());
                prop_assert_eq!(first_relation(&body, major(number)), parsed.first_relation());
            }
        }
    }
}
