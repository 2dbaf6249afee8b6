//! Resident memory of a worker with a small budget under all kinds of load at once, against its planned memory.
//!
//! Concurrent clients: writers and HEADs of long keys, listers, lookups that decompress more than they may, calls of
//! the control plane, readers, and connections whose clients request much and receive slowly.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use corelane_client::lookup::predicate::parse::parse;
use corelane_client::lookup::request::LookupRequest;
use corelane_client::{Options, blocking};
use corelane_rpc_schema::frame::{ReadFlags, ReadRequest, encode_read_request};
use corelane_worker::config::memory::ProcessMemory;
use corelane_worker::config::{Config, WorkerFlags};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::bench::Bench;
use super::pairs::fresh_place;
use crate::ceiling::prepare_file;
use crate::process;
use crate::server_process::ServerProcess;
use crate::target::greeting;
use crate::target::responses::read_head;

/// The budget of the worker; the gate's other workers have what their objects take.
const DRAM: &str = "256M";

/// The object that is read: more than stays in memory beside all else.
const OBJECT_BYTES: u64 = 200 << 20;

/// Objects of a few bytes in the folder that is listed.
const LISTED: u64 = 2_000;

/// Rows of the Parquet object, and bytes of the one value that each holds: they compress to nothing.
const BOMB_ROWS: i64 = 50;
const BOMB_VALUE_BYTES: usize = 4 << 20;

/// Bytes of the metadata of an object that is written.
const METADATA_BYTES: usize = 1_800;

/// Parts of planned memory that this load hardly uses: bodies have one byte, and pages are received at once.
const UNUSED: [&str; 3] = [
    "bodies of S3 writers",
    "answers to S3 listings",
    "control connections",
];

