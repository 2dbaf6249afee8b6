//! `corelane serve`: the worker in the foreground.

use std::io::Read;
use std::process::ExitCode;

use clap::Args;
use corelane_worker::config::WorkerFlags;
use corelane_worker::start::process;

use crate::failure::{Failure, Kind};

/// Runs a worker in the foreground, by flags or a configuration file, until SIGINT or SIGTERM.
///
/// For example: corelane serve --device ./cache.img --size 8G --mount /data=file:///some/dir
#[derive(Args, Debug)]
#[command(after_help = "\
Prints a line for each address once it serves; the log goes to standard error. SIGHUP reads the
configuration again. Exit codes: 0 ended as told, 1 failed while it ran, 2 command line or
configuration, 3 the machine lacks something (io_uring, locked memory, an address), 4 a device
was refused, 130 ended at once by a second signal.")]
pub struct Serve {
    #[command(flatten)]
    worker: WorkerFlags,
    /// End when standard input closes, which it does when the process that started this one ends
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Serve {
    /// Runs the worker to its end; the exit code of the process.
    pub fn run(self) -> Result<ExitCode, Failure> {
        if self.until_stdin_closes {
            std::thread::Builder::new()
                .name("stdin".to_owned())
                .spawn(end_with_stdin)
                .map_err(|error| {
                    Failure::new(
                        Kind::Failed,
                        format!("cannot watch standard input: {error}"),
                    )
                })?;
        }
        Ok(process::run(&self.worker))
    }
}

fn end_with_stdin() {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = [0; 64];
    while matches!(stdin.read(&mut buffer), Ok(1..)) {}
    // SAFETY: the call takes a number and touches no memory of ours. Before the worker listens to
    // signals this ends the process, afterwards it ends the worker in good order.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}
