//! A look-up as bytes, as it comes over the data plane.
//!
//! All integers are little-endian. A string is its length in bytes (`u32`), then UTF-8.
//!
//! ```text
//! u8   version, 1
//! u8   flags: 1 explain, 2 limit, 4 scan_bytes_max, 8 keys
//! u64  limit                      if its flag is set
//! u64  scan_bytes_max             if its flag is set
//! u32  paths, then each           string
//! u32  selected columns, each     string
//!      predicate                  a node
//!      keys                       if the flag is set: string column, literals
//!
//! node      u8  0 and, 1 or:     u32 members, then each a node
//!               2 =  3 <>  4 <  5 <=  6 >  7 >=  9 prefix:  string column, literal
//!               8 in:            string column, literals
//!               10 is null  11 is not null:  string column
//! literals  u32 count, then each a literal
//! literal   u8  0 false  1 true
//!               2 integer:       i64
//!               3 number, 4 text:  string
//!               5 bytes:         u32 length, then they
//! ```
//!
//! It is read in one pass into the request itself. A count is believed only as far as the bytes
//! that follow can hold so many.

use super::{
    Batch, LookupRequest, check_column, check_key_count, check_length, check_path,
    check_path_count, check_select_count,
};
use crate::error::{LookupError, Result};
use crate::predicate::limits::Limits;
use crate::predicate::number::number;
use crate::predicate::{Comparison, DEPTH_MAX, Literal, Predicate, Test};

/// Of the format; another is refused.
const VERSION: u8 = 1;

const EXPLAIN: u8 = 1;
const LIMIT: u8 = 2;
const SCAN_BYTES_MAX: u8 = 4;
const KEYS: u8 = 8;

const AND: u8 = 0;
const OR: u8 = 1;
const EQUAL: u8 = 2;
const NOT_EQUAL: u8 = 3;
const LESS: u8 = 4;
const LESS_OR_EQUAL: u8 = 5;
const GREATER: u8 = 6;
const GREATER_OR_EQUAL: u8 = 7;
const IN: u8 = 8;
const PREFIX: u8 = 9;
const IS_NULL: u8 = 10;
const IS_NOT_NULL: u8 = 11;

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const INTEGER: u8 = 2;
const NUMBER: u8 = 3;
const TEXT: u8 = 4;
const BINARY: u8 = 5;

impl LookupRequest {
    /// The request as bytes. What breaks a limit is written all the same, and refused by
    /// [`LookupRequest::decode`].
    ///
    /// # Panics
    /// If a list or a string is longer than 4 GiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(VERSION);
        out.push(
            flag(self.explain, EXPLAIN)
                | flag(self.limit.is_some(), LIMIT)
                | flag(self.scan_bytes_max.is_some(), SCAN_BYTES_MAX)
                | flag(self.keys.is_some(), KEYS),
        );
        for bound in [self.limit, self.scan_bytes_max].into_iter().flatten() {
            out.extend(bound.to_le_bytes());
        }
        for strings in [&self.paths, &self.select] {
            put_length(strings.len(), &mut out);
            for string in strings {
                put_bytes(string.as_bytes(), &mut out);
            }
        }
        put_node(&self.predicate, &mut out);
        if let Some(Batch { column, keys }) = &self.keys {
            put_bytes(column.as_bytes(), &mut out);
            put_literals(keys, &mut out);
        }
        out
    }

    /// The request that `bytes` say.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid): the bytes are none, or break a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_length(bytes.len())?;
        let mut reader = Reader { rest: bytes };
        let version = reader.byte()?;
        if version != VERSION {
            return Err(LookupError::invalid(format!(
                "a request of format {version}, and only {VERSION} is known; bring both sides to the same release"
            )));
        }
        let flags = reader.byte()?;
        if flags & !(EXPLAIN | LIMIT | SCAN_BYTES_MAX | KEYS) != 0 {
            return Err(malformed(format_args!("unknown flags {flags:#x}")));
        }
        let has = |flag: u8| flags & flag != 0;
        let limit = has(LIMIT).then(|| reader.u64()).transpose()?;
        let scan_bytes_max = has(SCAN_BYTES_MAX).then(|| reader.u64()).transpose()?;
        let paths = reader.strings(check_path_count, check_path)?;
        let select = reader.strings(check_select_count, check_column)?;
        let predicate = reader.node(1, &mut Limits::default())?;
        let keys = has(KEYS).then(|| reader.batch()).transpose()?;
        if !reader.rest.is_empty() {
            return Err(malformed(format_args!(
                "{} bytes follow it",
                reader.rest.len()
            )));
        }
        Ok(LookupRequest {
            paths,
            predicate,
            select,
            limit,
            scan_bytes_max,
            explain: has(EXPLAIN),
            keys,
        })
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let length =
        u32::try_from(length).expect("lists and strings of a request are shorter than 4 GiB");
    out.extend(length.to_le_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend(bytes);
}

