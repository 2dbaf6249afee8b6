//! Why a look-up has no answer, until a face tells its client.
//!
//! The data plane has one code for all that asking again does not mend, so its sentence says which it is; HTTP
//! has a status for each.

use corelane_lookup::error::{ErrorKind, LookupError};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};

use crate::shard::read::error;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// One that reads have, too.
    Read(ErrorCode),
    /// The object is not Parquet, or is corrupt.
    Corrupt,
    /// The object has something that is not read, or the answer something that its format cannot hold.
    Unsupported,
    /// It would touch or answer more than is allowed.
    TooMuch,
}

/// Why a look-up has no answer.
#[derive(Clone, Debug)]
pub struct LookupFailure {
    /// What the caller branches on.
    pub why: Why,
    /// One sentence: what, where, what to do.
    pub message: String,
    /// When to try again, where that helps; 0 leaves it to the client.
    pub retry_after_ms: u32,
}

impl LookupFailure {
    /// Of a kind, with its sentence.
    pub fn new(why: Why, message: impl Into<String>) -> Self {
        LookupFailure {
            why,
            message: message.into(),
            retry_after_ms: 0,
        }
    }

    /// As the data plane tells it.
    pub fn to_wire(self) -> ErrorMessage {
        let (code, message) = match self.why {
            Why::Read(code) => (code, self.message),
            Why::Corrupt => (
                ErrorCode::Invalid,
                format!("corrupt object: {}", self.message),
            ),
            Why::Unsupported => (
                ErrorCode::Invalid,
                format!("not supported: {}", self.message),
            ),
            Why::TooMuch => (ErrorCode::Invalid, format!("too much: {}", self.message)),
        };
        ErrorMessage {
            code,
            message,
            retry_after_ms: self.retry_after_ms,
        }
    }
}

impl From<ErrorMessage> for LookupFailure {
    fn from(failure: ErrorMessage) -> Self {
        LookupFailure {
            why: Why::Read(failure.code),
            message: failure.message,
            retry_after_ms: failure.retry_after_ms,
        }
    }
}

impl From<LookupError> for LookupFailure {
    fn from(failure: LookupError) -> Self {
        let code = match failure.kind {
            ErrorKind::Corrupt => return LookupFailure::new(Why::Corrupt, failure.message),
            ErrorKind::Unsupported => return LookupFailure::new(Why::Unsupported, failure.message),
            ErrorKind::TooMuch => return LookupFailure::new(Why::TooMuch, failure.message),
            ErrorKind::Invalid => ErrorCode::Invalid,
            ErrorKind::Read => ErrorCode::UnderStore,
            ErrorKind::VersionChanged => ErrorCode::VersionChanged,
            ErrorKind::Busy => ErrorCode::Busy,
            ErrorKind::Denied => ErrorCode::Denied,
        };
        error(code, failure.message).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_data_plane_has_no_code_for_is_said_in_the_sentence() {
        let cases = [
            (ErrorKind::Invalid, ErrorCode::Invalid, "a: b"),
            (
                ErrorKind::Corrupt,
                ErrorCode::Invalid,
                "corrupt object: a: b",
            ),
            (
                ErrorKind::Unsupported,
                ErrorCode::Invalid,
                "not supported: a: b",
            ),
            (ErrorKind::TooMuch, ErrorCode::Invalid, "too much: a: b"),
            (ErrorKind::Read, ErrorCode::UnderStore, "a: b"),
            (ErrorKind::VersionChanged, ErrorCode::VersionChanged, "a: b"),
            (ErrorKind::Busy, ErrorCode::Busy, "a: b"),
            (ErrorKind::Denied, ErrorCode::Denied, "a: b"),
        ];
        for (kind, code, sentence) in cases {
            let told = LookupFailure::from(LookupError::new(kind, "a: b")).to_wire();
            assert_eq!((told.code, told.message.as_str()), (code, sentence));
            assert_eq!(told.retry_after_ms > 0, code == ErrorCode::Busy);
        }
    }
}
