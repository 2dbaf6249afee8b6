//! The ceilings of one load: bare loops under its connections, depth, generators and checks, in the
//! same run.
//!
//! The invariant: a ceiling moves as many bytes a read as the load did on average, in whole pages,
//! from a window as large as the load's objects; it is a closed loop always, since it says what the
//! machine can give and not what was asked of it. Loops run where the server runs, one for each of
//! its CPUs, and sleep when there is nothing to do.

use std::io::{self, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::device::{self, DeviceLoad};
use super::{PAGE, Protocol, Source, prepare_file};
use crate::commands::start_server;
use crate::load::{Arrivals, LoadResult, LoadSpec};
use crate::process::{self, MachineTime};
use crate::run::Point;
use crate::run::point::{Ceiling, ServerCost};
use crate::sample::{self, Watched};
use crate::server_process::ServerProcess;
use crate::target::data_plane::DataPlane;
use crate::target::local_file::LocalFile;
use crate::workload::{Keys, READ_BYTES_MAX, Workload};

/// Reads in flight on the bare device: more than any device tells apart.
const DEVICE_DEPTH_MAX: u32 = 4096;

/// Largest registered buffer that the kernel takes.
const DEVICE_BUFFER_BYTES_MAX: u64 = 1 << 30;

/// Share of the free memory that a window may take.
const WINDOW_SHARE: u64 = 2;

/// What the reads of a load are on average, as its ceilings repeat them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reads {
    /// Bytes of one, in whole pages.
    pub bytes: u32,
    /// How many an operation has.
    pub per_operation: f64,
}

impl Reads {
    /// Of the load that `point` measured; none where it read nothing.
    pub fn of(point: &Point) -> Option<Reads> {
        if point.operations == 0 || point.reads == 0 {
            return None;
        }
        let mean = point.bytes.div_ceil(point.reads);
        let bytes = mean.next_multiple_of(PAGE as u64);
        Some(Reads {
            bytes: bytes.clamp(PAGE as u64, READ_BYTES_MAX) as u32,
            per_operation: point.reads as f64 / point.operations as f64,
        })
    }
}

/// Where and how ceilings of a load run.
#[derive(Debug)]
pub struct Beside<'a> {
    /// The load.
    pub load: &'a LoadSpec,
    /// Its reads.
    pub reads: Reads,
    /// CPUs of the server; at least one.
    pub cores: &'a [usize],
    /// Bytes of the load's objects.
    pub window_bytes: u64,
}

