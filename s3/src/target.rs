//! What a request is aimed at: bucket, key and query, decoded once.
//!
//! The invariant: a key that comes out of here names one place below its bucket. Its segments are
//! neither empty nor `.` nor `..`, and it holds no control character, so that whoever maps it onto a
//! folder, a log line or a header of an answer cannot be led elsewhere. S3 itself allows such keys;
//! they are refused here with `InvalidArgument`, whatever way they were escaped.

use std::borrow::Cow;

use crate::error::{Error, ErrorCode};
use crate::head::Head;
use crate::percent::{Plus, decode};

/// Longest key in bytes of UTF-8, as in S3.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Longest name of a bucket, as in S3 before 2018; mounts may have any shorter one.
pub const BUCKET_BYTES_MAX: usize = 255;

/// Most parameters of a query. S3 knows none with more than about twenty.
pub const QUERY_PARAMETERS_MAX: usize = 64;

/// The domains below which a host name begins with a bucket (virtual-host style).
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// In lower case, each with a leading dot.
    suffixes: Vec<String>,
}

impl Hosts {
    /// Base domains such as `s3.example.com`; with none, buckets are in paths only. Requests to any
    /// other host, to addresses and to `localhost` have their bucket in the path.
    pub fn new(domains: &[String]) -> Self {
        let suffixes = domains
            .iter()
            .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
            .filter(|domain| !domain.is_empty())
            .map(|domain| format!(".{domain}"))
            .collect();
        Hosts { suffixes }
    }

    /// The bucket in a `Host`, if it is below one of the domains.
    fn bucket<'a>(&self, host: &'a str) -> Option<&'a str> {
        if self.suffixes.is_empty() || host.starts_with('[') {
            return None;
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        // The longest, so that a domain below another one is not taken for a bucket.
        let suffix = self
            .suffixes
            .iter()
            .filter(|suffix| {
                name.len()
                    .checked_sub(suffix.len())
                    .and_then(|start| name.get(start..))
                    .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            })
            .max_by_key(|suffix| suffix.len())?;
        if self
            .suffixes
            .iter()
            .any(|other| other[1..].eq_ignore_ascii_case(name))
        {
            return None;
        }
        Some(&name[..name.len() - suffix.len()])
    }
}

/// What a request is aimed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Empty: the service itself.
    pub bucket: Cow<'a, str>,
    /// Decoded; empty: the bucket itself.
    pub key: Cow<'a, str>,
    /// The parameters.
    pub query: Query<'a>,
}

impl<'a> Target<'a> {
    /// Takes bucket, key and query from a head.
    ///
    /// # Errors
    /// If they are not what S3 or the invariant of this module allows.
    pub fn parse(head: &Head<'a>, hosts: &Hosts) -> Result<Target<'a>, Error> {
        let host = head.known.host.unwrap_or_default();
        let path = head.path.strip_prefix('/').unwrap_or(head.path);
        let (bucket, key) = match hosts.bucket(host) {
            Some("") => return Err(invalid_bucket("")),
            Some(bucket) if bucket.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                (Cow::Owned(bucket.to_ascii_lowercase()), path)
            }
            Some(bucket) => (Cow::Borrowed(bucket), path),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                if bucket.is_empty() && !path.is_empty() {
                    return Err(invalid_bucket(""));
                }
                (decode_part(bucket, "bucket")?, key)
            }
        };
        if !bucket.is_empty() {
            check_bucket(&bucket)?;
        }
        Ok(Target {
            bucket,
            key: decode_key(key)?,
            query: Query::parse(head.query)?,
        })
    }
}

/// Resolves the escapes of a key and checks it.
pub(crate) fn decode_key(raw: &str) -> Result<Cow<'_, str>, Error> {
    let key = decode_part(raw, "key")?;
    check_key(&key)?;
    Ok(key)
}

fn decode_part<'a>(raw: &'a str, part: &str) -> Result<Cow<'a, str>, Error> {
    decode(raw, Plus::Literal).map_err(|broken| {
        Error::new(
            ErrorCode::InvalidUri,
            format_args!("the {part} in the path cannot be decoded: {broken}"),
        )
    })
}

/// What is allowed for a bucket: a name that cannot be taken for anything else.
pub(crate) fn check_bucket(bucket: &str) -> Result<(), Error> {
    let sound = bucket.len() <= BUCKET_BYTES_MAX
        && bucket
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && !bucket.is_empty()
        && !matches!(bucket, "." | "..");
    if sound {
        Ok(())
    } else {
        Err(invalid_bucket(bucket))
    }
}

