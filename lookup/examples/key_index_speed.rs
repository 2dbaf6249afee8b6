//! What a key index costs to build, to keep and to ask, for the kinds of keys that there are.
//!
//! `cargo run --release -p corelane-lookup --example key_index_speed [rows]`. Each figure is the
//! best of some rounds, on one core; `get` asks for keys that are there, in random order.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelane_lookup::key_index::{Builder, IndexKind, KeyIndex, image};

const ROUNDS: usize = 5;

/// Keys in a batch: what one request brings.
const BATCH: usize = 1000;

/// Rows in a page of the column.
const PAGE_ROWS: usize = 20_000;

fn main() {
    let rows: usize = std::env::args()
        .nth(1)
        .map_or(1_500_000, |rows| rows.parse().expect("a number of rows"));
    println!(
        "{:22} {:>9} {:>8} {:>8} {:>7} {:>8} {:>8} {:>9} {:>8}",
        "keys", "rows", "Mrows/s", "B/row", "exact", "open ms", "get ns", "absent ns", "batch ns"
    );
    let order_keys: Vec<u64> = (0..rows as u64)
        .map(|number| image::of_i64((number / 8 * 32 + number % 8 + 1) as i64))
        .collect();
    measure("order keys, sorted", IndexKind::Ordered, &order_keys);
    let mut shuffled = order_keys.clone();
    shuffle(&mut shuffled);
    measure("order keys, shuffled", IndexKind::Ordered, &shuffled);
    let lines: Vec<u64> = (0..rows).map(|row| order_keys[row / 4]).collect();
    measure("four rows a key, sorted", IndexKind::Ordered, &lines);
    let mut random = Random(7);
    let whole: Vec<u64> = (0..rows).map(|_| random.next()).collect();
    measure("64 random bits", IndexKind::Ordered, &whole);
    let mut sorted = whole.clone();
    sorted.sort_unstable();
    measure("64 random bits, sorted", IndexKind::Ordered, &sorted);
    let clustered: Vec<u64> = (0..rows)
        .map(|_| {
            let width = random.next() % 60;
            random.next() >> width
        })
        .collect();
    measure("of 4 to 64 bits", IndexKind::Ordered, &clustered);
    let hashes: Vec<u64> = (0..rows)
        .map(|number| image::hash_bytes(format!("Customer#{number:09}").as_bytes()))
        .collect();
    measure("strings, hashed", IndexKind::Hashed, &hashes);
}

fn measure(name: &str, kind: IndexKind, images: &[u64]) {
    let mut bytes = Vec::new();
    let build = best(|| {
        let mut builder = Builder::new(kind, images.len() as u64).expect("few enough rows");
        let mut row = 0;
        for page in images.chunks(PAGE_ROWS) {
            builder.push_run(row, page).expect("rows of the file");
            row += page.len() as u32;
        }
        bytes = builder.finish();
    });
    let bytes = Bytes::from(bytes);
    let mut index = None;
    let open = best(|| index = KeyIndex::open(bytes.clone()).ok());
    let index = index.expect("an index");

    let mut present = images.to_vec();
    shuffle(&mut present);
    present.truncate(200_000);
    let mut random = Random(3);
    let (first, last) = (images.iter().min(), images.iter().max());
    let (first, last) = (*first.expect("a key"), *last.expect("a key"));
    let absent: Vec<u64> = present
        .iter()
        .map(|_| first + random.next() % (last - first))
        .collect();
    let mut rows = Vec::new();
    let [get, get_absent] = [&present, &absent].map(|asked| {
        best(|| {
            for image in asked {
                rows.clear();
                index.get(*image, usize::MAX, &mut rows).expect("an answer");
                black_box(&rows);
            }
        })
    });
    let mut pairs = Vec::new();
    let batch = best(|| {
        for batch in present.chunks(BATCH) {
            pairs.clear();
            index
                .get_many(batch, usize::MAX, &mut pairs)
                .expect("an answer");
            black_box(&pairs);
        }
    });
    let each = |time: Duration| time.as_nanos() as f64 / present.len() as f64;
    println!(
        "{name:22} {:9} {:8.1} {:8.3} {:>7} {:8.2} {:8.0} {:9.0} {:8.0}",
        images.len(),
        images.len() as f64 / build.as_secs_f64() / 1e6,
        index.size_bytes() as f64 / images.len() as f64,
        index.is_exact(),
        open.as_secs_f64() * 1e3,
        each(get),
        each(get_absent),
        each(batch),
    );
}

fn best(mut work: impl FnMut()) -> Duration {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .min()
        .expect("a round")
}

fn shuffle(values: &mut [u64]) {
    let mut random = Random(11);
    for place in (1..values.len()).rev() {
        values.swap(place, (random.next() % (place as u64 + 1)) as usize);
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
