//! The log as a stream of records.

pub(crate) mod assembly;
pub(crate) mod content_crc;
pub(crate) mod damage;
mod page;
pub(crate) mod part;
mod proof;
mod record;
pub(crate) mod segment_scan;
#[cfg(test)]
pub(crate) mod test_log;
#[cfg(test)]
mod tests;

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;
use crate::wal::page_header::PageHeader;
use crate::wal::reader::assembly::Assembly;
use crate::wal::reader::content_crc::CrcStretch;
use crate::wal::reader::damage::WalDamage;
use crate::wal::reader::part::RecordPart;
use crate::wal::reader::proof::{Passed, Proof};
use crate::wal::record::Record;
use crate::wal::record::header::RecordHeader;
use crate::wal::seam::LogEdges;
use crate::wal::segment_number::SegmentNumber;
use crate::wal::segment_size::WalSegmentSize;

/// Bytes in a page of the log, until a segment says otherwise.
///
/// Source: `XLOG_BLCKSZ`, src/include/pg_config.h.
const BLOCK_SIZE: u64 = 8192;

/// Records begin at multiples of this.
///
/// Source: `MAXIMUM_ALIGNOF`.
const ALIGNMENT: u64 = 8;

/// Finds and checks the records of consecutive segments, fed in chunks of any size.
///
/// It begins with the first byte of a segment and keeps its state across
/// pages, segments and timelines, so that records may go on from one to the
/// next: feed the segments of one path of timelines in order, and begin
/// another reader behind a gap. Of each record the CRC, the link to the
/// record before and every page header on its way are checked. Whatever is
/// wrong comes out as [`WalDamage`], after which reading goes on: at the end
/// of a record whose CRC is wrong, else at the next page on which a record's
/// beginning can be found.
///
/// ```
/// use pitr_core::{RecordContents, ResourceManager, SegmentName, WalReader, WalSegmentSize};
///
/// /// The commits of a segment: where, when, by which transaction.
/// fn commits(name: &SegmentName, segment: &[u8]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
///     let size = WalSegmentSize::new(segment.len() as u64)?;
///     let mut reader = WalReader::new(name.number(size)?, size);
///     let mut commits = Vec::new();
///     let mut records = reader.feed(segment);
///     while let Some(record) = records.next_record() {
///         let record = record?; // damage
///         if record.header().resource_manager == ResourceManager::TRANSACTION
///             && let RecordContents::Transaction(xact) = record.contents()?
///             && let Some(commit) = xact.commit()
///         {
///             commits.push(format!("{} {} {}", record.lsn(), commit.time, commit.xid));
///         }
///     }
///     Ok(commits)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let packed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v14/000000010000000000000004.gz"))?;
/// # let mut segment = Vec::new();
/// # std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut segment)?;
/// let found = commits(&"000000010000000000000004".parse()?, &segment)?;
/// assert_eq!(found[0], "0/4022C10 2026-11-20 07:25:01.387416+00 740");
/// # Ok(())
/// # }
/// ```
///
/// # Memory
/// A record that lies within one page of one chunk is handed out where it
/// lies. Others are put together in a buffer that grows with what has come,
/// up to [`WalReader::hold_at_most`]; of a longer record the CRC is checked
/// all the same.
///
/// # Which bytes are not checked
/// Those that PostgreSQL does not check either: padding between records and
/// in page headers, the flag that tells that no base backup ran, the count of
/// continued bytes on pages that continue nothing, and what follows a segment
/// switch. Bytes at the beginning of the first segment that continue an
/// earlier record are counted, but cannot be checked without it.
///
/// Source: `XLogReadRecord`, src/backend/access/transam/xlogreader.c.
#[derive(Debug)]
pub struct WalReader {
    /// Of the next byte that is fed.
    position: u64,
    segment_size: WalSegmentSize,
    block_size: u64,
    block_size_known: bool,
    system_identifier: Option<SystemIdentifier>,
    major: Option<PostgresMajor>,
    /// Of the last page.
    page_timeline: TimelineId,
    /// The highest one that a page or a record has named.
    known_timeline: TimelineId,
    /// A page named a timeline that no record has begun yet; the next record must.
    unannounced: Option<WalDamage>,
    /// The header of the current page, as far as it has come.
    page_header: [u8; PageHeader::LONG_LEN],
    state: State,
    assembly: Assembly,
    /// Beginning of the record before, where the log is whole up to here.
    prev: Option<Lsn>,
    /// The next record must be the one that tells of a record whose rest was lost.
    overwrites: bool,
    /// The last record's CRC was wrong: its length may have been, too, and so this may be no boundary.
    unsure: bool,
    may_end: bool,
    suspected_end: Option<WalDamage>,
    /// Of the first byte that was fed.
    start: u64,
    leading: Option<LeadingBytes>,
    /// What has come of the leading bytes.
    leading_part: RecordPart,
    /// What the first record points back to.
    previous_record: Option<Lsn>,
    /// A page takes the place of the rest of a record that began before the first segment.
    begins_overwriting: bool,
    proof: Proof,
    /// Long stretches of records in the chunk that was fed last, for who wants the CRC of all that was read.
    stretches: Option<Vec<CrcStretch>>,
    /// Of which records the consumer wants no more than the beginning.
    beginning_only: Option<fn(&RecordHeader) -> bool>,
}

