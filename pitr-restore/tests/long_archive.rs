//! A plan in a long archive touches few objects. `PITR_TEST_LONG_ARCHIVE` says
//! how many segments it has.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what a test is for"
)]

use pitr_core::crc32c;
mod original;

use std::fs;
use std::path::Path;
use std::time::Instant;

use original::{Original, refused, run, said, succeeded};
use pitr_core::{
    DamageSeen, Moment, SegmentName, SegmentNumber, SegmentSummaryBuilder, TimelineId, Timestamp,
    WalSegmentSize,
};
use pitr_testbed::{StopMode, chown_to_server_user};

/// Segments between the backup and the log that follows it.
fn length() -> u64 {
    std::env::var("PITR_TEST_LONG_ARCHIVE").map_or(3_000, |count| count.parse().unwrap())
}

/// An object with nothing but a summary: a commit every so often.
fn object(name: SegmentName, size: WalSegmentSize, time: Timestamp, is_damaged: bool) -> Vec<u8> {
    let mut summary = SegmentSummaryBuilder::new(name, size).unwrap().finish();
    let number = name.number(size).unwrap();
    let moment = Moment {
        time,
        lsn: number.start(size).checked_add(40).unwrap(),
    };
    summary.commits = 1;
    summary.first_record = Some(moment.lsn);
    summary.latest_commit = Some(moment);
    summary.latest_end = Some(moment);
    summary.damage = Vec::new();
    if is_damaged {
        let what = "made for the test".to_owned();
        let (lsn, record) = (moment.lsn, None);
        summary.damage.push(DamageSeen { lsn, record, what });
    }
    let json = serde_json::to_vec(&summary).unwrap();
    // a frame without content, then the one that docs/store-format.md describes
    let mut bytes = vec![0x28, 0xB5, 0x2F, 0xFD, 0x20, 0, 1, 0, 0];
    let length = u32::try_from(json.len()).unwrap();
    bytes.extend(0x184D_2A59_u32.to_le_bytes());
    bytes.extend((length + 16).to_le_bytes());
    bytes.extend(&json);
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc32c::crc32c(&json).to_le_bytes());
    bytes.extend(b"pitrsum1");
    bytes
}

#[test]
fn a_plan_in_a_long_archive_touches_few_objects() {
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let mut original = Original::start();
    original.backup();
    let last = original.archive_all();
    let first_made = last
        .parse::<SegmentName>()
        .unwrap()
        .number(size)
        .unwrap()
        .next();
    let time = original.cluster.sql("SELECT clock_timestamp()");
    let time = time.replace("+00:00", "+00");
    let time: Timestamp = format!("{:0<26}+00", time.trim_end_matches("+00"))
        .parse()
        .unwrap();

    // the server goes on with a log that is far ahead
    original.cluster.stop(StopMode::Fast).unwrap();
    let goes_on = SegmentNumber::new(first_made.get() + length());
    let name = |number| SegmentName::new(TimelineId::FIRST, number, size);
    let mut reset = original.cluster.install().command("pg_resetwal").unwrap();
    reset
        .args(["-l", &name(goes_on).to_string(), "-D"])
        .arg(original.cluster.data_dir());
    succeeded(&run(reset));
    original.cluster.start().unwrap();
    // reading begins a segment before the stop, which must be a real one
    original.insert("x");
    original.archive_all();
    let wanted = original.insert("a");
    original.insert("b");
    original.archive_all();
    let made: Vec<SegmentNumber> = (first_made.get()..goes_on.get())
        .map(SegmentNumber::new)
        .collect();
    for (place, number) in made.iter().enumerate() {
        let time = Timestamp::new(time.micros() + i64::try_from(place).unwrap());
        let path = original.object(&name(*number).to_string());
        let folder = path.parent().unwrap();
        if !folder.exists() {
            fs::create_dir_all(folder).unwrap();
            give(folder);
        }
        fs::write(&path, object(name(*number), size, time, false)).unwrap();
        give(&path);
    }

    let to = original.place("unused");
    let begun = Instant::now();
    let output = original.restore(&to, &["--target-time", &wanted, "--dry-run", "--json"]);
    let took = begun.elapsed();
    succeeded(&output);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!(
        "{} segments planned in {took:?}, looked at {}",
        plan["wal"]["segments"], plan["looked_at"]
    );
    assert!(
        plan["wal"]["segments"].as_u64().unwrap() >= length(),
        "{}",
        said(&output)
    );
    assert_eq!(plan["stop"]["kind"], "commit");
    let looked_at = &plan["looked_at"];
    let touched =
        looked_at["summaries"].as_u64().unwrap() + looked_at["segments"].as_u64().unwrap();
    assert!(touched < 100, "{looked_at}");
    // the way itself is looked at besides, up to a bound
    let passed = looked_at["passed"].as_u64().unwrap();
    let all = plan["wal"]["segments"].as_u64().unwrap();
    assert_eq!(passed, if all <= 4096 { all } else { 0 }, "{looked_at}");
    assert_eq!(plan["damage_looked_for"], all <= 4096);

    // what is damaged far from the stop is found before anything is copied
    let middle = made[made.len() / 3];
    let path = original.object(&name(middle).to_string());
    fs::write(&path, object(name(middle), size, time, true)).unwrap();
    give(&path);
    let output = original.restore(&to, &["--target-time", &wanted, "--dry-run"]);
    if all <= 4096 {
        refused(&output, &to, "made for the test");
        assert!(said(&output).contains(&name(middle).to_string()));
    } else {
        succeeded(&output);
        assert!(
            said(&output).contains("the restore looks at all"),
            "{}",
            said(&output)
        );
    }
}

fn give(path: &Path) {
    chown_to_server_user(path).unwrap();
}
