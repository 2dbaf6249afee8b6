//! Jobs: loads and verifications, which take longer than a call may.
//!
//! The invariant: the number of objects a job has under way is bounded, and everything up to
//! `done_to` is done, so that a load goes on from there after a restart.
//!
//! A job has the rights of its caller, decided anew for each object: it ends when the caller's token is gone, and
//! leaves out what the caller may not read any more. After a restart, the caller is whoever has a token of that name.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::task::AbortHandle;

use super::catalogue::Listed;
use super::error::CallError;
use super::listing::{self, Query};
use super::rights::Rights;
use super::shards::WORK_DEADLINE;
use super::state::SavedJob;
use super::{Control, objects};
use crate::access::{Access, Reader};
use crate::shard::request::{Loaded, ShardRequest};

/// Jobs that run at a time: each holds its objects in flight.
const RUNNING_MAX: usize = 16;

/// Of them, those of one caller that is no operator.
const RUNNING_MAX_OF_READER: usize = 4;

/// Of them, those of all callers that are no operators: the rest is left to operators.
const RUNNING_MAX_OF_READERS: usize = 12;

/// Ended jobs whose outcome can still be asked for.
const ENDED_KEPT: usize = 128;

/// Entries that a load lists at a time.
const LIST_ENTRIES: usize = 1000;

/// Objects that a verification has under way: it shares the drives with reads.
const VERIFY_OBJECTS: usize = 4;

/// Tries of one object while shards are busy.
const BUSY_TRIES: u32 = 8;

/// Pause after the first busy answer; doubles.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Brings objects onto the device.
    Load,
    /// Reads and checks what is on the device.
    Verify,
}

impl JobKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Load => "load",
            JobKind::Verify => "verify",
        }
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Under way.
    Running,
    /// Ended, and all was well.
    Done,
    /// Ended, and something failed.
    Failed,
    /// Ended because someone said so.
    Cancelled,
}

/// What a job has done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its number.
    pub job: u64,
    /// What it does.
    pub kind: JobKind,
    /// Where.
    pub path: String,
    /// Where it stands.
    pub state: JobState,
    /// Objects done.
    pub objects_done: u64,
    /// Objects found so far.
    pub objects_total: u64,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes found so far.
    pub bytes_total: u64,
    /// Of the bytes done, those that were cached already.
    pub bytes_skipped: u64,
    /// Of the bytes done, those that the devices did not keep.
    pub bytes_not_kept: u64,
    /// Objects that failed.
    pub failures: u64,
    /// The first of them.
    pub first_failure: String,
    /// Blocks found wrong.
    pub blocks_wrong: u64,
}

/// Why a job could not be made or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// No such job.
    #[error(
        "there is no job {0}; ended jobs are remembered until the restart, at most {ENDED_KEPT} of them"
    )]
    Missing(u64),
    /// Too many run.
    #[error("{RUNNING_MAX} jobs are running already; wait for one to end, or cancel one")]
    TooMany,
    /// Too many of one caller run, or of all that are no operators.
    #[error(
        "a token that is no operator's runs {RUNNING_MAX_OF_READER} jobs at a time, all of them together \
         {RUNNING_MAX_OF_READERS}; wait for one to end"
    )]
    TooManyOfReaders,
}

struct Job {
    recursive: bool,
    reader: Reader,
    /// Whether the caller was no operator when it began.
    is_of_reader: bool,
    progress: RefCell<Progress>,
    done_to: RefCell<String>,
    task: RefCell<Option<AbortHandle>>,
}

/// All jobs of a worker.
pub struct Jobs {
    jobs: RefCell<BTreeMap<u64, Rc<Job>>>,
    next: Cell<u64>,
    has_moved: Cell<bool>,
}

impl Jobs {
    /// No jobs. Numbers start anew with each `epoch`, so that they are never used twice.
    pub fn new(epoch: u64) -> Self {
        Jobs {
            jobs: RefCell::default(),
            next: Cell::new((epoch << 20) + 1),
            has_moved: Cell::new(false),
        }
    }

