//! What the commands that measure in rounds have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::gate::Options;
use crate::load::Verify;
use crate::quantities::{Cores, cores, duration};

#[derive(Debug, Args)]
pub struct RoundsArguments {
    /// Only these measures
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(super) only: Vec<String>,
    /// Interleaved rounds of each measure (the gate's of depth 1 take at least 9)
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of each measured part [default: 4, of look-ups 2]
    #[arg(long)]
    seconds: Option<f64>,
    /// The server's core and the generator's
    #[arg(long, default_value = "0,1", value_parser = cores)]
    cores: Cores,
    /// Directory for device files, on the drive that is to be measured (ext4 or xfs)
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Directory for files of a device faster than the CPU (tmpfs)
    #[arg(long, default_value = "/dev/shm")]
    fast_dir: PathBuf,
    /// Which answers are compared with what was asked
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// How long the servers poll in the measures of depth 1
    #[arg(long, default_value = "50us", value_parser = duration)]
    spin: Duration,
    /// Small and short: for the shape of the output, not for its figures
    #[arg(long)]
    quick: bool,
    /// Print one JSON object on standard output (progress goes to standard error)
    #[arg(long)]
    pub(super) json: bool,
}

impl RoundsArguments {
    /// How to measure, in parts of `seconds` each if nothing else was asked for, with sets of these bytes
    /// in DRAM and on the device.
    pub(super) fn options(self, seconds: f64, working_set: u64, device_set: u64) -> Options {
        let quick = self.quick;
        Options {
            only: self.only,
            rounds: if quick { 1 } else { self.rounds.max(1) },
            seconds: match quick {
                true => 0.2,
                false => self.seconds.unwrap_or(seconds).max(0.05),
            },
            server_core: self.cores.server,
            load_core: self.cores.load,
            directory: self.dir,
            fast_directory: self.fast_dir,
            working_set: if quick { 16 << 20 } else { working_set },
            device_set: if quick { 64 << 20 } else { device_set },
            verify: self.verify,
            spin: self.spin,
            python: PathBuf::from("python3"),
            tables: None,
            quick,
            talks: true,
        }
    }
}
