//! The control thread's way to the shards: letters with bounded waits, and answers from one or all.
//!
//! The invariant: nothing here waits without a deadline, and a shard that is gone is an error that
//! says so, never a hang.

use std::sync::Arc;
use std::time::Duration;

use corelane_placement::{partition_of, shard_of};
use corelane_rpc_schema::{ObjectId, ShardId, Stripe};
use futures::future::try_join_all;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::inbox::{InboxSender, PostError};
use crate::shard::request::ShardRequest;

/// How long an ordinary question may take: longer than an under-store's retries.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// How long a question may take that moves or reads a whole object: at 10 MB/s, 70 GB.
pub const WORK_DEADLINE: Duration = Duration::from_secs(7200);

/// How long to try again when a shard's inbox is full.
const POST_DEADLINE: Duration = Duration::from_secs(2);

/// Pause between tries: a shard empties its inbox every turn of its loop.
const POST_PAUSE: Duration = Duration::from_millis(1);

/// Why a shard did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Its inbox stayed full.
    #[error("shard {0} has too many requests waiting; retry")]
    Busy(u16),
    /// It is stopping or gone.
    #[error("shard {0} is stopping; retry when the worker is up again")]
    Stopping(u16),
    /// It took too long.
    #[error(
        "shard {0} did not answer within {1} s; retry, and see /slow and the log for the cause"
    )]
    Late(u16, u64),
}

/// All shards of the worker.
#[derive(Clone)]
pub struct Shards {
    inboxes: Arc<[InboxSender<ShardRequest>]>,
    partitions: u32,
}

impl Shards {
    /// The shards behind `inboxes`, in order, among which `partitions` are dealt.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(inboxes: Vec<InboxSender<ShardRequest>>, partitions: u32) -> Self {
        assert!(!inboxes.is_empty(), "a worker has at least one shard");
        Shards {
            inboxes: inboxes.into(),
            partitions,
        }
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.inboxes.len() as u16
    }

    /// Their numbers.
    pub fn ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.count()).map(ShardId)
    }

    /// The owner of `stripe` of `object`.
    pub fn owner(&self, object: ObjectId, stripe: Stripe) -> ShardId {
        let partition = partition_of(object.home, stripe.0, self.partitions);
        ShardId(shard_of(partition, self.partitions, self.count()))
    }

    /// The home shard of the objects with a home id.
    pub fn home(&self, home: u64) -> ShardId {
        self.owner(ObjectId { home, version: 0 }, Stripe(0))
    }

    /// Asks one shard and waits for its answer, at most `deadline`.
    ///
    /// # Errors
    /// When it is busy, stopping or late.
    pub async fn ask<T>(
        &self,
        shard: ShardId,
        deadline: Duration,
        question: impl FnOnce(oneshot::Sender<T>) -> ShardRequest,
    ) -> Result<T, AskError> {
        let end = Instant::now() + deadline;
        let (answer, answered) = oneshot::channel();
        self.tell(shard, question(answer)).await?;
        match timeout_at(end, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Stopping(shard.0)),
            Err(_) => Err(AskError::Late(shard.0, deadline.as_secs())),
        }
    }

    /// Asks all shards at once; answers in their order.
    ///
    /// # Errors
    /// When one of them is busy, stopping or late.
    pub async fn ask_all<T>(
        &self,
        deadline: Duration,
        question: impl Fn(oneshot::Sender<T>) -> ShardRequest,
    ) -> Result<Vec<T>, AskError> {
        try_join_all(self.ids().map(|shard| self.ask(shard, deadline, &question))).await
    }

    /// Asks all shards, and gives the question a number, one more than `last`: questions that share `last`
    /// come to every shard in the order of their numbers. All are asked, even when one cannot be.
    ///
    /// # Errors
    /// As [`Shards::ask_all`].
    pub async fn ask_all_in_order<T>(
        &self,
        last: &Mutex<u64>,
        deadline: Duration,
        question: impl Fn(u64, oneshot::Sender<T>) -> ShardRequest,
    ) -> Result<(), AskError> {
        let mut asked = Vec::new();
        {
            let mut last = last.lock().await;
            *last += 1;
            for shard in self.ids() {
                let (answer, answered) = oneshot::channel();
                let told = self.tell(shard, question(*last, answer)).await;
                asked.push((shard, told.map(|()| answered)));
            }
        }
        let end = Instant::now() + deadline;
        let mut result = Ok(());
        for (shard, told) in asked {
            let answered = match told {
                Err(error) => Err(error),
                Ok(answered) => match timeout_at(end, answered).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(_)) => Err(AskError::Stopping(shard.0)),
                    Err(_) => Err(AskError::Late(shard.0, deadline.as_secs())),
                },
            };
            result = result.and(answered);
        }
        result
    }

    /// Posts a letter, waiting a little while the inbox is full.
    ///
    /// # Errors
    /// When it stays full or the shard is gone.
    pub async fn tell(&self, shard: ShardId, letter: ShardRequest) -> Result<(), AskError> {
        let end = Instant::now() + POST_DEADLINE;
        let mut letter = letter;
        loop {
            letter = match self.inboxes[usize::from(shard.0)].post(letter) {
                Ok(()) => return Ok(()),
                Err(PostError::Closed(_)) => return Err(AskError::Stopping(shard.0)),
                Err(PostError::Full(_)) if Instant::now() >= end => {
                    return Err(AskError::Busy(shard.0));
                }
                Err(PostError::Full(letter)) => letter,
            };
            sleep(POST_PAUSE).await;
        }
    }

    /// Posts a letter to each shard.
    ///
    /// # Errors
    /// The first that could not be told; the others were.
    pub async fn tell_all(&self, letter: impl Fn() -> ShardRequest) -> Result<(), AskError> {
        let mut result = Ok(());
        for shard in self.ids() {
            result = result.and(self.tell(shard, letter()).await);
        }
        result
    }
}
