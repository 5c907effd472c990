//! From an address to a session: TCP, SSH, login, the subsystem `sftp`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle, Handler};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, Disconnect};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::rawsession::Limits;

use super::algorithms::{preferred, scan_type};
use super::known_hosts::KnownServer;
use super::login::{Login, home_files};
use crate::store::SftpOptions;
use crate::store::secret_file::login_name;
use crate::store::server_address::ServerAddress;
use crate::store::server_error::ServerError;

const DEFAULT_PORT: u16 = 22;

/// What is written or read in one request, where the server does not say what
/// it takes: every server must take 32 KiB.
const PLAIN_CHUNK_BYTES: u64 = 32 << 10;

/// The most that is written or read in one request.
const LARGEST_CHUNK_BYTES: u64 = 128 << 10;

/// Room for the head of a packet around a chunk.
const PACKET_HEAD_BYTES: u64 = 1 << 10;

/// A session that has been logged in, and what its server can do.
pub(super) struct Link {
    pub(super) sftp: RawSftpSession,
    /// Ends with the last user of the link.
    ssh: Handle<HostCheck>,
    /// Whether the server syncs files and folders on demand.
    pub(super) has_fsync: bool,
    /// Whether it tells how full its disk is.
    pub(super) has_statvfs: bool,
    pub(super) write_bytes: usize,
    pub(super) read_bytes: u32,
    /// Absolute path of the store's folder.
    pub(super) root: String,
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// It will be the same next time.
    Refused(ServerError),
    /// The next try may succeed.
    Passing(String),
}

impl From<ServerError> for ConnectError {
    fn from(error: ServerError) -> Self {
        Self::Refused(error)
    }
}

impl From<russh::Error> for ConnectError {
    fn from(error: russh::Error) -> Self {
        match error {
            russh::Error::NoCommonAlgo { kind, theirs, .. } => {
                let host_key = matches!(kind, russh::AlgorithmKind::Key);
                let hint = if host_key {
                    "RSA host keys are not supported: let its administrator make one of another type (ssh-keygen -A makes all), which servers since 2014 have by themselves."
                } else {
                    "The server is too old or too narrowly configured: update it, or widen its sshd_config."
                };
                Self::Refused(ServerError::NoCommonAlgorithm {
                    server: String::new(),
                    kind: if host_key {
                        "type of host key".to_owned()
                    } else {
                        format!("{kind:?} algorithm").to_lowercase()
                    },
                    theirs: theirs.join(", "),
                    hint: hint.to_owned(),
                })
            }
            other => Self::Passing(other.to_string()),
        }
    }
}

/// Compares the server's key with what is known, during the handshake.
pub(super) struct HostCheck {
    known: KnownServer,
    server: String,
}

impl Handler for HostCheck {
    type Error = ConnectError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, ConnectError> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.known.check(key)?;
                Ok(true)
            }
            // Never asked for, see `algorithms`.
            PublicKeyOrCertificate::Certificate(certificate) => {
                Err(ServerError::NoCommonAlgorithm {
                    server: self.server.clone(),
                    kind: "type of host key".to_owned(),
                    theirs: format!("a certificate ({})", scan_type(&certificate.algorithm())),
                    hint: "Host certificates are not supported: let the server show its key."
                        .to_owned(),
                }
                .into())
            }
        }
    }
}

