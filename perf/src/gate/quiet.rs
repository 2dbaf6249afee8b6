//! What a worker takes beside CPU for its reads: memory, allocations, CPU when nobody asks.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::bench::Bench;
use super::measure::{Bar, Measure};
use super::mixed;
use super::served::{dram_worker, pipelined_load};
use crate::cost::budget::DRAM_HIT_MAX;
use crate::cost::{self, PerHit, Script, callgrind};
use crate::load::crew;
use crate::process::CpuTime;
use crate::sample::{self, Watched};
use crate::target::greeting;

/// How long everything goes on at once, at least, and in a quick run.
const MIXED_SECONDS_MIN: f64 = 10.0;
const MIXED_SECONDS_QUICK: f64 = 2.0;

/// Connections of an idle worker.
const IDLE_CONNECTIONS: usize = 1000;

pub(super) fn memory_over_budget_mib(bench: &mut Bench) -> Result<Measure, String> {
    if bench.memory_over_budget.is_empty() {
        let worker = dram_worker(bench, Duration::ZERO)?;
        let load = pipelined_load(bench, &worker);
        let sample = sample::take(
            &load,
            &Watched::one(worker.process.pid(), bench.options.server_core),
        )
        .map_err(|error| error.to_string())?;
        bench.note_memory("dram_4k_pipelined", &sample, worker.dram_bytes);
    }
    let seconds = match bench.options.quick {
        true => MIXED_SECONDS_QUICK,
        false => bench.options.seconds.max(MIXED_SECONDS_MIN),
    };
    let mixed = mixed::run(bench, seconds)?;
    let over = mixed.resident_bytes as i64 - mixed.planned_bytes as i64;
    bench
        .memory_over_budget
        .push(("everything at once".to_owned(), over));
    let done: Vec<String> = mixed
        .done
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let mut worst: Vec<(&str, i64)> = Vec::new();
    for (load, over) in &bench.memory_over_budget {
        match worst.iter_mut().find(|(known, _)| known == load) {
            Some((_, worst)) => *worst = (*worst).max(*over),
            None => worst.push((load, *over)),
        }
    }
    let mib = |bytes: i64| bytes as f64 / (1 << 20) as f64;
    let greatest = worst
        .iter()
        .map(|(_, over)| mib(*over))
        .fold(f64::NEG_INFINITY, f64::max);
    let loads: Vec<String> = worst
        .iter()
        .map(|(load, over)| format!("{load} {:.1}", mib(*over)))
        .collect();
    Ok(
        Measure::of_value("memory_over_budget_mib", "MiB", greatest, Bar::AtMost(64.0))
            .with_note(format!(
                "VmRSS less the budget at the end of each load, greatest of its rounds: {}",
                loads.join(", ")
            ))
            .with_note(format!(
                "everything at once ({}) took {:.0} MiB at most, where {:.0} are planned",
                done.join(", "),
                mib(mixed.resident_bytes as i64),
                mib(mixed.planned_bytes as i64),
            )),
    )
}

pub(super) fn instructions_per_hit(bench: &mut Bench) -> Result<Measure, String> {
    callgrind::check_valgrind()?;
    let lengths = if bench.options.quick {
        cost::HITS_QUICK
    } else {
        cost::HITS
    };
    let from_dram = PerHit::count(Script::DramHit, lengths)?;
    let from_device = PerHit::count(Script::DeviceHit, lengths)?;
    let name = "instructions_per_hit";
    let measure = Measure::of_value(
        name,
        "instructions",
        from_dram.ours,
        Bar::AtMost(DRAM_HIT_MAX),
    );
    let notes = from_dram.notes("a DRAM hit");
    let notes = notes.chain(from_device.notes("a device hit"));
    Ok(notes.fold(measure, Measure::with_note))
}

pub(super) fn allocations_per_hit(bench: &mut Bench) -> Result<Measure, String> {
    let mut worker = dram_worker(bench, Duration::ZERO)?;
    let load = pipelined_load(bench, &worker);
    let core = bench.options.server_core.to_string();
    let process = &mut worker.process;
    let mut counts = Vec::new();
    let result = crew::run(&load, |_| counts.push(process.ask("allocations")))
        .map_err(|error| error.to_string())?;
    let counts = counts
        .into_iter()
        .collect::<Result<Vec<Value>, _>>()
        .map_err(|error| error.to_string())?;
    let [begin, end] = &counts[..] else {
        return Err("a mark was missed".to_owned());
    };
    let allocations = on_core(end, &core).saturating_sub(on_core(begin, &core));
    let everywhere = all(end).saturating_sub(all(begin));
    let per_hit = allocations as f64 / result.operations.max(1) as f64;
    let mut measure = Measure::of_value("allocations_per_hit", "", per_hit, Bar::AtMost(0.0)).with_note(format!(
        "{allocations} allocations of the data core's thread in {} reads; {everywhere} of all threads",
        result.operations
    ));
    let hits = result.by_source[0];
    if hits < result.operations {
        measure = measure.with_note(format!(
            "{} reads were not DRAM hits",
            result.operations - hits
        ));
    }
    Ok(measure)
}

fn rows(answer: &Value) -> impl Iterator<Item = (&str, u64)> {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| {
        (
            row["affinity"].as_str().unwrap_or_default(),
            row["allocations"].as_u64().unwrap_or(0),
        )
    })
}

fn all(answer: &Value) -> u64 {
    rows(answer).map(|(_, allocations)| allocations).sum()
}

fn on_core(answer: &Value, core: &str) -> u64 {
    rows(answer)
        .filter(|(affinity, _)| *affinity == core)
        .map(|(_, allocations)| allocations)
        .sum()
}

pub(super) fn idle_cpu_percent(bench: &mut Bench) -> Result<Measure, String> {
    let fail = |error: std::io::Error| error.to_string();
    let worker = dram_worker(bench, bench.options.spin)?;
    let address = worker.process.address();
    let connections = (0..IDLE_CONNECTIONS)
        .map(|_| greeting::connect(address, "").map(|(stream, _)| stream))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    // CPU time is counted in ticks of 10 ms: ten seconds tell a tenth of a percent.
    let wait = Duration::from_secs_f64(if bench.options.quick {
        0.5
    } else {
        bench.options.seconds.max(10.0)
    });
    std::thread::sleep(wait / 10);
    let (begin, before) = (
        Instant::now(),
        CpuTime::of(worker.process.pid()).map_err(fail)?,
    );
    std::thread::sleep(wait);
    let used = CpuTime::of(worker.process.pid())
        .map_err(fail)?
        .since(before);
    let percent = 100.0 * used.total().as_secs_f64() / begin.elapsed().as_secs_f64();
    Ok(
        Measure::of_value("idle_cpu_percent", "% of a core", percent, Bar::AtMost(1.0)).with_note(
            format!(
                "{} idle connections, all threads, {wait:?}, spin {:?}",
                connections.len(),
                bench.options.spin
            ),
        ),
    )
}
