//! From fields to a [`Config`]: what keys mean together, and the rules between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::{Document, Fields};
use super::kind::{Value, show_cpus};
use super::mistake::Mistakes;
use super::{Backend, Config, Limits, LogFormat, MountRoots, S3Config, Token};
use crate::cache::policy::PolicyKind;
use crate::mount::{MOUNTS_MAX, Mount, MountId};

/// Shortest token: 16 bytes of randomness cannot be guessed over a network.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Longest token. It has to fit a hello frame; comparisons always run over this length.
pub const TOKEN_BYTES_MAX: usize = 256;

/// Most shards: their ports have to fit the answer to hello.
const SHARDS_MAX: usize = 256;

/// Makes a configuration of what was read. After a mistake the result is not to be used.
pub(super) fn config(
    document: Document,
    cpus_allowed: &[usize],
    mistakes: &mut Mistakes,
) -> Config {
    let top = &document.top;
    let cores = cores(top, cpus_allowed, mistakes);
    let spare: Vec<usize> = cpus_allowed
        .iter()
        .copied()
        .filter(|cpu| !cores.contains(cpu))
        .collect();
    let elsewhere = if spare.is_empty() {
        cpus_allowed.to_vec()
    } else {
        spare
    };
    let tokens = tokens(&document.tokens, mistakes);
    let s3 = super::s3::s3(&document.s3, &document.s3_keys, mistakes);
    let mounts = mounts(&document.mounts, &tokens, &s3, mistakes);
    let config = Config {
        worker_id: top.text("worker_id"),
        control_cpus: cpus(top, "control_cpus", cpus_allowed, mistakes)
            .unwrap_or_else(|| elsewhere.clone()),
        fetch_cpus: cpus(top, "fetch_cpus", cpus_allowed, mistakes).unwrap_or(elsewhere),
        cores,
        fetch_threads: number(top, "fetch_threads") as usize,
        fetch_nice: number(top, "fetch_nice") as i32,
        lookup_bytes: number(top, "lookup_memory"),
        lookup_working_bytes: number(top, "lookup_working_memory"),
        lookup_scan_bytes_max: number(top, "lookup_scan_max"),
        listing_bytes: number(top, "listing_memory"),
        lookup_threads: number(top, "lookup_threads") as usize,
        lookup_index_after: number(top, "lookup_index_after") as u32,
        devices: top
            .texts("devices")
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        device_bytes: top.number("device_size"),
        device_timeout: duration(top, "device_timeout"),
        region_bytes: number(top, "region_size"),
        partitions: number(top, "partitions") as u32,
        dram_bytes: number(top, "dram"),
        dram_policy: match top.text("dram_policy").as_deref() {
            Some("noop") => PolicyKind::Noop,
            _ => PolicyKind::S3Fifo,
        },
        listen: address(top, "listen"),
        control: address(top, "control"),
        operations: address(top, "operations"),
        insecure: top.is_set("insecure"),
        spin: duration(top, "spin"),
        backend: backend(top, mistakes),
        send_zero_copy_above: top.number("send_zero_copy_above"),
        limits: limits(&document.limits),
        tokens,
        local_token: None,
        mount_roots: mount_roots(top, mistakes),
        operations_hosts: top.texts("operations_hosts"),
        s3,
        mounts,
        log_level: document.log.text("level").expect("has a default"),
        log_format: match document.log.text("format").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        document: document.clone(),
    };
    check_devices(&config, top, mistakes);
    check_listeners(&config, top, mistakes);
    config
}

pub(super) fn number(fields: &Fields, name: &str) -> u64 {
    fields.number(name).expect("a number with a default")
}

fn duration(fields: &Fields, name: &str) -> Duration {
    match fields.get(name) {
        Value::Duration(duration) => *duration,
        other => unreachable!("a duration with a default, not {other:?}"),
    }
}

pub(super) fn address(fields: &Fields, name: &str) -> SocketAddr {
    match fields.get(name) {
        Value::Address(address) => *address,
        other => unreachable!("an address with a default, not {other:?}"),
    }
}

