//! Connections of the control plane: how many, who gets past the gate, and when one is cut off.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Rc as CapRc;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use corelane_rpc_schema::generated::worker_capnp::gate;
use futures::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::Control;
use super::calls::Calls;
use super::traffic::{Incoming, Outgoing, Traffic};
use crate::access::Reader;
use crate::start::{FailureKind, WorkerError};

/// Who has not passed the gate by then is cut off.
const ENTER_DEADLINE: Duration = Duration::from_secs(10);

/// So many wrong tokens on one connection end it.
const ENTER_TRIES: u32 = 3;

/// Different tokens that one connection may bring: one is usual.
const READERS_MAX: usize = 8;

/// How often connections are looked after. Rights end at once; this is for how long a connection without any lasts.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Longest incoming message, in words: paths, readers and options of one mount fit many times.
const MESSAGE_WORDS_MAX: usize = (1 << 20) / 8;

/// How often the log says at most that connections are refused: whoever connects must not fill it.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Pause after an accept that failed: descriptors may have run out, and others may close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Begins to accept connections on the control thread. Aborting the handle ends that.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn listen(listener: TcpListener, control: &Rc<Control>) -> Result<AbortHandle, WorkerError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| {
        WorkerError::new(
            FailureKind::Environment,
            format!("the control listener cannot be used: {error}"),
        )
    })?;
    let control = Rc::clone(control);
    let task = tokio::task::spawn_local(async move {
        let open = Rc::new(Cell::new(0usize));
        let refused = Refused::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => admit(&control, &open, &refused, stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(task.abort_handle())
}

/// One open connection in the count.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Connections that were refused since a line of the log said so.
#[derive(Default)]
struct Refused {
    since: Cell<u64>,
    last: Cell<Option<Instant>>,
}

fn admit(
    control: &Rc<Control>,
    open: &Rc<Cell<usize>>,
    refused: &Refused,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let limit = control.limits().control_connections;
    if open.get() >= limit {
        let now = Instant::now();
        let is_quiet = refused
            .last
            .get()
            .is_none_or(|last| now - last > REFUSAL_LOG_INTERVAL);
        refused.since.set(refused.since.get() + 1);
        if is_quiet {
            let count = refused.since.replace(0);
            refused.last.set(Some(now));
            tracing::warn!(%peer, limit, count, "control connections are refused: too many are open (`limits.control_connections`)");
        }
        return;
    }
    open.set(open.get() + 1);
    let place = Place(Rc::clone(open));
    let control = Rc::clone(control);
    tokio::task::spawn_local(async move {
        let _place = place;
        if let Err(why) = converse(control, stream).await {
            tracing::debug!(%peer, why, "a control connection ended");
        }
    });
}

/// Serves one connection until it ends or has to be cut off.
async fn converse(control: Rc<Control>, stream: TcpStream) -> Result<(), String> {
    // Answers are small and waited for.
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let traffic = Traffic::new();
    let entered: Rc<RefCell<Vec<Reader>>> = Rc::default();
    let tries_left = Rc::new(Cell::new(ENTER_TRIES));
    let (reader, writer) = stream.compat().split();
    let incoming = Incoming {
        inner: futures::io::BufReader::new(reader),
        traffic: Rc::clone(&traffic),
    };
    let outgoing = Outgoing {
        inner: futures::io::BufWriter::new(writer),
        traffic: Rc::clone(&traffic),
    };
    let mut options = capnp::message::ReaderOptions::new();
    options.traversal_limit_in_words(Some(MESSAGE_WORDS_MAX));
    let network = twoparty::VatNetwork::new(
        incoming,
        outgoing,
        rpc_twoparty_capnp::Side::Server,
        options,
    );
    let gate: gate::Client = capnp_rpc::new_client(Gate {
        control: Rc::clone(&control),
        traffic: Rc::clone(&traffic),
        entered: Rc::clone(&entered),
        tries_left: Rc::clone(&tries_left),
    });
    let conversation = RpcSystem::new(Box::new(network), Some(gate.client));
    let began = Instant::now();
    let watch = async {
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            interval.tick().await;
            if entered.borrow().is_empty() && began.elapsed() > ENTER_DEADLINE {
                return "it did not pass the gate in time";
            }
            let mut readers = entered.borrow().clone().into_iter();
            if readers.any(|reader| control.access.standing(&reader).is_none()) {
                return "a token that it brought is not valid any more";
            }
            if tries_left.get() == 0 {
                return "it brought too many wrong tokens";
            }
            if traffic.is_stuck() {
                return "it did not take its answers in time";
            }
        }
    };
    tokio::select! {
        result = conversation => result.map_err(|error| error.to_string()),
        why = watch => Err(why.to_owned()),
    }
}

/// The bootstrap capability: nothing is reachable without a token.
struct Gate {
    control: Rc<Control>,
    traffic: Rc<Traffic>,
    /// Everyone who entered here, each once.
    entered: Rc<RefCell<Vec<Reader>>>,
    tries_left: Rc<Cell<u32>>,
}

impl gate::Server for Gate {
    async fn enter(
        self: CapRc<Self>,
        params: gate::EnterParams,
        mut results: gate::EnterResults,
    ) -> Result<(), capnp::Error> {
        let Some(_call) = self.traffic.begin(self.control.limits().control_calls) else {
            return Err(capnp::Error::overloaded(
                "busy: too many calls are in flight; retry".to_owned(),
            ));
        };
        if self.tries_left.get() == 0 {
            return Err(capnp::Error::failed(
                "denied: too many wrong tokens; connect again".to_owned(),
            ));
        }
        let token = params.get()?.get_token()?.to_str()?;
        match self.control.access.enter(token) {
            Ok(reader) => {
                let is_new = !self.entered.borrow().contains(&reader);
                if is_new && self.entered.borrow().len() >= READERS_MAX {
                    return Err(capnp::Error::failed(
                        "denied: too many different tokens on one connection; connect again"
                            .to_owned(),
                    ));
                }
                if is_new {
                    self.entered.borrow_mut().push(reader.clone());
                }
                let calls = Calls::new(Rc::clone(&self.control), Rc::clone(&self.traffic), reader);
                results.get().set_worker(capnp_rpc::new_client(calls));
                Ok(())
            }
            Err(error) => {
                self.tries_left.set(self.tries_left.get() - 1);
                Err(capnp::Error::failed(format!("denied: {error}")))
            }
        }
    }
}
