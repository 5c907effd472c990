//! Addresses that name a server: `scheme://[user@]host[:port]/path`.

use super::AddressError;
use super::address::unescape;

/// A server and a folder on it. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    /// In lower case: `sftp`, `ftp`, `ftps`.
    pub(crate) scheme: String,
    /// `None` where the address names nobody.
    pub(crate) user: Option<String>,
    /// A name or an IP address, the latter without brackets.
    pub(crate) host: String,
    /// `None` where the address says nothing.
    pub(crate) port: Option<u16>,
    /// Without a slash at its end. Absolute, or relative to the folder that a
    /// login begins in (`/~/path`).
    pub(crate) path: String,
}

impl ServerAddress {
    /// Reads what stands after `scheme://`.
    ///
    /// # Errors
    /// `SecretInAddress` for `user:password@`; `NotAServer` for anything that
    /// names no host and folder. Neither repeats the address.
    pub(crate) fn parse(scheme: &str, rest: &str) -> Result<Self, AddressError> {
        let scheme = scheme.to_ascii_lowercase();
        let bad = |problem| AddressError::NotAServer {
            scheme: scheme.clone(),
            problem,
        };
        // A password may hold anything, a slash too: look for it first.
        let authority = rest.split('/').next().unwrap_or_default();
        let (login, host_port) = match authority.rsplit_once('@') {
            Some((login, host_port)) => (Some(login), host_port),
            None => (None, authority),
        };
        if login.is_some_and(|login| login.contains(':')) {
            return Err(AddressError::SecretInAddress { scheme });
        }
        // "user:12/34@host" has the form of a host, a port and a path
        let path_begins = authority.len();
        let has_at = rest
            .get(path_begins..)
            .is_some_and(|path| path.contains('@'));
        if login.is_none() && host_port.contains(':') && has_at {
            return Err(bad(
                "it may hold a password, which never goes into an address; an \"@\" in a path is written %40",
            ));
        }
        let user = match login {
            Some(login) => Some(
                text(login)
                    .filter(|user| !user.is_empty())
                    .ok_or_else(|| bad("its user name is empty or badly escaped"))?,
            ),
            None => None,
        };
        let (host, port) = split_port(host_port)
            .ok_or_else(|| bad("its host or port cannot be read, or it holds a password"))?;
        let path = text(&rest[authority.len()..])
            .ok_or_else(|| bad("its path is badly escaped or not UTF-8"))?;
        if path.split('/').any(|part| part == "..") {
            return Err(bad("its path holds \"..\""));
        }
        if path.chars().any(char::is_control) {
            return Err(bad("its path holds a control character"));
        }
        let path = path.trim_end_matches('/');
        let path = match path.strip_prefix("/~/") {
            Some(below) => below.trim_start_matches('/'),
            None => path,
        };
        if path.is_empty() || path == "/~" {
            return Err(bad("it names no folder"));
        }
        Ok(Self {
            scheme,
            user,
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// `scheme://user@host:port/path`, as given.
    pub(crate) fn location(&self) -> String {
        let slash = if self.path.starts_with('/') {
            ""
        } else {
            "/~/"
        };
        format!("{}{slash}{}", self.server(), self.path)
    }

    /// The location without its path.
    pub(crate) fn server(&self) -> String {
        let user = self.user.as_deref().map(|user| format!("{user}@"));
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let port = self.port.map(|port| format!(":{port}"));
        format!(
            "{}://{}{host}{}",
            self.scheme,
            user.unwrap_or_default(),
            port.unwrap_or_default()
        )
    }
}

fn text(escaped: &str) -> Option<String> {
    unescape(escaped)?.into_string().ok()
}

fn split_port(host_port: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = host_port.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        match after {
            "" => (host, None),
            _ => (host, Some(after.strip_prefix(':')?)),
        }
    } else {
        match host_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        }
    };
    let plain = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'));
    if !plain {
        return None;
    }
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None => None,
    };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Result<ServerAddress, AddressError> {
        let (scheme, rest) = address.split_once("://").unwrap();
        ServerAddress::parse(scheme, rest)
    }

    #[test]
    fn a_server_address_is_taken_apart_and_shown_as_given() {
        for (address, user, host, port, path) in [
            ("sftp://h/srv/pitr", None, "h", None, "/srv/pitr"),
            ("sftp://u@h:2222/a", Some("u"), "h", Some(2222), "/a"),
            ("sftp://u@[::1]:22/a", Some("u"), "::1", Some(22), "/a"),
            ("ftp://h/~/backup", None, "h", None, "backup"),
        ] {
            let parsed = parse(address).unwrap();
            assert_eq!(parsed.user.as_deref(), user);
            assert_eq!(
                (parsed.host.as_str(), parsed.port, parsed.path.as_str()),
                (host, port, path)
            );
            assert_eq!(parsed.location(), address);
        }
        assert_eq!(parse("SFTP://h/my%20disk/").unwrap().path, "/my disk");
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_never_repeated() {
        for address in [
            "sftp://u:secret@h/a",
            "ftp://u:secret@h",
            "ftp://u:secret/x@h/a",
            "sftp://u:sec/ret@h",
            "sftp://u:77/secret@h/a",
            "sftp://u:77/x/secret@h/a",
            "ftps://:secret@h/a",
        ] {
            let error = parse(address).unwrap_err();
            let shown = format!("{error} {error:?} {:?}", error.hint());
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn an_address_without_host_or_folder_is_refused() {
        for address in [
            "sftp://",
            "sftp:///a",
            "sftp://h",
            "sftp://h/",
            "sftp://h/~/",
            "sftp://h:0/a",
            "sftp://h:x/a",
            "sftp://h/a/../b",
            "sftp://h/a%0ab",
            "sftp://h o/a",
            "sftp://@h/a",
        ] {
            assert!(parse(address).is_err(), "{address} was taken");
        }
    }
}
