//! Connections to an FTP server: made, logged in, kept for the next use.
//!
//! A connection carries one transfer at a time. So there are as many as there
//! are objects open; those that are free wait in a pool.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use suppaftp::rustls::pki_types::CertificateDer;
use suppaftp::rustls::pki_types::pem::PemObject;
use suppaftp::rustls::version::TLS12;
use suppaftp::rustls::{ALL_VERSIONS, AlertDescription, ClientConfig, RootCertStore, crypto::ring};
use suppaftp::types::{FileType, Response};
use suppaftp::{FtpError, FtpResult, Mode, RustlsConnector, RustlsFtpStream, Status, TlsConnector};

use super::netrc;
use crate::store::lease::HeldMarks;
use crate::store::retry::Retry;
use crate::store::secret_file::{login_name, read_secret_file, secret};
use crate::store::server_address::ServerAddress;
use crate::store::server_error::ServerError;
use crate::store::{FtpOptions, Operation, SpaceLimit, StoreError};

const DEFAULT_PORT: u16 = 21;
const IMPLICIT_TLS_PORT: u16 = 990;

/// A connection that waited longer than this in the pool is asked whether it
/// still lives.
const FRESH: Duration = Duration::from_secs(10);

/// The server and the connections to it, shared by a store and whatever it has
/// opened.
pub(super) struct Server {
    pub(super) address: ServerAddress,
    pub(super) options: FtpOptions,
    tls: OnceLock<Arc<ClientConfig>>,
    /// For a server that refuses TLS 1.2.
    newer_tls: OnceLock<Arc<ClientConfig>>,
    needs_newer_tls: AtomicBool,
    idle: Mutex<Vec<Connection>>,
    /// The marks of life that were taken here.
    pub(super) held: HeldMarks,
}

/// A connection that has been logged in.
pub(super) struct Connection {
    pub(super) ftp: RustlsFtpStream,
    /// Absolute path of the store's folder.
    pub(super) root: String,
    /// Whether folders are listed for machines (`MLSD`).
    pub(super) has_mlsd: bool,
    last_use: Instant,
}

/// What came of a command.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has answered, and not what was hoped for.
    Answered(Response),
    /// There was no answer to be had.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// Whether the server refuses a path: it is not there, or is not ours, or
    /// is something else. Proves nothing by itself.
    pub(super) fn is_refused_path(&self) -> bool {
        matches!(self, Self::Answered(response)
            if matches!(response.status, Status::FileUnavailable | Status::BadFilename))
    }

    /// The store's error, where nothing more is known of the case.
    pub(super) fn into_store(self, operation: Operation, location: String) -> StoreError {
        let response = match self {
            Self::Store(error) => return error,
            Self::Answered(response) => response,
        };
        let answer = one_line(&String::from_utf8_lossy(&response.body));
        let lower = answer.to_ascii_lowercase();
        let limit = match response.status {
            _ if lower.contains("no space") || lower.contains("disk full") => {
                Some(SpaceLimit::Disk)
            }
            _ if lower.contains("quota") => Some(SpaceLimit::Quota),
            Status::RequestedActionNotTaken => Some(SpaceLimit::Disk),
            Status::ExceededStorage => Some(SpaceLimit::Quota),
            _ => None,
        };
        if let Some(limit) = limit {
            return StoreError::NoSpace {
                operation,
                location,
                limit,
                needed_bytes: None,
                available_bytes: None,
            };
        }
        if lower.contains("permission denied") || lower.contains("access is denied") {
            return StoreError::PermissionDenied {
                operation,
                location,
            };
        }
        ServerError::Answered {
            operation,
            location,
            answer,
            hint: Some(
                match operation {
                    Operation::Write => {
                        "Most often the server's disk is full, or a quota used up; its log may say more."
                    }
                    _ => "The server's log may say more: FTP has one answer (550) for almost everything.",
                }
                .to_owned(),
            ),
        }
        .into()
    }
}

