//! The life of the control thread: it waits for the shards, serves, and ends everything in order.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use corelane_rpc_schema::ShardId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{FailureKind, WorkerError};
use super::running::{Command, StartReport};
use super::seats::SeatReady;
use super::{EndOfShard, pin_thread};
use crate::access::Access;
use crate::config::{Changes, Config};
use crate::control_plane::catalogue::Catalogue;
use crate::control_plane::shards::{ANSWER_DEADLINE, AskError, Shards};
use crate::control_plane::state::SavedState;
use crate::control_plane::{Control, ControlSetup, server};
use crate::operations::{self, status::Status};
use crate::shard::request::ShardRequest;

/// How long a stop may take in all, whatever hangs: a device, an under-store, a client. The unit of systemd
/// kills the worker after 90 s (`TimeoutStopSec`); the rest is for the fetch threads (5 s) and the exit.
const STOP_MAX: Duration = Duration::from_secs(75);

/// Of that, how long jobs and mounts may take to be kept.
const SAVE_MAX: Duration = Duration::from_secs(10);

/// Of that, how long threads may take to end after their shard has said that it stopped: a core waits for 10 s
/// for what its ring has in flight. What is left is for the shards to drain their lanes (10 s, twice at most) and to close
/// their stores (20 s).
const JOIN_MAX: Duration = Duration::from_secs(12);

/// What the control thread starts with.
pub(super) struct Setup {
    pub config: Config,
    pub worker_id: String,
    pub access: Arc<Access>,
    pub catalogue: Arc<dyn Catalogue>,
    pub region_bytes: u32,
    pub shards: Shards,
    pub s3: Option<String>,
    pub ready: Vec<oneshot::Receiver<Result<SeatReady, String>>>,
    pub ends: mpsc::UnboundedReceiver<EndOfShard>,
    pub threads: Vec<JoinHandle<()>>,
    pub companions: Vec<Box<dyn Send>>,
    pub control: TcpListener,
    pub operations: TcpListener,
    pub commands: mpsc::Receiver<Command>,
    pub started: oneshot::Sender<StartReport>,
}

/// Starts the control thread. It ends when the worker has ended.
pub(super) fn spawn(setup: Setup) -> Result<JoinHandle<Result<(), WorkerError>>, WorkerError> {
    let environment = |error: std::io::Error| {
        WorkerError::new(
            FailureKind::Environment,
            format!("cannot start the control thread: {error}"),
        )
    };
    let thread = std::thread::Builder::new().name("control".to_owned());
    let body = move || {
        let mut setup = setup;
        let companions = std::mem::take(&mut setup.companions);
        pin_thread(&setup.config.control_cpus);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(environment)?;
        let local = LocalSet::new();
        let ended = local.block_on(&runtime, live(setup));
        // Whoever still asks the under-stores goes first, then the threads behind them, which may not
        // be waited for inside a runtime.
        drop(local);
        drop(companions);
        // Names that are being resolved, or files that are being read, are not waited for.
        runtime.shutdown_background();
        ended
    };
    thread.spawn(body).map_err(environment)
}

