//! Opens what `pg_basebackup` wrote, whatever it was compressed with.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use xz2::bufread::XzDecoder;
use xz2::stream::{CONCATENATED, Stream};

/// Window that a zstd frame may ask for: what `zstd --long` and
/// `pg_basebackup` at its highest level use, and no more.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Memory that an xz stream may ask for: a dictionary of 256 MiB fits, four
/// times that of the highest preset.
const XZ_MEMORY_BYTES: u64 = 272 << 20;

/// What a file is compressed with, told by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Lz4,
    Zstd,
    Xz,
}

impl Compression {
    /// Splits `base.tar.gz` into `base.tar` and the compression.
    pub(super) fn split(name: &str) -> (&str, Self) {
        for (suffix, compression) in [
            (".gz", Self::Gzip),
            (".lz4", Self::Lz4),
            (".zst", Self::Zstd),
            (".xz", Self::Xz),
        ] {
            if let Some(stem) = name.strip_suffix(suffix) {
                return (stem, compression);
            }
        }
        (name, Self::None)
    }
}

/// Opens `path` and decodes it on the way.
///
/// # Errors
/// The file cannot be opened, or a decoder cannot be set up. Damage shows
/// while reading, as `InvalidData` or `UnexpectedEof`.
pub(super) fn open(path: &Path, compression: Compression) -> io::Result<Box<dyn Read + Send>> {
    let file = BufReader::with_capacity(1 << 20, File::open(path)?);
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(file)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(file, stream))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn an_xz_stream_that_wants_gigabytes_of_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.tar.xz");
        let mut options = xz2::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(1 << 20);
        let mut filters = xz2::stream::Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, xz2::stream::Check::Crc64).unwrap();
        let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
        io::Write::write_all(&mut encoder, b"small").unwrap();
        let mut bytes = encoder.finish().unwrap();
        // the dictionary's size in the block header (offset 12), and the header's CRC-32
        let header = usize::from(bytes[12] + 1) * 4;
        let at = (12..12 + header - 4)
            .find(|&at| bytes[at..].starts_with(&[0x21, 0x01]))
            .unwrap();
        bytes[at + 2] = 40; // 4 GiB - 1
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..12 + header - 4]);
        bytes[12 + header - 4..12 + header].copy_from_slice(&crc.sum().to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let read = open(&path, Compression::Xz)
            .unwrap()
            .read_to_end(&mut Vec::new());
        assert!(read.unwrap_err().to_string().contains("memory"));
    }

    #[test]
    fn what_the_stock_tools_compress_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let plain: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let source = dir.path().join("base.tar");
        std::fs::write(&source, &plain).unwrap();
        for (tool, suffix) in [
            ("gzip", "gz"),
            ("lz4", "lz4"),
            ("zstd", "zst"),
            ("xz", "xz"),
        ] {
            let path = dir.path().join(format!("base.tar.{suffix}"));
            let status = Command::new(tool)
                .arg("-c")
                .stdin(File::open(&source).unwrap())
                .stdout(File::create(&path).unwrap())
                .stderr(Stdio::inherit())
                .status()
                .unwrap();
            assert!(status.success(), "{tool}");
            let name = path.file_name().unwrap().to_str().unwrap();
            let (stem, compression) = Compression::split(name);
            assert_eq!(stem, "base.tar");
            let mut back = Vec::new();
            open(&path, compression)
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == plain, "{tool}");

            let cut = std::fs::read(&path).unwrap();
            std::fs::write(&path, &cut[..cut.len() / 2]).unwrap();
            let cut = open(&path, compression)
                .unwrap()
                .read_to_end(&mut Vec::new());
            assert!(cut.is_err(), "a truncated {tool} file was taken as whole");
        }
    }
}
