//! What is promised beyond the conformance suite, on a real Pure-FTPd.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitr_testbed::{FtpServer, VsFtpd};

use crate::conformance::{self, noise};
use crate::{
    ErrorClass, FtpOptions, ObjectKey, ServerError, Store, StoreError, StoreOptions, open_store,
};

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn options(server: &FtpServer) -> FtpOptions {
    FtpOptions {
        netrc: Some(server.netrc()),
        ca_file: Some(server.ca_file()),
        retry_seconds: 30,
        ..FtpOptions::default()
    }
}

fn open_at(address: &str, ftp: FtpOptions) -> Arc<dyn Store> {
    let options = StoreOptions {
        ftp,
        ..StoreOptions::default()
    };
    open_store(address, &options).unwrap()
}

fn open(server: &FtpServer, ftp: FtpOptions) -> Arc<dyn Store> {
    open_at(&server.address("repo"), ftp)
}

/// A server and an established store on it.
fn start(tls: bool) -> Option<(FtpServer, Arc<dyn Store>)> {
    let server = FtpServer::start(tls, &[]).unwrap()?;
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

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_ftp_store_keeps_what_its_medium_can_keep() {
    let Some((_server, store)) = start(false) else {
        return;
    };
    conformance::run(&store, &key("suite"));
}

#[test]
fn an_ftps_store_keeps_what_its_medium_can_keep() {
    let Some((_server, store)) = start(true) else {
        return;
    };
    conformance::run(&store, &key("suite"));
}

/// A store on a vsftpd, which has no listings for machines (`MLSD`).
fn start_vsftpd(implicit_tls: bool, more: &str) -> Option<(VsFtpd, Arc<dyn Store>)> {
    let server = VsFtpd::start(implicit_tls, more).unwrap()?;
    let password = server.dir().join("password");
    fs::write(&password, "anybody@example.org\n").unwrap();
    fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
    let ftp = FtpOptions {
        password_file: Some(password),
        ca_file: implicit_tls.then(|| server.ca_file()),
        implicit_tls,
        retry_seconds: 30,
        ..FtpOptions::default()
    };
    let store = open_at(&server.address("repo"), ftp);
    store.establish().unwrap();
    Some((server, store))
}

#[test]
fn a_server_without_listings_for_machines_keeps_what_its_medium_can_keep() {
    let Some((_server, store)) = start_vsftpd(false, "") else {
        return;
    };
    conformance::run(&store, &key("suite"));
}

#[test]
fn a_server_that_does_not_tell_its_features_keeps_what_its_medium_can_keep() {
    let Some((_server, store)) = start_vsftpd(false, "cmds_denied=FEAT,EPSV,SITE\n") else {
        return;
    };
    conformance::run(&store, &key("suite"));
}

#[test]
fn a_server_that_begins_with_tls_keeps_what_its_medium_can_keep() {
    let Some((_server, store)) = start_vsftpd(true, "") else {
        return;
    };
    conformance::run(&store, &key("suite"));
}

#[test]
fn a_server_that_never_begins_with_tls_is_given_up_in_time() {
    // accepts, and never says a word
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for implicit_tls in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        fs::write(&password, "x\n").unwrap();
        fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
        let store = open_at(
            &format!("ftps://nobody@127.0.0.1:{port}/srv"),
            FtpOptions {
                password_file: Some(password),
                implicit_tls,
                timeout_seconds: 1,
                retry_seconds: 1,
                ..FtpOptions::default()
            },
        );
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(store.stat(&key("a"))));
        let error = told.recv_timeout(Duration::from_secs(60)).unwrap();
        let error = error.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Passing, "{error}");
    }
}

#[test]
fn a_server_that_takes_no_older_tls_is_talked_to_in_the_newer() {
    // of the older one nothing that we have too
    let more = "ssl_ciphers=AES128-SHA\nrequire_ssl_reuse=NO\n";
    let Some((_server, store)) = start_vsftpd(true, more) else {
        return;
    };
    store.put(&key("a/object"), &[], b"x").unwrap();
    assert_eq!(store.read_whole(&key("a/object"), 1).unwrap(), b"x");
}

#[test]
fn a_name_in_no_known_encoding_breaks_no_listing() {
    use std::os::unix::ffi::OsStrExt as _;
    let Some((server, store)) = start(false) else {
        return;
    };
    let Some((other, listing)) = start_vsftpd(false, "") else {
        return;
    };
    for (folder, store) in [(server.folder(), store), (other.folder(), listing)] {
        store.put(&key("a/object"), &[], b"x").unwrap();
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
        fs::write(folder.join("repo/a").join(name), b"x").unwrap();
        let listed = store.list(Some(&key("a"))).unwrap();
        let listed: Vec<_> = listed.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(listed, ["object"]);
        assert_eq!(store.stat(&key("a/other")).unwrap(), None);
        store.put(&key("a/other"), &[], b"y").unwrap();
    }
}