async fn live(setup: Setup) -> Result<(), WorkerError> {
    let Setup {
        config,
        ready,
        mut ends,
        mut commands,
        started,
        threads,
        ..
    } = setup;
    let shards = setup.shards;
    let status = Rc::new(Status::default());
    let operations_address = address_of(&setup.operations)?;
    let control_address = address_of(&setup.control)?;
    let operations = operations::serve(
        setup.operations,
        Rc::clone(&status),
        &config,
        Arc::clone(&setup.access),
    )?;

    // Counts from the moment in which the worker was told to stop, or had to.
    let end = Cell::new(None);
    let served = async {
        let seats = all_ready(ready).await?;
        let state = saved_state(&seats)?;
        let (data, recovered_blocks, recovery) = summary(&seats);
        let epoch = seats[0].epoch;
        let resumed = state.jobs.clone();
        let control = Control::new(ControlSetup {
            worker_id: setup.worker_id.clone(),
            epoch,
            shards: shards.clone(),
            access: setup.access,
            catalogue: setup.catalogue,
            config,
            state,
            region_bytes: setup.region_bytes,
        });
        let control = control
            .await
            .map_err(|message| WorkerError::new(FailureKind::Other, message))?;
        open_for_service(&shards, &seats).await?;
        let listener = server::listen(setup.control, &control)?;
        control.resume(resumed);
        status.serve(Rc::clone(&control));
        let report = StartReport {
            worker_id: setup.worker_id,
            epoch,
            data,
            control: control_address,
            operations: operations_address,
            s3: setup.s3,
            recovered_blocks,
            recovery,
        };
        // Whoever started us gave up when nobody receives: the stop command follows.
        let _ = started.send(report);
        let result = until_the_end(&control, &mut commands, &mut ends).await;
        end.set(Some(Instant::now() + STOP_MAX));
        status.stop();
        listener.abort();
        if timeout(SAVE_MAX, control.wind_up()).await.is_err() {
            tracing::warn!("unfinished jobs and run-time mounts could not be kept in time");
        }
        result
    }
    .await;
    status.stop();
    let end = end.get().unwrap_or_else(|| Instant::now() + STOP_MAX);
    let ended = stop_shards(&shards, threads, operations.finish(), end).await;
    served.and(ended)
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, WorkerError> {
    listener.local_addr().map_err(|error| {
        WorkerError::new(
            FailureKind::Environment,
            format!("a listener has no address: {error}"),
        )
    })
}

async fn all_ready(
    ready: Vec<oneshot::Receiver<Result<SeatReady, String>>>,
) -> Result<Vec<SeatReady>, WorkerError> {
    let mut seats = Vec::with_capacity(ready.len());
    for (shard, receiver) in ready.into_iter().enumerate() {
        let told = receiver
            .await
            .unwrap_or_else(|_| Err("its thread ended; see the log above".to_owned()));
        let seat = told.map_err(|message| {
            // A shard that cannot start names a device or a limit of the machine; which of them,
            // its sentence says.
            WorkerError::new(
                FailureKind::Device,
                format!("shard {shard} cannot start: {message}"),
            )
        })?;
        seats.push(seat);
    }
    Ok(seats)
}

fn saved_state(seats: &[SeatReady]) -> Result<SavedState, WorkerError> {
    use crate::control_plane::state::StateError;
    match SavedState::from_bytes(seats[0].state.as_deref().unwrap_or_default()) {
        Ok(state) => Ok(state),
        Err(error @ StateError::Newer(_)) => {
            Err(WorkerError::new(FailureKind::Device, error.to_string()))
        }
        Err(error) => {
            tracing::error!("{error}");
            Ok(SavedState::default())
        }
    }
}

fn summary(seats: &[SeatReady]) -> (Vec<SocketAddr>, u64, Duration) {
    let data = seats.iter().map(|seat| seat.address).collect();
    let blocks = seats.iter().map(|seat| seat.recovered_blocks).sum();
    (
        data,
        blocks,
        seats
            .iter()
            .map(|seat| seat.recovery)
            .max()
            .unwrap_or_default(),
    )
}

async fn open_for_service(shards: &Shards, seats: &[SeatReady]) -> Result<(), WorkerError> {
    let ports: Arc<[u16]> = seats.iter().map(|seat| seat.address.port()).collect();
    let epoch = seats[0].epoch;
    let serve = || ShardRequest::Serve {
        ports: Arc::clone(&ports),
        epoch,
        doorbells: seats
            .iter()
            .map(|seat| Arc::clone(&seat.doorbell))
            .collect(),
    };
    let other = |error: AskError| WorkerError::new(FailureKind::Other, error.to_string());
    shards.tell_all(serve).await.map_err(other)?;
    // Letters are opened in their order: a shard that answers this one accepts connections.
    let answered = shards.ask_all(ANSWER_DEADLINE, |answer| ShardRequest::Devices { answer });
    answered.await.map_err(other)?;
    Ok(())
}

/// Handles commands until one says stop or a shard fails.
async fn until_the_end(
    control: &Rc<Control>,
    commands: &mut mpsc::Receiver<Command>,
    ends: &mut mpsc::UnboundedReceiver<EndOfShard>,
) -> Result<(), WorkerError> {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Reload { config, answer }) => {
                    let Some(result) = reload(control, *config, commands).await else {
                        return Ok(());
                    };
                    // Whoever asked may be gone.
                    let _ = answer.send(result);
                }
                Some(Command::Stop) | None => return Ok(()),
            },
            Some((ShardId(shard), result)) = ends.recv() => {
                let why = result.err().unwrap_or_else(|| "it ended without being told to".to_owned());
                let message = format!("shard {shard} failed: {why}; the worker ends, restart it to recover");
                tracing::error!("{message}");
                return Err(WorkerError::new(FailureKind::Other, message));
            }
        }
    }
}

