//! Conditional reads (RFC 9110, section 13) as S3 answers them.
//!
//! The order is the one of RFC 9110, section 13.2.2, and gives S3's documented rules: `If-Match` that
//! holds outweighs a failing `If-Unmodified-Since`; `If-None-Match` that fails outweighs
//! `If-Modified-Since`. A date that cannot be read counts as not sent.

use crate::date;
use crate::head::Known;

/// The conditions of one request, as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions<'a> {
    /// `If-Match`
    pub if_match: Option<&'a str>,
    /// `If-None-Match`
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'a str>,
    /// `If-Unmodified-Since`
    pub if_unmodified_since: Option<&'a str>,
    /// `If-Range`
    pub if_range: Option<&'a str>,
}

/// What becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as without conditions.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

impl<'a> Conditions<'a> {
    /// The conditions in a head.
    pub fn of(known: &Known<'a>) -> Self {
        Conditions {
            if_match: known.if_match,
            if_none_match: known.if_none_match,
            if_modified_since: known.if_modified_since,
            if_unmodified_since: known.if_unmodified_since,
            if_range: known.if_range,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Conditions::default()
    }

    /// Whether a range is to be answered as such: without `If-Range`, or where it names exactly this
    /// version (RFC 9110, 13.1.5). Else the whole object is the answer.
    pub fn range_holds(&self, etag: &str, last_modified_ms: u64) -> bool {
        let Some(wanted) = self.if_range.map(str::trim) else {
            return true;
        };
        match date::parse_http_date(wanted) {
            Some(date_ms) => last_modified_ms > 0 && last_modified_ms / 1_000 == date_ms / 1_000,
            None => !is_weak(etag) && !is_weak(wanted) && opaque(wanted) == opaque(etag),
        }
    }

    /// Judges an object that exists: its entity tag with quotes (and `W/` if it is weak), its last
    /// change in milliseconds since 1970; 0 where that is unknown.
    pub fn evaluate(&self, etag: &str, last_modified_ms: u64) -> Verdict {
        let modified_since = |date: Option<&str>| {
            // Dates in HTTP are of seconds: what changed within the second is as old as the date.
            date.and_then(date::parse_http_date)
                // Nothing can be said of a time that is not known (RFC 9110, 13.1.3).
                .filter(|_| last_modified_ms > 0)
                .map(|date_ms| last_modified_ms / 1_000 > date_ms / 1_000)
        };
        let holds = match self.if_match {
            Some(tags) => any_tag(tags, |tag| {
                !is_weak(etag) && !is_weak(tag) && opaque(tag) == opaque(etag)
            }),
            None => modified_since(self.if_unmodified_since) != Some(true),
        };
        if !holds {
            return Verdict::Failed;
        }
        let changed = match self.if_none_match {
            Some(tags) => !any_tag(tags, |tag| opaque(tag) == opaque(etag)),
            None => modified_since(self.if_modified_since) != Some(false),
        };
        if changed {
            Verdict::Proceed
        } else {
            Verdict::NotModified
        }
    }
}

/// Whether a list of tags is `*` or holds one that matches.
fn any_tag(tags: &str, matches: impl Fn(&str) -> bool) -> bool {
    let mut rest = tags.trim();
    if rest == "*" {
        return true;
    }
    while !rest.is_empty() {
        let (tag, behind) = first_tag(rest);
        if !tag.is_empty() && matches(tag) {
            return true;
        }
        rest = behind;
    }
    false
}

/// The first tag of a list, and what follows its comma. A comma within quotes belongs to the tag.
fn first_tag(list: &str) -> (&str, &str) {
    let mut quoted = false;
    for (index, byte) in list.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return (list[..index].trim(), list[index + 1..].trim_start()),
            _ => {}
        }
    }
    (list.trim(), "")
}

fn is_weak(tag: &str) -> bool {
    tag.starts_with("W/")
}

