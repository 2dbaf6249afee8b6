//! Every key of the configuration, once: its type, default and meaning. The reader, the flags,
//! `docs/configuration.md` and the comparison at a reload all follow this table.

use std::time::Duration;

use corelane_rpc_schema::messages::PATH_BYTES_MAX;
use corelane_rpc_schema::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, PARTITIONS_MAX};

use super::kind::Kind;
use super::mount_roots::MOUNT_URI_BYTES_MAX;
use crate::mount::{Admission, Freshness};

/// One key.
pub struct Key {
    /// Its name in the section.
    pub name: &'static str,
    /// Its type and bounds.
    pub kind: Kind,
    /// Its default as text, read like a value of the file; empty: none.
    pub default: &'static str,
    /// Whether SIGHUP applies a change.
    pub is_reloadable: bool,
    /// What it means, in Markdown.
    pub doc: &'static str,
}

/// A table of keys.
pub struct Section {
    /// Its name; empty for the top level.
    pub name: &'static str,
    /// Whether it is an array of tables (`[[name]]`).
    pub is_list: bool,
    /// What it is for.
    pub doc: &'static str,
    /// Its keys, in the order of the documentation.
    pub keys: &'static [Key],
}

const ANY_SIZE: Kind = Kind::Size {
    min: 0,
    max: u64::MAX,
    is_power_of_two: false,
};

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count {
        min,
        max,
        is_power_of_two: false,
    }
}

