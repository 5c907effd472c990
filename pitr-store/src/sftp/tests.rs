//! What is promised beyond the conformance suite, on a real OpenSSH server.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitr_testbed::SshServer;

use crate::conformance::{self, noise};
use crate::{
    ErrorClass, ObjectKey, ServerError, SftpOptions, Store, StoreError, StoreOptions, open_store,
};

pub(super) fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

pub(super) fn options(server: &SshServer) -> SftpOptions {
    SftpOptions {
        identity_file: Some(server.identity_file()),
        known_hosts: Some(server.known_hosts()),
        retry_seconds: 30,
        ..SftpOptions::default()
    }
}

pub(super) fn open_at(address: &str, sftp: SftpOptions) -> Arc<dyn Store> {
    let options = StoreOptions {
        sftp,
        ..StoreOptions::default()
    };
    open_store(address, &options).unwrap()
}

pub(super) fn open(server: &SshServer, sftp: SftpOptions) -> Arc<dyn Store> {
    open_at(&server.address("repo").unwrap(), sftp)
}

/// A server and an established store on it.
pub(super) fn start() -> Option<(SshServer, Arc<dyn Store>)> {
    let server = SshServer::start(&["ed25519"], "").unwrap()?;
    let store = open(&server, options(&server));
    store.establish().unwrap();
    Some((server, store))
}

fn server_error(error: StoreError) -> ServerError {
    match error {
        StoreError::Server(error) => *error,
        other => panic!("{other}"),
    }
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_sftp_store_keeps_every_promise_of_a_store() {
    let Some((_server, store)) = start() else {
        return;
    };
    conformance::run(&store, &key("suite"));
}

/// A repository on `store` that is encrypted for a key file in `dir`, opened
/// with it.
#[cfg(feature = "encryption")]
fn encrypted(store: Arc<dyn Store>, dir: &Path) -> crate::Repository {
    use crate::encryption::{KeySource, NewKeys};
    let path = dir.join("key");
    fs::write(&path, [201; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let keys = NewKeys {
        key_files: vec![path.clone()],
        ..NewKeys::default()
    };
    crate::Repository::init_encrypted(Arc::clone(&store), &keys).unwrap();
    let keys = KeySource {
        key_file: Some(path),
        ..KeySource::default()
    };
    crate::Repository::open_with(store, &keys).unwrap()
}

#[cfg(feature = "encryption")]
#[test]
fn an_encrypted_repository_on_sftp_keeps_every_promise_of_a_store() {
    let Some((_server, store)) = start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let repository = encrypted(store, dir.path());
    conformance::run(repository.content(), &key("suite"));
    let content = noise(200_000, 3);
    repository.content().put(&key("a"), &[], &content).unwrap();
    let stored = repository.store().read_whole(&key("a"), 1 << 20).unwrap();
    assert!(stored.starts_with(b"pitrenc\x01"));
    assert_eq!(stored.len(), content.len() + 80 + 4 * 16);
}

#[test]
fn a_tilde_is_the_folder_that_a_login_begins_in() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a"), &[], b"x").unwrap();
    let address = server.address("").unwrap();
    let host = address.split("/tmp").next().unwrap();
    let error = open_at(&format!("{host}/~/no/such"), options(&server))
        .stat(&key("a"))
        .unwrap_err();
    assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
    assert!(error.to_string().contains("/~/no/such"));
}

#[test]
fn of_writers_in_several_sessions_one_wins() {
    let Some((server, _)) = start() else {
        return;
    };
    for round in 0..5 {
        let key = key(&format!("race/object-{round}"));
        let wins: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|number| {
                    let (server, key) = (&server, &key);
                    scope.spawn(move || {
                        let store = open(server, options(server));
                        match store.put(key, &[], &noise(50_000, number)) {
                            Ok(()) => 1,
                            Err(StoreError::AlreadyExists { .. }) => 0,
                            Err(e) => panic!("{e}"),
                        }
                    })
                })
                .collect();
            writers.into_iter().map(|w| w.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
    }
    assert!(
        names(&server.folder().join("repo/race"))
            .iter()
            .all(|name| name.starts_with("object-"))
    );
}

#[test]
fn the_server_is_found_to_refuse_overwriting() {
    let Some((server, store)) = start() else {
        return;
    };
    assert!(store.probe().unwrap().unwrap().create_only);
    assert!(store.promises().create_only);
    assert!(names(&server.folder().join("repo")).is_empty());
}

#[test]
fn a_missing_root_is_an_unmounted_disk_and_not_an_absence() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a/b"), &[], b"x").unwrap();
    let root = server.folder().join("repo");
    fs::rename(&root, server.folder().join("elsewhere")).unwrap();
    for error in [
        store.stat(&key("a/b")).unwrap_err(),
        store.list(None).unwrap_err(),
        store.list(Some(&key("a"))).unwrap_err(),
        store.open(&key("a/b")).err().unwrap(),
        store.read_range(&key("a/b"), 0..1).unwrap_err(),
        store.put(&key("a/b"), &[], b"x").unwrap_err(),
        store.delete(&key("a/b")).unwrap_err(),
        store.delete_folder(&key("a")).unwrap_err(),
        store.hold(&key("a")).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::RootMissing { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
    assert!(!root.exists());
}

#[test]
fn a_file_in_a_folders_place_is_doubt_and_not_an_absence() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a"), &[], b"x").unwrap();
    let root = server.folder().join("repo");
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    for below in ["a/b/c", "link/c"] {
        let key = key(below);
        for error in [
            store.stat(&key).unwrap_err(),
            store.open(&key).err().unwrap(),
            store.list(Some(&key)).unwrap_err(),
            store.put(&key, &[], b"x").unwrap_err(),
        ] {
            assert!(!error.is_absence(), "{error}");
        }
    }
    assert!(!store.stat(&key("link")).unwrap_err().is_absence());
}

#[test]
fn files_and_folders_are_private_to_their_owner() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a/b"), &[], b"x").unwrap();
    let root = server.folder().join("repo");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&root.join("a")), 0o700);
    assert_eq!(mode(&root.join("a/b")), 0o600);
}

