//! Predicates as JSON, for programs that would rather not write text.
//!
//! | JSON | meaning |
//! |---|---|
//! | `{"and": [...]}`, `{"or": [...]}` | all, one of the members; of none: every row, no row |
//! | `{"column": "a.b", "eq": 42}` | a comparison: `eq`, `ne`, `lt`, `le`, `gt`, `ge` |
//! | `{"column": "a", "ge": 1, "lt": 5}` | several of one column hold together |
//! | `{"column": "a", "in": [1, 2]}` | equal to one of them |
//! | `{"column": "a", "prefix": "ab"}` | begins with |
//! | `{"column": "a", "is_null": true}`, `"is_not_null": true` | |
//!
//! A column is its dotted path as it is, without quotes. Literals are booleans, numbers (with all
//! their digits, however many), strings, and bytes as `{"base64": "Cv8="}`. Strings are bound by
//! the column's type: dates, timestamps, decimals and `"nan"` are given as strings. Fields that are
//! not known are refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::error::{LookupError, Result};
use crate::json_fields;
use crate::predicate::limits::Limits;
use crate::predicate::number::number;
use crate::predicate::parse::TEXT_BYTES_MAX;
use crate::predicate::{COMPARISONS_MAX, Comparison, LITERALS_MAX, Literal, Predicate, Test};

/// The predicate that the JSON in `text` says.
///
/// # Errors
/// [`Invalid`](crate::error::ErrorKind::Invalid), with the field that it is about.
pub fn parse(text: &str) -> Result<Predicate> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(LookupError::invalid(format!(
            "a predicate of {} bytes; at most {TEXT_BYTES_MAX} are read: ask in several requests",
            text.len()
        )));
    }
    of_json(json_fields::whole(text, "predicate")?)
}

/// The predicate that `json` says.
pub(crate) fn of_json(json: &RawValue) -> Result<Predicate> {
    tree(json, 1, &mut Limits::default())
}

/// A node that would be in `depth` groups if it is one.
fn tree(json: &RawValue, depth: usize, limits: &mut Limits) -> Result<Predicate> {
    let fields = json_fields::object(json, "predicate")?;
    match fields.as_slice() {
        [(name, members)] if name == "and" => {
            Ok(Predicate::And(group(members, name, depth, limits)?))
        }
        [(name, members)] if name == "or" => {
            Ok(Predicate::Or(group(members, name, depth, limits)?))
        }
        _ => comparisons(json, &fields, depth, limits),
    }
}

fn group(
    members: &RawValue,
    name: &str,
    depth: usize,
    limits: &mut Limits,
) -> Result<Vec<Predicate>> {
    limits.group(depth)?;
    // Members that are too many together are refused as they come.
    let members = json_fields::array(members, 2 * COMPARISONS_MAX, name)?;
    members
        .into_iter()
        .map(|member| tree(member, depth + 1, limits))
        .collect()
}

fn comparisons(
    json: &RawValue,
    fields: &[(String, &RawValue)],
    depth: usize,
    limits: &mut Limits,
) -> Result<Predicate> {
    let Some((_, column)) = fields.iter().find(|(name, _)| name == "column") else {
        return Err(LookupError::invalid(format!(
            "predicate: expected {{\"and\": […]}}, {{\"or\": […]}} or {{\"column\": …, \"eq\": …}}, found `{}`; \
             every row is {{\"and\": []}}",
            json_fields::shortened(json)
        )));
    };
    let column: String = json_fields::value(column, "column")?;
    let mut members = Vec::new();
    for (name, operand) in fields.iter().filter(|(name, _)| name != "column") {
        limits.comparison()?;
        let test =
            test(name, operand).map_err(|error| error.of(format_args!("column \"{column}\"")))?;
        let column = column.clone();
        members.push(Predicate::Compare(Comparison { column, test }));
    }
    match members.len() {
        0 => Err(LookupError::invalid(format!(
            "column \"{column}\": no operator; add one of {OPERATORS}"
        ))),
        1 => Ok(members.remove(0)),
        _ => {
            limits.group(depth)?;
            Ok(Predicate::And(members))
        }
    }
}

const OPERATORS: &str = "eq, ne, lt, le, gt, ge, in, prefix, is_null, is_not_null";

