//! The worker against Redis and nginx: the same reads, the same generator, one core each.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::measure::{Bar, Measure};
use super::pairs::{Side, fresh_place, interleave, judge, rates};
use super::rounds::Pair;
use super::served::dram_worker;
use crate::load::LoadSpec;
use crate::quantities::ByteSize;
use crate::sample::Watched;
use crate::target::redis::Redis;
use crate::target::{Target, TargetOptions, parse};
use crate::workload::objects::{Objects, Sizes};
use crate::workload::{Keys, Workload};

/// How long a peer may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Load of a peer's core under which its rate does not count as its own, in percent.
const BUSY_PERCENT_MIN: f64 = super::rounds::BUSY_PERCENT_MIN;

/// A running peer, ended when dropped.
pub(super) struct Peer {
    child: Child,
    pub address: SocketAddr,
}

impl Peer {
    /// Runs `command` on CPU `core` and waits until `address` takes connections.
    fn start(mut command: Command, address: SocketAddr, package: &str) -> Result<Peer, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{name}: {error}; install it: apt-get install {package}"))?;
        let mut peer = Peer { child, address };
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = peer.child.try_wait() {
                return Err(format!(
                    "{name} ended at its start ({status}); install it: apt-get install {package}"
                ));
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{name} does not listen on {address} after {START_DEADLINE:?}"
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }

    /// What to look at while it is loaded.
    pub fn watched(&self, core: usize) -> Watched {
        Watched::one(self.child.id(), core)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It holds nothing that is worth a slow end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `program` on CPU `core`: taskset replaces itself by the program, so the child is the peer.
fn on_core(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

/// A port that was free just now.
fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

/// The object of `bytes` that peers serve, and reads of 4 KiB of it.
pub(super) fn object(bytes: u64) -> Workload {
    Workload {
        objects: Objects {
            count: 1,
            bytes: Sizes::One(ByteSize(bytes)),
            ..Objects::default()
        },
        ..Workload::points(4096, Keys::Uniform)
    }
}

fn start_redis(bench: &Bench) -> Result<(Peer, Redis), String> {
    let address = free_address()?;
    let mut command = on_core(bench.options.server_core, "redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--io-threads", "1"]);
    command.current_dir(bench.directory());
    let peer = Peer::start(command, address, "redis-server")?;
    let redis = Redis {
        address,
        prefix: String::new(),
    };
    redis
        .fill(&object(bench.options.working_set))
        .map_err(|error| error.to_string())?;
    Ok((peer, redis))
}

/// Where nginx reads its object from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// The page cache, by sendfile.
    PageCache,
    /// The drive, past the page cache, on threads of its own: as many as there are connections.
    Drive {
        /// How many.
        threads: u32,
    },
}

fn nginx_configuration(root: &Path, address: SocketAddr, behind: Behind) -> String {
    let (pool, files) = match behind {
        Behind::PageCache => (String::new(), "sendfile on;"),
        Behind::Drive { threads } => (
            format!("thread_pool gate threads={threads} max_queue=65536;\n"),
            // For a read that is smaller than an output buffer, it would take directio off the file.
            "sendfile off; directio 4k; directio_alignment 4k; aio threads=gate; output_buffers 1 4k;",
        ),
    };
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {root}/pid;\nerror_log {root}/error;\n\
         {pool}events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  {files}\n  tcp_nodelay on;\n  keepalive_requests 1000000000;\n  \
         keepalive_timeout 600s;\n  open_file_cache max=100;\n  default_type application/octet-stream;\n  \
         client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n  \
         server {{ listen {address}; root {root}/objects; }}\n}}\n",
        root = root.display(),
    )
}

/// nginx with an object as large as the worker's.
pub(super) fn start_nginx(
    bench: &Bench,
    behind: Behind,
) -> Result<(Peer, Arc<dyn Target>), String> {
    let (directory, bytes) = match behind {
        // In memory in any case: the page cache of a tmpfs is the file.
        Behind::PageCache => (bench.fast_directory(), bench.options.working_set),
        Behind::Drive { .. } => (bench.directory(), bench.options.device_set),
    };
    let place = fresh_place(directory, "nginx")?;
    object(bytes).objects.make_files(&place.join("objects"))?;
    let address = free_address()?;
    let configuration = place.join("nginx.conf");
    std::fs::write(&configuration, nginx_configuration(&place, address, behind))
        .map_err(|error| error.to_string())?;
    let mut command = on_core(bench.options.server_core, "nginx");
    command.arg("-c").arg(&configuration).arg("-p").arg(&place);
    let peer = Peer::start(command, address, "nginx-light")?;
    let target = parse(&format!("http://{address}/"), &TargetOptions::default())?;
    Ok((peer, target))
}

/// Rates of the worker against `peer`, with `connections x depth`.
fn against(
    bench: &mut Bench,
    name: &str,
    (peer, target): (Peer, Arc<dyn Target>),
    (connections, depth): (u32, u32),
    bar: f64,
) -> Result<Measure, String> {
    let worker = dram_worker(bench, Duration::ZERO)?;
    let spec = worker.load(bench, connections, depth, 4096);
    let of_peer = Side {
        spec: LoadSpec {
            target,
            workload: object(bench.options.working_set),
            paths: Vec::new(),
            ..spec.clone()
        },
        watched: peer.watched(bench.options.server_core),
    };
    let of_worker = Side {
        spec,
        watched: worker.watched(),
    };
    let pairs = interleave(bench, &of_worker, &of_peer)?;
    let measure =
        Measure::of_pairs(name, "1/s", &rates(&pairs), Bar::RatioAtLeast(bar)).with_note(format!(
            "{connections} connections x depth {depth}, closed loop, {} at {}",
            of_peer.spec.target.kind(),
            peer.address
        ));
    let measure = judge(measure, &pairs, ["worker", "peer"], None);
    Ok(unless_idle(measure, &pairs))
}

/// `measure` without a verdict where the peer's rate is not its own. A worker whose core has time left
/// could only be faster.
pub(super) fn unless_idle(measure: Measure, pairs: &[Pair]) -> Measure {
    let is_idle = |pair: &&Pair| pair.ceiling.busy_percent < BUSY_PERCENT_MIN;
    let idle = pairs.iter().filter(is_idle).count();
    if idle * 2 > pairs.len() {
        return measure.without_verdict("the peer's core was not busy in most rounds");
    }
    measure
}

pub(super) fn against_redis_depth1(bench: &mut Bench) -> Result<Measure, String> {
    let (peer, redis) = start_redis(bench)?;
    against(
        bench,
        "against_redis_depth1",
        (peer, Arc::new(redis)),
        (64, 1),
        1.3,
    )
}

pub(super) fn against_redis_pipelined(bench: &mut Bench) -> Result<Measure, String> {
    let (peer, redis) = start_redis(bench)?;
    against(
        bench,
        "against_redis_pipelined",
        (peer, Arc::new(redis)),
        (64, 32),
        3.0,
    )
}

pub(super) fn against_nginx(bench: &mut Bench) -> Result<Measure, String> {
    let nginx = start_nginx(bench, Behind::PageCache)?;
    against(bench, "against_nginx", nginx, (64, 1), 1.4)
}
