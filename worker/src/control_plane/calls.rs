//! The methods of a worker: from Cap'n Proto to the calls of the neighbouring modules, and back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp::Error;
use capnp::capability::Rc as CapRc;
use corelane_rpc_schema::generated::worker_capnp::{
    entry, mount, object_info, progress, stats, worker,
};
use corelane_rpc_schema::{BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, Stripe};

use super::cached::CachedObject;
use super::error::CallError;
use super::jobs::{self, JobKind, JobState, Progress};
use super::listing::{self, Entry, Query};
use super::rights::{Rights, checked_path};
use super::shards::ANSWER_DEADLINE;
use super::traffic::{CallInFlight, Traffic, WorkerInUse};
use super::{Control, objects};
use crate::access::Reader;
use crate::config::keys::{check_mount_path, check_mount_uri, check_name};
use crate::config::{normal_path, normal_uri};
use crate::mount::{Mount, MountId};
use crate::shard::request::{DeviceStats, ShardRequest, ShardStats};

/// Bytes that an entry of a listing takes, once as it was found and once in the answer, beyond its texts.
const ENTRY_BYTES: u64 = 512;

/// Copies of a plain read's bytes at a time while its answer is made: the shard's and the call's, then the
/// call's and the message's.
const READ_COPIES: u64 = 2;

/// Readers, key indexes or options of a mount made at run time: all mounts share what a device keeps of them.
const MOUNT_LIST_MAX: u32 = 64;

/// Longest name or value among these: a key of a service account, which is the longest, has half of it.
const MOUNT_TEXT_BYTES_MAX: usize = 8 << 10;

/// How often the rights of a caller are looked at while something long is done for it.
const RIGHTS_INTERVAL: Duration = Duration::from_millis(250);

/// Freshness of a mount that names none, as in the configuration.
const FRESHNESS_DEFAULT: &str = "max-age=60";

/// Admission of a mount that names none.
const ADMISSION_DEFAULT: &str = "always";

/// A worker as one caller sees it.
pub(super) struct Calls {
    control: Rc<Control>,
    traffic: Rc<Traffic>,
    reader: Reader,
    _in_use: WorkerInUse,
}

impl Calls {
    pub(super) fn new(
        control: Rc<Control>,
        traffic: Rc<Traffic>,
        in_use: WorkerInUse,
        reader: Reader,
    ) -> Self {
        Calls {
            control,
            traffic,
            reader,
            _in_use: in_use,
        }
    }

    /// Counts a call in, of a caller that may still make one.
    fn begin(&self) -> Result<CallInFlight, CallError> {
        self.rights()?;
        if self.control.is_stopping() {
            return Err(CallError::Busy(
                "the worker is stopping; retry when it is up again".to_owned(),
            ));
        }
        let limit = self.control.limits().control_calls;
        self.traffic.begin(limit).ok_or_else(|| {
            CallError::Busy(format!(
                "{limit} calls of this connection are in flight (`limits.control_calls`); retry"
            ))
        })
    }

    /// The caller's rights now.
    fn rights(&self) -> Result<Rights, CallError> {
        self.control.rights_of(&self.reader)
    }

    /// The caller's rights, if it is an operator now.
    fn as_operator(&self) -> Result<Rights, CallError> {
        self.control.as_operator(&self.reader)
    }

    /// Does `work`, which may take long, for as long as the caller is an operator.
    async fn while_operator<T>(
        &self,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let until_it_is_not = async {
            let mut interval = tokio::time::interval(RIGHTS_INTERVAL);
            loop {
                interval.tick().await;
                if let Err(error) = self.as_operator() {
                    return error;
                }
            }
        };
        tokio::select! {
            biased;
            error = until_it_is_not => Err(error),
            done = work => done,
        }
    }
}

