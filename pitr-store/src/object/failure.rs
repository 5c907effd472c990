//! What a failed request means: for the next try, and for the one who asked.

use std::time::Duration;

use super::answer::Answer;
use super::http::TransportError;
use crate::store::{Operation, RemoteProblem, SpaceLimit, StoreError};

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The object is not there; the server says so of the object itself.
    Absent,
    /// The server answers 404 and does not say of what.
    MaybeAbsent,
    /// A condition was not met: for a create, the key is taken.
    Taken,
    /// The range begins behind the object's end.
    BeyondEnd,
    /// The server does not know a condition that was set.
    UnknownCondition,
    /// The medium is full or a quota used up.
    Full,
    /// Anything else.
    Problem {
        /// What it is.
        problem: RemoteProblem,
        /// The server's or the system's words, on one line.
        said: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// A problem that the server or the system told in words.
    pub(super) fn new(problem: RemoteProblem, said: impl Into<String>) -> Self {
        Self::Problem {
            problem,
            said: said.into(),
            retry_after: None,
        }
    }

    /// Whether the same request may succeed when it is sent again.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Problem { problem, .. } if problem.is_passing())
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The store's error for it.
    pub(super) fn into_error(self, operation: Operation, location: String) -> StoreError {
        let (problem, said) = match self {
            Self::Absent => return StoreError::NotFound { location },
            Self::Full => {
                return StoreError::NoSpace {
                    operation,
                    location,
                    limit: SpaceLimit::Quota,
                    needed_bytes: None,
                    available_bytes: None,
                };
            }
            // Doubt, not absence: whoever can tell has done so before.
            Self::MaybeAbsent => (RemoteProblem::Unexpected, "status 404".to_owned()),
            Self::Taken => (RemoteProblem::Unexpected, "status 412".to_owned()),
            Self::BeyondEnd => (RemoteProblem::Unexpected, "status 416".to_owned()),
            Self::UnknownCondition => (RemoteProblem::Unexpected, "status 501".to_owned()),
            Self::Problem { problem, said, .. } => (problem, said),
        };
        StoreError::Remote {
            operation,
            location,
            problem,
            said,
        }
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(found) = cause {
            if let Some(answer) = found.downcast_ref::<Answer>() {
                return Self::from(answer);
            }
            if let Some(transport) = found.downcast_ref::<TransportError>() {
                return Self::from(transport);
            }
            cause = found.source();
        }
        // A success that cannot be read: S3 reports some failures that way.
        let said = innermost(&error);
        if said.contains("SlowDown") {
            return Self::new(RemoteProblem::Throttled, "SlowDown");
        }
        match error {
            object_store::Error::NotFound { .. } => Self::MaybeAbsent,
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. }
            | object_store::Error::NotModified { .. } => Self::Taken,
            _ => Self::new(
                RemoteProblem::Unavailable,
                format!("an answer that cannot be read: {said}"),
            ),
        }
    }
}

/// The cause at the end of the chain, on one line.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    super::answer::one_line(&cause.to_string())
}

impl From<&TransportError> for Failure {
    fn from(error: &TransportError) -> Self {
        let problem = match error {
            TransportError::Stalled { .. } => RemoteProblem::Stalled,
            TransportError::Connection(_) => RemoteProblem::Unreachable,
            TransportError::Tls(_) | TransportError::CertificateFile { .. } => {
                RemoteProblem::Untrusted
            }
            TransportError::NoMetadata { .. } => RemoteProblem::NoCredentials,
            TransportError::PlainHttp { .. } | TransportError::Client(_) => {
                RemoteProblem::Unexpected
            }
        };
        Self::new(problem, super::answer::one_line(&error.to_string()))
    }
}

