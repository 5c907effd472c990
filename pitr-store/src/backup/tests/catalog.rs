//! Which backups exist, which do not, and who may still be writing.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use super::*;

fn tar_of_a_small_cluster() -> Vec<u8> {
    tar_of_a_small_cluster_with(b"label\n")
}

fn tar_of_a_small_cluster_with(label: &[u8]) -> Vec<u8> {
    let data = TempDir::new().unwrap();
    write(data.path(), "backup_label", label);
    write(data.path(), "global/pg_control", &noise(8192, 4));
    real_tar(data.path(), &[], None)
}

fn commit_one(scratch: &Scratch, time: &str) -> BackupInfo {
    let mut writer = scratch.catalog.begin(at(time), small(4096, 1000)).unwrap();
    writer
        .add_tar(Archive::Base, tar_of_a_small_cluster().as_slice())
        .unwrap();
    writer.commit(details()).unwrap()
}

fn labels(listing: &Listing) -> Vec<String> {
    listing
        .backups
        .iter()
        .map(|info| info.label.to_string())
        .collect()
}

#[test]
fn backups_are_listed_oldest_first() {
    let scratch = Scratch::new();
    assert!(scratch.catalog.list().unwrap().backups.is_empty());
    for time in [
        "2026-11-21T00:00:00Z",
        "2025-01-01T00:00:00Z",
        "2026-11-20T07:45:02.9Z",
    ] {
        commit_one(&scratch, time);
    }
    let listing = scratch.catalog.list().unwrap();
    assert_eq!(
        labels(&listing),
        ["20250101T000000Z", "20261120T074502Z", "20261121T000000Z"]
    );
    assert!(listing.damaged.is_empty());
}

#[test]
fn a_taken_second_moves_the_label_to_the_next_free_one() {
    let scratch = Scratch::new();
    commit_one(&scratch, "2026-11-20T07:45:02Z");
    commit_one(&scratch, "2026-11-20T07:45:04Z");
    // one that is being written, with nothing in its folder yet
    let running = scratch.begin(small(4096, 1000));
    assert_eq!(running.label().to_string(), "20261120T074503Z");
    let next = scratch.begin(small(4096, 1000));
    assert_eq!(next.label().to_string(), "20261120T074505Z");
    drop(running);
    let again = scratch.begin(small(4096, 1000));
    assert_eq!(again.label().to_string(), "20261120T074503Z");
}

#[test]
fn writers_that_begin_at_once_get_different_labels() {
    let scratch = Scratch::new();
    let catalog = &scratch.catalog;
    let mut labels: Vec<Label> = std::thread::scope(|scope| {
        let begin = || {
            let tar = tar_of_a_small_cluster();
            let mut writer = catalog
                .begin(at("2026-11-20T07:45:02Z"), small(4096, 1000))
                .unwrap();
            writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
            writer.commit(details()).unwrap().label
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), 8);
    assert_eq!(scratch.catalog.list().unwrap().backups.len(), 8);
}

#[test]
fn a_backup_does_not_exist_before_its_document() {
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(4096, 1000));
    let label = writer.label();
    writer
        .add_tar(Archive::Base, tar_of_a_small_cluster().as_slice())
        .unwrap();
    writer.put_manifest(&b"{}"[..]).unwrap();
    assert!(!names(&scratch.backups().join(label.to_string())).is_empty());
    assert!(scratch.catalog.list().unwrap().backups.is_empty());
    assert!(scratch.catalog.get(label).unwrap().is_none());
    assert!(scratch.catalog.open(label).unwrap().is_none());
    writer.commit(details()).unwrap();
    assert!(scratch.catalog.open(label).unwrap().is_some());
}

#[test]
fn a_backup_that_lost_a_part_meanwhile_does_not_come_to_exist() {
    for lost in ["base-00002.tar.zst", "backup_manifest", ""] {
        let scratch = Scratch::new();
        let mut writer = scratch.begin(small(4096, 1000));
        let label = writer.label();
        writer
            .add_tar(Archive::Base, tar_of_a_small_cluster().as_slice())
            .unwrap();
        writer.put_manifest(b"{}".as_slice()).unwrap();
        writer.files().unwrap();
        let folder = scratch.backups().join(label.to_string());
        match lost {
            "" => fs::remove_dir_all(&folder).unwrap(),
            _ => fs::remove_file(folder.join(lost)).unwrap(),
        }
        let error = writer.commit(details()).unwrap_err();
        assert!(
            matches!(error, BackupWriteError::Changed { found: None, .. }),
            "{lost}: {error}"
        );
        assert!(scratch.catalog.get(label).unwrap().is_none());
    }
}

