//! Look-ups in tables: the same rows over lanes and over HTTP, with and without key indexes, of one version
//! each, and until the end of a drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::{ArrayRef, Int64Array};
use corelane_client::lookup::request::LookupRequest;
use corelane_client::{Error, Options};
use corelane_rpc_schema::frame::encode_lookup;
use serde_json::{Value, json};

use crate::harness::{Answer, Bed, Http, Lane, Process, eventually};
use crate::lookup_table::{
    Row, files, json_request, post, request, rows_of_arrow, rows_of_json, rows_where, write_file,
    write_table,
};

/// A predicate, and what it means.
type Question = (&'static str, fn(&Row) -> bool);

const QUESTIONS: [Question; 8] = [
    ("key = 4711", |row| row.key == 4711),
    ("key in (0, 1, 23999, 24000)", |row| {
        [0, 1, 23_999].contains(&row.key)
    }),
    ("key >= 100 and key < 140 and region <> 'eu'", |row| {
        (100..140).contains(&row.key) && row.region != "eu"
    }),
    ("name = 'name, 13' and region = 'us'", |row| {
        row.name.as_deref() == Some("name, 13") && row.region == "us"
    }),
    ("name is null and price between 10 and 20", |row| {
        row.name.is_none() && (10.0..=20.0).contains(&row.price)
    }),
    ("name like 'name, 9%' and key < 500", |row| {
        row.key < 500
            && row
                .name
                .as_ref()
                .is_some_and(|name| name.starts_with("name, 9"))
    }),
    ("region = 'mars'", |_| false),
    ("key = -1 or price > 2999.5", |row| row.price > 2999.5),
];

#[track_caller]
fn assert_answers(process: &Process, when: &str) {
    let paths: Vec<String> = files().into_iter().map(|(path, _)| path).collect();
    let client = process.client();
    for (predicate, wanted) in QUESTIONS {
        let expected = rows_where(wanted);
        let found = client.look_up(&request(paths.clone(), predicate));
        let found = found.unwrap_or_else(|error| panic!("{predicate}: {error}"));
        assert_eq!(
            found.rows,
            expected.len() as u64,
            "{predicate}, over a lane, {when}"
        );
        // Where no file is looked into, the answer has the columns of none.
        if found.rows > 0 {
            let rows = rows_of_arrow(found.stream.to_vec());
            assert_eq!(rows, expected, "{predicate}, over a lane, {when}");
        }
        let answer = post(process, &[], &json_request(predicate));
        assert_eq!(answer.status, 200, "{predicate}: {}", answer.text());
        assert_eq!(
            answer.header("x-corelane-rows"),
            expected.len().to_string(),
            "{predicate}"
        );
        assert_eq!(
            rows_of_json(answer.text()),
            expected,
            "{predicate}, over HTTP, {when}"
        );
    }
}

#[test]
fn rows_are_those_that_the_predicate_means_on_one_core_and_on_two() {
    for cores in [1, 2] {
        let mut bed = Bed::in_memory();
        bed.cores = cores;
        write_table(&bed);
        let process = bed.start();
        assert_answers(&process, "at first");
        for _ in 0..16 {
            post(&process, &[], &json_request("key = 4711"));
        }
        eventually("each file has a key index", || {
            process.counter("key_indexes_built") >= files().len() as u64
        });
        assert_answers(&process, "with key indexes");

        let metrics = process.metrics();
        let sum = |name: &str| -> f64 {
            assert!(
                metrics.contains(&format!("# HELP corelane_{name} ")),
                "{name}"
            );
            let lines = metrics
                .lines()
                .filter(|line| line.starts_with(&format!("corelane_{name}{{")));
            let values = lines.map(|line| {
                let value = line.rsplit(' ').next();
                value
                    .and_then(|value| value.parse::<f64>().ok())
                    .expect("a number")
            });
            values.sum()
        };
        assert!(sum("key_indexes_built_total") >= files().len() as f64);
        assert!(sum("lookups_total") >= 2.0 * QUESTIONS.len() as f64 * 2.0);
        assert_eq!(sum("lookups_failed_total"), 0.0);
        assert!(sum("lookup_rows_total") > 0.0);
        assert!(sum("lookup_decoded_bytes") > 0.0 && sum("lookup_known_bytes") > 0.0);
        assert!(metrics.contains("# TYPE corelane_lookup_known_bytes gauge"));
        process.terminate();
    }
}

#[test]
fn keys_are_answered_in_their_order_and_patterns_name_what_they_match() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let process = bed.start();
    let keys = [7, 23_000, 7, 99_999, 12];
    let mut batch = json_request("price >= 0");
    batch["keys"] = json!({ "column": "key", "values": keys });
    let answer = post(&process, &[], &batch);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expected: Vec<Row> = keys
        .iter()
        .flat_map(|key| rows_where(|row| row.key == *key))
        .collect();
    assert_eq!(expected.len(), 4);
    assert_eq!(rows_of_json(answer.text()), expected);

    for (path, region, part) in [
        ("/data/orders/region=eu/", Some("eu"), None),
        ("s3://data/orders/region=e?/", Some("eu"), None),
        ("/data/o*/*/part-1*", None, Some("part-1.parquet")),
        (
            "/data/orders/region=us/part-0.parquet",
            Some("us"),
            Some("part-0.parquet"),
        ),
    ] {
        let mut request = json_request("key < 1000");
        request["path"] = json!(path);
        let answer = post(&process, &[], &request);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let expected: Vec<Row> = files()
            .into_iter()
            .filter(|(path, _)| part.is_none_or(|part| path.ends_with(part)))
            .flat_map(|(_, rows)| rows)
            .filter(|row| row.key < 1000 && region.is_none_or(|region| row.region == region))
            .collect();
        assert_eq!(rows_of_json(answer.text()), expected, "{path}");
    }
    process.terminate();
}

