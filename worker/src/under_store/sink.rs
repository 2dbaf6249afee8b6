//! Where the events of a shard's jobs go.
//!
//! The invariant: an event is posted, or its shard is gone. A full inbox makes the job wait, since
//! an event carries memory that only the shard can take back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Event;
use crate::inbox::{InboxSender, PostError};

/// Longest sleep of a job before it looks again for room, should a notice be missed.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(20);

/// Tells jobs that the shard took an event out.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: AtomicUsize,
    notify: Notify,
}

impl Room {
    /// Called on the core for each event that it took: one load when nobody waits.
    pub fn made(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.notify.notify_one();
        }
    }
}

/// The sending side of one shard's inbox.
#[derive(Clone)]
pub(crate) struct EventSink {
    pub sender: Arc<InboxSender<Event>>,
    pub room: Arc<Room>,
}

impl EventSink {
    /// Posts without waiting; gives the event back when the inbox is full. An event for a shard
    /// that is gone is dropped: its memory went with the shard.
    pub fn try_send(&self, event: Event) -> Result<(), Event> {
        match self.sender.post(event) {
            Ok(()) | Err(PostError::Closed(_)) => Ok(()),
            Err(PostError::Full(event)) => Err(event),
        }
    }

    /// Posts, waiting for room.
    pub async fn send(&self, event: Event) {
        let Err(mut event) = self.try_send(event) else {
            return;
        };
        self.room.waiting.fetch_add(1, Ordering::AcqRel);
        loop {
            let notified = self.room.notify.notified();
            match self.try_send(event) {
                Ok(()) => break,
                Err(back) => event = back,
            }
            // Running into the time limit is as good as a notice: the loop looks again.
            let _ = tokio::time::timeout(ROOM_WAIT_MAX, notified).await;
        }
        self.room.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
