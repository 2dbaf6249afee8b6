//! The generators of a load: one thread each, started together, their results merged.
//!
//! The invariant: all of them measure the same stretch of time. None begins before all are
//! connected, and when one is overrun or fails, all stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{LoadResult, LoadSpec};
use crate::process;
use crate::target::{Catalogue, Named};
use crate::workload::Walks;

/// The two ends of the measured part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The warm-up is over.
    Begin,
    /// The measured part is over.
    End,
}

/// When a load starts, and when what is measured of it begins and ends.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The first request.
    pub start: Instant,
    /// The end of the warm-up.
    pub begin: Instant,
    /// The end of the measured part.
    pub end: Instant,
}

/// Between two looks at the clock of the thread that waits.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// From the moment when all are connected to the first request.
const HEAD_START: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Line {
    connected: usize,
    gone: usize,
    stretch: Option<Stretch>,
}

/// What the generators of a load share.
#[derive(Debug, Default)]
struct Shared {
    line: Mutex<Line>,
    changed: Condvar,
    is_stopped: AtomicBool,
}

impl Shared {
    /// A generator is gone, with or without success.
    fn leave(&self, is_failed: bool) {
        if is_failed {
            self.is_stopped.store(true, Ordering::Relaxed);
        }
        self.line.lock().expect("no generator panics here").gone += 1;
        self.changed.notify_all();
    }
}

/// One generator of a load, as a target sees it.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The load.
    pub spec: &'a LoadSpec,
    /// The objects and their owners.
    pub catalogue: &'a Catalogue,
    /// The operations.
    pub walks: Walks,
    /// Which generator it is.
    pub index: usize,
    /// Of how many.
    pub count: usize,
    shared: &'a Shared,
}

impl Member<'_> {
    /// The endpoint of each of this generator's connections: those of the load are dealt over
    /// generators and endpoints in turn.
    ///
    /// # Errors
    /// When there are too few connections for every generator to reach every endpoint.
    pub fn lane_endpoints(&self) -> io::Result<Vec<u32>> {
        let endpoints = self.catalogue.endpoints.len();
        let connections = self.spec.connections as usize;
        let mine = connections / self.count + usize::from(self.index < connections % self.count);
        if mine < endpoints {
            let text = format!(
                "{connections} connections are too few for {} generators to reach {endpoints} shards each; \
                 take at least {}",
                self.count,
                self.count * endpoints
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok((0..mine).map(|lane| (lane % endpoints) as u32).collect())
    }

    /// Waits until all generators are connected; none when one of them failed.
    pub fn wait_for_start(&self) -> Option<Stretch> {
        let mut line = self.shared.line.lock().expect("no generator panics here");
        line.connected += 1;
        self.shared.changed.notify_all();
        loop {
            if line.gone > 0 {
                return None;
            }
            if line.connected == self.count {
                let spec = self.spec;
                return Some(*line.stretch.get_or_insert_with(|| {
                    let start = Instant::now() + HEAD_START;
                    let begin = start + spec.warm_up;
                    Stretch {
                        start,
                        begin,
                        end: begin + spec.measured,
                    }
                }));
            }
            line = self
                .shared
                .changed
                .wait(line)
                .expect("no generator panics here");
        }
    }

    /// Whether another generator ended the stretch early.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped.load(Ordering::Relaxed)
    }

    /// Ends the stretch for all.
    pub fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// Loads the target as `spec` says; `on_mark` runs on the calling thread at both ends of the
/// measured part, to look at the server.
///
/// # Errors
/// When an object is missing, the server cannot be reached, refuses, breaks the protocol or falls
/// silent.
pub fn run(spec: &LoadSpec, mut on_mark: impl FnMut(Mark)) -> io::Result<LoadResult> {
    let (names, warm) = spec.names();
    let catalogue = spec.target.resolve(&names)?;
    check_credits(spec, &catalogue)?;
    let lengths: Vec<u64> = catalogue
        .objects
        .iter()
        .map(|object| object.length)
        .collect();
    let walks = Walks::new(&spec.workload, &lengths, warm as u32)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let count = spec.cores.len().max(1);
    let shared = Arc::new(Shared::default());
    std::thread::scope(|scope| {
        let threads = (0..count)
            .map(|index| {
                let (shared, catalogue, walks) = (&*shared, &catalogue, walks.clone());
                let thread = std::thread::Builder::new().name(format!("load-{index}"));
                thread.spawn_scoped(scope, move || {
                    let member = Member {
                        spec,
                        catalogue,
                        walks,
                        index,
                        count,
                        shared,
                    };
                    let result = drive(member);
                    shared.leave(result.is_err());
                    result
                })
            })
            .collect::<io::Result<Vec<_>>>();
        let threads = threads.inspect_err(|_| shared.leave(true))?;
        watch(&shared, &mut on_mark);
        let mut merged: Option<LoadResult> = None;
        let mut failure = None;
        for thread in threads {
            let joined = thread.join();
            match joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(result) => match &mut merged {
                    Some(merged) => merged.merge(&result),
                    None => merged = Some(result),
                },
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(merged.expect("there is at least one generator")),
        }
    })
}

fn drive(member: Member<'_>) -> io::Result<LoadResult> {
    if let Some(core) = member.spec.cores.get(member.index) {
        process::pin(*core).map_err(io::Error::other)?;
    }
    process::wake_precisely();
    let target = Arc::clone(&member.spec.target);
    target.drive(member)
}

/// Calls `on_mark` at the ends of the stretch, or of what there was of it.
fn watch(shared: &Shared, on_mark: &mut impl FnMut(Mark)) {
    let stretch = {
        let mut line = shared.line.lock().expect("no generator panics here");
        loop {
            if line.gone > 0 {
                return;
            }
            if let Some(stretch) = line.stretch {
                break stretch;
            }
            line = shared.changed.wait(line).expect("no generator panics here");
        }
    };
    let sleep_until = |instant: Instant| {
        while Instant::now() < instant && !shared.is_stopped.load(Ordering::Relaxed) {
            if super::interrupt::is_set() {
                return;
            }
            let left = instant.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    };
    sleep_until(stretch.begin);
    on_mark(Mark::Begin);
    sleep_until(stretch.end);
    on_mark(Mark::End);
}

/// A depth over the credits would leave requests in the socket: the depth asked for would not be
/// the depth had.
fn check_credits(spec: &LoadSpec, catalogue: &Catalogue) -> io::Result<()> {
    let (requests_max, bytes_max) = catalogue.in_flight_max;
    let longest = spec.workload.read_bytes_max();
    if spec.depth <= requests_max && u64::from(spec.depth) * longest <= bytes_max {
        return Ok(());
    }
    let text = format!(
        "depth {} of up to {longest} bytes is over the credits of a lane ({requests_max} requests, {bytes_max} bytes); \
         lower the depth",
        spec.depth
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

impl LoadSpec {
    /// The objects of the load, those that are read again and again first, and how many those are.
    pub fn names(&self) -> (Vec<Named>, usize) {
        if !self.paths.is_empty() {
            let named = self.paths.iter().map(|path| Named {
                name: path.clone(),
                length: None,
            });
            return (named.collect(), self.paths.len());
        }
        let named = |(name, length)| Named {
            name,
            length: Some(length),
        };
        let mut names: Vec<Named> = self
            .workload
            .objects
            .list()
            .into_iter()
            .map(named)
            .collect();
        let warm = names.len();
        if let Some(cold) = &self.workload.cold {
            names.extend(cold.list().into_iter().map(named));
        }
        (names, warm)
    }
}
