//! Places where operators may mount at run time.
//!
//! An operator of the cache is not the administrator of the machine: without a bound, a run-time mount would
//! reach every file and address that the process reaches. The invariant: a mount that passed
//! [`MountRoots::check`] makes the worker open only files and addresses below a root. So the URI is refused where
//! two readers could take it apart in two ways, a folder counts by where it really is, and options that name
//! further files, addresses or programs are left to the configuration.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Longest URI of a mount, in bytes: object keys are appended to it, and together they have at most 2,048.
pub const MOUNT_URI_BYTES_MAX: usize = 2048;

/// Roots of a worker whose configuration names none: object stores and HTTPS, which answer only to credentials or
/// certificates. Not `file://`, because the process can read its own secrets, and not `http://`, because services
/// that trust everyone on the machine's network (such as metadata services of clouds) speak it.
const DEFAULT_ROOTS: [&str; 6] = ["s3://", "gs://", "az://", "abfs://", "abfss://", "https://"];

/// Options of the stores that a run-time mount may set, without the prefix of the store.
const PLAIN_OPTIONS: &[&str] = &[
    // Of the worker.
    "requests_in_flight_max",
    "bytes_per_second",
    "settle_ms",
    // Credentials as they are, not as the name of a file or service that has them.
    "access_key_id",
    "secret_access_key",
    "session_token",
    "token",
    "skip_signature",
    "service_account_key",
    "bearer_token",
    "access_key",
    "account_key",
    "master_key",
    "sas_key",
    "sas_token",
    "client_id",
    "client_secret",
    "tenant_id",
    "authority_id",
    // Ways to speak to the store.
    "virtual_hosted_style_request",
    "unsigned_payload",
    "checksum_algorithm",
    "copy_if_not_exists",
    "conditional_put",
    "disable_tagging",
    "disable_bulk_delete",
    "request_payer",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "allow_http",
    "timeout",
    "connect_timeout",
    "read_timeout",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
];

/// Options that become a part of a host name.
const NAME_OPTIONS: &[&str] = &["region", "default_region", "account_name"];

/// Options that are an address.
const ADDRESS_OPTIONS: &[&str] = &["endpoint", "endpoint_url", "endpoint_url_s3", "base_url"];

/// Prefixes that the stores' own tools put before the names of options.
const OPTION_PREFIXES: [&str; 4] = ["azure_storage_", "azure_", "aws_", "google_"];

/// Why a place may not be mounted at run time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// It is written in a way that is not understood, or could be understood in two ways.
    #[error("{0}")]
    Invalid(String),
    /// It is none of the places.
    #[error("{0}")]
    Outside(String),
}

/// The roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRoots(Vec<Place>);

/// A place, taken apart. A root covers the places of its scheme and authority whose segments begin with its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    scheme: String,
    /// Bucket, container, or host and port; empty in a root: any. Files have none.
    authority: String,
    segments: Vec<String>,
}

impl Default for MountRoots {
    fn default() -> Self {
        let roots = DEFAULT_ROOTS.iter().map(|root| Place::root(root));
        MountRoots(roots.collect::<Result<_, _>>().expect("valid constants"))
    }
}

impl MountRoots {
    /// No place at all.
    pub fn none() -> Self {
        MountRoots(Vec::new())
    }

    /// Reads roots such as `s3://training`, `https://` or `file:///srv/data`. Folders are taken by where they
    /// really are now.
    ///
    /// # Errors
    /// A sentence about the first that is none.
    pub fn read(texts: &[String]) -> Result<Self, String> {
        let roots = texts.iter().map(|text| Place::root(text));
        roots.collect::<Result<_, _>>().map(MountRoots)
    }

