//! Archiving ahead: what a call stores beside its own file, and what the calls that
//! come for it make of that.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

mod scene;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use pitr_testbed::{Cluster, PostgresInstall, TestDir, chown_to_server_user};
use scene::Repo;
use scene::backlog::Backlog;
use scene::small_disk::SmallDisk;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

/// Refused with 1 and an error that says `why`.
fn fails(output: &Output, why: &str) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("ERROR:  ") && said.contains(why), "{said}");
}

/// Inode and time of change of everything in the repository.
fn fingerprint(repo: &Repo) -> Vec<(String, u64, i64, i64)> {
    let files = repo.files().into_iter().map(|file| {
        let metadata = fs::metadata(repo.path().join(&file)).unwrap();
        (
            file,
            metadata.ino(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        )
    });
    files.collect()
}

/// The objects of segments, by name.
fn stored_names(repo: &Repo) -> Vec<String> {
    let files = repo.files().into_iter();
    let mut names: Vec<String> = files
        .filter(|file| file.contains("/wal/"))
        .map(|file| file.rsplit('/').next().unwrap().replace(".zst", ""))
        .collect();
    names.sort();
    names
}

fn object(repo: &Repo, name: &str) -> PathBuf {
    let file = repo.files().into_iter().find(|file| file.contains(name));
    repo.path().join(file.unwrap())
}

/// The files in which is written down what was stored ahead.
fn records(backlog: &Backlog, repo: &Repo) -> Vec<PathBuf> {
    let folder = backlog.state(repo).join("look-ahead");
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn one_call_stores_what_is_ready_and_the_next_ones_find_it_done() {
    let (repo, backlog) = (Repo::init(), Backlog::of(10));
    assert_eq!(succeeds(&backlog.push(&repo, &backlog.names()[0])), "");
    assert_eq!(stored_names(&repo), backlog.names());
    backlog.check_stored(&repo, "after the first call");
    assert_eq!(repo.debris(), Vec::<String>::new());

    let before = fingerprint(&repo);
    let record = fs::metadata(&records(&backlog, &repo)[0]).unwrap().ino();
    // a call that compares contents says that it found the file
    assert_eq!(backlog.archive_all(&repo), "");
    assert_eq!(fingerprint(&repo), before, "a later call has written");
    let records = records(&backlog, &repo);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(fs::metadata(&records[0]).unwrap().ino(), record);
    for (path, mode) in [(&records[0], 0o600), (&backlog.state(&repo), 0o700)] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode);
    }
}

#[test]
fn every_codec_and_an_encrypted_repository_take_a_batch() {
    let backlog = Backlog::of(5);
    for codec in ["zstd:3", "xz:0", "none"] {
        let repo = Repo::init();
        for name in backlog.names() {
            let mut command = backlog.command(&repo, name);
            let output = command.args(["--compression", codec]).output().unwrap();
            assert_eq!(succeeds(&output), "", "{codec}");
        }
        backlog.check_stored(&repo, codec);
        assert_eq!(stored_names(&repo).len(), 5);
    }
    let repo = Repo::nowhere();
    let key = backlog.data_directory().join("key");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let init = repo
        .command()
        .arg("init")
        .arg("--encrypt-key-file")
        .arg(&key)
        .output();
    succeeds(&init.unwrap());
    // the archiving host cannot read what it has stored
    assert_eq!(succeeds(&backlog.push(&repo, &backlog.names()[0])), "");
    assert_eq!(stored_names(&repo), backlog.names());
    let before = fingerprint(&repo);
    assert_eq!(backlog.archive_all(&repo), "");
    assert_eq!(fingerprint(&repo), before);
    // and the digest that it left is the content's: known without any record
    fs::remove_dir_all(backlog.state(&repo)).unwrap();
    let again = backlog.push(&repo, &backlog.names()[3]);
    assert!(succeeds(&again).contains("with the same content"));
}

