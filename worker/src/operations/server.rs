//! HTTP/1.1 on the control thread: bounded connections, times and heads.
//!
//! The invariant: no connection waits behind another one. A connection without a place waits for one beside the
//! others, for a bounded time and in bounded number, so that probes are never queued behind one that waits.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
    WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use slab::Slab;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, interval, sleep, timeout};

use super::body::Body;
use super::lookup::{self, Lookups};
use super::pace::{Pace, Paced};
use super::pages::{self, Page, View};
use super::status::Status;
use crate::access::Access;
use crate::config::Config;
use crate::host::is_own;
use crate::places::{Standing, Taken, open_max, to_free};
use crate::start::{FailureKind, WorkerError};

/// A request's head has to come within this time; also how long an idle connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// A connection takes no more requests after this time, however it behaves: a scraper connects again.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);

/// How long the last answer of a connection may take: the longest look-up, and 64 MiB at 10 Mbit/s.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(120);

/// Largest head, which is hyper's least buffer.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// A peer that takes nothing of what is sent to it for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Connections for each request that may be under way (`limits.operations_connections`): those that only wait
/// cost some KiB each.
const CONNECTIONS_PER_REQUEST: usize = 8;

/// Connections beyond these for peers on this machine, where probes come from.
const LOOPBACK_CONNECTIONS: usize = 8;

/// How long a connection without a request keeps its place at least when all are taken: a request is sent
/// right behind the connection.
const FIRST_HEAD_MIN: Duration = Duration::from_millis(50);

/// Connections that may wait for a place; as many more from this machine as have places beyond the others.
const WAITING_MAX: usize = 64;

/// Longest wait of a connection for a place: the time after which probes give up, about.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks of a connection for a place.
const PLACE_PAUSE: Duration = Duration::from_millis(5);

/// How long a request waits for others to end: pages are answered within 5 s.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether peers take their answers.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// A peer that has taken nothing for so long does not keep its place when others need it.
const BLOCKED_MAX: Duration = Duration::from_secs(1);

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers to look-ups may take to be finished when the worker stops: as long as lanes have.
const FINISH_DEADLINE: Duration = Duration::from_secs(10);

/// How often it is looked whether they are.
const FINISH_PAUSE: Duration = Duration::from_millis(5);

/// What requests are answered from.
struct Desk {
    status: Rc<Status>,
    access: Arc<Access>,
    /// Whether a token is asked for: the port can be reached from other machines.
    wants_token: bool,
    /// Host names that are taken on loopback; `None`: any, elsewhere.
    hosts: Option<Vec<String>>,
    lookups: Lookups,
    /// Connections that had a look-up.
    looking_up: Rc<Cell<usize>>,
    /// Rights to answer a request, for all but probes and look-ups.
    requests: Arc<Semaphore>,
    open: RefCell<Slab<(IpAddr, Rc<Visit>)>>,
    connections_max: usize,
    /// Connections that wait for a place.
    waiting: Cell<usize>,
}

/// One connection, as whoever needs its place sees it.
struct Visit {
    /// Answers that are made or sent.
    answers: Cell<usize>,
    /// Since when it waits for a request, or for a permit to answer one, where there are none.
    waits_since: Cell<Instant>,
    pace: Rc<Pace>,
    /// Whether others need its place: it leaves in its own time.
    is_ended: Cell<bool>,
    end: Notify,
}

impl Visit {
    fn new() -> Rc<Self> {
        Rc::new(Visit {
            answers: Cell::new(0),
            waits_since: Cell::new(Instant::now()),
            pace: Rc::default(),
            is_ended: Cell::new(false),
            end: Notify::new(),
        })
    }

    fn end(&self) {
        self.is_ended.set(true);
        self.end.notify_one();
    }

