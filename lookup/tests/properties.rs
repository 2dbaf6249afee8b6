//! What a look-up promises, on files of every kind that this crate's writer can make: the rows are those
//! of a scan, whatever is pruned, cached or indexed; and no bytes make it panic.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use corelane_lookup::cache::Cache;
use corelane_lookup::error::{ErrorKind, LookupError, Result};
use corelane_lookup::execute::plan::Plan;
use corelane_lookup::execute::{Found, Limits, Search};
use corelane_lookup::file::columns::chunk_range;
use corelane_lookup::file::footer;
use corelane_lookup::host::InMemory;
use corelane_lookup::key_index::KeyIndex;
use corelane_lookup::predicate::Literal;
use corelane_lookup::predicate::parse::parse;
use futures::executor::block_on;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    rows: None,
    scan_bytes: u64::MAX,
    answer_bytes: usize::MAX,
};

fn look_up(file: &Bytes, text: &str, select: &[&str], indexed: &[&str]) -> Result<Found> {
    let host = InMemory::new(file.clone());
    let cache = RefCell::new(Cache::new(64 << 10, 1));
    block_on(async {
        let opened = footer::open(&host, "test.parquet", file.len() as u64).await?;
        let select: Vec<String> = select.iter().map(|name| (*name).to_owned()).collect();
        let plan = Plan::new(&opened, &parse(text)?, &select)?;
        let mut indexes = Vec::new();
        for name in indexed {
            // A damaged file may have lost it.
            let Some(column) = opened.column(name)?.cloned() else {
                continue;
            };
            let search = Search::new(&host, &opened, &cache, LIMITS);
            let bytes = search.build_key_index(&column).await?;
            indexes.push((column.leaf, Rc::new(KeyIndex::open(bytes.into())?)));
        }
        Search::new(&host, &opened, &cache, LIMITS)
            .run(&plan, &indexes)
            .await
    })
}

/// A row: number, text, float, values of a list.
type Row = (Option<i64>, Option<String>, Option<f64>, Vec<i64>);

fn batch_of(rows: &[Row]) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>());
    let texts: ArrayRef = Arc::new(
        rows.iter()
            .map(|row| row.1.clone())
            .collect::<StringArray>(),
    );
    let floats: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>());
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(
        rows.iter()
            .map(|row| Some(row.3.iter().map(|value| Some(*value)).collect::<Vec<_>>())),
    );
    let inner: Fields = vec![Field::new("text", DataType::Utf8, true)].into();
    let nested = StructArray::new(inner.clone(), vec![Arc::clone(&texts)], None);
    let fields = vec![
        Field::new("number", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("float", DataType::Float64, true),
        Field::new("list", lists.data_type().clone(), true),
        Field::new("nested", DataType::Struct(inner), true),
    ];
    let columns = vec![numbers, texts, floats, Arc::new(lists), Arc::new(nested)];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns fit")
}

fn written(rows: &[Row], properties: WriterProperties) -> Bytes {
    let batch = batch_of(rows);
    let mut file = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("it is written");
    writer.close().expect("it is closed");
    file.into()
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let number = prop_oneof![1 => Just(None), 6 => (-30i64..30).prop_map(Some)];
    let text = prop_oneof![1 => Just(None), 6 => "[a-c]{0,3}".prop_map(Some)];
    let float = prop_oneof![
        1 => Just(None),
        1 => Just(Some(f64::NAN)),
        1 => Just(Some(-0.0)),
        5 => (-4i32..4).prop_map(|value| Some(f64::from(value) / 2.0)),
    ];
    let list = proptest::collection::vec(any::<i64>(), 0..3);
    proptest::collection::vec((number, text, float, list), 1..300)
}

