//! Bytes of an object for a look-up, from wherever they are.

use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane_io::Io;
use corelane_lookup::error::{ErrorKind, LookupError, Result};
use corelane_lookup::host::Host;
use corelane_lookup::memory::Account;
use corelane_rpc_schema::frame::ReadSource;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{READ_BYTES_MAX, STRIPE_BYTES, Stripe};

use crate::mount::AccessSet;
use crate::shard::Shard;
use crate::shard::gather::ReadParts;
use crate::shard::known::Known;
use crate::shard::object_read::read_of;
use crate::under_store::UnderStore;

/// Tries of a read that finds no memory, and the pause between them: look-ups hold none meanwhile.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Bytes by where they came from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub dram: Cell<u64>,
    pub device: Cell<u64>,
    pub under_store: Cell<u64>,
}

impl Sources {
    fn count(&self, source: ReadSource, bytes: u64) {
        let cell = match source {
            ReadSource::Dram => &self.dram,
            ReadSource::Device => &self.device,
            ReadSource::UnderStore => &self.under_store,
        };
        cell.set(cell.get() + bytes);
    }
}

/// One version of an object.
pub(super) struct ShardHost<I: Io, U: UnderStore> {
    pub shard: Rc<Shard<I, U>>,
    pub known: Rc<Known>,
    pub access: Arc<AccessSet>,
    pub sources: Sources,
    /// Whether what was read last came from the under-store. A device is near: fifty reads of headers were
    /// no slower there than one of the whole column.
    is_far: Cell<bool>,
    /// What it may hold.
    memory: Account,
}

impl<I: Io, U: UnderStore> ShardHost<I, U> {
    /// For the version `known` of an object, with the reader's rights.
    pub fn new(shard: Rc<Shard<I, U>>, known: Rc<Known>, access: Arc<AccessSet>) -> Self {
        ShardHost {
            memory: shard.lookups.account(),
            shard,
            known,
            access,
            sources: Sources::default(),
            is_far: Cell::new(false),
        }
    }

    /// For another object, or for work in the background: with sources of its own.
    pub fn of(&self, known: Rc<Known>) -> Self {
        ShardHost::new(Rc::clone(&self.shard), known, Arc::clone(&self.access))
    }

    pub async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        let mut whole = Vec::with_capacity((range.end - range.start) as usize);
        let mut offset = range.start;
        while offset < range.end {
            let stripe_end = (offset / STRIPE_BYTES + 1) * STRIPE_BYTES;
            let length = (range.end.min(stripe_end) - offset).min(u64::from(READ_BYTES_MAX));
            let parts = self.read_patiently(offset, length as u32).await?;
            let before = whole.len();
            for piece in &parts.pieces {
                whole.extend_from_slice(piece.bytes());
            }
            assert_eq!(
                whole.len() - before,
                length as usize,
                "a read is as long as it was asked for"
            );
            self.sources.count(parts.source, length);
            self.is_far.set(parts.source == ReadSource::UnderStore);
            offset += length;
        }
        Ok(whole.into())
    }

    async fn read_patiently(&self, offset: u64, length: u32) -> Result<ReadParts> {
        let mut tries = 0;
        loop {
            match self.read_window(offset, length).await {
                Err(failure) if failure.code == ErrorCode::Busy && tries < BUSY_TRIES => {
                    tries += 1;
                    self.shard.io.sleep(BUSY_PAUSE).await;
                }
                read => return read.map_err(|failure| error_of(&failure)),
            }
        }
    }

    async fn read_window(
        &self,
        offset: u64,
        length: u32,
    ) -> std::result::Result<ReadParts, ErrorMessage> {
        let shard = &self.shard;
        let request = read_of(&self.known, offset, length);
        let owner = shard.owner_of(self.known.meta.id.home, Stripe::of_offset(offset));
        if owner == shard.id {
            shard.gather(&request, &self.access).await
        } else {
            shard
                .ask_read(owner, &request, Arc::clone(&self.access))
                .await
        }
    }
}

/// What a failed read means for a look-up. The code comes back with [`LookupFailure`].
///
/// [`LookupFailure`]: super::failure::LookupFailure
fn error_of(failure: &ErrorMessage) -> LookupError {
    let kind = match failure.code {
        ErrorCode::VersionChanged | ErrorCode::ObjectUnknown => ErrorKind::VersionChanged,
        ErrorCode::Busy => ErrorKind::Busy,
        ErrorCode::Denied => ErrorKind::Denied,
        _ => ErrorKind::Read,
    };
    LookupError::new(kind, failure.message.clone())
}

impl<I: Io, U: UnderStore> Host for ShardHost<I, U> {
    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let [range] = ranges {
            return Ok(vec![self.read_range(range.clone()).await?]);
        }
        let reads = ranges.iter().map(|range| self.read_range(range.clone()));
        futures::future::try_join_all(reads).await
    }

    fn run<T: Send + 'static>(
        &self,
        estimate: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        let lookups = &self.shard.lookups;
        lookups.compute.run(&self.shard.io, estimate, work)
    }

    fn is_far(&self) -> bool {
        self.is_far.get()
    }

    fn memory(&self) -> &Account {
        &self.memory
    }

    async fn until_memory(&self, tries: u32) -> bool {
        if tries < BUSY_TRIES {
            self.shard.io.sleep(BUSY_PAUSE).await;
        }
        tries < BUSY_TRIES
    }

    fn pause(&self) -> impl Future<Output = ()> {
        self.shard.io.yield_now()
    }

    fn now(&self) -> Duration {
        let elapsed = self.shard.lookups.compute.elapsed();
        elapsed.unwrap_or_else(|| Duration::from_nanos(self.shard.io.now().0))
    }
}
