//! Bounded queues between cores: one single-producer, single-consumer ring for each ordered pair.
//!
//! Messages from one core to another arrive in the order in which they were sent, and never more
//! than `capacity` of them wait. A full queue hands the message back: what to do then (answer
//! "busy", keep it for the next turn) is for the sender to say, so the mesh never waits.

use std::sync::Arc;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::Doorbell;

/// One core's end of all its queues. Moves to the thread of that core.
pub struct MeshEnd<T> {
    core: usize,
    outgoing: Vec<Producer<T>>,
    incoming: Vec<Consumer<T>>,
    doorbells: Vec<Arc<dyn Doorbell>>,
    /// Where the next look for a message starts, so that no sender is favoured.
    next: usize,
}

/// One end for each of `cores` cores; every queue holds `capacity` messages. A core also has a
/// queue to itself, so that a sender need not treat its own core apart.
///
/// # Panics
/// If `cores` or `capacity` is zero.
pub fn build<T: Send>(cores: usize, capacity: usize) -> Vec<MeshEnd<T>> {
    assert!(
        cores > 0 && capacity > 0,
        "a mesh of {cores} cores with {capacity} messages each"
    );
    let mut ends: Vec<MeshEnd<T>> = (0..cores)
        .map(|core| MeshEnd {
            core,
            outgoing: Vec::with_capacity(cores),
            incoming: Vec::with_capacity(cores),
            doorbells: Vec::new(),
            next: 0,
        })
        .collect();
    // `from` ascends in the outer loop, so the queue at index i of `outgoing` goes to core i and
    // the one at index i of `incoming` comes from core i.
    for from in 0..cores {
        for to in 0..cores {
            let (producer, consumer) = RingBuffer::new(capacity);
            ends[from].outgoing.push(producer);
            ends[to].incoming.push(consumer);
        }
    }
    ends
}

impl<T> MeshEnd<T> {
    /// The core that this end is of.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Number of cores in the mesh.
    pub fn cores(&self) -> usize {
        self.outgoing.len()
    }

    /// From now on, a message for core `i` rings `doorbells[i]`. Messages sent earlier did not
    /// ring, so the cores for which some wait are rung now: they may have gone to sleep since.
    ///
    /// # Panics
    /// If there is not one doorbell a core.
    pub fn set_doorbells(&mut self, doorbells: Vec<Arc<dyn Doorbell>>) {
        assert_eq!(doorbells.len(), self.cores(), "one doorbell a core");
        for (queue, doorbell) in self.outgoing.iter().zip(&doorbells) {
            if queue.slots() < queue.buffer().capacity() {
                doorbell.ring();
            }
        }
        self.doorbells = doorbells;
    }

    /// Sends `message` to core `to` and rings it.
    ///
    /// # Errors
    /// Gives the message back when the queue is full.
    ///
    /// # Panics
    /// If there is no core `to`.
    pub fn send(&mut self, to: usize, message: T) -> Result<(), T> {
        self.outgoing[to]
            .push(message)
            .map_err(|PushError::Full(message)| message)?;
        if let Some(doorbell) = self.doorbells.get(to) {
            doorbell.ring();
        }
        Ok(())
    }

    /// Messages that core `to` could be sent now.
    ///
    /// # Panics
    /// If there is no core `to`.
    pub fn room(&self, to: usize) -> usize {
        self.outgoing[to].slots()
    }

    /// The next message and the core that sent it. Senders take turns.
    pub fn try_receive(&mut self) -> Option<(usize, T)> {
        let cores = self.incoming.len();
        for _ in 0..cores {
            let from = self.next;
            self.next = if from + 1 == cores { 0 } else { from + 1 };
            if let Ok(message) = self.incoming[from].pop() {
                return Some((from, message));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Send { from: usize, to: usize },
        Receive { at: usize },
    }

    const CORES: usize = 3;

    fn operation() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..CORES, 0..CORES).prop_map(|(from, to)| Op::Send { from, to }),
            2 => (0..CORES).prop_map(|at| Op::Receive { at }),
        ]
    }

    #[derive(Default)]
    struct CountingBell(AtomicUsize);

    impl Doorbell for CountingBell {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    proptest! {
        #[test]
        fn every_pair_is_a_bounded_queue_that_keeps_its_order(
            capacity in 1usize..5,
            operations in prop::collection::vec(operation(), 0..300),
        ) {
            let mut mesh = build::<u32>(CORES, capacity);
            let bells: Vec<Arc<CountingBell>> = (0..CORES).map(|_| Arc::default()).collect();
            for end in &mut mesh {
                end.set_doorbells(bells.iter().map(|bell| Arc::clone(bell) as Arc<dyn Doorbell>).collect());
            }
            let mut oracle = vec![vec![VecDeque::new(); CORES]; CORES];
            let mut rings = [0; CORES];
            for (number, operation) in operations.into_iter().enumerate() {
                let number = number as u32;
                match operation {
                    Op::Send { from, to } => {
                        let queue = &mut oracle[from][to];
                        prop_assert_eq!(mesh[from].room(to), capacity - queue.len());
                        let sent = mesh[from].send(to, number);
                        if queue.len() < capacity {
                            prop_assert_eq!(sent, Ok(()));
                            queue.push_back(number);
                            rings[to] += 1;
                        } else {
                            prop_assert_eq!(sent, Err(number));
                        }
                        prop_assert_eq!(bells[to].0.load(Ordering::SeqCst), rings[to]);
                    }
                    Op::Receive { at } => match mesh[at].try_receive() {
                        Some((from, number)) => {
                            prop_assert_eq!(oracle[from][at].pop_front(), Some(number));
                        }
                        None => prop_assert!(oracle.iter().all(|queues| queues[at].is_empty())),
                    },
                }
            }
        }
    }

    #[test]
    fn what_was_sent_before_there_were_doorbells_rings_when_they_come() {
        let mut mesh = build::<u32>(3, 4);
        mesh[0].send(2, 7).expect("room for four");
        let bells: Vec<Arc<CountingBell>> = (0..3).map(|_| Arc::default()).collect();
        let doorbells = bells.iter().map(|bell| Arc::clone(bell) as _).collect();
        mesh[0].set_doorbells(doorbells);
        let rings = bells.iter().map(|bell| bell.0.load(Ordering::SeqCst));
        assert_eq!(rings.collect::<Vec<_>>(), [0, 0, 1]);
    }

    #[test]
    fn no_sender_is_favoured() {
        let mut mesh = build::<u32>(3, 4);
        for sender in &mut mesh {
            for number in 0..2 {
                sender.send(1, number).expect("room for four");
            }
        }
        let from: Vec<usize> = std::iter::from_fn(|| mesh[1].try_receive())
            .map(|(from, _)| from)
            .collect();
        assert_eq!(from, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn messages_cross_threads_in_order() {
        const MESSAGES: u64 = 100_000;
        let mut mesh = build::<u64>(2, 16);
        let mut receiver = mesh.pop().expect("two ends");
        let mut sender = mesh.pop().expect("two ends");
        let sending = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                let mut message = number;
                while let Err(back) = sender.send(1, message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..MESSAGES {
            let received = loop {
                match receiver.try_receive() {
                    Some(message) => break message,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(received, (0, expected));
        }
        sending.join().expect("the sender ends");
    }
}
