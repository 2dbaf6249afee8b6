//! From an origin's failure to S3's error.

use corelane_s3::{Error, ErrorCode};

use crate::under_store::origin::{OriginError, OriginErrorKind};

/// The error that a client is told.
pub(super) fn error_of(failure: &OriginError) -> Error {
    let named = failure.code.as_deref().and_then(ErrorCode::of_name);
    let (code, retry_after_s) = match failure.kind {
        OriginErrorKind::NotFound => (ErrorCode::NoSuchKey, None),
        OriginErrorKind::NoSuchUpload => (named.unwrap_or(ErrorCode::NoSuchUpload), None),
        OriginErrorKind::NoSuchBucket => (ErrorCode::NoSuchBucket, None),
        OriginErrorKind::PreconditionFailed => (ErrorCode::PreconditionFailed, None),
        OriginErrorKind::AlreadyExists => (ErrorCode::BucketAlreadyOwnedByYou, None),
        OriginErrorKind::Denied => (ErrorCode::AccessDenied, None),
        OriginErrorKind::Busy { retry_after } => {
            let seconds = retry_after.map_or(1, |pause| pause.as_secs().clamp(1, 3600) as u32);
            (ErrorCode::SlowDown, Some(seconds))
        }
        OriginErrorKind::Unavailable => (ErrorCode::ServiceUnavailable, Some(1)),
        OriginErrorKind::Malformed => (ErrorCode::InternalError, None),
        OriginErrorKind::Invalid => (named.unwrap_or(ErrorCode::InvalidArgument), None),
        OriginErrorKind::Unsupported => (ErrorCode::NotImplemented, None),
        OriginErrorKind::Aborted => (named.unwrap_or(ErrorCode::IncompleteBody), None),
    };
    Error {
        retry_after_s,
        ..Error::new(code, &failure.message)
    }
}
