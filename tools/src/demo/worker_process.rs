//! The demo's worker: this program again, as `corelane serve`, in a process that can be killed.
//!
//! The invariant: the process does not outlive the demo. It is killed when the handle is dropped,
//! and ends by itself when its standard input closes, which happens even if the demo is killed.

use std::io::{BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::ready::Ready;

/// A worker on a demo's device starts in a fraction of a second; a machine may be busy.
const START_MAX: Duration = Duration::from_secs(60);

/// For an orderly end: flush what is under way.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Lines of the worker's log that are shown when it ended by itself.
const LOG_LINES: usize = 20;

/// A running worker.
pub struct WorkerProcess {
    child: Child,
    /// What it said when it began to serve.
    pub ready: Ready,
    /// From the start of the process until it served.
    pub start_time: Duration,
}

impl WorkerProcess {
    /// Starts a worker with the configuration at `config` and waits until it serves. Its log goes
    /// to the file `log`.
    pub async fn start(config: &Path, log: &Path) -> Result<WorkerProcess, Failure> {
        let failed =
            |what: &str, error: std::io::Error| Failure::failed(format!("{what}: {error}"));
        let program =
            std::env::current_exe().map_err(|error| failed("this program's path", error))?;
        let log_file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .map_err(|error| failed("the worker's log", error))?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .args(["serve", "--until-stdin-closes", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            // A Ctrl-C is for the demo, which then ends the worker in its own way.
            .process_group(0)
            .spawn()
            .map_err(|error| failed("the worker cannot be started", error))?;
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let mut worker = WorkerProcess {
            child,
            ready: Ready::default(),
            start_time: Duration::ZERO,
        };
        worker.ready = ready(stdout, log).await?;
        worker.start_time = began.elapsed();
        Ok(worker)
    }

    /// Kills it as a crash would: SIGKILL, nothing is flushed.
    pub fn kill(mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed
            .map(drop)
            .map_err(|error| Failure::failed(format!("the worker cannot be killed: {error}")))
    }

    /// Ends it in good order.
    pub async fn stop(mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + STOP_MAX;
        loop {
            match self.status()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Failure::failed(format!("the worker ended with {status}")));
                }
                None if Instant::now() > deadline => {
                    return Err(Failure::failed(format!(
                        "the worker did not end within {STOP_MAX:?}"
                    )));
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Its exit status, if it has ended.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.child
            .try_wait()
            .map_err(|error| Failure::failed(format!("the worker is lost: {error}")))
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what the worker prints when it serves.
async fn ready(stdout: impl Read + Send + 'static, log: &Path) -> Result<Ready, Failure> {
    let (sender, ready) = oneshot::channel();
    // A thread, because a pipe cannot be read with a deadline. It ends when the worker serves or
    // has ended.
    std::thread::spawn(move || sender.send(Ready::read(BufReader::new(stdout))));
    match tokio::time::timeout(START_MAX, ready).await {
        Ok(Ok(Some(ready))) => Ok(ready),
        Ok(_) => Err(not_started(log, "ended instead of serving")),
        Err(_) => Err(not_started(
            log,
            &format!("was not ready within {START_MAX:?}"),
        )),
    }
}

fn not_started(log: &Path, what: &str) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    Failure::failed(format!("the worker {what}; the end of its log:\n  {tail}"))
}

/// The configuration of the demo's worker.
pub struct DemoConfig<'a> {
    /// Device file; made by the worker when it is not there.
    pub device: PathBuf,
    /// Folder that is mounted.
    pub folder: &'a Path,
    /// Where it is mounted.
    pub mount: &'a str,
    /// CPUs of the shards.
    pub cores: Vec<usize>,
}

/// Regions are small, so that a small device has many of them.
const REGION_BYTES: u64 = 16 << 20;

/// Several times the fewest that a store takes.
const REGIONS: u64 = 64;

/// Bytes of the device file.
pub const DEVICE_BYTES: u64 = REGION_BYTES * REGIONS;

/// What a second may be fetched: far less than a local disk gives, so that the worker can be
/// killed in the middle of a load.
pub const FETCH_BYTES_PER_SECOND: u64 = 48 << 20;

impl DemoConfig<'_> {
    /// The configuration as a TOML file's text.
    pub fn text(&self) -> Result<String, Failure> {
        let folder = url::Url::from_directory_path(self.folder).map_err(|()| {
            Failure::failed(format!("{} is no absolute path", self.folder.display()))
        })?;
        let device = self.device.to_str().ok_or_else(|| {
            Failure::failed(format!(
                "{} is not UTF-8; use another --dir",
                self.device.display()
            ))
        })?;
        // A JSON string is a TOML string as well.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let cores: Vec<String> = self.cores.iter().map(usize::to_string).collect();
        let dram_bytes = (64 << 20) * self.cores.len();
        Ok(format!(
            "devices = [{device}]\n\
             device_size = {DEVICE_BYTES}\n\
             region_size = {REGION_BYTES}\n\
             cores = {cores}\n\
             dram = {dram_bytes}\n\
             listen = \"127.0.0.1:0\"\n\
             control = \"127.0.0.1:0\"\n\
             operations = \"127.0.0.1:0\"\n\n\
             [limits]\n\
             under_store_reads = {FETCH_BYTES_PER_SECOND}\n\n\
             [[mount]]\n\
             path = {mount}\n\
             uri = {uri}\n\
             freshness = \"max-age=5\"\n",
            device = quoted(device),
            cores = quoted(&cores.join(",")),
            mount = quoted(self.mount),
            uri = quoted(folder.as_str().trim_end_matches('/')),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_worker::config::{Config, WorkerFlags};

    #[test]
    fn the_worker_understands_the_configuration_whatever_the_folder_is_called() {
        let folder = Path::new("/tmp/a folder, \"quoted\" and ünïcode%");
        let config = DemoConfig {
            device: folder.join("device"),
            folder,
            mount: "/demo",
            cores: vec![0],
        };
        let text = config.text().expect("a text");
        let read = Config::on_cpus(Path::new("demo.toml"), &text, &WorkerFlags::default(), &[0]);
        let read = read.expect("a valid configuration");
        assert_eq!(read.devices, [folder.join("device")]);
        assert_eq!(read.device_bytes, Some(DEVICE_BYTES));
        assert_eq!(read.mounts[0].path, "/demo");
        assert_eq!(
            url::Url::parse(&read.mounts[0].uri)
                .expect("a URI")
                .to_file_path(),
            Ok(folder.to_owned())
        );
    }
}
