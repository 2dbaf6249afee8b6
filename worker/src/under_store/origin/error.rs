//! How a request to an origin fails.

use std::fmt;
use std::time::Duration;

use crate::under_store::retry::Failure;
use crate::under_store::{UnderStoreError, UnderStoreErrorKind};

/// Longest text of an origin's answer that goes into a message.
const CAUSE_BYTES_MAX: usize = 400;

/// What kind of failure it was; decides the answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginErrorKind {
    /// There is no such object.
    NotFound,
    /// There is no such multipart upload (any more), or no such part of it.
    NoSuchUpload,
    /// There is no such bucket, container or directory below the mount.
    NoSuchBucket,
    /// The condition of the write does not hold.
    PreconditionFailed,
    /// A bucket of that name is there already.
    AlreadyExists,
    /// The origin refused the credentials or rights of the mount.
    Denied,
    /// The origin asks to come again.
    Busy {
        /// After this time, if it says.
        retry_after: Option<Duration>,
    },
    /// The origin could not be reached, or failed or timed out. A write may have been done.
    Unavailable,
    /// The origin's answer made no sense.
    Malformed,
    /// The key, the headers, the parts or the mount's options are not usable.
    Invalid,
    /// The origin cannot do this.
    Unsupported,
    /// The body of the request never came to its confirmed end; nothing was written.
    Aborted,
}

/// A failure of an origin: which object, what happened, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError {
    /// What kind.
    pub kind: OriginErrorKind,
    /// The code of S3 that the origin itself gave, such as `EntityTooSmall`.
    pub code: Option<String>,
    /// URI of the object.
    pub uri: String,
    /// One sentence: the cause, after how many tries, what can be done.
    pub message: String,
    /// Whether the origin did nothing, for certain, in any of the tries. Else a write may have been done,
    /// or may yet be.
    pub is_clear: bool,
}

impl OriginError {
    /// The failure of a request to a file system that has stalled; `is_clear`: it was not begun.
    pub(crate) fn of_stall(error: UnderStoreError, is_clear: bool) -> Self {
        OriginError {
            kind: OriginErrorKind::Unavailable,
            code: None,
            uri: error.uri,
            message: error.message,
            is_clear,
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.uri, self.message)
    }
}

impl std::error::Error for OriginError {}

/// How one request failed, before it is known whether it is tried again.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub kind: OriginErrorKind,
    pub code: Option<String>,
    /// What happened, without the object's name.
    pub cause: String,
    pub is_worth_retrying: bool,
    /// Whether the origin said that it did nothing. Without that, a write may have been done.
    pub is_clear: bool,
}

impl Fault {
    /// A failure that another try would repeat.
    pub fn lasting(kind: OriginErrorKind, cause: impl Into<String>) -> Self {
        Fault {
            kind,
            code: None,
            cause: cause.into(),
            is_worth_retrying: false,
            is_clear: !matches!(
                kind,
                OriginErrorKind::Unavailable | OriginErrorKind::Malformed
            ),
        }
    }

    /// A failure that may be gone at the next try, and that leaves open what the origin did.
    pub fn passing(kind: OriginErrorKind, cause: impl Into<String>) -> Self {
        Fault {
            is_worth_retrying: true,
            is_clear: false,
            ..Fault::lasting(kind, cause)
        }
    }

    /// With a code of S3.
    pub fn with_code(self, code: &str) -> Self {
        Fault {
            code: Some(code.to_owned()),
            ..self
        }
    }

    /// How long the origin wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            OriginErrorKind::Busy { retry_after } => retry_after,
            _ => None,
        }
    }

    /// The same for the paths that only read.
    pub fn into_failure(self) -> Failure {
        use OriginErrorKind as From;
        use UnderStoreErrorKind as To;
        let kind = match self.kind {
            From::NotFound | From::NoSuchUpload | From::NoSuchBucket => To::NotFound,
            From::PreconditionFailed => To::VersionChanged,
            From::Denied => To::Denied,
            From::Busy { .. } | From::Unavailable | From::Aborted => To::Unavailable,
            From::Malformed => To::Malformed,
            From::AlreadyExists | From::Invalid | From::Unsupported => To::Invalid,
        };
        Failure {
            kind,
            retry_after: self.retry_after(),
            cause: self.cause,
            is_worth_retrying: self.is_worth_retrying,
            is_range_refused: false,
        }
    }

    /// The error that a caller sees, after `tries` requests.
    pub fn into_error(self, uri: &str, tries: u32) -> OriginError {
        let mut cause = self.cause;
        if cause.len() > CAUSE_BYTES_MAX {
            cause.truncate(cause.floor_char_boundary(CAUSE_BYTES_MAX));
            cause.push('…');
        }
        let tried = match tries {
            0 | 1 => String::new(),
            _ => format!(" ({tries} tries)"),
        };
        OriginError {
            kind: self.kind,
            code: self.code,
            uri: uri.to_owned(),
            message: format!("{cause}{tried}; {}", advice(self.kind)),
            is_clear: self.is_clear,
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        use OriginErrorKind as To;
        use UnderStoreErrorKind as From;
        let kind = match failure.kind {
            From::NotFound => To::NotFound,
            From::VersionChanged => To::PreconditionFailed,
            From::Denied => To::Denied,
            From::Unavailable if failure.retry_after.is_some() => To::Busy {
                retry_after: failure.retry_after,
            },
            From::Unavailable => To::Unavailable,
            From::Malformed => To::Malformed,
            From::Invalid => To::Invalid,
        };
        Fault {
            kind,
            code: None,
            cause: failure.cause,
            is_worth_retrying: failure.is_worth_retrying,
            is_clear: !failure.is_worth_retrying || failure.retry_after.is_some(),
        }
    }
}

fn advice(kind: OriginErrorKind) -> &'static str {
    match kind {
        OriginErrorKind::NotFound => "check the key and the mount's URI",
        OriginErrorKind::NoSuchUpload => "begin a new upload",
        OriginErrorKind::NoSuchBucket => "check the mount's URI, or make the bucket",
        OriginErrorKind::PreconditionFailed => "read the object again and decide anew",
        OriginErrorKind::AlreadyExists => "use the one that is there",
        OriginErrorKind::Denied => "check the credentials and rights of the mount",
        OriginErrorKind::Busy { .. } => "come again later",
        OriginErrorKind::Unavailable => {
            "check that the store is up and reachable, look whether the write was done, then repeat it"
        }
        OriginErrorKind::Malformed => "check the store, and what stands between it and this worker",
        OriginErrorKind::Invalid => "correct the request or the mount's options",
        OriginErrorKind::Unsupported => "use a mount whose store can do it",
        OriginErrorKind::Aborted => "send the whole body again",
    }
}
