//! Pages of a bucket of a million objects, from the worker's cache of listings.
//!
//! The invariant: every key of every page is compared with what stands there, outside of the time that
//! is taken; a page that is not right ends the measure.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure};
use crate::gate::pairs::fresh_place;
use crate::gate::rounds::{STEAL_PERCENT_MAX, in_turns};
use crate::gate::worker::{GateWorker, WorkerSpec};
use crate::load::new_histogram;
use crate::process::{self, MachineTime};
use crate::random::Random;
use crate::target::http_get::Connection;

/// Keys of a page, as S3 gives them.
const PAGE_KEYS: usize = 1_000;

/// Of the mount's one file beside, whose name sorts behind all keys.
const OBJECT_BYTES: u64 = 16 << 20;

/// Memory budget; listings are cached beside it.
const DRAM_BYTES: u64 = 128 << 20;

/// How long a page may take; a first one reads directories.
const DEADLINE: Duration = Duration::from_secs(60);

/// A bucket of empty files, as many in each of its directories, in the order of their keys: whole pages
/// of them.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    directories: usize,
    files: usize,
}

/// As many keys as the measure's name says.
const MILLION: Bucket = Bucket {
    directories: 1_000,
    files: 1_000,
};

/// For the shape of the output.
const QUICK: Bucket = Bucket {
    directories: 30,
    files: 100,
};

impl Bucket {
    fn keys(self) -> usize {
        self.directories * self.files
    }

    fn key(self, place: usize) -> String {
        format!("d{:04}/f{:04}", place / self.files, place % self.files)
    }

    fn make(self, root: &Path) -> std::io::Result<()> {
        for directory in 0..self.directories {
            fs::create_dir_all(root.join(format!("d{directory:04}")))?;
        }
        for place in 0..self.keys() {
            File::create(root.join(self.key(place)))?;
        }
        Ok(())
    }

    /// What asks for the page that begins at `place`.
    fn query(self, place: usize) -> String {
        let after = match place.checked_sub(1) {
            Some(before) => format!("&start-after={}", self.key(before).replace('/', "%2F")),
            None => String::new(),
        };
        format!("/gate?list-type=2&max-keys={PAGE_KEYS}{after}")
    }

    /// Compares the keys of a page with those at `places`.
    fn check(self, page: &[u8], places: Range<usize>) -> Result<(), String> {
        let text = std::str::from_utf8(page).map_err(|error| error.to_string())?;
        let found = text
            .split("<Key>")
            .skip(1)
            .map(|rest| rest.split_once("</Key>").map_or(rest, |(key, _)| key));
        if found.eq(places.clone().map(|place| self.key(place))) {
            return Ok(());
        }
        let start: String = text.chars().take(600).collect();
        Err(format!(
            "a page does not hold the keys at {places:?}: {start}"
        ))
    }
}

/// Asks for pages, one after the other, on one connection.
struct Pages {
    bucket: Bucket,
    connection: Connection,
    random: Random,
}

impl Pages {
    /// Takes the page that begins at `place`; how long it took to its last byte.
    fn take(&mut self, place: usize) -> Result<Duration, String> {
        let query = self.bucket.query(place);
        let began = Instant::now();
        let page = self.connection.get(&query);
        let taken = began.elapsed();
        let page = page.map_err(|error| format!("{query}: {error}"))?;
        self.bucket.check(page, place..place + PAGE_KEYS)?;
        Ok(taken)
    }

    /// Walks once through all; how long the pages took together.
    fn walk(&mut self) -> Result<Duration, String> {
        let keys = self.bucket.keys();
        (0..keys)
            .step_by(PAGE_KEYS)
            .map(|place| self.take(place))
            .sum()
    }

    /// Pages at random places for `length`.
    fn round(&mut self, length: Duration) -> Result<Round, String> {
        let before = MachineTime::now().map_err(|error| error.to_string())?;
        let began = Instant::now();
        let mut taken_ns = new_histogram();
        while began.elapsed() < length {
            let places = (self.bucket.keys() - PAGE_KEYS + 1) as u64;
            let place = self.random.below(places) as usize;
            let taken = self.take(place)?;
            taken_ns.saturating_record(taken.as_nanos() as u64);
        }
        let after = MachineTime::now().map_err(|error| error.to_string())?;
        Ok(Round {
            taken_ns,
            steal_percent: after.steal_percent_since(before),
        })
    }
}

