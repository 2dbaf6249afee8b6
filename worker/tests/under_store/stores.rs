//! Objects behind HTTP, from an origin that behaves well, badly or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_io::PAGE_SIZE;
use corelane_worker::mount::{Freshness, Mount, MountId};
use corelane_worker::under_store::retry::RetryPolicy;
use corelane_worker::under_store::runtime::{FetchLimits, FetchOptions, FetchRuntime};
use corelane_worker::under_store::stores::check_mount;
use corelane_worker::under_store::{Job, JobId, Request, UnderStore, UnderStoreErrorKind};

use crate::harness::{LEASE_PAGES, Shard, assert_brought, content, mount, quick_options};
use crate::origin::{Manner, Origin, Stored, stored};

const LEASE_BYTES: usize = LEASE_PAGES * PAGE_SIZE;
/// Eight leases, the last one not full.
const LENGTH: usize = 8 * LEASE_BYTES - 100;

fn s3_mount(origin: &Origin, more: &[(&str, &str)]) -> Arc<Mount> {
    let options = origin.s3_options();
    let mut options: Vec<(&str, &str)> = options
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    options.extend(more);
    mount("s3://bucket", Freshness::AlwaysCheck, &options)
}

fn start(options: FetchOptions) -> FetchRuntime {
    FetchRuntime::start(options).expect("threads")
}

#[test]
fn an_object_of_s3_arrives_as_it_is() {
    let origin = Origin::start();
    let bytes = content(1, LENGTH);
    origin.put("/bucket/a/object", stored(bytes.clone(), "v1"));
    let runtime = start(quick_options());
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/a/object").expect("described");
    assert_eq!(
        (object.length, object.version.as_str()),
        (LENGTH as u64, "\"v1\"")
    );
    assert_eq!(
        (object.last_modified_ms, object.content_type.as_str()),
        (784_111_777_000, "text/plain")
    );
    assert_eq!(
        object.path_key,
        format!("s3:http://{}:bucket/a/object", origin.address)
    );
    assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
    let middle = 3 * PAGE_SIZE..20 * PAGE_SIZE + 1;
    let fetched = shard.fetch(&mount, &object, middle.start as u64..middle.end as u64);
    assert_brought(&fetched, &bytes[middle]);
    let missing = shard.describe(&mount, "/m/missing").expect_err("not there");
    assert_eq!(missing.kind, UnderStoreErrorKind::NotFound);
    let counts = runtime.counts();
    assert_eq!(
        (
            counts[0].mount.as_str(),
            counts[0].requests,
            counts[0].retries
        ),
        ("/m", 4, 0)
    );
    assert_eq!(counts[0].bytes, (LENGTH + 17 * PAGE_SIZE + 1) as u64);
    assert!(
        counts[0]
            .errors
            .contains(&(UnderStoreErrorKind::NotFound, 1))
    );
    assert_eq!((counts[0].latency_us.len(), counts[0].in_flight), (4, 0));
}

#[test]
fn the_first_lease_is_usable_while_the_last_bytes_are_still_to_come() {
    let origin = Origin::start();
    let bytes = content(2, LENGTH);
    origin.put_with("/bucket/object", bytes.clone(), &[Manner::HalfThenWait]);
    let mut options = quick_options();
    options.timeouts.stall = Duration::from_secs(30);
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    let id = shard.submit_fetch(&mount, &object, 0..LENGTH as u64);
    // The origin holds the second half back until the first lease is here.
    shard.await_event(id);
    origin.release();
    assert_brought(&shard.fetched(id), &bytes);
}

