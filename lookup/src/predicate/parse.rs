//! Predicates as text: `o_orderkey = 42 and (name like 'abc%' or a.b.c in (1, 2, 3))`.
//!
//! What SQL users write, as far as [`Predicate`] goes; what goes further is refused with what to
//! write instead. The text is not trusted: it is bounded, and so is the recursion.
//!
//! | written | meaning |
//! |---|---|
//! | `a`, `a.b.c`, `"weird name".b` | a column; in double quotes, `""` is one quote |
//! | `=` `==` `<>` `!=` `<` `<=` `>` `>=` | a comparison; with the literal on the left, it is turned around |
//! | `a in (1, 2)` | equal to one of them |
//! | `a between 1 and 5` | `a >= 1 and a <= 5` |
//! | `a like 'ab%'`, `starts_with(a, 'ab')` | begins with `ab` |
//! | `a is null`, `a is not null` | |
//! | `and`, `or`, `( )` | AND binds tighter; parentheses are kept as a group |
//! | `true`, `false` | alone: every row, no row; compared: the literal |
//! | `42`, `1.50`, `-2e10`, `nan`, `inf`, `-inf` | numbers; all digits are kept |
//! | `'it''s'` | text |
//! | `x'0aff'` | bytes |
//! | `1995-01-01`, `1995-01-01T00:00:00Z`, `date '1995-01-01'`, `timestamp '1995-01-01 00:00:00'` | text too |
//!
//! Keywords are read in either case. A column that is called like one is quoted. Quotes do not
//! protect dots: `"a.b".c` is the path `a.b.c`, which Parquet tells apart as little.

use crate::error::{LookupError, Result};
use crate::predicate::lexer::{Lexer, Token, begins_name, continues_name, shortened};
use crate::predicate::limits::Limits;
use crate::predicate::{Comparison, DEPTH_MAX, Literal, Predicate, Test};

/// Longest text of a predicate in bytes, beyond which it is refused: an IN list as long as
/// [`LITERALS_MAX`](crate::predicate::LITERALS_MAX) of 16 characters each.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Words that name no column unless they are quoted.
const RESERVED: [&str; 12] = [
    "and", "or", "not", "in", "is", "null", "like", "between", "true", "false", "nan", "inf",
];

/// The predicate that `text` says. An empty text says every row.
///
/// # Errors
/// [`Invalid`](crate::error::ErrorKind::Invalid), with the character that it is about, what is
/// there, and what could be.
pub fn parse(text: &str) -> Result<Predicate> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(LookupError::invalid(format!(
            "a predicate of {} bytes; at most {TEXT_BYTES_MAX} are read: ask in several requests, or with a batch \
             of keys",
            text.len()
        )));
    }
    let mut parser = Parser::new(text)?;
    if parser.token == Token::End {
        return Ok(Predicate::And(Vec::new()));
    }
    let tree = parser.any_of(0)?;
    match parser.token {
        Token::End => Ok(tree.predicate),
        _ => Err(parser.unexpected("`and`, `or` or the end")),
    }
}

/// Whether `name` is read as a part of a column without quotes around it.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.starts_with(begins_name)
        && name.chars().all(continues_name)
        && !RESERVED.iter().any(|word| word.eq_ignore_ascii_case(name))
}

