//! What the placement promises, on fleets of many sizes.

use proptest::prelude::*;

use super::*;

/// Slots of the fleets that proptest makes: enough for the promises, few enough for many fleets.
const FEW_SLOTS_LOG2: u32 = 13;

fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(number, weight): (usize, &u32)| {
        Member::active(MemberKey::of(&format!("worker-{number}")), *weight)
    };
    weights.iter().enumerate().map(member).collect()
}

fn equal(count: usize) -> Vec<Member> {
    members(&vec![100; count])
}

/// Workers of three generations: one, two and four drives.
fn three_generations(count: usize) -> Vec<Member> {
    let weights: Vec<u32> = (0..count)
        .map(|number| [900, 1800, 3600][number % 3])
        .collect();
    members(&weights)
}

fn fleet(members: &[Member], replicas: usize) -> Fleet {
    Fleet::new(members, replicas).expect("a possible fleet")
}

fn few(members: &[Member], replicas: usize) -> Fleet {
    Fleet::with_slots(members, replicas, FEW_SLOTS_LOG2).expect("a possible fleet")
}

/// The greatest relative distance of a member's slots from its share, above and below.
fn imbalance(fleet: &Fleet) -> (f64, f64) {
    let weight_sum: f64 = fleet
        .members()
        .iter()
        .map(|member| f64::from(member.weight))
        .sum();
    let counts = fleet.first_counts();
    let relative = fleet.members().iter().zip(counts).map(|(member, count)| {
        let share = f64::from(member.weight) / weight_sum * f64::from(fleet.slots());
        f64::from(count) / share - 1.0
    });
    relative.fold((0.0, 0.0), |(above, below): (f64, f64), distance| {
        (above.max(distance), below.max(-distance))
    })
}

/// A digest of everything that a fleet answers.
fn digest(fleet: &Fleet) -> u64 {
    let mut digest = 0u64;
    for slot in 0..fleet.slots() {
        for index in fleet
            .holders(Slot(slot))
            .iter()
            .copied()
            .chain(fleet.leaving(Slot(slot)))
        {
            digest = crate::mix(digest.wrapping_add(u64::from(index) + 1));
        }
    }
    digest
}

const GOLDEN_KEY: u64 = 7_826_526_041_551_213_037;
const GOLDEN_DIGEST: u64 = 0x334f_d146_7c8f_ff04;
const GOLDEN_DIGEST_OF_MANY: u64 = 0xf0b5_9e90_104d_de0b;

fn golden_answers() -> Vec<(u32, Vec<MemberIndex>)> {
    vec![
        (532635, vec![2, 4]),
        (570106, vec![2, 0]),
        (395147, vec![4, 2]),
        (198616, vec![3, 0]),
        (484514, vec![2, 1]),
    ]
}

#[test]
fn the_answers_are_the_same_on_every_machine_and_in_every_version() {
    assert_eq!(MemberKey::of("worker-0"), MemberKey(GOLDEN_KEY));
    let fleet = fleet(&three_generations(5), 2);
    let of = |home, stripe| {
        let slot = fleet.slot_of(home, stripe);
        (slot.0, fleet.holders(slot).to_vec())
    };
    let found: Vec<(u32, Vec<MemberIndex>)> = [
        (0, 0),
        (1, 0),
        (1, 1),
        (0xdead_beef, 7),
        (u64::MAX, u32::MAX),
    ]
    .map(|(home, stripe)| of(home, stripe))
    .to_vec();
    assert_eq!(found, golden_answers());
    assert_eq!(digest(&fleet), GOLDEN_DIGEST, "{:016x}", digest(&fleet));
    let many = few(&three_generations(3000), 3);
    assert_eq!(
        digest(&many),
        GOLDEN_DIGEST_OF_MANY,
        "{:016x}",
        digest(&many)
    );
}

#[test]
fn shares_follow_the_weights() {
    // The bound is the excess that is allowed, or four standard deviations of the lightest member.
    for (count, above_max, below_max) in [(2, 0.005, 0.005), (50, 0.05, 0.05), (500, 0.101, 0.15)] {
        for members in [equal(count), three_generations(count)] {
            let (above, below) = imbalance(&fleet(&members, 1));
            assert!(above <= above_max, "{count} members: {above} above");
            assert!(below <= below_max, "{count} members: {below} below");
        }
    }
}

