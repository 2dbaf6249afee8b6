//! The structs of `worker.capnp` as plain values. What each field means is said in the schema too,
//! for other languages; the names are the same.

use corelane_rpc_schema::generated::worker_capnp::{
    device_stats, entry, mount, object_info, progress, shard_stats, stats,
};

/// A mount: a path prefix and the under-store behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Prefix, such as `/data`.
    pub path: String,
    /// `s3://bucket/prefix`, `file:///dir`, `gs://`, `az://`, `http://`.
    pub uri: String,
    /// Bytes; 0 for the worker's default.
    pub block_bytes: u32,
    /// `immutable`, `always-check` or `max-age=SECONDS`.
    pub freshness: String,
    /// `always` or `second-touch`.
    pub admission: String,
    /// Columns of Parquet objects that key indexes are built of at once.
    pub key_indexes: Vec<String>,
    /// Names of the tokens that may read; empty for everyone who may connect.
    pub readers: Vec<String>,
    /// Under-store options, such as endpoint and region. Secrets are never returned.
    pub options: Vec<(String, String)>,
}

/// An object and what is cached of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectInfo {
    /// As mounted.
    pub path: String,
    /// In the under-store.
    pub uri: String,
    /// Bytes.
    pub length: u64,
    /// ETag, or size-mtime-inode.
    pub version: String,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// Block size.
    pub block_bytes: u32,
    /// Blocks of the object.
    pub blocks: u64,
    /// Blocks of it on the device.
    pub blocks_cached: u64,
    /// Bytes of it on the device.
    pub bytes_cached: u64,
    /// Whether it stays.
    pub pinned: bool,
    /// The shard that holds its metadata.
    pub home_shard: u16,
}

/// One line of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// As mounted.
    pub path: String,
    /// Whether it is a prefix of others rather than an object.
    pub is_directory: bool,
    /// Bytes.
    pub length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// ETag, or size-mtime-inode.
    pub version: String,
    /// Bytes of it on the device.
    pub bytes_cached: u64,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobState {
    /// Under way.
    #[default]
    Running,
    /// Finished; single objects may have failed.
    Done,
    /// Ended by an error.
    Failed,
    /// Ended by [`super::Control::cancel`].
    Cancelled,
}

/// A job: a load or a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its number.
    pub job: u64,
    /// `load` or `verify`.
    pub kind: String,
    /// What it works on.
    pub path: String,
    /// Where it stands.
    pub state: JobState,
    /// Objects finished.
    pub objects_done: u64,
    /// Objects found; grows while the listing is under way.
    pub objects_total: u64,
    /// Bytes finished.
    pub bytes_done: u64,
    /// Bytes found.
    pub bytes_total: u64,
    /// Bytes that were cached already.
    pub bytes_skipped: u64,
    /// Bytes that the devices had no room for, or fell behind with.
    pub bytes_not_kept: u64,
    /// Objects that failed.
    pub failures: u64,
    /// Why the first of them did.
    pub first_failure: String,
    /// Blocks that failed their checksum and were dropped.
    pub blocks_wrong: u64,
}

/// What a worker counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Stable over restarts.
    pub worker_id: String,
    /// Grows with every start.
    pub epoch: u64,
    /// Of the program.
    pub version: String,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Each core.
    pub shards: Vec<ShardStats>,
    /// Each device.
    pub devices: Vec<DeviceStats>,
    /// Number of mounts.
    pub mounts: u32,
}

/// Counters of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Its number.
    pub shard: u16,
    /// Names as in `/metrics`, and values.
    pub counters: Vec<(String, u64)>,
}

/// State of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// As configured.
    pub path: String,
    /// From its superblock.
    pub uuid: String,
    /// False where it was taken out.
    pub healthy: bool,
    /// Capacity.
    pub bytes: u64,
    /// Bytes of live blocks.
    pub bytes_used: u64,
    /// Written since it was formatted, for wear.
    pub bytes_written: u64,
    /// Regions in all.
    pub regions: u32,
    /// Regions that can be opened at once.
    pub regions_free: u32,
    /// Why it is not used now; empty while it is.
    pub reason: String,
}

