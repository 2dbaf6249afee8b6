//! The client for callers without an async runtime: each call runs one to its end.
//!
//! Lanes make progress only while a call is running; that is enough for tools. Not to be used on
//! a thread that already runs a tokio runtime (it panics there, as tokio does).

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use corelane_lookup::request::LookupRequest;
use corelane_rpc_schema::messages::HelloAnswer;
use tokio::runtime::Runtime;

use crate::client::{Counters, Object};
use crate::control::{Entry, Freed, ListOptions, Mount, ObjectInfo, Progress, Stats};
use crate::error::Error;
use crate::look_up::Found;
use crate::options::Options;

fn runtime(address: &str) -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Connect {
            address: address.to_owned(),
            reason: format!("no runtime: {error}"),
        })
}

/// [`crate::Client`], blocking.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    client: crate::Client,
}

impl Client {
    /// See [`crate::Client::connect`].
    ///
    /// # Errors
    /// See there.
    pub fn connect(address: &str, token: &str, options: Options) -> Result<Client, Error> {
        let runtime = runtime(address)?;
        let client = runtime.block_on(crate::Client::connect(address, token, options))?;
        Ok(Client { runtime, client })
    }

    /// See [`crate::Client::worker`].
    pub fn worker(&self) -> HelloAnswer {
        self.client.worker()
    }

    /// See [`crate::Client::counters`].
    pub fn counters(&self) -> Counters {
        self.client.counters()
    }

    /// See [`crate::Client::open`].
    ///
    /// # Errors
    /// See there.
    pub fn open(&self, path: &str) -> Result<Object, Error> {
        self.runtime.block_on(self.client.open(path))
    }

    /// See [`crate::Client::read`].
    ///
    /// # Errors
    /// See there.
    pub fn read(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Error> {
        self.runtime.block_on(self.client.read(object, range))
    }

    /// See [`crate::Client::read_file`].
    ///
    /// # Errors
    /// See there.
    pub fn read_file(&self, path: &str) -> Result<(Object, Bytes), Error> {
        self.runtime.block_on(self.client.read_file(path))
    }

    /// See [`crate::Client::look_up`].
    ///
    /// # Errors
    /// See there.
    pub fn look_up(&self, request: &LookupRequest) -> Result<Found, Error> {
        self.runtime.block_on(self.client.look_up(request))
    }
}

/// [`crate::control::Control`], blocking.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    control: crate::control::Control,
}

/// One blocking method for each of the asynchronous ones.
macro_rules! blocking_calls {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)+) => {
        impl Control {
            $(
                #[doc = concat!("See [`crate::control::Control::", stringify!($name), "`].\n\n# Errors\nSee there.")]
                pub fn $name(&self, $($argument: $kind),*) -> Result<$answer, Error> {
                    self.runtime.block_on(self.control.$name($($argument),*))
                }
            )+
        }
    };
}

blocking_calls! {
    stats() -> Stats;
    mounts() -> Vec<Mount>;
    mount(mount: Mount) -> ();
    unmount(path: &str) -> ();
    stat(path: &str) -> ObjectInfo;
    list(path: &str, options: ListOptions) -> (Vec<Entry>, bool);
    load(path: &str, recursive: bool) -> u64;
    free(path: &str, recursive: bool) -> Freed;
    pin(path: &str, recursive: bool, pinned: bool) -> u64;
    verify(path: &str) -> u64;
    progress(job: u64) -> Progress;
    cancel(job: u64) -> ();
    read(path: &str, offset: u64, length: u32) -> (Vec<u8>, String);
    jobs() -> Vec<Progress>;
}

impl Control {
    /// See [`crate::control::Control::connect`].
    ///
    /// # Errors
    /// See there.
    pub fn connect(address: &str, token: &str, call_timeout: Duration) -> Result<Self, Error> {
        let runtime = runtime(address)?;
        let control = runtime.block_on(crate::control::Control::connect(
            address,
            token,
            call_timeout,
        ))?;
        Ok(Control { runtime, control })
    }
}
