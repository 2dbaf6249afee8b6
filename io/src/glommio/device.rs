//! Devices through glommio's `DmaFile`.
//!
//! glommio moves bytes between the device and buffers of its own, and each operation here copies
//! them to or from the frame. The invariant is that of the traits: a lease is filled whole or given
//! up, a slice is written whole or its error told. Everything is opened O_DIRECT by hand, because
//! glommio leaves the flag out where /dev or the file is on tmpfs, and O_NONBLOCK for the same
//! reason as on our own ring; what the kernel cannot do at once (EAGAIN) is asked again of a second
//! opening that may wait.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ::glommio::GlommioError;
use ::glommio::io::{DmaFile, OpenOptions};

use super::core::Core;
use super::operation::Waits;
use super::system_error;
use crate::buffer::{FrameLease, FrameSlice, PAGE_SIZE};
use crate::error::{IoError, IoErrorKind};
use crate::uring::device_open::{self, Opened};
use crate::{Device, DeviceGeometry, OldestOperations};

/// A device of a [`GlommioIo`](super::GlommioIo).
#[derive(Clone)]
pub struct GlommioDevice(Rc<OpenDevice>);

struct OpenDevice {
    core: Rc<Core>,
    geometry: DeviceGeometry,
    file: DmaFile,
    /// The same file, for operations that have to wait for resources of the kernel.
    patient: DmaFile,
    waits: Waits,
}

impl GlommioDevice {
    pub(super) async fn open(core: &Rc<Core>, path: &Path) -> Result<GlommioDevice, IoError> {
        let Opened { file, geometry } = device_open::open(path)?;
        if !geometry.is_block_device {
            check_first_page(&file).map_err(|error| error.with("device", path.display()))?;
        }
        Ok(GlommioDevice(Rc::new(OpenDevice {
            core: Rc::clone(core),
            geometry,
            file: open_file(path, libc::O_DIRECT | libc::O_NONBLOCK).await?,
            patient: open_file(path, libc::O_DIRECT).await?,
            waits: Waits::default(),
        })))
    }
}

/// Refuses a file whose first page is a hole: nothing was ever written there.
///
/// On the first file of a drive glommio tries a polled read of offset 0, and believes for good that
/// the drive can poll when it succeeds. In a hole it succeeds on every drive, because it does not
/// get there; each later read then fails with EOPNOTSUPP.
fn check_first_page(file: &File) -> Result<(), IoError> {
    // SAFETY: no pointers. A file system without holes says that all is data.
    let data = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_DATA) };
    if data == 0 {
        return Ok(());
    }
    let message = "glommio misjudges a drive by a file whose first page was never written; format the device with `corelane device format`, or use the backend `uring`";
    Err(IoError::new(IoErrorKind::Unsupported, message))
}

async fn open_file(path: &Path, flags: libc::c_int) -> Result<DmaFile, IoError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .dma_open(path)
        .await;
    opened.map_err(|error| {
        let message = "glommio cannot open the device; check that the worker may read and write it";
        system_error(&error, message).with("device", path.display())
    })
}

impl GlommioDevice {
    fn read_as(
        &self,
        is_urgent: bool,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        let device = Rc::clone(&self.0);
        device.check_range(offset, lease.len());
        async move {
            let reader = Rc::clone(&device);
            let read = async move { reader.read(offset, lease).await };
            let read = device.waits.watch(is_urgent, &device.core, read).await;
            read.unwrap_or_else(|| Err(device.timed_out(offset)))
        }
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        if self.core.has_ended() {
            for file in [&self.file, &self.patient] {
                // SAFETY: open, and glommio leaves the descriptor alone once its executor ended.
                unsafe { libc::close(file.as_raw_fd()) };
            }
        }
    }
}

/// Whether the kernel had no resources to do it without waiting.
fn wants_patience(error: &GlommioError<()>) -> bool {
    matches!(
        error,
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. }
            if matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
    )
}

impl OpenDevice {
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

    fn timed_out(&self, offset: u64) -> IoError {
        let message = "the device does not answer; check the drive (dmesg, smartctl)";
        IoError::new(IoErrorKind::Timeout, message)
            .with("device", self.geometry.path.display())
            .with("offset", offset)
    }

    fn error(&self, error: &GlommioError<()>, message: &'static str, offset: u64) -> IoError {
        system_error(error, message)
            .with("device", self.geometry.path.display())
            .with("offset", offset)
    }

