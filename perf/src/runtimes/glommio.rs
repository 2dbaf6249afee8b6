//! The loops on glommio 0.9, used natively.
//!
//! TCP_NODELAY, one reused buffer a connection, no stream wrapper that would copy once more; reads
//! by `DmaFile::read_at_aligned` into glommio's registered memory, which is made large enough for
//! all of them. glommio has no registered files and no multishot receive to be used.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::glommio::io::{DmaFile, OpenOptions};
use ::glommio::net::{TcpListener, TcpStream};
use ::glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement};
use futures::io::{AsyncReadExt, AsyncWriteExt};

use super::meter::Offsets;
use super::{EchoOptions, Meter, RECEIVE_BYTES, ReadFigures, ReadOptions, Replies};
use crate::ceiling::PAGE;

/// Submissions that fit a ring: twice the reads in flight.
const RING_DEPTH: usize = 256;

fn executor(core: usize, spin: Duration) -> Result<LocalExecutor, String> {
    LocalExecutorBuilder::new(Placement::Fixed(core))
        .spin_before_park(spin)
        .ring_depth(RING_DEPTH)
        .make()
        .map_err(|error: GlommioError<()>| error.to_string())
}

/// Serves until the process ends.
pub(super) fn serve_echo(
    options: &EchoOptions,
    replies: Replies,
    announce: impl FnOnce(SocketAddr) -> Result<(), String>,
) -> Result<(), String> {
    executor(options.core, options.spin)?.run(async move {
        let fail = |error: GlommioError<()>| error.to_string();
        let listener = TcpListener::bind("127.0.0.1:0").map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        announce(address)?;
        loop {
            let stream = listener.accept().await.map_err(fail)?;
            stream.set_nodelay(true).map_err(fail)?;
            ::glommio::spawn_local(async move {
                // A connection that breaks ends by itself.
                let _ = echo(stream, replies, address.port()).await;
            })
            .detach();
        }
    })
}

async fn echo(mut stream: TcpStream, replies: Replies, port: u16) -> std::io::Result<()> {
    let mut conversation = replies.conversation(port);
    let mut answers = Vec::new();
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut owed = conversation.receive(&buffer[..length], &mut answers)?;
        if !answers.is_empty() {
            stream.write_all(&answers).await?;
            answers.clear();
        }
        while owed > 0 {
            stream.write_all(replies.take(&mut owed)).await?;
        }
    }
}

/// Reads until the meter says that it is over.
pub(super) fn read_device(options: &ReadOptions, meter: Meter) -> Result<ReadFigures, String> {
    executor(options.core, Duration::ZERO)?.run(async move {
        let nonblocking = if options.nonblocking {
            libc::O_NONBLOCK
        } else {
            0
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT | libc::O_NOATIME | nonblocking)
            .dma_open(&options.path)
            .await
            .map_err(|error| error.to_string())?;
        let file = std::rc::Rc::new(file);
        let tasks: Vec<_> = (0..options.depth)
            .map(|number| {
                let (file, meter) = (file.clone(), meter.clone());
                let offsets = Offsets::new(options, number);
                ::glommio::spawn_local(async move {
                    if let Err(error) = read_on(&file, offsets, &meter).await {
                        meter.fail(error);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        meter.figures()
    })
}

async fn read_on(
    file: &DmaFile,
    mut offsets: Offsets,
    meter: &Meter,
) -> Result<(), GlommioError<()>> {
    let mut started = Instant::now();
    loop {
        let page = file.read_at_aligned(offsets.draw(), PAGE).await?;
        assert_eq!(page.len(), PAGE, "the file is as long as was said");
        match meter.read(started) {
            Some(now) => started = now,
            None => return Ok(()),
        }
    }
}
