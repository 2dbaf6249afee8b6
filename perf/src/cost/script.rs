//! Fixed scripts of hits in DRAM and on the device, and through the S3 face: the worker's shard on a
//! simulated core, for a profiler to count.
//!
//! Everything is decided by a seed, so two runs execute the same instructions. Requests are
//! encoded beforehand and answers only counted, so that what the client costs is small; what it
//! and the simulator cost is told apart by source file (see `callgrind`).

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use corelane_io::sim::{Faults, SimIo, World};
use corelane_io::{Io, PAGE_SIZE, SendBatch, Stream};
use corelane_rpc_schema::frame::{
    DecodedHead, Head, PREFIX_BYTES, READ_REQUEST_BYTES, ReadFlags, ReadRequest, ReadSource,
    decode_head, encode_read_request,
};
use corelane_rpc_schema::messages::{Hello, Message, Open, OpenAnswer};

use super::s3_client::{Connections, Requests};
use super::shard::{self, PATH, Place};
use crate::random::Random;
use crate::target::sigv4::Credentials;

/// Between two rounds of the fill, so that the store keeps up with it.
const FILL_PAUSE: Duration = Duration::from_millis(20);

/// Requests in flight: sent together, answered together.
const DEPTH: u64 = 32;

/// Bytes of the answer to a read of one page: prefix, header with one checksum, page.
const ANSWER_BYTES: usize = PREFIX_BYTES + 24 + PAGE_SIZE;

/// Where the prefix says what kind of header follows, and the kind of a READ answer.
const HEADER_KIND_AT: usize = 3;
const KIND_READ_ANSWER: u8 = 3;

/// Where the header of a READ answer says where the bytes came from.
const SOURCE_AT: usize = PREFIX_BYTES + 8;

/// Different batches of requests, sent in turn.
const BATCHES: usize = 64;

/// What is read how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Script {
    /// READs of pages that are in the DRAM tier.
    DramHit,
    /// READs of pages that are on the device.
    DeviceHit,
    /// GETs of pages that are in the DRAM tier.
    S3Hit,
    /// The same, signed.
    S3HitSigned,
}

impl Script {
    /// All of them.
    pub const ALL: [Script; 4] = [
        Script::DramHit,
        Script::DeviceHit,
        Script::S3Hit,
        Script::S3HitSigned,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Script::DramHit => "dram-hit",
            Script::DeviceHit => "device-hit",
            Script::S3Hit => "s3-hit",
            Script::S3HitSigned => "s3-hit-signed",
        }
    }

    /// What it is called in a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Script::DramHit => "a DRAM hit",
            Script::DeviceHit => "a device hit",
            Script::S3Hit => "an S3 hit",
            Script::S3HitSigned => "a signed S3 hit",
        }
    }

    fn place(self) -> Place {
        match self {
            Script::DeviceHit => Place::Device,
            Script::DramHit | Script::S3Hit | Script::S3HitSigned => Place::Dram,
        }
    }
}

/// Runs a script.
#[derive(Debug, Args)]
pub struct CostScript {
    /// Reads to serve
    #[arg(long, default_value_t = 4096)]
    hits: u64,
    /// Which ones
    #[arg(long, value_enum, default_value_t = Script::DramHit)]
    script: Script,
}

impl CostScript {
    /// Serves the hits and says how many were served.
    ///
    /// # Errors
    /// When the shard does not start, or an answer comes from another place.
    pub fn run(self) -> Result<(), String> {
        let served = serve_hits(self.script, self.hits.next_multiple_of(DEPTH))?;
        println!("{served}");
        Ok(())
    }
}

/// Serves `hits` hits of `script`, after one pass that fills; a multiple of the depth.
///
/// # Errors
/// As [`CostScript::run`].
pub fn serve_hits(script: Script, hits: u64) -> Result<u64, String> {
    let world = World::new(1, Faults::none());
    world.set_turns_max(u64::MAX);
    let finished = world.block_on(run(&world, script, hits));
    finished.map_err(|crash| format!("{crash:?} without a crash scheduled"))?
}

async fn run(world: &World, script: Script, hits: u64) -> Result<u64, String> {
    let place = script.place();
    let (address, s3) = shard::start(world, place).await?;
    let io = world.core();
    let stream = io
        .connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let mut client = Client {
        stream,
        held: Vec::new(),
        batch: Some(Box::default()),
    };
    client.ask(&Message::Hello(Hello::default())).await?;
    let opened = match client
        .ask(&Message::Open(Open {
            path: PATH.to_owned(),
        }))
        .await?
    {
        Message::OpenAnswer(opened) => opened,
        other => return Err(format!("{other:?} does not answer an open")),
    };
    // Once over the whole object, so that all of it is held, and a round of every batch.
    for first in (0..place.object_bytes() / PAGE_SIZE as u64).step_by(DEPTH as usize) {
        let requests: Vec<u64> = (first..first + DEPTH).collect();
        client.round(&encode(&opened, &requests), None).await?;
        io.sleep(FILL_PAUSE).await;
    }
    let batches = batches(place);
    let rounds = (hits / DEPTH) as usize;
    let gets = |credentials| gets(&io, s3, credentials, &batches, rounds);
    match script {
        Script::DramHit | Script::DeviceHit => {
            let requests = batches.iter().map(|pages| encode(&opened, pages));
            let requests: Vec<Vec<u8>> = requests.collect();
            for batch in &requests {
                client.round(batch, None).await?;
            }
            for batch in requests.iter().cycle().take(rounds) {
                client.round(batch, Some(place.source())).await?;
            }
        }
        Script::S3Hit => gets(None).await?,
        Script::S3HitSigned => gets(Some(shard::s3_credentials())).await?,
    }
    Ok(hits)
}

