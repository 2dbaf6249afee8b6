//! Look-ups of clients that mean harm, and in files that do: an error that says what is wrong, and the worker
//! goes on.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array};
use corelane_client::lookup::request::LookupRequest;
use corelane_rpc_schema::frame::encode_lookup;
use corelane_rpc_schema::messages::{ErrorCode, Message};
use serde_json::json;

use crate::harness::{Answer, Bed, Http, Lane, Process, Random, eventually};
use crate::lookup_table::{
    files, json_request, post, request, rows_where, write_file, write_table,
};

fn lookup_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_lookup(&mut frame, 7, payload).expect("it fits");
    frame
}

#[track_caller]
fn assert_serves(process: &Process, when: &str) {
    let answer = post(process, &[], &json_request("key = 4711"));
    assert_eq!(answer.status, 200, "{when}: {}", answer.text());
    let rows = rows_where(|row| row.key == 4711);
    assert_eq!(answer.text().lines().count(), rows.len(), "{when}");
}

#[test]
fn frames_that_are_no_look_ups_cost_their_lane_and_requests_that_make_no_sense_an_error() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let process = bed.start();
    let asked = request(vec![files()[0].0.clone()], "key = 0");
    let sound = lookup_frame(&asked.encode());

    let mut lane = Lane::silent(process.data[0]);
    lane.send(&sound).expect("it reads");
    let error = lane.closing_error().expect("a reason");
    assert_eq!(error.code, ErrorCode::Unauthenticated, "{}", error.message);

    let mut broken = sound.clone();
    *broken.last_mut().expect("it has bytes") ^= 0x55;
    broken[40] ^= 1;
    let mut lane = Lane::connect(process.data[0]).0;
    lane.send(&broken).expect("it reads");
    let error = lane.closing_error().expect("a reason");
    assert_eq!(error.code, ErrorCode::Invalid, "{}", error.message);

    // Payloads that are whole, and no request, or one that is damaged.
    let mut random = Random::new(11);
    let (mut lane, _) = Lane::connect(process.data[1]);
    for round in 0..300 {
        let mut payload = asked.encode();
        match round % 3 {
            0 => {
                payload = (0..random.below(200))
                    .map(|_| random.next() as u8)
                    .collect()
            }
            1 => payload.truncate(random.below(payload.len() as u64) as usize),
            _ => {
                let at = random.below(payload.len() as u64) as usize;
                payload[at] = random.next() as u8;
            }
        }
        lane.send(&lookup_frame(&payload)).expect("it reads");
        match lane.receive() {
            Answer::Message(7, Message::Error(error)) => {
                assert_ne!(error.code, ErrorCode::Internal, "{}", error.message);
                assert!(!error.message.is_empty());
            }
            Answer::LookedUp(head, _) => assert_eq!(head.request_id, 7, "round {round}"),
            other => panic!("round {round}: {other:?}"),
        }
    }
    lane.send(&sound).expect("the lane is still open");
    match lane.receive() {
        Answer::LookedUp(head, _) => assert_eq!(head.rows, 1),
        other => panic!("{other:?}"),
    }
    assert_serves(&process, "after hostile frames");
    process.terminate();
}

#[test]
fn json_that_is_damaged_or_deep_is_an_error_of_the_request() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let process = bed.start();
    let sound = json_request("key = 4711 and name like 'n%'").to_string();
    let mut random = Random::new(12);
    let mut http = Http::connect(process.operations).expect("it listens");
    for round in 0..200 {
        let mut body = sound.clone().into_bytes();
        let at = random.below(body.len() as u64) as usize;
        match round % 3 {
            0 => body[at] = random.next() as u8,
            1 => body.truncate(at),
            _ => drop(body.remove(at)),
        }
        let answer = http.ask("POST", "/v1/lookup", &[], &body);
        let answer = answer.expect("an answer on the same connection");
        let is_told = matches!(answer.status, 200 | 400 | 403 | 404);
        assert!(is_told, "{} {}", answer.status, answer.text());
        if answer.status != 200 {
            answer.error();
        }
    }
    let deep = |open: &str, close: &str| {
        let nested = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        format!("{{\"path\": \"/data/orders/\", \"where\": {nested}}}")
    };
    let parentheses = format!(
        "{{\"path\": \"/data/orders/\", \"where\": \"{}key = 1{}\"}}",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    for body in [deep("[", "]"), deep("{\"and\":[", "]}"), parentheses] {
        let answer = http.ask("POST", "/v1/lookup", &[], body.as_bytes());
        assert_eq!(answer.expect("an answer").error().0, "invalid");
    }
    assert_serves(&process, "after hostile JSON");
    process.terminate();
}

