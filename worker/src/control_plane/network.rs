//! The network that capnp-rpc stands on here: that of two parties, with every message seen on its way.
//!
//! The invariant: no message reaches capnp-rpc and none leaves it without [`Traffic`] having counted it.

use std::cell::RefCell;
use std::rc::Rc;

use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{call, message, message_target, promised_answer, return_};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::TryFutureExt;

use super::traffic::{Charge, Traffic};

/// Capabilities of the client in one call: no method takes any, so this is for those to come.
const CAPABILITIES_MAX: u32 = 8;

/// Steps from an answer to the capability in it that a call is for: `enter` takes one.
const TRANSFORM_MAX: u32 = 8;

/// Messages after which other tasks of the control thread have their turn.
const MESSAGES_PER_TURN: u64 = 64;

/// Calls in flight that are allowed now.
pub(super) type CallsMax = Rc<dyn Fn() -> usize>;

/// A network whose messages are counted.
pub(super) struct CountedNetwork<N> {
    pub(super) inner: N,
    pub(super) traffic: Rc<Traffic>,
    pub(super) calls_max: CallsMax,
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for CountedNetwork<N> {
    fn connect(&mut self, host: Side) -> Option<Box<dyn Connection<Side>>> {
        let connection = self.inner.connect(host)?;
        Some(Counted::boxed(connection, &self.traffic, &self.calls_max))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let (traffic, calls_max) = (Rc::clone(&self.traffic), Rc::clone(&self.calls_max));
        let accepted = self.inner.accept();
        Promise::from_future(
            accepted.map_ok(move |connection| Counted::boxed(connection, &traffic, &calls_max)),
        )
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.inner.drive_until_shutdown()
    }
}

struct Counted {
    inner: Rc<RefCell<Box<dyn Connection<Side>>>>,
    traffic: Rc<Traffic>,
    calls_max: CallsMax,
}

impl Counted {
    fn boxed(
        inner: Box<dyn Connection<Side>>,
        traffic: &Rc<Traffic>,
        calls_max: &CallsMax,
    ) -> Box<dyn Connection<Side>> {
        Box::new(Counted {
            inner: Rc::new(RefCell::new(inner)),
            traffic: Rc::clone(traffic),
            calls_max: Rc::clone(calls_max),
        })
    }
}

impl Connection<Side> for Counted {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.borrow().get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_words: u32) -> Box<dyn OutgoingMessage> {
        Box::new(Leaving {
            inner: self
                .inner
                .borrow_mut()
                .new_outgoing_message(first_segment_words),
            traffic: Rc::clone(&self.traffic),
        })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let (inner, traffic) = (Rc::clone(&self.inner), Rc::clone(&self.traffic));
        let calls_max = Rc::clone(&self.calls_max);
        if let Some(message) = traffic.next_ready() {
            return Promise::ok(Some(message));
        }
        Promise::from_future(async move {
            loop {
                if traffic.messages() % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
                    tokio::task::yield_now().await;
                }
                let receiving = inner.borrow_mut().receive_incoming_message();
                let Some(message) = receiving.await? else {
                    return Ok(None);
                };
                match traffic.admit(message, calls_max()) {
                    Ok(Some(message)) => return Ok(Some(traffic.behind_ready(message))),
                    Ok(None) => {}
                    Err(reason) => {
                        traffic.cut(reason.clone());
                        return Err(Error::failed(reason));
                    }
                }
            }
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.inner.borrow_mut().new_stream()
    }

    fn shutdown(&mut self, result: Result<(), Error>) -> Promise<(), Error> {
        self.inner.borrow_mut().shutdown(result)
    }
}

/// A message that capnp-rpc has, and what it takes.
pub(super) struct Received {
    pub(super) message: Box<dyn IncomingMessage>,
    pub(super) _charge: Charge,
}

impl IncomingMessage for Received {
    fn get_body(&self) -> Result<capnp::any_pointer::Reader<'_>, Error> {
        self.message.get_body()
    }
}

