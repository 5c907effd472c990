//! Members of a tar archive, one after another, from untrusted bytes.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use super::member::{BLOCK_BYTES, Member, MemberKind, padding};
use super::member_path::MemberPath;
use super::member_rules::MemberRules;
use super::part_name::Archive;
use super::tar_error::{MAX_EXTENSION_BYTES, TarError};

/// Whether the two zero blocks at the end must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndBlocks {
    /// They may be missing: servers up to 14 send none.
    Optional,
    /// They must be there, as in every stored part.
    Required,
}

/// Reads members in order; the data of each through [`TarReader::data`].
///
/// Bounded: no member is held in memory, and no extension of more than 64 KiB
/// is read. GNU long names and pax paths are understood; a header is otherwise
/// handed on as it came.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    end_blocks: EndBlocks,
    /// Bytes taken from `input`.
    offset: u64,
    /// Data bytes of the current member that are still to come.
    remaining: u64,
    current: Option<(MemberPath, u64)>,
    ended: bool,
    rules: MemberRules,
}

/// A member as it was read.
#[derive(Debug)]
pub(super) struct ReadMember {
    pub(super) member: Member,
    /// Header blocks to write for it: its own, or new ones where its name came
    /// in an extension.
    pub(super) blocks: Vec<u8>,
}

/// Values that came in extension members, for the next real one.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    seen_at: Option<u64>,
}

impl<R: Read> TarReader<R> {
    /// Reads `archive` from `input`, which starts with the first header.
    pub fn new(input: R, archive: Archive, end_blocks: EndBlocks) -> Self {
        Self {
            input,
            end_blocks,
            offset: 0,
            remaining: 0,
            current: None,
            ended: false,
            rules: MemberRules::new(archive),
        }
    }

