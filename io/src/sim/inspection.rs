//! What a test can look at and break from outside: devices, faults, clocks, the trace.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::faults::{Fault, Faults, Hang, Injection};
use super::operations::Event;
use super::random::{Prng, mix};
use super::world::World;
use crate::{DeviceGeometry, PAGE_SIZE};

impl World {
    /// Adds a device of `length` bytes that read as zeros. Whether it is a block device and what
    /// it says of its alignment follows from the seed.
    ///
    /// # Panics
    /// If there is one at `path`, or if `length` is not a positive number of pages.
    pub fn add_device(&self, path: impl Into<PathBuf>, length: u64) {
        let path = path.into();
        assert!(
            length > 0 && length.is_multiple_of(PAGE_SIZE as u64),
            "a device has whole pages, not {length} bytes"
        );
        let mut disks = self.state.disks.borrow_mut();
        assert!(
            disks.iter().all(|disk| disk.geometry.path != path),
            "{} exists",
            path.display()
        );
        let number = disks.len();
        let traits = mix(self.state.seed ^ (number as u64) << 48);
        let geometry = DeviceGeometry {
            path,
            length,
            alignment: if traits & 1 == 0 {
                512
            } else {
                PAGE_SIZE as u32
            },
            is_block_device: traits & 2 == 0,
            numa_node: None,
        };
        disks.push(Disk::new(number, geometry));
    }

    /// Makes every operation of the device fail from now on, also those in flight.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn fail_device(&self, path: impl AsRef<Path>) {
        let (number, length) = self.with_disk(path.as_ref(), |number, disk| {
            disk.has_failed = true;
            (number, disk.geometry.length)
        });
        self.state
            .inject(Fault::DeviceFailed, Some(number), 0, length);
    }

    /// Lets a device that failed answer again, with what it holds; as of a cable that is plugged in again.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn restore_device(&self, path: impl AsRef<Path>) {
        self.with_disk(path.as_ref(), |_, disk| disk.has_failed = false);
    }

    /// Makes the device answer to none of the operations in `hang` that are submitted from now on. They stay in
    /// flight, with their memory, until [`World::answer_device`].
    ///
    /// # Panics
    /// If there is no such device.
    pub fn hang_device(&self, path: impl AsRef<Path>, hang: Hang) {
        self.with_disk(path.as_ref(), |_, disk| disk.hang = hang);
    }

    /// Ends a [`World::hang_device`]: what was not answered is answered late, in the usual time from now.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn answer_device(&self, path: impl AsRef<Path>) {
        let number = self.with_disk(path.as_ref(), |number, disk| {
            disk.hang = Hang::default();
            number
        });
        let hung = self.state.operations.borrow_mut().take_hung(number);
        for (key, id) in hung {
            let device_ns = self.state.faults.borrow().device_ns;
            let at = self.state.now.get() + self.state.between(device_ns);
            self.state.schedule(at, Event::Operation { key, id });
        }
    }

    /// Does to one device what a power cut does: unflushed writes may be lost.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn cut_power_of(&self, path: impl AsRef<Path>) {
        self.with_disk(path.as_ref(), |_, disk| disk.cut_power(&self.state));
    }

    /// Overwrites `length` bytes on the medium with other ones, drawn from `seed`: each byte differs
    /// from what it was.
    ///
    /// # Panics
    /// If there is no such device or the extent reaches past it.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, length: usize, seed: u64) {
        let prng = Prng::new(seed);
        let number = self.with_disk(path.as_ref(), |number, disk| {
            check_extent(disk, offset, length);
            let mut bytes = vec![0; length];
            disk.copy_out(offset, &mut bytes);
            bytes
                .iter_mut()
                .for_each(|byte| *byte ^= prng.between(1, 255) as u8);
            disk.write_medium(offset, &bytes);
            number
        });
        self.state
            .inject(Fault::Corrupted, Some(number), offset, length as u64);
    }

    /// What is on the device, without faults or delay.
    ///
    /// # Panics
    /// If there is no such device or the extent reaches past it.
    pub fn device_bytes(&self, path: impl AsRef<Path>, offset: u64, length: usize) -> Vec<u8> {
        self.with_disk(path.as_ref(), |_, disk| {
            check_extent(disk, offset, length);
            let mut bytes = vec![0; length];
            disk.copy_out(offset, &mut bytes);
            bytes
        })
    }

    /// Puts `bytes` on the device, durable at once.
    ///
    /// # Panics
    /// If there is no such device or the extent reaches past it.
    pub fn write_device_bytes(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
        self.with_disk(path.as_ref(), |_, disk| {
            check_extent(disk, offset, bytes.len());
            disk.write_medium(offset, bytes);
        });
    }

    fn with_disk<R>(&self, path: &Path, act: impl FnOnce(usize, &mut Disk) -> R) -> R {
        let mut disks = self.state.disks.borrow_mut();
        let number = disks
            .iter()
            .position(|disk| disk.geometry.path == path)
            .unwrap_or_else(|| panic!("the world has no device {}", path.display()));
        act(number, &mut disks[number])
    }

    /// How often things go wrong now.
    pub fn faults(&self) -> Faults {
        self.state.faults.borrow().clone()
    }

    /// Changes how often things go wrong, such as for a quiet setup or a quiet end.
    pub fn set_faults(&self, faults: Faults) {
        *self.state.faults.borrow_mut() = faults;
    }

    /// How many faults of a kind were injected so far.
    pub fn injected(&self, fault: Fault) -> u64 {
        self.state.injections.borrow().count(fault)
    }

    /// Every fault that was injected so far, oldest first.
    pub fn injections(&self) -> Vec<Injection> {
        self.state.injections.borrow().all.clone()
    }

    /// A hash over every step so far. Two runs with the same one did the same.
    pub fn trace_hash(&self) -> u64 {
        self.state.trace.hash()
    }

    /// Moves the wall clock of all cores by `milliseconds`, back if negative. The monotonic clock
    /// goes on.
    pub fn step_wall_clock(&self, milliseconds: i64) {
        let step = &self.state.wall_clock_step_ms;
        step.set(step.get() + milliseconds);
    }
}

fn check_extent(disk: &Disk, offset: u64, length: usize) {
    assert!(
        offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= disk.geometry.length),
        "{length} bytes at {offset} reach past {}",
        disk.geometry.path.display()
    );
}
