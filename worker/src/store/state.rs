//! A blob of state in two slots of each device, written in turn.

use std::rc::Rc;

use corelane_io::{Io, PAGE_SIZE};
use rkyv::util::AlignedVec;

use super::error::StoreError;
use super::header::{HEADER_BYTES, Header, Kind};
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
        match self.newest_state().await {
            (Some((_, state)), _) => Ok(Some(state)),
            (None, None) => Ok(None),
            (None, Some(error)) => Err(error),
        }
    }

    /// The newest state of all devices with its sequence, and the error if a device failed.
    async fn newest_state(&self) -> (Option<(u64, Vec<u8>)>, Option<StoreError>) {
        let (mut newest, mut failed) = (None::<(u64, Vec<u8>)>, None);
        for device in self.devices.iter().flatten() {
            for offset in STATE_OFFSETS {
                let mut bytes = AlignedVec::with_capacity(PAGE_SIZE);
                let first = self.read_bytes(device, offset, 1, &mut bytes).await;
                let header = Header::decode(&bytes)
                    .ok()
                    .filter(|header| header.kind == Kind::State);
                let pages = header.map_or(1, |header| {
                    (header.body as usize + HEADER_BYTES).div_ceil(PAGE_SIZE)
                });
                let rest = if first.is_ok() && (2..=STATE_SLOT_BYTES / PAGE_SIZE).contains(&pages) {
                    let offset = offset + PAGE_SIZE as u64;
                    self.read_bytes(device, offset, pages as u32 - 1, &mut bytes)
                        .await
                } else {
                    first
                };
                if let Err(error) = rest {
                    failed = Some(error.into());
                    continue;
                }
                let Ok((header, state)) = Header::open(&bytes, device.seed) else {
                    continue;
                };
                let is_newer = newest
                    .as_ref()
                    .is_none_or(|(sequence, _)| header.sequence > *sequence);
                if header.kind == Kind::State && is_newer {
                    newest = Some((header.sequence, state.to_vec()));
                }
            }
        }
        (newest, failed)
    }
}
