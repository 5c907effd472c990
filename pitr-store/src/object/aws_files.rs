//! `~/.aws/credentials` and `~/.aws/config`: the profiles of AWS's own tools.
//!
//! Shape: sections `[NAME]` (in the configuration `[profile NAME]`, only
//! `default` without the word), lines `key = value`, comments from `#` or `;`
//! at the beginning of a line or after a space. A key without a value opens a
//! group: the indented lines below it are `key = value` of their own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use crate::store::AddressError;

const SCHEME: &str = "s3";

/// What one profile says, as far as a store can use it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    values: HashMap<String, String>,
}

impl std::fmt::Debug for Profile {
    /// Names alone: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Profile {
    /// A value; that of a group is named `group.key`.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.get(key).is_some())
    }
}

/// Reads the profile `name` out of both files; what the credentials file says
/// counts more. `None` if neither file has it.
///
/// # Errors
/// `Settings` if one of the files is there and cannot be read.
pub(super) fn read_profile(
    environment: &Environment,
    name: &str,
) -> Result<Option<Profile>, AddressError> {
    let place = |variable: &str, in_home: &str| {
        environment
            .get(variable)
            .map(PathBuf::from)
            .or_else(|| environment.in_home(in_home))
    };
    let mut found = None;
    for (path, is_config) in [
        (place("AWS_CONFIG_FILE", ".aws/config"), true),
        (
            place("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            false,
        ),
    ] {
        let Some(path) = path else { continue };
        let Some(text) = read(&path)? else { continue };
        if let Some(values) = parse(&text, name, is_config) {
            let profile: &mut Profile = found.get_or_insert_with(Profile::default);
            // a token of one file does not go with a key of the other
            if values.contains_key("aws_access_key_id") {
                profile.values.remove("aws_session_token");
            }
            profile.values.extend(values);
        }
    }
    Ok(found)
}

/// The file's text; `None` if there is none, or if it lies in a home folder
/// that is not this user's to look into.
fn read(path: &Path) -> Result<Option<String>, AddressError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(AddressError::Settings {
            scheme: SCHEME,
            reason: format!("could not read \"{}\": {error}", path.display()),
            hint: "The user that runs the server must be able to read it: check its mode and owner.",
        }),
    }
}

/// The values of the section that stands for `profile`.
fn parse(text: &str, profile: &str, is_config: bool) -> Option<HashMap<String, String>> {
    let mut values = None;
    let mut group = None;
    let mut inside = false;
    for line in text.lines() {
        let indented = line.starts_with([' ', '\t']);
        let line = without_comment(line.trim());
        if line.is_empty() {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            inside = section_name(section.0, is_config) == Some(profile);
            group = None;
            if inside {
                values.get_or_insert_with(HashMap::new);
            }
            continue;
        }
        let (true, Some(values), Some((key, value))) =
            (inside, values.as_mut(), line.split_once('='))
        else {
            continue;
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if indented {
            if let Some(group) = &group {
                values.insert(format!("{group}.{key}"), value.to_owned());
                continue;
            }
        } else {
            group = value.is_empty().then(|| key.clone());
        }
        values.insert(key, value.to_owned());
    }
    values
}

/// The profile that a section is of; `None` for one of another kind.
fn section_name(section: &str, is_config: bool) -> Option<&str> {
    let section = section.trim();
    let name = match section.strip_prefix("profile") {
        Some(rest) if is_config && rest.starts_with([' ', '\t']) => rest.trim(),
        _ if is_config && section != "default" => return None,
        _ => section,
    };
    Some(name.trim_matches(['"', '\'']))
}

/// A `#` or `;` begins a comment where a word could begin; inside a word it is
/// part of it, as in many secrets.
fn without_comment(line: &str) -> &str {
    if line.starts_with(['#', ';']) {
        return "";
    }
    let end = [" #", " ;", "\t#", "\t;"]
        .iter()
        .filter_map(|mark| line.find(mark))
        .min()
        .unwrap_or(line.len());
    line.get(..end).unwrap_or(line).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# keys of the backup user
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key=se#cret/with+signs==

[archive]
AWS_ACCESS_KEY_ID = AKARCHIVE   ; of the archiver
aws_secret_access_key =\tsecond
aws_session_token = token
";

    const CONFIG: &str = "\
[default]
region = eu-west-1
[profile archive]
region = eu-north-1
s3 =
    addressing_style = path
    max_concurrent_requests = 20
endpoint_url = http://127.0.0.1:9000
[archive]
region = wrong
[sso-session archive]
region = wrong too
[profile \"with space\"]
region = x
";

    #[test]
    fn a_profile_is_found_in_both_files() {
        let of = |text, name, config| parse(text, name, config).unwrap();
        let default = of(CREDENTIALS, "default", false);
        assert_eq!(default["aws_secret_access_key"], "se#cret/with+signs==");
        let archive = of(CREDENTIALS, "archive", false);
        assert_eq!(archive["aws_access_key_id"], "AKARCHIVE");
        assert_eq!(archive["aws_secret_access_key"], "second");
        let config = of(CONFIG, "archive", true);
        assert_eq!(config["region"], "eu-north-1");
        assert_eq!(config["s3.addressing_style"], "path");
        assert_eq!(config["endpoint_url"], "http://127.0.0.1:9000");
        assert_eq!(of(CONFIG, "with space", true)["region"], "x");
        assert!(parse(CONFIG, "nobody", true).is_none());
    }

    #[test]
    fn nothing_in_a_file_makes_the_reader_fail() {
        for odd in [
            "",
            "[",
            "]",
            "[]",
            "=",
            "[default]\n=\n = x\n\tkey",
            "[default\nkey = v",
        ] {
            let _ = parse(odd, "default", true);
            let _ = parse(odd, "default", false);
        }
    }

    #[test]
    fn the_credentials_file_counts_more_and_its_keys_take_no_foreign_token() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let config = put(
            "config",
            "[default]\naws_access_key_id = A\naws_secret_access_key = a\naws_session_token = t\nregion = r\n",
        );
        let credentials = put(
            "credentials",
            "[default]\naws_access_key_id = B\naws_secret_access_key = b\n",
        );
        let environment = Environment::made_of(&[
            ("AWS_CONFIG_FILE", &config),
            ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
        ]);
        let profile = read_profile(&environment, "default").unwrap().unwrap();
        assert_eq!(profile.get("aws_access_key_id"), Some("B"));
        assert_eq!(profile.get("aws_session_token"), None);
        assert_eq!(profile.get("region"), Some("r"));
        assert!(!format!("{profile:?}").contains("\"b\""));
    }
}