/// The top level.
pub const TOP: &Section = &Section {
    name: "",
    is_list: false,
    doc: "The worker itself: where it runs, what it stores on, where it listens.",
    keys: &[
        Key {
            name: "worker_id",
            kind: Kind::Formed {
                expected: "1 to 64 letters, digits, `-`, `_` or `.`",
                check: check_name,
            },
            default: "",
            is_reloadable: false,
            doc: "Name of this worker to clients and, later, to a master. Without it, one that is made of the \
                  uuid of the device set is used, so that it moves with the devices.",
        },
        Key {
            name: "cores",
            kind: Kind::Cpus,
            default: "",
            is_reloadable: false,
            doc: "CPUs that run shards, one shard each. Without it: all CPUs that the process may use \
                  except the first, which is left to control and fetch threads; on a machine of one \
                  CPU, that one.",
        },
        Key {
            name: "control_cpus",
            kind: Kind::Cpus,
            default: "",
            is_reloadable: false,
            doc: "CPUs of the control thread (control plane and operations port). Without it: those \
                  that run no shard.",
        },
        Key {
            name: "fetch_cpus",
            kind: Kind::Cpus,
            default: "",
            is_reloadable: false,
            doc: "CPUs of the threads that fetch from under-stores. Without it: those that run no shard.",
        },
        Key {
            name: "fetch_threads",
            kind: count(1, 256),
            default: "2",
            is_reloadable: false,
            doc: "Threads that fetch from under-stores. Each copies and checksums some GiB a second.",
        },
        Key {
            name: "fetch_nice",
            kind: count(0, 19),
            default: "0",
            is_reloadable: false,
            doc: "Niceness of these threads: with more than 0 they give way to whatever else runs on their \
                  CPUs, such as a job that reads from this worker, and run in slices of 0.1 ms (Linux 6.12).",
        },
        Key {
            name: "lookup_memory",
            kind: Kind::Size {
                min: 4 << 20,
                max: u64::MAX,
                is_power_of_two: false,
            },
            default: "256M",
            is_reloadable: false,
            doc: "Memory for look-ups in Parquet objects, of all shards and beside `dram`: half of it for \
                  decoded pages and dictionaries, a quarter each for footers and key indexes.",
        },
        Key {
            name: "lookup_working_memory",
            kind: Kind::Size {
                min: 8 << 20,
                max: 1 << 44,
                is_power_of_two: false,
            },
            default: "512M",
            is_reloadable: false,
            doc: "Memory that look-ups of all shards hold while they run, beside `dram` and `lookup_memory`: what they \
                  read and decompress, what key indexes are built in, and answers until they are sent. One look-up in \
                  one object may hold half of it and ends with `tooMuch` beyond; where look-ups hold all of it, \
                  others end with `busy` after a quarter of a second. Pages that are larger than a quarter of it may \
                  not be readable.",
        },
        Key {
            name: "lookup_scan_max",
            kind: Kind::Size {
                min: 1 << 20,
                max: u64::MAX,
                is_power_of_two: false,
            },
            default: "16G",
            is_reloadable: false,
            doc: "Most bytes that one look-up in one object may read, whatever `scan_bytes_max` of its client says \
                  (without that: 256 MiB).",
        },
        Key {
            name: "lookup_threads",
            kind: count(1, 256),
            default: "2",
            is_reloadable: false,
            doc: "Threads for the longer work of look-ups, such as decompressing large pages. They give way to \
                  the shards where they share a CPU.",
        },
        Key {
            name: "lookup_index_after",
            kind: count(0, u32::MAX as u64),
            default: "16",
            is_reloadable: false,
            doc: "Look-ups by value of a column of an object until a key index of it is built in the background. \
                  0: none is built.",
        },
        Key {
            name: "listing_memory",
            kind: Kind::Size {
                min: 1 << 20,
                max: 1 << 44,
                is_power_of_two: false,
            },
            default: "64M",
            is_reloadable: false,
            doc: "Memory for listings of under-stores that are kept as long as their mounts' freshness allows, of all \
                  shards and beside `dram`.",
        },
        Key {
            name: "devices",
            kind: Kind::Texts,
            default: "",
            is_reloadable: false,
            doc: "Raw block devices or preallocated files, formatted by `corelane device format`. They \
                  may come in any order and under other paths than before: the superblocks say what \
                  they are.",
        },
        Key {
            name: "device_size",
            kind: Kind::Size {
                min: 1 << 20,
                max: u64::MAX,
                is_power_of_two: false,
            },
            default: "",
            is_reloadable: false,
            doc: "With it, devices that do not exist are created as files of this size and formatted. \
                  A file of nothing but zeroes, which an interrupted start leaves, is formatted as well; \
                  what exists otherwise is never created or formatted anew.",
        },
        Key {
            name: "device_timeout",
            kind: Kind::Duration {
                max: Duration::from_secs(3600),
            },
            default: "60s",
            is_reloadable: false,
            doc: "Age of a read, write or flush at which its device is taken out until the next start; 0: \
                  never. Reads do not wait so long: what a device has not given after 5 s is fetched. \
                  The kernel gives up a command of an NVMe drive after 30 s by default, and resets it.",
        },
        Key {
            name: "region_size",
            kind: Kind::Size {
                min: 1 << 20,
                max: 1 << 30,
                is_power_of_two: true,
            },
            default: "64M",
            is_reloadable: false,
            doc: "Region size for devices that are created by `device_size`; existing ones keep theirs. \
                  A device needs at least 32 regions.",
        },
        Key {
            name: "partitions",
            kind: Kind::Count {
                min: 1,
                max: PARTITIONS_MAX as u64,
                is_power_of_two: true,
            },
            default: "256",
            is_reloadable: false,
            doc: "Partitions for devices that are created by `device_size`; existing ones keep theirs. \
                  At least the number of cores.",
        },
        Key {
            name: "dram",
            kind: Kind::Size {
                min: 32 << 20,
                max: 1 << 44,
                is_power_of_two: false,
            },
            default: "1G",
            is_reloadable: false,
            doc: "Memory of all shards together, each of which gets the same part: index (about 105 bytes \
                  a block that the devices hold), checksums (4 bytes a page), receive buffers and queues \
                  (9 MiB), buffers for device reads and writes (up to 40 MiB, less where a part is below \
                  256 MiB), object metadata (up to a thirty-second), and with the rest, at least 32 MiB, the \
                  DRAM tier. Taken at start; what does not fit is refused with the number needed. Buffers \
                  and the tier are registered with the kernel (`LimitMEMLOCK`). Not in it: the program \
                  with its control and fetch threads, open connections (64 MiB are enough for these), and \
                  the records of the objects on the devices (`corelane_object_bytes`).",
        },
        Key {
            name: "dram_policy",
            kind: Kind::Word(&["s3-fifo", "noop"]),
            default: "s3-fifo",
            is_reloadable: false,
            doc: "Which frames the DRAM tier keeps. `s3-fifo` keeps what is asked for again. `noop` keeps \
                  only what was fetched last, and nothing that a device holds: for measuring devices.",
        },
        Key {
            name: "listen",
            kind: Kind::Address,
            default: "127.0.0.1:7410",
            is_reloadable: false,
            doc: "Data plane. Shard 0 has this port, shard 1 the next, and so on; port 0 takes free ones. \
                  Clients learn the ports of all shards from any of them.",
        },
        Key {
            name: "control",
            kind: Kind::Address,
            default: "127.0.0.1:7400",
            is_reloadable: false,
            doc: "Control plane (Cap'n Proto RPC), the address that the command line takes.",
        },
        Key {
            name: "operations",
            kind: Kind::Address,
            default: "127.0.0.1:7401",
            is_reloadable: false,
            doc: "HTTP port for `/metrics`, `/healthz`, `/readyz`, `/slow` and look-ups (`POST \
                  /v1/lookup`). Beyond loopback, all but health and readiness want \
                  `Authorization: Bearer SECRET` of a token, unless `insecure` is set; look-ups \
                  want it everywhere. Objects, clients and jobs, and where mounts lead to, are shown to operators \
                  only; the labels of `/metrics` name mounts and devices to all who may read it.",
        },
        Key {
            name: "operations_hosts",
            kind: Kind::Texts,
            default: "",
            is_reloadable: false,
            doc: "Host names under which proxies pass requests on to an operations port on loopback. Others than \
                  these, `localhost` and IP addresses are refused there: a name that some web page chose can be \
                  made to mean this machine.",
        },
        Key {
            name: "mount_roots",
            kind: Kind::Texts,
            default: "",
            is_reloadable: true,
            doc: "Places where operators may mount at run time, with everything below them, such as \
                  `s3://training`, `https://`, `http://minio:9000` or `file:///srv/data`. Addresses in options \
                  (`endpoint`) must be below one as well. Without it: `s3://`, `gs://`, `az://`, `abfs://`, \
                  `abfss://` and `https://`; an empty list allows none. Folders and plain HTTP have to be \
                  named, because the process reaches files and services that its operators must not. A mount \
                  without keys in its options uses the credentials of the worker. Mounts of this file are not \
                  bound by it.",
        },
        Key {
            name: "insecure",
            kind: Kind::Flag,
            default: "false",
            is_reloadable: false,
            doc: "Lets anyone who can connect in, as an operator. Needed for a listener beyond loopback \
                  when there are no tokens. Without it every connection needs a token: one of `[[token]]`, or \
                  the local one, which the worker writes at each start into a file that only its own user and \
                  root can read, and which `corelane` finds by itself.",
        },
        Key {
            name: "spin",
            kind: Kind::Duration {
                max: Duration::from_secs(1),
            },
            default: "50us",
            is_reloadable: false,
            doc: "How long a core polls for work before it sleeps. Longer spares a wake-up of some \
                  microseconds a read, and costs CPU.",
        },
        Key {
            name: "backend",
            kind: Kind::Word(&["uring", "glommio"]),
            default: "uring",
            is_reloadable: false,
            doc: "What the cores run on. `uring` is the worker's own ring. `glommio` is there to be \
                  compared with it, and only in a build with `--features glommio`.",
        },
        Key {
            name: "send_zero_copy_above",
            kind: ANY_SIZE,
            default: "",
            is_reloadable: false,
            doc: "Answers of at least this size leave by `SEND_ZC`. Off without it: on many network \
                  cards, and always on loopback, a copy is cheaper.",
        },
    ],
};

