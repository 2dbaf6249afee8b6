//! The io_uring backend as its users see it.

#[path = "../behaviour/mod.rs"]
mod behaviour;

/// What the tests of behaviour run on.
mod backend {
    use std::time::Duration;

    pub use corelane_io::uring::{
        Options, UringIo as CoreIo, UringListener as CoreListener, UringStream as CoreStream, run,
        spawn_core,
    };

    /// Whether the memory of pools is registered with the kernel.
    pub const REGISTERS_FRAMES: bool = true;

    /// Few and small buffers, so that tests get to their ends.
    pub fn small() -> Options {
        Options {
            entries: 64,
            spin: Duration::ZERO,
            receive_buffers: 64,
            receive_buffer_bytes: 4096,
            ..Options::default()
        }
    }

    /// Every way to send that the options choose between.
    pub fn ways_to_send() -> Vec<Options> {
        let way = |send_zero_copy_above| Options {
            send_zero_copy_above,
            ..small()
        };
        vec![way(None), way(Some(0))]
    }
}
