//! The whole loop on repositories that lie on servers: archive, back up,
//! destroy, restore; and no secret on the way.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a panic is how a test fails"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pitr_testbed::{
    Cluster, FtpServer, PostgresInstall, SshServer, StopMode, TestDir, as_server_user, program,
};

/// The commands with a configuration file that names a remote repository.
struct Remote {
    dir: TestDir,
    archive: PathBuf,
    restore: PathBuf,
    config: PathBuf,
    /// What must not be seen anywhere.
    secrets: Vec<String>,
    /// Where the server keeps the repository's files.
    files: PathBuf,
}

impl Remote {
    fn new(config: &str, secrets: Vec<String>, files: PathBuf) -> Self {
        let dir = TestDir::new().unwrap();
        let archive = dir.reachable(program("pitr-archive").unwrap()).unwrap();
        let restore = dir.reachable(env!("CARGO_BIN_EXE_pitr-restore")).unwrap();
        let config = dir.file("pitr.toml", config).unwrap();
        Self {
            dir,
            archive,
            restore,
            config,
            secrets,
            files,
        }
    }

    /// Runs a command to its end; it must succeed, and neither its output nor
    /// its arguments nor those of its children may hold a secret.
    fn run(&self, program: &Path, words: &[&str]) -> String {
        let output = self.attempt(program, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &said
    }

    fn attempt(&self, program: &Path, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .arg("--config")
            .arg(&self.config)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = as_server_user(command).unwrap().spawn().unwrap();
        let arguments = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
        self.hold_no_secret("the arguments", &arguments);
        let output = child.wait_with_output().unwrap();
        self.hold_no_secret("stdout", &output.stdout);
        self.hold_no_secret("stderr", &output.stderr);
        output
    }

    fn hold_no_secret(&self, what: &str, bytes: &[u8]) {
        for secret in &self.secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{what} shows a secret");
        }
    }

    /// Looks for secrets in every file below `folder`; counts the files.
    fn search(&self, folder: &Path) -> usize {
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                count += self.search(&path);
            } else if kind.is_file() {
                self.hold_no_secret(&path.display().to_string(), &fs::read(&path).unwrap());
                count += 1;
            }
        }
        count
    }

    /// Archives, backs up, destroys, restores; the restored server has every
    /// row. Gives back what `list` says.
    fn the_whole_loop(&self) -> String {
        let install = PostgresInstall::any().unwrap();
        self.run(&self.archive, &["init"]);
        let command = format!(
            "{} --config {} %p %f",
            self.archive.display(),
            self.config.display()
        );
        let mut cluster = Cluster::builder(&install)
            .segment_size(1 << 20)
            .setting("archive_mode", "on")
            .setting("archive_command", command)
            .setting("max_wal_size", "4MB")
            .setting("min_wal_size", "2MB")
            .create()
            .unwrap();
        cluster.start().unwrap();
        cluster.execute("CREATE TABLE t (v int)");
        cluster.execute("INSERT INTO t SELECT generate_series(1, 20000)");
        self.run(&self.archive, &["backup", "--dbname", &cluster.conninfo()]);
        cluster.execute("INSERT INTO t SELECT generate_series(20001, 40000)");
        cluster.archive_all().unwrap();
        self.hold_no_secret("the server's log", cluster.log().as_bytes());
        cluster.kill_9();
        drop(cluster);

        let listed = self.run(&self.archive, &["list"]);
        let json = self.run(&self.archive, &["list", "--json"]);
        assert!(json.contains("backups"), "{json}");

        let to = self.dir.join("restored");
        let to_text = to.display().to_string();
        self.run(&self.restore, &["--to", &to_text, "--dry-run"]);
        self.run(&self.restore, &["--to", &to_text]);
        let mut restored = Cluster::adopt(&install, &to).unwrap();
        restored.start().unwrap();
        restored
            .wait_for_sql("SELECT NOT pg_is_in_recovery()", Duration::from_secs(60))
            .unwrap();
        assert_eq!(
            restored.sql("SELECT count(*), sum(v) FROM t"),
            "40000|800020000"
        );
        restored.stop(StopMode::Immediate).unwrap();
        self.hold_no_secret("the restored server's log", restored.log().as_bytes());
        let settings = fs::read(to.join("postgresql.auto.conf")).unwrap();
        self.hold_no_secret("the recovery settings", &settings);
        assert!(self.search(&self.files) > 5);

        // a file that was never archived is absent for certain; with the
        // server gone that is doubt
        let absent = "0000000100000000000000EE";
        let target = self.dir.join("fetched").display().to_string();
        let hook = self.attempt(&self.restore, &[absent, &target]);
        assert_eq!(hook.status.code(), Some(1));
        listed
    }

    fn the_hook_doubts(&self) {
        let target = self.dir.join("fetched").display().to_string();
        let hook = self.attempt(&self.restore, &["0000000100000000000000EE", &target]);
        assert!(hook.status.code().is_some_and(|code| code > 125));
    }
}

#[test]
fn a_cluster_comes_back_from_an_sftp_server_and_no_secret_is_seen() {
    let Some(mut server) = SshServer::start(&["ed25519"], "").unwrap() else {
        return;
    };
    let passphrase = "open-sesame-4711";
    let changed = Command::new("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", passphrase, "-f"])
        .arg(server.identity_file())
        .status()
        .unwrap();
    assert!(changed.success());
    pitr_testbed::chown_to_server_user(&server.identity_file()).unwrap();
    let file = server.dir().file("passphrase", passphrase).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let key = fs::read_to_string(server.identity_file()).unwrap();
    let key = key.lines().nth(3).unwrap().to_owned();
    let config = format!(
        "repo = \"{}\"\n[sftp]\nidentity_file = \"{}\"\npassphrase_file = \"{}\"\nknown_hosts = \"{}\"\nretry_seconds = 3\n",
        server.address("repo").unwrap(),
        server.identity_file().display(),
        file.display(),
        server.known_hosts().display(),
    );
    let files = server.folder();
    let remote = Remote::new(&config, vec![passphrase.to_owned(), key], files);
    let listed = remote.the_whole_loop();
    assert!(!listed.contains("cannot refuse to overwrite"), "{listed}");
    server.kill();
    remote.the_hook_doubts();
}

