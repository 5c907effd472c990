//! Arrays within records.

use std::fmt;

use nom::bytes::complete::take;
use nom::combinator::map_opt;
use nom::number::complete::le_i32;
use nom::{IResult, Parser};

/// An array as it lies in a record: read item by item, never copied.
#[derive(Clone, Copy)]
pub struct PackedList<'a, T> {
    bytes: &'a [u8],
    item_len: usize,
    read: fn(&[u8]) -> Option<T>,
}

impl<'a, T> PackedList<'a, T> {
    pub(crate) fn empty() -> Self {
        PackedList {
            bytes: &[],
            item_len: 1,
            read: |_| None,
        }
    }

    /// `count` items of `item_len` bytes each.
    pub(crate) fn take(
        input: &'a [u8],
        count: usize,
        item_len: usize,
        read: fn(&[u8]) -> Option<T>,
    ) -> IResult<&'a [u8], Self> {
        // a product too large is more than there can be
        let len = count.saturating_mul(item_len);
        let (input, bytes) = take(len).parse(input)?;
        let list = PackedList {
            bytes,
            item_len: item_len.max(1),
            read,
        };
        Ok((input, list))
    }

    /// A count of 32 bits, then so many items.
    pub(crate) fn counted(
        input: &'a [u8],
        item_len: usize,
        read: fn(&[u8]) -> Option<T>,
    ) -> IResult<&'a [u8], Self> {
        let (input, count) = count(input)?;
        Self::take(input, count, item_len, read)
    }

    /// Number of items.
    pub const fn len(&self) -> usize {
        self.bytes.len() / self.item_len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The items in their order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let read = self.read;
        self.bytes.chunks_exact(self.item_len).filter_map(read)
    }
}

/// A count as the server writes it; negative ones are refused.
pub(crate) fn count(input: &[u8]) -> IResult<&[u8], usize> {
    map_opt(le_i32, |count| usize::try_from(count).ok()).parse(input)
}

/// An item that is a number.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.first_chunk()?))
}

impl<T: fmt::Debug> fmt::Debug for PackedList<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T> PackedList<'_, T> {
    /// Writes ` item item`, each as `one` has it.
    pub(crate) fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        one: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        for item in self.iter() {
            f.write_str(" ")?;
            one(f, item)?;
        }
        Ok(())
    }
}
