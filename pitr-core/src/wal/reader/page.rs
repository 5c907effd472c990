//! Page headers on the way.

use crate::lsn::Lsn;
use crate::wal::page_header::{LongHeader, PageHeader, PageHeaderError};
use crate::wal::reader::damage::{WalDamage, WalDamageKind};
use crate::wal::reader::{LeadingBytes, State, Step, WalReader};

impl WalReader {
    /// Takes what has come of the page header that begins `in_page` bytes before the input.
    pub(super) fn collect_page_header<'i>(
        &mut self,
        input: &mut &'i [u8],
        in_page: u64,
        header_len: u64,
    ) -> Step<'i> {
        let header_len = usize::try_from(header_len).unwrap_or(PageHeader::LONG_LEN);
        let page = Lsn::new(self.position - in_page);
        let have = usize::try_from(in_page).unwrap_or(header_len);
        let taken = self.take(input, (header_len - have.min(header_len)) as u64);
        if taken.len() == header_len {
            return self.enter_page(page, taken);
        }
        let Some(target) = self.page_header.get_mut(have..have + taken.len()) else {
            return Step::Moved;
        };
        target.copy_from_slice(taken);
        if have + taken.len() < header_len {
            return Step::Starved;
        }
        let header = self.page_header;
        self.enter_page(page, header.get(..header_len).unwrap_or(&header))
    }

    /// Checks a page's header, and that it goes on where the page before ended.
    ///
    /// Source: `XLogReaderValidatePageHeader`, `XLogReadRecord`, `XLogFindNextRecord`, src/backend/access/transam/xlogreader.c.
    fn enter_page<'i>(&mut self, page: Lsn, bytes: &[u8]) -> Step<'i> {
        let record = (self.state == State::Record).then_some(self.assembly.lsn);
        let header = match self.trusted_page_header(page, bytes) {
            Ok(header) => header,
            Err(kind) => return self.lose(page, record, kind),
        };
        let found_anew = matches!(self.state, State::Start | State::Lost);
        let oddity = header
            .long
            .as_ref()
            .and_then(|long| self.check_long_header(long));
        let oddity = self.check_timeline(page, &header, found_anew).or(oddity);
        let contradicts = header.first_is_overwrite_contrecord() && header.first_is_contrecord();
        let oddity =
            oddity.or(contradicts.then_some(WalDamageKind::PageFlags { info: header.info }));
        let broken = self.go_on_from(&header);
        // a page that belongs here follows what looked like the end: it was damage
        if let Some(damage) = self.suspected_end.take() {
            return Step::Damage(damage);
        }
        // an oddity alone costs no record
        let record = record.filter(|_| broken.is_some());
        match broken.or(oddity) {
            Some(kind) => Step::Damage(WalDamage {
                lsn: page,
                record,
                kind,
            }),
            None => Step::Moved,
        }
    }

    /// The header of the page at `page`, if it can be built on: it is one, and of this place.
    fn trusted_page_header(
        &mut self,
        page: Lsn,
        bytes: &[u8],
    ) -> Result<PageHeader, WalDamageKind> {
        let expected_long = bytes.len() == PageHeader::LONG_LEN;
        let header = PageHeader::parse(bytes).map_err(|error| match error {
            // a short header that claims to be a long one
            PageHeaderError::Truncated { .. } => WalDamageKind::HeaderKind { expected_long },
            error => WalDamageKind::Page(error),
        })?;
        if header.is_long() != expected_long {
            return Err(WalDamageKind::HeaderKind { expected_long });
        }
        if header.page_address != page {
            return Err(WalDamageKind::PageAddress {
                expected: page,
                found: header.page_address,
            });
        }
        match self.major {
            Some(expected) if expected != header.major => {
                // either may be the wrong one: the next page tells
                self.major = None;
                Err(WalDamageKind::Major {
                    expected,
                    found: header.major,
                })
            }
            _ => {
                self.major = Some(header.major);
                Ok(header)
            }
        }
    }

    fn check_long_header(&mut self, long: &LongHeader) -> Option<WalDamageKind> {
        let block_size = u64::from(long.block_size);
        if !self.block_size_known {
            self.block_size = block_size;
            self.block_size_known = true;
        }
        let found = long.system_identifier;
        let expected = self.system_identifier.replace(found).unwrap_or(found);
        if expected != found {
            return Some(WalDamageKind::SystemIdentifier { expected, found });
        }
        if self.segment_size != long.segment_size {
            return Some(WalDamageKind::SegmentSize {
                expected: self.segment_size.bytes(),
                found: long.segment_size.bytes(),
            });
        }
        (self.block_size != block_size).then_some(WalDamageKind::BlockSize {
            expected: self.block_size,
            found: block_size,
        })
    }

    fn check_timeline(
        &mut self,
        page: Lsn,
        header: &PageHeader,
        found_anew: bool,
    ) -> Option<WalDamageKind> {
        let (previous, found) = (self.page_timeline, header.timeline);
        self.page_timeline = found;
        if found_anew {
            self.known_timeline = found;
            return None;
        }
        if found < previous {
            self.known_timeline = found;
            self.unannounced = None;
            return Some(WalDamageKind::TimelineBack { previous, found });
        }
        if found > self.known_timeline && found > previous {
            self.unannounced = Some(WalDamage {
                lsn: page,
                record: None,
                kind: WalDamageKind::TimelineUnannounced { previous, found },
            });
        }
        None
    }

    /// Goes on with what the page before left, or from where this page says that a record begins.
    fn go_on_from(&mut self, header: &PageHeader) -> Option<WalDamageKind> {
        let found = header.remaining_len;
        let continues = header.first_is_contrecord();
        let missing = match self.state {
            State::Record => self.assembly.remaining(),
            State::Continuation { remaining } => Some(remaining),
            _ => None,
        };
        let first = self.state == State::Start;
        if header.first_is_overwrite_contrecord() && !continues {
            // the rest of the record was lost in a crash; a record that says so follows
            self.overwrites = true;
            let in_leading = matches!(self.state, State::Continuation { .. });
            let no_record_yet = self.previous_record.is_none();
            self.begins_overwriting |= first || in_leading && no_record_yet;
            self.state = State::Boundary;
            return None;
        }
        let kind = match missing {
            Some(expected) if continues && expected == u64::from(found) => return None,
            Some(expected) if continues => {
                Some(WalDamageKind::ContinuationLength { expected, found })
            }
            Some(remaining) => Some(WalDamageKind::ContinuationMissing { remaining }),
            None if self.state == State::Boundary && continues => {
                Some(WalDamageKind::ContinuationUnexpected { found })
            }
            None => None,
        };
        if kind.is_some() {
            self.prev = None;
        }
        if continues && found > 0 {
            self.state = State::Continuation {
                remaining: u64::from(found),
            };
        } else {
            self.state = State::Boundary;
        }
        if first && continues {
            self.leading = Some(LeadingBytes {
                len: u64::from(found),
                record: None,
            });
        }
        // where the record before was damaged in its length, this was to be expected
        let told = std::mem::take(&mut self.unsure);
        if told {
            self.prev = None;
        }
        kind.filter(|_| !told)
    }
}
