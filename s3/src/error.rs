//! Errors as S3 names them ("Error responses", Amazon S3 API reference): clients branch on the code
//! and the status, people read the message.

use std::fmt;

macro_rules! error_codes {
    ($($code:ident = $name:literal, $status:literal;)+) => {
        /// What went wrong, in S3's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are S3's, and S3 documents them")]
        pub enum ErrorCode {
            $($code,)+
        }

        impl ErrorCode {
            /// The code as it stands in the answer.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(ErrorCode::$code => $name,)+
                }
            }

            /// The HTTP status that belongs to it.
            pub fn status(self) -> u16 {
                match self {
                    $(ErrorCode::$code => $status,)+
                }
            }

            /// The code that stands as `name` in another server's answer, if it is one of these.
            pub fn of_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(ErrorCode::$code),)+
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    AccessDenied = "AccessDenied", 403;
    AuthorizationHeaderMalformed = "AuthorizationHeaderMalformed", 400;
    AuthorizationQueryParametersError = "AuthorizationQueryParametersError", 400;
    BadDigest = "BadDigest", 400;
    BucketAlreadyOwnedByYou = "BucketAlreadyOwnedByYou", 409;
    BucketNotEmpty = "BucketNotEmpty", 409;
    EntityTooLarge = "EntityTooLarge", 400;
    EntityTooSmall = "EntityTooSmall", 400;
    ExpiredToken = "ExpiredToken", 400;
    IncompleteBody = "IncompleteBody", 400;
    InternalError = "InternalError", 500;
    InvalidAccessKeyId = "InvalidAccessKeyId", 403;
    InvalidArgument = "InvalidArgument", 400;
    InvalidBucketName = "InvalidBucketName", 400;
    InvalidChunkSizeError = "InvalidChunkSizeError", 403;
    InvalidDigest = "InvalidDigest", 400;
    InvalidPart = "InvalidPart", 400;
    InvalidPartOrder = "InvalidPartOrder", 400;
    InvalidRange = "InvalidRange", 416;
    InvalidRequest = "InvalidRequest", 400;
    InvalidUri = "InvalidURI", 400;
    KeyTooLongError = "KeyTooLongError", 400;
    MalformedXml = "MalformedXML", 400;
    MethodNotAllowed = "MethodNotAllowed", 405;
    MissingContentLength = "MissingContentLength", 411;
    NoSuchBucket = "NoSuchBucket", 404;
    NoSuchKey = "NoSuchKey", 404;
    NoSuchUpload = "NoSuchUpload", 404;
    NotImplemented = "NotImplemented", 501;
    PreconditionFailed = "PreconditionFailed", 412;
    RequestHeaderSectionTooLarge = "RequestHeaderSectionTooLarge", 400;
    RequestTimeout = "RequestTimeout", 400;
    RequestTimeTooSkewed = "RequestTimeTooSkewed", 403;
    SignatureDoesNotMatch = "SignatureDoesNotMatch", 403;
    SlowDown = "SlowDown", 503;
    ServiceUnavailable = "ServiceUnavailable", 503;
    XAmzContentSha256Mismatch = "XAmzContentSHA256Mismatch", 400;
}

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Error {
    /// What programs branch on.
    pub code: ErrorCode,
    /// What happened, and what to do about it.
    pub message: String,
    /// Seconds after which to try again, for `Retry-After`.
    pub retry_after_s: Option<u32>,
}

impl Error {
    /// An error without a time to try again.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Error {
            code,
            message: message.to_string(),
            retry_after_s: None,
        }
    }
}