fn backend(top: &Fields, mistakes: &mut Mistakes) -> Backend {
    if top.text("backend").as_deref() != Some("glommio") {
        return Backend::Uring;
    }
    #[cfg(feature = "glommio")]
    {
        if top.number("send_zero_copy_above").is_some() {
            mistakes.add(
                top.origin("send_zero_copy_above"),
                "`send_zero_copy_above`: the backend `glommio` always copies; leave the key out"
                    .to_owned(),
            );
        }
        Backend::Glommio
    }
    #[cfg(not(feature = "glommio"))]
    {
        mistakes.add(
            top.origin("backend"),
            "`backend`: this program was built without glommio; build it with `--features glommio`, \
             or use `uring`"
                .to_owned(),
        );
        Backend::Uring
    }
}

fn limits(fields: &Fields) -> Limits {
    Limits {
        device_write_bytes_per_second: number(fields, "device_writes"),
        scrub_bytes_per_second: number(fields, "scrub_reads"),
        under_store_bytes_per_second: number(fields, "under_store_reads"),
        under_store_requests: number(fields, "under_store_requests") as usize,
        load_objects: number(fields, "load_objects") as usize,
        control_connections: number(fields, "control_connections") as usize,
        control_calls: number(fields, "control_calls") as usize,
        operations_connections: number(fields, "operations_connections") as usize,
    }
}

/// The CPUs under `name`, checked against those that the process may use.
fn cpus(
    fields: &Fields,
    name: &str,
    allowed: &[usize],
    mistakes: &mut Mistakes,
) -> Option<Vec<usize>> {
    let cpus = fields.cpus(name)?;
    let foreign: Vec<usize> = cpus
        .iter()
        .copied()
        .filter(|cpu| !allowed.contains(cpu))
        .collect();
    if !foreign.is_empty() {
        let (foreign, allowed) = (show_cpus(&foreign), show_cpus(allowed));
        mistakes.add(
            fields.origin(name),
            format!(
                "`{name}`: CPU {foreign} is not among those that the process may use: {allowed}"
            ),
        );
    }
    if cpus.is_empty() {
        mistakes.add(
            fields.origin(name),
            format!("`{name}`: expected at least one CPU"),
        );
    }
    Some(cpus)
}

fn cores(top: &Fields, allowed: &[usize], mistakes: &mut Mistakes) -> Vec<usize> {
    let cores = cpus(top, "cores", allowed, mistakes).unwrap_or_else(|| match allowed {
        [_, others @ ..] if !others.is_empty() => others.iter().copied().take(SHARDS_MAX).collect(),
        _ => allowed.to_vec(),
    });
    if cores.len() > SHARDS_MAX {
        let message = format!(
            "`cores`: {} shards are more than the limit of {SHARDS_MAX}",
            cores.len()
        );
        mistakes.add(top.origin("cores"), message);
    }
    let partitions = number(top, "partitions");
    if cores.len() as u64 > partitions {
        let message = format!(
            "`partitions`: {partitions} are fewer than the {} cores; expected at least {}",
            cores.len(),
            (cores.len() as u64).next_power_of_two()
        );
        mistakes.add(top.origin("partitions"), message);
    }
    cores
}

fn mount_roots(top: &Fields, mistakes: &mut Mistakes) -> MountRoots {
    let Value::Texts(texts) = top.get("mount_roots") else {
        return MountRoots::default();
    };
    MountRoots::read(texts).unwrap_or_else(|message| {
        mistakes.add(
            top.origin("mount_roots"),
            format!("`mount_roots`: {message}"),
        );
        MountRoots::none()
    })
}

