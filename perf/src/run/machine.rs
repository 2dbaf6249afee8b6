//! The machine: what a reader needs to know before comparing two runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Where a run was made. Fields that the system does not tell are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU, as the kernel names it.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Frequency governor of CPU 0; empty where there is none, as on most virtual machines.
    pub governor: String,
    /// Whether a hypervisor runs this system.
    pub is_virtual: bool,
    /// Release of the kernel.
    pub kernel: String,
    /// Its command line.
    pub kernel_command_line: String,
    /// Mitigations of the CPU's vulnerabilities, by vulnerability.
    pub mitigations: BTreeMap<String, String>,
    /// Transparent huge pages: the mode in force.
    pub huge_pages: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Block devices: name and model, bytes, whether they rotate, scheduler.
    pub devices: Vec<BlockDevice>,
    /// The host's name.
    pub host: String,
}

/// A block device of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Name in /sys/block.
    pub name: String,
    /// Model, where the device tells.
    pub model: String,
    /// Bytes.
    pub bytes: u64,
    /// The scheduler in force.
    pub scheduler: String,
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The value of the first line `name : value` of `text`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .map(str::trim)
        .unwrap_or_default()
}

/// The choice in brackets of a line such as `always [madvise] never`, else all of it.
fn chosen(text: &str) -> &str {
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(text, |(choice, _)| choice)
}

impl Machine {
    /// This machine, from /proc and /sys.
    pub fn look() -> Machine {
        let cpu = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let kib: u64 = field(&memory, "MemTotal")
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or(0);
        let flags = field(&cpu, "flags");
        Machine {
            cpu: field(&cpu, "model name").to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            is_virtual: flags.split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease"),
            kernel_command_line: read("/proc/cmdline"),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")).to_owned(),
            memory_bytes: kib * 1024,
            devices: devices(Path::new("/sys/block")),
            host: read("/proc/sys/kernel/hostname"),
        }
    }
}

fn mitigations(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, read(entry.path()))
        })
        .collect()
}

fn devices(directory: &Path) -> Vec<BlockDevice> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut devices: Vec<BlockDevice> = entries
        .map(|entry| {
            let path = entry.path();
            let sectors: u64 = read(path.join("size")).parse().unwrap_or(0);
            BlockDevice {
                name: entry.file_name().to_string_lossy().into_owned(),
                model: read(path.join("device/model")),
                // /sys counts sectors of 512 bytes, whatever the device's own are.
                bytes: sectors * 512,
                scheduler: chosen(&read(path.join("queue/scheduler"))).to_owned(),
            }
        })
        .filter(|device| device.bytes > 0)
        .collect();
    devices.sort_by(|left, right| left.name.cmp(&right.name));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_choices_are_found() {
        let text = "model name\t: A: B\nflags\t: fpu hypervisor";
        assert_eq!(field(text, "model name"), "A: B");
        assert_eq!(field(text, "absent"), "");
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("none"), "none");
    }

    #[test]
    fn this_machine_has_memory_and_a_kernel() {
        let machine = Machine::look();
        assert!(machine.memory_bytes > 1 << 20 && machine.cpus > 0);
        assert!(!machine.kernel.is_empty());
    }
}