/// Interval between two samples of resident memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// How long a client waits for an answer: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Peak of resident memory under mixed load.
pub(super) struct Mixed {
    /// Largest sample.
    pub resident_bytes: u64,
    /// Planned memory of the worker, less the parts in [`UNUSED`].
    pub planned_bytes: u64,
    /// Operations by kind.
    pub done: Vec<(&'static str, u64)>,
}

/// Kinds of work.
const KINDS: [&str; 6] = [
    "objects written",
    "heads asked for",
    "pages listed",
    "look-ups",
    "calls",
    "objects read",
];

/// Loads a worker with everything for `seconds`.
pub(super) fn run(bench: &Bench, seconds: f64) -> Result<Mixed, String> {
    let place = fresh_place(bench.fast_directory(), "mixed-worker")?;
    let (config, planned_bytes) = prepare(bench, &place)?;
    let process = ServerProcess::start([
        "serve-for-gate".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ])
    .map_err(|error| format!("the worker under test: {error}"))?;
    let address = |name: &str| -> Result<SocketAddr, String> {
        let value = process.ready().details[name].clone();
        serde_json::from_value(value).map_err(|error| format!("address of {name}: {error}"))
    };
    let (s3, control) = (address("s3")?, address("control")?);
    let crowd = Crowd {
        data: process.address(),
        s3,
        control,
        is_over: AtomicBool::new(false),
        done: KINDS.map(|_| AtomicU64::new(0)),
    };
    let mut resident_bytes = 0;
    std::thread::scope(|scope| -> io::Result<()> {
        let crowd = &crowd;
        for writer in 0..3 {
            scope.spawn(move || crowd.write(writer));
        }
        for lister in 0..2 {
            scope.spawn(move || crowd.list(lister));
        }
        for _ in 0..3 {
            scope.spawn(move || crowd.look_up());
        }
        for _ in 0..2 {
            scope.spawn(move || crowd.take_little());
        }
        scope.spawn(move || crowd.call());
        scope.spawn(move || crowd.read());
        let began = Instant::now();
        let mut look = || {
            std::thread::sleep(SAMPLE_INTERVAL);
            let resident = process::resident_bytes(process.pid())?;
            resident_bytes = resident_bytes.max(resident);
            Ok(())
        };
        let mut looked = Ok(());
        // On a slow machine it takes longer until all of them had their turn.
        while looked.is_ok()
            && (began.elapsed().as_secs_f64() < seconds
                || !crowd.has_done_all() && began.elapsed() < PATIENCE)
        {
            looked = look();
        }
        crowd.is_over.store(true, Ordering::Relaxed);
        looked
    })
    .map_err(|error| format!("the worker under test: {error}"))?;
    if !crowd.has_done_all() {
        return Err(format!("not all had their turn: {:?}", crowd.done()));
    }
    Ok(Mixed {
        resident_bytes,
        planned_bytes,
        done: crowd.done(),
    })
}

/// Makes the objects and the configuration; what the worker says that it may take.
fn prepare(bench: &Bench, place: &Path) -> Result<(PathBuf, u64), String> {
    let fail = |error: io::Error| error.to_string();
    let objects = place.join("objects");
    std::fs::create_dir_all(objects.join("many")).map_err(fail)?;
    prepare_file(&objects.join("object"), OBJECT_BYTES).map_err(fail)?;
    for number in 0..LISTED {
        std::fs::write(objects.join(format!("many/{number:0100}")), b"listed").map_err(fail)?;
    }
    write_bomb(&objects.join("bomb.parquet"))?;
    let config = place.join("worker.toml");
    let options = &bench.options;
    let text = format!(
        "cores = \"{server}\"\ncontrol_cpus = \"{load}\"\nfetch_cpus = \"{load}\"\n\
         devices = [\"{place}/device\"]\ndevice_size = \"1G\"\nregion_size = \"16M\"\ndram = \"{DRAM}\"\n\
         lookup_memory = \"32M\"\nlookup_working_memory = \"64M\"\nlisting_memory = \"16M\"\n\
         listen = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\noperations = \"127.0.0.1:0\"\n\n\
         [s3]\nlisten = \"127.0.0.1:0\"\nanonymous = [\"read\", \"list\", \"write\"]\n\n\
         [log]\nlevel = \"error\"\n\n\
         [[mount]]\npath = \"/mixed\"\nuri = \"file://{objects}\"\nfreshness = \"max-age=10\"\n",
        server = options.server_core,
        load = options.load_core,
        place = place.display(),
        objects = objects.display(),
    );
    std::fs::write(&config, text).map_err(fail)?;
    let flags = WorkerFlags {
        config: Some(config.clone()),
        ..WorkerFlags::default()
    };
    let read = Config::load(&flags).map_err(|mistakes| mistakes.to_string())?;
    let memory = ProcessMemory::of(&read);
    let unused = memory
        .parts
        .iter()
        .filter(|(name, _)| UNUSED.contains(name));
    let unused: u64 = unused.map(|(_, bytes)| *bytes).sum();
    Ok((config, memory.total_bytes() - unused))
}

/// Writes a Parquet file that decompresses to 200 MiB.
fn write_bomb(path: &Path) -> Result<(), String> {
    let text = "a".repeat(BOMB_VALUE_BYTES);
    let mut lists = ListBuilder::new(StringBuilder::new());
    for _ in 0..BOMB_ROWS {
        lists.values().append_value(&text);
        lists.append(true);
    }
    let keys: ArrayRef = Arc::new((0..BOMB_ROWS).collect::<Int64Array>());
    let columns = [("k", keys), ("l", Arc::new(lists.finish()) as ArrayRef)];
    let rows = RecordBatch::try_from_iter(columns).map_err(|error| error.to_string())?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let file = std::fs::File::create(path).map_err(|error| error.to_string())?;
    let write = || {
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties.build()))?;
        writer.write(&rows)?;
        writer.close()
    };
    write()
        .map(drop)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Clients of all kinds. What they are refused they try again: only what was answered counts.
struct Crowd {
    data: SocketAddr,
    s3: SocketAddr,
    control: SocketAddr,
    is_over: AtomicBool,
    done: [AtomicU64; KINDS.len()],
}

