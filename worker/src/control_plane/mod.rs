//! The control plane: everything that is not a hot read, on one thread, over Cap'n Proto RPC.
//!
//! The invariant: whatever a client does, calls in flight, queued bytes and connections stay within
//! their limits, and no call waits without a deadline. Data cores are asked by letters only.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | connections: the gate, limits, deadlines |
//! | [`traffic`] | what messages, calls and answers cost, and its bounds |
//! | `network` | messages of Cap'n Proto, counted on their way |
//! | [`calls`] | the methods of a worker, from and to Cap'n Proto |
//! | [`listing`] | folders, of under-stores or of the cache |
//! | [`objects`] | describe, free, pin, read |
//! | [`jobs`] | loads and verifications, with progress |
//! | [`cached`] | a walk over what the shards hold |
//! | [`shards`] | letters to shards and their answers |
//! | [`mounts`] | the mounts of the file and of run time |
//! | [`rights`] | what a caller may see |
//! | [`catalogue`] | what is needed of the under-stores |
//! | [`state`] | what is kept over a restart |
//! | [`error`] | why calls fail |

pub mod cached;
pub mod calls;
pub mod catalogue;
pub mod error;
pub mod jobs;
pub mod listing;
pub mod mounts;
mod network;
pub mod objects;
pub mod rights;
pub mod server;
pub mod shards;
pub mod state;
pub mod traffic;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_rpc_schema::ShardId;

use crate::access::{Access, Reader};
use crate::config::mount_roots::RootError;
use crate::config::{Changes, Config, Limits};
use crate::mount::{Mount, MountTable};
use crate::shard::request::ShardRequest;
use catalogue::Catalogue;
use error::CallError;
use jobs::Jobs;
use mounts::Mounts;
use rights::Rights;
use shards::Shards;
use state::{SavedJob, SavedState};
use traffic::AllTraffic;

/// What the control thread knows and holds. One a worker, shared by its tasks.
pub struct Control {
    /// Name of the worker.
    pub worker_id: String,
    /// Starts of the device set so far.
    pub epoch: u64,
    /// The shards.
    pub shards: Shards,
    /// Who may enter.
    pub access: Arc<Access>,
    /// The under-stores.
    pub catalogue: Arc<dyn Catalogue>,
    config: RefCell<Config>,
    mounts: RefCell<Mounts>,
    limits: Cell<Limits>,
    began: Instant,
    is_stopping: Cell<bool>,
    jobs: Jobs,
    traffic: Rc<AllTraffic>,
    /// One save at a time, so that an older state never overwrites a newer one.
    saving: tokio::sync::Mutex<()>,
    /// One change of the run-time mounts at a time.
    mounting: tokio::sync::Mutex<()>,
}

/// What a [`Control`] is made of.
pub struct ControlSetup {
    /// Name of the worker.
    pub worker_id: String,
    /// Starts of the device set so far.
    pub epoch: u64,
    /// The shards.
    pub shards: Shards,
    /// Who may enter.
    pub access: Arc<Access>,
    /// The under-stores.
    pub catalogue: Arc<dyn Catalogue>,
    /// The configuration.
    pub config: Config,
    /// What was kept over the restart.
    pub state: SavedState,
    /// Bytes in a region of the device with the smallest ones.
    pub region_bytes: u32,
}

impl Control {
    /// Takes up the mounts that were kept and tells the shards.
    ///
    /// # Errors
    /// A sentence, when mounts clash or a shard cannot be told.
    pub async fn new(setup: ControlSetup) -> Result<Rc<Self>, String> {
        let mounts = Mounts::new(
            &setup.config.mounts,
            &setup.state.mounts,
            &setup.config.mount_roots,
            setup.region_bytes,
        )
        .map_err(|error| error.to_string())?;
        let control = Rc::new(Control {
            worker_id: setup.worker_id,
            epoch: setup.epoch,
            shards: setup.shards,
            access: setup.access,
            catalogue: setup.catalogue,
            limits: Cell::new(setup.config.limits),
            config: RefCell::new(setup.config),
            mounts: RefCell::new(mounts),
            began: Instant::now(),
            is_stopping: Cell::new(false),
            jobs: Jobs::new(setup.epoch),
            traffic: Rc::default(),
            saving: tokio::sync::Mutex::new(()),
            mounting: tokio::sync::Mutex::new(()),
        });
        control
            .publish_mounts()
            .await
            .map_err(|error| error.to_string())?;
        Ok(control)
    }

    /// All mounts.
    pub fn mounts(&self) -> Arc<MountTable> {
        self.mounts.borrow().table()
    }

