//! What a repository holds, for people.

use std::fmt::Write as _;

use chrono::SubsecRound as _;
use comfy_table::{CellAlignment, Table, presets};
use pitr_console::{ByteCount, PointInTime};

use pitr_core::TimelineId;

use super::report::{BackupReport, ClusterReport, Report, TimelineReport};
use super::window::WindowEnd;

/// Ranges, gaps and windows of a timeline, the newest of them, that are printed one by one.
const SHOWN: usize = 20;
/// Timelines, the newest of them, whose segments are printed.
const TIMELINES_SHOWN: usize = 20;
/// Backups, the newest of them, that are printed one by one.
const BACKUPS_SHOWN: usize = 40;

pub(super) fn render(report: &Report) -> String {
    let mut out = format!(
        "repository {} (format {})\n",
        report.repository, report.format
    );
    for warning in &report.warnings {
        let _ = writeln!(out, "WARNING: {warning}");
    }
    if let Some(encryption) = &report.encryption {
        let _ = writeln!(out, "{}", encryption.text());
    }
    if !report.readable {
        out.push_str(
            "no identity was named: names and sizes are all that can be shown (--identity FILE)\n",
        );
    }
    if report.clusters.is_empty() {
        out.push_str("\nno cluster has archived or backed up anything yet\n");
    }
    for cluster in &report.clusters {
        render_cluster(&mut out, cluster);
    }
    out
}

fn render_cluster(out: &mut String, cluster: &ClusterReport) {
    // writing to a String cannot fail
    let _ = writeln!(
        out,
        "\ncluster {} (PostgreSQL {}, segments of {})",
        cluster.system_identifier,
        cluster.postgres_major,
        ByteCount(cluster.wal_segment_size.bytes())
    );
    out.push_str("\nbackups\n");
    if !cluster.sealed_backups.is_empty() {
        let mut table = table(&["label", "stored", "the rest"]);
        for backup in &cluster.sealed_backups {
            table.add_row([
                backup.label.to_string(),
                ByteCount(backup.stored_bytes).to_string(),
                "needs an identity".to_owned(),
            ]);
        }
        push_table(out, &table);
    } else if cluster.backups.is_empty() {
        out.push_str("  none: take one with \"pitr-archive backup\"\n");
    } else {
        let mut table = table(&[
            "label",
            "finished",
            "timeline",
            "start",
            "stop",
            "size",
            "stored",
            "WAL until",
        ]);
        let older = cluster.backups.len().saturating_sub(BACKUPS_SHOWN);
        if older > 0 {
            let _ = writeln!(out, "  {older} older ones: --json shows all");
        }
        for backup in cluster.backups.iter().skip(older) {
            table.add_row([
                backup.label.to_string(),
                PointInTime::local(backup.stop_time.trunc_subsecs(0)).to_string(),
                backup.timeline.to_string(),
                backup.start_lsn.to_string(),
                backup.stop_lsn.to_string(),
                ByteCount(backup.raw_bytes).to_string(),
                ByteCount(backup.stored_bytes).to_string(),
                reaches(backup),
            ]);
        }
        push_table(out, &table);
    }
    for damaged in &cluster.damaged_backups {
        let _ = writeln!(out, "  {} cannot be used: {}", damaged.label, damaged.error);
    }
    out.push_str("\nWAL\n");
    if cluster.timelines.is_empty() {
        out.push_str("  none\n");
        return;
    }
    let older = cluster.timelines.len().saturating_sub(TIMELINES_SHOWN);
    if older > 0 {
        let _ = writeln!(out, "  {older} older timelines: --json shows all");
    }
    for timeline in cluster.timelines.iter().skip(older) {
        render_timeline(out, timeline);
    }
    if !cluster.sealed_backups.is_empty() {
        return;
    }
    out.push_str("\nrecoverable\n");
    render_tree(out, &cluster.timelines, None, 0);
}

/// `0/7000000`, and where it differs by timeline `0/7000000 on 1, 0/9000000 on 2`.
fn reaches(backup: &BackupReport) -> String {
    let own = match backup.wal_until {
        Some(lsn)
            if backup.brings_wal && backup.reaches.iter().all(|reach| reach.until_lsn == lsn) =>
        {
            return format!("{lsn} (its own)");
        }
        Some(lsn) => lsn.to_string(),
        None => "WAL IS MISSING".to_owned(),
    };
    let elsewhere: Vec<String> = backup
        .reaches
        .iter()
        .rev()
        .filter(|reach| reach.timeline != backup.end_timeline)
        .take(3)
        .map(|reach| format!("{} on {}", reach.until_lsn, reach.timeline))
        .collect();
    if elsewhere.is_empty() {
        own
    } else {
        format!("{own} on {}, {}", backup.end_timeline, elsewhere.join(", "))
    }
}