#[test]
fn a_file_that_changed_since_is_not_acknowledged() {
    for codec in ["zstd", "none"] {
        let (repo, backlog) = (Repo::init(), Backlog::of(4));
        let push = |name: &str| {
            let mut command = backlog.command(&repo, name);
            command.args(["--compression", codec]).output().unwrap()
        };
        succeeds(&push(&backlog.names()[0]));
        let (name, path) = (&backlog.names()[2], backlog.path(&backlog.names()[2]));
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let stored = repo.stored(name).unwrap();
        let mut other = stored.clone();
        let last = other.len() - 1;
        other[last] ^= 1;
        fs::write(&path, &other).unwrap();
        // the same name, size and time
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        fails(&push(name), "archived already with other content");
        assert!(repo.stored(name).unwrap() == stored, "{codec}");
    }
}

#[test]
fn an_object_that_is_gone_or_replaced_since_is_not_taken_for_the_one_that_was_stored() {
    let (repo, backlog) = (Repo::init(), Backlog::of(4));
    let push = |name: &str| {
        let mut command = backlog.command(&repo, name);
        command.args(["--compression", "none"]).output().unwrap()
    };
    succeeds(&push(&backlog.names()[0]));
    let (gone, replaced) = (&backlog.names()[1], &backlog.names()[2]);
    fs::remove_file(object(&repo, gone)).unwrap();
    assert_eq!(succeeds(&push(gone)), "");
    assert!(repo.stored(gone).unwrap() == backlog.bytes(gone));

    // as large, as old, and another content
    let object = object(&repo, replaced);
    let modified = fs::metadata(&object).unwrap().modified().unwrap();
    let mut other = backlog.bytes(replaced);
    other[9000] ^= 1;
    fs::remove_file(&object).unwrap();
    fs::write(&object, &other).unwrap();
    fs::File::open(&object)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fails(&push(replaced), "archived already with other content");

    // and so for a repository that was made anew at the same place
    fs::remove_dir_all(repo.path()).unwrap();
    succeeds(&repo.command().arg("init").output().unwrap());
    succeeds(&push(&backlog.names()[3]));
    assert!(repo.stored(&backlog.names()[3]).unwrap() == backlog.bytes(&backlog.names()[3]));
}

#[test]
fn behind_a_file_that_fails_nothing_is_stored_and_its_own_call_says_why() {
    let (repo, backlog) = (Repo::init(), Backlog::of(10));
    let names = backlog.names();
    let whole = backlog.bytes(&names[3]);
    let mut foreign = whole.clone();
    foreign[24] ^= 1; // xlp_sysid
    fs::write(backlog.path(&names[3]), &foreign).unwrap();
    assert_eq!(succeeds(&backlog.push(&repo, &names[0])), "");
    assert_eq!(stored_names(&repo), names[..3]);
    for name in &names[..3] {
        assert_eq!(succeeds(&backlog.push(&repo, name)), "");
        backlog.done(name);
    }
    for _ in 0..2 {
        let failed = backlog.push(&repo, &names[3]);
        fails(&failed, "belongs to cluster");
    }
    // its neighbours are none the better for it
    assert_eq!(stored_names(&repo), names[..3]);
    assert_eq!(repo.debris(), Vec::<String>::new());
    fs::write(backlog.path(&names[3]), &whole).unwrap();
    backlog.archive_all(&repo);
    assert_eq!(stored_names(&repo), names);
    backlog.check_stored(&repo, "at the end");
}

#[test]
fn a_conflict_in_the_middle_stops_the_batch_and_is_told_by_its_own_call() {
    let (repo, backlog) = (Repo::init(), Backlog::of(6));
    let names = backlog.names();
    let whole = backlog.bytes(&names[2]);
    let mut other = whole.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(backlog.path(&names[2]), &other).unwrap();
    let mut alone = backlog.command(&repo, &names[2]);
    succeeds(&alone.args(["--look-ahead", "1"]).output().unwrap());
    assert_eq!(stored_names(&repo), names[2..3]);
    fs::write(backlog.path(&names[2]), &whole).unwrap();
    assert_eq!(succeeds(&backlog.push(&repo, &names[0])), "");
    assert_eq!(stored_names(&repo), names[..3]);
    let failed = backlog.push(&repo, &names[2]);
    fails(&failed, "archived already with other content");
}

