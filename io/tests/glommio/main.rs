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

#[test]
fn a_device_on_which_nothing_was_ever_written_is_refused_with_the_command() {
    use corelane_io::Io;
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = tempfile::NamedTempFile::new_in(directory).expect("a file");
    file.as_file().set_len(1 << 20).expect("room");
    let path = file.path().to_owned();
    let error = backend::run(&backend::small(), |io| async move {
        io.open_device(&path).await.err().expect("it is a hole")
    })
    .expect("a core")
    .to_string();
    assert!(error.contains("corelane device format"), "{error}");
}
