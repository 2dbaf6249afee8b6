//! Where a stripe lives among the workers of a fleet.
//!
//! The hash space is cut into [`SLOTS`] slots. For each slot the workers are ordered by weighted
//! rendezvous hashing (Thaler, Ravishankar, "Using name-based mappings to increase hit rates",
//! IEEE/ACM ToN 6:1, 1998; with weights as in Schindelhauer, Schomaker, "Weighted distributed hash
//! tables", SPAA 2005, the logarithmic method): worker `i` of weight `w` reaches a slot at the time
//! `-log(u) / w`, and the earliest ones hold it. So a worker wins in proportion to its weight, and
//! one that joins or leaves changes nothing but the slots that it wins or held. The order of a slot
//! is found once, at the making of the fleet; a look-up is one hash and one array access.
//!
//! The invariant: the answer follows from the set of members alone, not from their order or from
//! the machine. All arithmetic is on integers, because logarithms of floating-point numbers differ
//! in the last digit between mathematical libraries and a client and a worker must agree.
//!
//! **Balance.** With n equal workers a slot's first worker is one of n, so a worker is first for
//! SLOTS / n slots on average with a relative deviation of at most sqrt(n / SLOTS): 0.7 % for 50,
//! 2.2 % for 500, 5.3 % for 3,000. The busiest of 3,000 would lie 3.5 deviations, 19 %, above the
//! mean; so a worker is first for at most 10 % more than its share ([`LOAD_EXCESS_DIVISOR`]), and a
//! slot that finds its earliest worker full goes to the next one (bounded loads: Mirrokni, Thorup,
//! Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018). The bound lies beyond four
//! deviations up to 600 workers, so it is never met there and moves are the least possible; of 3,000
//! it touches about three in a hundred, and a change moves up to a twentieth more than the least.
//!
//! Further replicas are not bounded: they follow the race alone. Where few workers have very
//! unequal weights, second replicas are therefore spread more evenly than the weights say, as they
//! must be: with two workers and two replicas each holds everything.

mod member;
mod quantiles;
mod race;

pub use member::{FleetError, Member, MemberKey, MemberState, WEIGHT_MAX};

use race::{NOBODY, Outcome};

/// Slots of a fleet: 2^20, so that 3,000 workers have 350 each. A table of two replicas takes 4 MiB.
pub const SLOTS: u32 = 1 << 20;

/// Most members of a fleet; they are numbered by 16 bits.
pub const MEMBERS_MAX: usize = 16_384;

/// Most replicas of a stripe. More would be a copy of the fleet, not a safeguard.
pub const REPLICAS_MAX: usize = 8;

/// A worker is first for at most its share of the slots and one part in this many more.
pub const LOAD_EXCESS_DIVISOR: u64 = 10;

/// One of [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Number of a member: its place in [`Fleet::members`].
pub type MemberIndex = u16;

/// Who holds which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    members: Vec<Member>,
    replicas: usize,
    slots_log2: u32,
    outcome: Outcome,
}

impl Fleet {
    /// A fleet of `members` that keeps each stripe on `replicas` of them, or on all that are
    /// active where those are fewer.
    ///
    /// Takes time for each slot, not for each slot and member: tens of milliseconds for a few
    /// members, some tenths of a second for thousands.
    ///
    /// # Errors
    /// [`FleetError`] where there is no such fleet.
    pub fn new(members: &[Member], replicas: usize) -> Result<Fleet, FleetError> {
        Fleet::with_slots(members, replicas, SLOTS.ilog2())
    }

    /// With 2^`slots_log2` slots, so that tests can look at many fleets.
    fn with_slots(
        members: &[Member],
        replicas: usize,
        slots_log2: u32,
    ) -> Result<Fleet, FleetError> {
        let members = member::checked(members, replicas)?;
        let outcome = race::run(&members, replicas, slots_log2);
        Ok(Fleet {
            replicas: outcome.replicas(),
            members,
            slots_log2,
            outcome,
        })
    }

    /// The members, ordered by key.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many workers hold each stripe.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// The number of slots.
    pub fn slots(&self) -> u32 {
        1 << self.slots_log2
    }

    /// The number of the member with `key`.
    pub fn index_of(&self, key: MemberKey) -> Option<MemberIndex> {
        let found = self
            .members
            .binary_search_by_key(&key, |member| member.key)
            .ok()?;
        Some(found as MemberIndex)
    }

    /// The slot of `stripe` of the object with home half `home`.
    ///
    /// Independent of [`crate::partition_of`], else a worker's slots would fill few of its
    /// partitions: another start, and the upper bits.
    pub fn slot_of(&self, home: u64, stripe: u32) -> Slot {
        const START: u64 = 0xd1b5_4a32_d192_ed03;
        let key = home
            .wrapping_add(u64::from(stripe).wrapping_mul(crate::GOLDEN_GAMMA))
            .wrapping_add(START);
        Slot((crate::mix(key) >> (64 - self.slots_log2)) as u32)
    }

    /// Who holds `slot`, each one once, the one to ask first at the front. None of them is draining.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn holders(&self, slot: Slot) -> &[MemberIndex] {
        let first = slot.0 as usize * self.replicas;
        &self.outcome.holders[first..first + self.replicas]
    }

    /// The draining members that held `slot` before they began to drain and may still have its
    /// bytes, in the order of the race.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn leaving(&self, slot: Slot) -> impl Iterator<Item = MemberIndex> {
        let places = self.outcome.leaving_places;
        let first = slot.0 as usize * places;
        self.outcome.leaving[first..first + places]
            .iter()
            .copied()
            .take_while(|index| *index != NOBODY)
    }

    /// Who holds `stripe` of the object with home half `home`.
    pub fn holders_of(&self, home: u64, stripe: u32) -> &[MemberIndex] {
        self.holders(self.slot_of(home, stripe))
    }

    /// For how many slots each member is the one to ask first, in the order of the members.
    pub fn first_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.members.len()];
        for holders in self.outcome.holders.chunks_exact(self.replicas) {
            counts[usize::from(holders[0])] += 1;
        }
        counts
    }

    /// The share of the places (slots times the first `replicas`) whose worker holds the slot here
    /// and not in `before`: what has to be copied or fetched again.
    ///
    /// # Panics
    /// If the fleets have other numbers of slots, or this one has fewer replicas.
    pub fn moved_share_from(&self, before: &Fleet, replicas: usize) -> f64 {
        assert_eq!(self.slots_log2, before.slots_log2, "slots of two fleets");
        assert!(replicas <= self.replicas, "{replicas} of {}", self.replicas);
        let mut moved = 0u64;
        for slot in 0..self.slots() {
            let old = &before.holders(Slot(slot))[..replicas.min(before.replicas)];
            let arrived = self.holders(Slot(slot))[..replicas].iter().filter(|index| {
                let key = self.members[usize::from(**index)].key;
                !old.iter()
                    .any(|index| before.members[usize::from(*index)].key == key)
            });
            moved += arrived.count() as u64;
        }
        moved as f64 / (u64::from(self.slots()) * replicas as u64) as f64
    }
}

#[cfg(test)]
mod tests;