fn owned(text: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<String> {
    Ok(text?.to_string()?)
}

impl Mount {
    pub(super) fn read(reader: mount::Reader<'_>) -> capnp::Result<Self> {
        Ok(Mount {
            path: owned(reader.get_path())?,
            uri: owned(reader.get_uri())?,
            block_bytes: reader.get_block_bytes(),
            freshness: owned(reader.get_freshness())?,
            admission: owned(reader.get_admission())?,
            key_indexes: reader
                .get_key_indexes()?
                .iter()
                .map(owned)
                .collect::<capnp::Result<_>>()?,
            readers: reader
                .get_readers()?
                .iter()
                .map(owned)
                .collect::<capnp::Result<_>>()?,
            options: reader
                .get_options()?
                .iter()
                .map(|option| Ok((owned(option.get_key())?, owned(option.get_value())?)))
                .collect::<capnp::Result<_>>()?,
        })
    }

    pub(super) fn write(&self, mut builder: mount::Builder<'_>) {
        builder.set_path(self.path.as_str());
        builder.set_uri(self.uri.as_str());
        builder.set_block_bytes(self.block_bytes);
        builder.set_freshness(self.freshness.as_str());
        builder.set_admission(self.admission.as_str());
        let mut readers = builder.reborrow().init_readers(self.readers.len() as u32);
        for (index, reader) in self.readers.iter().enumerate() {
            readers.set(index as u32, reader.as_str());
        }
        let mut indexes = builder
            .reborrow()
            .init_key_indexes(self.key_indexes.len() as u32);
        for (index, column) in self.key_indexes.iter().enumerate() {
            indexes.set(index as u32, column.as_str());
        }
        let mut options = builder.init_options(self.options.len() as u32);
        for (index, (key, value)) in self.options.iter().enumerate() {
            let mut option = options.reborrow().get(index as u32);
            option.set_key(key.as_str());
            option.set_value(value.as_str());
        }
    }
}

impl ObjectInfo {
    pub(super) fn read(reader: object_info::Reader<'_>) -> capnp::Result<Self> {
        Ok(ObjectInfo {
            path: owned(reader.get_path())?,
            uri: owned(reader.get_uri())?,
            length: reader.get_length(),
            version: owned(reader.get_version())?,
            last_modified_ms: reader.get_last_modified_ms(),
            block_bytes: reader.get_block_bytes(),
            blocks: reader.get_blocks(),
            blocks_cached: reader.get_blocks_cached(),
            bytes_cached: reader.get_bytes_cached(),
            pinned: reader.get_pinned(),
            home_shard: reader.get_home_shard(),
        })
    }
}

impl Entry {
    pub(super) fn read(reader: entry::Reader<'_>) -> capnp::Result<Self> {
        Ok(Entry {
            path: owned(reader.get_path())?,
            is_directory: reader.get_is_directory(),
            length: reader.get_length(),
            last_modified_ms: reader.get_last_modified_ms(),
            version: owned(reader.get_version())?,
            bytes_cached: reader.get_bytes_cached(),
        })
    }
}

impl Progress {
    pub(super) fn read(reader: progress::Reader<'_>) -> capnp::Result<Self> {
        Ok(Progress {
            job: reader.get_job(),
            kind: owned(reader.get_kind())?,
            path: owned(reader.get_path())?,
            state: match reader.get_state()? {
                progress::State::Running => JobState::Running,
                progress::State::Done => JobState::Done,
                progress::State::Failed => JobState::Failed,
                progress::State::Cancelled => JobState::Cancelled,
            },
            objects_done: reader.get_objects_done(),
            objects_total: reader.get_objects_total(),
            bytes_done: reader.get_bytes_done(),
            bytes_total: reader.get_bytes_total(),
            bytes_skipped: reader.get_bytes_skipped(),
            bytes_not_kept: reader.get_bytes_not_kept(),
            failures: reader.get_failures(),
            first_failure: owned(reader.get_first_failure())?,
            blocks_wrong: reader.get_blocks_wrong(),
        })
    }
}

impl Stats {
    pub(super) fn read(reader: stats::Reader<'_>) -> capnp::Result<Self> {
        Ok(Stats {
            worker_id: owned(reader.get_worker_id())?,
            epoch: reader.get_epoch(),
            version: owned(reader.get_version())?,
            uptime_ms: reader.get_uptime_ms(),
            shards: reader
                .get_shards()?
                .iter()
                .map(ShardStats::read)
                .collect::<capnp::Result<_>>()?,
            devices: reader
                .get_devices()?
                .iter()
                .map(DeviceStats::read)
                .collect::<capnp::Result<_>>()?,
            mounts: reader.get_mounts(),
        })
    }
}

impl ShardStats {
    fn read(reader: shard_stats::Reader<'_>) -> capnp::Result<Self> {
        Ok(ShardStats {
            shard: reader.get_shard(),
            counters: reader
                .get_counters()?
                .iter()
                .map(|counter| Ok((owned(counter.get_name())?, counter.get_value())))
                .collect::<capnp::Result<_>>()?,
        })
    }
}

impl DeviceStats {
    fn read(reader: device_stats::Reader<'_>) -> capnp::Result<Self> {
        Ok(DeviceStats {
            path: owned(reader.get_path())?,
            uuid: owned(reader.get_uuid())?,
            healthy: reader.get_healthy(),
            bytes: reader.get_bytes(),
            bytes_used: reader.get_bytes_used(),
            bytes_written: reader.get_bytes_written(),
            regions: reader.get_regions(),
            regions_free: reader.get_regions_free(),
            reason: owned(reader.get_reason())?,
        })
    }
}
