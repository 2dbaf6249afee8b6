//! What the kernel says of a process and of the machine: CPU time, memory, threads, stolen time.
//!
//! CPU is that of the whole process (`/proc/PID/stat`, which sums over its threads, also those
//! that ended and the `iou-wrk` threads that the kernel starts on its behalf).

use std::fs;
use std::io;
use std::time::Duration;

use serde::Serialize;

/// CPU time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user mode.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl CpuTime {
    /// CPU time of process `pid` so far, in steps of the kernel's clock tick (usually 10 ms).
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<CpuTime> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        parse_stat(&text).ok_or_else(|| unreadable("/proc/PID/stat"))
    }

    /// Both together.
    pub fn total(&self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} has a form that this program does not know"),
    )
}

fn ticks(count: u64) -> Duration {
    // SAFETY: asks for a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Duration::from_nanos(count * 1_000_000_000 / per_second)
}

fn parse_stat(text: &str) -> Option<CpuTime> {
    // The name in parentheses may hold anything, spaces and parentheses too.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user = fields.next()?.parse().ok()?;
    let system = fields.next()?.parse().ok()?;
    Some(CpuTime {
        user: ticks(user),
        system: ticks(system),
    })
}

/// Time of all CPUs together, or of one, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineTime {
    total: u64,
    idle: u64,
    stolen: u64,
}

impl MachineTime {
    /// Of all CPUs, now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn now() -> io::Result<MachineTime> {
        Self::of_line("cpu")
    }

    /// Of CPU number `core`, now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read or has no such CPU.
    pub fn of_core(core: usize) -> io::Result<MachineTime> {
        Self::of_line(&format!("cpu{core}"))
    }

    fn of_line(name: &str) -> io::Result<MachineTime> {
        parse_machine(&fs::read_to_string("/proc/stat")?, name)
            .ok_or_else(|| unreadable("/proc/stat"))
    }

    /// Share of the time since `earlier` that the hypervisor gave to somebody else, in percent.
    pub fn steal_percent_since(&self, earlier: MachineTime) -> f64 {
        self.percent_since(earlier, self.stolen.saturating_sub(earlier.stolen))
    }

    /// Share of the time since `earlier` that was not idle, in percent; interrupts count.
    pub fn busy_percent_since(&self, earlier: MachineTime) -> f64 {
        100.0 - self.percent_since(earlier, self.idle.saturating_sub(earlier.idle))
    }

    fn percent_since(&self, earlier: MachineTime, part: u64) -> f64 {
        match self.total.saturating_sub(earlier.total) {
            0 => 0.0,
            total => 100.0 * part as f64 / total as f64,
        }
    }
}

fn parse_machine(text: &str, name: &str) -> Option<MachineTime> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is within user time.
    Some(MachineTime {
        total: fields.get(..8)?.iter().sum(),
        idle: fields[3] + fields[4],
        stolen: fields[7],
    })
}

/// Resident memory of process `pid` in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status_field(&status, "VmRSS:")
        .and_then(|field| field.trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or_else(|| unreadable("/proc/PID/status"))? * 1024)
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// A thread of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadInfo {
    /// Its id.
    pub id: u32,
    /// Its name; those of the kernel's ring workers start with `iou-wrk`.
    pub name: String,
    /// CPUs that it may run on, as the kernel writes lists.
    pub affinity: String,
}

/// The threads of process `pid`.
///
/// # Errors
/// When there is no such process.
pub fn threads(pid: u32) -> io::Result<Vec<ThreadInfo>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A thread may end between the listing and the look at it.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let field = |name| status_field(&status, name).unwrap_or_default().to_owned();
        threads.push(ThreadInfo {
            id,
            name: field("Name:"),
            affinity: field("Cpus_allowed_list:"),
        });
    }
    threads.sort_by_key(|thread| thread.id);
    Ok(threads)
}

/// Context switches of the threads of a process that live now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// They slept.
    pub voluntary: u64,
    /// They were put off the CPU.
    pub involuntary: u64,
}

impl Switches {
    /// Of process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<Switches> {
        let mut sum = Switches::default();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the look at it.
            let Ok(status) = fs::read_to_string(entry?.path().join("status")) else {
                continue;
            };
            let count = |name| {
                status_field(&status, name)
                    .and_then(|field| field.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            sum.voluntary += count("voluntary_ctxt_switches:");
            sum.involuntary += count("nonvoluntary_ctxt_switches:");
        }
        Ok(sum)
    }

