//! The memory of one fetch: bytes go in, full leases with their checksums come out.
//!
//! The invariant: a lease is posted once, in the order of the range, and only when all of its
//! bytes are in and known to be of the right version. The last lease waits until the store has
//! shown that no further bytes come; in *held* fetches, for stores that cannot vouch for a version
//! while they answer, all leases wait for the check afterwards.

use std::collections::VecDeque;
use std::ops::Range;

use corelane_io::{PAGE_SIZE, RemoteLease};

use super::retry::Failure;
use super::sink::EventSink;
use super::{Event, JobId, LEASE_PAGES_MAX, UnderStoreErrorKind};

/// A lease with all of its bytes.
struct Full {
    lease: RemoteLease,
    checksums: [u32; LEASE_PAGES_MAX],
    start: u64,
}

/// The memory of one fetch.
pub(crate) struct Fill {
    id: JobId,
    sink: EventSink,
    /// Not full yet, in order; only the first one may hold bytes.
    vacant: VecDeque<RemoteLease>,
    /// Full, but not to be posted yet, in order.
    held: VecDeque<Full>,
    /// Whether all leases wait for the end.
    is_held: bool,
    /// Where the first vacant lease starts in the object.
    lease_start: u64,
    /// First byte that is missing.
    position: u64,
    end: u64,
    checksums: [u32; LEASE_PAGES_MAX],
    /// Checksum so far of the page that `position` is in.
    running: u32,
}

impl Fill {
    /// The memory for `range`.
    ///
    /// # Panics
    /// If `leases` are not exactly the pages that `range` touches, or `range` starts within a page.
    pub fn new(id: JobId, sink: EventSink, range: Range<u64>, leases: Vec<RemoteLease>) -> Self {
        assert_eq!(
            range.start % PAGE_SIZE as u64,
            0,
            "a fetch starts at a page: {range:?}"
        );
        assert!(range.start <= range.end, "{range:?}");
        let room: u64 = leases.iter().map(|lease| lease.len() as u64).sum();
        let pages = (range.end - range.start).next_multiple_of(PAGE_SIZE as u64);
        assert_eq!(room, pages, "the leases are the pages of {range:?}");
        Fill {
            id,
            sink,
            vacant: leases.into(),
            held: VecDeque::new(),
            is_held: false,
            lease_start: range.start,
            position: range.start,
            end: range.end,
            checksums: [0; LEASE_PAGES_MAX],
            running: 0,
        }
    }

    /// The bytes that are still missing.
    pub fn missing(&self) -> Range<u64> {
        self.position..self.end
    }

