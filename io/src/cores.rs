//! Which processors there are, which thread runs where, and what hangs on which NUMA node.
//!
//! Facts come from /proc and /sys; each file format has a pure parser, and a file that is missing
//! (a container, another architecture) means "unknown", never an error.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{IoError, IoErrorKind};

/// Processors that the calling thread may run on, ascending.
///
/// # Errors
/// When the system does not tell.
pub fn allowed_cpus() -> Result<Vec<usize>, IoError> {
    let mut cpus = affinity::get_thread_affinity().map_err(|error| {
        IoError::new(
            IoErrorKind::Other,
            format!("cannot read the allowed processors: {error}"),
        )
    })?;
    cpus.sort_unstable();
    Ok(cpus)
}

/// Keeps the calling thread on processor `cpu`.
///
/// # Errors
/// When the thread may not run there.
pub fn pin_current_thread(cpu: usize) -> Result<(), IoError> {
    affinity::set_thread_affinity([cpu]).map_err(|error| {
        let allowed =
            allowed_cpus().map_or_else(|_| "unknown".into(), |cpus| format_cpu_list(&cpus));
        let message = format!("cannot run on this processor ({error}); choose one of the allowed");
        IoError::new(IoErrorKind::InvalidInput, message)
            .with("cpu", cpu)
            .with("allowed", allowed)
    })
}

/// How long a thread that gives way runs on when another wakes: the kernel's shortest slice. With the
/// usual one a client that shares the processor waits up to 3 ms, however nice its neighbour is.
const NICE_SLICE_NS: u64 = 100_000;

/// Makes the calling thread, and those that it starts, give way to others: by niceness `nice` (0 to 19),
/// and by short slices of time where the kernel has them (Linux 6.12).
///
/// # Errors
/// When the niceness is refused.
pub fn give_way(nice: i32) -> Result<(), IoError> {
    // SAFETY: takes plain numbers; on Linux, 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } != 0 {
        let error = std::io::Error::last_os_error();
        let advice =
            "cannot set the niceness of a thread; use one from 0 to 19 that is not below its own";
        return Err(IoError::from_std(&error, advice).with("nice", nice));
    }
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        // Whoever started the process may have chosen another policy, such as SCHED_IDLE.
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: NICE_SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure has the size that it tells; 0 is the calling thread. A kernel
    // that refuses leaves the niceness as it is now.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Ok(())
}

/// Processors in a list as the kernel writes it, such as "0-3,8,10-11".
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > CPU_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Above the kernel's own limit (8,192): a larger number in a list is damage, not a machine.
const CPU_MAX: usize = 1 << 16;

/// Ascending `cpus` as the kernel writes them.
pub fn format_cpu_list(cpus: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for run in cpus.chunk_by(|left, right| left + 1 == *right) {
        parts.push(match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run[0].to_string(),
        });
    }
    parts.join(",")
}

/// The number in a `numa_node` file; -1 says that the machine does not know.
pub fn parse_numa_node(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

/// NUMA node of the block device `major:minor`, or of the drive that holds such a partition.
pub fn numa_node_of_block_device(major: u32, minor: u32) -> Option<u32> {
    numa_node_above(Path::new(&format!("/sys/dev/block/{major}:{minor}")))
}

/// NUMA node of a network interface such as "eth0".
pub fn numa_node_of_interface(name: &str) -> Option<u32> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    plain.then(|| numa_node_above(&Path::new("/sys/class/net").join(name)))?
}

/// Processors of a NUMA node.
pub fn cpus_of_node(node: u32) -> Option<Vec<usize>> {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    parse_cpu_list(&std::fs::read_to_string(path).ok()?)
}

/// The first NUMA node that `entry` or a parent of it names. Drives sit a few levels below the
/// PCI function that knows its node.
fn numa_node_above(entry: &Path) -> Option<u32> {
    let entry: PathBuf = entry.canonicalize().ok()?;
    entry
        .ancestors()
        .take_while(|directory| directory.starts_with("/sys"))
        .find_map(|directory| std::fs::read_to_string(directory.join("numa_node")).ok())
        .and_then(|text| parse_numa_node(&text))
}

/// Where one thread of this process may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadAffinity {
    /// The thread's number.
    pub thread: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Processors it may run on, ascending.
    pub cpus: Vec<usize>,
}

impl fmt::Display for ThreadAffinity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {} cpus {}",
            self.thread,
            self.name,
            format_cpu_list(&self.cpus)
        )
    }
}

