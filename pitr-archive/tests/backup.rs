//! Base backups of real servers: whole, provable, restorable by hand, and
//! gone without a trace where they failed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use pitr_testbed::{Cluster, PostgresInstall, Site, StopMode, as_server_user};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn archiving_cluster(site: &Site, install: &PostgresInstall) -> Cluster {
    let mut cluster = site
        .archiving(Cluster::builder(install).segment_size(1 << 20))
        .checksums(true)
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster
}

fn backup(site: &Site, cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = site.archive().unwrap();
    command
        .args(["backup", "-d", &cluster.conninfo()])
        .args(arguments);
    site.run(&mut command).unwrap()
}

fn import(site: &Site, path: &Path) -> Output {
    site.run(site.archive().unwrap().arg("import").arg(path))
        .unwrap()
}

fn list(site: &Site) -> serde_json::Value {
    let output = site
        .run(site.archive().unwrap().args(["list", "--json"]))
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn labels(site: &Site) -> Vec<String> {
    list(site)["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|cluster| cluster["backups"].as_array().unwrap())
        .map(|backup| backup["label"].as_str().unwrap().to_owned())
        .collect()
}

/// Everything below `backups` in the repository.
fn backup_files(site: &Site) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&site.repo(), &mut found);
    found.retain(|path| path.components().any(|part| part.as_os_str() == "backups"));
    found
}

/// A shell as the server's user.
fn shell(script: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-euc", script]);
    as_server_user(command).unwrap().output().unwrap()
}

#[test]
fn a_rate_is_kept_by_the_server_and_refused_where_no_server_takes_it() {
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &PostgresInstall::any().unwrap());
    let begun = std::time::Instant::now();
    let output = backup(&site, &cluster, &["--max-rate", "8M", "--json"]);
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", text(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let raw_bytes = document["sizes"]["raw_bytes"].as_f64().unwrap();
    // the server lets the first interval pass before it measures
    let least = Duration::from_secs_f64(raw_bytes / f64::from(8 << 20) * 0.8);
    assert!(
        took > least,
        "{took:?} for {raw_bytes} bytes, {least:?} expected"
    );

    for rate in ["31k", "2G", "fast"] {
        let output = backup(&site, &cluster, &["--max-rate", rate]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    }
    std::fs::write(site.dir().path().join("pitr.toml"), "max_rate = \"2 TB\"\n").unwrap();
    let file = site.dir().path().join("pitr.toml").display().to_string();
    let output = backup(&site, &cluster, &["--config", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("max_rate"), "{}", text(&output));
    assert_eq!(labels(&site).len(), 1);
}

/// The script under "Restoring by hand", with the values of its first lines.
fn readme_recipe(values: &[(&str, &str)]) -> String {
    let readme = include_str!("../../README.md");
    let section = readme.split("## Restoring by hand").nth(1).unwrap();
    let script = section.split("```sh\n").nth(1).unwrap();
    let script = script.split("```").next().unwrap();
    let mut set = 0;
    let lines: Vec<String> = script
        .lines()
        .map(
            |line| match values.iter().find(|(name, _)| line.starts_with(name)) {
                Some((name, value)) => {
                    set += 1;
                    format!("{name}{value}")
                }
                None => line.to_owned(),
            },
        )
        .collect();
    assert_eq!(set, values.len(), "the README's script has other variables");
    lines.join("\n")
}

#[test]
fn a_backup_of_every_major_can_be_restored_by_hand_with_stock_tools() {
    for install in PostgresInstall::all_found() {
        let site = Site::new().unwrap();
        let cluster = archiving_cluster(&site, &install);
        let space = site.dir().folder("space").unwrap();
        cluster.execute(&format!(
            "CREATE TABLESPACE space LOCATION '{}'",
            space.display()
        ));
        cluster.execute("CREATE TABLE there TABLESPACE space AS SELECT generate_series(1, 1000) i");
        cluster.execute("CREATE TABLE here AS SELECT generate_series(1, 1000) i");
        let taken = backup(&site, &cluster, &[]);
        assert!(
            taken.status.success(),
            "{}: {}",
            install.version(),
            text(&taken)
        );
        cluster.execute("INSERT INTO here SELECT generate_series(1001, 2000)");
        cluster.archive_all().unwrap();
        let label = labels(&site).remove(0);
        let system = system_identifier(&site);
        let spaces = list(&site)["clusters"][0]["backups"][0]["tablespaces"]
            .as_u64()
            .unwrap();
        assert_eq!(spaces, 1);
        drop(cluster); // the server and its files are gone
        std::fs::remove_dir_all(&space).unwrap();

        let data = site.dir().join("data");
        let script = format!(
            "{recipe}\ncp {repo}/{system}/backups/{label}/backup_manifest {data}/",
            recipe = readme_recipe(&[
                ("REPO=", &format!("{}/{system}", site.repo().display())),
                ("BACKUP=", &label),
                ("PGDATA=", &data.display().to_string()),
            ]),
            repo = site.repo().display(),
            data = data.display(),
        );
        let output = shell(&script);
        assert!(
            output.status.success(),
            "{}: {}",
            install.version(),
            text(&output)
        );
        let verified = install
            .command("pg_verifybackup")
            .unwrap()
            .args(["-n", "-i", "fetch-wal"])
            .arg(&data)
            .output()
            .unwrap();
        // the links of tablespaces are made by the server from tablespace_map
        let said = text(&verified);
        assert!(
            verified.status.success() || said.contains("pg_tblspc"),
            "{}: {said}",
            install.version()
        );
        let mut restored = Cluster::adopt(&install, &data).unwrap();
        restored.start().unwrap();
        restored
            .wait_for_sql("SELECT NOT pg_is_in_recovery()", Duration::from_secs(60))
            .unwrap();
        assert_eq!(restored.sql("SELECT count(*) FROM here"), "2000");
        assert_eq!(restored.sql("SELECT count(*) FROM there"), "1000");
        restored.stop(StopMode::Fast).unwrap();
    }
}

#[test]
fn a_backup_whose_wal_does_not_come_names_the_segment_and_leaves_nothing() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &install);
    cluster.configure("archive_command", "false").unwrap();
    cluster.reload().unwrap();
    let output = backup(&site, &cluster, &["--wal-wait", "1"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("ERROR:  segment 0000000100000000000000"),
        "{said}"
    );
    assert!(said.contains("HINT:"), "{said}");
    assert_eq!(labels(&site), Vec::<String>::new());
    assert_eq!(backup_files(&site), Vec::<PathBuf>::new());
}

