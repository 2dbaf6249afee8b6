//! Threads for work that would keep reads waiting: decompression of large pages, footers of a thousand
//! columns, sorting of key indexes.
//!
//! The invariant: a job that was accepted runs to its end, and whoever waits for it is woken, on the core
//! that waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use corelane_io::{Io, IoError, cores};
use futures::channel::oneshot;

use crate::data_plane::outbox::UnsentLookups;

/// Jobs that may wait. One that finds no room waits on its core, which bounds the memory.
const JOBS_MAX: usize = 1024;

/// How long a core waits between tries when the queue is full.
const FULL_RETRY: Duration = Duration::from_micros(200);

/// Work that is estimated below this runs in line: handing it over and back costs some 20 µs, and the
/// design allows a core 100 µs at a time.
pub const IN_LINE_MAX: Duration = Duration::from_micros(100);

type Job = Box<dyn FnOnce() + Send>;

/// A way to the threads, or the word that there are none.
#[derive(Clone, Default)]
pub struct Compute {
    jobs: Option<SyncSender<Job>>,
    /// When they were started.
    started: Option<Instant>,
    unsent: UnsentLookups,
}

impl Compute {
    /// No threads: everything runs in line. For the simulation, which has one thread.
    pub fn in_line() -> Self {
        Compute::default()
    }

    /// Starts `threads` threads of a niceness, so that data cores come first where they share a CPU.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(threads: usize, nice: i32) -> Result<Self, IoError> {
        let (jobs, queue) = sync_channel::<Job>(JOBS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("compute-{number}"))
                .spawn(move || {
                    if nice != 0
                        && let Err(error) = cores::give_way(nice)
                    {
                        tracing::warn!(%error, "a compute thread keeps its priority");
                    }
                    work(&queue);
                })
                .map_err(|error| {
                    IoError::from_std(
                        &error,
                        "cannot start a thread; raise the limit on processes",
                    )
                })?;
        }
        Ok(Compute {
            jobs: Some(jobs),
            started: Some(Instant::now()),
            unsent: UnsentLookups::default(),
        })
    }

    /// Answers that wait to be sent, of all shards that share the threads.
    pub(super) fn unsent(&self) -> &UnsentLookups {
        &self.unsent
    }

    /// Time since the threads were started, also while a core is at work and its own clock stands; none
    /// where there are no threads and time is not real.
    pub fn elapsed(&self) -> Option<Duration> {
        self.started.map(|started| started.elapsed())
    }

    /// Runs `work`, which takes about `estimate`.
    pub async fn run<I: Io, T: Send + 'static>(
        &self,
        io: &I,
        estimate: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let jobs = match &self.jobs {
            Some(jobs) if estimate > IN_LINE_MAX => jobs,
            _ => return work(),
        };
        let (done, result) = oneshot::channel();
        let mut job: Job = Box::new(move || {
            // Whoever asked may be gone.
            let _ = done.send(work());
        });
        loop {
            match jobs.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => job = back,
                Err(TrySendError::Disconnected(back)) => {
                    back();
                    break;
                }
            }
            io.sleep(FULL_RETRY).await;
        }
        result.await.expect("an accepted job runs to its end")
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(),
            // All shards are gone.
            Err(_) => return,
        }
    }
}
