//! Real peers: loads on nginx and Redis where they are installed, every byte compared. Starting a
//! peer is the operator's business otherwise; here it is the test's, with the configuration that
//! `docs/perf-lab.md` gives.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_perf::load::crew;
use corelane_perf::load::{Arrivals, LoadResult, LoadSpec, Verify};
use corelane_perf::target::redis::Redis;
use corelane_perf::target::{Target, TargetOptions, parse};
use corelane_perf::workload::Workload;
use tempfile::TempDir;

/// How long a peer may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Other processes may take a port between our look and the peer's.
const PORTS_TRIED: usize = 5;

/// A running peer with its files.
struct Peer {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `command` of a directory and a port; none where the program is not installed.
fn start(program: &str, command: impl Fn(&Path, u16) -> Command) -> Option<Peer> {
    for _ in 0..PORTS_TRIED {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let spawned = command(directory.path(), address.port())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
            Err(error) => panic!("{program}: {error}"),
        };
        let mut peer = Peer {
            child,
            address,
            directory,
        };
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if peer.child.try_wait().expect("our child").is_some() {
                break;
            }
            if TcpStream::connect(address).is_ok() {
                return Some(peer);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("{program} does not start");
}

fn nginx(keepalive_requests: u64) -> Option<Peer> {
    start("nginx", |directory, port| {
        let root = directory.join("root");
        std::fs::create_dir_all(&root).expect("a directory");
        let path = directory.join("nginx.conf");
        let place = directory.display();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n  access_log off;\n  sendfile on;\n  tcp_nodelay on;\n  keepalive_requests {keepalive_requests};\n\
               client_body_temp_path {place}/body;\n  proxy_temp_path {place}/proxy;\n\
               fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n  scgi_temp_path {place}/scgi;\n\
               server {{ listen 127.0.0.1:{port}; root {place}/root; }}\n}}\n"
        );
        std::fs::write(&path, text).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(path).arg("-p").arg(directory);
        command
    })
}

fn redis() -> Option<Peer> {
    start("redis-server", |directory, port| {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]);
        command.arg(directory);
        command
    })
}

fn spec(target: Arc<dyn Target>, workload: Workload) -> LoadSpec {
    LoadSpec {
        target,
        workload,
        paths: Vec::new(),
        arrivals: Arrivals::Closed,
        connections: 6,
        depth: 4,
        verify: Verify::All,
        warm_up: Duration::from_millis(20),
        measured: Duration::from_millis(300),
        spin: Duration::ZERO,
        cores: Vec::new(),
        seed: 1,
    }
}

fn target(text: &str) -> Arc<dyn Target> {
    parse(text, &TargetOptions::default()).expect("a target")
}

fn check(result: &LoadResult) {
    assert!(result.operations > 0 && result.reads >= result.operations);
    assert_eq!(result.first_error, None);
    assert_eq!((result.errors, result.wrong), (0, 0));
    assert_eq!(result.verified, result.reads, "every answer was compared");
}

fn points() -> Workload {
    let text = "version = 1\nname = \"few\"\n[objects]\ncount = 2\nbytes = \"1M\"\n\
                [[operation]]\nkind = \"point\"\nread = \"4K\"\nkeys = \"uniform\"\n";
    Workload::parse(text).expect("valid")
}

#[test]
fn nginx_gives_the_bytes_of_points_whole_files_and_queries() {
    let Some(nginx) = nginx(1_000_000_000) else {
        return;
    };
    let workload = Workload::load("smoke").expect("it comes along");
    let root = nginx.directory.path().join("root/data");
    std::fs::create_dir_all(&root).expect("a directory");
    workload.objects.make_files(&root).expect("files");
    let closed = spec(target(&format!("http://{}/data", nginx.address)), workload);
    check(&crew::run(&closed, |_| {}).expect("the closed loop ends"));
    let open = LoadSpec {
        arrivals: Arrivals::Poisson { per_second: 300.0 },
        // No CPU of their own: CI machines may have one.
        cores: vec![0, 0],
        ..closed
    };
    let result = crew::run(&open, |_| {}).expect("the open loop ends");
    assert_eq!((result.errors, result.wrong), (0, 0));
    assert!(result.service_ns.len() <= result.latency_ns.len());
}

