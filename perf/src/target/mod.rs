//! Targets: whom a load is sent to, each speaking its own protocol.
//!
//! The invariant: a target knows names, connections and bytes on the wire, and nothing of when
//! requests leave or how latencies are counted, so that one workload, one histogram and one report
//! serve every peer side by side. A target is added by a [`Target`] of its own and, if it is
//! reached over a stream, a [`Wire`].
//!
//! | module | speaks |
//! |---|---|
//! | [`data_plane`] | the worker's data plane, one worker or several |
//! | [`greeting`] | hello and open on it, before the clock runs |
//! | [`http`] | ranged GETs, plain or signed ([`sigv4`]), of any HTTP/1.1 server |
//! | [`http_get`] | one small GET, outside of loads |
//! | [`look_up`] | look-ups in Parquet objects on a worker's data plane |
//! | [`redis`] | GETs of values of a read's size |
//! | [`local_file`] | direct reads of local files through a ring |
//! | [`stream`] | what all that use a stream share: the loop of one generator |

pub mod data_plane;
pub mod greeting;
pub mod http;
pub mod http_get;
pub mod local_file;
pub mod look_up;
pub mod pages;
pub mod redis;
pub(crate) mod responses;
pub mod sigv4;
pub mod stream;

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corelane_placement::{partition_of, shard_of};
use corelane_rpc_schema::{ObjectId, STRIPE_BYTES};

use crate::load::crew::Member;
use crate::load::{LoadResult, Verify};
use crate::random::Random;
use crate::workload::Piece;

/// Answers to one that is checked under [`Verify::Sample`].
pub const SAMPLE_ONE_IN: u32 = 64;

/// Whom a load is sent to.
pub trait Target: Send + Sync {
    /// The kind of target: `data-plane`, `http`, `redis`, `file`.
    fn kind(&self) -> &'static str;

    /// Finds the objects `names` with their lengths, and who answers for what of them.
    ///
    /// # Errors
    /// When the server cannot be reached or has not one of them; the text says which and what to do.
    fn resolve(&self, names: &[Named]) -> io::Result<Catalogue>;

    /// Runs one generator to its end, on the calling thread.
    ///
    /// # Errors
    /// When the server refuses a connection, breaks the protocol or falls silent.
    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult>;
}

/// How long a server may take to answer before the clock runs.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection to `address`, without delays of small sends; each step of it and each receive may take
/// [`DEADLINE`].
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot connect to {address}: {error}"),
        )
    })?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// An object that a workload names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name below the target's prefix, or a whole path that starts with `/`.
    pub name: String,
    /// Bytes that the workload says it has; none for objects given by path.
    pub length: Option<u64>,
}

/// An object as the target has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Path, key or file name.
    pub name: String,
    /// Its bytes.
    pub length: u64,
    /// Its id, where the target has ids; else made from the name.
    pub id: ObjectId,
}

/// The objects of a load and who answers for them.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// In the order of the names that were resolved.
    pub objects: Vec<Object>,
    /// Where connections go.
    pub endpoints: Vec<SocketAddr>,
    /// Which endpoint answers for a piece.
    pub owners: Owners,
    /// Reads and bytes that may be in flight on one connection.
    pub in_flight_max: (u32, u64),
}

/// Which endpoint answers for a piece.
#[derive(Clone, Debug)]
pub enum Owners {
    /// The first.
    One,
    /// Any: drawn anew for each read.
    Any,
    /// The shard of the worker that owns the piece's stripe.
    Shards(Vec<WorkerShards>),
}

/// The shards of one worker among the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerShards {
    /// Endpoint of its shard 0; the others follow.
    pub first_endpoint: usize,
    /// How many there are.
    pub shards: u16,
    /// Its partitions.
    pub partitions: u32,
}

/// Slots of the table that divides stripes among workers.
const WORKER_SLOTS: u32 = 1 << 16;

