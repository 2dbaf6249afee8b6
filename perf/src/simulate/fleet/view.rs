//! Who is in the fleet, as the clients know it: the real placement over the simulated workers.

use corelane_placement::fleet::{
    Fleet, FleetError, Member, MemberIndex, MemberKey, MemberState, REPLICAS_MAX, Slot,
};

/// A placement, and the simulated worker behind each member.
#[derive(Clone, Debug)]
pub struct View {
    placement: Fleet,
    workers: Vec<MemberIndex>,
}

/// Numbers of workers, in the order of a slot's holders.
pub type Holders = ([MemberIndex; REPLICAS_MAX], usize);

impl View {
    /// Of the workers with these numbers, all of one weight. Holds one place more for each stripe
    /// than there are replicas, as the real client's does.
    ///
    /// # Errors
    /// Where these workers are no fleet.
    pub fn new(
        workers: impl IntoIterator<Item = (usize, MemberState)>,
        replicas: usize,
    ) -> Result<View, FleetError> {
        let mut numbered: Vec<(Member, MemberIndex)> = workers
            .into_iter()
            .map(|(worker, state)| {
                let key = MemberKey::of(&format!("worker-{worker}"));
                let member = Member {
                    state,
                    ..Member::active(key, 1)
                };
                (member, worker as MemberIndex)
            })
            .collect();
        numbered.sort_unstable_by_key(|(member, _)| member.key);
        let members: Vec<Member> = numbered.iter().map(|(member, _)| *member).collect();
        Ok(View {
            placement: Fleet::new(&members, (replicas + 1).min(REPLICAS_MAX))?,
            workers: numbered.into_iter().map(|(_, worker)| worker).collect(),
        })
    }

    /// The placement.
    pub fn placement(&self) -> &Fleet {
        &self.placement
    }

    /// Who holds `slot`, and stands in.
    pub fn holders(&self, slot: Slot) -> Holders {
        let mut holders = [0; REPLICAS_MAX];
        let members = self.placement.holders(slot);
        for (holder, member) in holders.iter_mut().zip(members) {
            *holder = self.workers[usize::from(*member)];
        }
        (holders, members.len())
    }

    /// Who is leaving `slot`.
    pub fn leaving(&self, slot: Slot) -> impl Iterator<Item = MemberIndex> {
        let leaving = self.placement.leaving(slot);
        leaving.map(|member| self.workers[usize::from(member)])
    }

    /// Whether `worker` is one of the first `replicas` holders of `slot`.
    pub fn holds(&self, worker: MemberIndex, slot: Slot, replicas: usize) -> bool {
        let members = self.placement.holders(slot).iter().take(replicas);
        members
            .map(|member| self.workers[usize::from(*member)])
            .any(|holder| holder == worker)
    }
}