/// A message that capnp-rpc makes.
struct Leaving {
    inner: Box<dyn OutgoingMessage>,
    traffic: Rc<Traffic>,
}

impl OutgoingMessage for Leaving {
    fn get_body(&mut self) -> Result<capnp::any_pointer::Builder<'_>, Error> {
        self.inner.get_body()
    }

    fn get_body_as_reader(&self) -> Result<capnp::any_pointer::Reader<'_>, Error> {
        self.inner.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let Leaving { inner, traffic } = *self;
        let returned = Returned::of(&*inner);
        let (sending, message) = inner.send();
        let segments = message.get_segments_for_output();
        // As the stream has it: the table of segments, then the segments.
        let table = (segments.len() / 2 + 1) * 8;
        let bytes: usize = segments.iter().map(|segment| segment.len()).sum();
        traffic.sent((table + bytes) as u64);
        if let Some(Returned { id, needs_finish }) = returned {
            traffic.returned(id, needs_finish);
        }
        (sending, message)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.inner.take()
    }

    fn size_in_words(&self) -> usize {
        self.inner.size_in_words()
    }
}

/// The return of a question.
struct Returned {
    id: u32,
    needs_finish: bool,
}

impl Returned {
    fn of(message: &dyn OutgoingMessage) -> Option<Self> {
        let body = message.get_body_as_reader().ok()?;
        let message: message::Reader<'_> = body.get_as().ok()?;
        let Ok(message::Return(Ok(returned))) = message.which() else {
            return None;
        };
        Some(Returned {
            id: returned.get_answer_id(),
            needs_finish: !returned.get_no_finish_needed()
                || !matches!(returned.which(), Ok(return_::Results(_))),
        })
    }
}

/// What a received message does to the tables of capnp-rpc.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Begins an answer.
    Question(u32),
    /// Ends one.
    Finish(u32),
    /// Neither.
    Other,
}

impl Kind {
    /// The kind of `message`.
    ///
    /// # Errors
    /// When it is malformed, or would take more than it may.
    pub(super) fn of(message: &dyn IncomingMessage) -> Result<Kind, Error> {
        let message: message::Reader<'_> = message.get_body()?.get_as()?;
        Ok(match message.which() {
            Ok(message::Bootstrap(bootstrap)) => Kind::Question(bootstrap?.get_question_id()),
            Ok(message::Call(call)) => {
                let call = call?;
                check_target(call.get_target()?)?;
                if !matches!(
                    call.get_send_results_to().which(),
                    Ok(call::send_results_to::Caller(()))
                ) {
                    // Results would stay here, uncounted, until the client finishes the call.
                    let sentence = "results go to the caller only (`Call.sendResultsTo`)";
                    return Err(Error::unimplemented(sentence.to_owned()));
                }
                if call.has_params() && call.get_params()?.get_cap_table()?.len() > CAPABILITIES_MAX
                {
                    return Err(Error::failed(format!(
                        "a call brings more than {CAPABILITIES_MAX} capabilities"
                    )));
                }
                Kind::Question(call.get_question_id())
            }
            Ok(message::Finish(finish)) => Kind::Finish(finish?.get_question_id()),
            Ok(message::Disembargo(disembargo)) => {
                check_target(disembargo?.get_target()?)?;
                Kind::Other
            }
            Ok(_) | Err(capnp::NotInSchema(_)) => Kind::Other,
        })
    }
}

fn check_target(target: message_target::Reader<'_>) -> Result<(), Error> {
    let Ok(message_target::PromisedAnswer(answer)) = target.which() else {
        return Ok(());
    };
    let answer: promised_answer::Reader<'_> = answer?;
    if answer.get_transform()?.len() > TRANSFORM_MAX {
        return Err(Error::failed(format!(
            "a promised answer is followed for more than {TRANSFORM_MAX} steps"
        )));
    }
    Ok(())
}