/// Limits.
pub const LIMITS: &Section = &Section {
    name: "limits",
    is_list: false,
    doc: "Bounds of the whole worker. Sizes are a second where that is said; 0 is no limit there.",
    keys: &[
        Key {
            name: "device_writes",
            kind: ANY_SIZE,
            default: "0",
            is_reloadable: true,
            doc: "Bytes a second that all shards together write to devices, to spare drives. Above it, \
                  what readers fetch is served but not kept, and loads wait.",
        },
        Key {
            name: "scrub_reads",
            kind: ANY_SIZE,
            default: "8M",
            is_reloadable: true,
            doc: "Bytes a second that the scrubber reads and checks in the background; 0: off.",
        },
        Key {
            name: "under_store_reads",
            kind: ANY_SIZE,
            default: "0",
            is_reloadable: true,
            doc: "Bytes a second that are fetched from all under-stores together.",
        },
        Key {
            name: "under_store_requests",
            kind: count(1, 4096),
            default: "64",
            is_reloadable: true,
            doc: "Requests to under-stores in flight at a time. More wait. Besides, as many may be in flight whose \
                  bodies clients send meanwhile, and a quarter as many of listings.",
        },
        Key {
            name: "load_objects",
            kind: count(1, 1024),
            default: "16",
            is_reloadable: true,
            doc: "Objects that one load job brings in at a time.",
        },
        Key {
            name: "control_connections",
            kind: count(1, 65_536),
            default: "64",
            is_reloadable: true,
            doc: "Connections to the control plane. One more closes one that only waits, or is closed at once where none does.",
        },
        Key {
            name: "control_calls",
            kind: count(1, 65_536),
            default: "64",
            is_reloadable: true,
            doc: "Calls in flight of one control connection. One more is answered \"overloaded\".",
        },
        Key {
            name: "operations_connections",
            kind: count(1, 65_536),
            default: "32",
            is_reloadable: false,
            doc: "Requests to the operations port under way at a time, `/healthz`, `/readyz` and look-ups not counted. More \
                  wait. Eight times as many connections may be open; one more closes the connection that waits longest, \
                  for a request or for others to be answered, or waits up to 5 s where none does.",
        },
    ],
};

