//! Which file a mapped catalog lies in.

use crate::crc32c;
use nom::Parser;
use nom::bytes::complete::tag;
use nom::number::complete::le_u32;

use crate::wal::record::packed_list::{PackedList, count, number};
use crate::wal::rmgr::relmap::RelationMapping;

/// First bytes of a map, in little-endian order.
///
/// Source: `RELMAPPER_FILEMAGIC`, src/backend/utils/cache/relmapper.c.
const MAGIC: u32 = 0x0059_2717;
/// Pairs that a map has room for: 62 up to 15, 64 from 16 on.
const ROOMS: [usize; 2] = [62, 64];

/// A file `pg_filenode.map`: where the mapped catalogs of a database lie.
///
/// Source: `RelMapFile`, src/backend/utils/cache/relmapper.c.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationMap {
    mappings: Vec<RelationMapping>,
}

impl RelationMap {
    /// Reads the file, checksum included.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(file: &[u8]) -> Result<Self, RelationMapError> {
        let header: nom::IResult<&[u8], usize> = (|input| {
            let (input, _magic) = tag(&MAGIC.to_le_bytes()[..]).parse(input)?;
            count(input)
        })(file);
        let (body, count) = header.map_err(|_| RelationMapError::NoMap)?;
        let room = ROOMS
            .into_iter()
            // 16 took away the padding behind the checksum
            .find(|room| file.len() == if *room == 62 { 512 } else { 8 + room * 8 + 4 })
            .ok_or(RelationMapError::Length { found: file.len() })?;
        let crc_at = 8 + room * 8;
        let expected = file
            .get(crc_at..)
            .and_then(number)
            .ok_or(RelationMapError::NoMap)?;
        let found = crc32c::crc32c(file.get(..crc_at).unwrap_or(&[]));
        if expected != found {
            return Err(RelationMapError::Checksum { expected, found });
        }
        if count > room {
            return Err(RelationMapError::Count { found: count });
        }
        let list: nom::IResult<&[u8], PackedList<'_, RelationMapping>> =
            PackedList::take(body, count, 8, |bytes| {
                let (bytes, oid) = le_u32::<_, nom::error::Error<&[u8]>>(bytes).ok()?;
                let file = number(bytes)?;
                Some(RelationMapping { oid, file })
            });
        let (_, list) = list.map_err(|_| RelationMapError::Count { found: count })?;
        Ok(Self {
            mappings: list.iter().collect(),
        })
    }

    /// Numbers of the files that mapped catalogs lie in.
    pub(crate) fn files(&self) -> impl Iterator<Item = u32> {
        self.mappings.iter().map(|mapping| mapping.file)
    }

    /// Number of the file that a catalog lies in.
    #[must_use]
    pub fn file_of(&self, catalog: u32) -> Option<u32> {
        let mapping = self.mappings.iter().find(|mapping| mapping.oid == catalog);
        mapping.map(|mapping| mapping.file)
    }
}

/// Why a file is no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelationMapError {
    /// It does not begin as one.
    #[error("no relation map: it does not begin with 0x00592717")]
    NoMap,
    /// No version has maps of this length.
    #[error("relation map of {found} bytes, expected 512 or 524")]
    Length {
        /// Its length.
        found: usize,
    },
    /// The checksum is wrong.
    #[error("checksum of the relation map is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// What it says.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// More pairs than there is room for.
    #[error("relation map announces {found} catalogs")]
    Count {
        /// The number.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(room: usize, pairs: &[(u32, u32)]) -> Vec<u8> {
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend(u32::try_from(pairs.len()).unwrap().to_le_bytes());
        for (oid, number) in pairs {
            file.extend(oid.to_le_bytes());
            file.extend(number.to_le_bytes());
        }
        file.resize(8 + room * 8, 0);
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        if room == 62 {
            file.resize(512, 0);
        }
        file
    }

    #[test]
    fn both_lengths_are_read() {
        for room in ROOMS {
            let read = RelationMap::parse(&map(room, &[(1259, 16_999), (1249, 1249)])).unwrap();
            assert_eq!(read.file_of(1259), Some(16_999));
            assert_eq!(read.file_of(2615), None);
        }
    }

    #[test]
    fn a_damaged_map_is_refused() {
        let mut file = map(64, &[(1259, 1259)]);
        file[13] ^= 1;
        assert!(matches!(
            RelationMap::parse(&file),
            Err(RelationMapError::Checksum { .. })
        ));
        assert_eq!(RelationMap::parse(b""), Err(RelationMapError::NoMap));
        let long = map(64, &[(1, 1); 64]);
        assert!(matches!(
            RelationMap::parse(&long[..523]),
            Err(RelationMapError::Length { found: 523 })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = RelationMap::parse(&bytes);
        }
    }
}