fn test(operator: &str, operand: &RawValue) -> Result<Test> {
    Ok(match operator {
        "eq" => Test::Equal(literal(operand, operator)?),
        "ne" => Test::NotEqual(literal(operand, operator)?),
        "lt" => Test::Less(literal(operand, operator)?),
        "le" => Test::LessOrEqual(literal(operand, operator)?),
        "gt" => Test::Greater(literal(operand, operator)?),
        "ge" => Test::GreaterOrEqual(literal(operand, operator)?),
        "in" => Test::In(literals(operand, operator)?),
        "prefix" => {
            let prefix = literal(operand, operator)?;
            Limits::prefix(&prefix)?;
            Test::Prefix(prefix)
        }
        "is_null" | "is_not_null" => match (json_fields::value(operand, operator)?, operator) {
            (true, "is_null") => Test::IsNull,
            (true, _) => Test::IsNotNull,
            (false, _) => {
                return Err(LookupError::invalid(format!(
                    "{operator} takes only true; write the other of is_null and is_not_null"
                )));
            }
        },
        _ => {
            return Err(LookupError::invalid(format!(
                "unknown operator \"{operator}\"; there are {OPERATORS}"
            )));
        }
    })
}

/// The literals of an array. `what` is its name in errors.
pub(crate) fn literals(json: &RawValue, what: &str) -> Result<Vec<Literal>> {
    json_fields::array(json, LITERALS_MAX, what)?
        .into_iter()
        .map(|element| literal(element, what))
        .collect()
}

fn literal(json: &RawValue, what: &str) -> Result<Literal> {
    let text = json.get();
    match text.as_bytes().first() {
        Some(b't' | b'f') => Ok(Literal::Boolean(json_fields::value(json, what)?)),
        Some(b'"') => Ok(Literal::Text(
            json_fields::value::<String>(json, what)?.into_boxed_str(),
        )),
        Some(b'{') => binary(json, what),
        Some(b'n') => Err(LookupError::invalid(format!(
            "{what}: nothing equals null; write \"is_null\": true or \"is_not_null\": true"
        ))),
        _ => number(text).ok_or_else(|| {
            LookupError::invalid(format!(
                "{what}: expected a boolean, a number, a string or {{\"base64\": \"…\"}}, found `{}`",
                json_fields::shortened(json)
            ))
        }),
    }
}

fn binary(json: &RawValue, what: &str) -> Result<Literal> {
    let fields = json_fields::object(json, what)?;
    let [(name, text)] = fields.as_slice() else {
        return Err(not_binary(json, what));
    };
    if name != "base64" {
        return Err(not_binary(json, what));
    }
    let text: String = json_fields::value(text, what)?;
    match STANDARD.decode(&text) {
        Ok(bytes) => Ok(Literal::Binary(bytes.into())),
        Err(error) => Err(LookupError::invalid(format!(
            "{what}: base64: {error}; the alphabet is that with + and /, padded with ="
        ))),
    }
}

