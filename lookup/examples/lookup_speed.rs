//! What a look-up costs on one core, without a network: `lookup_speed FILE KEY SELECT MOST [CACHE_MIB]`.
//!
//! FILE is a local Parquet file, KEY one of its integer columns with values up to MOST, SELECT a list of
//! columns. Prints nanoseconds a look-up, for keys that are hot (zipf-like) and uniform, with and without a
//! key index. The answer is encoded as on the wire.

use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_lookup::answer::arrow_ipc::SchemaMessage;
use corelane_lookup::cache::Cache;
use corelane_lookup::error::Result;
use corelane_lookup::execute::plan::Plan;
use corelane_lookup::execute::{Limits, Search};
use corelane_lookup::file::{File, footer};
use corelane_lookup::host::InMemory;
use corelane_lookup::key_index::KeyIndex;
use corelane_lookup::predicate::{Comparison, Literal, Predicate, Test};
use futures::executor::block_on;

/// Marsaglia's xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

type Indexes = Vec<(usize, Rc<KeyIndex>)>;

fn one(
    host: &InMemory,
    file: &File,
    cache: &RefCell<Cache>,
    indexes: &Indexes,
    (key, value): (&str, i64),
    select: &[String],
) -> Result<usize> {
    let predicate = Predicate::Compare(Comparison {
        column: key.to_owned(),
        test: Test::Equal(Literal::Integer(value)),
    });
    let limits = Limits {
        rows: None,
        scan_bytes: 1 << 40,
        answer_bytes: 1 << 30,
    };
    let plan = Plan::new(file, &predicate, select)?;
    let found = block_on(Search::new(host, file, cache, limits).run(&plan, indexes))?;
    let mut answer = Vec::new();
    SchemaMessage::new(&plan.schema)?.write_stream(&found.batches, &mut answer);
    Ok(found.batches.iter().map(|batch| batch.num_rows()).sum())
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, key, select, most, rest @ ..] = arguments.as_slice() else {
        return Err("lookup_speed FILE KEY SELECT MOST [CACHE_MIB]".into());
    };
    let cache_mib: usize = rest.first().map_or(Ok(64), |mib| mib.parse())?;
    let most: u64 = most.parse()?;
    let select: Vec<String> = select.split(',').map(str::to_owned).collect();
    let host = InMemory::new(fs::read(path)?);
    let began = Instant::now();
    let file = block_on(footer::open(&host, path, host.length()))?;
    println!(
        "footer: {:?}, {} row groups",
        began.elapsed(),
        file.groups()
    );
    let column = file.column(key)?.ok_or("no such column")?.clone();
    let indexes = {
        let cache = RefCell::new(Cache::new(1 << 20, 1));
        let limits = Limits {
            rows: None,
            scan_bytes: 1 << 40,
            answer_bytes: 0,
        };
        let began = Instant::now();
        let bytes = block_on(Search::new(&host, &file, &cache, limits).build_key_index(&column))?;
        let rows = *file.group_starts.last().ok_or("no rows")?;
        let took = began.elapsed();
        println!(
            "key index: {} bytes, {:.2} a row, {:.1} million rows/s",
            bytes.len(),
            bytes.len() as f64 / rows as f64,
            rows as f64 / took.as_secs_f64() / 1e6
        );
        vec![(column.leaf, Rc::new(KeyIndex::open(bytes.into())?))]
    };
    let none = Vec::new();
    for (name, indexes, hot) in [
        ("hot, key index", &indexes, true),
        ("uniform, key index", &indexes, false),
        ("hot, no key index", &none, true),
        ("uniform, no key index", &none, false),
    ] {
        let cache = RefCell::new(Cache::new(cache_mib << 20, 1));
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let mut draw = || {
            let random = next(&mut state);
            if hot {
                // Ten thousand keys, of which a few are asked for most of the time.
                let rank = (10_000f64).powf((random >> 11) as f64 / (1u64 << 53) as f64) as u64;
                (rank.wrapping_mul(0x9e37_79b9) % most) as i64
            } else {
                (random % most) as i64
            }
        };
        let mut times = Vec::new();
        let (began, mut rows) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            rows += one(&host, &file, &cache, indexes, (key, draw()), &select)?;
            times.push(asked.elapsed());
        }
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        let half = times.len() / 2;
        let mut settled = times.split_off(half);
        settled.sort();
        println!(
            "{name}: {rate:.0}/s, p50 {:?}, p99 {:?} once settled, {rows} rows, cache {} MiB",
            settled[settled.len() / 2],
            settled[settled.len() * 99 / 100],
            cache.borrow().bytes() >> 20
        );
    }
    Ok(())
}