/// What the next byte is, once the page header is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has been read.
    Start,
    /// Padding, then a record.
    Boundary,
    /// The next byte of the record that is being put together.
    Record,
    /// The rest of a record whose beginning is not there.
    Continuation { remaining: u64 },
    /// What follows a segment switch.
    SegmentTail,
    /// Damage was met: a page that can be trusted is looked for.
    Lost,
}

/// The bytes at the beginning of the first segment that continue a record of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadingBytes {
    /// Bytes of the record that were still to come where the first segment begins, page headers excluded.
    pub len: u64,
    /// Beginning of the record that they continue; `None` until the record after it, which points back, has been read.
    pub record: Option<Lsn>,
}

/// A record that is not complete where reading has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedRecord {
    /// Its beginning; `None` if that lies before the first segment, or was lost to damage.
    pub lsn: Option<Lsn>,
    /// Bytes still to come, page headers excluded; `None` while less than its length is there.
    pub remaining: Option<u64>,
}

/// What one step through the input has come to.
enum Step<'i> {
    /// The input is used up.
    Starved,
    /// Go on.
    Moved,
    Damage(WalDamage),
    InPlace(Found, &'i [u8]),
    Assembled(Found),
}

/// A checked record without its bytes.
struct Found {
    lsn: Lsn,
    next: Lsn,
    major: PostgresMajor,
    timeline: TimelineId,
    header: RecordHeader,
}

impl Found {
    fn record<'a>(&self, bytes: &'a [u8]) -> Record<'a> {
        Record {
            lsn: self.lsn,
            next: self.next,
            major: self.major,
            timeline: self.timeline,
            header: self.header,
            bytes,
        }
    }
}

impl WalReader {
    /// Bytes of a record that are held unless [`WalReader::hold_at_most`] says otherwise: 4 MiB.
    pub const DEFAULT_HOLD: usize = 4 << 20;
    /// The same of records of transactions (commits, aborts, prepared ones), which count whole or not at all: 64 MiB,
    /// room for 16 million subtransactions. It is taken only as far as such a record has come.
    pub const DEFAULT_HOLD_OF_ENDS: usize = 64 << 20;
    /// The least that [`WalReader::hold_at_most`] goes down to, so that what fits a page is always held: 64 KiB.
    pub const MIN_HOLD: usize = 64 << 10;