/// Rows of the object that is replaced: several row groups, so that one look-up reads it more than once.
const REPLACED_ROWS: i64 = 6000;

fn replace(bed: &Bed, generation: i64) {
    let column = |value: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new((0..REPLACED_ROWS).map(value).collect::<Int64Array>())
    };
    let columns = [
        // Another row has a key each time, so that a key index of before finds wrong ones.
        (
            "key",
            column(&|row| (row * 7919 + generation * 1009) % REPLACED_ROWS),
        ),
        ("generation", column(&|_| generation)),
        // Another length each time.
        ("noise", column(&|row| row * generation)),
    ];
    write_file(&bed.path("new"), &columns, 1000);
    let place = bed.path("source").join("replaced.parquet");
    std::fs::rename(bed.path("new"), place).expect("it replaces the old one");
}

/// That all keys below 100 are there, once, and of one generation.
#[track_caller]
fn assert_one_generation(rows: &str) -> i64 {
    let rows: Vec<Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let number = |row: &Value, name: &str| row[name].as_i64().expect("an integer");
    let mut keys: Vec<i64> = rows.iter().map(|row| number(row, "key")).collect();
    keys.sort_unstable();
    assert_eq!(keys, (0..100).collect::<Vec<_>>());
    let generation = number(&rows[0], "generation");
    for row in &rows {
        assert_eq!(number(row, "generation"), generation, "one version");
    }
    generation
}

