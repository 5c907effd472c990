//! Who can read, and what those are told who cannot.

use super::*;

const NAME: &str = "folder/object";

fn write(scene: &Scene, name: &str) {
    scene
        .locked()
        .content()
        .put(&key(name), &[], b"content")
        .unwrap();
}

fn read(repository: &Repository, name: &str) -> Result<Vec<u8>, StoreError> {
    repository.content().read_whole(&key(name), 100)
}

fn key_file(scene: &Scene, name: &str, byte: u8) -> PathBuf {
    private_file(scene.dir.path(), name, &[byte; 32])
}

fn for_key_file(path: &Path) -> NewKeys {
    NewKeys {
        key_files: vec![path.to_owned()],
        ..NewKeys::default()
    }
}

#[test]
fn who_holds_public_keys_alone_writes_and_cannot_read_what_it_wrote() {
    let scene = Scene::new();
    write(&scene, NAME);
    let locked = scene.locked();
    for error in [
        read(&locked, NAME).unwrap_err(),
        locked.content().read_range(&key(NAME), 0..1).unwrap_err(),
        locked.content().check_readable().unwrap_err(),
    ] {
        assert!(error.is_locked(), "{error}");
        assert!(!error.is_absence() && !error.is_passing());
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("--identity") && hint.contains(&scene.recipient),
            "{hint}"
        );
        let text = error.to_string();
        assert!(
            text.contains("is encrypted, and no identity was named"),
            "{text}"
        );
    }
    assert!(!locked.has_keys());
    // what is absent is proven absent without a key
    let absent = read(&locked, "folder/absent").unwrap_err();
    assert!(absent.is_absence());
    assert_eq!(locked.content().stat(&key("folder/absent")).unwrap(), None);
    assert_eq!(read(&scene.unlocked(), NAME).unwrap(), b"content");
}

#[test]
fn a_wrong_identity_and_a_wrong_key_file_are_told_whose_they_are() {
    let scene = Scene::new();
    write(&scene, NAME);
    let (other, recipient) = identity_in(scene.dir.path(), "other.txt");
    let error = read(&scene.with_identity(&other), NAME).unwrap_err();
    let text = error.to_string();
    assert!(error.is_locked());
    for named in ["other.txt", &recipient, &scene.recipient] {
        assert!(text.contains(named), "{text}");
    }
    let error = read(&scene.with_key_file(&key_file(&scene, "k", 200)), NAME).unwrap_err();
    assert!(error.is_locked());
    assert!(error.to_string().contains("key file \""), "{error}");
    assert!(error.to_string().contains(&scene.recipient), "{error}");
}

#[test]
fn a_key_that_is_added_later_reads_what_lay_there_before() {
    let scene = Scene::new();
    write(&scene, NAME);
    let before = fs::read(scene.root().join(NAME)).unwrap();
    let (second, recipient) = identity_in(scene.dir.path(), "second.txt");
    let file = key_file(&scene, "k", 200);
    let more = NewKeys {
        recipients: vec![recipient.clone(), scene.recipient.clone()],
        recipient_files: Vec::new(),
        key_files: vec![file.clone()],
    };
    // nobody adds keys who has none
    let error = of_repository(scene.locked().add_keys(&more).unwrap_err());
    assert!(matches!(error, EncryptionError::NoKey { .. }), "{error}");

    let added = scene.unlocked().add_keys(&more).unwrap();
    assert_eq!(added.len(), 2, "{added:?}");
    assert_eq!(scene.locked().keys().unwrap().len(), 3);
    assert_eq!(
        read(&scene.with_identity(&second), NAME).unwrap(),
        b"content"
    );
    assert_eq!(read(&scene.with_key_file(&file), NAME).unwrap(), b"content");
    assert_eq!(fs::read(scene.root().join(NAME)).unwrap(), before);
    // one of several keys suffices, whatever the others are
    let both = KeySource {
        identity: Some(scene.dir.path().join("missing")),
        key_file: Some(file),
        ..KeySource::default()
    };
    let repository = Repository::open_with(scene.store(), &both).unwrap();
    assert_eq!(read(&repository, NAME).unwrap(), b"content");
    assert!(scene.unlocked().add_keys(&more).unwrap().is_empty());
}

