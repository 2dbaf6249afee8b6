//! The control plane: typed calls of `worker.capnp`, from any thread.
//!
//! capnp-rpc belongs to one thread. It lives on a thread of its own here; [`Control`] sends it the
//! calls and waits for plain values. Calls under way are bounded (64; others wait their turn), and
//! each has a deadline.

mod values;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use corelane_rpc_schema::generated::worker_capnp::{gate, worker};
use futures::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use crate::error::Error;
use crate::local_token;
pub use values::{DeviceStats, Entry, JobState, Mount, ObjectInfo, Progress, ShardStats, Stats};

/// Calls that are under way at a time. The worker bounds them too; waiting here is cheaper.
const CALLS_IN_FLIGHT_MAX: usize = 64;

/// Calls that wait for the connection's thread; more callers wait for room.
const CALLS_QUEUED_MAX: usize = 64;

/// Buffer on each side of the socket: a call then costs one system call instead of one a segment.
const SOCKET_BUFFER_BYTES: usize = 64 << 10;

type Call = Box<dyn FnOnce(worker::Client) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A connection to a worker's control port. Cheap to clone; the connection ends with the last one.
#[derive(Clone, Debug)]
pub struct Control {
    calls: mpsc::Sender<Call>,
    address: String,
    call_timeout: Duration,
}

/// What [`Control::list`] asks for.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Whole trees instead of one level.
    pub recursive: bool,
    /// Only what has bytes in the cache.
    pub cached_only: bool,
    /// Most entries; 0 leaves it to the worker.
    pub limit: u32,
    /// Only entries after this path, in byte order.
    pub after: String,
}

