//! An S3 server in the process that verifies signatures, on a directory of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use corelane_worker::mount::{Freshness, Mount};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::harness::mount;

/// The server; it ends when dropped.
pub struct S3Server {
    pub address: SocketAddr,
    pub folder: TempDir,
    _runtime: Runtime,
}

impl S3Server {
    /// A server with the bucket `bucket`.
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::create_dir(folder.path().join("bucket")).expect("a bucket");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("a file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                // A client that goes away early is not the server's concern.
                tokio::spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        S3Server {
            address,
            folder,
            _runtime: runtime,
        }
    }

    /// A mount of `uri` with these options beside the usual ones.
    pub fn mount(&self, uri: &str, secret: &str) -> Arc<Mount> {
        let endpoint = format!("http://{}", self.address);
        mount(
            uri,
            Freshness::AlwaysCheck,
            &[
                ("endpoint", &endpoint),
                ("allow_http", "true"),
                ("region", "nowhere"),
                ("access_key_id", "key"),
                ("secret_access_key", secret),
            ],
        )
    }
}
