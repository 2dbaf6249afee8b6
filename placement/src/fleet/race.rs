//! The race for the slots: each member visits every slot once, in an order of its own, and the
//! first ones to come hold it.
//!
//! A member's order is a keyed permutation of the slots; its visit number k happens at the k-th
//! quantile of the exponential distribution over its weight. That is rendezvous hashing with a
//! permutation in the place of the hash, and it can be run from the member's side: only the visits
//! up to the moment at which all slots are held are ever computed, about ln(SLOTS) a slot instead of
//! one for each member and slot.
//!
//! The invariant: visits are judged in the order of their times, then keys, whatever the stretches
//! are in which they are computed.

use super::member::{Member, MemberState};
use super::quantiles::{FRACTION_BITS, quantile};
use super::{LOAD_EXCESS_DIVISOR, MemberIndex};

/// An empty place.
pub(super) const NOBODY: MemberIndex = MemberIndex::MAX;

/// What a quantile is multiplied by before it is divided by the weight: a quantile is at most
/// 2^5 and its fraction, so that the quotient fits 64 bits, and it leaves 14 digits to the earliest
/// visit of a member of the greatest weight.
const TIME_SHIFT: u32 = 27;

/// Who came where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Holders of each slot, one after the other.
    pub(super) holders: Vec<MemberIndex>,
    /// Places a slot in `leaving`; zero where nobody drains.
    pub(super) leaving_places: usize,
    /// Draining members of each slot, [`NOBODY`] behind the last one.
    pub(super) leaving: Vec<MemberIndex>,
    slots: usize,
}

impl Outcome {
    /// Holders of each slot.
    pub(super) fn replicas(&self) -> usize {
        self.holders.len() / self.slots
    }
}

/// Rounds of an [`Order`]. Four are the least that make a good permutation of good round functions
/// (Luby, Rackoff 1988); these functions are cheap, so there are two more.
const ROUNDS: usize = 6;

/// A member's order of slots: a permutation that its key chooses.
///
/// A Feistel network: each round adds a function of one half to the other half, which the same
/// function undoes. The function is multiply-add-shift (Dietzfelbinger 1996), drawn by the key.
struct Order {
    low_bits: u32,
    low_mask: u32,
    high_mask: u32,
    rounds: [(u64, u64); ROUNDS],
}

impl Order {
    fn new(key: u64, bits: u32) -> Order {
        let mut state = key;
        let mut draw = || {
            state = state.wrapping_add(crate::GOLDEN_GAMMA);
            crate::mix(state)
        };
        let low_bits = bits.div_ceil(2);
        Order {
            low_bits,
            low_mask: (1 << low_bits) - 1,
            high_mask: (1 << (bits - low_bits)) - 1,
            rounds: std::array::from_fn(|_| (draw(), draw())),
        }
    }

    fn slot(&self, rank: u32) -> u32 {
        let (mut high, mut low) = (rank >> self.low_bits, rank & self.low_mask);
        for rounds in self.rounds.chunks_exact(2) {
            high ^= multiply_add_shift(rounds[0], low) & self.high_mask;
            low ^= multiply_add_shift(rounds[1], high) & self.low_mask;
        }
        high << self.low_bits | low
    }
}

fn multiply_add_shift((factor, summand): (u64, u64), number: u32) -> u32 {
    (factor.wrapping_mul(u64::from(number)).wrapping_add(summand) >> 32) as u32
}

struct Runner {
    order: Order,
    weight: u64,
    state: MemberState,
    /// Rank of its next visit.
    next: u32,
    /// For how many more slots it may be the first holder.
    room: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    time: u64,
    member: MemberIndex,
    slot: u32,
}

/// How far a slot is.
#[derive(Clone, Copy, Default)]
struct Progress {
    has_first: bool,
    /// Holders after the first.
    others: u8,
    /// Visits that counted so far.
    visitors: u8,
}

impl Progress {
    fn is_open(self, replicas: usize, replicas_before: usize) -> bool {
        !self.has_first
            || usize::from(self.others) + 1 < replicas
            || usize::from(self.visitors) < replicas_before
    }
}

struct Race {
    slots_log2: u32,
    replicas: usize,
    /// Replicas if those who drain counted: how many visitors of a slot held it before.
    replicas_before: usize,
    runners: Vec<Runner>,
    /// Quantiles by rank, as many as were needed so far.
    quantiles: Vec<u64>,
    /// Holders after the first of each slot, by their time.
    others: Vec<MemberIndex>,
    first: Vec<MemberIndex>,
    progress: Vec<Progress>,
    leaving_places: usize,
    leaving: Vec<MemberIndex>,
    slots_open: usize,
}

/// The outcome for `members`, which are ordered by key, one active at least.
pub(super) fn run(members: &[Member], replicas: usize, slots_log2: u32) -> Outcome {
    let mut race = Race::new(members, replicas, slots_log2);
    race.run();
    race.outcome()
}

