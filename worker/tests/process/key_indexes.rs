//! Key indexes of Parquet objects: built, kept beside the blocks, found again, dropped with what they are of.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use corelane_client::control::ListOptions;
use corelane_client::lookup::predicate::parse::parse;
use corelane_client::lookup::request::LookupRequest;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::harness::{Bed, Process, counter, eventually};

const PATH: &str = "/data/orders.parquet";

/// Rows of the table: two row groups.
const ROWS: i64 = 100_000;

/// The key in each row: all below `ROWS`, in no order, and in each generation in another one.
fn key_of(row: i64, generation: i64) -> i64 {
    (row * 7919 + generation * 12_345) % ROWS
}

/// Writes the table: beside the key of a row, `generation` and the row's number.
fn write(bed: &Bed, generation: i64) {
    let path = bed.path("source").join("orders.parquet");
    let place = bed.path("orders.new");
    write_table(&place, generation);
    std::fs::rename(place, path).expect("it replaces the old one");
}

fn write_table(path: &Path, generation: i64) {
    let column = |value: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new((0..ROWS).map(value).collect::<Int64Array>())
    };
    let rows = RecordBatch::try_from_iter([
        ("key", column(&|row| key_of(row, generation))),
        ("row", column(&|row| row)),
        ("generation", column(&|_| generation)),
    ])
    .expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROWS as usize / 2))
        .build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).expect("a writer");
    writer.write(&rows).expect("rows are written");
    writer.close().expect("a footer");
}

/// The rows and generations that have `key`, and whether a key index found them.
#[track_caller]
fn rows_of(process: &Process, key: i64) -> (Vec<(i64, i64)>, bool) {
    let predicate = parse(&format!("key = {key}")).expect("a predicate");
    let request = LookupRequest {
        paths: vec![PATH.to_owned()],
        predicate,
        select: vec!["row".to_owned(), "generation".to_owned()],
        limit: None,
        scan_bytes_max: None,
        explain: true,
        keys: None,
    };
    let found = process.client().look_up(&request);
    let found = found.unwrap_or_else(|error| panic!("{error}\n{}", process.log()));
    let (_, batches) = found.batches().expect("an Arrow stream");
    let mut rows = Vec::new();
    for batch in &batches {
        let column = |at: usize| {
            let column = batch.column(at).as_any().downcast_ref::<Int64Array>();
            column.expect("integers").values().clone()
        };
        rows.extend(column(0).iter().copied().zip(column(1).iter().copied()));
    }
    let counts = found.counts.expect("it explains itself");
    (rows, counts.key_index_used == 1)
}

#[track_caller]
fn assert_rows(process: &Process, generation: i64, when: &str) {
    for row in [0, 1, ROWS / 2 - 1, ROWS / 2, ROWS - 1] {
        let (rows, _) = rows_of(process, key_of(row, generation));
        assert_eq!(rows, [(row, generation)], "row {row} {when}");
    }
    assert!(rows_of(process, -1).0.is_empty() && rows_of(process, ROWS).0.is_empty());
}

/// The same by a key index.
#[track_caller]
fn assert_indexed(process: &Process, generation: i64) {
    assert_rows(process, generation, "with a key index");
    let (_, is_indexed) = rows_of(process, key_of(7, generation));
    assert!(is_indexed, "of generation {generation}");
}

#[track_caller]
fn until(process: &Process, name: &str, wanted: u64) {
    eventually(&format!("{name} is {wanted}"), || {
        let stats = process.control().stats().expect("stats");
        counter(&stats, name) >= wanted
    });
    assert_eq!(process.counter(name), wanted, "{name}");
}

/// A bed whose mount asks for a key index.
fn asking() -> Bed {
    let mut bed = Bed::on_disk();
    bed.mounts[0].keys.push_str("\nkey_indexes = [\"key\"]");
    bed
}

