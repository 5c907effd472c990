//! How WAL segments are compressed in a repository.

mod decoder;
mod encoder;

use std::fmt;
use std::str::FromStr;

pub use decoder::{DecodeError, Decoder};
pub use encoder::{EncodeError, Encoder};

/// A way to write: what the configuration chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Zstandard, one frame with content size and checksum.
    Zstd {
        /// Compression level, [`Codec::ZSTD_LEVELS`].
        level: i32,
    },
    /// xz with a CRC-64 of the content.
    Xz {
        /// Preset, [`Codec::XZ_LEVELS`].
        level: u32,
    },
    /// As it is. Nothing notices damage inside the segment.
    None,
}

/// A way in which an object is stored: what its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// A Zstandard file, `.zst`.
    Zstd,
    /// An xz file, `.xz`.
    Xz,
    /// The bytes themselves, no suffix.
    Plain,
}

impl Encoding {
    /// All of them, in the order in which a name is looked for.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Xz, Self::Plain];

    /// What the encoding adds to a name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Xz => ".xz",
            Self::Plain => "",
        }
    }

    /// Takes a stored name apart into what it names and its encoding.
    pub fn split(name: &str) -> (&str, Self) {
        if let Some(stem) = name.strip_suffix(Self::Zstd.suffix()) {
            (stem, Self::Zstd)
        } else if let Some(stem) = name.strip_suffix(Self::Xz.suffix()) {
            (stem, Self::Xz)
        } else {
            (name, Self::Plain)
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Plain => "none",
        })
    }
}

impl Codec {
    /// Levels of zstd: below 1 are its fast ones, above 19 needs more memory
    /// than an archiver should take.
    pub const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -7..=19;

    /// Presets of xz.
    pub const XZ_LEVELS: std::ops::RangeInclusive<u32> = 0..=9;

    /// How what this codec writes is stored.
    pub fn encoding(self) -> Encoding {
        match self {
            Self::Zstd { .. } => Encoding::Zstd,
            Self::Xz { .. } => Encoding::Xz,
            Self::None => Encoding::Plain,
        }
    }

    /// What the codec adds to a name.
    pub fn suffix(self) -> &'static str {
        self.encoding().suffix()
    }

    /// About how much memory the encoder takes for content of this length: how many
    /// may run at the same time.
    pub fn encoder_bytes(self, content_bytes: u64) -> u64 {
        const MIB: u64 = 1 << 20;
        match self {
            // window and tables, both no larger than the content asks for
            Self::Zstd { level } => {
                let most = match level {
                    ..=3 => 4,
                    4..=8 => 16,
                    9..=12 => 48,
                    13..=15 => 64,
                    16.. => 96,
                };
                (most * MIB).min(content_bytes.saturating_mul(8) + 2 * MIB)
            }
            // "CompMem" of the presets in xz(1)
            Self::Xz { level } => {
                MIB * match level {
                    0 => 3,
                    1 => 9,
                    2 => 17,
                    3 => 32,
                    4 => 48,
                    5 | 6 => 94,
                    7 => 186,
                    8 => 370,
                    _ => 674,
                }
            }
            Self::None => 0,
        }
    }

    /// Reads `zstd`, `zstd:LEVEL`, `xz`, `xz:LEVEL` or `none`.
    ///
    /// The level is 1 where none is given: on WAL both codecs gain little from
    /// more, and lose most of their speed.
    ///
    /// # Errors
    /// An unknown name, or a level out of range.
    pub fn parse(text: &str) -> Result<Self, CodecError> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let out_of_range = |lowest, highest| CodecError::Level {
            codec: text.to_owned(),
            lowest,
            highest,
        };
        match (name, level) {
            ("zstd", None) => Ok(Self::default()),
            ("zstd", Some(level)) => level
                .parse()
                .ok()
                .filter(|level| Self::ZSTD_LEVELS.contains(level))
                .map(|level| Self::Zstd { level })
                .ok_or_else(|| {
                    out_of_range(
                        (*Self::ZSTD_LEVELS.start()).into(),
                        (*Self::ZSTD_LEVELS.end()).into(),
                    )
                }),
            ("xz", None) => Ok(Self::Xz { level: 1 }),
            ("xz", Some(level)) => level
                .parse()
                .ok()
                .filter(|level| Self::XZ_LEVELS.contains(level))
                .map(|level| Self::Xz { level })
                .ok_or_else(|| {
                    out_of_range(
                        (*Self::XZ_LEVELS.start()).into(),
                        (*Self::XZ_LEVELS.end()).into(),
                    )
                }),
            ("none", None) => Ok(Self::None),
            _ => Err(CodecError::Unknown {
                codec: text.to_owned(),
            }),
        }
    }
}

impl Default for Codec {
    /// zstd level 1: on WAL as small as level 3 and faster by half.
    fn default() -> Self {
        Self::Zstd { level: 1 }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::Xz { level } => write!(f, "xz:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for Codec {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A text that names no codec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// None of the names, or a level where none belongs.
    #[error("\"{codec}\" is no codec: expected zstd, zstd:LEVEL, xz, xz:LEVEL or none")]
    Unknown {
        /// The text as given.
        codec: String,
    },
    /// A level that the codec does not have.
    #[error("codec \"{codec}\" has no such level: expected {lowest} to {highest}")]
    Level {
        /// The text as given.
        codec: String,
        /// Lowest level.
        lowest: i64,
        /// Highest level.
        highest: i64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_reads_back_as_it_is_shown() {
        for text in ["zstd:1", "zstd:-5", "zstd:19", "xz:0", "xz:9", "none"] {
            assert_eq!(Codec::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Codec::parse("zstd"), Ok(Codec::Zstd { level: 1 }));
        assert_eq!(Codec::parse("xz"), Ok(Codec::Xz { level: 1 }));
    }

    #[test]
    fn what_is_no_codec_is_refused() {
        for text in [
            "", "gzip", "zstd:", "zstd:x", "zstd:20", "zstd:-8", "xz:10", "xz:-1", "none:1",
            "ZSTD", "zstd:1:2",
        ] {
            assert!(Codec::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_stored_name_tells_its_encoding() {
        for encoding in Encoding::ALL {
            let stored = format!("000000010000000000000001{}", encoding.suffix());
            assert_eq!(
                Encoding::split(&stored),
                ("000000010000000000000001", encoding)
            );
        }
    }
}
