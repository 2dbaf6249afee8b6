//! What a wide footer costs: `footer_speed [FILE | COLUMNS [GROUPS]]`, 1,000 and 10 if nothing is said.
//!
//! Of FILE, or of files of so many columns and row groups that are written in memory, with and without
//! Arrow's schema in their footers, prints the best and the median time of: the outline of the footer,
//! opening the file and looking at three columns, and `parquet`'s decoder on all of it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use corelane_lookup::error::Result as LookupResult;
use corelane_lookup::file::outline::Outline;
use corelane_lookup::file::{File, footer};
use corelane_lookup::host::InMemory;
use futures::executor::block_on;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::metadata::ParquetMetaDataReader;

/// Opens a file and looks at three of its columns.
fn three_columns(host: &InMemory, names: &[String; 3]) -> LookupResult<File> {
    let file = block_on(footer::open(host, "wide", host.length()))?;
    file.decode_named(names)?;
    for name in names {
        let column = file.column(name)?.expect("it was written");
        assert_eq!(
            file.chunk(0, column).num_values(),
            i64::from(file.group_rows(0))
        );
    }
    Ok(file)
}

/// Rows of a row group.
const ROWS: usize = 20;

/// Runs of each measurement.
const RUNS: usize = 200;

fn written(columns: usize, groups: usize, with_arrow: bool) -> Result<Bytes, Box<dyn Error>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut batch = || {
        let arrays = (0..columns).map(|column| {
            let array: ArrayRef = match column % 4 {
                0 | 1 => Arc::new((0..ROWS).map(|_| random() as i64).collect::<Int64Array>()),
                2 => Arc::new((0..ROWS).map(|_| random() as f64).collect::<Float64Array>()),
                _ => Arc::new(
                    (0..ROWS)
                        .map(|_| Some(format!("{:x}", random() >> (random() % 48))))
                        .collect::<StringArray>(),
                ),
            };
            (format!("feature_{column}"), array)
        });
        RecordBatch::try_from_iter(arrays)
    };
    let mut file = Vec::new();
    let options = ArrowWriterOptions::new().with_skip_arrow_metadata(!with_arrow);
    let first = batch()?;
    let mut writer = ArrowWriter::try_new_with_options(&mut file, first.schema(), options)?;
    for _ in 0..groups {
        writer.write(&batch()?)?;
        writer.flush()?;
    }
    writer.close()?;
    Ok(file.into())
}

fn timed<T>(name: &str, mut work: impl FnMut() -> T) -> T {
    let mut times: Vec<Duration> = Vec::with_capacity(RUNS);
    for _ in 1..RUNS {
        let began = Instant::now();
        drop(work());
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "  {name}: best {:?}, median {:?}",
        times[0],
        times[RUNS / 2]
    );
    work()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if let Some(path) = first.as_ref().filter(|first| Path::new(first).is_file()) {
        println!("{path}");
        return show(std::fs::read(path)?.into());
    }
    let columns = first.map_or(Ok(1_000), |text| text.parse())?;
    let groups = arguments.next().map_or(Ok(10), |text| text.parse())?;
    for with_arrow in [false, true] {
        println!("{columns} columns, {groups} row groups, Arrow's schema {with_arrow}");
        show(written(columns, groups, with_arrow)?)?;
    }
    Ok(())
}

fn show(file: Bytes) -> Result<(), Box<dyn Error>> {
    let (_, end) = file.split_at(file.len() - 8);
    let footer_bytes = u32::from_le_bytes(end[..4].try_into()?) as usize;
    let footer = file.slice(file.len() - 8 - footer_bytes..file.len() - 8);
    println!("  footer: {footer_bytes} bytes");
    let outline = timed("outline", || Outline::new(&footer)).ok_or("no outline")?;
    let roots = outline.roots().len();
    // Spread over all.
    let names = [1, roots / 2, roots - 1]
        .map(|root| String::from_utf8_lossy(outline.name(root)).into_owned());
    let host = InMemory::new(file);
    let opened = timed("three columns", || three_columns(&host, &names))?;
    let kept = opened.memory_bytes();
    let all = timed("all columns at once", || {
        let file = block_on(footer::open(&host, "wide", host.length()))?;
        file.columns().map(|_| file)
    })?;
    let stock = timed("all, by parquet alone", || {
        ParquetMetaDataReader::decode_metadata(&footer)
    })?;
    println!(
        "  memory: {kept} bytes with three columns, {} with all",
        all.memory_bytes()
    );
    for (place, column) in all.columns()?.iter().enumerate() {
        for group in 0..all.groups() {
            let (own, expected) = (
                all.chunk(group, column),
                stock.row_group(group).column(place),
            );
            assert_eq!(own.byte_range(), expected.byte_range());
            assert_eq!(own.statistics(), expected.statistics());
        }
    }
    Ok(())
}
