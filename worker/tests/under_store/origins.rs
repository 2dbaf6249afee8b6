//! Writes, copies and uploads, on a directory and on an S3 server that verifies signatures.

use std::sync::Arc;

use bytes::Bytes;
use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::listing::{ListingBounds, Listings};
use corelane_worker::under_store::origin::{
    Aborted, CompletedPart, CopyDirective, CopySource, ListQuery, OriginBody, OriginErrorKind,
    OriginHeaders, Origins, WriteCondition,
};
use corelane_worker::under_store::runtime::FetchRuntime;
use tempfile::TempDir;

use crate::harness::{Shard, assert_brought, content, mount, quick_options};
use crate::s3_server::S3Server;

/// More than is held in memory, so it streams.
const LONG: usize = (3 << 20) + 17;

pub const PLAIN: CopySource = CopySource {
    if_match: None,
    range: None,
};

/// A fetch runtime and the calls of a front end.
pub struct Bench {
    pub origins: Origins,
    runtime: FetchRuntime,
    pub front: tokio::runtime::Runtime,
}

impl Bench {
    pub fn new() -> Self {
        let runtime = FetchRuntime::start(quick_options()).expect("threads");
        let listings = Listings::new(&runtime, ListingBounds::default());
        Bench {
            origins: Origins::new(&runtime, listings),
            runtime,
            front: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.front.block_on(work)
    }

    pub fn put(&self, mount: &Arc<Mount>, key: &str, bytes: &[u8]) -> String {
        let body = OriginBody::whole(Bytes::copy_from_slice(bytes));
        let headers = OriginHeaders::default();
        self.run(
            self.origins
                .put(mount, key, &headers, WriteCondition::None, body),
        )
        .expect("written")
        .etag
    }

    pub fn keys(&self, mount: &Arc<Mount>) -> Vec<String> {
        let query = ListQuery {
            max_keys: 1000,
            ..ListQuery::default()
        };
        let page = self.run(self.origins.list(mount, query)).expect("listed");
        page.objects.into_iter().map(|object| object.key).collect()
    }

    /// The bytes of an object, by copying it to a directory.
    pub fn read(&self, mount: &Arc<Mount>, key: &str) -> Vec<u8> {
        let folder = TempDir::new().expect("a folder");
        let copies = files_mount(&folder);
        self.run(self.origins.copy(
            (mount, key),
            PLAIN,
            &copies,
            "copy",
            CopyDirective::Copy,
            WriteCondition::None,
        ))
        .expect("copied");
        std::fs::read(folder.path().join("copy")).expect("there")
    }

    pub fn kind_of_head(&self, mount: &Arc<Mount>, key: &str) -> Option<OriginErrorKind> {
        self.run(self.origins.head(mount, key))
            .err()
            .map(|error| error.kind)
    }
}

pub fn files_mount(folder: &TempDir) -> Arc<Mount> {
    let uri = format!("file://{}", folder.path().display());
    mount(&uri, Freshness::AlwaysCheck, &[("settle_ms", "0")])
}

/// What a request for an upload gets that ended: the server of the tests knows no difference
/// between an upload that is gone and one of somebody else.
fn kind_of_ended(mount: &Mount) -> OriginErrorKind {
    if mount.uri.starts_with("s3://") {
        OriginErrorKind::Denied
    } else {
        OriginErrorKind::NoSuchUpload
    }
}

/// Runs a test on a directory and on an S3 server, below a prefix of its bucket.
fn on_both(test: impl Fn(&Bench, &Arc<Mount>)) {
    let (bench, folder, server) = (
        Bench::new(),
        TempDir::new().expect("a folder"),
        S3Server::start(),
    );
    test(&bench, &files_mount(&folder));
    test(&bench, &server.mount("s3://bucket/below", "secret"));
}

#[test]
fn what_was_put_is_there_with_its_headers_until_it_is_deleted() {
    on_both(|bench, mount| {
        let headers = OriginHeaders {
            content_type: Some("text/csv".to_owned()),
            content_encoding: Some("gzip".to_owned()),
            metadata: vec![("made-by".to_owned(), "a test".to_owned())],
            ..OriginHeaders::default()
        };
        for (key, length) in [("a/short é&.csv", 5), ("a/long", LONG), ("empty", 0)] {
            let bytes = content(1, length);
            let (sender, body) = OriginBody::channel(Some(length as u64), 4);
            let written = bench.run(async {
                let put = bench
                    .origins
                    .put(mount, key, &headers, WriteCondition::None, body);
                let send = async {
                    for piece in bytes.chunks(64 << 10) {
                        assert!(sender.send(Bytes::copy_from_slice(piece)).await);
                    }
                    sender.end();
                };
                futures::join!(put, send).0
            });
            let written = written.expect("written");
            assert!(written.etag.starts_with('"'), "{written:?}");
            let head = bench.run(bench.origins.head(mount, key)).expect("there");
            assert_eq!(
                (head.length, &head.etag),
                (length as u64, &written.etag),
                "{key}"
            );
            let header = |name: &str| {
                let found = head.headers.iter().find(|(found, _)| found == name);
                found.map(|(_, value)| value.as_str())
            };
            assert_eq!(header("content-type"), Some("text/csv"));
            assert_eq!(header("x-amz-meta-made-by"), Some("a test"));
            assert!(bench.read(mount, key) == bytes, "{key}");
        }
        assert_eq!(bench.keys(mount), ["a/long", "a/short é&.csv", "empty"]);
        for key in ["a/long", "a/short é&.csv"] {
            bench
                .run(bench.origins.delete(mount, key))
                .expect("deleted");
            assert_eq!(
                bench.kind_of_head(mount, key),
                Some(OriginErrorKind::NotFound)
            );
        }
        assert_eq!(
            bench.keys(mount),
            ["empty"],
            "with the directory that was implied"
        );
        let keys = vec!["empty".to_owned(), "never".to_owned(), "../up".to_owned()];
        let results = bench
            .run(bench.origins.delete_many(mount, keys))
            .expect("asked");
        assert_eq!(results[0], Ok(()));
        assert_eq!(
            results[2].as_ref().map_err(|error| error.kind),
            Err(OriginErrorKind::Invalid)
        );
        assert!(bench.keys(mount).is_empty());
    });
}

#[test]
fn a_body_without_a_confirmed_end_changes_nothing() {
    on_both(|bench, mount| {
        let etag = bench.put(mount, "kept", b"as it was");
        for (length, says) in [
            (100, Some(100)),
            (100, None),
            (LONG, Some(LONG as u64)),
            (LONG, None),
        ] {
            for aborts in [true, false] {
                for key in ["kept", "fresh/new"] {
                    let (sender, body) = OriginBody::channel(says, 4);
                    let result = bench.run(async {
                        let headers = OriginHeaders::default();
                        let put =
                            bench
                                .origins
                                .put(mount, key, &headers, WriteCondition::None, body);
                        let send = async {
                            for piece in content(2, length).chunks(64 << 10) {
                                sender.send(Bytes::copy_from_slice(piece)).await;
                            }
                            if aborts {
                                sender.abort(Aborted {
                                    code: Some("BadDigest".to_owned()),
                                    message: "the checksum differs".to_owned(),
                                });
                            } else {
                                drop(sender);
                            }
                        };
                        futures::join!(put, send).0
                    });
                    let error = result.expect_err("not confirmed");
                    assert_eq!(error.kind, OriginErrorKind::Aborted, "{error}");
                    let code = if aborts {
                        "BadDigest"
                    } else {
                        "IncompleteBody"
                    };
                    assert_eq!(error.code.as_deref(), Some(code), "{error}");
                }
            }
        }
        let head = bench.run(bench.origins.head(mount, "kept")).expect("there");
        assert_eq!(head.etag, etag);
        assert_eq!(
            bench.kind_of_head(mount, "fresh/new"),
            Some(OriginErrorKind::NotFound)
        );
        assert_eq!(bench.keys(mount), ["kept"]);
    });
}

#[test]
fn nothing_stays_in_the_staging_directory_after_failed_writes() {
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let mount = files_mount(&folder);
    bench.put(&mount, "object", b"1");
    let (sender, body) = OriginBody::channel(Some(10), 4);
    sender.try_send(Bytes::from_static(b"12345")).expect("room");
    drop(sender);
    let headers = OriginHeaders::default();
    bench
        .run(
            bench
                .origins
                .put(&mount, "other", &headers, WriteCondition::None, body),
        )
        .expect_err("not confirmed");
    let staging = folder.path().join(".corelane-uploads/files");
    assert_eq!(std::fs::read_dir(staging).expect("there").count(), 0);
    for key in [".corelane-uploads/files/x", ".corelane-uploads/"] {
        let body = OriginBody::whole(Bytes::new());
        let error = bench
            .run(
                bench
                    .origins
                    .put(&mount, key, &headers, WriteCondition::None, body),
            )
            .expect_err("ours");
        assert_eq!(error.kind, OriginErrorKind::Invalid, "{error}");
    }
}

#[test]
fn conditions_are_kept() {
    on_both(|bench, mount| {
        let put = |condition| {
            let body = OriginBody::whole(Bytes::from_static(b"bytes"));
            let headers = OriginHeaders::default();
            let result = bench.run(bench.origins.put(mount, "key", &headers, condition, body));
            result
                .map(|written| written.etag)
                .map_err(|error| error.kind)
        };
        let etag = put(WriteCondition::IfAbsent).expect("absent");
        assert_eq!(
            put(WriteCondition::IfAbsent),
            Err(OriginErrorKind::PreconditionFailed)
        );
        let other = WriteCondition::IfMatch("\"0123456789abcdef0123456789abcdef\"".to_owned());
        assert_eq!(put(other.clone()), Err(OriginErrorKind::PreconditionFailed));
        put(WriteCondition::IfMatch(etag)).expect("of that ETag");
        let source = CopySource {
            if_match: Some("\"0123456789abcdef0123456789abcdef\"".to_owned()),
            range: None,
        };
        let copy = bench.origins.copy(
            (mount, "key"),
            source,
            mount,
            "copy",
            CopyDirective::Copy,
            WriteCondition::None,
        );
        let error = bench.run(copy).expect_err("another ETag");
        assert_eq!(error.kind, OriginErrorKind::PreconditionFailed, "{error}");
    });
}

#[test]
fn of_many_who_write_if_absent_at_once_one_wins() {
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let mount = files_mount(&folder);
    let headers = OriginHeaders::default();
    for round in 0..20 {
        let key = format!("directory/{round}");
        let puts = (0..16u8).map(|writer| {
            let body = OriginBody::whole(Bytes::from(vec![writer; 100]));
            bench
                .origins
                .put(&mount, &key, &headers, WriteCondition::IfAbsent, body)
        });
        let results = bench.run(futures::future::join_all(puts));
        let winners: Vec<usize> = (0..16).filter(|index| results[*index].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(bench.read(&mount, &key), vec![winners[0] as u8; 100]);
    }
}

#[test]
fn copies_keep_headers_or_get_new_ones_within_a_store_and_between_stores() {
    let server = S3Server::start();
    let s3 = server.mount("s3://bucket/below", "secret");
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let files = files_mount(&folder);
    for (from, to) in [(&files, &files), (&s3, &s3), (&files, &s3), (&s3, &files)] {
        for length in [10, LONG] {
            let bytes = content(3, length);
            let headers = OriginHeaders {
                content_type: Some("text/csv".to_owned()),
                ..OriginHeaders::default()
            };
            let body = OriginBody::whole(Bytes::from(bytes.clone()));
            bench
                .run(
                    bench
                        .origins
                        .put(from, "from", &headers, WriteCondition::None, body),
                )
                .expect("written");
            let copy = bench.origins.copy(
                (from, "from"),
                PLAIN,
                to,
                "to/here",
                CopyDirective::Copy,
                WriteCondition::None,
            );
            let written = bench.run(copy).expect("copied");
            let head = bench.run(bench.origins.head(to, "to/here")).expect("there");
            assert_eq!((head.length, &head.etag), (length as u64, &written.etag));
            assert!(
                head.headers
                    .contains(&("content-type".to_owned(), "text/csv".to_owned())),
                "{:?}",
                head.headers
            );
            assert!(bench.read(to, "to/here") == bytes);
        }
    }
}

#[test]
fn an_upload_becomes_one_object_of_its_parts() {
    on_both(|bench, mount| {
        let origins = &bench.origins;
        let headers = OriginHeaders {
            content_type: Some("text/csv".to_owned()),
            ..OriginHeaders::default()
        };
        let parts = [content(4, 5 << 20), content(5, 5 << 20), content(6, 1000)];
        let id = bench
            .run(origins.create_upload(mount, "big/object", &headers))
            .expect("begun");
        assert!(bench.keys(mount).is_empty());
        let mut completed = Vec::new();
        for number in [3u32, 1, 2] {
            let body = OriginBody::whole(Bytes::from(parts[number as usize - 1].clone()));
            let put = origins.put_part(mount, "big/object", &id, number, Vec::new(), body);
            let written = bench.run(put).expect("written");
            completed.push(CompletedPart {
                number,
                etag: written.etag,
                checksum: None,
            });
        }
        completed.sort_by_key(|part| part.number);
        let (sender, body) = OriginBody::channel(Some(LONG as u64), 4);
        sender.try_send(Bytes::from_static(b"begun")).expect("room");
        drop(sender);
        bench
            .run(origins.put_part(mount, "big/object", &id, 2, Vec::new(), body))
            .expect_err("not confirmed");
        let listed = bench
            .run(origins.list_parts(mount, "big/object", &id, 1, 1000))
            .expect("listed");
        let sizes: Vec<(u32, u64)> = listed
            .parts
            .iter()
            .map(|part| (part.number, part.size))
            .collect();
        assert_eq!(sizes, [(2, 5 << 20), (3, 1000)]);
        let complete = || {
            bench.run(origins.complete_upload(
                mount,
                "big/object",
                &id,
                completed.clone(),
                WriteCondition::None,
            ))
        };
        let written = complete().expect("completed");
        // Whoever lost the answer is told the same; of another server that is its own to say.
        match complete() {
            Ok(again) => assert_eq!(again, written),
            Err(again) => {
                assert!(mount.uri.starts_with("s3://"));
                assert_eq!(again.kind, kind_of_ended(mount), "{again}");
            }
        }
        assert!(bench.read(mount, "big/object") == parts.concat());
        let head = bench.run(origins.head(mount, "big/object")).expect("there");
        assert!(
            head.headers
                .contains(&("content-type".to_owned(), "text/csv".to_owned()))
        );
        assert_eq!(bench.keys(mount), ["big/object"]);
    });
}

#[test]
fn an_upload_that_is_aborted_leaves_nothing_and_wrong_parts_are_named() {
    on_both(|bench, mount| {
        let origins = &bench.origins;
        let headers = OriginHeaders::default();
        let id = bench
            .run(origins.create_upload(mount, "key", &headers))
            .expect("begun");
        match bench.run(origins.list_uploads(mount, "k", None, 1000)) {
            Ok(page) => {
                let uploads = page.uploads.iter();
                let named: Vec<_> = uploads
                    .map(|upload| (&*upload.key, &*upload.upload_id))
                    .collect();
                assert_eq!(named, [("key", id.as_str())]);
            }
            // The server of the tests has no listing of uploads.
            Err(error) => {
                assert!(mount.uri.starts_with("s3://"), "{error}");
                assert_eq!(error.kind, OriginErrorKind::Unsupported, "{error}");
            }
        }
        let body = OriginBody::whole(Bytes::from_static(b"part"));
        bench
            .run(origins.put_part(mount, "key", &id, 1, Vec::new(), body))
            .expect("written");
        // The server of the tests forgets an upload at its first completion, good or bad.
        let other = bench
            .run(origins.create_upload(mount, "other", &headers))
            .expect("begun");
        let wrong = vec![CompletedPart {
            number: 2,
            etag: "\"x\"".to_owned(),
            checksum: None,
        }];
        let error = bench
            .run(origins.complete_upload(mount, "other", &other, wrong, WriteCondition::None))
            .expect_err("no such part");
        assert_eq!(error.kind, OriginErrorKind::Invalid, "{error}");
        bench
            .run(origins.abort_upload(mount, "key", &id))
            .expect("aborted");
        let body = OriginBody::whole(Bytes::from_static(b"part"));
        let error = bench
            .run(origins.put_part(mount, "key", &id, 1, Vec::new(), body))
            .expect_err("ended");
        assert_eq!(error.kind, kind_of_ended(mount), "{error}");
        assert!(bench.keys(mount).is_empty());
    });
}

#[test]
fn directories_are_keys_that_end_in_a_slash() {
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let mount = files_mount(&folder);
    bench.put(&mount, "asked/", b"");
    assert_eq!(bench.keys(&mount), ["asked/"]);
    assert_eq!(bench.kind_of_head(&mount, "asked/"), None);
    bench.put(&mount, "asked/object", b"1");
    bench.put(&mount, "implied/deep/object", b"1");
    assert_eq!(bench.keys(&mount), ["asked/object", "implied/deep/object"]);
    for key in ["asked/object", "implied/deep/object"] {
        bench
            .run(bench.origins.delete(&mount, key))
            .expect("deleted");
    }
    assert_eq!(bench.keys(&mount), ["asked/"]);
    bench
        .run(bench.origins.delete(&mount, "asked/"))
        .expect("deleted");
    assert!(bench.keys(&mount).is_empty());
    bench.put(&mount, "file", b"1");
    for (key, bytes) in [("file/below", &b"1"[..]), ("d/", b"1")] {
        let headers = OriginHeaders::default();
        let body = OriginBody::whole(Bytes::copy_from_slice(bytes));
        let error = bench
            .run(
                bench
                    .origins
                    .put(&mount, key, &headers, WriteCondition::None, body),
            )
            .expect_err("no such object");
        assert_eq!(error.kind, OriginErrorKind::Invalid, "{error}");
    }
}

#[test]
fn writes_do_not_follow_links_out_of_the_mount() {
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let outside = TempDir::new().expect("a folder");
    std::fs::write(outside.path().join("kept"), b"1").expect("written");
    std::os::unix::fs::symlink(outside.path(), folder.path().join("out")).expect("a link");
    let mount = files_mount(&folder);
    let headers = OriginHeaders::default();
    let body = OriginBody::whole(Bytes::from_static(b"x"));
    let put = bench
        .origins
        .put(&mount, "out/new", &headers, WriteCondition::None, body);
    let error = bench.run(put).expect_err("outside");
    assert_eq!(error.kind, OriginErrorKind::Denied, "{error}");
    let error = bench
        .run(bench.origins.delete(&mount, "out/kept"))
        .expect_err("outside");
    assert_eq!(error.kind, OriginErrorKind::Denied, "{error}");
    assert!(outside.path().join("kept").exists() && !outside.path().join("new").exists());
    // Nor where one has taken the place of the folder of a mount made at run time.
    let base = folder.path().canonicalize().expect("it is there");
    let linked = Arc::new(Mount {
        uri: format!("file://{}/out", base.display()),
        is_runtime: true,
        ..mount.as_ref().clone()
    });
    let body = OriginBody::whole(Bytes::from_static(b"x"));
    let put = bench
        .origins
        .put(&linked, "new", &headers, WriteCondition::None, body);
    let error = bench.run(put).expect_err("outside");
    assert_eq!(error.kind, OriginErrorKind::Denied, "{error}");
    assert!(!outside.path().join("new").exists());
}

#[test]
fn a_wrong_secret_is_denied_and_a_bucket_can_be_made() {
    let (bench, server) = (Bench::new(), S3Server::start());
    let denied = server.mount("s3://bucket", "another");
    let headers = OriginHeaders::default();
    let body = OriginBody::whole(Bytes::from_static(b"x"));
    let put = bench
        .origins
        .put(&denied, "key", &headers, WriteCondition::None, body);
    let error = bench.run(put).expect_err("a wrong signature");
    assert_eq!(error.kind, OriginErrorKind::Denied, "{error}");
    assert_eq!(error.code.as_deref(), Some("SignatureDoesNotMatch"));
    let made = server.mount("s3://made", "secret");
    bench.run(bench.origins.create_bucket(&made)).expect("made");
    let again = bench
        .run(bench.origins.create_bucket(&made))
        .expect_err("there");
    assert_eq!(again.kind, OriginErrorKind::AlreadyExists, "{again}");
    bench.put(&made, "key", b"1");
    assert!(server.folder.path().join("made/key").exists());
}

#[test]
fn a_description_has_the_content_type_and_what_was_put_is_read_back() {
    on_both(|bench, mount| {
        let headers = OriginHeaders {
            content_type: Some("text/csv".to_owned()),
            ..OriginHeaders::default()
        };
        let bytes = content(7, LONG);
        let body = OriginBody::whole(Bytes::from(bytes.clone()));
        let put = bench
            .origins
            .put(mount, "d/object", &headers, WriteCondition::None, body);
        let written = bench.run(put).expect("written");
        let mut shard = Shard::new(&bench.runtime);
        let object = shard.describe(mount, "/m/d/object").expect("described");
        assert_eq!(
            (object.content_type.as_str(), object.length),
            ("text/csv", LONG as u64)
        );
        assert_eq!(
            object.version.trim_matches('"'),
            written.etag.trim_matches('"')
        );
        assert_brought(&shard.fetch(mount, &object, 0..LONG as u64), &bytes);
        let counts = bench.runtime.counts();
        assert!(counts[0].bytes_sent >= LONG as u64, "{counts:?}");
    });
}

#[test]
fn pages_of_cached_listings_ask_the_store_nothing() {
    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    for index in 0..300 {
        std::fs::write(folder.path().join(format!("{index:04}")), b"1").expect("written");
    }
    let uri = format!("file://{}", folder.path().display());
    let mount = mount(&uri, Freshness::Immutable, &[]);
    let mut query = ListQuery {
        max_keys: 7,
        ..ListQuery::default()
    };
    let mut found = 0;
    loop {
        let page = bench
            .run(bench.origins.list(&mount, query.clone()))
            .expect("listed");
        found += page.objects.len();
        match page.next_after {
            Some(after) => query.after = after,
            None => break,
        }
    }
    assert_eq!((found, bench.runtime.counts()[0].requests), (300, 1));
}