fn properties() -> impl Strategy<Value = WriterProperties> {
    let codec = prop_oneof![
        Just(Compression::UNCOMPRESSED),
        Just(Compression::SNAPPY),
        Just(Compression::LZ4_RAW),
        Just(Compression::ZSTD(Default::default())),
        Just(Compression::GZIP(Default::default())),
        Just(Compression::BROTLI(Default::default())),
    ];
    let statistics = prop_oneof![
        Just(EnabledStatistics::None),
        Just(EnabledStatistics::Chunk),
        Just(EnabledStatistics::Page),
    ];
    (
        codec,
        statistics,
        any::<[bool; 4]>(),
        1usize..100,
        prop_oneof![Just(64usize), Just(1 << 20)],
        0u8..3,
    )
        .prop_map(
            |(codec, statistics, switches, page_rows, dictionary_bytes, encoding)| {
                let [dictionary, version_2, bloom, no_offsets] = switches;
                let version = if version_2 {
                    WriterVersion::PARQUET_2_0
                } else {
                    WriterVersion::PARQUET_1_0
                };
                let mut builder = WriterProperties::builder()
                    .set_compression(codec)
                    .set_statistics_enabled(statistics)
                    .set_dictionary_enabled(dictionary)
                    .set_dictionary_page_size_limit(dictionary_bytes)
                    .set_writer_version(version)
                    .set_bloom_filter_enabled(bloom)
                    .set_offset_index_disabled(no_offsets && statistics != EnabledStatistics::Page)
                    .set_write_batch_size(8)
                    .set_data_page_row_count_limit(page_rows)
                    .set_max_row_group_row_count(Some(90));
                if encoding == 1 && !dictionary {
                    builder = builder
                        .set_column_encoding(
                            ColumnPath::from("number"),
                            Encoding::DELTA_BINARY_PACKED,
                        )
                        .set_column_encoding(ColumnPath::from("text"), Encoding::DELTA_BYTE_ARRAY)
                        .set_column_encoding(
                            ColumnPath::from("float"),
                            Encoding::BYTE_STREAM_SPLIT,
                        );
                }
                builder.build()
            },
        )
}

/// Whether a row matches, with the number and the text of the predicate.
type Meaning = fn(&Row, i64, &str) -> bool;

