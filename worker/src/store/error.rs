//! What can go wrong between the store and its callers, and what they do about it.

use corelane_io::IoError;

/// Why a store could not be formatted, opened or written to. The sentence ends in what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The device does not carry this store, or not in a version that is known here.
    #[error("{device}: {found}; to use it for Corelane, erasing what it holds: {command}")]
    NotOurs {
        /// Path of the device.
        device: String,
        /// What is there.
        found: String,
        /// The command that would format it.
        command: String,
    },
    /// The configuration and the device, or two devices, do not go together.
    #[error("{0}")]
    Mismatch(String),
    /// The device is in use. Nothing was written to it, and nothing will be by force.
    #[error("{device} is in use by {users}; end that first, or name another device")]
    Locked {
        /// Path of the device.
        device: String,
        /// Who uses it, as far as the kernel tells.
        users: String,
    },
    /// The device's answer.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why a read gave no bytes. Each of these is a miss: fetch from the under-store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The block moved or left since it was looked up.
    #[error("the block is no longer where it was")]
    Gone,
    /// A page did not match its checksum. The block is out of the index, counted and logged.
    #[error("a page did not match its checksum")]
    Corrupt,
    /// The device failed, or was taken out before.
    #[error("device: {0}")]
    Device(IoError),
}

/// Why a block was not kept. The caller has the bytes; only caching them failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// Too much waits to be written.
    #[error("too much waits to be written")]
    Busy,
    /// No region for it: all pinned, the device failed, or reclaim lags behind.
    #[error("no room on the device")]
    NoRoom,
    /// The block is there already, or waits to be written.
    #[error("the block is there already")]
    Present,
}

/// Why an object could not be pinned or freed for good.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MarkError {
    /// Pins would take more of a device than allowed.
    #[error(
        "pinning {bytes} bytes more would leave less than the rest that eviction needs on {device}: \
         {pinned} of {allowed} bytes are pinned; unpin something or add a device"
    )]
    PinnedOut {
        /// Bytes that were asked for.
        bytes: u64,
        /// Path of the device.
        device: String,
        /// Bytes that are pinned.
        pinned: u64,
        /// Bytes that may be pinned.
        allowed: u64,
    },
    /// The record could not be written: it holds until the next restart only.
    #[error("{0}; what was asked for is done, but a restart may undo it")]
    NotDurable(String),
}