/// What [`Control::free`] freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blocks.
    pub blocks: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Control {
    /// Connects to the control port at `address` (host:port) and shows `token`.
    /// `call_timeout` is for connecting and for each call.
    ///
    /// # Errors
    /// Where there is no worker or it does not accept the token.
    pub async fn connect(
        address: &str,
        token: &str,
        call_timeout: Duration,
    ) -> Result<Control, Error> {
        let (calls, queue) = mpsc::channel(CALLS_QUEUED_MAX);
        let (ready, entered) = oneshot::channel();
        let (thread_address, token) = (address.to_owned(), token.to_owned());
        std::thread::Builder::new()
            .name(String::from("control-client"))
            .spawn(move || run(&thread_address, &token, ready, queue))
            .map_err(|error| connect_error(address, error))?;
        match tokio::time::timeout(call_timeout, entered).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(connect_error(address, "the connection's thread ended")),
            Err(_) => {
                return Err(connect_error(
                    address,
                    format!("no answer within {call_timeout:?}"),
                ));
            }
        }
        Ok(Control {
            calls,
            address: address.to_owned(),
            call_timeout,
        })
    }

    /// Everything that the worker counts.
    ///
    /// # Errors
    /// As for all calls: [`Error::Control`] is the worker's answer, the others are the connection's.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.call("stats", async move |worker| {
            let answer = worker.stats_request().send().promise.await?;
            Stats::read(answer.get()?.get_stats()?)
        })
        .await
    }

    /// The mounts.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn mounts(&self) -> Result<Vec<Mount>, Error> {
        self.call("mounts", async move |worker| {
            let answer = worker.mounts_request().send().promise.await?;
            answer
                .get()?
                .get_mounts()?
                .iter()
                .map(Mount::read)
                .collect()
        })
        .await
    }

    /// Adds a mount, or replaces the one at the same path.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn mount(&self, mount: Mount) -> Result<(), Error> {
        self.call("mount", async move |worker| {
            let mut request = worker.mount_request();
            mount.write(request.get().init_mount());
            request.send().promise.await.map(drop)
        })
        .await
    }

    /// Removes the mount at `path`.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn unmount(&self, path: &str) -> Result<(), Error> {
        let path = path.to_owned();
        self.call("unmount", async move |worker| {
            let mut request = worker.unmount_request();
            request.get().set_path(path.as_str());
            request.send().promise.await.map(drop)
        })
        .await
    }

    /// What is known of the object at `path`.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn stat(&self, path: &str) -> Result<ObjectInfo, Error> {
        let path = path.to_owned();
        self.call("stat", async move |worker| {
            let mut request = worker.stat_request();
            request.get().set_path(path.as_str());
            let answer = request.send().promise.await?;
            ObjectInfo::read(answer.get()?.get_object()?)
        })
        .await
    }

    /// Entries below `path`, and whether there are more after the last one.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn list(
        &self,
        path: &str,
        options: ListOptions,
    ) -> Result<(Vec<Entry>, bool), Error> {
        let path = path.to_owned();
        self.call("list", async move |worker| {
            let mut request = worker.list_request();
            let mut parameters = request.get();
            parameters.set_path(path.as_str());
            parameters.set_recursive(options.recursive);
            parameters.set_cached_only(options.cached_only);
            parameters.set_limit(options.limit);
            parameters.set_after(options.after.as_str());
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            let entries = answer
                .get_entries()?
                .iter()
                .map(Entry::read)
                .collect::<capnp::Result<_>>()?;
            Ok((entries, answer.get_more()))
        })
        .await
    }

    /// Starts to load what is below `path` into the cache; returns the job's number.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn load(&self, path: &str, recursive: bool) -> Result<u64, Error> {
        let path = path.to_owned();
        self.call("load", async move |worker| {
            let mut request = worker.load_request();
            request.get().set_path(path.as_str());
            request.get().set_recursive(recursive);
            Ok(request.send().promise.await?.get()?.get_job())
        })
        .await
    }

    /// Drops what is cached below `path`.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn free(&self, path: &str, recursive: bool) -> Result<Freed, Error> {
        let path = path.to_owned();
        self.call("free", async move |worker| {
            let mut request = worker.free_request();
            request.get().set_path(path.as_str());
            request.get().set_recursive(recursive);
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            Ok(Freed {
                blocks: answer.get_blocks(),
                bytes: answer.get_bytes(),
            })
        })
        .await
    }

    /// Pins or unpins what is below `path`; returns the number of objects.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn pin(&self, path: &str, recursive: bool, pinned: bool) -> Result<u64, Error> {
        let path = path.to_owned();
        self.call("pin", async move |worker| {
            let mut request = worker.pin_request();
            request.get().set_path(path.as_str());
            request.get().set_recursive(recursive);
            request.get().set_pinned(pinned);
            Ok(request.send().promise.await?.get()?.get_objects())
        })
        .await
    }

    /// Starts to read and check what the devices hold of everything below `path`; returns the job.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn verify(&self, path: &str) -> Result<u64, Error> {
        let path = path.to_owned();
        self.call("verify", async move |worker| {
            let mut request = worker.verify_request();
            request.get().set_path(path.as_str());
            Ok(request.send().promise.await?.get()?.get_job())
        })
        .await
    }

    /// How far a job is.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn progress(&self, job: u64) -> Result<Progress, Error> {
        self.call("progress", async move |worker| {
            let mut request = worker.progress_request();
            request.get().set_job(job);
            let answer = request.send().promise.await?;
            Progress::read(answer.get()?.get_progress()?)
        })
        .await
    }

    /// Ends a job early. What it did stays.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn cancel(&self, job: u64) -> Result<(), Error> {
        self.call("cancel", async move |worker| {
            let mut request = worker.cancel_request();
            request.get().set_job(job);
            request.send().promise.await.map(drop)
        })
        .await
    }

    /// Up to 1 MiB of an object, and the object's version. [`crate::Client`] is faster.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn read(
        &self,
        path: &str,
        offset: u64,
        length: u32,
    ) -> Result<(Vec<u8>, String), Error> {
        let path = path.to_owned();
        self.call("read", async move |worker| {
            let mut request = worker.read_request();
            let mut parameters = request.get();
            parameters.set_path(path.as_str());
            parameters.set_offset(offset);
            parameters.set_length(length);
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            Ok((
                answer.get_data()?.to_vec(),
                answer.get_version()?.to_string()?,
            ))
        })
        .await
    }

    /// All jobs that the worker remembers.
    ///
    /// # Errors
    /// See [`Control::stats`].
    pub async fn jobs(&self) -> Result<Vec<Progress>, Error> {
        self.call("jobs", async move |worker| {
            let answer = worker.jobs_request().send().promise.await?;
            answer
                .get()?
                .get_jobs()?
                .iter()
                .map(Progress::read)
                .collect()
        })
        .await
    }

    /// Runs `call` on the connection's thread.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl AsyncFnOnce(worker::Client) -> capnp::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (mut sender, answer) = oneshot::channel();
        let call: Call = Box::new(move |worker| {
            Box::pin(async move {
                let outcome = tokio::select! {
                    outcome = call(worker) => outcome,
                    // The caller's deadline has passed: dropping the call tells the worker.
                    () = sender.closed() => return,
                };
                let _ = sender.send(outcome);
            })
        });
        let ended = || Error::Disconnected {
            address: self.address.clone(),
            reason: String::from("the control connection has ended; connect again"),
        };
        let asked = async {
            self.calls.send(call).await.map_err(|_| ended())?;
            answer
                .await
                .map_err(|_| ended())?
                .map_err(|error| self.call_error(what, error))
        };
        match tokio::time::timeout(self.call_timeout, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout {
                what: what.to_owned(),
                address: self.address.clone(),
                after: self.call_timeout,
            }),
        }
    }

    fn call_error(&self, what: &'static str, error: capnp::Error) -> Error {
        match error.kind {
            capnp::ErrorKind::Disconnected => Error::Disconnected {
                address: self.address.clone(),
                reason: error.extra,
            },
            _ => Error::Control {
                what,
                reason: reason(error),
            },
        }
    }
}

