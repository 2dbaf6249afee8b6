//! Columns that are decoded when they are asked for are those of the whole footer.

use std::sync::Arc;

use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, Int64Array, LargeStringArray, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::executor::block_on;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use proptest::prelude::*;

use super::arrow_hint::ArrowHint;
use super::outline::Outline;
use super::{File, footer};
use crate::error::Result;
use crate::host::InMemory;
use crate::memory::Account;

fn open(footer: &Bytes, length: u64, outline_bytes_min: usize) -> Result<File> {
    let opened = footer::decode(footer, length, outline_bytes_min, &Account::default())?;
    Ok(opened.into_file("test.parquet", length))
}

/// A column of one of several kinds, whose values follow from `seed`.
fn array(kind: u8, rows: usize, seed: u64) -> ArrayRef {
    let value = |row: usize| {
        let mixed = (seed + row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (
            mixed >> (mixed % 60),
            !mixed.is_multiple_of(5) && !seed.is_multiple_of(7),
        )
    };
    let values = (0..rows).map(value);
    let number = |(value, is_there): (u64, bool)| is_there.then_some(value as i64);
    let text = |(value, is_there): (u64, bool)| {
        is_there.then(|| "x".repeat((value % 150) as usize) + &value.to_string())
    };
    match kind {
        0 => Arc::new(values.map(number).collect::<Int64Array>()),
        1 => Arc::new(values.map(text).collect::<StringArray>()),
        2 => Arc::new(values.map(text).collect::<LargeStringArray>()),
        3 => Arc::new(
            values
                .map(|(value, is_there)| is_there.then_some(value as f32))
                .collect::<Float32Array>(),
        ),
        4 => Arc::new(
            values
                .map(|(value, is_there)| is_there.then_some(value % 2 == 0))
                .collect::<BooleanArray>(),
        ),
        5 => Arc::new(
            values
                .map(number)
                .collect::<TimestampMillisecondArray>()
                .with_timezone("Europe/Berlin"),
        ),
        6 => Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
            values.map(|own| Some(vec![number(own); (own.0 % 3) as usize])),
        )),
        _ => {
            let parts = [(0, "number"), (6, "list"), (2, "text")].map(|(kind, name)| {
                let part = array(kind, rows, seed);
                let field = Field::new(name, part.data_type().clone(), true);
                (Arc::new(field), part)
            });
            Arc::new(StructArray::from(parts.to_vec()))
        }
    }
}

#[derive(Clone, Debug)]
struct Made {
    kinds: Vec<u8>,
    groups: Vec<(usize, u64)>,
    with_arrow: bool,
    statistics: EnabledStatistics,
    switches: [bool; 3],
}

fn made() -> impl Strategy<Value = Made> {
    let statistics = prop_oneof![
        Just(EnabledStatistics::None),
        Just(EnabledStatistics::Chunk),
        Just(EnabledStatistics::Page),
    ];
    (
        proptest::collection::vec(0u8..8, 1..40),
        proptest::collection::vec((1usize..30, any::<u32>().prop_map(u64::from)), 0..6),
        any::<bool>(),
        statistics,
        any::<[bool; 3]>(),
    )
        .prop_map(|(kinds, groups, with_arrow, statistics, switches)| Made {
            kinds,
            groups,
            with_arrow,
            statistics,
            switches,
        })
}

/// The footer of a file, and the file's length.
fn footer_of(made: &Made) -> (Bytes, u64) {
    let batch = |rows: usize, seed: u64| {
        let columns = made.kinds.iter().enumerate().map(|(place, kind)| {
            // Some names have dots, as parts of groups have.
            let dot = if place % 9 == 8 { "." } else { "" };
            let name = format!("column{dot}{place}");
            (name, array(*kind, rows, seed + place as u64 * 31), true)
        });
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns fit")
    };
    let [dictionary, version_2, bloom] = made.switches;
    let version = if version_2 {
        WriterVersion::PARQUET_2_0
    } else {
        WriterVersion::PARQUET_1_0
    };
    let properties = WriterProperties::builder()
        .set_statistics_enabled(made.statistics)
        .set_dictionary_enabled(dictionary)
        .set_writer_version(version)
        .set_bloom_filter_enabled(bloom)
        .build();
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(!made.with_arrow);
    let mut file = Vec::new();
    let schema = batch(1, 1).schema();
    let mut writer =
        ArrowWriter::try_new_with_options(&mut file, schema, options).expect("a writer");
    for (rows, seed) in &made.groups {
        writer.write(&batch(*rows, *seed)).expect("it is written");
        writer.flush().expect("a row group ends");
    }
    writer.close().expect("it is closed");
    let file = Bytes::from(file);
    let end = file.len() - 8;
    let length: [u8; 4] = file[end..end + 4].try_into().expect("four bytes");
    let start = end - u32::from_le_bytes(length) as usize;
    (file.slice(start..end), file.len() as u64)
}