#[test]
fn a_cluster_comes_back_from_an_ftps_server_and_no_secret_is_seen() {
    let Some(mut server) = FtpServer::start(true, &[]).unwrap() else {
        return;
    };
    let config = format!(
        "repo = \"{}\"\n[ftp]\nnetrc = \"{}\"\nca_file = \"{}\"\nretry_seconds = 3\n",
        server.address("repo"),
        server.netrc().display(),
        server.ca_file().display(),
    );
    let secrets = vec![FtpServer::PASSWORD.to_owned()];
    let remote = Remote::new(&config, secrets, server.folder());
    let listed = remote.the_whole_loop();
    assert!(listed.contains("cannot refuse to overwrite"), "{listed}");
    server.kill();
    remote.the_hook_doubts();
}

/// Every command fails, says so with a hint, and shows no secret while it runs.
fn fails_and_shows_nothing(remote: &Remote, said: &str, listing: &[&str]) {
    let fetched = remote.dir.join("fetched").display().to_string();
    let file = remote.config.display().to_string();
    let attempts: [(&Path, &[&str]); 3] = [
        (&remote.archive, listing),
        (&remote.archive, &[&file, "00000002.history"]),
        (&remote.restore, &["000000010000000000000001", &fetched]),
    ];
    for (program, words) in attempts {
        let output = remote.attempt(program, words);
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}: {shown}");
        assert!(shown.contains(said), "{words:?}: {shown}");
        assert!(shown.contains("HINT:"), "{words:?}: {shown}");
        if program == remote.restore {
            assert!(output.status.code().is_some_and(|code| code > 125));
        }
    }
}

const WRONG: &str = "hunter2-is-not-it";

/// A file with a password that opens nothing.
fn wrong_password(dir: &TestDir) -> PathBuf {
    let file = dir.file("wrong", WRONG).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    file
}

#[test]
fn a_wrong_password_for_an_ftps_server_is_shown_nowhere() {
    let Some(server) = FtpServer::start(true, &[]).unwrap() else {
        return;
    };
    let login = fs::read_to_string(server.netrc()).unwrap();
    let mut words = login.split_whitespace().skip_while(|word| *word != "login");
    let config = format!(
        "repo = \"{}\"\n[ftp]\npassword_file = \"{}\"\nca_file = \"{}\"\nretry_seconds = 3\n",
        server
            .address("repo")
            .replace("://", &format!("://{}@", words.nth(1).unwrap())),
        wrong_password(server.dir()).display(),
        server.ca_file().display(),
    );
    let secrets = vec![WRONG.to_owned(), FtpServer::PASSWORD.to_owned()];
    let remote = Remote::new(&config, secrets, server.folder());
    fails_and_shows_nothing(&remote, "did not let user", &["list", "--json"]);
}

#[test]
fn a_wrong_password_for_an_sftp_server_is_shown_nowhere() {
    let Some(server) = SshServer::start(&["ed25519"], "").unwrap() else {
        return;
    };
    let config = format!(
        "repo = \"{}\"\n[sftp]\npassword_file = \"{}\"\nknown_hosts = \"{}\"\nretry_seconds = 3\n",
        server.address("repo").unwrap(),
        wrong_password(server.dir()).display(),
        server.known_hosts().display(),
    );
    let remote = Remote::new(&config, vec![WRONG.to_owned()], server.folder());
    fails_and_shows_nothing(&remote, "did not let user", &["init"]);
}

#[test]
fn a_password_in_the_address_is_refused_and_never_repeated() {
    let dir = TestDir::new().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for address in [
        "sftp://backup:pa-7/ss-7@vault.example/srv",
        "sftp://backup:7/pa-7/ss-7@vault.example/srv",
        "ftp://backup:pa-7@vault.example/srv",
        "ftps://backup:21/pa-7@vault.example/srv",
        "s3://key:pa-7@bucket/pg",
        "s3://key:pa-7/ss-7@bucket/pg",
    ] {
        let archive = program("pitr-archive").unwrap();
        let restore = PathBuf::from(env!("CARGO_BIN_EXE_pitr-restore"));
        let to = dir.join("to").display().to_string();
        let attempts: [(&Path, &[&str]); 5] = [
            (&archive, &["init", "--json"]),
            (&archive, &["list", "--json"]),
            (&archive, &[file, "00000002.history"]),
            (&restore, &["000000010000000000000001", &to]),
            (&restore, &["--to", &to, "--dry-run"]),
        ];
        for (program, words) in attempts {
            let output = Command::new(program)
                .env_clear()
                .env("PITR_CONFIG", "/dev/null")
                .env("PITR_REPO", address)
                .args(words)
                .output()
                .unwrap();
            let shown = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!output.status.success(), "{words:?}: {shown}");
            assert!(shown.contains("address"), "{words:?}: {shown}");
            assert!(shown.contains("HINT:"), "{words:?}: {shown}");
            assert!(
                !shown.contains("pa-7") && !shown.contains("ss-7"),
                "{shown}"
            );
        }
    }
}
