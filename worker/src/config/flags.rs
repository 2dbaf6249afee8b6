//! Flags of `corelane-worker` and `corelane serve`. They override the file and are read by the
//! same code, so that a value means the same in both.

use std::path::PathBuf;

use super::fields::{Document, Fields};
use super::keys;
use super::kind::Value;
use super::mistake::{Mistakes, Origin};

/// Flags that override the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct WorkerFlags {
    /// Configuration file (TOML); see docs/configuration.md for every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Block device or preallocated file to cache on; may be repeated. Replaces `devices`
    #[arg(long, value_name = "PATH")]
    pub device: Vec<String>,
    /// Create and format devices that do not exist, as files of this size, such as 8G
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// Mount an under-store, such as lake=s3://bucket/prefix?region=eu-west-1&freshness=immutable or
    /// lake=/folder; may be repeated. Options: block-size, freshness, admission, key-indexes, readers, and those of
    /// the store
    #[arg(long, value_name = "PATH=URI")]
    pub mount: Vec<String>,
    /// Place where operators may mount at run time, such as file:///srv/data or s3://bucket; may be repeated. Replaces
    /// `mount_roots`
    #[arg(long, value_name = "PLACE")]
    pub mount_root: Vec<String>,
    /// CPUs that run shards, such as 1-3 or 2,4
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,
    /// Memory of all shards together, such as 4G
    #[arg(long, value_name = "SIZE")]
    pub dram: Option<String>,
    /// Address of the data plane
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address of the control plane
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<String>,
    /// Address of the operations port
    #[arg(long, value_name = "ADDRESS")]
    pub operations: Option<String>,
    /// Address of the S3 face
    #[arg(long, value_name = "ADDRESS")]
    pub s3: Option<String>,
    /// Let requests without a signature do some of read, list, write and delete
    #[arg(long, value_name = "VERBS", value_delimiter = ',')]
    pub s3_anonymous: Vec<String>,
    /// How long a core polls for work before it sleeps, such as 50us
    #[arg(long, value_name = "DURATION")]
    pub spin: Option<String>,
    /// Let anyone who can connect in, also beyond loopback
    #[arg(long)]
    pub insecure: bool,
    /// What is logged, such as info or info,corelane_worker=debug
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Check the configuration, say what it amounts to, and end
    #[arg(long)]
    pub check_config: bool,
}

impl WorkerFlags {
    /// Puts the flags over what the file said.
    pub(super) fn override_in(&self, document: &mut Document, mistakes: &mut Mistakes) {
        let texts = [
            ("device_size", "--size", &self.size),
            ("cores", "--cores", &self.cores),
            ("dram", "--dram", &self.dram),
            ("listen", "--listen", &self.listen),
            ("control", "--control", &self.control),
            ("operations", "--operations", &self.operations),
            ("spin", "--spin", &self.spin),
        ];
        for (key, flag, text) in texts {
            if let Some(text) = text {
                document
                    .top
                    .set_text(key, text, Origin::Flag(flag), mistakes);
            }
        }
        if let Some(text) = &self.log {
            document
                .log
                .set_text("level", text, Origin::Flag("--log"), mistakes);
        }
        if let Some(text) = &self.s3 {
            let origin = Origin::Flag("--s3");
            document.s3.set_text("listen", text, origin, mistakes);
        }
        if !self.s3_anonymous.is_empty() {
            let verbs = Value::Texts(self.s3_anonymous.clone());
            let origin = Origin::Flag("--s3-anonymous");
            document.s3.set("anonymous", verbs, origin);
        }
        if !self.device.is_empty() {
            let devices = Value::Texts(self.device.clone());
            document
                .top
                .set("devices", devices, Origin::Flag("--device"));
        }
        if !self.mount_root.is_empty() {
            let roots = Value::Texts(self.mount_root.clone());
            let origin = Origin::Flag("--mount-root");
            document.top.set("mount_roots", roots, origin);
        }
        if self.insecure {
            document
                .top
                .set("insecure", Value::Flag(true), Origin::Flag("--insecure"));
        }
        for text in &self.mount {
            if let Some(mount) = read_mount(text, mistakes) {
                let path = mount.text("path");
                document.mounts.retain(|other| other.text("path") != path);
                document.mounts.push(mount);
            }
        }
    }
}

/// Reads `PATH=URI?key=value&…`.
fn read_mount(text: &str, mistakes: &mut Mistakes) -> Option<Fields> {
    let origin = Origin::Flag("--mount");
    let Some((path, rest)) = text.split_once('=').filter(|(path, _)| !path.is_empty()) else {
        mistakes.add(
            &origin,
            format!("expected PATH=URI such as lake=s3://bucket, found `{text}`"),
        );
        return None;
    };
    let path = &format!("/{}", path.strip_prefix('/').unwrap_or(path));
    let (uri, options) = rest.split_once('?').unwrap_or((rest, ""));
    let folder = uri.starts_with('/').then(|| format!("file://{uri}"));
    let uri = folder.as_deref().unwrap_or(uri);
    let mut mount = Fields::defaults(keys::MOUNT, origin.clone());
    let mistakes_before = mistakes.0.len();
    mount.set_text("path", path, origin.clone(), mistakes);
    mount.set_text("uri", uri, origin.clone(), mistakes);
    let mut store_options = std::collections::BTreeMap::new();
    for (key, value) in url::form_urlencoded::parse(options.as_bytes()) {
        match key.as_ref() {
            "block-size" | "block_size" => {
                mount.set_text("block_size", &value, origin.clone(), mistakes);
            }
            "freshness" | "admission" => mount.set_text(&key, &value, origin.clone(), mistakes),
            "readers" | "key-indexes" | "key_indexes" => {
                let names = value
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect();
                let key = key.replace('-', "_");
                mount.set(&key, Value::Texts(names), origin.clone());
            }
            "" => mistakes.add(
                &origin,
                format!("expected key=value after `?`, found `{options}`"),
            ),
            _ => {
                store_options.insert(key.into_owned(), value.into_owned());
            }
        }
    }
    mount.set("options", Value::Options(store_options), origin);
    (mistakes.0.len() == mistakes_before).then_some(mount)
}