/// The tag without weakness and quotes. S3 takes tags without quotes too.
fn opaque(tag: &str) -> &str {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::*;

    const ETAG: &str = "\"abc\"";
    const CHANGED_MS: u64 = 784_111_777_500;
    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn verdict(conditions: Conditions<'_>) -> Verdict {
        conditions.evaluate(ETAG, CHANGED_MS)
    }

    fn if_match(tags: &str) -> Verdict {
        verdict(Conditions {
            if_match: Some(tags),
            ..Conditions::default()
        })
    }

    fn if_none_match(tags: &str) -> Verdict {
        verdict(Conditions {
            if_none_match: Some(tags),
            ..Conditions::default()
        })
    }

    #[test]
    fn a_range_is_of_the_version_that_the_client_has_or_not_answered_as_one() {
        for (if_range, holds) in [
            (None, true),
            (Some(ETAG), true),
            (Some("abc"), true),
            (Some("\"other\""), false),
            (Some("W/\"abc\""), false),
            (Some(""), false),
            (Some("*"), false),
            (Some(CHANGED), true),
            (Some(BEFORE), false),
            (Some(AFTER), false),
        ] {
            let conditions = Conditions {
                if_range,
                ..Conditions::default()
            };
            assert_eq!(
                conditions.range_holds(ETAG, CHANGED_MS),
                holds,
                "{if_range:?}"
            );
        }
        let conditions = Conditions {
            if_range: Some(CHANGED),
            ..Conditions::default()
        };
        assert!(!conditions.range_holds(ETAG, 0));
        let conditions = Conditions {
            if_range: Some("W/\"abc\""),
            ..Conditions::default()
        };
        assert!(!conditions.range_holds("W/\"abc\"", CHANGED_MS));
    }

    #[test]
    fn dates_say_nothing_of_an_object_whose_time_is_not_known() {
        for date in [BEFORE, CHANGED, AFTER] {
            let since = Conditions {
                if_modified_since: Some(date),
                ..Conditions::default()
            };
            assert_eq!(since.evaluate(ETAG, 0), Proceed);
            let until = Conditions {
                if_unmodified_since: Some(date),
                ..Conditions::default()
            };
            assert_eq!(until.evaluate(ETAG, 0), Proceed);
        }
    }

    #[test]
    fn no_condition_proceeds() {
        assert_eq!(verdict(Conditions::default()), Proceed);
        assert!(Conditions::default().is_empty());
    }

    #[test]
    fn tags_are_compared_in_lists_with_and_without_quotes() {
        for tags in [
            "\"abc\"",
            "abc",
            "*",
            "\"x\", \"abc\"",
            "\"x\",abc",
            "\"a,b\" , \"abc\"",
            ",\"abc\"",
        ] {
            assert_eq!(if_match(tags), Proceed, "{tags}");
            assert_eq!(if_none_match(tags), NotModified, "{tags}");
        }
        for tags in ["\"x\"", "\"abcd\"", "", ",", "\"*\"", "\"x, abc\""] {
            assert_eq!(if_match(tags), Failed, "{tags}");
            assert_eq!(if_none_match(tags), Proceed, "{tags}");
        }
    }

    #[test]
    fn weak_tags_serve_for_none_match_only() {
        assert_eq!(if_match("W/\"abc\""), Failed);
        assert_eq!(if_none_match("W/\"abc\""), NotModified);
    }

    #[test]
    fn dates_are_compared_by_the_second() {
        let modified = |date| {
            verdict(Conditions {
                if_modified_since: Some(date),
                ..Conditions::default()
            })
        };
        assert_eq!(
            [modified(BEFORE), modified(CHANGED), modified(AFTER)],
            [Proceed, NotModified, NotModified]
        );
        let unmodified = |date| {
            verdict(Conditions {
                if_unmodified_since: Some(date),
                ..Conditions::default()
            })
        };
        assert_eq!(
            [unmodified(BEFORE), unmodified(CHANGED), unmodified(AFTER)],
            [Failed, Proceed, Proceed]
        );
        assert_eq!(
            [modified("yesterday"), unmodified("yesterday")],
            [Proceed, Proceed]
        );
    }

    #[test]
    fn tags_outweigh_dates_as_s3_documents() {
        let both = verdict(Conditions {
            if_match: Some(ETAG),
            if_unmodified_since: Some(BEFORE),
            ..Conditions::default()
        });
        assert_eq!(both, Proceed);
        let both = verdict(Conditions {
            if_none_match: Some(ETAG),
            if_modified_since: Some(BEFORE),
            ..Conditions::default()
        });
        assert_eq!(both, NotModified);
        let both = verdict(Conditions {
            if_none_match: Some("\"x\""),
            if_modified_since: Some(AFTER),
            ..Conditions::default()
        });
        assert_eq!(both, Proceed);
    }

    #[test]
    fn a_failed_match_outweighs_an_unchanged_object() {
        let both = verdict(Conditions {
            if_match: Some("\"x\""),
            if_none_match: Some(ETAG),
            ..Conditions::default()
        });
        assert_eq!(both, Failed);
    }
}
