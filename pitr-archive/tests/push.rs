//! What a push takes, what it refuses, and what it says.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

mod scene;

use std::path::Path;
use std::process::{Command, Output};

use pitr_testbed::{TestDir, as_server_user, chown_to_server_user};
use scene::small_disk::SmallDisk;
use scene::{Repo, Segment};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A refusal: 1, an error that says `why`, and not a byte changed.
fn refuses(repo: &Repo, path: &Path, name: &str, why: &str) {
    let before = repo.files();
    let output = repo.push(path, name);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{name}: {said}");
    assert!(said.starts_with("ERROR:  "), "{name}: {said}");
    assert!(said.contains(why), "{name}: said {said:?}, not {why:?}");
    assert_eq!(repo.files(), before, "{name}: something changed");
}

#[test]
fn a_segment_is_archived_from_an_empty_environment_and_any_folder() {
    let segment = Segment::real();
    let relative = format!("pg_wal/{}", segment.name());
    let data = segment.data_directory();
    for (folder, path) in [
        (data.as_path(), Path::new(&relative)),
        (Path::new("/"), segment.path()),
        (Path::new("/tmp"), segment.path()),
    ] {
        let repo = Repo::init();
        let output = repo
            .push_command(path, segment.name())
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(text(&output), "", "a push that succeeds says nothing");
        assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
    }
}

#[test]
fn every_codec_stores_a_segment_that_its_stock_tool_reads() {
    let segment = Segment::real();
    for codec in ["zstd", "zstd:3", "xz:1", "none"] {
        let repo = Repo::init();
        let output = repo
            .push_command(segment.path(), segment.name())
            .args(["--compression", codec])
            .output()
            .unwrap();
        assert!(output.status.success(), "{codec}: {}", text(&output));
        assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
    }
}

#[test]
fn the_same_bytes_again_are_success_whatever_codec_holds_them() {
    let segment = Segment::real();
    for first in ["zstd", "xz:0", "none"] {
        let repo = Repo::init();
        for codec in [first, "zstd", "xz:0", "none"] {
            let output = repo
                .push_command(segment.path(), segment.name())
                .args(["--compression", codec])
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{first} {codec}: {}",
                text(&output)
            );
        }
        assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
    }
}

#[test]
fn other_bytes_under_the_same_name_are_refused_and_both_are_named() {
    let segment = Segment::real();
    for codec in ["zstd", "xz:0", "none"] {
        let repo = Repo::init();
        let output = repo
            .push_command(segment.path(), segment.name())
            .args(["--compression", codec])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let mut other = segment.bytes();
        let last = other.len() - 1;
        other[last] ^= 1;
        let other = Segment::made_of(segment.name(), &other);
        refuses(&repo, other.path(), other.name(), segment.name());
        let said = text(&repo.push(other.path(), other.name()));
        assert!(said.contains(&other.path().display().to_string()), "{said}");
        assert!(said.contains(&repo.path().display().to_string()), "{said}");
        assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
    }
}

#[test]
fn what_is_certainly_wrong_is_refused_and_nothing_changes() {
    let segment = Segment::real();
    let (name, whole) = (segment.name().to_owned(), segment.bytes());
    let repo = Repo::init();
    assert!(repo.push(segment.path(), &name).status.success());
    // the next name of the same timeline, so that nothing is there to compare with
    let next = format!("{}{:02X}", &name[..22], 0x7f);

    let made = |name: &str, bytes: &[u8]| Segment::made_of(name, bytes);
    let empty = made(&next, b"");
    refuses(&repo, empty.path(), &next, "empty");
    let cut = made(&next, &whole[..whole.len() / 2]);
    refuses(&repo, cut.path(), &next, "524288 bytes");
    let garbage = made(&next, &vec![0xa5; 1 << 20]);
    refuses(
        &repo,
        garbage.path(),
        &next,
        "does not begin with a WAL page",
    );
    let text_file = made(&next, &b"not WAL at all\n".repeat(70_000));
    refuses(
        &repo,
        text_file.path(),
        &next,
        "does not begin with a WAL page",
    );
    let renamed = made(&next, &whole);
    refuses(&repo, renamed.path(), &next, &name);
    let mut foreign = whole.clone();
    foreign[24] ^= 1; // xlp_sysid
    let foreign = made(&next, &foreign);
    refuses(&repo, foreign.path(), &name, "belongs to cluster");
    let mut older_name = name.clone();
    older_name.replace_range(..8, "00000001");
    let mut later = whole.clone();
    later[4] = 2; // xlp_tli
    let later = made(&older_name, &later);
    refuses(&repo, later.path(), &older_name, "timeline 2");
}

