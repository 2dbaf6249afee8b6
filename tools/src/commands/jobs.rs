//! `corelane jobs`: the worker's loads and verifications, and how to end one.

use clap::Args;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::job::Line;
use crate::output::{Output, table};

/// Lists or cancels jobs.
#[derive(Args, Debug)]
pub struct Jobs {
    /// Cancel this job. What it did stays
    #[arg(long, value_name = "JOB")]
    cancel: Option<u64>,
    #[command(flatten)]
    connection: ControlFlags,
}

impl Jobs {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let control = self.connection.connect()?;
        if let Some(job) = self.cancel {
            control.cancel(job)?;
            let line = Line::from(&control.progress(job)?);
            return output.answer(&line, |line| format!("job {}: {}", line.job, line.state));
        }
        let lines: Vec<Line> = control.jobs()?.iter().map(Line::from).collect();
        output.answer(&lines, |lines| {
            let columns = [
                ">job",
                "kind",
                "state",
                ">objects",
                ">bytes",
                ">failures",
                "path",
            ];
            table(columns, lines.iter().map(Line::row))
        })
    }
}
