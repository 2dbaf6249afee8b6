//! Clients of all kinds at once, the good and the bad, on a worker with little memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, StringArray};
use corelane_rpc_schema::frame::encode_lookup;
use serde_json::json;

use crate::harness::{
    BLOCK, Bed, HANG, Http, Lane, Mount, Process, assert_same, bootstrap_message,
};
use crate::lookup_table::{post, request as look_up_request, write_file};
use crate::memory::{OVER_BUDGET_BYTES, long_key, request};

/// How long all of it goes on.
const LASTS: Duration = Duration::from_secs(12);

/// Bytes of a body that comes in chunks of one byte.
const CHUNKED_BYTES: usize = 20_000;

/// Memory that a worker says that it may take, in bytes.
fn planned_bytes(config: &Path) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_corelane-worker"))
        .arg("--config")
        .arg(config)
        .arg("--check-config")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("memory "));
    let line = line.unwrap_or_else(|| {
        panic!(
            "no memory in {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let number = line.split(' ').next().expect("a size");
    let digits = number.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let shift = match &number[digits.len()..] {
        "GiB" => 30,
        "MiB" => 20,
        "KiB" => 10,
        _ => 0,
    };
    digits.parse::<u64>().expect("a number") << shift
}

/// What was done beside each other, so that a test that does nothing fails.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Written,
    Headed,
    Listed,
    LookedUp,
    Called,
    Read,
    /// Messages of the control plane, a thousand at a time, whose answers nobody takes.
    Flooded,
    /// Look-ups whose long answers nobody takes.
    NotTaken,
    /// Bodies that come byte by byte.
    Chunked,
    /// Writes whose under-store ends the connection without an answer.
    Failed,
}

const KINDS: usize = Kind::Failed as usize + 1;

/// The clients of one worker.
struct Crowd<'a> {
    process: &'a Process,
    s3: SocketAddr,
    bytes: &'a [u8],
    is_over: AtomicBool,
    done: [AtomicU64; KINDS],
}

