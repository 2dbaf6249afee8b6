//! Looks at fixed intervals, for whoever judges by age.
//!
//! A core that was held up (a stopped process, a virtual machine that was moved, much memory to register)
//! finds everything old when it goes on, although what came meanwhile waits to be taken. So a look that
//! comes late is left out: by the next one it has been taken.

use std::time::Duration;

use corelane_io::Io;

/// A look that is this much late finds ages that say nothing. Ages that are judged are longer.
const LATE_MIN: Duration = Duration::from_secs(1);

/// Sleeps for `interval`; false where it took much longer, so that ages say nothing now.
pub async fn next_look<I: Io>(io: &I, interval: Duration) -> bool {
    let began = io.now();
    io.sleep(interval).await;
    io.now().since(began) < interval + LATE_MIN
}