#[test]
fn a_name_that_postgresql_never_archives_is_refused() {
    let segment = Segment::real();
    let repo = Repo::init();
    for name in [
        "../000000010000000000000001",
        "000000010000000000000001/..",
        "00000001000000000000000G",
        "000000010000000000000001.gz",
        "RECOVERYXLOG",
        "xlogtemp.123",
        "archive_status",
        "",
        "..",
        "00000000.history",
    ] {
        refuses(&repo, segment.path(), name, "");
    }
}

#[test]
fn a_push_never_makes_a_repository() {
    let segment = Segment::real();
    let repo = Repo::nowhere();
    refuses(&repo, segment.path(), segment.name(), "is not a repository");
    assert!(!repo.path().exists());
    // a mount point whose disk is not mounted is an empty folder
    std::fs::create_dir(repo.path()).unwrap();
    refuses(&repo, segment.path(), segment.name(), "is not a repository");
    assert!(
        text(&repo.push(segment.path(), segment.name())).contains("HINT:  Is the disk mounted?")
    );
    assert_eq!(repo.files(), Vec::<String>::new());
}

#[test]
fn a_repository_of_an_unknown_format_is_left_alone() {
    let segment = Segment::real();
    for document in ["{\"format\":2}", "{}", "", "not json", "{\"format\":\"1\"}"] {
        let repo = Repo::init();
        std::fs::write(repo.path().join("pitr.json"), document).unwrap();
        refuses(&repo, segment.path(), segment.name(), "pitr.json");
    }
}

#[test]
fn a_directory_where_a_file_should_be_is_an_error_that_says_so() {
    let segment = Segment::real();
    let repo = Repo::init();
    refuses(
        &repo,
        &segment.data_directory(),
        segment.name(),
        "directory",
    );
    refuses(
        &repo,
        Path::new("/nonexistent"),
        segment.name(),
        "could not open",
    );

    // in the place of the object itself
    assert!(repo.push(segment.path(), segment.name()).status.success());
    let object = repo
        .files()
        .into_iter()
        .find(|file| file.ends_with(".zst"))
        .unwrap();
    let object = repo.path().join(object);
    std::fs::remove_file(&object).unwrap();
    std::fs::create_dir(&object).unwrap();
    refuses(&repo, segment.path(), segment.name(), ".zst");
}

#[test]
fn a_store_that_may_not_be_written_is_an_error_and_loses_nothing() {
    let segment = Segment::real();
    let place = TestDir::new().unwrap();
    let binary = place.reachable(env!("CARGO_BIN_EXE_pitr-archive")).unwrap();
    let repo = place.join("repo");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.env_clear().env("PITR_REPO", &repo).args(arguments);
        as_server_user(command).unwrap().output().unwrap()
    };
    assert!(run(&["init"]).status.success());
    let source = place.file(segment.name(), segment.bytes()).unwrap();
    let source = source.to_str().unwrap();
    let mode = |path: &Path, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for denied in [0o500, 0o000] {
        mode(&repo, denied);
        let output = run(&[source, segment.name()]);
        mode(&repo, 0o700);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(
            text(&output).contains("ermission denied"),
            "{}",
            text(&output)
        );
    }
    assert!(run(&[source, segment.name()]).status.success());
    chown_to_server_user(&repo).unwrap();
}

#[test]
fn objects_are_private_to_their_owner_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    let segment = Segment::real();
    let repo = Repo::nowhere();
    let push = format!(
        "umask 000 && {0} --repo {1} init && {0} --repo {1} {2} {3}",
        env!("CARGO_BIN_EXE_pitr-archive"),
        repo.path().display(),
        segment.path().display(),
        segment.name()
    );
    let output = Command::new("sh").args(["-c", &push]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for file in repo.files() {
        let path = repo.path().join(&file);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600, "{file}");
        assert_eq!(mode(path.parent().unwrap()), 0o700, "above {file}");
    }
}