impl Beside<'_> {
    /// The bare network loop, as a point called `label`.
    ///
    /// # Errors
    /// A sentence.
    pub fn network(&self, label: &str) -> Result<Point, String> {
        let loops = self.cores.len() as u64;
        let window = self.window_bytes.min(free_for_window()?) / loops;
        if window < self.window_bytes / loops {
            eprintln!(
                "{label}: its window is {} MiB and not {}, which would take over half of the free memory",
                (window * loops) >> 20,
                self.window_bytes >> 20
            );
        }
        let source = Source::Memory {
            bytes: self.whole_pages(window),
        };
        self.served(label, &source)
    }

    /// The bare network loop with a read of `file` behind each reply.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn joined(&self, label: &str, file: &CeilingFile) -> Result<Point, String> {
        let source = Source::Device {
            path: file.path.clone(),
            nonblocking: file.is_in_memory,
            bytes: file.bytes,
        };
        let point = self.served(label, &source)?;
        if point.wrong > 0 {
            return Err(format!(
                "{}: not filled with the pages of a ceiling's file; give a path that does not exist yet",
                file.path.display()
            ));
        }
        Ok(point)
    }

    /// The bare device, read without any network.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn device(&self, label: &str, file: &CeilingFile) -> Result<Point, String> {
        let in_flight = self.load.connections.saturating_mul(self.load.depth);
        let room = (DEVICE_BUFFER_BYTES_MAX / u64::from(self.reads.bytes)) as u32;
        let load = DeviceLoad {
            path: file.path.clone(),
            bytes: file.bytes,
            depth: in_flight.clamp(1, DEVICE_DEPTH_MAX.min(room)),
            read_bytes: self.reads.bytes,
            nonblocking: file.is_in_memory,
            spin: Duration::ZERO,
            seconds: self.load.measured.as_secs_f64(),
        };
        let fail = |error: String| format!("{}: {error}", file.path.display());
        let core = self.cores[0];
        let before = MachineTime::now().map_err(|error| fail(error.to_string()))?;
        // On a thread of its own, so that the pinning ends with it.
        let result = std::thread::scope(|scope| {
            let run = || {
                process::pin(core)
                    .and_then(|()| device::run(&load).map_err(|error| error.to_string()))
            };
            let joined = scope.spawn(run).join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(fail)?;
        let after = MachineTime::now().map_err(|error| fail(error.to_string()))?;
        let spec = LoadSpec {
            target: Arc::new(LocalFile::new(PathBuf::new())),
            connections: 1,
            depth: load.depth,
            cores: vec![core],
            ..self.bare(Vec::new())
        };
        let operations = result.operations.max(1) as f64;
        let elapsed = result.elapsed.as_secs_f64().max(1e-9);
        let mut had = LoadResult::new();
        had.operations = result.operations;
        had.reads = result.operations;
        had.bytes = result.operations * u64::from(self.reads.bytes);
        had.by_source[1] = result.operations;
        had.elapsed = result.elapsed;
        had.latency_ns = result.latency_ns;
        Ok(Point {
            steal_percent: after.steal_percent_since(before),
            server: Some(ServerCost {
                cpu_us_per_operation: result.cpu.total().as_secs_f64() * 1e6 / operations,
                cpu_user_us_per_operation: result.cpu.user.as_secs_f64() * 1e6 / operations,
                busy_percent: 100.0 * result.cpu.total().as_secs_f64() / elapsed,
                ..ServerCost::default()
            }),
            ..Point::of(label, &spec, &had)
        })
    }

    fn whole_pages(&self, bytes: u64) -> u64 {
        bytes
            .next_multiple_of(PAGE as u64)
            .max(u64::from(self.reads.bytes))
    }

    /// The load against bare loops at `addresses`.
    fn bare(&self, addresses: Vec<SocketAddr>) -> LoadSpec {
        LoadSpec {
            target: Arc::new(DataPlane {
                // Any: every loop answers whatever it is asked.
                ignores_owners: addresses.len() > 1,
                addresses,
                prefix: "/".to_owned(),
                token: String::new(),
            }),
            workload: Workload::points(self.reads.bytes, Keys::Uniform),
            paths: vec!["/ceiling".to_owned()],
            arrivals: Arrivals::Closed,
            spin: Duration::ZERO,
            ..self.load.clone()
        }
    }

    fn served(&self, label: &str, source: &Source) -> Result<Point, String> {
        let fail = |error: io::Error| format!("{label}: {error}");
        let servers = self
            .cores
            .iter()
            .map(|core| {
                let bytes = self.reads.bytes;
                start_server(source, Protocol::Frames, bytes, Duration::ZERO, *core)
            })
            .collect::<io::Result<Vec<ServerProcess>>>()
            .map_err(fail)?;
        let spec = self.bare(servers.iter().map(ServerProcess::address).collect());
        let mut cores = self.cores.to_vec();
        cores.sort_unstable();
        cores.dedup();
        let watched = Watched {
            pids: servers.iter().map(ServerProcess::pid).collect(),
            cores,
            operations: Vec::new(),
        };
        let sample = sample::take(&spec, &watched).map_err(fail)?;
        Ok(sample.to_point(label, &spec))
    }
}

