//! Moving bytes between the store and a device: scratch frames, errors, the limit on writes.

use std::cell::Cell;
use std::time::Duration;

use corelane_io::{
    Device, Frame, FrameLease, FramePool, FrameSlice, Io, IoError, IoErrorKind, Nanos, PAGE_SIZE,
};
use rkyv::util::AlignedVec;

use super::Inner;
use super::device::DeviceState;
use super::signal::Signal;

/// Scratch frames that only writers of extents may take, so that reads of recovery, reclaim and
/// scrub, which wait for writes, never have them all.
const WRITER_FRAMES: usize = 2;

/// Fewest scratch frames with which a store works.
pub(super) const SCRATCH_FRAMES_MIN: usize = 8;

/// The frames that the store reads and writes its own bytes with.
pub(super) struct Scratch {
    pool: FramePool,
    lent: Cell<usize>,
}

/// The right to one scratch frame.
pub(super) struct Permit<'a> {
    scratch: &'a Scratch,
    signal: &'a Signal,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.scratch.lent.set(self.scratch.lent.get() - 1);
        self.signal.raise();
    }
}

impl Permit<'_> {
    /// The frame, all vacant. One at a time: the last one must be gone.
    ///
    /// # Errors
    /// When devices that were given up hold all frames, which a permit does not count.
    pub(super) fn frame(&self) -> Result<Frame, IoError> {
        self.scratch.pool.take().ok_or_else(|| {
            IoError::new(
                IoErrorKind::Timeout,
                "devices that do not answer hold all memory for records; replace them and restart",
            )
        })
    }
}

impl Scratch {
    pub(super) fn new(pool: FramePool) -> Self {
        Scratch {
            pool,
            lent: Cell::new(0),
        }
    }

    pub(super) fn frame_pages(&self) -> usize {
        self.pool.frame_pages()
    }

    async fn permit<'a>(&'a self, signal: &'a Signal, reserve: usize) -> Permit<'a> {
        signal
            .wait_until(|| self.lent.get() + reserve < self.pool.frames())
            .await;
        self.lent.set(self.lent.get() + 1);
        Permit {
            scratch: self,
            signal,
        }
    }

    /// A frame for writing the store's own bytes.
    pub(super) async fn for_writing<'a>(&'a self, signal: &'a Signal) -> Permit<'a> {
        self.permit(signal, 0).await
    }

    /// A frame for reading.
    pub(super) async fn for_reading<'a>(&'a self, signal: &'a Signal) -> Permit<'a> {
        self.permit(signal, WRITER_FRAMES).await
    }
}

/// Spreads bytes over time: each caller sleeps until its own turn.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) bytes_per_second: Cell<u64>,
    next: Cell<Nanos>,
}

impl Pace {
    /// How long to wait before `bytes` more may go.
    fn delay(&self, now: Nanos, bytes: usize) -> Duration {
        let rate = self.bytes_per_second.get();
        if rate == 0 {
            return Duration::ZERO;
        }
        let start = self.next.get().max(now);
        let nanoseconds = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate);
        self.next.set(start.plus(Duration::from_nanos(
            nanoseconds.min(u128::from(u64::MAX)) as u64
        )));
        start.since(now)
    }

    /// Waits until `bytes` more may go.
    pub(super) async fn wait<I: Io>(&self, io: &I, bytes: usize) {
        let delay = self.delay(io.now(), bytes);
        if !delay.is_zero() {
            io.sleep(delay).await;
        }
    }
}

impl<I: Io> Inner<I> {
    /// Counts an error of `device` and takes it out after too many.
    pub(super) fn note_error(&self, device: &DeviceState<I::Device>, error: &IoError) {
        if error.kind() == IoErrorKind::Timeout {
            // It may be a matter of seconds: the watch decides, and logs.
            self.counters.device_timeouts.add(1);
            return;
        }
        self.counters.device_errors.add(1);
        device.errors.set(device.errors.get() + 1);
        tracing::warn!(device = %device.path, %error, "the device failed an operation");
        if device.errors.get() >= self.config.device_errors_max {
            self.take_out(
                device,
                &format!("{} operations failed", device.errors.get()),
            );
        }
    }

    /// Takes a device out, for this shard and for the others, until the next start. Whoever waits for it
    /// goes on with an error.
    pub(super) fn take_out(&self, device: &DeviceState<I::Device>, reason: &str) {
        let ordinal = device.superblock.ordinal;
        self.config.health.take_out(ordinal, reason);
        if device.healthy.replace(false) {
            self.counters.devices_failed.add(1);
            tracing::error!(
                device = %device.path, reason,
                "the device is taken out: its partitions are served from the under-store; replace it and restart"
            );
            device.abandon_operations();
            self.signal.raise();
        }
    }

