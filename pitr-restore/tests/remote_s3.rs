//! The whole loop on S3: archive, back up, destroy, restore. And nothing of
//! the keys anywhere.
#![cfg(feature = "s3")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests: a panic is how they report"
)]

#[cfg(test)]
mod original;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use original::{archive_all, insert, run, said, succeeded, values};
use pitr_store::{EntryKind, ObjectKey, S3Options, Secret, Store, StoreOptions, open_store};
use pitr_testbed::{
    Cluster, FaultProxy, Moto, PostgresInstall, TestDir, as_server_user, chown_to_server_user,
    program,
};

const SECRETS: [&str; 2] = [
    "hiddenSecretAccessKey0123456789",
    "hiddenSessionToken0123456789",
];

/// The commands, with a configuration file that holds the keys.
struct Scene {
    places: TestDir,
    archive: PathBuf,
    restore: PathBuf,
    config: PathBuf,
    proxy: FaultProxy,
    moto: Moto,
    /// All that any command has said.
    said: std::cell::RefCell<String>,
}

impl Scene {
    /// `None`, with a line that says why, where there is no S3 server.
    fn start() -> Option<Self> {
        let moto = Moto::start()
            .map_err(|error| eprintln!("skipped: {error}"))
            .ok()?;
        moto.make_bucket("backups").unwrap();
        let proxy = FaultProxy::start(moto.address()).unwrap();
        let places = TestDir::new().unwrap();
        let archive = places.reachable(program("pitr-archive").unwrap()).unwrap();
        let restore = places
            .reachable(env!("CARGO_BIN_EXE_pitr-restore"))
            .unwrap();
        let config = places.join("pitr.toml");
        let scene = Self {
            places,
            archive,
            restore,
            config,
            proxy,
            moto,
            said: std::cell::RefCell::default(),
        };
        scene.configure("backups");
        Some(scene)
    }

    fn configure(&self, bucket: &str) {
        self.configure_with(bucket, "");
    }

    /// With more settings.
    fn configure_with(&self, bucket: &str, more: &str) {
        let [secret, token] = SECRETS;
        let text = format!(
            "repo = \"s3://{bucket}/pg/main\"\n{more}[s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\n\
             access_key_id = \"AKIDTEST\"\nsecret_access_key = \"{secret}\"\nsession_token = \"{token}\"\n\
             retry_seconds = 30\n",
            self.proxy.endpoint()
        );
        fs::write(&self.config, text).unwrap();
        chown_to_server_user(&self.config).unwrap();
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--config")
            .arg(&self.config)
            .args(words);
        command
    }

    fn output(&self, program: &Path, words: &[&str]) -> Output {
        let output = run(self.command(program, words));
        self.said.borrow_mut().push_str(&said(&output));
        output
    }

    fn archived(&self, words: &[&str]) -> Output {
        let output = self.output(&self.archive, words);
        succeeded(&output);
        output
    }

    fn store(&self) -> std::sync::Arc<dyn Store> {
        let options = StoreOptions {
            s3: S3Options {
                endpoint: Some(self.moto.endpoint()),
                access_key_id: Some("AKIDTEST".to_owned()),
                secret_access_key: Some(Secret::new("any")),
                ..S3Options::default()
            },
            ..StoreOptions::default()
        };
        open_store("s3://backups/pg/main", &options).unwrap()
    }
}

