//! Making room: emptying the oldest region of a log.

use std::rc::Rc;

use corelane_io::Io;

use super::Inner;

impl<I: Io> Inner<I> {
    /// Keeps regions of a device free until the store stops.
    pub(super) async fn keep_room(self: Rc<Self>, _ordinal: u16) {
        self.signal.wait_until(|| self.stopping.get()).await;
    }

    /// See [`Store::release_region`](super::Store::release_region).
    pub(super) async fn release(self: &Rc<Self>, _device: u16, _region: u32, _sequence: u64) {}
}
