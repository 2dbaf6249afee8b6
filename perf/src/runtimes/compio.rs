//! The loops on compio 0.19, used natively.
//!
//! The ring is set up with SINGLE_ISSUER and DEFER_TASKRUN; connections receive by multishot into
//! the runtime's buffer ring, sized as ours is; sends take a slice that lives for ever, reads a
//! page-aligned buffer each that goes in and comes back. compio can register files, but none of its
//! file and socket operations takes a registered one, and it has no registered buffers.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Instant;

use ::compio::BufResult;
use ::compio::driver::ProactorBuilder;
use ::compio::fs::{File, OpenOptions};
use ::compio::io::{AsyncReadAt, AsyncReadMulti, AsyncWriteExt};
use ::compio::net::{TcpListener, TcpStream};
use ::compio::runtime::{Runtime, RuntimeBuilder};
use futures::StreamExt;

use super::meter::Offsets;
use super::{
    EchoOptions, Meter, RECEIVE_BUFFERS, RECEIVE_BYTES, ReadFigures, ReadOptions, Replies,
};
use crate::ceiling::PAGE;
use crate::memory::Memory;

/// Submissions that fit the ring, as on ours.
const RING_ENTRIES: u32 = 1024;

fn runtime(core: usize) -> Result<Runtime, String> {
    let mut proactor = ProactorBuilder::new();
    proactor
        .capacity(RING_ENTRIES)
        .single_issuer(true)
        .defer_taskrun(true)
        .buffer_pool_size(NonZero::new(RECEIVE_BUFFERS).expect("there are some"))
        .buffer_pool_buffer_len(RECEIVE_BYTES);
    RuntimeBuilder::new()
        .with_proactor(proactor)
        .thread_affinity(HashSet::from([core]))
        .build()
        .map_err(|error| error.to_string())
}

/// Serves until the process ends.
pub(super) fn serve_echo(
    options: &EchoOptions,
    replies: Replies,
    announce: impl FnOnce(SocketAddr) -> Result<(), String>,
) -> Result<(), String> {
    runtime(options.core)?.block_on(async move {
        let fail = |error: std::io::Error| error.to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        announce(address)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(fail)?;
            stream.set_nodelay(true).map_err(fail)?;
            ::compio::runtime::spawn(async move {
                // A connection that breaks ends by itself.
                let _ = echo(stream, replies, address.port()).await;
            })
            .detach();
        }
    })
}

async fn echo(stream: TcpStream, replies: Replies, port: u16) -> std::io::Result<()> {
    let mut conversation = replies.conversation(port);
    let mut answers = Vec::new();
    let (mut reader, mut writer) = stream.into_split();
    let mut arriving = std::pin::pin!(reader.read_multi(0));
    while let Some(received) = arriving.next().await {
        let received = received?;
        if received.is_empty() {
            return Ok(());
        }
        let mut owed = conversation.receive(&received, &mut answers)?;
        // The buffer goes back to the ring before anything is waited for.
        drop(received);
        if !answers.is_empty() {
            let BufResult(sent, mut back) = writer.write_all(std::mem::take(&mut answers)).await;
            sent?;
            back.clear();
            answers = back;
        }
        while owed > 0 {
            writer.write_all(replies.take(&mut owed)).await.0?;
        }
    }
    Ok(())
}

/// Reads until the meter says that it is over.
pub(super) fn read_device(options: &ReadOptions, meter: Meter) -> Result<ReadFigures, String> {
    runtime(options.core)?.block_on(async move {
        let fail = |error: std::io::Error| error.to_string();
        let nonblocking = if options.nonblocking {
            libc::O_NONBLOCK
        } else {
            0
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT | libc::O_NOATIME | nonblocking)
            .open(&options.path)
            .await
            .map_err(fail)?;
        let memory = Memory::map(options.depth as usize * PAGE).map_err(fail)?;
        let buffers = Box::leak(Box::new(memory)).bytes_mut();
        let tasks: Vec<_> = (0..options.depth)
            .zip(buffers.chunks_exact_mut(PAGE))
            .map(|(number, buffer)| {
                let (file, meter) = (file.clone(), meter.clone());
                let offsets = Offsets::new(options, number);
                ::compio::runtime::spawn(async move {
                    if let Err(error) = read_on(&file, buffer, offsets, &meter).await {
                        meter.fail(error);
                    }
                })
            })
            .collect();
        for task in tasks {
            if task.await.is_err() {
                meter.fail("a task of compio panicked");
            }
        }
        meter.figures()
    })
}

async fn read_on(
    file: &File,
    mut buffer: &'static mut [u8],
    mut offsets: Offsets,
    meter: &Meter,
) -> std::io::Result<()> {
    let mut started = Instant::now();
    loop {
        let BufResult(read, back) = file.read_at(buffer, offsets.draw()).await;
        assert_eq!(read?, PAGE, "the file is as long as was said");
        buffer = back;
        match meter.read(started) {
            Some(now) => started = now,
            None => return Ok(()),
        }
    }
}
