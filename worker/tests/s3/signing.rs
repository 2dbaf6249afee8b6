//! Signature Version 4 from the client's side, written from its description and not with the code
//! under test.

use std::time::{Duration, SystemTime};

use ring::{digest, hmac};

/// A body that is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// An access key and when it signs.
#[derive(Clone)]
pub struct Signer {
    pub id: String,
    pub secret: String,
    pub region: &'static str,
    /// Seconds since the Unix epoch.
    pub time_s: u64,
}

impl Signer {
    /// One that signs now.
    pub fn new(id: &str, secret: &str) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Signer {
            id: id.to_owned(),
            secret: secret.to_owned(),
            region: "us-east-1",
            time_s: now.expect("after 1970").as_secs(),
        }
    }

    /// The same at another time.
    pub fn at(&self, time_s: u64) -> Self {
        Signer {
            time_s,
            ..self.clone()
        }
    }

    /// The same, so long ago.
    pub fn ago(&self, time: Duration) -> Self {
        self.at(self.time_s - time.as_secs())
    }

    /// The head of a signed request. `target` is in its canonical form: escaped as S3 does, its
    /// parameters sorted. `lines` are not signed, but for those that begin with `x-amz-`.
    pub fn request(&self, method: &str, target: &str, lines: &str, payload: &str) -> String {
        let date = self.date();
        let mut signed: Vec<(String, String)> = lines
            .lines()
            .map(|line| line.split_once(": ").expect("a name and a value"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .filter(|(name, _)| name.starts_with("x-amz-"))
            .collect();
        signed.push(("host".to_owned(), "localhost".to_owned()));
        signed.push(("x-amz-content-sha256".to_owned(), payload.to_owned()));
        signed.push(("x-amz-date".to_owned(), date.clone()));
        signed.sort();
        let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let headers: String = signed
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{payload}");
        let signature = self.signature(&canonical);
        format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nx-amz-date: {date}\r\n\
             x-amz-content-sha256: {payload}\r\n{lines}Authorization: AWS4-HMAC-SHA256 \
             Credential={}/{}, SignedHeaders={names}, Signature={signature}\r\n\r\n",
            self.id,
            self.scope(),
        )
    }

    /// A signed GET.
    pub fn get(&self, target: &str) -> String {
        self.request("GET", target, "", UNSIGNED)
    }

    /// A target whose query carries the signature, valid for so long.
    pub fn presigned(&self, method: &str, path: &str, seconds: u64) -> String {
        let credential = format!("{}/{}", self.id, self.scope()).replace('/', "%2F");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={}\
             &X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host",
            self.date()
        );
        let canonical = format!("{method}\n{path}\n{query}\nhost:localhost\n\nhost\n{UNSIGNED}");
        let signature = self.signature(&canonical);
        format!("{path}?{query}&X-Amz-Signature={signature}")
    }

    fn signature(&self, canonical: &str) -> String {
        let hash = sha256(canonical.as_bytes());
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{hash}",
            self.date(),
            self.scope()
        );
        let first = format!("AWS4{}", self.secret).into_bytes();
        let scope = self.scope();
        let key = scope
            .split('/')
            .fold(first, |key, part| mac(&key, part.as_bytes()));
        hex(&mac(&key, to_sign.as_bytes()))
    }

    fn scope(&self) -> String {
        format!("{}/{}/s3/aws4_request", &self.date()[..8], self.region)
    }

    /// `YYYYMMDDTHHMMSSZ`.
    fn date(&self) -> String {
        let text = corelane_s3::date::iso_8601(self.time_s * 1000);
        let text = std::str::from_utf8(&text).expect("ASCII");
        let digits: String = text[..19].chars().filter(|c| !"-:".contains(*c)).collect();
        digits + "Z"
    }
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
