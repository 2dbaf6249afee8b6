//! Predicates as text that [`parse`](crate::predicate::parse::parse) reads back.
//!
//! The invariant: a predicate with no AND or OR of a single member reads back equal; one with such
//! groups reads back as the same without them. An AND of nothing is `true`, an OR of nothing
//! `false`.

use std::fmt;

use crate::predicate::parse::is_plain_name;
use crate::predicate::{Comparison, Literal, Predicate, Test};

impl fmt::Display for Predicate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (members, word, of_none) = match self {
            Predicate::And(members) => (members, " and ", "true"),
            Predicate::Or(members) => (members, " or ", "false"),
            Predicate::Compare(comparison) => return write!(formatter, "{comparison}"),
        };
        if members.is_empty() {
            return formatter.write_str(of_none);
        }
        for (index, member) in members.iter().enumerate() {
            if index > 0 {
                formatter.write_str(word)?;
            }
            match member {
                Predicate::And(inner) | Predicate::Or(inner) if !inner.is_empty() => {
                    write!(formatter, "({member})")?
                }
                _ => write!(formatter, "{member}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = Column(&self.column);
        match &self.test {
            Test::Prefix(literal) => write!(formatter, "starts_with({column}, {literal})"),
            test => write!(formatter, "{column} {test}"),
        }
    }
}

/// The test without its column: `>= 5`, `in (1, 2)`, `is null`; of a prefix, `starts with 'ab'`,
/// which [`Comparison`] writes in the way that is read back.
impl fmt::Display for Test {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Equal(literal) => write!(formatter, "= {literal}"),
            Test::NotEqual(literal) => write!(formatter, "<> {literal}"),
            Test::Less(literal) => write!(formatter, "< {literal}"),
            Test::LessOrEqual(literal) => write!(formatter, "<= {literal}"),
            Test::Greater(literal) => write!(formatter, "> {literal}"),
            Test::GreaterOrEqual(literal) => write!(formatter, ">= {literal}"),
            Test::In(literals) => write_list(literals, formatter),
            Test::Prefix(literal) => write!(formatter, "starts with {literal}"),
            Test::IsNull => formatter.write_str("is null"),
            Test::IsNotNull => formatter.write_str("is not null"),
        }
    }
}

fn write_list(literals: &[Literal], formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    formatter.write_str("in (")?;
    for (index, literal) in literals.iter().enumerate() {
        if index > 0 {
            formatter.write_str(", ")?;
        }
        write!(formatter, "{literal}")?;
    }
    formatter.write_str(")")
}

/// A dotted path, the parts quoted that would not be read back otherwise.
struct Column<'c>(&'c str);

impl fmt::Display for Column<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split('.').enumerate() {
            if index > 0 {
                formatter.write_str(".")?;
            }
            if is_plain_name(part) {
                formatter.write_str(part)?;
            } else {
                write!(formatter, "\"{}\"", part.replace('"', "\"\""))?;
            }
        }
        Ok(())
    }
}
