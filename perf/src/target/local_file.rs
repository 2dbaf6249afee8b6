//! Direct reads of local files through a ring: what the drive gives without any server.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use corelane_rpc_schema::ObjectId;
use io_uring::{opcode, types};

use super::pages::ByPage;
use super::{Answer, Catalogue, Checks, Named, Object, Target};
use crate::ceiling::{PAGE, open_direct};
use crate::load::LoadResult;
use crate::load::crew::Member;
use crate::load::operations::{Operations, Transport};
use crate::memory::Memory;
use crate::ring::Ring;
use crate::workload::Piece;

/// Largest registered buffer that the kernel takes.
const BUFFER_BYTES_MAX: usize = 1 << 30;

/// How often the loop looks at the clock when nothing ends.
const WAKE_EVERY: Duration = Duration::from_millis(10);

/// Place of the device in [`LoadResult::by_source`].
const FROM_DEVICE: u8 = 1;

/// Files of a directory.
#[derive(Clone, Debug)]
pub struct LocalFile {
    directory: PathBuf,
}

impl LocalFile {
    /// Of `directory`.
    pub fn new(directory: PathBuf) -> LocalFile {
        LocalFile { directory }
    }
}

impl Target for LocalFile {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn resolve(&self, names: &[Named]) -> io::Result<Catalogue> {
        let objects = names
            .iter()
            .map(|named| {
                let path = self.directory.join(&named.name);
                let metadata = std::fs::metadata(&path).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
                let name = path.to_string_lossy().into_owned();
                Ok(Object {
                    id: ObjectId::new(&name, "", 0, 0),
                    name,
                    length: metadata.len(),
                })
            })
            .collect::<io::Result<Vec<Object>>>()?;
        // No connection is made; the address stands for the one owner of everything.
        Ok(Catalogue::of_one(objects, ([127, 0, 0, 1], 0).into()))
    }

    fn drive(&self, member: Member<'_>) -> io::Result<LoadResult> {
        let lane_endpoints = member.lane_endpoints()?;
        let slots = lane_endpoints.len() * member.spec.depth as usize;
        let mut reader = Reader::new(&member, slots)?;
        let spin = member.spec.spin;
        let Some(stretch) = member.wait_for_start() else {
            return Ok(LoadResult::new());
        };
        let mut checks = Checks::new(member.spec.verify);
        let mut check = ByPage::default();
        let mut operations = Operations::new(member, lane_endpoints, stretch);
        std::thread::sleep(stretch.start.saturating_duration_since(Instant::now()));
        operations.begin(&mut reader);
        let mut completions = Vec::new();
        loop {
            reader.submit()?;
            let wake = Instant::now() + WAKE_EVERY;
            let due = operations.due().map_or(wake, |due| due.min(wake));
            reader.ring.turn_until(due, spin)?;
            reader.ring.take(&mut completions);
            let now = Instant::now();
            for completion in &completions {
                let index = completion.user_data as usize;
                let answer = reader.answer(index, completion.result, &mut checks, &mut check);
                let lane = (index / reader.depth) as u32;
                assert!(
                    operations.answered(&mut reader, lane, &answer, now),
                    "the ring completes what was submitted"
                );
            }
            if !operations.turn(&mut reader, now) {
                break;
            }
        }
        drop(reader);
        let mut result = operations.finish();
        result.first_error = checks.first_error;
        Ok(result)
    }
}

/// The reads under way.
struct Reader {
    // The ring is dropped before the memory that its reads write to.
    ring: Ring,
    buffers: Memory,
    buffer_bytes: usize,
    depth: usize,
    /// What each slot asked for.
    pieces: Vec<Piece>,
    queued: Vec<u32>,
    in_flight: usize,
}

