//! What may be under way on a lane: requests and payload bytes, as the worker granted them at hello.
//!
//! The invariant: what was granted is never exceeded, and who waits is served in order of arrival,
//! so that a long read is not overtaken without end by short ones.
//!
//! The client's lanes wait by tokio's semaphores, which queue in the same order and end with the
//! lane; [`CreditLimits`] tells them how much to take. [`Credits`] is the same as a state machine.

use std::collections::VecDeque;

/// What a worker grants to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditLimits {
    requests: u32,
    bytes: u32,
}

impl CreditLimits {
    /// As the hello's answer says, with room for one request at least. More bytes than a u32 could
    /// not be used at once.
    pub fn granted(requests_in_flight_max: u32, bytes_in_flight_max: u64) -> Self {
        CreditLimits {
            requests: requests_in_flight_max.max(1),
            bytes: bytes_in_flight_max.clamp(1, u64::from(u32::MAX)) as u32,
        }
    }

    /// Requests under way at the most.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Payload bytes under way at the most.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// What a read of `bytes` takes. A piece that was cut by another lane's limits may be longer
    /// than all credit here; it then goes alone, and the worker decides.
    pub fn bytes_of_read(&self, bytes: u32) -> u32 {
        bytes.min(self.bytes)
    }
}

/// The credits of a lane, and those who wait for them.
#[derive(Clone, Debug)]
pub struct Credits<W> {
    limits: CreditLimits,
    requests: u32,
    bytes: u32,
    waiting: VecDeque<(u32, W)>,
}

impl<W> Credits<W> {
    /// With nothing under way.
    pub fn new(limits: CreditLimits) -> Self {
        Credits {
            limits,
            requests: 0,
            bytes: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a read of `bytes`: gives `who` back if it may be sent now, and keeps it in the
    /// queue otherwise.
    pub fn ask(&mut self, bytes: u32, who: W) -> Option<W> {
        if self.waiting.is_empty() && self.fits(bytes) {
            self.take(bytes);
            return Some(who);
        }
        self.waiting.push_back((bytes, who));
        None
    }

    /// A read of `bytes` was answered: `send` is called for everyone who may be sent now.
    ///
    /// # Panics
    /// If nothing was under way.
    pub fn give_back(&mut self, bytes: u32, mut send: impl FnMut(W)) {
        self.requests = self
            .requests
            .checked_sub(1)
            .expect("a request was under way");
        let bytes = self.limits.bytes_of_read(bytes);
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .expect("its bytes were under way");
        while let Some((bytes, _)) = self.waiting.front() {
            let bytes = *bytes;
            if !self.fits(bytes) {
                break;
            }
            self.take(bytes);
            let (_, who) = self.waiting.pop_front().expect("it was at the front");
            send(who);
        }
    }

    /// The lane is dead: nothing is under way any more, and those who waited are handed over.
    pub fn close(&mut self) -> impl Iterator<Item = W> {
        (self.requests, self.bytes) = (0, 0);
        self.waiting.drain(..).map(|(_, who)| who)
    }

    fn fits(&self, bytes: u32) -> bool {
        self.requests < self.limits.requests
            && self.limits.bytes_of_read(bytes) <= self.limits.bytes - self.bytes
    }

    fn take(&mut self, bytes: u32) {
        self.requests += 1;
        self.bytes += self.limits.bytes_of_read(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grants_that_allow_nothing_allow_one_request() {
        let limits = CreditLimits::granted(0, 0);
        let mut credits = Credits::new(limits);
        assert_eq!(credits.ask(4096, 'a'), Some('a'));
        assert_eq!(credits.ask(4096, 'b'), None);
        let mut sent = Vec::new();
        credits.give_back(4096, |who| sent.push(who));
        assert_eq!(sent, ['b']);
        assert_eq!(CreditLimits::granted(1, u64::MAX).bytes(), u32::MAX);
    }

    #[test]
    fn a_long_read_is_not_overtaken() {
        let mut credits = Credits::new(CreditLimits::granted(10, 100));
        assert_eq!(credits.ask(60, 1), Some(1));
        assert_eq!(credits.ask(60, 2), None);
        assert_eq!(credits.ask(10, 3), None, "it would fit, and waits");
        let mut sent = Vec::new();
        credits.give_back(60, |who| sent.push(who));
        assert_eq!(sent, [2, 3]);
        assert_eq!(credits.ask(60, 4), None);
        assert_eq!(credits.close().collect::<Vec<_>>(), [4]);
        assert_eq!(credits.ask(100, 5), Some(5));
    }

    proptest! {
        #[test]
        fn grants_are_kept_and_everyone_is_served_in_order(
            requests in 1..8u32, bytes in 1..10_000u64,
            lengths in proptest::collection::vec(1..20_000u32, 1..200),
            ends in proptest::collection::vec(any::<bool>(), 400),
        ) {
            let limits = CreditLimits::granted(requests, bytes);
            let mut credits = Credits::new(limits);
            let mut under_way = VecDeque::new();
            let mut sent = Vec::new();
            let mut asks = lengths.iter().copied().enumerate();
            let mut ends = ends.into_iter().chain(std::iter::repeat(true));
            loop {
                let ends_one = ends.next() == Some(true);
                if ends_one && !under_way.is_empty() {
                    let length = under_way.pop_front().expect("it is not empty");
                    credits.give_back(length, |who: usize| {
                        sent.push(who);
                        under_way.push_back(lengths[who]);
                    });
                } else if let Some((who, length)) = asks.next() {
                    if let Some(who) = credits.ask(length, who) {
                        sent.push(who);
                        under_way.push_back(length);
                    }
                } else if under_way.is_empty() {
                    break;
                }
                prop_assert!(under_way.len() as u32 <= limits.requests());
                let bytes: u64 = under_way
                    .iter()
                    .map(|length| u64::from(limits.bytes_of_read(*length)))
                    .sum();
                prop_assert!(bytes <= u64::from(limits.bytes()));
            }
            prop_assert_eq!(sent, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