#[test]
fn a_repository_of_a_key_file_alone_is_written_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = private_file(dir.path(), "k", &[201; 32]);
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(dir.path().join("repo")));
    Repository::init_encrypted(Arc::clone(&store), &for_key_file(&file)).unwrap();
    let locked = Repository::open(Arc::clone(&store)).unwrap();
    locked.content().put(&key(NAME), &[], b"content").unwrap();
    assert!(read(&locked, NAME).unwrap_err().is_locked());
    let keys = KeySource {
        key_file: Some(file),
        ..KeySource::default()
    };
    let repository = Repository::open_with(store, &keys).unwrap();
    repository.unlock().unwrap();
    assert_eq!(read(&repository, NAME).unwrap(), b"content");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let scene = Scene::new();
    for (mode, refused) in [(0o644, true), (0o604, true), (0o660, true), (0o400, false)] {
        fs::set_permissions(&scene.identity, fs::Permissions::from_mode(mode)).unwrap();
        let unlocked = scene.unlocked().unlock();
        assert_eq!(unlocked.is_err(), refused, "{mode:o}");
        if let Err(error) = unlocked {
            assert!(
                error.to_string().contains(&format!("{mode:04o}")),
                "{error}"
            );
            assert!(error.hint().unwrap().contains("chmod"));
        }
    }
}

#[test]
fn a_wrapped_key_that_was_changed_or_exchanged_is_told_from_a_wrong_identity() {
    let scene = Scene::new();
    let wrapped = fs::read_dir(scene.root().join("keys")).unwrap();
    let folder = wrapped.map(|entry| entry.unwrap().path()).next().unwrap();
    let path = folder.join(format!("{}.age", scene.recipient));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = of_repository(scene.unlocked().unlock().unwrap_err());
    assert!(
        matches!(error, EncryptionError::DamagedKey { .. }),
        "{error}"
    );
    // the wrapped key of another repository, for the same recipient
    let other = LocalStore::new(scene.dir.path().join("other"));
    Repository::init_encrypted(Arc::new(other), &scene.for_recipient()).unwrap();
    let foreign = fs::read_dir(scene.dir.path().join("other/keys")).unwrap();
    let foreign = foreign.map(|entry| entry.unwrap().path()).next().unwrap();
    fs::copy(foreign.join(format!("{}.age", scene.recipient)), &path).unwrap();
    let error = of_repository(scene.unlocked().unlock().unwrap_err());
    assert!(error.to_string().contains("another repository"), "{error}");
}

/// The wrapped key with this name.
fn wrapped_key(scene: &Scene, name: &str) -> PathBuf {
    let folders = fs::read_dir(scene.root().join("keys")).unwrap();
    let folder = folders.map(|entry| entry.unwrap().path()).next().unwrap();
    folder.join(name)
}

#[test]
fn a_damaged_wrapped_key_does_not_keep_the_other_identities_of_the_file_out() {
    let scene = Scene::new();
    write(&scene, NAME);
    let (second, recipient) = identity_in(scene.dir.path(), "second.txt");
    let more = NewKeys {
        recipients: vec![recipient],
        ..NewKeys::default()
    };
    scene.unlocked().add_keys(&more).unwrap();
    let both = [&scene.identity, &second].map(|path| fs::read_to_string(path).unwrap());
    let both = private_file(scene.dir.path(), "both.txt", both.concat().as_bytes());
    let damaged = wrapped_key(&scene, &format!("{}.age", scene.recipient));
    fs::write(&damaged, b"age-encryption.org/v1\n").unwrap();
    assert_eq!(read(&scene.with_identity(&both), NAME).unwrap(), b"content");
    // of nothing but damage, the damage is told
    let error = of_repository(scene.unlocked().unlock().unwrap_err());
    assert!(
        matches!(error, EncryptionError::DamagedKey { .. }),
        "{error}"
    );
    // and it is healed as its hint says
    assert!(error.hint().unwrap().contains("key add"));
    fs::remove_file(&damaged).unwrap();
    let healed = scene.with_identity(&both).add_keys(&scene.for_recipient());
    assert_eq!(healed.unwrap().len(), 1);
    assert_eq!(read(&scene.unlocked(), NAME).unwrap(), b"content");
}