fn invalid_bucket(bucket: &str) -> Error {
    Error::new(
        ErrorCode::InvalidBucketName,
        format_args!(
            "`{}` is no bucket name: letters, digits, `.`, `-` and `_` make one, up to {BUCKET_BYTES_MAX}",
            bucket.escape_debug()
        ),
    )
}

/// What is allowed for a key; the empty one means the bucket.
///
/// # Errors
/// What is wrong with it: its length, a control character, or a segment that is empty, `.` or `..`.
pub fn check_key(key: &str) -> Result<(), Error> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::new(
            ErrorCode::KeyTooLongError,
            format_args!(
                "the key has {} bytes; {KEY_BYTES_MAX} are the most",
                key.len()
            ),
        ));
    }
    if key.is_empty() || is_plainly_sound(key.as_bytes()) {
        return Ok(());
    }
    if key.chars().any(char::is_control) {
        return Err(refused_key("it holds a control character"));
    }
    // One slash at the end marks a folder.
    for segment in key.strip_suffix('/').unwrap_or(key).split('/') {
        match segment {
            "" => {
                return Err(refused_key(
                    "it holds an empty segment (`//`, or `/` at its begin)",
                ));
            }
            "." | ".." => return Err(refused_key("it holds a segment `.` or `..`")),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a key holds only visible ASCII and no segment that is empty or begins with a dot: most
/// keys. Looks at many bytes at a time; about any other key it says nothing.
fn is_plainly_sound(key: &[u8]) -> bool {
    let visible = key.iter().fold(true, |visible, &byte| {
        visible & (b' '..0x7f).contains(&byte)
    });
    let odd = |byte: u8| (byte == b'/') | (byte == b'.');
    let odd_segment = key
        .iter()
        .zip(&key[1..])
        .fold(odd(key[0]), |any, (&before, &byte)| {
            any | ((before == b'/') & odd(byte))
        });
    visible & !odd_segment
}

fn refused_key(why: &str) -> Error {
    Error::new(
        ErrorCode::InvalidArgument,
        format_args!(
            "this key is not served here: {why}; keys are names of files below a mount, so rename the object"
        ),
    )
}

/// The parameters of a request: checked as a whole, decoded one by one when they are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    /// Takes a query as it was sent, without `?`.
    ///
    /// # Errors
    /// If an escape is broken, a value holds NUL or is no UTF-8, a parameter is there twice, or
    /// there are more than [`QUERY_PARAMETERS_MAX`].
    pub fn parse(raw: &'a str) -> Result<Query<'a>, Error> {
        let query = Query { raw };
        if raw.is_empty() {
            return Ok(query);
        }
        if query.raw_pairs().nth(QUERY_PARAMETERS_MAX).is_some() {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format_args!("the query has more than {QUERY_PARAMETERS_MAX} parameters"),
            ));
        }
        let mut names = [const { Cow::Borrowed("") }; QUERY_PARAMETERS_MAX];
        for (index, (name, value)) in query.raw_pairs().enumerate() {
            let name = decode_parameter(name)?;
            decode_parameter(value)?;
            if names[..index].contains(&name) {
                return Err(Error::new(
                    ErrorCode::InvalidArgument,
                    format_args!(
                        "the parameter `{}` is there twice; send it once",
                        name.escape_debug()
                    ),
                ));
            }
            names[index] = name;
        }
        Ok(query)
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty() || self.raw_pairs().next().is_none()
    }

    /// The value of a parameter; empty if it has none. Names are case-sensitive, as in S3.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.raw_pairs()
            .find(|(other, _)| decode_checked(other) == name)
            .map(|(_, value)| decode_checked(value))
    }

    /// Whether there is such a parameter.
    pub fn has(&self, name: &str) -> bool {
        // Most reads have no parameters, and are asked for several.
        !self.raw.is_empty()
            && self
                .raw_pairs()
                .any(|(other, _)| decode_checked(other) == name)
    }

    /// Names and values, decoded, in the order they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.raw_pairs()
            .map(|(name, value)| (decode_checked(name), decode_checked(value)))
    }

    /// Names and values as they were sent.
    pub fn raw_pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.raw
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// # Panics
/// If the query was not parsed before.
fn decode_checked(raw: &str) -> Cow<'_, str> {
    decode(raw, Plus::Space).expect("checked when the query was parsed")
}

fn decode_parameter(raw: &str) -> Result<Cow<'_, str>, Error> {
    let text = decode(raw, Plus::Space).map_err(|broken| {
        Error::new(
            ErrorCode::InvalidUri,
            format_args!("a parameter of the query cannot be decoded: {broken}"),
        )
    })?;
    if text.contains('\0') {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            "a parameter of the query holds a NUL character",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
