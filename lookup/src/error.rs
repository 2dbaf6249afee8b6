//! Why a look-up has no answer.
//!
//! The sentence names file, column and page where one is to blame, and ends in what to do.

use std::fmt;

/// What kind of failure it is: what the caller branches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense, alone or for this file: an unknown column, a literal that is not
    /// of the column's type.
    Invalid,
    /// The file is not Parquet, or is corrupt.
    Corrupt,
    /// The file has something that look-ups do not read: encryption, an unknown codec.
    Unsupported,
    /// It would touch more than the caller allows.
    TooMuch,
    /// The bytes could not be read.
    Read,
    /// The file has a new version: ask again.
    VersionChanged,
    /// Too much is going on: ask again.
    Busy,
    /// The caller may not read it.
    Denied,
}

/// Why a look-up has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub struct LookupError {
    /// What the caller branches on.
    pub kind: ErrorKind,
    /// One sentence: what, where, what to do.
    pub message: String,
}

impl fmt::Display for LookupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl LookupError {
    /// Of `kind`, with its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        LookupError {
            kind,
            message: message.into(),
        }
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        LookupError::new(ErrorKind::Invalid, message)
    }

    /// The file is corrupt.
    pub fn corrupt(message: impl Into<String>) -> Self {
        LookupError::new(ErrorKind::Corrupt, message)
    }

    /// The file has something that is not read.
    pub fn unsupported(message: impl Into<String>) -> Self {
        LookupError::new(ErrorKind::Unsupported, message)
    }

    /// The same with what it is about in front.
    pub fn of(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// What look-ups give.
pub type Result<T> = std::result::Result<T, LookupError>;
