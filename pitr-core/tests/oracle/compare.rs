//! Record by record.

use std::fmt;
use std::ops::AddAssign;
use std::path::Path;

use pitr_core::{Record, RecordContents, XactRecord};
use pitr_testbed::PostgresInstall;

use crate::segments::Segment;
use crate::waldump::{self, Line};

/// How much was compared.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Compared {
    pub(crate) segments: usize,
    pub(crate) records: usize,
    /// Ends of transactions, whose times were compared.
    pub(crate) ends: usize,
    images: usize,
    longest: u32,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.records += other.records;
        self.ends += other.ends;
        self.images += other.images;
        self.longest = self.longest.max(other.longest);
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} segments, {} records (longest {} bytes), {} page images, {} ends of transactions",
            self.segments, self.records, self.longest, self.images, self.ends
        )
    }
}

/// Panics at the first record that `pg_waldump` sees otherwise.
pub(crate) fn with_pg_waldump(
    install: &PostgresInstall,
    folder: &Path,
    run: &[Segment],
) -> Compared {
    let mut expected = waldump::lines(install, folder, run).into_iter();
    let mut compared = Compared {
        segments: run.len(),
        ..Compared::default()
    };
    // the last one may be in use
    let mut reader = run[0].reader().may_end();
    for segment in run {
        let mut records = reader.feed(&segment.bytes);
        while let Some(record) = records.next_record() {
            let record = record.unwrap_or_else(|damage| panic!("{}: {damage}", segment.name));
            let line = expected.next();
            let line = line.unwrap_or_else(|| panic!("{} is ours alone", record.lsn()));
            same(&record, &line, &mut compared);
        }
    }
    assert_eq!(expected.next(), None, "pg_waldump sees more");
    compared
}

fn same(record: &Record<'_>, line: &Line, compared: &mut Compared) {
    let header = record.header();
    let body = record.body().expect("a body");
    let image_bytes = u32::try_from(body.image_bytes()).expect("less than the record");
    let ours = (
        header.resource_manager.to_string(),
        header.total_len - image_bytes,
        header.total_len,
        header.xid,
        record.lsn(),
        header.prev,
    );
    let theirs = (
        line.resource_manager.clone(),
        line.len,
        line.total_len,
        line.xid,
        line.lsn,
        line.prev,
    );
    assert_eq!(ours, theirs, "{line:?}");
    let blocks = line.description.matches("blkref #").count();
    assert_eq!(body.blocks().count(), blocks, "{line:?}");

    let contents = record.contents().expect("contents");
    compared.records += 1;
    compared.longest = compared.longest.max(header.total_len);
    compared.images += body.blocks().filter(|block| block.image.is_some()).count();
    if let RecordContents::Transaction(xact) = &contents {
        if let Some(end) = xact.end() {
            let time = end.time.to_string().replace("+00", " UTC");
            assert!(line.description.contains(&time), "{time}: {line:?}");
            compared.ends += 1;
        }
        if let XactRecord::CommitPrepared(end) | XactRecord::AbortPrepared(end) = xact {
            let xid = format!("_PREPARED {}: ", end.xid);
            assert!(line.description.contains(&xid), "{line:?}");
        }
    }
    // up to 14 there was but one way to make a database
    let renamed = matches!(contents, RecordContents::Database(_)) && record.major().get() < 15;
    if !matches!(contents, RecordContents::Other { .. }) && !renamed {
        let ours = contents.to_string();
        let word = |text: &str| text.split([' ', ',']).next().map(str::to_owned);
        assert_eq!(word(&ours), word(&line.description), "{line:?}");
    }
}