#[test]
fn files_that_are_no_parquet_cost_an_error_that_names_them_and_never_the_worker() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let source = bed.path("source");
    let sound = std::fs::read(source.join(&files()[0].0["/data/".len()..])).expect("a file");
    let mut hostile: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"PAR1".to_vec(),
        b"PAR1PAR1".to_vec(),
        b"PAR1\xff\xff\xff\x7fPAR1".to_vec(),
        b"PAR1\0\0\0\0PAR1".to_vec(),
        vec![0; 100_000],
        sound[..sound.len() - 1].to_vec(),
        sound[sound.len() / 2..].to_vec(),
    ];
    let mut random = Random::new(13);
    for round in 0..60 {
        let mut file = sound.clone();
        // Some anywhere, some in the footer.
        let from = if round % 2 == 0 { 0 } else { file.len() - 2000 };
        for _ in 0..=random.below(4) {
            let at = from + random.below((file.len() - from) as u64) as usize;
            file[at] = random.next() as u8;
        }
        hostile.push(file);
    }
    for (number, bytes) in hostile.iter().enumerate() {
        let path = source.join(format!("hostile-{number}.parquet"));
        std::fs::write(path, bytes).expect("a file");
    }
    let process = bed.start();
    let client = process.client();
    for number in 0..hostile.len() {
        let path = format!("/data/hostile-{number}.parquet");
        let asked = json!({ "path": path, "where": "price >= 0 and name like 'n%'" });
        let answer = post(&process, &[], &asked);
        let is_told = matches!(answer.status, 200 | 400 | 422);
        assert!(is_told, "{path}: {} {}", answer.status, answer.text());
        if answer.status != 200 {
            let (code, message) = answer.error();
            assert!(message.contains(&path), "{code}: {message}");
            // What the lane says of it.
            let asked = LookupRequest::from_json(&asked.to_string()).expect("valid");
            let error = client.look_up(&asked).expect_err("as over HTTP");
            let error = error.to_string();
            assert!(error.contains(&path), "{error}");
            let says = |word: &str| code != word || error.contains("corrupt object");
            assert!(says("corrupt"), "{error}");
        }
        if number < 8 {
            assert_eq!(answer.status, 422, "{path}: {}", answer.text());
        }
    }
    assert_serves(&process, "after hostile files");
    process.terminate();
}

#[test]
fn clients_that_send_slowly_or_take_nothing_keep_nobody_waiting_for_long() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let wide: ArrayRef = Arc::new((0..400_000).map(|row| row << 20).collect::<Int64Array>());
    let columns: Vec<(&str, ArrayRef)> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| (name, Arc::clone(&wide)))
        .collect();
    write_file(&bed.path("source").join("wide.parquet"), &columns, 100_000);
    let process = bed.start();

    // More of each than there are look-ups at a time.
    let unfinished: Vec<Http> = (0..10)
        .map(|_| {
            let mut http = Http::connect(process.operations).expect("it listens");
            http.send_head("POST", "/v1/lookup", &[], 100)
                .expect("it reads");
            http
        })
        .collect();
    assert_serves(&process, "beside unfinished requests");
    for mut http in unfinished {
        http.send(&[b' '; 100]).expect("it still reads");
        let answer = http.receive(true).expect("an answer");
        assert_eq!(answer.status, 400, "it was not too late: {}", answer.text());
    }

    let all = json!({ "path": "/data/wide.parquet" }).to_string();
    let silent: Vec<Http> = (0..10)
        .map(|_| {
            let mut http = Http::connect(process.operations).expect("it listens");
            http.send_head("POST", "/v1/lookup", &[], all.len())
                .and_then(|()| http.send(all.as_bytes()))
                .expect("it reads");
            http
        })
        .collect();
    // Answers of some 30 MB, of which the sockets take a part: eight are held, and sixteen look-ups may wait for
    // one of them to go. Who watches the worker gets in beside them.
    let body = json_request("key = 4711").to_string();
    let mut waiting: Vec<Http> = Vec::new();
    eventually("one more is refused", || {
        let mut http = Http::connect(process.operations).expect("it listens");
        http.send_head("POST", "/v1/lookup", &[], body.len())
            .and_then(|()| http.send(body.as_bytes()))
            .expect("it reads");
        waiting.push(http);
        waiting.iter_mut().any(|http| http.has_answer())
    });
    assert!(process.metrics().starts_with("HTTP/1.1 200"));
    let refused = waiting.iter_mut().find(|http| http.has_answer());
    let answer = refused.expect("it was seen").receive(true).expect("whole");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.error().0, "busy");
    drop(waiting);
    eventually("somebody else is answered", || {
        let answer = post(&process, &[], &json_request("key = 4711"));
        answer.status == 200
    });
    drop(silent);
    assert_serves(&process, "after silent clients");
    process.terminate();
}