#[test]
fn a_cluster_comes_back_from_s3_alone_and_no_key_is_left_anywhere() {
    let Some(scene) = Scene::start() else { return };
    scene.archived(&["init", "--json"]);
    let mut cluster = Cluster::builder(&PostgresInstall::any().unwrap())
        .segment_size(1 << 20)
        .setting("archive_mode", "on")
        .setting(
            "archive_command",
            format!(
                "{} --config {} %p %f",
                scene.archive.display(),
                scene.config.display()
            ),
        )
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE TABLE t (v text)");
    insert(&cluster, "a");
    scene.archived(&["backup", "--dbname", &cluster.conninfo()]);
    insert(&cluster, "b");
    let time = insert(&cluster, "c");
    insert(&cluster, "d");
    archive_all(&cluster);
    scene.archived(&["list"]);
    let listed = scene.archived(&["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["repository"], "s3://backups/pg/main");
    assert_eq!(listed["warnings"], serde_json::json!([]));

    let install = cluster.install().clone();
    drop(cluster);
    let restored = |name: &str, words: &[&str]| {
        let to = scene.places.join(name);
        let mut all = vec!["--to", to.to_str().unwrap()];
        all.extend_from_slice(words);
        succeeded(&scene.output(&scene.restore, &all));
        let mut copy = Cluster::adopt(&install, &to).unwrap();
        copy.start().unwrap();
        copy.wait_for_sql("SELECT NOT pg_is_in_recovery()", Duration::from_secs(60))
            .unwrap();
        (copy, to)
    };
    let (latest, folder) = restored("latest", &[]);
    assert_eq!(values(&latest), "a,b,c,d");
    let point = ["--target-time", &time, "--target-action", "promote"];
    let (at_time, _) = restored("time", &point);
    assert_eq!(values(&at_time), "a,b,c");

    // what fails says nothing of the keys either
    scene.configure("elsewhere");
    for words in [&["list"][..], &["list", "--json"], &["init"], &["-v"]] {
        assert!(!scene.output(&scene.archive, words).status.success());
    }
    scene.configure("backups");
    no_secret_in("what the commands said", scene.said.borrow().as_bytes());
    no_secret_in_folder(&folder);
    let objects = no_secret_in_store(scene.store().as_ref(), None);
    assert!(objects > 5, "{objects} objects");
    for seen in scene.proxy.seen() {
        no_secret_in("a request's line", seen.path.as_bytes());
        // the token goes with every request, the secret with none
        assert!(!seen.head.contains(SECRETS[0]), "{}", seen.path);
    }
}

#[test]
fn a_cluster_comes_back_from_an_encrypted_repository_on_s3() {
    let Some(scene) = Scene::start() else { return };
    let key = scene.places.file("key", [201; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let key = key.to_str().unwrap();
    let made = scene.archived(&["init", "--encrypt-key-file", key, "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let public_key = made["repositories"][0]["encryption"]["public_key"]
        .as_str()
        .or_else(|| made["encryption"]["public_key"].as_str());
    // what archives knows whose repository it must be, and has no key to read it
    let expected = format!("repository_key = \"{}\"\n", public_key.unwrap());
    scene.configure_with("backups", &expected);
    let mut cluster = Cluster::builder(&PostgresInstall::any().unwrap())
        .segment_size(1 << 20)
        .setting("archive_mode", "on")
        .setting(
            "archive_command",
            format!(
                "{} --config {} %p %f",
                scene.archive.display(),
                scene.config.display()
            ),
        )
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE TABLE t (v text)");
    insert(&cluster, "a needle in the haystack");
    scene.archived(&["backup", "--dbname", &cluster.conninfo()]);
    insert(&cluster, "b");
    archive_all(&cluster);
    let install = cluster.install().clone();
    drop(cluster);

    let store = scene.store();
    let mut objects = Vec::new();
    stored_objects(store.as_ref(), None, &mut objects);
    let documents = ["pitr.json", "claim.json", "cluster.json"];
    let mut encrypted = 0;
    for object in &objects {
        let bytes = store.read_whole(object, 1 << 30).unwrap();
        assert!(!contains(&bytes, b"a needle in the haystack"), "{object}");
        let name = object.as_str();
        if name.starts_with("keys/") || documents.iter().any(|plain| name.ends_with(plain)) {
            continue;
        }
        assert!(bytes.starts_with(b"pitrenc"), "{name}");
        encrypted += 1;
    }
    assert!(encrypted > 5, "{objects:?}");

    let to = scene.places.join("copy");
    let words = ["--to", to.to_str().unwrap()];
    let refused = scene.output(&scene.restore, &words);
    assert_eq!(refused.status.code(), Some(1));
    let text = said(&refused);
    assert!(
        text.contains("is encrypted, and no identity was named"),
        "{text}"
    );
    let with_key = [&words[..], &["--encryption-key-file", key]].concat();
    succeeded(&scene.output(&scene.restore, &with_key));
    let mut copy = Cluster::adopt(&install, &to).unwrap();
    copy.start().unwrap();
    copy.wait_for_sql("SELECT NOT pg_is_in_recovery()", Duration::from_secs(60))
        .unwrap();
    assert_eq!(values(&copy), "a needle in the haystack,b");
}

/// The key of every object.
fn stored_objects(store: &dyn Store, folder: Option<&ObjectKey>, found: &mut Vec<ObjectKey>) {
    for entry in store.list(folder).unwrap() {
        let key = match folder {
            Some(folder) => folder.join(&entry.name).unwrap(),
            None => ObjectKey::parse(&entry.name).unwrap(),
        };
        match entry.kind {
            EntryKind::Folder => stored_objects(store, Some(&key), found),
            _ => found.push(key),
        }
    }
}

#[test]
fn no_key_stands_among_the_arguments_of_a_process() {
    let Some(scene) = Scene::start() else { return };
    scene.archived(&["init"]);
    // holds the command at its first answer, to look at it
    scene.proxy.inject(
        "GET",
        "pitr.json",
        1,
        pitr_testbed::Fault::StallAnswer { after_bytes: 0 },
    );
    let mut command = as_server_user(scene.command(&scene.archive, &["list"])).unwrap();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut waited = 0;
    while scene.proxy.left() > 0 && waited < 3000 {
        std::thread::sleep(Duration::from_millis(10));
        waited += 1;
    }
    assert_eq!(scene.proxy.left(), 0, "the command never asked");
    let mut looked = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(arguments) = fs::read(entry.path().join("cmdline")) {
            no_secret_in("arguments", &arguments);
            let config = scene.config.to_str().unwrap().as_bytes();
            looked += usize::from(contains(&arguments, config));
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(looked > 0, "the command was not seen");
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[track_caller]
fn no_secret_in(place: &str, bytes: &[u8]) {
    for secret in SECRETS {
        assert!(!contains(bytes, secret.as_bytes()), "a key is in {place}");
    }
}

fn no_secret_in_folder(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            no_secret_in_folder(&entry.path());
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            no_secret_in(&entry.path().display().to_string(), &bytes);
        }
    }
}

/// Looks into every object, as it is stored; gives their number.
fn no_secret_in_store(store: &dyn Store, folder: Option<&ObjectKey>) -> usize {
    let mut count = 0;
    for entry in store.list(folder).unwrap() {
        let key = match folder {
            Some(folder) => folder.join(&entry.name).unwrap(),
            None => ObjectKey::parse(&entry.name).unwrap(),
        };
        match entry.kind {
            EntryKind::Folder => count += no_secret_in_store(store, Some(&key)),
            _ => {
                let bytes = store.read_whole(&key, 1 << 30).unwrap();
                no_secret_in(key.as_str(), &bytes);
                count += 1;
            }
        }
    }
    count
}
