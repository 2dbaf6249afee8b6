//! Questions to and from the other shards.
//!
//! Every question gets exactly one answer. A full queue is waited out, not grown: the other side
//! empties it in its own task, so two shards that wait for each other's queues go on.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use corelane_io::{Io, Priority};
use corelane_rpc_schema::frame::ReadRequest;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{ObjectId, ShardId};
use futures::channel::oneshot;
use slab::Slab;

use super::Shard;
use super::forward::Forwarded;
use super::gather::ReadParts;
use super::message::{Answer, Message, Question, RemoteRead};
use super::read::error;
use crate::mount::AccessSet;
use crate::object::ObjectMeta;
use crate::store::{LocalBoxFuture, Release, Siblings};
use crate::under_store::UnderStore;

/// Most questions that may be unanswered: bounds the memory that other shards pin for this one.
const QUESTIONS_MAX: usize = 4096;

/// How long a shard waits between tries when a queue of the mesh is full.
const FULL_RETRY: Duration = Duration::from_micros(50);

/// Ticket of what is said without waiting for an answer.
const TICKET_OF_NOBODY: u64 = u64::MAX;

/// Who waits for an answer.
pub(super) enum Waiting {
    /// A task.
    Task(oneshot::Sender<Answer>),
    /// A read of another shard's stripe.
    Read(Forwarded),
}

/// The questions of a shard that wait for their answers. A ticket is a place in the table: it is
/// taken again only after its one answer came.
pub struct Asking {
    waiting: RefCell<Slab<Waiting>>,
}

impl Asking {
    /// None.
    pub fn new() -> Self {
        Asking {
            waiting: RefCell::new(Slab::new()),
        }
    }

    /// Notes who waits, and gives the ticket of the question.
    pub(super) fn wait(&self, waiting: Waiting) -> u64 {
        self.waiting.borrow_mut().insert(waiting) as u64
    }

    /// Whether no further question may be asked now.
    pub fn is_full(&self) -> bool {
        self.len() >= QUESTIONS_MAX
    }

    /// Unanswered questions.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}

/// A question that is on its way into a queue. Who gives up before it is in there gets no answer, which would
/// give the ticket back.
struct Unsent<'a> {
    asking: &'a Asking,
    ticket: Option<u64>,
}

impl<'a> Unsent<'a> {
    fn new(asking: &'a Asking, waiting: Waiting) -> (Self, u64) {
        let ticket = asking.wait(waiting);
        let unsent = Unsent {
            asking,
            ticket: Some(ticket),
        };
        (unsent, ticket)
    }

    fn keep(mut self) {
        self.ticket = None;
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.asking.waiting.borrow_mut().remove(ticket as usize);
        }
    }
}

impl Default for Asking {
    fn default() -> Self {
        Asking::new()
    }
}

/// The store's way to the other shards. The store is opened before the shard exists, so the
/// connection is made afterwards; questions that come earlier wait for it.
pub struct ShardSiblings<I: Io, U: UnderStore> {
    io: I,
    /// Shared with questions that were asked before the connection was made.
    shard: Rc<RefCell<Weak<Shard<I, U>>>>,
}

impl<I: Io, U: UnderStore> ShardSiblings<I, U> {
    /// Not connected yet.
    pub fn new(io: I) -> Self {
        ShardSiblings {
            io,
            shard: Rc::new(RefCell::new(Weak::new())),
        }
    }

    /// From now on questions go out through `shard`.
    pub fn connect(&self, shard: &Rc<Shard<I, U>>) {
        *self.shard.borrow_mut() = Rc::downgrade(shard);
    }
}