impl worker::Server for Calls {
    async fn stats(
        self: CapRc<Self>,
        _: worker::StatsParams,
        mut results: worker::StatsResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let control = &self.control;
        let shards = control
            .shards
            .ask_all(ANSWER_DEADLINE, |answer| ShardRequest::Stats { answer })
            .await;
        let shards = shards.map_err(CallError::from)?;
        let devices = devices(control).await?;
        write_stats(results.get().init_stats(), control, &shards, &devices);
        Ok(())
    }

    async fn mounts(
        self: CapRc<Self>,
        _: worker::MountsParams,
        mut results: worker::MountsResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let rights = self.rights()?;
        let table = self.control.mounts();
        let mut mounts: Vec<&Arc<Mount>> = table
            .iter()
            .filter(|mount| rights.may_read(mount))
            .collect();
        mounts.sort_by(|left, right| left.path.cmp(&right.path));
        let mut list = results.get().init_mounts(mounts.len() as u32);
        for (index, mount) in mounts.into_iter().enumerate() {
            write_mount(list.reborrow().get(index as u32), mount);
        }
        Ok(())
    }

    async fn mount(
        self: CapRc<Self>,
        params: worker::MountParams,
        _: worker::MountResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        self.as_operator()?;
        let mount = read_mount(params.get()?.get_mount()?)?;
        tracing::info!(
            path = mount.path,
            uri = mount.uri,
            by = self.reader.name(),
            "mount"
        );
        Ok(self.control.mount(mount, &self.reader).await?)
    }

    async fn unmount(
        self: CapRc<Self>,
        params: worker::UnmountParams,
        _: worker::UnmountResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        self.as_operator()?;
        let path = checked_path(params.get()?.get_path()?.to_str()?)?;
        tracing::info!(path, by = self.reader.name(), "unmount");
        Ok(self.control.unmount(&path, &self.reader).await?)
    }

    async fn stat(
        self: CapRc<Self>,
        params: worker::StatParams,
        mut results: worker::StatResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let path = checked_path(params.get()?.get_path()?.to_str()?)?;
        self.rights()?.mount_of(&path)?;
        let meta = objects::describe(&self.control, &path).await?;
        let cached = objects::cached_of(&self.control, &meta).await?;
        // It took its time.
        self.rights()?.mount_of(&path)?;
        let object = CachedObject { meta, cached };
        write_object(results.get().init_object(), &self.control, &path, &object);
        Ok(())
    }

    async fn list(
        self: CapRc<Self>,
        params: worker::ListParams,
        mut results: worker::ListResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let params = params.get()?;
        let query = Query {
            path: checked_path(params.get_path()?.to_str()?)?,
            recursive: params.get_recursive(),
            cached_only: params.get_cached_only(),
            limit: params.get_limit() as usize,
            after: params.get_after()?.to_str()?.to_owned(),
            names_only: false,
        };
        let entries = listing::limit_of(&query) as u64;
        let mut held = self.traffic.reserve(entries * ENTRY_BYTES).await?;
        let rights = self.rights()?;
        let (entries, more) = listing::list(&self.control, &rights, &query).await?;
        self.rights()?.still_allow(&rights)?;
        let bytes = entries.iter().map(|entry| {
            2 * (entry.listed.path.len() + entry.listed.version.len()) as u64 + ENTRY_BYTES
        });
        held.grow_to(bytes.sum());
        let mut results = results.get();
        results.set_more(more);
        let mut list = results.init_entries(entries.len() as u32);
        for (index, entry) in entries.iter().enumerate() {
            write_entry(list.reborrow().get(index as u32), entry);
        }
        Ok(())
    }

    async fn load(
        self: CapRc<Self>,
        params: worker::LoadParams,
        mut results: worker::LoadResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let params = params.get()?;
        let path = checked_path(params.get_path()?.to_str()?)?;
        let rights = self.rights()?;
        if rights.mounts_at(&path).is_empty() {
            rights.mount_of(&path)?;
        }
        let job = jobs::start(
            &self.control,
            JobKind::Load,
            (&self.reader, &rights),
            &path,
            params.get_recursive(),
        );
        results.get().set_job(job.map_err(CallError::from)?);
        Ok(())
    }

