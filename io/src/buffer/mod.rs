//! Page-aligned memory that devices fill and sockets send from.
//!
//! A [`FramePool`] maps its memory once, at start; a [`Frame`] is a counted reference to a run of
//! pages in it. Every page of a frame is in one of three states:
//!
//! ```text
//! vacant --lease--> leased (exactly one writer) --seal--> sealed (immutable, readable)
//!    ^                 |                                      |
//!    +----- drop ------+          last reference dropped -----+
//! ```
//!
//! That is the one invariant here: a page has one writer or many readers, never both. It is what
//! makes the safe functions of this module safe, also while another thread fills a [`RemoteLease`]
//! or sends a [`RemoteFrame`]. What the bytes mean, and which device or socket they go to, it must
//! not know.
//!
//! | file | holds |
//! |---|---|
//! | `pool` | the frames of a core: which are free, which linger |
//! | `frame` | a counted reference and the states of its pages |
//! | `lease` | the right to write pages |
//! | `slice` | sealed bytes, held |
//! | `remote` | leases and slices on other threads |
//! | `shared` | the memory and the pins: what other threads see of a pool |

mod frame;
mod lease;
mod pool;
mod remote;
mod shared;
mod slice;

pub use frame::Frame;
pub use lease::FrameLease;
pub use pool::FramePool;
pub use remote::{RemoteFrame, RemoteLease};
pub use slice::FrameSlice;

/// Bytes in a page: the unit of device I/O and of checksums.
pub const PAGE_SIZE: usize = 4096;

/// Most pages a frame may have; the state of a frame's pages is two 16-bit maps.
pub const FRAME_PAGES_MAX: usize = 16;
