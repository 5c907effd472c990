//! Follows the log in order and tells what happened.

use std::collections::{BTreeMap, HashSet, VecDeque};

use crate::catalog::databases::{CatalogFiles, Databases, Own, Which};
use crate::catalog::row;
use crate::catalog::table::Touched;
use crate::finding::activity::{Activity, ByXid, RowCount};
use crate::finding::catalog_change::{self, CatalogChange, Marks, SYSTEM_SCHEMAS, catalog_change};
use crate::finding::digest::{Digest, EndNote, Note};
use crate::finding::event::{Finding, FoundEvent, TableRows, TransactionFound};
use crate::finding::object::{FoundObject, ObjectKind, Sureness};
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::timestamp::Timestamp;
use crate::wal::record::body::RecordBody;
use crate::wal::record::contents::RecordContents;
use crate::wal::record::relation_file::RelationFile;
use crate::wal::record::row_change::RowChangeKind;
use crate::wal::rmgr::database::DatabaseRecord;
use crate::wal::rmgr::standby::StandbyRecord;
use crate::wal::rmgr::storage::StorageRecord;
use crate::wal::rmgr::xact::{TransactionEnd, XactRecord};
use crate::wal::rmgr::xlog::XlogRecord;

/// Seconds that are remembered, to tell how long a transaction ran: a day's.
const MAX_CLOCK: usize = 86_400;

/// From what on something is a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    /// Rows of one table that a transaction deleted or updated.
    pub min_rows: u64,
    /// How long a transaction ran, in microseconds.
    pub long_micros: i64,
    /// Bytes of a transaction's records.
    pub large_bytes: u64,
    /// Whether drops and truncates are all that is asked for.
    pub drops_only: bool,
    /// A transaction of which everything is asked for.
    pub xid: Option<u32>,
}

/// What is open of a transaction.
#[derive(Debug, Default)]
struct Open {
    touched: Vec<(u32, Which, Touched)>,
    created: Vec<RelationFile>,
    dropped_databases: Vec<u32>,
}

/// Follows digests of consecutive stretches and tells what happened in them.
#[derive(Debug)]
pub struct Follower<'f> {
    databases: Databases<'f>,
    thresholds: Thresholds,
    open: ByXid<Open>,
    activity: ByXid<Activity>,
    filled: HashSet<RelationFile>,
    /// Rows of `pg_database` that were marked as being dropped.
    marks: Marks,
    latest_commit: Option<Timestamp>,
    /// Commits at least a second apart.
    clock: VecDeque<(Lsn, Timestamp)>,
    quiet_micros: i64,
    findings: Vec<Finding>,
    /// Files that catalogs have moved to.
    moved: HashSet<u32>,
}

impl<'f> Follower<'f> {
    /// Begins where the log of `files`, a base backup's, begins.
    #[must_use]
    pub fn new(
        files: Box<dyn CatalogFiles + 'f>,
        major: PostgresMajor,
        thresholds: Thresholds,
        quiet_micros: i64,
    ) -> Self {
        Self {
            databases: Databases::new(files, major),
            thresholds,
            open: ByXid::default(),
            activity: ByXid::default(),
            filled: HashSet::new(),
            marks: BTreeMap::new(),
            latest_commit: None,
            clock: VecDeque::new(),
            quiet_micros,
            findings: Vec::new(),
            moved: HashSet::new(),
        }
    }

    /// Whether a transaction that changes catalogs has not ended yet.
    #[must_use]
    pub fn has_open_changes(&self) -> bool {
        self.open.values().any(|open| !open.touched.is_empty())
    }

    /// Files that catalogs have moved to: they must be among those of the interest.
    #[must_use]
    pub fn moved(&self) -> &HashSet<u32> {
        &self.moved
    }

    /// What was found since this was last asked for, in the order of the log.
    pub fn findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// A part of the log is missing here: what was open may have ended, and
    /// how long nothing was committed is not known.
    pub fn gap(&mut self) {
        self.open.clear();
        self.activity.clear();
        self.latest_commit = None;
    }

    /// The commits of the stretch that comes next are not told of one by one.
    pub fn skip(&mut self, latest_commit: Option<Timestamp>) {
        self.latest_commit = self.latest_commit.max(latest_commit);
    }

