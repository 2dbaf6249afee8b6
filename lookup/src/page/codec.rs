//! Decompression of pages, never into more than the page's header says.
//!
//! `parquet` lets some codecs write as much as their input makes them, so a page of some MiB could become
//! many GiB. Here every codec ends at the size that the header gives, which was checked before.

use std::io::Read;

use bytes::Bytes;
use parquet::basic::Compression;

use crate::error::{LookupError, Result};

/// Bytes of an LZ4 frame of Hadoop before its data: two big-endian sizes.
const HADOOP_HEAD_BYTES: usize = 8;

fn corrupt(codec: &str, why: impl std::fmt::Display) -> LookupError {
    LookupError::corrupt(format!("{codec}: {why}"))
}

/// `input` decompressed into exactly `size` bytes.
///
/// # Errors
/// Corrupt, if it does not give so many; unsupported, for LZO.
pub fn decompress(codec: Compression, input: &Bytes, size: usize) -> Result<Bytes> {
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
        Compression::BROTLI(_) => read("brotli", brotli::Decompressor::new(&input[..], 4096), size),
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

fn read(codec: &str, decoder: impl Read, size: usize) -> Result<Bytes> {
    let mut output = Vec::with_capacity(size);
    decoder
        .take(size as u64 + 1)
        .read_to_end(&mut output)
        .map_err(|error| corrupt(codec, error))?;
    let written = output.len();
    whole(codec, output, written, size)
}

fn whole(codec: &str, output: Vec<u8>, written: usize, size: usize) -> Result<Bytes> {
    if written == size && output.len() == size {
        Ok(output.into())
    } else {
        Err(corrupt(codec, "the page is not as long as its header says"))
    }
}