fn not_binary(json: &RawValue, what: &str) -> LookupError {
    LookupError::invalid(format!(
        "{what}: bytes are written {{\"base64\": \"…\"}}, found `{}`",
        json_fields::shortened(json)
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::predicate::samples;

    /// The JSON of `predicate`, to read back.
    fn write(predicate: &Predicate) -> String {
        let list = |members: &[Predicate]| members.iter().map(write).collect::<Vec<_>>().join(", ");
        match predicate {
            Predicate::And(members) => format!(r#"{{"and": [{}]}}"#, list(members)),
            Predicate::Or(members) => format!(r#"{{"or": [{}]}}"#, list(members)),
            Predicate::Compare(Comparison { column, test }) => {
                let (operator, operand) = match test {
                    Test::Equal(literal) => ("eq", write_literal(literal)),
                    Test::NotEqual(literal) => ("ne", write_literal(literal)),
                    Test::Less(literal) => ("lt", write_literal(literal)),
                    Test::LessOrEqual(literal) => ("le", write_literal(literal)),
                    Test::Greater(literal) => ("gt", write_literal(literal)),
                    Test::GreaterOrEqual(literal) => ("ge", write_literal(literal)),
                    Test::In(literals) => {
                        let literals: Vec<_> = literals.iter().map(write_literal).collect();
                        ("in", format!("[{}]", literals.join(", ")))
                    }
                    Test::Prefix(literal) => ("prefix", write_literal(literal)),
                    Test::IsNull => ("is_null", "true".to_owned()),
                    Test::IsNotNull => ("is_not_null", "true".to_owned()),
                };
                format!(
                    r#"{{"column": {}, "{operator}": {operand}}}"#,
                    serde_json::json!(column)
                )
            }
        }
    }

    fn write_literal(literal: &Literal) -> String {
        match literal {
            Literal::Text(text) => serde_json::json!(text).to_string(),
            Literal::Binary(bytes) => {
                serde_json::json!({"base64": STANDARD.encode(bytes)}).to_string()
            }
            other => other.to_string(),
        }
    }

    /// The same, with zero for the numbers that JSON does not have.
    fn with_numbers_of_json(predicate: Predicate) -> Predicate {
        let each =
            |members: Vec<Predicate>| members.into_iter().map(with_numbers_of_json).collect();
        match predicate {
            Predicate::And(members) => Predicate::And(each(members)),
            Predicate::Or(members) => Predicate::Or(each(members)),
            Predicate::Compare(mut comparison) => {
                for literal in comparison.test.literals_mut() {
                    if let Literal::Number(digits) = literal
                        && serde_json::from_str::<&RawValue>(digits).is_err()
                    {
                        *literal = Literal::Integer(0);
                    }
                }
                Predicate::Compare(comparison)
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(predicate in samples::predicate()) {
            let predicate = with_numbers_of_json(predicate);
            prop_assert_eq!(parse(&write(&predicate)).ok(), Some(predicate));
        }

        #[test]
        fn no_text_panics(text in r#"([{}\[\]:,]|"(and|or|column|eq|in|base64|a)"|[0-9a-z.\-]| )*"#) {
            let _ = parse(&text);
        }
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err(text).message
    }

    #[test]
    fn several_operators_of_one_column_hold_together() {
        let both = parse(r#"{"column": "a.b", "ge": 1, "lt": 5}"#).expect("valid");
        assert_eq!(both.to_string(), "a.b >= 1 and a.b < 5");
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let digits = "123456789012345678901234567890.12345678901234567890";
        let predicate = parse(&format!(r#"{{"column": "a", "eq": {digits}}}"#)).expect("valid");
        assert_eq!(predicate.to_string(), format!("a = {digits}"));
    }

    #[test]
    fn bytes_are_base64() {
        let predicate =
            parse(r#"{"column": "a", "in": [{"base64": "Cv8="}, true]}"#).expect("valid");
        assert_eq!(predicate.to_string(), "a in (x'0aff', true)");
        assert!(refused(r#"{"column": "a", "eq": {"base64": "C"}}"#).contains("padded"));
        assert!(refused(r#"{"column": "a", "eq": {"hex": "0a"}}"#).contains("base64"));
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (
                r#"{"column": "a", "equals": 1}"#,
                "unknown operator \"equals\"",
            ),
            (r#"{"column": "a"}"#, "no operator"),
            (r#"{"eq": 1}"#, "expected {\"and\": […]}"),
            (r#"{"and": [], "or": []}"#, "expected {\"and\": […]}"),
            (
                r#"{"and": {}}"#,
                "and: invalid type: map, expected an array",
            ),
            (r#"{"column": 5, "eq": 1}"#, "column: invalid type"),
            (
                r#"{"column": "a", "eq": null}"#,
                "column \"a\": eq: nothing equals null",
            ),
            (r#"{"column": "a", "is_null": false}"#, "takes only true"),
            (
                r#"{"column": "a", "prefix": 5}"#,
                "column \"a\": a prefix is",
            ),
            (
                r#"{"column": "a", "eq": 1, "eq": 2}"#,
                "\"eq\" is there twice",
            ),
            (
                "[]",
                "predicate: invalid type: sequence, expected an object",
            ),
            ("{", "not JSON"),
        ];
        for (text, expected) in cases {
            let message = refused(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn deep_and_wide_trees_are_refused() {
        let deep = format!(
            "{}{{\"and\": []}}{}",
            r#"{"or": ["#.repeat(40_000),
            "]}".repeat(40_000)
        );
        assert!(refused(&deep).contains("nest deeper"));
        let wide = format!(
            r#"{{"and": [{}]}}"#,
            vec![r#"{"column":"a","eq":1}"#; 257].join(",")
        );
        assert!(refused(&wide).contains("more than 256 comparisons"));
    }
}
