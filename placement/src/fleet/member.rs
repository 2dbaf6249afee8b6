//! Who is in a fleet, and which sets of members are none.

use super::{MEMBERS_MAX, MemberIndex, REPLICAS_MAX};

/// Greatest weight. Above it the times of the race would lose too many digits; 2^24 GiB are 16 PiB.
pub const WEIGHT_MAX: u32 = 1 << 24;

/// What a member is known by in the race. It stays the same for the life of a worker, or all its
/// stripes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub u64);

impl MemberKey {
    /// The key of the worker with this id: FNV-1a (Fowler, Noll, Vo), mixed.
    pub fn of(worker_id: &str) -> MemberKey {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in worker_id.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        MemberKey(crate::mix(hash))
    }
}

/// Whether a member takes stripes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// It does.
    #[default]
    Active,
    /// It does not any more, and is still named as a source of those that it held.
    Draining,
}

/// A worker as the fleet sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is known by.
    pub key: MemberKey,
    /// Its share, in any unit that is the same for all: GiB of cache, say. From 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Whether it takes stripes.
    pub state: MemberState,
}

impl Member {
    /// An active member.
    pub fn active(key: MemberKey, weight: u32) -> Member {
        Member {
            key,
            weight,
            state: MemberState::Active,
        }
    }
}

/// Why there is no such fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetError {
    /// No member takes stripes.
    NoActiveMember,
    /// More members than [`MEMBERS_MAX`].
    TooManyMembers(usize),
    /// No replica, or more than [`REPLICAS_MAX`].
    Replicas(usize),
    /// A weight of zero or above [`WEIGHT_MAX`].
    Weight(Member),
    /// Two members with one key.
    TwiceTheKey(MemberKey),
}

impl std::fmt::Display for FleetError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FleetError::NoActiveMember => formatter
                .write_str("no member takes stripes; a fleet needs one that is not draining"),
            FleetError::TooManyMembers(count) => {
                write!(
                    formatter,
                    "{count} members; at most {MEMBERS_MAX} are possible"
                )
            }
            FleetError::Replicas(replicas) => {
                write!(
                    formatter,
                    "{replicas} replicas; possible are 1 to {REPLICAS_MAX}"
                )
            }
            FleetError::Weight(member) => write!(
                formatter,
                "weight {} of member {:016x}; possible are 1 to {WEIGHT_MAX}: take a larger unit",
                member.weight, member.key.0
            ),
            FleetError::TwiceTheKey(key) => write!(
                formatter,
                "two members have the key {:016x}; each needs an id of its own",
                key.0
            ),
        }
    }
}

impl std::error::Error for FleetError {}

/// The members ordered by key, if they are a fleet.
pub(super) fn checked(members: &[Member], replicas: usize) -> Result<Vec<Member>, FleetError> {
    const { assert!(MEMBERS_MAX < MemberIndex::MAX as usize) };
    if members.len() > MEMBERS_MAX {
        return Err(FleetError::TooManyMembers(members.len()));
    }
    if replicas == 0 || replicas > REPLICAS_MAX {
        return Err(FleetError::Replicas(replicas));
    }
    let is_impossible = |member: &&Member| !(1..=WEIGHT_MAX).contains(&member.weight);
    if let Some(member) = members.iter().find(is_impossible) {
        return Err(FleetError::Weight(*member));
    }
    if !members
        .iter()
        .any(|member| member.state == MemberState::Active)
    {
        return Err(FleetError::NoActiveMember);
    }
    let mut members = members.to_vec();
    members.sort_unstable_by_key(|member| member.key);
    if let Some(twins) = members.windows(2).find(|pair| pair[0].key == pair[1].key) {
        return Err(FleetError::TwiceTheKey(twins[0].key));
    }
    Ok(members)
}
