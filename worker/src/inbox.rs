//! A shard's letter box for threads without a ring: bounded, and it rings the core's doorbell.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

use corelane_io::Doorbell;

/// The sending side; clones share the bound.
#[derive(Clone)]
pub struct InboxSender<T> {
    sender: SyncSender<T>,
    doorbell: Arc<OnceLock<Arc<dyn Doorbell>>>,
}

/// The receiving side, on the core.
pub struct Inbox<T> {
    receiver: Receiver<T>,
    doorbell: Arc<OnceLock<Arc<dyn Doorbell>>>,
}

/// Why a letter could not be posted; it comes back.
#[derive(Debug)]
pub enum PostError<T> {
    /// The box is full; try later.
    Full(T),
    /// The shard is gone.
    Closed(T),
}

/// A box for at most `capacity` letters.
pub fn inbox<T>(capacity: usize) -> (InboxSender<T>, Inbox<T>) {
    let (sender, receiver) = sync_channel(capacity);
    let doorbell = Arc::new(OnceLock::new());
    let sending = InboxSender {
        sender,
        doorbell: Arc::clone(&doorbell),
    };
    (sending, Inbox { receiver, doorbell })
}

impl<T> InboxSender<T> {
    /// Posts a letter without waiting.
    ///
    /// # Errors
    /// Gives the letter back when the box is full or the shard is gone.
    pub fn post(&self, letter: T) -> Result<(), PostError<T>> {
        match self.sender.try_send(letter) {
            Ok(()) => {
                if let Some(doorbell) = self.doorbell.get() {
                    doorbell.ring();
                }
                Ok(())
            }
            Err(TrySendError::Full(letter)) => Err(PostError::Full(letter)),
            Err(TrySendError::Disconnected(letter)) => Err(PostError::Closed(letter)),
        }
    }
}

impl<T> Inbox<T> {
    /// Connects the box to the core that reads it. Letters posted before are found by [`Inbox::take`].
    pub fn connect(&self, doorbell: Arc<dyn Doorbell>) {
        // A second connection would be a second reader, which the type of the receiver forbids.
        let _ = self.doorbell.set(doorbell);
    }

    /// The next letter, if there is one.
    pub fn take(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Doorbell for Count {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_full_box_gives_the_letter_back_and_every_letter_rings() {
        let (sender, inbox) = inbox(2);
        let bell = Arc::new(Count::default());
        inbox.connect(Arc::clone(&bell) as Arc<dyn Doorbell>);
        assert!(sender.post(1).is_ok() && sender.post(2).is_ok());
        assert!(matches!(sender.post(3), Err(PostError::Full(3))));
        assert_eq!(bell.0.load(Ordering::Relaxed), 2);
        assert_eq!(
            (inbox.take(), inbox.take(), inbox.take()),
            (Some(1), Some(2), None)
        );
        drop(inbox);
        assert!(matches!(sender.post(4), Err(PostError::Closed(4))));
    }
}