/// The timelines below the one that they left, each with what can be recovered.
fn render_tree(
    out: &mut String,
    timelines: &[TimelineReport],
    parent: Option<TimelineId>,
    depth: usize,
) {
    let known = |id: TimelineId| timelines.iter().any(|other| other.timeline == id);
    let children = timelines.iter().filter(|timeline| {
        let left = timeline.branch.as_ref().map(|branch| branch.parent);
        // a parent of which nothing is there any more
        left.filter(|left| known(*left)) == parent
    });
    let may_show_all = timelines.len() <= TIMELINES_SHOWN;
    for timeline in children {
        let indent = "   ".repeat(depth.min(20));
        let mark = if depth == 0 { "" } else { "└─ " };
        let _ = write!(out, "  {indent}{mark}timeline {}", timeline.timeline);
        if let Some(branch) = &timeline.branch {
            let _ = write!(
                out,
                ", left {} at {}: {}",
                branch.parent,
                branch.switch_lsn,
                branch.reason.trim()
            );
        }
        out.push('\n');
        // of many timelines the tree, and what the newest offer
        let newer = timelines
            .iter()
            .filter(|other| other.timeline > timeline.timeline);
        if may_show_all || newer.count() < TIMELINES_SHOWN {
            render_windows(out, timeline, &format!("  {indent}   "));
        }
        // a timeline's parent is an older one, so that this ends
        if depth < timelines.len() {
            render_tree(out, timelines, Some(timeline.timeline), depth + 1);
        }
    }
}

fn render_windows(out: &mut String, timeline: &TimelineReport, indent: &str) {
    let recoverable = &timeline.recoverable;
    if recoverable.windows.is_empty() {
        let _ = writeln!(out, "{indent}nothing: no backup leads here");
    }
    let hidden = recoverable.windows.len().saturating_sub(SHOWN);
    if hidden > 0 {
        let _ = writeln!(out, "{indent}{hidden} older stretches: --json shows all");
    }
    for window in recoverable.windows.iter().skip(hidden) {
        let backups = match window.backups.as_slice() {
            [one] => format!("backup {one}"),
            [first, .., last] => {
                format!("{} backups, {first} to {last}", window.backups.len())
            }
            [] => String::new(),
        };
        let last = window
            .last_commit
            .as_ref()
            .and_then(|at| at.time.to_datetime());
        let last = last.map_or_else(String::new, |time| {
            format!(", last commit {}", PointInTime::local(time))
        });
        let _ = writeln!(
            out,
            "{indent}from {} ({}) to {}{last}; {backups}",
            PointInTime::local(window.from_time.trunc_subsecs(0)),
            window.from_lsn,
            window.until_lsn,
        );
        match &window.end {
            WindowEnd::EndOfLog => {}
            WindowEnd::Missing {
                first,
                last,
                segments,
            } => {
                let _ = writeln!(
                    out,
                    "{indent}GAP: {}, {first} to {last}; then nothing before the end of a later backup",
                    missing(*segments)
                );
            }
            WindowEnd::Damaged { segment, lsn } => {
                let _ = writeln!(
                    out,
                    "{indent}GAP: {segment} is damaged at {lsn}; then nothing before the end of a later backup"
                );
            }
        }
    }
    if recoverable.unusable_segments > 0 {
        let _ = writeln!(
            out,
            "{indent}{} to no backup",
            match recoverable.unusable_segments {
                1 => "1 segment belongs".to_owned(),
                segments => format!("{segments} segments belong"),
            }
        );
    }
    if !recoverable.windows.is_empty() && !recoverable.damage_looked_for {
        let _ = writeln!(
            out,
            "{indent}damage was not looked for in so many segments: --damaged does"
        );
    }
}

fn render_timeline(out: &mut String, timeline: &TimelineReport) {
    let _ = write!(out, "  timeline {}", timeline.timeline);
    if let Some(branch) = &timeline.branch {
        let _ = write!(
            out,
            ", from timeline {} at {}: {}",
            branch.parent,
            branch.switch_lsn,
            branch.reason.trim()
        );
    }
    let _ = writeln!(out, " ({} stored)", ByteCount(timeline.stored_bytes));
    if let Some(error) = &timeline.history_error {
        let _ = writeln!(out, "  ITS HISTORY IS DAMAGED: {error}");
    }
    let older = timeline.ranges.len().saturating_sub(SHOWN);
    if older > 0 {
        let segments: u64 = timeline.ranges.iter().take(older).map(|r| r.segments).sum();
        let _ = writeln!(
            out,
            "  {older} older ranges with {segments} segments, and the gaps between them: --json shows all"
        );
    }
    if !timeline.ranges.is_empty() {
        let mut table = table(&["first", "last", "from", "to", "segments", "stored"]);
        for range in timeline.ranges.iter().skip(older) {
            table.add_row([
                range.first.clone(),
                range.last.clone(),
                range.begin.to_string(),
                range.end.to_string(),
                range.segments.to_string(),
                ByteCount(range.stored_bytes).to_string(),
            ]);
        }
        push_table(out, &table);
    }
    // one between each of the ranges and the next
    for gap in timeline.gaps.iter().skip(older) {
        let _ = writeln!(
            out,
            "  GAP: {}, {} to {}",
            missing(gap.segments),
            gap.first,
            gap.last
        );
    }
    for partial in &timeline.partial {
        let _ = writeln!(out, "  {partial}");
    }
}