    /// Bytes of the archive that have been read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next member, or `None` at the end of the archive. Data of the one
    /// before that was not read is skipped.
    ///
    /// # Errors
    /// Any [`TarError`]; after one the archive cannot be read on.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        Ok(self.next_with_blocks()?.map(|read| read.member))
    }

    /// Data of the current member.
    ///
    /// A stream that ends too early gives an error of kind `UnexpectedEof`
    /// that carries [`TarError::TruncatedMember`].
    pub fn data(&mut self) -> MemberData<'_, R> {
        MemberData { archive: self }
    }

    pub(super) fn next_with_blocks(&mut self) -> Result<Option<ReadMember>, TarError> {
        self.skip_current()?;
        let mut extension = Extension::default();
        loop {
            let start = self.offset;
            let Some(header) = self.next_header()? else {
                return match extension.seen_at {
                    Some(offset) => Err(TarError::MalformedExtension { offset }),
                    None => Ok(None),
                };
            };
            match header.entry_type() {
                EntryType::GNULongName => {
                    extension.path = Some(self.read_long_name(&header, start)?);
                }
                EntryType::GNULongLink => {
                    extension.link = Some(self.read_long_name(&header, start)?);
                }
                EntryType::XHeader => self.read_pax(&header, start, &mut extension)?,
                // a comment for the whole archive, as git writes it
                EntryType::XGlobalHeader => {
                    self.read_extension(&header, start)?;
                    continue;
                }
                _ => return self.take_member(&header, start, extension).map(Some),
            }
            extension.seen_at.get_or_insert(start);
        }
    }

    fn take_member(
        &mut self,
        header: &Header,
        start: u64,
        extension: Extension,
    ) -> Result<ReadMember, TarError> {
        let field = |field| TarError::HeaderField {
            offset: start,
            field,
        };
        let extended = extension.seen_at.is_some();
        let name = match extension.path {
            Some(name) => name,
            None => header.path_bytes().into_owned(),
        };
        let path = MemberPath::parse(&name).map_err(|source| TarError::Path {
            offset: start,
            source,
        })?;
        let size = match extension.size {
            Some(size) => size,
            None => header.entry_size().map_err(|_| field("size"))?,
        };
        let kind = match header.entry_type() {
            // before POSIX a directory was a file whose name ends in a slash
            EntryType::Regular if name.ends_with(b"/") => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => MemberKind::File,
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => MemberKind::Symlink {
                target: match extension.link {
                    Some(target) => target,
                    None => header
                        .link_name_bytes()
                        .ok_or_else(|| field("link name"))?
                        .into_owned(),
                },
            },
            other => {
                return Err(TarError::UnsupportedType {
                    path: path.to_string(),
                    type_flag: char::from(other.as_byte()),
                });
            }
        };
        let member = Member {
            mode: header.mode().map_err(|_| field("mode"))? & 0o7777,
            uid: header.uid().map_err(|_| field("uid"))?,
            gid: header.gid().map_err(|_| field("gid"))?,
            mtime: header.mtime().map_err(|_| field("mtime"))?,
            path,
            kind,
            size,
        };
        self.rules.check(&member)?;
        self.remaining = size;
        self.current = Some((member.path.clone(), size));
        let blocks = if extended {
            member.to_blocks()
        } else {
            header.as_bytes().to_vec()
        };
        Ok(ReadMember { member, blocks })
    }

    /// Passes over what is left of the current member without reading it:
    /// `advance` moves the input on by so many bytes.
    pub(super) fn pass_over(&mut self, advance: impl FnOnce(&mut R, u64)) {
        let Some((_, size)) = self.current.take() else {
            return;
        };
        let left = self.remaining.saturating_add(padding(size) as u64);
        advance(&mut self.input, left);
        self.offset = self.offset.saturating_add(left);
        self.remaining = 0;
    }

    /// Reads past what is left of the current member.
    fn skip_current(&mut self) -> Result<(), TarError> {
        let Some((path, size)) = self.current.take() else {
            return Ok(());
        };
        let mut left = self.remaining.saturating_add(padding(size) as u64);
        let mut scratch = [0; 8 * BLOCK_BYTES];
        while left > 0 {
            let wanted =
                usize::try_from(left).map_or(scratch.len(), |left| left.min(scratch.len()));
            let found = self.fill(&mut scratch[..wanted])?;
            left -= found as u64;
            if found < wanted {
                let expected = size.saturating_add(padding(size) as u64);
                return Err(TarError::TruncatedMember {
                    path: path.to_string(),
                    expected,
                    found: expected.saturating_sub(left),
                });
            }
        }
        self.remaining = 0;
        Ok(())
    }

    /// The next header with a right checksum, or `None` at the end.
    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        match self.fill(block)? {
            BLOCK_BYTES if block.iter().all(|byte| *byte == 0) => {
                self.read_end()?;
                return Ok(None);
            }
            BLOCK_BYTES => {}
            0 if self.end_blocks == EndBlocks::Optional => {
                self.ended = true;
                return Ok(None);
            }
            0 => return Err(TarError::MissingEnd { offset: start }),
            _ => {
                return Err(TarError::TruncatedHeader {
                    offset: self.offset,
                });
            }
        }
        let (before, rest) = block.split_at(148);
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let expected = sum(before) + 8 * u32::from(b' ') + sum(&rest[8..]);
        let found = header.cksum().map_err(|_| TarError::HeaderField {
            offset: start,
            field: "checksum",
        })?;
        if found != expected {
            return Err(TarError::HeaderChecksum {
                offset: start,
                expected,
                found,
            });
        }
        Ok(Some(header))
    }

    /// After the first zero block: nothing but zeros may follow, and at least
    /// one block of them where the end is required.
    fn read_end(&mut self) -> Result<(), TarError> {
        self.ended = true;
        let mut block = [0; BLOCK_BYTES];
        let mut first = true;
        loop {
            let offset = self.offset;
            let found = self.fill(&mut block)?;
            if block[..found].iter().any(|byte| *byte != 0) {
                return Err(TarError::TrailingData { offset });
            }
            if found < BLOCK_BYTES {
                if first && self.end_blocks == EndBlocks::Required {
                    return Err(TarError::MissingEnd {
                        offset: self.offset,
                    });
                }
                return Ok(());
            }
            first = false;
        }
    }

    fn read_long_name(&mut self, header: &Header, start: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.read_extension(header, start)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn read_pax(
        &mut self,
        header: &Header,
        start: u64,
        extension: &mut Extension,
    ) -> Result<(), TarError> {
        let malformed = || TarError::MalformedExtension { offset: start };
        let data = self.read_extension(header, start)?;
        for record in PaxExtensions::new(&data) {
            let record = record.map_err(|_| malformed())?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => extension.path = Some(value.to_vec()),
                b"linkpath" => extension.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    extension.size = Some(size.ok_or_else(malformed)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(TarError::UnsupportedType {
                        path: String::from_utf8_lossy(&header.path_bytes()).into_owned(),
                        type_flag: 'S',
                    });
                }
                // times, names and attributes: the header has what is needed
                _ => {}
            }
        }
        Ok(())
    }

    /// Data of an extension member, and past its padding.
    fn read_extension(&mut self, header: &Header, start: u64) -> Result<Vec<u8>, TarError> {
        let bytes = header.entry_size().map_err(|_| TarError::HeaderField {
            offset: start,
            field: "size",
        })?;
        let length = usize::try_from(bytes).ok();
        let length = length.filter(|_| bytes <= MAX_EXTENSION_BYTES);
        let length = length.ok_or(TarError::ExtensionTooLong {
            offset: start,
            bytes,
        })?;
        let mut data = vec![0; length + padding(bytes)];
        if self.fill(&mut data)? < data.len() {
            return Err(TarError::TruncatedHeader {
                offset: self.offset,
            });
        }
        data.truncate(length);
        Ok(data)
    }

    /// Fills `buffer` as far as the input goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }
}

/// Data of a [`TarReader`]'s current member.
#[derive(Debug)]
pub struct MemberData<'a, R> {
    archive: &'a mut TarReader<R>,
}

impl<R: Read> Read for MemberData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let archive = &mut *self.archive;
        let wanted = usize::try_from(archive.remaining)
            .map_or(buffer.len(), |remaining| remaining.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let found = archive.input.read(&mut buffer[..wanted])?;
        if found == 0 {
            let (path, size) = match &archive.current {
                Some((path, size)) => (path.to_string(), *size),
                None => (String::new(), 0),
            };
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                TarError::TruncatedMember {
                    path,
                    expected: size,
                    found: size - archive.remaining,
                },
            ));
        }
        archive.offset += found as u64;
        archive.remaining -= found as u64;
        Ok(found)
    }
}
