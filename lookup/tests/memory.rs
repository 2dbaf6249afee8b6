//! What look-ups hold is bounded, whatever a file says: some KiB may claim gigabytes in every place that names a
//! size or a count. Each test compares the account of a look-up and the memory of the process with the limit.

use std::cell::RefCell;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, MapBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use corelane_lookup::answer::Format;
use corelane_lookup::cache::Cache;
use corelane_lookup::error::{ErrorKind, LookupError};
use corelane_lookup::execute::plan::Plan;
use corelane_lookup::execute::{Found, Limits, Search};
use corelane_lookup::file::footer;
use corelane_lookup::host::InMemory;
use corelane_lookup::memory::{Account, Pool};
use corelane_lookup::predicate::parse::parse;
use corelane_lookup::set::{FileAnswer, SetPlan, path_values};
use futures::executor::block_on;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// What a look-up may hold here.
const LIMIT: u64 = 48 << 20;

/// What the process may take beyond it: what the allocator keeps, stacks, tables of decoders.
const SLACK: u64 = 24 << 20;

/// Bytes that answers may have.
const ANSWER: usize = 16 << 20;

fn of_status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes
        .expect("a number")
        .parse::<u64>()
        .expect("a number")
        << 10
}

/// The largest amount that the process took beyond what it had before `work`.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    // Forgets the peak of before.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let before = of_status("VmRSS:");
    let done = work();
    (done, of_status("VmHWM:").saturating_sub(before))
}

struct Outcome {
    found: Result<Found, LookupError>,
    charged: u64,
}

/// Looks up rows of a file, and asserts that this stays within the limit.
#[track_caller]
fn look_up(file: &Bytes, text: &str, select: &[&str], what: &str) -> Outcome {
    let account = Account::new(&Pool::new(LIMIT), LIMIT);
    let host = InMemory::new(file.clone()).with_memory(account.clone());
    let limits = Limits {
        rows: None,
        scan_bytes: u64::MAX,
        answer_bytes: ANSWER,
    };
    let (found, taken) = peak_of(|| {
        let cache = RefCell::new(Cache::new(4 << 20, 1));
        block_on(async {
            let opened = footer::open(&host, "bomb.parquet", file.len() as u64).await?;
            let select: Vec<String> = select.iter().map(|name| (*name).to_owned()).collect();
            let plan = Plan::new(&opened, &parse(text)?, &select)?;
            Search::new(&host, &opened, &cache, limits)
                .run(&plan, &[])
                .await
        })
    });
    assert!(account.peak_bytes() <= LIMIT, "{what}");
    assert!(taken <= LIMIT + SLACK, "{what}: {} MiB", taken >> 20);
    if found.is_err() {
        assert_eq!(account.held_bytes(), 0, "{what}: all of it was given back");
    }
    Outcome {
        found,
        charged: account.peak_bytes(),
    }
}

#[track_caller]
fn assert_refused(outcome: Outcome, column: &str, what: &str) {
    let error = outcome
        .found
        .err()
        .unwrap_or_else(|| panic!("{what}: it was answered"));
    let is_limit = matches!(error.kind, ErrorKind::TooMuch | ErrorKind::Unsupported);
    assert!(is_limit, "{what}: {error}");
    assert!(error.message.contains("bomb.parquet"), "{what}: {error}");
    assert!(error.message.contains(column), "{what}: {error}");
}

fn written(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Bytes {
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties.build()))
        .expect("a writer");
    writer.write(batch).expect("it is written");
    writer.close().expect("it is closed");
    file.into()
}

fn plain(codec: Compression) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(codec)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
}

fn codecs() -> [Compression; 6] {
    [
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4_RAW,
        Compression::LZ4,
        Compression::SNAPPY,
    ]
}

fn keys(rows: usize) -> ArrayRef {
    Arc::new((0..rows as i64).collect::<Int64Array>())
}