/// The one of `ceilings`, each with its name, that limits `point`, whose reads were `reads`: that of
/// the lowest rate.
pub fn limit(point: &Point, reads: &Reads, ceilings: &[(&str, &Point)]) -> Option<Ceiling> {
    let (name, lowest) = ceilings
        .iter()
        .min_by(|(_, one), (_, other)| one.rate.total_cmp(&other.rate))?;
    let rate = lowest.rate / reads.per_operation;
    let server = lowest.server.as_ref();
    Some(Ceiling {
        name: (*name).to_owned(),
        rate,
        cpu_us_per_operation: server.map_or(0.0, |cost| cost.cpu_us_per_operation)
            * reads.per_operation,
        ratio: point.rate / rate.max(1e-9),
    })
}

/// The file that device ceilings read.
#[derive(Clone, Debug)]
pub struct CeilingFile {
    path: PathBuf,
    bytes: u64,
    is_in_memory: bool,
}

impl CeilingFile {
    /// `path` as it is, or a new file of `bytes` full of pages where there is none. What exists is
    /// never written to.
    ///
    /// # Errors
    /// A sentence that names the file: it is too short, or the file system is full or knows no
    /// direct I/O.
    pub fn at(path: &Path, bytes: u64) -> Result<CeilingFile, String> {
        let fail = |error: io::Error| format!("{}: {error}", path.display());
        let bytes = bytes.next_multiple_of(PAGE as u64);
        if !path.exists() {
            prepare_file(path, bytes).map_err(fail)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(fail)?;
        // Also block devices say so how long they are.
        let length = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if length < READ_BYTES_MAX {
            return Err(format!(
                "{}: {length} bytes are too few for a ceiling's file; take one of {READ_BYTES_MAX} or more",
                path.display()
            ));
        }
        Ok(CeilingFile {
            path: path.to_owned(),
            bytes: length.min(bytes.max(READ_BYTES_MAX)),
            is_in_memory: is_in_memory(&file),
        })
    }
}

/// Whether `file` is on tmpfs, whose direct reads stay in the loop only where it is opened
/// O_NONBLOCK too.
fn is_in_memory(file: &std::fs::File) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: an all-zero `statfs` is a valid one; the call fills it and keeps no pointer.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        libc::fstatfs(file.as_raw_fd(), &raw mut found) == 0 && found.f_type == libc::TMPFS_MAGIC
    }
}

/// Bytes that a window may have.
fn free_for_window() -> Result<u64, String> {
    let free = process::available_memory_bytes().map_err(|error| error.to_string())?;
    Ok(free / WINDOW_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::tests::point;

    fn measured(rate: f64, operations: u64, reads: u64, bytes: u64) -> Point {
        Point {
            operations,
            reads,
            bytes,
            ..point(0.0, rate, 10)
        }
    }

    #[test]
    fn reads_are_whole_pages_and_as_many_as_an_operation_had() {
        let pages = Reads::of(&measured(1.0, 10, 10, 40_960)).expect("it read");
        assert_eq!((pages.bytes, pages.per_operation), (4096, 1.0));
        let queries = Reads::of(&measured(1.0, 10, 60, 60 * 10_000)).expect("it read");
        assert_eq!((queries.bytes, queries.per_operation), (12_288, 6.0));
        assert_eq!(Reads::of(&measured(0.0, 0, 0, 0)), None);
    }

    #[test]
    fn the_lowest_ceiling_limits_and_is_told_in_operations() {
        let load = measured(50.0, 10, 60, 60 * 4096);
        let reads = Reads::of(&load).expect("it read");
        let (network, device) = (point(0.0, 6000.0, 1), point(0.0, 600.0, 1));
        let ceilings = [("network", &network), ("device", &device)];
        let limit = limit(&load, &reads, &ceilings).expect("there are two");
        assert_eq!(
            (limit.name.as_str(), limit.rate, limit.ratio),
            ("device", 100.0, 0.5)
        );
        assert_eq!(super::limit(&load, &reads, &[]), None);
    }

    #[test]
    fn a_file_that_exists_is_left_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("short");
        std::fs::write(&path, b"somebody's").expect("written");
        let error = CeilingFile::at(&path, 64 << 20).expect_err("too short");
        assert!(error.contains("short"), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), b"somebody's");
    }
}