    /// Goes on with the stretch that `digest` is of.
    pub fn follow(&mut self, digest: &Digest) {
        self.filled.extend(digest.filled.iter().copied());
        self.clock.extend(digest.clock.iter().copied());
        while self.clock.len() > MAX_CLOCK {
            self.clock.pop_front();
        }
        self.note_quiet(digest);
        let mut ends = digest.ends.iter().peekable();
        for note in &digest.notes {
            while let Some(end) = ends.next_if(|end| end.lsn < note.lsn) {
                self.end(digest, end, None);
            }
            let Ok(body) = RecordBody::parse(&note.body, self.databases.major()) else {
                continue;
            };
            let major = self.databases.major();
            let Ok(contents) = RecordContents::parse(&note.header, &body, major) else {
                continue;
            };
            match &contents {
                RecordContents::Transaction(contents) => {
                    if let Some(end) = ends.next_if(|end| end.lsn == note.lsn) {
                        self.end(digest, end, Some(contents));
                    }
                }
                _ => self.note(note, &contents, &body),
            }
        }
        for end in ends {
            self.end(digest, end, None);
        }
        for (xid, activity) in &digest.open {
            self.activity.entry(*xid).or_default().absorb(activity);
        }
        self.latest_commit = self.latest_commit.max(digest.latest_commit);
    }

    fn note_quiet(&mut self, digest: &Digest) {
        if self.thresholds.drops_only {
            return;
        }
        let between = match (self.latest_commit, digest.first_commit) {
            (Some(since), Some((until, lsn)))
                if until.micros().saturating_sub(since.micros()) >= self.quiet_micros =>
            {
                Some((since, until, lsn))
            }
            _ => None,
        };
        for (since, until, lsn) in between.iter().chain(&digest.quiet) {
            self.findings.push(Finding {
                lsn: *lsn,
                safe_lsn: *lsn,
                time: Some(*until),
                xid: None,
                event: FoundEvent::Quiet { since: *since },
            });
        }
    }

    fn note(&mut self, note: &Note, contents: &RecordContents<'_>, body: &RecordBody<'_>) {
        let xid = note.header.xid;
        match contents {
            RecordContents::Xlog(XlogRecord::RestorePoint { .. }) if self.thresholds.drops_only => {
            }
            RecordContents::Xlog(XlogRecord::RestorePoint { time, name }) => {
                self.findings.push(Finding {
                    lsn: note.lsn,
                    safe_lsn: note.lsn,
                    time: Some(*time),
                    xid: None,
                    event: FoundEvent::RestorePoint {
                        name: String::from_utf8_lossy(name).into_owned(),
                    },
                });
            }
            RecordContents::Xlog(_) | RecordContents::Heap(_) | RecordContents::Heap2(_) => {
                let touched = self.databases.replay(contents, body, xid);
                self.mark(note.lsn, &touched);
                if xid != 0 && !touched.is_empty() {
                    self.open.entry(xid).or_default().touched.extend(touched);
                }
            }
            RecordContents::Relmap(update) => {
                let moved = update.mappings.iter();
                let naming = row::NAMING_CATALOGS;
                let moved = moved.filter(|map| naming.contains(&map.oid) && map.oid != map.file);
                self.moved.extend(moved.map(|map| map.file));
                self.databases.remap(update);
            }
            RecordContents::Database(DatabaseRecord::Drop { database, .. }) => {
                let open = self.open.entry(xid).or_default();
                open.dropped_databases.push(*database);
            }
            RecordContents::Database(create) => self.databases.create(create),
            RecordContents::Storage(StorageRecord::Create { relation, .. }) => {
                self.open.entry(xid).or_default().created.push(*relation);
            }
            RecordContents::Standby(StandbyRecord::RunningXacts(running)) => {
                // what ended without a word, in a crash
                let oldest = running.oldest_running_xid;
                let is_over = |xid: u32| {
                    let distance = oldest.wrapping_sub(xid);
                    distance != 0 && distance < u32::MAX / 2
                };
                self.open.retain(|xid, _| !is_over(*xid));
                self.activity.retain(|xid, _| !is_over(*xid));
            }
            _ => {}
        }
    }

    /// A row of `pg_database` that says that its database is being dropped.
    fn mark(&mut self, lsn: Lsn, touched: &[(u32, Which, Touched)]) {
        for (_, which, touch) in touched {
            let Touched::Overwritten(place) = touch else {
                continue;
            };
            let version = self.databases.version(0, *which, *place);
            if *which == Which::Database
                && let Some(version) = version
                && row::is_being_dropped(version.columns(), self.databases.major())
            {
                self.marks.insert(*place, lsn);
            }
        }
    }

