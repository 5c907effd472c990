//! Compressing a stream of known length.

use std::io::{self, Write};

use xz2::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};
use zstd::stream::raw::{CParameter, Encoder as ZstdEncoder, InBuffer, Operation, OutBuffer};

use super::Codec;

/// Compressed bytes collected before they are written.
const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;

/// What a thread of several compresses at a time: half of what zstd would choose,
/// for half of its memory.
const JOB_BYTES: u32 = 1 << 20;

/// Window and hash table of level 1: 256 KiB and 16 KiB, a half and a quarter of what zstd
/// takes for content of 16 MiB. What is alike in WAL lies close together, and both stay in
/// the caches next to the processor: a tenth less time for small records
/// (docs/performance.md, "Step by step").
const WAL_WINDOW_LOG: u32 = 18;
const WAL_HASH_LOG: u32 = 12;

/// Encodes a stream into a writer, which is lent to each call.
pub struct Encoder {
    codec: Codec,
    engine: Engine,
    buffer: Vec<u8>,
}

enum Engine {
    Zstd(ZstdEncoder<'static>),
    Xz(Stream),
    Plain,
}

/// Failure of an [`Encoder`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The codec could not be set up or did not take the input; short of
    /// memory, as a rule.
    #[error("could not compress with {codec}: {source}")]
    Codec {
        /// The codec.
        codec: Codec,
        /// What it answered.
        source: io::Error,
    },
    /// The compressed bytes could not be written.
    #[error(transparent)]
    Sink(io::Error),
}

impl Encoder {
    /// An encoder for exactly `content_bytes` bytes, which a zstd frame states
    /// in its header.
    ///
    /// # Errors
    /// The codec has no such level, or not enough memory.
    pub fn new(codec: Codec, content_bytes: u64) -> Result<Self, EncodeError> {
        Self::with_workers(codec, content_bytes, 0)
    }

    /// The same with `workers` threads that compress beside the caller's, where
    /// the codec knows how: zstd. It makes one frame all the same. 0 is none.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_workers(
        codec: Codec,
        content_bytes: u64,
        workers: u32,
    ) -> Result<Self, EncodeError> {
        let engine = match codec {
            Codec::Zstd { level } => zstd_engine(level, content_bytes, workers)
                .map(Engine::Zstd)
                .map_err(|source| EncodeError::Codec { codec, source })?,
            Codec::Xz { level } => {
                xz_engine(level, content_bytes)
                    .map(Engine::Xz)
                    .map_err(|source| EncodeError::Codec {
                        codec,
                        source: source.into(),
                    })?
            }
            Codec::None => Engine::Plain,
        };
        let buffer = match engine {
            Engine::Plain => Vec::new(),
            Engine::Zstd(_) | Engine::Xz(_) => vec![0; OUTPUT_BUFFER_BYTES],
        };
        Ok(Self {
            codec,
            engine,
            buffer,
        })
    }

    /// Encodes the next piece of content.
    ///
    /// # Errors
    /// `Sink` as soon as `sink` fails; the stream is then lost.
    pub fn write(&mut self, content: &[u8], sink: &mut dyn Write) -> Result<(), EncodeError> {
        match &mut self.engine {
            Engine::Zstd(zstd) => {
                let mut input = InBuffer::around(content);
                while input.pos() < content.len() {
                    let mut output = OutBuffer::around(self.buffer.as_mut_slice());
                    zstd.run(&mut input, &mut output)
                        .map_err(codec_error(self.codec))?;
                    sink.write_all(output.as_slice())
                        .map_err(EncodeError::Sink)?;
                }
                Ok(())
            }
            Engine::Xz(xz) => run_xz(xz, content, &mut self.buffer, Action::Run, sink, self.codec),
            Engine::Plain => sink.write_all(content).map_err(EncodeError::Sink),
        }
    }

    /// Ends the stream: what the codec still holds, and its checksum.
    ///
    /// # Errors
    /// `Codec` if the content was not as long as announced.
    pub fn finish(mut self, sink: &mut dyn Write) -> Result<(), EncodeError> {
        match &mut self.engine {
            Engine::Zstd(zstd) => loop {
                let mut output = OutBuffer::around(self.buffer.as_mut_slice());
                let left = zstd
                    .finish(&mut output, true)
                    .map_err(codec_error(self.codec))?;
                sink.write_all(output.as_slice())
                    .map_err(EncodeError::Sink)?;
                if left == 0 {
                    return Ok(());
                }
            },
            Engine::Xz(xz) => run_xz(xz, &[], &mut self.buffer, Action::Finish, sink, self.codec),
            Engine::Plain => Ok(()),
        }
    }
}