#[test]
fn a_damaged_segment_is_left_to_the_call_that_warns_of_it() {
    let (repo, backlog) = (Repo::init(), Backlog::of(5));
    let names = backlog.names();
    let mut damaged = backlog.bytes(&names[2]);
    // in the first record behind the long header
    damaged[70] ^= 1;
    fs::write(backlog.path(&names[2]), &damaged).unwrap();
    assert_eq!(succeeds(&backlog.push(&repo, &names[0])), "");
    assert_eq!(stored_names(&repo), names[..2]);
    let said = succeeds(&backlog.push(&repo, &names[2]));
    assert!(
        said.contains("WARNING:  ") && said.contains("is damaged at"),
        "{said}"
    );
    // from there on the way is free
    assert_eq!(stored_names(&repo), names);
    backlog.check_stored(&repo, "with the damaged one");
}

#[test]
fn nothing_but_histories_is_stored_beside_a_file_that_fails() {
    let (repo, mut backlog) = (Repo::init(), Backlog::of(6));
    let names = backlog.names().to_vec();
    // the repository has other content under the name that is asked for
    let whole = backlog.bytes(&names[0]);
    let mut other = whole.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(backlog.path(&names[0]), &other).unwrap();
    let mut first = backlog.command(&repo, &names[0]);
    succeeds(&first.args(["--look-ahead", "0"]).output().unwrap());
    fs::write(backlog.path(&names[0]), &whole).unwrap();
    let history = b"1\t0/3000000\tno recovery target specified\n";
    backlog.add("00000002.history", history);
    for _ in 0..2 {
        let failed = backlog.push(&repo, &names[0]);
        fails(&failed, "archived already with other content");
        assert_eq!(stored_names(&repo), [&names[0], "00000002.history"]);
        assert_eq!(repo.debris(), Vec::<String>::new());
    }
    // one that is refused by its first page is refused before anything is begun
    let repo = Repo::init();
    let mut foreign = whole;
    foreign[24] ^= 1; // xlp_sysid
    fs::write(backlog.path(&names[0]), &foreign).unwrap();
    succeeds(&backlog.push(&repo, &names[1]));
    fails(&backlog.push(&repo, &names[0]), "belongs to cluster");
}

#[test]
fn histories_go_first_and_a_bad_one_holds_up_everything_but_the_own_file() {
    let (repo, mut backlog) = (Repo::init(), Backlog::of(4));
    let names = backlog.names().to_vec();
    backlog.add("00000002.history", b"this is no history\n");
    assert_eq!(succeeds(&backlog.push(&repo, &names[0])), "");
    assert_eq!(stored_names(&repo), names[..1]);
    fails(&backlog.push(&repo, "00000002.history"), "00000002.history");

    let history = b"1\t0/3000000\tno recovery target specified\n";
    fs::write(backlog.path("00000002.history"), history).unwrap();
    assert_eq!(succeeds(&backlog.push(&repo, "00000002.history")), "");
    let mut all = names.clone();
    all.push("00000002.history".to_owned());
    all.sort();
    assert_eq!(stored_names(&repo), all);
    for name in &all {
        let again = succeeds(&backlog.push(&repo, name));
        // the one that was pushed by itself was not written down
        let is_first = name == &names[0];
        assert!(again.is_empty() || is_first, "{name}: {again}");
    }
}

