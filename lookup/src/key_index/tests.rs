//! The index against a map of its pairs, its bytes as they are pinned, and bytes that lie.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

/// Pairs as they may come: images of few or many bits, in order or not, rows with gaps or without.
#[derive(Clone, Debug)]
struct Column {
    rows_in_file: u64,
    pairs: Vec<(u64, u32)>,
}

impl Column {
    fn build(&self, kind: IndexKind) -> Vec<u8> {
        let mut builder = Builder::new(kind, self.rows_in_file).unwrap();
        // As pages would: some hundred rows at a time.
        for pairs in self.pairs.chunks(301) {
            let (images, rows): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            builder.push_rows(&rows, &images).unwrap();
        }
        assert_eq!(builder.len(), self.pairs.len());
        builder.finish()
    }

    fn map(&self) -> BTreeMap<u64, Vec<u32>> {
        let mut map: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (image, row) in &self.pairs {
            map.entry(*image).or_default().push(*row);
        }
        for rows in map.values_mut() {
            rows.sort_unstable();
        }
        map
    }
}

fn columns() -> impl Strategy<Value = Column> {
    let shape = (0u32..=64, 0u32..60, any::<u64>(), 0usize..1500);
    let order = (any::<bool>(), any::<bool>(), 1u32..40, any::<u64>());
    (shape, order).prop_map(
        |((bits, zeros, base, count), (sorted, backwards, gap, seed))| {
            let mut state = seed | 1;
            let mut random = move || {
                // splitmix64.
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ mixed >> 31
            };
            let mut images: Vec<u64> = (0..count)
                .map(|_| base.wrapping_add((random() & mask(bits)) << zeros))
                .collect();
            if sorted {
                images.sort_unstable();
            }
            let mut row = 0;
            let mut rows: Vec<u32> = (0..count)
                .map(|_| {
                    row += 1 + (random() % u64::from(gap)) as u32 / 8;
                    row
                })
                .collect();
            if backwards {
                rows.reverse();
            }
            Column {
                rows_in_file: u64::from(row) + 1,
                pairs: images.into_iter().zip(rows).collect(),
            }
        },
    )
}

fn open(bytes: Vec<u8>) -> KeyIndex {
    KeyIndex::open(Bytes::from(bytes)).unwrap()
}

fn rows_of(index: &KeyIndex, image: u64) -> Vec<u32> {
    let mut rows = Vec::new();
    let found = index.get(image, usize::MAX, &mut rows).unwrap();
    assert_eq!(found, rows.len() as u64);
    rows
}

proptest! {
    #[test]
    fn every_image_has_its_rows_and_no_others(column in columns(), others: [u64; 8]) {
        let index = open(column.build(IndexKind::Ordered));
        let map = column.map();
        prop_assert_eq!(index.len(), column.pairs.len() as u64);
        prop_assert!(index.is_exact());
        for (image, rows) in &map {
            prop_assert_eq!(&rows_of(&index, *image), rows);
        }
        let near = map.keys().flat_map(|image| [image.wrapping_sub(1), image.wrapping_add(1)]);
        for other in near.chain(others) {
            let expected = map.get(&other).cloned().unwrap_or_default();
            prop_assert_eq!(rows_of(&index, other), expected);
        }
    }

    #[test]
    fn hashes_lead_to_every_row_that_has_them(column in columns()) {
        let index = open(column.build(IndexKind::Hashed));
        prop_assert!(!index.is_exact());
        for (image, rows) in &column.map() {
            let found = rows_of(&index, *image);
            prop_assert!(rows.iter().all(|row| found.binary_search(row).is_ok()));
        }
        prop_assert_eq!(
            index.range(0..=1, 1, &mut Vec::new()).unwrap_err().kind,
            ErrorKind::Invalid
        );
    }

    #[test]
    fn ranges_have_the_rows_between_their_ends(
        column in columns(),
        ends in proptest::collection::vec((any::<prop::sample::Index>(), -1i64..=1), 2..20),
        limit in 0usize..2000,
    ) {
        let index = open(column.build(IndexKind::Ordered));
        let map = column.map();
        let images: Vec<u64> = map.keys().copied().chain([0, u64::MAX]).collect();
        for ends in ends.windows(2) {
            let [low, high] = [ends[0], ends[1]]
                .map(|(end, by)| end.get(&images).saturating_add_signed(by));
            let expected: Vec<u32> = if low <= high {
                map.range(low..=high).flat_map(|(_, rows)| rows.clone()).collect()
            } else {
                Vec::new()
            };
            let mut rows = Vec::new();
            let found = index.range(low..=high, limit, &mut rows).unwrap();
            prop_assert_eq!(found, expected.len() as u64);
            prop_assert_eq!(&rows, &expected[..expected.len().min(limit)]);
            let estimate = index.estimate_range(low..=high);
            prop_assert!(estimate >= found);
            prop_assert!(estimate <= found + 2 * PAIRS_PER_BLOCK as u64);
        }
    }

    #[test]
    fn many_at_once_are_each_by_itself(
        column in columns(),
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..2), 0..200),
        limit in 0usize..300,
    ) {
        let index = open(column.build(IndexKind::Ordered));
        let images: Vec<u64> = column.pairs.iter().map(|pair| pair.0).chain([7]).collect();
        let asked: Vec<u64> = picks
            .iter()
            .map(|(pick, by)| pick.get(&images).saturating_add(*by))
            .collect();
        let mut many = Vec::new();
        let found = index.get_many(&asked, usize::MAX, &mut many).unwrap();
        prop_assert_eq!(found, many.len() as u64);
        let mut limited = Vec::new();
        prop_assert_eq!(index.get_many(&asked, limit, &mut limited).unwrap(), found);
        prop_assert_eq!(&limited, &many[..many.len().min(limit)]);
        let mut single = Vec::new();
        for (number, image) in (0..).zip(&asked) {
            single.extend(rows_of(&index, *image).into_iter().map(|row| (number, row)));
        }
        prop_assert_eq!(many, single);
    }

    #[test]
    fn damaged_bytes_are_refused(
        column in columns(),
        at: prop::sample::Index,
        change in 1u8..,
        length: prop::sample::Index,
    ) {
        let bytes = column.build(IndexKind::Ordered);
        let mut damaged = bytes.clone();
        *at.get_mut(&mut damaged) ^= change;
        prop_assert!(KeyIndex::open(Bytes::from(damaged)).is_err());
        let cut = bytes[..length.index(bytes.len())].to_vec();
        prop_assert!(KeyIndex::open(Bytes::from(cut)).is_err());
    }

    #[test]
    fn bytes_that_lie_under_right_checksums_cost_no_panic(
        column in columns(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        in_the_head in proptest::collection::vec((8usize..56, any::<u8>()), 0..3),
        asked: [u64; 4],
    ) {
        let mut bytes = column.build(IndexKind::Ordered);
        for (at, value) in changes {
            let at = 64 + at.index(bytes.len() - 64);
            bytes[at] = value;
        }
        for (at, value) in in_the_head {
            bytes[at] = value;
        }
        sign(&mut bytes);
        let Ok(index) = KeyIndex::open(Bytes::from(bytes)) else {
            return Ok(());
        };
        let mut images: Vec<u64> = column.pairs.iter().step_by(7).map(|pair| pair.0).collect();
        images.extend(asked);
        let mut rows = Vec::new();
        for image in &images {
            let _ = index.get(*image, 1000, &mut rows);
        }
        for ends in images.windows(2) {
            let _ = index.range(ends[0]..=ends[1], 1000, &mut rows);
            let _ = index.estimate_range(ends[0]..=ends[1]);
        }
        let _ = index.get_many(&images, 1000, &mut Vec::new());
        prop_assert!(rows.iter().all(|row| *row < index.rows_in_file()));
    }
}

