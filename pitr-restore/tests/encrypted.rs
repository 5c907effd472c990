//! An encrypted repository: the server archives with public keys alone, and
//! nothing comes back without the key.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what the tests share is not seen as test code"
)]

#[cfg(test)]
mod original;
#[cfg(test)]
#[allow(dead_code, reason = "each test program uses another part of it")]
mod scratch;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use original::{Original, names, refused, run, said, succeeded, tamper, values};
use pitr_store::Repository;
use pitr_store::encryption::NewKeys;
use pitr_testbed::{PostgresInstall, StopMode, TestDir};
use scratch::Scratch;

const NEEDLE: &str = "a-needle-in-the-haystack";

/// Makes an identity with stock age-keygen; gives back its path and its
/// recipient. `None` where there is no age.
fn identity(places: &TestDir, name: &str) -> Option<(PathBuf, String)> {
    let Ok(made) = Command::new("age-keygen").output() else {
        eprintln!("skipped: age is not installed");
        return None;
    };
    let text = String::from_utf8(made.stdout).unwrap();
    let recipient = text.split("public key: ").nth(1).unwrap();
    let recipient = recipient.lines().next().unwrap().to_owned();
    let path = private(places, name, text.as_bytes());
    Some((path, recipient))
}

/// A file that the server's user alone can read.
fn private(places: &TestDir, name: &str, content: &[u8]) -> PathBuf {
    let path = places.file(name, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Every file below `folder`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Files at or below `place` that hold `needle`, by grep.
fn holding(place: &Path, needle: &str) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", "--", needle]).arg(place);
    let output = grep.output().unwrap();
    // 1: there is none
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}",
        said(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_cluster_is_archived_with_public_keys_alone_and_comes_back_with_the_identity() {
    let places = TestDir::new().unwrap();
    let Some((first, recipient)) = identity(&places, "identity") else {
        return;
    };
    let (second, second_recipient) = identity(&places, "second").unwrap();
    let (stranger, _) = identity(&places, "stranger").unwrap();
    let secret = fs::read_to_string(&first).unwrap();
    let secret = secret.lines().last().unwrap();
    let install = PostgresInstall::any().unwrap();
    let mut original =
        Original::start_in(places, &["--encrypt-to", &recipient], &install, |builder| {
            builder.setting("wal_compression", "off")
        });
    // in the table's file, and in the log, more than once
    original.cluster.execute(&format!(
        "INSERT INTO t SELECT '{NEEDLE}' FROM generate_series(1, 50)"
    ));
    original.cluster.execute("CHECKPOINT");
    let label = original.backup();
    original.insert("afterwards");
    original
        .cluster
        .execute("SELECT pg_create_restore_point('a-restore-point')");
    original.archive_all();

    // a key is added by its holder, and the data are not touched
    let cluster_folder = original.cluster_folder();
    let mut stored = Vec::new();
    files(&cluster_folder, &mut stored);
    let before: Vec<Vec<u8>> = stored.iter().map(|path| fs::read(path).unwrap()).collect();
    original.archive_verb(&[
        "key",
        "add",
        "--encrypt-to",
        &second_recipient,
        "--identity",
        first.to_str().unwrap(),
    ]);
    let after: Vec<Vec<u8>> = stored.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(before == after);

    // nothing lies there that says what it holds
    for needle in [
        NEEDLE,
        "a-restore-point",
        "START WAL LOCATION",
        "PITR",
        secret,
    ] {
        assert_eq!(holding(&original.repository, needle), "", "{needle}");
    }
    for path in &stored {
        if path.file_name().unwrap() != "cluster.json" {
            let bytes = fs::read(path).unwrap();
            assert_eq!(&bytes[..7], b"pitrenc", "{}", path.display());
        }
    }
    // (it would have been found: a plain copy of the table's file has it)
    let table = original.cluster.sql("SELECT pg_relation_filepath('t')");
    assert_ne!(
        holding(&original.cluster.data_dir().join(table), NEEDLE),
        ""
    );

    // the archiving host sees names, and no more
    let listed = |words: &[&str]| {
        let mut command = Command::new(original.archive_program());
        command.env_clear().arg("--repo").arg(&original.repository);
        command.args(["list", "--json"]).args(words);
        let output = run(command);
        succeeded(&output);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let sealed = listed(&[]);
    assert_eq!(sealed["readable"], false);
    assert_eq!(
        sealed["clusters"][0]["sealed_backups"][0]["label"],
        label.as_str()
    );
    assert!(sealed["clusters"][0]["timelines"][0]["ranges"][0]["segments"].as_u64() > Some(1));
    let readable = listed(&["--identity", second.to_str().unwrap()]);
    assert_eq!(
        readable["clusters"][0]["backups"][0]["label"],
        label.as_str()
    );
    assert!(readable["clusters"][0]["backups"][0]["wal_until"].is_string());
    for shown in [&sealed, &readable] {
        assert!(!shown.to_string().contains("SECRET-KEY"));
    }

    // everything is lost
    original.cluster.stop(StopMode::Immediate).unwrap();
    fs::remove_dir_all(original.cluster.data_dir()).unwrap();

    let to = original.place("nothing");
    refused(
        &original.restore(&to, &[]),
        &to,
        "is encrypted, and no identity was named",
    );
    let with = |path: &Path| vec!["--identity".to_owned(), path.to_str().unwrap().to_owned()];
    let restore = |to: &Path, path: &Path| {
        let words = with(path);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        original.restore(to, &words)
    };
    let output = restore(&to, &stranger);
    refused(&output, &to, "does not open repository");
    assert!(said(&output).contains(&recipient), "{}", said(&output));
    assert!(!said(&output).contains("SECRET-KEY"));

    // with the first identity, and with the one that was added
    for (name, path) in [("by-first", &first), ("by-second", &second)] {
        let words = with(path);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let copy = original.promoted(name, &words);
        let rows = copy.sql(&format!("SELECT count(*) FROM t WHERE v = '{NEEDLE}'"));
        assert_eq!(rows, "50");
        assert!(values(&copy).contains("afterwards"));
        let settings = fs::read_to_string(copy.data_dir().join("postgresql.auto.conf")).unwrap();
        assert!(
            settings.contains(&format!("--identity {}", path.display())),
            "{settings}"
        );
        assert!(!settings.contains("SECRET-KEY"));
    }
}

#[test]
fn an_archive_goes_from_plain_to_encrypted_and_back_and_comes_back_from_the_encrypted_alone() {
    let places = TestDir::new().unwrap();
    let Some((identity, recipient)) = identity(&places, "identity") else {
        return;
    };
    let identity = identity.to_str().unwrap();
    let install = PostgresInstall::any().unwrap();
    let mut original = Original::start_in(places, &[], &install, |builder| builder);
    original.backup();
    original
        .cluster
        .execute("CREATE TABLE lost AS SELECT generate_series(1, 55) AS id");
    original.insert("a");
    original.cluster.execute("DROP TABLE lost");
    original.archive_all();

    let plain = original.repository.clone();
    let [sealed, other, again] = ["sealed", "other", "again"].map(|name| original.place(name));
    let program = original.archive_program().to_owned();
    let archive = |repository: &Path, words: &[&str]| -> Output {
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.arg("--repo").arg(repository).args(words);
        run(command)
    };
    let sync = |from: &Path, to: &Path, words: &[&str]| {
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        let all = [&["sync", "--from", from, "--to", to, "--json"], words].concat();
        archive(&plain, &all)
    };
    let with = ["--identity", identity];
    for encrypted in [&sealed, &other] {
        succeeded(&archive(encrypted, &["init", "--encrypt-to", &recipient]));
    }
    succeeded(&archive(&again, &["init"]));

    // in by the public key alone, and once more finds the same there
    succeeded(&sync(&plain, &sealed, &[]));
    let level = sync(&plain, &sealed, &with);
    succeeded(&level);
    let level: serde_json::Value = serde_json::from_slice(&level.stdout).unwrap();
    let level = &level["syncs"][0]["clusters"][0];
    assert_eq!(level["wal_copied"], 0, "{level}");
    assert!(level["wal_present"].as_u64() > Some(1), "{level}");
    // out of it by the identity alone, into one with another key pair, and back to plain
    for (from, to) in [(&sealed, &other), (&other, &again)] {
        let output = sync(from, to, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let text = said(&output);
        assert!(
            text.contains("is encrypted, and no identity was named"),
            "{text}"
        );
        assert!(text.contains("HINT:"), "{text}");
        succeeded(&sync(from, to, &with));
    }
    let folder = original.cluster_folder();
    let mut stored = Vec::new();
    files(&folder, &mut stored);
    assert!(stored.len() > 5, "{stored:?}");
    for path in stored.iter().filter(|path| !path.ends_with("cluster.json")) {
        let in_repository = path.strip_prefix(&plain).unwrap();
        let bytes = fs::read(path).unwrap();
        assert!(
            fs::read(again.join(in_repository)).unwrap() == bytes,
            "{in_repository:?}"
        );
        let [one, two] = [&sealed, &other].map(|at| fs::read(at.join(in_repository)).unwrap());
        assert!(one.starts_with(b"pitrenc") && two.starts_with(b"pitrenc"));
        assert!(one[8..40] != two[8..40] && one.len() > bytes.len());
    }

    // a backup of PostgreSQL's own is brought in by the public key alone
    let taken = original.place("taken");
    let mut command = install.command("pg_basebackup").unwrap();
    command.args([
        "-c",
        "fast",
        "-Ft",
        "-Xs",
        "-d",
        &original.cluster.conninfo(),
        "-D",
    ]);
    succeeded(&command.arg(&taken).output().unwrap());
    succeeded(&archive(&other, &["import", taken.to_str().unwrap()]));
    original.insert("b");
    original.archive_all();
    // what the log has gained goes in by the public key alone, too; the backups
    // that both have are left uncompared then, which is said
    let of_cluster = |output: &Output| {
        succeeded(output);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["syncs"][0]["clusters"][0].clone()
    };
    let blind = sync(&plain, &other, &[]);
    assert!(
        said(&blind).contains("were not compared"),
        "{}",
        said(&blind)
    );
    let blind = of_cluster(&blind);
    assert!(blind["wal_copied"].as_u64() > Some(0), "{blind}");
    assert_eq!(blind["backups_not_compared"].as_array().unwrap().len(), 1);
    let seeing = of_cluster(&sync(&plain, &other, &with));
    assert_eq!(seeing["wal_copied"], 0, "{seeing}");
    assert_eq!(seeing["backups_present"], 1, "{seeing}");

    // all but that one is lost
    original.cluster.stop(StopMode::Immediate).unwrap();
    fs::remove_dir_all(original.cluster.data_dir()).unwrap();
    for gone in [&plain, &sealed, &again] {
        fs::remove_dir_all(gone).unwrap();
    }
    original.repository = other;
    assert_eq!(names(&original.cluster_folder().join("backups")).len(), 2);
    let mut sealed_files = Vec::new();
    files(&original.cluster_folder(), &mut sealed_files);
    for path in sealed_files
        .iter()
        .filter(|path| !path.ends_with("cluster.json"))
    {
        assert!(
            fs::read(path).unwrap().starts_with(b"pitrenc"),
            "{}",
            path.display()
        );
    }
    let refused = original.restore_verb(&["find", "--json"]);
    assert!(!refused.status.success());
    let text = said(&refused);
    assert!(
        text.contains("is encrypted, and no identity was named"),
        "{text}"
    );
    let found = original.restore_verb(&["find", "--json", "--identity", identity]);
    succeeded(&found);
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert!(
        found["findings"].to_string().contains("\"lost\""),
        "{found}"
    );
    let copy = original.promoted("copy", &with);
    assert_eq!(values(&copy), "a,b");
}

#[test]
fn the_hook_never_says_not_there_for_want_of_a_key() {
    let places = TestDir::new().unwrap();
    let key = private(&places, "key", &[201; 32]);
    let other = private(&places, "other", &[202; 32]);
    let exposed = private(&places, "exposed", &[201; 32]);
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    let missing = places.join("missing");
    let scratch = Scratch::made(|store| {
        let keys = NewKeys {
            key_files: vec![key.clone()],
            ..NewKeys::default()
        };
        Repository::init_encrypted(store, &keys).unwrap();
    });
    scratch.claim(scratch::SYSTEM_IDENTIFIER);
    const SEGMENT: &str = "000000010000000000000003";
    scratch.push(SEGMENT);
    let fetch = |key: &Path, name: &str| {
        let _ = fs::remove_file(scratch.data.join("pg_wal/RECOVERYXLOG"));
        scratch.fetch_with(&["--encryption-key-file", key.to_str().unwrap()], name)
    };
    fetch(&key, SEGMENT).is_segment(SEGMENT);
    for is_standby in [false, true] {
        if is_standby {
            scratch.signal("standby.signal");
        }
        // there and absent alike
        for name in [SEGMENT, "000000010000000000000009", "00000002.history"] {
            let _ = fs::remove_file(scratch.data.join("pg_wal/RECOVERYXLOG"));
            let nothing = scratch.fetch(name);
            nothing.is_refused(200, "is encrypted, and no identity was named");
            assert_eq!(
                nothing.stderr.matches("ERROR:").count(),
                1,
                "{}",
                nothing.stderr
            );
            assert!(nothing.stderr.contains("HINT:"), "{}", nothing.stderr);
            fetch(&other, name).is_refused(200, "does not open repository");
            fetch(&exposed, name).is_refused(200, "others can read it");
            fetch(&missing, name).is_refused(200, "could not read key file");
        }
        fetch(&key, "000000010000000000000009").is_refused(1, "");
    }
    // what is damaged stays so, and is told once
    tamper(&scratch.object(SEGMENT), |bytes| bytes[200_000] ^= 1);
    fetch(&key, SEGMENT).is_refused(200, "cannot be decrypted: chunk");
    // as does the wrapped key
    let folder = scratch.repository.join("keys");
    let folder = folder.join(&names(&folder)[0]);
    tamper(&folder.join(&names(&folder)[0]), |bytes| bytes[20] ^= 1);
    fetch(&key, SEGMENT).is_refused(200, "is damaged");
}