    /// Adds those of another process.
    pub fn add(&mut self, other: Switches) {
        self.voluntary += other.voluntary;
        self.involuntary += other.involuntary;
    }

    /// Those since `earlier`; threads that ended meanwhile take theirs with them.
    pub fn since(self, earlier: Switches) -> Switches {
        Switches {
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }
}

/// CPU of the kernel's ring workers (`iou-wrk`) of process `pid` that live now.
///
/// # Errors
/// When there is no such process.
pub fn ring_worker_time(pid: u32) -> io::Result<Duration> {
    let mut time = Duration::ZERO;
    for thread in threads(pid)?
        .iter()
        .filter(|thread| thread.name.starts_with("iou-wrk"))
    {
        // One that ended meanwhile has nothing left to say.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{}/stat", thread.id)) else {
            continue;
        };
        time += parse_stat(&text).map_or(Duration::ZERO, |cpu| cpu.total());
    }
    Ok(time)
}

/// Ring workers among `threads`: where there are any, CPU was used that no loop accounts for.
pub fn ring_workers(threads: &[ThreadInfo]) -> usize {
    threads
        .iter()
        .filter(|thread| thread.name.starts_with("iou-wrk"))
        .count()
}

/// CPU time of the calling thread.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists on every kernel that has io_uring, and the place is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets timers of the calling thread end when they are due, not up to 50 µs later.
pub fn wake_precisely() {
    // SAFETY: changes a setting of the calling thread only. Where it is refused, timers are late
    // and the latencies say so.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Pins the calling thread to `core`.
///
/// # Errors
/// A sentence when this process may not run there.
pub fn pin(core: usize) -> Result<(), String> {
    affinity::set_thread_affinity([core]).map_err(|error| {
        format!("cannot run on core {core}: {error}; choose among those of `taskset -p $$`")
    })
}

/// What the calling thread has used of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThreadUsage {
    /// Seconds in its own code.
    pub user_seconds: f64,
    /// Seconds in the kernel.
    pub system_seconds: f64,
    /// Pages that it touched for the first time.
    pub page_faults: u64,
}

impl ThreadUsage {
    /// What was used since `before`.
    pub fn since(self, before: ThreadUsage) -> ThreadUsage {
        ThreadUsage {
            user_seconds: self.user_seconds - before.user_seconds,
            system_seconds: self.system_seconds - before.system_seconds,
            page_faults: self.page_faults - before.page_faults,
        }
    }
}

/// Memory that programs could take without pushing others out, in bytes.
///
/// # Errors
/// When the system does not say.
pub fn available_memory_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("/proc/meminfo has no line MemAvailable"))
}

/// Reads the usage of the calling thread.
pub fn thread_usage() -> ThreadUsage {
    // SAFETY: an all-zero `rusage` is a valid one; the call fills it and keeps no pointer.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    ThreadUsage {
        user_seconds: seconds(usage.ru_utime),
        system_seconds: seconds(usage.ru_stime),
        page_faults: usage.ru_minflt as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_move_the_fields() {
        let line = "42 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 5";
        let time = parse_stat(line).expect("a stat line");
        assert_eq!(
            time,
            CpuTime {
                user: ticks(250),
                system: ticks(50)
            }
        );
        assert_eq!(time.total(), ticks(300));
    }

    #[test]
    fn steal_and_work_are_shares_of_all_time() {
        let earlier = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu1 100 0 0 0 0 0 0 0 0 0\n";
        let later = "cpu  150 0 100 840 0 0 0 10 0 0\ncpu1 150 0 0 40 6 0 4 0 0 0\n";
        let all = |text| parse_machine(text, "cpu").expect("a line");
        assert!((all(later).steal_percent_since(all(earlier)) - 10.0).abs() < 1e-9);
        assert_eq!(all(earlier).steal_percent_since(all(earlier)), 0.0);
        let one = |text| parse_machine(text, "cpu1").expect("a line");
        assert!((one(later).busy_percent_since(one(earlier)) - 54.0).abs() < 1e-9);
        assert_eq!(parse_machine(later, "cpu2"), None);
    }

    #[test]
    fn this_process_has_threads_memory_and_time() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).expect("our own status") > 1 << 20);
        assert!(!threads(pid).expect("our own threads").is_empty());
        CpuTime::of(pid).expect("our own time");
    }
}
