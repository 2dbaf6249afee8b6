//! The numbers in `docs/protocol.md` that need more than the codec: partitions and limits.

use corelane_placement::partition_of;
use corelane_rpc_schema::frame::{HEADER_WORDS_MAX_MESSAGE, HEADER_WORDS_MAX_READ_ANSWER};
use corelane_rpc_schema::messages::{PATH_BYTES_MAX, SHARDS_MAX, TOKEN_BYTES_MAX};
use corelane_rpc_schema::{PARTITIONS_MAX, READ_BYTES_MAX, STRIPE_BYTES};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

#[test]
fn the_partition_table_is_what_the_arithmetic_gives() {
    let mut rows = 0;
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| 0x")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [home, stripe, partitions, partition] = cells[..] else {
            panic!("four cells: {line}")
        };
        let home = u64::from_str_radix(home.trim_start_matches("0x"), 16).expect("hexadecimal");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let expected = partition_of(home, number(stripe), number(partitions));
        assert_eq!(number(partition), u32::from(expected), "{line}");
        rows += 1;
    }
    assert!(rows >= 5, "the document has only {rows} examples");
}

#[test]
fn the_limits_are_those_of_the_code() {
    for (name, value) in [
        ("message header", u64::from(HEADER_WORDS_MAX_MESSAGE)),
        (
            "READ answer header",
            u64::from(HEADER_WORDS_MAX_READ_ANSWER),
        ),
        ("readBytesMax", u64::from(READ_BYTES_MAX)),
        ("stripeBytes", STRIPE_BYTES),
        ("partitions", u64::from(PARTITIONS_MAX)),
        ("shards", SHARDS_MAX as u64),
        ("path", PATH_BYTES_MAX as u64),
        ("token", TOKEN_BYTES_MAX as u64),
    ] {
        let row = format!("| {name} | {value} |");
        assert!(DOCUMENT.contains(&row), "no row: {row}");
    }
}