/// The S3 face.
pub const S3: &Section = &Section {
    name: "s3",
    is_list: false,
    doc: "The S3 face: buckets are the mounts right below `/`. It is open as soon as there is an `[[s3_key]]` or \
          `anonymous` allows something.",
    keys: &[
        Key {
            name: "listen",
            kind: Kind::Address,
            default: "127.0.0.1:7480",
            is_reloadable: false,
            doc: "Where it listens, on every core; port 0 takes a free one.",
        },
        Key {
            name: "anonymous",
            kind: Kind::Texts,
            default: "",
            is_reloadable: true,
            doc: "What requests without a signature may do: some of `read`, `list`, `write` and `delete`, in \
                  buckets whose mount names no readers. Beyond loopback only with `insecure`.",
        },
        Key {
            name: "domains",
            kind: Kind::Texts,
            default: "",
            is_reloadable: false,
            doc: "Base domains for the virtual-host style: with `s3.example.com`, a request to \
                  `lake.s3.example.com` is for the bucket `lake`. The path style always works. On loopback, \
                  requests without a signature are taken for these, `localhost` and IP addresses only, so a \
                  proxy's name has to be among them.",
        },
        Key {
            name: "region",
            kind: Kind::Text,
            default: "",
            is_reloadable: false,
            doc: "The region that signatures must be for. Without it, any, and clients are told `us-east-1`.",
        },
        Key {
            name: "tls_certificate",
            kind: Kind::Text,
            default: "",
            is_reloadable: false,
            doc: "PEM file with the certificate chain. With it and `tls_key`, the face speaks TLS only.",
        },
        Key {
            name: "tls_key",
            kind: Kind::Text,
            default: "",
            is_reloadable: false,
            doc: "PEM file with its private key.",
        },
        Key {
            name: "access_log",
            kind: Kind::Text,
            default: "",
            is_reloadable: false,
            doc: "File that gets a line a request, in the format of Amazon S3's server access logs. It may be \
                  renamed; it is opened anew within seconds.",
        },
        Key {
            name: "connections",
            kind: count(1, 1 << 20),
            default: "4096",
            is_reloadable: false,
            doc: "Open connections of each core. One more closes one that only waits, or is closed at once where none does.",
        },
    ],
};

