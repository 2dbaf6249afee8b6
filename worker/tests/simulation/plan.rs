//! What a seed stands for: sizes, mounts, objects, faults, and how each start of the worker ends.

use std::time::Duration;

use corelane_io::Nanos;
use corelane_io::sim::{Faults, Prng, World};
use corelane_worker::cache::policy::PolicyKind;
use corelane_worker::mount::{Admission, Freshness, Mount};
use corelane_worker::shard::Tuning;

use crate::origin::{Behaviour, Origin};
use crate::worker::{Site, mount, tuning, uri_of};

/// Mount whose objects never change; the only one that opens without the store.
pub const IMMUTABLE: &str = "/immutable";

/// Mount that comes and goes.
pub const FLAPPING: &str = "/flapping";

/// Lengths that find the edges of pages and blocks.
const EDGES: [u64; 12] = [
    0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_072, 262_143, 262_145, 400_001,
];

/// How a start of the worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM after the traffic.
    Stop,
    /// SIGTERM in the middle of the traffic.
    StopInTraffic,
    /// SIGKILL after everything was flushed.
    KillAfterFlush,
    /// SIGKILL or a power cut at a time.
    CrashAfter(Duration),
    /// SIGKILL or a power cut right after so many more writes were submitted.
    CrashAtWrite(u64),
}

/// One start.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Shards.
    pub shards: u16,
    /// Clients.
    pub clients: u64,
    /// What each of them does.
    pub operations: u64,
    /// How it ends.
    pub ending: Ending,
    /// A device fails for good in the middle.
    pub fails_device: bool,
}

/// Everything that a seed decides before the world begins.
pub struct Plan {
    /// For what is decided later.
    pub prng: Prng,
    /// What devices and network do wrong.
    pub faults: Faults,
    /// What the store does wrong.
    pub behaviour: Behaviour,
    /// Devices.
    pub devices: usize,
    /// Regions of each.
    pub regions: u64,
    /// Partitions of the worker.
    pub partitions: u32,
    /// Whether the devices hold everything, so that nothing is ever evicted.
    pub is_roomy: bool,
    /// Whether memory and queues are so short that "busy" is an answer.
    pub is_pressed: bool,
    /// Sizes and deadlines.
    pub tuning: Tuning,
    /// The starts.
    pub lives: Vec<Life>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Paths of the objects.
    pub paths: Vec<String>,
}