fn tokens(list: &[Fields], mistakes: &mut Mistakes) -> Vec<Token> {
    let mut names = BTreeSet::new();
    let mut tokens: Vec<Token> = Vec::new();
    for fields in list {
        let secret = secret(fields, "token", mistakes);
        let Some(name) = fields.text("name") else {
            missing(fields, "name", mistakes);
            continue;
        };
        if !names.insert(name.clone()) {
            mistakes.add(
                fields.origin("name"),
                format!("`name`: a second token named {name}; expected each name once"),
            );
        }
        if let Some(secret) = secret {
            // The secret is what tells bearers apart.
            if let Some(other) = tokens.iter().find(|other| other.secret == secret) {
                let message = format!(
                    "`secret`: the tokens {} and {name} have the same; expected one of its own for each",
                    other.name
                );
                mistakes.add(fields.place(), message);
            }
            tokens.push(Token {
                name,
                secret,
                is_operator: fields.is_set("operator"),
            });
        }
    }
    tokens
}

pub(super) fn missing(fields: &Fields, name: &str, mistakes: &mut Mistakes) {
    // With an origin of its own, the value was there but wrong, and is reported already.
    if fields.origin(name) == fields.place() {
        mistakes.add(
            fields.place(),
            format!("`{name}` is missing; expected {}", {
                let key = fields.key(name).expect("a key of the section");
                key.kind.expected()
            }),
        );
    }
}

/// The secret of a table in the list `section`.
pub(super) fn secret(fields: &Fields, section: &str, mistakes: &mut Mistakes) -> Option<String> {
    let (origin, secret) = match (fields.text("secret"), fields.text("secret_file")) {
        (Some(secret), None) => (fields.origin("secret"), secret),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => (fields.origin("secret_file"), text.trim().to_owned()),
            Err(error) => {
                let message = format!("`secret_file`: cannot read {path}: {error}");
                mistakes.add(fields.origin("secret_file"), message);
                return None;
            }
        },
        _ => {
            let message =
                format!("expected one of `secret` and `secret_file` in each [[{section}]]");
            mistakes.add(fields.place(), message);
            return None;
        }
    };
    if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&secret.len()) {
        mistakes.add(
            origin,
            format!(
                "`secret`: expected {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} bytes, found {}; \
                 `openssl rand -hex 16` makes one",
                secret.len()
            ),
        );
        return None;
    }
    Some(secret)
}

fn mounts(list: &[Fields], tokens: &[Token], s3: &S3Config, mistakes: &mut Mistakes) -> Vec<Mount> {
    let mut paths = BTreeSet::new();
    let mut mounts = Vec::new();
    for fields in list {
        let (path, uri) = (fields.text("path"), fields.text("uri"));
        for (name, value) in [("path", &path), ("uri", &uri)] {
            if value.is_none() {
                missing(fields, name, mistakes);
            }
        }
        let readers = fields.texts("readers");
        for reader in &readers {
            let is_known = tokens.iter().any(|token| token.name == *reader)
                || s3.keys.iter().any(|key| key.name == *reader);
            if !is_known {
                let message = format!("`readers`: no [[token]] or [[s3_key]] is named {reader}");
                mistakes.add(fields.origin("readers"), message);
            }
        }
        let (Some(path), Some(uri)) = (path, uri) else {
            continue;
        };
        let path = normal_path(&path);
        if !paths.insert(path.clone()) {
            let message = format!("`path`: a second mount at {path}; expected each path once");
            mistakes.add(fields.origin("path"), message);
        }
        mounts.push(Mount {
            id: MountId(mounts.len() as u16),
            path,
            uri: normal_uri(&uri),
            block_bytes: number(fields, "block_size") as u32,
            freshness: fields
                .text("freshness")
                .and_then(|text| text.parse().ok())
                .expect("checked"),
            admission: fields
                .text("admission")
                .and_then(|text| text.parse().ok())
                .expect("checked"),
            key_indexes: fields.texts("key_indexes"),
            readers,
            options: match fields.get("options") {
                Value::Options(options) => options.clone(),
                _ => Default::default(),
            },
            is_runtime: false,
        });
    }
    if mounts.len() > MOUNTS_MAX {
        let message = format!(
            "{} mounts are more than the limit of {MOUNTS_MAX}",
            mounts.len()
        );
        mistakes.add(list[MOUNTS_MAX].place(), message);
    }
    mounts
}