#[test]
fn debris_of_dead_writers_is_invisible_and_goes_with_the_next_publish() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a/other"), &[], b"x").unwrap();
    let folder = server.folder().join("repo/a");
    let torn = folder.join(".object.0123456789abcdef.tmp");
    fs::write(&torn, vec![7; 100_000]).unwrap();
    let foreign = folder.join(".object.zst.0123456789abcdef.tmp");
    fs::write(&foreign, b"x").unwrap();
    assert_eq!(store.stat(&key("a/object")).unwrap(), None);
    assert_eq!(store.list(Some(&key("a"))).unwrap().len(), 1);
    store.put(&key("a/object"), &[], b"short").unwrap();
    assert_eq!(fs::read(folder.join("object")).unwrap(), b"short");
    assert!(!torn.exists() && foreign.exists());
    // who finds the object there already clears away too
    fs::write(&torn, b"x").unwrap();
    store.make_durable(&key("a/object")).unwrap();
    assert!(!torn.exists());
}

#[test]
fn an_unknown_host_key_is_refused_with_its_fingerprint() {
    let Some((server, _)) = start() else {
        return;
    };
    server.know(&[]).unwrap();
    let error = open(&server, options(&server)).stat(&key("a")).unwrap_err();
    let shown = error.to_string();
    let public = server.dir().join("host_ed25519.pub");
    let listed = Command::new("ssh-keygen").arg("-lf").arg(public).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let fingerprint = listed.split(' ').nth(1).unwrap();
    assert!(shown.contains(fingerprint), "{shown} has no {fingerprint}");
    assert!(!shown.contains('\n'));
    let hint = error.hint().unwrap();
    let command = format!("ssh-keyscan -p {} -t ed25519 127.0.0.1", server.port());
    assert!(hint.contains(&command), "{hint}");
    // and the command of the hint helps
    let scan = Command::new("ssh-keyscan")
        .args([
            "-p",
            &server.port().to_string(),
            "-t",
            "ed25519",
            "127.0.0.1",
        ])
        .output()
        .unwrap();
    fs::write(server.known_hosts(), scan.stdout).unwrap();
    open(&server, options(&server)).stat(&key("a")).unwrap();
}

