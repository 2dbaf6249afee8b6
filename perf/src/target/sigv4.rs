//! Signatures of GET and HEAD requests to S3: AWS Signature Version 4 in the header, with
//! UNSIGNED-PAYLOAD ("Authenticating Requests: Using the Authorization Header", Amazon S3 API
//! reference). The key of the day is derived once; a request costs one SHA-256 and one HMAC.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::{digest, hmac};

const PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// Who signs.
#[derive(Clone)]
pub struct Credentials {
    access_key: String,
    secret_key: String,
    region: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Credentials({}, {})",
            self.access_key, self.region
        )
    }
}

impl Credentials {
    /// Of this key, for this region.
    pub fn new(access_key: &str, secret_key: &str, region: &str) -> Credentials {
        Credentials {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: region.to_owned(),
        }
    }

    /// From `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; an empty region is that of
    /// `AWS_REGION`, else `us-east-1`.
    ///
    /// # Errors
    /// When the environment has no key; the text names what is missing.
    pub fn from_environment(region: &str) -> Result<Credentials, String> {
        let read = |name: &str| {
            std::env::var(name).map_err(|_| format!("s3+http:// needs {name} in the environment"))
        };
        let region = match region {
            "" => std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned()),
            region => region.to_owned(),
        };
        Ok(Credentials {
            access_key: read("AWS_ACCESS_KEY_ID")?,
            secret_key: read("AWS_SECRET_ACCESS_KEY")?,
            region,
        })
    }
}

/// Signs the requests of one connection.
pub(crate) struct Signer {
    credentials: Credentials,
    host: String,
    /// Second of the date below, since the Unix epoch.
    second: u64,
    date: String,
    /// Days since the epoch that the key is of.
    day: u64,
    key: Option<hmac::Key>,
    scope: String,
    canonical: String,
    to_sign: String,
}

fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

impl Signer {
    pub fn new(credentials: Credentials, host: &str) -> Signer {
        Signer {
            credentials,
            host: host.to_owned(),
            second: u64::MAX,
            date: String::new(),
            day: u64::MAX,
            key: None,
            scope: String::new(),
            canonical: String::new(),
            to_sign: String::new(),
        }
    }

    /// Appends the header lines that sign `method` of `path`, encoded as it is sent, with `range`
    /// (empty for none): host and range are in it and must not be sent again.
    pub fn sign(&mut self, out: &mut Vec<u8>, method: &str, path: &str, range: &str) {
        let second = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.sign_at(out, method, path, range, second);
    }

    /// The same as [`Signer::sign`] at `second`, since the Unix epoch.
    pub fn sign_at(
        &mut self,
        out: &mut Vec<u8>,
        method: &str,
        path: &str,
        range: &str,
        second: u64,
    ) {
        self.sign_payload_at(out, method, path, range, PAYLOAD, second);
    }

    fn sign_payload_at(
        &mut self,
        out: &mut Vec<u8>,
        method: &str,
        path: &str,
        range: &str,
        payload: &str,
        second: u64,
    ) {
        self.set_time(second);
        let (range_line, range_name) = match range {
            "" => (String::new(), ""),
            range => (format!("range:{range}\n"), "range;"),
        };
        let signed_headers = format!("host;{range_name}x-amz-content-sha256;x-amz-date");
        self.canonical.clear();
        write!(
            self.canonical,
            "{method}\n{path}\n\nhost:{}\n{range_line}x-amz-content-sha256:{payload}\nx-amz-date:{}\n\n{signed_headers}\n{payload}",
            self.host, self.date
        )
        .expect("writing to a string");
        self.to_sign.clear();
        write!(
            self.to_sign,
            "AWS4-HMAC-SHA256\n{}\n{}\n",
            self.date, self.scope
        )
        .expect("writing to a string");
        let digest = digest::digest(&digest::SHA256, self.canonical.as_bytes());
        hex(&mut self.to_sign, digest.as_ref());
        let key = self.key.as_ref().expect("set with the time");
        let mut signature = String::with_capacity(64);
        hex(
            &mut signature,
            hmac::sign(key, self.to_sign.as_bytes()).as_ref(),
        );
        let range_header = match range {
            "" => String::new(),
            range => format!("Range: {range}\r\n"),
        };
        let head = format!(
            "Host: {}\r\n{range_header}x-amz-content-sha256: {payload}\r\nx-amz-date: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={signed_headers},Signature={signature}\r\n",
            self.host, self.date, self.credentials.access_key, self.scope
        );
        out.extend_from_slice(head.as_bytes());
    }

    fn set_time(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        self.second = second;
        let time = chrono::DateTime::from_timestamp(second as i64, 0).expect("a time of this era");
        self.date = time.format("%Y%m%dT%H%M%SZ").to_string();
        let day = second / 86_400;
        if day == self.day {
            return;
        }
        self.day = day;
        let Credentials {
            secret_key, region, ..
        } = &self.credentials;
        let day = &self.date[..8];
        let chain = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
        };
        let mut key = chain(format!("AWS4{secret_key}").as_bytes(), day);
        for text in [region, "s3", "aws4_request"] {
            key = chain(key.as_ref(), text);
        }
        self.key = Some(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()));
        self.scope = format!("{day}/{region}/s3/aws4_request");
    }
}

/// `path` with everything encoded that S3 wants encoded, in the request as in the signature.
pub(super) fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => write!(out, "%{byte:02X}").expect("writing to a string"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Object" of the Amazon S3 API reference.
    #[test]
    fn the_reference_s_example_has_its_signature() {
        let secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", secret_key, "us-east-1");
        let mut signer = Signer::new(credentials, "examplebucket.s3.amazonaws.com");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let may_24_2013 = 1_369_353_600;
        // Twice, since the second one finds key and date at hand.
        for _ in 0..2 {
            let mut out = Vec::new();
            signer.sign_payload_at(
                &mut out,
                "GET",
                "/test.txt",
                "bytes=0-9",
                empty,
                may_24_2013,
            );
            let text = String::from_utf8(out).expect("text");
            assert!(text.contains("x-amz-date: 20130524T000000Z\r\n"), "{text}");
            assert!(
                text.contains(
                    "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn paths_are_encoded_as_s3_does() {
        assert_eq!(encode_path("/a b/ü+~.txt"), "/a%20b/%C3%BC%2B~.txt");
    }
}
