//! Running the program, and a worker for it to speak to.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a command printed and ended with.
pub struct Outcome {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_slice(&self.stdout);
        parsed.unwrap_or_else(|error| panic!("{error}: {}{}", self.text(), self.stderr))
    }
}

/// A command of the program under test, without the caller's settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["CORELANE_CONTROL", "CORELANE_ADDRESS", "CORELANE_TOKEN"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Outcome {
    let Output {
        status,
        stdout,
        stderr,
    } = command(arguments).output().expect("the program runs");
    Outcome {
        code: status.code().expect("no signal ended it"),
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// A folder on a file system with direct I/O: where the program under test was built.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// A small device, formatted.
pub fn formatted_device(folder: &Path) -> PathBuf {
    let device = folder.join("device");
    let name = device.to_str().expect("UTF-8");
    let outcome = run(&[
        "device",
        "format",
        name,
        "--size",
        "66M",
        "--region-size",
        "2M",
    ]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    device
}

/// A worker, `corelane serve`.
pub struct Worker {
    child: Child,
    pub control: String,
    pub data: String,
}

impl Worker {
    /// Starts one on `device` with `folder` mounted at /data.
    pub fn start(device: &Path, folder: &Path) -> Worker {
        let mut child = command(&["serve", "--dram", "64M", "--cores", "0"])
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(["--operations", "127.0.0.1:0", "--log", "error"])
            .args(["--mount-root", "s3://", "--mount-root"])
            .arg(format!("file://{}-more", folder.display()))
            .arg("--device")
            .arg(device)
            .arg("--mount")
            .arg(format!(
                "/data=file://{}?freshness=always-check&block-size=64K",
                folder.display()
            ))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut control, mut data) = (String::new(), String::new());
        for line in stdout.lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            match (words.next(), words.next()) {
                (Some("control"), Some(address)) => control = address.to_owned(),
                (Some("data"), Some(address)) => data = address.to_owned(),
                (Some("serving:"), _) => {
                    return Worker {
                        child,
                        control,
                        data,
                    };
                }
                _ => {}
            }
        }
        panic!("the worker ended with {:?}", child.wait());
    }

    /// Runs a command of the control plane against this worker.
    pub fn ask(&self, arguments: &[&str]) -> Outcome {
        run(&[arguments, &["--control", &self.control]].concat())
    }

    /// Ends the worker in good order.
    pub fn stop(mut self) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        // SAFETY: the call takes numbers; the child is ours and was not waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After `stop` both fail, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