    async fn free(
        self: CapRc<Self>,
        params: worker::FreeParams,
        mut results: worker::FreeResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let rights = self.as_operator()?;
        let params = params.get()?;
        let path = checked_path(params.get_path()?.to_str()?)?;
        let freed = objects::free(&self.control, &rights, &path, params.get_recursive());
        let freed = self.while_operator(freed).await?;
        let mut results = results.get();
        results.set_blocks(freed.blocks);
        results.set_bytes(freed.bytes);
        Ok(())
    }

    async fn pin(
        self: CapRc<Self>,
        params: worker::PinParams,
        mut results: worker::PinResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let rights = self.as_operator()?;
        let params = params.get()?;
        let path = checked_path(params.get_path()?.to_str()?)?;
        let (recursive, pinned) = (params.get_recursive(), params.get_pinned());
        let pinning = objects::pin(&self.control, &rights, &path, recursive, pinned);
        let count = self.while_operator(pinning).await?;
        results.get().set_objects(count);
        Ok(())
    }

    async fn verify(
        self: CapRc<Self>,
        params: worker::VerifyParams,
        mut results: worker::VerifyResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let rights = self.as_operator()?;
        let path = checked_path(params.get()?.get_path()?.to_str()?)?;
        if rights.mounts_at(&path).is_empty() {
            rights.mount_of(&path)?;
        }
        let caller = (&self.reader, &rights);
        let job = jobs::start(&self.control, JobKind::Verify, caller, &path, true);
        results.get().set_job(job.map_err(CallError::from)?);
        Ok(())
    }

    async fn progress(
        self: CapRc<Self>,
        params: worker::ProgressParams,
        mut results: worker::ProgressResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let job = params.get()?.get_job();
        let rights = self.rights()?;
        let progress = self.control.jobs().progress(job, &self.reader, &rights);
        let progress = progress.map_err(CallError::from)?;
        write_progress(results.get().init_progress(), &progress);
        Ok(())
    }

    async fn cancel(
        self: CapRc<Self>,
        params: worker::CancelParams,
        _: worker::CancelResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let rights = self.rights()?;
        let job = params.get()?.get_job();
        let cancelled = self.control.jobs().cancel(job, &self.reader, &rights);
        Ok(cancelled.map_err(CallError::from)?)
    }

    async fn read(
        self: CapRc<Self>,
        params: worker::ReadParams,
        mut results: worker::ReadResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let params = params.get()?;
        let path = checked_path(params.get_path()?.to_str()?)?;
        let (offset, length) = (params.get_offset(), params.get_length());
        objects::check_plain_read(length)?;
        let _held = self
            .traffic
            .reserve(u64::from(length) * READ_COPIES)
            .await?;
        let (data, version) =
            objects::read(&self.control, &self.rights()?, &path, offset, length).await?;
        // It took its time.
        self.rights()?.mount_of(&path)?;
        let mut results = results.get();
        results.set_data(&data);
        results.set_version(&version);
        Ok(())
    }

    async fn jobs(
        self: CapRc<Self>,
        _: worker::JobsParams,
        mut results: worker::JobsResults,
    ) -> Result<(), Error> {
        let _call = self.begin()?;
        let jobs = self.control.jobs().shown_to(&self.reader, &self.rights()?);
        let mut list = results.get().init_jobs(jobs.len() as u32);
        for (index, job) in jobs.iter().enumerate() {
            write_progress(list.reborrow().get(index as u32), job);
        }
        Ok(())
    }
}

