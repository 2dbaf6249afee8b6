//! `corelane demo`: the whole job on real files, in one command.
//!
//! | module | holds |
//! |---|---|
//! | [`place`] | the folder that everything is in |
//! | [`files`] | the files that are cached |
//! | [`worker_process`] | the worker, in a process that can be killed |
//! | [`reading`] | reads, and their comparison with the source |
//! | [`script`] | what is done, in order |
//! | [`report`] | what was found |
//! | [`interrupt`] | signals |
//!
//! The invariant: however the demo ends, the worker has ended and the files are gone.

mod files;
mod interrupt;
mod place;
mod reading;
mod report;
mod script;
mod tables;
mod worker_process;

use std::cell::Cell;
use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, Kind};
use crate::output::Output;
use place::Place;
use script::Script;

/// Random reads at a time when their rate is measured.
const DEPTH: usize = 32;

/// Shows a worker at work on real files. Makes TPC-H tables as Parquet and files of awkward
/// sizes, caches them in a worker of its own, compares every byte, kills the worker in the middle
/// of a load, and shows that everything comes back right. Needs 1.2 GiB of room for a minute.
#[derive(Args, Debug)]
#[command(
    after_help = "Ends with 0 only if every byte was right and the cache came back; with 5 otherwise."
)]
pub struct DemoCommand {
    /// End when all is shown; without it, the worker goes on serving until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Where to put the files; without it, the first of $TMPDIR, /var/tmp and . that has direct I/O
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Scale of the TPC-H tables; 1 is a gigabyte of text
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1, value_parser = scale)]
    scale: f64,
}

/// The device holds four times the files of the largest scale that is allowed.
const SCALE_MAX: f64 = 0.5;

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=SCALE_MAX).contains(&scale) => Ok(scale),
        _ => Err(format!("expected 0.001 to {SCALE_MAX}")),
    }
}

impl DemoCommand {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let place = Place::find(self.dir.as_deref())?;
        // Ended before `place` is dropped, and with it every task that could still make files.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("no async runtime: {error}")))?;
        let is_shown = Cell::new(false);
        runtime.block_on(async {
            tokio::select! {
                outcome = self.play(output, &place, &is_shown) => outcome,
                failure = interrupt::interrupted() => {
                    output.note("\nending: the worker is stopped and the files are removed");
                    // Ctrl-C is how one leaves a demo that goes on serving.
                    if is_shown.get() { Ok(()) } else { Err(failure) }
                }
            }
        })
    }

    async fn play(
        &self,
        output: Output,
        place: &Place,
        is_shown: &Cell<bool>,
    ) -> Result<(), Failure> {
        let mut script = Script::new(place.path());
        let (report, mut worker) = script.play(self.scale).await?;
        output.answer(&report, |report| format!("\n{}", report.text()))?;
        if let Some(fault) = report.fault() {
            return Err(Failure::new(
                Kind::Damaged,
                format!("{fault}; please report this with the log above"),
            ));
        }
        if self.once {
            return worker.stop().await;
        }
        is_shown.set(true);
        output.note(&script.invitation(&worker));
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            if let Some(status) = worker.status()? {
                return Err(Failure::failed(format!("the worker ended with {status}")));
            }
        }
    }
}
