//! The glommio backend as its users see it: the same tests as for our own ring.

#[path = "../behaviour/mod.rs"]
mod behaviour;

/// What the tests of behaviour run on.
mod backend {
    use std::time::Duration;

    pub use corelane_io::glommio::{
        GlommioIo as CoreIo, GlommioListener as CoreListener, GlommioStream as CoreStream, Options,
        run, spawn_core,
    };

    /// Whether the memory of pools is registered with the kernel.
    pub const REGISTERS_FRAMES: bool = false;

    /// Few and small buffers, so that tests get to their ends.
    pub fn small() -> Options {
        Options {
            entries: 64,
            spin: Duration::ZERO,
            device_buffer_bytes: 1 << 20,
            receive_buffer_bytes: 4096,
            ..Options::default()
        }
    }

    /// Every way to send that the options choose between.
    pub fn ways_to_send() -> Vec<Options> {
        vec![small()]
    }
}