    /// Where a job stands, for a caller that may see it.
    ///
    /// # Errors
    /// When there is none that this caller may see.
    pub fn progress(
        &self,
        job: u64,
        reader: &Reader,
        rights: &Rights,
    ) -> Result<Progress, JobError> {
        self.jobs
            .borrow()
            .get(&job)
            .filter(|job| job.is_shown_to(reader, rights))
            .map(|job| job.progress.borrow().clone())
            .ok_or(JobError::Missing(job))
    }

    /// All jobs, oldest first.
    pub fn all(&self) -> Vec<Progress> {
        self.jobs
            .borrow()
            .values()
            .map(|job| job.progress.borrow().clone())
            .collect()
    }

    /// The jobs that this caller may see, oldest first: all for operators, else its own and those on places of
    /// which it may read everything.
    pub fn shown_to(&self, reader: &Reader, rights: &Rights) -> Vec<Progress> {
        self.jobs
            .borrow()
            .values()
            .filter(|job| job.is_shown_to(reader, rights))
            .map(|job| job.progress.borrow().clone())
            .collect()
    }

    /// Ends a job of this caller, or any for an operator. One that has ended stays as it is.
    ///
    /// # Errors
    /// When there is none that this caller may end.
    pub fn cancel(&self, job: u64, reader: &Reader, rights: &Rights) -> Result<(), JobError> {
        let job = self
            .jobs
            .borrow()
            .get(&job)
            .filter(|job| rights.is_operator() || job.reader == *reader)
            .cloned()
            .ok_or(JobError::Missing(job))?;
        if job.progress.borrow().state == JobState::Running {
            job.abort();
            self.end(&job, JobState::Cancelled);
        }
        Ok(())
    }

    /// Ends the jobs of callers whose tokens are gone.
    pub fn end_without_rights(&self, access: &Access) {
        for job in self.jobs.borrow().values() {
            let is_running = job.progress.borrow().state == JobState::Running;
            if is_running && access.standing(&job.reader).is_none() {
                job.abort();
                job.fail("the token of whoever started it is not valid any more".to_owned());
                self.end(job, JobState::Failed);
            }
        }
    }

    /// Stops all jobs where they are; they stay unfinished.
    pub fn pause(&self) {
        for job in self.jobs.borrow().values() {
            job.abort();
        }
    }

    /// Loads that have not ended, to be kept.
    pub fn unfinished(&self) -> Vec<SavedJob> {
        self.has_moved.set(false);
        let jobs = self.jobs.borrow();
        let unfinished = jobs.values().filter(|job| {
            let progress = job.progress.borrow();
            progress.state == JobState::Running && progress.kind == JobKind::Load
        });
        unfinished.map(|job| job.saved()).collect()
    }

    /// Whether anything changed since [`Jobs::unfinished`] was asked last.
    pub fn has_moved(&self) -> bool {
        self.has_moved.get()
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.jobs
            .borrow()
            .values()
            .filter(|job| job.progress.borrow().state == JobState::Running)
            .count()
    }

    fn add(&self, job: Job) -> Result<Rc<Job>, JobError> {
        if self.running() >= RUNNING_MAX {
            return Err(JobError::TooMany);
        }
        if job.is_of_reader {
            let jobs = self.jobs.borrow();
            let running = jobs.values().filter(|other| {
                other.is_of_reader && other.progress.borrow().state == JobState::Running
            });
            let (mut all, mut own) = (0, 0);
            for other in running {
                all += 1;
                own += usize::from(other.reader == job.reader);
            }
            if own >= RUNNING_MAX_OF_READER || all >= RUNNING_MAX_OF_READERS {
                return Err(JobError::TooManyOfReaders);
            }
        }
        let number = job.progress.borrow().job;
        let job = Rc::new(job);
        let mut jobs = self.jobs.borrow_mut();
        jobs.insert(number, Rc::clone(&job));
        let ended: Vec<u64> = jobs
            .iter()
            .filter(|(_, job)| job.progress.borrow().state != JobState::Running)
            .map(|(number, _)| *number)
            .collect();
        for number in ended.iter().take(ended.len().saturating_sub(ENDED_KEPT)) {
            jobs.remove(number);
        }
        self.has_moved.set(true);
        Ok(job)
    }

