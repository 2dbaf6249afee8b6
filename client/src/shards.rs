//! Which shard owns what, and the lanes to them. A lane is connected when it is first needed, by
//! one caller at a time, and replaced when it is closed or asked to go away.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use corelane_placement::partition_of;
use corelane_rpc_schema::messages::HelloAnswer;
use corelane_rpc_schema::{ShardId, Stripe};

use crate::error::Error;
use crate::lane::Lane;
use crate::options::Options;

/// The lanes to one worker.
pub(crate) struct Shards {
    address: String,
    token: String,
    options: Options,
    map: RwLock<Arc<Map>>,
    /// Lanes that were connected, the first one included.
    pub(crate) connected: AtomicU64,
}

/// What the worker said about its shards, and a slot for each lane.
pub(crate) struct Map {
    pub(crate) hello: HelloAnswer,
    /// Owner of each partition: what the hello said until an answer knew better.
    owners: Vec<AtomicU16>,
    ip: IpAddr,
    slots: Vec<ShardSlots>,
}

struct ShardSlots {
    next: AtomicUsize,
    lanes: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    lane: Mutex<Option<Arc<Lane>>>,
    connecting: tokio::sync::Mutex<()>,
}

impl Slot {
    fn open_lane(&self) -> Option<Arc<Lane>> {
        let lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.as_ref().filter(|lane| lane.is_open()).map(Arc::clone)
    }

    fn set(&self, lane: Arc<Lane>) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = Some(lane);
    }
}

impl Map {
    fn new(hello: HelloAnswer, ip: IpAddr, lanes_per_shard: usize) -> Self {
        let slots = hello.shard_ports.iter().map(|_| ShardSlots {
            next: AtomicUsize::new(0),
            lanes: (0..lanes_per_shard.max(1))
                .map(|_| Slot::default())
                .collect(),
        });
        let owners = hello.partition_shards.iter();
        Map {
            slots: slots.collect(),
            owners: owners.map(|owner| AtomicU16::new(owner.0)).collect(),
            hello,
            ip,
        }
    }

    /// The owner of `stripe` of the object with home half `home`.
    pub(crate) fn owner(&self, home: u64, stripe: Stripe) -> ShardId {
        ShardId(self.owner_slot(home, stripe).load(Ordering::Relaxed))
    }

    /// Notes that `stripe` of `home` is owned by `owner`, as an answer said.
    pub(crate) fn learn_owner(&self, home: u64, stripe: Stripe, owner: ShardId) {
        if usize::from(owner.0) < self.slots.len() {
            // Relaxed: a reader of the old owner is answered as well.
            self.owner_slot(home, stripe)
                .store(owner.0, Ordering::Relaxed);
        }
    }

    fn owner_slot(&self, home: u64, stripe: Stripe) -> &AtomicU16 {
        let partition = partition_of(home, stripe.0, self.owners.len() as u32);
        &self.owners[usize::from(partition)]
    }

    fn slots(&self, shard: ShardId) -> &ShardSlots {
        &self.slots[usize::from(shard.0) % self.slots.len()]
    }

    fn describes_the_same_as(&self, hello: &HelloAnswer) -> bool {
        self.hello.shard_ports == hello.shard_ports
            && self.hello.partition_shards == hello.partition_shards
            && self.hello.worker_id == hello.worker_id
            && self.hello.epoch == hello.epoch
    }
}

impl Shards {
    /// Connects to any shard at `address` and learns of the others.
    pub(crate) async fn connect(
        address: &str,
        token: &str,
        options: &Options,
    ) -> Result<Self, Error> {
        let (lane, hello) = dial(address, token, options).await?;
        let map = Map::new(hello, lane.address().ip(), options.lanes_per_shard);
        map.slots(map.hello.shard).lanes[0].set(Arc::new(lane));
        Ok(Shards {
            address: address.to_owned(),
            token: token.to_owned(),
            options: options.clone(),
            map: RwLock::new(Arc::new(map)),
            connected: AtomicU64::new(1),
        })
    }

    pub(crate) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a lane to any shard is open.
    pub(crate) fn is_connected(&self) -> bool {
        let map = self.map();
        let mut slots = map.slots.iter().flat_map(|shard| &shard.lanes);
        slots.any(|slot| slot.open_lane().is_some())
    }

    /// An open lane to `shard`, or to another one that answers for it, if its port has gone.
    pub(crate) async fn lane(&self, shard: ShardId) -> Result<Arc<Lane>, Error> {
        let map = self.map();
        let slots = map.slots(shard);
        // Relaxed: any order of turns is fair.
        let turn = slots.next.fetch_add(1, Ordering::Relaxed) % slots.lanes.len();
        let slot = &slots.lanes[turn];
        if let Some(lane) = slot.open_lane() {
            return Ok(lane);
        }
        let _one_at_a_time = slot.connecting.lock().await;
        if let Some(lane) = slot.open_lane() {
            return Ok(lane);
        }
        let port = map.hello.shard_ports[usize::from(shard.0) % map.slots.len()];
        let address = SocketAddr::new(map.ip, port);
        let (lane, hello) = match Lane::connect(address, &self.token, &self.options).await {
            Ok(connected) => connected,
            // After a restart the ports may be others; the address that the caller gave is not.
            Err(error) if error.is_passing() => {
                dial(&self.address, &self.token, &self.options).await?
            }
            Err(error) => return Err(error),
        };
        self.connected.fetch_add(1, Ordering::Relaxed);
        let lane = Arc::new(lane);
        if map.describes_the_same_as(&hello) {
            // Also where another shard answered: it serves all, and dialling a dead port for each
            // read would cost more than the hop.
            slot.set(Arc::clone(&lane));
        } else {
            self.replace_map(hello, &lane);
        }
        Ok(lane)
    }

    fn replace_map(&self, hello: HelloAnswer, lane: &Arc<Lane>) {
        tracing::info!(
            worker = %hello.worker_id, epoch = hello.epoch, shards = hello.shard_ports.len(),
            "the worker's shards are others than before"
        );
        let map = Map::new(hello, lane.address().ip(), self.options.lanes_per_shard);
        map.slots(map.hello.shard).lanes[0].set(Arc::clone(lane));
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }
}

/// Connects to the first address that `address` resolves to and that answers.
async fn dial(address: &str, token: &str, options: &Options) -> Result<(Lane, HelloAnswer), Error> {
    let cannot_resolve = |reason: String| Error::Connect {
        address: address.to_owned(),
        reason,
    };
    let resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| cannot_resolve(error.to_string()))?;
    let mut outcome = Err(cannot_resolve(String::from("the name has no address")));
    for address in resolved {
        outcome = Lane::connect(address, token, options).await;
        if !matches!(outcome, Err(Error::Connect { .. })) {
            break;
        }
    }
    outcome
}
