//! Which blocks a record is about.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use crate::postgres_major::PostgresMajor;
use crate::wal::record::block_image::{BlockImage, ImageHeader};
use crate::wal::record::body::RecordBodyError;
use crate::wal::record::relation_file::{Fork, RelationFile};

/// A block that a record changes, or needs for replay.
///
/// Source: `XLogRecordBlockHeader`, src/include/access/xlogrecord.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockReference<'a> {
    /// Number of the reference within its record, 0 to 32. What it stands for is the resource manager's business.
    pub id: u8,
    /// Files of the relation.
    pub relation: RelationFile,
    /// Which of them.
    pub fork: Fork,
    /// Number of the block in the fork.
    pub block: u32,
    /// Whether replay makes the page anew, without reading it.
    ///
    /// Source: `BKPBLOCK_WILL_INIT`.
    pub will_init: bool,
    /// The page itself, where the record carries it.
    pub image: Option<BlockImage<'a>>,
    /// What the resource manager wrote down for this block; often empty where there is an image.
    pub data: &'a [u8],
}

/// A reference's header, before its image and data are found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockHeader {
    id: u8,
    pub(crate) relation: RelationFile,
    fork: Fork,
    block: u32,
    will_init: bool,
    image: Option<ImageHeader>,
    data_len: u16,
}

pub(crate) const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

impl BlockHeader {
    /// The header of reference `id`, whose own byte is already read; `previous` is the relation before it.
    ///
    /// Source: `DecodeXLogRecord`, src/backend/access/transam/xlogreader.c.
    pub(crate) fn parse(
        input: &[u8],
        id: u8,
        major: PostgresMajor,
        previous: Option<RelationFile>,
    ) -> Result<(&[u8], BlockHeader), RecordBodyError> {
        let truncated = |_: nom::Err<nom::error::Error<&[u8]>>| RecordBodyError::Truncated;
        let (input, (flags, data_len)) = head(input).map_err(truncated)?;
        let fork = Fork::new(flags & 0x0F).ok_or(RecordBodyError::Fork {
            id,
            found: flags & 0x0F,
        })?;
        if (flags & HAS_DATA != 0) != (data_len != 0) {
            return Err(RecordBodyError::DataLength { id, data_len });
        }
        let (input, image) = if flags & HAS_IMAGE == 0 {
            (input, None)
        } else {
            let (input, image) = ImageHeader::fields(input, major).map_err(truncated)?;
            (input, Some(image.ok_or(RecordBodyError::Image { id })?))
        };
        let (input, relation) = if flags & SAME_RELATION == 0 {
            RelationFile::fields(input).map_err(truncated)?
        } else {
            (input, previous.ok_or(RecordBodyError::NoRelation { id })?)
        };
        let (input, block) = block_number(input).map_err(truncated)?;
        let header = BlockHeader {
            id,
            relation,
            fork,
            block,
            will_init: flags & WILL_INIT != 0,
            image,
            data_len,
        };
        Ok((input, header))
    }

    /// Bytes of the payload that are this block's.
    pub(crate) fn payload_len(&self) -> usize {
        self.image_len() + usize::from(self.data_len)
    }

    pub(crate) fn image_len(&self) -> usize {
        self.image.map_or(0, |image| usize::from(image.len))
    }

    /// Takes the block's image and data from the beginning of `payload`.
    pub(crate) fn reference<'a>(&self, payload: &'a [u8]) -> IResult<&'a [u8], BlockReference<'a>> {
        let (payload, image) = match &self.image {
            Some(header) => {
                let (payload, image) = header.bytes(payload)?;
                (payload, Some(image))
            }
            None => (payload, None),
        };
        let (payload, data) = take(self.data_len).parse(payload)?;
        let reference = BlockReference {
            id: self.id,
            relation: self.relation,
            fork: self.fork,
            block: self.block,
            will_init: self.will_init,
            image,
            data,
        };
        Ok((payload, reference))
    }
}

fn head(input: &[u8]) -> IResult<&[u8], (u8, u16)> {
    (le_u8, le_u16).parse(input)
}

fn block_number(input: &[u8]) -> IResult<&[u8], u32> {
    le_u32(input)
}
