//! Prints what a page of a thousand objects costs to write.
//!
//! ```text
//! cargo run --release -p corelane-s3 --example list_page
//! ```

use std::hint::black_box;
use std::time::Instant;

use corelane_s3::xml::list_objects::{ListedObject, Page, Paging, write};

fn main() {
    let names: Vec<_> = (0..1000u64)
        .map(|at| {
            let key = format!("warehouse/day=2026-11-22/part-{at:05}.snappy.parquet");
            (
                key,
                format!("\"{:032x}\"", at.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            )
        })
        .collect();
    let objects: Vec<_> = (0..)
        .zip(&names)
        .map(|(at, (key, etag))| ListedObject {
            key,
            etag,
            size: 1 << 20,
            last_modified_ms: 1_795_000_000_000 + at * 977,
            storage_class: "STANDARD",
        })
        .collect();
    let page = Page {
        bucket: "lake",
        prefix: "warehouse/",
        delimiter: None,
        max_keys: 1000,
        encodes_url: true,
        is_truncated: true,
        objects: &objects,
        common_prefixes: &[],
        paging: Paging::V2 {
            continuation_token: None,
            start_after: None,
            next_token: Some("next"),
            owner: None,
        },
    };
    let mut micros = Vec::new();
    let mut bytes = 0;
    for _ in 0..1000 {
        let begin = Instant::now();
        let mut out = Vec::new();
        write(&mut out, black_box(&page));
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
        bytes = black_box(out).len();
    }
    micros.sort_by(f64::total_cmp);
    println!(
        "{bytes} bytes: p50 {:.0} µs, p99 {:.0} µs",
        micros[500], micros[990]
    );
}
