//! Look-ups at depth 1.

use std::time::Duration;

use super::asker::Asker;
use super::rates::{Asked, load};
use super::tables::{COPIES, Tables};
use super::worker::{Data, LookupSpec, LookupWorker};
use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure, median};
use crate::gate::pairs::{Side, interleave, judge};
use crate::gate::rounds::Pair;
use crate::gate::served::DEPTH1_ROUNDS_MIN;
use crate::load::LoadSpec;
use crate::random::Random;
use crate::target::look_up::Table;

/// Rows of a row group, and of a page, as pyarrow writes them.
const GROUP_ROWS: u64 = 1 << 20;
const PAGE_ROWS: u64 = 20_000;

/// Pages at the start of a row group whose keys are in its dictionary: it is full at 1 MiB. Those behind them hold
/// the keys themselves.
const DICTIONARY_PAGES: u64 = 6;

/// Look-ups in each row group of each file.
const LOOKUPS_OF_GROUP: usize = 6;

pub(super) fn lookup_hot_added_us(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders.parquet");
    let spec = LookupSpec {
        spin: bench.options.spin,
        ..LookupSpec::new()
    };
    let worker = LookupWorker::start(bench, spec, &[&table])?;
    worker.index(&table)?;
    let single = |spec: LoadSpec| Side {
        spec: LoadSpec {
            connections: 1,
            depth: 1,
            spin: bench.options.spin,
            ..spec
        },
        watched: worker.watched(),
    };
    let look_ups = single(load(bench, &worker, &table, Asked::Hot));
    let reads = single(LoadSpec {
        paths: table.paths.clone(),
        ..bench.load(worker.process.address(), 1, 1, 4096)
    });
    look_ups.take(0)?;
    let rounds = bench.options.rounds;
    if !bench.options.quick {
        bench.options.rounds = rounds.max(DEPTH1_ROUNDS_MIN);
    }
    let pairs = interleave(bench, &look_ups, &reads);
    bench.options.rounds = rounds;
    let pairs = pairs?;
    let p50 = |pair: &Pair| {
        (
            pair.worker.load.latency_us(0.5),
            pair.ceiling.load.latency_us(0.5),
        )
    };
    let added: Vec<f64> = pairs.iter().map(|pair| p50(pair).0 - p50(pair).1).collect();
    let reads: Vec<f64> = pairs.iter().map(|pair| p50(pair).1).collect();
    let mut measure =
        Measure::of_values("lookup_hot_added_us", "µs", &added, Bar::AtMost(60.0)).with_note(format!(
            "p50 of look-ups of hot keys with a key index, over the p50 of 4 KiB reads from DRAM by the same \
             worker, spin {:?}",
            bench.options.spin
        ));
    measure.ceiling = Some(median(&reads));
    Ok(judge(measure, &pairs, ["look-ups", "reads"], None))
}

/// A look-up that came first to its page.
struct First {
    took: Duration,
    /// Whether it came first to the row group, so that no dictionary was known.
    is_first_of_group: bool,
    /// Whether the key was drawn of the pages with dictionaries only.
    is_of_dictionary: bool,
    read_rounds: u64,
    bytes_from_device: u64,
}