#[test]
fn a_key_file_is_not_said_to_open_what_its_damaged_copy_does_not() {
    let scene = Scene::new();
    let file = key_file(&scene, "k", 200);
    let added = scene.unlocked().add_keys(&for_key_file(&file)).unwrap();
    let [RepositoryKeyName::KeyFile(id)] = added.as_slice() else {
        panic!("{added:?}")
    };
    let path = wrapped_key(&scene, &format!("{id}.key"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = of_repository(scene.unlocked().add_keys(&for_key_file(&file)).unwrap_err());
    assert!(
        matches!(error, EncryptionError::DamagedKey { .. }),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    let again = scene.unlocked().add_keys(&for_key_file(&file)).unwrap();
    assert_eq!(again, added);
}

#[test]
fn wrapped_keys_that_are_all_gone_are_told_as_nobody_s_and_never_as_an_absence() {
    let scene = Scene::new();
    write(&scene, NAME);
    fs::remove_dir_all(scene.root().join("keys")).unwrap();
    for repository in [scene.locked(), scene.unlocked()] {
        let error = read(&repository, NAME).unwrap_err();
        assert!(error.is_locked() && !error.is_absence(), "{error}");
        let told = format!("{error} {}", error.hint().unwrap());
        assert!(
            told.contains("for nobody") || told.contains("for: nobody"),
            "{told}"
        );
        assert!(repository.keys().unwrap().is_empty());
    }
}

#[test]
fn a_repository_whose_public_key_was_exchanged_is_not_written_to() {
    let scene = Scene::new();
    let ours = scene.locked().encryption().unwrap().public_key;
    let keys = KeySource {
        repository_keys: vec![ours],
        ..KeySource::default()
    };
    assert!(Repository::open_with(scene.store(), &keys).is_ok());
    // with a key of somebody else, and without encryption
    let (_, theirs) = identity_in(scene.dir.path(), "theirs.txt");
    let theirs = NewKeys {
        recipients: vec![theirs],
        ..NewKeys::default()
    };
    let encrypted: Arc<dyn Store> = Arc::new(LocalStore::new(scene.dir.path().join("theirs")));
    Repository::init_encrypted(Arc::clone(&encrypted), &theirs).unwrap();
    let plain: Arc<dyn Store> = Arc::new(LocalStore::new(scene.dir.path().join("plain")));
    Repository::init(Arc::clone(&plain)).unwrap();
    for store in [encrypted, plain] {
        let error = of_repository(Repository::open_with(store, &keys).unwrap_err());
        assert!(
            matches!(error, EncryptionError::OtherRepository { .. }),
            "{error}"
        );
        assert!(!error.is_locked());
    }
}

#[test]
fn a_public_key_that_keeps_no_secret_is_not_encrypted_to() {
    let scene = Scene::new();
    let document = scene.root().join("pitr.json");
    let ours = scene.locked().encryption().unwrap().public_key.to_string();
    let text = fs::read_to_string(&document).unwrap();
    fs::write(&document, text.replace(&ours, &"0".repeat(64))).unwrap();
    let error = scene
        .locked()
        .content()
        .put(&key(NAME), &[], b"x")
        .unwrap_err();
    let error = of_store(error);
    assert!(
        matches!(error, EncryptionError::WeakPublicKey { .. }),
        "{error}"
    );
}

#[test]
fn an_init_that_died_before_pitr_json_leaves_nothing_that_is_encrypted_to() {
    let scene = Scene::new();
    let lost = scene.locked().encryption().unwrap().public_key;
    fs::remove_file(scene.root().join("pitr.json")).unwrap();
    assert!(matches!(
        Repository::open(scene.store()),
        Err(RepositoryError::NotARepository { .. })
    ));
    let made = Repository::init_encrypted(scene.store(), &scene.for_recipient()).unwrap();
    let made = made.into_repository();
    assert_ne!(made.encryption().unwrap().public_key, lost);
    write(&scene, NAME);
    assert_eq!(read(&scene.unlocked(), NAME).unwrap(), b"content");
    // anything else beside keys is still a repository that lost its pitr.json
    fs::remove_file(scene.root().join("pitr.json")).unwrap();
    assert!(matches!(
        Repository::init_encrypted(scene.store(), &scene.for_recipient()),
        Err(RepositoryError::NotEmpty { .. })
    ));
}

#[test]
fn a_repository_is_not_encrypted_afterwards_nor_silently_for_others() {
    let scene = Scene::new();
    let again = Repository::init_encrypted(scene.store(), &scene.for_recipient()).unwrap();
    assert!(matches!(again, Initialized::Existing(_)));
    let (_, other) = identity_in(scene.dir.path(), "other.txt");
    let for_other = NewKeys {
        recipients: vec![other.clone()],
        ..NewKeys::default()
    };
    let error = Repository::init_encrypted(scene.store(), &for_other).unwrap_err();
    let error = of_repository(error);
    assert!(error.to_string().contains(&other), "{error}");
    assert!(error.hint().unwrap().contains("key add"));

    let plain: Arc<dyn Store> = Arc::new(LocalStore::new(scene.dir.path().join("plain")));
    Repository::init(Arc::clone(&plain)).unwrap();
    let error = Repository::init_encrypted(plain, &for_other).unwrap_err();
    let error = of_repository(error);
    assert!(
        matches!(error, EncryptionError::NotEncrypted { .. }),
        "{error}"
    );
}

#[test]
fn a_reader_that_knows_no_encryption_refuses_the_repository() {
    let scene = Scene::new();
    assert_eq!(scene.locked().document().format, crate::ENCRYPTED_FORMAT);
    let document = scene.root().join("pitr.json");
    let text = fs::read_to_string(&document).unwrap();
    let newer = text.replace(
        "\"encryption\": {\n    \"format\": 1,",
        "\"encryption\": {\n    \"format\": 9, \"other\": {},",
    );
    assert_ne!(newer, text);
    fs::write(&document, newer).unwrap();
    let error = of_repository(Repository::open(scene.store()).unwrap_err());
    assert!(matches!(
        error,
        EncryptionError::UnknownFormat { found: 9, .. }
    ));
    let without = text.replace("\"encryption\"", "\"other\"");
    fs::write(&document, without).unwrap();
    let error = Repository::open(scene.store()).unwrap_err();
    assert!(error.to_string().contains("encryption"), "{error}");
}

#[test]
fn recipients_that_are_none_are_refused_and_secrets_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, recipient) = identity_in(dir.path(), "identity.txt");
    let secret = fs::read_to_string(identity).unwrap();
    let secret = secret.lines().last().unwrap().to_owned();
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(dir.path().join("repo")));
    let refused = |keys: &NewKeys| {
        let error = Repository::init_encrypted(Arc::clone(&store), keys).unwrap_err();
        let shown = format!("{error} {error:?} {}", error.hint().unwrap());
        assert!(!shown.contains(&secret), "{shown}");
        assert!(!dir.path().join("repo/pitr.json").exists());
        shown
    };
    for wrong in [secret.as_str(), "age1qqq", "ssh-ed25519 AAAA", ""] {
        refused(&NewKeys {
            recipients: vec![recipient.clone(), wrong.to_owned()],
            ..NewKeys::default()
        });
        let list = private_file(
            dir.path(),
            "list",
            format!("# a\n{recipient}\n{wrong}x\n").as_bytes(),
        );
        refused(&NewKeys {
            recipient_files: vec![list],
            ..NewKeys::default()
        });
    }
    assert!(refused(&NewKeys::default()).contains("at least one"));
    let list = private_file(
        dir.path(),
        "list",
        format!("\n# us\n {recipient} \n").as_bytes(),
    );
    let keys = NewKeys {
        recipient_files: vec![list],
        ..NewKeys::default()
    };
    let made = Repository::init_encrypted(Arc::clone(&store), &keys).unwrap();
    assert_eq!(
        made.into_repository().keys().unwrap(),
        [RepositoryKeyName::Recipient(recipient)]
    );
}

#[test]
fn no_secret_is_printed_or_stored_bare() {
    let scene = Scene::new();
    write(&scene, NAME);
    let repository = scene.unlocked();
    repository.unlock().unwrap();
    let identity = fs::read_to_string(&scene.identity).unwrap();
    let identity = identity.lines().last().unwrap().to_owned();
    let encryption = repository.encryption().unwrap().clone();
    let keys = KeySource {
        identity: Some(scene.identity.clone()),
        ..KeySource::default()
    };
    let secret = super::super::keyring::unlock(&scene.store(), &encryption, &keys).unwrap();
    let text = secret.to_text();
    let bare = text.trim();
    let shown = format!("{repository:?} {secret:?}");
    assert!(!shown.contains(bare) && !shown.contains(&identity));
    fn walk(folder: &Path, found: &mut Vec<u8>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.extend(fs::read(path).unwrap());
            }
        }
    }
    let mut stored = Vec::new();
    walk(&scene.root(), &mut stored);
    for needle in [bare, &identity, "content"] {
        assert!(!stored.windows(needle.len()).any(|w| w == needle.as_bytes()));
    }
}
