//! What asking and answering cost around a look-up of one row and three columns: nanoseconds of
//! one core, beside what Arrow's own writer takes in the same run.
//!
//! `cargo run --release -p corelane-lookup --example answer_cost`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use corelane_lookup::answer::Format;
use corelane_lookup::answer::arrow_ipc::SchemaMessage;
use corelane_lookup::predicate::parse::parse;
use corelane_lookup::request::LookupRequest;

fn main() {
    let price = Decimal128Array::from(vec![17_348_729])
        .with_precision_and_scale(15, 2)
        .expect("within 15 digits");
    let columns: [(&str, ArrayRef); 3] = [
        ("o_orderkey", Arc::new(Int64Array::from(vec![4_200_001]))),
        ("o_totalprice", Arc::new(price)),
        (
            "o_orderpriority",
            Arc::new(StringArray::from(vec!["1-URGENT"])),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one row");
    let schema = batch.schema();
    let message = SchemaMessage::new(&schema).expect("types of answers");
    let batches = [batch];
    let mut out = Vec::with_capacity(4096);

    let stock = measure("Arrow's StreamWriter, schema to end", || {
        out.clear();
        let mut writer = StreamWriter::try_new(&mut out, &schema).expect("memory");
        writer.write(&batches[0]).expect("memory");
        writer.finish().expect("memory");
        black_box(&out);
    });
    println!("  {} bytes", out.len());
    let ours = measure("SchemaMessage::write_stream", || {
        out.clear();
        message.write_stream(&batches, &mut out);
        black_box(&out);
    });
    println!("  {} bytes, {:.1} times as fast", out.len(), stock / ours);
    measure("SchemaMessage::write_batch", || {
        out.clear();
        message.write_batch(&batches[0], &mut out);
        black_box(&out);
    });
    measure("SchemaMessage::new", || {
        black_box(SchemaMessage::new(&schema).expect("types of answers"));
    });
    for format in [Format::JsonLines, Format::Csv] {
        measure(format.content_type(), || {
            out.clear();
            format
                .write(&schema, &batches, &mut out)
                .expect("types of answers");
            black_box(&out);
        });
    }

    let text = "o_orderkey = 4200001";
    let json = r#"{"path": "/tpch/orders/part-0.parquet", "where": "o_orderkey = 4200001",
        "select": ["o_orderkey", "o_totalprice", "o_orderpriority"]}"#;
    let request = LookupRequest::from_json(json).expect("valid");
    let bytes = request.encode();
    measure("predicate::parse", || {
        black_box(parse(black_box(text)).expect("valid"));
    });
    measure("LookupRequest::from_json", || {
        black_box(LookupRequest::from_json(black_box(json)).expect("valid"));
    });
    measure("LookupRequest::encode", || {
        black_box(black_box(&request).encode());
    });
    measure("LookupRequest::decode", || {
        black_box(LookupRequest::decode(black_box(&bytes)).expect("valid"));
    });
    println!("  {} bytes", bytes.len());
}

/// Prints and gives the nanoseconds of one `run`: the best of ten rounds.
fn measure(name: &str, mut run: impl FnMut()) -> f64 {
    const RUNS: u32 = 50_000;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        (0..RUNS).for_each(|_| run());
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(RUNS));
    }
    println!("{name:40} {best:8.0} ns");
    best
}
