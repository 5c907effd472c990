//! What a server said when it did not do what it was asked.

use std::fmt;
use std::time::Duration;

/// Longest code or message that is shown: a server is not trusted to be brief.
const SHOWN_CHARACTERS: usize = 200;

/// An answer that is no success, as far as it matters. Holds nothing of the
/// request: neither keys nor signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The server's own name for the error, `NoSuchKey`; empty where it gave none.
    pub(super) code: String,
    /// The server's sentence, on one line; empty where it gave none.
    pub(super) message: String,
    /// Where the bucket really lies, if the server told.
    pub(super) region: Option<String>,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl Answer {
    /// Takes code and message out of `body`: XML as S3, Google and Azure write
    /// it, or JSON as token services do.
    pub(super) fn new(status: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let (code, message) = match element(&text, "Code") {
            Some(code) => (code, element(&text, "Message").unwrap_or_default()),
            None => from_json(&text).unwrap_or_default(),
        };
        Self {
            status,
            code: one_line(&code),
            message: one_line(&message),
            region: element(&text, "Region").map(|region| one_line(&region)),
            retry_after: None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => Ok(()),
            (code, "") => write!(f, ": {code}"),
            ("", message) => write!(f, ": {message}"),
            (code, message) => write!(f, ": {code}: {message}"),
        }
    }
}

impl std::error::Error for Answer {}

/// Content of the first `<name>` without attributes.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = content
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    Some(plain)
}

/// `{"error": "code", "error_description": "…"}` or `{"error": {"status": …, "message": …}}`.
fn from_json(text: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let of = |value: &serde_json::Value, name: &str| {
        value
            .get(name)
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned)
    };
    let error = value.get("error")?;
    if error.is_object() {
        return Some((
            of(error, "status").unwrap_or_default(),
            of(error, "message").unwrap_or_default(),
        ));
    }
    Some((
        of(&value, "error").unwrap_or_default(),
        of(&value, "error_description").unwrap_or_default(),
    ))
}

/// The first line's worth of `text`, without control characters.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_CHARACTERS)
        .collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_message_are_found_in_what_each_kind_of_server_writes() {
        let s3 = b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>It&apos;s not there</Message><Key>a</Key></Error>";
        let answer = Answer::new(404, s3);
        assert_eq!(
            (answer.code.as_str(), answer.message.as_str()),
            ("NoSuchKey", "It's not there")
        );
        let azure = b"\xef\xbb\xbf<Error><Code>BlobNotFound</Code><Message>The blob does not exist.\nRequestId:1</Message></Error>";
        assert_eq!(Answer::new(404, azure).message, "The blob does not exist.");
        let token = br#"{"error":"invalid_grant","error_description":"Bad key"}"#;
        assert_eq!(
            Answer::new(400, token).to_string(),
            "the server answered 400: invalid_grant: Bad key"
        );
        let google = br#"{"error":{"code":403,"status":"PERMISSION_DENIED","message":"no"}}"#;
        assert_eq!(Answer::new(403, google).code, "PERMISSION_DENIED");
        assert_eq!(
            Answer::new(502, b"<html>bad gateway").to_string(),
            "the server answered 502"
        );
    }

    #[test]
    fn an_endless_message_is_cut() {
        let long = format!("<Code>A</Code><Message>{}</Message>", "x".repeat(100_000));
        assert_eq!(Answer::new(400, long.as_bytes()).message.len(), 200);
    }
}
