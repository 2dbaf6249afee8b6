//! The worker as a real process: started, watched, killed. It never outlives the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corelane_client::control::{JobState, Stats};
use corelane_client::{Options, blocking};

/// Only for telling a hang from a slow machine.
pub const HANG: Duration = Duration::from_secs(60);

/// A worker that did not come to serve.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub log: String,
}

/// A worker that serves.
pub struct Process {
    child: Child,
    /// Data ports, one a shard.
    pub data: Vec<SocketAddr>,
    /// Control port.
    pub control: SocketAddr,
    /// Operations port.
    pub operations: SocketAddr,
    /// Address of the S3 face, if it is open.
    pub s3: Option<SocketAddr>,
    /// Starts of the device so far.
    pub epoch: u64,
    /// Blocks that came back.
    pub recovered_blocks: u64,
    /// How long that took, in seconds.
    pub recovery_seconds: f64,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a worker with the configuration file at `config` and waits until it serves.
    pub fn start(config: &Path) -> Result<Process, Refusal> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_corelane-worker"))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the worker's binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("it is piped");
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().expect("no reader panicked");
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let stdout = child.stdout.take().expect("it is piped");
        let announced = announcement(stdout, &mut child);
        let mut process = Process {
            child,
            data: Vec::new(),
            control: SocketAddr::from(([127, 0, 0, 1], 0)),
            operations: SocketAddr::from(([127, 0, 0, 1], 0)),
            s3: None,
            epoch: 0,
            recovered_blocks: 0,
            recovery_seconds: 0.0,
            log,
            reader: Some(reader),
        };
        if process.understand(&announced) {
            return Ok(process);
        }
        let status = process.wait();
        Err(Refusal {
            code: status.code(),
            log: process.log(),
        })
    }

    /// Whether the announcement was complete.
    fn understand(&mut self, announced: &str) -> bool {
        for line in announced.lines() {
            let words: Vec<&str> = line.split([' ', ',']).collect();
            let address = |text: &str| text.parse().expect("an address");
            match words[0] {
                "data" => self.data.push(address(words[1])),
                "control" => self.control = address(words[1]),
                "operations" => {
                    let host = words[1].trim_start_matches("http://");
                    self.operations = address(host.trim_end_matches('/'));
                }
                "s3" => {
                    let (_, host) = words[1].split_once("://").expect("a URL");
                    self.s3 = Some(address(host));
                }
                "serving:" => {
                    let after = |word: &str| {
                        let at = words.iter().position(|other| *other == word);
                        words[at.expect("the line has this word") + 1]
                    };
                    self.epoch = after("epoch").parse().expect("a number");
                    let at = words.iter().position(|word| *word == "blocks");
                    self.recovered_blocks = words[at.expect("it says how many") - 1]
                        .parse()
                        .expect("a number");
                    self.recovery_seconds = after("in").parse().expect("seconds");
                    return true;
                }
                _ => panic!("an unknown line on standard output: {line}"),
            }
        }
        false
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the call takes no pointers, and the child has not been waited for, so that the id
        // is still its own.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "the worker can be signalled");
    }

    /// Ends it as a power cut would end the process.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        let status = self.wait();
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "it had ended before: {status}\n{}",
            self.log()
        );
    }

    /// Ends it in good order; gives its log.
    ///
    /// # Panics
    /// If the exit code is not 0.
    #[track_caller]
    pub fn terminate(self) -> String {
        self.signal(libc::SIGTERM);
        self.ended_well()
    }

    /// Waits for its end, which must be one with exit code 0; gives its log.
    #[track_caller]
    pub fn ended_well(mut self) -> String {
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
        self.log()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that takes so long that it hangs.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + HANG;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("the reader of the log does not panic");
                }
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the worker does not end\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A client of its data plane.
    #[track_caller]
    pub fn client(&self) -> blocking::Client {
        self.client_with("", Options::default())
    }

    /// A client with a token and options.
    #[track_caller]
    pub fn client_with(&self, token: &str, options: Options) -> blocking::Client {
        blocking::Client::connect(&self.data[0].to_string(), token, options)
            .unwrap_or_else(|error| panic!("a client connects: {error}\n{}", self.log()))
    }

    /// A client of its control plane.
    #[track_caller]
    pub fn control(&self) -> blocking::Control {
        self.control_with("")
    }

    /// A client of its control plane with a token.
    #[track_caller]
    pub fn control_with(&self, token: &str) -> blocking::Control {
        blocking::Control::connect(&self.control.to_string(), token, HANG)
            .unwrap_or_else(|error| panic!("a control client connects: {error}\n{}", self.log()))
    }

    /// Loads what is below `path`, so that all of it is on the device. Blocks that are only read
    /// are not kept while a slow device has enough to write.
    #[track_caller]
    pub fn load(&self, path: &str) {
        let control = self.control();
        let job = control.load(path, true).expect("a load starts");
        eventually("the load ends", || {
            let progress = control.progress(job).expect("the job is known");
            assert_ne!(progress.state, JobState::Failed, "{progress:?}");
            assert_eq!(progress.failures, 0, "{progress:?}");
            progress.state == JobState::Done
        });
    }

    /// The sum of a counter over all shards.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let stats = self
            .control()
            .stats()
            .expect("a worker that serves has stats");
        counter(&stats, name)
    }

    /// `/metrics` as Prometheus gets it.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.operations).expect("it listens");
        stream
            .set_read_timeout(Some(HANG))
            .expect("a socket has a timeout");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        text
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it has had so far, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(name));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes
            .expect("the kernel says it")
            .parse::<u64>()
            .expect("a number")
            << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where it has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the worker's log\n{}---", self.log());
        }
    }
}

/// The sum of a counter over all shards.
///
/// # Panics
/// If there is no such counter.
#[track_caller]
pub fn counter(stats: &Stats, name: &str) -> u64 {
    let values: Vec<u64> = stats
        .shards
        .iter()
        .flat_map(|shard| &shard.counters)
        .filter(|(known, _)| known == name)
        .map(|(_, value)| *value)
        .collect();
    assert!(!values.is_empty(), "no counter {name} in {stats:?}");
    values.iter().sum()
}

/// Standard output up to the line that says that it serves, or to the end. A worker that says
/// neither is killed.
fn announcement(stdout: ChildStdout, child: &mut Child) -> String {
    let (said, saying) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let mut lines = BufReader::new(stdout);
        loop {
            let start = text.len();
            match lines.read_line(&mut text) {
                Ok(count) if count > 0 && !text[start..].starts_with("serving:") => {}
                _ => break,
            }
        }
        // Whoever waited gave up when nobody receives.
        let _ = said.send(text);
        // A closed pipe would kill a worker that writes there later.
        lines.read_to_end(&mut Vec::new())
    });
    saying.recv_timeout(HANG).unwrap_or_else(|_| {
        let _ = child.kill();
        String::new()
    })
}

/// Waits until `condition` holds.
///
/// # Panics
/// With `what`, if it never does.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