    /// Begins with the first byte of segment `first`, of a cluster whose segments are of `size`.
    pub fn new(first: SegmentNumber, size: WalSegmentSize) -> Self {
        WalReader {
            position: first.start(size).get(),
            segment_size: size,
            block_size: BLOCK_SIZE,
            block_size_known: false,
            system_identifier: None,
            major: None,
            page_timeline: TimelineId::FIRST,
            known_timeline: TimelineId::FIRST,
            unannounced: None,
            page_header: [0; PageHeader::LONG_LEN],
            state: State::Start,
            assembly: Assembly::new(Self::DEFAULT_HOLD, Self::DEFAULT_HOLD_OF_ENDS),
            prev: None,
            overwrites: false,
            unsure: false,
            may_end: false,
            suspected_end: None,
            start: first.start(size).get(),
            leading: None,
            leading_part: RecordPart::EMPTY,
            previous_record: None,
            begins_overwriting: false,
            proof: Proof::default(),
            stretches: None,
            beginning_only: None,
        }
    }

    /// Puts together no more than the beginning of the records that `of` says so of, where they
    /// lie on several pages: copying page images would take as long as proving them.
    pub(crate) fn holding_beginning_only(mut self, of: fn(&RecordHeader) -> bool) -> Self {
        self.beginning_only = Some(of);
        self
    }

    /// Notes the CRCs of long stretches of records on the way.
    pub(crate) fn noting_stretches(mut self) -> Self {
        self.stretches = Some(Vec::new());
        self
    }

    /// The long stretches of records in the chunk that was fed last, in order.
    pub(crate) fn stretches(&self) -> &[CrcStretch] {
        self.stretches.as_deref().unwrap_or(&[])
    }

    /// Notes that a CRC was led over `bytes`, the first of which is at `position`.
    fn note_stretch(&mut self, position: u64, bytes: &[u8], before: u32, behind: u32) {
        if let Some(stretches) = &mut self.stretches
            && bytes.len() >= CrcStretch::LEAST
        {
            stretches.push(CrcStretch {
                position,
                bytes: bytes.len(),
                before,
                behind,
            });
        }
    }

    /// Holds records of up to `bytes` (at least [`WalReader::MIN_HOLD`]) as a whole, those of transactions too.
    ///
    /// A longer one is handed out with its header once its CRC is proven, and
    /// with the first `bytes` of it; [`Record::body`] then fails.
    #[must_use]
    pub fn hold_at_most(mut self, bytes: usize) -> Self {
        let bytes = bytes.max(Self::MIN_HOLD);
        self.assembly = Assembly::new(bytes, bytes);
        self
    }

    /// Expects segments of this cluster; otherwise the first one tells.
    #[must_use]
    pub fn expect_system(mut self, system_identifier: SystemIdentifier) -> Self {
        self.system_identifier = Some(system_identifier);
        self
    }

    /// Takes it for the end of the log if what looks damaged is followed by no page that belongs there.
    ///
    /// For `.partial` segments and those of a running server, which end in
    /// zeros, in old pages of a recycled file or in a torn record. Damage that
    /// such a page follows is told as ever, when that page is read;
    /// see [`WalReader::end_of_log`].
    #[must_use]
    pub fn may_end(mut self) -> Self {
        self.may_end = true;
        self
    }

    /// Reads on with `chunk`, which follows what was fed before.
    ///
    /// Whatever the records' consumer leaves of it is read, unseen, when
    /// [`Records`] is dropped.
    pub fn feed<'r, 'i>(&'r mut self, chunk: &'i [u8]) -> Records<'r, 'i> {
        self.proof.forget();
        if let Some(stretches) = &mut self.stretches {
            stretches.clear();
        }
        Records {
            reader: self,
            input: chunk,
        }
    }

    /// Where the next byte that is fed belongs.
    pub const fn position(&self) -> Lsn {
        Lsn::new(self.position)
    }

    /// Version of the server that wrote the log; `None` before its first page.
    pub const fn major(&self) -> Option<PostgresMajor> {
        self.major
    }

