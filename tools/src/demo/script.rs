//! What the demo does, in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use corelane_client::control::{Control, JobState};
use corelane_client::{Client, Options};

use super::DEPTH;
use super::files::{self, SourceFile};
use super::reading::{self, Comparison, Opened, Pages};
use super::report::Report;
use super::tables::LINEITEM;
use super::worker_process::{DEVICE_BYTES, DemoConfig, WorkerProcess};
use crate::failure::Failure;
use crate::quantity::{bytes, count};

/// Where the folder is mounted.
const MOUNT: &str = "/demo";

/// How long random reads are measured: one at a time, then together.
const SPEED_TIME: Duration = Duration::from_secs(1);

/// Pages of the hot set, 8 MiB: far below the worker's DRAM.
const HOT_PAGES: usize = 2048;

/// Rounds over the hot pages before their speed is measured, at most.
const WARM_UPS_MAX: usize = 5;

/// Shards of the demo's worker; more would need a larger device.
const SHARDS_MAX: usize = 2;

/// What is dropped and then loaded again when the worker is killed. The rest stays cached.
const DROPPED: [&str; 2] = ["sizes", LINEITEM];

/// Part of the load that is done when the worker is killed.
const KILL_AT: f64 = 0.3;

/// A load may be over before it is noticed to have begun; more often than this it is not.
const LOADS_MAX: usize = 5;

/// Longest wait for blocks to reach the device.
const SETTLE_MAX: Duration = Duration::from_secs(10);

const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The demo's folder and clock.
pub struct Script {
    folder: PathBuf,
    config: PathBuf,
    log: PathBuf,
    began: Instant,
}

/// Both connections to a worker.
struct Connections {
    data: Client,
    control: Control,
}