/// `path` without a trailing slash, the root aside.
pub(crate) fn normal_path(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// `uri` without trailing slashes.
pub(crate) fn normal_uri(uri: &str) -> String {
    let trimmed = uri.trim_end_matches('/');
    // The root of the file system is the one place whose name is a slash.
    if trimmed == "file:" {
        "file://".to_owned()
    } else {
        trimmed.to_owned()
    }
}

fn check_devices(config: &Config, top: &Fields, mistakes: &mut Mistakes) {
    let origin = top.origin("devices");
    if config.devices.is_empty() {
        mistakes.add(
            origin,
            "`devices`: expected at least one device, such as --device ./cache.img --size 8G",
        );
    }
    let mut seen = BTreeSet::new();
    for device in &config.devices {
        if !seen.insert(device) {
            let message = format!(
                "`devices`: {} is named twice; expected each once",
                device.display()
            );
            mistakes.add(origin, message);
        }
    }
    let Some(bytes) = config.device_bytes else {
        for device in config.devices.iter().filter(|device| !device.exists()) {
            let path = device.display();
            mistakes.add(
                origin,
                format!("`devices`: {path} does not exist; --size SIZE (or `device_size`) creates and formats it"),
            );
        }
        return;
    };
    let least = config.region_bytes * u64::from(REGIONS_MIN) + DEVICE_HEAD_BYTES;
    if bytes < least {
        let (regions, least) = (REGIONS_MIN, super::quantity::show_size(least));
        mistakes.add(
            top.origin("device_size"),
            format!("`device_size`: expected at least {least}, which is {regions} regions of `region_size` and the head of the device"),
        );
    }
}

/// A device of fewer regions has too little room for its logs and the reserve.
const REGIONS_MIN: u32 = 32;

/// What stands before the regions: superblocks and state.
const DEVICE_HEAD_BYTES: u64 = 2 << 20;

fn check_listeners(config: &Config, top: &Fields, mistakes: &mut Mistakes) {
    let listeners = [
        ("listen", config.listen),
        ("control", config.control),
        ("operations", config.operations),
    ];
    for (name, address) in listeners {
        if !address.ip().is_loopback() && config.tokens.is_empty() && !config.insecure {
            mistakes.add(
                top.origin(name),
                format!(
                    "`{name}`: {address} is reachable from other machines and there is no [[token]]; \
                     expected tokens, a loopback address, or `insecure = true`"
                ),
            );
        }
    }
    let s3 = &config.s3;
    if !s3.listen.ip().is_loopback() && !s3.anonymous.is_empty() && !config.insecure {
        let message = format!(
            "`anonymous`: {} is reachable from other machines; expected [[s3_key]]s instead, a loopback \
             address in `listen`, or `insecure = true`",
            s3.listen
        );
        mistakes.add(config.document.s3.origin("anonymous"), message);
    }
    let last_port = usize::from(config.listen.port()) + config.cores.len() - 1;
    if config.listen.port() != 0 && last_port > usize::from(u16::MAX) {
        let message = format!(
            "`listen`: {} shards from port {} on need ports up to {last_port}; expected a lower port",
            config.cores.len(),
            config.listen.port()
        );
        mistakes.add(top.origin("listen"), message);
    }
    for (name, address) in &listeners[1..] {
        let first_port = usize::from(config.listen.port());
        let is_taken = address.port() != 0
            && (first_port..=last_port).contains(&usize::from(address.port()))
            && (address.ip() == config.listen.ip()
                || address.ip().is_unspecified()
                || config.listen.ip().is_unspecified());
        if is_taken {
            let message = format!(
                "`{name}`: port {} is one of the data plane's ports {first_port} to {last_port}; expected another",
                address.port()
            );
            mistakes.add(top.origin(name), message);
        }
    }
    if config.control.port() != 0 && config.control == config.operations {
        mistakes.add(
            top.origin("operations"),
            format!(
                "`operations`: {} is the control plane's address; expected another",
                config.control
            ),
        );
    }
}