/// All devices, each once: bytes are of the whole device, what shards own is added up.
///
/// # Errors
/// When a shard does not answer.
pub async fn devices(control: &Control) -> Result<Vec<DeviceStats>, CallError> {
    let answers = control
        .shards
        .ask_all(ANSWER_DEADLINE, |answer| ShardRequest::Devices { answer })
        .await?;
    let mut devices: Vec<DeviceStats> = Vec::new();
    for part in answers.into_iter().flatten() {
        match devices.iter_mut().find(|device| device.path == part.path) {
            None => devices.push(part),
            Some(device) => {
                device.healthy &= part.healthy;
                if device.reason.is_empty() {
                    device.reason = part.reason;
                }
                device.bytes_used += part.bytes_used;
                device.regions += part.regions;
                device.regions_free += part.regions_free;
            }
        }
    }
    Ok(devices)
}

fn write_stats(
    mut stats: stats::Builder<'_>,
    control: &Control,
    shards: &[ShardStats],
    devices: &[DeviceStats],
) {
    stats.set_worker_id(&control.worker_id);
    stats.set_epoch(control.epoch);
    stats.set_version(env!("CARGO_PKG_VERSION"));
    stats.set_uptime_ms(control.uptime().as_millis() as u64);
    stats.set_mounts(control.mounts().iter().count() as u32);
    let mut list = stats.reborrow().init_shards(shards.len() as u32);
    for (index, shard) in shards.iter().enumerate() {
        let mut entry = list.reborrow().get(index as u32);
        entry.set_shard(index as u16);
        let mut counters = entry.init_counters(shard.values.len() as u32);
        for (index, (name, value)) in shard.values.iter().enumerate() {
            let mut counter = counters.reborrow().get(index as u32);
            counter.set_name(*name);
            counter.set_value(*value);
        }
    }
    let mut list = stats.init_devices(devices.len() as u32);
    for (index, device) in devices.iter().enumerate() {
        let mut entry = list.reborrow().get(index as u32);
        entry.set_path(&device.path);
        entry.set_uuid(&device.uuid);
        entry.set_healthy(device.healthy);
        entry.set_bytes(device.bytes);
        entry.set_bytes_used(device.bytes_used);
        entry.set_bytes_written(device.bytes_written);
        entry.set_regions(device.regions);
        entry.set_regions_free(device.regions_free);
        entry.set_reason(&device.reason);
    }
}

fn write_mount(mut builder: mount::Builder<'_>, mount: &Mount) {
    builder.set_path(&mount.path);
    builder.set_uri(&mount.uri);
    builder.set_block_bytes(mount.block_bytes);
    builder.set_freshness(mount.freshness.to_string());
    builder.set_admission(mount.admission.to_string());
    let mut readers = builder.reborrow().init_readers(mount.readers.len() as u32);
    for (index, reader) in mount.readers.iter().enumerate() {
        readers.set(index as u32, reader);
    }
    let mut indexes = builder
        .reborrow()
        .init_key_indexes(mount.key_indexes.len() as u32);
    for (index, column) in mount.key_indexes.iter().enumerate() {
        indexes.set(index as u32, column);
    }
    // Values may be secrets, so only the names are told.
    let mut options = builder.init_options(mount.options.len() as u32);
    for (index, key) in mount.options.keys().enumerate() {
        options.reborrow().get(index as u32).set_key(key);
    }
}

