//! The subcommands, one file each.

mod cat;
mod completions;
mod device;
mod free;
mod jobs;
mod load;
mod lookup;
mod ls;
mod mount;
mod pin;
mod serve;
mod stat;
mod status;
mod unmount;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

use crate::demo::DemoCommand;
use crate::failure::Failure;
use crate::output::Output;

/// What `corelane` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a worker in the foreground
    Serve(Box<serve::Serve>),
    /// Show a worker at work on real files: caching, speed, a kill and a restart
    Demo(DemoCommand),
    /// Show how a worker is doing
    Status(status::Status),
    /// List objects and what is cached of them
    Ls(ls::Ls),
    /// Show what is known of an object
    Stat(stat::Stat),
    /// Write an object, or a range of it, to standard output
    Cat(cat::Cat),
    /// Look rows up in Parquet objects
    Lookup(Box<lookup::Lookup>),
    /// Bring objects into the cache
    Load(load::Load),
    /// Drop what is cached of objects
    Free(free::Free),
    /// Keep objects in the cache
    Pin(pin::Pin),
    /// Let pinned objects go again
    Unpin(pin::Unpin),
    /// Mount an under-store, or list the mounts
    Mount(mount::MountCommand),
    /// Remove a mount
    Unmount(unmount::Unmount),
    /// Check what the devices hold of objects; what is wrong is dropped
    Verify(verify::Verify),
    /// List or cancel the worker's jobs
    Jobs(jobs::Jobs),
    /// Format or inspect devices that no worker is using
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

impl Command {
    /// Runs the command to its end; the exit code of the process.
    pub fn run(self, output: Output) -> Result<ExitCode, Failure> {
        match self {
            Command::Serve(command) => return command.run(),
            Command::Demo(command) => command.run(output),
            Command::Status(command) => command.run(output),
            Command::Ls(command) => command.run(output),
            Command::Stat(command) => command.run(output),
            Command::Cat(command) => command.run(output),
            Command::Lookup(command) => command.run(output),
            Command::Load(command) => command.run(output),
            Command::Free(command) => command.run(output),
            Command::Pin(command) => command.run(output),
            Command::Unpin(command) => command.run(output),
            Command::Mount(command) => command.run(output),
            Command::Unmount(command) => command.run(output),
            Command::Verify(command) => command.run(output),
            Command::Jobs(command) => command.run(output),
            Command::Device(command) => command.run(output),
            Command::Completions(command) => command.run(output),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