    /// Where a transfer goes on after `moved` more bytes of `length`, or how it ended.
    fn advance(
        &self,
        offset: u64,
        done: usize,
        moved: usize,
        length: usize,
    ) -> Result<usize, IoError> {
        let reached = done + moved;
        assert!(
            reached <= length,
            "the kernel moved more than it was asked to"
        );
        if reached == length {
            return Ok(length);
        }
        // A short transfer may end inside a block; the next one starts at its beginning.
        let alignment = self.geometry.alignment as usize;
        let whole = reached / alignment * alignment;
        if whole > done {
            return Ok(whole);
        }
        let message = "the device ended early; it is shorter than when it was opened";
        Err(IoError::new(IoErrorKind::Device, message)
            .with("device", self.geometry.path.display())
            .with("offset", offset)
            .with("missing_bytes", length - reached))
    }

    async fn read(&self, offset: u64, mut lease: FrameLease) -> Result<FrameLease, IoError> {
        let length = lease.len();
        let mut done = 0;
        while done < length {
            let (position, rest) = (offset + done as u64, length - done);
            let bytes = match self.file.read_at_aligned(position, rest).await {
                Err(error) if wants_patience(&error) => {
                    self.patient.read_at_aligned(position, rest).await
                }
                outcome => outcome,
            }
            .map_err(|error| {
                let message = "reading failed; check the drive (dmesg, smartctl)";
                self.error(&error, message, offset)
            })?;
            let reached = self.advance(offset, done, bytes.len(), length)?;
            lease.bytes_mut()[done..reached].copy_from_slice(&bytes[..reached - done]);
            done = reached;
        }
        Ok(lease)
    }

    async fn write(&self, offset: u64, slice: FrameSlice) -> Result<(), IoError> {
        let length = slice.bytes().len();
        let mut done = 0;
        while done < length {
            let position = offset + done as u64;
            let copy = || {
                let mut buffer = self.file.alloc_dma_buffer(length - done);
                buffer
                    .as_bytes_mut()
                    .copy_from_slice(&slice.bytes()[done..]);
                buffer
            };
            let moved = match self.file.write_at(copy(), position).await {
                Err(error) if wants_patience(&error) => {
                    self.patient.write_at(copy(), position).await
                }
                outcome => outcome,
            }
            .map_err(|error| {
                let message = "writing failed; check the drive (dmesg, smartctl)";
                self.error(&error, message, offset)
            })?;
            done = self.advance(offset, done, moved, length)?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), IoError> {
        self.patient.fdatasync().await.map_err(|error| {
            let message =
                "flushing failed; what was written may be lost, check the drive (dmesg, smartctl)";
            self.error(&error, message, 0)
        })
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let Err(error) = self.patient.deallocate(offset, length).await else {
            return Ok(());
        };
        let error = self.error(
            &error,
            "discarding failed; check the drive (dmesg, smartctl)",
            offset,
        );
        match error.os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Device for GlommioDevice {
    fn geometry(&self) -> &DeviceGeometry {
        &self.0.geometry
    }

    fn read(
        &self,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        self.read_as(true, offset, lease)
    }

    fn read_patiently(
        &self,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        self.read_as(false, offset, lease)
    }

    fn write(
        &self,
        offset: u64,
        slice: FrameSlice,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let device = Rc::clone(&self.0);
        device.check_range(offset, slice.bytes().len());
        async move {
            let writer = Rc::clone(&device);
            let written = async move { writer.write(offset, slice).await };
            let written = device.waits.watch(false, &device.core, written).await;
            written.unwrap_or_else(|| Err(device.timed_out(offset)))
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), IoError>> + 'static {
        let device = Rc::clone(&self.0);
        async move {
            let flusher = Rc::clone(&device);
            let flushed = async move { flusher.flush().await };
            let flushed = device.waits.watch(false, &device.core, flushed).await;
            flushed.unwrap_or_else(|| Err(device.timed_out(0)))
        }
    }

    fn time_out(&self, read_max: Duration, other_max: Duration) -> OldestOperations {
        self.0.waits.time_out(read_max, other_max)
    }

    fn discard(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let device = Rc::clone(&self.0);
        device.check_range(offset, length as usize);
        async move {
            let owner = Rc::clone(&device);
            let discarded = async move { owner.discard(offset, length).await };
            let discarded = device.waits.watch(false, &device.core, discarded).await;
            discarded.unwrap_or_else(|| Err(device.timed_out(offset)))
        }
    }
}