    fn standing(&self, now: Instant) -> Standing {
        let blocked = self
            .pace
            .blocked(now)
            .filter(|blocked| *blocked >= BLOCKED_MAX);
        match (self.answers.get(), blocked) {
            _ if self.is_ended.get() => Standing::Busy,
            // Whoever has asked before and waits is no better off: it connects again.
            (0, _) => Standing::Unproven(now - self.waits_since.get()),
            (_, Some(blocked)) => Standing::Unproven(blocked),
            (_, None) => Standing::Busy,
        }
    }
}

/// An answer that is made or sent.
struct Answering(Rc<Visit>);

impl Answering {
    fn new(visit: &Rc<Visit>) -> Self {
        visit.answers.set(visit.answers.get() + 1);
        Answering(Rc::clone(visit))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.set(self.0.answers.get() - 1);
        self.0.waits_since.set(Instant::now());
    }
}

/// A connection's place, free when this is dropped.
struct Place {
    desk: Rc<Desk>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.open.borrow_mut().remove(self.key);
    }
}

/// Places that are kept for connections of `peer`, beyond those of all.
fn reserve_of(peer: IpAddr) -> usize {
    if peer.to_canonical().is_loopback() {
        LOOPBACK_CONNECTIONS
    } else {
        0
    }
}

impl Desk {
    /// A place for a connection of `peer`, and what is seen of it; `None`: all are taken by those that are served.
    fn place(self: &Rc<Self>, peer: IpAddr) -> Option<(Place, Rc<Visit>)> {
        if !self.has_place(peer) {
            return None;
        }
        let visit = Visit::new();
        let key = self.open.borrow_mut().insert((peer, Rc::clone(&visit)));
        let desk = Rc::clone(self);
        Some((Place { desk, key }, visit))
    }

