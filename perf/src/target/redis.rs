//! GETs of values over RESP2, the protocol of Redis and its relatives.
//!
//! A key is the prefix, the object's name, a colon and the offset; its value is as long as the
//! read. [`Redis::fill`] sets the keys of a workload of point reads.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use corelane_rpc_schema::ObjectId;

use super::pages::ByPage;
use super::{Answer, Catalogue, Checks, Named, Object, Target, Wire, connect, stream};
use crate::ceiling::page;
use crate::load::LoadResult;
use crate::load::crew::Member;
use crate::workload::{Kind, Piece, Workload};

/// Longest line of an answer before its payload: a type, a length or an error's text.
const LINE_BYTES_MAX: usize = 4 << 10;

/// SETs that are sent together.
const SETS_AT_ONCE: usize = 64;

/// A Redis server.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where.
    pub address: SocketAddr,
    /// What keys start with.
    pub prefix: String,
}

impl Redis {
    fn name_of(&self, named: &Named) -> String {
        format!("{}{}", self.prefix, named.name)
    }

    /// Sets the value of every place that the point reads of `workload` can ask for; gives the
    /// number of keys.
    ///
    /// # Errors
    /// When the workload has other operations, or the server refuses.
    pub fn fill(&self, workload: &Workload) -> io::Result<u64> {
        let mut reads = Vec::new();
        for operation in &workload.operation {
            match &operation.kind {
                Kind::Point { read, .. } => reads.push(read.0),
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "a key-value server has values for point reads only; choose such a workload",
                    ));
                }
            }
        }
        reads.dedup();
        let [read] = reads.as_slice() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "all point reads have to be of one size, that of the values",
            ));
        };
        let stream = connect(self.address)?;
        let page = page();
        let mut keys = 0;
        let mut batch = Vec::new();
        let mut in_batch = 0;
        for (name, length) in workload.objects.list() {
            let name = self.name_of(&Named { name, length: None });
            let mut offset = 0;
            while offset < length {
                let bytes = (length - offset).min(*read) as usize;
                let value = page.iter().copied().cycle().take(bytes);
                let key = format!("{name}:{offset}");
                write!(
                    batch,
                    "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${bytes}\r\n",
                    key.len()
                )?;
                batch.extend(value);
                batch.extend_from_slice(b"\r\n");
                in_batch += 1;
                keys += 1;
                offset += *read;
                if in_batch == SETS_AT_ONCE || batch.len() > 4 << 20 {
                    flush_sets(&stream, &mut batch, &mut in_batch)?;
                }
            }
        }
        flush_sets(&stream, &mut batch, &mut in_batch)?;
        Ok(keys)
    }
}

/// Sends the SETs in `batch` and waits for as many `+OK`.
fn flush_sets(mut stream: &TcpStream, batch: &mut Vec<u8>, count: &mut usize) -> io::Result<()> {
    stream.write_all(batch)?;
    // Nothing is asked before all of these came, so no byte of a later answer is swallowed.
    let mut answers = BufReader::new(stream).lines();
    for _ in 0..*count {
        let line = answers
            .next()
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .map_err(|error| io::Error::new(error.kind(), format!("after a SET: {error}")))?;
        if line != "+OK" {
            return Err(io::Error::other(format!(
                "the server refused a SET: {line}; has it room for the whole workload (maxmemory)?"
            )));
        }
    }
    batch.clear();
    *count = 0;
    Ok(())
}

impl Target for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn resolve(&self, names: &[Named]) -> io::Result<Catalogue> {
        let objects = names
            .iter()
            .map(|named| {
                let name = self.name_of(named);
                let length = named.length.ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "a key-value server knows no lengths of paths; use the objects of a workload",
                    )
                })?;
                Ok(Object {
                    id: ObjectId::new(&name, "", 0, 0),
                    name,
                    length,
                })
            })
            .collect::<io::Result<Vec<Object>>>()?;
        Ok(Catalogue::of_one(objects, self.address))
    }

    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult> {
        stream::drive(member, |_, _| {
            Ok((connect(self.address)?, RedisWire::default()))
        })
    }
}

/// The value that is arriving.
struct Arriving {
    answer: Answer,
    /// Bytes still to come, the end of line behind the value included.
    left: usize,
}

#[derive(Default)]
struct RedisWire {
    /// Slots in the order of their requests, and the bytes that each asked for.
    order: VecDeque<(u32, u32)>,
    key: Vec<u8>,
    /// A line that did not come whole.
    held: Vec<u8>,
    arriving: Option<Arriving>,
    check: ByPage,
}

