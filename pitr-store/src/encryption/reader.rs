//! An encrypted object's content, from its first byte to its last.

use std::fmt;
use std::io::{self, Read};

use super::cipher::ObjectCipher;
use super::error::{Damage, EncryptionError};
use super::format::{
    CHUNK_BYTES, HEADER_BYTES, Header, SEALED_CHUNK_BYTES, TAG_BYTES, TRAILER_BYTES, Trailer,
};
use super::secret::RepositorySecret;
use crate::key::ObjectKey;
use crate::store::{Operation, StoreError};

/// One chunk, and what shows whether it is the last one: a byte more than a
/// last chunk and the trailer can have.
const WINDOW_BYTES: usize = SEALED_CHUNK_BYTES + TRAILER_BYTES + 1;

/// Decrypts while reading. Gives out nothing that has not been proven, and ends
/// only where the object was meant to end. Holds one chunk.
///
/// Errors come as [`io::Error`] around a [`StoreError`].
pub struct DecryptingReader<R> {
    input: R,
    cipher: ObjectCipher,
    location: String,
    /// What was read and not decrypted yet; decrypted in place.
    window: Vec<u8>,
    filled: usize,
    /// The decrypted part of `window` that was not handed out yet.
    ready: std::ops::Range<usize>,
    next_chunk: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// A chunk of full size was decrypted and lies at the window's beginning.
    HoldsChunk,
    Ended,
    Failed(Damage),
}

impl<R: Read> DecryptingReader<R> {
    /// Reads the header of the object named `name` from `input`.
    ///
    /// # Errors
    /// `Encryption` if it is no encrypted object, or `input` fails.
    pub fn new(
        mut input: R,
        secret: &RepositorySecret,
        name: &ObjectKey,
        location: String,
    ) -> Result<Self, StoreError> {
        let damaged = |damage| {
            StoreError::from(EncryptionError::DamagedObject {
                location: location.clone(),
                damage,
            })
        };
        let mut header = [0; HEADER_BYTES];
        let filled = fill(&mut input, &mut header)
            .map_err(|e| StoreError::from_io(e, Operation::Read, &location))?;
        let header = header.get(..filled).unwrap_or_default();
        let header = Header::parse(header).map_err(damaged)?;
        let cipher = ObjectCipher::of_object(secret, &header, name).map_err(damaged)?;
        Ok(Self {
            input,
            cipher,
            location,
            window: vec![0; WINDOW_BYTES],
            filled: 0,
            ready: 0..0,
            next_chunk: 0,
            state: State::Reading,
        })
    }

    /// Decrypts the next chunk into `ready`.
    fn advance(&mut self) -> io::Result<()> {
        match self.state {
            State::Reading => {}
            State::HoldsChunk => {
                self.window.copy_within(SEALED_CHUNK_BYTES..self.filled, 0);
                self.filled -= SEALED_CHUNK_BYTES;
                self.state = State::Reading;
            }
            State::Ended => return Ok(()),
            State::Failed(damage) => return Err(self.damaged(damage)),
        }
        self.ready = 0..0;
        if let Some(rest) = self.window.get_mut(self.filled..) {
            self.filled += fill(&mut self.input, rest)?;
        }
        let opened = if self.filled == WINDOW_BYTES {
            self.open_chunk()
        } else {
            self.open_last_chunk()
        };
        opened.map_err(|damage| {
            self.state = State::Failed(damage);
            self.damaged(damage)
        })
    }

    fn open_chunk(&mut self) -> Result<(), Damage> {
        let number = self.next_chunk;
        let sealed = self.window.get_mut(..SEALED_CHUNK_BYTES);
        let sealed = sealed.ok_or(Damage::End)?;
        self.cipher.open(number, None, sealed)?;
        self.ready = 0..CHUNK_BYTES;
        self.next_chunk = number.saturating_add(1);
        self.state = State::HoldsChunk;
        Ok(())
    }

    fn open_last_chunk(&mut self) -> Result<(), Damage> {
        let number = self.next_chunk;
        let read = self.window.get_mut(..self.filled).unwrap_or_default();
        let split = read.len().checked_sub(TRAILER_BYTES).ok_or(Damage::End)?;
        let (sealed, trailer) = read.split_at_mut(split);
        // only an empty content has an empty last chunk
        if sealed.len() < TAG_BYTES || (number > 0 && sealed.len() == TAG_BYTES) {
            return Err(Damage::End);
        }
        let trailer = Trailer::parse(trailer)?;
        self.ready = 0..self.cipher.open(number, Some(&trailer), sealed)?.len();
        self.state = State::Ended;
        Ok(())
    }

    fn damaged(&self, damage: Damage) -> io::Error {
        StoreError::from(EncryptionError::DamagedObject {
            location: self.location.clone(),
            damage,
        })
        .into()
    }
}

impl<R: Read> Read for DecryptingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.ready.is_empty() {
            self.advance()?;
        }
        let ready = self.window.get(self.ready.clone()).unwrap_or_default();
        let length = ready.len().min(buffer.len());
        buffer[..length].copy_from_slice(&ready[..length]);
        self.ready.start += length;
        Ok(length)
    }
}

impl<R> fmt::Debug for DecryptingReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecryptingReader")
            .field("location", &self.location)
            .field("next_chunk", &self.next_chunk)
            .finish_non_exhaustive()
    }
}

/// Fills `buffer` as far as `input` reaches; gives back how far.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
