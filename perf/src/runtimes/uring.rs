//! The loops on our own ring: the `uring` backend of corelane-io and its executor.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_io::uring::{self, UringIo, UringStream};
use corelane_io::{
    Device, FrameLease, Io, IoError, Listener, Payload, Priority, SendBatch, Stream,
};

use super::meter::Offsets;
use super::{
    EchoOptions, Meter, RECEIVE_BUFFERS, RECEIVE_BYTES, ReadFigures, ReadOptions, Replies,
};

fn core(number: usize, spin: Duration) -> uring::Options {
    uring::Options {
        core: Some(number),
        spin,
        receive_buffers: RECEIVE_BUFFERS,
        receive_buffer_bytes: RECEIVE_BYTES as u32,
        ..uring::Options::default()
    }
}

/// Serves until the process ends.
pub(super) fn serve_echo(
    options: &EchoOptions,
    replies: Replies,
    announce: impl FnOnce(SocketAddr) -> Result<(), String> + 'static,
) -> Result<(), String> {
    let served = uring::run(&core(options.core, options.spin), move |io| async move {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = io
            .listen(loopback)
            .await
            .map_err(|error| error.to_string())?;
        let address = listener.local_address();
        announce(address)?;
        loop {
            let stream = listener.accept().await.map_err(|error| error.to_string())?;
            io.spawn(Priority::Foreground, async move {
                // A connection that breaks ends by itself.
                let _ = echo(stream, replies, address.port()).await;
            });
        }
    });
    served.map_err(|error| error.to_string())?
}

async fn echo(stream: UringStream, replies: Replies, port: u16) -> Result<(), IoError> {
    let mut conversation = replies.conversation(port);
    let mut answers = Vec::new();
    let mut batch = Box::new(SendBatch::default());
    loop {
        let received = stream.receive().await?;
        if received.is_empty() {
            return Ok(());
        }
        let Ok(mut owed) = conversation.receive(&received, &mut answers) else {
            return Ok(());
        };
        drop(received);
        if !answers.is_empty() {
            batch.push_head(&answers);
            answers.clear();
        }
        while owed > 0 {
            batch.push_payload(Payload::Static(replies.take(&mut owed)));
        }
        if batch.is_empty() {
            continue;
        }
        let (sent, back) = stream.send(batch).await;
        sent?;
        batch = back;
        batch.clear();
    }
}

/// Reads until the meter says that it is over.
pub(super) fn read_device(options: &ReadOptions, meter: Meter) -> Result<ReadFigures, String> {
    let core = core(options.core, Duration::ZERO);
    let options = options.clone();
    let read = uring::run(&core, move |io| async move {
        if let Err(error) = read_all(&io, &options, &meter).await {
            meter.fail(error);
        }
        meter.figures()
    });
    read.map_err(|error| error.to_string())?
}

async fn read_all(io: &UringIo, options: &ReadOptions, meter: &Meter) -> Result<(), IoError> {
    let device = io.open_device(&options.path).await?;
    let pool = io.allocate_pool(options.depth as usize, 1)?;
    let running = Rc::new(Cell::new(options.depth));
    for number in 0..options.depth {
        let frame = pool.take().expect("a frame for each read in flight");
        let lease = frame.lease(0..1).expect("a new frame is vacant");
        let task = read_on(
            device.clone(),
            lease,
            Offsets::new(options, number),
            meter.clone(),
        );
        let running = Rc::clone(&running);
        io.spawn(Priority::Foreground, async move {
            task.await;
            running.set(running.get() - 1);
        });
    }
    while running.get() > 0 {
        io.sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn read_on(device: impl Device, mut lease: FrameLease, mut offsets: Offsets, meter: Meter) {
    let mut started = Instant::now();
    loop {
        lease = match device.read(offsets.draw(), lease).await {
            Ok(lease) => lease,
            Err(error) => return meter.fail(error),
        };
        match meter.read(started) {
            Some(now) => started = now,
            None => return,
        }
    }
}
