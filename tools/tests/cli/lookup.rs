//! Look-ups in Parquet files of a mount, as scripts and people ask them.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow_ipc::reader::StreamReader;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Outcome, Worker, command, folder, formatted_device, run};

/// Rows of /data/orders.parquet, with the keys 0, 10, 20 and so on.
const ORDERS: i64 = 1000;

/// Row groups of it.
const GROUPS: usize = 10;

/// 1995-01-01 in days since 1970.
const FIRST_DAY: i32 = 9131;

struct World {
    worker: Worker,
    _folder: TempDir,
}

impl World {
    /// A worker with /data/orders.parquet, and a table in partitions: /data/events/year=1995 and 1996.
    fn new() -> World {
        let folder = folder();
        let files = folder.path().join("files");
        std::fs::create_dir(&files).expect("a folder");
        write(&files.join("orders.parquet"), &orders(0..ORDERS));
        for (year, keys) in [(1995, 0..10), (1996, 10..20)] {
            let partition = files.join(format!("events/year={year}"));
            std::fs::create_dir_all(&partition).expect("folders");
            write(&partition.join("part-0.parquet"), &orders(keys));
        }
        std::fs::write(files.join("events/_SUCCESS"), "").expect("a file");
        std::fs::write(files.join("notes.parquet"), "no such thing").expect("a file");
        let device = formatted_device(folder.path());
        World {
            worker: Worker::start(&device, &files),
            _folder: folder,
        }
    }

    fn look_up(&self, arguments: &[&str]) -> Outcome {
        let addresses = [
            "--address",
            &self.worker.data,
            "--control",
            &self.worker.control,
        ];
        run(&[&["lookup"], arguments, &addresses].concat())
    }

