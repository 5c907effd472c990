//! Service files: named sets of connection settings.

use std::path::Path;

use super::error::OptionsError;
use super::keyword;

/// Settings of `[service]` in the text of a service file; `None` if it has no such section.
///
/// `name=value` lines below `[name]`; blanks at the ends of a line do not
/// count, `#` begins a comment line. Where the same section comes twice, only
/// the first counts.
///
/// # Errors
/// `ServiceFileSyntax` for a line in the section that is none of these or
/// has an unknown name. Other sections are not looked into.
///
/// Source: `parseServiceFile`, src/interfaces/libpq/fe-connect.c.
pub(crate) fn parse(
    path: &Path,
    text: &str,
    service: &str,
) -> Result<Option<Vec<(String, String)>>, OptionsError> {
    let mut pairs = Vec::new();
    let mut found = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found {
                break;
            }
            found = header.split(']').next() == Some(service);
            continue;
        }
        if !found {
            continue;
        }
        let syntax = |problem: &'static str| OptionsError::ServiceFileSyntax {
            path: path.to_owned(),
            line: number + 1,
            problem,
        };
        let Some((name, value)) = line.split_once('=') else {
            return Err(syntax("it is not of the form name=value"));
        };
        let name = name.trim_end();
        if name == "service" || name == "servicefile" {
            return Err(syntax("a service cannot refer to another one"));
        }
        if keyword::find(name).is_none() {
            return Err(syntax("libpq has no setting of this name"));
        }
        // the first line of a name counts
        if !pairs.iter().any(|(known, _)| known == name) {
            pairs.push((name.to_owned(), value.trim_start().to_owned()));
        }
    }
    Ok(found.then_some(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# services\n[a]\nhost=one\n\n[b]\n  host = two \nport=5433\nhost=three\n#x\n[b]\nuser=u\n[bad]\nnonsense\n[bad2]\nhsot=x\n[bad3]\nservice=a\n";

    fn service(name: &str) -> Result<Option<Vec<(String, String)>>, OptionsError> {
        parse(Path::new("/x/pg_service.conf"), TEXT, name)
    }

    #[test]
    fn a_section_is_found_and_the_first_line_of_a_name_counts() {
        assert_eq!(service("none").unwrap(), None);
        assert_eq!(
            service("b").unwrap().unwrap(),
            [
                ("host".into(), "two".into()),
                ("port".into(), "5433".into())
            ]
        );
        assert_eq!(service("a").unwrap().unwrap().len(), 1);
    }

    #[test]
    fn a_wrong_line_in_the_section_is_named_by_number() {
        for (name, line) in [("bad", 13), ("bad2", 15), ("bad3", 17)] {
            let error = service(name).unwrap_err();
            assert!(
                matches!(error, OptionsError::ServiceFileSyntax { line: found, .. } if found == line),
                "{error}"
            );
        }
    }
}
