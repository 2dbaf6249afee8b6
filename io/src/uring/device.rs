//! Devices: direct I/O on files and block devices.
//!
//! Everything is opened O_DIRECT and O_NONBLOCK. On file systems that cannot tell whether a read
//! would block (tmpfs, zram) the second flag keeps io_uring from handing each read to a kernel
//! thread; where they can (ext4, xfs, block devices) it changes nothing.

use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use futures::FutureExt;
use io_uring::{opcode, squeue, types};

use super::core::Core;
use super::device_open::{self, Opened};
use super::files::Target;
use super::operation::{Completion, Kind};
use crate::buffer::{FrameLease, FrameSlice, PAGE_SIZE};
use crate::error::{IoError, IoErrorKind};
use crate::{Device, DeviceGeometry, Nanos, OldestOperations};

/// Times that one transfer is tried again after the kernel had no resources for it (EAGAIN).
/// Each goes to a kernel thread that may wait, so a handful means that something is wrong.
const RETRIES_MAX: u8 = 8;

/// A device of a [`UringIo`](super::UringIo).
#[derive(Clone)]
pub struct UringDevice(Rc<OpenDevice>);

pub(super) struct OpenDevice {
    core: Rc<Core>,
    target: Target,
    geometry: DeviceGeometry,
    // Closed after the slot was released: see `drop`.
    _file: File,
}

impl UringDevice {
    pub(super) fn open(core: &Rc<Core>, path: &std::path::Path) -> Result<UringDevice, IoError> {
        let Opened { file, geometry } = device_open::open(path)?;
        let target = core.files.install(&core.ring, file.as_fd());
        Ok(UringDevice(Rc::new(OpenDevice {
            core: Rc::clone(core),
            target,
            geometry,
            _file: file,
        })))
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        if !self.core.has_ended() {
            self.core.files.release(&self.core.ring, self.target);
        }
    }
}

impl OpenDevice {
    fn error(&self, errno: i32, message: &'static str, offset: u64) -> IoError {
        IoError::from_errno(errno, message)
            .with("device", self.geometry.path.display())
            .with("offset", offset)
    }

    #[cold]
    fn timed_out(&self, offset: u64) -> IoError {
        let message = "the device does not answer; check the drive (dmesg, smartctl)";
        IoError::new(IoErrorKind::Timeout, message)
            .with("device", self.geometry.path.display())
            .with("offset", offset)
    }

    fn check_range(&self, offset: u64, length: usize) {
        let page = PAGE_SIZE as u64;
        assert!(
            offset.is_multiple_of(page) && length.is_multiple_of(PAGE_SIZE),
            "device I/O is on whole pages: {length} bytes at {offset}"
        );
        let end = offset.checked_add(length as u64);
        assert!(
            end.is_some_and(|end| end <= self.geometry.length),
            "{length} bytes at {offset} reach past {} of {} bytes",
            self.geometry.path.display(),
            self.geometry.length
        );
    }
}

/// What a transfer holds while the kernel works on it.
enum Held {
    Lease(FrameLease),
    Slice(FrameSlice),
}

/// A read into a lease or a write from a slice, over as many submissions as it takes.
pub(super) struct Transfer {
    device: Rc<OpenDevice>,
    held: Held,
    offset: u64,
    done: usize,
    length: usize,
    retries: u8,
    errno: i32,
    began: Nanos,
    /// Whether somebody waits for it who can go elsewhere.
    is_urgent: bool,
}

impl Transfer {
    fn new(device: Rc<OpenDevice>, offset: u64, held: Held) -> Transfer {
        let length = match &held {
            Held::Lease(lease) => lease.len(),
            Held::Slice(slice) => slice.bytes().len(),
        };
        device.check_range(offset, length);
        Transfer {
            began: device.core.now(),
            is_urgent: false,
            device,
            held,
            offset,
            done: 0,
            length,
            retries: 0,
            errno: 0,
        }
    }