impl Race {
    fn new(members: &[Member], replicas: usize, slots_log2: u32) -> Race {
        let slots = 1usize << slots_log2;
        let active = |member: &&Member| member.state == MemberState::Active;
        let weight_sum: u64 = members
            .iter()
            .filter(active)
            .map(|member| u64::from(member.weight))
            .sum();
        let replicas_before = replicas.min(members.len());
        let replicas = replicas.min(members.iter().filter(active).count());
        let runners = members.iter().map(|member| Runner {
            order: Order::new(member.key.0, slots_log2),
            weight: u64::from(member.weight),
            state: member.state,
            next: 0,
            room: room(u64::from(member.weight), weight_sum, slots as u64),
        });
        let leaving_places = if members.iter().all(|member| active(&member)) {
            0
        } else {
            replicas_before
        };
        Race {
            slots_log2,
            replicas,
            replicas_before,
            runners: runners.collect(),
            quantiles: Vec::new(),
            others: vec![NOBODY; slots * (replicas - 1)],
            first: vec![NOBODY; slots],
            progress: vec![Progress::default(); slots],
            leaving_places,
            leaving: vec![NOBODY; slots * leaving_places],
            slots_open: slots,
        }
    }

    fn run(&mut self) {
        let slots = 1usize << self.slots_log2;
        let weight_sum: u64 = self.runners.iter().map(|runner| runner.weight).sum();
        // All together visit about a third of the slots in a quarter of the fleet's half-life.
        let mut stretch = ((1u64 << (FRACTION_BITS + TIME_SHIFT)) / weight_sum / 4).max(1);
        let mut until = 0u64;
        let mut visits = Vec::new();
        while self.slots_open > 0 {
            assert!(
                until < u64::MAX,
                "all have visited all slots and some are open"
            );
            until = until.saturating_add(stretch);
            let seen = self.visits_until(until, &mut visits);
            // Those with little weight come late: wait in longer stretches for them.
            if seen < slots / 8 {
                stretch = stretch.saturating_mul(2);
            }
            visits.sort_unstable();
            for visit in visits.drain(..) {
                self.judge(visit);
            }
        }
    }

    /// Collects the visits up to the time `until` to slots that are still open. Gives the number
    /// of all.
    fn visits_until(&mut self, until: u64, visits: &mut Vec<Visit>) -> usize {
        let mut seen = 0;
        for (index, runner) in self.runners.iter_mut().enumerate() {
            while runner.next >> self.slots_log2 == 0 {
                if self.quantiles.len() <= runner.next as usize {
                    self.quantiles.push(quantile(runner.next, self.slots_log2));
                }
                let time = time(self.quantiles[runner.next as usize], runner.weight);
                if time > until {
                    break;
                }
                let slot = runner.order.slot(runner.next);
                runner.next += 1;
                seen += 1;
                if self.progress[slot as usize].is_open(self.replicas, self.replicas_before) {
                    visits.push(Visit {
                        time,
                        member: index as MemberIndex,
                        slot,
                    });
                }
            }
        }
        seen
    }

    fn judge(&mut self, visit: Visit) {
        let slot = visit.slot as usize;
        let progress = &mut self.progress[slot];
        if !progress.is_open(self.replicas, self.replicas_before) {
            return;
        }
        let rank = usize::from(progress.visitors);
        progress.visitors = progress.visitors.saturating_add(1);
        let runner = &mut self.runners[usize::from(visit.member)];
        let others_max = self.replicas - 1;
        if runner.state == MemberState::Draining {
            // It held the slot if it came among the first; behind them it never had it.
            if rank < self.replicas_before {
                let places = &mut self.leaving[slot * self.leaving_places..][..self.leaving_places];
                if let Some(place) = places.iter_mut().find(|place| **place == NOBODY) {
                    *place = visit.member;
                }
            }
        } else if !progress.has_first && runner.room > 0 {
            runner.room -= 1;
            progress.has_first = true;
            self.first[slot] = visit.member;
        } else if usize::from(progress.others) < others_max {
            self.others[slot * others_max + usize::from(progress.others)] = visit.member;
            progress.others += 1;
        }
        if !progress.is_open(self.replicas, self.replicas_before) {
            self.slots_open -= 1;
        }
    }

    fn outcome(self) -> Outcome {
        let others_max = self.replicas - 1;
        let mut holders = Vec::with_capacity(self.first.len() * self.replicas);
        for (slot, first) in self.first.iter().enumerate() {
            holders.push(*first);
            holders.extend_from_slice(&self.others[slot * others_max..][..others_max]);
        }
        Outcome {
            holders,
            leaving_places: self.leaving_places,
            leaving: self.leaving,
            slots: self.first.len(),
        }
    }
}

/// When a member of `weight` makes the visit with this quantile.
fn time(quantile: u64, weight: u64) -> u64 {
    (quantile << TIME_SHIFT) / weight
}

/// For how many slots a member may be the first holder: its share and a bit, rounded up. The sum of
/// all is more than the slots, so that every slot finds one.
fn room(weight: u64, weight_sum: u64, slots: u64) -> u32 {
    let share = u128::from(weight) * u128::from(slots);
    let with_excess = share * u128::from(LOAD_EXCESS_DIVISOR + 1);
    with_excess.div_ceil(u128::from(weight_sum) * u128::from(LOAD_EXCESS_DIVISOR)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_visits_every_slot_once() {
        for bits in [4, 9, 16, 20] {
            for key in [0, 1, 0xdead_beef, u64::MAX] {
                let order = Order::new(key, bits);
                let mut seen = vec![false; 1 << bits];
                for rank in 0..1 << bits {
                    let slot = order.slot(rank) as usize;
                    assert!(!seen[slot], "slot {slot} twice, key {key}, {bits} bits");
                    seen[slot] = true;
                }
            }
        }
    }

    #[test]
    fn the_latest_time_of_the_lightest_member_fits() {
        let latest = quantile((1 << 20) - 1, 20);
        assert!(latest < 1 << (64 - TIME_SHIFT));
        assert_eq!(time(latest, 1) >> TIME_SHIFT, latest);
    }
}
