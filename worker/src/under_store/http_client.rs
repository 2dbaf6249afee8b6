//! The HTTP client below the `object_store` crate, made of the same options as the crate's own.
//!
//! The crate's client follows redirects to any host, so whoever runs a store could have this worker ask
//! whatever it can reach. The invariant: a request goes to the origin (scheme, host and port) that the mount or
//! the store's tools name, and to no other. A redirect within that origin is followed; one that leaves it comes
//! back as the answer that it is.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use object_store::{ClientConfigKey as Key, ClientOptions};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, ClientBuilder, NoProxy, Proxy, Url};

use super::retry::random_fraction;

/// Redirects that are followed for one request; a store that has more goes in circles.
const REDIRECTS_MAX: usize = 5;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The name of the option.
    #[error("option `{0}` cannot be used")]
    Option(&'static str),
    /// What the HTTP library says.
    #[error("the options do not make a client: {0}")]
    Library(#[from] reqwest::Error),
}

/// A client by `options`. Options that are no keys of a mount (certificates and headers as values) do not count.
///
/// # Errors
/// Which option cannot be read.
pub(crate) fn client_of(options: &ClientOptions) -> Result<Client, ClientError> {
    crate::cryptography::install();
    let options = Options(options);
    let builder = Client::builder()
        .redirect(Policy::custom(follow_within_origin))
        // Compression would change the length that objects are known by.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .https_only(!options.flag(Key::AllowHttp, "allow_http")?);
    let builder = with_times(builder, &options)?;
    let builder = with_protocol(builder, &options)?;
    let builder = with_trust(builder, &options)?;
    let builder = with_proxy(builder, &options)?;
    let agent = options
        .text(Key::UserAgent)
        .unwrap_or_else(|| concat!("corelane/", env!("CARGO_PKG_VERSION")).to_owned());
    let mut builder = builder.user_agent(agent);
    if options.flag(Key::RandomizeAddresses, "randomize_addresses")? {
        builder = builder.dns_resolver(std::sync::Arc::new(ShuffledAddresses));
    }
    Ok(builder.build()?)
}

fn with_times(
    mut builder: ClientBuilder,
    options: &Options<'_>,
) -> Result<ClientBuilder, ClientError> {
    if let Some(time) = options.duration(Key::Timeout, "timeout")? {
        builder = builder.timeout(time);
    }
    if let Some(time) = options.duration(Key::ConnectTimeout, "connect_timeout")? {
        builder = builder.connect_timeout(time);
    }
    if let Some(time) = options.duration(Key::ReadTimeout, "read_timeout")? {
        builder = builder.read_timeout(time);
    }
    if let Some(time) = options.duration(Key::PoolIdleTimeout, "pool_idle_timeout")? {
        builder = builder.pool_idle_timeout(time);
    }
    if let Some(count) = options.number(Key::PoolMaxIdlePerHost, "pool_max_idle_per_host")? {
        builder = builder.pool_max_idle_per_host(count);
    }
    Ok(builder)
}

fn with_protocol(
    mut builder: ClientBuilder,
    options: &Options<'_>,
) -> Result<ClientBuilder, ClientError> {
    let interval = options.duration(Key::Http2KeepAliveInterval, "http2_keep_alive_interval")?;
    if let Some(time) = interval {
        builder = builder.http2_keep_alive_interval(time);
    }
    let timeout = options.duration(Key::Http2KeepAliveTimeout, "http2_keep_alive_timeout")?;
    if let Some(time) = timeout {
        builder = builder.http2_keep_alive_timeout(time);
    }
    if options.flag(Key::Http2KeepAliveWhileIdle, "http2_keep_alive_while_idle")? {
        builder = builder.http2_keep_alive_while_idle(true);
    }
    if let Some(bytes) = options.number::<u32>(Key::Http2MaxFrameSize, "http2_max_frame_size")? {
        builder = builder.http2_max_frame_size(Some(bytes));
    }
    if options.flag(Key::Http1Only, "http1_only")? {
        builder = builder.http1_only();
    }
    if options.flag(Key::Http2Only, "http2_only")? {
        builder = builder.http2_prior_knowledge();
    }
    Ok(builder)
}

fn with_trust(
    mut builder: ClientBuilder,
    options: &Options<'_>,
) -> Result<ClientBuilder, ClientError> {
    if options.flag(Key::NoSystemCertificates, "disable_system_certificates")? {
        builder = builder.tls_certs_only(std::iter::empty::<Certificate>());
    }
    if options.flag(Key::AllowInvalidCertificates, "allow_invalid_certificates")? {
        builder = builder.danger_accept_invalid_certs(true);
    }
    Ok(builder)
}

fn with_proxy(
    mut builder: ClientBuilder,
    options: &Options<'_>,
) -> Result<ClientBuilder, ClientError> {
    let Some(url) = options.text(Key::ProxyUrl) else {
        return Ok(builder);
    };
    let mut proxy = Proxy::all(url).map_err(|_| ClientError::Option("proxy_url"))?;
    if let Some(certificate) = options.text(Key::ProxyCaCertificate) {
        let certificate = Certificate::from_pem(certificate.as_bytes())
            .map_err(|_| ClientError::Option("proxy_ca_certificate"))?;
        builder = builder.tls_certs_merge([certificate]);
    }
    if let Some(excludes) = options.text(Key::ProxyExcludes) {
        proxy = proxy.no_proxy(NoProxy::from_string(&excludes));
    }
    Ok(builder.proxy(proxy))
}

/// The options, as text that is read here.
struct Options<'a>(&'a ClientOptions);