/// Takes over a configuration; `None` if the worker is to stop meanwhile, which waits for no reload.
async fn reload(
    control: &Control,
    config: Config,
    commands: &mut mpsc::Receiver<Command>,
) -> Option<Result<Changes, String>> {
    let mut reloaded = std::pin::pin!(control.reload(config));
    loop {
        tokio::select! {
            result = &mut reloaded => return Some(result),
            command = commands.recv() => match command {
                Some(Command::Reload { answer, .. }) => {
                    let _ = answer.send(Err("the configuration before is still being taken over; try again".to_owned()));
                }
                Some(Command::Stop) | None => return None,
            },
        }
    }
}

/// Sends a letter to every shard and waits for the answers; the shards that were late.
async fn tell_all(
    shards: &Shards,
    end: Instant,
    letter: impl Fn(oneshot::Sender<()>) -> ShardRequest,
) -> Vec<u16> {
    let (mut answers, mut late) = (Vec::new(), Vec::new());
    for shard in shards.ids() {
        let (answer, answered) = oneshot::channel();
        match timeout_at(end, shards.tell(shard, letter(answer))).await {
            Ok(Ok(())) => answers.push((shard, answered)),
            // A shard that is gone already needs no telling.
            Ok(Err(AskError::Stopping(_))) => {}
            Ok(Err(_)) | Err(_) => late.push(shard.0),
        }
    }
    for (shard, answered) in answers {
        // A dropped answer is a shard that ended first; its thread is waited for.
        if timeout_at(end, answered).await.is_err() {
            late.push(shard.0);
        }
    }
    late
}

/// Tells every shard to finish and flush, and waits for their threads. What asks shards from outside of
/// their lanes is over with `askers`. All of it is over at `all_end`.
async fn stop_shards(
    shards: &Shards,
    threads: Vec<JoinHandle<()>>,
    askers: impl Future<Output = ()>,
    all_end: Instant,
) -> Result<(), WorkerError> {
    let end = all_end - JOIN_MAX;
    // In two steps, because a lane of one shard may wait for an answer of another.
    // Half of the time for the first, so that closing the stores has the rest whatever the lanes do.
    let now = Instant::now();
    let drain_end = now + end.saturating_duration_since(now) / 2;
    let drained = tell_all(shards, drain_end, |answer| ShardRequest::Drain { answer });
    let (drained, _) = tokio::join!(drained, timeout_at(drain_end, askers));
    let stopped = tell_all(shards, end, |answer| ShardRequest::Stop { answer }).await;
    let mut late: Vec<u16> = drained.into_iter().chain(stopped).collect();
    late.sort_unstable();
    late.dedup();
    if !late.is_empty() {
        let late: Vec<String> = late.iter().map(u16::to_string).collect();
        let message = format!(
            "shard {} did not stop within {} s; blocks of its last flushes may be missing from the cache",
            late.join(", "),
            (STOP_MAX - JOIN_MAX).as_secs()
        );
        return Err(WorkerError::new(FailureKind::Other, message));
    }
    // On a thread of its own: what a ring has in flight may keep the end of its thread in the kernel for ever.
    let (ended, all_ended) = oneshot::channel();
    let join = move || {
        for thread in threads {
            // A panic was reported as the end of the shard.
            let _ = thread.join();
        }
        let _ = ended.send(());
    };
    let is_joining = std::thread::Builder::new()
        .name("join".to_owned())
        .spawn(join)
        .is_ok();
    if !is_joining || timeout(JOIN_MAX, all_ended).await.is_err() {
        let message = format!(
            "a shard's thread did not end within {} s; a device that does not answer may hold it",
            JOIN_MAX.as_secs()
        );
        return Err(WorkerError::new(FailureKind::Other, message));
    }
    Ok(())
}
