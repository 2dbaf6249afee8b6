//! The control client against a small server of `worker.capnp`, over a real socket.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use corelane_client::Error;
use corelane_client::control::{Control, Freed, JobState, ListOptions, Mount, Progress};
use corelane_rpc_schema::generated::worker_capnp::{self, gate, worker};
use futures::AsyncReadExt as _;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

const TOKEN: &str = "open sesame";
const PATIENCE: Duration = Duration::from_millis(500);

struct Gate;

impl gate::Server for Gate {
    async fn enter(
        self: Rc<Self>,
        params: gate::EnterParams,
        mut results: gate::EnterResults,
    ) -> capnp::Result<()> {
        if params.get()?.get_token()?.to_str()? != TOKEN {
            return Err(capnp::Error::failed(String::from(
                "the token is unknown; ask the operator",
            )));
        }
        results
            .get()
            .set_worker(capnp_rpc::new_client(Worker::default()));
        Ok(())
    }
}

#[derive(Default)]
struct Worker {
    mounted: std::cell::RefCell<Option<capnp::message::TypedBuilder<worker_capnp::mount::Owned>>>,
}

impl worker::Server for Worker {
    async fn mount(
        self: Rc<Self>,
        params: worker::MountParams,
        _: worker::MountResults,
    ) -> capnp::Result<()> {
        let mut kept = capnp::message::TypedBuilder::new_default();
        kept.set_root(params.get()?.get_mount()?)?;
        *self.mounted.borrow_mut() = Some(kept);
        Ok(())
    }

    async fn mounts(
        self: Rc<Self>,
        _: worker::MountsParams,
        mut results: worker::MountsResults,
    ) -> capnp::Result<()> {
        if let Some(kept) = &*self.mounted.borrow() {
            let mut mounts = results.get().init_mounts(1);
            mounts.set_with_caveats(0, kept.get_root_as_reader()?)?;
        }
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: worker::ListParams,
        mut results: worker::ListResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let count = params.get_limit();
        let after = params.get_after()?.to_str()?.to_owned();
        results
            .get()
            .set_more(params.get_recursive() && params.get_cached_only());
        let mut entries = results.get().init_entries(count);
        for index in 0..count {
            let mut entry = entries.reborrow().get(index);
            entry.set_path(format!("{}{after}{index}", params.get_path()?.to_str()?).as_str());
            entry.set_length(u64::from(index));
        }
        Ok(())
    }

    async fn free(
        self: Rc<Self>,
        _: worker::FreeParams,
        mut results: worker::FreeResults,
    ) -> capnp::Result<()> {
        results.get().set_blocks(3);
        results.get().set_bytes(4096);
        Ok(())
    }

    async fn progress(
        self: Rc<Self>,
        params: worker::ProgressParams,
        mut results: worker::ProgressResults,
    ) -> capnp::Result<()> {
        let mut progress = results.get().init_progress();
        progress.set_job(params.get()?.get_job());
        progress.set_state(worker_capnp::progress::State::Cancelled);
        progress.set_first_failure("it rained");
        Ok(())
    }

    async fn stat(
        self: Rc<Self>,
        params: worker::StatParams,
        _: worker::StatResults,
    ) -> capnp::Result<()> {
        let path = params.get()?.get_path()?.to_string()?;
        Err(capnp::Error::failed(format!(
            "no mount covers {path}; see corelane mounts"
        )))
    }

    async fn read(
        self: Rc<Self>,
        params: worker::ReadParams,
        mut results: worker::ReadResults,
    ) -> capnp::Result<()> {
        let length = params.get()?.get_length() as usize;
        results.get().init_data(length as u32).fill(7);
        results.get().set_version("v7");
        Ok(())
    }

    async fn verify(
        self: Rc<Self>,
        _: worker::VerifyParams,
        _: worker::VerifyResults,
    ) -> capnp::Result<()> {
        // Never answers.
        std::future::pending().await
    }
}