fn strace_works() -> bool {
    let works = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        eprintln!(
            "SKIPPED: strace is not installed or may not trace here (apt-get install strace)"
        );
    }
    works
}

fn backup_under(site: &Site, cluster: &Cluster, inject: &str) -> Output {
    let inner = site.archive().unwrap();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={inject}"))
        .arg(inner.get_program())
        .args(["backup", "-d", &cluster.conninfo()])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PITR_REPO", site.repo());
    as_server_user(command).unwrap().output().unwrap()
}

/// Folders of backups in the repository, complete or not.
fn backup_folders(site: &Site) -> Vec<String> {
    let folders: std::collections::BTreeSet<_> = backup_files(site)
        .iter()
        .filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()))
        .filter(|folder| folder.ends_with('Z'))
        .collect();
    folders.into_iter().collect()
}

#[test]
fn a_backup_killed_at_any_sync_or_rename_is_never_listed_and_the_next_cleans_up() {
    if !strace_works() {
        return;
    }
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &install);
    let mut killed = 0;
    for call in ["renameat2", "fsync", "mkdirat"] {
        for nth in 1.. {
            let before = labels(&site);
            let inject = format!("{call}:signal=KILL:when={nth}");
            let output = backup_under(&site, &cluster, &inject);
            if output.status.success() {
                // so many calls it does not make: it is an ordinary backup
                assert_eq!(labels(&site).len(), before.len() + 1);
                break;
            }
            killed += 1;
            // killed after its last rename it may be complete; never more, never half
            assert!(labels(&site).len() <= before.len() + 1, "{call} {nth}");
        }
    }
    assert!(killed >= 6, "only {killed} backups were killed");
    let complete = labels(&site);
    let output = backup(&site, &cluster, &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(labels(&site).len(), complete.len() + 1);
    assert_eq!(
        backup_folders(&site),
        labels(&site),
        "what killed backups left was not cleaned up"
    );
}