#[test]
fn of_three_thousand_none_is_a_tenth_above_its_share() {
    for members in [equal(3000), three_generations(3000)] {
        let fleet = fleet(&members, 2);
        let (above, below) = imbalance(&fleet);
        // One slot of 150 comes from rounding up.
        assert!(above <= 0.107, "{above}");
        assert!(below <= 0.35, "{below}");
    }
}

#[test]
fn a_joining_or_leaving_worker_moves_its_share_and_little_else() {
    for (count, extra_max) in [(2, 0.02), (50, 0.02), (500, 0.03), (3000, 0.1)] {
        let all = equal(count + 1);
        for replicas in [1, 2] {
            let (before, after) = (fleet(&all[..count], replicas), fleet(&all, replicas));
            // With two members and two replicas the first two hold everything, and the third one
            // takes a third of the places.
            let share = 1.0 / (count + 1) as f64;
            let deviation = 4.0 * (share / f64::from(SLOTS)).sqrt();
            for moved in [
                after.moved_share_from(&before, replicas),
                before.moved_share_from(&after, replicas),
            ] {
                assert!(
                    moved <= share * (1.0 + extra_max) + deviation,
                    "{count} members, {replicas} replicas: {moved} moved, the share is {share}"
                );
                assert!(moved >= share * 0.8 - deviation, "{moved} of {share}");
            }
        }
    }
}

#[test]
fn a_slots_workers_spread_over_a_workers_partitions() {
    let fleet = fleet(&equal(50), 1);
    let mut partitions = [0u32; 64];
    for home in 0..200_000u64 {
        if fleet.holders_of(home, 0)[0] == 7 {
            partitions[usize::from(crate::partition_of(home, 0, 64))] += 1;
        }
    }
    let sum: u32 = partitions.iter().sum();
    let mean = f64::from(sum) / 64.0;
    assert!((3_600..4_400).contains(&sum), "{sum}");
    // Six deviations of a count.
    assert!(
        partitions
            .iter()
            .all(|count| (f64::from(*count) - mean).abs() < 6.0 * mean.sqrt()),
        "{partitions:?}"
    );
}

#[test]
fn what_is_no_fleet_is_refused_with_the_reason() {
    let two = equal(2);
    let key = two[0].key;
    let weighing = |weight| Member::active(key, weight);
    let draining = Member {
        state: MemberState::Draining,
        ..two[0]
    };
    for (members, replicas, error) in [
        (vec![], 1, FleetError::NoActiveMember),
        (vec![draining], 1, FleetError::NoActiveMember),
        (two.clone(), 0, FleetError::Replicas(0)),
        (two.clone(), 9, FleetError::Replicas(9)),
        (vec![weighing(0)], 1, FleetError::Weight(weighing(0))),
        (
            vec![weighing(WEIGHT_MAX + 1)],
            1,
            FleetError::Weight(weighing(WEIGHT_MAX + 1)),
        ),
        (
            vec![two[0], two[1], two[0]],
            1,
            FleetError::TwiceTheKey(key),
        ),
        (
            equal(MEMBERS_MAX + 1),
            1,
            FleetError::TooManyMembers(MEMBERS_MAX + 1),
        ),
    ] {
        assert_eq!(Fleet::new(&members, replicas), Err(error), "{error}");
    }
}

#[test]
fn very_unequal_weights_are_placed_too() {
    let mut weights = vec![1; 20];
    weights.push(WEIGHT_MAX);
    for replicas in [1, 2, 5] {
        let fleet = few(&members(&weights), replicas);
        assert_eq!(fleet.replicas(), replicas);
        let heavy = fleet
            .index_of(MemberKey::of("worker-20"))
            .expect("a member");
        let counts = fleet.first_counts();
        assert!(
            counts[usize::from(heavy)] >= fleet.slots() - 20,
            "{counts:?}"
        );
    }
}