    /// The device, and the first byte on it.
    pub fn place(&self) -> (&Rc<OpenDevice>, u64) {
        (&self.device, self.offset)
    }

    /// The submission of what is left.
    fn entry(&self) -> squeue::Entry {
        let file = self.device.target.number();
        let length = (self.length - self.done) as u32;
        let offset = self.offset + self.done as u64;
        let entry = match &self.held {
            Held::Lease(lease) => {
                let pointer = lease.pointer().wrapping_add(self.done);
                match lease.registered_buffer() {
                    Some(buffer) => opcode::ReadFixed::new(file, pointer, length, buffer)
                        .offset(offset)
                        .build(),
                    None => opcode::Read::new(file, pointer, length)
                        .offset(offset)
                        .build(),
                }
            }
            Held::Slice(slice) => {
                let pointer = slice.bytes().as_ptr().wrapping_add(self.done);
                match slice.registered_buffer() {
                    Some(buffer) => opcode::WriteFixed::new(file, pointer, length, buffer)
                        .offset(offset)
                        .build(),
                    None => opcode::Write::new(file, pointer, length)
                        .offset(offset)
                        .build(),
                }
            }
        };
        let entry = self.device.target.mark(entry);
        // The kernel could not do it without waiting: let a thread of its own wait.
        if self.retries > 0 {
            entry.flags(squeue::Flags::ASYNC)
        } else {
            entry
        }
    }

    /// Takes a completion into account; returns what is to be submitted next, if anything.
    pub fn advance(&mut self, result: i32) -> Option<squeue::Entry> {
        match result {
            bytes if bytes > 0 => {
                // A short transfer may end inside a block; the next one starts at its beginning.
                let alignment = self.device.geometry.alignment as usize;
                let whole = self.done + bytes as usize;
                assert!(
                    whole <= self.length,
                    "the kernel moved more than it was asked to"
                );
                if whole == self.length {
                    self.done = whole;
                    return None;
                }
                let whole = whole / alignment * alignment;
                if whole == self.done {
                    self.errno = libc::EIO;
                    return None;
                }
                self.done = whole;
                Some(self.entry())
            }
            failed
                if matches!(-failed, libc::EAGAIN | libc::EINTR) && self.retries < RETRIES_MAX =>
            {
                self.retries += 1;
                Some(self.entry())
            }
            failed => {
                self.errno = -failed;
                None
            }
        }
    }

    /// Zero or a negative error code, once [`Transfer::advance`] has nothing to submit; zero with
    /// bytes missing is the end of the device.
    pub fn result(&self) -> i32 {
        -self.errno
    }

    fn finish(self, result: i32) -> Result<Held, IoError> {
        let message = match self.held {
            Held::Lease(_) => "reading failed; check the drive (dmesg, smartctl)",
            Held::Slice(_) => "writing failed; check the drive (dmesg, smartctl)",
        };
        if result < 0 {
            return Err(self.device.error(-result, message, self.offset));
        }
        if self.done < self.length {
            let message = "the device ended early; it is shorter than when it was opened";
            return Err(IoError::new(IoErrorKind::Device, message)
                .with("device", self.device.geometry.path.display())
                .with("offset", self.offset)
                .with("missing_bytes", self.length - self.done));
        }
        Ok(self.held)
    }

    /// Reads; the lease comes back filled.
    #[inline(always)]
    fn read(self) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        // Started here and not when it is first polled: what the caller keeps is a few words then,
        // and a server holds thousands of them.
        self.start().map(|done| match finish(done)? {
            Held::Lease(lease) => Ok(lease),
            Held::Slice(_) => unreachable!("a read holds a lease"),
        })
    }

    /// Queues the first submission.
    fn start(self) -> Completion {
        let core = Rc::clone(&self.device.core);
        let entry = self.entry();
        // SAFETY: the entry points into pages that `held` keeps: exclusively for a read (leased),
        // immutably for a write (sealed). Frames do not move.
        unsafe { Completion::of(&core, Kind::Transfer(self), entry) }
    }
}