    /// The rows as JSON.
    fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let outcome = self.look_up(&[arguments, &["--format", "json"]].concat());
        assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
        let rows = outcome.text();
        rows.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    fn refused(&self, arguments: &[&str], code: i32, words: &str) {
        let outcome = self.look_up(arguments);
        assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
        assert!(
            outcome.stdout.is_empty(),
            "{arguments:?}: {}",
            outcome.text()
        );
        let sentence = outcome.stderr.trim_end();
        assert!(sentence.contains(words), "{arguments:?}: {sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

fn orders(numbers: std::ops::Range<i64>) -> RecordBatch {
    let all = || numbers.clone();
    let zips: ArrayRef = Arc::new(Int64Array::from_iter_values(
        all().map(|number| 10_000 + number),
    ));
    let zip = arrow_schema::Field::new("zip", arrow_schema::DataType::Int64, false);
    let columns: [(&str, ArrayRef); 5] = [
        (
            "o_orderkey",
            Arc::new(Int64Array::from_iter_values(
                all().map(|number| number * 10),
            )),
        ),
        (
            "o_orderdate",
            Arc::new(Date32Array::from_iter_values(
                all().map(|number| FIRST_DAY + number as i32),
            )),
        ),
        (
            "o_totalprice",
            Arc::new(Float64Array::from_iter_values(
                all().map(|number| number as f64 / 4.0),
            )),
        ),
        // Every third is NULL.
        (
            "o_clerk",
            Arc::new(StringArray::from_iter(all().map(|number| {
                (number % 3 != 0).then(|| format!("clerk, {number}"))
            }))),
        ),
        (
            "address",
            Arc::new(StructArray::from(vec![(Arc::new(zip), zips)])),
        ),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn write(path: &Path, rows: &RecordBatch) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows.num_rows().div_ceil(GROUPS)))
        .build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).expect("a writer");
    writer.write(rows).expect("rows are written");
    writer.close().expect("a footer is written");
}

#[test]
fn a_row_comes_in_every_format() {
    let world = World::new();
    let line = [
        "/data/orders.parquet",
        "--where",
        "o_orderkey = 40 and o_orderdate >= 1995-01-01",
        "--select",
        "o_clerk,o_orderdate,o_totalprice,address.zip,o_orderkey",
    ];
    let flat = [&line[..4], &["o_clerk,o_orderdate,o_totalprice,o_orderkey"]].concat();
    let formatted = |line: &[&str], format: &str| {
        let outcome = world.look_up(&[line, &["--format", format]].concat());
        assert_eq!(outcome.code, 0, "{format}: {}", outcome.stderr);
        assert!(outcome.stderr.is_empty(), "{format}: {}", outcome.stderr);
        outcome
    };
    assert_eq!(
        formatted(&flat, "table").text(),
        "o_clerk   o_orderdate  o_totalprice  o_orderkey\nclerk, 4  1995-01-05            1.0          40\n"
    );
    assert_eq!(
        formatted(&flat, "csv").text(),
        "o_clerk,o_orderdate,o_totalprice,o_orderkey\n\"clerk, 4\",1995-01-05,1.0,40\n"
    );
    let row = formatted(&line, "json").json();
    assert_eq!(
        row,
        json!({"o_clerk": "clerk, 4", "o_orderdate": "1995-01-05", "o_totalprice": 1.0, "address.zip": 10_004,
            "o_orderkey": 40})
    );
    assert_eq!(
        world.look_up(&[&line[..], &["--json"]].concat()).json(),
        row
    );
    let stream = formatted(&line, "arrow").stdout;
    let batches: Vec<RecordBatch> = StreamReader::try_new(&stream[..], None)
        .and_then(Iterator::collect)
        .expect("an Arrow stream");
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!((rows, batches[0].num_columns()), (1, 5));

    let none = [
        "/data/orders.parquet",
        "--where",
        "o_orderkey = 41",
        "--select",
        "o_clerk",
    ];
    assert_eq!(formatted(&none, "csv").text(), "o_clerk\n");
    assert_eq!(formatted(&none, "table").text(), "o_clerk\n");
    assert_eq!(formatted(&none, "json").text(), "");
    let nulls = [
        "/data/orders.parquet",
        "--where",
        "o_clerk is null",
        "--select",
        "o_clerk",
        "--limit",
        "1",
    ];
    assert_eq!(formatted(&nulls, "table").text(), "o_clerk\nNULL\n");
}

#[test]
fn directories_and_patterns_name_the_files_below_them() {
    let world = World::new();
    let keys = |path: &str, predicate: &str| -> Vec<i64> {
        let rows = world.rows(&[path, "--where", predicate, "--select", "o_orderkey"]);
        rows.iter()
            .map(|row| row["o_orderkey"].as_i64().expect("a key"))
            .collect()
    };
    let all: Vec<i64> = (0..20).map(|number| number * 10).collect();
    assert_eq!(keys("/data/events/", ""), all, "in the order of the paths");
    assert_eq!(keys("s3://data/events/", ""), all);
    assert_eq!(keys("/data/events/year=199?/*", "o_orderkey < 200"), all);
    assert_eq!(keys("/data/*/year=1996/", "o_orderkey >= 190"), [190]);
    assert_eq!(
        keys("/data/events/", "year = 1996 and o_orderkey <= 100"),
        [100]
    );
    let row = world.rows(&[
        "/data/events/",
        "--where",
        "o_orderkey = 50",
        "--select",
        "year,o_orderkey",
    ]);
    assert_eq!(row, [json!({"year": 1995, "o_orderkey": 50})]);
    let twice = world.rows(&[
        "/data/events/",
        "/data/events/year=1995/part-0.parquet",
        "--select",
        "o_orderkey",
    ]);
    assert_eq!(
        twice.len(),
        20,
        "a file that is named twice is looked into once"
    );
}

#[test]
fn a_batch_of_keys_is_answered_in_its_order() {
    let world = World::new();
    let numbers = |key: &str, more: &[&str]| -> Vec<i64> {
        let line = [
            "/data/orders.parquet",
            "--key",
            key,
            "--select",
            "o_orderkey",
        ];
        let rows = world.rows(&[&line, more].concat());
        rows.iter()
            .map(|row| row["o_orderkey"].as_i64().expect("a key"))
            .collect()
    };
    assert_eq!(
        numbers("o_orderkey=9990,70,41,70,0,-5", &[]),
        [9990, 70, 70, 0]
    );
    assert_eq!(
        numbers("o_orderkey=9990,70,41,70,0", &["--limit", "2"]),
        [9990, 70]
    );
    assert_eq!(
        numbers("o_orderkey=9990,70,0", &["--where", "o_orderkey < 100"]),
        [70, 0]
    );
    assert_eq!(
        numbers("o_clerk='clerk, 7','clerk, 4',nobody", &[]),
        [70, 40]
    );
    assert_eq!(numbers("o_orderdate=1995-01-03,1995-01-02", &[]), [20, 10]);
}

#[test]
fn limits_bound_what_is_answered_and_read() {
    let world = World::new();
    let limited = |limit: &str| {
        world
            .rows(&["/data/orders.parquet", "--limit", limit])
            .len()
    };
    assert_eq!(
        (limited("3"), limited("0"), limited("5000")),
        (3, 0, ORDERS as usize)
    );
    world.refused(
        &["/data/orders.parquet", "--scan-bytes-max", "10"],
        1,
        "orders.parquet",
    );
}

#[test]
fn explain_says_what_was_pruned_and_read() {
    let world = World::new();
    let line = [
        "/data/orders.parquet",
        "--where",
        "o_orderkey = 420",
        "--explain",
    ];
    let table = world.look_up(&line);
    assert_eq!((table.code, table.stderr.as_str()), (0, ""));
    let text = table.text();
    let (rows, explained) = text.split_once("\n\n").expect("an empty line between them");
    assert_eq!(rows.lines().count(), 2, "{text}");
    assert!(
        explained.contains("\nrow groups  10: 9 pruned by statistics, 1 searched\n"),
        "{text}"
    );
    assert!(explained.contains("\nrows        1 found\n"), "{text}");
    assert!(
        explained.contains("under-store") || explained.contains("DRAM"),
        "{text}"
    );
    assert!(explained.contains("from request to answer\n"), "{text}");

    let csv = world.look_up(&[&line[..], &["--select", "o_clerk", "--format", "csv"]].concat());
    assert_eq!(csv.text(), "o_clerk\n\"\"\n");
    assert!(
        csv.stderr.contains("9 pruned by statistics"),
        "{}",
        csv.stderr
    );

    let partitions = [
        "/data/events/",
        "--where",
        "year = 1996 and o_orderkey = 110",
    ];
    let outcome = world.look_up(&[&partitions[..], &["--explain", "--json"]].concat());
    let explained: Value = serde_json::from_str(&outcome.stderr).expect("JSON");
    let explained = &explained["explain"];
    assert_eq!(explained["files"], 2, "{explained}");
    assert_eq!(explained["files_pruned_by_partition"], 1, "{explained}");
    assert_eq!(explained["rows_matched"], 1, "{explained}");
    assert!(explained["answer_ns"].as_u64() > Some(0), "{explained}");
}

#[test]
fn mistakes_are_one_sentence_that_says_where() {
    let world = World::new();
    let file = "/data/orders.parquet";
    world.refused(&[file, "--where", "o_key = 1"], 1, "o_key");
    world.refused(&[file, "--select", "nothing"], 1, "nothing");
    world.refused(&[file, "--where", "o_orderkey = 'many'"], 1, "o_orderkey");
    world.refused(&[file, "--key", "o_orderkey=1,many"], 1, "o_orderkey");
    world.refused(&[file, "--where", "o_orderkey = = 1"], 2, "character 14");
    world.refused(&[file, "--key", "o_orderkey"], 2, "COLUMN=KEY");
    world.refused(&[file, "--select", "a,,b"], 2, "--select");
    world.refused(&["data/orders.parquet"], 2, "begins with /");
    world.refused(&["gs://data/orders.parquet"], 2, "corelane mount");
    world.refused(&["/data/none.parquet"], 4, "/data/none.parquet");
    world.refused(&["/data/none/"], 4, "/data/none");
    world.refused(&["/data/orders.*.gz"], 4, ".parquet");
    world.refused(&["/nowhere/x.parquet"], 4, "/nowhere");
    world.refused(&["/data/notes.parquet"], 5, "/data/notes.parquet");
    world.refused(&[file, "--select", "address", "--format", "csv"], 1, "CSV");
    let outcome = world.look_up(&["/data/none.parquet", "--json"]);
    let error: Value = serde_json::from_str(&outcome.stderr).expect("JSON");
    assert_eq!(error["error"]["kind"], "not_found");
}

#[test]
fn too_many_files_are_refused_before_any_is_looked_into() {
    let folder = folder();
    let files = folder.path().join("files");
    std::fs::create_dir_all(files.join("many")).expect("folders");
    for number in 0..1030 {
        File::create(files.join(format!("many/{number}.parquet"))).expect("a file");
    }
    let device = formatted_device(folder.path());
    let world = World {
        worker: Worker::start(&device, &files),
        _folder: folder,
    };
    world.refused(&["/data/many/"], 2, "more than 1024");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let world = World::new();
    let addresses = ["--address", &world.worker.data];
    let mut child = command(&[
        "lookup",
        "/data/orders.parquet",
        "--format",
        "csv",
        "--select",
        "o_clerk",
    ])
    .args(addresses)
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
