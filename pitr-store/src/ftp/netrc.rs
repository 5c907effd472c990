//! Logins from a netrc file, as ftp(1) describes it.

/// User and password for one machine.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct NetrcLogin {
    pub(super) user: String,
    pub(super) password: Option<String>,
}

/// The login for `host`, and for `user` where one is named; else that of
/// `default`.
pub(super) fn find(text: &str, host: &str, user: Option<&str>) -> Option<NetrcLogin> {
    let mut words = words(text).into_iter().peekable();
    while let Some(word) = words.next() {
        let meant = match word.as_str() {
            "machine" => words
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(host)),
            "default" => true,
            _ => continue,
        };
        let (mut login, mut password) = (None, None);
        while let Some(word) = words.peek() {
            match word.as_str() {
                "machine" | "default" => break,
                "login" => {
                    words.next();
                    login = words.next();
                }
                "password" => {
                    words.next();
                    password = words.next();
                }
                _ => {
                    words.next();
                }
            }
        }
        if let (true, Some(login)) = (meant, login)
            && user.is_none_or(|user| user == login)
        {
            return Some(NetrcLogin {
                user: login,
                password,
            });
        }
    }
    None
}

/// The words of a netrc file. Macros and comments are left out; quotes hold
/// words with spaces together.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        // A macro ends with an empty line.
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest
                    .split_once(|c: char| c.is_ascii_whitespace())
                    .unwrap_or((rest, "")),
            };
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word.to_owned());
            rest = after.trim_start();
            // A password may begin with a hash sign.
            if word == "password" && rest.starts_with('#') {
                let (word, after) = rest
                    .split_once(|c: char| c.is_ascii_whitespace())
                    .unwrap_or((rest, ""));
                words.push(word.to_owned());
                rest = after.trim_start();
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# machines\nmachine a login x password one\n\
        machine b\n  login y\n  password \"two words\"\n  account z\n\
        macdef init\ncd /machine b login evil password evil\n\n\
        machine b login v password #three\ndefault login anonymous password me@\n";

    #[test]
    fn a_login_is_found_by_machine_and_user() {
        let found = |host, user| {
            let login = find(FILE, host, user)?;
            Some((login.user, login.password.unwrap()))
        };
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(found("a", None), pair("x", "one"));
        assert_eq!(found("B", None), pair("y", "two words"));
        assert_eq!(found("b", Some("v")), pair("v", "#three"));
        assert_eq!(found("c", None), pair("anonymous", "me@"));
        assert_eq!(found("a", Some("other")), None);
        assert!(find("machine", "a", None).is_none());
    }
}
