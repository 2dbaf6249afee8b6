//! The phase that the worker is in, as the operations port shows it.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use tokio::sync::watch;

use crate::control_plane::Control;

/// Phase of a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Shards recover.
    Starting,
    /// Lanes are accepted.
    Serving,
    /// What is under way is finished.
    Stopping,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Stopping => "stopping",
        }
    }
}

/// What the operations port can tell. Shared on the control thread.
pub struct Status {
    phase: Cell<Phase>,
    is_stopping: watch::Sender<bool>,
    control: OnceCell<Rc<Control>>,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            phase: Cell::new(Phase::Starting),
            is_stopping: watch::Sender::new(false),
            control: OnceCell::new(),
        }
    }
}

impl Status {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// From now on the worker serves.
    ///
    /// # Panics
    /// If it did so before.
    pub fn serve(&self, control: Rc<Control>) {
        assert!(
            self.control.set(control).is_ok(),
            "a worker begins to serve once"
        );
        self.phase.set(Phase::Serving);
    }

    /// From now on the worker is ending.
    pub fn stop(&self) {
        self.phase.set(Phase::Stopping);
        self.is_stopping.send_replace(true);
    }

    /// Waits until the worker begins to end; without end if it does already.
    pub fn stopping(&self) -> impl Future<Output = ()> + use<> {
        let mut is_stopping = self.is_stopping.subscribe();
        let was_stopping = self.phase() == Phase::Stopping;
        async move {
            if was_stopping || is_stopping.wait_for(|is| *is).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// What knows the shards; `None` while they recover.
    pub fn control(&self) -> Option<&Rc<Control>> {
        self.control.get()
    }
}