#[test]
fn every_misbehaviour_ends_after_bounded_tries_and_names_object_and_cause() {
    use UnderStoreErrorKind::{Denied, Invalid, Malformed, Unavailable, VersionChanged};
    let cases: [(&str, Manner, UnderStoreErrorKind, &str, usize); 13] = [
        ("truncated", Manner::Truncated, Malformed, "broke off", 3),
        ("reset", Manner::Reset, Unavailable, "broke off", 3),
        (
            "stalled",
            Manner::Stalled,
            Unavailable,
            "in the middle of an answer",
            3,
        ),
        ("too-long", Manner::TooLong, Malformed, "more bytes", 3),
        ("other-range", Manner::OtherRange, Malformed, "", 3),
        (
            "other-total",
            Manner::OtherTotal,
            VersionChanged,
            "where it had",
            1,
        ),
        ("range-ignored", Manner::RangeIgnored, Malformed, "", 3),
        ("silent", Manner::Silent, Unavailable, "no answer within", 3),
        ("busy", Manner::Refused(503, None), Unavailable, "503", 3),
        (
            "much-later",
            Manner::Refused(503, Some("3600")),
            Unavailable,
            "pause of 3600 s",
            1,
        ),
        (
            "too-many",
            Manner::Refused(429, Some("0")),
            Unavailable,
            "429",
            3,
        ),
        (
            "forbidden",
            Manner::Refused(403, None),
            Denied,
            "refused access",
            1,
        ),
        ("bad-request", Manner::Refused(400, None), Invalid, "400", 1),
    ];
    let origin = Origin::start();
    let bytes = content(3, LENGTH);
    let mut options = quick_options();
    options.timeouts.connect = Duration::from_millis(300);
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    origin.put("/bucket/healthy", stored(bytes.clone(), "v1"));
    let healthy = shard.describe(&mount, "/m/healthy").expect("described");
    let mut jobs = Vec::new();
    for (name, manner, ..) in &cases {
        origin.put_with(
            &format!("/bucket/{name}"),
            bytes.clone(),
            std::slice::from_ref(manner),
        );
        let object = shard
            .describe(&mount, &format!("/m/{name}"))
            .expect("described");
        jobs.push(shard.submit_fetch(&mount, &object, 0..LENGTH as u64));
    }
    // Others are served while all of these fail.
    assert_brought(&shard.fetch(&mount, &healthy, 0..LENGTH as u64), &bytes);
    for ((name, _, kind, cause, gets), job) in cases.into_iter().zip(jobs) {
        let fetched = shard.fetched(job);
        let error = fetched.result.expect_err(name);
        assert_eq!(error.kind, kind, "{name}: {error}");
        assert!(error.message.contains(cause), "{name}: {error}");
        assert_eq!(error.uri, format!("s3://bucket/{name}"));
        assert_eq!(
            origin.gets(&format!("/bucket/{name}")).len(),
            gets,
            "{name}: {error}"
        );
        assert!(
            fetched.bytes == bytes[..fetched.bytes.len()],
            "{name}: what did arrive is right"
        );
    }
    assert_eq!(
        shard.frames_available(),
        shard.frames(),
        "all memory came back"
    );
}

#[test]
fn a_retry_asks_for_the_missing_bytes_only() {
    let origin = Origin::start();
    let bytes = content(4, LENGTH);
    origin.put_with(
        "/bucket/object",
        bytes.clone(),
        &[Manner::Truncated, Manner::Truncated, Manner::Good],
    );
    let runtime = start(quick_options());
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
    let gets = origin.gets("/bucket/object");
    assert_eq!(gets.len(), 3);
    let end = LENGTH as u64;
    assert_eq!(gets[1], end / 2..end, "half of the bytes were there");
    assert!(
        gets[2].start > gets[1].start && gets[2].end == end,
        "{gets:?}"
    );
    assert_eq!(runtime.counts()[0].retries, 2);
}

