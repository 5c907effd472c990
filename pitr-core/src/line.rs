//! The pieces that PostgreSQL's line-oriented text files are made of.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while_m_n};
use nom::character::complete::digit1;
use nom::combinator::map_opt;
use nom::sequence::separated_pair;
use nom::{IResult, Parser};

use crate::lsn::Lsn;
use crate::timeline::id::TimelineId;

/// `%X/%X` and `%X/%08X`: one to eight hex digits on each side of a slash.
pub(crate) fn lsn(input: &[u8]) -> IResult<&[u8], Lsn> {
    let (rest, (high, low)) = separated_pair(hex_u32, tag("/"), hex_u32).parse(input)?;
    Ok((rest, Lsn::new((u64::from(high) << 32) | u64::from(low))))
}

/// `%u`: a decimal number below 2^32.
pub(crate) fn decimal_u32(input: &[u8]) -> IResult<&[u8], u32> {
    map_opt(digit1, |digits: &[u8]| {
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
    .parse(input)
}

/// `%u`, not zero.
pub(crate) fn timeline(input: &[u8]) -> IResult<&[u8], TimelineId> {
    map_opt(decimal_u32, TimelineId::new).parse(input)
}

/// Spaces and tabs, at least one.
pub(crate) fn blanks(input: &[u8]) -> IResult<&[u8], ()> {
    let (rest, _) = nom::multi::many1_count(alt((tag(" "), tag("\t")))).parse(input)?;
    Ok((rest, ()))
}

fn hex_u32(input: &[u8]) -> IResult<&[u8], u32> {
    let digits = take_while_m_n(1, 8, |byte: u8| byte.is_ascii_hexdigit());
    map_opt(digits, |digits: &[u8]| {
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    })
    .parse(input)
}

/// The lines of `bytes` with their numbers from 1, without the newline that ends each.
pub(crate) fn numbered_lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes
        .split(|&byte| byte == b'\n')
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// At most the first 64 characters of a line, for an error message about it.
pub(crate) fn excerpt(line: &[u8]) -> String {
    const LONGEST_BYTES: usize = 256;
    crate::text::excerpt(&String::from_utf8_lossy(
        line.get(..LONGEST_BYTES).unwrap_or(line),
    ))
}