/// Ends the making of files when the demo ends before it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Script {
    /// A script that plays in `place`.
    pub fn new(place: &Path) -> Self {
        Script {
            folder: place.join("files"),
            config: place.join("worker.toml"),
            log: place.join("worker.log"),
            began: Instant::now(),
        }
    }

    /// Plays it all; leaves the worker running.
    pub async fn play(&mut self, scale: f64) -> Result<(Report, WorkerProcess), Failure> {
        let files = self.make_files(scale).await?;
        let mut report = Report {
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes.len() as u64).sum(),
            ..Report::default()
        };
        self.say(&format!("{} files, {}", report.files, bytes(report.bytes)));
        self.write_config()?;
        self.say(&format!(
            "starting a worker on a new device file of {}",
            bytes(DEVICE_BYTES)
        ));
        let worker = self.start().await?;
        self.read_twice(&worker, &files, &mut report).await?;
        self.kill_in_a_load(worker, &files, &mut report).await?;
        let worker = self.come_back(&files, &mut report).await?;
        Ok((report, worker))
    }

    /// How to go on by hand.
    pub fn invitation(&self, worker: &WorkerProcess) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("corelane"));
        let program = program.display();
        let control = &worker.ready.control;
        let data = worker.ready.data.first().map_or("", String::as_str);
        format!(
            "\nThe worker goes on serving until Ctrl-C. In another terminal:\n\
             \x20 {program} ls {MOUNT}/tpch --control {control}\n\
             \x20 {program} status --control {control}\n\
             \x20 {program} cat {MOUNT}/tpch/orders.parquet --address {data} | sha256sum\n\
             \x20 sha256sum {}/tpch/orders.parquet\n\
             \x20 curl {}/metrics",
            self.folder.display(),
            worker.ready.operations,
        )
    }

    async fn make_files(&self, scale: f64) -> Result<Vec<SourceFile>, Failure> {
        self.say(&format!(
            "making TPC-H tables at scale {scale} and files of awkward sizes"
        ));
        let folder = self.folder.clone();
        let stop = StopOnDrop(Arc::default());
        let stopped = Arc::clone(&stop.0);
        tokio::task::spawn_blocking(move || files::make(&folder, scale, &stopped))
            .await
            .map_err(|error| Failure::failed(format!("making files: {error}")))?
            .map_err(|error| Failure::failed(format!("{}: {error}", self.folder.display())))
    }

    fn write_config(&self) -> Result<(), Failure> {
        let allowed = corelane_worker::config::cpus_allowed();
        // The first CPU is left to the client and to the worker's other threads, if there are more.
        let first = usize::from(allowed.len() > 1);
        let config = DemoConfig {
            device: self.config.with_file_name("device"),
            folder: &self.folder,
            mount: MOUNT,
            cores: allowed.into_iter().skip(first).take(SHARDS_MAX).collect(),
        };
        std::fs::write(&self.config, config.text()?)
            .map_err(|error| Failure::failed(format!("{}: {error}", self.config.display())))
    }

    async fn start(&self) -> Result<WorkerProcess, Failure> {
        WorkerProcess::start(&self.config, &self.log).await
    }

    async fn read_twice(
        &self,
        worker: &WorkerProcess,
        files: &[SourceFile],
        report: &mut Report,
    ) -> Result<(), Failure> {
        let data = connect(worker).await?.data;
        let opened = reading::open_all(&data, MOUNT, files).await?;
        self.say(
            "reading every file, cold (fetches are held to a limit, as from a store far away)",
        );
        let (cold, time) = timed(&data, &opened).await?;
        report.add_pass("cold", "every file, cold", cold, time);
        self.say("reading every file again, warm");
        let (warm, time) = timed(&data, &opened).await?;
        report.add_pass("warm", "every file, warm", warm, time);
        self.say("reading random pages of 4 KiB from DRAM");
        let mut pages = Pages::again_and_again(opened, HOT_PAGES);
        self.warm_up(&data, &mut pages, report).await?;
        let speed = reading::read_pages(&data, &mut pages, SPEED_TIME, DEPTH, SPEED_TIME).await?;
        report.add_speed("dram", "random 4 KiB, hot", &speed);
        Ok(())
    }

    /// Reads the hot pages until all of them come from DRAM. Some need to be asked for more than
    /// once: the DRAM tier keeps what is asked for again rather than what came last.
    async fn warm_up(
        &self,
        data: &Client,
        pages: &mut Pages,
        report: &mut Report,
    ) -> Result<(), Failure> {
        for _ in 0..WARM_UPS_MAX {
            let round = reading::touch(data, pages, HOT_PAGES).await?;
            report.add_comparison(round);
            if round.sources.dram == round.sources.total() {
                break;
            }
        }
        Ok(())
    }

    /// Drops a part of the files, loads it again, and kills the worker on the way.
    async fn kill_in_a_load(
        &self,
        worker: WorkerProcess,
        files: &[SourceFile],
        report: &mut Report,
    ) -> Result<(), Failure> {
        let control = connect(&worker).await?.control;
        settle(&control, files).await?;
        self.say("dropping a part of the files and loading it again");
        for _ in 0..LOADS_MAX {
            for folder in DROPPED {
                control.free(&format!("{MOUNT}/{folder}"), true).await?;
            }
            report.blocks_before_load = blocks_cached(&control, files).await?;
            let job = control.load(MOUNT, true).await?;
            if let Some(blocks) = part_way(&control, job, files).await? {
                report.blocks_before_kill = blocks;
                worker.kill()?;
                self.say(&format!(
                    "killed the worker (SIGKILL) with {} blocks on the device",
                    count(blocks)
                ));
                return Ok(());
            }
        }
        Err(Failure::failed(
            "every load was over before the worker could be killed; try a larger --scale",
        ))
    }

    async fn come_back(
        &self,
        files: &[SourceFile],
        report: &mut Report,
    ) -> Result<WorkerProcess, Failure> {
        let worker = self.start().await?;
        report.restart_seconds = worker.start_time.as_secs_f64();
        report.recovery_seconds = worker.ready.recovery_seconds;
        let Connections { data, control } = connect(&worker).await?;
        report.blocks_after_restart = worker.ready.recovered_blocks;
        self.say(&format!(
            "restarted in {:.3} s; {} blocks are back, and the worker goes on with the load",
            report.restart_seconds,
            count(report.blocks_after_restart)
        ));
        self.say("reading random pages of 4 KiB from the device");
        let cached = cached_files(&control, files).await?;
        let opened = reading::open_all(&data, MOUNT, &cached).await?;
        let mut pages = Pages::once(opened);
        let speed = reading::read_pages(&data, &mut pages, SPEED_TIME, DEPTH, SPEED_TIME).await?;
        report.add_speed("device", "random 4 KiB, each once", &speed);
        self.say("reading every file once more");
        let opened = reading::open_all(&data, MOUNT, files).await?;
        let (again, time) = timed(&data, &opened).await?;
        report.add_pass("restarted", "every file, restarted", again, time);
        Ok(worker)
    }

    /// A step, with the time since the beginning.
    fn say(&self, step: &str) {
        eprintln!("[{:6.2} s] {step}", self.began.elapsed().as_secs_f64());
    }
}

