//! What look-ups promise for any file at all: rows or an error, no panic, and nothing is read that is not
//! there.

use std::cell::RefCell;

use bytes::Bytes;
use corelane_lookup::cache::Cache;
use corelane_lookup::error::Result;
use corelane_lookup::execute::plan::Plan;
use corelane_lookup::execute::{Limits, Search};
use corelane_lookup::file::footer;
use corelane_lookup::host::InMemory;
use corelane_lookup::predicate::{Comparison, Literal, Predicate, Test};

/// Opens `input` as a file, reads its first rows, looks into each column, and indexes one.
///
/// # Panics
/// If a promise does not hold.
pub fn hold(input: &[u8]) {
    // What comes from a slice is copied once: ranges of it then cost nothing.
    let host = InMemory::new(Bytes::copy_from_slice(input));
    let _ = futures::executor::block_on(look_around(&host));
}

async fn look_around(host: &InMemory) -> Result<()> {
    let file = footer::open(host, "fuzzed", host.length()).await?;
    let cache = RefCell::new(Cache::new(1 << 20, 1));
    let limits = Limits {
        rows: Some(100),
        scan_bytes: 64 << 20,
        answer_bytes: 64 << 20,
    };
    let everything = Plan::new(&file, &Predicate::And(Vec::new()), &[])?;
    let _ = Search::new(host, &file, &cache, limits)
        .run(&everything, &[])
        .await;
    for column in file.columns()?.iter().take(8) {
        let tests = [
            Test::Equal(Literal::Integer(1)),
            Test::Less(Literal::Text("b".into())),
            Test::IsNull,
        ];
        for test in tests {
            let predicate = Predicate::Compare(Comparison {
                column: column.path.clone(),
                test,
            });
            if let Ok(plan) = Plan::new(&file, &predicate, &[]) {
                let _ = Search::new(host, &file, &cache, limits)
                    .run(&plan, &[])
                    .await;
            }
        }
        let _ = Search::new(host, &file, &cache, limits)
            .build_key_index(column)
            .await;
    }
    Ok(())
}