#[test]
fn of_two_that_could_not_see_each_others_hold_the_loser_takes_nothing_along() {
    let scratch = Scratch::new();
    let tar = tar_of_a_small_cluster();
    let mut first = scratch.begin(small(4096, 1000));
    // as on a network disk whose locks do not reach the other machine
    fs::remove_file(scratch.backups().join(format!(".{}.hold", first.label()))).unwrap();
    let mut second = scratch.begin(small(4096, 1000));
    assert_eq!(first.label(), second.label());
    first.add_tar(Archive::Base, tar.as_slice()).unwrap();
    first.files().unwrap();
    let other = tar_of_a_small_cluster_with(b"another label\n");
    let error = second.add_tar(Archive::Base, other.as_slice());
    let error = error.and_then(|()| second.files().map(|_| ())).unwrap_err();
    assert!(matches!(error, BackupWriteError::Foreign { .. }), "{error}");
    drop(second);
    let label = first.label();
    first.commit(details()).unwrap();
    let reader = scratch.catalog.open(label).unwrap().unwrap();
    for part in &reader.info().parts {
        reader.verify_part(&part.name).unwrap();
    }
}

#[test]
fn a_writer_that_gives_up_leaves_nothing() {
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(4096, 1000));
    writer
        .add_tar(Archive::Base, tar_of_a_small_cluster().as_slice())
        .unwrap();
    writer.abort().unwrap();
    assert_eq!(names(&scratch.backups()), [""; 0]);

    let mut writer = scratch.begin(small(4096, 1000));
    let mut archive = writer.archive(Archive::Base).unwrap();
    archive
        .append_tar(tar_of_a_small_cluster().as_slice())
        .unwrap();
    drop(writer);
    assert_eq!(names(&scratch.backups()), [""; 0]);
}

/// Runs `child_writes_and_waits` in a process of its own, until it has written
/// some parts.
fn start_child(folder: &Path) -> (Child, Label) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "backup::tests::catalog::child_writes_and_waits",
            "--ignored",
            "--nocapture",
        ])
        .env("PITR_TEST_FOLDER", folder)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let label = output.lines().find_map(|line| {
        let line = line.unwrap();
        line.split_once("label=")
            .map(|(_, label)| label.parse().unwrap())
    });
    (child, label.unwrap())
}

#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn child_writes_and_waits() {
    let Some(folder) = std::env::var_os("PITR_TEST_FOLDER") else {
        return;
    };
    let catalog = catalog_in(Path::new(&folder));
    let mut writer = catalog
        .begin(at("2026-11-20T07:45:02Z"), small(4096, 1000))
        .unwrap();
    let mut archive = writer.archive(Archive::Base).unwrap();
    archive
        .append_tar(tar_of_a_small_cluster().as_slice())
        .unwrap();
    println!("label={}", catalog.clean_abandoned().unwrap().running[0]);
    std::io::stdout().flush().unwrap();
    // until the parent is done
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_killed_backup_is_removed_and_a_living_one_left_alone() {
    let scratch = Scratch::new();
    let complete = commit_one(&scratch, "2026-11-20T07:45:00Z");
    let (mut child, label) = start_child(scratch.folder.path());
    // the first part is published in the background, the second stays open
    let first = scratch
        .backups()
        .join(format!("{label}/base-00001.tar.zst"));
    while !first.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child has ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let before = names(&scratch.backups().join(label.to_string()));

    let cleaned = scratch.catalog.clean_abandoned().unwrap();
    assert_eq!((cleaned.removed, cleaned.running), (vec![], vec![label]));
    assert_eq!(names(&scratch.backups().join(label.to_string())), before);

    // SIGKILL: nothing of the writer's own runs any more
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!names(&scratch.backups().join(label.to_string())).is_empty());
    assert_eq!(
        labels(&scratch.catalog.list().unwrap()),
        [complete.label.to_string()]
    );
    // what it reserved stays reserved until it is cleaned
    assert_ne!(
        scratch
            .catalog
            .begin(label.time(), small(4096, 1000))
            .unwrap()
            .label(),
        label
    );

    let cleaned = scratch.catalog.clean_abandoned().unwrap();
    assert_eq!((cleaned.removed, cleaned.running), (vec![label], vec![]));
    assert_eq!(names(&scratch.backups()), [complete.label.to_string()]);
    assert_eq!(
        scratch.catalog.clean_abandoned().unwrap(),
        Cleaned::default()
    );
    assert_eq!(
        scratch
            .catalog
            .begin(label.time(), small(4096, 1000))
            .unwrap()
            .label(),
        label
    );
}

