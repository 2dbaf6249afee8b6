//! What can go wrong between a caller and a worker.

use std::time::Duration;

use corelane_rpc_schema::frame::ChecksumMismatch;
use corelane_rpc_schema::messages::ErrorCode;

/// An error with what was asked of whom.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}; is the worker running there?")]
    Connect {
        /// The address that was tried.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended while a request was under way.
    #[error("the connection to {address} ended: {reason}")]
    Disconnected {
        /// The worker's address.
        address: String,
        /// Who ended it and why.
        reason: String,
    },
    /// The peer sent what the protocol forbids. The connection was closed.
    #[error("{address} broke the protocol: {reason}")]
    Protocol {
        /// The worker's address.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer to {what} from {address} within {after:?}")]
    Timeout {
        /// What was asked.
        what: String,
        /// The worker's address.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The worker answered with an error.
    #[error("{what}: {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// What to branch on.
        code: ErrorCode,
        /// The worker's sentence.
        message: String,
        /// When a busy worker wants to be asked again; zero if it did not say.
        retry_after: Duration,
    },
    /// The object has another version than when it was opened: open it again and start over.
    #[error("{path} has a new version; open it again")]
    VersionChanged {
        /// The object's path.
        path: String,
    },
    /// What arrived does not match its checksums, twice.
    #[error("{path} from offset {offset} from {address}: {mismatch}")]
    Checksum {
        /// The object's path.
        path: String,
        /// First byte of the read.
        offset: u64,
        /// The worker's address.
        address: String,
        /// Which page.
        mismatch: ChecksumMismatch,
    },
    /// The range is not inside the object.
    #[error("{path} has {length} bytes, bytes {start} to {end} were asked for")]
    OutOfRange {
        /// The object's path.
        path: String,
        /// The object's length.
        length: u64,
        /// First byte asked for.
        start: u64,
        /// First byte after the range.
        end: u64,
    },
    /// A call of the control plane failed.
    #[error("{what}: {reason}")]
    Control {
        /// Which call.
        what: &'static str,
        /// What the worker said.
        reason: String,
    },
}

impl Error {
    /// The worker's error code, if it was the worker that said no.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            Error::VersionChanged { .. } => Some(ErrorCode::VersionChanged),
            _ => None,
        }
    }

    /// Whether asking again, perhaps over another connection, may succeed. Only reads and opens
    /// are asked here, which change nothing.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Refused { code, .. } => matches!(code, ErrorCode::Busy | ErrorCode::Draining),
            error => error.is_of_the_connection(),
        }
    }

    /// Whether it is the worker or the way to it that is lost, not the request.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        matches!(
            self,
            Error::Connect { .. }
                | Error::Disconnected { .. }
                | Error::Protocol { .. }
                | Error::Timeout { .. }
        )
    }

    /// How long a busy worker wants to be left alone.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Error::Refused { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_asked_again() {
        let refused = |code| Error::Refused {
            what: String::new(),
            code,
            message: String::new(),
            retry_after: Duration::ZERO,
        };
        for (code, is_passing) in [
            (ErrorCode::Busy, true),
            (ErrorCode::Draining, true),
            (ErrorCode::NotFound, false),
            (ErrorCode::Denied, false),
            (ErrorCode::Invalid, false),
            (ErrorCode::Internal, false),
        ] {
            assert_eq!(refused(code).is_passing(), is_passing, "{code:?}");
        }
        let path = String::new();
        assert!(!Error::VersionChanged { path }.is_passing());
    }
}