impl Link {
    /// Makes a session. Every step has the time limit of the options.
    pub(super) async fn connect(
        address: &ServerAddress,
        options: &SftpOptions,
    ) -> Result<Self, ConnectError> {
        let limit = Duration::from_secs(options.timeout_seconds.max(1));
        let server = address.server();
        let port = address.port.unwrap_or(DEFAULT_PORT);
        let user = match &address.user {
            Some(user) => user.clone(),
            None => login_name().ok_or_else(|| ServerError::Credentials {
                problem: format!("no user is named for {server}"),
                hint: "Name one in the address: sftp://USER@HOST/FOLDER".to_owned(),
            })?,
        };
        let files = match &options.known_hosts {
            Some(file) => vec![file.clone()],
            None => {
                let mut files = home_files(&["known_hosts"]);
                files.push(PathBuf::from("/etc/ssh/ssh_known_hosts"));
                files
            }
        };
        let known = KnownServer::read(&server, &address.host, port, files)?;
        let config = client::Config {
            preferred: preferred(&known.algorithms()),
            // A peer that vanished is noticed even while nothing is asked of it.
            keepalive_interval: Some(limit / 2),
            keepalive_max: 2,
            nodelay: true,
            window_size: 4 << 20,
            ..client::Config::default()
        };
        let check = HostCheck {
            known,
            server: server.clone(),
        };
        let stream = within(
            limit,
            tokio::net::TcpStream::connect((address.host.as_str(), port)),
        )
        .await?
        .map_err(|e| ConnectError::Passing(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        let mut ssh = within(
            limit,
            client::connect_stream(Arc::new(config), stream, check),
        )
        .await?
        .map_err(|error| named(error, &server))?;
        let login = Login {
            server: server.clone(),
            user,
            options,
        };
        within(limit * 2, login.perform(&mut ssh)).await??;
        within(limit, Self::begin(ssh, address, limit)).await?
    }

    async fn begin(
        ssh: Handle<HostCheck>,
        address: &ServerAddress,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let refused = |answer: String| ServerError::Answered {
            operation: crate::store::Operation::Open,
            location: address.server(),
            answer,
            hint: Some("Does its sshd_config have a line \"Subsystem sftp\"?".to_owned()),
        };
        let mut channel = ssh.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => {
                    return Err(refused("subsystem request failed".to_owned()).into());
                }
                None | Some(ChannelMsg::Close | ChannelMsg::Eof) => {
                    return Err(ConnectError::Passing("the channel was closed".to_owned()));
                }
                Some(_) => {}
            }
        }
        let config = russh_sftp::client::Config {
            request_timeout_secs: limit.as_secs().max(1),
            ..russh_sftp::client::Config::default()
        };
        let mut sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let passing = |e: russh_sftp::client::error::Error| ConnectError::Passing(e.to_string());
        let version = sftp.init().await.map_err(passing)?;
        let has = |name: &str| version.extensions.contains_key(name);
        let (mut write, mut read) = (PLAIN_CHUNK_BYTES, PLAIN_CHUNK_BYTES);
        if has("limits@openssh.com") {
            let limits = Limits::from(sftp.limits().await.map_err(passing)?);
            let packet = limits
                .packet_len
                .map(|bytes| bytes.saturating_sub(PACKET_HEAD_BYTES));
            let chunk = |told: Option<u64>| {
                told.unwrap_or(PLAIN_CHUNK_BYTES)
                    .min(packet.unwrap_or(u64::MAX))
                    .clamp(1 << 10, LARGEST_CHUNK_BYTES)
            };
            write = chunk(limits.write_len);
            read = chunk(limits.read_len);
            sftp.set_limits(limits);
        }
        let root = if address.path.starts_with('/') {
            address.path.clone()
        } else {
            let home = sftp.realpath(".").await.map_err(passing)?;
            let home = home.files.first().map(|file| file.filename.clone());
            let home = home.unwrap_or_default();
            format!("{}/{}", home.trim_end_matches('/'), address.path)
        };
        Ok(Self {
            has_fsync: has("fsync@openssh.com"),
            has_statvfs: has("statvfs@openssh.com"),
            sftp,
            ssh,
            write_bytes: usize::try_from(write).unwrap_or(32 << 10),
            read_bytes: u32::try_from(read).unwrap_or(32 << 10),
            root,
        })
    }

    /// Whether the connection is known to be gone.
    pub(super) fn is_closed(&self) -> bool {
        self.ssh.is_closed()
    }

    /// Says good-bye, so that the server's log shows no broken connection.
    pub(super) async fn end(&self) {
        let _ = self
            .ssh
            .disconnect(Disconnect::ByApplication, "", "en")
            .await;
    }
}

async fn within<T>(limit: Duration, step: impl Future<Output = T>) -> Result<T, ConnectError> {
    tokio::time::timeout(limit, step)
        .await
        .map_err(|_| ConnectError::Passing(format!("no answer within {} s", limit.as_secs())))
}

/// An error of the handshake, with the server's name put in.
fn named(error: ConnectError, name: &str) -> ConnectError {
    match error {
        ConnectError::Refused(ServerError::NoCommonAlgorithm {
            kind, theirs, hint, ..
        }) => ConnectError::Refused(ServerError::NoCommonAlgorithm {
            server: name.to_owned(),
            kind,
            theirs,
            hint,
        }),
        other => other,
    }
}