impl Crowd<'_> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, kind: Kind) {
        self.done[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self) -> [u64; KINDS] {
        std::array::from_fn(|kind| self.done[kind].load(Ordering::Relaxed))
    }

    fn has_done_all(&self) -> bool {
        self.done().iter().all(|count| *count >= 3)
    }

    fn s3(&self) -> Http {
        Http::connect(self.s3).expect("it listens")
    }

    fn write(&self, writer: u64) {
        let metadata = format!("x-amz-meta-a: {}", "m".repeat(1_800));
        let mut http = self.s3();
        let mut number = writer << 32;
        while self.goes_on() {
            number += 1;
            let path = format!("/{}", long_key(number));
            match request(&mut http, "PUT", &path, &[&metadata], b"x") {
                Some(200) => self.count(Kind::Written),
                _ => http = self.s3(),
            }
            match request(&mut http, "HEAD", &path, &[], b"") {
                Some(_) => self.count(Kind::Headed),
                None => http = self.s3(),
            }
        }
    }

    fn list(&self, lister: u64) {
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let Ok(mut http) = Http::connect(self.s3) else {
                continue;
            };
            let path = format!("/data?list-type=2&prefix=many/&start-after=many/{lister}{number}");
            if request(&mut http, "GET", &path, &[], b"") == Some(200) {
                self.count(Kind::Listed);
            }
        }
    }

    fn look_up(&self) {
        let asked = json!({ "path": "/data/bomb.parquet", "where": "k >= 0", "select": ["l"] });
        while self.goes_on() {
            let answer = post(self.process, &[], &asked);
            assert!(matches!(answer.status, 422 | 503), "{}", answer.text());
            self.count(Kind::LookedUp);
        }
    }

    fn call(&self) {
        let control = self.process.control();
        while self.goes_on() {
            if control.stats().is_ok() {
                self.count(Kind::Called);
            }
        }
    }

    fn read(&self) {
        let client = self.process.client();
        while self.goes_on() {
            if let Ok((_, found)) = client.read_file("/data/object") {
                assert_same(&found, self.bytes, "beside all others");
                self.count(Kind::Read);
            }
        }
    }

    /// Asks for all that a lane may, and takes little of it.
    fn take_little(&self, shard: usize) {
        let (mut lane, _) = Lane::connect(self.process.data[shard]);
        let opened = lane.open("/data/object");
        for number in 0..64 {
            lane.ask(100 + number, opened.object, 0, 4 * BLOCK as u32);
        }
        while self.goes_on() {
            std::thread::sleep(Duration::from_millis(500));
            let _ = lane.receive();
        }
    }

    fn flood(&self) {
        let mut number = 0;
        let mut kept = Vec::new();
        while self.goes_on() {
            let Ok(mut stream) = TcpStream::connect(self.process.control) else {
                continue;
            };
            let wait = Some(Duration::from_millis(200));
            stream.set_write_timeout(wait).expect("a timeout");
            while self.goes_on() {
                let many: Vec<u8> = (0..1000)
                    .flat_map(|_| {
                        number += 1;
                        bootstrap_message(number)
                    })
                    .collect();
                self.count(Kind::Flooded);
                if stream.write_all(&many).is_err() {
                    break;
                }
            }
            kept.push(stream);
            kept.truncate(8);
        }
    }

    fn look_up_and_take_nothing(&self, shard: usize) {
        let mut asked = look_up_request(vec!["/data/wide.parquet".to_owned()], "key >= 0");
        asked.select = ["key", "name"].map(str::to_owned).into();
        let payload = asked.encode();
        while self.goes_on() {
            let (mut lane, _) = Lane::connect(self.process.data[shard]);
            for id in 1..=100 {
                let mut frame = Vec::new();
                encode_lookup(&mut frame, id, &payload).expect("it fits");
                if lane.send(&frame).is_err() {
                    break;
                }
                self.count(Kind::NotTaken);
            }
            for _ in 0..20 {
                if self.goes_on() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn send_byte_by_byte(&self, writer: u64) {
        let body = b"1\r\nx\r\n".repeat(CHUNKED_BYTES);
        while self.goes_on() {
            let head = format!(
                "PUT /data/chunked-{writer} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let mut http = self.s3();
            let sent = [head.as_bytes(), &body, b"0\r\n\r\n"].concat();
            if http.send(&sent).is_ok() && http.receive(true).is_ok() {
                self.count(Kind::Chunked);
            }
        }
    }

    fn write_in_vain(&self, writer: u64) {
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let key = "f".repeat(200);
            let path = format!("/away/{key}/{key}/{writer}-{number}");
            let status = request(&mut self.s3(), "PUT", &path, &[], b"x");
            assert!(status != Some(200), "nobody took it");
            self.count(Kind::Failed);
        }
    }
}

/// An S3 store that takes requests and answers none.
fn store_that_answers_nothing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    address
}

fn write_tables(bed: &Bed) {
    let text = "a".repeat(4 << 20);
    let mut lists = ListBuilder::new(StringBuilder::new());
    for _ in 0..50 {
        lists.values().append_value(&text);
        lists.append(true);
    }
    let keys: ArrayRef = Arc::new((0..50).collect::<Int64Array>());
    let columns: [(&str, ArrayRef); 2] = [("k", keys), ("l", Arc::new(lists.finish()))];
    write_file(&bed.path("source").join("bomb.parquet"), &columns, 50);
    let keys: ArrayRef = Arc::new((0..6000).collect::<Int64Array>());
    let names = (0..6000).map(|row| Some(format!("{row:0>1000}")));
    let names: ArrayRef = Arc::new(names.collect::<StringArray>());
    let columns = [("key", keys), ("name", names)];
    write_file(&bed.path("source").join("wide.parquet"), &columns, 1000);
}

#[test]
fn clients_of_all_kinds_together_stay_within_what_is_planned() {
    let mut bed = Bed::in_memory();
    bed.dram = "256M".to_owned();
    bed.mounts[0].keys = "freshness = \"max-age=10\"".to_owned();
    bed.mounts.push(Mount {
        path: "/away",
        uri: "s3://bucket".to_owned(),
        keys: format!(
            "options = {{ endpoint = \"http://{}\", allow_http = \"true\", region = \"nowhere\", \
             access_key_id = \"key\", secret_access_key = \"secret\" }}",
            store_that_answers_nothing()
        ),
    });
    bed.keys =
        "lookup_memory = \"32M\"\nlookup_working_memory = \"64M\"\nlisting_memory = \"16M\"\n"
            .to_owned();
    bed.sections =
        "[s3]\nlisten = \"127.0.0.1:0\"\nanonymous = [\"read\", \"list\", \"write\"]\n".to_owned();
    let bytes = bed.write("object", 1, 200 * BLOCK);
    for number in 0..2_000 {
        bed.write(&format!("many/{number:0100}"), number, 10);
    }
    write_tables(&bed);
    // Bodies and answers to listings are small here, and 512 MiB are planned for each. Floods of the control port
    // are to fit beside the rest, without the 32 MiB that are planned for them.
    let planned = planned_bytes(&bed.write_config()) - (512 << 20) - (512 << 20) - (32 << 20);
    let process = bed.start();
    let crowd = Crowd {
        process: &process,
        s3: process.s3.expect("the face is open"),
        bytes: &bytes,
        is_over: AtomicBool::new(false),
        done: std::array::from_fn(|_| AtomicU64::new(0)),
    };
    std::thread::scope(|scope| {
        let crowd = &crowd;
        for number in 0..3 {
            scope.spawn(move || crowd.write(number));
            scope.spawn(|| crowd.look_up());
        }
        for number in 0..2 {
            scope.spawn(move || crowd.list(number as u64));
            scope.spawn(move || crowd.take_little(number));
            scope.spawn(move || crowd.look_up_and_take_nothing(number));
            scope.spawn(move || crowd.send_byte_by_byte(number as u64));
            scope.spawn(move || crowd.write_in_vain(number as u64));
            scope.spawn(|| crowd.flood());
        }
        scope.spawn(|| crowd.call());
        scope.spawn(|| crowd.read());
        let end = Instant::now() + LASTS;
        // On a slow machine it takes longer until all of them had their turn.
        while Instant::now() < end || !crowd.has_done_all() && Instant::now() < end + HANG {
            std::thread::sleep(Duration::from_millis(100));
        }
        crowd.is_over.store(true, Ordering::Relaxed);
    });
    let done = crowd.done();
    eprintln!("done, as the kinds stand: {done:?}");
    assert!(crowd.has_done_all(), "{done:?}");
    let peak = process.peak_resident_bytes();
    eprintln!("{} MiB, of which {} are planned", peak >> 20, planned >> 20);
    assert!(
        peak <= planned + OVER_BUDGET_BYTES,
        "{} MiB, where {} are planned",
        peak >> 20,
        planned >> 20
    );
    process.terminate();
}