/// What came of a transfer.
fn finish((result, kind): (i32, Kind)) -> Result<Held, IoError> {
    match kind {
        Kind::Transfer(transfer) => transfer.finish(result),
        Kind::TimedOut { device, offset } => Err(device.timed_out(offset)),
        _ => unreachable!("an operation keeps its kind"),
    }
}

async fn maintain(device: Rc<OpenDevice>, entry: squeue::Entry) -> Result<i32, IoError> {
    let core = Rc::clone(&device.core);
    let entry = device.target.mark(entry);
    let began = core.now();
    // SAFETY: flushes and discards point at no memory.
    match unsafe { Completion::of(&core, Kind::Maintain { device, began }, entry) }.await {
        (_, Kind::TimedOut { device, offset }) => Err(device.timed_out(offset)),
        (result, _) => Ok(result),
    }
}

impl Device for UringDevice {
    fn geometry(&self) -> &DeviceGeometry {
        &self.0.geometry
    }

    fn read(
        &self,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        let mut transfer = Transfer::new(Rc::clone(&self.0), offset, Held::Lease(lease));
        transfer.is_urgent = true;
        transfer.read()
    }

    fn read_patiently(
        &self,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        Transfer::new(Rc::clone(&self.0), offset, Held::Lease(lease)).read()
    }

    fn write(
        &self,
        offset: u64,
        slice: FrameSlice,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let address = slice.bytes().as_ptr() as usize;
        assert!(
            address.is_multiple_of(PAGE_SIZE),
            "writes are of whole pages"
        );
        let transfer = Transfer::new(Rc::clone(&self.0), offset, Held::Slice(slice));
        async move { finish(transfer.start().await).map(drop) }
    }

    fn flush(&self) -> impl Future<Output = Result<(), IoError>> + 'static {
        let device = Rc::clone(&self.0);
        async move {
            let entry = opcode::Fsync::new(device.target.number())
                .flags(types::FsyncFlags::DATASYNC)
                .build();
            let result = maintain(Rc::clone(&device), entry).await?;
            if result < 0 {
                let message = "flushing failed; what was written may be lost, check the drive (dmesg, smartctl)";
                return Err(device.error(-result, message, 0));
            }
            Ok(())
        }
    }

    fn time_out(&self, read_max: Duration, other_max: Duration) -> OldestOperations {
        let now = self.0.core.time_now();
        let (mut oldest, mut wakers) = (OldestOperations::default(), Vec::new());
        let mut operations = self.0.core.operations.borrow_mut();
        for (_, operation) in operations.iter_mut() {
            let (device, began, is_urgent) = match &operation.kind {
                Kind::Transfer(transfer) => (&transfer.device, transfer.began, transfer.is_urgent),
                Kind::Maintain { device, began } => (device, *began, false),
                _ => continue,
            };
            if operation.result.is_some() || !Rc::ptr_eq(device, &self.0) {
                continue;
            }
            let age = now.since(began);
            oldest.note(is_urgent, age);
            let max = if is_urgent { read_max } else { other_max };
            if age >= max && !operation.orphaned {
                operation.timed_out = true;
                wakers.extend(operation.waker.take());
            }
        }
        drop(operations);
        wakers.into_iter().for_each(Waker::wake);
        oldest
    }

    fn discard(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let device = Rc::clone(&self.0);
        device.check_range(offset, length as usize);
        async move {
            // On a block device the kernel turns this into a zeroing that deallocates, where the
            // drive has one, and refuses it otherwise. It may wait, so it goes to a kernel thread.
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let entry = opcode::Fallocate::new(device.target.number(), length)
                .offset(offset)
                .mode(mode)
                .build()
                .flags(squeue::Flags::ASYNC);
            match -maintain(Rc::clone(&device), entry).await? {
                no_error if no_error <= 0 => Ok(()),
                libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL => Ok(()),
                errno => Err(device.error(
                    errno,
                    "discarding failed; check the drive (dmesg, smartctl)",
                    offset,
                )),
            }
        }
    }
}
