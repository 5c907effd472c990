//! The three quotings that a `restore_command` passes through.
//!
//! Its words are read by `sh`, after the server has replaced `%f` and `%p`
//! (so a plain `%` is doubled), after the configuration parser has taken the
//! quotes off. Paths are bytes: nothing here asks them to be UTF-8.

/// One word for `sh -c`.
///
/// Left as it is where no character means anything to the shell, else in
/// single quotes, inside which only the quote itself has to be written
/// differently.
pub fn shell_word(word: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b':' | b'+')
    };
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut quoted = Vec::with_capacity(word.len() + 2);
    quoted.push(b'\'');
    for &byte in word {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            other => quoted.push(other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Text that the server's placeholder expansion gives back unchanged.
///
/// Source: `BuildRestoreCommand`, src/common/archive.c: `%%` is a percent sign.
pub fn without_placeholders(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if byte == b'%' {
            escaped.push(b'%');
        }
        escaped.push(byte);
    }
    escaped
}

/// A value in `postgresql.conf`, in single quotes.
///
/// Source: `GUC_STRING` in src/backend/utils/misc/guc-file.l and
/// `escape_single_quotes_ascii`, src/port/quotes.c: quotes and backslashes are
/// doubled; a line break cannot stand in a value, but its escape can.
pub fn setting_value(value: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(value.len() + 2);
    quoted.push(b'\'');
    for &byte in value {
        match byte {
            b'\'' => quoted.extend_from_slice(b"''"),
            b'\\' => quoted.extend_from_slice(b"\\\\"),
            b'\n' => quoted.extend_from_slice(b"\\n"),
            other => quoted.push(other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_back_every_word_as_it_was() {
        for word in [
            "plain",
            "with space",
            "it's",
            "''",
            "",
            "$(rm -rf /)",
            "a\\b",
            "a\nb",
            "*",
            "~",
            "ñandú",
            "%f",
        ] {
            let mut command = b"printf %s ".to_vec();
            command.extend(shell_word(word.as_bytes()));
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(String::from_utf8(command).unwrap())
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_percent_sign_in_a_path_is_no_placeholder() {
        assert_eq!(without_placeholders(b"/a%f/100%"), b"/a%%f/100%%");
    }

    #[test]
    fn quotes_and_backslashes_are_doubled_in_a_setting() {
        assert_eq!(setting_value(b"it's a\\b\nc"), b"'it''s a\\\\b\\nc'");
    }
}
