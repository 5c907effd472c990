//! Connection strings of the form `postgresql://user@host:5432/db?sslmode=require`.

use super::error::OptionsError;

/// Whether libpq would take `text` for a URI.
pub(crate) fn is_uri(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

/// Splits a URI into libpq's keywords.
///
/// `postgresql://[user[:password]@][host][:port][,...][/dbname][?name=value[&...]]`.
/// Everything may be percent-encoded; an IPv6 address stands in brackets;
/// `ssl=true` means `sslmode=require`. Several hosts and ports come back as
/// comma-separated lists.
///
/// # Errors
/// `Uri` with what is wrong, never with text of the URI: it may be part of a password.
///
/// Source: `conninfo_uri_parse_options`, src/interfaces/libpq/fe-connect.c.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let Some((_, mut rest)) = text.split_once("://") else {
        return Err(bad("it does not begin with postgresql://"));
    };

    // the part before an "@" that stands before the first "/"
    if let Some(at) = rest.find(['@', '/'])
        && rest[at..].starts_with('@')
    {
        let (user, password) = match rest[..at].split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (&rest[..at], None),
        };
        if !user.is_empty() {
            pairs.push(("user".into(), decode(user)?));
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            pairs.push(("password".into(), decode(password)?));
        }
        rest = &rest[at + 1..];
    }

    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    loop {
        let host;
        if let Some(behind) = rest.strip_prefix('[') {
            let Some((address, behind)) = behind.split_once(']') else {
                return Err(bad("the \"]\" of an IPv6 address is missing"));
            };
            if address.is_empty() {
                return Err(bad("an IPv6 address may not be empty"));
            }
            if !behind.is_empty() && !behind.starts_with([':', '/', '?', ',']) {
                return Err(bad(
                    "only \":\", \"/\", \"?\" or \",\" may follow the \"]\"",
                ));
            }
            host = address;
            rest = behind;
        } else {
            let end = rest.find([':', '/', '?', ',']).unwrap_or(rest.len());
            (host, rest) = rest.split_at(end);
        }
        hosts.push(decode(host)?);
        let mut port = "";
        if let Some(behind) = rest.strip_prefix(':') {
            let end = behind.find(['/', '?', ',']).unwrap_or(behind.len());
            (port, rest) = behind.split_at(end);
        }
        ports.push(decode(port)?);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    for (keyword, list) in [("host", hosts), ("port", ports)] {
        let list = list.join(",");
        if !list.is_empty() {
            pairs.push((keyword.into(), list));
        }
    }

    let (path, parameters) = match rest.split_once('?') {
        Some((path, parameters)) => (path, parameters),
        None => (rest, ""),
    };
    if let Some(database) = path.strip_prefix('/').filter(|path| !path.is_empty()) {
        pairs.push(("dbname".into(), decode(database)?));
    }
    for parameter in parameters.split('&').filter(|text| !text.is_empty()) {
        let Some((name, value)) = parameter.split_once('=') else {
            return Err(bad("a parameter behind the \"?\" has no \"=\""));
        };
        if value.contains('=') {
            return Err(bad("a parameter behind the \"?\" has more than one \"=\""));
        }
        let (name, value) = (decode(name)?, decode(value)?);
        match (name.as_str(), value.as_str()) {
            ("ssl", "true") => pairs.push(("sslmode".into(), "require".into())),
            _ => pairs.push((name, value)),
        }
    }
    Ok(pairs)
}

fn bad(problem: &'static str) -> OptionsError {
    OptionsError::Uri { problem }
}

fn decode(text: &str) -> Result<String, OptionsError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest
            .first_chunk::<2>()
            .ok_or_else(|| bad("a percent sign is not followed by two hex digits"))?;
        let value = |digit: u8| char::from(digit).to_digit(16);
        let code = match (value(digits[0]), value(digits[1])) {
            (Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        match code {
            None => return Err(bad("a percent sign is not followed by two hex digits")),
            Some(0) => return Err(bad("%00 is not allowed")),
            Some(code) => bytes.push(code),
        }
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad("a percent-encoded text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Like the expected output of libpq's own `libpq_uri_regress`.
    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(pairs) => pairs
                .into_iter()
                .map(|(keyword, value)| format!("{keyword}='{value}'"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn libpqs_own_examples_come_out_alike() {
        // src/interfaces/libpq/t/001_uri.pl
        for (uri, expected) in [
            (
                "postgresql://uri-user:secret@host:12345/db",
                "user='uri-user' password='secret' host='host' port='12345' dbname='db'",
            ),
            (
                "postgresql://uri-user@host/db",
                "user='uri-user' host='host' dbname='db'",
            ),
            ("postgresql://host/db", "host='host' dbname='db'"),
            ("postgresql://uri-user@host/", "user='uri-user' host='host'"),
            ("postgresql://uri-user@", "user='uri-user'"),
            (
                "postgresql://uri-user:secret@:1234/",
                "user='uri-user' password='secret' port='1234'",
            ),
            ("postgresql:///", ""),
            ("postgresql://", ""),
            ("postgresql://%68ost/", "host='host'"),
            ("postgresql://host?uzer=", "host='host' uzer=''"),
            ("postgresql:///?host=::1", "host='::1'"),
            (
                "postgresql://[::1]:12345/db",
                "host='::1' port='12345' dbname='db'",
            ),
            ("postgresql://[2001:db8::1234]", "host='2001:db8::1234'"),
            (
                "postgresql://host/db?u%73er=someotheruser&port=12345",
                "host='host' dbname='db' user='someotheruser' port='12345'",
            ),
            (
                "postgresql:///?host=/path/to/socket/dir",
                "host='/path/to/socket/dir'",
            ),
            (
                "postgresql://%2Fvar%2Flib/db",
                "host='/var/lib' dbname='db'",
            ),
            (
                "postgresql://host?ssl=true",
                "host='host' sslmode='require'",
            ),
            (
                "postgres://a:1,b:2,[::1]/d",
                "host='a,b,::1' port='1,2,' dbname='d'",
            ),
            ("postgres:///x,y", "dbname='x,y'"),
        ] {
            assert_eq!(shown(uri), expected, "{uri}");
        }
    }

    #[test]
    fn malformed_uris_are_refused_without_being_quoted() {
        for uri in [
            "postgres://[::1",
            "postgres://[]",
            "postgres://[::1]z",
            "postgresql://%",
            "postgres://%1",
            "postgres://%zz@host",
            "postgresql://host/db?secret",
            "postgresql://host/db?a=b=c",
            "postgresql://%00",
            "postgres://%ff",
        ] {
            let error = parse(uri).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_uri_panics(text in ".*") {
            let _ = parse(&format!("postgres://{text}"));
        }
    }
}
