//! Reading a stored stream back, with its checksums, within bounds.

use std::io::{self, Read};

use xz2::stream::{
    Action, CONCATENATED, Error as XzError, Status, Stream, TELL_NO_CHECK, TELL_UNSUPPORTED_CHECK,
};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::Encoding;
use super::encoder::progress;

/// Stored bytes read at a time.
const INPUT_BUFFER_BYTES: usize = 128 * 1024;

/// Decoded bytes handed out at a time.
const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;

/// Memory that an xz stream may ask for: its highest preset takes 65 MiB.
const XZ_MEMORY_BYTES: u64 = 96 << 20;

/// First byte sequence of a zstd data frame.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Bytes of a skippable frame's header: magic and length.
const SKIPPABLE_HEADER_BYTES: usize = 8;

/// Decodes a stored stream piece by piece.
///
/// Hands out no more than it was allowed in total, and reports the end only
/// after every checksum has been found right. What was handed out before an
/// error may be wrong: whoever uses it early must be able to take it back.
pub struct Decoder<R> {
    source: R,
    engine: Engine,
    input: Vec<u8>,
    /// The part of `input` that is not used up yet.
    begin: usize,
    end: usize,
    output: Vec<u8>,
    decoded_bytes: u64,
    max_bytes: u64,
    finished: bool,
}

enum Engine {
    Zstd {
        zstd: ZstdDecoder<'static>,
        within_frame: bool,
        frames: u64,
    },
    Xz(Stream),
    Plain,
}

/// Why a stored stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The stored object could not be read: says nothing about its content.
    #[error(transparent)]
    Source(io::Error),
    /// The object ends too early.
    #[error("{encoding} stream is cut off")]
    Truncated {
        /// How the object is stored.
        encoding: Encoding,
    },
    /// A checksum is wrong, or the bytes make no sense.
    #[error("{encoding} stream is damaged: {detail}")]
    Damaged {
        /// How the object is stored.
        encoding: Encoding,
        /// What the codec says about it.
        detail: String,
    },
    /// The stream has no checksum, so that damage could not be noticed.
    #[error("{encoding} stream carries no checksum")]
    NoChecksum {
        /// How the object is stored.
        encoding: Encoding,
    },
    /// The stream holds more than belongs in it.
    #[error("{encoding} stream holds more than the {max_bytes} bytes that belong in it")]
    TooLong {
        /// How the object is stored.
        encoding: Encoding,
        /// What it should hold at most.
        max_bytes: u64,
    },
    /// The codec could not be set up.
    #[error("could not set up {encoding}: {source}")]
    Setup {
        /// How the object is stored.
        encoding: Encoding,
        /// What the codec answered.
        source: io::Error,
    },
}

impl<R: Read> Decoder<R> {
    /// A decoder of at most `max_bytes` decoded bytes.
    ///
    /// A zstd stream may ask for a window of up to `max_bytes`, but 8 MiB in
    /// any case and 128 MiB at most.
    ///
    /// # Errors
    /// `Setup`.
    pub fn new(encoding: Encoding, source: R, max_bytes: u64) -> Result<Self, DecodeError> {
        let setup = |source| DecodeError::Setup { encoding, source };
        let engine = match encoding {
            Encoding::Zstd => {
                let mut zstd = ZstdDecoder::new().map_err(setup)?;
                let window_log = max_bytes.max(1).ilog2().clamp(23, 27);
                zstd.set_parameter(DParameter::WindowLogMax(window_log))
                    .map_err(setup)?;
                Engine::Zstd {
                    zstd,
                    within_frame: false,
                    frames: 0,
                }
            }
            Encoding::Xz => Engine::Xz(
                Stream::new_stream_decoder(
                    XZ_MEMORY_BYTES,
                    TELL_NO_CHECK | TELL_UNSUPPORTED_CHECK | CONCATENATED,
                )
                .map_err(|e| setup(e.into()))?,
            ),
            Encoding::Plain => Engine::Plain,
        };
        let output = match encoding {
            Encoding::Plain => Vec::new(),
            Encoding::Zstd | Encoding::Xz => vec![0; OUTPUT_BUFFER_BYTES],
        };
        Ok(Self {
            source,
            engine,
            input: vec![0; INPUT_BUFFER_BYTES],
            begin: 0,
            end: 0,
            output,
            decoded_bytes: 0,
            max_bytes,
            finished: false,
        })
    }

    /// Bytes handed out so far.
    pub fn decoded_bytes(&self) -> u64 {
        self.decoded_bytes
    }