    /// The cluster that wrote the log; `None` before its first page.
    pub const fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.system_identifier
    }

    /// Timeline that the last page or record has named.
    pub const fn timeline(&self) -> TimelineId {
        self.known_timeline
    }

    /// The record that the first segment begins in the middle of, if it does.
    pub const fn leading(&self) -> Option<LeadingBytes> {
        self.leading
    }

    /// The record that is not complete yet.
    ///
    /// At the end of a segment: what the next one begins in the middle of.
    /// Where segments are read one by one, what is unfinished at the end of one
    /// must be [`WalReader::leading`] in the next.
    pub fn unfinished(&self) -> Option<UnfinishedRecord> {
        match self.state {
            State::Record => Some(UnfinishedRecord {
                lsn: Some(self.assembly.lsn),
                remaining: self.assembly.remaining(),
            }),
            State::Continuation { remaining } if remaining > 0 => Some(UnfinishedRecord {
                lsn: None,
                remaining: Some(remaining),
            }),
            _ => None,
        }
    }

    /// How what was read begins and ends, to be joined with what was read on either side of it.
    ///
    /// Of a log in which there is no damage; else it may say what is not so.
    ///
    /// ```
    /// use pitr_core::{LogSeams, WalDamage, WalReader};
    ///
    /// /// Whether the log is whole where two readers of neighbouring segments meet.
    /// fn meet(one: &WalReader, other: &WalReader) -> Result<(), WalDamage> {
    ///     let mut seams = LogSeams::default();
    ///     seams.add(&one.edges());
    ///     seams.add(&other.edges()).map_or(Ok(()), Err)
    /// }
    /// ```
    pub fn edges(&self) -> LogEdges {
        let unfinished = self.unfinished();
        let begun = self.state == State::Record;
        let leading = self.leading.map_or(0, |leading| leading.len);
        let whole = match self.state {
            State::Continuation { remaining } => self.is_leading(remaining),
            _ => self.leading_part.bytes() == leading,
        };
        LogEdges {
            start: Lsn::new(self.start),
            end: self.position(),
            system_identifier: self.system_identifier,
            continued_bytes: leading,
            continued: (leading > 0 && whole).then_some(self.leading_part),
            overwrites: self.begins_overwriting,
            previous_record: self.previous_record.filter(|lsn| lsn.is_valid()),
            last_record: if begun {
                Some(self.assembly.lsn)
            } else {
                self.prev
            },
            is_unfinished: unfinished.is_some(),
            missing_bytes: unfinished.and_then(|record| record.remaining),
            begun: begun.then(|| self.assembly.part()),
        }
    }

    /// Whether the bytes of which `remaining` are to come are those that the first segment began with.
    fn is_leading(&self, remaining: u64) -> bool {
        let come = self.leading_part.bytes();
        self.leading
            .is_some_and(|leading| leading.len == come.saturating_add(remaining))
    }

    /// Where the log ends within what was fed, and what stands there, if [`WalReader::may_end`] allows it to.
    ///
    /// [`WalDamage::good_until`] is the end. To be asked when everything is
    /// fed: a later page may prove that it was damage instead.
    pub const fn end_of_log(&self) -> Option<&WalDamage> {
        self.suspected_end.as_ref()
    }

    /// Takes one step: to the end of the page, of the record or of the input, whichever is first.
    fn step<'i>(&mut self, input: &mut &'i [u8]) -> Step<'i> {
        if self.state == State::Record && self.assembly.is_complete() {
            return self.finish_assembled();
        }
        if input.is_empty() {
            return Step::Starved;
        }
        let in_segment = self.position & (self.segment_size.bytes() - 1);
        if self.state == State::SegmentTail {
            if in_segment == 0 {
                self.state = State::Boundary;
            } else {
                self.skip(input, self.segment_size.bytes() - in_segment);
            }
            return Step::Moved;
        }
        let in_page = self.position & (self.block_size - 1);
        let header_len = self.page_header_len(self.position);
        if in_page < header_len {
            return self.collect_page_header(input, in_page, header_len);
        }
        let room = self.block_size - in_page;
        match self.state {
            State::Boundary => self.begin_record(input, room),
            State::Record => self.go_on_with_record(input, room),
            State::Continuation { remaining } => {
                let taken = self.take(input, room.min(remaining));
                if self.is_leading(remaining) {
                    self.leading_part.append(taken);
                }
                self.state = match remaining - taken.len() as u64 {
                    0 => State::Boundary,
                    remaining => State::Continuation { remaining },
                };
                Step::Moved
            }
            State::Start | State::Lost | State::SegmentTail => {
                self.skip(input, room);
                Step::Moved
            }
        }
    }

    /// Length of the header of the page that `position` lies on.
    const fn page_header_len(&self, position: u64) -> u64 {
        let in_segment = position & (self.segment_size.bytes() - 1);
        if in_segment < self.block_size {
            PageHeader::LONG_LEN as u64
        } else {
            PageHeader::SHORT_LEN as u64
        }
    }

    /// Takes up to `bytes` from the input; they are all that is left if they are fewer.
    fn take<'i>(&mut self, input: &mut &'i [u8], bytes: u64) -> &'i [u8] {
        let len = usize::try_from(bytes).map_or(input.len(), |bytes| bytes.min(input.len()));
        let (taken, rest) = input.split_at(len);
        *input = rest;
        // nothing is written at the very end of the address space: 16 EiB
        self.position = self.position.saturating_add(len as u64);
        taken
    }

    fn skip(&mut self, input: &mut &[u8], bytes: u64) -> u64 {
        self.take(input, bytes).len() as u64
    }
}

