//! A table in directories that are named after values, and look-ups in it over both faces. What an answer has
//! to be is worked out of the rows themselves, which no Parquet code has seen.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use corelane_client::Found;
use corelane_client::lookup::predicate::parse::parse;
use corelane_client::lookup::request::LookupRequest;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::harness::{Bed, Http, HttpAnswer, Process};

/// Where the table is.
pub const TABLE: &str = "/data/orders/";

/// Rows of one file.
const FILE_ROWS: i64 = 4000;

/// The directories, in order, with two files each.
const REGIONS: [&str; 3] = ["asia", "eu", "us"];

/// A row of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: i64,
    pub name: Option<String>,
    pub price: f64,
    pub region: String,
}

/// Paths of the files, with their rows.
pub fn files() -> Vec<(String, Vec<Row>)> {
    (0..REGIONS.len() as i64 * 2)
        .map(|file| {
            let region = REGIONS[file as usize / 2];
            let rows = (0..FILE_ROWS).map(|row| {
                let number = file * FILE_ROWS + row;
                Row {
                    // Each once, in no order.
                    key: number * 7919 % (FILE_ROWS * 6),
                    name: (number % 5 != 0).then(|| format!("name, {}", number % 97)),
                    price: number as f64 / 8.0,
                    region: region.to_owned(),
                }
            });
            let path = format!("{TABLE}region={region}/part-{}.parquet", file % 2);
            (path, rows.collect())
        })
        .collect()
}

/// Rows of all files that `wanted` holds for, in order.
pub fn rows_where(wanted: impl Fn(&Row) -> bool) -> Vec<Row> {
    let rows = files().into_iter().flat_map(|(_, rows)| rows);
    rows.filter(wanted).collect()
}

/// Writes the table into the bed's source.
pub fn write_table(bed: &Bed) {
    for (path, rows) in files() {
        let path = bed.path("source").join(&path["/data/".len()..]);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("its directory");
        let rows = rows.iter();
        let keys: ArrayRef = Arc::new(rows.clone().map(|row| row.key).collect::<Int64Array>());
        let names: StringArray = rows.clone().map(|row| row.name.as_deref()).collect();
        let prices: ArrayRef = Arc::new(rows.map(|row| row.price).collect::<Float64Array>());
        let columns = [("key", keys), ("name", Arc::new(names)), ("price", prices)];
        write_file(&path, &columns, FILE_ROWS as usize / 4);
    }
    std::fs::write(bed.path("source/orders/_SUCCESS"), "").expect("a file that is no table");
}

/// Writes one file with row groups of so many rows.
pub fn write_file(path: &Path, columns: &[(&str, ArrayRef)], group_rows: usize) {
    let rows = RecordBatch::try_from_iter_with_nullable(
        columns
            .iter()
            .map(|(name, column)| (*name, Arc::clone(column), true)),
    )
    .expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(500)
        .build();
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).expect("a writer");
    writer.write(&rows).expect("rows are written");
    writer.close().expect("a footer");
}

/// A request for all columns, in the order of [`Row`].
pub fn request(paths: Vec<String>, predicate: &str) -> LookupRequest {
    LookupRequest {
        paths,
        predicate: parse(predicate).expect("a predicate"),
        select: ["key", "name", "price", "region"].map(str::to_owned).into(),
        limit: None,
        scan_bytes_max: None,
        explain: false,
        keys: None,
    }
}

/// The same as JSON, for the whole table.
pub fn json_request(predicate: &str) -> Value {
    json!({ "path": TABLE, "where": predicate, "select": "key,name,price,region" })
}

/// Asks over HTTP.
#[track_caller]
pub fn post(process: &Process, headers: &[&str], request: &Value) -> HttpAnswer {
    let body = request.to_string();
    Http::connect(process.operations)
        .and_then(|mut http| http.ask("POST", "/v1/lookup", headers, body.as_bytes()))
        .unwrap_or_else(|error| panic!("{error}\n{}", process.log()))
}

/// The rows that an Arrow stream of a [`request`] holds.
pub fn rows_of_arrow(stream: Vec<u8>) -> Vec<Row> {
    let found = Found {
        rows: 0,
        stream: stream.into(),
        counts: None,
    };
    let (_, batches) = found.batches().expect("an Arrow stream");
    batches.iter().flat_map(rows_of_batch).collect()
}

fn rows_of_batch(batch: &RecordBatch) -> Vec<Row> {
    fn column<T: Clone + 'static>(batch: &RecordBatch, at: usize) -> T {
        let column = batch.column(at).as_any().downcast_ref::<T>();
        let column = column.unwrap_or_else(|| panic!("{:?}", batch.schema()));
        column.clone()
    }
    let keys: Int64Array = column(batch, 0);
    let names: StringArray = column(batch, 1);
    let prices: Float64Array = column(batch, 2);
    let regions: StringArray = column(batch, 3);
    (0..batch.num_rows())
        .map(|row| Row {
            key: keys.value(row),
            name: (!names.is_null(row)).then(|| names.value(row).to_owned()),
            price: prices.value(row),
            region: regions.value(row).to_owned(),
        })
        .collect()
}

/// The rows of JSON lines.
pub fn rows_of_json(text: &str) -> Vec<Row> {
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(row.as_object().expect("an object").len(), 4, "{line}");
            Row {
                key: row["key"].as_i64().expect("an integer"),
                name: row["name"].as_str().map(str::to_owned),
                price: row["price"].as_f64().expect("a number"),
                region: row["region"].as_str().expect("text").to_owned(),
            }
        })
        .collect()
}

/// The rows of CSV, in which names have commas and are quoted therefore.
pub fn rows_of_csv(text: &str) -> Vec<Row> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("key,name,price,region"));
    lines
        .map(|line| {
            let (key, rest) = line.split_once(',').expect("a key");
            let (name, rest) = match rest.strip_prefix('"') {
                Some(rest) => rest.split_once("\",").expect("the end of a name"),
                None => rest.split_once(',').expect("an empty name"),
            };
            let (price, region) = rest.split_once(',').expect("a price");
            Row {
                key: key.parse().expect("an integer"),
                name: (!name.is_empty()).then(|| name.to_owned()),
                price: price.parse().expect("a number"),
                region: region.to_owned(),
            }
        })
        .collect()
}
