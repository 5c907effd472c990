//! Settings of a scratch cluster before it exists.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;

use crate::cluster::Cluster;
use crate::{PostgresInstall, TestDir, TestbedError, chown_to_server_user, process};

/// Collects what `initdb` and `postgresql.conf` shall hold; [`Cluster::builder`] makes one.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    install: PostgresInstall,
    initdb_args: Vec<String>,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    tcp: bool,
    fsync: bool,
}

impl ClusterBuilder {
    pub(crate) fn new(install: &PostgresInstall) -> Self {
        Self {
            install: install.clone(),
            initdb_args: Vec::new(),
            settings: Vec::new(),
            hba: Vec::new(),
            tcp: false,
            fsync: false,
        }
    }

    /// WAL segment size in bytes: a power of two from 1 MiB to 1 GiB. 16 MiB if not called.
    #[must_use]
    pub fn segment_size(self, bytes: u64) -> Self {
        self.initdb_args([format!("--wal-segsize={}", bytes >> 20)])
    }

    /// Data checksums on or off; PostgreSQL's own default (on since 18) if not called.
    #[must_use]
    pub fn checksums(self, on: bool) -> Self {
        match (on, self.install.major()) {
            (true, _) => self.initdb_args(["--data-checksums"]),
            (false, 18..) => self.initdb_args(["--no-data-checksums"]),
            (false, _) => self,
        }
    }

    /// More arguments for `initdb`.
    #[must_use]
    pub fn initdb_args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.initdb_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A line of `postgresql.conf`; the value is taken literally. The last one of a name counts.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A line of `pg_hba.conf`, above those that let everybody in.
    #[must_use]
    pub fn hba(mut self, line: impl Into<String>) -> Self {
        self.hba.push(line.into());
        self
    }

    /// Listen on 127.0.0.1 too, on a free port ([`Cluster::port`]).
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Make the server sync its files. Off otherwise: a scratch cluster need not survive power loss.
    #[must_use]
    pub fn fsync(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// Runs `initdb` in a temporary folder and writes the settings; does not start the server.
    ///
    /// The superuser is `postgres`, the locale C, the encoding UTF-8;
    /// everybody may connect, also for replication, unless [`ClusterBuilder::hba`] says otherwise.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] with the output of `initdb`, or
    /// [`TestbedError::File`] if a file cannot be written.
    pub fn create(self) -> Result<Cluster, TestbedError> {
        let dir = TestDir::new()?;
        let data = dir.join("data");
        let mut initdb = self.install.command("initdb")?;
        initdb
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--locale=C", "--encoding=UTF8"])
            .args(&self.initdb_args);
        process::run(initdb)?;

        let port = if self.tcp { free_port()? } else { 5432 };
        let hba_path = data.join("pg_hba.conf");
        let hba = fs::read_to_string(&hba_path).map_err(TestbedError::file("read", &hba_path))?;
        let hba = format!("{}\n{hba}", self.hba.join("\n"));
        fs::write(&hba_path, hba).map_err(TestbedError::file("write", &hba_path))?;
        chown_to_server_user(&hba_path)?;

        let cluster = Cluster::over(self.install, dir, data, port);
        let sockets = cluster.socket_dir().to_string_lossy().into_owned();
        let own = [
            ("unix_socket_directories", sockets.as_str()),
            ("listen_addresses", if self.tcp { "127.0.0.1" } else { "" }),
            ("fsync", if self.fsync { "on" } else { "off" }),
            ("shared_buffers", "16MB"),
            ("max_connections", "20"),
            // leaves nothing in /dev/shm after a kill -9
            ("dynamic_shared_memory_type", "mmap"),
            ("log_line_prefix", "%m [%p] %b "),
            ("lc_messages", "C"),
        ];
        let mut text = format!("port = {port}\n");
        for (name, value) in own {
            push_setting(&mut text, name, value);
        }
        for (name, value) in &self.settings {
            push_setting(&mut text, name, value);
        }
        cluster.append_configuration(&text)?;
        Ok(cluster)
    }
}

/// One line of `postgresql.conf`; quotes and backslashes are escaped as GUC_scanstr reads them.
pub(crate) fn push_setting(text: &mut String, name: &str, value: &str) {
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    // writing to a String cannot fail
    let _ = writeln!(text, "{name} = '{value}'");
}

/// Another process may take it before the server does: rare enough for a test.
pub(crate) fn free_port() -> Result<u16, TestbedError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(TestbedError::file("bind to", "127.0.0.1:0"))
}