impl From<&Answer> for Failure {
    fn from(answer: &Answer) -> Self {
        let code = answer.code.as_str();
        let region = || answer.region.clone().filter(|region| !region.is_empty());
        let problem = match (answer.status, code) {
            (_, "NoSuchBucket" | "ContainerNotFound" | "ResourceNotFound") => {
                RemoteProblem::BucketMissing
            }
            (404, "NoSuchKey" | "BlobNotFound") => return Self::Absent,
            (404, _) => return Self::MaybeAbsent,
            (412 | 304, _) | (409, "BlobAlreadyExists" | "ConditionNotMet") => return Self::Taken,
            // a create that lost against another that may yet fail
            (409, "ConditionalRequestConflict" | "OperationAborted" | "Conflict" | "") => {
                RemoteProblem::Unavailable
            }
            (416, _) => return Self::BeyondEnd,
            (501, _) => return Self::UnknownCondition,
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "AccountQuotaExceeded") => {
                return Self::Full;
            }
            (_, "InvalidAccessKeyId" | "InvalidAccountName") => RemoteProblem::UnknownKey,
            (_, "SignatureDoesNotMatch" | "AuthenticationFailed") => RemoteProblem::WrongSecret,
            (
                _,
                "ExpiredToken"
                | "InvalidToken"
                | "ExpiredTokenException"
                | "TokenRefreshRequired"
                | "invalid_grant"
                | "UnrecognizedClientException",
            ) => RemoteProblem::ExpiredToken,
            (_, "RequestTimeTooSkewed" | "RequestExpired") => RemoteProblem::ClockSkew,
            (
                _,
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
            )
            | (301 | 307, _) => RemoteProblem::WrongRegion { region: region() },
            // a HEAD has no body: the region is all that it can tell
            (400, "") if region().is_some() => RemoteProblem::WrongRegion { region: region() },
            (401, _) => RemoteProblem::ExpiredToken,
            (403, _) => RemoteProblem::Denied,
            (429, _)
            | (_, "SlowDown" | "ServerBusy" | "TooManyRequests" | "RequestLimitExceeded") => {
                RemoteProblem::Throttled
            }
            (408, _) | (400, "RequestTimeout") | (500.., _) => RemoteProblem::Unavailable,
            _ => RemoteProblem::Unexpected,
        };
        Self::Problem {
            problem,
            said: answer.to_string(),
            retry_after: answer.retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, code: &str) -> Failure {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        Failure::from(&Answer::new(status, body.as_bytes()))
    }

    #[test]
    fn absence_is_only_what_the_server_says_of_the_object() {
        assert!(matches!(of(404, "NoSuchKey"), Failure::Absent));
        for (status, code) in [
            (404, "NoSuchBucket"),
            (404, ""),
            (404, "Other"),
            (400, "NoSuchKey"),
        ] {
            let failure = of(status, code);
            assert!(!matches!(failure, Failure::Absent), "{status} {code}");
            let error = failure.into_error(Operation::Open, "s3://b/k".to_owned());
            assert!(!error.is_absence(), "{status} {code}");
        }
    }

    #[test]
    fn what_time_can_cure_is_told_from_what_a_person_must() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (429, ""),
            (408, ""),
            (400, "RequestTimeout"),
            (409, "ConditionalRequestConflict"),
        ] {
            assert!(of(status, code).is_passing(), "{status} {code}");
        }
        for (status, code, problem) in [
            (403, "InvalidAccessKeyId", RemoteProblem::UnknownKey),
            (403, "SignatureDoesNotMatch", RemoteProblem::WrongSecret),
            (400, "ExpiredToken", RemoteProblem::ExpiredToken),
            (403, "AccessDenied", RemoteProblem::Denied),
            (403, "RequestTimeTooSkewed", RemoteProblem::ClockSkew),
            (404, "NoSuchBucket", RemoteProblem::BucketMissing),
            (
                301,
                "PermanentRedirect",
                RemoteProblem::WrongRegion { region: None },
            ),
        ] {
            match of(status, code) {
                Failure::Problem { problem: found, .. } => assert_eq!(found, problem),
                other => panic!("{status} {code}: {other:?}"),
            }
            assert!(!of(status, code).is_passing(), "{status} {code}");
        }
    }

    #[test]
    fn the_right_region_is_passed_on() {
        let body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong</Message><Region>eu-north-1</Region></Error>";
        let error = Failure::from(&Answer::new(400, body))
            .into_error(Operation::Open, "s3://b/pitr.json".to_owned());
        assert!(error.to_string().contains("eu-north-1"), "{error}");
        assert!(error.hint().unwrap().contains("eu-north-1"));
    }
}