/// A predicate's text, and what it means.
fn predicate() -> impl Strategy<Value = (String, Meaning, i64, String)> {
    let shapes: Vec<(&'static str, Meaning)> = vec![
        ("number = {n}", |row, n, _| row.0 == Some(n)),
        ("number <> {n}", |row, n, _| {
            row.0.is_some_and(|own| own != n)
        }),
        ("number < {n}", |row, n, _| row.0.is_some_and(|own| own < n)),
        ("number >= {n}.5", |row, n, _| {
            row.0.is_some_and(|own| {
                own as f64
                    >= if n < 0 {
                        n as f64 - 0.5
                    } else {
                        n as f64 + 0.5
                    }
            })
        }),
        ("number in ({n}, 7, 400)", |row, n, _| {
            row.0.is_some_and(|own| own == n || own == 7)
        }),
        ("number is null", |row, _, _| row.0.is_none()),
        ("text = '{t}'", |row, _, t| row.1.as_deref() == Some(t)),
        ("text like '{t}%'", |row, _, t| {
            row.1.as_ref().is_some_and(|own| own.starts_with(t))
        }),
        ("nested.text > '{t}' and number is not null", |row, _, t| {
            row.0.is_some() && row.1.as_deref().is_some_and(|own| own > t)
        }),
        ("float > 0.5", |row, _, _| {
            row.2.is_some_and(|own| own > 0.5)
        }),
        ("float = 0", |row, _, _| row.2 == Some(0.0)),
        ("float <> 1", |row, _, _| {
            row.2.is_some_and(|own| own != 1.0)
        }),
        ("text = '{t}' or number between -2 and {n}", |row, n, t| {
            row.1.as_deref() == Some(t) || row.0.is_some_and(|own| -2 <= own && own <= n)
        }),
    ];
    (proptest::sample::select(shapes), -32i64..32, "[a-c]{0,2}").prop_map(
        |((shape, holds), number, text)| {
            let written = shape
                .replace("{n}", &number.to_string())
                .replace("{t}", &text);
            (written, holds, number, text)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn rows_are_those_of_a_scan(
        rows in rows(),
        properties in properties(),
        (text, holds, number, prefix) in predicate(),
    ) {
        let file = written(&rows, properties);
        let expected: Vec<&Row> = rows.iter().filter(|row| holds(row, number, &prefix)).collect();
        for indexed in [&[][..], &["number", "text", "float", "nested.text"][..]] {
            let select = ["number", "list", "nested.text", "float", "nested"];
            let found = look_up(&file, &text, &select, indexed).expect("an answer");
            let mut at = 0;
            for batch in &found.batches {
                let numbers = batch.column(0).as_primitive::<Int64Type>();
                let lists = batch.column(1).as_list::<i32>();
                let texts = batch.column(2).as_string::<i32>();
                let floats = batch.column(3).as_primitive::<Float64Type>();
                let nested = batch.column(4).as_struct().column(0).as_string::<i32>();
                for row in 0..batch.num_rows() {
                    let own = expected.get(at).expect("no row too many");
                    prop_assert_eq!(numbers.is_valid(row).then(|| numbers.value(row)), own.0);
                    let list = lists.value(row);
                    prop_assert_eq!(list.as_primitive::<Int64Type>().values(), &own.3[..]);
                    prop_assert_eq!(texts.is_valid(row).then(|| texts.value(row)), own.1.as_deref());
                    prop_assert_eq!(nested.is_valid(row).then(|| nested.value(row)), own.1.as_deref());
                    let float = floats.is_valid(row).then(|| floats.value(row).to_bits());
                    prop_assert_eq!(float, own.2.map(f64::to_bits));
                    at += 1;
                }
            }
            prop_assert_eq!(at, expected.len(), "{}, indexed {:?}", text, indexed);
        }
    }

    #[test]
    fn damaged_files_give_answers_or_errors_and_never_a_panic(
        rows in rows(),
        properties in properties(),
        (text, _, _, _) in predicate(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut file = written(&rows, properties).to_vec();
        for (place, byte) in damage {
            // Half of the time near the end, where the footer is.
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Some(cut) = cut {
            let length = cut.index(file.len());
            // The end says where the footer is: what is missing is in the middle.
            file.drain(length / 2..length / 2 + (file.len() - length) / 4);
        }
        let _ = look_up(&file.into(), &text, &[], &["number"]);
    }
}

#[test]
fn keys_are_answered_in_the_order_asked_and_twice_where_asked_twice() {
    let rows: Vec<Row> = (0..100i64)
        .map(|number| {
            (
                Some(number % 50),
                Some(number.to_string()),
                None,
                Vec::new(),
            )
        })
        .collect();
    let file = written(&rows, WriterProperties::default());
    let host = InMemory::new(file.clone());
    let cache = RefCell::new(Cache::new(1 << 20, 1));
    let keys = [7, 3, 7, 999, 49].map(Literal::Integer);
    let found = block_on(async {
        let opened = footer::open(&host, "keys", file.len() as u64).await?;
        let plan = Plan::new(&opened, &parse("")?, &["text".to_owned()])?
            .with_keys(&opened, "number", &keys)?;
        Search::new(&host, &opened, &cache, LIMITS)
            .run(&plan, &[])
            .await
    })
    .expect("an answer");
    let mut answered: Vec<(u32, String)> = Vec::new();
    for (batch, ordinals) in found.batches.iter().zip(&found.ordinals) {
        let texts = batch.column(0).as_string::<i32>();
        answered
            .extend((0..batch.num_rows()).map(|row| (ordinals[row], texts.value(row).to_owned())));
    }
    answered.sort_by_key(|(ordinal, _)| *ordinal);
    let texts: Vec<&str> = answered.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["7", "57", "3", "53", "7", "57", "49", "99"]);
}

#[test]
fn what_would_read_too_much_is_refused_with_the_way_out() {
    let rows: Vec<Row> = (0..10_000)
        .map(|number| (Some(number), None, None, Vec::new()))
        .collect();
    let file = written(&rows, WriterProperties::default());
    let host = InMemory::new(file.clone());
    let cache = RefCell::new(Cache::new(1 << 20, 1));
    let limits = Limits {
        scan_bytes: 100,
        ..LIMITS
    };
    let error = block_on(async {
        let opened = footer::open(&host, "big.parquet", file.len() as u64).await?;
        let plan = Plan::new(&opened, &parse("number > 5")?, &[])?;
        Search::new(&host, &opened, &cache, limits)
            .run(&plan, &[])
            .await
    })
    .expect_err("too much");
    assert_eq!(error.kind, ErrorKind::TooMuch);
    assert!(
        error.message.contains("big.parquet") && error.message.contains("scan_bytes_max"),
        "{error}"
    );
}

#[test]
fn a_key_index_is_made_of_the_keys_column_alone() {
    let rows: Vec<Row> = (0..5_000i64)
        .map(|number| (Some(number * 7), Some(number.to_string()), None, vec![1]))
        .collect();
    let file = written(&rows, WriterProperties::default());
    let index_of = |bytes: Bytes| {
        let host = InMemory::new(bytes);
        let cache = RefCell::new(Cache::new(1 << 20, 1));
        let opened = block_on(footer::open(&host, "keys", host.length())).expect("a footer");
        let columns = opened.columns().expect("columns");
        let (key, others) = columns.split_first().expect("columns");
        let own = opened.chunk(0, key);
        let chunk = chunk_range(own).expect("a chunk");
        let places = own.offset_index_length().unwrap_or(0) as u64;
        let read_before = host.bytes_read();
        let search = Search::new(&host, &opened, &cache, LIMITS);
        let index = block_on(search.build_key_index(key)).expect("an index");
        let read = host.bytes_read() - read_before;
        assert!(
            read <= chunk.end - chunk.start + places,
            "{read} bytes were read for {chunk:?}"
        );
        let others = others
            .iter()
            .map(|column| chunk_range(opened.chunk(0, column)));
        (
            index,
            others
                .map(|range| range.expect("a chunk"))
                .collect::<Vec<_>>(),
        )
    };
    let (index, others) = index_of(file.clone());
    let mut damaged = file.to_vec();
    for range in others {
        damaged[range.start as usize..range.end as usize].fill(0xff);
    }
    assert_eq!(index_of(damaged.into()).0, index);
}

/// A column that has one text in all rows; with or without the word that it was one of a dictionary.
fn with_one_text(text: &str, rows: usize, with_arrow: bool) -> Bytes {
    let codes = Int32Array::from(vec![0; rows]);
    let one: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let texts: ArrayRef = Arc::new(DictionaryArray::new(codes, one));
    let batch = RecordBatch::try_from_iter([("text", texts)]).expect("a column");
    let mut file = Vec::new();
    let options = ArrowWriterOptions::new().with_skip_arrow_metadata(!with_arrow);
    let mut writer =
        ArrowWriter::try_new_with_options(&mut file, batch.schema(), options).expect("a writer");
    writer.write(&batch).expect("it is written");
    writer.close().expect("it is closed");
    file.into()
}

fn limited_error(file: &Bytes, keys: Option<&[Literal]>) -> LookupError {
    let host = InMemory::new(file.clone());
    let cache = RefCell::new(Cache::new(1 << 20, 1));
    let limits = Limits {
        answer_bytes: 4 << 20,
        ..LIMITS
    };
    block_on(async {
        let opened = footer::open(&host, "long.parquet", host.length()).await?;
        let mut plan = Plan::new(&opened, &parse("")?, &[])?;
        if let Some(keys) = keys {
            plan = plan.with_keys(&opened, "text", keys)?;
        }
        Search::new(&host, &opened, &cache, limits)
            .run(&plan, &[])
            .await
    })
    .expect_err("too much")
}

#[test]
fn a_long_text_in_each_row_is_refused_before_it_is_there() {
    // 2.4 GB, of which the file has 300 KB.
    for with_arrow in [false, true] {
        let file = with_one_text(&"x".repeat(300_000), 8_192, with_arrow);
        assert!(file.len() < 2 << 20, "{} bytes", file.len());
        let error = limited_error(&file, None);
        assert_eq!(error.kind, ErrorKind::TooMuch, "{error}");
        assert!(error.message.contains("column text"), "{error}");
    }
}

#[test]
fn keys_that_are_asked_again_and_again_are_refused_before_their_rows_are_there() {
    let file = with_one_text("eu", 8_192, false);
    let keys = vec![Literal::Text("eu".into()); 65_536];
    let error = limited_error(&file, Some(&keys));
    assert_eq!(error.kind, ErrorKind::TooMuch, "{error}");
    let file = with_one_text(&"x".repeat(1_000), 1, false);
    let keys = vec![Literal::Text("x".repeat(1_000).into()); 65_536];
    let error = limited_error(&file, Some(&keys));
    assert_eq!(error.kind, ErrorKind::TooMuch, "{error}");
}