impl Crowd {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, kind: &str) {
        let place = KINDS.iter().position(|known| *known == kind);
        self.done[place.expect("a known kind")].fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self) -> Vec<(&'static str, u64)> {
        let counts = self.done.iter().map(|count| count.load(Ordering::Relaxed));
        KINDS.into_iter().zip(counts).collect()
    }

    fn has_done_all(&self) -> bool {
        self.done().iter().all(|(_, count)| *count >= 3)
    }

    fn write(&self, writer: u64) {
        let folder = "k".repeat(200);
        let metadata = format!("x-amz-meta-a: {}\r\n", "m".repeat(METADATA_BYTES));
        let mut stream = None;
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let path = format!("/mixed/{folder}/{folder}/{folder}/{writer:020}{number:0170}");
            if ask(&mut stream, self.s3, ("PUT", &path), &metadata, b"x") == Some(200) {
                self.count("objects written");
            }
            if ask(&mut stream, self.s3, ("HEAD", &path), "", b"").is_some() {
                self.count("heads asked for");
            }
        }
    }

    fn list(&self, lister: u64) {
        let mut stream = None;
        let mut number = 0u64;
        while self.goes_on() {
            number += 1;
            let path = format!("/mixed?list-type=2&prefix=many/&start-after=many/{lister}{number}");
            if ask(&mut stream, self.s3, ("GET", &path), "", b"") == Some(200) {
                self.count("pages listed");
            }
        }
    }

    fn look_up(&self) {
        let request = LookupRequest {
            paths: vec!["/mixed/bomb.parquet".to_owned()],
            predicate: parse("k >= 0").expect("a predicate"),
            select: vec!["l".to_owned()],
            limit: None,
            scan_bytes_max: None,
            explain: false,
            keys: None,
        };
        let mut client = None;
        while self.goes_on() {
            let connected = client.get_or_insert_with(|| self.client());
            match connected {
                // More than one may hold: an error that says so is the answer.
                Ok(client) if client.look_up(&request).is_err() => self.count("look-ups"),
                Ok(_) => {}
                Err(_) => client = None,
            }
        }
    }

    fn call(&self) {
        let address = self.control.to_string();
        while self.goes_on() {
            let Ok(control) = blocking::Control::connect(&address, "", PATIENCE) else {
                continue;
            };
            while self.goes_on() && control.stats().is_ok() {
                self.count("calls");
            }
        }
    }

    fn read(&self) {
        while self.goes_on() {
            let Ok(client) = self.client() else { continue };
            while self.goes_on() && client.read_file("/mixed/object").is_ok() {
                self.count("objects read");
            }
        }
    }

    fn client(&self) -> Result<blocking::Client, corelane_client::Error> {
        blocking::Client::connect(&self.data.to_string(), "", Options::default())
    }

    /// Asks for all that a lane may, and takes little of it.
    fn take_little(&self) {
        while self.goes_on() {
            // The worker cuts such a lane off, and another one comes.
            let Ok(mut stream) = self.ask_for_much() else {
                continue;
            };
            let mut little = [0; 4096];
            while self.goes_on() && matches!(stream.read(&mut little), Ok(1..)) {
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }

    fn ask_for_much(&self) -> io::Result<TcpStream> {
        let (mut stream, hello) = greeting::connect(self.data, "")?;
        let opened = greeting::open(&stream, "/mixed/object")?;
        let mut requests = Vec::new();
        for request_id in 1..65 {
            let request = ReadRequest {
                request_id,
                object: opened.object,
                offset: 0,
                length: hello.read_bytes_max,
                flags: ReadFlags::CHECKSUMS,
            };
            encode_read_request(&mut requests, &request);
        }
        stream.write_all(&requests)?;
        Ok(stream)
    }
}

/// Asks over `kept`, which is connected where it is not; the status, where an answer came.
fn ask(
    kept: &mut Option<TcpStream>,
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &str,
    body: &[u8],
) -> Option<u16> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => crate::target::connect(address).ok()?,
    };
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut input = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        if let Some(head) = read_head(&input).ok()? {
            let body_bytes = match method {
                "HEAD" => 0,
                _ => head.content_length,
            };
            if (input.len() - head.bytes) as u64 >= body_bytes {
                if !head.closes {
                    *kept = Some(stream);
                }
                return Some(head.status);
            }
        }
        match stream.read(&mut part).ok()? {
            0 => return None,
            bytes => input.extend_from_slice(&part[..bytes]),
        }
    }
}
