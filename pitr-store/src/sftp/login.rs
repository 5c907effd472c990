//! How the server is told who we are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, decode_secret_key};

use super::connect::{ConnectError, HostCheck};
use crate::store::SftpOptions;
use crate::store::secret_file::{read_secret_file, secret};
use crate::store::server_error::ServerError;

/// The keys that ssh itself looks for, of the types that can be used here.
const DEFAULT_KEYS: [&str; 2] = ["id_ed25519", "id_ecdsa"];

/// How often one prompt after another is answered.
const MAX_PROMPTS: usize = 4;

/// Everything that may open the door.
#[derive(Debug)]
pub(super) struct Login<'a> {
    pub(super) server: String,
    pub(super) user: String,
    pub(super) options: &'a SftpOptions,
}

/// What has been tried so far.
#[derive(Default)]
struct Tried(Vec<String>);

impl Login<'_> {
    /// Logs in: with the key file that was named, else with the agent's keys
    /// and those in `~/.ssh`; then with a password.
    pub(super) async fn perform(&self, ssh: &mut Handle<HostCheck>) -> Result<(), ConnectError> {
        let mut tried = Tried::default();
        let let_in = match &self.options.identity_file {
            Some(file) => {
                let key = self.named_key(file)?;
                self.with_key(ssh, key, file, &mut tried).await?
            }
            None => {
                self.with_agent(ssh, &mut tried).await?
                    || self.with_default_keys(ssh, &mut tried).await?
            }
        };
        if let_in || self.with_password(ssh, &mut tried).await? {
            return Ok(());
        }
        let hint = if tried.0.is_empty() {
            "Name a key as identity_file in the table [sftp] of the configuration file, start an ssh-agent, or name a password_file.".to_owned()
        } else {
            format!(
                "Put the public key into ~{}/.ssh/authorized_keys of the server, or correct the password; the server's log says why it refuses.",
                self.user
            )
        };
        Err(ServerError::LoginRefused {
            server: self.server.clone(),
            user: self.user.clone(),
            tried: if tried.0.is_empty() {
                "nothing, as there is neither key nor password".to_owned()
            } else {
                tried.0.join(", ")
            },
            hint,
        }
        .into())
    }

    fn named_key(&self, file: &Path) -> Result<PrivateKey, ServerError> {
        let Some(text) = read_secret_file(file, "identity file")? else {
            return Err(ServerError::Credentials {
                problem: format!("identity file \"{}\" does not exist", file.display()),
                hint: format!(
                    "Make a key with: ssh-keygen -t ed25519 -f {}",
                    file.display()
                ),
            });
        };
        self.decode(&text).map_err(|reason| {
            let hint = match reason {
                KeyProblem::Encrypted => {
                    "Put its passphrase into PITR_SFTP_PASSPHRASE or a passphrase_file, or load the key into an ssh-agent.".to_owned()
                }
                KeyProblem::Rsa => {
                    "RSA keys cannot be used from a file: make another (ssh-keygen -t ed25519), or load this one into an ssh-agent, which signs with it.".to_owned()
                }
                KeyProblem::Other(_) => {
                    "It must be a private key as ssh-keygen writes it.".to_owned()
                }
            };
            ServerError::Credentials {
                problem: format!("could not use identity file \"{}\": {reason}", file.display()),
                hint,
            }
        })
    }

    fn decode(&self, text: &str) -> Result<PrivateKey, KeyProblem> {
        let passphrase = secret(
            self.options.passphrase_file.as_deref(),
            "PITR_SFTP_PASSPHRASE",
            "passphrase file",
        )
        .map_err(|e| KeyProblem::Other(e.to_string()))?;
        if text.contains("BEGIN RSA PRIVATE KEY") {
            return Err(KeyProblem::Rsa);
        }
        let key = match decode_secret_key(text, passphrase.as_deref()) {
            Ok(key) => key,
            Err(russh::keys::Error::KeyIsEncrypted) => return Err(KeyProblem::Encrypted),
            Err(error) if passphrase.is_some() => {
                return Err(KeyProblem::Other(format!(
                    "{error} (is its passphrase right?)"
                )));
            }
            Err(error) => return Err(KeyProblem::Other(error.to_string())),
        };
        if key.is_encrypted() {
            return Err(KeyProblem::Encrypted);
        }
        if key.algorithm().is_rsa() {
            return Err(KeyProblem::Rsa);
        }
        Ok(key)
    }

    async fn with_key(
        &self,
        ssh: &mut Handle<HostCheck>,
        key: PrivateKey,
        file: &Path,
        tried: &mut Tried,
    ) -> Result<bool, ConnectError> {
        tried.0.push(format!("key \"{}\"", file.display()));
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
        Ok(ssh
            .authenticate_publickey(self.user.as_str(), key)
            .await?
            .success())
    }

    async fn with_default_keys(
        &self,
        ssh: &mut Handle<HostCheck>,
        tried: &mut Tried,
    ) -> Result<bool, ConnectError> {
        for file in home_files(&DEFAULT_KEYS) {
            let text = match read_secret_file(&file, "key") {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => {
                    tried.0.push(error.to_string());
                    continue;
                }
            };
            match self.decode(&text) {
                Ok(key) => {
                    if self.with_key(ssh, key, &file, tried).await? {
                        return Ok(true);
                    }
                }
                Err(reason) => tried
                    .0
                    .push(format!("not key \"{}\": {reason}", file.display())),
            }
        }
        Ok(false)
    }

    /// An agent signs with keys of every type, RSA too.
    async fn with_agent(
        &self,
        ssh: &mut Handle<HostCheck>,
        tried: &mut Tried,
    ) -> Result<bool, ConnectError> {
        if std::env::var_os("SSH_AUTH_SOCK").is_none_or(|path| path.is_empty()) {
            return Ok(false);
        }
        let mut agent = match AgentClient::connect_env().await {
            Ok(agent) => agent,
            Err(error) => {
                tried.0.push(format!("not the ssh-agent: {error}"));
                return Ok(false);
            }
        };
        if let Some(binding) = ssh.agent_session_binding() {
            // Agents that do not know this answer with a failure.
            let _ = agent.bind_session(binding, false).await;
        }
        let identities = match agent.request_identities().await {
            Ok(identities) => identities,
            Err(error) => {
                tried.0.push(format!("not the ssh-agent: {error}"));
                return Ok(false);
            }
        };
        tried
            .0
            .push(format!("{} keys of the ssh-agent", identities.len()));
        for identity in identities {
            let AgentIdentity::PublicKey { key, .. } = identity else {
                continue;
            };
            let hash = match key.algorithm() {
                Algorithm::Rsa { .. } => ssh.best_supported_rsa_hash().await?.flatten(),
                _ => None,
            };
            let answer = ssh
                .authenticate_publickey_with(self.user.as_str(), key, hash, &mut agent)
                .await;
            match answer {
                Ok(answer) if answer.success() => return Ok(true),
                Ok(_) => {}
                // The agent did not sign: the next key may do.
                Err(russh::AgentAuthError::Key(_)) => {}
                Err(russh::AgentAuthError::Send(_)) => return Err(russh::Error::Disconnect.into()),
            }
        }
        Ok(false)
    }

    async fn with_password(
        &self,
        ssh: &mut Handle<HostCheck>,
        tried: &mut Tried,
    ) -> Result<bool, ConnectError> {
        let password = secret(
            self.options.password_file.as_deref(),
            "PITR_SFTP_PASSWORD",
            "password file",
        )?;
        let Some(password) = password else {
            return Ok(false);
        };
        tried.0.push("a password".to_owned());
        let answer = ssh
            .authenticate_password(self.user.as_str(), password.as_str())
            .await?;
        match answer {
            AuthResult::Success => return Ok(true),
            AuthResult::Failure {
                remaining_methods, ..
            } => {
                if !remaining_methods.contains(&russh::MethodKind::KeyboardInteractive) {
                    return Ok(false);
                }
            }
        }
        // The same password, where the server asks for it as a dialogue.
        let mut answer = ssh
            .authenticate_keyboard_interactive_start(self.user.as_str(), None)
            .await?;
        for _ in 0..MAX_PROMPTS {
            match answer {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                    // What is echoed is no password, and not ours to answer.
                    if prompts.len() > 1 || prompts.iter().any(|prompt| prompt.echo) {
                        return Ok(false);
                    }
                    let responses = prompts.iter().map(|_| password.clone()).collect();
                    answer = ssh
                        .authenticate_keyboard_interactive_respond(responses)
                        .await?;
                }
            }
        }
        Ok(false)
    }
}

#[derive(Debug, thiserror::Error)]
enum KeyProblem {
    #[error("it is encrypted, and there is no passphrase")]
    Encrypted,
    #[error("it is an RSA key")]
    Rsa,
    #[error("{0}")]
    Other(String),
}

/// `~/.ssh/NAME` of the user who runs this process.
pub(super) fn home_files(names: &[&str]) -> Vec<PathBuf> {
    let Some(home) = std::env::home_dir() else {
        return Vec::new();
    };
    names
        .iter()
        .map(|name| home.join(".ssh").join(name))
        .collect()
}
