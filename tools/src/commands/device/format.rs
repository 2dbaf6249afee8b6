//! `corelane device format`: makes files or block devices into the devices of one worker.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use corelane_worker::config::quantity::parse_size;
use corelane_worker::store::{FormatOptions, format_paths};

use super::info;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Makes devices into a cache: all of them together, for one worker. Devices that hold anything
/// are refused without --force; those that are in use, mounted or part of something are refused always.
#[derive(Args, Debug)]
pub struct Format {
    /// Block devices, or files on a file system with direct I/O
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
    /// Create missing files at this size, such as 8G, and enlarge smaller ones
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Bytes in a region, the unit of reclaim; a device needs at least 32 of them
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = region_size)]
    region_size: u32,
    /// Partitions: as many as the worker will ever have cores, at least; a power of two
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    partitions: u32,
    /// Erase what the devices hold
    #[arg(long)]
    force: bool,
}

fn region_size(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    u32::try_from(bytes).map_err(|_| format!("{bytes} bytes are more than a region can have"))
}

impl Format {
    /// Runs the command; the answer shows the devices as they are now.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let options = FormatOptions {
            region_bytes: self.region_size,
            partitions: self.partitions,
            set_uuid: random_uuid()?,
        };
        let paths: Vec<&Path> = self.devices.iter().map(PathBuf::as_path).collect();
        let mut names = paths.clone();
        names.sort_unstable();
        names.dedup();
        if names.len() < paths.len() {
            return Err(Failure::new(
                Kind::Usage,
                "a device is named twice; name each once",
            ));
        }
        format_paths(&paths, self.size, options, self.force)?;
        info::answer(output, &paths)
    }
}

/// A uuid of version 4 (RFC 9562).
fn random_uuid() -> Result<[u8; 16], Failure> {
    let mut uuid = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut uuid))
        .map_err(|error| Failure::failed(format!("/dev/urandom: {error}")))?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}