#[test]
fn a_file_that_nginx_has_not_is_named() {
    let Some(nginx) = nginx(1_000_000_000) else {
        return;
    };
    let spec = spec(target(&format!("http://{}/data", nginx.address)), points());
    let error = crew::run(&spec, |_| {})
        .expect_err("nothing was made")
        .to_string();
    assert!(error.contains("/data/object-000000"), "{error}");
    assert!(error.contains("prepare"), "{error}");
}

#[test]
fn bytes_that_are_not_those_of_the_workload_are_found() {
    let Some(nginx) = nginx(1_000_000_000) else {
        return;
    };
    let workload = points();
    let root = nginx.directory.path().join("root");
    for (name, bytes) in workload.objects.list() {
        std::fs::write(root.join(name), vec![0; bytes as usize]).expect("written");
    }
    let spec = spec(target(&format!("http://{}/", nginx.address)), workload);
    let result = crew::run(&spec, |_| {}).expect("the load ends");
    assert!(result.operations > 0 && result.wrong >= result.operations);
}

#[test]
fn a_server_that_closes_connections_is_told_from_one_that_fails() {
    let Some(nginx) = nginx(50) else {
        return;
    };
    let workload = points();
    let root = nginx.directory.path().join("root");
    workload.objects.make_files(&root).expect("files");
    let spec = LoadSpec {
        connections: 1,
        depth: 1,
        ..spec(target(&format!("http://{}/", nginx.address)), workload)
    };
    let error = crew::run(&spec, |_| {}).expect_err("it closes").to_string();
    assert!(error.contains("keepalive_requests"), "{error}");
}

#[test]
fn redis_gives_the_values_that_were_prepared() {
    let Some(peer) = redis() else {
        return;
    };
    let workload = points();
    let server = Redis {
        address: peer.address,
        prefix: "lab:".to_owned(),
    };
    assert_eq!(server.fill(&workload).expect("it takes them"), 512);
    let closed = spec(target(&format!("redis://{}/lab:", peer.address)), workload);
    check(&crew::run(&closed, |_| {}).expect("the closed loop ends"));
    let open = LoadSpec {
        arrivals: Arrivals::Constant { per_second: 500.0 },
        ..closed
    };
    let result = crew::run(&open, |_| {}).expect("the open loop ends");
    assert_eq!((result.errors, result.wrong), (0, 0));
    // 300 ms at 500 a second, whatever the machine was doing meanwhile.
    assert!((149..=151).contains(&result.latency_ns.len()));
}

#[test]
fn keys_that_redis_has_not_are_errors_that_say_what_to_do() {
    let Some(peer) = redis() else {
        return;
    };
    let spec = spec(target(&format!("redis://{}", peer.address)), points());
    let result = crew::run(&spec, |_| {}).expect("the load ends");
    assert_eq!(result.operations, 0);
    assert!(result.errors > 0);
    let error = result.first_error.expect("a reason");
    assert!(error.contains("prepare"), "{error}");
}

#[test]
fn a_redis_that_is_full_says_so_when_it_is_filled() {
    let Some(peer) = redis() else {
        return;
    };
    let stream = TcpStream::connect(peer.address).expect("it listens");
    use std::io::{Read, Write};
    (&stream)
        .write_all(b"CONFIG SET maxmemory 1mb\r\nCONFIG SET maxmemory-policy noeviction\r\n")
        .expect("sent");
    let mut answers = [0; 10];
    (&stream).read_exact(&mut answers).expect("answered");
    assert_eq!(&answers, b"+OK\r\n+OK\r\n");
    let server = Redis {
        address: peer.address,
        prefix: String::new(),
    };
    let error = server.fill(&points()).expect_err("no room").to_string();
    assert!(error.contains("maxmemory"), "{error}");
}