    /// The limits now.
    pub fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Time since the worker began to serve.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether the worker is ending.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.get()
    }

    /// What the connections cost.
    pub fn traffic(&self) -> &Rc<AllTraffic> {
        &self.traffic
    }

    async fn publish_mounts(&self) -> Result<(), shards::AskError> {
        let mounts = self.mounts();
        self.catalogue.retain_mounts(&mounts);
        self.shards
            .tell_all(|| ShardRequest::SetMounts {
                mounts: Arc::clone(&mounts),
            })
            .await
    }

    /// Takes over what can change of `config`.
    ///
    /// # Errors
    /// A sentence. When the mounts of `config` cannot be made, nothing has changed. When a shard cannot be told,
    /// `config` is taken over and that shard has its mounts and limits from before, until the next reload.
    pub async fn reload(&self, config: Config) -> Result<Changes, String> {
        let changes = Changes::between(&self.config.borrow(), &config);
        self.mounts
            .borrow_mut()
            .reload(&config.mounts, &config.mount_roots)
            .map_err(|error| error.to_string())?;
        // With the mounts and before anything that may fail: what is checked from now on is checked by it.
        self.config.borrow_mut().take_over(&config);
        self.limits.set(config.limits);
        self.access.replace(config.tokens.clone());
        self.jobs.end_without_rights(&self.access);
        self.access.replace_s3(config.s3.credentials());
        let limits = &config.limits;
        self.catalogue.set_limits(
            limits.under_store_bytes_per_second,
            limits.under_store_requests,
        );
        let shard_limits = self.config.borrow().part_of(limits);
        // Before anything that may take long: connections of tokens that are gone end here.
        let published = self.publish_mounts().await;
        let told = self
            .shards
            .tell_all(|| ShardRequest::SetLimits {
                limits: shard_limits,
            })
            .await;
        published.and(told).map_err(|error| error.to_string())?;
        Ok(changes)
    }

    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// What `reader` may see and do now.
    ///
    /// # Errors
    /// When its token is gone.
    pub fn rights_of(&self, reader: &Reader) -> Result<Rights, CallError> {
        Rights::of(reader, &self.access, self.mounts())
    }

    /// The rights of `reader` now, if it is an operator's.
    ///
    /// # Errors
    /// When it is not, or its token is gone.
    pub fn as_operator(&self, reader: &Reader) -> Result<Rights, CallError> {
        let rights = self.rights_of(reader)?;
        if rights.is_operator() {
            return Ok(rights);
        }
        Err(CallError::Denied(format!(
            "the token {} is not an operator's (`operator = true` in its [[token]])",
            reader.name()
        )))
    }

    /// Makes a mount at run time for `reader`, an operator. It is kept before this returns.
    ///
    /// # Errors
    /// When it is outside of the roots, the path is taken, or it cannot be kept (nothing has changed then).
    pub async fn mount(&self, mount: Mount, reader: &Reader) -> Result<(), CallError> {
        let mount = self.within_roots(mount).await?;
        let _one_at_a_time = self.mounting.lock().await;
        self.as_operator(reader)?;
        self.mounts.borrow().check(&mount)?;
        // Nobody sees it before it is kept, so that one that fails leaves nothing behind.
        if let Err(message) = self.save_with(Some(&mount)).await {
            return Err(CallError::Failed(format!(
                "the mount could not be kept: {message}"
            )));
        }
        // Keeping it may have taken long: the caller's rights and the other mounts are looked at again.
        let made = self
            .as_operator(reader)
            .and_then(|_| Ok(self.mounts.borrow_mut().mount(mount)?));
        if let Err(error) = made {
            // A reload came in between. What cannot be taken back is sorted out at the next start.
            if let Err(message) = self.save().await {
                tracing::warn!(message, "a refused mount is still kept on the devices");
            }
            return Err(error);
        }
        Ok(self.publish_mounts().await?)
    }

    /// `mount` with its URI in its one form, if it is below a root.
    async fn within_roots(&self, mount: Mount) -> Result<Mount, CallError> {
        let roots = self.config.borrow().mount_roots.clone();
        // A folder may be on a file system that does not answer, which must not hold this thread up.
        let checking = tokio::task::spawn_blocking(move || {
            let uri = roots.check(&mount.uri, &mount.options)?;
            Ok(Mount { uri, ..mount })
        });
        match tokio::time::timeout(ROOT_CHECK_DEADLINE, checking).await {
            Ok(Ok(checked)) => checked.map_err(|error: RootError| match error {
                RootError::Invalid(message) => CallError::Invalid(message),
                RootError::Outside(message) => CallError::Denied(message),
            }),
            Ok(Err(error)) => Err(CallError::Failed(error.to_string())),
            Err(_) => Err(CallError::Unavailable(format!(
                "the folder did not answer within {} s; look after its file system",
                ROOT_CHECK_DEADLINE.as_secs()
            ))),
        }
    }

    /// Removes a mount that was made at run time, for `reader`, an operator. That is kept before this returns.
    ///
    /// # Errors
    /// When there is none, or the configuration made it.
    pub async fn unmount(&self, path: &str, reader: &Reader) -> Result<(), CallError> {
        let _one_at_a_time = self.mounting.lock().await;
        self.as_operator(reader)?;
        self.mounts.borrow_mut().unmount(path)?;
        // Reads end at once; if the change is not kept, the mount is back after a restart.
        self.publish_mounts().await?;
        self.save().await.map_err(CallError::Failed)
    }

    /// Goes on with the jobs that were kept, and keeps them from now on.
    pub fn resume(self: &Rc<Self>, jobs: Vec<SavedJob>) {
        for job in jobs {
            jobs::resume(self, job);
        }
        let control = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            let mut interval = tokio::time::interval(SAVE_INTERVAL);
            loop {
                interval.tick().await;
                let Some(control) = control.upgrade().filter(|control| !control.is_stopping())
                else {
                    return;
                };
                if control.jobs.has_moved()
                    && let Err(error) = control.save().await
                {
                    tracing::warn!(
                        error,
                        "the progress of jobs could not be kept; after a restart they repeat it"
                    );
                }
            }
        });
    }

    /// Keeps mounts and jobs on the devices.
    ///
    /// # Errors
    /// A sentence, when no device took them.
    pub async fn save(&self) -> Result<(), String> {
        self.save_with(None).await
    }

    async fn save_with(&self, more: Option<&Mount>) -> Result<(), String> {
        let _one_at_a_time = self.saving.lock().await;
        let mut mounts = self.mounts.borrow().made_at_run_time();
        mounts.extend(more.cloned());
        let state = SavedState {
            mounts,
            jobs: self.jobs.unfinished(),
        }
        .to_bytes();
        let saved = self
            .shards
            .ask(ShardId(0), shards::ANSWER_DEADLINE, |answer| {
                ShardRequest::SaveState { state, answer }
            });
        saved.await.map_err(|error| error.to_string())?
    }

    /// Takes no more work, and keeps what is not finished.
    pub async fn wind_up(&self) {
        self.is_stopping.set(true);
        self.jobs.pause();
        if let Err(error) = self.save().await {
            tracing::warn!(
                error,
                "unfinished jobs and run-time mounts could not be kept"
            );
        }
    }
}