fn read_mount(reader: mount::Reader<'_>) -> Result<Mount, Error> {
    let invalid = |key: &'static str| {
        move |message: String| Error::from(CallError::Invalid(format!("`{key}`: {message}")))
    };
    let path = reader.get_path()?.to_str()?;
    let uri = reader.get_uri()?.to_str()?;
    check_mount_path(path).map_err(invalid("path"))?;
    check_mount_uri(uri).map_err(invalid("uri"))?;
    let block_bytes = match reader.get_block_bytes() {
        0 => BLOCK_BYTES_DEFAULT,
        bytes
            if bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&bytes) =>
        {
            bytes
        }
        bytes => {
            let message = format!(
                "expected a power of two from {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX}, found {bytes}"
            );
            return Err(invalid("blockBytes")(message));
        }
    };
    let or = |text: &str, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text.to_owned()
        }
    };
    let freshness = or(reader.get_freshness()?.to_str()?, FRESHNESS_DEFAULT);
    let admission = or(reader.get_admission()?.to_str()?, ADMISSION_DEFAULT);
    let few = |key: &'static str, count: u32| match count {
        0..=MOUNT_LIST_MAX => Ok(()),
        _ => Err(invalid(key)(format!(
            "{count} are more than {MOUNT_LIST_MAX}"
        ))),
    };
    let short = |key: &'static str, text: &str| match text.len() {
        0..=MOUNT_TEXT_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(invalid(key)(format!(
            "{bytes} bytes are more than {MOUNT_TEXT_BYTES_MAX}"
        ))),
    };
    let mut readers = Vec::new();
    few("readers", reader.get_readers()?.len())?;
    for name in reader.get_readers()? {
        let name = name?.to_str()?;
        check_name(name).map_err(invalid("readers"))?;
        readers.push(name.to_owned());
    }
    let mut key_indexes = Vec::new();
    few("keyIndexes", reader.get_key_indexes()?.len())?;
    for column in reader.get_key_indexes()? {
        key_indexes.push(short("keyIndexes", column?.to_str()?)?);
    }
    let mut options = std::collections::BTreeMap::new();
    few("options", reader.get_options()?.len())?;
    for option in reader.get_options()? {
        options.insert(
            short("options", option.get_key()?.to_str()?)?,
            short("options", option.get_value()?.to_str()?)?,
        );
    }
    Ok(Mount {
        id: MountId::NONE,
        path: normal_path(path),
        uri: normal_uri(uri),
        block_bytes,
        freshness: freshness.parse().map_err(invalid("freshness"))?,
        admission: admission.parse().map_err(invalid("admission"))?,
        key_indexes,
        readers,
        options,
        is_runtime: true,
    })
}

fn write_object(
    mut builder: object_info::Builder<'_>,
    control: &Control,
    path: &str,
    object: &CachedObject,
) {
    let CachedObject { meta, cached } = object;
    builder.set_path(path);
    builder.set_uri(&meta.uri);
    builder.set_length(meta.length);
    builder.set_version(&meta.version);
    builder.set_last_modified_ms(meta.last_modified_ms);
    builder.set_block_bytes(meta.block_bytes);
    builder.set_blocks(u64::from(meta.blocks()));
    builder.set_blocks_cached(cached.blocks);
    builder.set_bytes_cached(cached.bytes);
    builder.set_pinned(cached.pinned);
    builder.set_home_shard(control.shards.owner(meta.id, Stripe(0)).0);
}

fn write_entry(mut builder: entry::Builder<'_>, entry: &Entry) {
    builder.set_path(&entry.listed.path);
    builder.set_is_directory(entry.listed.is_directory);
    builder.set_length(entry.listed.length);
    builder.set_last_modified_ms(entry.listed.last_modified_ms);
    builder.set_version(&entry.listed.version);
    builder.set_bytes_cached(entry.bytes_cached);
}

fn write_progress(mut builder: progress::Builder<'_>, job: &Progress) {
    builder.set_job(job.job);
    builder.set_kind(job.kind.name());
    builder.set_path(&job.path);
    builder.set_state(match job.state {
        JobState::Running => progress::State::Running,
        JobState::Done => progress::State::Done,
        JobState::Failed => progress::State::Failed,
        JobState::Cancelled => progress::State::Cancelled,
    });
    builder.set_objects_done(job.objects_done);
    builder.set_objects_total(job.objects_total);
    builder.set_bytes_done(job.bytes_done);
    builder.set_bytes_total(job.bytes_total);
    builder.set_bytes_skipped(job.bytes_skipped);
    builder.set_failures(job.failures);
    builder.set_first_failure(&job.first_failure);
    builder.set_blocks_wrong(job.blocks_wrong);
    builder.set_bytes_not_kept(job.bytes_not_kept);
}
