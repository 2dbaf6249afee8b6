//! What the way of an S3 request from its bytes to its caller promises for any input at all: no
//! panic, one meaning however the bytes were cut, keys that stay below their bucket, and no caller
//! whose signature is out of date.

use std::cell::LazyCell;
use std::sync::Arc;

use corelane_s3::credentials::{AccessKey, Credentials, Rule};
use corelane_s3::head::{HEAD_BYTES_MAX, Head};
use corelane_s3::operation::{Operation, Routed, route};
use corelane_s3::sigv4::Verifier;
use corelane_s3::target::{Hosts, KEY_BYTES_MAX, Target};
use corelane_s3::{Error, date};

/// When the examples of S3's documentation, which are among the seeds, were signed.
const SIGNED_MS: u64 = 1_369_353_600_000;
/// Longer than any signature is valid.
const EIGHT_DAYS_MS: u64 = 8 * 24 * 60 * 60 * 1_000;

thread_local! {
    static VERIFIER: LazyCell<Verifier> = LazyCell::new(|| {
        let key = AccessKey::new(
            "example".into(),
            "AKIAIOSFODNN7EXAMPLE".into(),
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            vec![Rule::all()],
        );
        Verifier::new(Arc::new(Credentials::new(vec![key], None)), String::new())
    });
    static HOSTS: LazyCell<Hosts> = LazyCell::new(|| Hosts::new(&["s3.amazonaws.com".to_owned()]));
}

/// Takes requests without bodies off `input`, as a connection does; tells how many had a caller.
///
/// # Panics
/// If a promise does not hold.
pub fn hold(mut input: &[u8]) -> usize {
    let mut callers = 0;
    loop {
        match Head::parse(input) {
            Err(error) => {
                assert!(!error.error.message.is_empty() && (400..=505).contains(&error.status()));
                // What failed does not recover by more bytes.
                assert!(Head::parse(&[input, b"\r\n\r\n"].concat()).is_err());
                return callers;
            }
            Ok(None) => {
                assert!(input.len() < HEAD_BYTES_MAX);
                return callers;
            }
            Ok(Some((head, bytes))) => {
                assert!(bytes > 0 && bytes <= input.len() && bytes <= HEAD_BYTES_MAX);
                assert!(matches!(Head::parse(&input[..bytes - 1]), Ok(None)));
                let (alone, same) = Head::parse(&input[..bytes])
                    .expect("the same")
                    .expect("complete");
                assert!(same == bytes && alone.headers().eq(head.headers()));
                assert!(head.path.starts_with('/') && head.known.host.is_some());
                callers += usize::from(hold_for_request(&head));
                input = &input[bytes..];
            }
        }
    }
}

/// Whether the request has a caller.
fn hold_for_request(head: &Head<'_>) -> bool {
    let target = match HOSTS.with(|hosts| Target::parse(head, hosts)) {
        Ok(target) => target,
        Err(error) => {
            check_error(&error);
            return false;
        }
    };
    check_place(&target.bucket, &target.key);
    match route(head, &target) {
        Err(error) => check_error(&error),
        Ok(Routed::Read(read)) => {
            if let Some(Ok(range)) = read.range.map(|range| range.resolve(1_000)) {
                assert!(range.start < range.end && range.end <= 1_000);
            }
            let _ = read.conditions.evaluate("\"tag\"", SIGNED_MS);
        }
        Ok(Routed::Operation(operation)) => check_operation(&operation),
    }
    if let Some(ms) = head.known.date.and_then(date::parse_http_date) {
        assert_eq!(
            date::parse_http_date(str::from_utf8(&date::http_date(ms)).expect("ASCII")),
            Some(ms)
        );
    }
    VERIFIER.with(|verifier| match verifier.verify(head, &target, SIGNED_MS) {
        Err(error) => {
            check_error(&error);
            false
        }
        Ok(caller) => {
            assert!(caller.key.is_some());
            assert!(
                verifier
                    .verify(head, &target, SIGNED_MS + EIGHT_DAYS_MS)
                    .is_err()
            );
            assert!(
                verifier
                    .verify(head, &target, SIGNED_MS - EIGHT_DAYS_MS)
                    .is_err()
            );
            true
        }
    })
}

fn check_error(error: &Error) {
    assert!(!error.message.is_empty() && error.code.status() >= 400);
    assert!(!error.message.contains("wJalrXUtnFEMI"), "a secret");
}

fn check_place(bucket: &str, key: &str) {
    assert!(!bucket.contains('/') && bucket != "." && bucket != "..");
    assert!(key.len() <= KEY_BYTES_MAX && !key.contains(char::is_control));
    let segments = key.strip_suffix('/').unwrap_or(key).split('/');
    assert!(
        key.is_empty()
            || segments
                .into_iter()
                .all(|segment| !matches!(segment, "" | "." | ".."))
    );
}

fn check_operation(operation: &Operation) {
    assert!(!operation.name().is_empty());
    match operation {
        Operation::ListObjects(list) => {
            assert!(
                list.max_keys <= 1_000 && list.prefix.split('/').all(|segment| segment != "..")
            );
        }
        Operation::CopyObject(copy) => check_place(&copy.source.bucket, &copy.source.key),
        Operation::UploadPartCopy(copy) => check_place(&copy.source.bucket, &copy.source.key),
        Operation::PutObject(put) => {
            let headers = &put.headers;
            for (name, value) in headers.metadata.iter().chain(&headers.passed) {
                assert!(!name.is_empty() && !value.contains(['\r', '\n', '\0']));
            }
        }
        _ => {}
    }
}
