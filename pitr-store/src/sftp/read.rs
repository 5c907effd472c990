//! Reading objects of an SFTP store, with many requests on the way at once.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{OpenFlags, StatusCode};
use tokio::task::JoinHandle;

use super::connect::Link;
use super::session::{Failure, Session, broken};
use super::{kind_of, wrong_kind};
use crate::key::ObjectKey;
use crate::store::retry::Retry;
use crate::store::{NodeKind, Operation, StoreError};

/// Bytes asked for ahead of the reader.
const AHEAD_BYTES: u64 = 2 << 20;

/// An object open for reading. A connection that breaks is made anew, and
/// reading goes on where it stopped: objects never change.
pub(super) struct SftpReader {
    session: Arc<Session>,
    key: ObjectKey,
    size: u64,
    open: Option<Open>,
    /// Next byte that the reader gets.
    position: u64,
    /// First byte that is not wanted.
    end: u64,
    /// Bytes that have arrived: `buffer[taken..]` are those from `position` on.
    buffer: Vec<u8>,
    taken: usize,
}

/// A handle, and what is asked of it.
struct Open {
    link: Arc<Link>,
    handle: String,
    asked: VecDeque<Asked>,
    next: u64,
}

struct Asked {
    offset: u64,
    length: u32,
    answer: JoinHandle<Result<Vec<u8>, SftpError>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for asked in &self.asked {
            asked.answer.abort();
        }
    }
}

impl Drop for SftpReader {
    fn drop(&mut self) {
        if let Some(open) = self.open.take()
            && !open.link.is_closed()
            && let Ok(runtime) = self.session.runtime()
        {
            let (link, handle) = (Arc::clone(&open.link), open.handle.clone());
            // Nobody waits for it: the server closes what a connection leaves open.
            runtime.spawn(async move { link.sftp.close(handle).await });
        }
    }
}

impl SftpReader {
    pub(super) fn open(session: &Arc<Session>, key: &ObjectKey) -> Result<Self, StoreError> {
        let (open, size) = session.block(begin(session, key))?;
        Ok(Self {
            session: Arc::clone(session),
            key: key.clone(),
            size,
            open: Some(open),
            position: 0,
            end: size,
            buffer: Vec::new(),
            taken: 0,
        })
    }

    /// The bytes of `range`, all of them.
    pub(super) fn range(mut self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let out_of_range = || StoreError::OutOfRange {
            location: self.session.text(Some(&self.key)),
            begin: range.start,
            end: range.end,
            size_bytes: self.size,
        };
        // Checked against the real size before anything is allocated.
        if range.start > range.end || range.end > self.size {
            return Err(out_of_range());
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| out_of_range())?;
        let mut bytes = vec![0; length];
        self.position = range.start;
        self.end = range.end;
        if let Some(open) = &mut self.open {
            open.next = range.start;
        }
        let mut filled = 0;
        while filled < length {
            match self.next_bytes(&mut bytes[filled..])? {
                0 => return Err(self.cut_short()),
                count => filled += count,
            }
        }
        Ok(bytes)
    }

