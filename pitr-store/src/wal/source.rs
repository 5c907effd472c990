//! What is offered to the archive.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A file of the log on its way into the archive: read once as a rule, once
/// more when the archive holds the name already.
pub trait WalSource {
    /// Where the bytes come from, for messages.
    fn origin(&self) -> String;

    /// How many bytes there are.
    fn content_bytes(&self) -> u64;

    /// Reads on, as [`Read::read`] does.
    ///
    /// # Errors
    /// The bytes cannot be had.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Goes back to the first byte.
    ///
    /// # Errors
    /// The bytes cannot be had again.
    fn rewind(&mut self) -> io::Result<()>;

    /// The file, if it is one: several may read it at the same time.
    fn file(&self) -> Option<&File> {
        None
    }
}

/// A file of this machine: the server's `%p`.
#[derive(Debug)]
pub struct WalFile {
    file: File,
    path: PathBuf,
    content_bytes: u64,
}

impl WalFile {
    /// Opens a regular file; links are followed, because `pg_wal` may be one.
    ///
    /// # Errors
    /// As the system says; `InvalidInput` for what is no regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        // A pipe in the file's place must not stop the archiver.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                if metadata.is_dir() {
                    "it is a directory"
                } else {
                    "it is not a regular file"
                },
            ));
        }
        let content_bytes = metadata.len();
        Ok(Self {
            file,
            path,
            content_bytes,
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl WalSource for WalFile {
    fn origin(&self) -> String {
        self.path.display().to_string()
    }

    fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.file.rewind()
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// Bytes in memory, as they came from a server.
#[derive(Debug)]
pub struct WalBytes<B> {
    bytes: Cursor<B>,
    origin: String,
}

impl<B: AsRef<[u8]>> WalBytes<B> {
    /// `origin` says where they came from, for messages.
    pub fn new(bytes: B, origin: impl Into<String>) -> Self {
        Self {
            bytes: Cursor::new(bytes),
            origin: origin.into(),
        }
    }
}

impl<B: AsRef<[u8]>> WalSource for WalBytes<B> {
    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn content_bytes(&self) -> u64 {
        u64::try_from(self.bytes.get_ref().as_ref().len()).unwrap_or(u64::MAX)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.bytes.set_position(0);
        Ok(())
    }
}

/// Fills `buffer` as far as the source reaches; returns how far.
pub(super) fn read_full(source: &mut dyn WalSource, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