/// First look-ups in pages of copies of one file, footers known: of any pages in one half of the files, of those
/// whose keys are in a dictionary in the other.
fn first_look_ups(bench: &mut Bench, data: Data) -> Result<Vec<First>, String> {
    let tables = Tables::of(bench)?;
    let copies: Vec<Table> = (0..COPIES)
        .map(|copy| tables.orders(&format!("copy-{copy}.parquet")))
        .collect();
    let spec = LookupSpec {
        data,
        lookup_bytes: 1 << 30,
        index_after: 0,
        // Work of some 0.1 ms and more is done by other threads of the same core: a loop that polls would
        // keep them from it.
        spin: Duration::ZERO,
    };
    let worker = LookupWorker::start(bench, spec, &copies.iter().collect::<Vec<_>>())?;
    let mut asker = Asker::connect(&worker)?;
    let mut random = Random::new(7);
    let mut found = Vec::new();
    for (copy, table) in copies.iter().enumerate() {
        let is_of_dictionary = copy >= COPIES / 2;
        // No key is negative, so this one reads the footer and nothing else.
        asker.ask(&table.request(-1, false))?;
        for group in 0..table.keys.div_ceil(GROUP_ROWS) {
            let first_row = group * GROUP_ROWS;
            let pages_of_group = if is_of_dictionary {
                DICTIONARY_PAGES
            } else {
                GROUP_ROWS / PAGE_ROWS
            };
            let mut pages: Vec<u64> = (0..pages_of_group)
                .filter(|page| first_row + (page + 1) * PAGE_ROWS <= table.keys)
                .collect();
            for place in (1..pages.len()).rev() {
                pages.swap(place, random.below(place as u64 + 1) as usize);
            }
            pages.truncate(LOOKUPS_OF_GROUP);
            for (place, page) in pages.iter().enumerate() {
                let row = first_row + page * PAGE_ROWS + random.below(PAGE_ROWS);
                let key = table.key_of(row);
                // Explaining costs some microseconds; the device's reads are what it is for.
                let answer = asker.ask(&table.request(key, data == Data::Drive))?;
                if !table.is_right(&answer.head, &answer.stream, &[key]) {
                    return Err(format!("a WRONG ANSWER to key {key}"));
                }
                let counts = answer.counts.unwrap_or_default();
                found.push(First {
                    took: answer.took,
                    is_first_of_group: place == 0,
                    is_of_dictionary,
                    read_rounds: counts.read_rounds,
                    bytes_from_device: counts.bytes_from_device,
                });
            }
        }
    }
    if found.is_empty() {
        return Err("the table has no whole page".to_owned());
    }
    Ok(found)
}

fn times(found: &[First], is_first_of_group: bool, is_of_dictionary: bool) -> Vec<f64> {
    found
        .iter()
        .filter(|first| {
            (first.is_first_of_group, first.is_of_dictionary)
                == (is_first_of_group, is_of_dictionary)
        })
        .map(|first| first.took.as_secs_f64() * 1e6)
        .collect()
}

fn first(
    bench: &mut Bench,
    name: &str,
    is_first_of_group: bool,
    bar: f64,
) -> Result<Measure, String> {
    let found = first_look_ups(bench, Data::Dram)?;
    let any = times(&found, is_first_of_group, false);
    let of_dictionary = times(&found, is_first_of_group, true);
    if any.is_empty() || of_dictionary.is_empty() {
        return Err("the table is too small for it".to_owned());
    }
    Ok(
        Measure::of_values(name, "µs", &any, Bar::AtMost(bar)).with_note(format!(
            "p50 of {} look-ups of any keys in pages that nobody asked for before, {}; data in DRAM, footer known, no key \
             index, no spin; of keys in pages with dictionaries only, which are one in eight: {:.0} µs",
            any.len(),
            if is_first_of_group {
                "each the first in its row group"
            } else {
                "of row groups that were looked into before"
            },
            median(&of_dictionary)
        )),
    )
}

pub(super) fn lookup_first_known_dictionary_us(bench: &mut Bench) -> Result<Measure, String> {
    first(bench, "lookup_first_known_dictionary_us", false, 400.0)
}

pub(super) fn lookup_first_us(bench: &mut Bench) -> Result<Measure, String> {
    first(bench, "lookup_first_us", true, 2_500.0)
}

pub(super) fn lookup_device_reads(bench: &mut Bench) -> Result<Measure, String> {
    let found = first_look_ups(bench, Data::Drive)?;
    let rounds: Vec<f64> = found.iter().map(|first| first.read_rounds as f64).collect();
    let most = rounds.iter().copied().fold(0.0, f64::max);
    let from_device = found
        .iter()
        .filter(|first| first.bytes_from_device > 0)
        .count();
    let p50 = |is_first| match times(&found, is_first, false).as_slice() {
        [] => 0.0,
        times => median(times),
    };
    let mut measure = Measure::of_value("lookup_device_reads", "reads", most, Bar::AtMost(2.0))
        .with_note(format!(
            "reads one after the other of first look-ups in row groups whose pages are known, at most; the median is {}; \
             {from_device} of {} read from the device; p50 {:.0} µs; {:.0} µs of the first in a row group, which finds its pages by \
             their headers, since the file has no page index",
            median(&rounds),
            found.len(),
            p50(false),
            p50(true)
        ));
    measure.spread = Some([rounds.iter().copied().fold(f64::MAX, f64::min), most]);
    if from_device * 2 < found.len() {
        measure = measure.without_verdict("most look-ups did not read from the device");
    }
    Ok(measure)
}