fn is_outlined(file: &File) -> bool {
    file.outline.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn columns_decoded_when_asked_for_are_those_of_the_whole_footer(
        made in made(),
        first in any::<prop::sample::Index>(),
    ) {
        let (footer, length) = footer_of(&made);
        let whole = open(&footer, length, usize::MAX).expect("it opens");
        let parts = open(&footer, length, 0).expect("it opens");
        prop_assert!(is_outlined(&parts) && !is_outlined(&whole));
        prop_assert_eq!(&parts.group_starts, &whole.group_starts);
        let columns = whole.columns().expect("it is sound");
        let first = first.index(columns.len());
        // In another order than the file's, and the last of them all at once.
        let (asked, left) = columns.split_at(columns.len() / 2);
        for column in asked.iter().rev().chain([&columns[first]]) {
            let own = parts.column(&column.path).expect("it is sound").expect("it is there");
            prop_assert_eq!(format!("{own:?}"), format!("{column:?}"));
            prop_assert_eq!(parts.order(own), whole.order(column));
            for group in 0..whole.groups() {
                prop_assert_eq!(parts.chunk(group, own), whole.chunk(group, column));
            }
        }
        let all = parts.columns().expect("it is sound");
        for (own, column) in all[asked.len()..].iter().zip(left) {
            prop_assert_eq!(format!("{own:?}"), format!("{column:?}"));
            for group in 0..whole.groups() {
                prop_assert_eq!(parts.chunk(group, own), whole.chunk(group, column));
            }
        }
        prop_assert_eq!(all.len(), columns.len());
        for root in 0..made.kinds.len() {
            let (own, expected) = (parts.root(root).unwrap(), whole.root(root).unwrap());
            prop_assert_eq!(own.field(), expected.field());
        }
        prop_assert_eq!(
            format!("{:?}", parts.select_all()),
            format!("{:?}", whole.select_all())
        );
    }

    #[test]
    fn names_mean_the_same_whether_all_is_decoded_or_not(made in made()) {
        let (footer, length) = footer_of(&made);
        let whole = open(&footer, length, usize::MAX).expect("it opens");
        for name in [
            "column", "column0", "column1.number", "column2.list", "column2.list.list.element",
            "column3.text.x", "column.8", "column.8.number", "", ".", "column1.",
        ] {
            let parts = open(&footer, length, 0).expect("it opens");
            prop_assert_eq!(
                format!("{:?}", parts.select(name)), format!("{:?}", whole.select(name)), "{}", name
            );
            prop_assert_eq!(parts.is_group(name).unwrap(), whole.is_group(name).unwrap());
        }
    }

    #[test]
    fn damaged_footers_give_columns_or_errors_and_never_a_panic(
        made in made(),
        damages in proptest::collection::vec(
            proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            64,
        ),
        cut in any::<prop::sample::Index>(),
    ) {
        let (footer, length) = footer_of(&made);
        let look = |footer: Vec<u8>| {
            let footer = Bytes::from(footer);
            let Ok(file) = open(&footer, length, 0) else {
                return;
            };
            let _ = file.column("column0");
            let _ = file.select("column1.number");
            if let Ok(columns) = file.columns() {
                // Where the whole footer is sound to the decoder as well, both have to say the same.
                let whole = open(&footer, length, usize::MAX);
                let of_whole = whole.as_ref().ok().and_then(|whole| whole.columns().ok());
                for (own, expected) in columns.iter().zip(of_whole.iter().flatten()) {
                    let whole = whole.as_ref().expect("it has columns");
                    for group in 0..file.groups() {
                        assert_eq!(file.chunk(group, own), whole.chunk(group, expected));
                    }
                }
                for column in &columns {
                    for group in 0..file.groups() {
                        std::hint::black_box(file.chunk(group, column));
                    }
                    let _ = file.order(column);
                }
            }
        };
        for damage in damages {
            let mut damaged = footer.to_vec();
            for (place, byte) in damage {
                let place = place.index(damaged.len());
                damaged[place] = byte;
            }
            look(damaged);
        }
        look(footer[..cut.index(footer.len())].to_vec());
    }

    #[test]
    fn damaged_schemas_of_arrow_give_fields_or_none_and_never_a_panic(
        made in made(),
        damages in proptest::collection::vec(
            proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            64,
        ),
    ) {
        let made = Made { with_arrow: true, ..made };
        let (footer, _) = footer_of(&made);
        let outline = Outline::new(&footer).expect("an outline");
        let encoded = outline.value_of(b"ARROW:schema").expect("it has one");
        let sound = STANDARD.decode(encoded).expect("it is base64");
        let names = || (0..outline.roots().len()).map(|root| outline.name(root));
        let all: Vec<usize> = (0..names().len()).collect();
        let hint = ArrowHint::new(encoded, names()).expect("it fits");
        prop_assert_eq!(hint.of(&all).expect("it is sound").len(), all.len());
        for damage in damages {
            let mut damaged = sound.clone();
            for (place, byte) in damage {
                let place = place.index(damaged.len());
                damaged[place] = byte;
            }
            if let Some(hint) = ArrowHint::new(STANDARD.encode(damaged).as_bytes(), names()) {
                let _ = (hint.of(&all), hint.of(&all[all.len() - 1..]));
            }
        }
    }
}