/// Keys of the S3 face.
pub const S3_KEY: &Section = &Section {
    name: "s3_key",
    is_list: true,
    doc: "An access key of the S3 face, and what its bearer may do.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Formed {
                expected: "1 to 64 letters, digits, `-`, `_` or `.`",
                check: check_name,
            },
            default: "",
            is_reloadable: true,
            doc: "What mounts call its bearer in `readers`, and the access log. Without it, the id.",
        },
        Key {
            name: "id",
            kind: Kind::Formed {
                expected: "3 to 128 letters, digits, `-`, `_` or `.`",
                check: check_access_key_id,
            },
            default: "",
            is_reloadable: true,
            doc: "The access key id. Required.",
        },
        Key {
            name: "secret",
            kind: Kind::Secret,
            default: "",
            is_reloadable: true,
            doc: "The secret access key, 16 to 256 bytes. It or `secret_file` is required.",
        },
        Key {
            name: "secret_file",
            kind: Kind::Text,
            default: "",
            is_reloadable: true,
            doc: "A file with it; white space around it is ignored.",
        },
        Key {
            name: "buckets",
            kind: Kind::Texts,
            default: "",
            is_reloadable: true,
            doc: "Buckets that it may use; a name that ends in `*` stands for all that begin so. Empty: all.",
        },
        Key {
            name: "verbs",
            kind: Kind::Texts,
            default: "",
            is_reloadable: true,
            doc: "What it may do there: some of `read`, `list`, `write` and `delete`. Empty: `read` and `list`.",
        },
    ],
};

/// Log.
pub const LOG: &Section = &Section {
    name: "log",
    is_list: false,
    doc: "The log goes to standard error.",
    keys: &[
        Key {
            name: "level",
            kind: Kind::Formed {
                expected: "error, warn, info, debug, trace, or directives such as info,corelane_worker=debug",
                check: check_log_level,
            },
            default: "info",
            is_reloadable: true,
            doc: "What is logged.",
        },
        Key {
            name: "format",
            kind: Kind::Word(&["text", "json"]),
            default: "text",
            is_reloadable: false,
            doc: "For people or for machines (one JSON object a line).",
        },
    ],
};

/// Tokens.
pub const TOKEN: &Section = &Section {
    name: "token",
    is_list: true,
    doc: "Who may connect. Every connection needs a token (unless `insecure` is set). One that is removed or whose \
          secret changes loses its rights at the reload: its connections are closed, and its loads end.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Formed {
                expected: "1 to 64 letters, digits, `-`, `_` or `.`",
                check: check_name,
            },
            default: "",
            is_reloadable: true,
            doc: "What mounts call its bearer in `readers`. Required.",
        },
        Key {
            name: "secret",
            kind: Kind::Secret,
            default: "",
            is_reloadable: true,
            doc: "The token, 16 to 256 bytes. It or `secret_file` is required.",
        },
        Key {
            name: "secret_file",
            kind: Kind::Text,
            default: "",
            is_reloadable: true,
            doc: "A file with the token; white space around it is ignored.",
        },
        Key {
            name: "operator",
            kind: Kind::Flag,
            default: "false",
            is_reloadable: true,
            doc: "Whether the bearer may also mount, unmount, free, pin and verify, and see and cancel all jobs.",
        },
    ],
};

/// Mounts.
pub const MOUNT: &Section = &Section {
    name: "mount",
    is_list: true,
    doc: "What appears where. The longest path that covers an object decides.",
    keys: &[
        Key {
            name: "path",
            kind: Kind::Formed {
                expected: "an absolute path such as /data, without `.`, `..` or empty parts, at most 2048 bytes",
                check: check_mount_path,
            },
            default: "",
            is_reloadable: true,
            doc: "Prefix in the worker's namespace. Required.",
        },
        Key {
            name: "uri",
            kind: Kind::Formed {
                expected: "s3://, gs://, az://, abfs://, http://, https:// or file:/// and a place",
                check: check_mount_uri,
            },
            default: "",
            is_reloadable: true,
            doc: "Where the objects are, such as `s3://bucket/prefix` or `file:///directory`. Required.",
        },
        Key {
            name: "block_size",
            kind: Kind::Size {
                min: BLOCK_BYTES_MIN as u64,
                max: BLOCK_BYTES_MAX as u64,
                is_power_of_two: true,
            },
            default: "1M",
            is_reloadable: true,
            doc: "Unit of fetch, eviction and metadata. Another block size is another object: what was \
                  cached before is not found any more.",
        },
        Key {
            name: "freshness",
            kind: Kind::Formed {
                expected: "immutable, always-check or max-age=SECONDS",
                check: check_freshness,
            },
            default: "max-age=60",
            is_reloadable: true,
            doc: "How long metadata and listings are believed before the under-store is asked again.",
        },
        Key {
            name: "admission",
            kind: Kind::Formed {
                expected: "always or second-touch",
                check: check_admission,
            },
            default: "always",
            is_reloadable: true,
            doc: "Which fetched blocks go to the device: all, or those that are asked for twice.",
        },
        Key {
            name: "key_indexes",
            kind: Kind::Texts,
            default: "",
            is_reloadable: true,
            doc: "Columns of Parquet objects, by dotted path, that key indexes are built of as soon as an object is \
                  looked into for the first time, and not only after `lookup_index_after` look-ups by value.",
        },
        Key {
            name: "readers",
            kind: Kind::Texts,
            default: "",
            is_reloadable: true,
            doc: "Names of the tokens and S3 keys that may read (keys: also write, as their verbs allow); empty: everyone who may connect. An object that several mounts show is readable by the readers of any of them: a stricter mount inside a wider one of the same folder hides nothing.",
        },
        Key {
            name: "options",
            kind: Kind::Options,
            default: "",
            is_reloadable: true,
            doc: "Options of the under-store, as the `object_store` crate names them: `endpoint`, \
                  `region`, `access_key_id`, `secret_access_key`, `allow_http`, … Never logged or returned.",
        },
    ],
};

