//! The words, literals and signs of a predicate's text, one at a time.
//!
//! A token borrows the text unless it has escapes. The lexer never looks further than the token's
//! end, so that reading a text takes time linear in it.

use std::borrow::Cow;

use crate::error::{LookupError, Result};
use crate::predicate::Literal;
use crate::predicate::number::number;

/// One word, literal or sign.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// Nothing follows.
    End,
    /// A keyword or a part of a column's name.
    Word(&'t str),
    /// A part of a column's name, in double quotes.
    Quoted(Cow<'t, str>),
    /// A literal that its first letter gives away: number, string, binary, date, timestamp.
    Literal(Literal),
    /// An operator, a parenthesis, a comma, a dot; also some that mean something in other languages.
    Sign(&'static str),
    /// A letter that means nothing here.
    Unknown(char),
}

/// Longest first where one begins with another. The last row is there for the error's sake.
const SIGNS: [&str; 20] = [
    "==", "<>", "!=", "<=", ">=", "=<", "=>", "&&", "||", "--", // two letters
    "=", "<", ">", "(", ")", ",", ".", // one
    ";", "!", "-",
];

/// Reads tokens from a text.
pub(super) struct Lexer<'t> {
    text: &'t str,
    /// Bytes read.
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Lexer { text, at: 0 }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// An error about what is at `byte`.
    pub(super) fn error(&self, byte: usize, what: impl std::fmt::Display) -> LookupError {
        let character = self.text[..byte].chars().count() + 1;
        LookupError::invalid(format!("predicate, character {character}: {what}"))
    }

    /// The next token and the byte that it begins at.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'t>)> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        let start = self.at;
        Ok((start, self.token()?))
    }

    fn token(&mut self) -> Result<Token<'t>> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        let second = rest[first.len_utf8()..].chars().next().unwrap_or(' ');
        match first {
            '\'' => {
                let text = self.quoted('\'')?;
                Ok(Token::Literal(Literal::Text(text.into())))
            }
            '"' => Ok(Token::Quoted(self.quoted('"')?)),
            'x' | 'X' if second == '\'' => self.binary(),
            '0'..='9' => self.number_or_moment(),
            '-' | '+' if second.is_ascii_digit() => self.number_or_moment(),
            '-' | '+' if is_infinity(&rest[1..]) => {
                self.at += 4;
                let text = if first == '-' { "-inf" } else { "inf" };
                Ok(Token::Literal(Literal::Number(text.into())))
            }
            _ if begins_name(first) => Ok(Token::Word(self.take_while(continues_name))),
            _ => Ok(self.sign(first)),
        }
    }

    fn sign(&mut self, first: char) -> Token<'t> {
        let rest = self.rest();
        match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Token::Sign(sign)
            }
            None => {
                self.at += first.len_utf8();
                Token::Unknown(first)
            }
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|letter| !wanted(letter)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// What stands between two `quote`s; two in a row are one of the text.
    fn quoted(&mut self, quote: char) -> Result<Cow<'t, str>> {
        let start = self.at;
        let mut text = Cow::Borrowed("");
        loop {
            self.at += 1;
            let piece = self.take_while(|letter| letter != quote);
            if self.rest().is_empty() {
                return Err(self.error(
                    start,
                    format_args!("a {quote} that is not closed; add a {quote} at the end"),
                ));
            }
            self.at += 1;
            text += piece;
            if !self.rest().starts_with(quote) {
                return Ok(text);
            }
            text.to_mut().push(quote);
        }
    }

    fn binary(&mut self) -> Result<Token<'t>> {
        let start = self.at;
        self.at += 1;
        let digits = self.quoted('\'')?;
        let bytes = digits.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
            _ => None,
        });
        match bytes.collect::<Option<Box<[u8]>>>() {
            Some(bytes) => Ok(Token::Literal(Literal::Binary(bytes))),
            None => Err(self.error(
                start,
                "x'…' takes pairs of hexadecimal digits, such as x'0aff'; a string is written without the x",
            )),
        }
    }

    fn number_or_moment(&mut self) -> Result<Token<'t>> {
        let start = self.at;
        if let Some(length) = moment_length(self.rest()) {
            let moment = &self.rest()[..length];
            self.at += length;
            return Ok(Token::Literal(Literal::Text(moment.into())));
        }
        let rest = self.rest();
        let signs = usize::from(rest.starts_with(['-', '+']));
        let mut before = ' ';
        let length = rest[signs..]
            .find(|letter: char| {
                let exponent_sign = matches!(letter, '+' | '-') && matches!(before, 'e' | 'E');
                before = letter;
                !(letter.is_alphanumeric() || matches!(letter, '.' | '_') || exponent_sign)
            })
            .map_or(rest.len(), |length| signs + length);
        let digits = &rest[..length];
        self.at += length;
        match number(digits.strip_prefix('+').unwrap_or(digits)) {
            Some(literal) => Ok(Token::Literal(literal)),
            None => Err(self.error(
                start,
                format_args!(
                    "`{}` is not a number; numbers are written 42, -1.5 or 2e10, times and other text in single \
                     quotes, and names that begin with a digit in double quotes",
                    shortened(digits)
                ),
            )),
        }
    }
}

/// At most 40 characters of `text`, for an error.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a name without quotes can begin with `letter`.
pub(super) fn begins_name(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_'
}

/// Whether a name without quotes can go on with `letter`.
pub(super) fn continues_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '$')
}

fn is_infinity(text: &str) -> bool {
    let word = text
        .get(..3)
        .is_some_and(|word| word.eq_ignore_ascii_case("inf"));
    word && !text[3..].starts_with(continues_name)
}

fn hex_digit(letter: u8) -> Option<u8> {
    char::from(letter).to_digit(16).map(|digit| digit as u8)
}

/// How many bytes of `text` are a date, or a date and a time: `1995-01-01`,
/// `1995-01-01T00:00:00.123+02:00`. Whether there is such a day, the column's type decides.
fn moment_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    const DATE: &[u8] = b"0000-00-00";
    let is_date = bytes.len() >= DATE.len()
        && DATE.iter().zip(bytes).all(|(shape, byte)| match shape {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        });
    if !is_date {
        return None;
    }
    let rest = &bytes[DATE.len()..];
    match rest {
        [b'T' | b't', b'0'..=b'9', ..] => {
            let time = |byte: &u8| {
                byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b'+' | b'-' | b'Z' | b'z')
            };
            let length = 1 + rest[1..].iter().take_while(|byte| time(byte)).count();
            Some(DATE.len() + length)
        }
        _ => Some(DATE.len()),
    }
}
