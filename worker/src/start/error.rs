//! Why a worker could not start or had to end, and the exit code that says which kind it was.

use std::fmt;

use crate::config::Mistakes;

/// What kind of failure, by what an operator has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Command line or configuration.
    Configuration,
    /// Kernel, container, limits, addresses.
    Environment,
    /// A device was refused.
    Device,
    /// Anything else, such as a shard that failed at run time.
    Other,
}

/// A failure with its sentence.
#[derive(Clone, Debug)]
pub struct WorkerError {
    kind: FailureKind,
    message: String,
}

impl WorkerError {
    /// A failure of `kind`; the message ends in what to do, where there is something to do.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        WorkerError {
            kind,
            message: message.into(),
        }
    }

    /// What kind it is.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Exit code of `corelane-worker` and `corelane serve`: 1 other, 2 configuration,
    /// 3 environment, 4 device.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::Other => 1,
            FailureKind::Configuration => 2,
            FailureKind::Environment => 3,
            FailureKind::Device => 4,
        }
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for WorkerError {}

impl From<Mistakes> for WorkerError {
    fn from(mistakes: Mistakes) -> Self {
        WorkerError::new(FailureKind::Configuration, mistakes.to_string())
    }
}