#[test]
fn without_what_was_written_down_contents_are_compared() {
    let backlog = Backlog::of(6);
    type Lose = (&'static str, fn(&Path));
    let lose: [Lose; 4] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("emptied", |path| fs::write(path, "").unwrap()),
        ("cut", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("changed", |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (what, lose) in lose {
        let repo = Repo::init();
        succeeds(&backlog.push(&repo, &backlog.names()[0]));
        lose(&records(&backlog, &repo)[0]);
        let before = fingerprint(&repo);
        let said = succeeds(&backlog.push(&repo, &backlog.names()[1]));
        assert!(
            said.contains("is in the repository already"),
            "{what}: {said}"
        );
        assert_eq!(fingerprint(&repo), before, "{what}");
        // that call has written down what it saw of the others
        let said = succeeds(&backlog.push(&repo, &backlog.names()[2]));
        assert_eq!(said, "", "{what}");
        backlog.check_stored(&repo, what);
    }
}

#[test]
fn what_one_repository_or_cluster_has_proves_nothing_of_another() {
    let backlog = Backlog::of(4);
    let (one, other) = (Repo::init(), Repo::init());
    succeeds(&backlog.push(&one, &backlog.names()[0]));
    for name in backlog.names() {
        let mut command = backlog.command(&other, name);
        let output = command.arg("--state").arg(backlog.state(&one)).output();
        // clap: the flag must not be given twice
        assert!(!output.unwrap().status.success());
        let relative = format!("pg_wal/{name}");
        let mut command = other.push_command(Path::new(&relative), name);
        command.current_dir(backlog.data_directory());
        let output = command
            .arg("--state")
            .arg(backlog.state(&one))
            .output()
            .unwrap();
        assert_eq!(succeeds(&output), "");
        assert!(other.stored(name).unwrap() == backlog.bytes(name));
    }
    assert_eq!(records(&backlog, &one).len(), 2);
}

#[test]
fn it_can_be_turned_off_and_stays_out_of_the_data_directory() {
    let backlog = Backlog::of(4);
    for off in ["0", "1"] {
        let repo = Repo::init();
        let mut command = backlog.command(&repo, &backlog.names()[0]);
        assert_eq!(
            succeeds(&command.args(["--look-ahead", off]).output().unwrap()),
            ""
        );
        assert_eq!(stored_names(&repo), backlog.names()[..1]);
        assert!(!backlog.state(&repo).exists());
    }
    let repo = Repo::init();
    let mut command = backlog.command(&repo, &backlog.names()[0]);
    succeeds(&command.args(["--look-ahead", "3"]).output().unwrap());
    assert_eq!(stored_names(&repo), backlog.names()[..3]);

    // relative to where the server runs it: the data directory
    for state in ["state", "pg_wal/x/y"] {
        let repo = Repo::init();
        let path = format!("pg_wal/{}", backlog.names()[0]);
        let mut command = repo.push_command(Path::new(&path), &backlog.names()[0]);
        command
            .current_dir(backlog.data_directory())
            .args(["--state", state]);
        let said = succeeds(&command.output().unwrap());
        assert!(
            said.contains("WARNING:  ") && said.contains("lies in the data directory"),
            "{said}"
        );
        assert_eq!(stored_names(&repo), backlog.names()[..1]);
        assert!(!backlog.data_directory().join(state).exists());
    }
    // one that cannot be made stops nothing
    let repo = Repo::init();
    let file = repo.path().join("pitr.json");
    let mut command = repo.push_command(&backlog.path(&backlog.names()[0]), &backlog.names()[0]);
    let said = succeeds(&command.arg("--state").arg(file).output().unwrap());
    assert!(said.contains("archived one by one"), "{said}");
    // and where nobody has named one, nothing is said of it
    let mut command = repo.push_command(&backlog.path(&backlog.names()[1]), &backlog.names()[1]);
    let said = succeeds(
        &command
            .env("XDG_STATE_HOME", "/proc/none")
            .output()
            .unwrap(),
    );
    assert_eq!(said, "");
    assert_eq!(stored_names(&repo), backlog.names()[..2]);
}

#[test]
fn a_file_that_the_server_takes_away_meanwhile_is_no_failure() {
    let (repo, backlog) = (Repo::init(), Backlog::of(6));
    fs::remove_file(backlog.path(&backlog.names()[2])).unwrap();
    assert_eq!(succeeds(&backlog.push(&repo, &backlog.names()[0])), "");
    let mut expected = backlog.names().to_vec();
    expected.remove(2);
    assert_eq!(stored_names(&repo), expected);
}

#[test]
fn where_there_is_room_for_one_file_the_own_one_gets_it() {
    let Some(disk) = SmallDisk::mount("1400k") else {
        eprintln!("SKIPPED: only root can mount a small tmpfs");
        return;
    };
    let (repo, backlog) = (Repo::nowhere(), Backlog::of(8));
    std::os::unix::fs::symlink(disk.path(), repo.path()).unwrap();
    succeeds(&repo.command().arg("init").output().unwrap());
    let push = |name: &str| {
        let mut command = backlog.command(&repo, name);
        command.args(["--compression", "none"]).output().unwrap()
    };
    assert_eq!(succeeds(&push(&backlog.names()[0])), "");
    assert_eq!(stored_names(&repo), backlog.names()[..1]);
    assert_eq!(repo.debris(), Vec::<String>::new());
    let full = push(&backlog.names()[1]);
    assert_eq!(full.status.code(), Some(1));
    assert!(text(&full).contains("pace"), "{}", text(&full));
    assert_eq!(repo.debris(), Vec::<String>::new());
    disk.grow("20m");
    backlog.archive_all(&repo);
    backlog.check_stored(&repo, "with room again");
    assert_eq!(stored_names(&repo), backlog.names());
}

#[test]
fn two_archivers_at_the_same_backlog_store_every_file_once() {
    let (repo, backlog) = (Repo::init(), Backlog::of(10));
    let started: Vec<_> = [0, 0, 4, 7]
        .iter()
        .map(|first| {
            let mut command = backlog.command(&repo, &backlog.names()[*first]);
            command
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in started {
        succeeds(&child.wait_with_output().unwrap());
    }
    assert_eq!(stored_names(&repo), backlog.names());
    assert_eq!(repo.debris(), Vec::<String>::new());
    backlog.archive_all(&repo);
    backlog.check_stored(&repo, "after both");
}

#[test]
fn a_batch_of_16_mib_segments_stays_under_64_mib_of_memory() {
    let (repo, backlog) = (Repo::init(), Backlog::of_16_mib(5));
    let push = backlog.command(&repo, &backlog.names()[0]);
    // RLIMIT_DATA counts every private writable page
    let output = Command::new("prlimit")
        .arg("--data=67108864")
        .arg(push.get_program())
        .args(push.get_args())
        .env("PITR_REPO", repo.path())
        .current_dir(backlog.data_directory())
        .output()
        .unwrap();
    assert_eq!(succeeds(&output), "");
    assert_eq!(stored_names(&repo), backlog.names());
    backlog.check_stored(&repo, "with little memory");
}

#[test]
fn all_repositories_get_the_batch_and_each_is_asked_for_its_own_object() {
    let backlog = Backlog::of(6);
    let (one, other) = (Repo::init(), Repo::init());
    let push = |name: &str| {
        let mut command = backlog.command(&one, name);
        command.env_remove("PITR_REPO");
        command.arg("--repo").arg(one.path());
        command.arg("--repo").arg(other.path()).output().unwrap()
    };
    let names = backlog.names();
    assert_eq!(succeeds(&push(&names[0])), "");
    for repo in [&one, &other] {
        assert_eq!(stored_names(repo), names);
        backlog.check_stored(repo, "two repositories");
    }
    let before = fingerprint(&other);
    assert_eq!(succeeds(&push(&names[1])), "");
    assert_eq!(fingerprint(&other), before);
    // what one has lost it gets again, from the call that comes for it
    fs::remove_file(object(&other, &names[3])).unwrap();
    assert_eq!(succeeds(&push(&names[3])), "");
    assert!(other.stored(&names[3]).unwrap() == backlog.bytes(&names[3]));
    // what is other than it was is refused
    let mut changed = backlog.bytes(&names[4]);
    changed[9000] ^= 1;
    fs::write(backlog.path(&names[4]), &changed).unwrap();
    fails(&push(&names[4]), "archived already with other content");
}

#[test]
fn with_a_repository_that_is_down_the_others_get_what_is_required() {
    let backlog = Backlog::of(4);
    let repo = Repo::init();
    let config = backlog.data_directory().join("pitr.toml");
    let down = backlog.data_directory().join("not there");
    let text = format!("repo = [{:?}, {down:?}]\nrequired = 1\n", repo.path());
    fs::write(&config, text).unwrap();
    for name in backlog.names() {
        let mut command = backlog.command(&repo, name);
        command.env_remove("PITR_REPO").arg("--config").arg(&config);
        let said = succeeds(&command.output().unwrap());
        // every call says so of its own file, stored ahead or not
        assert!(
            said.contains("is behind") && said.contains(name.as_str()),
            "{said}"
        );
        assert_eq!(said.matches("WARNING:  ").count(), 1, "{said}");
    }
    backlog.check_stored(&repo, "one of two");
    assert_eq!(stored_names(&repo), backlog.names());
}

/// A server that could not archive for a while, and then can: how many calls had
/// something to store is seen by what they found and left.
#[test]
fn a_server_s_backlog_is_archived_by_few_calls_and_told_as_archived_by_each() {
    let install = PostgresInstall::any().unwrap();
    let dir = TestDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (repository, log, script) = (path("repo"), path("log"), path("archive"));
    let mut init = Command::new(env!("CARGO_BIN_EXE_pitr-archive"));
    succeeds(
        &init
            .arg("--repo")
            .arg(&repository)
            .arg("init")
            .output()
            .unwrap(),
    );
    fs::write(
        &script,
        format!(
            "#!/bin/sh\n\
             objects() {{ find {repo} -name '*.zst' -o -name '*.backup' | wc -l; }}\n\
             before=$(objects)\n\
             {pitr} --repo {repo} --state {state} --look-ahead-seconds 600 \"$1\" \"$2\" 2>>{said}\n\
             code=$?\n\
             echo \"$2 $code $before $(objects)\" >>{log}\n\
             exit $code\n",
            repo = repository.display(),
            pitr = env!("CARGO_BIN_EXE_pitr-archive"),
            state = path("state").display(),
            said = path("said").display(),
            log = log.display(),
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    chown_to_server_user(dir.path()).unwrap();

    let mut cluster = Cluster::builder(&install)
        .segment_size(1 << 20)
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .create()
        .unwrap();
    cluster.start().unwrap();
    let _ = cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 3000) i");
    for _ in 0..20 {
        let _ = cluster.sql("UPDATE t SET md5 = md5(md5)");
        let _ = cluster.sql("SELECT pg_switch_wal()");
    }
    let last = cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)");
    let failed = cluster.sql("SELECT failed_count FROM pg_stat_archiver");
    let wal = cluster.data_dir().join("pg_wal");
    let mut ready = fs::read_dir(wal.join("archive_status"))
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.strip_suffix(".ready")?.to_owned();
            let bytes = fs::read(wal.join(&name)).unwrap();
            Some((name, bytes))
        })
        .collect::<Vec<_>>();
    ready.sort();
    assert!(ready.len() >= 20, "{}", ready.len());

    let command = format!("{} %p %f", script.display());
    cluster.configure("archive_command", &command).unwrap();
    cluster.reload().unwrap();
    let _ = cluster.sql("SELECT pg_switch_wal()");
    let is_archived = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
    cluster
        .wait_for_sql(&is_archived, Duration::from_secs(120))
        .unwrap();

    let lines = fs::read_to_string(&log).unwrap();
    let calls: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    assert!(calls.iter().all(|call| call[1] == "0"), "{lines}");
    let of_backlog = calls.iter().take(ready.len());
    let working = of_backlog.filter(|call| call[2] != call[3]).count();
    assert_eq!(
        working, 1,
        "the backlog was stored by {working} calls:\n{lines}"
    );
    assert_eq!(fs::read_to_string(path("said")).unwrap(), "");

    // PostgreSQL heard of each by itself, in order, and of no failure more
    let archived: i64 = cluster
        .sql("SELECT archived_count FROM pg_stat_archiver")
        .parse()
        .unwrap();
    assert!(
        archived >= i64::try_from(ready.len()).unwrap(),
        "{archived}"
    );
    let names: Vec<&str> = calls.iter().map(|call| call[0]).collect();
    let mut in_order = names.clone();
    in_order.sort_unstable();
    assert_eq!(names, in_order);
    let now = cluster.sql("SELECT failed_count FROM pg_stat_archiver");
    let late: i64 = now.parse::<i64>().unwrap() - failed.parse::<i64>().unwrap();
    assert!((0..=3).contains(&late), "{failed} and then {now}");
    for (name, bytes) in &ready {
        let object = fs::read_dir(
            repository.join(cluster.sql("SELECT system_identifier FROM pg_control_system()")),
        )
        .unwrap()
        .next()
        .is_some();
        assert!(object);
        let found = Command::new("find")
            .arg(&repository)
            .args(["-name", &format!("{name}.zst")])
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        let stored = zstd::decode_all(&fs::read(found.trim()).unwrap()[..]).unwrap();
        assert!(stored == *bytes, "{name} differs");
    }
}
