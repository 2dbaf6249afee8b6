//! A worker that runs: its addresses, and the ways to change and end it.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::error::{FailureKind, WorkerError};
use super::local_token::LocalTokenFiles;
use crate::config::{Changes, Config};

/// What can be asked of the control thread.
pub(super) enum Command {
    /// End in good order.
    Stop,
    /// Take over a changed configuration.
    Reload {
        config: Box<Config>,
        answer: oneshot::Sender<Result<Changes, String>>,
    },
}

/// What a worker says of itself once it serves.
#[derive(Clone, Debug)]
pub struct StartReport {
    /// Its name.
    pub worker_id: String,
    /// Starts of the device set so far.
    pub epoch: u64,
    /// Data-plane address of each shard.
    pub data: Vec<SocketAddr>,
    /// Control plane.
    pub control: SocketAddr,
    /// Operations port.
    pub operations: SocketAddr,
    /// URL of the S3 face, if there is one.
    pub s3: Option<String>,
    /// Blocks that came back from the devices.
    pub recovered_blocks: u64,
    /// How long the slowest shard's recovery took.
    pub recovery: Duration,
}

/// A running worker. Dropping it stops the worker and waits for its end.
pub struct RunningWorker {
    pub(super) report: StartReport,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) thread: Option<JoinHandle<Result<(), WorkerError>>>,
    /// Removed when the worker has ended.
    pub(super) local_token: Option<LocalTokenFiles>,
}

/// Asks a worker to stop, from another thread.
#[derive(Clone)]
pub struct Stopper(mpsc::Sender<Command>);

impl Stopper {
    /// Asks; [`RunningWorker::wait`] tells when it has happened.
    pub fn stop(&self) {
        // A full queue means that a stop or reload is under way and another stop may be lost, so
        // this one waits; a closed one that the worker has ended.
        let _ = self.0.blocking_send(Command::Stop);
    }

    /// Hands over a changed configuration.
    ///
    /// # Errors
    /// A sentence, when it could not be applied or the worker is ending.
    pub fn reload(&self, config: Config) -> Result<Changes, String> {
        let ending = |_| "the worker is stopping".to_owned();
        let (answer, answered) = oneshot::channel();
        let command = Command::Reload {
            config: Box::new(config),
            answer,
        };
        self.0
            .blocking_send(command)
            .map_err(|error| ending(error.to_string()))?;
        answered
            .blocking_recv()
            .map_err(|error| ending(error.to_string()))?
    }
}

impl RunningWorker {
    /// What it said when it began to serve.
    pub fn report(&self) -> &StartReport {
        &self.report
    }

    /// Data port of each shard.
    pub fn ports(&self) -> Vec<u16> {
        self.report.data.iter().map(SocketAddr::port).collect()
    }

    /// Data-plane address of shard 0.
    pub fn data_address(&self) -> SocketAddr {
        self.report.data[0]
    }

    /// Address of the control plane.
    pub fn control_address(&self) -> SocketAddr {
        self.report.control
    }

    /// Address of the operations port.
    pub fn operations_address(&self) -> SocketAddr {
        self.report.operations
    }

    /// A handle for other threads. Not to be used on a thread of an async runtime.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.commands.clone())
    }

    /// Stops accepting, finishes what is under way, flushes, and waits until all has ended.
    ///
    /// # Errors
    /// When it had failed before, or could not end in good order.
    pub fn stop(mut self) -> Result<(), WorkerError> {
        self.stopper().stop();
        self.join()
    }

    /// Waits until the worker ends: because it was told to, or because a shard failed.
    ///
    /// # Errors
    /// Why it ended, unless it was told to.
    pub fn wait(mut self) -> Result<(), WorkerError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), WorkerError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let ended = thread.join();
        drop(self.local_token.take());
        ended.unwrap_or_else(|_| {
            Err(WorkerError::new(
                FailureKind::Other,
                "the control thread panicked; see the log above",
            ))
        })
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stopper().stop();
            let _ = self.join();
        }
    }
}
