//! The same bare loops on three runtimes: what each of them takes for moving the bytes.
//!
//! | loop | on each runtime |
//! |---|---|
//! | echo | READs counted and answered with prebuilt replies, one task a connection |
//! | read | random direct reads of one file at a depth, one task a read in flight |
//!
//! The invariant: the three differ in the runtime alone. They speak the wire of the ceilings
//! ([`Conversation`](crate::ceiling)), send the same bytes from the same memory in as few sends, and
//! are metered by one piece of code. Each is written as a user who knows that runtime would; no
//! trait stands between, so that none pays for another's shape. *Ours* is the `uring` backend of
//! `corelane-io` with its executor, as the worker stands on it, not the raw loop of the ceilings.
//!
//! | module | holds |
//! |---|---|
//! | `meter` | what a reading loop took |
//! | `replies` | prebuilt replies |
//! | `uring`, `glommio`, `compio` | the loops |

#[cfg(feature = "compio")]
mod compio;
#[cfg(feature = "glommio")]
mod glommio;
mod meter;
mod replies;
mod uring;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use meter::Meter;
pub use meter::ReadFigures;
use replies::Replies;

/// Bytes that one receive takes at most, on every runtime: hundreds of requests.
const RECEIVE_BYTES: usize = 16 << 10;

/// Buffers of the runtimes that share them between connections, as on the worker's ring.
const RECEIVE_BUFFERS: u16 = 512;

/// What runs a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The backend `uring` of corelane-io: what the worker stands on.
    Uring,
    /// glommio, used natively.
    Glommio,
    /// compio, used natively.
    Compio,
}

impl Runtime {
    /// All of them, ours first.
    pub const ALL: [Runtime; 3] = [Runtime::Uring, Runtime::Glommio, Runtime::Compio];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Uring => "uring",
            Runtime::Glommio => "glommio",
            Runtime::Compio => "compio",
        }
    }

    /// Whether this program has it.
    pub fn is_built(self) -> bool {
        match self {
            Runtime::Uring => true,
            Runtime::Glommio => cfg!(feature = "glommio"),
            Runtime::Compio => cfg!(feature = "compio"),
        }
    }
}

/// How an echo server is to be.
#[derive(Clone, Debug)]
pub struct EchoOptions {
    /// The CPU that it runs on.
    pub core: usize,
    /// Payload bytes of a reply.
    pub reply_bytes: u32,
    /// How long it polls before it sleeps; compio sleeps at once.
    pub spin: Duration,
}

/// How a file is to be read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The CPU of the loop.
    pub core: usize,
    /// The file.
    pub path: PathBuf,
    /// Bytes of it that are read.
    pub bytes: u64,
    /// Reads in flight.
    pub depth: u32,
    /// Whether it is opened O_NONBLOCK too, which keeps direct reads on tmpfs in the loop. Ours
    /// always does.
    pub nonblocking: bool,
    /// The measured part, after a tenth of it to warm up.
    pub seconds: f64,
}

/// Serves on loopback until the process ends, and says where by `announce`.
///
/// # Errors
/// When the runtime is not built in or does not start.
pub fn serve_echo(
    runtime: Runtime,
    options: &EchoOptions,
    announce: impl FnOnce(SocketAddr) -> Result<(), String> + 'static,
) -> Result<(), String> {
    let replies = Replies::new(options.reply_bytes)?;
    match runtime {
        Runtime::Uring => uring::serve_echo(options, replies, announce),
        #[cfg(feature = "glommio")]
        Runtime::Glommio => glommio::serve_echo(options, replies, announce),
        #[cfg(feature = "compio")]
        Runtime::Compio => compio::serve_echo(options, replies, announce),
        #[cfg(not(all(feature = "glommio", feature = "compio")))]
        missing => Err(not_built(missing)),
    }
}

/// Reads at random pages for as long as `options` say.
///
/// # Errors
/// When the runtime is not built in or does not start, or a read fails.
pub fn read_device(runtime: Runtime, options: &ReadOptions) -> Result<ReadFigures, String> {
    let meter = Meter::new(options)?;
    match runtime {
        Runtime::Uring => uring::read_device(options, meter),
        #[cfg(feature = "glommio")]
        Runtime::Glommio => glommio::read_device(options, meter),
        #[cfg(feature = "compio")]
        Runtime::Compio => compio::read_device(options, meter),
        #[cfg(not(all(feature = "glommio", feature = "compio")))]
        missing => Err(not_built(missing)),
    }
}

#[cfg(not(all(feature = "glommio", feature = "compio")))]
fn not_built(runtime: Runtime) -> String {
    let name = runtime.name();
    format!("this program was built without {name}; build it with `--features {name}`")
}