#[test]
fn what_is_prepared_is_decoded_and_nothing_else() {
    let (footer, length) = footer_of(&Made {
        kinds: vec![0, 1, 5, 6],
        groups: vec![(3, 1), (2, 2)],
        with_arrow: true,
        statistics: EnabledStatistics::Chunk,
        switches: [false; 3],
    });
    let host = InMemory::new(Bytes::new());
    let parts = open(&footer, length, 0).expect("it opens");
    let whole = open(&footer, length, usize::MAX).expect("it opens");
    let decoded = || parts.roots.iter().map(|root| root.get().is_some());
    let asked = ["column1", "column2", "no such column"];
    assert!(!parts.is_prepared(Some(&asked)));
    let now = |work: Result<()>| work.expect("it is sound");
    now(block_on(parts.prepare(&host, Some(&asked))));
    assert!(parts.is_prepared(Some(&asked)) && !parts.is_prepared(None));
    assert_eq!(decoded().collect::<Vec<_>>(), [false, true, true, false]);
    now(block_on(parts.prepare(&host, None)));
    assert!(parts.is_prepared(None));
    assert_eq!(
        format!("{:?}", parts.select_all()),
        format!("{:?}", whole.select_all())
    );
}

#[test]
fn a_list_that_lies_about_its_length_costs_no_time() {
    let (footer, length) = footer_of(&Made {
        kinds: vec![0, 1],
        groups: vec![(3, 1)],
        with_arrow: false,
        statistics: EnabledStatistics::Chunk,
        switches: [false; 3],
    });
    // Bytes, doubles, numbers, texts, structures.
    for kind in [3, 7, 6, 8, 12] {
        let mut lying = footer.to_vec();
        assert_eq!(lying.pop(), Some(0), "the end");
        // The field behind the last, a list of 2^62, and of what wraps around.
        for count in [1u64 << 62, u64::MAX - 3] {
            let mut lying = lying.clone();
            lying.extend([0x19, 0xf0 | kind]);
            let mut left = count;
            while left >= 0x80 {
                lying.push(left as u8 | 0x80);
                left >>= 7;
            }
            lying.extend([left as u8, 0]);
            assert!(open(&lying.into(), length, 0).is_err(), "kind {kind}");
        }
    }
}

#[test]
fn a_schema_of_arrow_that_fits_one_column_only_counts_for_none() {
    // Two files of the same columns, one with a list; the schema of the other is put into its footer.
    let made = |kinds: &[u8]| Made {
        kinds: kinds.to_vec(),
        groups: vec![(3, 1)],
        with_arrow: true,
        statistics: EnabledStatistics::Chunk,
        switches: [false; 3],
    };
    let (sound, length) = footer_of(&made(&[2, 6, 2]));
    let (other, _) = footer_of(&made(&[2, 0, 2]));
    let schema_in = |footer: &Bytes| {
        let outline = Outline::new(footer).expect("an outline");
        outline
            .value_of(b"ARROW:schema")
            .expect("it has one")
            .to_vec()
    };
    let (from, mut to) = (schema_in(&sound), schema_in(&other));
    let at = sound
        .windows(from.len())
        .position(|window| window == from)
        .expect("it is there");
    // The texts' lengths have to be equal: what is behind a flatbuffer's end does not matter, in base64 it does.
    to.resize(from.len(), b'A');
    let mut mixed = sound.to_vec();
    mixed[at..at + to.len()].copy_from_slice(&to);
    let mixed = Bytes::from(mixed);
    let whole = open(&mixed, length, usize::MAX).expect("it opens");
    let parts = open(&mixed, length, 0).expect("it opens");
    assert!(is_outlined(&parts));
    for root in [2, 0, 1] {
        let (own, expected) = (parts.root(root).unwrap(), whole.root(root).unwrap());
        assert_eq!(own.field(), expected.field());
    }
    let text = parts.column("column0").unwrap().expect("it is there");
    assert_eq!(*text.field.data_type(), DataType::Utf8, "not LargeUtf8");
}
