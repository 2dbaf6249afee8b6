//! Signs requests the plain way, for tests and figures: what is to be signed is handed over in its
//! canonical form, so nothing of the code under test is used to make it.

use ring::{digest, hmac};

pub const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// `20130524T000000Z`
pub const SIGNED_MS: u64 = 1_369_353_600_000;
pub const AMZ_DATE: &str = "20130524T000000Z";
pub const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";

/// A request in its canonical parts; headers in lower case and sorted.
pub struct Canonical<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub payload: &'a str,
}

impl Canonical<'_> {
    /// Names joined by `;`.
    pub fn signed_headers(&self) -> String {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| *name).collect();
        names.join(";")
    }

    /// The signature with the example's key, day and scope.
    pub fn signature(&self) -> String {
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let text = [
            self.method,
            self.path,
            self.query,
            &headers,
            &self.signed_headers(),
            self.payload,
        ]
        .join("\n");
        let hash = hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{AMZ_DATE}\n{SCOPE}\n{hash}");
        let first = format!("AWS4{SECRET}").into_bytes();
        let key = SCOPE
            .split('/')
            .fold(first, |key, part| mac(&key, part.as_bytes()));
        hex(&mac(&key, to_sign.as_bytes()))
    }

    /// The value of `Authorization`.
    pub fn authorization(&self) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={KEY_ID}/{SCOPE}, SignedHeaders={}, Signature={}",
            self.signed_headers(),
            self.signature()
        )
    }

    /// The request as it goes over the wire, aimed at `target`, with these lines beside the signed ones.
    pub fn request(&self, target: &str, more_lines: &str) -> String {
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "{} {target} HTTP/1.1\r\n{headers}Authorization: {}\r\n{more_lines}\r\n",
            self.method,
            self.authorization()
        )
    }
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
