//! Records on the way.

use crate::crc32c;
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timeline::id::TimelineId;
use crate::wal::reader::damage::{WalDamage, WalDamageKind};
use crate::wal::reader::{ALIGNMENT, Found, State, Step, WalReader};
use crate::wal::record::body::RecordBody;
use crate::wal::record::header::{RecordHeader, RecordHeaderError};
use crate::wal::record::resource_manager::ResourceManager;
use crate::wal::rmgr::xlog;
use crate::wal::segment_number::SegmentNumber;

/// Bytes that are held of a record whose beginning is enough: more than its first block reference takes.
const BEGINNING: usize = 256;

impl WalReader {
    /// At a record's beginning, or the padding before it.
    pub(super) fn begin_record<'i>(&mut self, input: &mut &'i [u8], room: u64) -> Step<'i> {
        let padding = self.position.wrapping_neg() & (ALIGNMENT - 1);
        if padding > 0 {
            self.skip(input, padding);
            return Step::Moved;
        }
        let lsn = self.position();
        let len = usize::try_from(room).map_or(input.len(), |room| room.min(input.len()));
        let here = input.get(..len).unwrap_or(input);
        let total_len = here.first_chunk::<4>().map(|len| u32::from_le_bytes(*len));
        let whole = match total_len {
            Some(total_len) if total_len as usize >= RecordHeader::LEN => {
                here.get(..total_len as usize)
            }
            _ => None,
        };
        let Some(bytes) = whole else {
            self.assembly.begin(lsn, self.page_timeline);
            self.state = State::Record;
            return Step::Moved;
        };
        let header = match self.checked_header(lsn, bytes) {
            Ok(header) => header,
            Err(kind) => return self.lose(lsn, Some(lsn), kind),
        };
        let (head, body) = bytes.split_at(RecordHeader::LEN);
        let covered = head.get(..RecordHeader::CRC_COVERS).unwrap_or(head);
        let body_crc = crc32c::crc32c(body);
        let computed = crc32c::crc32c_append(body_crc, covered);
        let begins = timeline_begun(&header, bytes, computed, self.major);
        if let Some(damage) = self.not_announced(&header, begins) {
            // the record itself comes with the next step
            return Step::Damage(damage);
        }
        self.take(input, u64::from(header.total_len));
        let body_begins = lsn.get().saturating_add(head.len() as u64);
        self.note_stretch(body_begins, body, 0, body_crc);
        match self.finish(lsn, self.page_timeline, header, computed, begins) {
            Ok(found) => Step::InPlace(found, bytes),
            Err(step) => step,
        }
    }

    /// Within a record that lies on several pages or came in several chunks.
    pub(super) fn go_on_with_record<'i>(&mut self, input: &mut &'i [u8], room: u64) -> Step<'i> {
        let taken = self.take(input, room.min(self.assembly.wanted(input)));
        if self.assembly.header.is_some() {
            self.append_body(taken);
            return Step::Moved;
        }
        self.assembly.append(taken);
        let lsn = self.assembly.lsn;
        let bytes = self.assembly.bytes();
        let checked = match self.assembly.total_len() {
            Some(found) if (found as usize) < RecordHeader::LEN => {
                Err(RecordHeaderError::Length { found }.into())
            }
            _ if bytes.len() < RecordHeader::LEN => return Step::Moved,
            _ => self.checked_header(lsn, bytes),
        };
        match checked {
            Ok(header) => {
                self.assembly.header = Some(header);
                if header.resource_manager == ResourceManager::TRANSACTION {
                    self.assembly.hold_as_end();
                }
                if let Some(beginning_only) = self.beginning_only
                    && beginning_only(&header)
                {
                    self.assembly.hold_of_this(BEGINNING);
                }
                // it points back to the record before: that was as long as it said
                self.unsure = false;
                let room = room.saturating_sub(taken.len() as u64);
                let taken = self.take(input, room.min(self.assembly.wanted(input)));
                self.append_body(taken);
                Step::Moved
            }
            Err(kind) => self.lose(lsn, Some(lsn), kind),
        }
    }

    /// Adds to the body of the record that is being put together the bytes that were taken last.
    fn append_body(&mut self, taken: &[u8]) {
        let position = self.position.saturating_sub(taken.len() as u64);
        let before = self.assembly.body_crc();
        self.assembly.append(taken);
        self.note_stretch(position, taken, before, self.assembly.body_crc());
    }

    pub(super) fn finish_assembled<'i>(&mut self) -> Step<'i> {
        let Some(header) = self.assembly.header else {
            self.state = State::Lost;
            return Step::Moved;
        };
        let computed = self.assembly.crc();
        let begins = timeline_begun(&header, self.assembly.bytes(), computed, self.major);
        if let Some(damage) = self.not_announced(&header, begins) {
            return Step::Damage(damage);
        }
        let (lsn, timeline) = (self.assembly.lsn, self.assembly.timeline);
        match self.finish(lsn, timeline, header, computed, begins) {
            Ok(found) => Step::Assembled(found),
            Err(step) => step,
        }
    }

    /// The header of the record at `lsn`, once it has passed the checks that do not need the rest of it.
    ///
    /// Source: `ValidXLogRecordHeader`, src/backend/access/transam/xlogreader.c.
    fn checked_header(&self, lsn: Lsn, bytes: &[u8]) -> Result<RecordHeader, WalDamageKind> {
        let header = RecordHeader::parse(bytes)?;
        let major = self.major.map_or(0, PostgresMajor::get);
        // up to 15 a record could be as long as memory allowed
        if major >= 16 && header.total_len > RecordHeader::MAX_TOTAL_LEN {
            return Err(WalDamageKind::RecordTooLong {
                found: header.total_len,
            });
        }
        let manager = header.resource_manager;
        if self.major.is_some_and(|major| !manager.exists_in(major)) {
            return Err(RecordHeaderError::ResourceManager {
                found: manager.get(),
            }
            .into());
        }
        let linked = match self.prev {
            Some(prev) => header.prev == prev,
            None => header.prev < lsn,
        };
        if !linked {
            return Err(WalDamageKind::PrevLink {
                expected: self.prev,
                found: header.prev,
            });
        }
        if self.overwrites && !xlog::is_overwrite_contrecord(&header) {
            return Err(WalDamageKind::OverwriteMissing);
        }
        Ok(header)
    }

    /// The damage that this record reveals in the page before it: a new timeline that it does not begin.
    fn not_announced(
        &mut self,
        header: &RecordHeader,
        begins: Option<TimelineId>,
    ) -> Option<WalDamage> {
        let unannounced = self.unannounced.take()?;
        if begins == Some(self.page_timeline) {
            return None;
        }
        if xlog::is_full_page_writes_change(header) {
            // a server that is promoted may write this one first
            self.unannounced = Some(unannounced);
            return None;
        }
        self.known_timeline = self.page_timeline;
        Some(unannounced)
    }

    /// A record has come to its end.
    fn finish<'i>(
        &mut self,
        lsn: Lsn,
        timeline: TimelineId,
        header: RecordHeader,
        computed: u32,
        begins: Option<TimelineId>,
    ) -> Result<Found, Step<'i>> {
        let Some(major) = self.major else {
            // no record begins before a page has told the version; never look at this one again
            self.state = State::Lost;
            return Err(Step::Moved);
        };
        if computed != header.crc {
            let kind = WalDamageKind::Crc {
                expected: header.crc,
                computed,
            };
            if self.may_end {
                return Err(self.lose(lsn, Some(lsn), kind));
            }
            // the next record proves by its link whether this one's length can be trusted
            (self.state, self.prev, self.unsure) = (State::Boundary, Some(lsn), true);
            self.overwrites = false;
            return Err(Step::Damage(WalDamage {
                lsn,
                record: Some(lsn),
                kind,
            }));
        }
        self.previous_record.get_or_insert(header.prev);
        if let Some(leading) = &mut self.leading {
            leading.record.get_or_insert(header.prev);
        }
        if let Some(begins) = begins {
            self.known_timeline = self.known_timeline.max(begins);
        }
        (self.prev, self.unsure, self.overwrites) = (Some(lsn), false, false);
        let aligned = self.position.saturating_add(ALIGNMENT - 1) & !(ALIGNMENT - 1);
        let next = if xlog::is_switch(&header) {
            self.state = State::SegmentTail;
            SegmentNumber::last_before(Lsn::new(aligned), self.segment_size).end(self.segment_size)
        } else {
            self.state = State::Boundary;
            Lsn::new(aligned)
        };
        Ok(Found {
            lsn,
            next,
            major,
            timeline,
            header,
        })
    }

    /// Damage after which no record can be read before another page is found.
    pub(super) fn lose<'i>(
        &mut self,
        lsn: Lsn,
        record: Option<Lsn>,
        kind: WalDamageKind,
    ) -> Step<'i> {
        let told = self.unsure || self.state == State::Lost;
        (self.state, self.prev, self.unsure) = (State::Lost, None, false);
        (self.overwrites, self.unannounced) = (false, None);
        let damage = WalDamage { lsn, record, kind };
        if told {
            Step::Moved
        } else if self.may_end {
            self.suspected_end = Some(damage);
            Step::Moved
        } else {
            Step::Damage(damage)
        }
    }
}

/// The timeline that this record begins, if it does and its CRC is right.
fn timeline_begun(
    header: &RecordHeader,
    bytes: &[u8],
    computed: u32,
    major: Option<PostgresMajor>,
) -> Option<TimelineId> {
    if xlog::may_begin_timeline(header) && computed == header.crc {
        let body = RecordBody::parse(bytes.get(RecordHeader::LEN..)?, major?).ok()?;
        xlog::timeline_begun(body.main_data())
    } else {
        None
    }
}
