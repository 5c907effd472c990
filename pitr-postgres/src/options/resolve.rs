//! From strings, variables and files to [`ConnectOptions`].

use std::net::IpAddr;
use std::time::Duration;

use super::environment::Environment;
use super::error::OptionsError;
use super::password::{Password, PasswordFile, PasswordOrigin};
use super::settings::{Place, Settings, expand_home};
use super::tls::{
    ChannelBinding, RootCertificate, SslMode, SslNegotiation, TlsOptions, TlsVersion,
};
use super::{ConnectOptions, Host, HostTarget, Keepalive, SessionTarget};

/// Folders where a server's socket may be when no host is given: Debian's, then PostgreSQL's own.
const DEFAULT_SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: u16 = 5432;

impl ConnectOptions {
    /// Works out how to reach a server, as libpq does.
    ///
    /// `connection` is what a user gives with `-d`: keyword/value pairs, a
    /// URI, or the plain name of a database. A setting comes from there, else
    /// from the service that is named there or in `PGSERVICE`, else from its
    /// environment variable (an empty one counts as unset), else it has
    /// libpq's default; without a host, the sockets in `/var/run/postgresql`
    /// and in `/tmp` are tried in turn. Reads the service file and the
    /// password file, nothing else.
    ///
    /// # Errors
    /// [`OptionsError`] for anything that libpq would not take, and for
    /// settings that ask for protection which is not given here (`sslcrl`,
    /// `requirepeer`, `require_auth`, encrypted keys, GSSAPI encryption).
    ///
    /// Source: `conninfo_add_defaults` and `pqConnectOptions2`,
    /// src/interfaces/libpq/fe-connect.c.
    pub fn resolve(
        connection: Option<&str>,
        environment: &dyn Environment,
    ) -> Result<Self, OptionsError> {
        let settings = Settings::collect(connection, environment)?;
        let user = match settings.given("user") {
            Some(user) => user.to_owned(),
            None => environment
                .user_name()
                .ok_or_else(|| OptionsError::NoUser {
                    uid: rustix::process::geteuid().as_raw(),
                })?,
        };
        let database = settings.given("dbname").unwrap_or(&user).to_owned();
        let mut warnings = Vec::new();
        let mut hosts = settings.hosts()?;
        let password = settings.password();
        if password.is_none() {
            let path = settings
                .given("passfile")
                .map(|path| expand_home(path, environment))
                .or_else(|| environment.home().map(|home| home.join(".pgpass")));
            if let Some(file) = path.and_then(|path| PasswordFile::read(&path, &mut warnings)) {
                let origin = PasswordOrigin::File(file.path.clone());
                for host in &mut hosts {
                    let find = |database: &str| {
                        file.find(&host.pgpass_name, host.port, database, &user)
                            .map(|password| (password, origin.clone()))
                    };
                    host.password = find(&database);
                    // a role has one password, whatever database a line was written for
                    host.replication_password =
                        find("replication").or_else(|| host.password.clone());
                }
            }
        } else {
            for host in &mut hosts {
                host.password.clone_from(&password);
                host.replication_password.clone_from(&password);
            }
        }
        Ok(Self {
            hosts,
            database,
            tls: settings.tls(environment)?,
            application_name: settings.given("application_name").map(str::to_owned),
            fallback_application_name: settings
                .given("fallback_application_name")
                .map(str::to_owned),
            server_options: settings.given("options").map(str::to_owned),
            connect_timeout: settings.connect_timeout()?,
            keepalive: settings.keepalive()?,
            target: settings
                .choice(
                    "target_session_attrs",
                    SessionTarget::EXPECTED,
                    SessionTarget::parse,
                )?
                .unwrap_or(SessionTarget::Any),
            user,
            warnings,
        })
    }
}

impl Settings {
    fn password(&self) -> Option<(Password, PasswordOrigin)> {
        let (value, place) = self.placed("password")?;
        let origin = match place {
            Place::ConnectionString => PasswordOrigin::ConnectionString,
            Place::Service(path) => PasswordOrigin::Service(path.clone()),
            Place::Variable(name) => PasswordOrigin::Variable(name),
        };
        Some((Password::new(value.as_bytes()), origin))
    }