/// A server on a thread of its own, which ends with this value.
struct Server {
    address: SocketAddr,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Server {
    fn start() -> Server {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("as tokio wants it");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Server {
            address,
            _stop: stop,
        }
    }

    async fn control(&self) -> Control {
        Control::connect(&self.address.to_string(), TOKEN, PATIENCE)
            .await
            .expect("the server listens")
    }
}

async fn serve(listener: std::net::TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
    let gate: gate::Client = capnp_rpc::new_client(Gate);
    while let Ok((stream, _)) = listener.accept().await {
        let (reader, writer) = stream.compat().split();
        let network = twoparty::VatNetwork::new(
            futures::io::BufReader::new(reader),
            futures::io::BufWriter::new(writer),
            Side::Server,
            capnp::message::ReaderOptions::new(),
        );
        tokio::task::spawn_local(RpcSystem::new(Box::new(network), Some(gate.clone().client)));
    }
}

#[tokio::test]
async fn calls_carry_plain_values_both_ways() {
    let server = Server::start();
    let control = server.control().await;
    let mount = Mount {
        path: String::from("/data"),
        uri: String::from("s3://bucket"),
        block_bytes: 1 << 20,
        freshness: String::from("max-age=5"),
        admission: String::from("always"),
        key_indexes: vec![String::from("o_orderkey")],
        readers: vec![String::from("trainers")],
        options: vec![(String::from("region"), String::from("eu"))],
    };
    control.mount(mount.clone()).await.expect("mounted");
    assert_eq!(control.mounts().await.expect("listed"), [mount]);

    let options = ListOptions {
        recursive: true,
        cached_only: true,
        limit: 2,
        after: String::from("x"),
    };
    let (entries, more) = control.list("/data/", options).await.expect("listed");
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect::<Vec<_>>(),
        ["/data/x0", "/data/x1"]
    );
    assert!(more);

    assert_eq!(
        control.free("/data", true).await.expect("freed"),
        Freed {
            blocks: 3,
            bytes: 4096
        }
    );
    let progress = control.progress(9).await.expect("known");
    let expected = Progress {
        job: 9,
        state: JobState::Cancelled,
        first_failure: String::from("it rained"),
        ..Progress::default()
    };
    assert_eq!(progress, expected);
    assert_eq!(
        control.read("/data/a", 0, 3).await.expect("read"),
        (vec![7; 3], String::from("v7"))
    );
}

#[tokio::test]
async fn handles_are_used_from_many_tasks_at_once() {
    let server = Server::start();
    let control = server.control().await;
    let tasks: Vec<_> = (0..500)
        .map(|job| {
            let control = control.clone();
            tokio::spawn(async move { control.progress(job).await.expect("known").job })
        })
        .collect();
    for (job, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.expect("no panic"), job as u64);
    }
}

#[tokio::test]
async fn the_workers_sentence_arrives_as_it_was_written() {
    let server = Server::start();
    let error = server
        .control()
        .await
        .stat("/x")
        .await
        .expect_err("no mount");
    assert_eq!(
        error.to_string(),
        "stat: no mount covers /x; see corelane mounts"
    );
    let error = Control::connect(&server.address.to_string(), "wrong", PATIENCE)
        .await
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "enter: the token is unknown; ask the operator"
    );
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_at_its_deadline_and_others_go_on() {
    let server = Server::start();
    let control = server.control().await;
    let error = control.verify("/data").await.expect_err("never answered");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    control.free("/data", true).await.expect("freed");
}

#[tokio::test]
async fn a_worker_that_goes_away_ends_all_calls() {
    let server = Server::start();
    let control = server.control().await;
    let waiting = control.verify("/data");
    let stopping = async {
        // Let the call get on its way first; the outcome is the same if it does not.
        control.free("/data", true).await.expect("freed");
        drop(server);
    };
    let (outcome, ()) = tokio::join!(waiting, stopping);
    let error = outcome.expect_err("the worker is gone");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    let error = control.free("/data", true).await.expect_err("still gone");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
}

#[tokio::test]
async fn no_worker_is_an_error_that_names_the_address() {
    let error = Control::connect("127.0.0.1:1", TOKEN, PATIENCE)
        .await
        .expect_err("nobody listens");
    assert!(
        matches!(error, Error::Connect { .. }) && error.to_string().contains("127.0.0.1:1"),
        "{error}"
    );
}
