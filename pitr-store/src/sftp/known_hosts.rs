//! Which servers are who they say they are: `known_hosts`, as sshd(8) describes it.

use std::path::{Path, PathBuf};

use ring::hmac;
use russh::keys::ssh_key::known_hosts::{HostPatterns, KnownHosts, Marker};
use russh::keys::{Algorithm, HashAlg, PublicKey};

use super::algorithms::scan_type;
use crate::store::server_error::{CHANGED, REVOKED, ServerError};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What is known of one server.
#[derive(Debug)]
pub(super) struct KnownServer {
    /// For messages.
    server: String,
    /// The name that the files have it by: `host` or `[host]:port`.
    name: String,
    host: String,
    port: u16,
    keys: Vec<KnownKey>,
    /// The files, for messages.
    searched: Vec<PathBuf>,
}

#[derive(Debug)]
struct KnownKey {
    key: PublicKey,
    revoked: bool,
    file: PathBuf,
    line: usize,
}

impl KnownServer {
    /// Reads what `files` say about the server. A file that does not exist
    /// says nothing.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub(super) fn read(
        server: &str,
        host: &str,
        port: u16,
        files: Vec<PathBuf>,
    ) -> Result<Self, ServerError> {
        let host = host.to_ascii_lowercase();
        let name = if port == 22 {
            host.clone()
        } else {
            format!("[{host}]:{port}")
        };
        let mut known = Self {
            server: server.to_owned(),
            name,
            host,
            port,
            keys: Vec::new(),
            searched: files,
        };
        for file in known.searched.clone() {
            known.add(&file)?;
        }
        Ok(known)
    }

    fn add(&mut self, file: &Path) -> Result<(), ServerError> {
        let text = match read_bounded(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(ServerError::Credentials {
                    problem: format!("could not read known hosts \"{}\": {error}", file.display()),
                    hint: "The user that runs the server must be able to read it.".to_owned(),
                });
            }
        };
        for (index, line) in text.lines().enumerate() {
            // As ssh does: a line that makes no sense vouches for nobody.
            let Some(Ok(entry)) = KnownHosts::new(line).next() else {
                continue;
            };
            if entry.marker() == Some(&Marker::CertAuthority)
                || !is_meant(entry.host_patterns(), &self.name)
            {
                continue;
            }
            self.keys.push(KnownKey {
                key: entry.public_key().clone(),
                revoked: entry.marker() == Some(&Marker::Revoked),
                file: file.to_owned(),
                line: index + 1,
            });
        }
        Ok(())
    }

    /// The types of key that the server is known by.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        self.keys
            .iter()
            .filter(|known| !known.revoked)
            .map(|known| known.key.algorithm())
            .collect()
    }

    /// Whether `key` is one that the server is known by.
    ///
    /// # Errors
    /// `WrongHostKey` if it is revoked, or the server has another of this
    /// type; `UnknownHostKey` if nothing is known of it.
    pub(super) fn check(&self, key: &PublicKey) -> Result<(), ServerError> {
        let wrong = |known: &KnownKey, relation| ServerError::WrongHostKey {
            server: self.server.clone(),
            algorithm: scan_type(&key.algorithm()),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            relation,
            file: known.file.display().to_string(),
            line: known.line,
        };
        let same = |known: &&KnownKey| known.key.key_data() == key.key_data();
        if let Some(revoked) = self.keys.iter().filter(|k| k.revoked).find(same) {
            return Err(wrong(revoked, REVOKED));
        }
        if self.keys.iter().filter(|k| !k.revoked).any(|k| same(&k)) {
            return Ok(());
        }
        let other = |known: &&KnownKey| known.key.algorithm() == key.algorithm();
        if let Some(changed) = self.keys.iter().filter(|k| !k.revoked).find(other) {
            return Err(wrong(changed, CHANGED));
        }
        let target = self
            .searched
            .first()
            .map(|file| file.display().to_string())
            .unwrap_or_default();
        let mut hint = format!(
            "Compare the fingerprint with the server's own (ssh-keygen -lf /etc/ssh/ssh_host_{algorithm}_key.pub), then: ssh-keyscan -p {port} -t {algorithm} {host} >> {target}",
            algorithm = scan_type(&key.algorithm()),
            port = self.port,
            host = self.host,
        );
        if self.algorithms().into_iter().any(Algorithm::is_rsa) {
            hint.push_str(
                " The RSA key that is known of this server cannot be checked by this program.",
            );
        }
        Err(ServerError::UnknownHostKey {
            server: self.server.clone(),
            algorithm: scan_type(&key.algorithm()),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            searched: self
                .searched
                .iter()
                .map(|file| format!("\"{}\"", file.display()))
                .collect::<Vec<_>>()
                .join(" and "),
            hint,
        })
    }
}