#[test]
fn text_files_are_archived_and_checked() {
    let segment = Segment::real();
    let (timeline, name) = ("00000002", segment.name());
    let repo = Repo::init();
    assert!(repo.push(segment.path(), name).status.success());
    let stored = |name: &str, content: &str| {
        let path = segment.data_directory().join("pg_wal").join(name);
        std::fs::write(&path, content).unwrap();
        let output = repo.push(&path, name);
        assert!(output.status.success(), "{name}: {}", text(&output));
        assert_eq!(repo.stored(name).unwrap(), content.as_bytes());
    };
    stored(
        &format!("{timeline}.history"),
        "1\t0/2000000\tno recovery target specified\n",
    );
    let backup = format!("{name}.00000028.backup");
    let start = u32::from_str_radix(&name[16..], 16).unwrap() << 20;
    stored(
        &backup,
        &format!(
            "START WAL LOCATION: 0/{:X} (file {name})\nSTOP WAL LOCATION: 0/{:X} (file {name})\n\
             CHECKPOINT LOCATION: 0/{:X}\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
             START TIME: 2026-11-20 07:25:00 UTC\nLABEL: x\nSTART TIMELINE: 1\n\
             STOP TIME: 2026-11-20 07:26:00 UTC\nSTOP TIMELINE: 1\n",
            start + 0x28,
            start + 0x100,
            start + 0x60,
        ),
    );
    let wrong = Segment::made_of("00000003.history", b"no history\n");
    refuses(&repo, wrong.path(), "00000003.history", "00000003.history");
}

#[test]
fn a_text_file_goes_to_the_cluster_of_its_data_directory() {
    let segment = Segment::real();
    let path = segment.data_directory().join("pg_wal/00000002.history");
    std::fs::write(&path, "1\t0/2000000\treason\n").unwrap();
    // the first file of a cluster may be a history file: pg_control says whose
    let repo = Repo::init();
    let output = repo.push(&path, "00000002.history");
    assert!(output.status.success(), "{}", text(&output));
    // whoever also names the cluster must name that one, in a new repository too
    let known = repo.files().into_iter().find_map(|file| {
        let folder = file.strip_suffix("/cluster.json")?;
        Some(folder.rsplit('/').next()?.to_owned())
    });
    for (named, taken) in [(known.unwrap(), true), ("1".to_owned(), false)] {
        let repo = Repo::init();
        let output = repo
            .push_command(&path, "00000002.history")
            .args(["--system-identifier", &named])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), taken, "{}", text(&output));
        assert_eq!(repo.stored("00000002.history").is_some(), taken);
    }
    // without a data directory near, nobody can know
    let repo = Repo::init();
    let lone = Segment::made_of("00000002.history", b"1\t0/2000000\treason\n");
    refuses(&repo, lone.path(), lone.name(), "holds no cluster yet");
}

#[test]
fn a_damaged_history_hides_nothing_else_from_the_list() {
    let segment = Segment::real();
    let path = segment.data_directory().join("pg_wal/00000002.history");
    std::fs::write(&path, "1\t0/2000000\treason\n").unwrap();
    let repo = Repo::init();
    assert!(repo.push(segment.path(), segment.name()).status.success());
    assert!(repo.push(&path, "00000002.history").status.success());
    let stored = repo.files();
    let stored = stored.iter().find(|f| f.ends_with(".history")).unwrap();
    std::fs::write(repo.path().join(stored), "no history\n").unwrap();
    for arguments in [&["list"][..], &["list", "--json"]] {
        let output = repo.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains(segment.name()), "{shown}");
        assert!(
            shown.contains("is not the history of timeline 2"),
            "{shown}"
        );
    }
}

#[test]
fn a_partial_segment_is_archived_beside_the_whole_one() {
    let segment = Segment::real();
    let partial = format!("{}.partial", segment.name());
    let path = segment.data_directory().join("pg_wal").join(&partial);
    std::fs::copy(segment.path(), &path).unwrap();
    let repo = Repo::init();
    assert!(repo.push(&path, &partial).status.success());
    assert!(repo.push(segment.path(), segment.name()).status.success());
    assert!(repo.stored(&partial).unwrap() == segment.bytes());
    assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
}

#[test]
fn another_cluster_needs_leave_to_enter() {
    let (one, two) = (Segment::real(), Segment::real_of_another_cluster());
    let repo = Repo::init();
    assert!(repo.push(one.path(), one.name()).status.success());
    refuses(&repo, two.path(), two.name(), "belongs to cluster");
    let output = repo
        .command()
        .args(["init", "--add", "--pgdata"])
        .arg(two.data_directory())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(repo.push(two.path(), two.name()).status.success());
    assert!(repo.push(one.path(), one.name()).status.success());
}