/// Every thread of this process, kernel workers of its rings (`iou-wrk-…`) included.
///
/// # Errors
/// When /proc cannot be read.
pub fn thread_affinities() -> Result<Vec<ThreadAffinity>, IoError> {
    let entries = std::fs::read_dir("/proc/self/task").map_err(|error| {
        IoError::from_std(
            &error,
            "cannot list the threads of this process; mount /proc",
        )
    })?;
    let mut threads: Vec<ThreadAffinity> = entries
        .flatten()
        // A thread that ended meanwhile has no status any more.
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok())
        .filter_map(|status| parse_thread_status(&status))
        .collect();
    threads.sort_unstable_by_key(|thread| thread.thread);
    Ok(threads)
}

/// Name, number and processors in a `/proc/…/status` file.
pub fn parse_thread_status(status: &str) -> Option<ThreadAffinity> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    Some(ThreadAffinity {
        thread: field("Pid")?.parse().ok()?,
        name: field("Name")?.to_owned(),
        cpus: parse_cpu_list(field("Cpus_allowed_list")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_by_as_much_as_was_asked() {
        let nice = std::thread::spawn(|| {
            give_way(19).expect("being nicest is allowed to everybody");
            // SAFETY: takes plain numbers; on Linux, 0 is the calling thread.
            let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            // SAFETY: an all-zero structure is a valid value of it.
            let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
            let size = size_of::<libc::sched_attr>();
            // SAFETY: the call writes at most `size` bytes.
            let outcome =
                unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
            assert_eq!(outcome, 0);
            (nice, attributes.sched_runtime)
        });
        let (nice, slice_ns) = nice.join().expect("no panic");
        assert_eq!(nice, 19);
        // Kernels before 6.12 know no slice of a thread and tell none.
        assert!(matches!(slice_ns, 0 | NICE_SLICE_NS), "{slice_ns} ns");
    }

    #[test]
    fn cpu_lists_are_read_and_written_as_the_kernel_does() {
        for (text, cpus) in [
            ("0\n", vec![0]),
            ("0-3,8,10-11", vec![0, 1, 2, 3, 8, 10, 11]),
            ("", vec![]),
        ] {
            assert_eq!(parse_cpu_list(text).as_ref(), Some(&cpus), "{text}");
            assert_eq!(format_cpu_list(&cpus), text.trim());
        }
        for damaged in ["x", "3-1", "1-", ",", "0-99999999999", "0,,1"] {
            assert_eq!(parse_cpu_list(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn an_unknown_numa_node_is_none() {
        assert_eq!(parse_numa_node("1\n"), Some(1));
        assert_eq!(parse_numa_node("-1\n"), None);
        assert_eq!(parse_numa_node(""), None);
        assert_eq!(numa_node_of_interface("../../etc"), None);
        assert_eq!(numa_node_of_block_device(4095, 1_048_575), None);
    }

    #[test]
    fn a_status_file_gives_name_and_processors() {
        let status = "Name:\tlane-0\nUmask:\t0022\nPid:\t42\nPPid:\t1\nCpus_allowed:\t2\nCpus_allowed_list:\t1\n";
        let thread = parse_thread_status(status).expect("a whole status");
        assert_eq!(
            thread,
            ThreadAffinity {
                thread: 42,
                name: "lane-0".into(),
                cpus: vec![1]
            }
        );
        assert_eq!(thread.to_string(), "42 lane-0 cpus 1");
        assert_eq!(parse_thread_status("Name:\tx\n"), None);
    }

    #[test]
    fn a_pinned_thread_is_listed_where_it_was_pinned() {
        let cpu = *allowed_cpus()
            .expect("a list")
            .last()
            .expect("one at least");
        let pinned = std::thread::Builder::new()
            .name("pinned-for-test".into())
            .spawn(move || {
                pin_current_thread(cpu).expect("an allowed processor");
                thread_affinities().expect("/proc")
            })
            .expect("a thread")
            .join()
            .expect("it ends");
        let this = pinned
            .iter()
            .find(|thread| thread.name == "pinned-for-test")
            .expect("listed");
        assert_eq!(this.cpus, [cpu]);
    }

    #[test]
    fn a_processor_that_does_not_exist_is_refused_with_the_allowed_ones() {
        let refused = std::thread::spawn(|| pin_current_thread(1000))
            .join()
            .expect("it ends");
        let text = refused.expect_err("no such processor").to_string();
        assert!(
            text.contains("cpu 1000") && text.contains("allowed"),
            "{text}"
        );
    }
}
