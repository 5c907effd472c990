//! TLS with real servers, with certificates that the program openssl makes.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pitr_postgres::{
    BackupMember, BaseBackupOptions, CheckpointMode, ConnectError, ConnectFailure, ConnectOptions,
    Connection, Mode, TlsError,
};
use pitr_testbed::{Cluster, PostgresInstall, TestDir};

fn openssl(folder: &Path, words: &str) {
    let output = Command::new("openssl")
        .args(words.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256";
const SAN: &str = "subjectAltName=DNS:localhost,DNS:*.wild.example,IP:127.0.0.1";

/// Authorities and certificates in one folder.
struct Certificates {
    dir: TestDir,
}

impl Certificates {
    fn new() -> Self {
        let dir = TestDir::new().unwrap();
        for name in ["ca", "other"] {
            openssl(
                dir.path(),
                &format!(
                    "req -x509 -nodes {EC} -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"
                ),
            );
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A certificate signed by `ca`; of version 1 unless it has extensions.
    fn issue(&self, name: &str, subject: &str, key: &str, extensions: &str, more: &str) {
        openssl(
            self.dir.path(),
            &format!("req -new -nodes {key} -keyout {name}.key -out {name}.csr -subj {subject}"),
        );
        let mut words = format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt {more}"
        );
        if !extensions.is_empty() {
            fs::write(self.path(&format!("{name}.ext")), extensions).unwrap();
            words.push_str(&format!(" -extfile {name}.ext"));
        }
        openssl(self.dir.path(), &words);
        let key = self.path(&format!("{name}.key"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn issue_server(&self, name: &str) {
        self.issue(name, "/CN=ignored.example", EC, SAN, "-days 2");
    }

    /// Makes a server use a certificate from here on.
    fn install(&self, cluster: &mut Cluster, name: &str) {
        pitr_testbed::chown_to_server_user(self.dir.path()).unwrap();
        for (setting, file) in [
            ("ssl_cert_file", format!("{name}.crt")),
            ("ssl_key_file", format!("{name}.key")),
            ("ssl_ca_file", "ca.crt".to_owned()),
        ] {
            cluster
                .configure(setting, self.path(&file).to_str().unwrap())
                .unwrap();
        }
        cluster.configure("ssl", "on").unwrap();
        if cluster.is_running() {
            cluster.restart().unwrap();
        } else {
            cluster.start().unwrap();
        }
    }
}

fn options(cluster: &Cluster, more: &str, variables: &[(&str, &str)]) -> ConnectOptions {
    let environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    // a later host or user of `more` counts
    let conninfo = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=postgres dbname=postgres {more}",
        cluster.port()
    );
    ConnectOptions::resolve(Some(&conninfo), &environment).unwrap()
}

fn try_connect(cluster: &Cluster, more: &str) -> Result<Connection, ConnectError> {
    Connection::connect(&options(cluster, more, &[]), Mode::Sql)
}

/// Connects; gives whether the server says that the session is encrypted.
fn is_encrypted(cluster: &Cluster, more: &str) -> bool {
    let mut connection = try_connect(cluster, more).unwrap();
    let rows = connection
        .query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .unwrap();
    rows[0].get(0) == Some("t")
}

fn failure(cluster: &Cluster, more: &str) -> ConnectFailure {
    let mut error = try_connect(cluster, more).unwrap_err();
    assert_eq!(error.attempts.len(), 1, "{error}");
    *error.attempts.remove(0).failure
}

fn tls_failure(cluster: &Cluster, more: &str) -> TlsError {
    match failure(cluster, more) {
        ConnectFailure::Tls(error) => *error,
        other => panic!("{other}"),
    }
}

#[test]
fn each_sslmode_encrypts_and_verifies_as_much_as_libpq() {
    let certificates = Certificates::new();
    certificates.issue_server("server");
    let ca = certificates.path("ca.crt");
    let ca = ca.display();
    let other = certificates.path("other.crt");
    let other = other.display();
    for install in PostgresInstall::all_found() {
        let mut cluster = Cluster::builder(&install)
            .tcp()
            .hba("hostssl all only_ssl all trust")
            .hba("hostnossl all only_plain all trust")
            .hba("host all only_ssl,only_plain all reject")
            .create()
            .unwrap();
        // without TLS on the server
        cluster.start().unwrap();
        for mode in ["disable", "allow", "prefer"] {
            assert!(!is_encrypted(&cluster, &format!("sslmode={mode}")));
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = tls_failure(&cluster, &format!("sslmode={mode} sslrootcert={ca}"));
            assert!(matches!(error, TlsError::NotOffered { .. }), "{error}");
            assert!(error.hint().is_some());
        }
        // over the socket it does not matter
        let socket = cluster.conninfo();
        let local = ConnectOptions::resolve(
            Some(&format!("{socket} sslmode=verify-full")),
            &BTreeMap::new(),
        )
        .unwrap();
        Connection::connect(&local, Mode::Replication).unwrap();
        cluster.execute("CREATE ROLE only_ssl LOGIN; CREATE ROLE only_plain LOGIN");

        certificates.install(&mut cluster, "server");
        for (more, encrypted) in [
            ("sslmode=disable".to_owned(), false),
            ("sslmode=allow".to_owned(), false),
            ("sslmode=prefer".to_owned(), true),
            ("sslmode=require".to_owned(), true),
            (format!("sslmode=verify-ca sslrootcert={ca}"), true),
            (format!("sslmode=verify-full sslrootcert={ca}"), true),
            (
                format!("sslmode=verify-full sslrootcert={ca} host=127.0.0.1"),
                true,
            ),
            (
                format!("sslmode=verify-full sslrootcert={ca} host=db.wild.example"),
                true,
            ),
            (
                format!("sslmode=verify-ca sslrootcert={ca} host=wrong.example"),
                true,
            ),
            (
                format!("sslmode=verify-ca sslrootcert={ca} host=no_dns_name!"),
                true,
            ),
            (
                "sslmode=require ssl_min_protocol_version=TLSv1.3".to_owned(),
                true,
            ),
            (
                "sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(),
                true,
            ),
            // the other way where the first is closed
            ("sslmode=allow user=only_ssl".to_owned(), true),
            ("sslmode=prefer user=only_plain".to_owned(), false),
            // what cannot be verified is not trusted, and prefer does without
            (format!("sslmode=prefer sslrootcert={other}"), false),
        ] {
            assert_eq!(is_encrypted(&cluster, &more), encrypted, "{more}");
        }
        for host in ["wrong.example", "a.b.wild.example", "127.0.0.2"] {
            let more = format!("sslmode=verify-full sslrootcert={ca} host={host}");
            let error = tls_failure(&cluster, &more);
            assert!(matches!(error, TlsError::CertificateName(_)), "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "the server's certificate is for \"localhost\", \"*.wild.example\", \
                     \"127.0.0.1\", not for host \"{host}\""
                )
            );
        }
        // a root that is there is used, even where the mode does not demand one
        for mode in ["require", "verify-ca", "verify-full"] {
            let more = format!("sslmode={mode} sslrootcert={other}");
            let error = tls_failure(&cluster, &more);
            assert!(matches!(error, TlsError::CertificateUntrusted), "{error}");
            assert!(error.hint().unwrap().contains("root.crt"));
        }
        let error = tls_failure(&cluster, "sslrootcert=system");
        assert!(
            matches!(
                error,
                TlsError::CertificateUntrusted | TlsError::NoSystemRoots { .. }
            ),
            "{error}"
        );
        let error = tls_failure(&cluster, "sslmode=verify-ca sslrootcert=/nonexistent");
        assert!(matches!(error, TlsError::RootMissing { .. }), "{error}");
        let error = tls_failure(&cluster, "sslmode=verify-ca");
        assert!(
            matches!(error, TlsError::RootMissing { path: None, .. }),
            "{error}"
        );
        let key = certificates.path("server.key");
        let more = format!("sslmode=require sslrootcert={}", key.display());
        assert!(matches!(
            tls_failure(&cluster, &more),
            TlsError::File { .. }
        ));

        let direct = format!("sslnegotiation=direct sslmode=verify-full sslrootcert={ca}");
        if install.major() >= 17 {
            assert!(is_encrypted(&cluster, &direct));
        } else {
            assert!(try_connect(&cluster, &direct).is_err());
        }
        let refused = failure(&cluster, "sslmode=disable user=only_ssl");
        assert!(matches!(refused, ConnectFailure::Server(_)), "{refused}");
    }
}

#[test]
fn the_files_at_home_are_found() {
    let certificates = Certificates::new();
    certificates.issue_server("server");
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).tcp().create().unwrap();
    certificates.install(&mut cluster, "server");
    let home = TestDir::new().unwrap();
    home.folder(".postgresql").unwrap();
    let variables = [
        ("HOME", home.path().to_str().unwrap()),
        ("PGSSLMODE", "verify-full"),
    ];
    let connect = |name: &str| {
        let root = home.join(".postgresql/root.crt");
        fs::copy(certificates.path(name), root).unwrap();
        Connection::connect(&options(&cluster, "", &variables), Mode::Sql)
    };
    connect("ca.crt").unwrap();
    assert!(connect("other.crt").is_err());
}

#[test]
fn certificates_as_the_manual_of_postgres_makes_them_are_taken() {
    let certificates = Certificates::new();
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).tcp().create().unwrap();
    let verify = |root: &str, host: &str| {
        format!(
            "sslmode=verify-full sslrootcert={} host={host}",
            certificates.path(root).display()
        )
    };
    // signed without extensions: version 1, only a common name
    certificates.issue("v1", "/CN=db.example", EC, "", "-days 2");
    certificates.issue("v1rsa", "/CN=db.example", "-newkey rsa:2048", "", "-days 2");
    certificates.issue("v1old", "/CN=db.example", EC, "", "-days -1");
    for name in ["v1", "v1rsa"] {
        certificates.install(&mut cluster, name);
        for version in ["1.2", "1.3"] {
            let only = format!(
                "ssl_min_protocol_version=TLSv{version} ssl_max_protocol_version=TLSv{version}"
            );
            assert!(is_encrypted(
                &cluster,
                &format!("{} {only}", verify("ca.crt", "db.example"))
            ));
            assert!(is_encrypted(&cluster, &format!("sslmode=require {only}")));
        }
        let error = tls_failure(&cluster, &verify("ca.crt", "localhost"));
        assert!(matches!(error, TlsError::CertificateName(_)), "{error}");
        let error = tls_failure(&cluster, &verify("other.crt", "db.example"));
        assert!(matches!(error, TlsError::CertificateUntrusted), "{error}");
    }
    certificates.install(&mut cluster, "v1old");
    let error = tls_failure(&cluster, &verify("ca.crt", "db.example"));
    assert!(error.to_string().contains("xpired"), "{error}");

    // self-signed, and its own root
    openssl(
        certificates.dir.path(),
        &format!(
            "req -x509 -nodes {EC} -keyout self.key -out self.crt -days 2 -subj /CN=db.example"
        ),
    );
    fs::set_permissions(
        certificates.path("self.key"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    certificates.install(&mut cluster, "self");
    assert!(is_encrypted(&cluster, &verify("self.crt", "db.example")));
    let error = tls_failure(&cluster, &verify("self.crt", "localhost"));
    assert!(matches!(error, TlsError::CertificateName(_)), "{error}");
    assert!(matches!(
        tls_failure(&cluster, &verify("other.crt", "db.example")),
        TlsError::CertificateUntrusted | TlsError::Protocol(_)
    ));

    // expired, and with an intermediate authority
    certificates.issue("expired", "/CN=x", EC, SAN, "-days -1");
    certificates.install(&mut cluster, "expired");
    let error = tls_failure(&cluster, &verify("ca.crt", "localhost"));
    assert!(error.to_string().contains("xpired"), "{error}");
}

#[test]
fn scram_is_bound_to_the_connection_with_every_kind_of_certificate() {
    let certificates = Certificates::new();
    for install in PostgresInstall::all_found() {
        let mut cluster = Cluster::builder(&install)
            .tcp()
            .hba("host all app,hashed,open all scram-sha-256")
            .hba("host replication app all scram-sha-256")
            .create()
            .unwrap();
        certificates.issue("sha256", "/CN=x", EC, SAN, "-sha256");
        certificates.install(&mut cluster, "sha256");
        cluster.execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE app LOGIN REPLICATION PASSWORD 'pw'");
        for (name, key, signature) in [
            ("sha256", EC, "-sha256"),
            ("sha384", "-newkey rsa:2048", "-sha384"),
            ("sha512", "-newkey rsa:2048", "-sha512"),
            ("sha224", EC, "-sha224"),
            ("pss", "", "-sigopt rsa_padding_mode:pss -sha384"),
        ] {
            if name == "pss" {
                let words = format!(
                    "req -x509 -nodes -newkey rsa:2048 {signature} -keyout pss.key -out pss.crt -subj /CN=x"
                );
                openssl(certificates.dir.path(), &words);
                fs::set_permissions(
                    certificates.path("pss.key"),
                    fs::Permissions::from_mode(0o600),
                )
                .unwrap();
            } else {
                certificates.issue(name, "/CN=x", key, SAN, signature);
            }
            certificates.install(&mut cluster, name);
            for (mode, version) in [(Mode::Sql, "1.2"), (Mode::Replication, "1.3")] {
                let more = format!(
                    "sslmode=require channel_binding=require user=app password=pw ssl_max_protocol_version=TLSv{version}"
                );
                Connection::connect(&options(&cluster, &more, &[]), mode).unwrap_or_else(|error| {
                    panic!("{} {name} {version}: {error}", install.major())
                });
            }
            assert!(is_encrypted(
                &cluster,
                "sslmode=require channel_binding=disable user=app password=pw"
            ));
        }
        let refused = failure(&cluster, "sslmode=require user=app password=wrong");
        assert!(
            matches!(&refused, ConnectFailure::Server(refusal) if refusal.message.code == "28P01")
        );
        // what is no SCRAM, or not encrypted, cannot be bound
        for more in [
            "sslmode=require channel_binding=require",
            "sslmode=disable channel_binding=require user=app password=pw",
        ] {
            let error = failure(&cluster, more);
            assert!(
                matches!(error, ConnectFailure::ChannelBinding(_)),
                "{error}"
            );
        }
    }
}

#[test]
fn a_signature_without_a_hash_leaves_scram_unbound() {
    let certificates = Certificates::new();
    // signed by an authority with Ed25519
    openssl(
        certificates.dir.path(),
        "req -x509 -nodes -newkey ed25519 -keyout ca.key -out ca.crt -days 2 -subj /CN=ca",
    );
    certificates.issue_server("server");
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .tcp()
        .hba("host all app all scram-sha-256")
        .create()
        .unwrap();
    certificates.install(&mut cluster, "server");
    cluster.execute("CREATE ROLE app LOGIN PASSWORD 'pw'");
    let verify = format!(
        "sslmode=verify-full sslrootcert={}",
        certificates.path("ca.crt").display()
    );
    assert!(is_encrypted(
        &cluster,
        &format!("{verify} user=app password=pw")
    ));
    let error = failure(
        &cluster,
        &format!("{verify} user=app password=pw channel_binding=require"),
    );
    assert!(
        matches!(error, ConnectFailure::ChannelBinding(_)),
        "{error}"
    );
}

#[test]
fn a_client_certificate_is_enough_where_the_server_takes_it() {
    let certificates = Certificates::new();
    certificates.issue_server("server");
    certificates.issue("client", "/CN=app", "-newkey rsa:2048", "", "-days 2");
    certificates.issue("stranger", "/CN=stranger", EC, "", "-days 2");
    for install in PostgresInstall::all_found() {
        let mut cluster = Cluster::builder(&install)
            .tcp()
            .hba("hostssl all app all cert")
            .hba("hostssl replication app all cert")
            .create()
            .unwrap();
        certificates.install(&mut cluster, "server");
        cluster.execute("CREATE ROLE app LOGIN REPLICATION");
        for name in ["client", "stranger"] {
            pitr_testbed::chown_to_server_user(&certificates.path(&format!("{name}.key"))).unwrap();
        }
        // as the one who runs this
        let home = tempfile::tempdir().unwrap();
        let copy = |name: &str, mode: u32| {
            let path = home.path().join(name);
            fs::copy(certificates.path(name), &path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let certificate = copy("client.crt", 0o644);
        let key = copy("client.key", 0o600);
        let more = format!("sslmode=require user=app sslcert={certificate} sslkey={key}");
        for mode in [Mode::Sql, Mode::Replication] {
            Connection::connect(&options(&cluster, &more, &[]), mode).unwrap();
        }
        assert!(try_connect(&cluster, "sslmode=require user=app").is_err());
        let stranger = copy("stranger.crt", 0o644);
        let strangers_key = copy("stranger.key", 0o600);
        let error = failure(
            &cluster,
            &format!("sslmode=require user=app sslcert={stranger} sslkey={strangers_key}"),
        );
        assert!(matches!(error, ConnectFailure::Server(_)), "{error}");
        // a key of another certificate, one that others may read, and one that is missing
        for (more, is_expected) in [
            (
                format!("sslcert={certificate} sslkey={strangers_key}"),
                (|error| matches!(error, TlsError::File { .. })) as fn(&TlsError) -> bool,
            ),
            (
                format!("sslcert={certificate} sslkey={}", copy("client.key", 0o640)),
                |error| matches!(error, TlsError::KeyNotPrivate { mode: 0o640, .. }),
            ),
            (
                format!("sslcert={certificate} sslkey=/nonexistent"),
                |error| matches!(error, TlsError::File { .. }),
            ),
        ] {
            let error = tls_failure(&cluster, &format!("sslmode=require user=app {more}"));
            assert!(is_expected(&error), "{error}");
        }
    }
}

#[test]
fn a_base_backup_over_tls_is_whole() {
    let certificates = Certificates::new();
    certificates.issue_server("server");
    let root = certificates.path("ca.crt");
    for install in PostgresInstall::all_found() {
        let mut cluster = Cluster::builder(&install).tcp().create().unwrap();
        certificates.install(&mut cluster, "server");
        let more = format!("sslmode=verify-full sslrootcert={}", root.display());
        let mut connection =
            Connection::connect(&options(&cluster, &more, &[]), Mode::Replication).unwrap();
        let options = BaseBackupOptions {
            checkpoint: CheckpointMode::Fast,
            ..BaseBackupOptions::default()
        };
        let mut backup = connection.base_backup(&options).unwrap();
        let dir = TestDir::new().unwrap();
        let data = dir.folder("data").unwrap();
        while let Some(member) = backup.next_member().unwrap() {
            match member {
                BackupMember::Archive { mut data, .. } => {
                    let mut file = fs::File::create(dir.join("base.tar")).unwrap();
                    io::copy(&mut data, &mut file).unwrap();
                }
                BackupMember::Manifest(mut bytes) => {
                    let mut manifest = Vec::new();
                    bytes.read_to_end(&mut manifest).unwrap();
                    fs::write(dir.join("manifest"), manifest).unwrap();
                }
            }
        }
        backup.finish().unwrap();
        let status = Command::new("tar")
            .arg("-xf")
            .arg(dir.join("base.tar"))
            .arg("-C")
            .arg(&data)
            .status()
            .unwrap();
        assert!(status.success());
        pitr_testbed::chown_to_server_user(dir.path()).unwrap();
        let output = install
            .command("pg_verifybackup")
            .unwrap()
            .arg("--no-parse-wal")
            .arg("--manifest-path")
            .arg(dir.join("manifest"))
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