async fn timed(data: &Client, opened: &[Opened]) -> Result<(Comparison, Duration), Failure> {
    let began = Instant::now();
    let comparison = reading::read_all(data, opened).await?;
    Ok((comparison, began.elapsed()))
}

async fn connect(worker: &WorkerProcess) -> Result<Connections, Failure> {
    let options = Options {
        client_name: "corelane-demo".to_owned(),
        ..Options::default()
    };
    let address = worker.ready.data.first().map_or("", String::as_str);
    Ok(Connections {
        data: Client::connect(address, "", options).await?,
        control: Control::connect(&worker.ready.control, "", CALL_TIMEOUT).await?,
    })
}

/// Waits until every block is on the device: they are written a moment after they were served.
async fn settle(control: &Control, files: &[SourceFile]) -> Result<(), Failure> {
    let deadline = Instant::now() + SETTLE_MAX;
    while cached_files(control, files).await?.len()
        < files.iter().filter(|f| !f.bytes.is_empty()).count()
    {
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "not all that was read reached the device within {SETTLE_MAX:?}; `corelane status` of a worker tells why"
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn blocks_cached(control: &Control, files: &[SourceFile]) -> Result<u64, Failure> {
    let mut blocks = 0;
    for file in files {
        blocks += control
            .stat(&format!("{MOUNT}/{}", file.name))
            .await?
            .blocks_cached;
    }
    Ok(blocks)
}

/// The files that are not empty and on the device from end to end.
async fn cached_files(control: &Control, files: &[SourceFile]) -> Result<Vec<SourceFile>, Failure> {
    let mut cached = Vec::new();
    for file in files {
        let object = control.stat(&format!("{MOUNT}/{}", file.name)).await?;
        if object.blocks > 0 && object.blocks_cached == object.blocks {
            cached.push(file.clone());
        }
    }
    Ok(cached)
}

/// Waits until the load is part of the way, and tells how many blocks are on the device then;
/// nothing if the load was over first.
async fn part_way(
    control: &Control,
    job: u64,
    files: &[SourceFile],
) -> Result<Option<u64>, Failure> {
    let dropped: usize = files
        .iter()
        .filter(|file| DROPPED.iter().any(|folder| file.name.starts_with(folder)))
        .map(|file| file.bytes.len())
        .sum();
    let enough = (dropped as f64 * KILL_AT) as u64;
    loop {
        let progress = control.progress(job).await?;
        if progress.state != JobState::Running {
            return Ok(None);
        }
        if progress.bytes_done.saturating_sub(progress.bytes_skipped) >= enough {
            let blocks = blocks_cached(control, files).await?;
            let is_running = control.progress(job).await?.state == JobState::Running;
            return Ok(is_running.then_some(blocks));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