    /// The next decoded bytes; empty once the stream has ended and every
    /// checksum was right.
    ///
    /// # Errors
    /// Anything wrong with the stream, now or at its end.
    pub fn next_chunk(&mut self) -> Result<&[u8], DecodeError> {
        if self.finished {
            return Ok(&[]);
        }
        let (length, encoding) = match &self.engine {
            Engine::Zstd { .. } => (self.next_zstd()?, Encoding::Zstd),
            Engine::Xz(_) => (self.next_xz()?, Encoding::Xz),
            Engine::Plain => {
                self.refill()?;
                let length = self.end;
                self.begin = self.end;
                (length, Encoding::Plain)
            }
        };
        self.finished = length == 0;
        self.decoded_bytes = self
            .decoded_bytes
            .saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if self.decoded_bytes > self.max_bytes {
            self.finished = true;
            return Err(DecodeError::TooLong {
                encoding,
                max_bytes: self.max_bytes,
            });
        }
        let buffer = match encoding {
            Encoding::Plain => &self.input,
            Encoding::Zstd | Encoding::Xz => &self.output,
        };
        Ok(buffer.get(..length).unwrap_or(&[]))
    }

    /// Reads on into the used-up input buffer. Leaves it empty at the end.
    fn refill(&mut self) -> Result<(), DecodeError> {
        self.begin = 0;
        self.end = 0;
        self.end = read_some(&mut self.source, &mut self.input)?;
        Ok(())
    }