/// What look-ups may hold while they run, in the tests of files that inflate.
const WORKING_BYTES: u64 = 64 << 20;

/// What a process may take beyond what it has planned.
const OVER_BUDGET_BYTES: u64 = 64 << 20;

/// Writes files of some MiB that inflate to hundreds.
fn write_bombs(bed: &Bed) -> Vec<String> {
    let text = "a".repeat(8 << 20);
    let rows = 50;
    let keys: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
    let mut lists = ListBuilder::new(StringBuilder::new());
    let mut texts = StringBuilder::new();
    for _ in 0..rows {
        lists.values().append_value(&text);
        lists.append(true);
        texts.append_value(&text);
    }
    let columns: [(&str, ArrayRef); 2] = [
        ("list", Arc::new(lists.finish())),
        ("text", Arc::new(texts.finish())),
    ];
    let source = bed.path("source");
    let paths = columns.map(|(name, column)| {
        let path = format!("bomb-{name}.parquet");
        let columns = [("k", Arc::clone(&keys)), ("l", column)];
        write_file(&source.join(&path), &columns, rows as usize);
        format!("/data/{path}")
    });
    paths.into()
}

#[test]
fn files_that_inflate_cost_an_error_and_no_more_memory_than_look_ups_may_hold() {
    let mut bed = Bed::in_memory();
    bed.keys = format!(
        "lookup_memory = \"16M\"\nlookup_working_memory = \"{}M\"\n",
        WORKING_BYTES >> 20
    );
    write_table(&bed);
    let bombs = write_bombs(&bed);
    let process = bed.start();
    assert_serves(&process, "at the start");
    let before = process.resident_bytes();
    // Pages are read through the tier, which is taken at the start and touched as it fills.
    let tier = bed.dram.trim_end_matches('M').parse::<u64>().expect("MiB") << 20;
    let plan = before.max(tier) + (16 << 20) + WORKING_BYTES;
    std::thread::scope(|scope| {
        for round in 0..6 {
            let (process, bombs) = (&process, &bombs);
            scope.spawn(move || {
                for path in bombs {
                    let asked = match round % 3 {
                        0 => json!({ "path": path, "where": "k >= 0", "select": ["l"] }),
                        1 => json!({ "path": path, "where": "k >= 0" }),
                        _ => json!({ "path": path, "where": "k = 7", "select": ["l"],
                                     "scan_bytes_max": i64::MAX }),
                    };
                    let answer = post(process, &[], &asked);
                    let is_told = matches!(answer.status, 200 | 422 | 503);
                    assert!(is_told, "{path}: {} {}", answer.status, answer.text());
                    if answer.status == 422 {
                        let (code, message) = answer.error();
                        assert_eq!(code, "tooMuch", "{message}");
                        let is_placed = message.contains(path) || message.contains("the answer");
                        assert!(is_placed, "{message}");
                    }
                }
            });
        }
    });
    let peak = process.peak_resident_bytes();
    assert!(
        peak <= plan + OVER_BUDGET_BYTES,
        "{} MiB, where {} are planned",
        peak >> 20,
        plan >> 20
    );
    assert_serves(&process, "after files that inflate");
    process.terminate();
}

#[test]
fn what_a_client_may_read_has_a_ceiling() {
    let mut bed = Bed::in_memory();
    bed.keys = "lookup_scan_max = \"1M\"\n".to_owned();
    let wide: ArrayRef = Arc::new(
        (0..400_000)
            .map(|row| row * 7919 % 400_009)
            .collect::<Int64Array>(),
    );
    write_file(
        &bed.path("source").join("wide.parquet"),
        &[("a", wide)],
        400_000,
    );
    let process = bed.start();
    for most in [json!(null), json!(100), json!(i64::MAX)] {
        let mut asked = json!({ "path": "/data/wide.parquet", "where": "a >= 0" });
        if !most.is_null() {
            asked["scan_bytes_max"] = most.clone();
        }
        let answer = post(&process, &[], &asked);
        assert_eq!(answer.status, 422, "{most}: {}", answer.text());
        let (code, message) = answer.error();
        assert_eq!(code, "tooMuch", "{message}");
        assert!(message.contains("lookup_scan_max"), "{message}");
    }
    process.terminate();
}