/// A predicate and how many groups lie in each other in it.
struct Tree {
    predicate: Predicate,
    depth: usize,
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    limits: Limits,
    /// The token that is read next, and the byte that it begins at.
    token: Token<'t>,
    at: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Result<Self> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next()?;
        Ok(Parser {
            lexer,
            limits: Limits::default(),
            token,
            at,
        })
    }

    /// Gives the token and reads the next.
    fn advance(&mut self) -> Result<Token<'t>> {
        let (at, next) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn is_word(&self, keyword: &str) -> bool {
        matches!(self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn take_word(&mut self, keyword: &str) -> Result<bool> {
        let found = self.is_word(keyword);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn take_sign(&mut self, sign: &str) -> Result<bool> {
        let found = matches!(self.token, Token::Sign(found) if found == sign);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect_sign(&mut self, sign: &str) -> Result<()> {
        match self.take_sign(sign)? {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{sign}`"))),
        }
    }

    fn error(&self, what: impl std::fmt::Display) -> LookupError {
        self.lexer.error(self.at, what)
    }

    /// The token is none of `expected`.
    fn unexpected(&self, expected: &str) -> LookupError {
        let found = match &self.token {
            Token::End => "the end".to_owned(),
            Token::Word(word) => format!("`{}`", shortened(word)),
            Token::Quoted(name) => format!("`\"{}\"`", shortened(name)),
            Token::Literal(literal) => format!("`{}`", shortened(&literal.to_string())),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::Unknown(letter) => format!("`{}`", letter.escape_debug()),
        };
        let advice = self
            .advice()
            .map_or(String::new(), |advice| format!("; {advice}"));
        self.error(format_args!("found {found}, expected {expected}{advice}"))
    }

    /// What to write instead of the token, where it is a likely mistake.
    fn advice(&self) -> Option<String> {
        let advice = match &self.token {
            Token::Sign("&&") => "write `and`",
            Token::Sign("||") => "write `or`",
            Token::Sign("=<") => "write `<=`",
            Token::Sign("=>") => "write `>=`",
            Token::Sign("!") => "there is no `not`: write the opposite comparison, such as `<>`",
            Token::Sign(";") => "leave the `;` out",
            Token::Sign("--") => "there are no comments",
            Token::Sign(".") => "a number begins with a digit: 0.5",
            Token::Sign("=" | "==" | "<" | "<=" | ">" | ">=" | "<>" | "!=") => {
                "comparisons do not chain: write `a between 1 and 5`, or `a > 1 and a < 5`"
            }
            Token::Literal(Literal::Integer(..0) | Literal::Number(_)) | Token::Sign("-") => {
                "there is no arithmetic; a name with a `-` in it is written in double quotes"
            }
            Token::Unknown('‘' | '’' | '“' | '”') => {
                "write straight quotes: 'text', \"column\""
            }
            Token::Unknown('`' | '[') => "a name is quoted with double quotes: \"column\"",
            Token::Word(word) if word.eq_ignore_ascii_case("not") => {
                "there is no `not`: write the opposite comparison, such as `<>`, `>=` or `is not null`"
            }
            Token::Word(word)
                if word.eq_ignore_ascii_case("ilike") || word.eq_ignore_ascii_case("rlike") =>
            {
                "only prefixes are matched: `like 'abc%'`"
            }
            _ => return None,
        };
        Some(advice.to_owned())
    }

    /// Members joined by OR. `parentheses` are open around them.
    fn any_of(&mut self, parentheses: usize) -> Result<Tree> {
        let first = self.all_of(parentheses)?;
        if !self.is_word("or") {
            return Ok(first);
        }
        let mut depth = first.depth;
        let mut members = vec![first.predicate];
        while self.take_word("or")? {
            let member = self.all_of(parentheses)?;
            depth = depth.max(member.depth);
            members.push(member.predicate);
        }
        self.group(Predicate::Or(members), depth)
    }

    /// Members joined by AND.
    fn all_of(&mut self, parentheses: usize) -> Result<Tree> {
        let mut depth = 0;
        let mut members = Vec::new();
        loop {
            depth = depth.max(self.member(parentheses, &mut members)?);
            if !self.take_word("and")? {
                break;
            }
        }
        if members.len() > 1 {
            return self.group(Predicate::And(members), depth);
        }
        let predicate = members.pop().expect("a member was read");
        Ok(Tree { predicate, depth })
    }

    fn group(&mut self, predicate: Predicate, depth_inside: usize) -> Result<Tree> {
        let depth = depth_inside + 1;
        match self.limits.group(depth) {
            Ok(()) => Ok(Tree { predicate, depth }),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Adds what stands between two ANDs to `members`: two comparisons of a BETWEEN, one of all
    /// else. Gives its depth.
    fn member(&mut self, parentheses: usize, members: &mut Vec<Predicate>) -> Result<usize> {
        if matches!(self.token, Token::Sign("(")) {
            if parentheses == DEPTH_MAX {
                return Err(self.error(format_args!(
                    "parentheses nest deeper than {DEPTH_MAX}; leave out those around alike groups"
                )));
            }
            self.advance()?;
            let inner = self.any_of(parentheses + 1)?;
            if !self.take_sign(")")? {
                return Err(self.unexpected("`and`, `or` or `)`"));
            }
            members.push(inner.predicate);
            return Ok(inner.depth);
        }
        if let Some(constant) = self.constant()? {
            let tree = self.group(constant, 0)?;
            members.push(tree.predicate);
            return Ok(tree.depth);
        }
        if let Err(error) = self.limits.comparison() {
            return Err(self.error(error));
        }
        if let Some(literal) = self.take_literal()? {
            members.push(self.turned_around(literal)?);
        } else if self.is_word("starts_with") && self.lexer.rest().trim_start().starts_with('(') {
            members.push(self.starts_with()?);
        } else {
            self.column_first(members)?;
        }
        Ok(0)
    }

    /// `true` or `false` that is not compared with anything.
    fn constant(&mut self) -> Result<Option<Predicate>> {
        let every_row = self.is_word("true");
        if !every_row && !self.is_word("false")
            || self
                .lexer
                .rest()
                .trim_start()
                .starts_with(['=', '<', '>', '!'])
        {
            return Ok(None);
        }
        self.advance()?;
        Ok(Some(match every_row {
            true => Predicate::And(Vec::new()),
            false => Predicate::Or(Vec::new()),
        }))
    }

    /// `42 = a`, after the literal.
    fn turned_around(&mut self, literal: Literal) -> Result<Predicate> {
        let test = match self.token {
            Token::Sign("=" | "==") => Test::Equal(literal),
            Token::Sign("<>" | "!=") => Test::NotEqual(literal),
            Token::Sign("<") => Test::Greater(literal),
            Token::Sign("<=") => Test::GreaterOrEqual(literal),
            Token::Sign(">") => Test::Less(literal),
            Token::Sign(">=") => Test::LessOrEqual(literal),
            Token::Word(_) => {
                return Err(self.unexpected(
                    "one of = <> < <= > >= after a literal; write the column first with `in`, `is`, `like` and \
                     `between`, and names of columns in double quotes",
                ));
            }
            _ => return Err(self.unexpected("one of = <> < <= > >= after a literal")),
        };
        self.advance()?;
        let column = self.column("a column, since a literal is on the other side")?;
        Ok(Predicate::Compare(Comparison { column, test }))
    }

    /// `starts_with(a, 'ab')`.
    fn starts_with(&mut self) -> Result<Predicate> {
        self.advance()?;
        self.expect_sign("(")?;
        let column = self.column("a column")?;
        self.expect_sign(",")?;
        let at = self.at;
        let prefix = self.literal()?;
        Limits::prefix(&prefix).map_err(|error| self.lexer.error(at, error))?;
        self.expect_sign(")")?;
        let test = Test::Prefix(prefix);
        Ok(Predicate::Compare(Comparison { column, test }))
    }

    fn column_first(&mut self, members: &mut Vec<Predicate>) -> Result<()> {
        let start = self.at;
        let column = self.column("a column, a literal or `(`")?;
        let test = match self.token {
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "in" => self.list()?,
                "is" => self.null()?,
                "like" => self.like()?,
                "between" => return self.between(column, members),
                "not" => return Err(self.negated(word)),
                _ if column.eq_ignore_ascii_case("where")
                    || column.eq_ignore_ascii_case("select") =>
                {
                    return Err(self.lexer.error(
                        start,
                        format_args!("found `{column}`; write only what would follow a WHERE"),
                    ));
                }
                _ => return Err(self.no_operator(&column)),
            },
            Token::Sign("=" | "==") => Test::Equal(self.operand()?),
            Token::Sign("<>" | "!=") => Test::NotEqual(self.operand()?),
            Token::Sign("<") => Test::Less(self.operand()?),
            Token::Sign("<=") => Test::LessOrEqual(self.operand()?),
            Token::Sign(">") => Test::Greater(self.operand()?),
            Token::Sign(">=") => Test::GreaterOrEqual(self.operand()?),
            _ => return Err(self.no_operator(&column)),
        };
        members.push(Predicate::Compare(Comparison { column, test }));
        Ok(())
    }

    fn no_operator(&self, column: &str) -> LookupError {
        let column = shortened(column);
        let expected = "one of = <> < <= > >= in, is, like, between";
        match self.token {
            Token::Sign("(") => self.error(format_args!(
                "`{column}` is called like a function; only starts_with(column, 'prefix') is one"
            )),
            Token::End | Token::Sign(")") => self.unexpected(&format!(
                "{expected} after `{column}`; a boolean column is written `{column} = true`"
            )),
            Token::Word(word)
                if word.eq_ignore_ascii_case("and") || word.eq_ignore_ascii_case("or") =>
            {
                self.unexpected(&format!(
                    "{expected} after `{column}`; a boolean column is written `{column} = true`"
                ))
            }
            _ => self.unexpected(&format!("{expected} after `{column}`")),
        }
    }

    /// `not in`, `not like`, `not between`.
    fn negated(&self, word: &str) -> LookupError {
        let rest = self.lexer.rest().trim_start();
        let follows = |keyword: &str| {
            rest.get(..keyword.len())
                .is_some_and(|word| word.eq_ignore_ascii_case(keyword))
        };
        let instead = if follows("in") {
            "write `a <> 1 and a <> 2`"
        } else if follows("between") {
            "write `a < 1 or a > 5`"
        } else if follows("null") {
            "write `is not null`"
        } else {
            "ask for more rows and drop those"
        };
        self.error(format_args!(
            "found `{word}`, and there is no negation but `<>` and `is not null`; {instead}"
        ))
    }

    fn operand(&mut self) -> Result<Literal> {
        self.advance()?;
        self.literal()
    }

    /// `in (1, 2)`.
    fn list(&mut self) -> Result<Test> {
        self.advance()?;
        self.expect_sign("(")?;
        let mut literals = Vec::new();
        if self.take_sign(")")? {
            return Ok(Test::In(literals));
        }
        loop {
            Limits::literals(literals.len() + 1).map_err(|error| self.error(error))?;
            literals.push(self.literal()?);
            if self.take_sign(")")? {
                return Ok(Test::In(literals));
            }
            if !self.take_sign(",")? {
                return Err(self.unexpected("`,` or `)`"));
            }
        }
    }

    /// `is null`, `is not null`.
    fn null(&mut self) -> Result<Test> {
        self.advance()?;
        let not = self.take_word("not")?;
        match (self.take_word("null")?, not) {
            (true, false) => Ok(Test::IsNull),
            (true, true) => Ok(Test::IsNotNull),
            (false, _) => Err(self.unexpected("`null` after `is`; all else is compared with `=`")),
        }
    }

    /// `like 'ab%'`.
    fn like(&mut self) -> Result<Test> {
        self.advance()?;
        let at = self.at;
        let Literal::Text(pattern) = self.literal()? else {
            return Err(self.lexer.error(
                at,
                "`like` takes a pattern in single quotes, such as 'abc%'",
            ));
        };
        let refused = if pattern.contains('\\') {
            "a pattern with `\\`, and escapes are not read; write `starts_with(column, 'prefix')`"
        } else {
            match pattern.strip_suffix('%') {
                Some(prefix) if !prefix.contains(['%', '_']) => {
                    return Ok(Test::Prefix(Literal::Text(prefix.into())));
                }
                None if !pattern.contains(['%', '_']) => {
                    "a pattern without `%`; write `=`, or 'prefix%'"
                }
                _ => {
                    "only a prefix and one `%` at its end are matched; write 'prefix%', or \
                     `starts_with(column, 'prefix')` for a prefix with `%` or `_` in it"
                }
            }
        };
        Err(self.lexer.error(
            at,
            format_args!("like '{}': {refused}", shortened(&pattern)),
        ))
    }

    /// `between 1 and 5`, both included.
    fn between(&mut self, column: String, members: &mut Vec<Predicate>) -> Result<()> {
        if let Err(error) = self.limits.comparison() {
            return Err(self.error(error));
        }
        let low = self.operand()?;
        if !self.take_word("and")? {
            return Err(self.unexpected("`and` and the upper bound of `between`"));
        }
        let high = self.literal()?;
        let mut compare =
            |column, test| members.push(Predicate::Compare(Comparison { column, test }));
        compare(column.clone(), Test::GreaterOrEqual(low));
        compare(column, Test::LessOrEqual(high));
        Ok(())
    }

    /// A dotted path.
    fn column(&mut self, expected: &str) -> Result<String> {
        if let Token::Word(word) = self.token
            && !is_plain_name(word)
        {
            let quoted = format!(
                "{expected}; a column of this name is written \"{}\"",
                shortened(word)
            );
            return Err(self.unexpected(&quoted));
        }
        let mut path = String::new();
        let mut expected = expected;
        loop {
            match &self.token {
                Token::Word(part) => path.push_str(part),
                Token::Quoted(part) => path.push_str(part),
                _ => return Err(self.unexpected(expected)),
            }
            self.advance()?;
            if !self.take_sign(".")? {
                return Ok(path);
            }
            path.push('.');
            expected = "a part of a column's name after `.`";
        }
    }

    /// A literal, or an error that says what else it looks like.
    fn literal(&mut self) -> Result<Literal> {
        if let Some(literal) = self.take_literal()? {
            return Ok(literal);
        }
        let expected = match &self.token {
            Token::Word(word) if word.eq_ignore_ascii_case("null") => {
                "a literal; nothing equals null: write `is null` or `is not null`".to_owned()
            }
            Token::Word(word) => format!(
                "a literal, since columns are compared with literals alone; text is written '{}'",
                shortened(word)
            ),
            Token::Quoted(name) => format!(
                "a literal; double quotes are for columns, text is written '{}'",
                shortened(name).replace('\'', "''")
            ),
            Token::Sign("(") => "one literal; several are compared with `in (…)`".to_owned(),
            _ => "a literal".to_owned(),
        };
        Err(self.unexpected(&expected))
    }

    /// A literal if there is one.
    fn take_literal(&mut self) -> Result<Option<Literal>> {
        let literal = match &self.token {
            Token::Literal(_) => match self.advance()? {
                Token::Literal(literal) => literal,
                _ => unreachable!("it was a literal"),
            },
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" => self.take_as(Literal::Boolean(true))?,
                "false" => self.take_as(Literal::Boolean(false))?,
                "nan" => self.take_as(Literal::Number("nan".into()))?,
                "inf" => self.take_as(Literal::Number("inf".into()))?,
                "date" | "timestamp" if self.lexer.rest().trim_start().starts_with('\'') => {
                    self.advance()?;
                    return self.take_literal();
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(literal))
    }

    fn take_as(&mut self, literal: Literal) -> Result<Literal> {
        self.advance()?;
        Ok(literal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::predicate::{COMPARISONS_MAX, LITERALS_MAX, samples};

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(predicate in samples::predicate()) {
            let text = predicate.to_string();
            prop_assert_eq!(parse(&text).ok(), Some(predicate), "{}", text);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_row_of_words_panics(
            words in prop::collection::vec(
                "and|or|not|in|is|null|like|between|true|date|starts_with|a\\.b|\"a\"|'x%'|x'0a|x'0a'|[-+]?[0-9.e:-]{1,12}|\
                 \\(|\\)|,|[<>=!.]{1,2}|é|‘|-inf",
                0..12,
            ),
            space in "| ",
        ) {
            let _ = parse(&words.join(&space));
        }
    }

    fn said(text: &str) -> String {
        parse(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .to_string()
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err(text).message
    }

    #[test]
    fn each_form_is_read() {
        let cases = [
            ("a = 42", "a = 42"),
            ("a == +42 AND b<>-1", "a = 42 and b <> -1"),
            ("a != 1.50", "a <> 1.50"),
            ("a<1e5 or a>=-INF", "a < 1e5 or a >= -inf"),
            ("42 = a", "a = 42"),
            ("5 < a.b and 5 >= c", "a.b > 5 and c <= 5"),
            ("true = a", "a = true"),
            ("a = FALSE", "a = false"),
            ("a In (1, 'x', x'0AFF')", "a in (1, 'x', x'0aff')"),
            ("a in ()", "a in ()"),
            ("a between 1 and 5 and b = 1", "a >= 1 and a <= 5 and b = 1"),
            ("a between 1 and 5 or b = 1", "(a >= 1 and a <= 5) or b = 1"),
            ("name like 'abc%'", "starts_with(name, 'abc')"),
            ("starts_with(name, 'a%b')", "starts_with(name, 'a%b')"),
            ("a is null or a IS NOT NULL", "a is null or a is not null"),
            ("a = 'it''s'", "a = 'it''s'"),
            ("\"weird \"\"name\".b = 1", "\"weird \"\"name\".b = 1"),
            ("\"and\" = 1", "\"and\" = 1"),
            ("o >= 1995-01-01", "o >= '1995-01-01'"),
            (
                "o = 1995-01-01T00:00:00.123+02:00",
                "o = '1995-01-01T00:00:00.123+02:00'",
            ),
            ("date = date '1995-01-01'", "date = '1995-01-01'"),
            (
                "t < TIMESTAMP '1995-01-01 00:00:00'",
                "t < '1995-01-01 00:00:00'",
            ),
            ("a=1 or b=2 and c=3", "a = 1 or (b = 2 and c = 3)"),
            ("(a=1 or b=2) and ((c=3))", "(a = 1 or b = 2) and c = 3"),
            ("true", "true"),
            ("false or a = 1", "false or a = 1"),
            ("größe = 1", "größe = 1"),
            ("x = 1 and starts_with = 2", "x = 1 and starts_with = 2"),
        ];
        for (text, expected) in cases {
            assert_eq!(said(text), expected, "{text}");
        }
        assert_eq!(parse(" \n").ok(), Some(Predicate::And(Vec::new())));
    }

    #[test]
    fn errors_say_where_what_and_what_instead() {
        let cases = [
            (
                "a = 1 b",
                "character 7: found `b`, expected `and`, `or` or the end",
            ),
            (
                "é = 1 and",
                "character 10: found the end, expected a column",
            ),
            ("a = \"b\"", "text is written 'b'"),
            ("a = b", "text is written 'b'"),
            ("a = null", "write `is null`"),
            ("a not in (1)", "write `a <> 1 and a <> 2`"),
            ("not a = 1", "there is no `not`"),
            ("a like '%b'", "only a prefix"),
            ("a like 'a_%'", "only a prefix"),
            ("a like 'ab'", "write `=`"),
            ("a like 'a\\%%'", "escapes are not read"),
            ("a like 5", "a pattern in single quotes"),
            ("a = 1 && b = 2", "write `and`"),
            ("a =< 1", "write `<=`"),
            ("1 <= a <= 5", "do not chain"),
            ("a = 'x", "a ' that is not closed"),
            ("a = x'0'", "pairs of hexadecimal digits"),
            ("a = 12:30:00", "`:`"),
            ("a = 12abc", "`12abc` is not a number"),
            ("a = .5", "a number begins with a digit"),
            ("a-1 = 5", "double quotes"),
            ("a = ‘x’", "straight quotes"),
            ("in = 5", "written \"in\""),
            ("a", "`a = true`"),
            ("a and b = 1", "`a = true`"),
            ("where a = 1", "what would follow a WHERE"),
            ("lower(a) = 'x'", "called like a function"),
            ("(a = 1", "expected `and`, `or` or `)`"),
            ("a in 1, 2", "expected `(`"),
            ("a in (1,)", "found `)`, expected a literal"),
            ("a.5 = 1", "a part of a column's name"),
            ("starts_with(a, 5)", "a prefix is a string or binary, not 5"),
            ("a between 1 or 5", "upper bound"),
            ("a = 1;", "leave the `;` out"),
            ("a is 5", "expected `null`"),
        ];
        for (text, expected) in cases {
            let message = refused(text);
            assert!(message.contains(expected), "{text}: {message}");
            assert!(message.starts_with("predicate, character "), "{message}");
        }
    }

    #[test]
    fn long_wide_and_deep_texts_are_refused() {
        assert!(refused(&" ".repeat(TEXT_BYTES_MAX + 1)).contains("at most 1048576"));
        assert!(refused(&"(".repeat(TEXT_BYTES_MAX)).contains("parentheses nest deeper than 32"));
        let comparisons = |count: usize| vec!["a = 1"; count].join(" and ");
        assert!(parse(&comparisons(COMPARISONS_MAX)).is_ok());
        assert!(refused(&comparisons(COMPARISONS_MAX + 1)).contains("more than 256 comparisons"));
        assert!(refused(&vec!["true"; 300].join(" and ")).contains("groups"));
        let list = |count: usize| format!("a in ({})", vec!["1"; count].join(","));
        assert!(parse(&list(LITERALS_MAX)).is_ok());
        assert!(refused(&list(LITERALS_MAX + 1)).contains("more than 65536 literals"));
    }

    #[test]
    fn groups_nest_as_deep_as_allowed_and_no_deeper() {
        let nested = |depth: usize| {
            let leaf = parse("a = 1").expect("valid");
            (0..depth).fold(leaf.clone(), |inner, level| match level % 2 {
                0 => Predicate::And(vec![leaf.clone(), inner]),
                _ => Predicate::Or(vec![inner, leaf.clone()]),
            })
        };
        let deepest = nested(DEPTH_MAX);
        assert_eq!(parse(&deepest.to_string()).ok(), Some(deepest));
        assert!(refused(&nested(DEPTH_MAX + 1).to_string()).contains("deeper than 32"));
    }
}