    /// Makes sure that `count` unused bytes are in the input buffer. False if
    /// the source ends before.
    fn peek(&mut self, count: usize) -> Result<bool, DecodeError> {
        if self.begin > 0 {
            self.input.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        while self.end < count {
            let space = self.input.get_mut(self.end..).unwrap_or(&mut []);
            let length = read_some(&mut self.source, space)?;
            if length == 0 {
                return Ok(false);
            }
            self.end += length;
        }
        Ok(true)
    }

    fn unused(&self) -> &[u8] {
        self.input.get(self.begin..self.end).unwrap_or(&[])
    }

    fn next_zstd(&mut self) -> Result<usize, DecodeError> {
        let encoding = Encoding::Zstd;
        loop {
            if !self.is_within_frame() && !self.begin_zstd_frame()? {
                return Ok(0);
            }
            if self.begin == self.end {
                self.refill()?;
                if self.end == 0 {
                    return Err(DecodeError::Truncated { encoding });
                }
            }
            let Engine::Zstd {
                zstd, within_frame, ..
            } = &mut self.engine
            else {
                return Ok(0);
            };
            let mut input = InBuffer::around(self.input.get(self.begin..self.end).unwrap_or(&[]));
            let mut output = OutBuffer::around(self.output.as_mut_slice());
            let left = zstd
                .run(&mut input, &mut output)
                .map_err(|e| DecodeError::Damaged {
                    encoding,
                    detail: e.to_string(),
                })?;
            self.begin += input.pos();
            let produced = output.pos();
            *within_frame = left != 0;
            if produced > 0 {
                return Ok(produced);
            }
        }
    }

    fn is_within_frame(&self) -> bool {
        matches!(
            self.engine,
            Engine::Zstd {
                within_frame: true,
                ..
            }
        )
    }

    /// Looks at the next frame's header, passing over skippable frames. False
    /// at the end of the object.
    fn begin_zstd_frame(&mut self) -> Result<bool, DecodeError> {
        let encoding = Encoding::Zstd;
        loop {
            if !self.peek(1)? {
                return match &self.engine {
                    Engine::Zstd { frames: 0, .. } => Err(DecodeError::Truncated { encoding }),
                    _ => Ok(false),
                };
            }
            if !self.peek(SKIPPABLE_HEADER_BYTES)? {
                return Err(DecodeError::Truncated { encoding });
            }
            let &[a, b, c, d, e, f, g, h, ..] = self.unused() else {
                return Err(DecodeError::Truncated { encoding });
            };
            if [a, b, c, d] == ZSTD_MAGIC {
                // Frame_Header_Descriptor, bit 2: Content_Checksum_flag
                if e & 0x04 == 0 {
                    return Err(DecodeError::NoChecksum { encoding });
                }
                if let Engine::Zstd {
                    within_frame,
                    frames,
                    ..
                } = &mut self.engine
                {
                    *within_frame = true;
                    *frames += 1;
                }
                return Ok(true);
            }
            if u32::from_le_bytes([a, b, c, d]) & 0xFFFF_FFF0 != 0x184D_2A50 {
                return Err(DecodeError::Damaged {
                    encoding,
                    detail: "what follows is no frame".to_owned(),
                });
            }
            self.begin += SKIPPABLE_HEADER_BYTES;
            self.skip(u64::from(u32::from_le_bytes([e, f, g, h])))?;
        }
    }

    fn skip(&mut self, mut count: u64) -> Result<(), DecodeError> {
        loop {
            let available = u64::try_from(self.end - self.begin).unwrap_or(u64::MAX);
            let step = usize::try_from(count.min(available)).unwrap_or(0);
            self.begin += step;
            count -= count.min(available);
            if count == 0 {
                return Ok(());
            }
            self.refill()?;
            if self.end == 0 {
                return Err(DecodeError::Truncated {
                    encoding: Encoding::Zstd,
                });
            }
        }
    }

    fn next_xz(&mut self) -> Result<usize, DecodeError> {
        let encoding = Encoding::Xz;
        let mut at_end = false;
        loop {
            if self.begin == self.end && !at_end {
                self.refill()?;
                at_end = self.end == 0;
            }
            let Engine::Xz(xz) = &mut self.engine else {
                return Ok(0);
            };
            let (in_before, out_before) = (xz.total_in(), xz.total_out());
            let action = if at_end { Action::Finish } else { Action::Run };
            let unused = self.input.get(self.begin..self.end).unwrap_or(&[]);
            let status = xz
                .process(unused, &mut self.output, action)
                .map_err(|e| match e {
                    XzError::NoCheck | XzError::UnsupportedCheck => {
                        DecodeError::NoChecksum { encoding }
                    }
                    XzError::Mem => DecodeError::Setup {
                        encoding,
                        source: e.into(),
                    },
                    other => DecodeError::Damaged {
                        encoding,
                        detail: io::Error::from(other).to_string(),
                    },
                })?;
            let consumed = progress(in_before, xz.total_in());
            let produced = progress(out_before, xz.total_out());
            self.begin += consumed;
            if produced > 0 {
                return Ok(produced);
            }
            match status {
                Status::StreamEnd => return Ok(0),
                Status::MemNeeded if at_end => return Err(DecodeError::Truncated { encoding }),
                _ => {}
            }
        }
    }
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, DecodeError> {
    loop {
        match source.read(buffer) {
            Ok(length) => return Ok(length),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(DecodeError::Source(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zstd::stream::raw::CParameter;

    use super::super::{Codec, Encoder};
    use super::*;
    use crate::conformance::noise;

    fn encode(codec: Codec, content: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        let mut encoder = Encoder::new(codec, u64::try_from(content.len()).unwrap()).unwrap();
        for chunk in content.chunks(10_007) {
            encoder.write(chunk, &mut stored).unwrap();
        }
        encoder.finish(&mut stored).unwrap();
        stored
    }

    fn decode(encoding: Encoding, stored: &[u8], max_bytes: u64) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::new(encoding, stored, max_bytes)?;
        let mut content = Vec::new();
        loop {
            let chunk = decoder.next_chunk()?;
            if chunk.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(chunk);
        }
    }

    fn sample() -> Vec<u8> {
        let mut content = noise(300_000, 5);
        content.extend(vec![0; 500_000]);
        content.extend(b"text ".repeat(40_000));
        content
    }

    const CODECS: [Codec; 5] = [
        Codec::Zstd { level: 1 },
        Codec::Zstd { level: -5 },
        Codec::Zstd { level: 19 },
        Codec::Xz { level: 1 },
        Codec::None,
    ];

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in CODECS {
            for content in [sample(), noise(1, 1), Vec::new()] {
                let stored = encode(codec, &content);
                let back = decode(codec.encoding(), &stored, 1_000_000).unwrap();
                assert_eq!(back, content, "{codec}");
            }
        }
    }

    #[test]
    fn a_stream_with_a_flipped_bit_never_gives_other_bytes() {
        let content = sample();
        for codec in [Codec::default(), Codec::Xz { level: 1 }] {
            let stored = encode(codec, &content);
            let step = (stored.len() / 400).max(1);
            // Every byte of both ends, a sample of the middle.
            let places = (0..stored.len())
                .filter(|place| *place < 64 || *place + 64 > stored.len() || place % step == 0);
            for place in places {
                let mut damaged = stored.clone();
                damaged[place] ^= 1 << (place % 8);
                if let Ok(back) = decode(codec.encoding(), &damaged, 2_000_000) {
                    assert_eq!(back, content, "{codec}: byte {place}");
                }
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_is_noticed() {
        let content = sample();
        for codec in [Codec::default(), Codec::Xz { level: 1 }] {
            let stored = encode(codec, &content);
            let step = (stored.len() / 200).max(1);
            for length in
                (0..stored.len()).filter(|l| *l < 64 || l + 64 > stored.len() || l % step == 0)
            {
                let error = decode(codec.encoding(), &stored[..length], 2_000_000).unwrap_err();
                assert!(
                    matches!(
                        error,
                        DecodeError::Truncated { .. } | DecodeError::Damaged { .. }
                    ),
                    "{codec}: {length}: {error}"
                );
            }
        }
    }

    #[test]
    fn what_follows_the_stream_is_noticed() {
        for codec in [Codec::default(), Codec::Xz { level: 1 }] {
            let mut stored = encode(codec, &sample());
            stored.extend(b"garbage!");
            assert!(decode(codec.encoding(), &stored, 2_000_000).is_err());
        }
    }

    #[test]
    fn skippable_frames_are_passed_over_anywhere() {
        let content = sample();
        let frame = encode(Codec::default(), &content);
        let mut skippable = 0x184D_2A5E_u32.to_le_bytes().to_vec();
        skippable.extend(300_000_u32.to_le_bytes());
        skippable.extend(noise(300_000, 9));
        let stored = [&skippable[..], &frame, &skippable, &frame, &skippable].concat();
        let back = decode(Encoding::Zstd, &stored, 4_000_000).unwrap();
        assert_eq!(back, [&content[..], &content].concat());
        for length in [
            stored.len() - 1,
            stored.len() - 300_000,
            stored.len() - 300_003,
        ] {
            assert!(decode(Encoding::Zstd, &stored[..length], 4_000_000).is_err());
        }
        assert!(decode(Encoding::Zstd, &skippable, 4_000_000).is_err());
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let content = vec![0; 50_000_000];
        for codec in [Codec::default(), Codec::Xz { level: 1 }, Codec::None] {
            let stored = encode(codec, &content);
            assert!(matches!(
                decode(codec.encoding(), &stored, 1_000_000),
                Err(DecodeError::TooLong {
                    max_bytes: 1_000_000,
                    ..
                })
            ));
        }
    }

    #[test]
    fn a_huge_window_is_refused_before_it_is_allocated() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.set_parameter(CParameter::WindowLog(28)).unwrap();
        io::Write::write_all(&mut encoder, &noise(3_000_000, 4)).unwrap();
        let stored = encoder.finish().unwrap();
        assert!(matches!(
            decode(Encoding::Zstd, &stored, 16 << 20),
            Err(DecodeError::Damaged { .. })
        ));
    }

    #[test]
    fn a_stream_without_a_checksum_is_refused() {
        let stored = zstd::bulk::compress(&sample(), 1).unwrap();
        assert!(matches!(
            decode(Encoding::Zstd, &stored, 2_000_000),
            Err(DecodeError::NoChecksum { .. })
        ));
        let stream = Stream::new_easy_encoder(1, xz2::stream::Check::None).unwrap();
        let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
        io::Write::write_all(&mut encoder, &sample()).unwrap();
        let stored = encoder.finish().unwrap();
        assert!(matches!(
            decode(Encoding::Xz, &stored, 2_000_000),
            Err(DecodeError::NoChecksum { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_escape_the_bound(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            magic in 0..3_usize,
        ) {
            let starts: [&[u8]; 3] = [&ZSTD_MAGIC, b"\xFD7zXZ\0\0\x04\xE6\xD6\xB4\x46", b""];
            let stored = [starts[magic], &bytes].concat();
            for encoding in Encoding::ALL {
                if let Ok(content) = decode(encoding, &stored, 1000) {
                    prop_assert!(content.len() <= 1000);
                }
            }
        }

        #[test]
        fn no_change_to_a_stream_gives_other_bytes(
            cut in any::<prop::sample::Index>(),
            length in 0..8_usize,
            patch in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let content = b"0123456789abcdef".repeat(40);
            for codec in [Codec::default(), Codec::Xz { level: 0 }] {
                let mut stored = encode(codec, &content);
                let begin = cut.index(stored.len());
                let end = (begin + length).min(stored.len());
                stored.splice(begin..end, patch.iter().copied());
                if let Ok(back) = decode(codec.encoding(), &stored, 10_000) {
                    prop_assert_eq!(&back, &content);
                }
            }
        }
    }
}