/// How long it may take to find out where a folder really is.
const ROOT_CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// How often the progress of jobs is kept: what is repeated after a crash is found in the cache.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::future::BoxFuture;

    use super::*;
    use crate::config::WorkerFlags;
    use crate::inbox::inbox;
    use crate::mount::{Admission, Freshness, MountId};
    use crate::under_store::UnderStoreError;

    struct NoStores;

    impl Catalogue for NoStores {
        fn list(
            &self,
            _: catalogue::ListRequest,
        ) -> BoxFuture<'static, Result<catalogue::Page, UnderStoreError>> {
            Box::pin(std::future::ready(Ok(catalogue::Page::default())))
        }

        fn set_limits(&self, _: u64, _: usize) {}

        fn retain_mounts(&self, _: &MountTable) {}

        fn counters(&self) -> Vec<(&'static str, String, u64)> {
            Vec::new()
        }
    }

    fn configuration(more: &str) -> Config {
        let text = format!(
            "listen = \"127.0.0.1:0\"\ncores = [0]\ndevices = [\"/nonexistent\"]\ndevice_size = \"8G\"\n\
             insecure = true\n{more}\n[[mount]]\npath = \"/data\"\nuri = \"s3://bucket\"\n"
        );
        let config = Config::on_cpus(Path::new("w.toml"), &text, &WorkerFlags::default(), &[0]);
        config.unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    #[tokio::test]
    async fn new_mounts_are_checked_by_a_configuration_that_not_all_shards_were_told() {
        let (sender, shard) = inbox(8);
        let config = configuration("");
        let control = Control::new(ControlSetup {
            worker_id: "w".to_owned(),
            epoch: 1,
            shards: Shards::new(vec![sender], 1),
            access: Arc::new(Access::of_config(&config)),
            catalogue: Arc::new(NoStores),
            config,
            state: SavedState::default(),
            region_bytes: 16 << 20,
        })
        .await
        .expect("the shard is there");
        let bucket = || Mount {
            id: MountId(0),
            path: "/more".to_owned(),
            uri: "s3://more".to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: Default::default(),
            is_runtime: true,
        };
        control.within_roots(bucket()).await.expect("a root");
        drop(shard);
        let narrower = configuration("mount_roots = [\"s3://other\"]");
        let reloaded = control.reload(narrower).await;
        reloaded.expect_err("the shard is gone");
        let refused = control.within_roots(bucket()).await;
        assert!(matches!(refused, Err(CallError::Denied(_))), "{refused:?}");
    }
}