impl<I: Io, U: UnderStore> Siblings for ShardSiblings<I, U> {
    fn release(&self, to: ShardId, release: Release) -> LocalBoxFuture<bool> {
        let (weak, io) = (Rc::clone(&self.shard), self.io.clone());
        Box::pin(async move {
            loop {
                let connected = weak.borrow().upgrade();
                let question = Question::Release(release);
                if let Some(shard) = connected
                    && let Ok(Answer::Released(is_released)) = shard.ask(to, question).await
                {
                    return is_released;
                }
                // Starting, or too many questions are open: reclaim can wait, reuse cannot go on.
                io.sleep(Duration::from_millis(10)).await;
            }
        })
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Asks shard `to` and waits for its answer.
    pub(crate) async fn ask(
        &self,
        to: ShardId,
        question: Question,
    ) -> Result<Answer, ErrorMessage> {
        assert_ne!(to, self.id, "a shard does not ask itself");
        if self.asking.is_full() {
            return Err(error(
                ErrorCode::Busy,
                "too many requests to another core are waiting; retry",
            ));
        }
        let (sender, receiver) = oneshot::channel();
        let (unsent, ticket) = Unsent::new(&self.asking, Waiting::Task(sender));
        self.post(to, Message::Ask { ticket, question }).await;
        unsent.keep();
        receiver
            .await
            .map_err(|_| error(ErrorCode::Draining, "the worker is stopping"))
    }

    /// Asks the owner of a stripe for a read that arrived here.
    pub(crate) async fn ask_read(
        &self,
        owner: ShardId,
        request: &ReadRequest,
        access: Arc<AccessSet>,
    ) -> Result<ReadParts, ErrorMessage> {
        match self
            .ask(
                owner,
                Question::Read {
                    request: *request,
                    access,
                },
            )
            .await?
        {
            Answer::Read(read) => read.map(|read| ReadParts::of_owner(owner, read)),
            answer => unreachable!("{answer:?} does not answer a read"),
        }
    }

    /// Tells the home shard that a version is gone, without waiting.
    pub(crate) fn tell_to_forget(&self, home: ShardId, object: ObjectId) {
        // Where the queue is full the home finds out by itself when its metadata ages.
        let _ = self.mesh.borrow_mut().send(
            usize::from(home.0),
            Message::Ask {
                ticket: TICKET_OF_NOBODY,
                question: Question::Forget { object },
            },
        );
    }

    /// Tells another shard to bring its blocks of an object in, without waiting.
    pub(crate) fn tell_to_load(&self, shard: ShardId, object: &Arc<ObjectMeta>) {
        // Where the queue is full, those blocks come when they are read.
        let _ = self.mesh.borrow_mut().send(
            usize::from(shard.0),
            Message::Ask {
                ticket: TICKET_OF_NOBODY,
                question: Question::Load {
                    object: Arc::clone(object),
                },
            },
        );
    }

    async fn post(&self, to: ShardId, mut message: Message) {
        loop {
            let sent = self.mesh.borrow_mut().send(usize::from(to.0), message);
            match sent {
                Ok(()) => return,
                Err(back) => message = back,
            }
            self.io.sleep(FULL_RETRY).await;
        }
    }

    /// Answers at once; a full queue is waited out in a task.
    fn tell(self: &Rc<Self>, to: usize, ticket: u64, answer: Answer) {
        let tell = Message::Tell { ticket, answer };
        let sent = self.mesh.borrow_mut().send(to, tell);
        if let Err(tell) = sent {
            let shard = Rc::clone(self);
            self.io.spawn(Priority::Foreground, async move {
                shard.post(ShardId(to as u16), tell).await;
            });
        }
    }

    /// Handles a message of another shard.
    pub(crate) fn on_message(self: &Rc<Self>, from: usize, message: Message) {
        match message {
            Message::Tell { ticket, answer } => {
                if ticket == TICKET_OF_NOBODY {
                    return;
                }
                let waiting = self.asking.waiting.borrow_mut().remove(ticket as usize);
                match waiting {
                    // Whoever asked may be gone; the answer's pins go with it.
                    Waiting::Task(sender) => drop(sender.send(answer)),
                    Waiting::Read(read) => {
                        self.answer_forwarded(read, ShardId(from as u16), answer);
                    }
                }
            }
            Message::Ask {
                ticket,
                question: Question::Read { request, access },
            } if let Some(read) = self.read_for_sibling(&request, &access) => {
                self.tell(from, ticket, Answer::Read(Ok(read)));
            }
            Message::Ask {
                ticket,
                question: Question::Get(question),
            } if let Some(got) = self.got_at_once(&question) => {
                self.tell(from, ticket, Answer::Got(Ok(got)));
            }
            Message::Ask { ticket, question } => {
                let shard = Rc::clone(self);
                let priority = match question {
                    Question::Release(_) => Priority::Background,
                    _ => Priority::Foreground,
                };
                self.io.spawn(priority, async move {
                    let answer = shard.answer(question).await;
                    shard
                        .post(ShardId(from as u16), Message::Tell { ticket, answer })
                        .await;
                });
            }
        }
    }

    async fn answer(self: &Rc<Self>, question: Question) -> Answer {
        match question {
            Question::Read { request, access } => {
                let read = self.gather(&request, &access).await;
                Answer::Read(read.map(RemoteRead::of_parts))
            }
            Question::Get(question) => Answer::Got(self.get_for_sibling(question).await),
            Question::Describe { path } => Answer::Described(match self.mount_covering(&path) {
                Ok(mount) => self.describe_anywhere(&path, &mount).await,
                Err(no_mount) => Err(no_mount),
            }),
            Question::Known { object } => {
                let remembered = self.metadata.borrow().of_id(object);
                Answer::Object(remembered.or_else(|| self.store.object(object)))
            }
            Question::Recorded {
                home,
                uri,
                block_bytes,
            } => Answer::Object(self.recorded_here(home, &uri, block_bytes)),
            Question::Forget { object } => {
                let remembered = self.metadata.borrow().of_id(object);
                if let Some(meta) = remembered {
                    self.metadata.borrow_mut().forget(&meta);
                }
                Answer::Done
            }
            Question::Load { object } => {
                self.load_in_background(&object);
                Answer::Done
            }
            Question::LookUp { asked, access } => {
                Answer::LookedUp(self.look_into(&asked, &access).await.map(Box::new))
            }
            Question::Release(release) => {
                Answer::Released(self.store.release_region(release).await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_is_given_up_before_it_was_sent_leaves_nothing() {
        let asking = Asking::new();
        let begin = || Unsent::new(&asking, Waiting::Task(oneshot::channel().0));
        let (given_up, _) = begin();
        let (sent, ticket) = begin();
        assert_eq!(asking.len(), 2);
        drop(given_up);
        sent.keep();
        assert_eq!(asking.len(), 1);
        assert!(asking.waiting.borrow().contains(ticket as usize));
    }
}