#[test]
fn a_backup_that_meets_an_error_of_the_disk_leaves_nothing() {
    if !strace_works() {
        return;
    }
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &install);
    let mut failed = 0;
    for (call, error) in [
        ("renameat2", "EIO"),
        ("fsync", "EIO"),
        ("mkdirat", "ENOSPC"),
    ] {
        for nth in 1.. {
            let inject = format!("{call}:error={error}:when={nth}");
            let output = backup_under(&site, &cluster, &inject);
            assert_eq!(backup_folders(&site), labels(&site), "{inject}");
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.code(), Some(1), "{inject}");
            assert!(
                text(&output).contains("ERROR:  "),
                "{inject}: {}",
                text(&output)
            );
            failed += 1;
        }
    }
    assert!(failed >= 6, "only {failed} backups failed");
}

#[test]
fn a_backup_onto_a_full_disk_says_what_is_missing_and_leaves_nothing() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &install);
    // the first segment claims the repository
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 20000) i");
    cluster
        .wait_for_sql(
            "SELECT archived_count > 0 FROM pg_stat_archiver",
            Duration::from_secs(60),
        )
        .unwrap();
    // all but the backups goes on
    let backups = site.repo().join(system_identifier(&site)).join("backups");
    std::fs::create_dir_all(&backups).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs"])
        .arg(&backups)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("SKIPPED: only root can mount a small tmpfs");
        return;
    }
    let output = backup(&site, &cluster, &[]);
    let (left, listed) = (backup_files(&site), labels(&site));
    let _ = Command::new("umount").arg("-l").arg(&backups).status();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no space") || said.contains("No space"),
        "{said}"
    );
    // whichever of its files met the end of the disk first
    assert!(
        said.contains(&backups.display().to_string()) && said.contains("missing"),
        "{said}"
    );
    assert_eq!(listed, Vec::<String>::new());
    assert_eq!(left, Vec::<PathBuf>::new());
}

fn system_identifier(site: &Site) -> String {
    list(site)["clusters"][0]["system_identifier"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn debris_that_cannot_be_removed_stops_no_backup() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &install);
    assert!(backup(&site, &cluster, &[]).status.success());
    // an unfinished backup by somebody else
    let backups = site.repo().join(system_identifier(&site)).join("backups");
    let left = backups.join("20200101T000000Z");
    std::fs::create_dir_all(left.join("deep/in")).unwrap();
    let mut foreign = std::fs::metadata(&left).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut foreign, 0o555);
    std::fs::set_permissions(&left, foreign).unwrap();
    let output = backup(&site, &cluster, &[]);
    let said = text(&output);
    if !left.exists() {
        eprintln!("SKIPPED: this user may remove everything");
        return;
    }
    assert!(output.status.success(), "{said}");
    assert!(said.contains("WARNING:  could not remove"), "{said}");
    assert_eq!(labels(&site).len(), 2);
}

