//! How a command ends when it does not succeed: a sentence and an exit code.
//!
//! The invariant: what is wrong decides the code, never where in the program it was noticed, so
//! that scripts can branch on it. The codes are documented in `corelane --help` and never change.

use std::process::ExitCode;

use corelane_client::{Error, ErrorCode};
use corelane_worker::printable::{printable, printable_lines};

/// What kind of thing went wrong. The number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The worker, a device or the system said no.
    Failed = 1,
    /// The command line makes no sense. Clap ends with the same code.
    Usage = 2,
    /// There is no worker at the address, or the connection ended.
    Unreachable = 3,
    /// No such object, mount or job.
    NotFound = 4,
    /// Bytes are not what they should be.
    Damaged = 5,
    /// The token is missing, unknown, or may not do this.
    Denied = 6,
}

impl Kind {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::Unreachable => "unreachable",
            Kind::NotFound => "not_found",
            Kind::Damaged => "damaged",
            Kind::Denied => "denied",
        }
    }
}

/// The table in `corelane --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the worker, a device or the system said no
  2  the command line or the configuration is wrong
  3  no worker at the address, or the connection ended
  4  no such object, mount or job
  5  damage: bytes are not what they should be
  6  denied: the token is missing, unknown, or may not do this";

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Something went wrong.
    Error {
        /// Decides the exit code.
        kind: Kind,
        /// What, of whom, and what to do.
        message: String,
    },
    /// Whoever read the output has seen enough, as `head` does. Not an error.
    OutputClosed,
}

impl Failure {
    /// A failure with a sentence of its own.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure::Error {
            kind,
            message: message.into(),
        }
    }

    /// [`Kind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Failure::new(Kind::Failed, message)
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Error { kind, .. } => ExitCode::from(*kind as u8),
            Failure::OutputClosed => ExitCode::SUCCESS,
        }
    }

    /// Prints the failure on standard error: a line for people or one JSON object.
    pub fn report(&self, json: bool) {
        let Failure::Error { kind, message } = self else {
            return;
        };
        if json {
            let error = serde_json::json!({ "error": { "kind": kind.name(), "message": message } });
            eprintln!("{error}");
        } else {
            eprintln!("corelane: {}", printable_lines(message));
        }
    }
}

impl From<std::io::Error> for Failure {
    /// For writing to standard output only: other errors need to say of which file they are.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::OutputClosed;
        }
        Failure::failed(format!("standard output cannot be written: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = kind_of(&error);
        // What the worker says may quote names that others chose.
        let mut message = printable(&error.to_string()).into_owned();
        if let Some(advice) = advice(kind, &message) {
            message = format!("{message}; {advice}");
        }
        Failure::Error { kind, message }
    }
}

fn kind_of(error: &Error) -> Kind {
    match error {
        Error::Connect { .. } | Error::Disconnected { .. } | Error::Timeout { .. } => {
            Kind::Unreachable
        }
        Error::Checksum { .. } => Kind::Damaged,
        // The data plane has no code for it: a look-up's sentence says so in front.
        Error::Refused { code, message, .. }
            if *code == ErrorCode::Invalid && message.starts_with("corrupt object: ") =>
        {
            Kind::Damaged
        }
        Error::Refused { code, .. } => kind_of_code(*code),
        Error::Control { reason, .. } => kind_of_sentence(reason),
        _ => Kind::Failed,
    }
}

fn kind_of_code(code: ErrorCode) -> Kind {
    match code {
        ErrorCode::NotFound | ErrorCode::NoMount => Kind::NotFound,
        ErrorCode::Denied | ErrorCode::Unauthenticated => Kind::Denied,
        ErrorCode::Draining => Kind::Unreachable,
        _ => Kind::Failed,
    }
}

/// The control plane's sentences begin with a word to branch on, since capnp-rpc has no codes of ours.
fn kind_of_sentence(reason: &str) -> Kind {
    match reason.split_once(": ").map(|(word, _)| word) {
        Some("not-found") => Kind::NotFound,
        Some("denied") => Kind::Denied,
        Some("invalid") => Kind::Usage,
        _ => Kind::Failed,
    }
}

fn advice(kind: Kind, message: &str) -> Option<&'static str> {
    match kind {
        Kind::Unreachable => {
            Some("start one with `corelane serve`, or name another with --control and --address")
        }
        // An under-store that refuses the worker is another matter.
        Kind::Denied if message.contains("token") => {
            Some("put a token that may do this into CORELANE_TOKEN")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(failure: Failure) -> Kind {
        match failure {
            Failure::Error { kind, .. } => kind,
            Failure::OutputClosed => panic!("an error"),
        }
    }

    fn refused(code: ErrorCode) -> Error {
        Error::Refused {
            what: String::from("open /a"),
            code,
            message: String::from("said no"),
            retry_after: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn scripts_can_tell_missing_from_denied_from_unreachable() {
        assert_eq!(kind(refused(ErrorCode::NotFound).into()), Kind::NotFound);
        assert_eq!(kind(refused(ErrorCode::NoMount).into()), Kind::NotFound);
        assert_eq!(kind(refused(ErrorCode::Denied).into()), Kind::Denied);
        assert_eq!(kind(refused(ErrorCode::UnderStore).into()), Kind::Failed);
        let corrupt = Error::Refused {
            what: String::from("look up /a"),
            code: ErrorCode::Invalid,
            message: String::from("corrupt object: /a: it does not end as a Parquet file does"),
            retry_after: std::time::Duration::ZERO,
        };
        assert_eq!(kind(corrupt.into()), Kind::Damaged);
        let no_worker = Error::Connect {
            address: String::from("a:1"),
            reason: String::from("refused"),
        };
        assert_eq!(kind(no_worker.into()), Kind::Unreachable);
        let no_mount = Error::Control {
            what: "stat",
            reason: String::from("not-found: no mount covers /x"),
        };
        assert_eq!(kind(no_mount.into()), Kind::NotFound);
    }

    #[test]
    fn an_unreachable_worker_comes_with_what_to_do() {
        let error = Error::Connect {
            address: String::from("a:1"),
            reason: String::from("refused"),
        };
        let Failure::Error { message, .. } = error.into() else {
            panic!("an error")
        };
        assert!(message.contains("corelane serve"), "{message}");
    }

    #[test]
    fn every_code_is_in_the_help() {
        for kind in [
            Kind::Failed,
            Kind::Usage,
            Kind::Unreachable,
            Kind::NotFound,
            Kind::Damaged,
            Kind::Denied,
        ] {
            assert!(
                EXIT_CODES.contains(&format!("\n  {}  ", kind as u8)),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(closed), Failure::OutputClosed));
    }
}