/// Asks the S3 face at `address` for a round of every batch, and then for `rounds` more.
async fn gets(
    io: &SimIo,
    address: SocketAddr,
    credentials: Option<Credentials>,
    batches: &[Vec<u64>],
    rounds: usize,
) -> Result<(), String> {
    let second = io.wall_clock_ms() / 1_000;
    let mut requests = Requests::new(PATH, address, credentials, second);
    let mut request = |page: &u64| requests.of(*page);
    let requests: Vec<Vec<Vec<u8>>> = batches
        .iter()
        .map(|pages| pages.iter().map(&mut request).collect())
        .collect();
    let mut connections = Connections::open(io, address, DEPTH).await?;
    let rounds = requests.len() + rounds;
    for batch in requests.iter().cycle().take(rounds) {
        connections.round(batch).await?;
    }
    Ok(())
}

/// Pages that are asked for together.
fn batches(place: Place) -> Vec<Vec<u64>> {
    let mut random = Random::new(6);
    // The fill leaves the object's end in the tier.
    let pages = match place {
        Place::Dram => place.object_bytes(),
        Place::Device => place.object_bytes() - 2 * place.tier_bytes(),
    } / PAGE_SIZE as u64;
    let batch = |_| (0..DEPTH).map(|_| random.below(pages)).collect();
    (0..BATCHES).map(batch).collect()
}

fn encode(opened: &OpenAnswer, pages: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pages.len() * READ_REQUEST_BYTES);
    for (index, page) in pages.iter().enumerate() {
        let request = ReadRequest {
            request_id: index as u64 + 1,
            object: opened.object,
            offset: page * PAGE_SIZE as u64,
            length: PAGE_SIZE as u32,
            flags: ReadFlags::CHECKSUMS,
        };
        encode_read_request(&mut out, &request);
    }
    out
}

struct Client {
    stream: <SimIo as Io>::Stream,
    held: Vec<u8>,
    batch: Option<Box<SendBatch>>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut batch = self.batch.take().expect("one send at a time");
        batch.clear();
        batch.push_head(bytes);
        let (sent, batch) = self.stream.send(batch).await;
        self.batch = Some(batch);
        sent.map_err(|error| error.to_string())
    }

    async fn ask(&mut self, message: &Message) -> Result<Message, String> {
        let mut bytes = Vec::new();
        message
            .to_frame(1, &mut bytes)
            .map_err(|error| error.to_string())?;
        self.send(&bytes).await?;
        loop {
            if let DecodedHead::Head {
                head: Head::Message(header),
                consumed,
                ..
            } = decode_head(&self.held).map_err(|error| error.to_string())?
            {
                let (_, answer) =
                    Message::from_header(header).map_err(|error| error.to_string())?;
                self.held.drain(..consumed);
                return Ok(answer);
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), String> {
        let received = self
            .stream
            .receive()
            .await
            .map_err(|error| error.to_string())?;
        if received.is_empty() {
            return Err("the shard closed the lane".to_owned());
        }
        self.held.extend_from_slice(&received);
        Ok(())
    }

    /// Sends `requests` and takes all their answers.
    ///
    /// Looks at two bytes of each head and counts the rest: were the client to decode with the
    /// codec, its instructions would count as the worker's.
    async fn round(&mut self, requests: &[u8], expected: Option<ReadSource>) -> Result<(), String> {
        self.send(requests).await?;
        let mut left = requests.len() / READ_REQUEST_BYTES;
        while left > 0 {
            self.receive().await?;
            let whole = self.held.len() / ANSWER_BYTES;
            for answer in self.held.chunks_exact(ANSWER_BYTES) {
                if answer[HEADER_KIND_AT] != KIND_READ_ANSWER {
                    return Err("the shard refused a read of the script".to_owned());
                }
                if expected.is_some_and(|source| answer[SOURCE_AT] != source as u8) {
                    return Err(format!(
                        "an answer from source {} where the script has {expected:?}",
                        answer[SOURCE_AT]
                    ));
                }
            }
            self.held.drain(..whole * ANSWER_BYTES);
            left = left
                .checked_sub(whole)
                .ok_or("more answers than requests")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_served_from_where_they_say() {
        assert_eq!(serve_hits(Script::DramHit, 2 * DEPTH), Ok(2 * DEPTH));
        assert_eq!(serve_hits(Script::S3Hit, 2 * DEPTH), Ok(2 * DEPTH));
        assert_eq!(serve_hits(Script::S3HitSigned, 2 * DEPTH), Ok(2 * DEPTH));
        // Twice over the object.
        let hits = 2 * Place::Device.object_bytes() / PAGE_SIZE as u64;
        assert_eq!(serve_hits(Script::DeviceHit, hits), Ok(hits));
    }

    #[test]
    fn answers_are_as_long_as_the_script_counts_them() {
        let head = crate::ceiling::prebuilt_head(PAGE_SIZE as u32, ReadSource::Device);
        assert_eq!(head.len() + PAGE_SIZE, ANSWER_BYTES);
        assert_eq!(head[HEADER_KIND_AT], KIND_READ_ANSWER);
        assert_eq!(head[SOURCE_AT], ReadSource::Device as u8);
    }
}
