//! The table of registered files of a ring: a fixed file costs no reference count in the kernel
//! for each operation.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::squeue;
use io_uring::types;

use super::ring::Ring;
use crate::error::IoError;

pub(super) struct FileTable {
    free: RefCell<Vec<u32>>,
}

/// How submissions name a file: by its slot, or by its descriptor when the table is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    number: i32,
    slot: bool,
}

impl Target {
    /// The number to build a submission with; [`Target::mark`] says what it means.
    pub fn number(self) -> types::Fd {
        types::Fd(self.number)
    }

    /// Marks a submission that was built with [`Target::number`].
    pub fn mark(self, entry: squeue::Entry) -> squeue::Entry {
        if self.slot {
            entry.flags(squeue::Flags::FIXED_FILE)
        } else {
            entry
        }
    }
}

impl FileTable {
    /// Registers an empty table of `slots` files, or of as many as the process may open.
    pub fn register(ring: &Ring, slots: u32) -> Result<FileTable, IoError> {
        let slots = slots.min(open_files_max());
        ring.submitter()
            .register_files_sparse(slots)
            .map_err(|error| {
                IoError::from_std(
                    &error,
                    "cannot register a table of files; lower the number of files",
                )
                .with("files", slots)
            })?;
        Ok(FileTable {
            free: RefCell::new((0..slots).rev().collect()),
        })
    }

    /// Gives `file` a slot. It must be released before the descriptor is closed.
    pub fn install(&self, ring: &Ring, file: BorrowedFd<'_>) -> Target {
        let number = file.as_raw_fd();
        let Some(slot) = self.free.borrow_mut().pop() else {
            return Target {
                number,
                slot: false,
            };
        };
        match ring.submitter().register_files_update(slot, &[number]) {
            Ok(_) => Target {
                number: slot as RawFd,
                slot: true,
            },
            Err(error) => {
                tracing::debug!(%error, "a file stays unregistered");
                self.free.borrow_mut().push(slot);
                Target {
                    number,
                    slot: false,
                }
            }
        }
    }

    /// Frees the slot of a file. Operations in flight keep the file.
    pub fn release(&self, ring: &Ring, target: Target) {
        if !target.slot {
            return;
        }
        let slot = target.number as u32;
        match ring.submitter().register_files_update(slot, &[-1]) {
            Ok(_) => self.free.borrow_mut().push(slot),
            // The slot keeps its file until the ring ends and is not used again.
            Err(error) => tracing::warn!(%error, slot, "cannot release a registered file"),
        }
    }

    /// Lets go of all files.
    pub fn unregister(&self, ring: &Ring) {
        if let Err(error) = ring.submitter().unregister_files() {
            tracing::debug!(%error, "cannot unregister files");
        }
    }
}

fn open_files_max() -> u32 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes one rlimit.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if outcome == 0 {
        limit.rlim_cur.min(u64::from(u32::MAX)) as u32
    } else {
        1024
    }
}
