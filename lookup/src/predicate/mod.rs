//! What a look-up asks for: a tree of comparisons of columns with literals.
//!
//! Literals are as the caller wrote them; [`bind`] gives them the type of the column that they are
//! compared with. There is no negation of a whole tree, so a comparison that a NULL makes unknown
//! simply does not hold. A NaN compares with nothing, as in IEEE 754 and pyarrow.

pub mod bind;
pub mod intervals;
pub mod json;
mod lexer;
pub(crate) mod limits;
pub(crate) mod number;
pub mod parse;
pub mod position;
mod print;
#[cfg(test)]
pub(crate) mod samples;

use std::fmt;

/// Deepest nesting of AND and OR: evaluated recursively on a core's stack.
pub const DEPTH_MAX: usize = 32;

/// Most comparisons in a predicate, and most literals in an IN list beyond which the request is refused:
/// each is bound and looked at for every row group.
pub const COMPARISONS_MAX: usize = 256;

/// Most literals in one IN list. A batch of keys is one.
pub const LITERALS_MAX: usize = 65_536;

/// Which rows are wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// All of these hold; with none: every row.
    And(Vec<Predicate>),
    /// One of these holds; with none: no row.
    Or(Vec<Predicate>),
    /// A column compares like this.
    Compare(Comparison),
}

impl Predicate {
    /// The paths of the columns that are compared, some of them more than once.
    pub fn columns<'a>(&'a self, columns: &mut Vec<&'a str>) {
        match self {
            Predicate::And(children) | Predicate::Or(children) => {
                children.iter().for_each(|child| child.columns(columns));
            }
            Predicate::Compare(comparison) => columns.push(&comparison.column),
        }
    }

    /// Its literals, a test without one counted as one: how long it takes to put in the terms of a file.
    pub fn literals(&self) -> usize {
        match self {
            Predicate::And(children) | Predicate::Or(children) => {
                children.iter().map(Predicate::literals).sum()
            }
            Predicate::Compare(comparison) => match &comparison.test {
                Test::In(literals) => literals.len().max(1),
                _ => 1,
            },
        }
    }
}

/// A test of a column's value.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Dotted path of a leaf column, such as `o_orderkey` or `customer.address.zip`.
    pub column: String,
    /// The test.
    pub test: Test,
}

/// What is asked of a value. None of these but [`Test::IsNull`] holds for NULL.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Equal to the literal.
    Equal(Literal),
    /// Not equal to the literal.
    NotEqual(Literal),
    /// Less than the literal.
    Less(Literal),
    /// Less than or equal to the literal.
    LessOrEqual(Literal),
    /// Greater than the literal.
    Greater(Literal),
    /// Greater than or equal to the literal.
    GreaterOrEqual(Literal),
    /// Equal to one of the literals.
    In(Vec<Literal>),
    /// A string or binary value that begins with the literal.
    Prefix(Literal),
    /// NULL: the value, or a group that it lies in.
    IsNull,
    /// Not NULL.
    IsNotNull,
}

/// A value as the caller wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `true` or `false`.
    Boolean(bool),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// Any other number, in digits: `1.50`, `-2e10`, `123456789012345678901234567890`, `nan`, `-inf`.
    /// Exact for decimals, rounded to the column's precision for floats.
    Number(Box<str>),
    /// Text: for strings, dates, times, timestamps and UUIDs, by the column's type.
    Text(Box<str>),
    /// Bytes.
    Binary(Box<[u8]>),
}

impl fmt::Display for Literal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Boolean(value) => write!(formatter, "{value}"),
            Literal::Integer(value) => write!(formatter, "{value}"),
            Literal::Number(digits) => formatter.write_str(digits),
            Literal::Text(text) => write!(formatter, "'{}'", text.replace('\'', "''")),
            Literal::Binary(bytes) => {
                formatter.write_str("x'")?;
                for byte in bytes {
                    write!(formatter, "{byte:02x}")?;
                }
                formatter.write_str("'")
            }
        }
    }
}
