//! Look-ups in Parquet objects over the data plane of one worker.
//!
//! A workload's places are ranks of keys here, one a page, and nothing is read from them: the file decides
//! how many keys there are, and the load which of them come.

use std::io;
use std::net::SocketAddr;

use arrow_array::{Array, Int64Array};
use corelane_client::Found;
use corelane_client::lookup::predicate::{Comparison, Literal, Predicate, Test};
use corelane_client::lookup::request::{Batch, LookupRequest};
use corelane_rpc_schema::frame::{
    DecodedHead, Head, LookupAnswerHead, decode_head, encode_lookup, padding,
};
use corelane_rpc_schema::messages::Message;
use corelane_rpc_schema::{ObjectId, PAGE_BYTES};

use super::{Answer, Catalogue, Checks, Named, Object, Target, Wire, greeting, stream};
use crate::load::LoadResult;
use crate::load::crew::Member;
use crate::workload::Piece;

/// A table whose keys are those of TPC-H's orders, of which the last five bits but three are zero (clause 4.2.3
/// of its specification).
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its objects, which are asked all at once.
    pub paths: Vec<String>,
    /// The column that keys are looked up in.
    pub key: String,
    /// The columns that are asked for; the first is the key's.
    pub select: Vec<String>,
    /// How many keys it has.
    pub keys: u64,
    /// Rows that a key has, where all have as many.
    pub rows_of_key: Option<u64>,
}

impl Table {
    /// The key of rank `rank`.
    pub fn key_of(&self, rank: u64) -> i64 {
        let number = rank % self.keys + 1;
        (number / 8 * 32 + number % 8) as i64
    }

    /// A look-up of one key.
    pub fn request(&self, key: i64, explain: bool) -> LookupRequest {
        LookupRequest {
            paths: self.paths.clone(),
            predicate: Predicate::Compare(Comparison {
                column: self.key.clone(),
                test: Test::Equal(Literal::Integer(key)),
            }),
            select: self.select.clone(),
            limit: None,
            scan_bytes_max: None,
            explain,
            keys: None,
        }
    }

    /// A look-up of several.
    pub fn batch(&self, keys: &[i64]) -> LookupRequest {
        LookupRequest {
            predicate: Predicate::And(Vec::new()),
            keys: Some(Batch {
                column: self.key.clone(),
                keys: keys.iter().copied().map(Literal::Integer).collect(),
            }),
            ..self.request(0, false)
        }
    }

    /// Whether the rows of `stream` are those of `keys`, in their order.
    pub fn is_right(&self, head: &LookupAnswerHead, stream: &[u8], keys: &[i64]) -> bool {
        let found = Found {
            rows: head.rows,
            stream: stream.to_vec().into(),
            counts: None,
        };
        let Ok((_, batches)) = found.batches() else {
            return false;
        };
        let mut seen: Vec<i64> = Vec::new();
        for batch in &batches {
            let Some(column) = batch.column(0).as_any().downcast_ref::<Int64Array>() else {
                return false;
            };
            seen.extend(column.values());
        }
        match self.rows_of_key {
            Some(rows) => {
                let wanted = keys.iter().flat_map(|key| (0..rows).map(move |_| *key));
                seen.iter().copied().eq(wanted)
            }
            None => {
                seen.dedup();
                seen == keys
            }
        }
    }
}

/// Look-ups on the data plane of one worker.
#[derive(Clone, Debug)]
pub struct LookUp {
    /// A data port.
    pub address: SocketAddr,
    /// What is looked up.
    pub table: Table,
    /// Keys that are asked for, spread evenly over all.
    pub asked: u64,
    /// Keys of one look-up: above one, a batch.
    pub batch: u64,
}

impl LookUp {
    /// The keys of the look-up at `rank`.
    fn keys_at(&self, rank: u64, keys: &mut Vec<i64>) {
        let apart = (self.table.keys / self.asked).max(1);
        keys.clear();
        // A batch's other keys are scattered by a multiplicative hash.
        keys.extend((0..self.batch).map(|place| {
            let scattered = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            self.table.key_of(rank * apart + scattered)
        }));
    }
}

