//! Why a look-up over HTTP has no rows: status, code, sentence.
//!
//! | status | codes |
//! |---|---|
//! | 400 | `invalid` |
//! | 401 | `unauthenticated` |
//! | 403 | `denied` |
//! | 404 | `notFound`, `noMount`, `objectUnknown` |
//! | 405, 406, 408, 413 | `methodNotAllowed`, `notAcceptable`, `bodyLate`, `bodyTooLong` |
//! | 409 | `versionChanged` |
//! | 422 | `corrupt`, `unsupported`, `tooMuch`: asking the same again gives the same |
//! | 500 | `internal` |
//! | 502 | `underStore` |
//! | 503 | `busy`, `draining`, with `Retry-After` |
//! | 504 | `deadline` |

use corelane_lookup::error::LookupError;
use corelane_rpc_schema::messages::ErrorCode;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::control_plane::error::CallError;
use crate::control_plane::shards::AskError;
use crate::operations::body::Body;
use crate::shard::look_up::failure::{LookupFailure, Why};

/// When to ask again, in seconds: the header's least.
const RETRY_AFTER_SECONDS: &str = "1";

/// Why there are no rows.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn busy(message: impl Into<String>) -> Self {
        Refusal::of_code(ErrorCode::Busy, message)
    }

    /// With a code that reads have, too.
    pub(super) fn of_code(code: ErrorCode, message: impl Into<String>) -> Self {
        let (status, name) = match code {
            ErrorCode::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            ErrorCode::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            ErrorCode::Denied => (StatusCode::FORBIDDEN, "denied"),
            ErrorCode::NotFound => (StatusCode::NOT_FOUND, "notFound"),
            ErrorCode::NoMount => (StatusCode::NOT_FOUND, "noMount"),
            ErrorCode::ObjectUnknown => (StatusCode::NOT_FOUND, "objectUnknown"),
            ErrorCode::VersionChanged => (StatusCode::CONFLICT, "versionChanged"),
            ErrorCode::UnderStore => (StatusCode::BAD_GATEWAY, "underStore"),
            ErrorCode::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            ErrorCode::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            ErrorCode::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Refusal::new(status, name, message)
    }

    /// The answer that says so.
    pub(super) fn response(self) -> Response<Body> {
        let error = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = Response::new(Body::from(format!("{error}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let mut say = |name: HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        say(CONTENT_TYPE, "application/json");
        say(CACHE_CONTROL, "no-store");
        match self.status {
            StatusCode::UNAUTHORIZED => say(WWW_AUTHENTICATE, "Bearer"),
            StatusCode::METHOD_NOT_ALLOWED => say(ALLOW, "POST"),
            StatusCode::SERVICE_UNAVAILABLE => say(RETRY_AFTER, RETRY_AFTER_SECONDS),
            _ => {}
        }
        response
    }
}

impl From<LookupFailure> for Refusal {
    fn from(failure: LookupFailure) -> Self {
        let name = match failure.why {
            Why::Read(code) => return Refusal::of_code(code, failure.message),
            Why::Corrupt => "corrupt",
            Why::Unsupported => "unsupported",
            Why::TooMuch => "tooMuch",
        };
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, name, failure.message)
    }
}

impl From<LookupError> for Refusal {
    fn from(error: LookupError) -> Self {
        LookupFailure::from(error).into()
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        let (code, message) = match error {
            CallError::NotFound(message) => (ErrorCode::NotFound, message),
            CallError::Denied(message) => (ErrorCode::Denied, message),
            CallError::Invalid(message) => (ErrorCode::Invalid, message),
            CallError::Unavailable(message) => (ErrorCode::UnderStore, message),
            CallError::Busy(message) => (ErrorCode::Busy, message),
            CallError::Failed(message) => (ErrorCode::Internal, message),
        };
        Refusal::of_code(code, message)
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        let code = match error {
            AskError::Busy(_) => ErrorCode::Busy,
            AskError::Stopping(_) => ErrorCode::Draining,
            AskError::Late(..) => ErrorCode::Internal,
        };
        Refusal::of_code(code, error.to_string())
    }
}
