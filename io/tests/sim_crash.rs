//! Random writes, flushes and crashes against an oracle that knows what each sector may hold.
//!
//! This checks the simulator itself: an engine that is tested on it relies on exactly these rules.

use std::collections::BTreeSet;

use corelane_io::sim::{Crash, CrashPoint, Faults, Prng, SimDevice, World, check_seeds};
use corelane_io::{Device, FramePool, Io, PAGE_SIZE};

const PATH: &str = "/dev/sim";
const PAGES: u64 = 32;
const SECTOR_SIZE: usize = 512;

/// What one page may hold, as version numbers; every sector of a page is stamped with its version.
#[derive(Clone, Default)]
struct PageOracle {
    /// The newest version that completed.
    completed: u64,
    /// The version that a completed flush covers.
    durable: u64,
    /// Versions that completed since, or were in flight at a crash and may be there or not.
    unflushed: BTreeSet<u64>,
    /// Versions in flight.
    in_flight: BTreeSet<u64>,
}

fn stamp(lease: &mut [u8], version: u64) {
    for sector in lease.chunks_mut(SECTOR_SIZE) {
        sector[..8].copy_from_slice(&version.to_le_bytes());
    }
}

fn versions(page: &[u8]) -> BTreeSet<u64> {
    let version = |sector: &[u8]| u64::from_le_bytes(sector[..8].try_into().expect("eight bytes"));
    page.chunks(SECTOR_SIZE).map(version).collect()
}

struct Run<'a> {
    prng: &'a Prng,
    device: SimDevice,
    pool: FramePool,
}

impl Run<'_> {
    async fn write(&self, pages: &mut [PageOracle], version: u64) {
        let count = 1 + self.prng.below(4) as usize;
        let first = self.prng.below(PAGES - count as u64 + 1) as usize;
        let frame = self.pool.take().expect("a free frame");
        let mut lease = frame.lease(0..count).expect("vacant pages");
        stamp(lease.bytes_mut(), version);
        let slice = lease.seal().slice(0..count * PAGE_SIZE);
        for page in &mut pages[first..first + count] {
            page.in_flight.insert(version);
        }
        let written = self.device.write((first * PAGE_SIZE) as u64, slice).await;
        written.expect("no write fault");
        for page in &mut pages[first..first + count] {
            page.in_flight.clear();
            page.completed = version;
            page.unflushed.insert(version);
        }
    }

    async fn flush(&self, pages: &mut [PageOracle]) {
        self.device.flush().await.expect("no flush fault");
        for page in pages {
            page.durable = page.completed;
            page.unflushed.clear();
        }
    }
}

/// Checks every page after `crash`.
fn check_after(world: &World, crash: Crash, pages: &[PageOracle]) {
    for (number, page) in pages.iter().enumerate() {
        let bytes = world.device_bytes(PATH, (number * PAGE_SIZE) as u64, PAGE_SIZE);
        let found = versions(&bytes);
        let mut allowed = page.in_flight.clone();
        match crash {
            Crash::ProcessKill => {
                assert_eq!(
                    found.len(),
                    1,
                    "a kill tears no page, but page {number} holds {found:?}"
                );
                allowed.insert(page.completed);
            }
            Crash::PowerLoss => {
                allowed.insert(page.durable);
                allowed.extend(&page.unflushed);
            }
        }
        assert!(
            found.is_subset(&allowed),
            "page {number} holds {found:?}, allowed are {allowed:?}"
        );
    }
}

/// Overwrites what a crash left with known versions, durably.
async fn settle(run: &Run<'_>, pages: &mut [PageOracle], version: u64) {
    for first in (0..PAGES as usize).step_by(4) {
        let frame = run.pool.take().expect("a free frame");
        let mut lease = frame.lease(0..4).expect("vacant pages");
        stamp(lease.bytes_mut(), version);
        let slice = lease.seal().slice(0..4 * PAGE_SIZE);
        run.device
            .write((first * PAGE_SIZE) as u64, slice)
            .await
            .expect("no write fault");
    }
    run.device.flush().await.expect("no flush fault");
    pages.fill(PageOracle {
        completed: version,
        durable: version,
        ..PageOracle::default()
    });
}

#[test]
fn after_a_crash_each_sector_holds_what_a_drive_may_have_kept() {
    let name = "after_a_crash_each_sector_holds_what_a_drive_may_have_kept";
    check_seeds(name, 200, |seed| {
        let prng = Prng::new(seed);
        let mixed = Faults::from_seed(seed);
        let faults = Faults {
            power_loss: mixed.power_loss,
            unflushed_loss: mixed.unflushed_loss,
            torn_write: mixed.torn_write,
            ..Faults::none()
        };
        let world = World::new(seed, faults);
        world.add_device(PATH, PAGES * PAGE_SIZE as u64);
        let mut pages = vec![PageOracle::default(); PAGES as usize];
        let mut version = 0;
        for _ in 0..8 {
            let io = world.core();
            world.cancel_crash();
            let crashed = world.block_on(async {
                let run = Run {
                    prng: &prng,
                    device: io
                        .open_device(PATH.as_ref())
                        .await
                        .expect("the device is there"),
                    pool: io.allocate_pool(4, 4).expect("memory for four frames"),
                };
                version += 1;
                settle(&run, &mut pages, version).await;
                world.crash_at(CrashPoint::AtWrite(1 + prng.below(40)));
                loop {
                    if prng.below(8) == 0 {
                        run.flush(&mut pages).await;
                    } else {
                        version += 1;
                        run.write(&mut pages, version).await;
                    }
                }
            });
            let crashed = match crashed {
                Ok(()) => unreachable!("the writes go on until the crash"),
                Err(crashed) => crashed,
            };
            check_after(&world, crashed.crash, &pages);
        }
    });
}
