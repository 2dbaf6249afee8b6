//! Following a job of the worker to its end, over lost connections and restarts.
//!
//! The invariant: a job is started once for each [`follow`] unless the worker has forgotten it;
//! then it is started again, which costs little because what is cached is skipped.

use std::time::{Duration, Instant};

use corelane_client::Error;
use corelane_client::blocking::Control;
use corelane_client::control::{JobState, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Kind};
use crate::output::{Output, pairs};
use crate::quantity::{bytes, count};

/// Between two looks at a job: soon enough for a bar that moves.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// For how long a worker may be away, as during a restart, before the command gives up.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// Which kind of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Fetching.
    Load,
    /// Checking.
    Verify,
}

impl JobKind {
    fn name(self) -> &'static str {
        match self {
            JobKind::Load => "load",
            JobKind::Verify => "verify",
        }
    }
}

/// A job in the forms that are printed.
#[derive(Serialize)]
pub struct Line {
    /// Its number.
    pub job: u64,
    kind: String,
    path: String,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: &'static str,
    objects_done: u64,
    objects_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    bytes_skipped: u64,
    bytes_not_kept: u64,
    failures: u64,
    first_failure: String,
    blocks_wrong: u64,
}

impl From<&Progress> for Line {
    fn from(progress: &Progress) -> Self {
        Line {
            job: progress.job,
            kind: progress.kind.clone(),
            path: progress.path.clone(),
            state: match progress.state {
                JobState::Running => "running",
                JobState::Done => "done",
                JobState::Failed => "failed",
                JobState::Cancelled => "cancelled",
            },
            objects_done: progress.objects_done,
            objects_total: progress.objects_total,
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            bytes_skipped: progress.bytes_skipped,
            bytes_not_kept: progress.bytes_not_kept,
            failures: progress.failures,
            first_failure: progress.first_failure.clone(),
            blocks_wrong: progress.blocks_wrong,
        }
    }
}

impl Line {
    /// For the table of jobs.
    pub fn row(&self) -> [String; 7] {
        [
            self.job.to_string(),
            self.kind.clone(),
            self.state.to_owned(),
            format!("{}/{}", self.objects_done, self.objects_total),
            format!("{}/{}", bytes(self.bytes_done), bytes(self.bytes_total)),
            self.failures.to_string(),
            self.path.clone(),
        ]
    }
}

/// Prints the number of a job that goes on by itself.
pub fn start_only(output: Output, job: u64) -> Result<(), Failure> {
    output.answer(&serde_json::json!({ "job": job }), |_| {
        format!("job {job} runs; `corelane jobs` shows how far it is")
    })
}

/// Joins a running job of `kind` on `path`, or starts one, and follows it to its end with a bar.
pub fn follow(
    output: Output,
    kind: JobKind,
    path: &str,
    connect: impl Fn() -> Result<Control, Failure>,
    start: impl Fn(&Control) -> Result<u64, Error>,
) -> Result<Progress, Failure> {
    let bar = bar(output);
    let mut control = connect()?;
    let mut job = join_or_start(&control, kind, path, &start)?;
    loop {
        let progress = match control.progress(job) {
            Ok(progress) => progress,
            Err(error) if is_away(&error) => {
                bar.set_message("waiting for the worker");
                control = reconnect(&connect)?;
                job = join_or_start(&control, kind, path, &start)?;
                bar.set_message("");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        if progress.state != JobState::Running {
            bar.finish_and_clear();
            return Ok(progress);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Prints how a job ended; an error unless everything went well.
pub fn answer(output: Output, kind: JobKind, progress: &Progress) -> Result<(), Failure> {
    output.answer(&Line::from(progress), |_| text(kind, progress))?;
    let name = kind.name();
    if progress.blocks_wrong > 0 {
        let message = format!(
            "{} blocks were wrong and dropped; the next read fetches them again. If that repeats, \
             replace the device: `corelane status` shows which ones there are",
            progress.blocks_wrong
        );
        return Err(Failure::new(Kind::Damaged, message));
    }
    match progress.state {
        JobState::Done if progress.failures == 0 => Ok(()),
        JobState::Cancelled => Err(Failure::failed(format!(
            "the {name} was cancelled; the same command goes on with it"
        ))),
        _ => Err(Failure::failed(format!(
            "{} objects failed, the first one: {}; the same command tries again what is missing",
            progress.failures, progress.first_failure
        ))),
    }
}

fn text(kind: JobKind, progress: &Progress) -> String {
    let objects = format!(
        "{} of {}",
        count(progress.objects_done),
        count(progress.objects_total)
    );
    match kind {
        JobKind::Load => pairs([
            ("objects", objects),
            (
                "loaded",
                bytes(
                    progress
                        .bytes_done
                        .saturating_sub(progress.bytes_skipped + progress.bytes_not_kept),
                ),
            ),
            ("cached before", bytes(progress.bytes_skipped)),
            ("not kept", bytes(progress.bytes_not_kept)),
            ("failures", count(progress.failures)),
        ]),
        JobKind::Verify => pairs([
            ("objects", objects),
            ("checked", bytes(progress.bytes_done)),
            ("blocks wrong", count(progress.blocks_wrong)),
            ("failures", count(progress.failures)),
        ]),
    }
}

fn join_or_start(
    control: &Control,
    kind: JobKind,
    path: &str,
    start: &impl Fn(&Control) -> Result<u64, Error>,
) -> Result<u64, Failure> {
    let running = control
        .jobs()?
        .into_iter()
        .find(|job| job.state == JobState::Running && job.kind == kind.name() && job.path == path);
    match running {
        Some(job) => Ok(job.job),
        None => Ok(start(control)?),
    }
}

fn is_away(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect { .. } | Error::Disconnected { .. } | Error::Timeout { .. }
    )
}

fn reconnect(connect: &impl Fn() -> Result<Control, Failure>) -> Result<Control, Failure> {
    let deadline = Instant::now() + AWAY_MAX;
    loop {
        match connect() {
            Err(Failure::Error {
                kind: Kind::Unreachable,
                ..
            }) if Instant::now() < deadline => {
                std::thread::sleep(POLL_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

fn bar(output: Output) -> ProgressBar {
    let target = if output.shows_progress() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}")
            .expect("the template is valid");
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: JobState, failures: u64, blocks_wrong: u64) -> Progress {
        Progress {
            state,
            failures,
            blocks_wrong,
            ..Progress::default()
        }
    }

    fn kind_of_end(progress: &Progress) -> Option<Kind> {
        match answer(Output::new(true), JobKind::Verify, progress) {
            Ok(()) => None,
            Err(Failure::Error { kind, .. }) => Some(kind),
            Err(Failure::OutputClosed) => panic!("the output is open"),
        }
    }

    #[test]
    fn only_a_job_without_failures_and_damage_succeeds() {
        assert_eq!(kind_of_end(&ended(JobState::Done, 0, 0)), None);
        assert_eq!(
            kind_of_end(&ended(JobState::Done, 1, 0)),
            Some(Kind::Failed)
        );
        assert_eq!(
            kind_of_end(&ended(JobState::Done, 0, 1)),
            Some(Kind::Damaged)
        );
        assert_eq!(
            kind_of_end(&ended(JobState::Cancelled, 0, 0)),
            Some(Kind::Failed)
        );
        assert_eq!(
            kind_of_end(&ended(JobState::Failed, 0, 0)),
            Some(Kind::Failed)
        );
    }
}