    /// Checks that a mount of `uri` with `options` stays below a root, and gives the URI in its one form: a folder
    /// is named by where it really is. Opens folders, so it may wait for a file system.
    ///
    /// # Errors
    /// When it does not, or the URI or an option could mean something else to whoever opens it.
    pub fn check(
        &self,
        uri: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<String, RootError> {
        let place = Place::of_mount(uri)?;
        let place = match place.scheme.as_str() {
            "file" => place.resolved()?,
            _ => place,
        };
        self.check_place(&place, uri, options)?;
        Ok(place.uri())
    }

    /// Checks a mount whose URI [`MountRoots::check`] gave once, against roots that may be others now. Opens
    /// nothing: a folder counts by its text, so that one that cannot be reached is not taken for one elsewhere.
    ///
    /// # Errors
    /// As [`MountRoots::check`].
    pub fn check_text(
        &self,
        uri: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<(), RootError> {
        self.check_place(&Place::of_mount(uri)?, uri, options)
    }

    fn check_place(
        &self,
        place: &Place,
        uri: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<(), RootError> {
        self.check_covered(place, uri, "uri")?;
        for (name, value) in options {
            self.check_option(name, value)?;
        }
        Ok(())
    }

    fn check_covered(&self, place: &Place, shown: &str, what: &str) -> Result<(), RootError> {
        if self.0.iter().any(|root| root.covers(place)) {
            return Ok(());
        }
        Err(RootError::Outside(format!(
            "`{what}`: {shown} is not below one of the places that may be mounted at run time ({}); add it to \
             `mount_roots` (`--mount-root`), or mount it in the configuration file",
            self.shown()
        )))
    }

    fn check_option(&self, name: &str, value: &str) -> Result<(), RootError> {
        let lower = name.to_ascii_lowercase();
        let plain = OPTION_PREFIXES
            .iter()
            .find_map(|prefix| lower.strip_prefix(prefix))
            .unwrap_or(&lower);
        if ADDRESS_OPTIONS.contains(&plain) {
            let place = Place::of_mount(value)
                .map_err(|error| RootError::Invalid(format!("option `{name}`: {error}")))?;
            return self.check_covered(&place, value, name);
        }
        if NAME_OPTIONS.contains(&plain) {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if !value.is_empty() && value.bytes().all(is_name) {
                return Ok(());
            }
            return Err(RootError::Invalid(format!(
                "option `{name}`: expected letters, digits and `-`"
            )));
        }
        if plain == "follow_symlinks" && value != "false" {
            return Err(RootError::Outside(format!(
                "option `{name}` opens files that are not below the folder, so it is for mounts of the \
                 configuration file only"
            )));
        }
        if plain == "service_account_key" {
            return check_account_key(name, value);
        }
        if plain == "follow_symlinks" || PLAIN_OPTIONS.contains(&plain) {
            return Ok(());
        }
        Err(RootError::Outside(format!(
            "option `{name}` may name a file, a program or another address, so it is for mounts of the \
             configuration file only"
        )))
    }

    fn shown(&self) -> String {
        if self.0.is_empty() {
            return "none".to_owned();
        }
        let texts: Vec<String> = self.0.iter().map(Place::uri).collect();
        texts.join(", ")
    }
}

/// A key of a service account can carry an address of its own.
fn check_account_key(name: &str, value: &str) -> Result<(), RootError> {
    let parsed: Result<BTreeMap<String, serde_json::Value>, _> = serde_json::from_str(value);
    match parsed {
        Ok(fields) if !fields.contains_key("gcs_base_url") => Ok(()),
        Ok(_) => Err(RootError::Outside(format!(
            "option `{name}`: its `gcs_base_url` is for mounts of the configuration file only"
        ))),
        Err(_) => Err(RootError::Invalid(format!(
            "option `{name}`: expected the JSON of a service account's key"
        ))),
    }
}

impl Place {
    fn root(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "expected places such as s3://bucket, https://host/folder or file:///folder, found `{text}`{why}"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong(""))?;
        if !super::keys::SCHEMES.contains(&scheme) {
            return Err(wrong(": the scheme is not known"));
        }
        if scheme != "file" && rest.is_empty() {
            return Ok(Place {
                scheme: scheme.to_owned(),
                authority: String::new(),
                segments: Vec::new(),
            });
        }
        let place = Place::of_mount(text).map_err(|error| wrong(&format!(": {error}")))?;
        if scheme != "file" {
            return Ok(place);
        }
        // A folder that is not there yet may appear, and is compared as it is written until then.
        Ok(place.resolved().unwrap_or(place))
    }

    /// Takes the URI of a mount apart, literally, as the stores do.
    fn of_mount(uri: &str) -> Result<Self, RootError> {
        let wrong = |why: &str| Err(RootError::Invalid(format!("`{uri}`: {why}")));
        if uri.len() > MOUNT_URI_BYTES_MAX {
            return Err(RootError::Invalid(format!(
                "`uri`: {} bytes are more than {MOUNT_URI_BYTES_MAX}",
                uri.len()
            )));
        }
        if uri
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() && c != ' ')
        {
            return Err(RootError::Invalid(
                "`uri`: it has control characters".to_owned(),
            ));
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return wrong("expected a scheme, `://` and a place");
        };
        if !super::keys::SCHEMES.contains(&scheme) {
            return wrong("the scheme is not known; schemes are written in small letters");
        }
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        let authority = match scheme {
            "file" if authority.is_empty() => String::new(),
            "file" => return wrong("a file URI has three slashes and an absolute folder"),
            _ => authority_of(scheme, authority).ok_or_else(|| {
                RootError::Invalid(format!("`{uri}`: `{authority}` is no host or bucket"))
            })?,
        };
        let path = path.trim_end_matches('/');
        let segments: Vec<String> = match path {
            "" => Vec::new(),
            _ => path.split('/').map(str::to_owned).collect(),
        };
        for segment in &segments {
            if matches!(segment.as_str(), "" | "." | "..") {
                return wrong("empty parts, `.` and `..` are not taken");
            }
            if scheme != "file" && has_two_readings(segment) {
                return wrong("backslashes, `?`, `#` and encoded dots or slashes are not taken");
            }
        }
        Ok(Place {
            scheme: scheme.to_owned(),
            authority,
            segments,
        })
    }

    /// The folder by where it really is.
    fn resolved(&self) -> Result<Self, RootError> {
        let mut path = PathBuf::from("/");
        path.extend(&self.segments);
        let real = std::fs::canonicalize(&path).map_err(|error| {
            RootError::Invalid(format!(
                "the folder {} cannot be opened: {error}",
                path.display()
            ))
        })?;
        if !real.is_dir() {
            return Err(RootError::Invalid(format!(
                "{} is not a folder",
                path.display()
            )));
        }
        Ok(Place {
            scheme: self.scheme.clone(),
            authority: String::new(),
            segments: segments_of(&real)?,
        })
    }

    fn covers(&self, place: &Place) -> bool {
        self.scheme == place.scheme
            && (self.authority.is_empty() || self.authority == place.authority)
            && place.segments.starts_with(&self.segments)
    }

    fn uri(&self) -> String {
        let mut uri = format!("{}://{}", self.scheme, self.authority);
        for segment in &self.segments {
            uri.push('/');
            uri.push_str(segment);
        }
        uri
    }
}

/// Host names in small letters; names of buckets and containers as they are. `None` for what would put another host
/// into an address that is made of it.
fn authority_of(scheme: &str, authority: &str) -> Option<String> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]@".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(is_fine) {
        return None;
    }
    let is_web = matches!(scheme, "http" | "https");
    // `container@account` is a place of Azure; elsewhere it hides the host behind a user's name.
    if authority.contains('@') && !matches!(scheme, "abfs" | "abfss") {
        return None;
    }
    if !is_web {
        let is_plain = !authority.contains([':', '[', ']']);
        return is_plain.then(|| authority.to_owned());
    }
    // In the one form that the parser of addresses gives hosts and ports, so that `127.1` is 127.0.0.1.
    let url = url::Url::parse(&format!("{scheme}://{authority}/")).ok()?;
    let host = url.host_str()?.trim_end_matches('.').to_owned();
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// Whether a part of a path could be taken for more than one, or for a way up, by a parser of addresses.
fn has_two_readings(segment: &str) -> bool {
    let lower = segment.to_ascii_lowercase();
    segment.contains(['\\', '?', '#'])
        || ["%2e", "%2f", "%5c", "%25", "%00"]
            .iter()
            .any(|code| lower.contains(code))
}