impl Catalogue {
    /// Of a target with one endpoint and no bounds.
    pub fn of_one(objects: Vec<Object>, endpoint: SocketAddr) -> Catalogue {
        Catalogue {
            objects,
            endpoints: vec![endpoint],
            owners: Owners::One,
            in_flight_max: (u32::MAX, u64::MAX),
        }
    }

    /// The endpoint that answers for `piece`.
    #[inline]
    pub fn endpoint_of(&self, piece: &Piece, random: &mut Random) -> usize {
        match &self.owners {
            Owners::One => 0,
            Owners::Any => random.below(self.endpoints.len() as u64) as usize,
            Owners::Shards(workers) => {
                let home = self.objects[piece.object as usize].id.home;
                let stripe = (piece.offset / STRIPE_BYTES) as u32;
                let worker = match workers.len() {
                    1 => &workers[0],
                    count => {
                        // Another mix than the shards', so that a worker's stripes reach all of its shards.
                        let slot = partition_of(home.rotate_left(32), stripe, WORKER_SLOTS);
                        &workers[usize::from(slot) * count / WORKER_SLOTS as usize]
                    }
                };
                let partition = partition_of(home, stripe, worker.partitions);
                let shard = shard_of(partition, worker.partitions, worker.shards);
                worker.first_endpoint + usize::from(shard)
            }
        }
    }
}

/// The protocol of one connection. Request and answer are told apart by slots, numbers below the
/// connection's depth.
pub trait Wire {
    /// Appends the request for `piece` of `object` to `out`, as `slot`.
    fn request(&mut self, out: &mut Vec<u8>, slot: u32, piece: &Piece, object: &Object);

    /// Takes bytes that arrived, and adds what they complete to `answers`.
    ///
    /// # Errors
    /// When they are not what the protocol allows.
    fn receive(
        &mut self,
        input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()>;
}

/// The end of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of which request.
    pub slot: u32,
    /// Bytes that came.
    pub payload_bytes: u32,
    /// Place in [`LoadResult::by_source`], where the target tells.
    pub source: Option<u8>,
    /// Whether the payload was compared.
    pub is_checked: bool,
    /// Whether it was wrong.
    pub is_wrong: bool,
    /// Whether it was refused; [`Checks::first_error`] holds the first reason.
    pub is_error: bool,
}

/// Which answers are compared, and the first refusal.
#[derive(Clone, Debug)]
pub struct Checks {
    verify: Verify,
    count: u32,
    /// The first refusal's text.
    pub first_error: Option<String>,
}

impl Checks {
    /// By `verify`.
    pub fn new(verify: Verify) -> Checks {
        Checks {
            verify,
            count: 0,
            first_error: None,
        }
    }

    /// Whether the next answer is to be compared.
    #[inline]
    pub fn checks_next(&mut self) -> bool {
        self.count = self.count.wrapping_add(1);
        match self.verify {
            Verify::None => false,
            Verify::Sample => self.count.is_multiple_of(SAMPLE_ONE_IN),
            Verify::All => true,
        }
    }
}

/// What is written on the command line.
#[derive(Clone, Debug, Default)]
pub struct TargetOptions {
    /// Token of the data plane.
    pub token: String,
    /// Whether data-plane reads go to any shard instead of the owner.
    pub ignores_owners: bool,
    /// Region of signatures.
    pub region: String,
}

