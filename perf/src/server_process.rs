//! Servers as child processes of this program, so that CPU, memory and threads are theirs alone.
//!
//! The child prints one line of JSON when it serves, answers each line on its standard input with
//! one line, and ends when its standard input does: it never outlives the parent.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long a child may take to end after its standard input did.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// What a child says when it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Where.
    pub address: SocketAddr,
    /// Anything else that the parent should know.
    #[serde(default)]
    pub details: Value,
}

impl Ready {
    /// Says so, on standard output.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn announce(&self) -> io::Result<()> {
        answer(&serde_json::to_value(self)?)
    }
}

/// Writes one line of JSON to standard output.
///
/// # Errors
/// When nobody listens.
pub fn answer(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

/// A running child.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    ready: Ready,
}

impl ServerProcess {
    /// Starts this program with `arguments` and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started or ends before it serves; it has said why on standard error.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> io::Result<ServerProcess> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is the parent's: it ends what is measured early and wants the server until then.
            .process_group(0)
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let ready = Ready {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            details: Value::Null,
        };
        let mut process = ServerProcess {
            child,
            input,
            output,
            ready,
        };
        process.ready = serde_json::from_value(process.line()?)?;
        Ok(process)
    }

    /// What it said when it served.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.ready.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one line and waits for the line that answers it.
    ///
    /// # Errors
    /// When the child ended.
    pub fn ask(&mut self, question: &str) -> io::Result<Value> {
        let input = self.input.as_mut().expect("the input is open until drop");
        writeln!(input, "{question}")?;
        input.flush()?;
        self.line()
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(io::Error::other(format!(
                "a child process ended early ({status}); see above"
            )));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.input.take());
        let deadline = Instant::now() + END_DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // It is stuck; nothing that it holds is worth waiting for.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Child side: ends the process when the parent closes our standard input.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        for line in io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
}
