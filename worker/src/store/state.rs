//! A blob of state in two slots of each device, written in turn.

use std::rc::Rc;

use corelane_io::{Io, PAGE_SIZE};
use rkyv::util::AlignedVec;

use super::device::DeviceState;
use super::error::StoreError;
use super::header::{HEADER_BYTES, Header, Kind, MAGIC};
use super::superblock::{STATE_OFFSETS, STATE_SLOT_BYTES, plain_header};
use super::{Inner, STATE_BYTES_MAX};

impl<I: Io> Inner<I> {
    /// See [`Store::save_state`](super::Store::save_state).
    pub(super) async fn save_state(self: &Rc<Self>, state: &[u8]) -> Result<(), StoreError> {
        if state.len() > STATE_BYTES_MAX {
            return Err(StoreError::Mismatch(format!(
                "{} bytes of run-time mounts and jobs are more than the {STATE_BYTES_MAX} that devices keep: \
                 move mounts to the configuration file",
                state.len()
            )));
        }
        let newest = self.newest_state().await.0;
        let sequence = newest.map_or(1, |(sequence, _)| sequence.saturating_add(1));
        let mut slot = vec![0; (HEADER_BYTES + state.len()).next_multiple_of(PAGE_SIZE)];
        slot[HEADER_BYTES..HEADER_BYTES + state.len()].copy_from_slice(state);
        let (mut result, mut failed) = (Err(super::transfer::taken_out("all devices")), None);
        for device in self.devices_well() {
            plain_header(Kind::State, sequence, state.len()).seal(&mut slot, device.seed);
            // The slot follows from the sequence, so that the one before stays whole.
            let offset = STATE_OFFSETS[(sequence % 2) as usize];
            let written = match self.write_bytes(device, offset, &slot).await {
                Ok(()) => self.flush_device(device).await,
                failed => failed,
            };
            match written {
                // One that was taken out by this does not hold up the others.
                Err(_) if !device.healthy.get() => {}
                // An older state would count where only this device is left.
                Err(error) => failed = failed.or(Some(error)),
                Ok(()) => result = Ok(()),
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(result?),
        }
    }

    /// See [`Store::load_state`](super::Store::load_state).
    pub(super) async fn load_state(self: &Rc<Self>) -> Result<Option<Vec<u8>>, StoreError> {
        let (newest, failed, damaged) = self.newest_state().await;
        let path_of = |ordinal| {
            self.device(ordinal)
                .map_or("", |device| device.path.as_str())
        };
        for (ordinal, offset) in &damaged {
            self.counters.corrupt_copies.add(1);
            tracing::warn!(
                device = path_of(*ordinal),
                offset,
                "one of the two slots for run-time mounts and jobs does not check: the other one counts, and if it \
                 is the older one, the last change is lost (look at `corelane mount`). After a power cut this may \
                 be a write that was not complete; otherwise, if it happens again, replace the device"
            );
        }
        let (sequence, state) = match (newest, failed) {
            (Some((sequence, state)), _) => (sequence, Some(state)),
            (None, Some(error)) => return Err(error),
            (None, None) => (0, None),
        };
        if sequence > 0 {
            if let (Some(state), false) = (&state, damaged.is_empty()) {
                // Twice: each time the other slot is written.
                self.save_state(state).await?;
                self.save_state(state).await?;
            }
            return Ok(state);
        }
        // The first state goes into slot 1: while slot 1 says that there was none, none was lost.
        let lost = damaged
            .iter()
            .find(|(_, offset)| *offset == STATE_OFFSETS[1]);
        if let Some((ordinal, _)) = lost {
            tracing::error!(
                device = path_of(*ordinal),
                "no slot for run-time mounts and jobs checks: mounts that were made with `corelane mount` and jobs \
                 that were not finished are lost. Make the mounts again, and load again"
            );
        }
        Ok(None)
    }

    /// Writes an empty state to slots of `device` that never held one, as format does. False where
    /// that failed.
    pub(super) async fn mark_empty_slots(&self, device: &DeviceState<I::Device>) -> bool {
        for offset in STATE_OFFSETS {
            let mut bytes = AlignedVec::with_capacity(PAGE_SIZE);
            if self
                .read_bytes(device, offset, 1, &mut bytes)
                .await
                .is_err()
            {
                return false;
            }
            // Whether all of a state checks is seen when it is loaded.
            let is_state = Header::decode(&bytes).is_ok_and(|header| header.kind == Kind::State);
            if is_state || matches!(read_slot(&bytes, device.seed, false), Slot::Damaged) {
                continue;
            }
            let page = empty_state(device.seed);
            if self.write_bytes(device, offset, &page).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The newest state of all devices with its sequence, the error if a device failed, and the slots that do
    /// not check: ordinal and offset.
    async fn newest_state(&self) -> (Option<(u64, Vec<u8>)>, Option<StoreError>, Vec<(u16, u64)>) {
        let (mut newest, mut failed, mut damaged) = (None::<(u64, Vec<u8>)>, None, Vec::new());
        for device in self.devices.iter().flatten() {
            for offset in STATE_OFFSETS {
                let mut bytes = AlignedVec::with_capacity(PAGE_SIZE);
                let first = self.read_bytes(device, offset, 1, &mut bytes).await;
                let rest = match (first, rest_of_slot(&bytes)) {
                    (Ok(()), Some(pages)) => {
                        let offset = offset + PAGE_SIZE as u64;
                        self.read_bytes(device, offset, pages, &mut bytes).await
                    }
                    (first, _) => first,
                };
                if let Err(error) = rest {
                    failed = Some(error.into());
                    continue;
                }
                match read_slot(&bytes, device.seed, device.is_marked) {
                    Slot::Empty => {}
                    Slot::Damaged => damaged.push((device.superblock.ordinal, offset)),
                    Slot::State(sequence, state) => {
                        let is_newer = newest.as_ref().is_none_or(|(known, _)| sequence > *known);
                        if is_newer {
                            newest = Some((sequence, state.to_vec()));
                        }
                    }
                }
            }
        }
        (newest, failed, damaged)
    }
}

/// What a slot of state holds.
pub(super) enum Slot<'a> {
    /// Nothing was ever written.
    Empty,
    /// Something that does not check.
    Damaged,
    /// A state and its sequence.
    State(u64, &'a [u8]),
}

/// How many pages follow the first page of a slot.
pub(super) fn rest_of_slot(first: &[u8]) -> Option<u32> {
    let header = Header::decode(first).ok()?;
    let pages = (header.body as usize + HEADER_BYTES).div_ceil(PAGE_SIZE);
    (2..=STATE_SLOT_BYTES / PAGE_SIZE)
        .contains(&pages)
        .then_some(pages as u32 - 1)
}

/// What the pages of a slot say. `is_marked`: format wrote an empty state, so that anything else is
/// damage; before, zeroes and what was there before the format meant that there is none.
pub(super) fn read_slot(bytes: &[u8], seed: u32, is_marked: bool) -> Slot<'_> {
    match Header::open(bytes, seed) {
        Ok((header, state)) if header.kind == Kind::State => Slot::State(header.sequence, state),
        _ if is_marked => Slot::Damaged,
        _ => {
            let right = bytes
                .iter()
                .zip(MAGIC)
                .filter(|(byte, right)| **byte == *right);
            let is_state = bytes.get(12..16) == Some(&(Kind::State as u32).to_le_bytes()[..]);
            // A flipped bit changes one byte. An earlier format of the device leaves the same.
            let resembles = right.count() + 1 >= MAGIC.len() && is_state;
            if resembles {
                Slot::Damaged
            } else {
                Slot::Empty
            }
        }
    }
}

/// The page of a slot that says that there is no state yet.
pub(super) fn empty_state(seed: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    plain_header(Kind::State, 0, 0).seal(&mut page, seed);
    page
}