impl RedisWire {
    fn line(
        &mut self,
        line: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        let (slot, wanted) = self
            .order
            .pop_front()
            .ok_or_else(|| io::Error::other(format!("`{text}` came although nothing was asked")))?;
        let refusal = match line.first() {
            Some(b'$') => match text[1..].parse::<i64>() {
                Ok(-1) => {
                    Some("no such key; fill the server first (corelane-perf prepare)".to_owned())
                }
                Ok(length) if length == i64::from(wanted) => None,
                Ok(length) => Some(format!(
                    "a value of {length} bytes where {wanted} were expected"
                )),
                Err(_) => return Err(io::Error::other(format!("not a length: `{text}`"))),
            },
            Some(b'-') => Some(text.into_owned()),
            _ => return Err(io::Error::other(format!("not an answer to GET: `{text}`"))),
        };
        if let Some(refusal) = refusal {
            if refusal.starts_with("a value of") {
                // The value would have to be skipped; a wrong size is a wrong set of keys anyway.
                return Err(io::Error::other(refusal));
            }
            checks.first_error.get_or_insert(refusal);
            answers.push(Answer {
                slot,
                is_error: true,
                ..Answer::default()
            });
            return Ok(());
        }
        let is_checked = checks.checks_next();
        if is_checked {
            self.check.begin();
        }
        self.arriving = Some(Arriving {
            answer: Answer {
                slot,
                payload_bytes: wanted,
                is_checked,
                ..Answer::default()
            },
            left: wanted as usize + 2,
        });
        Ok(())
    }
}

impl Wire for RedisWire {
    #[inline]
    fn request(&mut self, out: &mut Vec<u8>, slot: u32, piece: &Piece, object: &Object) {
        self.key.clear();
        write!(self.key, "{}:{}", object.name, piece.offset).expect("writing to memory");
        write!(out, "*2\r\n$3\r\nGET\r\n${}\r\n", self.key.len()).expect("writing to memory");
        out.extend_from_slice(&self.key);
        out.extend_from_slice(b"\r\n");
        self.order.push_back((slot, piece.length));
    }

    #[inline]
    fn receive(
        &mut self,
        mut input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        while !input.is_empty() {
            if let Some(arriving) = &mut self.arriving {
                let take = arriving.left.min(input.len());
                let value_left = arriving.left.saturating_sub(2);
                if arriving.answer.is_checked {
                    self.check.take(&input[..take.min(value_left)]);
                }
                arriving.left -= take;
                input = &input[take..];
                if arriving.left == 0 {
                    let mut answer = arriving.answer;
                    answer.is_wrong = answer.is_checked && self.check.is_wrong();
                    answers.push(answer);
                    self.arriving = None;
                }
                continue;
            }
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                self.held.extend_from_slice(input);
                if self.held.len() > LINE_BYTES_MAX {
                    return Err(io::Error::other(
                        "a line over 4 KiB; is this a Redis server?",
                    ));
                }
                return Ok(());
            };
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&input[..end]);
            input = &input[end + 1..];
            let line = held.strip_suffix(b"\r").unwrap_or(&held);
            self.line(line, checks, answers)?;
            held.clear();
            self.held = held;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Verify;

    #[test]
    fn answers_are_found_in_any_division_of_the_bytes() {
        let mut text = b"$4096\r\n".to_vec();
        text.extend_from_slice(&page());
        text.extend_from_slice(b"\r\n$-1\r\n-LOADING wait\r\n$4096\r\n");
        text.extend_from_slice(&page());
        text.extend_from_slice(b"\r\n");
        for step in [1, 2, 5, 4_097, text.len()] {
            let mut wire = RedisWire::default();
            let mut sent = Vec::new();
            let object = Object {
                name: "p-object".to_owned(),
                length: 1 << 20,
                id: ObjectId::new("", "", 0, 0),
            };
            for slot in 0..4 {
                let piece = Piece {
                    object: 0,
                    length: 4096,
                    offset: 4096,
                };
                wire.request(&mut sent, slot, &piece, &object);
            }
            assert!(sent.starts_with(b"*2\r\n$3\r\nGET\r\n$13\r\np-object:4096\r\n*2"));
            let mut checks = Checks::new(Verify::All);
            let mut answers = Vec::new();
            for part in text.chunks(step) {
                wire.receive(part, &mut checks, &mut answers)
                    .expect("valid");
            }
            let found: Vec<_> = answers
                .iter()
                .map(|answer| (answer.slot, answer.is_error, answer.is_wrong))
                .collect();
            let expected = [(0, false), (1, true), (2, true), (3, false)];
            assert_eq!(
                found,
                expected.map(|(slot, is_error)| (slot, is_error, false)),
                "{step}"
            );
            assert!(
                checks
                    .first_error
                    .is_some_and(|error| error.contains("prepare"))
            );
        }
    }

    #[test]
    fn workloads_without_values_are_refused() {
        let redis = Redis {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            prefix: String::new(),
        };
        let epoch = Workload::load("training-epoch").expect("it comes along");
        let error = redis.fill(&epoch).expect_err("whole files");
        assert!(error.to_string().contains("point reads"), "{error}");
    }
}