fn table(column: ArrayRef) -> RecordBatch {
    let key = keys(column.len());
    RecordBatch::try_from_iter([("k", key), ("l", column)]).expect("columns")
}

/// Lists, a map and a structure of texts, each of `rows` rows with a text of `bytes` bytes.
fn nested(rows: usize, bytes: usize) -> Vec<(&'static str, ArrayRef)> {
    let text = "a".repeat(bytes);
    let mut lists = ListBuilder::new(StringBuilder::new());
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    let mut deep = ListBuilder::new(ListBuilder::new(ListBuilder::new(StringBuilder::new())));
    for _ in 0..rows {
        lists.values().append_value(&text);
        lists.append(true);
        maps.keys().append_value("key");
        maps.values().append_value(&text);
        maps.append(true).expect("a value for each key");
        deep.values().values().values().append_value(&text);
        deep.values().values().append(true);
        deep.values().append(true);
        deep.append(true);
    }
    let texts: ArrayRef = Arc::new(StringArray::from(vec![text.as_str(); rows]));
    let fields: Fields = vec![Field::new("t", DataType::Utf8, true)].into();
    let structure = StructArray::new(fields, vec![texts], None);
    vec![
        ("list", Arc::new(lists.finish()) as ArrayRef),
        ("map", Arc::new(maps.finish())),
        ("deep list", Arc::new(deep.finish())),
        ("structure", Arc::new(structure)),
    ]
}

#[test]
fn nested_columns_that_inflate_are_refused_for_every_codec() {
    for codec in codecs() {
        for (kind, column) in nested(12, 12 << 20) {
            let file = written(&table(column), plain(codec));
            assert!(
                file.len() < 16 << 20,
                "{kind}, {codec}: {} bytes",
                file.len()
            );
            let what = format!("{kind}, {codec}");
            let outcome = look_up(&file, "k >= 0", &["l"], &what);
            assert_refused(outcome, "", &what);
        }
    }
}

#[test]
fn one_row_of_a_column_that_inflates_is_answered_where_the_row_fits() {
    for offsets in [true, false] {
        for (kind, column) in nested(40, 2 << 20) {
            let properties = plain(Compression::ZSTD(Default::default()))
                .set_offset_index_disabled(!offsets)
                .set_data_page_row_count_limit(1)
                .set_write_batch_size(1);
            let file = written(&table(column), properties);
            let what = format!("{kind}, offsets {offsets}");
            let outcome = look_up(&file, "k = 37", &["l"], &what);
            let found = outcome
                .found
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let rows: usize = found.batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, 1, "{what}");
            assert!(outcome.charged > 2 << 20, "{what}: {}", outcome.charged);
        }
    }
}

#[test]
fn flat_columns_that_inflate_are_refused_or_looked_at_page_by_page() {
    for codec in codecs() {
        let text = "a".repeat(12 << 20);
        let column: ArrayRef = Arc::new(StringArray::from(vec![text.as_str(); 12]));
        let properties = plain(codec)
            .set_data_page_row_count_limit(1)
            .set_write_batch_size(1);
        let file = written(&table(column), properties);
        let what = format!("flat, {codec}");
        // A scan holds a page or two of the predicate's column at a time.
        let outcome = look_up(&file, "l = 'b'", &["k"], &what);
        let found = outcome
            .found
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.batches.is_empty(), "{what}");
        assert!(outcome.charged > 12 << 20, "{what}");
        assert_refused(look_up(&file, "k >= 0", &["l"], &what), "", &what);
    }
}

