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

    /// The same with the file that it is about in front, and `place` in it behind the file's name. Whoever
    /// reads may have named the file already: it is named once.
    pub fn of_file(mut self, name: &str, place: impl fmt::Display) -> Self {
        let rest = self.message.strip_prefix(name);
        if rest.is_some_and(|rest| rest.starts_with(", ")) {
            return self;
        }
        let what = rest.and_then(|rest| rest.strip_prefix(": "));
        self.message = format!("{name}{place}: {}", what.unwrap_or(&self.message));
        self
    }

    /// The same with what it is about in front.
    pub fn of(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// What look-ups give.
pub type Result<T> = std::result::Result<T, LookupError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_once() {
        let cut = || LookupError::corrupt("it is cut");
        let placed = cut().of_file("/a.parquet", ", column x, row group 0");
        let expected = "/a.parquet, column x, row group 0: it is cut";
        assert_eq!(placed.message, expected);
        assert_eq!(placed.of_file("/a.parquet", "").message, expected);
        let named = cut().of_file("/a.parquet", "");
        assert_eq!(named.message, "/a.parquet: it is cut");
        let again = named.of_file("/a.parquet", ", column x, row group 0");
        assert_eq!(again.message, expected);
    }
}
