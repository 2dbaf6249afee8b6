//! A worker with its S3 face open, in front of a folder.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use crate::client::{Answer, Connection};
use crate::harness::{Bed, Process};

/// Everyone may do everything.
pub const OPEN: &str =
    "[s3]\nlisten = \"127.0.0.1:0\"\nanonymous = [\"read\", \"list\", \"write\", \"delete\"]\n";

/// A worker that serves, and its bed. `/data`, the bucket `data`, is the bed's folder `source`.
pub struct Scene {
    pub bed: Bed,
    process: Option<Process>,
}

impl Deref for Scene {
    type Target = Process;

    fn deref(&self) -> &Process {
        self.process.as_ref().expect("it has not ended")
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("it has not ended")
    }
}

impl Scene {
    /// Two cores, everyone may do everything, objects never change.
    #[track_caller]
    pub fn open() -> Self {
        Scene::on(Bed::in_memory())
    }

    /// The same on another bed.
    #[track_caller]
    pub fn on(mut bed: Bed) -> Self {
        bed.sections.insert_str(0, OPEN);
        Scene::with(bed)
    }

    /// With the sections that the bed has.
    #[track_caller]
    pub fn with(bed: Bed) -> Self {
        let process = bed.start();
        Scene {
            bed,
            process: Some(process),
        }
    }

    /// A new connection to the face.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::to(self.s3.expect("the face is open"))
    }

    /// So many new connections.
    #[track_caller]
    pub fn connections(&self, count: usize) -> Vec<Connection> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// The answer to one request on a connection of its own.
    #[track_caller]
    pub fn ask(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.connect().ask(bytes)
    }

    /// A counter of what a mount asked its under-store for; zero before the first request.
    #[track_caller]
    pub fn under_store_counter(&self, name: &str, mount: &str) -> u64 {
        let begin = format!("corelane_under_store_{name}_total{{mount=\"{mount}\"}} ");
        let metrics = self.metrics();
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&begin));
        values
            .next()
            .map_or(0, |value| value.parse().expect("a number"))
    }

    /// The file behind a key of `data`.
    pub fn file(&self, key: &str) -> PathBuf {
        self.bed.path("source").join(key)
    }

    /// Waits for the worker's end, which must be in good order; gives its log.
    #[track_caller]
    pub fn ended(mut self) -> String {
        self.process.take().expect("it has not ended").ended_well()
    }

    /// Starts the worker again on what it stands on, after an end in good order or a sudden one.
    #[track_caller]
    pub fn restart(&mut self, is_sudden: bool) {
        if is_sudden {
            self.process.take().expect("it has not ended").kill();
        } else {
            self.stop();
        }
        self.process = Some(self.bed.start());
    }

    /// Ends the worker in good order and leaves what it stood on.
    #[track_caller]
    pub fn stop(&mut self) {
        let process = self.process.take().expect("it has not ended");
        process.terminate();
    }

    /// Ends the worker in good order; gives its log.
    #[track_caller]
    pub fn terminate(mut self) -> String {
        self.process.take().expect("it has not ended").terminate()
    }
}