fn put_node(predicate: &Predicate, out: &mut Vec<u8>) {
    let (tag, members) = match predicate {
        Predicate::And(members) => (AND, members),
        Predicate::Or(members) => (OR, members),
        Predicate::Compare(comparison) => return put_comparison(comparison, out),
    };
    out.push(tag);
    put_length(members.len(), out);
    for member in members {
        put_node(member, out);
    }
}

fn put_comparison(comparison: &Comparison, out: &mut Vec<u8>) {
    let (tag, literal) = match &comparison.test {
        Test::Equal(literal) => (EQUAL, Some(literal)),
        Test::NotEqual(literal) => (NOT_EQUAL, Some(literal)),
        Test::Less(literal) => (LESS, Some(literal)),
        Test::LessOrEqual(literal) => (LESS_OR_EQUAL, Some(literal)),
        Test::Greater(literal) => (GREATER, Some(literal)),
        Test::GreaterOrEqual(literal) => (GREATER_OR_EQUAL, Some(literal)),
        Test::Prefix(literal) => (PREFIX, Some(literal)),
        Test::In(_) => (IN, None),
        Test::IsNull => (IS_NULL, None),
        Test::IsNotNull => (IS_NOT_NULL, None),
    };
    out.push(tag);
    put_bytes(comparison.column.as_bytes(), out);
    if let Some(literal) = literal {
        put_literal(literal, out);
    }
    if let Test::In(literals) = &comparison.test {
        put_literals(literals, out);
    }
}

fn put_literals(literals: &[Literal], out: &mut Vec<u8>) {
    put_length(literals.len(), out);
    for literal in literals {
        put_literal(literal, out);
    }
}

fn put_literal(literal: &Literal, out: &mut Vec<u8>) {
    let (tag, bytes) = match literal {
        Literal::Boolean(value) => return out.push(if *value { TRUE } else { FALSE }),
        Literal::Integer(value) => {
            out.push(INTEGER);
            return out.extend(value.to_le_bytes());
        }
        Literal::Number(digits) => (NUMBER, digits.as_bytes()),
        Literal::Text(text) => (TEXT, text.as_bytes()),
        Literal::Binary(bytes) => (BINARY, &**bytes),
    };
    out.push(tag);
    put_bytes(bytes, out);
}

/// The bytes are no request.
fn malformed(what: impl std::fmt::Display) -> LookupError {
    LookupError::invalid(format!(
        "a malformed request: {what}; encode it with the client's library"
    ))
}

/// Fewest bytes of a string, of a node and of a literal.
const STRING_BYTES_MIN: usize = 4;
const NODE_BYTES_MIN: usize = 5;
const LITERAL_BYTES_MIN: usize = 1;