/// The records of one chunk, from [`WalReader::feed`].
#[derive(Debug)]
pub struct Records<'r, 'i> {
    reader: &'r mut WalReader,
    input: &'i [u8],
}

impl Records<'_, '_> {
    /// The next record that ends in this chunk; `None` when the chunk is used up.
    ///
    /// # Errors
    /// [`WalDamage`] for every place that is not what a server wrote. The next
    /// call goes on behind it.
    #[inline]
    pub fn next_record(&mut self) -> Option<Result<Record<'_>, WalDamage>> {
        match self.reader.proven_record(&mut self.input) {
            Some(record) => Some(Ok(record)),
            None => self.next_by_itself(),
        }
    }

    /// The next record, if it is one of those that were proven with their neighbours; `None` says nothing about it.
    #[inline]
    pub(crate) fn next_proven(&mut self) -> Option<Record<'_>> {
        self.reader.proven_record(&mut self.input)
    }

    /// Passes over records that are proven with their neighbours, but for those that `picks` wants: `each` sees them.
    ///
    /// `None` says nothing about the next record.
    #[inline]
    pub(crate) fn pass_proven(
        &mut self,
        picks: impl Fn(&RecordHeader, &[u8]) -> bool,
        each: impl FnMut(&Record<'_>),
    ) -> Option<Passed> {
        self.reader.pass_proven(&mut self.input, picks, each)
    }

    /// The next record, wherever it lies and whatever it means for the reader.
    #[inline(never)]
    pub(crate) fn next_by_itself(&mut self) -> Option<Result<Record<'_>, WalDamage>> {
        loop {
            match self.reader.step(&mut self.input) {
                Step::Moved => {}
                Step::Starved => return None,
                Step::Damage(damage) => return Some(Err(damage)),
                Step::InPlace(found, bytes) => return Some(Ok(found.record(bytes))),
                Step::Assembled(found) => {
                    return Some(Ok(found.record(self.reader.assembly.bytes())));
                }
            }
        }
    }
}

impl Drop for Records<'_, '_> {
    fn drop(&mut self) {
        while self.next_record().is_some() {}
    }
}