    fn end(&mut self, digest: &Digest, end: &EndNote, contents: Option<&XactRecord<'_>>) {
        let listed = digest.subtransactions.get(end.subtransactions.clone());
        let listed = listed.unwrap_or(&[]);
        let xids = || std::iter::once(end.xid).chain(listed.iter().copied());
        let whole = self.activity_of(digest, end, xids());
        let mut open = Open::default();
        if !self.open.is_empty() {
            for xid in xids() {
                if let Some(of_one) = self.open.remove(&xid) {
                    open.touched.extend(of_one.touched);
                    open.created.extend(of_one.created);
                    open.dropped_databases.extend(of_one.dropped_databases);
                }
            }
        }
        let details = contents.and_then(XactRecord::end);
        let is_wanted = self
            .thresholds
            .xid
            .is_some_and(|xid| xids().any(|own| own == xid));
        let own = || Own::of(xids());
        if end.committed {
            let removes = details.is_some_and(|details| !details.dropped_files.is_empty());
            if !open.touched.is_empty() || removes || !open.dropped_databases.is_empty() {
                self.catalog_events(end, details, &open, &own());
            }
            if !self.thresholds.drops_only {
                self.row_events(end, &whole, &own());
                self.transaction_events(end, &whole);
            }
        }
        if is_wanted && !self.thresholds.drops_only {
            self.whole_transaction(end, &whole, &own());
        }
        if !open.touched.is_empty() {
            for xid in xids() {
                self.databases.end(xid, end.committed);
            }
        }
    }

    /// What a transaction has written, in this stretch and before it.
    fn activity_of(
        &mut self,
        digest: &Digest,
        end: &EndNote,
        xids: impl Iterator<Item = u32>,
    ) -> Activity {
        let mut whole = Activity {
            first_lsn: end.first_lsn,
            bytes: end.bytes,
            rows: digest
                .rows
                .get(end.rows.clone())
                .map(<[RowCount]>::to_vec)
                .unwrap_or_default(),
        };
        if !self.activity.is_empty() {
            for xid in xids {
                if let Some(before) = self.activity.remove(&xid) {
                    whole.absorb(&before);
                }
            }
        }
        whole
    }

    fn catalog_events(
        &mut self,
        end: &EndNote,
        details: Option<&TransactionEnd<'_>>,
        open: &Open,
        own: &Own,
    ) {
        let mut change = catalog_change(&mut self.databases, &open.touched, own);
        for (database, file) in std::mem::take(&mut change.moved_namespaces) {
            self.moved.insert(file);
            let tablespaces = open
                .created
                .iter()
                .filter(|created| created.relation == file);
            let tablespace = tablespaces.map(|created| created.tablespace).next();
            self.databases
                .relocate(database, Which::Namespace, tablespace.unwrap_or(1663), file);
        }
        self.name_the_rest(details, open, own, &mut change);
        for dropped in &change.dropped_databases {
            let mark = self.marks.remove(&dropped.place);
            let event = FoundEvent::DropDatabase {
                database: dropped.object.clone(),
            };
            self.push(end, mark.unwrap_or(end.lsn), event);
        }
        if !change.dropped.is_empty() {
            let objects = std::mem::take(&mut change.dropped);
            self.push(end, end.lsn, FoundEvent::Drop { objects });
        }
        if !change.truncated.is_empty() {
            let objects = std::mem::take(&mut change.truncated);
            self.push(end, end.lsn, FoundEvent::Truncate { objects });
        }
        if !change.rewritten.is_empty() && !self.thresholds.drops_only {
            let objects = std::mem::take(&mut change.rewritten);
            self.push(end, end.lsn, FoundEvent::Rewrite { objects });
        }
    }

    /// Files removed and databases dropped that no row of a catalog explains:
    /// the numbers alone are known.
    fn name_the_rest(
        &mut self,
        details: Option<&TransactionEnd<'_>>,
        open: &Open,
        own: &Own,
        change: &mut CatalogChange,
    ) {
        for oid in &open.dropped_databases {
            let is_known =
                |dropped: &catalog_change::DroppedDatabase| dropped.object.oid == Some(*oid);
            if !change.dropped_databases.iter().any(is_known) {
                let name = self.databases.database_name(*oid, own);
                let object = catalog_change::database_object(*oid, name, Sureness::Log);
                change
                    .dropped_databases
                    .push(catalog_change::DroppedDatabase {
                        object,
                        place: (u32::MAX, 0),
                    });
            }
        }
        let Some(details) = details else { return };
        let is_explained = |file: &RelationFile| {
            change
                .explained
                .iter()
                .any(|known| (known.database, known.relation) == (file.database, file.relation))
                || open.created.contains(file)
        };
        let rest: Vec<RelationFile> = details
            .dropped_files
            .iter()
            .filter(|file| !is_explained(file))
            .filter(|file| file.relation >= catalog_change::FIRST_NORMAL_OID)
            .filter(|file| !self.databases.is_mapped(*file))
            .collect();
        if rest.is_empty() {
            return;
        }
        let mut objects: Vec<FoundObject> = Vec::new();
        for file in rest {
            let row = self.databases.relation_of(file, own);
            let Some(row) = row else {
                objects.push(catalog_change::file_object(&mut self.databases, file, own));
                continue;
            };
            let is_ours = !SYSTEM_SCHEMAS.contains(&row.namespace)
                && row.persistence != b't'
                && row.oid >= catalog_change::FIRST_NORMAL_OID;
            let kind = ObjectKind::of(row.kind);
            if is_ours && kind != ObjectKind::Toast && kind != ObjectKind::Sequence {
                let database = file.database;
                let object =
                    catalog_change::relation_object(&mut self.databases, database, row, own);
                objects.push(FoundObject {
                    sureness: object.sureness.min(Sureness::Log),
                    ..object
                });
            }
        }
        if objects.is_empty() {
            return;
        }
        // new files: the relations go on to live, empty or written anew
        let list = if open.created.is_empty() {
            &mut change.dropped
        } else if open.created.iter().any(|file| self.filled.contains(file)) {
            &mut change.rewritten
        } else {
            &mut change.truncated
        };
        list.extend(objects);
    }

