//! What a signature costs: to verify one with the day's key at hand, and to make one.
//!
//! The invariant: every verification that is timed succeeds for the key that signed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use corelane_s3::credentials::{AccessKey, Credentials, Rule};
use corelane_s3::head::Head;
use corelane_s3::sigv4::{AuthType, Verifier};
use corelane_s3::target::{Hosts, Target};

use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure, median};
use crate::gate::worker::{OBJECT_PATH, S3_KEY_ID, S3_REGION, S3_SECRET, s3_credentials};
use crate::process;
use crate::target::sigv4::Signer;

/// Different requests, verified in turn: more than one, as a core sees them.
const REQUESTS: u64 = 64;

/// Batches, whose median counts, and verifications of one.
const BATCHES: usize = 21;
const BATCH: usize = 20_000;

const HOST: &str = "127.0.0.1:7480";

/// Heads of signed GETs of 4 KiB each.
fn signed_heads() -> Vec<Vec<u8>> {
    let mut signer = Signer::new(s3_credentials(), HOST);
    let head = |page: u64| {
        let mut head = format!("GET {OBJECT_PATH} HTTP/1.1\r\n").into_bytes();
        signer.sign(&mut head, "GET", OBJECT_PATH, &range_of(page));
        head.extend_from_slice(b"\r\n");
        head
    };
    (0..REQUESTS).map(head).collect()
}

fn range_of(page: u64) -> String {
    let start = (page * 1_000 + 1) * 4096;
    format!("bytes={start}-{}", start + 4095)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Nanoseconds of one of `batch` verifications, in each of `batches`.
fn verification_ns(batches: usize, batch: usize) -> Result<Vec<f64>, String> {
    let key = AccessKey::new(
        S3_KEY_ID.to_owned(),
        S3_KEY_ID.to_owned(),
        S3_SECRET.to_owned(),
        vec![Rule::all()],
    );
    let credentials = Arc::new(Credentials::new(vec![key], None));
    let verifier = Verifier::new(credentials, S3_REGION.to_owned());
    let bytes = signed_heads();
    let hosts = Hosts::new(&[]);
    let refused = |error: corelane_s3::Error| format!("a request of the measure: {error}");
    let requests = bytes
        .iter()
        .map(|bytes| {
            let (head, _) = Head::parse(bytes)
                .map_err(|error| refused(error.error))?
                .ok_or("a head of the measure is not complete")?;
            let target = Target::parse(&head, &hosts).map_err(refused)?;
            Ok((head, target))
        })
        .collect::<Result<Vec<(Head<'_>, Target<'_>)>, String>>()?;
    let now_ms = now_ms();
    let mut times = Vec::with_capacity(batches);
    // The first derives the day's key and does not count.
    for number in 0..=batches {
        let began = Instant::now();
        for (head, target) in requests.iter().cycle().take(batch) {
            let caller = verifier
                .verify(black_box(head), black_box(target), now_ms)
                .map_err(refused)?;
            let is_right = caller.auth == AuthType::Header
                && caller.key.is_some_and(|key| key.id == S3_KEY_ID);
            if !is_right {
                return Err("a verification found another caller than the one that signed".into());
            }
        }
        if number > 0 {
            times.push(began.elapsed().as_nanos() as f64 / batch as f64);
        }
    }
    Ok(times)
}

/// Does `work` on the server's core, on a thread of its own, so that the pinning ends with it.
fn on_server_core<T: Send>(
    bench: &Bench,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let core = bench.options.server_core;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || process::pin(core).and_then(|()| work()));
        let joined = thread.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Nanoseconds that the generator takes to sign a request.
pub(super) fn signing_ns(bench: &Bench) -> Result<f64, String> {
    on_server_core(bench, || {
        let mut signer = Signer::new(s3_credentials(), HOST);
        let mut out = Vec::new();
        let began = Instant::now();
        for page in 0..BATCH as u64 {
            out.clear();
            signer.sign(&mut out, "GET", OBJECT_PATH, &range_of(page % REQUESTS));
            black_box(&out);
        }
        Ok(began.elapsed().as_nanos() as f64 / BATCH as f64)
    })
}

pub(in crate::gate) fn s3_signature_ns(bench: &mut Bench) -> Result<Measure, String> {
    let times = on_server_core(bench, || verification_ns(BATCHES, BATCH))?;
    let bar = Bar::AtMost(3000.0);
    Ok(
        Measure::of_values("s3_signature_ns", "ns", &times, bar).with_note(format!(
            "median {:.0} of {BATCHES} batches of {BATCH} verifications of {REQUESTS} parsed range GETs with \
             UNSIGNED-PAYLOAD in turn, the day's key cached; all succeeded",
            median(&times)
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_generator_signs_verifies() {
        let times = verification_ns(1, REQUESTS as usize).expect("all verify");
        assert_eq!(times.len(), 1);
    }
}
