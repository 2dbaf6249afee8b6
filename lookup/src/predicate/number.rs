//! Which texts are numbers, and which kind of literal they make.
//!
//! One grammar for the text of predicates, JSON and the data plane, so that whoever binds a
//! [`Literal::Number`] never meets anything else: `-?digits(.digits)?([eE][+-]?digits)?`, `nan`,
//! `inf`, `-inf`.

use crate::predicate::Literal;

/// The literal of `text`, digits kept as they are; nothing if it is no number.
pub(crate) fn number(text: &str) -> Option<Literal> {
    if matches!(text, "nan" | "inf" | "-inf") {
        return Some(Literal::Number(text.into()));
    }
    let rest = after_digits(text.strip_prefix('-').unwrap_or(text))?;
    if rest.is_empty()
        && let Ok(value) = text.parse()
    {
        return Some(Literal::Integer(value));
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => after_digits(fraction)?,
        None => rest,
    };
    let rest = match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => after_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))?,
        None => rest,
    };
    rest.is_empty().then(|| Literal::Number(text.into()))
}

/// What follows the digits that `text` begins with; nothing if there are none.
fn after_digits(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_64_bits_are_integers_and_all_others_keep_their_digits() {
        assert_eq!(number("-7"), Some(Literal::Integer(-7)));
        assert_eq!(
            number("9223372036854775807"),
            Some(Literal::Integer(i64::MAX))
        );
        for text in [
            "9223372036854775808",
            "1.50",
            "-2e10",
            "1.0E-7",
            "nan",
            "inf",
            "-inf",
        ] {
            assert_eq!(number(text), Some(Literal::Number(text.into())));
        }
    }

    #[test]
    fn what_is_almost_a_number_is_none() {
        for text in [
            "", "-", ".5", "5.", "1e", "1e+", "+1", "0x10", "1_000", "NaN", "-nan", "1 ",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
