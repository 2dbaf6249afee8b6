//! Decompression of pages, never into more than the page's header says.
//!
//! `parquet` lets some codecs write as much as their input makes them, so a page of some MiB could become
//! many GiB. Here every codec ends at the size that the header gives, which was checked before and is charged
//! before a byte of it is allocated; what a codec allocates beside its output is charged as well.

use std::io::Read;

use bytes::Bytes;
use parquet::basic::Compression;

use crate::error::{LookupError, Result};
use crate::memory::Charge;

/// Bytes that Brotli's decoder may take beside its output: the largest window that RFC 7932 knows, which a stream of
/// any length may name, with the copy of its end behind it, and tables of codes.
const BROTLI_SCRATCH_BYTES: u64 = 20 << 20;

/// The first seven bits of a Brotli stream with a window of up to 1 GiB. RFC 7932 forbids it, the decoder takes it.
const BROTLI_LARGE_WINDOW: u8 = 0x11;

/// Bytes that decoders of gzip, zstd and LZ4 frames take beside their output, at most: two blocks of LZ4 frames with
/// the window before them, 8 MiB each.
const FRAME_SCRATCH_BYTES: u64 = 18 << 20;
const STREAM_SCRATCH_BYTES: u64 = 256 << 10;

/// Bytes of an LZ4 frame of Hadoop before its data: two big-endian sizes.
const HADOOP_HEAD_BYTES: usize = 8;

fn corrupt(codec: &str, why: impl std::fmt::Display) -> LookupError {
    LookupError::corrupt(format!("{codec}: {why}"))
}

/// `input` decompressed into exactly `size` bytes, which are charged to `memory`. Bytes that are not compressed are
/// those of `input`, and cost nothing.
///
/// # Errors
/// Corrupt, if it does not give so many; unsupported, for LZO; what charging gives.
pub fn decompress(
    codec: Compression,
    input: &Bytes,
    size: usize,
    memory: &mut Charge,
) -> Result<Bytes> {
    if matches!(codec, Compression::UNCOMPRESSED) {
        return if input.len() == size {
            Ok(input.clone())
        } else {
            Err(corrupt("uncompressed", "sizes differ"))
        };
    }
    // No data: pages of NULLs only.
    if size == 0 {
        return Ok(Bytes::new());
    }
    memory.add(size as u64)?;
    // Given back when the decoder is gone.
    let _scratch = memory.account().charge(scratch_bytes(codec, size))?;
    match codec {
        Compression::UNCOMPRESSED => unreachable!("it was handled above"),
        Compression::SNAPPY => {
            let claimed =
                snap::raw::decompress_len(input).map_err(|error| corrupt("snappy", error))?;
            if claimed != size {
                return Err(corrupt("snappy", "sizes differ"));
            }
            let mut output = vec![0; size];
            let written = snap::raw::Decoder::new()
                .decompress(input, &mut output)
                .map_err(|error| corrupt("snappy", error))?;
            whole("snappy", output, written, size)
        }
        Compression::GZIP(_) => read("gzip", flate2::read::MultiGzDecoder::new(&input[..]), size),
        Compression::BROTLI(_) => {
            if input
                .first()
                .is_some_and(|first| first & 0x7f == BROTLI_LARGE_WINDOW)
            {
                return Err(corrupt(
                    "brotli",
                    "its window is larger than the format allows",
                ));
            }
            read("brotli", brotli::Decompressor::new(&input[..], 4096), size)
        }
        Compression::ZSTD(_) => {
            let mut output = Vec::with_capacity(size);
            zstd::bulk::Decompressor::new()
                .and_then(|mut decoder| decoder.decompress_to_buffer(&input[..], &mut output))
                .map_err(|error| corrupt("zstd", error))?;
            let written = output.len();
            whole("zstd", output, written, size)
        }
        Compression::LZ4_RAW => {
            let mut output = vec![0; size];
            let written = lz4_flex::block::decompress_into(input, &mut output)
                .map_err(|error| corrupt("lz4_raw", error))?;
            whole("lz4_raw", output, written, size)
        }
        Compression::LZ4 => lz4(input, size),
        Compression::LZO => Err(LookupError::unsupported(
            "the codec LZO is not supported: write the file with zstd or snappy",
        )),
    }
}