#[test]
fn a_long_text_of_a_dictionary_in_every_row_of_a_list_is_refused() {
    let text = "a".repeat(1 << 20);
    let mut lists = ListBuilder::new(StringBuilder::new());
    for _ in 0..300 {
        lists.values().append_value(&text);
        lists.append(true);
    }
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_dictionary_page_size_limit(16 << 20)
        .set_statistics_enabled(EnabledStatistics::None);
    let file = written(&table(Arc::new(lists.finish())), properties);
    assert!(file.len() < 1 << 20, "{} bytes", file.len());
    let what = "codes of a long text";
    assert_refused(look_up(&file, "k >= 0", &["l"], what), "", what);
    // Fewer than are in a page are refused as well, since a page is expanded whole; nothing else is.
    let outcome = look_up(&file, "k < 4", &["k"], what);
    assert!(outcome.found.is_ok(), "{:?}", outcome.found.err());
}

#[test]
fn prefixes_that_repeat_and_pages_of_equal_numbers_are_bounded() {
    // Each value is the one before and a byte more: half the square of their number.
    let texts: Vec<String> = (0..20_000).map(|length| "a".repeat(length)).collect();
    let column: ArrayRef = Arc::new(StringArray::from(texts));
    let properties = plain(Compression::UNCOMPRESSED)
        .set_column_encoding(ColumnPath::from("l"), Encoding::DELTA_BYTE_ARRAY)
        .set_data_page_size_limit(1 << 30)
        .set_data_page_row_count_limit(usize::MAX);
    let file = written(&table(column), properties);
    assert!(file.len() < 1 << 20, "{} bytes", file.len());
    for (text, select) in [("l = 'b'", "k"), ("k >= 0", "l")] {
        let what = "prefixes";
        assert_refused(look_up(&file, text, &[select], what), "column l", what);
    }
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7; 8 << 20]));
    let properties = plain(Compression::UNCOMPRESSED)
        .set_column_encoding(ColumnPath::from("l"), Encoding::DELTA_BINARY_PACKED)
        .set_data_page_size_limit(1 << 30)
        .set_data_page_row_count_limit(usize::MAX)
        .set_max_row_group_row_count(None);
    let file = written(&table(numbers), properties);
    let what = "equal numbers";
    assert_refused(look_up(&file, "l = 8", &["l"], what), "column l", what);
}

#[test]
fn a_scan_that_finds_every_other_row_and_one_of_rows_without_end_are_bounded() {
    // Four million rows of which half match: a bit each in the file.
    let flags: ArrayRef = Arc::new(
        (0..4i64 << 20)
            .map(|row| Some(row % 2))
            .collect::<Int64Array>(),
    );
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_max_row_group_row_count(None);
    let file = written(&table(flags), properties);
    let what = "every other row";
    let outcome = look_up(&file, "l = 1", &["l"], what);
    let error = outcome.found.expect_err("too many rows for the answer");
    assert_eq!(error.kind, ErrorKind::TooMuch, "{error}");
}

#[test]
fn values_of_a_path_in_every_row_count() {
    let file = written(&table(keys(200_000)), plain(Compression::SNAPPY));
    let outcome = look_up(&file, "k >= 0", &["k"], "a column");
    let found = outcome.found.expect("numbers fit");
    let long = "v".repeat(900);
    let path = format!("/lake/p={long}/file.parquet");
    let select = ["k".to_owned(), "p".to_owned()];
    let predicate = parse("").expect("valid");
    let plan = SetPlan::new(vec![path_values("", &path)], &predicate, &select).expect("valid");
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
    let answers = [(
        0,
        FileAnswer {
            schema,
            batches: found.batches,
            ordinals: Vec::new(),
            missing: Vec::new(),
            counts: found.counts,
            memory: None,
        },
    )];
    let account = Account::new(&Pool::new(LIMIT), LIMIT);
    let (merged, taken) = peak_of(|| plan.merge(&answers, None, ANSWER, &account).map(drop));
    assert_eq!(merged.expect_err("180 MB").kind, ErrorKind::TooMuch);
    assert!(taken <= LIMIT + SLACK, "{} MiB", taken >> 20);
    let few = plan
        .merge(&answers, Some(1_000), ANSWER, &account)
        .expect("a MB");
    assert!(few.memory.bytes() > 900_000);
}

