//! HTTP/1.1 on the control thread: bounded connections, times and heads.

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::net::TcpListener;
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
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::body::Body;
use super::lookup::{self, Lookups};
use super::pages::{self, Page, View};
use super::status::Status;
use crate::access::Access;
use crate::config::Config;
use crate::host::is_own;
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
    places: Arc<Semaphore>,
    places_max: usize,
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
    let places_max = config.limits.operations_connections;
    let places = Arc::new(Semaphore::new(places_max));
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
        places: Arc::clone(&places),
        places_max,
    });
    tokio::task::spawn_local(async move {
        loop {
            // A connection beyond the limit waits in the kernel's queue.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::task::spawn_local(converse(
                    Rc::clone(&desk),
                    stream,
                    place,
                ))),
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

async fn converse(desk: Rc<Desk>, stream: TcpStream, _place: OwnedSemaphorePermit) {
    // The end of an answer does not wait for word of its beginning. A peer that is gone is found out below.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE_MAX));
    // Dropped with the connection, when all that was answered has been sent.
    let counted: Rc<OnceCell<Counted>> = Rc::default();
    let stopping = desk.status.stopping();
    let (task_desk, task_counted) = (desk, Rc::clone(&counted));
    let service = service_fn(move |request: Request<Incoming>| {
        let (desk, counted) = (Rc::clone(&task_desk), Rc::clone(&task_counted));
        async move {
            if request.uri().path() == lookup::PATH {
                counted.get_or_init(|| Counted::new(&desk.looking_up));
            }
            Ok::<_, Infallible>(answer(&desk, request).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Whatever ends a connection concerns its peer alone.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_DEADLINE) => {}
        () = stopping => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL_DEADLINE, connection).await;
}

async fn answer(desk: &Desk, request: Request<Incoming>) -> Response<Body> {
    let mut response = match request.uri().path() {
        _ if !is_called_by_its_name(desk, &request) => respond(Page::text(
            StatusCode::MISDIRECTED_REQUEST,
            "this host name is not one of this worker's: call it by its address or as localhost, or add the name \
             to `operations_hosts`\n",
        )),
        lookup::PATH => {
            let (status, access) = (&desk.status, &desk.access);
            desk.lookups.answer(status, access, request).await
        }
        _ => page(desk, &request).await,
    };
    // An idle connection keeps others out where few are left.
    if desk.places.available_permits() < desk.places_max / 4 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
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
    if matches!(path, "/healthz" | "/readyz") {
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