    /// As [`Desk::place`], once there is one; `None`: there was none for too long, or too many wait.
    async fn wait_for_place(self: &Rc<Self>, peer: IpAddr) -> Option<(Place, Rc<Visit>)> {
        if let Some(placed) = self.place(peer) {
            return Some(placed);
        }
        if self.waiting.get() >= WAITING_MAX + reserve_of(peer) {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        let began = Instant::now();
        let placed = loop {
            sleep(PLACE_PAUSE).await;
            let placed = self.place(peer);
            if placed.is_some() || began.elapsed() >= PLACE_WAIT_MAX {
                break placed;
            }
        };
        self.waiting.set(self.waiting.get() - 1);
        placed
    }

    /// Whether a connection of `newcomer` has a place; where all are taken, those are ended that only wait.
    fn has_place(&self, newcomer: IpAddr) -> bool {
        let limit = self.connections_max + reserve_of(newcomer);
        let open = self.open.borrow();
        let stay = || open.iter().filter(|(_, (_, visit))| !visit.is_ended.get());
        if open.len() < limit || open.len() < open_max(limit) && stay().count() < limit {
            return true;
        }
        if open.len() >= open_max(limit) {
            return false;
        }
        let now = Instant::now();
        let taken = open.iter().map(|(key, (peer, visit))| {
            let standing = match visit.standing(now) {
                Standing::Unproven(waited) if waited < FIRST_HEAD_MIN => Standing::Busy,
                standing => standing,
            };
            Taken {
                key,
                peer: *peer,
                standing,
            }
        });
        let freed = to_free(taken, newcomer);
        freed.iter().for_each(|key| open[*key].1.end());
        !freed.is_empty()
    }
}

/// The port while it serves.
pub struct Operations {
    looking_up: Rc<Cell<usize>>,
}

impl Operations {
    /// Waits until the look-ups that are under way are answered, once [`Status::stop`] was called.
    pub async fn finish(&self) {
        let finished = timeout(FINISH_DEADLINE, async {
            while self.looking_up.get() > 0 {
                sleep(FINISH_PAUSE).await;
            }
        });
        if finished.await.is_err() {
            let connections = self.looking_up.get();
            tracing::warn!(
                connections,
                "look-ups over HTTP were still busy at the deadline"
            );
        }
    }
}

/// Begins to serve on the control thread.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn serve(
    listener: TcpListener,
    status: Rc<Status>,
    config: &Config,
    access: Arc<Access>,
) -> Result<Operations, WorkerError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| {
        WorkerError::new(
            FailureKind::Environment,
            format!("the operations listener cannot be used: {error}"),
        )
    })?;
    let requests_max = config.limits.operations_connections;
    let looking_up = Rc::new(Cell::new(0));
    let desk = Rc::new(Desk {
        status,
        access,
        wants_token: !config.operations.ip().is_loopback(),
        hosts: config
            .operations
            .ip()
            .is_loopback()
            .then(|| config.operations_hosts.clone()),
        lookups: Lookups::new(),
        looking_up: Rc::clone(&looking_up),
        requests: Arc::new(Semaphore::new(requests_max)),
        open: RefCell::default(),
        connections_max: requests_max.saturating_mul(CONNECTIONS_PER_REQUEST),
        waiting: Cell::new(0),
    });
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let desk = Rc::clone(&desk);
                    drop(tokio::task::spawn_local(async move {
                        if let Some((place, visit)) = desk.wait_for_place(peer.ip()).await {
                            converse(desk, stream, place, visit).await;
                        }
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an operations connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(Operations { looking_up })
}

/// A connection in the count of those that had a look-up.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Counted(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn converse(desk: Rc<Desk>, stream: TcpStream, _place: Place, visit: Rc<Visit>) {
    // The end of an answer does not wait for word of its beginning. A peer that is gone is found out below.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE_MAX));
    // Dropped with the connection, when all that was answered has been sent.
    let counted: Rc<OnceCell<Counted>> = Rc::default();
    let stopping = desk.status.stopping();
    let (task_desk, task_counted, task_visit) =
        (Rc::clone(&desk), Rc::clone(&counted), Rc::clone(&visit));
    let service = service_fn(move |request: Request<Incoming>| {
        let (desk, counted) = (Rc::clone(&task_desk), Rc::clone(&task_counted));
        let visit = Rc::clone(&task_visit);
        async move {
            if request.uri().path() == lookup::PATH {
                counted.get_or_init(|| Counted::new(&desk.looking_up));
            }
            Ok::<_, Infallible>(answer(&desk, &visit, request).await)
        }
    });
    let stream = Paced::new(stream, Rc::clone(&visit.pace));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let watch = async {
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            let now = interval.tick().await;
            if visit.pace.is_slow(now, desk.lookups.are_awaited()) {
                return;
            }
        }
    };
    let ended = async {
        tokio::select! {
            () = watch => {}
            () = visit.end.notified() => {}
        }
    };
    let mut ended = pin!(ended);
    // Whatever ends a connection concerns its peer alone.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ended.as_mut() => return,
        () = sleep(CONNECTION_DEADLINE) => {}
        () = stopping => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = timeout(FAREWELL_DEADLINE, connection) => {}
        () = ended => {}
    }
}

async fn answer(desk: &Desk, visit: &Rc<Visit>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    // From when the request is whole: one whose body does not come only waits.
    let answering = OnceCell::new();
    let begin = || drop(answering.set(Answering::new(visit)));
    let mut response = if !is_called_by_its_name(desk, &request) {
        respond(Page::text(
            StatusCode::MISDIRECTED_REQUEST,
            "this host name is not one of this worker's: call it by its address or as localhost, or add the name \
             to `operations_hosts`\n",
        ))
    } else if path == lookup::PATH {
        let (status, access) = (&desk.status, &desk.access);
        desk.lookups.answer(status, access, request, &begin).await
    } else if is_probe(path) {
        // Whoever watches the worker waits for nobody.
        page(desk, &request).await
    } else {
        // Without a permit it only waits, and others may need its place.
        visit.waits_since.set(Instant::now());
        let waiting = Arc::clone(&desk.requests).acquire_owned();
        match timeout(REQUEST_WAIT_MAX, waiting).await {
            Ok(Ok(right)) => {
                begin();
                let mut response = page(desk, &request).await;
                response.body_mut().hold(right);
                response
            }
            _ => respond(Page::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests are under way; retry\n",
            )),
        }
    };
    response.body_mut().hold(
        answering
            .into_inner()
            .unwrap_or_else(|| Answering::new(visit)),
    );
    // An idle connection keeps others out where few are left.
    if desk.open.borrow().len() > desk.connections_max / 4 * 3 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

