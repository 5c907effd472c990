//! What is promised beyond the conformance suite, on real disks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::*;
use crate::conformance;
use crate::store::{ErrorClass, NodeKind};

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn store() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repo"));
    store.establish().unwrap();
    (dir, store)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_local_store_keeps_every_promise_of_a_store() {
    let (_dir, store) = store();
    let store: Arc<dyn Store> = Arc::new(store);
    conformance::run(&store, &key("suite"));
}

#[test]
fn a_successor_of_the_same_size_and_age_has_another_trace() {
    let (_dir, store) = store();
    let (key, path) = (key("a/b"), store.root().join("a/b"));
    store.put(&key, &[], b"one").unwrap();
    let trace = store.trace(&key).unwrap().unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    // until the file system's clock has gone on
    let begun = std::time::Instant::now();
    loop {
        store.delete(&key).unwrap();
        store.put(&key, &[], b"two").unwrap();
        fs::File::open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        if store.trace(&key).unwrap().unwrap() != trace {
            break;
        }
        assert!(begun.elapsed().as_secs() < 10, "{trace}");
    }
}

#[test]
fn files_and_folders_are_private_to_their_owner() {
    let (_dir, store) = store();
    store.put(&key("a/b/c"), &[], b"x").unwrap();
    assert_eq!(mode(store.root()), 0o700);
    assert_eq!(mode(store.root().join("a")), 0o700);
    assert_eq!(mode(store.root().join("a/b")), 0o700);
    assert_eq!(mode(store.root().join("a/b/c")), 0o600);
}

#[test]
fn a_missing_root_is_an_unmounted_disk_and_not_an_absence() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("not-mounted"));
    let errors = [
        store.stat(&key("a")).unwrap_err(),
        store.list(None).unwrap_err(),
        store.open(&key("a")).err().unwrap(),
        store.put(&key("a"), &[], b"x").unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(error.hint().unwrap().contains("mounted"));
    }
    assert!(!dir.path().join("not-mounted").exists());
}

#[test]
fn a_torn_temp_file_is_never_served_and_is_taken_over() {
    let (_dir, store) = store();
    store.put(&key("a/other"), &[], b"x").unwrap();
    let torn = store.root().join("a/.object.tmp");
    fs::write(&torn, vec![7; 1_000_000]).unwrap();
    fs::set_permissions(&torn, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(store.stat(&key("a/object")).unwrap(), None);
    assert_eq!(store.list(Some(&key("a"))).unwrap().len(), 1);
    store.put(&key("a/object"), &[], b"short").unwrap();
    assert_eq!(fs::read(store.root().join("a/object")).unwrap(), b"short");
    assert_eq!(mode(store.root().join("a/object")), 0o600);
    assert!(!torn.exists());
}

#[test]
fn debris_of_dead_writers_goes_with_the_next_publish() {
    let (_dir, store) = store();
    store.put(&key("a/other"), &[], b"x").unwrap();
    for name in [".object.tmp", ".object.3.tmp", ".object.zst.1.tmp"] {
        fs::write(store.root().join("a").join(name), b"torn").unwrap();
    }
    store
        .put(&key("a/object"), &[key("a/object.zst")], b"whole")
        .unwrap();
    let left: Vec<_> = fs::read_dir(store.root().join("a"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_living_writer_keeps_its_temp_file() {
    let (_dir, store) = store();
    let mut slow = store.create(&key("a/object"), &[]).unwrap();
    slow.write_all(b"slow").unwrap();
    store.put(&key("a/object"), &[], b"fast").unwrap();
    slow.write_all(b" but alive").unwrap();
    assert!(store.root().join("a/.object.tmp").exists());
    assert!(matches!(
        slow.publish(),
        Err(StoreError::AlreadyExists { .. })
    ));
    assert_eq!(fs::read(store.root().join("a/object")).unwrap(), b"fast");
    assert!(!store.root().join("a/.object.tmp").exists());
}

#[test]
fn something_else_in_the_place_of_an_object_is_named() {
    let (dir, store) = store();
    store.put(&key("a/other"), &[], b"x").unwrap();
    let at = |name: &str| store.root().join("a").join(name);
    fs::write(dir.path().join("outside"), "secret").unwrap();
    std::os::unix::fs::symlink(dir.path().join("outside"), at("link")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        FILE_MODE,
        0,
    )
    .unwrap();
    for (name, kind) in [
        ("link", NodeKind::Link),
        ("folder", NodeKind::Folder),
        ("pipe", NodeKind::Special),
    ] {
        let key = key("a").join(name).unwrap();
        for error in [
            store.stat(&key).unwrap_err(),
            store.open(&key).err().unwrap(),
        ] {
            match error {
                StoreError::WrongKind {
                    location, found, ..
                } => {
                    assert_eq!(found, kind);
                    assert!(location.ends_with(name));
                }
                other => panic!("{name}: {other}"),
            }
        }
        assert!(matches!(
            store.put(&key, &[], b"x"),
            Err(StoreError::AlreadyExists { .. })
        ));
    }
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"secret");
}

#[test]
fn a_link_in_the_place_of_a_folder_is_not_followed() {
    let (dir, store) = store();
    fs::create_dir(dir.path().join("outside")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("outside"), store.root().join("a")).unwrap();
    for error in [
        store.stat(&key("a/b")).unwrap_err(),
        store.put(&key("a/b"), &[], b"x").unwrap_err(),
        store.list(Some(&key("a"))).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                StoreError::WrongKind {
                    found: NodeKind::Link,
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn deleting_a_folder_takes_debris_along_and_follows_no_link() {
    let (dir, store) = store();
    store.put(&key("b/label/part"), &[], b"x").unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/kept"), "kept").unwrap();
    let folder = store.root().join("b/label");
    fs::write(folder.join(".part.1.tmp"), "torn").unwrap();
    std::os::unix::fs::symlink(dir.path().join("outside"), folder.join("link")).unwrap();
    store.delete_folder(&key("b/label")).unwrap();
    assert!(!folder.exists());
    assert!(dir.path().join("outside/kept").exists());
}

#[test]
fn names_that_no_key_can_have_are_not_listed() {
    let (_dir, store) = store();
    fs::create_dir(store.root().join("lost+found")).unwrap();
    fs::write(store.root().join("a b"), "x").unwrap();
    store.put(&key("pitr.json"), &[], b"{}").unwrap();
    let names: Vec<_> = store
        .list(None)
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, ["pitr.json"]);
}
