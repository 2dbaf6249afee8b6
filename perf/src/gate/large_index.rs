//! What an index of ten million blocks costs a DRAM hit: reads of few resident blocks with a large
//! index around them, against the same with a small one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_rpc_schema::BLOCK_BYTES_MIN;
use corelane_worker::store::synthetic::synthetic_object_id;

use super::bench::Bench;
use super::measure::{Bar, Measure};
use super::pairs::{Side, costs, fresh_place, interleave, judge};
use super::recovery::{ONE_PAGE_OBJECTS, describe_blocks};
use super::rounds::Pair;
use super::worker::{GateWorker, WorkerSpec};
use crate::load::crew::Member;
use crate::load::{LoadResult, LoadSpec, Verify, crew};
use crate::process::CpuTime;
use crate::target::data_plane::DataPlane;
use crate::target::{Catalogue, Named, Object, Target};
use crate::workload::{Keys, Workload};

/// Blocks of the large index, one page and one object each; and of the small one, which all are
/// resident.
const LARGE: u32 = 10_000_000;
const RESIDENT: u32 = 10_000;

/// Budget of the worker with the large index: 45 bytes of index and 4 of checksums a block, and a
/// frame of 64 KiB for each resident page. The small one has the same, so that both tiers are alike.
const DRAM_BYTES: u64 = 4 << 30;

/// How long a worker may take to become idle after its start, and between two looks at it.
const IDLE_DEADLINE: Duration = Duration::from_secs(120);
const IDLE_LOOK: Duration = Duration::from_millis(400);

/// Share of reads that have to be DRAM hits.
const HITS_MIN: f64 = 0.99;

/// Objects of [`describe_blocks`], known by number: opening ten million paths would be another
/// measure.
struct Synthetic {
    lanes: DataPlane,
    numbers: Arc<Vec<u32>>,
}

impl Synthetic {
    fn new(address: SocketAddr, numbers: Arc<Vec<u32>>) -> Synthetic {
        Synthetic {
            lanes: DataPlane::of(address),
            numbers,
        }
    }
}

impl Target for Synthetic {
    fn kind(&self) -> &'static str {
        "data-plane"
    }

    fn resolve(&self, _names: &[Named]) -> io::Result<Catalogue> {
        let mut catalogue = self.lanes.resolve(&[])?;
        let object = |number: &u32| Object {
            name: String::new(),
            length: ONE_PAGE_OBJECTS,
            id: synthetic_object_id(*number),
        };
        catalogue.objects = self.numbers.iter().map(object).collect();
        Ok(catalogue)
    }

    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult> {
        self.lanes.drive(member)
    }
}

fn start(bench: &Bench, name: &str, blocks: u32) -> Result<GateWorker, String> {
    let place = fresh_place(bench.directory(), name)?;
    let device = place.join("device");
    // A worker's index has room for two entries for each whole block that its devices hold; half as
    // much again, since a full one lets blocks go.
    let length_min = u64::from(blocks) / 4 * 3 * u64::from(BLOCK_BYTES_MIN);
    describe_blocks(&device, u64::from(blocks), ONE_PAGE_OBJECTS, length_min)?;
    GateWorker::start(
        bench,
        &WorkerSpec {
            device: Some(device),
            is_synthetic: true,
            ..WorkerSpec::new(bench, place, ONE_PAGE_OBJECTS, DRAM_BYTES)
        },
    )
}