    fn end(&self, job: &Job, state: JobState) {
        job.progress.borrow_mut().state = state;
        self.has_moved.set(true);
        let progress = job.progress.borrow();
        tracing::info!(
            job = progress.job,
            kind = progress.kind.name(),
            path = progress.path,
            objects = progress.objects_done,
            bytes = progress.bytes_done,
            failures = progress.failures,
            "job ended: {state:?}"
        );
    }
}

impl Job {
    fn new(number: u64, kind: JobKind, path: &str, recursive: bool, caller: &Caller) -> Self {
        Job {
            recursive,
            reader: caller.reader.clone(),
            is_of_reader: !caller.is_operator,
            progress: RefCell::new(Progress {
                job: number,
                kind,
                path: path.to_owned(),
                state: JobState::Running,
                objects_done: 0,
                objects_total: 0,
                bytes_done: 0,
                bytes_total: 0,
                bytes_skipped: 0,
                bytes_not_kept: 0,
                failures: 0,
                first_failure: String::new(),
                blocks_wrong: 0,
            }),
            done_to: RefCell::default(),
            task: RefCell::default(),
        }
    }

    fn saved(&self) -> SavedJob {
        let progress = self.progress.borrow();
        SavedJob {
            job: progress.job,
            kind: progress.kind.name().to_owned(),
            path: progress.path.clone(),
            recursive: self.recursive,
            reader: self.reader.saved(),
            done_to: self.done_to.borrow().clone(),
            objects_done: progress.objects_done,
            bytes_done: progress.bytes_done,
            bytes_skipped: progress.bytes_skipped,
            bytes_not_kept: progress.bytes_not_kept,
            failures: progress.failures,
            first_failure: progress.first_failure.clone(),
            blocks_wrong: progress.blocks_wrong,
        }
    }

    fn restore(saved: &SavedJob, caller: &Caller) -> Self {
        let job = Job::new(
            saved.job,
            JobKind::Load,
            &saved.path,
            saved.recursive,
            caller,
        );
        {
            let mut progress = job.progress.borrow_mut();
            // What was under way when the state was kept is counted again when it is done again.
            progress.objects_done = saved.objects_done;
            progress.objects_total = saved.objects_done;
            progress.bytes_done = saved.bytes_done;
            progress.bytes_total = saved.bytes_done;
            progress.bytes_skipped = saved.bytes_skipped;
            progress.bytes_not_kept = saved.bytes_not_kept;
            progress.failures = saved.failures;
            progress.first_failure.clone_from(&saved.first_failure);
        }
        job.done_to.borrow_mut().clone_from(&saved.done_to);
        job
    }

    fn is_shown_to(&self, reader: &Reader, rights: &Rights) -> bool {
        rights.is_operator()
            || self.reader == *reader
            || rights.may_read_all_at(&self.progress.borrow().path)
    }

    fn abort(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }

    fn fail(&self, sentence: String) {
        let mut progress = self.progress.borrow_mut();
        progress.failures += 1;
        if progress.first_failure.is_empty() {
            progress.first_failure = sentence;
        }
    }
}

/// Whoever starts a job.
struct Caller {
    reader: Reader,
    is_operator: bool,
}

/// Starts a job of `reader`; its number.
///
/// # Errors
/// When too many run.
pub fn start(
    control: &Rc<Control>,
    kind: JobKind,
    (reader, rights): (&Reader, &Rights),
    path: &str,
    recursive: bool,
) -> Result<u64, JobError> {
    let number = control.jobs.next.get();
    let caller = Caller {
        reader: reader.clone(),
        is_operator: rights.is_operator(),
    };
    let job = Job::new(number, kind, path, recursive, &caller);
    let job = control.jobs.add(job)?;
    control.jobs.next.set(number + 1);
    run(control, job);
    Ok(number)
}

/// Goes on with a job that was kept, with the rights that its caller has now.
pub(super) fn resume(control: &Rc<Control>, saved: SavedJob) {
    if saved.kind != JobKind::Load.name() {
        tracing::warn!(
            job = saved.job,
            kind = saved.kind,
            "a kept job of this kind is not known; it is dropped"
        );
        return;
    }
    let reader = control.access.restored(&saved.reader);
    let caller = reader.and_then(|reader| {
        let is_operator = control.access.standing(&reader)?.is_operator;
        Some(Caller {
            reader,
            is_operator,
        })
    });
    let Some(caller) = caller else {
        tracing::warn!(
            job = saved.job,
            path = saved.path,
            reader = ?saved.reader,
            "a kept job is dropped: its caller has no token here any more"
        );
        return;
    };
    match control.jobs.add(Job::restore(&saved, &caller)) {
        Ok(job) => {
            tracing::info!(
                job = saved.job,
                path = saved.path,
                after = saved.done_to,
                "a load goes on"
            );
            run(control, job);
        }
        Err(error) => tracing::warn!(job = saved.job, %error, "a kept job is dropped"),
    }
}