    /// Whether a device takes I/O. One that another shard took out does not here either.
    pub(super) fn is_well(&self, device: &DeviceState<I::Device>) -> bool {
        if device.healthy.get() && self.config.health.is_out(device.superblock.ordinal) {
            self.take_out(device, "another shard took it out");
        }
        device.healthy.get()
    }

    /// The devices that take I/O.
    pub(super) fn devices_well(&self) -> impl Iterator<Item = &DeviceState<I::Device>> {
        let devices = self.devices.iter().flatten();
        devices.filter(|device| self.is_well(device))
    }

    /// Reads into `lease`; an error is counted.
    pub(super) async fn read_device(
        &self,
        device: &DeviceState<I::Device>,
        offset: u64,
        lease: FrameLease,
    ) -> Result<FrameLease, IoError> {
        if !device.healthy.get() {
            return Err(taken_out(&device.path));
        }
        // What recovery, reclaim and scrub cannot read is lost: they wait as long as a device may take.
        let result = device.device.read_patiently(offset, lease).await;
        result.inspect_err(|error| self.note_error(device, error))
    }

    /// Writes `slice`; an error is counted.
    pub(super) async fn write_device(
        &self,
        device: &DeviceState<I::Device>,
        offset: u64,
        slice: FrameSlice,
    ) -> Result<(), IoError> {
        if !self.is_well(device) {
            return Err(taken_out(&device.path));
        }
        let bytes = slice.bytes().len() as u64;
        let result = device.device.write(offset, slice).await;
        self.counters.bytes_written_device.add(bytes);
        self.config.wear.add(device.superblock.ordinal, bytes);
        result.inspect_err(|error| self.note_error(device, error))
    }

    /// Writes `bytes`, whole pages, through one scratch frame after the other.
    pub(super) async fn write_bytes(
        &self,
        device: &DeviceState<I::Device>,
        mut offset: u64,
        bytes: &[u8],
    ) -> Result<(), IoError> {
        assert!(
            bytes.len().is_multiple_of(PAGE_SIZE),
            "{} bytes are not whole pages",
            bytes.len()
        );
        let permit = self.scratch.for_writing(&self.signal).await;
        for chunk in bytes.chunks(self.scratch.frame_pages() * PAGE_SIZE) {
            let frame = permit.frame()?;
            let mut lease = frame
                .lease(0..chunk.len() / PAGE_SIZE)
                .expect("a fresh frame is vacant");
            lease.bytes_mut().copy_from_slice(chunk);
            drop(lease.seal());
            let slice = frame.slice(0..chunk.len());
            drop(frame);
            self.write_device(device, offset, slice).await?;
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Appends `pages` pages from `offset` to `bytes`, through one scratch frame after the other.
    pub(super) async fn read_bytes(
        &self,
        device: &DeviceState<I::Device>,
        mut offset: u64,
        pages: u32,
        bytes: &mut AlignedVec,
    ) -> Result<(), IoError> {
        let permit = self.scratch.for_reading(&self.signal).await;
        let mut left = pages as usize;
        while left > 0 {
            let count = left.min(self.scratch.frame_pages());
            let lease = permit
                .frame()?
                .lease(0..count)
                .expect("a fresh frame is vacant");
            let lease = self.read_device(device, offset, lease).await?;
            bytes.extend_from_slice(lease.bytes());
            offset += lease.len() as u64;
            left -= count;
        }
        Ok(())
    }

    /// Makes what was written to `device` durable.
    ///
    /// The first failure takes the device out, for all shards: what was written since the last good flush
    /// may be gone, and no later flush would say so.
    pub(super) async fn flush_device(
        &self,
        device: &DeviceState<I::Device>,
    ) -> Result<(), IoError> {
        if !self.is_well(device) {
            return Err(taken_out(&device.path));
        }
        let flushed = device.device.flush().await;
        if let Err(error) = &flushed {
            self.note_error(device, error);
            self.take_out(device, "a flush failed: what was not durable may be lost");
        }
        // A good flush says nothing of what an earlier one, of whichever shard, gave up.
        if flushed.is_ok() && !self.is_well(device) {
            return Err(taken_out(&device.path));
        }
        flushed
    }
}

pub(super) fn taken_out(path: &str) -> IoError {
    IoError::new(
        IoErrorKind::Device,
        "the device was taken out, the log says why; replace it and restart",
    )
    .with("device", path)
}