impl Reader {
    fn new(member: &Member<'_>, slots: usize) -> io::Result<Reader> {
        let longest = member.spec.workload.read_bytes_max() as usize;
        // A read of an end that is no whole page takes the rest of the page with it.
        let buffer_bytes = longest.next_multiple_of(PAGE);
        if slots * buffer_bytes > BUFFER_BYTES_MAX {
            let text = format!(
                "{slots} reads of {longest} bytes take over 1 GiB of buffers; lower the depth"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let files = member
            .catalogue
            .objects
            .iter()
            .map(|object| {
                // With O_NONBLOCK, tmpfs reads in the loop instead of handing over to kernel threads.
                open_direct(object.name.as_ref(), true).map_err(|error| {
                    let text = format!("{} for direct I/O: {error}", object.name);
                    io::Error::new(error.kind(), text)
                })
            })
            .collect::<io::Result<Vec<File>>>()?;
        let ring = Ring::new((slots as u32).next_power_of_two().clamp(8, 4096))?;
        ring.reserve_files(files.len() as u32)?;
        for (index, file) in files.iter().enumerate() {
            ring.set_file(index as u32, file.as_raw_fd())?;
        }
        let buffers = Memory::map(slots * buffer_bytes)?;
        let registered = [libc::iovec {
            iov_base: buffers.address().cast(),
            iov_len: buffers.bytes().len(),
        }];
        // SAFETY: the ring is dropped before the buffers, after all reads were waited for.
        unsafe { ring.submitter().register_buffers(&registered)? };
        let nothing = Piece {
            object: 0,
            length: 0,
            offset: 0,
        };
        Ok(Reader {
            ring,
            buffers,
            buffer_bytes,
            depth: member.spec.depth as usize,
            pieces: vec![nothing; slots],
            queued: Vec::with_capacity(slots),
            in_flight: 0,
        })
    }

    fn submit(&mut self) -> io::Result<()> {
        while let Some(index) = self.queued.pop() {
            let piece = self.pieces[index as usize];
            let length = (piece.length as usize).next_multiple_of(PAGE) as u32;
            // SAFETY: the index is below the number of slots, so the pointer is inside the mapping.
            let pointer = unsafe {
                self.buffers
                    .address()
                    .add(index as usize * self.buffer_bytes)
            };
            let entry = opcode::ReadFixed::new(types::Fixed(piece.object), pointer, length, 0)
                .offset(piece.offset)
                .build()
                .user_data(u64::from(index));
            // SAFETY: the buffers outlive the ring's operations; the ring holds the files itself.
            unsafe { self.ring.push(&entry)? };
            self.in_flight += 1;
        }
        Ok(())
    }

    fn answer(
        &mut self,
        index: usize,
        result: i32,
        checks: &mut Checks,
        check: &mut ByPage,
    ) -> Answer {
        self.in_flight -= 1;
        let piece = self.pieces[index];
        let mut answer = Answer {
            slot: (index % self.depth) as u32,
            payload_bytes: piece.length,
            source: Some(FROM_DEVICE),
            ..Answer::default()
        };
        if result < piece.length as i32 {
            answer.is_error = true;
            checks.first_error.get_or_insert_with(|| {
                let reason = match result {
                    ..0 => io::Error::from_raw_os_error(-result).to_string(),
                    _ => format!("{result} bytes of {}", piece.length),
                };
                format!(
                    "a read at {} of file {}: {reason}",
                    piece.offset, piece.object
                )
            });
        } else if checks.checks_next() {
            let start = index * self.buffer_bytes;
            check.begin();
            check.take(&self.buffers.bytes()[start..start + piece.length as usize]);
            answer.is_checked = true;
            answer.is_wrong = check.is_wrong();
        }
        answer
    }

    /// Waits for what is under way, since it writes to our buffers.
    fn drain(&mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        while self.in_flight > 0 {
            self.ring.enter(1)?;
            self.ring.take(&mut completions);
            self.in_flight -= completions.len();
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A ring that fails here has no reads left that it could end.
        let _ = self.drain();
    }
}

impl Transport for Reader {
    fn issue(&mut self, lane: u32, slot: u32, piece: &Piece) {
        let index = lane * self.depth as u32 + slot;
        self.pieces[index as usize] = *piece;
        self.queued.push(index);
    }
}
