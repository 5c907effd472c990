//! Copying a backup into another store, through every fault.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering;

use super::faults::{Fault, FaultyStore, cluster};
use super::*;

/// A store with one backup of several parts.
fn source() -> (Scratch, Label) {
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(6000, 4000));
    writer.add_tar(Archive::Base, cluster().as_slice()).unwrap();
    writer.put_manifest(&b"{}"[..]).unwrap();
    let info = writer.commit(details()).unwrap();
    assert!(info.parts.len() > 2, "{} parts", info.parts.len());
    (scratch, info.label)
}

/// Copies the backup by way of a faulty store. Says whether the fault was
/// reached.
fn copy(
    source: &BackupCatalog,
    label: Label,
    target: &Path,
    fault: Fault,
    at: usize,
) -> (Result<BackupCopied, BackupCopyError>, bool) {
    let (store, done) = FaultyStore::new(target, fault, at);
    let key = ObjectKey::parse("7000000000000000001/backups").unwrap();
    let catalog = BackupCatalog::new(store, key);
    let result = catalog.copy_from(source, label, 1, &|_| {});
    (result, done.load(Ordering::SeqCst) > at)
}

/// Every object as it is in the source, and nothing besides.
fn is_the_same(source: &Scratch, target: &Scratch, label: Label, what: &str) {
    let folders = [source, target].map(|one| one.backups().join(label.to_string()));
    assert_eq!(names(&folders[0]), names(&folders[1]), "{what}");
    for name in names(&folders[0]) {
        let [one, other] = [0, 1].map(|at: usize| fs::read(folders[at].join(&name)).unwrap());
        assert!(one == other, "{what}: {name}");
    }
}

/// Whole or not there, and copied again it is whole. Gives the parts that the
/// second copy could keep.
fn check(source: &Scratch, target: &Scratch, label: Label, what: &str) -> usize {
    let listing = target.catalog.list().unwrap();
    assert!(listing.damaged.is_empty(), "{what}");
    if !listing.backups.is_empty() {
        is_the_same(source, target, label, what);
    }
    let again = target.catalog.copy_from(&source.catalog, label, 2, &|_| {});
    is_the_same(source, target, label, what);
    match again.unwrap() {
        BackupCopied::AlreadyPresent => 0,
        BackupCopied::Stored { kept_parts, .. } => kept_parts,
    }
}

#[test]
fn whatever_fails_a_copied_backup_is_whole_or_not_there() {
    let (source, label) = source();
    for fault in [Fault::Before, Fault::After, Fault::Gone, Fault::LostAnswer] {
        let (mut errors, mut kept) = (0, 0);
        for at in 0.. {
            let target = Scratch::new();
            let folder = target.folder.path();
            let (result, reached) = copy(&source.catalog, label, folder, fault, at);
            let what = format!("{fault:?} at {at}");
            if result.is_ok() {
                is_the_same(&source, &target, label, &what);
            }
            if !reached {
                result.unwrap();
                break;
            }
            errors += usize::from(result.is_err());
            kept += check(&source, &target, label, &what);
        }
        assert!(errors > 10, "{fault:?}: {errors} errors");
        assert!(kept > 0, "{fault:?}: no part was kept");
    }
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_copies_until_it_is_killed() {
    let Some(folder) = std::env::var_os("PITR_TEST_FOLDER") else {
        return;
    };
    let source = catalog_in(Path::new(&std::env::var_os("PITR_TEST_SOURCE").unwrap()));
    let number = |name| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let fault = [Fault::KillBefore, Fault::KillAfter][number("PITR_TEST_FAULT")];
    let label = source.list().unwrap().backups[0].label;
    let (result, _) = copy(
        &source,
        label,
        Path::new(&folder),
        fault,
        number("PITR_TEST_AT"),
    );
    result.unwrap();
}

#[test]
fn whenever_it_is_killed_a_copy_is_whole_or_not_there_and_the_next_completes_it() {
    let (source, label) = source();
    let mut kept = 0;
    for fault in ["0", "1"] {
        for at in 0.. {
            let target = Scratch::new();
            let output = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "backup::tests::copy::child_copies_until_it_is_killed",
                    "--ignored",
                ])
                .env("PITR_TEST_SOURCE", source.folder.path())
                .env("PITR_TEST_FOLDER", target.folder.path())
                .env("PITR_TEST_FAULT", fault)
                .env("PITR_TEST_AT", at.to_string())
                .output()
                .unwrap();
            if output.status.success() {
                assert!(at > 10, "{at} operations");
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{output:?}");
            kept += check(&source, &target, label, &format!("killed at {at}"));
        }
    }
    assert!(kept > 0, "no part was kept");
}