    fn cut_short(&self) -> StoreError {
        StoreError::Io {
            operation: Operation::Read,
            location: self.session.text(Some(&self.key)),
            source: io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the server sent {} bytes of the {} that the file had",
                    self.position, self.size
                ),
            ),
        }
    }

    fn next_bytes(&mut self, into: &mut [u8]) -> Result<usize, StoreError> {
        if self.taken == self.buffer.len() {
            if self.position >= self.end {
                return Ok(0);
            }
            let session = Arc::clone(&self.session);
            self.buffer = session.block(self.fetch())?;
            self.taken = 0;
        }
        let count = into.len().min(self.buffer.len() - self.taken);
        into[..count].copy_from_slice(&self.buffer[self.taken..self.taken + count]);
        self.taken += count;
        self.position += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }

    /// The next bytes from `position` on, at least one.
    async fn fetch(&mut self) -> Result<Vec<u8>, StoreError> {
        let location = self.session.text(Some(&self.key));
        let mut retry = Retry::new(self.session.budget());
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => {
                    let (mut open, size) = begin(&self.session, &self.key).await?;
                    if size != self.size {
                        return Err(self.cut_short());
                    }
                    open.next = self.position;
                    open
                }
            };
            ask_ahead(&mut open, self.end);
            let Some(first) = open.asked.pop_front() else {
                return Err(self.cut_short());
            };
            debug_assert_eq!(first.offset, self.position);
            let answer = first.answer.await;
            let error = match answer {
                Ok(Ok(mut bytes)) if !bytes.is_empty() => {
                    bytes.truncate(usize::try_from(first.length).unwrap_or(usize::MAX));
                    let got = u64::try_from(bytes.len()).unwrap_or(0);
                    if got < u64::from(first.length) {
                        // A server may send less than was asked for: begin
                        // again behind what it has sent.
                        for asked in open.asked.drain(..) {
                            asked.answer.abort();
                        }
                        open.next = first.offset + got;
                    }
                    self.open = Some(open);
                    return Ok(bytes);
                }
                Ok(Ok(_)) => return Err(self.cut_short()),
                Ok(Err(SftpError::Status(status))) if status.status_code == StatusCode::Eof => {
                    return Err(self.cut_short());
                }
                Ok(Err(error)) => error,
                Err(ended) => SftpError::IO(ended.to_string()),
            };
            let Some(reason) = broken(&error) else {
                return Err(match error {
                    SftpError::Status(status) => {
                        Failure::Answered(status).into_store(Operation::Read, location)
                    }
                    other => StoreError::Io {
                        operation: Operation::Read,
                        location,
                        source: io::Error::other(other.to_string()),
                    },
                });
            };
            self.session.forget(&open.link).await;
            drop(open);
            self.session
                .pause(&mut retry, Operation::Read, &location, &reason)
                .await?;
        }
    }
}

/// Opens the object and tells its size.
async fn begin(session: &Session, key: &ObjectKey) -> Result<(Open, u64), StoreError> {
    let location = session.text(Some(key));
    let opened = session
        .call(Operation::Open, &location, |link, _| async move {
            let path = link.path(Some(key));
            // A folder or a pipe in an object's place must not be opened.
            let attributes = link.sftp.lstat(path.as_str()).await?.attrs;
            if !matches!(kind_of(&attributes), Some(NodeKind::Object) | None) {
                return Ok((None, link, attributes));
            }
            let handle = link
                .sftp
                .open(
                    path,
                    OpenFlags::READ,
                    russh_sftp::protocol::FileAttributes::empty(),
                )
                .await?
                .handle;
            Ok((Some(handle), link, attributes))
        })
        .await;
    match opened {
        Ok((Some(handle), link, attributes)) => {
            let size = attributes.size.ok_or(StoreError::Unsupported {
                location,
                missing: "the server does not tell the size of files",
            })?;
            let open = Open {
                link,
                handle,
                asked: VecDeque::new(),
                next: 0,
            };
            Ok((open, size))
        }
        Ok((None, _, attributes)) => Err(wrong_kind(
            location,
            NodeKind::Object,
            kind_of(&attributes).unwrap_or(NodeKind::Special),
        )),
        Err(failure) if failure.is_no_such_file() => {
            Err(session.proven(key, Operation::Open).await)
        }
        Err(failure) => Err(failure.into_store(Operation::Open, location)),
    }
}

fn ask_ahead(open: &mut Open, end: u64) {
    let chunk = u64::from(open.link.read_bytes);
    let at_most = usize::try_from(AHEAD_BYTES / chunk).unwrap_or(1).max(1);
    while open.asked.len() < at_most && open.next < end {
        let length = u32::try_from((end - open.next).min(chunk)).unwrap_or(open.link.read_bytes);
        let (link, handle, offset) = (Arc::clone(&open.link), open.handle.clone(), open.next);
        open.asked.push_back(Asked {
            offset,
            length,
            answer: tokio::spawn(async move {
                let answer = link.sftp.read(handle, offset, length).await;
                answer.map(|data| data.data)
            }),
        });
        open.next += u64::from(length);
    }
}

impl Read for SftpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        Ok(self.next_bytes(buffer)?)
    }
}