fn run(control: &Rc<Control>, job: Rc<Job>) {
    let (held, task_job) = (Rc::clone(control), Rc::clone(&job));
    let task = tokio::task::spawn_local(async move {
        let kind = task_job.progress.borrow().kind;
        let result = match kind {
            JobKind::Load => load(&held, &task_job).await,
            JobKind::Verify => verify(&held, &task_job).await,
        };
        if let Err(error) = result {
            task_job.fail(error.to_string());
        }
        let progress = task_job.progress.borrow().clone();
        let is_well = progress.failures == 0 && progress.blocks_wrong == 0;
        held.jobs.end(
            &task_job,
            if is_well {
                JobState::Done
            } else {
                JobState::Failed
            },
        );
    });
    job.task.borrow_mut().replace(task.abort_handle());
}

/// Objects under way, in the order of the listing.
#[derive(Default)]
struct Watermark(VecDeque<(String, bool)>);

impl Watermark {
    fn begin(&mut self, path: &str) {
        self.0.push_back((path.to_owned(), false));
    }

    /// Notes that `path` is done; the last path up to which all are.
    fn finish(&mut self, path: &str) -> Option<String> {
        if let Some(entry) = self.0.iter_mut().find(|(under_way, _)| under_way == path) {
            entry.1 = true;
        }
        let mut last = None;
        while self.0.front().is_some_and(|(_, is_done)| *is_done) {
            last = self.0.pop_front().map(|(path, _)| path);
        }
        last
    }
}

async fn load(control: &Rc<Control>, job: &Rc<Job>) -> Result<(), CallError> {
    let path = job.progress.borrow().path.clone();
    let mut query = Query {
        path,
        recursive: job.recursive,
        limit: LIST_ENTRIES,
        after: job.done_to.borrow().clone(),
        cached_only: false,
        names_only: false,
    };
    let mut watermark = Watermark::default();
    let mut under_way: FuturesUnordered<_> = FuturesUnordered::new();
    loop {
        let rights = control.rights_of(&job.reader)?;
        let (entries, more) = listing::list(control, &rights, &query).await?;
        let files: Vec<Listed> = entries
            .iter()
            .filter(|entry| !entry.listed.is_directory)
            .map(|entry| entry.listed.clone())
            .collect();
        {
            let mut progress = job.progress.borrow_mut();
            progress.objects_total += files.len() as u64;
            // The lengths are what an under-store says.
            for file in &files {
                progress.bytes_total = progress.bytes_total.saturating_add(file.length);
            }
        }
        for file in files {
            while under_way.len() >= control.limits().load_objects {
                if let Some((path, result)) = under_way.next().await {
                    account(control, job, &mut watermark, path, result);
                }
            }
            // Others took their time: the caller may have lost its rights meanwhile.
            control.rights_of(&job.reader)?;
            watermark.begin(&file.path);
            under_way.push(named_load(control, &job.reader, file.path));
        }
        match entries.last() {
            Some(last) if more => query.after.clone_from(&last.listed.path),
            _ => break,
        }
    }
    while let Some((path, result)) = under_way.next().await {
        account(control, job, &mut watermark, path, result);
    }
    Ok(())
}

async fn named_load(
    control: &Control,
    reader: &Reader,
    path: String,
) -> (String, Result<Loaded, CallError>) {
    let result = load_object(control, reader, &path).await;
    (path, result)
}

