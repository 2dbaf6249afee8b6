//! Signals that end the demo: it cleans up first, and the exit code tells which signal it was.

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Resolves with a failure when the user or the system asks the demo to end.
pub async fn interrupted() -> Failure {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return Failure::failed("signals cannot be watched; the demo would leave files behind");
    };
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    };
    Failure::failed(format!(
        "ended by {name}; the worker is stopped and the files are removed"
    ))
}