/// All sections.
pub const SECTIONS: [&Section; 7] = [TOP, LIMITS, S3, LOG, TOKEN, S3_KEY, MOUNT];

/// Schemes of under-stores.
pub(super) const SCHEMES: [&str; 8] = ["file", "s3", "gs", "az", "abfs", "abfss", "http", "https"];

pub(crate) fn check_name(text: &str) -> Result<(), String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(is_fine) {
        return Ok(());
    }
    Err(format!(
        "expected 1 to 64 letters, digits, `-`, `_` or `.`, found `{text}`"
    ))
}

fn check_access_key_id(text: &str) -> Result<(), String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (3..=128).contains(&text.len()) && text.chars().all(is_fine) {
        return Ok(());
    }
    Err(format!(
        "expected 3 to 128 letters, digits, `-`, `_` or `.`, found `{text}`"
    ))
}

fn check_log_level(text: &str) -> Result<(), String> {
    tracing_subscriber::EnvFilter::try_new(text).map(|_| ()).map_err(|error| {
        format!("expected error, warn, info, debug, trace or directives such as info,corelane_worker=debug, found `{text}` ({error})")
    })
}

pub(crate) fn check_mount_path(text: &str) -> Result<(), String> {
    if text.len() > PATH_BYTES_MAX {
        return Err(format!(
            "expected a path of at most {PATH_BYTES_MAX} bytes, found {}",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("expected a path without control characters".to_owned());
    }
    let parts = text
        .strip_prefix('/')
        .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let is_fine = parts.is_some_and(|rest| {
        rest.is_empty() || rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
    });
    if is_fine {
        return Ok(());
    }
    Err(format!(
        "expected an absolute path such as /data, without `.`, `..` or empty parts, found `{text}`"
    ))
}

pub(crate) fn check_mount_uri(text: &str) -> Result<(), String> {
    if text.len() > MOUNT_URI_BYTES_MAX {
        return Err(format!(
            "expected at most {MOUNT_URI_BYTES_MAX} bytes, found {}",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("expected no control characters".to_owned());
    }
    let wrong = |why: &str| {
        Err(format!(
            "expected s3://, gs://, az://, abfs://, http://, https:// or file:/// and a place, found `{text}`{why}"
        ))
    };
    let Ok(uri) = url::Url::parse(text) else {
        return wrong("");
    };
    if !SCHEMES.contains(&uri.scheme()) {
        return wrong(&format!(" with the scheme `{}`", uri.scheme()));
    }
    if uri.query().is_some() || uri.fragment().is_some() {
        return wrong(": options belong into `options`");
    }
    if uri.password().is_some() {
        return wrong(": credentials belong into `options`");
    }
    match uri.scheme() {
        "file" if uri.host_str().is_some() => wrong(": a file URI has three slashes"),
        "file" => Ok(()),
        _ if uri.host_str().is_none_or(str::is_empty) => wrong(": no host or bucket"),
        _ => Ok(()),
    }
}

fn check_freshness(text: &str) -> Result<(), String> {
    text.parse::<Freshness>().map(|_| ())
}

fn check_admission(text: &str) -> Result<(), String> {
    text.parse::<Admission>().map(|_| ())
}