fn account(
    control: &Control,
    job: &Job,
    watermark: &mut Watermark,
    path: String,
    result: Result<Loaded, CallError>,
) {
    if let Some(done_to) = watermark.finish(&path) {
        *job.done_to.borrow_mut() = done_to;
    }
    match result {
        Ok(loaded) => {
            let mut progress = job.progress.borrow_mut();
            progress.objects_done += 1;
            let parts = [
                loaded.bytes_fetched,
                loaded.bytes_skipped,
                loaded.bytes_not_kept,
            ];
            let done = parts.into_iter().fold(0, u64::saturating_add);
            let add = |sum: &mut u64, bytes| *sum = sum.saturating_add(bytes);
            add(&mut progress.bytes_done, done);
            add(&mut progress.bytes_skipped, loaded.bytes_skipped);
            add(&mut progress.bytes_not_kept, loaded.bytes_not_kept);
            drop(progress);
            if loaded.bytes_not_kept > 0 {
                job.fail(format!(
                    "{path}: {} bytes were not kept: the device had no room for them, or wrote nothing for a \
                     while; free or unpin something, look for a failing device in `corelane status`, \
                     or use a larger one",
                    loaded.bytes_not_kept
                ));
            }
        }
        Err(error) => job.fail(format!("{path}: {error}")),
    }
    control.jobs.has_moved.set(true);
}

/// Loads one object on all shards that own a part of it, again while they are busy.
async fn load_object(control: &Control, reader: &Reader, path: &str) -> Result<Loaded, CallError> {
    let mut pause = BUSY_PAUSE;
    for _ in 1..BUSY_TRIES {
        match try_load(control, reader, path).await {
            Err(CallError::Busy(_)) => tokio::time::sleep(pause).await,
            result => return result,
        }
        pause *= 2;
    }
    try_load(control, reader, path).await
}

async fn try_load(control: &Control, reader: &Reader, path: &str) -> Result<Loaded, CallError> {
    control.rights_of(reader)?.mount_of(path)?;
    let object = objects::describe(control, path).await?;
    let parts = objects::owners(control, &object).into_iter().map(|owner| {
        let object = std::sync::Arc::clone(&object);
        control
            .shards
            .ask(owner, WORK_DEADLINE, |answer| ShardRequest::Load {
                object,
                answer,
            })
    });
    let mut total = Loaded::default();
    for part in futures::future::join_all(parts).await {
        let part = part??;
        total.bytes_fetched += part.bytes_fetched;
        total.bytes_skipped += part.bytes_skipped;
        total.bytes_not_kept = total.bytes_not_kept.saturating_add(part.bytes_not_kept);
    }
    Ok(total)
}

async fn verify(control: &Rc<Control>, job: &Rc<Job>) -> Result<(), CallError> {
    let path = job.progress.borrow().path.clone();
    let rights = control.rights_of(&job.reader)?;
    let found = objects::to_verify(control, &rights, &path).await?;
    {
        let mut progress = job.progress.borrow_mut();
        progress.objects_total = found.len() as u64;
        progress.bytes_total = found.iter().map(|object| object.cached.bytes).sum();
    }
    let checks = futures::stream::iter(found).map(|object| async move {
        let result = objects::verify(control, &object.meta).await;
        (object, result)
    });
    let mut checks = checks.buffer_unordered(VERIFY_OBJECTS);
    while let Some((object, result)) = checks.next().await {
        if !control.rights_of(&job.reader)?.is_operator() {
            let sentence = "the caller of this verification is no operator any more";
            return Err(CallError::Denied(sentence.to_owned()));
        }
        let mut progress = job.progress.borrow_mut();
        // What is cached of an object changes until its turn comes: the total follows, so that
        // it is reached in the end.
        let expected = object.cached.bytes;
        progress.bytes_total = progress.bytes_total.saturating_sub(expected);
        match result {
            Ok((_, wrong, bytes)) => {
                progress.objects_done += 1;
                progress.bytes_done += bytes;
                progress.bytes_total += bytes;
                progress.blocks_wrong += wrong;
            }
            Err(error) => {
                drop(progress);
                job.fail(format!("{}: {error}", object.meta.uri));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_stands_before_the_first_object_that_is_not_done() {
        let mut watermark = Watermark::default();
        for path in ["/a", "/b", "/c"] {
            watermark.begin(path);
        }
        assert_eq!(watermark.finish("/b"), None);
        assert_eq!(watermark.finish("/a"), Some("/b".to_owned()));
        assert_eq!(watermark.finish("/c"), Some("/c".to_owned()));
    }
}
