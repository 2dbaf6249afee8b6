//! The worker's data plane: lanes to the shards that own what is read.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use corelane_rpc_schema::frame::{
    DecodedHead, Head, ReadFlags, ReadRequest, decode_head, encode_read_request, padding,
};
use corelane_rpc_schema::messages::Message;

use super::pages::ByChecksum;
use super::{Answer, Catalogue, Checks, Named, Object, Owners, Target, Wire, WorkerShards};
use super::{greeting, stream};
use crate::ceiling::OLDEST_REQUEST_ID;
use crate::load::LoadResult;
use crate::load::crew::Member;
use crate::workload::Piece;

/// The data plane of one worker or several that mount the same under-store at the same path.
#[derive(Clone, Debug)]
pub struct DataPlane {
    /// A data port of each worker; any shard's.
    pub addresses: Vec<SocketAddr>,
    /// Path that relative names are below.
    pub prefix: String,
    /// Sent with hello.
    pub token: String,
    /// Whether reads go to any shard instead of the owner: the mesh carries the rest.
    pub ignores_owners: bool,
}

impl DataPlane {
    /// The data plane of one worker, for whole paths.
    pub fn of(address: SocketAddr) -> DataPlane {
        DataPlane {
            addresses: vec![address],
            prefix: "/".to_owned(),
            token: String::new(),
            ignores_owners: false,
        }
    }

    fn path_of(&self, named: &Named) -> String {
        if named.name.starts_with('/') {
            return named.name.clone();
        }
        format!("{}/{}", self.prefix.trim_end_matches('/'), named.name)
    }
}

impl Target for DataPlane {
    fn kind(&self) -> &'static str {
        "data-plane"
    }

    fn resolve(&self, names: &[Named]) -> io::Result<Catalogue> {
        let mut catalogue = Catalogue {
            objects: Vec::new(),
            endpoints: Vec::new(),
            owners: Owners::Any,
            in_flight_max: (u32::MAX, u64::MAX),
        };
        let mut workers = Vec::new();
        for address in &self.addresses {
            let (lane, hello) = greeting::connect(*address, &self.token)?;
            // Every worker has to know the objects that it will be asked for.
            let objects = names
                .iter()
                .map(|named| {
                    let name = self.path_of(named);
                    let opened = greeting::open(&lane, &name)?;
                    Ok(Object {
                        name,
                        length: opened.length,
                        id: opened.object,
                    })
                })
                .collect::<io::Result<Vec<Object>>>()?;
            if catalogue.endpoints.is_empty() {
                catalogue.objects = objects;
            } else if let Some(other) = objects
                .iter()
                .zip(&catalogue.objects)
                .find_map(|(mine, first)| (mine != first).then_some(mine))
            {
                return Err(io::Error::other(format!(
                    "{address} has another version of {} than {}; mount the same under-store on both",
                    other.name, self.addresses[0]
                )));
            }
            workers.push(WorkerShards {
                first_endpoint: catalogue.endpoints.len(),
                shards: hello.shard_ports.len() as u16,
                partitions: hello.partition_shards.len() as u32,
            });
            for port in &hello.shard_ports {
                catalogue
                    .endpoints
                    .push(SocketAddr::new(address.ip(), *port));
            }
            let (requests, bytes) = catalogue.in_flight_max;
            catalogue.in_flight_max = (
                requests.min(hello.requests_in_flight_max),
                bytes.min(hello.bytes_in_flight_max),
            );
        }
        if !self.ignores_owners {
            catalogue.owners = Owners::Shards(workers);
        }
        Ok(catalogue)
    }

    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult> {
        stream::drive(member, |address, _| {
            let (stream, _) = greeting::connect(address, &self.token)?;
            Ok((stream, LaneWire::default()))
        })
    }
}

/// The answer whose payload is arriving.
#[derive(Default)]
struct Arriving {
    answer: Answer,
    /// Payload bytes and padding still to come.
    left: usize,
    /// Of them, padding.
    padding: usize,
}

/// One lane. Request ids are slots plus one. Payload bytes are looked at only where they are to be
/// compared.
#[derive(Default)]
struct LaneWire {
    /// Slots in the order of their requests, for servers that answer in order.
    order: VecDeque<u32>,
    /// Whether the server gave an id: then the order is not kept.
    has_ids: bool,
    /// A head that did not come whole.
    held: Vec<u8>,
    arriving: Arriving,
    check: ByChecksum,
}

