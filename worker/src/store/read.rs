//! Reading a block's pages back, and checking each before anyone sees it.

use std::cell::Ref;
use std::future::Future;
use std::rc::Rc;

use corelane_io::hint::prefetch;
use corelane_io::{Device, Frame, FrameLease, Io, IoError, IoErrorKind, PAGE_SIZE};
use corelane_rpc_schema::BlockId;
use corelane_rpc_schema::frame::page_checksum;

use super::Inner;
use super::block::{BlockEntry, Located};
use super::device::DeviceState;
use super::error::ReadError;
use super::region::Region;

impl<I: Io> Inner<I> {
    /// See [`Store::read`](super::Store::read).
    pub(super) async fn read_block(
        self: Rc<Self>,
        id: BlockId,
        entry: BlockEntry,
        first_page: u32,
        lease: FrameLease,
    ) -> Result<Frame, ReadError> {
        if !self.is_still_at(id, &entry) {
            return Err(ReadError::Gone);
        }
        let read = self.begin_read_at(id, entry, first_page, lease.pages().len() as u32)?;
        let came = read.ask(lease).await;
        read.check(came)
    }

    /// See [`Store::begin_read`](super::Store::begin_read).
    #[inline(always)]
    pub(super) fn begin_read(
        self: &Rc<Self>,
        located: &Located,
        first_page: u32,
        pages: u32,
    ) -> Result<BlockRead<I>, ReadError> {
        let Located { id, entry, place } = *located;
        if !self.index.borrow_mut().touch_at(place, id, &entry) {
            return Err(ReadError::Gone);
        }
        self.begin_read_at(id, entry, first_page, pages)
    }

    /// Begins to read pages of a block that is where `entry` says at this moment.
    // Always: the result is large, and two callers is all there will be.
    #[inline(always)]
    fn begin_read_at(
        self: &Rc<Self>,
        id: BlockId,
        entry: BlockEntry,
        first_page: u32,
        pages: u32,
    ) -> Result<BlockRead<I>, ReadError> {
        let block_pages = entry.length.div_ceil(PAGE_SIZE as u32);
        if pages == 0 || u64::from(first_page) + u64::from(pages) > u64::from(block_pages) {
            return Err(self.drop_unfit(id, &entry, first_page, pages));
        }
        let region = &self.regions[entry.region as usize];
        let device = self
            .device(region.device)
            .expect("entries point at devices that are there");
        if !device.is_usable() {
            return Err(self.unusable(device, id, &entry));
        }
        let page = u32::from(entry.first_page) + first_page;
        // They are needed when the device has answered.
        prefetch(&region.checksums()[page as usize..(page + pages) as usize]);
        region.hold();
        Ok(BlockRead {
            store: Rc::clone(self),
            id,
            entry,
            page,
            pages,
        })
    }

    /// Drops a block that has not the pages that the length of its object gives it.
    #[cold]
    fn drop_unfit(
        &self,
        id: BlockId,
        entry: &BlockEntry,
        first_page: u32,
        pages: u32,
    ) -> ReadError {
        if self.remove_entry_at(id, entry).is_some() {
            self.counters.blocks_healed.add(1);
        }
        tracing::warn!(
            block = %id, first_page, pages, length = entry.length,
            "a block is shorter than its object says: it is dropped and fetched again when asked for"
        );
        ReadError::Gone
    }

    /// Drops a block whose page `page` of the region did not match its checksum.
    pub(super) fn heal(&self, id: BlockId, entry: &BlockEntry, page: u32) {
        let region = &self.regions[entry.region as usize];
        let device = self
            .device(region.device)
            .expect("entries point at devices that are there");
        self.counters.corrupt_pages.add(1);
        if self.remove_entry_at(id, entry).is_some() {
            self.counters.blocks_healed.add(1);
        }
        tracing::warn!(
            device = %device.path, offset = device.offset(region.local, page), block = %id,
            "a page does not match its checksum: the block is dropped and fetched again when asked for"
        );
    }
}

/// A read of a block's pages that has begun. While it lives, its region is not written again.
pub struct BlockRead<I: Io> {
    store: Rc<Inner<I>>,
    id: BlockId,
    entry: BlockEntry,
    /// First page in the region.
    page: u32,
    pages: u32,
}

impl<I: Io> BlockRead<I> {
    /// Asks the device for the pages.
    ///
    /// # Panics
    /// If the lease has another number of pages.
    #[inline(always)]
    pub fn ask(
        &self,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + use<'_, I> + 'static {
        assert_eq!(lease.pages().len() as u32, self.pages, "pages to read");
        let region = self.region();
        let device = self.device();
        device
            .device
            .read(device.offset(region.local, self.page), lease)
    }

    /// Checks what the device gave, and seals it.
    ///
    /// # Errors
    /// As [`Store::read`](super::Store::read).
    #[inline(always)]
    pub fn check(&self, came: Result<FrameLease, IoError>) -> Result<Frame, ReadError> {
        let lease = match came {
            Ok(lease) => lease,
            Err(error) => return Err(self.failed(error)),
        };
        if let Err(wrong) = check_pages(self.region(), self.page, lease.bytes()) {
            self.store.heal(self.id, &self.entry, self.page + wrong);
            return Err(ReadError::Corrupt);
        }
        self.store.counters.bytes_read.add(lease.len() as u64);
        Ok(lease.seal())
    }

    #[cold]
    fn failed(&self, error: IoError) -> ReadError {
        self.store.note_error(self.device(), &error);
        // A block that came late is as right as before.
        if error.kind() != IoErrorKind::Timeout {
            self.store.remove_entry_at(self.id, &self.entry);
        }
        ReadError::Device(error)
    }

    /// The stored CRC-32C of the pages.
    #[inline]
    pub fn checksums(&self) -> Ref<'_, [u32]> {
        let first = self.page as usize;
        Ref::map(self.region().checksums(), |all| {
            &all[first..first + self.pages as usize]
        })
    }

    #[inline]
    fn region(&self) -> &Region {
        &self.store.regions[self.entry.region as usize]
    }

    #[inline]
    fn device(&self) -> &DeviceState<I::Device> {
        let device = self.store.device(self.region().device);
        device.expect("the read began on it")
    }
}

impl<I: Io> Drop for BlockRead<I> {
    #[inline]
    fn drop(&mut self) {
        self.region().release(&self.store.signal);
    }
}

/// Checks the pages in `bytes` against the checksums of `region` from page `first` on; gives the
/// number of the first wrong one.
pub(super) fn check_pages(region: &Region, first: u32, bytes: &[u8]) -> Result<(), u32> {
    let checksums = region.checksums();
    let expected = &checksums[first as usize..];
    for (number, page) in bytes.chunks_exact(PAGE_SIZE).enumerate() {
        if page_checksum(page) != expected[number] {
            return Err(number as u32);
        }
    }
    Ok(())
}
