//! Errors of the world: what failed, on which device or peer, and what the operator can do.

use std::fmt;

/// What kind of thing went wrong; callers branch on this, operators read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoErrorKind {
    /// The device failed an operation (EIO and its kin). Its pages may be lost.
    Device,
    /// The device did not answer in time, and may still. What it works on stays its own until then.
    Timeout,
    /// No space is left where a file was to be created or extended.
    NoSpace,
    /// The path, address or option is not usable as given.
    InvalidInput,
    /// The kernel, container or file system lacks what is needed.
    Unsupported,
    /// A limit (memory, descriptors, locked memory) is too small.
    Limit,
    /// The peer closed or reset the connection.
    Disconnected,
    /// Anything else the system reported.
    Other,
}

/// An error with its kind, a sentence, context pairs and the system's error code.
#[derive(Clone, Debug)]
pub struct IoError {
    kind: IoErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    os_error: Option<i32>,
}

impl IoError {
    /// An error of `kind`. The message is one sentence that ends in what to do, where there is
    /// something to do.
    pub fn new(kind: IoErrorKind, message: impl Into<String>) -> Self {
        IoError {
            kind,
            message: message.into(),
            context: Vec::new(),
            os_error: None,
        }
    }

    /// An error from a positive errno value; the kind follows from the code.
    pub fn from_errno(errno: i32, message: impl Into<String>) -> Self {
        let kind = match errno {
            libc::EIO | libc::ENXIO | libc::ENODEV | libc::EREMOTEIO | libc::ETIMEDOUT => {
                IoErrorKind::Device
            }
            libc::ENOSPC | libc::EDQUOT => IoErrorKind::NoSpace,
            libc::EINVAL | libc::ENOENT | libc::ENOTDIR | libc::EADDRINUSE => {
                IoErrorKind::InvalidInput
            }
            libc::ENOSYS | libc::EOPNOTSUPP => IoErrorKind::Unsupported,
            libc::ENOMEM | libc::EMFILE | libc::ENFILE => IoErrorKind::Limit,
            libc::ECONNRESET
            | libc::EPIPE
            | libc::ECONNREFUSED
            | libc::ENOTCONN
            | libc::ECONNABORTED => IoErrorKind::Disconnected,
            _ => IoErrorKind::Other,
        };
        IoError {
            os_error: Some(errno),
            ..IoError::new(kind, message)
        }
    }

    /// An error from the standard library's, keeping its code.
    pub fn from_std(error: &std::io::Error, message: impl Into<String>) -> Self {
        match error.raw_os_error() {
            Some(errno) => IoError::from_errno(errno, message),
            None => IoError::new(IoErrorKind::Other, format!("{}: {error}", message.into())),
        }
    }

    /// Adds a context pair, such as `("offset", "4096")`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.context.push((name, value.to_string()));
        self
    }

    /// What callers branch on.
    pub fn kind(&self) -> IoErrorKind {
        self.kind
    }

    /// The system's error code, if it gave one.
    pub fn os_error(&self) -> Option<i32> {
        self.os_error
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        for (name, value) in &self.context {
            write!(formatter, ", {name} {value}")?;
        }
        if let Some(errno) = self.os_error {
            write!(formatter, " ({})", std::io::Error::from_raw_os_error(errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for IoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_where_and_the_systems_reason() {
        let error = IoError::from_errno(libc::EIO, "read failed")
            .with("device", "/dev/nvme0n1")
            .with("offset", 4096);
        assert_eq!(error.kind(), IoErrorKind::Device);
        let text = error.to_string();
        assert!(
            text.starts_with("read failed, device /dev/nvme0n1, offset 4096 ("),
            "{text}"
        );
    }
}