/// LZ4 as files have it that say so: in frames of Hadoop, in LZ4's own frames, or as a bare block.
fn lz4(input: &Bytes, size: usize) -> Result<Bytes> {
    let mut output = vec![0; size];
    if hadoop_lz4(input, &mut output).is_some() {
        return Ok(output.into());
    }
    let frames = lz4_flex::frame::FrameDecoder::new(&input[..]);
    if let Ok(output) = read("lz4", frames, size) {
        return Ok(output);
    }
    let written = lz4_flex::block::decompress_into(input, &mut output)
        .map_err(|error| corrupt("lz4", error))?;
    whole("lz4", output, written, size)
}

/// Fills `output` from frames of Hadoop; `None` if they are none, or not of its size.
fn hadoop_lz4(mut input: &[u8], mut output: &mut [u8]) -> Option<()> {
    while !input.is_empty() {
        let (head, rest) = input.split_first_chunk::<HADOOP_HEAD_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        let plain = u32::from_be_bytes([a, b, c, d]) as usize;
        let packed = u32::from_be_bytes([e, f, g, h]) as usize;
        let (frame, rest) = rest.split_at_checked(packed)?;
        let (into, after) = output.split_at_mut_checked(plain)?;
        let written = lz4_flex::block::decompress_into(frame, into).ok()?;
        if written != plain {
            return None;
        }
        (input, output) = (rest, after);
    }
    output.is_empty().then_some(())
}

/// Bytes that a codec's decoder allocates beside `size` bytes of output, at most.
fn scratch_bytes(codec: Compression, size: usize) -> u64 {
    match codec {
        Compression::BROTLI(_) => BROTLI_SCRATCH_BYTES,
        // Tried as frames beside the output for blocks.
        Compression::LZ4 => FRAME_SCRATCH_BYTES + size as u64,
        Compression::GZIP(_) | Compression::ZSTD(_) => STREAM_SCRATCH_BYTES,
        _ => 0,
    }
}

fn read(codec: &str, mut decoder: impl Read, size: usize) -> Result<Bytes> {
    let mut output = vec![0; size];
    decoder
        .read_exact(&mut output)
        .map_err(|error| corrupt(codec, error))?;
    // Not by reading to the end, which doubles the buffer for one byte more.
    let is_longer = decoder
        .read(&mut [0])
        .map_err(|error| corrupt(codec, error))?;
    whole(codec, output, size + is_longer, size)
}

fn whole(codec: &str, output: Vec<u8>, written: usize, size: usize) -> Result<Bytes> {
    if written == size && output.len() == size {
        Ok(output.into())
    } else {
        Err(corrupt(codec, "the page is not as long as its header says"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::memory::{Account, Pool};

    #[test]
    fn what_a_page_says_is_charged_before_it_is_there() {
        let account = Account::new(&Pool::new(u64::MAX), 64 << 20);
        let input = Bytes::from_static(&[0; 64]);
        for codec in [
            Compression::GZIP(Default::default()),
            Compression::BROTLI(Default::default()),
            Compression::ZSTD(Default::default()),
            Compression::LZ4,
            Compression::LZ4_RAW,
            Compression::SNAPPY,
        ] {
            let error = decompress(codec, &input, 200 << 20, &mut account.empty());
            assert_eq!(
                error.expect_err("too much").kind,
                ErrorKind::TooMuch,
                "{codec}"
            );
            assert_eq!(account.held_bytes(), 0, "{codec}");
        }
    }

    #[test]
    fn a_brotli_stream_with_a_window_beyond_the_format_is_refused() {
        let account = Account::default();
        // A window of 2^30 bytes: 0x11, six bits of its size, and a block of many bytes.
        let mut input = vec![0x11, 0x1e];
        input.extend([0xff; 64]);
        let brotli = Compression::BROTLI(Default::default());
        let error = decompress(brotli, &input.into(), 100, &mut account.empty());
        assert_eq!(error.expect_err("corrupt").kind, ErrorKind::Corrupt);
    }
}