#[test]
fn a_damaged_document_hides_no_other_backup() {
    let scratch = Scratch::new();
    let first = commit_one(&scratch, "2026-11-20T07:45:01Z").label;
    let second = commit_one(&scratch, "2026-11-20T07:45:02Z").label;
    let third = commit_one(&scratch, "2026-11-20T07:45:03Z").label;
    let document = |label: Label| scratch.backups().join(format!("{label}/backup.json"));
    let good = fs::read(document(second)).unwrap();
    fs::write(document(second), &good[..good.len() / 2]).unwrap();
    // that of another backup
    fs::write(document(first), &good).unwrap();
    let listing = scratch.catalog.list().unwrap();
    assert_eq!(labels(&listing), [third.to_string()]);
    let damaged: Vec<Label> = listing
        .damaged
        .iter()
        .map(|damaged| damaged.label)
        .collect();
    assert_eq!(damaged, [first, second]);
    for DamagedBackup { label, error } in &listing.damaged {
        assert!(error.to_string().contains(&label.to_string()), "{error}");
        assert!(scratch.catalog.open(*label).is_err());
    }
    // it is damaged, not abandoned
    assert_eq!(
        scratch.catalog.clean_abandoned().unwrap(),
        Cleaned::default()
    );
}

#[test]
fn a_document_of_another_format_is_refused_and_one_with_more_fields_read() {
    let scratch = Scratch::new();
    let label = commit_one(&scratch, "2026-11-20T07:45:02Z").label;
    let document = scratch.backups().join(format!("{label}/backup.json"));
    let good = fs::read_to_string(&document).unwrap();
    for format in ["2", "0", "18446744073709551615"] {
        // not even the fields need to be known
        fs::write(&document, format!("{{\"format\": {format}, \"new\": []}}")).unwrap();
        let error = scratch.catalog.get(label).unwrap_err();
        assert!(
            error.to_string().contains(&format!("format {format}")),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("version"));
    }
    let more = good.replacen('{', "{\n  \"colour\": {\"of\": [\"the\", \"sky\"]},", 1);
    fs::write(&document, more).unwrap();
    assert!(scratch.catalog.open(label).unwrap().is_some());
}

#[test]
fn names_that_are_no_labels_are_passed_over() {
    let scratch = Scratch::new();
    commit_one(&scratch, "2026-11-20T07:45:02Z");
    fs::create_dir(scratch.backups().join("lost+found")).unwrap();
    fs::create_dir(scratch.backups().join("2026")).unwrap();
    fs::write(
        scratch.backups().join("20261120T074503Z"),
        b"a file, no folder",
    )
    .unwrap();
    assert_eq!(scratch.catalog.list().unwrap().backups.len(), 1);
    assert_eq!(
        scratch.catalog.clean_abandoned().unwrap(),
        Cleaned::default()
    );
    // but the name is taken
    let writer = scratch
        .catalog
        .begin(at("2026-11-20T07:45:03Z"), small(4096, 1000));
    assert_eq!(writer.unwrap().label().to_string(), "20261120T074504Z");
}

#[test]
fn a_store_that_is_gone_is_no_empty_catalog() {
    let scratch = Scratch::new();
    commit_one(&scratch, "2026-11-20T07:45:02Z");
    let catalog = catalog_in(&scratch.folder.path().join("not mounted"));
    assert!(catalog.list().is_err());
    assert!(catalog.clean_abandoned().is_err());
    assert!(
        catalog
            .begin(at("2026-11-20T07:45:02Z"), BackupOptions::default())
            .is_err()
    );
}