struct Round {
    taken_ns: Histogram<u64>,
    steal_percent: f64,
}

impl Round {
    fn ms(&self, quantile: f64) -> f64 {
        self.taken_ns.value_at_quantile(quantile) as f64 / 1e6
    }
}

pub(in crate::gate) fn s3_list_1000_ms(bench: &mut Bench) -> Result<Measure, String> {
    let bucket = if bench.options.quick { QUICK } else { MILLION };
    let place = fresh_place(bench.directory(), "bucket")?;
    bucket
        .make(&place.join("objects"))
        .map_err(|error| format!("{}: {error}", place.display()))?;
    let measure = {
        let spec = WorkerSpec::new(bench, place.clone(), OBJECT_BYTES, DRAM_BYTES);
        let worker = GateWorker::start(bench, &spec)?;
        of_worker(bench, &worker, bucket)
    };
    // A million files are a burden to what is measured next, and to the end of the run.
    fs::remove_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    measure
}

fn of_worker(bench: &Bench, worker: &GateWorker, bucket: Bucket) -> Result<Measure, String> {
    let fail = |error: std::io::Error| error.to_string();
    let resident = || process::resident_bytes(worker.process.pid()).map_err(fail);
    let mut pages = Pages {
        bucket,
        connection: Connection::open(worker.s3, DEADLINE).map_err(fail)?,
        random: Random::new(3),
    };
    let before = resident()?;
    let core = bench.options.load_core;
    let length = Duration::from_secs_f64(bench.options.seconds);
    // On a thread of its own, so that the pinning ends with it.
    let (walked, rounds) = std::thread::scope(|scope| {
        let work = || {
            process::pin(core)?;
            let walked = pages.walk()?;
            let mut round = |_| pages.round(length);
            let steal = |round: &Round| round.steal_percent;
            let rounds = in_turns(bench.options.rounds, &mut [&mut round], steal)?;
            Ok::<_, String>((walked, rounds))
        };
        let joined = scope.spawn(work).join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let after = resident()?;
    let rounds: Vec<Round> = rounds.into_iter().flatten().collect();
    let all_of =
        |quantile: f64| -> Vec<f64> { rounds.iter().map(|round| round.ms(quantile)).collect() };
    let worst = |quantile: f64| all_of(quantile).into_iter().fold(0.0, f64::max);
    let measure = Measure::of_values("s3_list_1000_ms", "ms", &all_of(0.5), Bar::AtMost(2.0))
        .with_note(format!(
            "pages of {PAGE_KEYS} of {} keys, `start-after` at random places, one keep-alive connection, unsigned; \
             p99 {:.2}, longest {:.2} ms, of the worst round; {} pages, every key compared",
            bucket.keys(),
            worst(0.99),
            worst(1.0),
            rounds.iter().map(|round| round.taken_ns.len()).sum::<u64>()
        ))
        .with_note(format!(
            "a folder of {} directories with {} files each; the first walk took {:.1} ms a page and {} MiB of memory; \
             fetch threads, which answer listings, share the client's core",
            bucket.directories,
            bucket.files,
            walked.as_secs_f64() * 1e3 / (bucket.keys() / PAGE_KEYS) as f64,
            (after.saturating_sub(before)) >> 20
        ));
    let is_stolen = rounds
        .iter()
        .any(|round| round.steal_percent > STEAL_PERCENT_MAX);
    Ok(match is_stolen {
        true => {
            measure.without_verdict("the hypervisor took CPU away in every repetition of a round")
        }
        false => measure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_a_key_too_few_or_another_order_is_found() {
        let page = |places: &[usize]| {
            let keys = places.iter().map(|place| QUICK.key(*place));
            let entries = keys.map(|key| format!("<Contents><Key>{key}</Key></Contents>"));
            format!(
                "<ListBucketResult>{}</ListBucketResult>",
                entries.collect::<String>()
            )
        };
        let check = |places: &[usize]| QUICK.check(page(places).as_bytes(), 99..102);
        assert_eq!(check(&[99, 100, 101]), Ok(()));
        for wrong in [&[99, 100][..], &[99, 101, 100], &[98, 99, 100], &[]] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(
            QUICK.query(100),
            "/gate?list-type=2&max-keys=1000&start-after=d0000%2Ff0099"
        );
    }
}
