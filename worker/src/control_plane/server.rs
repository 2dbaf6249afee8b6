//! Connections of the control plane: how many, who gets past the gate, and when one is cut off.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Rc as CapRc;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use corelane_rpc_schema::generated::worker_capnp::gate;
use futures::AsyncReadExt;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::Control;
use super::calls::Calls;
use super::network::CountedNetwork;
use super::traffic::{Incoming, Outgoing, Traffic};
use crate::access::Reader;
use crate::places::{LogLimit, Taken, open_max, to_free};
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

/// How long the reason may take to leave when a connection is cut off.
const ABORT_DEADLINE: Duration = Duration::from_millis(500);

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
    let connections = Rc::new(Connections {
        control: Rc::clone(control),
        open: RefCell::default(),
        began: Instant::now(),
        refused: LogLimit::default(),
        cut: LogLimit::default(),
    });
    let task = tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => connections.admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(task.abort_handle())
}

/// The open connections.
struct Connections {
    control: Rc<Control>,
    open: RefCell<Slab<(IpAddr, Rc<Traffic>)>>,
    began: Instant,
    refused: LogLimit,
    cut: LogLimit,
}

/// One of them; its place is free when this is dropped.
struct Place {
    connections: Rc<Connections>,
    key: usize,
    traffic: Rc<Traffic>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.traffic.clear();
        self.connections.open.borrow_mut().remove(self.key);
    }
}

impl Connections {
    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let limit = self.control.limits().control_connections;
        let traffic = Traffic::new(self.control.traffic());
        if !self.has_place(limit, peer.ip()) {
            self.control.traffic().count_refused();
            if let Some(left_out) = self.refused.allow(self.began.elapsed()) {
                tracing::warn!(%peer, limit, left_out, "a control connection is refused: too many are open (`limits.control_connections`)");
            }
            return;
        }
        let key = self
            .open
            .borrow_mut()
            .insert((peer.ip(), Rc::clone(&traffic)));
        let place = Place {
            connections: Rc::clone(self),
            key,
            traffic: Rc::clone(&traffic),
        };
        tokio::task::spawn_local(async move {
            let connections = Rc::clone(&place.connections);
            let served = converse(&connections.control, &traffic, stream).await;
            drop(place);
            match served {
                Ok(()) => {}
                Err(End::Broken(why)) => tracing::debug!(%peer, why, "a control connection ended"),
                Err(End::Cut(why)) => {
                    connections.control.traffic().count_cut();
                    if let Some(left_out) = connections.cut.allow(connections.began.elapsed()) {
                        tracing::warn!(%peer, why, left_out, "a control connection was cut off");
                    }
                }
            }
        });
    }

    /// Whether one of `newcomer` has a place; where all are taken, those go that only wait.
    fn has_place(&self, limit: usize, newcomer: IpAddr) -> bool {
        let open = self.open.borrow();
        let stay = || {
            open.iter()
                .filter(|(_, (_, traffic))| traffic.is_cut().is_none())
        };
        if open.len() < limit || open.len() < open_max(limit) && stay().count() < limit {
            return true;
        }
        if open.len() >= open_max(limit) {
            return false;
        }
        let taken = open.iter().map(|(key, (peer, traffic))| Taken {
            key,
            peer: *peer,
            standing: traffic.standing(),
        });
        let freed = to_free(taken, newcomer);
        for key in &freed {
            open[*key]
                .1
                .cut("others need its place, and it only waited");
        }
        !freed.is_empty()
    }
}

/// How a connection ended that did not end well.
enum End {
    /// By the peer or the network.
    Broken(String),
    /// By us.
    Cut(String),
}

/// Serves one connection until it ends or has to be cut off.
async fn converse(
    control: &Rc<Control>,
    traffic: &Rc<Traffic>,
    stream: TcpStream,
) -> Result<(), End> {
    // Answers are small and waited for.
    stream
        .set_nodelay(true)
        .map_err(|error| End::Broken(error.to_string()))?;
    let entered: Rc<RefCell<Vec<Reader>>> = Rc::default();
    let tries_left = Rc::new(Cell::new(ENTER_TRIES));
    let (reader, writer) = stream.compat().split();
    let incoming = Incoming {
        inner: futures::io::BufReader::new(reader),
        traffic: Rc::clone(traffic),
    };
    let outgoing = futures::io::BufWriter::new(Outgoing {
        inner: writer,
        traffic: Rc::clone(traffic),
    });
    let mut options = capnp::message::ReaderOptions::new();
    options.traversal_limit_in_words(Some(MESSAGE_WORDS_MAX));
    let network = twoparty::VatNetwork::new(
        incoming,
        outgoing,
        rpc_twoparty_capnp::Side::Server,
        options,
    );
    let limits = Rc::clone(control);
    let network = CountedNetwork {
        inner: network,
        traffic: Rc::clone(traffic),
        calls_max: Rc::new(move || limits.limits().control_calls),
    };
    let gate: gate::Client = capnp_rpc::new_client(Gate {
        control: Rc::clone(control),
        traffic: Rc::clone(traffic),
        entered: Rc::clone(&entered),
        tries_left: Rc::clone(&tries_left),
    });
    let mut conversation = RpcSystem::new(Box::new(network), Some(gate.client));
    let began = Instant::now();
    let watch = async {
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            let now = interval.tick().await;
            if !traffic.has_entered() && began.elapsed() > ENTER_DEADLINE {
                traffic.cut("it did not pass the gate in time");
            }
            let mut readers = entered.borrow().clone().into_iter();
            if readers.any(|reader| control.access.standing(&reader).is_none()) {
                traffic.cut("a token that it brought is not valid any more");
            }
            if tries_left.get() == 0 {
                traffic.cut("it brought too many wrong tokens");
            }
            traffic.watch(now);
        }
    };
    let cut = tokio::select! {
        result = &mut conversation => {
            let ended = result.map_err(|error| End::Broken(error.to_string()));
            return match traffic.is_cut() {
                Some(why) if !traffic.is_broken() => Err(End::Cut(why)),
                _ => ended,
            };
        }
        why = traffic.until_cut() => why,
        () = watch => unreachable!("the watch does not end by itself"),
    };
    if traffic.is_broken() {
        return Err(End::Broken(cut));
    }
    // The reader has learnt of it: what the client is told leaves if the client takes it.
    let _ = timeout(ABORT_DEADLINE, conversation).await;
    Err(End::Cut(cut))
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
                let Some(in_use) = self.traffic.begin_worker() else {
                    return Err(capnp::Error::overloaded(
                        "busy: this connection has too many worker capabilities; release some"
                            .to_owned(),
                    ));
                };
                if is_new {
                    self.entered.borrow_mut().push(reader.clone());
                }
                self.traffic.enter();
                let (control, traffic) = (Rc::clone(&self.control), Rc::clone(&self.traffic));
                let calls = Calls::new(control, traffic, in_use, reader);
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