/// Reads a target as it is written on the command line.
///
/// | text | target |
/// |---|---|
/// | `corelane://HOST:PORT[,HOST:PORT…]/PREFIX` | the data plane of one worker or several |
/// | `http://HOST:PORT/PREFIX` | ranged GETs |
/// | `s3+http://HOST:PORT/BUCKET/PREFIX` | the same, signed with the AWS credentials of the environment |
/// | `redis://HOST:PORT/PREFIX` | GETs of `PREFIX` + name + `:` + offset |
/// | `file:///DIRECTORY` | direct reads |
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str, options: &TargetOptions) -> Result<Arc<dyn Target>, String> {
    let expected = || {
        format!(
            "expected corelane://HOST:PORT/PREFIX, http://HOST:PORT/PREFIX, \
             s3+http://HOST:PORT/BUCKET/PREFIX, redis://HOST:PORT/PREFIX or file:///DIRECTORY, found `{text}`"
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    let (hosts, prefix) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if scheme == "file" {
        if !hosts.is_empty() {
            return Err(expected());
        }
        return Ok(Arc::new(local_file::LocalFile::new(PathBuf::from(prefix))));
    }
    let addresses = hosts
        .split(',')
        .map(|host| {
            let fail = |error: io::Error| format!("{host}: {error}");
            let mut found = host.to_socket_addrs().map_err(fail)?;
            found.next().ok_or_else(|| format!("{host}: no address"))
        })
        .collect::<Result<Vec<SocketAddr>, String>>()?;
    let only = |addresses: &[SocketAddr]| match addresses {
        [one] => Ok(*one),
        _ => Err(format!("{scheme}:// takes one HOST:PORT, found `{hosts}`")),
    };
    match scheme {
        "corelane" => Ok(Arc::new(data_plane::DataPlane {
            addresses,
            prefix: prefix.to_owned(),
            token: options.token.clone(),
            ignores_owners: options.ignores_owners,
        })),
        "http" => Ok(Arc::new(http::Http::plain(
            only(&addresses)?,
            hosts,
            prefix,
        ))),
        "s3+http" => {
            let credentials = sigv4::Credentials::from_environment(&options.region)?;
            let address = only(&addresses)?;
            Ok(Arc::new(http::Http::signed(
                address,
                hosts,
                prefix,
                credentials,
            )))
        }
        "redis" => Ok(Arc::new(redis::Redis {
            address: only(&addresses)?,
            prefix: prefix.trim_start_matches('/').to_owned(),
        })),
        "https" | "rediss" | "s3+https" => Err(format!(
            "{scheme}: the generator speaks no TLS, whose cost would hide the server's; use a plain port"
        )),
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_written_or_refused_with_what_was_expected() {
        let options = TargetOptions::default();
        for (text, kind) in [
            ("corelane://127.0.0.1:7410/data", "data-plane"),
            ("corelane://127.0.0.1:1,127.0.0.2:1/data", "data-plane"),
            ("http://127.0.0.1:80/", "http"),
            ("redis://127.0.0.1:6379", "redis"),
            ("file:///var/tmp", "file"),
        ] {
            let target = parse(text, &options).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.kind(), kind);
        }
        for (text, reason) in [
            ("127.0.0.1:80", "expected corelane://"),
            ("ftp://127.0.0.1:80/", "expected corelane://"),
            ("file://host/dir", "expected corelane://"),
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://127.0.0.1:1,127.0.0.1:2/", "one HOST:PORT"),
            ("https://127.0.0.1:443/", "no TLS"),
        ] {
            let error = parse(text, &options).err().expect(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn stripes_spread_over_workers_and_their_shards() {
        let shards = |first_endpoint| WorkerShards {
            first_endpoint,
            shards: 2,
            partitions: 256,
        };
        let catalogue = Catalogue {
            objects: (0..1000)
                .map(|index| Object {
                    name: String::new(),
                    length: 1 << 20,
                    id: ObjectId::new(&format!("{index}"), "v", 0, 1 << 20),
                })
                .collect(),
            endpoints: vec![SocketAddr::from(([127, 0, 0, 1], 1)); 6],
            owners: Owners::Shards(vec![shards(0), shards(2), shards(4)]),
            in_flight_max: (1, 1),
        };
        let mut counts = [0; 6];
        let mut random = Random::new(1);
        for object in 0..1000 {
            let piece = Piece {
                object,
                length: 4096,
                offset: 0,
            };
            counts[catalogue.endpoint_of(&piece, &mut random)] += 1;
        }
        assert!(
            counts.iter().all(|count| (120..220).contains(count)),
            "{counts:?}"
        );
    }
}