#[test]
fn a_damaged_part_is_never_spread() {
    let (source, label) = source();
    let folder = source.backups().join(label.to_string());
    let part = names(&folder)
        .into_iter()
        .find(|name| name.ends_with(".tar.zst"))
        .unwrap();
    let mut bytes = fs::read(folder.join(&part)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(folder.join(&part), bytes).unwrap();
    let target = Scratch::new();
    let copied = target.catalog.copy_from(&source.catalog, label, 2, &|_| {});
    assert!(
        matches!(
            copied,
            Err(BackupCopyError::Read(BackupReadError::Part { .. }))
        ),
        "{copied:?}"
    );
    assert!(target.catalog.list().unwrap().backups.is_empty());
    assert!(!target.backups().join(label.to_string()).join(part).exists());
}

#[test]
fn what_a_dead_writer_left_under_the_label_is_replaced_and_a_finished_one_is_not() {
    let (source, label) = source();
    let target = Scratch::new();
    let folder = target.backups().join(label.to_string());
    fs::create_dir_all(&folder).unwrap();
    for name in names(&source.backups().join(label.to_string())) {
        if name != "backup.json" {
            fs::write(folder.join(name), "of another backup").unwrap();
        }
    }
    fs::write(folder.join("base-0099.tar.zst"), "of another backup").unwrap();
    check(&source, &target, label, "after a dead writer");

    let target = Scratch::new();
    let mut writer = target.begin(small(1 << 20, 4000));
    writer.add_tar(Archive::Base, cluster().as_slice()).unwrap();
    let other = writer.commit(details()).unwrap();
    assert_eq!(other.label, label);
    let copied = target.catalog.copy_from(&source.catalog, label, 2, &|_| {});
    assert!(
        matches!(copied, Err(BackupCopyError::Conflict { .. })),
        "{copied:?}"
    );
    assert_eq!(target.catalog.list().unwrap().backups, [other]);
}

#[test]
fn a_backup_that_has_lost_an_object_is_completed_and_not_taken_for_whole() {
    let (source, label) = source();
    let target = Scratch::new();
    let copy = || target.catalog.copy_from(&source.catalog, label, 2, &|_| {});
    copy().unwrap();
    let folder = target.backups().join(label.to_string());
    let objects = names(&folder);
    let document = fs::metadata(folder.join("backup.json")).unwrap();
    for name in objects.iter().filter(|name| *name != "backup.json") {
        assert!(matches!(copy(), Ok(BackupCopied::AlreadyPresent)), "{name}");
        fs::remove_file(folder.join(name)).unwrap();
        let copied = copy();
        assert!(
            matches!(&copied, Ok(BackupCopied::Stored { parts, .. })
                if *parts == usize::from(name.ends_with(".tar.zst"))),
            "{name}: {copied:?}"
        );
        is_the_same(&source, &target, label, name);
    }
    let after = fs::metadata(folder.join("backup.json")).unwrap();
    assert_eq!(document.modified().unwrap(), after.modified().unwrap());
    // and what is cut short is neither taken for whole nor replaced
    for name in objects.iter().filter(|name| *name != "backup.json") {
        let whole = fs::read(folder.join(name)).unwrap();
        fs::write(folder.join(name), &whole[1..]).unwrap();
        let error = copy().unwrap_err();
        assert!(matches!(error, BackupCopyError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(name.as_str()), "{error}");
        assert!(error.hint().is_some() && error.is_of_one_backup());
        assert_eq!(fs::read(folder.join(name)).unwrap(), whole[1..]);
        fs::write(folder.join(name), &whole).unwrap();
    }
}
