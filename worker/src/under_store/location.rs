//! What a mount's URI and an object's key mean, and which of them are refused.
//!
//! The invariant: a key that passed [`check_key`] stays below the mount's URI for every store,
//! since it has no empty, `.` or `..` segment. Symbolic links are a matter of the file store,
//! which checks where an opened file really is.
//!
//! URIs and keys are taken literally: `%20` in a `file://` URI is a name with a percent sign.

use crate::mount::Mount;
use crate::object::PATH_KEY_BYTES_MAX;

/// Which kind of store a URI names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// A directory of this machine.
    File,
    /// S3 or a compatible store.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A web server; listings need WebDAV.
    Http,
}

/// A mount's URI, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub kind: StoreKind,
    /// Bucket, container or authority; empty for files.
    pub container: String,
    /// Below the container, without slashes at the ends; for files the directory, absolute.
    pub prefix: String,
    /// What tells two stores with equal URIs apart, if anything does: the S3 endpoint, the Azure account.
    pub endpoint: Option<String>,
}

impl Location {
    /// Takes the URI of `mount` apart.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn of_mount(mount: &Mount) -> Result<Self, String> {
        let uri = &mount.uri;
        let (scheme, rest) = uri.split_once("://").ok_or(
            "the URI has no scheme; write file:///DIR, s3://BUCKET, gs://, az:// or http(s)://",
        )?;
        let kind = match scheme {
            "file" => StoreKind::File,
            "s3" => StoreKind::S3,
            "gs" => StoreKind::Gcs,
            "az" => StoreKind::Azure,
            "http" | "https" => StoreKind::Http,
            other => {
                return Err(format!(
                    "scheme `{other}` is not known; use file, s3, gs, az, http or https"
                ));
            }
        };
        let (container, prefix) = match kind {
            StoreKind::File => ("", rest),
            _ => rest.split_once('/').unwrap_or((rest, "")),
        };
        if kind == StoreKind::File {
            if !rest.is_empty() && !rest.starts_with('/') {
                return Err("a file URI has an absolute directory: file:///DIR".to_owned());
            }
        } else if container.is_empty() || container.contains(['?', '#', '@', '\0', ' ']) {
            return Err(format!(
                "`{container}` is no bucket, container or host name"
            ));
        }
        let inner = prefix.trim_matches('/');
        if !inner.is_empty() {
            check_key(inner)?;
        }
        let prefix = match kind {
            StoreKind::File => format!("/{inner}"),
            _ => inner.to_owned(),
        };
        Ok(Location {
            kind,
            container: container.to_owned(),
            prefix,
            endpoint: endpoint_of(kind, mount),
        })
    }

    /// The path key of the object with URI `uri`: the URI itself, unless another endpoint could
    /// have an object of the same URI.
    ///
    /// # Errors
    /// When the key is longer than the format can hold.
    pub fn path_key(&self, uri: &str) -> Result<String, String> {
        let key = match (&self.endpoint, uri.split_once("://")) {
            (Some(endpoint), Some((scheme, rest))) => format!("{scheme}:{endpoint}:{rest}"),
            _ => uri.to_owned(),
        };
        if key.len() > PATH_KEY_BYTES_MAX {
            return Err(format!(
                "the name has {} bytes with its endpoint, more than the limit of {PATH_KEY_BYTES_MAX}; shorten it",
                key.len()
            ));
        }
        Ok(key)
    }

    /// The key of an object in its container: the mount's prefix, then `key`.
    pub fn full_key(&self, key: &str) -> String {
        if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.prefix)
        }
    }
}

/// The endpoint as it was configured, in the form that path keys carry.
fn endpoint_of(kind: StoreKind, mount: &Mount) -> Option<String> {
    let (options, variables): (&[&str], &[&str]) = match kind {
        StoreKind::S3 => (
            &[
                "endpoint",
                "endpoint_url",
                "aws_endpoint",
                "aws_endpoint_url",
                "aws_endpoint_url_s3",
            ],
            &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
        ),
        StoreKind::Gcs => (&["base_url", "google_base_url"], &["GOOGLE_BASE_URL"]),
        StoreKind::Azure => (
            &[
                "endpoint",
                "azure_endpoint",
                "account_name",
                "azure_storage_account_name",
            ],
            &[
                "AZURE_STORAGE_ENDPOINT",
                "AZURE_ENDPOINT",
                "AZURE_STORAGE_ACCOUNT_NAME",
            ],
        ),
        StoreKind::File | StoreKind::Http => return None,
    };
    let configured = options
        .iter()
        .find_map(|name| mount.options.get(*name).cloned())
        .or_else(|| variables.iter().find_map(|name| std::env::var(name).ok()))?;
    Some(configured.trim_end_matches('/').to_ascii_lowercase())
}

/// Refuses keys that could leave the mount or that stores treat differently.
///
/// # Errors
/// A sentence that says what is wrong with the key.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    if let Some(bad) = key.chars().find(char::is_ascii_control) {
        return Err(format!(
            "the name contains the control character {:#04x}",
            bad as u32
        ));
    }
    for segment in key.split('/') {
        match segment {
            "" => {
                return Err(
                    "the name has an empty segment (two slashes, or one at an end)".to_owned(),
                );
            }
            "." | ".." => {
                return Err(format!(
                    "the name has a `{segment}` segment; write the plain path"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness, MountId};

    fn mount(uri: &str, options: &[(&str, &str)]) -> Mount {
        Mount {
            id: MountId(0),
            path: "/m".to_owned(),
            uri: uri.to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            is_runtime: false,
        }
    }

    #[test]
    fn names_that_could_leave_the_mount_are_refused() {
        for bad in [
            "", "..", "a/../b", "./a", "a//b", "/a", "a/", "a\0b", "a\nb",
        ] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "a..b", "...", "ü/%2e%2e", "a b"] {
            assert!(check_key(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn uris_that_name_nothing_are_refused() {
        for bad in [
            "/dir",
            "ftp://x/y",
            "s3://",
            "s3:///key",
            "file://host/dir",
            "file:///a/../b",
            "gs://a b/c",
        ] {
            assert!(Location::of_mount(&mount(bad, &[])).is_err(), "{bad}");
        }
        let root = Location::of_mount(&mount("file://", &[])).expect("the root directory");
        assert_eq!(root.prefix, "/");
        let bucket = Location::of_mount(&mount("s3://lake/a/b", &[])).expect("a bucket");
        assert_eq!(
            (bucket.container.as_str(), bucket.prefix.as_str()),
            ("lake", "a/b")
        );
        assert_eq!(bucket.full_key("c"), "a/b/c");
    }

    #[test]
    fn equal_uris_at_different_endpoints_have_different_path_keys() {
        let options = [("endpoint", "https://S3.example.com/")];
        let location = Location::of_mount(&mount("s3://lake", &options)).expect("a bucket");
        assert_eq!(
            location.path_key("s3://lake/a.parquet").as_deref(),
            Ok("s3:https://s3.example.com:lake/a.parquet")
        );
        let plain = Location::of_mount(&mount("file:///lake", &[])).expect("a directory");
        assert_eq!(
            plain.path_key("file:///lake/a").as_deref(),
            Ok("file:///lake/a")
        );
        assert!(plain.path_key(&"x".repeat(PATH_KEY_BYTES_MAX + 1)).is_err());
    }
}