#[test]
fn a_standby_can_be_backed_up_while_its_primary_archives() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let primary = archiving_cluster(&site, &install);
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let copy = site.dir().join("standby");
    let copied = install
        .command("pg_basebackup")
        .unwrap()
        .args(["-R", "-Xs", "-c", "fast", "-d", &primary.conninfo(), "-D"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", text(&copied));
    let mut standby = Cluster::adopt(&install, &copy).unwrap();
    standby.configure("archive_mode", "off").unwrap();
    standby.start().unwrap();
    // what the backup ends in is archived only when the primary goes on
    let switching = std::thread::scope(|scope| {
        let taken = scope.spawn(|| backup(&site, &standby, &["--json"]));
        while !taken.is_finished() {
            primary.execute("INSERT INTO t VALUES (0)");
            primary.execute("SELECT pg_switch_wal()");
            std::thread::sleep(Duration::from_millis(300));
        }
        taken.join().unwrap()
    });
    assert!(switching.status.success(), "{}", text(&switching));
    let info: serde_json::Value = serde_json::from_slice(&switching.stdout).unwrap();
    assert_eq!(info["from"], "standby");
    assert_eq!(labels(&site).len(), 1);
}

#[test]
fn backups_of_pg_basebackup_are_brought_in_whatever_their_form() {
    for install in PostgresInstall::all_found() {
        let site = Site::new().unwrap();
        let cluster = archiving_cluster(&site, &install);
        let space = site.dir().folder("space").unwrap();
        cluster.execute(&format!(
            "CREATE TABLESPACE space LOCATION '{}'",
            space.display()
        ));
        cluster.execute("CREATE TABLE there TABLESPACE space AS SELECT generate_series(1, 1000) i");
        let moved = format!(
            "{}={}",
            space.display(),
            site.dir().join("space-of-copy").display()
        );
        let forms: [(&str, &[&str], Option<&str>); 7] = [
            ("tar", &["-Ft", "-Xs"], None),
            ("gz", &["-Ft", "-z", "-Xs"], None),
            (
                "fetch",
                &["-Ft", "-Xf", "--manifest-checksums=SHA256"],
                None,
            ),
            ("lz4", &["-Ft", "-Xs"], Some("lz4 -q --rm -m")),
            (
                "zst",
                &["-Ft", "-Xn", "--manifest-checksums=SHA512"],
                Some("zstd -q --rm"),
            ),
            ("xz", &["-Ft", "-Xs"], Some("xz -1")),
            ("plain", &["-Fp", "-Xs", "-T", &moved], None),
        ];
        // every form with one major, the two that differ in kind with each
        let all = install.major() == PostgresInstall::any().unwrap().major();
        let taken = |name: &str| all || ["gz", "plain"].contains(&name);
        let mut brought_in = 0;
        for (name, arguments, compress) in forms.into_iter().filter(|form| taken(form.0)) {
            brought_in += 1;
            let path = site.dir().join(name);
            let taken = install
                .command("pg_basebackup")
                .unwrap()
                .args(["-c", "fast", "-d", &cluster.conninfo(), "-D"])
                .arg(&path)
                .args(arguments)
                .output()
                .unwrap();
            assert!(taken.status.success(), "{name}: {}", text(&taken));
            if let Some(tool) = compress {
                let output = shell(&format!(
                    "cd {} && for f in *.tar; do {tool} $f; done",
                    path.display()
                ));
                assert!(output.status.success(), "{name}: {}", text(&output));
            }
            cluster.execute("SELECT pg_switch_wal()");
            let output = import(&site, &path);
            assert!(
                output.status.success(),
                "{} {name}: {}",
                install.version(),
                text(&output)
            );
        }
        assert_eq!(labels(&site).len(), brought_in);
    }
}

#[test]
fn a_backup_that_brings_its_wal_needs_no_archive() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let mut cluster = Cluster::builder(&install).create().unwrap();
    cluster.start().unwrap();
    let take = |name: &str, wal: &str| {
        let path = site.dir().join(name);
        let taken = install
            .command("pg_basebackup")
            .unwrap()
            .args(["-c", "fast", "-Ft", wal, "-d", &cluster.conninfo(), "-D"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(taken.status.success(), "{}", text(&taken));
        path
    };
    let whole = import(&site, &take("whole", "-Xs"));
    assert!(whole.status.success(), "{}", text(&whole));
    let lacking = import(&site, &take("lacking", "-Xn"));
    assert_eq!(lacking.status.code(), Some(1));
    assert!(
        text(&lacking).contains("ERROR:  segment 0000000100"),
        "{}",
        text(&lacking)
    );
    assert!(text(&lacking).contains("-X stream"), "{}", text(&lacking));
    assert_eq!(labels(&site).len(), 1);
    let listed = &list(&site)["clusters"][0]["backups"][0];
    assert_eq!(listed["brings_wal"], true);
    assert_eq!(listed["wal_until"], listed["stop_lsn"]);
}

#[test]
fn a_backup_that_is_not_what_its_manifest_says_is_refused() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let cluster = archiving_cluster(&site, &install);
    let good = site.dir().join("good");
    let taken = install
        .command("pg_basebackup")
        .unwrap()
        .args(["-c", "fast", "-Fp", "-Xs", "-d", &cluster.conninfo(), "-D"])
        .arg(&good)
        .output()
        .unwrap();
    assert!(taken.status.success(), "{}", text(&taken));
    let damages: [(&str, &str, &str); 12] = [
        (
            "an emptied segment",
            ": > $(ls pg_wal/0*[0-9A-F] | head -1)",
            "pg_wal/0",
        ),
        (
            "a segment that was cut off",
            "truncate -s -1 $(ls pg_wal/0*[0-9A-F] | head -1)",
            "pg_wal/0",
        ),
        (
            "a segment under another one's name",
            "cp $(ls pg_wal/0*[0-9A-F] | head -1) pg_wal/00000001000000000000000E",
            "pg_wal/00000001000000000000000E",
        ),
        (
            "a byte changed",
            "printf X | dd of=PG_VERSION conv=notrunc status=none",
            "PG_VERSION",
        ),
        ("a file grew", "echo >> postgresql.conf", "postgresql.conf"),
        (
            "a file is gone",
            "rm global/pg_filenode.map",
            "pg_filenode.map",
        ),
        ("a file more", "echo > base/1/99999", "base/1/99999"),
        (
            "a changed manifest",
            "sed -i s/Size/size/ backup_manifest",
            "manifest",
        ),
        (
            "an endless manifest",
            "ln -sf /dev/zero backup_manifest",
            "backup_manifest",
        ),
        ("no manifest", "rm backup_manifest", "backup_manifest"),
        ("no label", "rm backup_label", "backup_label"),
        (
            "a broken pg_control",
            "printf X | dd of=global/pg_control bs=1 seek=40 conv=notrunc status=none",
            "pg_control",
        ),
    ];
    for (what, damage, said) in damages {
        let output = shell(&format!(
            "cd {0} && rm -rf bad && cp -a good bad && cd bad && {damage}",
            site.dir().path().display()
        ));
        assert!(output.status.success(), "{what}: {}", text(&output));
        let output = import(&site, &site.dir().join("bad"));
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output));
        assert!(text(&output).contains(said), "{what}: {}", text(&output));
        assert_eq!(labels(&site), Vec::<String>::new(), "{what}");
        assert_eq!(backup_files(&site), Vec::<PathBuf>::new(), "{what}");
    }
    let output = import(&site, &good);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_password_opens_the_server_and_is_printed_nowhere() {
    let install = PostgresInstall::any().unwrap();
    let site = Site::new().unwrap();
    let mut cluster = site
        .archiving(Cluster::builder(&install).hba("local replication backup scram-sha-256"))
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE ROLE backup LOGIN REPLICATION PASSWORD 'sesame-4711'");
    let options = format!(
        "host={} port={} user=backup",
        cluster.socket_dir().display(),
        cluster.port()
    );
    let take = |password: Option<&str>| {
        let mut command = site.archive().unwrap();
        command.args(["backup", "--json", "-d", &options]);
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        site.run(&mut command).unwrap()
    };
    for wrong in [None, Some("guess-0815")] {
        let output = take(wrong);
        assert_eq!(output.status.code(), Some(1));
        assert!(!text(&output).contains("guess-0815"), "{}", text(&output));
        assert!(text(&output).contains("password"), "{}", text(&output));
    }
    let output = take(Some("sesame-4711"));
    assert!(output.status.success(), "{}", text(&output));
    let said = format!(
        "{}{}",
        text(&output),
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(!said.contains("sesame-4711"), "{said}");
    let grep = shell(&format!("! grep -r sesame-4711 {}", site.repo().display()));
    assert!(
        grep.status.success(),
        "{}",
        String::from_utf8_lossy(&grep.stdout)
    );
}
