//! Writes to an S3 origin that answers badly or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::origin::{
    CompletedPart, OriginBody, OriginError, OriginErrorKind, OriginHeaders, WriteCondition,
};

use crate::harness::{content, mount};
use crate::origin::{Origin, WriteManner, stored};
use crate::origins::Bench;

/// More than the system buffers of a connection.
const LONG: usize = 16 << 20;

fn s3_mount(origin: &Origin) -> Arc<Mount> {
    let options = origin.s3_options();
    let options: Vec<(&str, &str)> = options
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    mount("s3://bucket", Freshness::AlwaysCheck, &options)
}

fn put(
    bench: &Bench,
    mount: &Arc<Mount>,
    length: usize,
    condition: WriteCondition,
) -> Result<String, OriginError> {
    let body = OriginBody::whole(Bytes::from(content(1, length)));
    let headers = OriginHeaders::default();
    let put = bench.origins.put(mount, "key", &headers, condition, body);
    bench.run(put).map(|written| written.etag)
}

#[test]
fn a_held_body_is_sent_again_after_the_pause_that_the_origin_asks_for() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.write_with(&[WriteManner::Refused(503, Some("1")), WriteManner::Good]);
    let started = Instant::now();
    put(&bench, &s3_mount(&origin), 100, WriteCondition::IfAbsent).expect("the second time");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(origin.writes(), (2, 0));
    assert_eq!(origin.bytes_of("/bucket/key"), Some(content(1, 100)));
}

#[test]
fn what_the_origin_refuses_or_breaks_off_is_an_error_and_changes_nothing() {
    use OriginErrorKind as Kind;
    for (manner, length, condition, expected, writes) in [
        (
            WriteManner::Refused(503, None),
            LONG,
            WriteCondition::None,
            None,
            1,
        ),
        (
            WriteManner::Refused(503, None),
            10,
            WriteCondition::None,
            None,
            3,
        ),
        (
            WriteManner::Refused(403, None),
            10,
            WriteCondition::None,
            Some(Kind::Denied),
            1,
        ),
        (
            WriteManner::Refused(412, None),
            10,
            WriteCondition::IfAbsent,
            Some(Kind::PreconditionFailed),
            1,
        ),
        (
            WriteManner::Refused(501, None),
            10,
            WriteCondition::None,
            Some(Kind::Unsupported),
            1,
        ),
        (
            WriteManner::Refused(500, None),
            10,
            WriteCondition::None,
            Some(Kind::Unavailable),
            3,
        ),
        // Whether it was written is not known, and a second try would find the first one.
        (
            WriteManner::Refused(500, None),
            10,
            WriteCondition::IfAbsent,
            Some(Kind::Unavailable),
            1,
        ),
        (
            WriteManner::ResetMidway,
            LONG,
            WriteCondition::None,
            Some(Kind::Unavailable),
            1,
        ),
        (
            WriteManner::TakesNothing,
            LONG,
            WriteCondition::None,
            Some(Kind::Unavailable),
            1,
        ),
    ] {
        let (origin, bench) = (Origin::start(), Bench::new());
        origin.put("/bucket/key", stored(b"before".to_vec(), "before"));
        origin.write_with(std::slice::from_ref(&manner));
        let error = put(&bench, &s3_mount(&origin), length, condition).expect_err("refused");
        match expected {
            Some(kind) => assert_eq!(error.kind, kind, "{manner:?}: {error}"),
            None => assert!(
                matches!(error.kind, Kind::Busy { .. }),
                "{manner:?}: {error}"
            ),
        }
        assert_eq!(
            origin.bytes_of("/bucket/key"),
            Some(b"before".to_vec()),
            "{manner:?}"
        );
        assert_eq!(origin.writes().0, writes, "{manner:?}: {error}");
    }
}

#[test]
fn an_origin_that_never_answers_is_given_up_and_the_error_says_that_it_may_have_written() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.write_with(&[WriteManner::Silent]);
    let error = put(&bench, &s3_mount(&origin), LONG, WriteCondition::None).expect_err("silent");
    assert_eq!(error.kind, OriginErrorKind::Unavailable, "{error}");
    assert!(
        error.message.contains("look whether the write was done"),
        "{error}"
    );
}

#[test]
fn the_origin_never_has_all_bytes_of_a_body_that_was_not_confirmed() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let mount = s3_mount(&origin);
    for round in 0..3 {
        let (sender, body) = OriginBody::channel(Some(LONG as u64), 4);
        let result = bench.run(async {
            let headers = OriginHeaders::default();
            let put = bench
                .origins
                .put(&mount, "key", &headers, WriteCondition::None, body);
            let send = async {
                // All bytes come; only the word that they are right does not.
                for piece in content(1, LONG).chunks(1 << 20) {
                    assert!(sender.send(Bytes::copy_from_slice(piece)).await);
                }
                drop(sender);
            };
            futures::join!(put, send).0
        });
        let error = result.expect_err("not confirmed");
        assert_eq!(error.kind, OriginErrorKind::Aborted, "{error}");
        let give_up = Instant::now() + Duration::from_secs(30);
        while origin.writes() != (round + 1, round + 1) {
            assert!(Instant::now() < give_up, "{:?}", origin.writes());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(origin.bytes_of("/bucket/key"), None);
    }
}

#[test]
fn an_error_inside_an_answer_of_success_is_an_error() {
    use OriginErrorKind as Kind;
    for (manner, kind, code) in [
        (
            WriteManner::ErrorIn200("InternalError"),
            Kind::Unavailable,
            Some("InternalError"),
        ),
        (
            WriteManner::ErrorIn200("EntityTooSmall"),
            Kind::Invalid,
            Some("EntityTooSmall"),
        ),
        (
            WriteManner::ErrorIn200("NoSuchUpload"),
            Kind::NoSuchUpload,
            Some("NoSuchUpload"),
        ),
        (WriteManner::CutDocument, Kind::Malformed, None),
    ] {
        let (origin, bench) = (Origin::start(), Bench::new());
        origin.write_with(std::slice::from_ref(&manner));
        let parts = vec![CompletedPart {
            number: 1,
            etag: "\"1\"".to_owned(),
            checksum: None,
        }];
        let mount = s3_mount(&origin);
        let complete =
            bench
                .origins
                .complete_upload(&mount, "key", "id", parts, WriteCondition::None);
        let error = bench.run(complete).expect_err("failed late");
        assert_eq!(
            (error.kind, error.code.as_deref()),
            (kind, code),
            "{manner:?}: {error}"
        );
        assert_eq!(origin.writes().0, 1, "{manner:?}");
    }
}