async fn page(desk: &Desk, request: &Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(Page::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD\n",
        ));
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path();
    let Some(view) = view_of(desk, request, path) else {
        let page = Page::text(
            StatusCode::UNAUTHORIZED,
            "a token is needed: Authorization: Bearer SECRET\n",
        );
        let mut response = respond(page);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    };
    respond(pages::page(&desk.status, path, view).await)
}

/// How much of a page the request's bearer sees; `None`: nothing.
fn view_of(desk: &Desk, request: &Request<Incoming>, path: &str) -> Option<View> {
    if is_probe(path) {
        return Some(View::Outline);
    }
    let token = bearer_of(request.headers());
    match desk.access.enter(token) {
        Ok(reader) => match desk.access.standing(&reader) {
            Some(standing) if standing.is_operator => Some(View::Whole),
            _ => Some(View::Outline),
        },
        // A wrong token is a mistake that its bearer wants to know of.
        Err(_) => (!desk.wants_token && token.is_empty()).then_some(View::Outline),
    }
}

fn is_called_by_its_name(desk: &Desk, request: &Request<Incoming>) -> bool {
    let Some(hosts) = &desk.hosts else {
        return true;
    };
    // HTTP/1.0 needs none, and browsers always send one.
    let mut named = request
        .headers()
        .get_all(HOST)
        .iter()
        .map(|host| host.to_str().unwrap_or_default());
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    named.all(|host| is_own(host, hosts)) && target.is_none_or(|host| is_own(host, hosts))
}

/// The token that came with a request; empty: none.
pub(super) fn bearer_of(headers: &HeaderMap) -> &str {
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    token.unwrap_or_default().trim()
}

fn respond(page: Page) -> Response<Body> {
    let mut response = Response::new(Body::from(page.body));
    *response.status_mut() = page.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(connections_max: usize) -> Rc<Desk> {
        Rc::new(Desk {
            status: Rc::default(),
            access: Arc::new(Access::open()),
            wants_token: true,
            hosts: None,
            lookups: Lookups::new(),
            looking_up: Rc::default(),
            requests: Arc::new(Semaphore::new(1)),
            open: RefCell::default(),
            connections_max,
            waiting: Cell::new(0),
        })
    }

    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn strangers_that_are_served_leave_the_reserve_of_loopback_alone() {
        let desk = desk(4);
        let served = |peer| {
            let (place, visit) = desk.place(peer)?;
            Some((place, Answering::new(&visit)))
        };
        let strangers: Vec<_> = (0..4).map_while(|_| served(STRANGER)).collect();
        assert_eq!(strangers.len(), 4);
        assert!(served(STRANGER).is_none(), "all are served");
        let probes: Vec<_> = (0..100).map_while(|_| served(LOOPBACK)).collect();
        assert_eq!(probes.len(), LOOPBACK_CONNECTIONS);
        drop(probes);
        assert!(served(STRANGER).is_none(), "the reserve is not for them");
        drop(strangers);
        assert!(served(STRANGER).is_some());
    }

    #[test]
    fn whoever_only_waits_is_ended_once_for_a_newcomer() {
        let desk = desk(2);
        let (_first, waits) = desk.place(STRANGER).expect("a place");
        let (_second, served) = desk.place(STRANGER).expect("a place");
        let _answering = Answering::new(&served);
        let long_ago = Instant::now().checked_sub(FIRST_HEAD_MIN);
        waits.waits_since.set(long_ago.expect("the clock has run"));
        let (_third, newcomer) = desk.place(STRANGER).expect("that of whoever waits");
        assert!(waits.is_ended.get() && !served.is_ended.get());
        let _answering = Answering::new(&newcomer);
        assert!(desk.place(STRANGER).is_none(), "nobody else waits");
    }
}