/// A server's words as they may stand in a message.
pub(super) fn one_line(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

/// Whether an error says that the connection is of no use any more, and how.
pub(super) fn broken(error: &FtpError) -> Option<String> {
    match error {
        FtpError::UnexpectedResponse(response) => matches!(
            response.status,
            Status::NotAvailable
                | Status::CannotOpenDataConnection
                | Status::TransferAborted
                | Status::RequestFileActionIgnored
        )
        .then(|| one_line(&response.to_string())),
        other => Some(one_line(&other.to_string())),
    }
}

impl Server {
    pub(super) fn new(address: ServerAddress, options: FtpOptions) -> Self {
        Self {
            address,
            options,
            tls: OnceLock::new(),
            newer_tls: OnceLock::new(),
            needs_newer_tls: AtomicBool::new(false),
            idle: Mutex::new(Vec::new()),
            held: HeldMarks::default(),
        }
    }

    fn is_secure(&self) -> bool {
        self.address.scheme == "ftps"
    }

    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(self.options.timeout_seconds.max(1))
    }

    pub(super) fn budget(&self) -> Duration {
        Duration::from_secs(self.options.retry_seconds)
    }

    /// A connection: one that waits, or a new one.
    ///
    /// # Errors
    /// The server cannot be reached for as long as `retry` lets us try, or
    /// does not let us in.
    pub(super) fn take(&self, retry: &mut Retry) -> Result<Connection, StoreError> {
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let Some(mut connection) = idle else {
                break;
            };
            if connection.last_use.elapsed() < FRESH || connection.ftp.noop().is_ok() {
                return Ok(connection);
            }
        }
        loop {
            let reason = match self.connect() {
                Ok(connection) => return Ok(connection),
                Err(Refusal::Lasting(error)) => return Err(StoreError::Server(error)),
                Err(Refusal::Passing(reason)) => reason,
            };
            match retry.next_pause() {
                Some(pause) => thread::sleep(pause),
                None => {
                    return Err(ServerError::Unreachable {
                        server: self.address.server(),
                        reason: one_line(&reason),
                        tried_for: retry.elapsed(),
                    }
                    .into());
                }
            }
        }
    }

    /// Keeps a connection for the next one who needs it.
    pub(super) fn give_back(&self, mut connection: Connection) {
        connection.last_use = Instant::now();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }

    /// Runs one or more commands, again from the beginning when the connection
    /// breaks on them. `commands` gets the number of the try, from 0: after a
    /// lost answer the first one may have been carried out.
    ///
    /// # Errors
    /// What the server answered, or why it does not.
    pub(super) fn call<T>(
        &self,
        operation: Operation,
        location: &str,
        mut commands: impl FnMut(&mut Connection, u32) -> Result<T, FtpError>,
    ) -> Result<T, Failure> {
        let mut retry = Retry::new(self.budget());
        let mut number = 0;
        loop {
            let mut connection = self.take(&mut retry)?;
            let error = match commands(&mut connection, number) {
                Ok(answer) => {
                    self.give_back(connection);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            match (broken(&error), error) {
                (None, FtpError::UnexpectedResponse(response)) => {
                    self.give_back(connection);
                    return Err(Failure::Answered(response));
                }
                (reason, error) => {
                    drop(connection);
                    number += 1;
                    let reason = reason.unwrap_or_else(|| error.to_string());
                    self.pause(&mut retry, operation, location, &reason)?;
                }
            }
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `ConnectionLost` when there is none.
    pub(super) fn pause(
        &self,
        retry: &mut Retry,
        operation: Operation,
        location: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        match retry.next_pause() {
            Some(pause) => {
                thread::sleep(pause);
                Ok(())
            }
            None => Err(ServerError::ConnectionLost {
                operation,
                location: location.to_owned(),
                reason: one_line(reason),
                tried_for: retry.elapsed(),
            }
            .into()),
        }
    }

    fn connect(&self) -> Result<Connection, Refusal> {
        let limit = self.limit();
        let implicit = self.is_secure() && self.options.implicit_tls;
        let port = self.address.port.unwrap_or(if implicit {
            IMPLICIT_TLS_PORT
        } else {
            DEFAULT_PORT
        });
        let host = self.address.host.as_str();
        let (user, password) = self.login()?;
        let mut ftp = if implicit {
            // Says first which of its addresses can be reached: connecting to
            // it again has no limit.
            let reached = reach(host, port, limit)?
                .peer_addr()
                .map_err(|e| Refusal::Passing(e.to_string()))?;
            let connector = BoundedConnector {
                tls: RustlsConnector::from(self.tls()?),
                limit,
            };
            RustlsFtpStream::connect_secure_implicit(reached, connector, host)
                .map_err(|e| self.refusal(e))?
        } else {
            let socket = reach(host, port, limit)?;
            RustlsFtpStream::connect_with_stream(socket).map_err(|e| self.refusal(e))?
        };
        {
            let socket = ftp.get_ref();
            for set in [
                socket.set_read_timeout(Some(limit)),
                socket.set_write_timeout(Some(limit)),
                socket.set_nodelay(true),
            ] {
                set.map_err(|e| Refusal::Passing(e.to_string()))?;
            }
        }
        if implicit {
            for command in ["PBSZ 0", "PROT P"] {
                ftp.custom_command(command, &[Status::CommandOk])
                    .map_err(|e| self.refusal(e))?;
            }
        } else if self.is_secure() {
            let connector = RustlsConnector::from(self.tls()?);
            ftp = ftp
                .into_secure(connector, host)
                .map_err(|e| self.refusal(e))?;
        }
        ftp.login(user.as_str(), password.as_str())
            .map_err(|error| match error {
                FtpError::UnexpectedResponse(response)
                    if matches!(
                        response.status,
                        Status::NotLoggedIn | Status::InvalidCredentials | Status::LoginNeedAccount
                    ) =>
                {
                    Refusal::from(ServerError::LoginRefused {
                        server: self.address.server(),
                        user: user.clone(),
                        tried: "a password".to_owned(),
                        hint: "Correct the password in the netrc file, PITR_FTP_PASSWORD or the password_file; some servers let users in with TLS only (ftps://).".to_owned(),
                    })
                }
                other => self.refusal(other),
            })?;
        ftp.transfer_type(FileType::Binary)
            .map_err(|e| self.refusal(e))?;
        let features = ftp.feat().unwrap_or_default();
        let has = |name: &str| features.keys().any(|f| f.trim().eq_ignore_ascii_case(name));
        let has_mlsd = has("MLSD") || has("MLST");
        // Without it the address that the server gives is not believed: behind
        // NAT it is wrong, and else it is the one of this connection.
        if has("EPSV") {
            ftp.set_mode(Mode::ExtendedPassive);
        } else {
            ftp.set_mode(Mode::Passive);
            ftp.set_passive_nat_workaround(true);
        }
        let ftp = ftp.passive_stream_builder(move |address| {
            let socket =
                TcpStream::connect_timeout(&address, limit).map_err(FtpError::ConnectionError)?;
            socket
                .set_read_timeout(Some(limit))
                .and_then(|()| socket.set_write_timeout(Some(limit)))
                .map_err(FtpError::ConnectionError)?;
            Ok(socket)
        });
        let mut connection = Connection {
            ftp,
            root: self.address.path.clone(),
            has_mlsd,
            last_use: Instant::now(),
        };
        if !self.address.path.starts_with('/') {
            let home = connection.ftp.pwd().map_err(|e| self.refusal(e))?;
            connection.root = format!("{}/{}", home.trim_end_matches('/'), self.address.path);
        }
        Ok(connection)
    }

    fn refusal(&self, error: FtpError) -> Refusal {
        match error {
            FtpError::SecureError(reason) => Refusal::from(self.untrusted(&reason)),
            // rustls reports a certificate that it does not trust as an I/O error.
            FtpError::ConnectionError(error)
                if refuses_version(&error)
                    && !self.needs_newer_tls.swap(true, Ordering::Relaxed) =>
            {
                Refusal::Passing(error.to_string())
            }
            FtpError::ConnectionError(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Refusal::from(self.untrusted(&error.to_string()))
            }
            FtpError::UnexpectedResponse(response)
                if self.is_secure()
                    && matches!(
                        response.status,
                        Status::BadCommand
                            | Status::NotImplemented
                            | Status::NotImplementedParameter
                    ) =>
            {
                Refusal::from(self.untrusted(&one_line(&response.to_string())))
            }
            other => Refusal::Passing(other.to_string()),
        }
    }

    fn untrusted(&self, reason: &str) -> ServerError {
        ServerError::Tls {
            server: self.address.server(),
            reason: one_line(reason),
            hint: "For an authority of your own, name its certificate as ca_file in the table [ftp]; the certificate must have the name that the address uses.".to_owned(),
        }
    }

    /// User and password: the option, the environment, the netrc file.
    fn login(&self) -> Result<(String, String), ServerError> {
        let path = match &self.options.netrc {
            Some(path) => Some(path.clone()),
            None => std::env::home_dir().map(|home| home.join(".netrc")),
        };
        let password = secret(
            self.options.password_file.as_deref(),
            "PITR_FTP_PASSWORD",
            "password file",
        )?;
        let named = self.address.user.as_deref();
        // Not looked at where it is not needed: it may be readable by others.
        let netrc = match (&path, named, &password) {
            (_, Some(_), Some(_)) | (None, ..) => None,
            (Some(path), ..) => read_secret_file(path, "netrc file")?
                .and_then(|text| netrc::find(&text, &self.address.host, named)),
        };
        let user = named
            .map(str::to_owned)
            .or_else(|| netrc.as_ref().map(|login| login.user.clone()))
            .or_else(login_name);
        let password = password.or_else(|| netrc.and_then(|login| login.password));
        match (user, password) {
            (Some(user), Some(password)) => Ok((user, password)),
            (user, _) => Err(ServerError::Credentials {
                problem: format!(
                    "there is no password for {}",
                    user.map_or_else(
                        || self.address.server(),
                        |user| format!("user \"{user}\" of {}", self.address.server())
                    )
                ),
                hint: format!(
                    "Put a line \"machine {} login USER password PASSWORD\" into ~/.netrc of the user who runs this command, or name a password_file in the table [ftp].",
                    self.address.host
                ),
            }),
        }
    }

    /// What is trusted; made once, so that its sessions can be taken up again:
    /// some servers demand that of data connections. A ticket of TLS 1.3 is good
    /// for one of them only, and the next comes on a connection that may be
    /// closed unread; a session of TLS 1.2 is good for all. So that is asked
    /// for, unless the server refuses it.
    fn tls(&self) -> Result<Arc<ClientConfig>, ServerError> {
        let (place, versions) = if self.needs_newer_tls.load(Ordering::Relaxed) {
            (&self.newer_tls, ALL_VERSIONS)
        } else {
            (&self.tls, &[&TLS12][..])
        };
        if let Some(config) = place.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        match &self.options.ca_file {
            Some(file) => {
                let unusable = |reason: String| ServerError::Credentials {
                    problem: format!("could not use ca_file \"{}\": {reason}", file.display()),
                    hint: "It must hold certificates in PEM form.".to_owned(),
                };
                let certificates =
                    CertificateDer::pem_file_iter(file).map_err(|e| unusable(e.to_string()))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|e| unusable(e.to_string()))?;
                    roots
                        .add(certificate)
                        .map_err(|e| unusable(e.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(unusable("it holds none".to_owned()));
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .map_err(|e| self.untrusted(&e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(place.get_or_init(|| Arc::new(config))))
    }
}

/// Why there is no connection.
enum Refusal {
    /// It will be the same next time.
    Lasting(Box<ServerError>),
    /// The next try may succeed.
    Passing(String),
}

impl From<ServerError> for Refusal {
    fn from(error: ServerError) -> Self {
        Self::Lasting(Box::new(error))
    }
}

/// Whether the server takes no version of TLS that was offered.
fn refuses_version(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(suppaftp::rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure
        ))
    )
}

/// TLS from the first byte on, with a limit: the greeting is read before
/// anybody else can set one.
#[derive(Debug)]
struct BoundedConnector {
    tls: RustlsConnector,
    limit: Duration,
}

impl TlsConnector for BoundedConnector {
    type Stream = <RustlsConnector as TlsConnector>::Stream;

    fn connect(&self, domain: &str, stream: TcpStream) -> FtpResult<Self::Stream> {
        stream
            .set_read_timeout(Some(self.limit))
            .and_then(|()| stream.set_write_timeout(Some(self.limit)))
            .map_err(FtpError::ConnectionError)?;
        self.tls.connect(domain, stream)
    }
}

/// A TCP connection to the first address of `host` that takes one.
fn reach(host: &str, port: u16, limit: Duration) -> Result<TcpStream, Refusal> {
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|e| Refusal::Passing(e.to_string()))?;
    let mut reason = "the name has no address".to_owned();
    for address in addresses {
        let connected = TcpStream::connect_timeout(&address, limit).and_then(|socket| {
            socket.set_read_timeout(Some(limit))?;
            socket.set_write_timeout(Some(limit))?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(Refusal::Passing(reason))
}
