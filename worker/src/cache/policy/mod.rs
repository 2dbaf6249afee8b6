//! Which frame of the DRAM tier goes when room is needed.
//!
//! A policy knows slots, not data: the tier tells it what was inserted, touched and removed, and
//! asks for a victim. One file per policy. `touched` is on the way of every hit and must be a few
//! instructions.

mod noop;
mod s3_fifo;

pub use noop::Noop;
pub use s3_fifo::S3Fifo;

/// Number of a slot of the tier.
pub type Slot = u32;

/// A replacement policy over a fixed number of slots.
pub trait Policy {
    /// The frame with hash `key` was put into `slot`, which was empty.
    fn inserted(&mut self, slot: Slot, key: u64);

    /// The frame in `slot` was read.
    fn touched(&mut self, slot: Slot);

    /// The frame in `slot` was taken out for a reason other than [`Policy::victim`].
    fn removed(&mut self, slot: Slot);

    /// The slot to empty next; the policy forgets it. `None` when it holds nothing.
    fn victim(&mut self) -> Option<Slot>;

    /// Whether a frame with hash `key`, just read from the device, is worth keeping.
    fn admits(&mut self, key: u64) -> bool;
}

/// Which policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// [`S3Fifo`].
    #[default]
    S3Fifo,
    /// [`Noop`].
    Noop,
}

impl PolicyKind {
    /// A policy of this kind for `slots` slots.
    pub fn build(self, slots: usize) -> Box<dyn Policy> {
        match self {
            PolicyKind::S3Fifo => Box::new(S3Fifo::new(slots)),
            PolicyKind::Noop => Box::new(Noop::new(slots)),
        }
    }
}