fn any_members(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Member>> {
    let member = (any::<u64>(), 1..10_000u32);
    proptest::collection::vec(member, count).prop_map(|members| {
        let mut members: Vec<Member> = members
            .into_iter()
            .map(|(key, weight)| Member::active(MemberKey(key), weight))
            .collect();
        members.sort_unstable_by_key(|member| member.key);
        members.dedup_by_key(|member| member.key);
        members
    })
}

/// The keys of those who hold each slot, in order.
fn keys(fleet: &Fleet, slot: u32) -> Vec<MemberKey> {
    let holders = fleet.holders(Slot(slot)).iter();
    holders
        .map(|index| fleet.members()[usize::from(*index)].key)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn replicas_are_distinct_and_as_many_as_there_can_be(
        members in any_members(1..40), replicas in 1..5usize,
    ) {
        let fleet = few(&members, replicas);
        prop_assert_eq!(fleet.replicas(), replicas.min(members.len()));
        for slot in 0..fleet.slots() {
            let mut holders = fleet.holders(Slot(slot)).to_vec();
            holders.sort_unstable();
            holders.dedup();
            prop_assert_eq!(holders.len(), fleet.replicas());
            prop_assert!(holders.iter().all(|index| usize::from(*index) < members.len()));
        }
    }

    #[test]
    fn one_replica_more_changes_none_of_the_others(members in any_members(2..40), replicas in 1..5usize) {
        let (fewer, more) = (few(&members, replicas), few(&members, replicas + 1));
        for slot in 0..fewer.slots() {
            let (fewer, more) = (fewer.holders(Slot(slot)), more.holders(Slot(slot)));
            prop_assert_eq!(fewer, &more[..fewer.len()]);
        }
    }

    #[test]
    fn the_order_in_which_members_are_named_does_not_matter(
        (members, shuffled) in any_members(1..40)
            .prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
    ) {
        prop_assert_eq!(few(&members, 2), few(&shuffled, 2));
    }

    #[test]
    fn nobody_is_first_for_more_than_its_share_and_a_tenth(members in any_members(1..40)) {
        let fleet = few(&members, 2);
        let weight_sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        for (member, count) in fleet.members().iter().zip(fleet.first_counts()) {
            let share = u64::from(member.weight) * u64::from(fleet.slots());
            prop_assert!(u64::from(count) <= (share * 11).div_ceil(weight_sum * 10));
        }
    }

    /// Where the bound on load does not bind, which is so for members of like weight, nothing moves
    /// between the members that were there before and after.
    #[test]
    fn a_new_member_takes_and_nobody_else_does(
        count in 2..12usize, replicas in 1..4usize, weight in 90..110u32,
    ) {
        let mut all = equal(count);
        let before = few(&all, replicas);
        all.push(Member::active(MemberKey::of("new"), weight));
        let after = few(&all, replicas);
        let new = MemberKey::of("new");
        for slot in 0..before.slots() {
            let (old, mut now) = (keys(&before, slot), keys(&after, slot));
            now.retain(|key| *key != new);
            // The rest keeps its order; at most the last one had to make room.
            prop_assert_eq!(&old[..now.len()], &now[..]);
            prop_assert!(now.len() + 1 >= old.len());
        }
    }

    #[test]
    fn more_weight_only_draws_slots_to_its_member(
        count in 2..12usize, chosen in 0..100usize, weight in 101..300u32,
    ) {
        let mut all = equal(count);
        let chosen = chosen % count;
        let key = all[chosen].key;
        let before = few(&all, 1);
        all[chosen].weight = weight;
        let after = few(&all, 1);
        for slot in 0..before.slots() {
            let (old, now) = (keys(&before, slot), keys(&after, slot));
            prop_assert!(old == now || now[0] == key, "{old:?} {now:?}");
        }
    }

    #[test]
    fn a_draining_member_holds_nothing_and_is_named_where_it_held(
        count in 2..12usize, replicas in 1..4usize, chosen in 0..100usize,
    ) {
        let mut all = equal(count);
        let chosen = chosen % count;
        let key = all[chosen].key;
        let before = few(&all, replicas);
        all[chosen].state = MemberState::Draining;
        let during = few(&all, replicas);
        all.remove(chosen);
        let after = few(&all, replicas);
        let index = during.index_of(key).expect("still a member");
        for slot in 0..before.slots() {
            let held = keys(&before, slot).contains(&key);
            prop_assert!(!during.holders(Slot(slot)).contains(&index));
            prop_assert_eq!(during.leaving(Slot(slot)).any(|leaving| leaving == index), held);
            // The end of the drain moves nothing more.
            prop_assert_eq!(keys(&during, slot), keys(&after, slot));
        }
    }
}