impl Wire for LaneWire {
    #[inline]
    fn request(&mut self, out: &mut Vec<u8>, slot: u32, piece: &Piece, object: &Object) {
        let request = ReadRequest {
            request_id: u64::from(slot) + 1,
            object: object.id,
            offset: piece.offset,
            length: piece.length,
            flags: ReadFlags::CHECKSUMS,
        };
        encode_read_request(out, &request);
        if !self.has_ids {
            self.order.push_back(slot);
        }
    }

    #[inline]
    fn receive(
        &mut self,
        mut input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        while !input.is_empty() {
            if self.arriving.left > 0 {
                let take = self.arriving.left.min(input.len());
                if self.arriving.answer.is_checked {
                    let payload = self.arriving.left.saturating_sub(self.arriving.padding);
                    self.check.take(&input[..take.min(payload)]);
                }
                self.arriving.left -= take;
                input = &input[take..];
                if self.arriving.left == 0 {
                    self.finish(answers);
                }
            } else if self.held.is_empty() {
                match self.head(input, checks, answers)? {
                    Ok(consumed) => input = &input[consumed..],
                    Err(_) => {
                        self.held.extend_from_slice(input);
                        return Ok(());
                    }
                }
            } else {
                input = self.complete_held(input, checks, answers)?;
            }
        }
        Ok(())
    }
}

impl LaneWire {
    fn complete_held<'a>(
        &mut self,
        input: &'a [u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<&'a [u8]> {
        let mut held = std::mem::take(&mut self.held);
        let mut rest = input;
        while let Err(needed) = self.head(&held, checks, answers)? {
            let take = (needed - held.len()).min(rest.len());
            held.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if take == 0 {
                self.held = held;
                return Ok(rest);
            }
        }
        held.clear();
        self.held = held;
        Ok(rest)
    }

    /// Reads a head: the bytes that it has, or as `Err` the bytes that it would need.
    #[inline]
    fn head(
        &mut self,
        input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<Result<usize, usize>> {
        let (head, consumed, payload_bytes) = match decode_head(input).map_err(io::Error::other)? {
            DecodedHead::Incomplete { needed } => return Ok(Err(needed)),
            DecodedHead::Head {
                head,
                consumed,
                payload_bytes,
            } => (head, consumed, payload_bytes),
        };
        match head {
            Head::ReadAnswer(answer) => {
                let slot = self.slot_of(answer.head.request_id)?;
                let is_checked = checks.checks_next() && !answer.checksums.is_empty();
                if is_checked {
                    self.check.begin(payload_bytes, answer.checksums.iter());
                }
                let padding = padding(payload_bytes);
                self.arriving = Arriving {
                    answer: Answer {
                        slot,
                        payload_bytes,
                        source: Some(answer.head.source as u8),
                        is_checked,
                        ..Answer::default()
                    },
                    left: payload_bytes as usize + padding,
                    padding,
                };
                if self.arriving.left == 0 {
                    self.finish(answers);
                }
            }
            Head::Message(header) => self.message(header, checks, answers)?,
            Head::Read(_) | Head::Lookup(_) | Head::LookupAnswer(_) => {
                return Err(io::Error::other("neither bytes nor a message"));
            }
        }
        Ok(Ok(consumed))
    }

    #[inline]
    fn slot_of(&mut self, request_id: u64) -> io::Result<u32> {
        if request_id == OLDEST_REQUEST_ID {
            return self.order.pop_front().ok_or_else(|| {
                io::Error::other("an answer came although nothing was asked on its lane")
            });
        }
        if !self.has_ids {
            self.has_ids = true;
            self.order = VecDeque::new();
        }
        u32::try_from(request_id.wrapping_sub(1)).map_err(|_| {
            io::Error::other(format!(
                "an answer to request {request_id}, which was not asked"
            ))
        })
    }

    #[cold]
    fn message(
        &mut self,
        header: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        let (request_id, message) = Message::from_header(header).map_err(io::Error::other)?;
        let Message::Error(error) = message else {
            return match message {
                Message::GoAway => Err(io::Error::other("the worker is stopping")),
                other => Err(io::Error::other(format!(
                    "an unexpected message: {other:?}"
                ))),
            };
        };
        if request_id == 0 {
            return Err(io::Error::other(error.message));
        }
        let slot = self.slot_of(request_id)?;
        checks.first_error.get_or_insert(error.message);
        answers.push(Answer {
            slot,
            is_error: true,
            ..Answer::default()
        });
        Ok(())
    }

    #[inline]
    fn finish(&mut self, answers: &mut Vec<Answer>) {
        let mut answer = self.arriving.answer;
        answer.is_wrong = answer.is_checked && self.check.is_wrong();
        answers.push(answer);
    }
}