/// `1 segment is missing`, `2 segments are missing`.
fn missing(segments: u64) -> String {
    match segments {
        1 => "1 segment is missing".to_owned(),
        segments => format!("{segments} segments are missing"),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

fn push_table(out: &mut String, table: &Table) {
    for line in table.lines() {
        let _ = writeln!(out, "  {}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use chrono::{DateTime, TimeDelta, Utc};
    use pitr_core::{Lsn, PostgresMajor, SystemIdentifier, WalSegmentSize};
    use pitr_store::backup::{BackupSource, Label};

    use super::super::report::{BranchReport, GapReport, RangeReport};
    use super::super::window::{TimelineWindows, Window};

    fn lsn(number: u64) -> Lsn {
        Lsn::new(number << 24)
    }

    fn day(number: u64) -> DateTime<Utc> {
        let first: DateTime<Utc> = "2025-11-20T02:15:00Z".parse().unwrap();
        first + TimeDelta::days(i64::try_from(number).unwrap())
    }

    fn backup_of(number: u64) -> BackupReport {
        BackupReport {
            label: Label::new(day(number)).unwrap(),
            postgres_version: "15.18".to_owned(),
            timeline: TimelineId::FIRST,
            start_lsn: lsn(number),
            stop_lsn: lsn(number),
            start_time: day(number),
            stop_time: day(number),
            from: BackupSource::Primary,
            raw_bytes: 1,
            stored_bytes: 1,
            files: 1,
            tablespaces: 0,
            end_timeline: TimelineId::FIRST,
            wal_until: Some(lsn(number)),
            reaches: Vec::new(),
            brings_wal: false,
        }
    }

    /// A timeline whose log has as many gaps as told, each the end of a window.
    fn timeline_of(number: u32, gaps: u64) -> TimelineReport {
        let name = |prefix: &str, of: u64| format!("{prefix}-{number}-{of}");
        let window = |of: u64| Window {
            from_lsn: lsn(of),
            from_time: day(of),
            until_lsn: lsn(of + 1),
            last_commit: None,
            backups: vec![Label::new(day(of)).unwrap()],
            end: WindowEnd::EndOfLog,
        };
        TimelineReport {
            timeline: TimelineId::new(number).unwrap(),
            branch: (number > 1).then(|| BranchReport {
                parent: TimelineId::new(number - 1).unwrap(),
                switch_lsn: lsn(1),
                reason: "no recovery target specified".to_owned(),
            }),
            history_error: None,
            ranges: (0..=gaps)
                .map(|of| RangeReport {
                    first: name("first", of),
                    last: name("last", of),
                    begin: lsn(of),
                    end: lsn(of + 1),
                    segments: 1,
                    stored_bytes: 1,
                })
                .collect(),
            gaps: (0..gaps)
                .map(|of| GapReport {
                    first: name("lost", of),
                    last: name("lost", of),
                    segments: 1,
                })
                .collect(),
            partial: Vec::new(),
            stored_bytes: 1,
            recoverable: TimelineWindows {
                windows: (0..=gaps).map(window).collect(),
                ..TimelineWindows::default()
            },
        }
    }

    fn listed(timelines: Vec<TimelineReport>) -> String {
        let cluster = ClusterReport {
            system_identifier: SystemIdentifier::new(7),
            postgres_major: PostgresMajor::new(15).unwrap(),
            wal_segment_size: WalSegmentSize::DEFAULT,
            timelines,
            backups: (0..366).map(backup_of).collect(),
            sealed_backups: Vec::new(),
            damaged_backups: Vec::new(),
            files: std::collections::BTreeSet::new(),
        };
        render(&Report {
            repository: "/srv/pitr".to_owned(),
            format: 1,
            warnings: Vec::new(),
            encryption: None,
            readable: true,
            clusters: vec![cluster],
        })
    }

    #[test]
    fn a_year_on_one_timeline_fits_two_screens_and_its_end_is_on_them() {
        let text = listed(vec![timeline_of(1, 0)]);
        assert!(text.lines().count() < 65, "{text}");
        assert!(text.contains("326 older ones: --json shows all"));
        assert!(text.contains(&backup_of(365).label.to_string()));
        assert!(!text.contains(&backup_of(325).label.to_string()));
    }

    #[test]
    fn of_many_gaps_and_timelines_the_newest_are_shown() {
        let mut timelines: Vec<_> = (1..=60).map(|number| timeline_of(number, 0)).collect();
        timelines.push(timeline_of(61, 100));
        let text = listed(timelines);
        assert!(text.lines().count() < 320, "{}", text.lines().count());
        // its newest ranges with the gaps between them, and its newest windows
        for shown in [
            "first-61-100",
            "lost-61-99",
            "lost-61-81",
            "81 older ranges",
        ] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        for hidden in ["first-61-80", "lost-61-80", "first-40-0"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        // the tree shows where each of them comes from
        assert!(text.contains("41 older timelines: --json shows all"));
        assert!(text.contains("timeline 2, left 1 at"));
    }
}