#[test]
fn text_of_an_answer_is_charged_while_it_grows() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["\u{1}".repeat(1_000); 8_000]));
    let batch = table(texts);
    for format in [Format::JsonLines, Format::Csv, Format::ArrowIpc] {
        let account = Account::new(&Pool::new(LIMIT), 4 << 20);
        let mut memory = account.empty();
        let mut out = Vec::new();
        let written = format.write_within(
            usize::MAX,
            &batch.schema(),
            std::slice::from_ref(&batch),
            &mut out,
            Some(&mut memory),
        );
        assert_eq!(
            written.expect_err("8 MB").kind,
            ErrorKind::TooMuch,
            "{format:?}"
        );
        assert!(out.capacity() as u64 <= 4 << 20, "{format:?}");
    }
}

/// Thrift's compact protocol, as far as a footer and headers of pages need it.
#[derive(Default)]
struct Thrift {
    bytes: Vec<u8>,
    last: Vec<i16>,
}

impl Thrift {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn field(&mut self, number: i16, kind: u8) {
        if self.last.is_empty() {
            self.last.push(0);
        }
        let last = self.last.last_mut().expect("a structure");
        self.bytes.push(((number - *last) as u8) << 4 | kind);
        *last = number;
    }

    fn integer(mut self, number: i16, value: i64) -> Self {
        self.field(number, 6);
        self.varint(((value << 1) ^ (value >> 63)) as u64);
        self
    }

    /// As [`Thrift::integer`], of 32 bits.
    fn int32(mut self, number: i16, value: i64) -> Self {
        self.field(number, 5);
        self.varint(((value << 1) ^ (value >> 63)) as u64);
        self
    }

