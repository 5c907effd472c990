//! Azure Blob Storage on Azurite, and Google Cloud Storage on a fake of what is
//! asked of it.
#![cfg(all(feature = "az", feature = "gs"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests: a panic is how they report"
)]

use std::io::{Read, Write};
use std::sync::Arc;

use pitr_store::{
    AzOptions, GsOptions, ObjectKey, RemoteProblem, Repository, Secret, Store, StoreError,
    StoreOptions, conformance, open_store,
};
use pitr_testbed::{Azurite, Fault, FaultProxy, GoogleFake};

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// The server, or `None` with a line that says why the test is skipped.
fn azurite() -> Option<Arc<Azurite>> {
    Azurite::shared()
        .map_err(|error| eprintln!("skipped: {error}"))
        .ok()
}

fn azure(endpoint: String, account_key: &str) -> StoreOptions {
    StoreOptions {
        az: AzOptions {
            account: Some(Azurite::ACCOUNT.to_owned()),
            account_key: Some(Secret::new(account_key)),
            endpoint: Some(endpoint),
            timeout_seconds: Some(5),
            retry_seconds: Some(20),
            ..AzOptions::default()
        },
        ..StoreOptions::default()
    }
}

fn google(endpoint: String) -> StoreOptions {
    StoreOptions {
        gs: GsOptions {
            endpoint: Some(endpoint),
            anonymous: Some(true),
            timeout_seconds: Some(5),
            retry_seconds: Some(20),
            ..GsOptions::default()
        },
        ..StoreOptions::default()
    }
}

/// What every kind of bucket has to do beyond the conformance suite.
fn init_and_large_object(store: &Arc<dyn Store>) {
    let repository = Repository::init(Arc::clone(store))
        .unwrap()
        .into_repository();
    assert_eq!(
        repository
            .document()
            .medium
            .map(|medium| medium.create_only),
        Some(true)
    );
    assert_eq!(store.list(None).unwrap().len(), 1, "the probe stays");

    let name = key("parts/1");
    let bytes = conformance::noise(20 << 20, 9);
    let mut writer = store.create(&name, &[]).unwrap();
    writer.write_all(&bytes).unwrap();
    assert_eq!(store.stat(&name).unwrap(), None);
    writer.publish().unwrap();
    let mut back = Vec::new();
    store.open(&name).unwrap().read_to_end(&mut back).unwrap();
    assert!(back == bytes);
    let mut second = store.create(&name, &[]).unwrap();
    second.write_all(&bytes).unwrap();
    assert!(matches!(
        second.publish(),
        Err(StoreError::AlreadyExists { .. })
    ));

    // a segment under its two names, larger than one part
    let (plain, packed) = (key("w/0001"), key("w/0001.zst"));
    let mut writer = store.create(&plain, std::slice::from_ref(&packed)).unwrap();
    writer.write_all(&bytes).unwrap();
    writer.publish().unwrap();
    match store.put(&packed, std::slice::from_ref(&plain), b"x") {
        Err(StoreError::AlreadyExists { key, .. }) => assert_eq!(key, plain),
        other => panic!("a rival's put gave {other:?}"),
    }
    store.delete_folder(&key("parts")).unwrap();
    store.delete_folder(&key("w")).unwrap();
}

#[test]
fn azure_keeps_the_promises_of_a_store() {
    let Some(azurite) = azurite() else { return };
    azurite.make_container("conformance").unwrap();
    let store = open_store(
        "az://conformance/some/where",
        &azure(azurite.endpoint(), Azurite::KEY),
    )
    .unwrap();
    init_and_large_object(&store);
    conformance::run(&store, &key("suite"));
}

#[test]
fn a_lost_answer_of_azure_is_made_good() {
    let Some(azurite) = azurite() else { return };
    azurite.make_container("faults").unwrap();
    let proxy = FaultProxy::start(azurite.address()).unwrap();
    let endpoint = format!("{}/{}", proxy.endpoint(), Azurite::ACCOUNT);
    let store = open_store("az://faults", &azure(endpoint, Azurite::KEY)).unwrap();
    let name = key("object");
    proxy.inject("PUT", "object", 1, Fault::CutAnswer { after_bytes: 0 });
    store.put(&name, &[], b"whole").unwrap();
    assert_eq!(proxy.left(), 0);
    assert_eq!(store.read_whole(&name, 10).unwrap(), b"whole");
}

#[test]
fn a_wrong_key_or_container_of_azure_is_told_so() {
    let Some(azurite) = azurite() else { return };
    azurite.make_container("wrong").unwrap();
    let name = key("pitr.json");
    let store = open_store("az://wrong", &azure(azurite.endpoint(), "d3Jvbmc=")).unwrap();
    let error = store.put(&name, &[], b"x").unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::Remote {
                problem: RemoteProblem::WrongSecret | RemoteProblem::Denied,
                ..
            }
        ),
        "{error}"
    );
    let store = open_store("az://missing", &azure(azurite.endpoint(), Azurite::KEY)).unwrap();
    for error in [
        store.stat(&name).map(drop).unwrap_err(),
        store.open(&name).map(drop).unwrap_err(),
        store.list(None).map(drop).unwrap_err(),
        store.put(&name, &[], b"x").unwrap_err(),
    ] {
        assert!(!error.is_absence());
        assert!(
            matches!(
                &error,
                StoreError::Remote {
                    problem: RemoteProblem::BucketMissing,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn google_keeps_the_promises_of_a_store() {
    let fake = GoogleFake::start("conformance").unwrap();
    let store = open_store("gs://conformance/some/where", &google(fake.endpoint())).unwrap();
    init_and_large_object(&store);
    conformance::run(&store, &key("suite"));
    let elsewhere = open_store("gs://other", &google(fake.endpoint())).unwrap();
    let error = elsewhere.stat(&key("pitr.json")).unwrap_err();
    assert!(!error.is_absence(), "{error}");
}

#[test]
fn a_mark_of_the_dead_is_taken_over_and_a_young_one_is_not() {
    let fake = GoogleFake::start("marks").unwrap();
    let open = || open_store("gs://marks/repo", &google(fake.endpoint())).unwrap();
    let (dead, living) = (open(), open());
    let name = key("backups/20261120T074502Z");
    let marks = || {
        let objects = fake.objects().into_iter().map(|(name, _)| name);
        objects.filter(|name| name.contains(".hold.")).count()
    };
    // as after kill -9: it is never given up, and not renewed within the test
    std::mem::forget(dead.hold(&name).unwrap().unwrap());
    fake.age(".hold.", 3500);
    assert!(living.hold(&name).unwrap().is_none());
    assert_eq!(marks(), 1, "the one who came in vain took his own away");
    fake.age(".hold.", 200);
    let held = living.hold(&name).unwrap();
    assert!(held.is_some());
    assert_eq!(marks(), 1, "that of the dead is gone");
    drop(held);
    assert_eq!(marks(), 0);
}
