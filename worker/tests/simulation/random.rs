//! Random operations, faults, crashes and restarts over many seeds.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use corelane_io::sim::{CrashPoint, World, replay_command, seeds};

use crate::ledger::Ledger;
use crate::life::Stage;
use crate::oracle::Tally;
use crate::plan::{Ending, Plan};

/// Seeds of a plain `cargo test`. `ci/simulate` runs a thousand.
const SEEDS_DEFAULT: u64 = 30;

/// Polls that one start of a worker may take; a usual one takes some ten thousand.
const TURNS_MAX: u64 = 5_000_000;

/// Seeds from which on a run must have seen something of everything: fewer are a replay.
const SEEDS_FOR_FLOORS: u64 = 20;

/// What the world of a seed came to.
struct Run {
    /// Of all that happened.
    hash: u64,
    /// What clients and restarts saw.
    tally: Tally,
    /// Whether "busy" was an answer to everything.
    is_pressed: bool,
}

/// Runs the world of `seed` to its end.
fn run(seed: u64) -> Run {
    let plan = Plan::from_seed(seed);
    let world = World::new(seed, corelane_io::sim::Faults::none());
    world.set_turns_max(TURNS_MAX);
    let site = plan.site(&world);
    world.set_faults(plan.faults.clone());
    let stage = Stage {
        world: &world,
        plan: &plan,
        site: &site,
        ledger: Rc::new(Ledger::default()),
        tally: Rc::new(Tally::default()),
        has_failed_device: Cell::new(false),
        has_crashed: Cell::new(false),
    };
    let is_verbose = std::env::var_os("CORELANE_SIM_VERBOSE").is_some();
    for (number, life) in plan.lives.iter().enumerate() {
        match life.ending {
            Ending::CrashAfter(duration) => world.crash_at(CrashPoint::After(duration)),
            Ending::CrashAtWrite(writes) => world.crash_at(CrashPoint::AtWrite(writes)),
            Ending::Stop | Ending::StopInTraffic | Ending::KillAfterFlush => {}
        }
        let life_seed = seed.wrapping_mul(31).wrapping_add(number as u64);
        if is_verbose {
            println!("seed {seed}, start {number}: {life:?}");
        }
        match world.block_on(stage.live(*life, life_seed)) {
            Ok(true) => world.cancel_crash(),
            Ok(false) => break,
            Err(_crashed) => stage.crashed(),
        }
    }
    let hash = world.trace_hash();
    if is_verbose {
        let mut injected = std::collections::BTreeMap::new();
        println!("seed {seed}: {:?}", stage.tally);
        for fault in world.injections().iter().map(|injection| injection.fault) {
            *injected.entry(fault).or_insert(0) += 1;
        }
        println!("seed {seed}: injected {injected:?}");
    }
    let tally = Tally::default();
    tally.add(&stage.tally);
    Run {
        hash,
        tally,
        is_pressed: plan.is_pressed,
    }
}

/// A worker that answers "busy" to all, and one to which nothing happens, keep every promise: so these are
/// floors of what must have happened, apart for the seeds in which "busy" is an answer.
fn assert_floors(seeds: u64, pressed: &Tally, others: &Tally) {
    if seeds < SEEDS_FOR_FLOORS {
        return;
    }
    for (name, tally) in [("pressed", pressed), ("others", others)] {
        let stat = |name: &str| tally.stats.borrow().get(name).copied().unwrap_or_default();
        let seen = [
            ("reads", tally.reads.get(), 40 * seeds),
            ("opens", tally.opens.get(), 4 * seeds),
            ("recoveries", tally.recoveries.get(), seeds / 10),
            ("blocks recovered", tally.blocks_recovered.get(), seeds),
            ("crashes", tally.crashes.get(), seeds / 20),
            ("reads from the device", stat("reads_device"), seeds),
            ("reads forwarded", stat("reads_forwarded"), seeds),
            ("blocks evicted", stat("blocks_evicted"), seeds),
            ("regions reclaimed", stat("regions_reclaimed"), seeds / 2),
        ];
        for (what, count, floor) in seen {
            assert!(
                count >= floor,
                "{what} of the seeds that are {name}: {count}, at least {floor} of {seeds} seeds were meant"
            );
        }
    }
    let pinned = pressed.pinned_whole.get() + others.pinned_whole.get();
    assert!(pinned >= seeds / 10, "{pinned} pinned objects came back");
}

#[test]
fn simulation() {
    let waiting = Mutex::new(seeds(SEEDS_DEFAULT));
    let has_failed = AtomicBool::new(false);
    let next = || {
        let seed = waiting.lock().ok()?.next();
        seed.filter(|_| !has_failed.load(Ordering::Relaxed))
    };
    // Seeds, and the sums of those that are pressed and of the others.
    let sums = Mutex::new((0, Tally::default(), Tally::default()));
    let work = || {
        while let Some(seed) = next() {
            let ended = catch_unwind(AssertUnwindSafe(|| run(seed)));
            if let Ok(run) = &ended {
                let mut sums = sums.lock().expect("nobody panics with it");
                sums.0 += 1;
                let sum = if run.is_pressed { &sums.1 } else { &sums.2 };
                sum.add(&run.tally);
            }
            if let Err(panic) = ended {
                has_failed.store(true, Ordering::Relaxed);
                eprintln!(
                    "seed {seed} failed; replay it with\n  {}",
                    replay_command("simulation", seed)
                );
                resume_unwind(panic);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
    });
    let (seeds, pressed, others) = sums.into_inner().expect("nobody panicked with it");
    assert_floors(seeds, &pressed, &others);
}

#[test]
fn the_same_seed_takes_the_same_steps() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed).hash, run(seed).hash, "seed {seed}");
    }
}