/// Reads from the front of bytes that are not trusted.
struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.short(N))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn short(&self, wanted: usize) -> LookupError {
        malformed(format_args!(
            "{} bytes are left where {wanted} belong",
            self.rest.len()
        ))
    }

    fn byte(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// How many follow, each of at least `bytes_min`.
    fn count(&mut self, bytes_min: usize) -> Result<usize> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        if count > self.rest.len() / bytes_min {
            return Err(self.short(count.saturating_mul(bytes_min)));
        }
        Ok(count)
    }

    fn bytes(&mut self) -> Result<&'b [u8]> {
        let length = self.count(1)?;
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn str(&mut self) -> Result<&'b str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("a string that is not UTF-8"))
    }

    fn strings(
        &mut self,
        check_count: impl Fn(usize) -> Result<()>,
        check: impl Fn(&str) -> Result<()>,
    ) -> Result<Vec<String>> {
        let count = self.count(STRING_BYTES_MIN)?;
        check_count(count)?;
        let mut strings = Vec::with_capacity(count);
        for _ in 0..count {
            let string = self.str()?;
            check(string)?;
            strings.push(string.to_owned());
        }
        Ok(strings)
    }

    /// A node that is in `depth` groups if it is one.
    fn node(&mut self, depth: usize, limits: &mut Limits) -> Result<Predicate> {
        match self.byte()? {
            AND => self.members(depth, limits).map(Predicate::And),
            OR => self.members(depth, limits).map(Predicate::Or),
            tag => {
                limits.comparison()?;
                let column = self.str()?.to_owned();
                let test = self.test(tag)?;
                Ok(Predicate::Compare(Comparison { column, test }))
            }
        }
    }

    fn members(&mut self, depth: usize, limits: &mut Limits) -> Result<Vec<Predicate>> {
        limits.group(depth)?;
        assert!(depth <= DEPTH_MAX, "deeper groups were refused");
        let count = self.count(NODE_BYTES_MIN)?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(self.node(depth + 1, limits)?);
        }
        Ok(members)
    }

    fn test(&mut self, tag: u8) -> Result<Test> {
        Ok(match tag {
            EQUAL => Test::Equal(self.literal()?),
            NOT_EQUAL => Test::NotEqual(self.literal()?),
            LESS => Test::Less(self.literal()?),
            LESS_OR_EQUAL => Test::LessOrEqual(self.literal()?),
            GREATER => Test::Greater(self.literal()?),
            GREATER_OR_EQUAL => Test::GreaterOrEqual(self.literal()?),
            IN => Test::In(self.literals()?),
            PREFIX => {
                let prefix = self.literal()?;
                Limits::prefix(&prefix)?;
                Test::Prefix(prefix)
            }
            IS_NULL => Test::IsNull,
            IS_NOT_NULL => Test::IsNotNull,
            _ => return Err(malformed(format_args!("unknown comparison {tag}"))),
        })
    }

    fn literals(&mut self) -> Result<Vec<Literal>> {
        let count = self.count(LITERAL_BYTES_MIN)?;
        Limits::literals(count)?;
        let mut literals = Vec::with_capacity(count);
        for _ in 0..count {
            literals.push(self.literal()?);
        }
        Ok(literals)
    }

    fn literal(&mut self) -> Result<Literal> {
        Ok(match self.byte()? {
            FALSE => Literal::Boolean(false),
            TRUE => Literal::Boolean(true),
            INTEGER => Literal::Integer(self.array().map(i64::from_le_bytes)?),
            NUMBER => number(self.str()?).ok_or_else(|| malformed("a number that is none"))?,
            TEXT => Literal::Text(self.str()?.into()),
            BINARY => Literal::Binary(self.bytes()?.into()),
            tag => return Err(malformed(format_args!("unknown literal {tag}"))),
        })
    }

    fn batch(&mut self) -> Result<Batch> {
        let column = self.str()?;
        check_column(column)?;
        let keys = self.literals()?;
        check_key_count(keys.len())?;
        let column = column.to_owned();
        Ok(Batch { column, keys })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    fn small() -> LookupRequest {
        LookupRequest::from_json(
            r#"{"path": "/a", "where": "k = 42 and (s in ('x', 1.5) or b = x'0a')", "select": ["k"],
                "limit": 7, "explain": true, "keys": {"column": "k", "values": [true, -1]}}"#,
        )
        .expect("valid")
    }

    #[test]
    fn the_bytes_are_these() {
        let mut expected = vec![1, 1 | 2 | 8];
        expected.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(b"\x01\0\0\0\x02\0\0\0/a");
        expected.extend(b"\x01\0\0\0\x01\0\0\0k");
        expected.extend(b"\0\x02\0\0\0");
        expected.extend(b"\x02\x01\0\0\0k\x02\x2a\0\0\0\0\0\0\0");
        expected.extend(b"\x01\x02\0\0\0");
        expected.extend(b"\x08\x01\0\0\0s\x02\0\0\0\x04\x01\0\0\0x\x03\x03\0\0\x001.5");
        expected.extend(b"\x02\x01\0\0\0b\x05\x01\0\0\0\x0a");
        expected.extend(b"\x01\0\0\0k\x02\0\0\0\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(small().encode(), expected);
    }

    #[test]
    fn bytes_cut_anywhere_are_refused() {
        let bytes = small().encode();
        for length in 0..bytes.len() {
            assert!(
                LookupRequest::decode(&bytes[..length]).is_err(),
                "{length} bytes"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        let error = LookupRequest::decode(&longer).expect_err("a byte follows");
        assert!(error.message.contains("1 bytes follow"), "{error}");
    }

    #[test]
    fn lengths_that_the_bytes_cannot_hold_are_refused_before_they_are_believed() {
        let mut bytes = vec![VERSION, 0];
        bytes.extend(u32::MAX.to_le_bytes());
        let error = LookupRequest::decode(&bytes).expect_err("four billion paths");
        assert!(error.message.contains("0 bytes are left"), "{error}");
    }

    #[test]
    fn what_breaks_a_limit_is_refused() {
        let refused = |change: &dyn Fn(&mut LookupRequest)| {
            let mut request = small();
            change(&mut request);
            LookupRequest::decode(&request.encode())
                .expect_err("a limit")
                .message
        };
        let deep = (0..40).fold(small().predicate, |inner, _| Predicate::Or(vec![inner]));
        assert!(refused(&|request| request.predicate = deep.clone()).contains("nest deeper"));
        assert!(refused(&|request| request.paths.clear()).contains("no file"));
        assert!(refused(&|request| request.paths = vec!["a".into(); 1025]).contains("1025 files"));
        assert!(refused(&|request| request.paths[0] = "a".repeat(4097)).contains("path of 4097"));
        assert!(
            refused(&|request| request.select = vec!["a".into(); 4097]).contains("4097 columns")
        );
        let keys = vec![Literal::Boolean(true); 65_537];
        let batch = Batch {
            column: "a".into(),
            keys,
        };
        assert!(refused(&|request| request.keys = Some(batch.clone())).contains("more than 65536"));
        let not_a_number = Predicate::Compare(Comparison {
            column: "a".into(),
            test: Test::Equal(Literal::Number("1x".into())),
        });
        assert!(
            refused(&|request| request.predicate = not_a_number.clone())
                .contains("a number that is none")
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(request in samples::request()) {
            prop_assert_eq!(LookupRequest::decode(&request.encode()).ok(), Some(request));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = LookupRequest::decode(&bytes);
        }

        #[test]
        fn no_change_of_a_request_panics(
            request in samples::request(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = request.encode();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = LookupRequest::decode(&bytes);
        }
    }
}
