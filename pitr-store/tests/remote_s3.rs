//! The S3 store on a real server, and on one that has bad days.
#![cfg(feature = "s3")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests: a panic is how they report"
)]

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitr_store::{
    ErrorClass, ObjectKey, RemoteProblem, Repository, S3Options, Secret, Store, StoreError,
    StoreOptions, conformance, open_store,
};
use pitr_testbed::{Fault, FaultProxy, Moto};

/// The server, or `None` with a line that says why the test is skipped.
fn moto() -> Option<Arc<Moto>> {
    Moto::shared()
        .map_err(|error| eprintln!("skipped: {error}"))
        .ok()
}

fn options(endpoint: String) -> StoreOptions {
    StoreOptions {
        s3: S3Options {
            endpoint: Some(endpoint),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some("test".to_owned()),
            secret_access_key: Some(Secret::new("test")),
            timeout_seconds: Some(2),
            retry_seconds: Some(20),
            ..S3Options::default()
        },
        ..StoreOptions::default()
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// A store in a bucket of its own behind a proxy, which may do harm.
struct Harmed {
    proxy: FaultProxy,
    store: Arc<dyn Store>,
    _moto: Arc<Moto>,
}

fn harmed(bucket: &str) -> Option<Harmed> {
    let moto = moto()?;
    moto.make_bucket(bucket).unwrap();
    let proxy = FaultProxy::start(moto.address()).unwrap();
    let store = open_store(&format!("s3://{bucket}/repo"), &options(proxy.endpoint())).unwrap();
    Some(Harmed {
        proxy,
        store,
        _moto: moto,
    })
}

fn read(store: &dyn Store, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store
        .open(key)?
        .read_to_end(&mut bytes)
        .map_err(|e| StoreError::from_io(e, pitr_store::Operation::Read, "test"))?;
    Ok(bytes)
}

#[test]
fn s3_keeps_the_promises_of_a_store() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("conformance").unwrap();
    let store = open_store("s3://conformance/some/where", &options(moto.endpoint())).unwrap();
    store.establish().unwrap();
    conformance::run(&store, &key("suite"));
}

/// A running s3s-fs, which is stopped when dropped.
struct S3sFs {
    process: std::process::Child,
    endpoint: String,
    _folder: tempfile::TempDir,
}

impl S3sFs {
    /// The server that `PITR_S3S_FS` names; it takes minutes to be compiled, and
    /// is not installed for this alone.
    fn start(bucket: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("PITR_S3S_FS") else {
            eprintln!("skipped: PITR_S3S_FS names no s3s-fs");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(bucket)).unwrap();
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let keys = ["--access-key", "test", "--secret-key", "test"];
        let process = std::process::Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(keys)
            .arg(folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it does not listen"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self {
            process,
            endpoint: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        })
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// It checks signatures and checksums, which moto does not. Its conditional
/// create is not atomic, so that it is treated as one that overwrites.
#[test]
fn a_server_that_checks_signatures_keeps_the_promises_of_a_store() {
    let Some(server) = S3sFs::start("conformance") else {
        return;
    };
    let open = |secret: &str| {
        let mut options = options(server.endpoint.clone());
        options.s3.secret_access_key = Some(Secret::new(secret));
        open_store("s3://conformance/some/where", &options).unwrap()
    };
    let store = open("test");
    store.establish().unwrap();
    store.adopt(&pitr_store::Medium { create_only: false });
    conformance::run(&store, &key("suite"));
    let large = conformance::noise(20 << 20, 11);
    store.put(&key("large"), &[], &large).unwrap();
    assert!(read(store.as_ref(), &key("large")).unwrap() == large);
    let error = open("wrong").list(None).unwrap_err();
    assert!(
        error.to_string().contains("does not belong to this key"),
        "{error}"
    );
}

/// A repository on `store` that is encrypted for a key file in `dir`, opened
/// with it.
#[cfg(feature = "encryption")]
fn encrypted(store: Arc<dyn Store>, dir: &std::path::Path) -> Repository {
    use pitr_store::encryption::{KeySource, NewKeys};
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join("key");
    std::fs::write(&path, [201; 32]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let keys = NewKeys {
        key_files: vec![path.clone()],
        ..NewKeys::default()
    };
    Repository::init_encrypted(Arc::clone(&store), &keys).unwrap();
    let keys = KeySource {
        key_file: Some(path),
        ..KeySource::default()
    };
    Repository::open_with(store, &keys).unwrap()
}

#[cfg(feature = "encryption")]
#[test]
fn an_encrypted_repository_on_s3_keeps_the_promises_of_a_store() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("encrypted").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open_store("s3://encrypted/some/where", &options(moto.endpoint())).unwrap();
    let repository = encrypted(store, dir.path());
    conformance::run(repository.content(), &key("suite"));
    let content = conformance::noise(200_000, 3);
    repository.content().put(&key("a"), &[], &content).unwrap();
    let stored = read(repository.store().as_ref(), &key("a")).unwrap();
    assert!(stored.starts_with(b"pitrenc\x01"));
    assert_eq!(stored.len(), content.len() + 80 + 4 * 16);
}

#[cfg(feature = "encryption")]
#[test]
fn an_encrypted_create_on_s3_is_safe_when_its_answer_is_lost() {
    let Some(harmed) = harmed("encrypted-puts") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let repository = encrypted(Arc::clone(&harmed.store), dir.path());
    // small, and in parts: a store that hears nothing asks what stands there
    for (number, length) in [100, 20 << 20].into_iter().enumerate() {
        let name = key(&format!("object-{number}"));
        let content = conformance::noise(length, 4);
        let fault = Fault::CutAnswer { after_bytes: 0 };
        let (method, last) = if number == 0 {
            ("PUT", "object-0")
        } else {
            ("POST", "uploadId")
        };
        harmed.proxy.inject(method, last, 1, fault);
        repository.content().put(&name, &[], &content).unwrap();
        assert_eq!(harmed.proxy.left(), 0, "the fault never came");
        assert!(read(repository.content().as_ref(), &name).unwrap() == content);
        // another writer's is another content, and is refused
        let error = repository.content().put(&name, &[], &content).unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    }
}

#[test]
fn a_create_is_safe_whatever_befalls_its_answer() {
    let Some(harmed) = harmed("puts") else { return };
    let faults = [
        Fault::CutAnswer { after_bytes: 0 },
        Fault::CutAnswer { after_bytes: 20 },
        Fault::StallAnswer { after_bytes: 0 },
        Fault::AnswerInstead {
            status: 500,
            code: "InternalError",
        },
        Fault::AnswerInstead {
            status: 503,
            code: "SlowDown",
        },
        Fault::AnswerInstead {
            status: 409,
            code: "ConditionalRequestConflict",
        },
        Fault::Refuse {
            status: 409,
            code: "ConditionalRequestConflict",
        },
        Fault::Refuse {
            status: 412,
            code: "PreconditionFailed",
        },
        Fault::Refuse {
            status: 429,
            code: "TooManyRequests",
        },
        Fault::Refuse {
            status: 500,
            code: "InternalError",
        },
        Fault::Refuse {
            status: 503,
            code: "SlowDown",
        },
        Fault::Hangup,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let key = key(&format!("object-{number}"));
        let bytes = conformance::noise(300_000, 5);
        harmed.proxy.inject("PUT", key.as_str(), 2, fault.clone());
        harmed
            .store
            .put(&key, &[], &bytes)
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(harmed.proxy.left() < 2, "{fault:?} befell nobody");
        assert_eq!(
            read(harmed.store.as_ref(), &key).unwrap(),
            bytes,
            "{fault:?}"
        );
        assert!(
            matches!(
                harmed.store.put(&key, &[], b"other"),
                Err(StoreError::AlreadyExists { .. })
            ),
            "{fault:?}"
        );
        assert_eq!(
            read(harmed.store.as_ref(), &key).unwrap(),
            bytes,
            "{fault:?}"
        );
    }
}

/// How often the names of the rivals were asked for.
fn looks(harmed: &Harmed) -> usize {
    let seen = harmed.proxy.seen();
    harmed.proxy.forget();
    seen.iter()
        .filter(|seen| seen.path.contains("list-type"))
        .count()
}

#[test]
fn everybody_who_has_rivals_looks_for_them_again_when_his_own_object_shows() {
    let Some(harmed) = harmed("looks") else {
        return;
    };
    let [plain, xz, zst] = ["", ".xz", ".zst"].map(|suffix| key(&format!("segment{suffix}")));
    harmed
        .store
        .put(&zst, &[xz.clone(), plain.clone()], b"x")
        .unwrap();
    assert_eq!(looks(&harmed), 2, "the last key");
    let [other_plain, other_xz, other_zst] =
        ["", ".xz", ".zst"].map(|suffix| key(&format!("other{suffix}")));
    harmed
        .store
        .put(&other_xz, &[other_zst, other_plain], b"x")
        .unwrap();
    assert_eq!(looks(&harmed), 2, "a middle one");
}

#[test]
fn two_that_have_not_seen_each_other_are_not_both_acknowledged() {
    let Some(harmed) = harmed("passing") else {
        return;
    };
    for number in 0..3 {
        let plain = key(&format!("segment-{number}"));
        let zst = key(&format!("segment-{number}.zst"));
        // both have looked and found nothing before either shows
        let mut quick = harmed
            .store
            .create(&zst, std::slice::from_ref(&plain))
            .unwrap();
        let mut other = harmed
            .store
            .create(&plain, std::slice::from_ref(&zst))
            .unwrap();
        quick.write_all(b"quick").unwrap();
        other.write_all(b"other").unwrap();
        let other = std::thread::spawn(move || other.publish());
        let quick = quick.publish();
        let refused = match other.join().unwrap() {
            Err(StoreError::AlreadyExists { key, .. }) => key == zst,
            Ok(()) => false,
            Err(error) => panic!("{error}"),
        };
        let quick = match quick {
            Ok(()) => true,
            Err(StoreError::AlreadyExists { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        assert!(refused || !quick, "both were acknowledged");
    }
}

#[test]
fn anothers_object_is_not_taken_for_the_own_when_an_answer_is_lost() {
    let Some(harmed) = harmed("others") else {
        return;
    };
    let name = key("contested");
    harmed.store.put(&name, &[], b"first").unwrap();
    harmed
        .proxy
        .inject("PUT", "contested", 1, Fault::CutAnswer { after_bytes: 0 });
    let again = harmed.store.put(&name, &[], b"first");
    assert!(
        matches!(again, Err(StoreError::AlreadyExists { .. })),
        "{again:?}"
    );
}

#[test]
fn a_broken_read_goes_on_where_it_broke() {
    let Some(harmed) = harmed("reads") else {
        return;
    };
    let name = key("large");
    let bytes = conformance::noise(3_000_000, 6);
    harmed.store.put(&name, &[], &bytes).unwrap();
    for fault in [
        Fault::CutAnswer {
            after_bytes: 1_000_000,
        },
        Fault::StallAnswer {
            after_bytes: 1_500_000,
        },
        Fault::CutAnswer { after_bytes: 10 },
        Fault::Refuse {
            status: 503,
            code: "SlowDown",
        },
    ] {
        harmed.proxy.forget();
        harmed.proxy.inject("GET", "large", 2, fault.clone());
        assert!(
            read(harmed.store.as_ref(), &name).unwrap() == bytes,
            "{fault:?}"
        );
        assert_eq!(harmed.proxy.left(), 0, "{fault:?} befell nobody");
        let fetched_again = harmed
            .proxy
            .seen()
            .iter()
            .filter(|seen| seen.head.to_ascii_lowercase().contains("if-match"))
            .count();
        if matches!(
            fault,
            Fault::CutAnswer {
                after_bytes: 1_000_000
            }
        ) {
            assert!(fetched_again > 0, "it began anew");
        }
    }
    harmed.proxy.inject(
        "GET",
        "large",
        1,
        Fault::CutAnswer {
            after_bytes: 50_000,
        },
    );
    let range = harmed.store.read_range(&name, 100..2_000_100).unwrap();
    assert!(range == bytes[100..2_000_100]);
}

#[test]
fn a_server_that_stays_away_ends_in_a_clear_error_within_the_budget() {
    let Some(harmed) = harmed("away") else { return };
    let mut few = options(harmed.proxy.endpoint());
    few.s3.retry_seconds = Some(3);
    let store = open_store("s3://away/repo", &few).unwrap();
    for (fault, problem) in [
        (
            Fault::Refuse {
                status: 503,
                code: "SlowDown",
            },
            RemoteProblem::Throttled,
        ),
        (
            Fault::Refuse {
                status: 500,
                code: "InternalError",
            },
            RemoteProblem::Unavailable,
        ),
        (Fault::Hangup, RemoteProblem::Unreachable),
        (
            Fault::StallAnswer { after_bytes: 0 },
            RemoteProblem::Stalled,
        ),
    ] {
        harmed.proxy.inject("", "gone", 1000, fault.clone());
        let begun = Instant::now();
        let error = store.put(&key("gone"), &[], b"x").unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(15), "{fault:?}");
        assert_eq!(error.class(), ErrorClass::Passing, "{error}");
        assert!(!error.is_absence());
        assert!(error.hint().is_some());
        assert!(!error.to_string().contains('\n'), "{error}");
        match error {
            StoreError::Remote { problem: found, .. } => assert_eq!(found, problem, "{fault:?}"),
            other => panic!("{fault:?}: {other}"),
        }
        harmed.proxy.clear();
    }
}

#[test]
fn what_the_administrator_got_wrong_is_told_in_one_line_with_a_hint() {
    let Some(harmed) = harmed("wrong") else {
        return;
    };
    for (status, code, said) in [
        (403, "InvalidAccessKeyId", "does not know this key"),
        (403, "SignatureDoesNotMatch", "does not belong to this key"),
        (403, "AccessDenied", "access denied"),
        (400, "ExpiredToken", "expired"),
        (301, "PermanentRedirect", "another region"),
        (403, "RequestTimeTooSkewed", "clocks"),
    ] {
        harmed
            .proxy
            .inject("", "pitr.json", 1, Fault::Refuse { status, code });
        let begun = Instant::now();
        let error = Repository::open(Arc::clone(&harmed.store)).unwrap_err();
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{code} was retried"
        );
        let text = error.to_string();
        assert!(text.contains(said) && text.lines().count() == 1, "{text}");
        assert!(error.hint().is_some(), "{text}");
    }
}

#[test]
fn a_missing_bucket_is_no_absence() {
    let Some(moto) = moto() else { return };
    let store = open_store("s3://no-such-bucket/repo", &options(moto.endpoint())).unwrap();
    let name = key("pitr.json");
    let errors = [
        store.stat(&name).map(drop).unwrap_err(),
        store.open(&name).map(drop).unwrap_err(),
        store.list(None).map(drop).unwrap_err(),
        store
            .first_of(std::slice::from_ref(&name))
            .map(drop)
            .unwrap_err(),
        store.put(&name, &[], b"x").unwrap_err(),
        store.establish().unwrap_err(),
    ];
    for error in errors {
        assert!(!error.is_absence(), "{error}");
        assert!(error.to_string().contains("bucket"), "{error}");
        assert!(
            error.hint().unwrap().contains("makes no buckets"),
            "{error}"
        );
    }
}

#[test]
fn a_server_that_ignores_the_condition_is_found_out_and_looked_after() {
    let Some(harmed) = harmed("careless") else {
        return;
    };
    harmed.proxy.inject(
        "PUT",
        "",
        1,
        Fault::Ignore {
            header: "if-none-match",
        },
    );
    let repository = Repository::init(Arc::clone(&harmed.store))
        .unwrap()
        .into_repository();
    assert_eq!(
        repository.document().medium.map(|m| m.create_only),
        Some(false)
    );
    assert_eq!(repository.store().promises().warnings().len(), 1);
    assert_eq!(harmed.store.list(None).unwrap().len(), 1, "the probe stays");
    let again = open_store("s3://careless/repo", &options(harmed.proxy.endpoint())).unwrap();
    let again = Repository::open(again).unwrap();
    assert!(!again.store().promises().create_only);
    conformance::run(again.store(), &key("suite"));
}

#[test]
fn a_server_that_heeds_the_condition_needs_no_warning() {
    let Some(harmed) = harmed("careful") else {
        return;
    };
    let repository = Repository::init(Arc::clone(&harmed.store))
        .unwrap()
        .into_repository();
    assert_eq!(
        repository.document().medium.map(|m| m.create_only),
        Some(true)
    );
    assert!(repository.store().promises().warnings().is_empty());
}

#[test]
fn a_large_object_goes_in_parts_of_which_a_lost_one_is_sent_again() {
    let Some(harmed) = harmed("parts") else {
        return;
    };
    let name = key("part-1");
    let bytes = conformance::noise(40 << 20, 7);
    let lost = [
        Fault::CutAnswer { after_bytes: 0 },
        Fault::Refuse {
            status: 500,
            code: "InternalError",
        },
        Fault::StallAnswer { after_bytes: 0 },
    ];
    for fault in lost {
        harmed.proxy.inject("PUT", "partNumber", 1, fault);
    }
    harmed.proxy.inject(
        "POST",
        "part-1?uploadId",
        1,
        Fault::CutAnswer { after_bytes: 0 },
    );
    let mut writer = harmed.store.create(&name, &[]).unwrap();
    for chunk in bytes.chunks(1 << 20) {
        writer.write_all(chunk).unwrap();
    }
    assert_eq!(harmed.store.stat(&name).unwrap(), None);
    writer.publish().unwrap();
    assert_eq!(harmed.proxy.left(), 0);
    assert!(read(harmed.store.as_ref(), &name).unwrap() == bytes);
    let second = {
        let mut writer = harmed.store.create(&name, &[]).unwrap();
        writer.write_all(&bytes).unwrap();
        writer.publish()
    };
    assert!(
        matches!(second, Err(StoreError::AlreadyExists { .. })),
        "{second:?}"
    );
    assert!(read(harmed.store.as_ref(), &name).unwrap() == bytes);
}

#[test]
fn a_large_object_that_is_given_up_leaves_no_parts() {
    let Some(harmed) = harmed("abort") else {
        return;
    };
    let mut writer = harmed.store.create(&key("never"), &[]).unwrap();
    writer.write_all(&conformance::noise(20 << 20, 8)).unwrap();
    drop(writer);
    let seen = harmed.proxy.seen();
    let begun = seen
        .iter()
        .filter(|s| s.path.contains("never?uploads"))
        .count();
    let ended = seen
        .iter()
        .filter(|s| s.method == "DELETE" && s.path.contains("never?uploadId"))
        .count();
    assert_eq!((begun, ended), (1, 1));
    assert_eq!(harmed.store.list(None).unwrap(), []);
}

#[test]
fn listings_go_on_over_pages() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("pages").unwrap();
    let store = open_store("s3://pages", &options(moto.endpoint())).unwrap();
    for number in 0..1010 {
        moto.put_object("pages", &format!("folder/{number:04}"))
            .unwrap();
    }
    let listed = store.list(Some(&key("folder"))).unwrap();
    assert_eq!(listed.len(), 1010);
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
    store.delete_folder(&key("folder")).unwrap();
    assert_eq!(store.list(None).unwrap(), []);
}

#[test]
fn a_living_mark_keeps_others_away_from_another_process_too() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("marks").unwrap();
    let open = || open_store("s3://marks/repo", &options(moto.endpoint())).unwrap();
    let (one, other) = (open(), open());
    let name = key("backups/20261120T074502Z");
    let held = one.hold(&name).unwrap().unwrap();
    assert!(other.hold(&name).unwrap().is_none());
    assert!(one.hold(&name).unwrap().is_none());
    assert_eq!(other.list(Some(&key("backups"))).unwrap(), []);
    drop(held);
    assert!(other.hold(&name).unwrap().is_some());
}
