//! One connection: the log of a timeline into the spool, synced and confirmed
//! as it comes.

use std::time::{Duration, Instant};

use pitr_core::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use pitr_postgres::{NextTimeline, QueryError, StreamEvent, Wait, WalStream};
use pitr_store::spool::Spool;

use super::ending::Ending;
use super::publisher::Publisher;
use super::segment::UnfinishedSegment;
use super::service::{Service, TICK};

/// How often the server is told how far we are, whatever happens.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Silence after which the server is asked for a sign of life.
const ASK_AFTER: Duration = Duration::from_secs(30);

/// Silence after which it counts as gone.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Written at most before it is synced, while more keeps coming.
const BURST_BYTES: u64 = 4 << 20;

/// How long a server may take to end the stream when it is asked to.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a stream came to its end without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streamed {
    /// All of the timeline is here.
    TimelineEnded(NextTimeline),
    /// We were told to stop.
    Stopped,
}

/// The receiving of one timeline.
pub(super) struct Session<'a> {
    pub(super) spool: &'a Spool,
    pub(super) publisher: &'a Publisher,
    pub(super) service: &'a Service,
    pub(super) size: WalSegmentSize,
    pub(super) timeline: TimelineId,
    segment: Option<UnfinishedSegment>,
    /// End of what was received.
    received: Lsn,
    /// End of what is durable here.
    flushed: Lsn,
}

impl<'a> Session<'a> {
    /// `start` is the beginning of a segment; everything before is safe.
    pub(super) fn new(
        spool: &'a Spool,
        publisher: &'a Publisher,
        service: &'a Service,
        size: WalSegmentSize,
        timeline: TimelineId,
        start: Lsn,
    ) -> Self {
        Self {
            spool,
            publisher,
            service,
            size,
            timeline,
            segment: None,
            received: start,
            flushed: start,
        }
    }

    /// Where another connection has to go on: the beginning of the segment that
    /// is unfinished.
    pub(super) fn resume_at(&self) -> Lsn {
        SegmentNumber::containing(self.flushed, self.size).start(self.size)
    }

    /// Receives until the timeline ends, or we are told to stop.
    pub(super) fn run(&mut self, mut stream: WalStream<'_>) -> Result<Streamed, Ending> {
        let mut heard = Instant::now();
        let mut told = Instant::now();
        let mut asked = false;
        stream.send_status(self.flushed, false)?;
        loop {
            if self.service.is_stopped() {
                self.sync()?;
                stream.send_status(self.flushed, false)?;
                // whatever it answers: what is confirmed is confirmed
                let _ = stream.stop(GOODBYE);
                return Ok(Streamed::Stopped);
            }
            self.service.alive();
            let unsynced = self.received.get().saturating_sub(self.flushed.get());
            // what has arrived meanwhile is synced together with what came first
            let event = match unsynced {
                0 => stream.next_event(Wait::AtMost(TICK))?,
                BURST_BYTES.. => None,
                _ => stream.next_event(Wait::No)?,
            };
            let mut must_tell = unsynced > 0 && event.is_none();
            if event.is_some() {
                heard = Instant::now();
                asked = false;
            }
            match event {
                Some(StreamEvent::Wal { start, bytes, .. }) => {
                    let before = self.flushed;
                    self.take(start, &bytes)?;
                    // a segment that is whole need not wait for the rest of the burst
                    must_tell |= self.flushed > before;
                }
                Some(StreamEvent::Keepalive {
                    reply_requested, ..
                }) => must_tell |= reply_requested,
                Some(StreamEvent::TimelineEnded(next)) => {
                    self.sync()?;
                    return Ok(Streamed::TimelineEnded(next));
                }
                None => {}
            }
            let silence = heard.elapsed();
            if silence >= GIVE_UP_AFTER {
                return Err(QueryError::Lost {
                    reason: format!("nothing came from it for {} s", silence.as_secs()),
                }
                .into());
            }
            let ask = silence >= ASK_AFTER && !asked;
            if must_tell || ask || told.elapsed() >= STATUS_INTERVAL {
                self.sync()?;
                stream.send_status(self.flushed, ask)?;
                asked |= ask;
                told = Instant::now();
            }
        }
    }

    /// Writes what came where it belongs; finished segments are durable then.
    fn take(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<(), Ending> {
        if start != self.received {
            return Err(QueryError::Protocol {
                command: "START_REPLICATION".to_owned(),
                problem: format!("the log goes on at {start}, expected {}", self.received),
            }
            .into());
        }
        while !bytes.is_empty() {
            let mut segment = match self.segment.take() {
                Some(segment) => segment,
                None => self.begin_segment()?,
            };
            let room = usize::try_from(segment.missing()).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            segment.write(self.spool, now)?;
            self.received = segment.end();
            bytes = later;
            if segment.missing() == 0 {
                segment.finish(self.spool)?;
                self.flushed = self.received;
                self.publisher.look();
            } else {
                self.segment = Some(segment);
            }
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<UnfinishedSegment, Ending> {
        let name = SegmentName::containing(self.timeline, self.received, self.size);
        let segment = UnfinishedSegment::open(self.spool, name, self.received, self.size)?;
        self.publisher.prepare_next();
        Ok(segment)
    }

    /// Makes what was received durable.
    fn sync(&mut self) -> Result<(), Ending> {
        if self.flushed < self.received
            && let Some(segment) = &self.segment
        {
            segment.sync(self.spool)?;
            self.flushed = self.received;
        }
        Ok(())
    }
}
