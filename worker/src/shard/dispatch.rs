//! From fills to requests: who goes next, with whom, and into which memory.
//!
//! The dispatcher waits for the end of the turn in which a block was missed, so that neighbours of
//! a stripe that were missed with it join one ranged request. It bounds the memory that fills hold, in
//! all and for each mount: an under-store that hangs never keeps another one's reads waiting.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Frame, Io, Priority, RemoteLease};
use corelane_rpc_schema::Stripe;

use super::Shard;
use super::derived::is_derived;
use super::fill::{FetchJob, Fill, FillFailure, LEASE_PAGES};
use crate::cache::frames::{FRAME_BYTES, FRAME_PAGES};
use crate::under_store::{Job, Request, UnderStore};

fn frames_of(fill: &Fill) -> usize {
    fill.pages().div_ceil(FRAME_PAGES)
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Turns queued fills into requests, for as long as the shard lives.
    pub(crate) async fn dispatch_fills(self: Rc<Self>) {
        loop {
            self.fills.has_queued.wait().await;
            // Whoever else misses in this turn may be a neighbour.
            self.io.yield_now().await;
            while let Some(run) = self.next_run() {
                self.dispatch(run).await;
            }
        }
    }

    /// The first queued fill whose mount may hold more, and its queued neighbours that fit the
    /// same request.
    fn next_run(&self) -> Option<Vec<Rc<Fill>>> {
        let fills = &self.fills;
        let mut queue = fills.queue.borrow_mut();
        let place = queue
            .iter()
            .position(|fill| fills.may_go(fills.share(fill.mount), frames_of(fill)))?;
        let first = queue.remove(place).expect("the place was just found");
        let block_bytes = first.known.meta.block_bytes;
        let stripe = Stripe::of_block(first.index, block_bytes);
        let blocks_max =
            (self.under_store.fetch_bytes_max() / u64::from(block_bytes)).max(1) as usize;
        let is_neighbour = |fill: &Fill| {
            fill.known.meta.id == first.known.meta.id
                && fill.known.meta.length == first.known.meta.length
                && Stripe::of_block(fill.index, block_bytes) == stripe
        };
        let mut neighbours: Vec<Rc<Fill>> = queue
            .iter()
            .filter(|fill| is_neighbour(fill))
            .cloned()
            .collect();
        queue.retain(|fill| !is_neighbour(fill));
        neighbours.push(Rc::clone(&first));
        neighbours.sort_unstable_by_key(|fill| fill.index);
        // The run starts at the lowest neighbour; memory for `first` is memory for any of them
        // but the object's last block, which is never larger. Others only join within the bounds: memory for
        // a run that is larger than the tier would never come.
        let mut frames = frames_of(&neighbours[0]);
        let mut length = 1;
        while length < neighbours.len().min(blocks_max)
            && neighbours[length].index == neighbours[length - 1].index + 1
            && fills.fits(
                fills.share(first.mount),
                frames + frames_of(&neighbours[length]),
            )
        {
            frames += frames_of(&neighbours[length]);
            length += 1;
        }
        for fill in neighbours.split_off(length).into_iter().rev() {
            queue.push_front(fill);
        }
        for fill in &neighbours {
            fills.change_share(fill.mount, |share| share.queued -= 1);
        }
        Some(neighbours)
    }

    async fn dispatch(self: &Rc<Self>, run: Vec<Rc<Fill>>) {
        let mut leases = Vec::new();
        for fill in &run {
            let Some(frames) = self.take_frames(frames_of(fill)).await else {
                self.take_back_all(leases);
                let busy = "no memory to fetch into came free in time; retry";
                self.fail(&run, &FillFailure::Busy(busy));
                return;
            };
            for (number, frame) in frames.iter().enumerate() {
                let pages = (fill.pages() - number * FRAME_PAGES).min(FRAME_PAGES);
                leases.extend((0..pages).step_by(LEASE_PAGES).map(|start| {
                    let lease = frame.lease(start..(start + LEASE_PAGES).min(pages));
                    lease.expect("a fresh frame is vacant").into_remote()
                }));
            }
            let fills = &self.fills;
            fills
                .frames_held
                .set(fills.frames_held.get() + frames.len());
            fills.change_share(fill.mount, |share| share.frames_held += frames.len());
            fill.frames.set(frames).expect("a fill is dispatched once");
        }
        if is_derived(&run[0].known.meta) {
            let shard = Rc::clone(self);
            self.io.spawn(Priority::Background, async move {
                shard.fill_derived(run, leases).await;
            });
            return;
        }
        self.submit(run, leases);
    }

    /// So many frames of the tier, or none at the deadline.
    async fn take_frames(&self, count: usize) -> Option<Vec<Frame>> {
        let mut frames = Vec::with_capacity(count);
        // One deadline for all of them: everybody else's fills wait meanwhile.
        self.until_memory(&self.tier_turn, || {
            while frames.len() < count {
                frames.push(self.tier.borrow_mut().take()?);
            }
            Some(())
        })
        .await?;
        Some(frames)
    }

    fn submit(&self, run: Vec<Rc<Fill>>, leases: Vec<RemoteLease>) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let meta = &first.known.meta;
        let block_bytes = meta.block_bytes as usize;
        let start = first.index as usize * block_bytes;
        let end = last.index as usize * block_bytes + last.length() as usize;
        debug_assert!(start.is_multiple_of(FRAME_BYTES));
        let mount = self.mounts.borrow().get(first.known.mount.get()).cloned();
        let Some(mount) = mount else {
            self.take_back_all(leases);
            self.fail(&run, &FillFailure::NoMount(meta.uri.clone()));
            return;
        };
        let id = self.fills.next_job_id();
        let request = Request::Fetch {
            object: Arc::clone(meta),
            range: start as u64..end as u64,
            leases,
        };
        let job = FetchJob {
            fills: run,
            current: 0,
            is_abandoned: false,
        };
        self.fills.jobs.borrow_mut().insert(id, job);
        self.counters.fetches.increase();
        if let Err(job) = self.under_store.submit(Job { id, mount, request }) {
            let refused = self.fills.jobs.borrow_mut().remove(&id);
            let FetchJob { fills, .. } = refused.expect("just put in");
            if let Request::Fetch { leases, .. } = job.request {
                self.take_back_all(leases);
            }
            let busy = "too many requests to the under-store are waiting; retry";
            self.fail(&fills, &FillFailure::Busy(busy));
        }
    }
}