impl Options<'_> {
    fn text(&self, key: Key) -> Option<String> {
        self.0.get_config_value(&key)
    }

    fn flag(&self, key: Key, name: &'static str) -> Result<bool, ClientError> {
        let Some(text) = self.text(key) else {
            return Ok(false);
        };
        // The forms that the crate takes.
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" | "y" => Ok(true),
            "0" | "false" | "off" | "no" | "n" => Ok(false),
            _ => Err(ClientError::Option(name)),
        }
    }

    fn number<T: FromStr>(&self, key: Key, name: &'static str) -> Result<Option<T>, ClientError> {
        let text = self.text(key);
        let number = text.map(|text| text.parse().map_err(|_| ClientError::Option(name)));
        number.transpose()
    }

    fn duration(&self, key: Key, name: &'static str) -> Result<Option<Duration>, ClientError> {
        let text = self.text(key);
        let parse = |text: String| humantime::parse_duration(&text);
        let time = text.map(|text| parse(text).map_err(|_| ClientError::Option(name)));
        time.transpose()
    }
}

fn follow_within_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_within = attempt
        .previous()
        .first()
        .is_some_and(|first| is_one_origin(first, attempt.url()));
    if is_within && attempt.previous().len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// Whether both are of one scheme, host and port (RFC 6454, 5).
fn is_one_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin() && one.origin().is_tuple()
}

/// Gives the addresses of a host in random order, so that clients of a store spread over them.
#[derive(Debug)]
struct ShuffledAddresses;

impl Resolve for ShuffledAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut addresses: Vec<SocketAddr> = found.collect();
            for last in (1..addresses.len()).rev() {
                let other = (random_fraction() * (last + 1) as f64) as usize;
                addresses.swap(last, other.min(last));
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let here = url("http://store.example:8080/a");
        assert!(is_one_origin(&here, &url("http://store.example:8080/b?c")));
        for other in [
            "http://store.example/a",
            "http://store.example:8081/a",
            "https://store.example:8080/a",
            "http://other.example:8080/a",
            "http://store.example.other:8080/a",
            "http://store.example@169.254.169.254:8080/a",
            "data:,a",
        ] {
            assert!(!is_one_origin(&here, &url(other)), "{other}");
        }
        assert!(is_one_origin(
            &url("https://store.example/"),
            &url("https://store.example:443/")
        ));
        assert!(!is_one_origin(&url("data:,a"), &url("data:,a")));
    }

    #[test]
    fn every_option_of_a_client_is_read_or_refused_by_name() {
        let good = [
            (Key::AllowHttp, "true"),
            (Key::AllowInvalidCertificates, "yes"),
            (Key::ConnectTimeout, "7s"),
            (Key::Http1Only, "false"),
            (Key::Http2KeepAliveInterval, "1m 5s"),
            (Key::Http2KeepAliveTimeout, "5 seconds"),
            (Key::Http2KeepAliveWhileIdle, "on"),
            (Key::Http2MaxFrameSize, "65536"),
            (Key::Http2Only, "0"),
            (Key::PoolIdleTimeout, "1h"),
            (Key::PoolMaxIdlePerHost, "3"),
            (Key::ProxyExcludes, "localhost"),
            (Key::ProxyUrl, "http://127.0.0.1:9"),
            (Key::RandomizeAddresses, "no"),
            (Key::ReadTimeout, "9s"),
            (Key::Timeout, "10s"),
            (Key::UserAgent, "test/1"),
        ];
        for (key, value) in good {
            let options = ClientOptions::new().with_config(key, value);
            client_of(&options).unwrap_or_else(|error| panic!("{key:?}: {error}"));
        }
        let bad = [
            (Key::AllowHttp, "perhaps", "allow_http"),
            (
                Key::AllowInvalidCertificates,
                "?",
                "allow_invalid_certificates",
            ),
            (
                Key::NoSystemCertificates,
                "?",
                "disable_system_certificates",
            ),
            (Key::ConnectTimeout, "soon", "connect_timeout"),
            (Key::Http1Only, "?", "http1_only"),
            (
                Key::Http2KeepAliveInterval,
                "?",
                "http2_keep_alive_interval",
            ),
            (Key::Http2KeepAliveTimeout, "?", "http2_keep_alive_timeout"),
            (
                Key::Http2KeepAliveWhileIdle,
                "?",
                "http2_keep_alive_while_idle",
            ),
            (Key::Http2MaxFrameSize, "-1", "http2_max_frame_size"),
            (Key::Http2Only, "?", "http2_only"),
            (Key::PoolIdleTimeout, "?", "pool_idle_timeout"),
            (Key::PoolMaxIdlePerHost, "many", "pool_max_idle_per_host"),
            (Key::ProxyUrl, "::", "proxy_url"),
            (Key::RandomizeAddresses, "?", "randomize_addresses"),
            (Key::ReadTimeout, "?", "read_timeout"),
            (Key::Timeout, "?", "timeout"),
        ];
        for (key, value, name) in bad {
            let options = ClientOptions::new().with_config(key, value);
            match client_of(&options) {
                Err(ClientError::Option(option)) => assert_eq!(option, name),
                other => panic!("{key:?}: {other:?}"),
            }
        }
    }
}
