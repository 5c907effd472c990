//! Every setting that was given, and where.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::environment::Environment;
use super::error::OptionsError;
use super::keyword::{self, KEYWORDS, Treatment};
use super::{conninfo, service, uri};

/// Folder of the system-wide service file: Debian's, unless `PGSYSCONFDIR` says otherwise.
const SYSTEM_CONFIGURATION_FOLDER: &str = "/etc/postgresql-common";

#[derive(Clone)]
pub(crate) enum Place {
    ConnectionString,
    Service(PathBuf),
    Variable(&'static str),
}

impl Place {
    fn describe(&self) -> String {
        match self {
            Self::ConnectionString => "the connection string".to_owned(),
            Self::Service(path) => format!("service file \"{}\"", path.display()),
            Self::Variable(name) => (*name).to_owned(),
        }
    }
}

/// Every setting that was given, with the place it came from.
pub(crate) struct Settings(BTreeMap<&'static str, (String, Place)>);

impl Settings {
    pub(crate) fn collect(
        connection: Option<&str>,
        environment: &dyn Environment,
    ) -> Result<Self, OptionsError> {
        let mut settings = Self(BTreeMap::new());
        if let Some(text) = connection {
            let pairs = if uri::is_uri(text) {
                uri::parse(text)?
            } else if text.contains('=') {
                conninfo::parse(text)?
            } else {
                vec![("dbname".to_owned(), text.to_owned())]
            };
            let has_password = pairs.iter().any(|(name, _)| name == "password");
            for (name, value) in pairs {
                // the last one of a name counts
                let known = known(&name, &Place::ConnectionString, has_password)?;
                settings.0.insert(known, (value, Place::ConnectionString));
            }
        }
        settings.add_service(environment)?;
        for keyword in KEYWORDS {
            let Some(variable) = keyword.variable else {
                continue;
            };
            if let Some(value) = environment.variable(variable)
                && !value.is_empty()
            {
                settings.0.entry(keyword.name).or_insert_with(|| {
                    (
                        value.to_string_lossy().into_owned(),
                        Place::Variable(variable),
                    )
                });
            }
        }
        settings.check_supported()?;
        Ok(settings)
    }

    /// Source: `parseServiceInfo`, src/interfaces/libpq/fe-connect.c.
    fn add_service(&mut self, environment: &dyn Environment) -> Result<(), OptionsError> {
        let variable = |name: &str| {
            environment
                .variable(name)
                .filter(|value| !value.is_empty())
                .map(|value| value.to_string_lossy().into_owned())
        };
        let Some(service) = self
            .given("service")
            .map(str::to_owned)
            .or_else(|| variable("PGSERVICE"))
        else {
            return Ok(());
        };
        let named = self
            .given("servicefile")
            .map(str::to_owned)
            .or_else(|| variable("PGSERVICEFILE"));
        let user_file = match &named {
            Some(path) => Some((expand_home(path, environment), true)),
            None => environment
                .home()
                .map(|home| (home.join(".pg_service.conf"), false)),
        };
        let system_folder =
            variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_CONFIGURATION_FOLDER.to_owned());
        let system_file = (Path::new(&system_folder).join("pg_service.conf"), false);

        let mut searched = Vec::new();
        for (path, must_exist) in user_file.into_iter().chain([system_file]) {
            let text = match fs::read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => continue,
                Err(source) => return Err(OptionsError::ServiceFile { path, source }),
            };
            if let Some(pairs) = service::parse(&path, &text, &service)? {
                for (name, value) in pairs {
                    let place = Place::Service(path.clone());
                    let known = known(&name, &place, false)?;
                    self.0.entry(known).or_insert((value, place));
                }
                return Ok(());
            }
            searched.push(path);
        }
        Err(OptionsError::ServiceNotFound { service, searched })
    }

    fn check_supported(&self) -> Result<(), OptionsError> {
        for (name, (value, place)) in &self.0 {
            let Some(keyword) = keyword::find(name) else {
                continue;
            };
            if let Treatment::RefusedUnless(harmless) = keyword.treatment
                && !value.is_empty()
                && !harmless.contains(&value.as_str())
            {
                let is_secret =
                    name.contains("password") || name.contains("secret") || name.contains("scram");
                return Err(OptionsError::Unsupported {
                    name: keyword.name,
                    value: if is_secret {
                        "...".to_owned()
                    } else {
                        value.clone()
                    },
                    place: place.describe(),
                });
            }
        }
        Ok(())
    }

    /// A setting that is not empty, with the place it came from.
    pub(crate) fn placed(&self, name: &str) -> Option<&(String, Place)> {
        self.0.get(name).filter(|(value, _)| !value.is_empty())
    }

    /// A setting that was given and is not empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|(value, _)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn wrong(
        &self,
        name: &'static str,
        value: &str,
        expected: &'static str,
    ) -> OptionsError {
        OptionsError::Value {
            name,
            value: value.to_owned(),
            place: self
                .0
                .get(name)
                .map(|(_, place)| place.describe())
                .unwrap_or_default(),
            expected,
        }
    }

    pub(crate) fn choice<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, OptionsError> {
        self.given(name)
            .map(|value| parse(value).ok_or_else(|| self.wrong(name, value, expected)))
            .transpose()
    }

    pub(crate) fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, OptionsError> {
        self.choice(name, "a whole number", |text| text.trim().parse().ok())
    }
}

/// Beside a password, a name that is none may be a piece of it: one with blanks and no quotes.
fn known(name: &str, place: &Place, conceal: bool) -> Result<&'static str, OptionsError> {
    keyword::find(name)
        .map(|keyword| keyword.name)
        .ok_or_else(|| OptionsError::Unknown {
            name: if conceal { "..." } else { name }.to_owned(),
            place: place.describe(),
        })
}

pub(crate) fn expand_home(path: &str, environment: &dyn Environment) -> PathBuf {
    match (path.strip_prefix("~/"), environment.home()) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(path),
    }
}
