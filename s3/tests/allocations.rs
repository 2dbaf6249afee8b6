//! A usual read allocates nothing from its bytes to its caller.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use corelane_s3::credentials::{AccessKey, Credentials, Rule, Verb};
use corelane_s3::head::Head;
use corelane_s3::operation::{Routed, route};
use corelane_s3::sigv4::Verifier;
use corelane_s3::target::{Hosts, Target};

mod signing;

/// The system's allocator, counting for the thread that asks.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and is of no interest.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn serve(input: &[u8], hosts: &Hosts, verifier: &Verifier) {
    let (head, bytes) = Head::parse(input).expect("sound").expect("complete");
    assert_eq!(bytes, input.len());
    let target = Target::parse(&head, hosts).expect("a key");
    let caller = verifier
        .verify(&head, &target, signing::SIGNED_MS)
        .expect("signed");
    let routed = route(&head, &target).expect("a read");
    assert!(matches!(routed, Routed::Read(_)));
    assert!(caller.may(routed.verb(), &target.bucket) && routed.verb() == Verb::Read);
}

#[test]
fn a_signed_read_allocates_nothing_once_its_signing_key_is_kept() {
    let key = AccessKey::new(
        "test".into(),
        signing::KEY_ID.into(),
        signing::SECRET.into(),
        vec![Rule::all()],
    );
    let verifier = Verifier::new(
        Arc::new(Credentials::new(vec![key], None)),
        "us-east-1".into(),
    );
    let hosts = Hosts::new(&["s3.example.com".to_owned()]);
    let headers = [
        ("host", "127.0.0.1:9000"),
        ("range", "bytes=4096-8191"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", signing::AMZ_DATE),
    ];
    let path = "/lake/tables/orders/part-00000.parquet";
    for query in ["", "x-id=GetObject"] {
        let canonical = signing::Canonical {
            method: "GET",
            path,
            query,
            headers: &headers,
            payload: "UNSIGNED-PAYLOAD",
        };
        let request = canonical.request(
            &format!("{path}?{query}"),
            "User-Agent: test\r\nAccept: */*\r\nIf-Match: \"0123456789abcdef\"\r\n",
        );
        serve(request.as_bytes(), &hosts, &verifier);
        let before = ALLOCATIONS.get();
        for _ in 0..100 {
            serve(request.as_bytes(), &hosts, &verifier);
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "`{query}`");
    }
}