impl Target for LookUp {
    fn kind(&self) -> &'static str {
        "look-ups"
    }

    fn resolve(&self, _: &[Named]) -> io::Result<Catalogue> {
        let object = Object {
            name: self.table.paths.join(","),
            length: self.asked * PAGE_BYTES as u64,
            id: ObjectId {
                home: 0,
                version: 0,
            },
        };
        Ok(Catalogue::of_one(vec![object], self.address))
    }

    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult> {
        stream::drive(member, |address, depth| {
            let (stream, _) = greeting::connect(address, "")?;
            let wire = LookUpWire {
                of: self.clone(),
                asked: vec![Vec::new(); depth as usize],
                held: Vec::new(),
            };
            Ok((stream, wire))
        })
    }
}

struct LookUpWire {
    of: LookUp,
    /// The keys that each slot asks for.
    asked: Vec<Vec<i64>>,
    /// Bytes of an answer that is not complete.
    held: Vec<u8>,
}

impl Wire for LookUpWire {
    fn request(&mut self, out: &mut Vec<u8>, slot: u32, piece: &Piece, _: &Object) {
        let keys = &mut self.asked[slot as usize];
        self.of.keys_at(piece.offset / PAGE_BYTES as u64, keys);
        let table = &self.of.table;
        let request = match keys.as_slice() {
            [key] => table.request(*key, false),
            keys => table.batch(keys),
        };
        encode_lookup(out, u64::from(slot) + 1, &request.encode())
            .expect("some keys are no long request");
    }

    fn receive(
        &mut self,
        input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        if self.held.is_empty() {
            let consumed = self.take(input, checks, answers)?;
            self.held.extend_from_slice(&input[consumed..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(input);
            let consumed = self.take(&held, checks, answers)?;
            held.drain(..consumed);
            self.held = held;
        }
        Ok(())
    }
}

impl LookUpWire {
    /// Takes the whole answers at the start of `input`; gives the bytes that they have.
    fn take(
        &mut self,
        input: &[u8],
        checks: &mut Checks,
        answers: &mut Vec<Answer>,
    ) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            let DecodedHead::Head {
                head,
                consumed,
                payload_bytes,
            } = decode_head(rest).map_err(io::Error::other)?
            else {
                return Ok(taken);
            };
            let whole = consumed + payload_bytes as usize + padding(payload_bytes);
            if rest.len() < whole {
                return Ok(taken);
            }
            let payload = &rest[consumed..consumed + payload_bytes as usize];
            match head {
                Head::LookupAnswer(head) => answers.push(self.answer(&head, payload, checks)?),
                Head::Message(header) => answers.push(refusal(header, checks)?),
                _ => {
                    return Err(io::Error::other(
                        "another frame where the answer to a look-up was expected",
                    ));
                }
            }
            taken += whole;
        }
    }

    fn answer(
        &self,
        head: &LookupAnswerHead,
        payload: &[u8],
        checks: &mut Checks,
    ) -> io::Result<Answer> {
        let slot = head.request_id.wrapping_sub(1);
        let keys = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.asked.get(slot))
            .ok_or_else(|| io::Error::other("an answer to a look-up that was not asked"))?;
        let wanted = self
            .of
            .table
            .rows_of_key
            .map(|rows| rows * keys.len() as u64);
        let has_other_rows = wanted.is_some_and(|wanted| wanted != head.rows);
        let is_checked = checks.checks_next();
        let rows = &payload[head.statistics_bytes as usize..];
        let is_wrong = has_other_rows || (is_checked && !self.of.table.is_right(head, rows, keys));
        Ok(Answer {
            slot: slot as u32,
            payload_bytes: payload.len() as u32,
            is_checked,
            is_wrong,
            ..Answer::default()
        })
    }
}

fn refusal(header: &[u8], checks: &mut Checks) -> io::Result<Answer> {
    let (request_id, message) = Message::from_header(header).map_err(io::Error::other)?;
    let text = match message {
        Message::Error(error) => error.message,
        Message::GoAway => return Err(io::Error::other("the worker is stopping")),
        other => {
            return Err(io::Error::other(format!(
                "an unexpected message: {other:?}"
            )));
        }
    };
    let Some(slot) = request_id.checked_sub(1) else {
        return Err(io::Error::other(text));
    };
    checks.first_error.get_or_insert(text);
    Ok(Answer {
        slot: slot as u32,
        is_error: true,
        ..Answer::default()
    })
}