    fn binary(mut self, number: i16, value: &[u8]) -> Self {
        self.field(number, 8);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    fn structure(mut self, number: i16, inner: Thrift) -> Self {
        self.field(number, 12);
        self.bytes.extend(inner.stopped());
        self
    }

    fn list(mut self, number: i16, kind: u8, items: Vec<Vec<u8>>) -> Self {
        self.field(number, 9);
        self.bytes.push(0xf0 | kind);
        self.varint(items.len() as u64);
        items.into_iter().for_each(|item| self.bytes.extend(item));
        self
    }

    fn stopped(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

/// A column chunk and what the footer says of it.
struct Made {
    /// Its pages.
    chunk: Vec<u8>,
    /// Rows of the row group, and values of the chunk.
    rows: i64,
    /// 0: none; 6: zstd.
    codec: i64,
    is_list: bool,
    /// Beyond the chunk: bytes, and which field of the chunk says where they are.
    indexes: Vec<(Vec<u8>, i16)>,
    bloom: Option<Vec<u8>>,
}

impl Made {
    fn of(chunk: Vec<u8>, rows: i64) -> Self {
        Made {
            chunk,
            rows,
            codec: 0,
            is_list: false,
            indexes: Vec::new(),
            bloom: None,
        }
    }

    /// Two pages of 40 NULLs and an offset index, so many rows that indexes and filters are asked.
    fn of_two_pages() -> Self {
        let body = levels(&[80, 0]);
        let one = page(40, body.len(), &body, None);
        let location = |number: i64| {
            Thrift::default()
                .integer(1, 4 + number * one.len() as i64)
                .int32(2, one.len() as i64)
                .integer(3, 40 * number)
                .stopped()
        };
        let offsets = Thrift::default().list(1, 12, vec![location(0), location(1)]);
        Made {
            indexes: vec![(offsets.stopped(), 4)],
            ..Made::of([one.clone(), one.clone()].concat(), 80)
        }
    }

    fn with_column_index(mut self, index: &[u8]) -> Self {
        self.indexes.push((index.to_vec(), 6));
        self
    }

    /// A file with the one column `l` of 32-bit integers, optional or repeated.
    fn file(self) -> Bytes {
        let mut file = b"PAR1".to_vec();
        let (start, length) = (file.len() as i64, self.chunk.len() as i64);
        file.extend(self.chunk);
        let (repetition, name) = (if self.is_list { 2 } else { 1 }, b"l");
        let root = Thrift::default().binary(4, b"root").int32(5, 1).stopped();
        let column = Thrift::default()
            .int32(1, 1)
            .int32(3, repetition)
            .binary(4, name);
        let mut meta = Thrift::default()
            .int32(1, 1)
            .list(2, 5, vec![vec![0]])
            .list(3, 8, vec![vec![1, b'l']])
            .int32(4, self.codec)
            .integer(5, self.rows)
            .integer(6, length)
            .integer(7, length)
            .integer(9, start);
        if let Some(bloom) = self.bloom {
            meta = meta.integer(14, file.len() as i64);
            file.extend(bloom);
        }
        let mut chunk = Thrift::default().integer(2, start).structure(3, meta);
        for (index, field) in self.indexes {
            let (at, length) = (file.len() as i64, index.len() as i64);
            chunk = chunk.integer(field, at).int32(field + 1, length);
            file.extend(index);
        }
        let group = Thrift::default()
            .list(1, 12, vec![chunk.stopped()])
            .integer(2, length)
            .integer(3, self.rows)
            .stopped();
        let footer = Thrift::default()
            .int32(1, 1)
            .list(2, 12, vec![root, column.stopped()])
            .integer(3, self.rows)
            .list(4, 12, vec![group])
            .stopped();
        file.extend_from_slice(&footer);
        file.extend((footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        file.into()
    }
}

/// A data page of version 1.
fn page(values: i64, uncompressed: usize, body: &[u8], statistics: Option<Thrift>) -> Vec<u8> {
    let mut data = Thrift::default()
        .int32(1, values)
        .int32(2, 0)
        .int32(3, 3)
        .int32(4, 3);
    if let Some(statistics) = statistics {
        data = data.structure(5, statistics);
    }
    let header = Thrift::default()
        .int32(1, 0)
        .int32(2, uncompressed as i64)
        .int32(3, body.len() as i64)
        .structure(5, data);
    let mut page = header.stopped();
    page.extend_from_slice(body);
    page
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).expect("it is compressed")
}

/// Levels as a page of version 1 has them.
fn levels(runs: &[u8]) -> Vec<u8> {
    let mut levels = (runs.len() as u32).to_le_bytes().to_vec();
    levels.extend_from_slice(runs);
    levels
}

#[test]
fn made_files_are_read() {
    // Three NULLs.
    let body = levels(&[6, 0]);
    let file = Made::of(page(3, body.len(), &body, None), 3).file();
    let outcome = look_up(&file, "l is null", &["l"], "a sound file");
    let found = outcome.found.expect("it is sound");
    assert_eq!(found.batches[0].num_rows(), 3);
}

#[test]
fn pages_that_say_they_are_large_are_refused_before_they_are() {
    for (codec, name) in [
        (1, "snappy"),
        (2, "gzip"),
        (4, "brotli"),
        (5, "lz4"),
        (6, "zstd"),
        (7, "lz4_raw"),
    ] {
        for is_list in [false, true] {
            let mut made = Made::of(page(1_000, 250 << 20, &[1; 64], None), 1_000);
            (made.codec, made.is_list) = (codec, is_list);
            let what = format!("{name}, list {is_list}");
            let outcome = look_up(&made.file(), "", &["l"], &what);
            assert!(outcome.charged < 8 << 20, "{what}: {}", outcome.charged);
            assert_refused(outcome, "column l, row group 0", &what);
        }
    }
}

#[test]
fn runs_of_one_value_and_of_two_billion_are_bounded() {
    // Twenty million runs of one level each: twelve bytes for two.
    let body = levels(&[2, 0].repeat(20 << 20));
    let made = Made {
        codec: 6,
        ..Made::of(page(20 << 20, body.len(), &zstd(&body), None), 20 << 20)
    };
    let outcome = look_up(&made.file(), "l is null", &["l"], "short runs");
    assert_refused(outcome, "column l, row group 0", "short runs");
    for is_list in [false, true] {
        // One run of all.
        for values in [1i64 << 26, i64::from(i32::MAX)] {
            let mut runs = Thrift::default();
            runs.varint((values as u64) << 1);
            runs.bytes.push(0);
            let mut body = levels(&runs.bytes);
            if is_list {
                body.extend(body.clone());
            }
            let mut made = Made::of(page(values, body.len(), &body, None), values);
            made.is_list = is_list;
            let file = made.file();
            let what = format!("{values} values, list {is_list}");
            let _ = look_up(&file, "", &["l"], &what);
            if !is_list {
                let _ = look_up(&file, "l is null", &[], &what);
                let _ = look_up(&file, "l = 1", &["l"], &what);
            }
        }
    }
}

#[test]
fn statistics_of_page_headers_count() {
    let long = vec![b'z'; 900 << 10];
    let body = levels(&[2, 0]);
    let pages = (0..80).flat_map(|_| {
        let statistics = Thrift::default().binary(5, &long).binary(6, &long[..10]);
        page(1, body.len(), &body, Some(statistics))
    });
    let file = Made::of(pages.collect(), 80).file();
    let outcome = look_up(&file, "l = 1", &["l"], "statistics");
    assert_refused(outcome, "column l, row group 0", "statistics");
}

#[test]
fn headers_count_as_bytes_that_are_read() {
    let body = levels(&[2, 0]);
    let pages = (0..1_000).flat_map(|_| page(1, body.len(), &body, None));
    let file = Made::of(pages.collect(), 1_000).file();
    let host = InMemory::new(file.clone());
    let cache = RefCell::new(Cache::new(1 << 20, 1));
    let limits = Limits {
        rows: None,
        scan_bytes: 100 << 10,
        answer_bytes: ANSWER,
    };
    let error = block_on(async {
        let opened = footer::open(&host, "bomb.parquet", file.len() as u64).await?;
        let plan = Plan::new(&opened, &parse("l = 1")?, &[])?;
        Search::new(&host, &opened, &cache, limits)
            .run(&plan, &[])
            .await
    });
    let error = error.expect_err("a header is read with 4 KiB of what follows");
    assert_eq!(error.kind, ErrorKind::TooMuch, "{error}");
}

#[test]
fn indexes_and_filters_that_say_they_are_large_are_as_good_as_none() {
    let body = levels(&[6, 0]);
    let huge = vec![0; 200 << 20];
    // Field 4: the offset index; field 6: the column index. A filter says its length in its header.
    let filter = Thrift::default().int32(1, 200 << 20).stopped();
    for (what, made) in [
        (
            "offset index",
            Made {
                indexes: vec![(huge.clone(), 4)],
                ..Made::of(page(3, body.len(), &body, None), 3)
            },
        ),
        (
            "column index",
            Made::of_two_pages().with_column_index(&huge),
        ),
        (
            "filter",
            Made {
                bloom: Some([filter, huge].concat()),
                ..Made::of_two_pages()
            },
        ),
    ] {
        let outcome = look_up(&made.file(), "l = 7", &["l"], what);
        let found = outcome
            .found
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.batches.is_empty());
    }
}

#[test]
fn lists_in_page_indexes_that_say_they_are_long_cost_nothing() {
    let body = levels(&[6, 0]);
    // A list of 2^31 structures.
    let index = vec![0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0, 0];
    let made = Made {
        indexes: vec![(index, 4)],
        ..Made::of(page(3, body.len(), &body, None), 3)
    };
    let outcome = look_up(&made.file(), "l is null", &["l"], "a long list");
    assert!(outcome.found.is_ok(), "the headers say the same");

    let pruned = |index: &[u8], what: &str| {
        let file = Made::of_two_pages().with_column_index(index).file();
        let outcome = look_up(&file, "l = 7", &["l"], what);
        let found = outcome
            .found
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.batches.is_empty(), "{what}");
        found.counts.pages_pruned
    };
    let both = |item: &[u8]| vec![item.to_vec(), item.to_vec()];
    let right = Thrift::default()
        .list(1, 1, both(&[1]))
        .list(2, 8, both(&[0]))
        .list(3, 8, both(&[0]))
        .int32(4, 1)
        .list(5, 6, both(&[80]));
    assert_eq!(pruned(&right.stopped(), "a right index"), 2);
    let most = [[0xff; 9].as_slice(), &[1]].concat();
    let many = [[0xff; 8].as_slice(), &[0x7f]].concat();
    for (what, index) in [
        (
            "2^31 booleans",
            vec![0x19, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0, 0],
        ),
        (
            "one and 2^64 - 1",
            [&[0x19, 0x11, 1, 0x19, 0xf8][..], &most].concat(),
        ),
        (
            "a map of 2^63 booleans",
            [&[0x1b][..], &many, &[0x11]].concat(),
        ),
    ] {
        assert_eq!(pruned(&index, what), 0, "{what}");
    }
}

#[test]
fn maps_in_page_headers_that_say_they_are_long_end() {
    let many = [[0xff; 8].as_slice(), &[0x7f]].concat();
    let header = [&[0x1b][..], &many, &[0x11], &[0; 100]].concat();
    let outcome = look_up(&Made::of(header, 3).file(), "l = 7", &["l"], "a map");
    assert!(outcome.found.is_err(), "it is no header");
}

#[test]
fn footers_of_many_columns_are_charged() {
    // A million columns of eight bytes each, in no row group.
    let columns = 600_000;
    let root = Thrift::default()
        .binary(4, b"root")
        .int32(5, columns)
        .stopped();
    let column = Thrift::default()
        .int32(1, 1)
        .int32(3, 1)
        .binary(4, b"l")
        .stopped();
    let mut schema = vec![root];
    schema.resize(columns as usize + 1, column);
    let footer = Thrift::default()
        .int32(1, 1)
        .list(2, 12, schema)
        .integer(3, 0)
        .list(4, 12, Vec::new())
        .stopped();
    let mut file = b"PAR1".to_vec();
    file.extend_from_slice(&footer);
    file.extend((footer.len() as u32).to_le_bytes());
    file.extend(b"PAR1");
    let outcome = look_up(&file.into(), "", &[], "many columns");
    let error = outcome.found.expect_err("too many");
    assert_eq!(error.kind, ErrorKind::TooMuch, "{error}");
}

#[test]
fn what_is_kept_of_pages_is_no_more_than_is_counted() {
    // One value, in a page of 12 MiB: what is kept of it keeps the page.
    let mut body = levels(&[2, 1]);
    body.resize(3 << 20, 0);
    let pages = (0..60).flat_map(|_| page(1, body.len(), &body, None));
    let file = Made::of(pages.collect(), 60).file();
    let account = Account::default();
    let compressed = InMemory::new(file.clone()).with_memory(account);
    let cache = RefCell::new(Cache::new(16 << 20, 1));
    let limits = Limits {
        rows: None,
        scan_bytes: u64::MAX,
        answer_bytes: ANSWER,
    };
    block_on(async {
        let opened = footer::open(&compressed, "bomb.parquet", file.len() as u64).await?;
        let plan = Plan::new(&opened, &parse("l = 0")?, &[])?;
        Search::new(&compressed, &opened, &cache, limits)
            .run(&plan, &[])
            .await
    })
    .expect("sixty values");
    let cache = cache.into_inner();
    assert!(cache.len() <= 5, "{} pages of 3 MiB in 16 MiB", cache.len());
    assert!(!cache.is_empty());
}
