//! Footers and key indexes on one core, without a worker.

use std::cell::RefCell;
use std::future::Future;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use corelane_client::lookup::cache::Cache;
use corelane_client::lookup::execute::{Limits, Search};
use corelane_client::lookup::file::columns::chunk_range;
use corelane_client::lookup::file::{File, footer};
use corelane_client::lookup::host::InMemory;
use corelane_client::lookup::key_index::{Builder, IndexKind};
use futures::FutureExt;

use super::tables::Tables;
use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure};
use crate::process;
use crate::random::Random;

/// Columns and row groups of the wide table, as the script makes them.
const WIDE_COLUMNS: usize = 1_000;
const WIDE_GROUPS: usize = 10;

/// What making a key index may read, in terms of its column.
const READ_SHARE_MAX: f64 = 1.1;

fn in_memory(path: &Path) -> Result<InMemory, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(InMemory::new(bytes))
}

fn open(host: &InMemory) -> Result<File, String> {
    block_on(footer::open(host, "the file", host.length())).map_err(|error| error.to_string())
}

/// The end of what never waits: a file in memory answers at once.
fn block_on<F: Future>(work: F) -> F::Output {
    work.now_or_never()
        .expect("a file in memory answers at once")
}

/// What `work` takes, in CPU time of this thread, a round each.
fn rounds(bench: &Bench, mut work: impl FnMut() -> Result<(), String>) -> Result<Vec<f64>, String> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < bench.options.rounds.max(3)
        || begin.elapsed().as_secs_f64() < bench.options.seconds
    {
        let before = process::thread_time();
        work()?;
        times.push((process::thread_time() - before).as_secs_f64());
    }
    Ok(times)
}

pub(super) fn footer_of_1000_columns_us(bench: &mut Bench) -> Result<Measure, String> {
    let tables = Tables::of(bench)?;
    let wide = in_memory(&tables.file("wide.parquet"))?;
    let times = rounds(bench, || {
        let file = open(&wide)?;
        if file.groups() != WIDE_GROUPS {
            return Err("the wide table is another".to_owned());
        }
        for name in ["c0003", "c0500", "c0997"] {
            let column = file.column(name).map_err(|error| error.to_string())?;
            let column = column.ok_or("a column is missing")?;
            for group in 0..WIDE_GROUPS {
                black_box(file.chunk(group, column).compressed_size());
            }
        }
        Ok(())
    })?;
    let times: Vec<f64> = times.iter().map(|time| time * 1e6).collect();
    let name = "footer_of_1000_columns_us";
    Ok(
        Measure::of_values(name, "µs", &times, Bar::AtMost(300.0)).with_note(format!(
            "p50 of CPU for opening a file of {WIDE_COLUMNS} columns and {WIDE_GROUPS} row groups, and what the footer says of three \
             of the columns"
        )),
    )
}

/// The key index of `name`: its bytes, and rows.
fn index_of(file: &InMemory, column: &str) -> Result<(usize, u64), String> {
    let opened = open(file)?;
    let key = opened.column(column).map_err(|error| error.to_string())?;
    let key = key.ok_or("no such column")?.clone();
    let of_key: u64 = (0..opened.groups())
        .filter_map(|group| chunk_range(opened.chunk(group, &key)))
        .map(|chunk| chunk.end - chunk.start)
        .sum();
    let cache = RefCell::new(Cache::new(1 << 20, 1));
    let limits = Limits {
        rows: None,
        scan_bytes: u64::MAX,
        answer_bytes: 0,
    };
    let read_before = file.bytes_read();
    let index = block_on(Search::new(file, &opened, &cache, limits).build_key_index(&key))
        .map_err(|error| error.to_string())?;
    let read = file.bytes_read() - read_before;
    // Headers are read on the way to the pages, and again with them.
    if read as f64 > READ_SHARE_MAX * of_key as f64 {
        return Err(format!(
            "{read} bytes were read, and the key's column has {of_key}"
        ));
    }
    let rows = *opened.group_starts.last().ok_or("no rows")?;
    Ok((index.len(), rows))
}

pub(super) fn key_index_bytes_a_row(bench: &mut Bench) -> Result<Measure, String> {
    let tables = Tables::of(bench)?;
    let of_file = |name: &str| -> Result<f64, String> {
        let (bytes, rows) = index_of(&in_memory(&tables.file(name))?, "o_orderkey")?;
        Ok(bytes as f64 / rows as f64)
    };
    let (sorted, random) = (
        of_file("orders.parquet")?,
        of_file("orders-random.parquet")?,
    );
    // The worst that there is.
    let rows = tables.orders;
    let mut state = Random::new(5);
    let images: Vec<u64> = (0..rows).map(|_| state.bits()).collect();
    let mut builder = Builder::new(IndexKind::Ordered, rows).map_err(|error| error.to_string())?;
    builder
        .push_run(0, &images)
        .map_err(|error| error.to_string())?;
    let worst = builder.finish().len() as f64 / rows as f64;
    let name = "key_index_bytes_a_row";
    Ok(
        Measure::of_value(name, "bytes", worst.max(random), Bar::AtMost(8.0)).with_note(format!(
            "{worst:.2} of 64 random bits; of order keys {sorted:.2} where rows are sorted by them, {random:.2} in random \
             order"
        )),
    )
}

pub(super) fn key_index_rows_a_second(bench: &mut Bench) -> Result<Measure, String> {
    let tables = Tables::of(bench)?;
    let file = in_memory(&tables.file("orders.parquet"))?;
    let times = rounds(bench, || index_of(&file, "o_orderkey").map(|_| ()))?;
    let rates: Vec<f64> = times
        .iter()
        .map(|time| tables.orders as f64 / time)
        .collect();
    let name = "key_index_rows_a_second";
    Ok(
        Measure::of_values(name, "rows/s", &rates, Bar::AtLeast(20e6)).with_note(
            "of the order keys of pyarrow's default file, a row of CPU time: reading, decompressing and decoding included; \
             only the key's column was read",
        ),
    )
}
