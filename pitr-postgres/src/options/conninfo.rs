//! Connection strings of the form `host=db port=5432`.

use super::error::OptionsError;

/// Splits a keyword/value string as libpq does.
///
/// Blanks may stand around the equals sign. A value in single quotes may hold
/// blanks; inside and outside of quotes a backslash takes the meaning from the
/// character behind it. The keywords are not looked at here.
///
/// # Errors
/// `Syntax` with the byte where it went wrong, never with text of the string:
/// it may be part of a password.
///
/// Source: `conninfo_parse`, src/interfaces/libpq/fe-connect.c.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut pairs = Vec::new();
    let mut rest = text.char_indices().peekable();
    let syntax = |position: usize, problem: &'static str| OptionsError::Syntax {
        position: position + 1,
        problem,
    };
    loop {
        while rest.next_if(|(_, c)| is_blank(*c)).is_some() {}
        let Some(&(begin, _)) = rest.peek() else {
            return Ok(pairs);
        };
        let mut keyword = String::new();
        while let Some((_, c)) = rest.next_if(|(_, c)| *c != '=' && !is_blank(*c)) {
            keyword.push(c);
        }
        while rest.next_if(|(_, c)| is_blank(*c)).is_some() {}
        if rest.next_if(|(_, c)| *c == '=').is_none() {
            return Err(syntax(
                begin,
                "an equals sign is missing after the word that begins here",
            ));
        }
        if keyword.is_empty() {
            return Err(syntax(begin, "the name before the equals sign is missing"));
        }
        while rest.next_if(|(_, c)| is_blank(*c)).is_some() {}

        let mut value = String::new();
        if let Some((quote, _)) = rest.next_if(|(_, c)| *c == '\'') {
            loop {
                match rest.next() {
                    None => {
                        return Err(syntax(
                            quote,
                            "the quoted value that begins here does not end",
                        ));
                    }
                    Some((_, '\'')) => break,
                    Some((_, '\\')) => value.extend(rest.next().map(|(_, c)| c)),
                    Some((_, c)) => value.push(c),
                }
            }
        } else {
            while let Some((_, c)) = rest.next_if(|(_, c)| !is_blank(*c)) {
                if c == '\\' {
                    value.extend(rest.next().map(|(_, c)| c));
                } else {
                    value.push(c);
                }
            }
        }
        pairs.push((keyword, value));
    }
}

/// `isspace` in the C locale.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn one(text: &str) -> String {
        let found = pairs(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].1.clone()
    }

    #[test]
    fn libpqs_quoting_rules_hold() {
        assert_eq!(one("password=abc"), "abc");
        assert_eq!(one("  password  =  abc  "), "abc");
        assert_eq!(one("password=''"), "");
        assert_eq!(one("password="), "");
        assert_eq!(one("password='a b'"), "a b");
        assert_eq!(one(r"password='it\'s \\ here'"), r"it's \ here");
        assert_eq!(one(r"password=it\'s\ \\"), r"it's \");
        assert_eq!(one("password=a'b"), "a'b");
        assert_eq!(one("password=a=b"), "a=b");
        assert_eq!(one(r"password=end\"), "end");
        assert_eq!(one("password = 'é ü'"), "é ü");
        // a closing quote ends the value even without a blank behind it
        assert_eq!(
            pairs("user='a'host=b"),
            [("user".into(), "a".into()), ("host".into(), "b".into())]
        );
        assert!(pairs(" \n\t").is_empty());
    }

    #[test]
    fn what_is_wrong_is_located_without_being_quoted() {
        for text in [
            "secret",
            "a=b secret",
            "password='secret",
            "=secret",
            "user=a secret b=c",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let error = parse("user=a b c=d").unwrap_err();
        assert!(
            matches!(error, OptionsError::Syntax { position: 8, .. }),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_string_panics(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn what_was_quoted_comes_back(values in prop::collection::vec(".*", 1..4)) {
            let text: Vec<String> = values
                .iter()
                .map(|value| {
                    format!("k = '{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
                })
                .collect();
            let found: Vec<String> =
                pairs(&text.join(" ")).into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(found, values);
        }
    }
}
