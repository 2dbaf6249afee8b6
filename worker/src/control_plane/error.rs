//! Why a call of the control plane failed, as a sentence that begins with a word to branch on.
//!
//! Cap'n Proto knows only four kinds of exceptions, so the word is part of the text: `not-found`,
//! `denied`, `invalid`, `unavailable`, `busy`, `failed`, each followed by a colon.

use super::jobs::JobError;
use super::mounts::MountError;
use super::shards::AskError;
use crate::shard::request::DescribeError;
use crate::under_store::{UnderStoreError, UnderStoreErrorKind};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such path, mount or job.
    #[error("not-found: {0}")]
    NotFound(String),
    /// The token does not give the right, or the under-store refused ours.
    #[error("denied: {0}")]
    Denied(String),
    /// The request makes no sense.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The under-store is away or its answers are not usable.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Too much is under way; trying again helps.
    #[error("busy: {0}")]
    Busy(String),
    /// Anything else.
    #[error("failed: {0}")]
    Failed(String),
}

impl From<AskError> for CallError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Late(..) => CallError::Failed(error.to_string()),
            AskError::Busy(_) | AskError::Stopping(_) => CallError::Busy(error.to_string()),
        }
    }
}

impl From<UnderStoreError> for CallError {
    fn from(error: UnderStoreError) -> Self {
        let sentence = error.to_string();
        match error.kind {
            UnderStoreErrorKind::NotFound => CallError::NotFound(sentence),
            UnderStoreErrorKind::Denied => CallError::Denied(sentence),
            UnderStoreErrorKind::Invalid => CallError::Invalid(sentence),
            UnderStoreErrorKind::VersionChanged => CallError::Busy(sentence),
            UnderStoreErrorKind::Unavailable | UnderStoreErrorKind::Malformed => {
                CallError::Unavailable(sentence)
            }
        }
    }
}

impl From<DescribeError> for CallError {
    fn from(error: DescribeError) -> Self {
        match error {
            DescribeError::UnderStore(error) => error.into(),
            DescribeError::NoMount(_) => CallError::NotFound(error.to_string()),
            DescribeError::NotFound(sentence) => CallError::NotFound(sentence),
            DescribeError::Unavailable(sentence) => CallError::Unavailable(sentence),
            DescribeError::Busy(_) => CallError::Busy(error.to_string()),
            DescribeError::Invalid(sentence) => CallError::Failed(sentence),
        }
    }
}

impl From<MountError> for CallError {
    fn from(error: MountError) -> Self {
        match error {
            MountError::Missing(_) => CallError::NotFound(error.to_string()),
            _ => CallError::Invalid(error.to_string()),
        }
    }
}

impl From<JobError> for CallError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Missing(_) => CallError::NotFound(error.to_string()),
            JobError::TooMany | JobError::TooManyOfReaders => CallError::Busy(error.to_string()),
        }
    }
}

impl From<CallError> for capnp::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Busy(_) => capnp::Error::overloaded(error.to_string()),
            _ => capnp::Error::failed(error.to_string()),
        }
    }
}
