//! The keys of `--key COLUMN=KEY,...`.
//!
//! The invariant: as many keys in the same order as were written. Each is a literal as in a
//! predicate; what is none is text, so that `--key name=alpha,beta` needs no quotes within quotes.

use corelane_client::lookup::predicate::parse::parse;
use corelane_client::lookup::predicate::{Comparison, Literal, Predicate, Test};
use corelane_client::lookup::request::{Batch, KEYS_MAX};

use super::usage;
use crate::failure::Failure;

/// The column and its keys.
pub(super) fn parse_batch(text: &str) -> Result<Batch, Failure> {
    let wrong = |what: String| usage(format!("--key: {what}"));
    let Some((column, list)) = text
        .split_once('=')
        .filter(|(column, _)| !column.trim().is_empty())
    else {
        return Err(wrong(format!(
            "`{text}` is not COLUMN=KEY,... such as o_orderkey=42,7"
        )));
    };
    let mut keys = Vec::new();
    for (place, piece) in pieces(list).into_iter().enumerate() {
        if piece.is_empty() {
            return Err(wrong(format!(
                "key {} of {column} is empty; the empty text is written ''",
                place + 1
            )));
        }
        if place == KEYS_MAX {
            return Err(wrong(format!(
                "more than {KEYS_MAX} keys; ask in several look-ups"
            )));
        }
        let Some(literal) = literal(piece) else {
            return Err(wrong(format!(
                "key {} of {column}, {piece}, begins with a quote and is not in quotes; a quote within is written ''",
                place + 1
            )));
        };
        keys.push(literal);
    }
    Ok(Batch {
        column: column.trim().to_owned(),
        keys,
    })
}

/// Nothing for what began as text in quotes and went on otherwise: a quote was forgotten.
fn literal(piece: &str) -> Option<Literal> {
    match parse(&format!("key = {piece}")) {
        Ok(Predicate::Compare(Comparison {
            test: Test::Equal(literal),
            ..
        })) => Some(literal),
        _ if piece.starts_with('\'') => None,
        _ => Some(Literal::Text(piece.into())),
    }
}

/// What stands between commas, without blanks around it. A comma in single quotes is none if the quote
/// begins the piece.
fn pieces(list: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut in_quotes = false;
    for (at, letter) in list.char_indices() {
        let begins = list[start..at].trim().is_empty();
        match letter {
            '\'' if in_quotes || begins => in_quotes = !in_quotes,
            // The second of two quotes, which are one of the text.
            '\'' if list[..at].ends_with('\'') && list[start..].trim_start().starts_with('\'') => {
                in_quotes = true;
            }
            ',' if !in_quotes => {
                pieces.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(list[start..].trim());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<Literal> {
        match parse_batch(text) {
            Ok(batch) => batch.keys,
            Err(failure) => panic!("{text}: {failure:?}"),
        }
    }

    fn text(text: &str) -> Literal {
        Literal::Text(text.into())
    }

    #[test]
    fn keys_come_in_their_order_with_their_types() {
        let batch = parse_batch("a.b=42, 7,42,-1").expect("valid");
        assert_eq!(batch.column, "a.b");
        let expected = [42, 7, 42, -1].map(Literal::Integer);
        assert_eq!(batch.keys, expected);
        assert_eq!(
            keys("k=true,1.50,x'0aff',1995-01-01"),
            [
                Literal::Boolean(true),
                Literal::Number("1.50".into()),
                Literal::Binary([0x0a, 0xff].into()),
                text("1995-01-01")
            ]
        );
    }

    #[test]
    fn text_needs_quotes_only_where_it_could_be_something_else() {
        assert_eq!(
            keys("k=alpha,O'Brien,a b"),
            ["alpha", "O'Brien", "a b"].map(text)
        );
        assert_eq!(
            keys("k='42','a,b','it''s, so',''"),
            ["42", "a,b", "it's, so", ""].map(text)
        );
        assert_eq!(keys("k=1 or key = 2"), [text("1 or key = 2")]);
        assert_eq!(keys("k=a=b"), [text("a=b")]);
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused() {
        for wrong in ["k", "=1", "k=", "k=1,,2", "k=1,", "k='a,b", "k='a'b"] {
            assert!(parse_batch(wrong).is_err(), "{wrong}");
        }
    }
}