/// The worker's sentence, without what capnp-rpc puts before it.
fn reason(error: capnp::Error) -> String {
    match error.extra.strip_prefix("remote exception: ") {
        Some(sentence) => sentence.to_owned(),
        None if error.extra.is_empty() => error.to_string(),
        None => error.extra,
    }
}

fn connect_error(address: &str, reason: impl ToString) -> Error {
    Error::Connect {
        address: address.to_owned(),
        reason: reason.to_string(),
    }
}

/// The connection's thread: enters the gate, then serves calls until the last [`Control`] is gone
/// or the connection has ended.
fn run(
    address: &str,
    token: &str,
    ready: oneshot::Sender<Result<(), Error>>,
    queue: mpsc::Receiver<Call>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(connect_error(address, error)));
            return;
        }
    };
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let entered = match TcpStream::connect(address).await {
            Ok(stream) => enter(address, token, stream, ready).await,
            Err(error) => {
                let _ = ready.send(Err(connect_error(address, error)));
                None
            }
        };
        if let Some((worker, rpc)) = entered {
            serve(worker, rpc, queue).await;
        }
    });
}

type RpcTask = tokio::task::JoinHandle<capnp::Result<()>>;

async fn enter(
    address: &str,
    token: &str,
    stream: TcpStream,
    ready: oneshot::Sender<Result<(), Error>>,
) -> Option<(worker::Client, RpcTask)> {
    // Without it each call waits for the worker's delayed acknowledgement. Failing is no reason to end.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.compat().split();
    let network = twoparty::VatNetwork::new(
        futures::io::BufReader::with_capacity(SOCKET_BUFFER_BYTES, reader),
        futures::io::BufWriter::with_capacity(SOCKET_BUFFER_BYTES, writer),
        Side::Client,
        capnp::message::ReaderOptions::new(),
    );
    let mut rpc = RpcSystem::new(Box::new(network), None);
    let gate: gate::Client = rpc.bootstrap(Side::Server);
    let rpc = tokio::task::spawn_local(rpc);
    let mut request = gate.enter_request();
    request
        .get()
        .set_token(local_token::or_local(token, address));
    let worker = async { request.send().promise.await?.get()?.get_worker() }.await;
    match worker {
        Ok(worker) => ready.send(Ok(())).ok().map(|()| (worker, rpc)),
        Err(error) => {
            let error = match error.kind {
                capnp::ErrorKind::Disconnected => connect_error(address, error.extra),
                _ => Error::Control {
                    what: "enter",
                    reason: reason(error),
                },
            };
            let _ = ready.send(Err(error));
            None
        }
    }
}

async fn serve(worker: worker::Client, mut rpc: RpcTask, mut queue: mpsc::Receiver<Call>) {
    let mut calls = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            call = queue.recv(), if calls.len() < CALLS_IN_FLIGHT_MAX => match call {
                Some(call) => drop(calls.spawn_local(call(worker.clone()))),
                None => return,
            },
            Some(_) = calls.join_next() => {}
            // The calls under way have got their error from capnp-rpc; later ones find the queue closed.
            _ = &mut rpc => {
                while calls.join_next().await.is_some() {}
                return;
            }
        }
    }
}