    fn hosts(&self) -> Result<Vec<Host>, OptionsError> {
        let list = |name: &str| -> Vec<&str> {
            self.given(name)
                .map(|value| value.split(',').map(str::trim).collect())
                .unwrap_or_default()
        };
        let names = list("host");
        let addresses = list("hostaddr");
        let ports = list("port");
        let count = names.len().max(addresses.len()).max(1);
        if !addresses.is_empty() && !names.is_empty() && addresses.len() != names.len() {
            return Err(OptionsError::Count {
                hosts: names.len(),
                name: "hostaddr",
                count: addresses.len(),
            });
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(OptionsError::Count {
                hosts: count,
                name: "port",
                count: ports.len(),
            });
        }
        let mut hosts = Vec::new();
        for number in 0..count {
            let port =
                match ports
                    .get(number)
                    .or(ports.first().filter(|_| ports.len() == 1))
                {
                    None | Some(&"") => DEFAULT_PORT,
                    Some(text) => text.parse().ok().filter(|&port| port != 0).ok_or_else(|| {
                        self.wrong("port", text, "a whole number from 1 to 65535")
                    })?,
                };
            let name = names.get(number).copied().unwrap_or_default();
            let address =
                match addresses.get(number) {
                    None | Some(&"") => None,
                    Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
                        self.wrong("hostaddr", text, "a numeric IPv4 or IPv6 address")
                    })?),
                };
            let host = |target, pgpass_name: String| Host {
                target,
                port,
                password: None,
                replication_password: None,
                pgpass_name,
            };
            match (name, address) {
                ("", None) => {
                    hosts.extend(DEFAULT_SOCKET_FOLDERS.map(|folder| {
                        host(HostTarget::Socket(folder.into()), "localhost".to_owned())
                    }))
                }
                ("", Some(address)) => {
                    let name = address.to_string();
                    let target = HostTarget::Tcp {
                        name: name.clone(),
                        address: Some(address),
                    };
                    hosts.push(host(target, name));
                }
                (folder, None) if folder.starts_with(['/', '@']) => {
                    let is_default = DEFAULT_SOCKET_FOLDERS.contains(&folder);
                    let pgpass = if is_default { "localhost" } else { folder };
                    hosts.push(host(HostTarget::Socket(folder.into()), pgpass.to_owned()));
                }
                (name, address) => {
                    let target = HostTarget::Tcp {
                        name: name.to_owned(),
                        address,
                    };
                    hosts.push(host(target, name.to_owned()));
                }
            }
        }
        Ok(hosts)
    }

    fn tls(&self, environment: &dyn Environment) -> Result<TlsOptions, OptionsError> {
        let home = environment.home().map(|home| home.join(".postgresql"));
        let file = |name: &'static str, default: &str| {
            self.given(name)
                .map(|path| expand_home(path, environment))
                .or_else(|| Some(home.as_ref()?.join(default)))
        };
        let is_system = self.given("sslrootcert") == Some("system");
        let root_certificate = match file("sslrootcert", "root.crt") {
            _ if is_system => RootCertificate::System,
            Some(path) => RootCertificate::File(path),
            None => RootCertificate::None,
        };
        let mode = self.choice("sslmode", SslMode::EXPECTED, SslMode::parse)?;
        // anybody can get a certificate from one of the system's authorities: the name must fit too
        let mode = match mode {
            Some(mode) if is_system && mode < SslMode::VerifyFull => {
                return Err(self.wrong(
                    "sslmode",
                    mode.as_str(),
                    "verify-full, which sslrootcert=system demands",
                ));
            }
            Some(mode) => mode,
            None if is_system => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        let negotiation = self
            .choice(
                "sslnegotiation",
                SslNegotiation::EXPECTED,
                SslNegotiation::parse,
            )?
            .unwrap_or(SslNegotiation::Postgres);
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(self.wrong(
                "sslmode",
                mode.as_str(),
                "require, verify-ca or verify-full, which sslnegotiation=direct demands",
            ));
        }
        Ok(TlsOptions {
            mode,
            negotiation,
            channel_binding: self
                .choice(
                    "channel_binding",
                    ChannelBinding::EXPECTED,
                    ChannelBinding::parse,
                )?
                .unwrap_or(ChannelBinding::Prefer),
            root_certificate,
            certificate: file("sslcert", "postgresql.crt"),
            key: file("sslkey", "postgresql.key"),
            server_name_indication: self
                .choice("sslsni", "0 or 1", |text| match text {
                    "0" => Some(false),
                    "1" => Some(true),
                    _ => None,
                })?
                .unwrap_or(true),
            minimum_version: self
                .choice(
                    "ssl_min_protocol_version",
                    TlsVersion::EXPECTED,
                    TlsVersion::parse_minimum,
                )?
                .unwrap_or(TlsVersion::Tls12),
            maximum_version: self
                .choice(
                    "ssl_max_protocol_version",
                    TlsVersion::EXPECTED,
                    TlsVersion::parse_maximum,
                )?
                .unwrap_or(TlsVersion::Tls13),
        })
    }

    fn connect_timeout(&self) -> Result<Option<Duration>, OptionsError> {
        let seconds: Option<i64> = self.number("connect_timeout")?;
        Ok(seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|&seconds| seconds > 0)
            .map(Duration::from_secs))
    }

    fn keepalive(&self) -> Result<Keepalive, OptionsError> {
        // zero and less stand for the system's own value
        let positive = |name| -> Result<Option<u32>, OptionsError> {
            let number: Option<i64> = self.number(name)?;
            Ok(number
                .and_then(|number| u32::try_from(number).ok())
                .filter(|&number| number > 0))
        };
        let seconds = |number: u32| Duration::from_secs(number.into());
        Ok(Keepalive {
            enabled: self.number::<i64>("keepalives")?.unwrap_or(1) != 0,
            idle: positive("keepalives_idle")?.map(seconds),
            interval: positive("keepalives_interval")?.map(seconds),
            count: positive("keepalives_count")?,
            user_timeout: positive("tcp_user_timeout")?
                .map(|milliseconds| Duration::from_millis(milliseconds.into())),
        })
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