/// Makes the checksums right.
fn sign(bytes: &mut [u8]) {
    let body = crc_fast::crc32_iscsi(&bytes[64..]);
    bytes[56..60].copy_from_slice(&body.to_le_bytes());
    let head = crc_fast::crc32_iscsi(&bytes[..60]);
    bytes[60..64].copy_from_slice(&head.to_le_bytes());
}

#[test]
fn the_format_is_pinned() {
    let column = Column {
        rows_in_file: 1000,
        pairs: vec![(500, 7), (100, 8), (300, 9), (100, 999), (1_000_100, 0)],
    };
    let bytes = column.build(IndexKind::Ordered);
    let hex: Vec<String> = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    assert_eq!(
        hex,
        [
            "434c4b45594944580100010301030207",
            "e8030000000000000500000000000000",
            "6400000000000000a4420f0000000000",
            "2e000000000000001034c73557177f16",
            "0000000000000000000e0a02000f0800",
            "000200c0f919400232c0014828000000",
            "0000000000000000000000000000",
        ]
    );
}

#[test]
fn an_index_of_nothing_answers_nothing() {
    let index = open(Builder::new(IndexKind::Ordered, 0).unwrap().finish());
    assert!(index.is_empty());
    assert_eq!(rows_of(&index, 0), Vec::<u32>::new());
    assert_eq!(index.range(0..=u64::MAX, 9, &mut Vec::new()).unwrap(), 0);
    assert_eq!(index.estimate_range(0..=u64::MAX), 0);
}

#[test]
fn one_value_in_every_row_has_every_row_in_order() {
    let mut builder = Builder::new(IndexKind::Ordered, 5000).unwrap();
    builder.push_run(0, &[42; 2000]).unwrap();
    builder.push_run(2000, &[42; 3000]).unwrap();
    let index = open(builder.finish());
    assert_eq!(rows_of(&index, 42), (0..5000).collect::<Vec<_>>());
    assert_eq!(index.range(0..=50, 3, &mut Vec::new()).unwrap(), 5000);
    assert!(index.size_bytes() < 1300, "runs of rows cost no bits");
}

#[test]
fn rows_that_the_footer_does_not_know_are_refused() {
    let mut builder = Builder::new(IndexKind::Ordered, 10).unwrap();
    assert!(builder.push_run(9, &[1, 2]).is_err());
    assert!(builder.push_run(u32::MAX, &[1, 2]).is_err());
    assert!(builder.push_rows(&[10, 3], &[1, 2]).is_err());
    assert!(builder.is_empty());
    builder.push_run(8, &[1, 2]).unwrap();
    assert_eq!(rows_of(&open(builder.finish()), 2), [9]);
    assert!(Builder::new(IndexKind::Ordered, 1 << 32).is_err());
}

#[test]
fn random_keys_of_64_bits_fit_eight_bytes_a_row_and_are_found() {
    let images: Vec<u64> = (1..=200_000u64)
        .map(|number| image::hash_bytes(&number.to_le_bytes()))
        .collect();
    let mut builder = Builder::new(IndexKind::Ordered, 200_000).unwrap();
    builder.push_run(0, &images).unwrap();
    let memory_bytes = builder.finish_memory_bytes();
    assert!((24 * images.len()..36 * images.len()).contains(&memory_bytes));
    let index = open(builder.finish());
    assert!(index.size_bytes() <= 8 * images.len());
    assert!(!index.is_exact());
    for (row, image) in (0..).zip(&images) {
        assert!(rows_of(&index, *image).contains(&row));
    }
}
