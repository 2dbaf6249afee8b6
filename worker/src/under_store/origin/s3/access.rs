//! What it takes to reach a bucket: URL, client, credentials.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use object_store::ClientConfigKey as C;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as K, AwsCredentialProvider};

use crate::under_store::runtime::Timeouts;

/// How to reach one bucket.
pub(crate) struct S3Access {
    pub(super) http: reqwest::Client,
    /// Of the bucket, without a slash at the end.
    pub(super) bucket_url: String,
    pub(super) region: String,
    /// `None`: requests are not signed.
    pub(super) credentials: Option<AwsCredentialProvider>,
    pub(super) signs_payload: bool,
    pub(super) pays: bool,
    /// Headers that ask for encryption at rest; for writes that begin an object.
    pub(super) encryption: Vec<(&'static str, String)>,
    pub(super) timeouts: Timeouts,
}

impl fmt::Debug for S3Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the client nor the credentials: their text could show keys.
        formatter
            .debug_struct("S3Access")
            .field("bucket_url", &self.bucket_url)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// What of a builder's configuration our own requests need; taken before it becomes a client.
pub(crate) struct S3Options {
    builder: AmazonS3Builder,
    bucket: String,
}

impl S3Options {
    /// The configuration of `builder`, which is for `bucket`.
    pub fn of(builder: &AmazonS3Builder, bucket: &str) -> Self {
        S3Options {
            builder: builder.clone(),
            bucket: bucket.to_owned(),
        }
    }

    fn text(&self, key: K) -> Option<String> {
        self.builder
            .get_config_value(&key)
            .filter(|value| !value.is_empty())
    }

    fn flag(&self, key: K) -> bool {
        // The forms that the crate itself takes.
        self.text(key).is_some_and(|value| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "1" | "true" | "on" | "yes" | "y"
            )
        })
    }

    /// The way to the bucket of `client`, which was made of the same configuration.
    ///
    /// # Errors
    /// Which option cannot be used.
    pub fn access(&self, client: &AmazonS3, timeouts: Timeouts) -> Result<S3Access, String> {
        if self.flag(K::S3Express) {
            // Its sessions are made by the crate alone; reads go on without us.
            return Err("writes to directory buckets (s3_express) are not supported".to_owned());
        }
        let region = self
            .text(K::Region)
            .unwrap_or_else(|| "us-east-1".to_owned());
        let bucket = &self.bucket;
        // As the crate makes it: an endpoint of virtual-hosted style names the bucket already.
        let endpoint = self.text(K::S3Endpoint).or_else(|| self.text(K::Endpoint));
        let bucket_url = match (endpoint, self.flag(K::VirtualHostedStyleRequest)) {
            (Some(endpoint), true) => endpoint.trim_end_matches('/').to_owned(),
            (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
            (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        reqwest::Url::parse(&bucket_url)
            .map_err(|error| format!("the endpoint is no URL: {error}"))?;
        Ok(S3Access {
            http: self.http(timeouts)?,
            bucket_url,
            region,
            credentials: (!self.flag(K::SkipSignature)).then(|| client.credentials().clone()),
            signs_payload: !self.flag(K::UnsignedPayload),
            pays: self.flag(K::RequestPayer),
            encryption: self.encryption()?,
            timeouts,
        })
    }

    fn http(&self, timeouts: Timeouts) -> Result<reqwest::Client, String> {
        crate::cryptography::install();
        let mut client = reqwest::Client::builder()
            .connect_timeout(timeouts.connect)
            .tcp_nodelay(true)
            // A redirect would need a signature of its own.
            .redirect(reqwest::redirect::Policy::none())
            // An upload that ends early is told from a whole one by its length: HTTP/1.1.
            .http1_only()
            .https_only(!self.flag(K::Client(C::AllowHttp)));
        if self.flag(K::Client(C::AllowInvalidCertificates)) {
            client = client.danger_accept_invalid_certs(true);
        }
        if let Some(agent) = self.text(K::Client(C::UserAgent)) {
            client = client.user_agent(agent);
        }
        if let Some(count) = self.number(C::PoolMaxIdlePerHost)? {
            client = client.pool_max_idle_per_host(count);
        }
        if let Some(time) = self.text(K::Client(C::PoolIdleTimeout)) {
            let seconds = time.trim_end_matches('s').trim_end_matches(" second");
            if let Ok(seconds) = u64::from_str(seconds) {
                client = client.pool_idle_timeout(Duration::from_secs(seconds));
            }
        }
        if let Some(url) = self.text(K::Client(C::ProxyUrl)) {
            let mut proxy =
                reqwest::Proxy::all(url).map_err(|_| "option `proxy_url` is no URL".to_owned())?;
            if let Some(excludes) = self.text(K::Client(C::ProxyExcludes)) {
                proxy = proxy.no_proxy(reqwest::NoProxy::from_string(&excludes));
            }
            client = client.proxy(proxy);
        }
        if let Some(certificate) = self.text(K::Client(C::ProxyCaCertificate)) {
            let certificate = reqwest::Certificate::from_pem(certificate.as_bytes())
                .map_err(|_| "option `proxy_ca_certificate` is no certificate".to_owned())?;
            client = client.add_root_certificate(certificate);
        }
        client
            .build()
            .map_err(|error| format!("the options do not make a client: {error}"))
    }

    fn number<T: FromStr>(&self, key: C) -> Result<Option<T>, String> {
        let name = key.as_ref().to_owned();
        let Some(text) = self.text(K::Client(key)) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| format!("option `{name}` is no number"))
    }

    fn encryption(&self) -> Result<Vec<(&'static str, String)>, String> {
        // Their type has no public name; the options have.
        let of = |name: &str| self.text(name.parse().expect("an option of the crate"));
        let mut headers = Vec::new();
        let Some(kind) = of("aws_server_side_encryption") else {
            return Ok(headers);
        };
        if kind == "sse-c" {
            return Err("writes with keys of the customer (sse-c) are not supported".to_owned());
        }
        headers.push(("x-amz-server-side-encryption", kind));
        if let Some(key) = of("aws_sse_kms_key_id") {
            headers.push(("x-amz-server-side-encryption-aws-kms-key-id", key));
        }
        if let Some(flag) = of("aws_sse_bucket_key_enabled") {
            headers.push(("x-amz-server-side-encryption-bucket-key-enabled", flag));
        }
        Ok(headers)
    }
}