fn segments_of(path: &Path) -> Result<Vec<String>, RootError> {
    let mut segments = Vec::new();
    for component in path.components() {
        if let Component::Normal(name) = component {
            let name = name
                .to_str()
                .ok_or_else(|| RootError::Invalid(format!("{} is not UTF-8", path.display())))?;
            segments.push(name.to_owned());
        }
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(texts: &[&str]) -> MountRoots {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        MountRoots::read(&texts).unwrap_or_else(|error| panic!("{error}"))
    }

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn is_allowed(roots: &MountRoots, uri: &str) -> bool {
        roots.check(uri, &BTreeMap::new()).is_ok()
    }

    #[test]
    fn without_roots_object_stores_and_https_may_be_mounted_but_no_files_and_no_plain_http() {
        let roots = MountRoots::default();
        for uri in ["s3://b", "s3://b/p/q", "gs://b", "az://c", "https://h/x"] {
            assert!(is_allowed(&roots, uri), "{uri}");
        }
        for uri in [
            "file:///etc",
            "file:///",
            "file://",
            "FILE:///etc",
            "File:///etc",
            "file:/etc",
            "file:///srv/../etc",
            "http://169.254.169.254/latest",
            "HTTP://h/",
            "s3://",
            "s3://b/../c",
            "ftp://h/",
        ] {
            assert!(!is_allowed(&roots, uri), "{uri}");
        }
        assert!(!is_allowed(&MountRoots::none(), "s3://b"));
    }

    #[test]
    fn a_root_covers_whole_names_of_its_own_host_only() {
        let roots = roots(&["s3://lake/raw", "https://Store.example.com/public"]);
        for uri in [
            "s3://lake/raw",
            "s3://lake/raw/x/",
            "https://store.example.com/public/a",
            "https://STORE.example.com:443/public",
            "https://store.example.com./public",
        ] {
            assert!(is_allowed(&roots, uri), "{uri}");
        }
        for uri in [
            "s3://lake",
            "s3://lake/rawer",
            "s3://lake2/raw",
            "s3://Lake/raw",
            "s3://lake/raw/%2e%2e/x",
            "https://store.example.com/publicity",
            "https://store.example.com/public/..",
            "https://store.example.com/public/%2E%2e/private",
            "https://store.example.com/public/..\\private",
            "https://store.example.com/public/%252e%252e/x",
            "https://store.example.com:8443/public",
            "https://store.example.com@evil.example/public",
            "https://store.example.com.evil.example/public",
            "https://store.example.com\\@evil.example/public",
            "http://store.example.com/public",
        ] {
            assert!(!is_allowed(&roots, uri), "{uri}");
        }
    }

    #[test]
    fn folders_count_by_where_they_really_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().canonicalize().expect("it is there");
        let inside = base.join("data");
        std::fs::create_dir_all(inside.join("sub")).expect("folders");
        std::fs::create_dir_all(base.join("data2")).expect("a folder");
        std::fs::write(inside.join("file"), b"").expect("a file");
        std::os::unix::fs::symlink("/etc", inside.join("out")).expect("a link");
        std::os::unix::fs::symlink(&inside, base.join("in")).expect("a link");
        let uri = |path: &str| format!("file://{}/{path}", base.display());
        // The root itself may be named by a link.
        for root in ["data", "in"] {
            let roots = roots(&[&uri(root)]);
            let check = |path: &str| roots.check(&uri(path), &BTreeMap::new());
            assert_eq!(check("data"), Ok(uri("data")));
            assert_eq!(check("in/sub"), Ok(uri("data/sub")));
            for path in [
                "data2",
                "data/out",
                "data/../data2",
                "data/file",
                "none",
                "",
            ] {
                assert!(check(path).is_err(), "{path}");
            }
        }
    }

    #[test]
    fn options_reach_no_further_files_addresses_or_programs() {
        let roots = roots(&["s3://lake", "https://minio.example.com", "az://c", "gs://g"]);
        let check = |name: &str, value: &str| roots.check("s3://lake", &options(&[(name, value)]));
        for (name, value) in [
            ("endpoint", "https://minio.example.com"),
            ("AWS_ENDPOINT_URL", "https://minio.example.com:443/"),
            ("region", "eu-west-1"),
            ("access_key_id", "id"),
            ("aws_secret_access_key", "secret"),
            ("allow_http", "true"),
            ("follow_symlinks", "false"),
            ("service_account_key", "{\"private_key\":\"x\"}"),
        ] {
            assert!(check(name, value).is_ok(), "{name}");
        }
        for (name, value) in [
            ("endpoint", "http://169.254.169.254"),
            ("Endpoint", "https://elsewhere.example.com"),
            ("aws_endpoint_url_s3", "http://minio.example.com"),
            ("base_url", "https://elsewhere.example.com"),
            ("region", "evil.example/#"),
            ("azure_storage_account_name", "evil.example/x"),
            ("bucket", "other"),
            ("aws_bucket_name", "other"),
            ("container_name", "other"),
            ("metadata_endpoint", "https://minio.example.com"),
            ("web_identity_token_file", "/etc/shadow"),
            ("federated_token_file", "/etc/shadow"),
            ("authority_host", "https://minio.example.com"),
            ("application_credentials", "/etc/shadow"),
            ("google_service_account", "/etc/shadow"),
            ("service_account_path", "/etc/shadow"),
            (
                "service_account_key",
                "{\"gcs\\u005fbase_url\":\"http://x\"}",
            ),
            ("service_account_key", "/etc/shadow"),
            ("aws_container_credentials_full_uri", "http://169.254.170.2"),
            ("use_azure_cli", "true"),
            ("use_emulator", "true"),
            ("follow_symlinks", "true"),
            ("proxy_url", "http://proxy"),
        ] {
            assert!(check(name, value).is_err(), "{name}");
        }
    }

    #[test]
    fn roots_with_mistakes_are_refused() {
        for text in ["", "/srv", "s3:", "ftp://x", "https://a b", "s3://b/../c"] {
            assert!(MountRoots::read(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