#[test]
fn an_answer_is_of_one_version_while_its_object_is_replaced_again_and_again() {
    let mut bed = Bed::in_memory().freshness("always-check");
    bed.mounts[0].keys.push_str("\nkey_indexes = [\"key\"]");
    replace(&bed, 1);
    let process = bed.start();
    let is_over = Arc::new(AtomicBool::new(false));
    let request = json!({
        "path": "/data/replaced.parquet", "where": "key < 100", "select": "key,generation"
    });
    let over_http = {
        let (is_over, request) = (Arc::clone(&is_over), request.to_string());
        let address = process.operations;
        std::thread::spawn(move || {
            let mut answers = 0;
            let mut http = Http::connect(address).expect("it listens");
            while !is_over.load(Ordering::SeqCst) {
                let answer = http.ask("POST", "/v1/lookup", &[], request.as_bytes());
                let answer = answer.expect("an answer");
                match answer.status {
                    200 => {
                        assert_one_generation(answer.text());
                        answers += 1;
                    }
                    409 => assert_eq!(answer.error().0, "versionChanged"),
                    status => panic!("{status} {}", answer.text()),
                }
            }
            answers
        })
    };
    let over_a_lane = {
        let (is_over, client) = (Arc::clone(&is_over), process.client());
        let mut request = LookupRequest::from_json(&request.to_string()).expect("valid");
        request.limit = None;
        std::thread::spawn(move || {
            let mut answers = 0;
            while !is_over.load(Ordering::SeqCst) {
                match client.look_up(&request) {
                    Ok(found) => {
                        assert_eq!(found.rows, 100);
                        let (schema, batches) = found.batches().expect("an Arrow stream");
                        let mut lines = Vec::new();
                        corelane_client::lookup::answer::Format::JsonLines
                            .write(&schema, &batches, &mut lines)
                            .expect("numbers");
                        assert_one_generation(&String::from_utf8(lines).expect("text"));
                        answers += 1;
                    }
                    Err(Error::VersionChanged { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            answers
        })
    };
    for generation in 2..60 {
        replace(&bed, generation);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    eventually("the last version is answered", || {
        let answer = post(&process, &[], &request);
        answer.status == 200 && assert_one_generation(answer.text()) == 59
    });
    is_over.store(true, Ordering::SeqCst);
    assert!(over_http.join().expect("no mixture over HTTP") > 0);
    assert!(over_a_lane.join().expect("no mixture over a lane") > 0);
    process.terminate();
}

#[test]
fn look_ups_that_were_taken_before_sigterm_are_answered() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let process = bed.start();
    let body = json_request("key < 200").to_string();
    let expected = rows_where(|row| row.key < 200);
    // "100 Continue" says that the worker has taken the request and waits for its body.
    let mut taken: Vec<Http> = (0..6)
        .map(|_| {
            let mut http = Http::connect(process.operations).expect("it listens");
            http.send_head("POST", "/v1/lookup", &["Expect: 100-continue"], body.len())
                .expect("it reads");
            let answer = http.receive(false).expect("an answer");
            assert_eq!(answer.status, 100);
            http
        })
        .collect();
    let (mut lane, _) = Lane::connect(process.data[0]);
    let paths: Vec<String> = files().into_iter().map(|(path, _)| path).collect();
    let payload = request(paths, "key < 200").encode();
    let mut frames = Vec::new();
    for id in 0..16 {
        encode_lookup(&mut frames, 100 + id, &payload).expect("it fits");
    }
    lane.send(&frames).expect("it reads");
    let mut answered = 0;
    loop {
        match lane.receive() {
            Answer::LookedUp(head, payload) => {
                assert_eq!(head.rows, expected.len() as u64);
                assert_eq!(rows_of_arrow(payload), expected);
                answered += 1;
                // The first answer shows that the others, which came with it, were taken too.
                if answered == 1 {
                    process.signal(libc::SIGTERM);
                }
            }
            Answer::Closed => break,
            Answer::Message(0, corelane_rpc_schema::messages::Message::GoAway) => {}
            other => panic!("{other:?}"),
        }
        if answered == 16 {
            break;
        }
    }
    assert_eq!(answered, 16);
    eventually("it drains", || {
        process.log().contains("finishing what is under way")
    });
    for http in &mut taken {
        http.send(body.as_bytes()).expect("it still reads");
    }
    for http in &mut taken {
        let answer = http.receive(true).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(rows_of_json(answer.text()), expected);
    }
    drop(lane);
    process.ended_well();
}

#[test]
fn a_drain_under_look_ups_cuts_no_answer() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let process = bed.start();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let (address, is_stopping) = (process.operations, Arc::clone(&is_stopping));
            let body = json_request("key < 5000").to_string();
            std::thread::spawn(move || {
                let expected = rows_where(|row| row.key < 5000);
                let mut answers = 0;
                loop {
                    let answer = Http::connect(address)
                        .and_then(|mut http| http.ask("POST", "/v1/lookup", &[], body.as_bytes()));
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            assert_eq!(rows_of_json(answer.text()), expected);
                            answers += 1;
                        }
                        // After the signal, requests are refused or find nobody.
                        other => {
                            assert!(is_stopping.load(Ordering::SeqCst), "{other:?}");
                            if let Ok(answer) = other {
                                assert_eq!(answer.error().0, "draining", "{answer:?}");
                            }
                            return answers;
                        }
                    }
                }
            })
        })
        .collect();
    let client = process.client_with("", Options::default());
    let found = client.look_up(&request(vec![files()[0].0.clone()], "key = 0"));
    assert_eq!(found.expect("one row").rows, 1);
    eventually("look-ups are under way", || process.counter("lookups") > 20);
    is_stopping.store(true, Ordering::SeqCst);
    process.terminate();
    for asker in askers {
        assert!(asker.join().expect("no answer was cut") > 0);
    }
}
