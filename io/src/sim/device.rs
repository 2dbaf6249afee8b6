//! The handle to a simulated device, as one core opened it.

use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::handle::SimIo;
use super::operations::Work;
use super::state::nanoseconds;
use crate::{Device, DeviceGeometry, FrameLease, FrameSlice, IoError, OldestOperations, PAGE_SIZE};

/// A device of a [`World`](super::World), opened by one core.
#[derive(Clone)]
pub struct SimDevice {
    io: SimIo,
    number: usize,
    geometry: Rc<DeviceGeometry>,
}

impl SimDevice {
    pub(super) fn open(io: &SimIo, path: &Path) -> Result<SimDevice, IoError> {
        let disks = io.state.disks.borrow();
        let number = disks
            .iter()
            .position(|disk| disk.geometry.path == path)
            .ok_or_else(|| {
                IoError::from_errno(libc::ENOENT, "there is no such device; check the path")
                    .with("device", path.display())
            })?;
        if disks[number].has_failed {
            return Err(
                IoError::from_errno(libc::ENXIO, "the device does not answer; replace it")
                    .with("device", path.display()),
            );
        }
        let geometry = Rc::new(disks[number].geometry.clone());
        Ok(SimDevice {
            io: io.clone(),
            number,
            geometry,
        })
    }

    /// The extent must be whole pages of the device: anything else is a bug of the caller.
    fn check_extent(&self, offset: u64, length: u64) {
        let geometry = &self.geometry;
        assert!(
            offset.is_multiple_of(PAGE_SIZE as u64)
                && length.is_multiple_of(PAGE_SIZE as u64)
                && length > 0,
            "direct I/O is of whole pages, asked for {length} bytes at {offset} of {}",
            geometry.path.display()
        );
        assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= geometry.length),
            "{length} bytes at {offset} reach past the {} bytes of {}",
            geometry.length,
            geometry.path.display()
        );
    }

    fn read_as(
        &self,
        is_urgent: bool,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static {
        self.check_extent(offset, lease.len() as u64);
        let device = self.clone();
        async move {
            let filled = device
                .perform(|device| Work::Read {
                    device: device.number,
                    offset,
                    lease,
                    is_urgent,
                })
                .await?;
            Ok(filled.expect("a read that succeeds gives its lease back"))
        }
    }

    async fn perform(
        self,
        work: impl FnOnce(&SimDevice) -> Work,
    ) -> Result<Option<FrameLease>, IoError> {
        self.io.require_alive().await;
        let work = work(&self);
        self.io.state.submit(&self.io.core, work).await
    }
}

impl Device for SimDevice {
    fn geometry(&self) -> &DeviceGeometry {
        &self.geometry
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
        self.check_extent(offset, slice.bytes().len() as u64);
        assert!(
            (slice.bytes().as_ptr() as usize).is_multiple_of(PAGE_SIZE),
            "direct I/O is from whole pages of a frame"
        );
        let device = self.clone();
        async move {
            device
                .perform(|device| Work::Write {
                    device: device.number,
                    offset,
                    slice,
                })
                .await?;
            Ok(())
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), IoError>> + 'static {
        let device = self.clone();
        async move {
            device
                .perform(|device| {
                    let writes_before =
                        device.io.state.disks.borrow()[device.number].writes_completed();
                    Work::Flush {
                        device: device.number,
                        writes_before,
                    }
                })
                .await?;
            Ok(())
        }
    }

    fn time_out(&self, read_max: Duration, other_max: Duration) -> OldestOperations {
        let mut operations = self.io.state.operations.borrow_mut();
        operations.time_out(
            (self.io.core.id, self.number),
            self.io.state.now.get(),
            (nanoseconds(read_max), nanoseconds(other_max)),
        )
    }

    fn discard(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        self.check_extent(offset, length);
        let device = self.clone();
        async move {
            device
                .perform(|device| Work::Discard {
                    device: device.number,
                    offset,
                    length,
                })
                .await?;
            Ok(())
        }
    }
}
