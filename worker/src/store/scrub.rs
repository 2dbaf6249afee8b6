//! Reading everything in the background, slowly, so that what went bad is found before it is asked for.
//!
//! A round goes over the regions; what a region's records name and the index still has there is
//! read and checked. A wrong page drops its block, which is fetched again when asked for.

use std::rc::Rc;
use std::time::Duration;

use corelane_io::{Io, IoErrorKind, PAGE_SIZE};
use corelane_rpc_schema::BlockId;
use rkyv::util::AlignedVec;

use super::Inner;
use super::block::BlockEntry;
use super::device::DeviceState;
use super::read::check_pages;
use super::region::{ReadGuard, RegionState};
use super::region_records::RegionRecords;

/// Rest between two rounds, so that an almost empty store is not read in circles.
const REST: Duration = Duration::from_secs(10);

impl<I: Io> Inner<I> {
    /// Goes over all regions, again and again, until the store stops.
    pub(super) async fn scrub(self: Rc<Self>) {
        loop {
            self.signal
                .wait_until(|| self.stopping.get() || self.scrub_pace.bytes_per_second.get() > 0)
                .await;
            for number in 0..self.regions.len() as u32 {
                if self.stopping.get() {
                    return;
                }
                if self.scrub_pace.bytes_per_second.get() > 0 {
                    self.scrub_region(number).await;
                }
            }
            self.counters.scrub_rounds.add(1);
            self.io.sleep(REST).await;
        }
    }

    async fn scrub_region(&self, number: u32) {
        let region = &self.regions[number as usize];
        let is_settled = matches!(
            region.state.get(),
            RegionState::Sealed | RegionState::Sibling
        );
        let Some(device) = self
            .device(region.device)
            .filter(|device| device.is_usable())
        else {
            return;
        };
        if !is_settled || region.live_blocks.get() == 0 {
            return;
        }
        let sequence = region.sequence.get();
        let Some(records) = self.records_of(device, number).await else {
            if region.sequence.get() == sequence && region.live_blocks.get() > 0 {
                self.counters.corrupt_summaries.add(1);
                tracing::warn!(
                    device = %device.path, offset = device.offset(region.local, 0),
                    "the records of a region cannot be read: its blocks will be misses after the next restart"
                );
            }
            return;
        };
        self.scrub_summaries(device, number, &records).await;
        for summary in records.summaries() {
            for block in summary.blocks() {
                let entry = self.index.borrow().get(block.id).filter(|entry| {
                    (entry.region, u32::from(entry.first_page)) == (number, block.first_page)
                });
                if let Some(entry) = entry {
                    self.scrub_block(device, block.id, entry).await;
                }
            }
        }
    }

    /// Writes summaries again that are right in the footer only: of a region that has one, nobody else
    /// looks at them.
    async fn scrub_summaries(
        &self,
        device: &DeviceState<I::Device>,
        number: u32,
        records: &RegionRecords,
    ) {
        let region = &self.regions[number as usize];
        let is_same = region.sequence.get() == records.head.sequence;
        if records.walked || !is_same || region.state.get() != RegionState::Sealed {
            return;
        }
        // Reclaim waits for it before it says that the region is free.
        let _guard = ReadGuard::new(region, &self.signal);
        for (page, copy) in records.pages() {
            let offset = device.offset(region.local, page);
            let mut bytes = AlignedVec::with_capacity(copy.len());
            let pages = (copy.len() / PAGE_SIZE) as u32;
            self.scrub_pace.wait(&self.io, copy.len()).await;
            let read = self.read_bytes(device, offset, pages, &mut bytes).await;
            if read.is_err() || bytes[..] == *copy {
                continue;
            }
            self.counters.corrupt_summaries.add(1);
            tracing::warn!(
                device = %device.path, region = region.local, offset,
                "a summary does not check and is written again from the footer of its region. If it happens \
                 again, replace the device"
            );
            // The error is counted; the footer still has it.
            let _ = self.write_bytes(device, offset, copy).await;
        }
    }

    async fn scrub_block(&self, device: &DeviceState<I::Device>, id: BlockId, entry: BlockEntry) {
        let region = &self.regions[entry.region as usize];
        let pages = entry.length.div_ceil(PAGE_SIZE as u32);
        for start in (0..pages).step_by(self.scratch.frame_pages()) {
            let count = (pages - start).min(self.scratch.frame_pages() as u32);
            let bytes = count as usize * PAGE_SIZE;
            self.scrub_pace.wait(&self.io, bytes).await;
            // The block may have moved while others had their turn.
            if !self.is_still_at(id, &entry) {
                return;
            }
            let permit = self.scratch.for_reading(&self.signal).await;
            let guard = ReadGuard::new(region, &self.signal);
            let Ok(frame) = permit.frame() else { return };
            let lease = frame
                .lease(0..count as usize)
                .expect("a fresh frame is vacant");
            drop(frame);
            let first = u32::from(entry.first_page) + start;
            match self
                .read_device(device, device.offset(region.local, first), lease)
                .await
            {
                Ok(lease) => match check_pages(region, first, lease.bytes()) {
                    Ok(()) => self.counters.bytes_scrubbed.add(bytes as u64),
                    Err(wrong) => return self.heal(id, &entry, first + wrong),
                },
                Err(error) => {
                    if error.kind() != IoErrorKind::Timeout {
                        self.remove_entry_at(id, &entry);
                    }
                    return;
                }
            }
            drop(guard);
        }
    }
}