    /// Makes all leases wait for [`Fill::confirm`].
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// Copies bytes that arrived, in order, and posts the leases that they complete.
    ///
    /// # Errors
    /// When there are more bytes than are missing.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.position == self.end {
                return Err(Failure::passing(
                    UnderStoreErrorKind::Malformed,
                    "the store sent more bytes than were asked for",
                ));
            }
            let taken = self.copy_within_page(bytes);
            bytes = &bytes[taken..];
            self.post_ready().await;
        }
        Ok(())
    }

    /// Copies up to the end of the page or range; returns how many bytes.
    fn copy_within_page(&mut self, bytes: &[u8]) -> usize {
        let lease = self
            .vacant
            .front_mut()
            .expect("bytes are missing, so a lease is vacant");
        let filled = (self.position - self.lease_start) as usize;
        let (page, within) = (filled / PAGE_SIZE, filled % PAGE_SIZE);
        let missing = (self.end - self.position).min((PAGE_SIZE - within) as u64) as usize;
        let taken = bytes.len().min(missing);
        let target = &mut lease.bytes_mut()[filled..filled + PAGE_SIZE - within];
        target[..taken].copy_from_slice(&bytes[..taken]);
        self.running = crc32c::crc32c_append(self.running, &bytes[..taken]);
        self.position += taken as u64;
        if self.position == self.end {
            target[taken..].fill(0);
            self.running = crc32c::crc32c_append(self.running, &target[taken..]);
        } else if taken < PAGE_SIZE - within {
            return taken;
        }
        self.checksums[page] = self.running;
        self.running = 0;
        if (page + 1) * PAGE_SIZE == lease.len() {
            self.complete_lease();
        }
        taken
    }

    /// Fills the first vacant lease as a whole: `read` puts bytes of the object from the given
    /// offset into the given memory, or fails without any of them counting.
    pub fn fill_lease(
        &mut self,
        read: impl FnOnce(&mut [u8], u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        debug_assert_eq!(self.position, self.lease_start, "whole leases only");
        let lease = self
            .vacant
            .front_mut()
            .expect("bytes are missing, so a lease is vacant");
        let wanted = (self.end - self.position).min(lease.len() as u64) as usize;
        let memory = lease.bytes_mut();
        read(&mut memory[..wanted], self.position)?;
        memory[wanted..].fill(0);
        for (page, checksum) in memory.chunks_exact(PAGE_SIZE).zip(&mut self.checksums) {
            *checksum = corelane_rpc_schema::frame::page_checksum(page);
        }
        self.position += wanted as u64;
        self.complete_lease();
        Ok(())
    }

    fn complete_lease(&mut self) {
        let lease = self
            .vacant
            .pop_front()
            .expect("the lease that was just filled");
        let checksums = std::mem::replace(&mut self.checksums, [0; LEASE_PAGES_MAX]);
        self.held.push_back(Full {
            lease,
            checksums,
            start: self.lease_start,
        });
        self.lease_start = self.position;
    }

    /// Leases at the end of `held` that may not be posted yet.
    fn kept(&self) -> usize {
        if self.is_held {
            self.held.len()
        } else {
            usize::from(self.position == self.end)
        }
    }

    fn pop_held(&mut self) -> Event {
        let full = self.held.pop_front().expect("a full lease");
        Event::Filled {
            id: self.id,
            lease: full.lease,
            checksums: full.checksums,
        }
    }

    /// Posts what may be posted, waiting for room.
    pub async fn post_ready(&mut self) {
        while self.held.len() > self.kept() {
            let event = self.pop_held();
            self.sink.send(event).await;
        }
    }

    /// Posts what may be posted without waiting; false when the inbox is full.
    pub fn try_post_ready(&mut self) -> bool {
        while self.held.len() > self.kept() {
            let start = self.held.front().expect("a full lease").start;
            let event = self.pop_held();
            if let Err(Event::Filled {
                lease, checksums, ..
            }) = self.sink.try_send(event)
            {
                self.held.push_front(Full {
                    lease,
                    checksums,
                    start,
                });
                return false;
            }
        }
        true
    }

    /// Ends the fetch well: the store sent all bytes and vouches for their version.
    ///
    /// # Panics
    /// If bytes are missing.
    pub async fn confirm(&mut self) {
        assert_eq!(self.position, self.end, "all bytes are in");
        while !self.held.is_empty() {
            let event = self.pop_held();
            self.sink.send(event).await;
        }
    }

    /// Takes back the last lease, whose bytes another try has to bring again.
    pub fn retract_last(&mut self) {
        if self.position == self.end
            && let Some(full) = self.held.pop_back()
        {
            self.lease_start = full.start;
            self.position = full.start;
            self.running = 0;
            self.vacant.push_front(full.lease);
        }
    }

    /// Posts the last event of the job, with the leases that were not posted.
    pub async fn finish(self, result: Result<(), super::UnderStoreError>) {
        let unused: Vec<RemoteLease> = self
            .held
            .into_iter()
            .map(|full| full.lease)
            .chain(self.vacant)
            .collect();
        assert!(
            result.is_err() || unused.is_empty(),
            "a fetch that ended well filled all leases"
        );
        self.sink
            .send(Event::Finished {
                id: self.id,
                result,
                unused,
            })
            .await;
    }
}
