//! Reading a block's pages back, and checking each before anyone sees it.

use std::rc::Rc;

use corelane_io::hint::prefetch;
use corelane_io::{Frame, FrameLease, Io, PAGE_SIZE};
use corelane_rpc_schema::BlockId;
use corelane_rpc_schema::frame::page_checksum;

use super::Inner;
use super::block::BlockEntry;
use super::error::ReadError;
use super::region::{ReadGuard, Region};

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
        let block_pages = entry.length.div_ceil(PAGE_SIZE as u32);
        let pages = lease.pages().len() as u32;
        assert!(
            first_page + pages <= block_pages,
            "pages {first_page}+{pages} of {block_pages} of {id}"
        );
        let region = &self.regions[entry.region as usize];
        let device = self
            .device(region.device)
            .expect("entries point at devices that are there");
        let page = u32::from(entry.first_page) + first_page;
        // They are needed when the device has answered.
        prefetch(&region.checksums()[page as usize..(page + pages) as usize]);
        // Held until the bytes are checked: the region is not written again before.
        let _guard = ReadGuard::new(region, &self.signal);
        let lease = match self
            .read_device(device, device.offset(region.local, page), lease)
            .await
        {
            Ok(lease) => lease,
            Err(error) => {
                self.remove_entry_at(id, &entry);
                return Err(ReadError::Device(error));
            }
        };
        if let Err(wrong) = check_pages(region, page, lease.bytes()) {
            self.heal(id, &entry, page + wrong);
            return Err(ReadError::Corrupt);
        }
        self.counters.bytes_read.add(lease.len() as u64);
        Ok(lease.seal())
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