#[test]
fn a_store_that_asks_for_a_pause_gets_it() {
    let origin = Origin::start();
    let bytes = content(5, LENGTH);
    origin.put_with(
        "/bucket/object",
        bytes.clone(),
        &[Manner::Refused(503, Some("1")), Manner::Good],
    );
    let runtime = start(quick_options());
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    let asked = Instant::now();
    assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
    assert!(
        asked.elapsed() >= Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn an_object_that_changed_is_another_version_at_once_and_in_the_middle() {
    let origin = Origin::start();
    let (old, new) = (content(6, LENGTH), content(7, LENGTH));
    origin.put_with(
        "/bucket/object",
        old.clone(),
        &[Manner::Good, Manner::HalfThenWait],
    );
    let mut options = quick_options();
    options.timeouts.stall = Duration::from_secs(30);
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let before = shard.describe(&mount, "/m/object").expect("described");
    assert_brought(
        &shard.fetch(&mount, &before, 0..LEASE_BYTES as u64),
        &old[..LEASE_BYTES],
    );
    // Changes while the second answer is half sent, which then breaks off: the next try finds it.
    let id = shard.submit_fetch(&mount, &before, 0..LENGTH as u64);
    shard.await_event(id);
    origin.put("/bucket/object", stored(new.clone(), "v2"));
    origin.release();
    let fetched = shard.fetched(id);
    assert!(fetched.bytes[..LEASE_BYTES] == old[..LEASE_BYTES]);
    let error = shard
        .fetch(&mount, &before, 0..LENGTH as u64)
        .result
        .expect_err("changed");
    assert_eq!(error.kind, UnderStoreErrorKind::VersionChanged, "{error}");
    let after = shard.describe(&mount, "/m/object").expect("described");
    assert_ne!(after.id, before.id);
    assert_eq!(after.id.home, before.id.home);
    assert_brought(&shard.fetch(&mount, &after, 0..LENGTH as u64), &new);
}

#[test]
fn a_change_between_two_tries_is_no_mixture() {
    let origin = Origin::start();
    let old = content(8, LENGTH);
    origin.put_with("/bucket/object", old.clone(), &[Manner::Stalled]);
    let runtime = start(quick_options());
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    let id = shard.submit_fetch(&mount, &object, 0..LENGTH as u64);
    shard.await_event(id);
    origin.put("/bucket/object", stored(content(9, LENGTH), "v2"));
    let fetched = shard.fetched(id);
    assert_eq!(
        fetched.result.expect_err("changed").kind,
        UnderStoreErrorKind::VersionChanged
    );
    assert!(
        fetched.bytes == old[..fetched.bytes.len()],
        "only bytes of the old version came"
    );
}

#[test]
fn a_web_server_without_etags_is_believed_only_after_asking_again() {
    let origin = Origin::start();
    let (old, new) = (content(10, LENGTH), content(11, LENGTH));
    let without_etag = |bytes: &[u8], modified, manner| Stored {
        etag: None,
        modified,
        manners: vec![manner],
        ..stored(bytes.to_vec(), "")
    };
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    origin.put("/files/object", without_etag(&old, date, Manner::Good));
    let mut options = quick_options();
    options.timeouts.stall = Duration::from_secs(30);
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let uri = format!("http://{}/files", origin.address);
    let mount = mount(&uri, Freshness::AlwaysCheck, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    assert_eq!(object.version, format!("{LENGTH}-784111777000000000-0"));
    assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &old);
    origin.put(
        "/files/object",
        without_etag(&old, date, Manner::HalfThenWait),
    );
    let id = shard.submit_fetch(&mount, &object, 0..LENGTH as u64);
    while origin.gets("/files/object").len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    origin.put(
        "/files/object",
        without_etag(&new, "Mon, 07 Nov 1994 08:49:37 GMT", Manner::Good),
    );
    origin.release();
    let fetched = shard.fetched(id);
    assert_eq!(
        fetched.result.expect_err("changed").kind,
        UnderStoreErrorKind::VersionChanged
    );
    assert!(fetched.bytes.is_empty(), "nothing was believed");
}

#[test]
fn a_queue_at_its_bound_gives_the_job_back() {
    let origin = Origin::start();
    origin.put_with("/bucket/silent", content(12, LENGTH), &[Manner::Silent]);
    let mut options = FetchOptions {
        // Two for one mount.
        jobs_per_shard_max: 4,
        ..quick_options()
    };
    options.retry.tries_max = 1;
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/silent").expect("described");
    // The describe job is uncounted a moment after its last event.
    std::thread::sleep(Duration::from_millis(50));
    let jobs = [(); 2].map(|()| shard.submit_fetch(&mount, &object, 0..LENGTH as u64));
    let leases = shard.leases(&(0..LENGTH as u64));
    let count = leases.len();
    let request = Request::Fetch {
        object,
        range: 0..LENGTH as u64,
        leases,
    };
    let job = Job {
        id: JobId(99),
        mount: Arc::clone(&mount),
        request,
    };
    let back = shard
        .store
        .submit(job)
        .expect_err("two are waiting already");
    let Request::Fetch { leases, .. } = back.request else {
        panic!("another job came back")
    };
    assert_eq!((back.id, leases.len()), (JobId(99), count));
    let elsewhere = Mount {
        id: MountId(mount.id.0 + 1),
        ..(*mount).clone()
    };
    shard
        .describe(&Arc::new(elsewhere), "/m/silent")
        .expect("another mount has room");
    leases.into_iter().for_each(|lease| shard.take_back(lease));
    for job in jobs {
        assert!(shard.fetched(job).result.is_err());
    }
    assert_eq!(
        shard.frames_available(),
        shard.frames(),
        "all memory came back"
    );
}

#[test]
fn a_full_inbox_makes_jobs_wait_and_loses_nothing() {
    let origin = Origin::start();
    let bytes = content(13, LENGTH);
    origin.put("/bucket/object", stored(bytes.clone(), "v1"));
    let runtime = start(quick_options());
    let mut shard = Shard::with_inbox(&runtime, 1);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    let jobs = [(); 3].map(|()| shard.submit_fetch(&mount, &object, 0..LENGTH as u64));
    // Longer than the stall timeout: waiting for the shard is not the store's fault.
    std::thread::sleep(Duration::from_millis(500));
    for job in jobs {
        assert_brought(&shard.fetched(job), &bytes);
    }
    assert_eq!(
        shard.frames_available(),
        shard.frames(),
        "all memory came back"
    );
}

#[test]
fn a_mount_at_its_limit_does_not_keep_others_waiting() {
    let origin = Origin::start();
    let bytes = content(14, LENGTH);
    origin.put_with("/bucket/silent", bytes.clone(), &[Manner::Silent]);
    origin.put("/other/object", stored(bytes.clone(), "v1"));
    let mut options = quick_options();
    options.limits.requests_in_flight_max = 2;
    options.timeouts.first_byte = Duration::from_secs(2);
    options.retry.tries_max = 1;
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let narrow = s3_mount(&origin, &[("requests_in_flight_max", "1")]);
    let mut other = Mount::clone(&narrow);
    other.path = "/other".to_owned();
    other.uri = "s3://other".to_owned();
    let other = Arc::new(other);
    let silent = shard.describe(&narrow, "/m/silent").expect("described");
    let object = shard.describe(&other, "/other/object").expect("described");
    let stuck = [(); 3].map(|()| shard.submit_fetch(&narrow, &silent, 0..LENGTH as u64));
    assert_brought(&shard.fetch(&other, &object, 0..LENGTH as u64), &bytes);
    // Its connection may take longer than the other mount's answer.
    let began = Instant::now();
    while origin.gets("/bucket/silent").is_empty() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(
        origin.gets("/bucket/silent").len(),
        1,
        "one may be in flight, and it has no answer"
    );
    for job in stuck {
        assert!(shard.fetched(job).result.is_err());
    }
}

#[test]
fn bytes_a_second_are_limited_and_the_limit_can_be_lifted() {
    let origin = Origin::start();
    let bytes = content(15, LENGTH);
    origin.put("/bucket/object", stored(bytes.clone(), "v1"));
    let mut options = quick_options();
    options.limits.bytes_per_second = LENGTH as u64;
    options.retry = RetryPolicy {
        total_max: Duration::from_secs(2),
        ..options.retry
    };
    let runtime = start(options);
    let mut shard = Shard::new(&runtime);
    let mount = s3_mount(&origin, &[]);
    let object = shard.describe(&mount, "/m/object").expect("described");
    let asked = Instant::now();
    for _ in 0..3 {
        assert_brought(&shard.fetch(&mount, &object, 0..LENGTH as u64), &bytes);
    }
    // A tenth of a second's bytes may be saved up, and the last chunk may go into debt.
    assert!(
        asked.elapsed() >= Duration::from_millis(1500),
        "{:?}",
        asked.elapsed()
    );
    runtime.set_limits(FetchLimits {
        requests_in_flight_max: 8,
        bytes_per_second: 1,
    });
    let id = shard.submit_fetch(&mount, &object, 0..LENGTH as u64);
    std::thread::sleep(Duration::from_millis(100));
    runtime.set_limits(FetchLimits {
        requests_in_flight_max: 8,
        bytes_per_second: 0,
    });
    assert_brought(&shard.fetched(id), &bytes);
}

#[test]
fn an_unusable_mount_is_refused_by_the_name_of_the_option_without_its_value() {
    for (uri, options, named) in [
        (
            "s3://bucket",
            vec![("secret_acess_key", "hunter2")],
            "secret_acess_key",
        ),
        (
            "s3://bucket",
            vec![("bytes_per_second", "hunter2")],
            "bytes_per_second",
        ),
        ("file:///tmp", vec![("endpoint", "hunter2")], "endpoint"),
        ("file:///tmp", vec![("settle_ms", "hunter2")], "settle_ms"),
        ("gs://bucket", vec![("colour", "hunter2")], "colour"),
        ("az://box", vec![("colour", "hunter2")], "colour"),
        ("https://host/x", vec![("colour", "hunter2")], "colour"),
        ("s3://bucket", vec![("allow_http", "hunter2")], "allow_http"),
        ("ftp://host", vec![], "ftp"),
    ] {
        let error = check_mount(&mount(uri, Freshness::Immutable, &options)).expect_err(uri);
        assert_eq!(error.kind, UnderStoreErrorKind::Invalid);
        assert!(
            error.message.contains(named) && !error.message.contains("hunter2"),
            "{error}"
        );
    }
    for (uri, options) in [
        ("file:///tmp", vec![("settle_ms", "0")]),
        (
            "s3://bucket/prefix",
            vec![("region", "eu-west-1"), ("skip_signature", "true")],
        ),
        ("gs://bucket", vec![("skip_signature", "true")]),
        (
            "az://box",
            vec![("account_name", "someone"), ("skip_signature", "true")],
        ),
        ("http://host:8080/dir", vec![]),
    ] {
        check_mount(&mount(uri, Freshness::Immutable, &options)).expect(uri);
    }
}