#[test]
fn a_changed_host_key_is_refused_with_the_line_that_knows_another() {
    let Some((server, _)) = start() else {
        return;
    };
    let other = fs::read_to_string(server.dir().join("client.pub")).unwrap();
    let line = format!("[127.0.0.1]:{} {other}", server.port());
    fs::write(server.known_hosts(), format!("# comment\n{line}")).unwrap();
    let error = server_error(open(&server, options(&server)).stat(&key("a")).unwrap_err());
    assert!(
        matches!(error, ServerError::WrongHostKey { line: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_server_is_known_by_any_of_its_keys_and_by_hashed_names() {
    let Some(server) = SshServer::start(&["rsa", "ed25519", "ecdsa"], "").unwrap() else {
        return;
    };
    for kinds in [&["ecdsa"][..], &["ed25519"], &["rsa", "ecdsa"]] {
        server.know(kinds).unwrap();
        open(&server, options(&server)).establish().unwrap();
        let hashed = Command::new("ssh-keygen")
            .arg("-H")
            .arg("-f")
            .arg(server.known_hosts())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(hashed.unwrap().success());
        let text = fs::read_to_string(server.known_hosts()).unwrap();
        assert!(text.starts_with("|1|"), "{text}");
        open(&server, options(&server)).stat(&key("a")).unwrap();
    }
    server.know(&["rsa"]).unwrap();
    let error = open(&server, options(&server)).stat(&key("a")).unwrap_err();
    assert!(error.hint().unwrap().contains("RSA"), "{error}");
}

#[test]
fn a_server_with_nothing_but_an_rsa_key_is_refused_with_the_way_out() {
    let Some(server) = SshServer::start(&["rsa"], "").unwrap() else {
        return;
    };
    let began = Instant::now();
    let error = open(&server, options(&server)).stat(&key("a")).unwrap_err();
    let error = server_error(error);
    assert!(
        matches!(error, ServerError::NoCommonAlgorithm { .. }),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("ssh-keygen -A"));
    // it will not become better: not tried again
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_key_that_does_not_open_is_told_in_one_line() {
    let Some((server, _)) = start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let keygen = |name: &str, kind: &str, passphrase: &str| {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-f"])
            .arg(file(name))
            .status();
        assert!(made.unwrap().success());
    };
    keygen("other", "ed25519", "");
    keygen("locked", "ed25519", "hunter2");
    keygen("rsa", "rsa", "");
    let with = |name: &str| SftpOptions {
        identity_file: Some(file(name)),
        ..options(&server)
    };
    for (name, says, hints) in [
        ("other", "did not let user", "authorized_keys"),
        ("locked", "encrypted", "PITR_SFTP_PASSPHRASE"),
        ("rsa", "RSA", "ssh-agent"),
        ("gone", "does not exist", "ssh-keygen"),
    ] {
        let error = open(&server, with(name)).stat(&key("a")).unwrap_err();
        let (shown, hint) = (error.to_string(), error.hint().unwrap());
        assert!(shown.contains(says) && !shown.contains('\n'), "{shown}");
        assert!(hint.contains(hints), "{hint}");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
    // an encrypted key with its passphrase in a file
    let authorized = server.dir().join("authorized_keys");
    let mut keys = fs::read_to_string(&authorized).unwrap();
    keys.push_str(&fs::read_to_string(file("locked.pub")).unwrap());
    fs::write(&authorized, keys).unwrap();
    fs::write(file("passphrase"), "hunter2\n").unwrap();
    fs::set_permissions(file("passphrase"), PermissionsExt::from_mode(0o600)).unwrap();
    let unlocked = SftpOptions {
        passphrase_file: Some(file("passphrase")),
        ..with("locked")
    };
    open(&server, unlocked).stat(&key("a")).unwrap();
}

#[test]
fn a_wrong_password_is_told_in_one_line_and_never_shown() {
    let Some((server, _)) = start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    fs::write(&password, "hunter2\n").unwrap();
    fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
    let store = open(
        &server,
        SftpOptions {
            identity_file: None,
            password_file: Some(password),
            ..options(&server)
        },
    );
    let error = store.stat(&key("a")).unwrap_err();
    let shown = format!("{error} {error:?} {:?} {store:?}", error.hint());
    assert!(error.to_string().contains("a password"), "{shown}");
    assert!(!shown.contains("hunter2") && !error.to_string().contains('\n'));
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed() {
    let Some((mut server, store)) = start() else {
        return;
    };
    let bytes = noise(6_000_000, 1);
    let mut writer = store.create(&key("a/object"), &[]).unwrap();
    writer.write_all(&bytes[..3_000_000]).unwrap();
    server.restart().unwrap();
    writer.write_all(&bytes[3_000_000..]).unwrap();
    server.restart().unwrap();
    writer.publish().unwrap();
    assert!(store.read_whole(&key("a/object"), 6_000_000).unwrap() == bytes);
    assert_eq!(names(&server.folder().join("repo/a")), ["object"]);
}

#[test]
fn a_file_that_the_server_lost_while_it_was_away_is_not_published() {
    let Some((mut server, store)) = start() else {
        return;
    };
    let mut writer = store.create(&key("a/object"), &[]).unwrap();
    writer.write_all(&noise(3_000_000, 1)).unwrap();
    writer.flush().unwrap();
    server.kill();
    // as after a power cut: acknowledged, and not on the disk
    let folder = server.folder().join("repo/a");
    let temp = folder.join(&names(&folder)[0]);
    let file = fs::OpenOptions::new().write(true).open(&temp).unwrap();
    file.set_len(1_000_000).unwrap();
    server.restart().unwrap();
    writer.write_all(&noise(1_000_000, 2)).unwrap();
    let error = server_error(writer.publish().unwrap_err());
    assert!(matches!(error, ServerError::Differs { .. }), "{error}");
    assert_eq!(store.stat(&key("a/object")).unwrap(), None);
}

#[test]
fn a_download_goes_on_after_the_server_was_killed() {
    let Some((mut server, store)) = start() else {
        return;
    };
    let bytes = noise(9_000_000, 3);
    store.put(&key("a/object"), &[], &bytes).unwrap();
    let mut reader = store.open(&key("a/object")).unwrap();
    let mut read = vec![0; 1_000_000];
    reader.read_exact(&mut read).unwrap();
    server.restart().unwrap();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes, "what was downloaded differs");
}

#[test]
fn a_server_that_stays_away_is_given_up_in_time_and_is_doubt() {
    let Some((mut server, store)) = start() else {
        return;
    };
    store.put(&key("a"), &[], b"x").unwrap();
    let hasty = || SftpOptions {
        retry_seconds: 1,
        timeout_seconds: 2,
        ..options(&server)
    };
    let used = open(&server, hasty());
    used.stat(&key("a")).unwrap();
    let fresh = open(&server, hasty());
    server.kill();
    for store in [used, fresh] {
        let began = Instant::now();
        let error = store.stat(&key("b")).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Passing, "{error}");
        assert!(error.hint().is_some());
        assert!(began.elapsed() < Duration::from_secs(30), "{error}");
    }
}

#[test]
fn a_server_that_stops_answering_is_given_up_in_time() {
    // accepts, and never says a word
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let store = open_at(
        &format!("sftp://nobody@127.0.0.1:{port}/srv"),
        SftpOptions {
            timeout_seconds: 1,
            retry_seconds: 1,
            ..SftpOptions::default()
        },
    );
    let began = Instant::now();
    let error = store.stat(&key("a")).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Passing, "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_permission_that_is_missing_is_doubt() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a/b"), &[], b"x").unwrap();
    let folder = server.folder().join("repo/a");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o0)).unwrap();
    let errors = [
        store.stat(&key("a/c")).unwrap_err(),
        store.put(&key("a/c"), &[], b"x").unwrap_err(),
        store.list(Some(&key("a"))).unwrap_err(),
    ];
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    for error in errors {
        assert!(
            matches!(error, StoreError::PermissionDenied { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_full_disk_is_told_as_one_and_nothing_half_is_left() {
    let Some((server, store)) = start() else {
        return;
    };
    let mount = server.folder().join("repo/small");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=777", "pitr-test"])
        .arg(&mount)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: no tmpfs can be mounted here (needs root)");
        return;
    }
    // the store's own folder is the small disk, as it would be
    let address = server.address("repo/small").unwrap();
    let small = open_at(&address, options(&server));
    let error = small.put(&key("a/b"), &[], &noise(3_000_000, 1)).err();
    let left = small.list(Some(&key("a")));
    let hidden = names(&mount.join("a"));
    let _ = Command::new("umount").arg("-l").arg(&mount).status();
    let error = error.unwrap();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!(left.unwrap(), []);
    assert!(hidden.is_empty(), "{hidden:?}");
    drop(store);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_writes_holds_and_waits() {
    let Ok(address) = std::env::var("PITR_TEST_ADDRESS") else {
        return;
    };
    let path = |name: &str| std::env::var_os(name).map(Into::into);
    let store = open_at(
        &address,
        SftpOptions {
            identity_file: path("PITR_TEST_KEY"),
            known_hosts: path("PITR_TEST_KNOWN"),
            lease_seconds: 2,
            ..SftpOptions::default()
        },
    );
    let _hold = store.hold(&key("a/held")).unwrap().unwrap();
    let mut writer = store.create(&key("a/object"), &[]).unwrap();
    writer.write_all(&noise(2_000_000, 1)).unwrap();
    writer.flush().unwrap();
    println!("written");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_killed_writer_leaves_nothing_visible_and_its_hold_runs_out() {
    use std::io::BufRead as _;
    let Some((server, _)) = start() else {
        return;
    };
    let store = open(
        &server,
        SftpOptions {
            lease_seconds: 2,
            ..options(&server)
        },
    );
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("sftp::tests::child_writes_holds_and_waits")
        .env("PITR_TEST_ADDRESS", server.address("repo").unwrap())
        .env("PITR_TEST_KEY", server.identity_file())
        .env("PITR_TEST_KNOWN", server.known_hosts())
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let written = output
        .lines()
        .any(|line| line.unwrap().ends_with("written"));
    assert!(written);
    // a living holder keeps its mark for much longer than one lease
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert!(store.hold(&key("a/held")).unwrap().is_none());
        std::thread::sleep(Duration::from_millis(500));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(store.list(Some(&key("a"))).unwrap(), []);
    assert_eq!(store.stat(&key("a/object")).unwrap(), None);
    let deadline = Instant::now() + Duration::from_secs(30);
    let hold = loop {
        if let Some(hold) = store.hold(&key("a/held")).unwrap() {
            break hold;
        }
        assert!(Instant::now() < deadline, "the hold never runs out");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(store.hold(&key("a/held")).unwrap().is_none());
    store.put(&key("a/object"), &[], b"whole").unwrap();
    drop(hold);
    assert_eq!(names(&server.folder().join("repo/a")), ["object"]);
}

#[test]
fn who_was_taken_for_dead_publishes_nothing_more() {
    let Some((server, store)) = start() else {
        return;
    };
    let hold = store.hold(&key("a/backup")).unwrap().unwrap();
    store.put(&key("a/backup/part"), &[], b"x").unwrap();
    let mark = server.folder().join("repo/a/.backup.hold");
    fs::rename(&mark, server.folder().join("elsewhere")).unwrap();
    let error = store.put(&key("a/backup/last"), &[], b"x").unwrap_err();
    assert!(matches!(error, StoreError::HoldLost { .. }), "{error}");
    assert_eq!(store.stat(&key("a/backup/last")).unwrap(), None);
    // what lies beside it is nobody's loss
    store.put(&key("a/backup2"), &[], b"x").unwrap();
    drop(hold);
    store.put(&key("a/backup/last"), &[], b"x").unwrap();
}