impl Plan {
    /// The plan of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        let prng = Prng::new(seed ^ 0x706c_616e);
        let is_roomy = prng.below(3) == 0;
        let is_pressed = prng.below(3) == 0;
        let faults = Faults {
            // Spikes of seconds would make every run a run of waiting.
            latency_spike_ns_max: 50_000_000,
            ..Faults::from_seed(seed)
        };
        let has_faults = has_device_faults(&faults);
        let mounts = vec![
            mount(0, IMMUTABLE, 64 << 10, Freshness::Immutable),
            Mount {
                admission: if prng.coin() {
                    Admission::SecondTouch
                } else {
                    Admission::Always
                },
                ..mount(
                    1,
                    "/aged",
                    128 << 10,
                    Freshness::MaxAge(Duration::from_millis(40)),
                )
            },
            mount(2, "/checked", 256 << 10, Freshness::AlwaysCheck),
            mount(3, FLAPPING, 64 << 10, Freshness::AlwaysCheck),
        ];
        let objects = if is_roomy { 8 } else { prng.between(24, 40) };
        let paths = (0..objects)
            .map(|number| format!("{}/o{number}", mounts[number as usize % mounts.len()].path))
            .collect();
        let devices = prng.between(1, 2) as usize;
        let lives = prng.between(2, 3);
        let lives = (0..lives)
            .map(|number| Life {
                shards: prng.between(1, 4) as u16,
                clients: prng.between(1, 4),
                operations: prng.between(40, 200),
                ending: ending(&prng),
                fails_device: has_faults && number > 0 && devices > 1 && prng.below(8) == 0,
            })
            .collect();
        Plan {
            behaviour: behaviour(&prng),
            devices,
            // After a power cut, regions whose first extents were lost are in use, too: with another number of shards
            // all regions of a start may be one shard's.
            regions: prng.between(36, 48) + if is_roomy { 16 } else { 0 },
            partitions: 16 << prng.below(3),
            tuning: Tuning {
                policy: if prng.below(4) == 0 {
                    PolicyKind::Noop
                } else {
                    PolicyKind::S3Fifo
                },
                tier_frames_min: if is_pressed { 8 } else { 128 },
                page_frames: if is_pressed { 2 } else { 64 },
                read_frames: if is_pressed { 2 } else { 32 },
                memory_deadline: Duration::from_millis(if is_pressed { 50 } else { 5000 }),
                metadata_objects: 64,
                ..tuning()
            },
            is_roomy,
            is_pressed,
            lives,
            mounts,
            paths,
            faults,
            prng,
        }
    }

    /// Makes the devices and the objects.
    pub fn site(&self, world: &World) -> Site {
        let origin = Origin::new(world.seed(), self.behaviour.clone());
        for path in &self.paths {
            origin.put(&uri_of(path), self.draw_length(), Nanos(0));
        }
        let region_bytes = 1 << 20;
        // A region more than planned for what is not in regions.
        let device_bytes = (self.regions + 2) * u64::from(region_bytes);
        let mut site = Site::new(
            world,
            self.devices,
            device_bytes,
            region_bytes,
            self.partitions,
            self.mounts.clone(),
            origin,
        );
        site.tuning = self.tuning;
        site
    }

    /// The length of a new version.
    pub fn draw_length(&self) -> u64 {
        let longest = if self.is_roomy { 400_000 } else { 3 << 20 };
        if self.prng.below(3) == 0 {
            EDGES[self.prng.below(EDGES.len() as u64) as usize]
        } else if !self.is_roomy && self.prng.below(50) == 0 {
            // Two stripes, of different shards at times.
            (16 << 20) + self.prng.below(1 << 20)
        } else {
            self.prng.below(longest)
        }
    }

    /// Whether devices may lose or spoil what was written.
    pub fn devices_may_fail(&self) -> bool {
        has_device_faults(&self.faults)
    }
}

/// Whether a world with `faults` may fail or spoil an operation of a device.
pub fn has_device_faults(faults: &Faults) -> bool {
    [
        faults.read_error,
        faults.write_error,
        faults.flush_error,
        faults.flush_drop,
        faults.bit_flip_on_read,
        faults.bit_flip_at_rest,
        faults.misdirected_read,
        faults.misdirected_write,
        faults.lost_write,
    ]
    .iter()
    .any(|rate| *rate > 0.0)
}

fn ending(prng: &Prng) -> Ending {
    match prng.below(6) {
        0 => Ending::StopInTraffic,
        1 => Ending::KillAfterFlush,
        2 => Ending::CrashAfter(Duration::from_micros(prng.between(500, 400_000))),
        3 => Ending::CrashAtWrite(prng.between(1, 400)),
        _ => Ending::Stop,
    }
}

fn behaviour(prng: &Prng) -> Behaviour {
    let rate = |most: f64| {
        if prng.coin() {
            0.0
        } else {
            most * prng.below(1000) as f64 / 1000.0
        }
    };
    let first = prng.between(1_000, 2_000_000);
    let lease = prng.between(100, 50_000);
    Behaviour {
        latency_ns: (first, first * prng.between(1, 8)),
        lease_ns: (lease, lease * prng.between(1, 8)),
        failure: rate(0.1),
        refusal: rate(0.05),
        jobs_max: if prng.below(4) == 0 { 3 } else { 1024 },
        is_snapshot: rate(1.0),
        fetch_bytes_max: 1 << prng.between(18, 24),
        lie: rate(0.1),
        silence: rate(0.05),
    }
}
