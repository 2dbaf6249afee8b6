//! Ceiling (a): random direct reads of one file through a bare ring, registered file and buffers.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::{opcode, types};

use super::{PAGE, open_direct};
use crate::load::new_histogram;
use crate::memory::Memory;
use crate::process::{self, CpuTime};
use crate::random::Random;
use crate::ring::Ring;

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct DeviceLoad {
    /// The file or block device.
    pub path: PathBuf,
    /// Bytes of it that are read.
    pub bytes: u64,
    /// Reads in flight.
    pub depth: u32,
    /// Bytes a read, a multiple of the page.
    pub read_bytes: u32,
    /// Whether the file is opened O_NONBLOCK too.
    pub nonblocking: bool,
    /// How long to poll before sleeping.
    pub spin: Duration,
    /// How long to measure, after a tenth of it to warm up.
    pub seconds: f64,
}

/// What a device gave.
#[derive(Clone, Debug)]
pub struct DeviceResult {
    /// Reads that ended in the measured part.
    pub operations: u64,
    /// The measured part.
    pub elapsed: Duration,
    /// CPU of the process meanwhile.
    pub cpu: CpuTime,
    /// Nanoseconds from submission to completion.
    pub latency_ns: Histogram<u64>,
    /// Kernel workers that appeared: reads that the loop did not do itself.
    pub ring_workers: usize,
}

/// Reads as `load` says, on the calling thread.
///
/// # Errors
/// When the file or the ring fails.
pub fn run(load: &DeviceLoad) -> io::Result<DeviceResult> {
    let file = open_direct(&load.path, load.nonblocking)?;
    let mut ring = Ring::new(load.depth.next_power_of_two())?;
    ring.reserve_files(1)?;
    ring.set_file(0, file.as_raw_fd())?;
    let read_bytes = load.read_bytes as usize;
    let buffers = Memory::map(load.depth as usize * read_bytes)?;
    let registered = [libc::iovec {
        iov_base: buffers.address().cast(),
        iov_len: buffers.bytes().len(),
    }];
    // SAFETY: the buffers are declared before the ring's last use and dropped after all reads
    // below were waited for.
    unsafe { ring.submitter().register_buffers(&registered)? };

    let mut random = Random::new(1);
    let positions = (load.bytes / PAGE as u64).saturating_sub(read_bytes as u64 / PAGE as u64) + 1;
    let mut started = vec![Instant::now(); load.depth as usize];
    let read = |slot: u32, random: &mut Random| {
        let offset = random.below(positions) * PAGE as u64;
        // SAFETY: the slot is below the depth, so the pointer is inside the mapping.
        let pointer = unsafe { buffers.address().add(slot as usize * read_bytes) };
        opcode::ReadFixed::new(types::Fixed(0), pointer, load.read_bytes, 0)
            .offset(offset)
            .build()
            .user_data(u64::from(slot))
    };
    let mut latency_ns = new_histogram();
    let mut operations = 0;
    let warm_up = Duration::from_secs_f64(load.seconds / 10.0);
    let measured = Duration::from_secs_f64(load.seconds);
    let pid = std::process::id();
    let mut begin = Instant::now();
    let mut cpu_before = CpuTime::of(pid)?;
    let mut is_measuring = false;
    let mut completions = Vec::new();
    for slot in 0..load.depth {
        // SAFETY: buffers and file outlive the ring's operations, see above.
        unsafe { ring.push(&read(slot, &mut random))? };
    }
    let (elapsed, cpu) = loop {
        ring.turn(load.spin)?;
        ring.take(&mut completions);
        let now = Instant::now();
        for completion in &completions {
            let slot = completion.user_data as u32;
            match completion.result {
                result if result == load.read_bytes as i32 => {}
                result if result < 0 => return Err(io::Error::from_raw_os_error(-result)),
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a short read; is the file long enough?",
                    ));
                }
            }
            if is_measuring {
                operations += 1;
                latency_ns.saturating_record((now - started[slot as usize]).as_nanos() as u64);
            }
            started[slot as usize] = now;
            // SAFETY: as above.
            unsafe { ring.push(&read(slot, &mut random))? };
        }
        let passed = now - begin;
        if is_measuring && passed >= measured {
            break (passed, CpuTime::of(pid)?.since(cpu_before));
        }
        if !is_measuring && passed >= warm_up {
            (is_measuring, begin, cpu_before) = (true, now, CpuTime::of(pid)?);
        }
    };
    let ring_workers = process::ring_workers(&process::threads(pid)?);
    let mut outstanding = load.depth;
    while outstanding > 0 {
        ring.enter(1)?;
        ring.take(&mut completions);
        outstanding -= completions.len() as u32;
    }
    Ok(DeviceResult {
        operations,
        elapsed,
        cpu,
        latency_ns,
        ring_workers,
    })
}