fn read_bounded(file: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(file)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether an entry speaks of the server that is called `name`.
fn is_meant(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        // The format has SHA-1; it hides names, it vouches for nothing.
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let mut meant = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(not) if matches(not, name) => return false,
                    Some(_) => {}
                    None => meant |= matches(pattern, name),
                }
            }
            meant
        }
    }
}

/// `*` stands for any text, `?` for one character; case does not count.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last star stood, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || c.eq_ignore_ascii_case(&name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    const SECOND: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn check(file: &str, host: &str, port: u16, key: &str) -> Result<(), ServerError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::fs::write(&path, file).unwrap();
        KnownServer::read("sftp://h", host, port, vec![path])
            .unwrap()
            .check(&key.parse().unwrap())
    }

    #[test]
    fn a_server_is_known_by_name_pattern_port_and_hash() {
        for (line, host, port) in [
            (format!("h {FIRST}"), "h", 22),
            (format!("x,H {FIRST} comment"), "h", 22),
            (format!("[h]:2222 {FIRST}"), "h", 2222),
            (format!("*.example.org {FIRST}"), "a.b.example.org", 22),
            (format!("db? {FIRST}"), "db7", 22),
            (
                format!("|1|lcY/In3lsGnkJikLENb0DM70B/I=|Qs4e9Nr7mM6avuEv02fw2uFnwQo= {FIRST}"),
                "not this one",
                0,
            ),
        ] {
            let answer = check(&line, host, port, FIRST);
            assert_eq!(answer.is_ok(), port != 0, "{line}: {answer:?}");
        }
        // made with ssh-keygen -H from "example.com"
        let hashed =
            format!("|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak= {FIRST}");
        check(&hashed, "example.com", 22, FIRST).unwrap();
    }

    #[test]
    fn another_key_than_the_known_one_is_refused_with_file_and_line() {
        let error = check(&format!("# c\nh {FIRST}"), "h", 22, SECOND).unwrap_err();
        assert!(matches!(
            error,
            ServerError::WrongHostKey {
                relation: CHANGED,
                line: 2,
                ..
            }
        ));
    }

    #[test]
    fn a_key_is_unknown_where_no_line_means_the_server() {
        for line in [
            String::new(),
            format!("other {FIRST}"),
            format!("h {FIRST}"),
            format!("!h,* {FIRST}"),
            format!("@cert-authority [h]:2222 {FIRST}"),
            format!("[h]:2222 nonsense {FIRST}"),
        ] {
            let error = check(&line, "h", 2222, FIRST).err();
            let fine = line.starts_with("!h,*");
            assert_eq!(error.is_none(), fine, "{line}");
            if let Some(error) = error {
                assert!(matches!(error, ServerError::UnknownHostKey { .. }));
                assert!(error.to_string().contains("SHA256:"), "{error}");
                assert!(error.hint().unwrap().contains("ssh-keyscan -p 2222"));
            }
        }
        assert!(check(&format!("!h,* {FIRST}"), "h", 22, FIRST).is_err());
    }

    #[test]
    fn a_revoked_key_is_refused_even_where_another_line_knows_it() {
        let file = format!("h {FIRST}\n@revoked * {FIRST}\n");
        let error = check(&file, "h", 22, FIRST).unwrap_err();
        assert!(error.to_string().contains("revoked"), "{error}");
    }
}