#[test]
fn the_medium_is_known_not_to_refuse_overwriting() {
    let Some((_server, store)) = start(false) else {
        return;
    };
    assert!(!store.probe().unwrap().unwrap().create_only);
    assert!(!store.promises().warnings().is_empty());
}

#[test]
fn a_missing_root_is_an_unmounted_disk_and_not_an_absence() {
    let Some((server, store)) = start(false) else {
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
    }
    assert!(!root.exists());
}

#[test]
fn what_may_not_be_entered_or_is_something_else_is_doubt() {
    let Some((server, store)) = start(false) else {
        return;
    };
    store.put(&key("a/b"), &[], b"x").unwrap();
    store.put(&key("file"), &[], b"x").unwrap();
    let folder = server.folder().join("repo/a");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o0)).unwrap();
    let errors = [
        store.stat(&key("a/c")).unwrap_err(),
        store.list(Some(&key("a"))).unwrap_err(),
        store.first_of(&[key("a/c")]).unwrap_err(),
        store.stat(&key("file/c")).unwrap_err(),
        store.list(Some(&key("file/c"))).unwrap_err(),
    ];
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    for error in errors {
        assert!(!error.is_absence(), "{error}");
    }
}

#[test]
fn files_and_folders_are_private_to_their_owner() {
    let Some((server, store)) = start(false) else {
        return;
    };
    store.put(&key("a/b"), &[], b"x").unwrap();
    for folder in ["repo", "repo/a"] {
        let path = server.folder().join(folder);
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{folder}");
    }
    let object = fs::metadata(server.folder().join("repo/a/b")).unwrap();
    assert_eq!(object.permissions().mode() & 0o7777, 0o600);
}

#[test]
fn debris_of_dead_writers_is_invisible_and_goes_with_the_next_publish() {
    let Some((server, store)) = start(false) else {
        return;
    };
    store.put(&key("a/other"), &[], b"x").unwrap();
    let folder = server.folder().join("repo/a");
    let torn = folder.join(".object.0123456789abcdef.tmp");
    fs::write(&torn, vec![7; 100_000]).unwrap();
    assert_eq!(store.stat(&key("a/object")).unwrap(), None);
    assert_eq!(store.list(Some(&key("a"))).unwrap().len(), 1);
    store.put(&key("a/object"), &[], b"short").unwrap();
    assert_eq!(fs::read(folder.join("object")).unwrap(), b"short");
    assert_eq!(names(&folder), ["object", "other"]);
}

#[test]
fn an_object_that_was_there_before_is_not_replaced() {
    let Some((server, store)) = start(false) else {
        return;
    };
    let mut writer = store.create(&key("a/object"), &[]).unwrap();
    writer.write_all(b"late").unwrap();
    fs::write(server.folder().join("repo/a/object"), b"early").unwrap();
    let error = writer.publish().unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    let kept = fs::read(server.folder().join("repo/a/object")).unwrap();
    assert_eq!(kept, b"early");
    assert_eq!(names(&server.folder().join("repo/a")), ["object"]);
}

