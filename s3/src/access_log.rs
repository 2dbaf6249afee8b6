//! One line a request, in the format of Amazon S3's server access logs ("Amazon S3 server access log
//! format", Amazon S3 user guide), so that tools for those read these.
//!
//! The invariant: a request makes one line with the fields of the format, whatever its key, agent or
//! referrer hold: fields without quotes are percent-encoded, those in quotes have `\\xHH` for whatever
//! is not a printable character of ASCII, a quote or a backslash. No line helps anybody to repeat a
//! presigned request: signatures and session tokens of a query are left out.

use crate::date::http_date;

/// Parameters of a query that are as good as a key while they last.
const SECRET_PARAMETERS: [&str; 2] = ["x-amz-signature", "x-amz-security-token"];

/// Bytes of a field that came from a client; longer ones are cut, so that nobody fills the disk with
/// an agent's name. Keys are shorter even when every byte is encoded.
const FIELD_BYTES_MAX: usize = 4096;

/// Bytes of `\xFF`.
const ESCAPE_BYTES: usize = 4;

/// What is known of a request when its answer was sent. Empty strings and `None` are unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Whom the bucket belongs to.
    pub bucket_owner: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// When the request came, in milliseconds since 1970, UTC.
    pub time_ms: u64,
    /// The address of the client, without its port.
    pub remote_ip: &'a str,
    /// The name of the access key; empty if anonymous.
    pub requester: &'a str,
    /// As `x-amz-request-id` says it.
    pub request_id: &'a str,
    /// As `REST.GET.OBJECT`.
    pub operation: &'a str,
    /// Decoded.
    pub key: &'a str,
    /// `GET`.
    pub method: &'a str,
    /// Path and query as they were sent.
    pub request_uri: &'a str,
    /// Of the answer.
    pub status: u16,
    /// S3's code, where there is an error.
    pub error_code: &'a str,
    /// Bytes of the answer's body that were sent.
    pub bytes_sent: u64,
    /// Bytes of the object.
    pub object_size: Option<u64>,
    /// Milliseconds from the head of the request to the last byte of the answer.
    pub total_ms: u64,
    /// Milliseconds from the head of the request to the first byte of the answer.
    pub turn_around_ms: u64,
    /// `Referer`.
    pub referer: &'a str,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// The version asked for.
    pub version_id: &'a str,
    /// `SigV4`, empty if anonymous.
    pub signature_version: &'a str,
    /// `AuthHeader` or `QueryString`, empty if anonymous.
    pub authentication_type: &'a str,
    /// `Host`.
    pub host: &'a str,
    /// `TLSv1.3`, empty without TLS.
    pub tls_version: &'a str,
    /// Of TLS.
    pub cipher_suite: &'a str,
}

impl LogRecord<'_> {
    /// Appends the line with its LF.
    pub fn write(&self, out: &mut Vec<u8>) {
        plain(out, self.bucket_owner);
        plain(out, self.bucket);
        time(out, self.time_ms);
        // The colons of IPv6 stay.
        plain(out, self.remote_ip);
        plain(out, self.requester);
        plain(out, self.request_id);
        plain(out, self.operation);
        plain(out, self.key);
        self.write_request(out);
        number(out, Some(self.status.into()).filter(|status| *status > 0));
        plain(out, self.error_code);
        number(out, Some(self.bytes_sent).filter(|bytes| *bytes > 0));
        number(out, self.object_size);
        number(out, Some(self.total_ms));
        number(out, Some(self.turn_around_ms));
        quoted(out, self.referer);
        quoted(out, self.user_agent);
        plain(out, self.version_id);
        plain(out, ""); // the host id, which is Amazon's own
        plain(out, self.signature_version);
        plain(out, self.cipher_suite);
        plain(out, self.authentication_type);
        plain(out, self.host);
        plain(out, self.tls_version);
        plain(out, ""); // the access point
        plain(out, ""); // whether an ACL was needed
        *out.last_mut().expect("fields end in spaces") = b'\n';
    }

    fn write_request(&self, out: &mut Vec<u8>) {
        if self.method.is_empty() {
            return quoted(out, "");
        }
        out.push(b'"');
        let end = out.len() + FIELD_BYTES_MAX;
        escape(out, self.method, end);
        out.push(b' ');
        let (path, query) = self
            .request_uri
            .split_once('?')
            .unwrap_or((self.request_uri, ""));
        escape(out, path, end);
        for (at, parameter) in query.split('&').enumerate().filter(|_| !query.is_empty()) {
            escape(out, if at == 0 { "?" } else { "&" }, end);
            let name = parameter.split('=').next().unwrap_or_default();
            if SECRET_PARAMETERS
                .iter()
                .any(|secret| secret.eq_ignore_ascii_case(name))
            {
                escape(out, name, end);
                escape(out, "=-", end);
            } else {
                escape(out, parameter, end);
            }
        }
        out.extend_from_slice(b" HTTP/1.1\" ");
    }
}

