//! A vsftpd server: no listings for machines, and TLS from the first byte on.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::ftpd::make_certificate;
use super::{START_LIMIT, find_program, free_port, server_cache};
use crate::process::kill_tree;
use crate::{TestDir, TestbedError, chown_to_server_user, server_user_name};

/// A `vsftpd` that lets everybody write into one folder.
///
/// It runs as root and needs root: it takes on the user who runs the servers.
#[derive(Debug)]
pub struct VsFtpd {
    dir: TestDir,
    port: u16,
    implicit_tls: bool,
    child: Child,
}

impl VsFtpd {
    /// Starts a server; with `implicit_tls` it begins every connection with
    /// TLS, and takes data connections only with a session of the same client.
    /// `more` are further lines of its configuration.
    ///
    /// `Ok(None)` where none is installed, or we are not root; says so on
    /// stderr.
    ///
    /// # Errors
    /// [`TestbedError`] of whichever step fails.
    #[expect(clippy::print_stderr, reason = "tells which test was skipped and why")]
    pub fn start(implicit_tls: bool, more: &str) -> Result<Option<Self>, TestbedError> {
        let unpacked = server_cache().join("vsftpd/usr/sbin/vsftpd");
        let unpacked = unpacked.is_file().then_some(unpacked);
        let Some(program) = unpacked.or_else(|| find_program("vsftpd")) else {
            eprintln!("skipped: no vsftpd is installed (scripts/remote-servers unpacks it)");
            return Ok(None);
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: vsftpd needs root");
            return Ok(None);
        }
        let dir = TestDir::new()?;
        let make = |name: &str| -> Result<PathBuf, TestbedError> {
            let path = dir.join(name);
            fs::create_dir(&path).map_err(TestbedError::file("make", &path))?;
            Ok(path)
        };
        // it serves no root that may be written
        let (root, folder, empty) = (make("root")?, make("root/files")?, make("empty")?);
        chown_to_server_user(&folder)?;
        let port = free_port()?;
        let mut config = format!(
            "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\n\
             anonymous_enable=YES\nlocal_enable=NO\nwrite_enable=YES\nanon_upload_enable=YES\n\
             anon_mkdir_write_enable=YES\nanon_other_write_enable=YES\n\
             anon_world_readable_only=NO\nanon_root={}\nftp_username={}\n\
             secure_chroot_dir={}\nnopriv_user=nobody\n\
             seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\n",
            root.display(),
            server_user_name()?,
            empty.display()
        );
        if implicit_tls {
            make_certificate(&dir)?;
            config.push_str(&format!(
                "ssl_enable=YES\nallow_anon_ssl=YES\nimplicit_ssl=YES\nssl_ciphers=HIGH\n\
                 force_anon_logins_ssl=YES\nforce_anon_data_ssl=YES\nrequire_ssl_reuse=YES\n\
                 rsa_cert_file={}\nrsa_private_key_file={}\n",
                dir.join("server.pem").display(),
                dir.join("server.key").display()
            ));
        }
        config.push_str(more);
        let path = dir.join("vsftpd.conf");
        fs::write(&path, config).map_err(TestbedError::file("write", &path))?;
        let child = Command::new(program)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| TestbedError::Spawn {
                program: "vsftpd".to_owned(),
                source,
            })?;
        let mut server = Self {
            dir,
            port,
            implicit_tls,
            child,
        };
        // no greeting comes before TLS
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() >= deadline {
                return Err(TestbedError::TimedOut {
                    what: format!("vsftpd to listen on port {port}"),
                    seconds: START_LIMIT.as_secs(),
                    detail: String::new(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(server))
    }

    /// The folder that everybody may write into.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.join("root/files")
    }

    /// Address of the folder `name` in [`VsFtpd::folder`], with its user in it.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        let scheme = if self.implicit_tls { "ftps" } else { "ftp" };
        format!("{scheme}://anonymous@localhost:{}/files/{name}", self.port)
    }

    /// The authority that signed the server's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The folder of the server: for what a test needs beside it.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }
}

impl Drop for VsFtpd {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_tree(pid);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