#[test]
fn a_wrong_or_missing_password_is_told_in_one_line_and_never_shown() {
    let Some((server, _)) = start(false) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let netrc = |text: &str| {
        let path = dir.path().join("netrc");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        FtpOptions {
            netrc: Some(path),
            ..options(&server)
        }
    };
    let store = open(
        &server,
        netrc("machine localhost login archive password hunter2"),
    );
    let error = store.stat(&key("a")).unwrap_err();
    let shown = format!("{error} {error:?} {:?} {store:?}", error.hint());
    assert!(!shown.contains("hunter2") && !error.to_string().contains('\n'));
    let error = server_error(error);
    assert!(matches!(error, ServerError::LoginRefused { .. }), "{error}");
    let error = open(&server, netrc("")).stat(&key("a")).unwrap_err();
    assert!(error.hint().unwrap().contains("machine localhost"));
    let error = server_error(error);
    assert!(matches!(error, ServerError::Credentials { .. }), "{error}");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let Some((server, _)) = start(true) else {
        return;
    };
    let began = Instant::now();
    let store = open(
        &server,
        FtpOptions {
            ca_file: None,
            ..options(&server)
        },
    );
    let error = server_error(store.stat(&key("a")).unwrap_err());
    assert!(matches!(error, ServerError::Tls { .. }), "{error}");
    assert!(error.hint().unwrap().contains("ca_file"));
    assert!(began.elapsed() < Duration::from_secs(20));
    // and without TLS that server lets nobody in
    let plain = server.address("repo").replace("ftps:", "ftp:");
    let error = open_at(&plain, options(&server)).stat(&key("a"));
    assert!(error.unwrap_err().hint().is_some());
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed() {
    let Some((mut server, store)) = start(false) else {
        return;
    };
    let bytes = noise(40_000_000, 1);
    let mut writer = store.create(&key("a/object"), &[]).unwrap();
    for (number, chunk) in bytes.chunks(1_000_000).enumerate() {
        writer.write_all(chunk).unwrap();
        if [3, 20, 39].contains(&number) {
            server.restart().unwrap();
        }
    }
    assert_eq!(store.stat(&key("a/object")).unwrap(), None);
    writer.publish().unwrap();
    let stored = fs::read(server.folder().join("repo/a/object")).unwrap();
    assert!(stored == bytes, "what was uploaded differs");
    assert_eq!(names(&server.folder().join("repo/a")), ["object"]);
}

#[test]
fn an_upload_whose_file_got_lost_or_changed_meanwhile_is_not_published() {
    let Some((mut server, store)) = start(false) else {
        return;
    };
    let folder = server.folder().join("repo/a");
    let temp = |folder: &Path| {
        let names = names(folder);
        let temp = names.iter().find(|name| name.ends_with(".tmp"));
        folder.join(temp.unwrap())
    };
    let begin = |name: &str| {
        let mut writer = store.create(&key(name), &[]).unwrap();
        writer.write_all(&noise(30_000_000, 1)).unwrap();
        writer
    };
    // more than is kept here
    let mut writer = begin("a/lost");
    server.kill();
    fs::remove_file(temp(&folder)).unwrap();
    server.restart().unwrap();
    let error = (0..100).find_map(|_| writer.write_all(&noise(1_000_000, 2)).err());
    let error = StoreError::from_io(error.unwrap(), crate::Operation::Write, "x");
    assert_eq!(error.class(), ErrorClass::Passing, "{error}");
    assert!(matches!(
        server_error(error),
        ServerError::UploadBroken { .. }
    ));
    drop(writer);
    assert_eq!(store.list(Some(&key("a"))).unwrap(), []);

    // the connection left something else behind
    let mut writer = begin("a/changed");
    server.kill();
    let path = temp(&folder);
    let mut there = fs::read(&path).unwrap();
    there[1000] ^= 1;
    fs::write(&path, there).unwrap();
    server.restart().unwrap();
    writer.write_all(&noise(5_000_000, 2)).unwrap();
    let error = writer.publish().unwrap_err();
    assert!(matches!(server_error(error), ServerError::Differs { .. }));
    assert_eq!(store.list(Some(&key("a"))).unwrap(), []);
    store.put(&key("a/object"), &[], b"whole").unwrap();
    assert_eq!(names(&folder), ["object"]);
}

#[test]
fn a_download_goes_on_after_the_server_was_killed() {
    let Some((mut server, store)) = start(false) else {
        return;
    };
    let bytes = noise(30_000_000, 3);
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
    let Some((mut server, store)) = start(false) else {
        return;
    };
    store.put(&key("a"), &[], b"x").unwrap();
    let hasty = || FtpOptions {
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
fn a_full_disk_is_an_error_with_a_hint_and_nothing_half_shows() {
    let Some((server, _)) = start(false) else {
        return;
    };
    let mount = server.folder().join("small");
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
    let small = open_at(&server.address("small"), options(&server));
    let error = small.put(&key("a/b"), &[], &noise(5_000_000, 1)).err();
    let left = small.list(Some(&key("a")));
    let _ = Command::new("umount").arg("-l").arg(&mount).status();
    let error = error.unwrap();
    // Pure-FTPd says no more than that it could not write
    assert!(!error.is_absence() && !error.to_string().contains('\n'));
    assert!(error.hint().unwrap().contains("full"), "{error}");
    assert_eq!(left.unwrap(), []);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_writes_holds_and_waits() {
    let Ok(address) = std::env::var("PITR_TEST_ADDRESS") else {
        return;
    };
    let store = open_at(
        &address,
        FtpOptions {
            netrc: std::env::var_os("PITR_TEST_KEY").map(Into::into),
            lease_seconds: 2,
            ..FtpOptions::default()
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
    let Some((server, _)) = start(false) else {
        return;
    };
    let store = open(
        &server,
        FtpOptions {
            lease_seconds: 2,
            ..options(&server)
        },
    );
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("ftp::tests::child_writes_holds_and_waits")
        .env("PITR_TEST_ADDRESS", server.address("repo"))
        .env("PITR_TEST_KEY", server.netrc())
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
    let Some((server, store)) = start(false) else {
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