fn codec_error(codec: Codec) -> impl FnOnce(io::Error) -> EncodeError {
    move |source| EncodeError::Codec { codec, source }
}

fn zstd_engine(level: i32, content_bytes: u64, workers: u32) -> io::Result<ZstdEncoder<'static>> {
    let mut encoder = ZstdEncoder::new(level)?;
    encoder.set_parameter(CParameter::ChecksumFlag(true))?;
    encoder.set_parameter(CParameter::ContentSizeFlag(true))?;
    if level == 1 {
        encoder.set_parameter(CParameter::WindowLog(WAL_WINDOW_LOG))?;
        encoder.set_parameter(CParameter::HashLog(WAL_HASH_LOG))?;
    }
    if workers > 0 {
        encoder.set_parameter(CParameter::NbWorkers(workers))?;
        encoder.set_parameter(CParameter::JobSize(JOB_BYTES))?;
    }
    encoder.set_pledged_src_size(Some(content_bytes))?;
    Ok(encoder)
}

fn xz_engine(level: u32, content_bytes: u64) -> Result<Stream, xz2::stream::Error> {
    let mut options = LzmaOptions::new_preset(level)?;
    // A dictionary larger than the content costs memory on both sides and
    // finds nothing. Presets have 256 KiB to 64 MiB.
    let useful = content_bytes.next_power_of_two().clamp(1 << 16, 1 << 26);
    let preset = PRESET_DICTIONARY_BYTES
        .get(usize::try_from(level).unwrap_or(usize::MAX))
        .copied()
        .unwrap_or(1 << 26);
    options.dict_size(preset.min(u32::try_from(useful).unwrap_or(u32::MAX)));
    let mut filters = Filters::new();
    filters.lzma2(&options);
    Stream::new_stream_encoder(&filters, Check::Crc64)
}

/// Dictionary sizes of the presets 0 to 9, as in `xz(1)`.
const PRESET_DICTIONARY_BYTES: [u32; 10] = [
    1 << 18,
    1 << 20,
    1 << 21,
    1 << 22,
    1 << 22,
    1 << 23,
    1 << 23,
    1 << 24,
    1 << 25,
    1 << 26,
];

fn run_xz(
    xz: &mut Stream,
    mut content: &[u8],
    buffer: &mut [u8],
    action: Action,
    sink: &mut dyn Write,
    codec: Codec,
) -> Result<(), EncodeError> {
    loop {
        let (in_before, out_before) = (xz.total_in(), xz.total_out());
        let status = xz
            .process(content, buffer, action)
            .map_err(|e| codec_error(codec)(e.into()))?;
        let consumed = progress(in_before, xz.total_in());
        let produced = progress(out_before, xz.total_out());
        content = content.get(consumed..).unwrap_or(&[]);
        sink.write_all(buffer.get(..produced).unwrap_or(&[]))
            .map_err(EncodeError::Sink)?;
        match action {
            Action::Finish if status == Status::StreamEnd => return Ok(()),
            Action::Finish => {}
            _ if content.is_empty() => return Ok(()),
            _ => {}
        }
    }
}

/// Bytes that a call of liblzma consumed or produced, by its running total.
pub(super) fn progress(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}
