//! A block on its way to a device and where it is once there.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Frame, PAGE_SIZE};
use corelane_rpc_schema::BlockId;

use crate::cache::index::{Entry, Place};
use crate::mount::MountId;
use crate::object::ObjectMeta;

/// Where a block is on a device. What [`Store::lookup`](super::Store::lookup) answers.
pub type BlockEntry = Entry;

/// Where a block is on a device, and where the index has it. What
/// [`Store::locate`](super::Store::locate) answers.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    pub(super) id: BlockId,
    pub(super) entry: BlockEntry,
    pub(super) place: Place,
}

/// A block to be kept.
#[derive(Debug)]
pub struct NewBlock {
    /// Its id.
    pub id: BlockId,
    /// What is known of its object.
    pub object: Arc<ObjectMeta>,
    /// The mount that it was fetched for.
    pub mount: MountId,
    /// Its bytes in frames of 64 KiB in order, sealed for the block's pages; the tail of the last
    /// page is zero.
    pub frames: Vec<Frame>,
    /// CRC-32C of each page.
    pub checksums: Box<[u32]>,
    /// Whether it is exempt from eviction.
    pub pinned: bool,
}

impl NewBlock {
    /// Bytes in the block.
    ///
    /// # Panics
    /// If the object has no such block.
    pub fn length(&self) -> u32 {
        self.object.block_length(self.id.index)
    }

    /// Pages that it takes.
    pub fn pages(&self) -> u32 {
        self.length().div_ceil(PAGE_SIZE as u32)
    }
}

/// A block that was appended and is not on the device yet. Its frames can be served meanwhile.
#[derive(Clone, Debug)]
pub struct PendingBlock(pub(super) Rc<NewBlock>);

impl PendingBlock {
    /// The block.
    pub fn block(&self) -> &NewBlock {
        &self.0
    }

    /// Its bytes in frames of 64 KiB, in order.
    pub fn frames(&self) -> &[Frame] {
        &self.0.frames
    }

    /// CRC-32C of each page.
    pub fn checksums(&self) -> &[u32] {
        &self.0.checksums
    }

    /// The frame that holds page `page` of the block, and the page's number in that frame.
    ///
    /// # Panics
    /// If the block has no such page.
    pub fn frame_of(&self, page: u32) -> (&Frame, usize) {
        let per_frame = self.0.frames[0].pages() as u32;
        (
            &self.0.frames[(page / per_frame) as usize],
            (page % per_frame) as usize,
        )
    }
}

/// Blocks and bytes of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the object is pinned.
    pub pinned: bool,
}