/// A field without quotes.
fn plain(out: &mut Vec<u8>, value: &str) {
    if value.is_empty() {
        out.push(b'-');
    }
    let from = out.len();
    for byte in value.bytes().take(FIELD_BYTES_MAX) {
        match byte {
            b'%' | b'"' | b'\\' | b'[' | b']' => hex(out, b"%", byte),
            b'!'..=b'~' => out.push(byte),
            _ => hex(out, b"%", byte),
        }
    }
    // A client whose key is called `-` is not unknown.
    if out[from..] == *b"-" && !value.is_empty() {
        out.truncate(from);
        hex(out, b"%", b'-');
    }
    out.push(b' ');
}

fn quoted(out: &mut Vec<u8>, value: &str) {
    if value.is_empty() {
        return out.extend_from_slice(b"\"-\" ");
    }
    out.push(b'"');
    let end = out.len() + FIELD_BYTES_MAX;
    escape(out, value, end);
    out.extend_from_slice(b"\" ");
}

/// Appends `value` up to `end`, which no escape goes beyond: half of one would spoil the quotes behind it.
fn escape(out: &mut Vec<u8>, value: &str, end: usize) {
    for byte in value.bytes() {
        let is_plain = matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if out.len() + if is_plain { 1 } else { ESCAPE_BYTES } > end {
            return;
        }
        if is_plain {
            out.push(byte);
        } else {
            hex(out, b"\\x", byte);
        }
    }
}

fn hex(out: &mut Vec<u8>, prefix: &[u8], byte: u8) {
    let digits = b"0123456789ABCDEF";
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[
        digits[usize::from(byte >> 4)],
        digits[usize::from(byte & 15)],
    ]);
}

fn number(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        Some(value) => out.extend_from_slice(value.to_string().as_bytes()),
        None => out.push(b'-'),
    }
    out.push(b' ');
}

/// `[22/Nov/2026:10:00:00 +0000]`, from the parts of an HTTP date.
fn time(out: &mut Vec<u8>, ms: u64) {
    let date = http_date(ms);
    for piece in [
        &b"["[..],
        &date[5..7],
        b"/",
        &date[8..11],
        b"/",
        &date[12..16],
        b":",
        &date[17..25],
        b" +0000] ",
    ] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(record: &LogRecord<'_>) -> String {
        let mut out = Vec::new();
        record.write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_field_that_is_cut_ends_between_escapes() {
        for lead in 0..4 {
            let agent = format!("{}{}", "a".repeat(lead), "\u{ff}".repeat(5_000));
            let mut out = Vec::new();
            quoted(&mut out, &agent);
            let text = std::str::from_utf8(&out).expect("ASCII");
            let inner = text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix("\" "));
            let inner = inner.expect("in quotes");
            assert!(inner.len() <= FIELD_BYTES_MAX && inner.len() > FIELD_BYTES_MAX - 4);
            let escapes = &inner[lead..];
            assert!(escapes.len().is_multiple_of(4) && escapes.starts_with("\\xC3\\xBF"));
        }
    }

    #[test]
    fn a_line_has_the_fields_of_the_format_in_its_order() {
        let record = LogRecord {
            bucket_owner: "corelane",
            bucket: "lake",
            time_ms: 951_782_400_000,
            remote_ip: "::1",
            requester: "etl",
            request_id: "4A",
            operation: "REST.GET.OBJECT",
            key: "a b/c",
            method: "GET",
            request_uri: "/lake/a%20b/c?x-id=GetObject&X-Amz-Signature=abc&X-Amz-Date=d",
            status: 206,
            error_code: "",
            bytes_sent: 5,
            object_size: Some(9),
            total_ms: 2,
            turn_around_ms: 1,
            referer: "",
            user_agent: "S3 \"Console\"/0.4",
            version_id: "",
            signature_version: "SigV4",
            authentication_type: "AuthHeader",
            host: "h:9000",
            tls_version: "TLSv1.3",
            cipher_suite: "TLS13_AES_128_GCM_SHA256",
        };
        assert_eq!(
            line(&record),
            "corelane lake [29/Feb/2000:00:00:00 +0000] ::1 etl 4A REST.GET.OBJECT a%20b/c \
             \"GET /lake/a%20b/c?x-id=GetObject&X-Amz-Signature=-&X-Amz-Date=d HTTP/1.1\" 206 - 5 9 \
             2 1 \"-\" \"S3 \\x22Console\\x22/0.4\" - - SigV4 TLS13_AES_128_GCM_SHA256 AuthHeader \
             h:9000 TLSv1.3 - -\n"
        );
    }

    proptest! {
        #[test]
        fn no_field_forges_a_line_or_another_field(text in "[a\"\\\\ \n\r\0\u{85}\u{2028}é%?&=-]{0,40}") {
            let record = LogRecord {
                key: &text,
                method: "GET",
                request_uri: &text,
                referer: &text,
                user_agent: &text,
                host: &text,
                requester: &text,
                ..LogRecord::default()
            };
            let line = line(&record);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\n'));
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            let quotes: Vec<_> = line.split('"').collect();
            prop_assert_eq!(quotes.len(), 7);
            let outside: usize = quotes.iter().step_by(2).map(|part| part.split_whitespace().count()).sum();
            // Twenty-three fields without quotes, and the zone of the time.
            prop_assert_eq!(outside, 24);
        }
    }
}
