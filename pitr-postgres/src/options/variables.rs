//! A connection string for another program, in its environment.

use super::error::OptionsError;
use super::keyword::{self, Keyword};
use super::{conninfo, uri};

/// libpq's environment variables that say the same as a connection string.
///
/// For programs that take one as an argument: everybody on the machine can read
/// arguments, and the environment only its owner can. Settings that have no
/// variable (keepalives) are left out.
///
/// # Errors
/// [`OptionsError`] if the text is neither keyword/value pairs nor a URI.
pub fn variables_of(connection: &str) -> Result<Vec<(&'static str, String)>, OptionsError> {
    let pairs = if uri::is_uri(connection) {
        uri::parse(connection)?
    } else if connection.contains('=') {
        conninfo::parse(connection)?
    } else {
        vec![("dbname".to_owned(), connection.to_owned())]
    };
    let known = |(name, value): (String, String)| {
        let variable = keyword::find(&name).and_then(|Keyword { variable, .. }| *variable)?;
        Some((variable, value))
    };
    Ok(pairs.into_iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_become_variables() {
        let expected = [
            ("PGHOST", "db1".to_owned()),
            ("PGUSER", "ana".to_owned()),
            ("PGPASSWORD", "it's".to_owned()),
            ("PGDATABASE", "shop".to_owned()),
        ];
        let sorted = |connection: &str| {
            let mut variables = variables_of(connection).unwrap();
            variables.sort();
            variables
        };
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(
            sorted("host=db1 user=ana password='it\\'s' dbname=shop keepalives=1"),
            expected
        );
        assert_eq!(sorted("postgresql://ana:it%27s@db1/shop"), expected);
        assert!(variables_of("host='db1").is_err());
    }
}