#[test]
fn of_two_archivers_with_other_bytes_exactly_one_wins() {
    let segment = Segment::real();
    let mut bytes = segment.bytes();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let other = Segment::made_of(segment.name(), &bytes);
    for round in 0..12 {
        let repo = Repo::init();
        // the cluster's own documents are not what is raced for here
        let codecs = [["zstd", "zstd"], ["zstd", "xz:0"], ["none", "zstd"]][round % 3];
        let start = |segment: &Segment, codec: &str| {
            repo.push_command(segment.path(), segment.name())
                .args(["--compression", codec])
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let (first, second) = (start(&segment, codecs[0]), start(&other, codecs[1]));
        let (first, second) = (
            first.wait_with_output().unwrap(),
            second.wait_with_output().unwrap(),
        );
        let won = [first.status.success(), second.status.success()];
        assert_eq!(
            won.iter().filter(|won| **won).count(),
            1,
            "{} {}",
            text(&first),
            text(&second)
        );
        let stored = repo.stored(segment.name()).unwrap();
        assert!(
            stored
                == if won[0] {
                    segment.bytes()
                } else {
                    other.bytes()
                }
        );
        assert_eq!(repo.debris(), Vec::<String>::new());
    }
}

#[test]
fn of_two_archivers_with_the_same_bytes_both_succeed() {
    let segment = Segment::real();
    for _ in 0..8 {
        let repo = Repo::init();
        let start = || {
            repo.push_command(segment.path(), segment.name())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        for racer in [start(), start(), start()] {
            let output = racer.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
        }
        assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
        assert_eq!(repo.debris(), Vec::<String>::new());
    }
}

#[test]
fn a_full_disk_is_named_with_the_bytes_missing_and_holds_no_debris() {
    let Some(disk) = SmallDisk::mount("256k") else {
        eprintln!("SKIPPED: only root can mount a small tmpfs");
        return;
    };
    let segment = Segment::real();
    let repo = Repo::nowhere();
    std::os::unix::fs::symlink(disk.path(), repo.path()).unwrap();
    assert!(repo.command().arg("init").status().unwrap().success());
    let output = repo
        .push_command(segment.path(), segment.name())
        .args(["--compression", "none"])
        .output()
        .unwrap();
    let left = repo.debris();
    let said = text(&output);
    // room is made, and the next run succeeds
    disk.grow("4m");
    let again = repo.push(segment.path(), segment.name());
    let stored = repo.stored(segment.name());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no space") || said.contains("No space"),
        "{said}"
    );
    assert!(said.contains(segment.name()), "{said}");
    assert!(said.contains("bytes"), "{said}");
    assert_eq!(left, Vec::<String>::new());
    assert!(again.status.success(), "{}", text(&again));
    assert!(stored.unwrap() == segment.bytes());
}

#[test]
fn a_push_of_16_mib_stays_under_64_mib_of_memory() {
    let segment = Segment::real_of_16_mib();
    for codec in ["zstd", "zstd:6", "none"] {
        let repo = Repo::init();
        let push = repo.push_command(segment.path(), segment.name());
        // RLIMIT_DATA counts every private writable page: more than that and
        // the process could not go on
        let output = Command::new("prlimit")
            .arg("--data=67108864")
            .arg(push.get_program())
            .args(push.get_args())
            .args(["--compression", codec])
            .env("PITR_REPO", repo.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{codec}: {}", text(&output));
        assert!(repo.stored(segment.name()).unwrap() == segment.bytes());
    }
}

#[test]
fn every_failure_of_the_archiver_is_between_1_and_125() {
    let repo = Repo::nowhere();
    for arguments in [
        &[][..],
        &["one"],
        &["a", "b", "c"],
        &["--no-such-flag"],
        &["--config", "/nonexistent", "a", "b"],
        &["--repo", "relative", "a", "000000010000000000000001"],
        &[
            "--repo",
            "ftp://nowhere",
            "/etc/passwd",
            "000000010000000000000001",
        ],
        &[
            "--compression",
            "zip",
            "/etc/passwd",
            "000000010000000000000001",
        ],
    ] {
        let output = repo.command().args(arguments).output().unwrap();
        let code = output.status.code().unwrap();
        assert!((1..=125).contains(&code), "{arguments:?}: {code}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
