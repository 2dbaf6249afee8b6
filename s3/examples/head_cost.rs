//! What a request head costs, beside the parsers that others use. Prints nanoseconds per request, the
//! best of several rounds, and ratios to `httparse` alone.
//!
//! ```text
//! cargo run --release -p corelane-s3 --example head_cost
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use corelane_s3::credentials::{AccessKey, Credentials, Rule};
use corelane_s3::head::Head;
use corelane_s3::operation::route;
use corelane_s3::sigv4::Verifier;
use corelane_s3::target::{Hosts, Target};
use http_body_util::Empty;
use hyper::rt::ReadBufCursor;
use hyper::{Request, Response};

#[path = "../tests/signing/mod.rs"]
mod signing;

const ROUNDS: usize = 25;
const REQUESTS: usize = 10_000;

/// A connection that sends the same request so often, and reads answers into nowhere.
struct Requests {
    request: Vec<u8>,
    left: usize,
}

impl hyper::rt::Read for Requests {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left > 0 {
            self.left -= 1;
            buffer.put_slice(&self.request);
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Requests {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(black_box(bytes).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn hyper_serves(request: &[u8], requests: usize) {
    let io = Requests {
        request: request.to_vec(),
        left: requests,
    };
    let served = Cell::new(0);
    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
        assert!(black_box(request.headers()).contains_key("range"));
        served.set(served.get() + 1);
        ready(Ok::<_, Infallible>(Response::new(Empty::<
            hyper::body::Bytes,
        >::new())))
    });
    let mut connection =
        Box::pin(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    let mut context = Context::from_waker(Waker::noop());
    while connection.as_mut().poll(&mut context).is_pending() {}
    drop(connection);
    assert_eq!(served.get(), requests);
}

/// The least time of several rounds, in nanoseconds per request.
fn best(mut round: impl FnMut(usize)) -> f64 {
    round(REQUESTS);
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round(REQUESTS);
            start.elapsed().as_nanos() as f64 / REQUESTS as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let headers = [
        ("host", "127.0.0.1:9000"),
        ("range", "bytes=4096-8191"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", signing::AMZ_DATE),
    ];
    let path = "/lake/tables/orders/part-00000.parquet";
    let canonical = signing::Canonical {
        method: "GET",
        path,
        query: "",
        headers: &headers,
        payload: "UNSIGNED-PAYLOAD",
    };
    let text = canonical.request(path, "accept: */*\r\nuser-agent: object_store/0.14.2\r\n");
    let request = text.as_bytes();
    let hosts = Hosts::default();
    let key = AccessKey::new(
        "example".into(),
        signing::KEY_ID.into(),
        signing::SECRET.into(),
        vec![Rule::all()],
    );
    let verifier = Verifier::new(
        Arc::new(Credentials::new(vec![key], None)),
        "us-east-1".into(),
    );
    let (head, _) = Head::parse(request).expect("sound").expect("complete");
    let target = Target::parse(&head, &hosts).expect("a key");

    let bare = best(|requests| {
        for _ in 0..requests {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut parsed = httparse::Request::new(&mut headers);
            black_box(parsed.parse(black_box(request))).expect("sound");
        }
    });
    let figures = [
        ("httparse alone", bare),
        (
            "Head::parse",
            best(|requests| {
                for _ in 0..requests {
                    black_box(Head::parse(black_box(request))).expect("sound");
                }
            }),
        ),
        (
            "Head::parse, Target::parse, route",
            best(|requests| {
                for _ in 0..requests {
                    let (head, _) = Head::parse(black_box(request))
                        .expect("sound")
                        .expect("complete");
                    let target = Target::parse(&head, &hosts).expect("a key");
                    black_box(route(&head, &target)).expect("a read");
                }
            }),
        ),
        (
            "verify, signing key kept",
            best(|requests| {
                for _ in 0..requests {
                    let verified = verifier.verify(black_box(&head), &target, signing::SIGNED_MS);
                    black_box(verified).expect("signed");
                }
            }),
        ),
        (
            "hyper http1 server, with an empty answer",
            best(|requests| hyper_serves(request, requests)),
        ),
    ];
    println!(
        "a signed range GET of {} bytes, {} headers",
        request.len(),
        head.headers().count()
    );
    for (name, nanoseconds) in figures {
        println!(
            "{name:44} {nanoseconds:8.0} ns {:6.2} x httparse",
            nanoseconds / bare
        );
    }
}
