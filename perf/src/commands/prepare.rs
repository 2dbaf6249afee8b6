//! `corelane-perf prepare`: the objects of a workload, before anything is measured.

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use clap::Args;

use crate::quantities::grouped;
use crate::target::redis::Redis;
use crate::workload::Workload;

/// Makes the objects of a workload.
#[derive(Debug, Args)]
pub struct PrepareArguments {
    /// A workload that comes along, or a file
    #[arg(long, default_value = "uniform-4k")]
    workload: String,
    /// Make a file of each object here: for a mount of a worker, a web server's root, or file://
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "redis")]
    dir: Option<PathBuf>,
    /// Set the values of all point reads in this Redis server (HOST:PORT)
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<String>,
    /// What Redis keys start with: the prefix of redis://HOST:PORT/PREFIX
    #[arg(long, default_value = "")]
    prefix: String,
}

impl PrepareArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let workload = Workload::load(&self.workload)?;
        if let Some(directory) = &self.dir {
            let sets = [Some(&workload.objects), workload.cold.as_ref()];
            for objects in sets.into_iter().flatten() {
                let bytes = objects.make_files(directory)?;
                println!(
                    "{}: {} objects {}*, {} MiB",
                    directory.display(),
                    objects.count,
                    objects.prefix,
                    grouped(bytes as f64 / (1 << 20) as f64)
                );
            }
        }
        if let Some(host) = &self.redis {
            let mut found = host
                .to_socket_addrs()
                .map_err(|error| format!("{host}: {error}"))?;
            let address = found.next().ok_or_else(|| format!("{host}: no address"))?;
            let redis = Redis {
                address,
                prefix: self.prefix,
            };
            let keys = redis
                .fill(&workload)
                .map_err(|error| format!("{host}: {error}"))?;
            println!("{host}: {} values", grouped(keys as f64));
        }
        Ok(())
    }
}