    fn row_events(&mut self, end: &EndNote, whole: &Activity, own: &Own) {
        let many = |count: &&RowCount| {
            count.kind != RowChangeKind::Insert && count.rows >= self.thresholds.min_rows
        };
        let counts: Vec<RowCount> = whole.rows.iter().filter(many).copied().collect();
        for count in counts {
            let Some(table) = self.table(count.relation, own) else {
                continue;
            };
            let rows = count.rows;
            let event = match count.kind {
                RowChangeKind::Delete => FoundEvent::Delete { table, rows },
                _ => FoundEvent::Update { table, rows },
            };
            self.push(end, end.lsn, event);
        }
    }

    fn transaction_events(&mut self, end: &EndNote, whole: &Activity) {
        let first_lsn = whole.first_lsn;
        // the first commit after its first record: it ran for longer than since then
        let after = self.clock.partition_point(|(lsn, _)| *lsn < first_lsn);
        if let Some((lsn, since)) = self.clock.get(after).copied()
            && lsn < end.lsn
            && end.time.micros().saturating_sub(since.micros()) >= self.thresholds.long_micros
        {
            self.push(
                end,
                end.lsn,
                FoundEvent::LongTransaction { since, first_lsn },
            );
        }
        if whole.bytes >= self.thresholds.large_bytes {
            let bytes = whole.bytes;
            self.push(
                end,
                end.lsn,
                FoundEvent::LargeTransaction { bytes, first_lsn },
            );
        }
    }

    fn whole_transaction(&mut self, end: &EndNote, whole: &Activity, own: &Own) {
        let mut tables: Vec<TableRows> = Vec::new();
        let mut files: Vec<RelationFile> = Vec::new();
        for count in &whole.rows {
            if !files.contains(&count.relation) {
                files.push(count.relation);
            }
        }
        for file in files {
            let Some(table) = self.table(file, own) else {
                continue;
            };
            let of = |kind| {
                let same = |count: &&RowCount| count.relation == file && count.kind == kind;
                whole.rows.iter().filter(same).map(|count| count.rows).sum()
            };
            tables.push(TableRows {
                table,
                inserted: of(RowChangeKind::Insert),
                updated: of(RowChangeKind::Update),
                deleted: of(RowChangeKind::Delete),
            });
        }
        let found = TransactionFound {
            committed: end.committed,
            first_lsn: whole.first_lsn,
            bytes: whole.bytes,
            tables,
        };
        self.push(end, end.lsn, FoundEvent::Transaction(found));
    }

    /// The table that lies in a file; `None` for the server's own.
    fn table(&mut self, file: RelationFile, own: &Own) -> Option<FoundObject> {
        if file.relation < catalog_change::FIRST_NORMAL_OID || file.database == 0 {
            return None;
        }
        let Some(row) = self.databases.relation_of(file, own) else {
            return Some(catalog_change::file_object(&mut self.databases, file, own));
        };
        if SYSTEM_SCHEMAS.contains(&row.namespace) {
            return None;
        }
        let database = file.database;
        Some(catalog_change::relation_object(
            &mut self.databases,
            database,
            row,
            own,
        ))
    }

    fn push(&mut self, end: &EndNote, safe_lsn: Lsn, event: FoundEvent) {
        self.findings.push(Finding {
            lsn: end.lsn,
            safe_lsn,
            time: Some(end.time),
            xid: Some(end.xid),
            event,
        });
    }
}
