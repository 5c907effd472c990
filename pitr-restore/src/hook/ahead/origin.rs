//! Where segments that were fetched ahead come from: only a hook that would
//! fetch them from there itself hands them out.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use pitr_console::Settings;
use pitr_core::{SystemIdentifier, WalSegmentSize};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Number of this shape.
const FORMAT: u32 = 1;

/// Everything by which a hook chooses its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    format: u32,
    /// Process that fills the folder.
    process: i32,
    /// As text: other readers of JSON have no numbers of 64 bits.
    system_identifier: String,
    /// Size of a segment, as the repository says.
    pub(crate) segment_size: WalSegmentSize,
    source: Source,
}

/// What the settings say of the source. No password stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    repositories: Vec<String>,
    /// The configuration file: path, device, inode, time of change, size.
    configuration: Option<(String, u64, u64, i64, i64, u64)>,
    identity: Option<String>,
    key_file: Option<String>,
    prefetch: Option<u32>,
}

impl Source {
    pub(crate) fn of(settings: &Settings) -> Self {
        let shown = |path: &Path| path.display().to_string();
        Self {
            repositories: settings
                .repositories
                .iter()
                .map(|address| without_password(address))
                .collect(),
            configuration: settings.file.as_deref().and_then(|path| {
                let found = std::fs::metadata(path).ok()?;
                Some((
                    shown(path),
                    found.dev(),
                    found.ino(),
                    found.mtime(),
                    found.mtime_nsec(),
                    found.len(),
                ))
            }),
            identity: settings.keys.identity.as_deref().map(shown),
            key_file: settings.keys.key_file.as_deref().map(shown),
            prefetch: settings.prefetch,
        }
    }
}

impl Origin {
    pub(crate) fn new(
        source: Source,
        system_identifier: SystemIdentifier,
        segment_size: WalSegmentSize,
    ) -> Self {
        Self {
            format: FORMAT,
            process: rustix::process::getpid().as_raw_pid(),
            system_identifier: system_identifier.to_string(),
            segment_size,
            source,
        }
    }

    /// What stands in the folder; `None` where it is not of this shape.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let origin: Self = serde_json::from_slice(bytes).ok()?;
        (origin.format == FORMAT).then_some(origin)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether its process lives. The lock may be another one's, that has begun
    /// just now and not yet swept what this one left.
    pub(crate) fn is_alive(&self) -> bool {
        Pid::from_raw(self.process).is_some_and(|pid| test_kill_process(pid).is_ok())
    }

    /// Whether it is what `source` and `system_identifier` lead to.
    pub(crate) fn is(&self, source: &Source, system_identifier: SystemIdentifier) -> bool {
        self.source == *source && self.system_identifier == system_identifier.to_string()
    }
}

/// `sftp://user:secret@host/path` without the secret.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let Some((login, host)) = authority.rsplit_once('@') else {
        return address.to_owned();
    };
    let user = login.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}@{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr_console::RepositoryArguments;

    fn settings(repo: &str, prefetch: Option<u32>, file: Option<&Path>) -> Settings {
        let arguments = RepositoryArguments {
            repo: vec![repo.to_owned()],
            config: file.map(Path::to_owned),
            ..RepositoryArguments::default()
        };
        let mut settings = Settings::resolve(&arguments, |_| None).unwrap();
        settings.prefetch = prefetch;
        settings
    }

    #[test]
    fn another_source_is_another_origin() {
        let me = SystemIdentifier::new(7);
        let source = Source::of(&settings("/a", None, None));
        let origin = Origin::new(source.clone(), me, WalSegmentSize::DEFAULT);
        let origin = Origin::parse(&origin.to_bytes()).unwrap();
        assert!(origin.is(&source, me));
        assert!(!origin.is(&source, SystemIdentifier::new(8)));
        for other in [settings("/b", None, None), settings("/a", Some(3), None)] {
            assert!(!origin.is(&Source::of(&other), me));
        }
    }

    #[test]
    fn what_a_dead_process_says_is_told_from_a_living_ones() {
        let source = Source::of(&settings("/a", None, None));
        let mut origin = Origin::new(source, SystemIdentifier::new(7), WalSegmentSize::DEFAULT);
        assert!(origin.is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        origin.process = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(!origin.is_alive());
        origin.process = 0;
        assert!(!origin.is_alive());
    }

    #[test]
    fn a_changed_configuration_is_another_origin() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = Source::of(&settings("/a", None, Some(file.path())));
        std::fs::write(file.path(), "[s3]\nendpoint = \"http://other\"\n").unwrap();
        assert_ne!(before, Source::of(&settings("/a", None, Some(file.path()))));
    }

    #[test]
    fn no_password_is_written() {
        for (address, shown) in [
            ("sftp://me:secret@host/a:b@c", "sftp://me@host/a:b@c"),
            ("ftp://me:s@cret@host", "ftp://me@host"),
            ("sftp://host/me:x@y", "sftp://host/me:x@y"),
            ("/srv/a:b@c", "/srv/a:b@c"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }

    #[test]
    fn garbage_is_no_origin() {
        for bytes in [&b""[..], b"{", b"{}", b"[1]", b"\xff"] {
            assert_eq!(Origin::parse(bytes), None);
        }
    }
}