pub(super) fn cost_at_10m_blocks(bench: &mut Bench) -> Result<Measure, String> {
    let (large, resident) = match bench.options.quick {
        true => (LARGE / 100, RESIDENT / 10),
        false => (LARGE, RESIDENT),
    };
    let small_worker = start(bench, "small-index", resident)?;
    let large_worker = start(bench, "large-index", large)?;
    for worker in [&small_worker, &large_worker] {
        until_idle(worker.process.pid())?;
    }
    // Every thousandth object, so that the resident ones lie all over the large index.
    let scattered: Vec<u32> = (0..resident)
        .map(|index| index * (large / resident))
        .collect();
    let spec = LoadSpec {
        workload: Workload::points(ONE_PAGE_OBJECTS as u32, Keys::Uniform),
        // As many names as are resolved; they are known by number.
        paths: vec![String::new(); resident as usize],
        ..large_worker.load(bench, 64, 32, ONE_PAGE_OBJECTS as u32)
    };
    let side = |worker: &GateWorker, numbers: Vec<u32>| {
        let count = numbers.len();
        let target = Synthetic::new(worker.process.address(), Arc::new(numbers));
        Side {
            spec: LoadSpec {
                target: Arc::new(target),
                paths: vec![String::new(); count],
                ..spec.clone()
            },
            watched: worker.watched(),
        }
    };
    let of_large = side(&large_worker, scattered);
    let of_small = side(&small_worker, (0..resident).collect());
    for side in [&of_large, &of_small] {
        make_resident(&side.spec)?;
    }
    let pairs = interleave(bench, &of_large, &of_small)?;
    let bar = Bar::RatioAtMost(1.3);
    let mut measure =
        Measure::of_pairs("cost_at_10m_blocks", "µs", &costs(&pairs), bar).with_note(format!(
            "CPU a DRAM hit of {resident} resident blocks of {large}, against {resident} of {resident}"
        ));
    let misses = |pair: &Pair| {
        let share = |sample: &crate::sample::Sample| {
            1.0 - sample.load.by_source[0] as f64 / sample.load.reads.max(1) as f64
        };
        share(&pair.worker).max(share(&pair.ceiling))
    };
    let missed = pairs.iter().map(misses).fold(0.0, f64::max);
    if missed > 1.0 - HITS_MIN {
        measure = measure.without_verdict(format!(
            "{:.1} % of the reads of a round were not DRAM hits",
            missed * 100.0
        ));
    }
    let everywhere = side(&large_worker, (0..large).collect()).take(0)?;
    measure = measure.with_note(format!(
        "uniform over all {large} blocks: {:.2} µs of CPU a read, {:.0} reads/s, {:.1} % of them from the device \
         (holes of a sparse file)",
        everywhere.cpu_us_per_operation(),
        everywhere.load.rate(),
        100.0 * everywhere.load.by_source[1] as f64 / everywhere.load.reads.max(1) as f64
    ));
    let measure = judge(measure, &pairs, ["large index", "small index"], None);
    Ok(match bench.options.quick {
        true => measure.without_verdict("a hundredth of the blocks only"),
        false => measure,
    })
}

/// Waits until process `pid` has nothing to do: a worker sorts what it recovered in the background,
/// on the core that its neighbour is to be measured on.
fn until_idle(pid: u32) -> Result<(), String> {
    let deadline = Instant::now() + IDLE_DEADLINE;
    loop {
        let used = || CpuTime::of(pid).map(|cpu| cpu.total());
        let before = used().map_err(|error| error.to_string())?;
        std::thread::sleep(IDLE_LOOK);
        let after = used().map_err(|error| error.to_string())?;
        if after.saturating_sub(before) <= IDLE_LOOK / 20 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "a worker is still busy {IDLE_DEADLINE:?} after its start"
            ));
        }
    }
}

/// Reads until the tier has admitted what is read.
fn make_resident(spec: &LoadSpec) -> Result<(), String> {
    let spec = LoadSpec {
        // The pages of the device are holes: described as zeros, and compared as such.
        verify: Verify::All,
        ..spec.clone()
    };
    for _ in 0..20 {
        let result = crew::run(&spec, |_| {}).map_err(|error| error.to_string())?;
        if let Some(error) = result.first_error {
            return Err(format!("reads of a described device failed: {error}"));
        }
        if result.by_source[0] as f64 >= HITS_MIN * result.reads as f64 {
            return Ok(());
        }
    }
    Err("the DRAM tier did not take the resident blocks".to_owned())
}
