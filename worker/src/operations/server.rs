//! HTTP/1.1 on the control thread: bounded connections, times and heads.

use std::convert::Infallible;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::pages::{self, Page};
use super::status::Status;
use crate::access::Access;
use crate::config::Config;
use crate::start::{FailureKind, WorkerError};

/// A request's head has to come within this time; also how long an idle connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// A connection lives no longer, however it behaves: a scraper connects again.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);

/// Largest head, which is hyper's least buffer.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What requests are answered from.
struct Desk {
    status: Rc<Status>,
    access: Arc<Access>,
    /// Whether a token is asked for: the port can be reached from other machines.
    wants_token: bool,
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
) -> Result<(), WorkerError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| {
        WorkerError::new(
            FailureKind::Environment,
            format!("the operations listener cannot be used: {error}"),
        )
    })?;
    let desk = Rc::new(Desk {
        status,
        access,
        wants_token: !config.operations.ip().is_loopback(),
    });
    let places = Arc::new(Semaphore::new(config.limits.operations_connections));
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
    Ok(())
}

async fn converse(desk: Rc<Desk>, stream: TcpStream, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let desk = Rc::clone(&desk);
        async move { Ok::<_, Infallible>(answer(&desk, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever ends a connection concerns its peer alone.
    let _ = timeout(CONNECTION_DEADLINE, connection).await;
}

async fn answer(desk: &Desk, request: &Request<Incoming>) -> Response<Full<Bytes>> {
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
    if !matches!(path, "/healthz" | "/readyz") && !is_admitted(desk, request) {
        let page = Page::text(
            StatusCode::UNAUTHORIZED,
            "a token is needed: Authorization: Bearer SECRET\n",
        );
        let mut response = respond(page);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    respond(pages::page(&desk.status, path).await)
}

fn is_admitted(desk: &Desk, request: &Request<Incoming>) -> bool {
    let token = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = token
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    !desk.wants_token || desk.access.enter(token.trim()).is_ok()
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