#[test]
fn a_key_index_outlives_the_process_and_the_number_of_cores() {
    let mut bed = asking();
    write(&bed, 1);
    let process = bed.start();
    assert_rows(&process, 1, "at first");
    until(&process, "key_indexes_built", 1);
    assert_indexed(&process, 1);
    until(&process, "key_indexes_kept", 1);
    process.load("/data");
    process.terminate();

    std::fs::rename(bed.path("source"), bed.path("away")).expect("the under-store goes away");
    for cores in [1, 2] {
        bed.cores = cores;
        let process = bed.start();
        assert_rows(&process, 1, "after a restart");
        until(&process, "key_indexes_recalled", 1);
        assert_indexed(&process, 1);
        assert_eq!(process.counter("key_indexes_built"), 0);
        assert_eq!(process.counter("fetches"), 0);
        process.terminate();
    }
}

#[test]
fn a_key_index_goes_with_its_object_and_is_not_listed() {
    let bed = asking();
    write(&bed, 1);
    let length = std::fs::metadata(bed.path("source").join("orders.parquet"))
        .expect("it is there")
        .len();
    let process = bed.start();
    process.load("/data");
    assert_rows(&process, 1, "at first");
    until(&process, "key_indexes_kept", 1);
    let options = ListOptions {
        cached_only: true,
        recursive: true,
        ..Default::default()
    };
    let (entries, _) = process.control().list("/data", options).expect("a list");
    let listed: Vec<(&str, u64, u64)> = entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.length, entry.bytes_cached))
        .collect();
    assert_eq!(listed, [(PATH, length, length)]);
    let options = ListOptions {
        cached_only: true,
        ..Default::default()
    };
    let (entries, _) = process.control().list(PATH, options).expect("a list");
    assert_eq!((entries.len(), entries[0].length), (1, length));
    process.terminate();

    let process = bed.start();
    let freed = process.control().free(PATH, false).expect("freed");
    assert!(
        freed.bytes > length,
        "{freed:?} of {length} and its key index"
    );
    process.terminate();

    let process = bed.start();
    assert_eq!(process.recovered_blocks, 0);
    assert_rows(&process, 1, "after it was freed");
    until(&process, "key_indexes_built", 1);
    assert_eq!(process.counter("key_indexes_recalled"), 0);
}

#[test]
fn another_version_gets_another_key_index_and_the_old_one_goes() {
    let mut bed = asking();
    bed.mounts[0].keys = bed.mounts[0].keys.replace("immutable", "always-check");
    write(&bed, 1);
    let process = bed.start();
    for generation in 1..=3 {
        write(&bed, generation);
        assert_rows(&process, generation, "of its generation");
        until(&process, "key_indexes_kept", generation as u64);
        assert_indexed(&process, generation);
    }
    eventually("of older versions, only blocks are held", || {
        let stats = process.control().stats().expect("stats");
        counter(&stats, "objects") == 3 + 1
    });
    process.terminate();
    let process = bed.start();
    assert_rows(&process, 3, "after a restart");
    until(&process, "key_indexes_recalled", 1);
    assert_indexed(&process, 3);
    assert_eq!(process.counter("key_indexes_built"), 0);
}

#[test]
fn after_free_the_object_is_looked_into_anew() {
    // The mount believes that it never changes, and is told.
    let bed = asking();
    write(&bed, 1);
    let process = bed.start();
    assert_rows(&process, 1, "at first");
    until(&process, "key_indexes_kept", 1);
    assert_indexed(&process, 1);
    write(&bed, 2);
    assert_indexed(&process, 1);
    process.control().free(PATH, false).expect("freed");
    assert_rows(&process, 2, "after it was freed");
    until(&process, "key_indexes_built", 2);
    assert_indexed(&process, 2);
}

#[test]
fn often_asked_columns_get_a_key_index_by_themselves() {
    let bed = Bed::in_memory();
    write(&bed, 1);
    let process = bed.start();
    for row in 0..15 {
        assert_eq!(rows_of(&process, key_of(row, 1)), (vec![(row, 1)], false));
    }
    assert_eq!(process.counter("key_indexes_built"), 0);
    assert_eq!(rows_of(&process, key_of(15, 1)).0, [(15, 1)]);
    until(&process, "key_indexes_built", 1);
    assert_indexed(&process, 1);
}
