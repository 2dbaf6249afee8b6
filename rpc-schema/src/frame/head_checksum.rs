//! The CRC-32C of a head. The `crc32c` crate is made for long buffers: on the 52 bytes of a READ it
//! spends some 140 instructions, mostly on alignment. Heads are whole words, so on x86-64 the
//! instruction is used directly for short ones; the result is the same.

use super::PREFIX_BYTES;

/// Bytes of the prefix that the checksum covers: those before it.
const PREFIX_BYTES_COVERED: usize = 12;

/// From here on the crate's three parallel streams win over a chain of dependent instructions.
#[cfg(target_arch = "x86_64")]
const HEADER_BYTES_SHORT: usize = 128;

/// The checksum of the prefix, without the checksum in it, and the header.
#[inline]
pub(super) fn head_checksum(prefix: &[u8; PREFIX_BYTES], header: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if header.len() <= HEADER_BYTES_SHORT && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU has SSE 4.2, which is all that the function asks for.
        return unsafe { head_checksum_sse42(prefix, header) };
    }
    head_checksum_any(prefix, header)
}

/// The same for a whole head, prefix included, whose length is known when this is compiled: the loop
/// over its words unrolls, which is what makes a READ and its usual answer cheap.
#[inline]
pub(super) fn head_checksum_fixed<const BYTES: usize>(head: &[u8; BYTES]) -> u32 {
    const { assert!(BYTES >= PREFIX_BYTES && BYTES.is_multiple_of(8)) };
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU has SSE 4.2, which is all that the function asks for.
        return unsafe { head_checksum_fixed_sse42(head) };
    }
    let (prefix, header) = head
        .split_first_chunk()
        .expect("a head starts with a prefix");
    head_checksum_any(prefix, header)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn head_checksum_fixed_sse42<const BYTES: usize>(head: &[u8; BYTES]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u32, _mm_crc32_u64};

    let words = head.as_chunks::<8>().0;
    let checksum = _mm_crc32_u64(u64::from(u32::MAX), u64::from_le_bytes(words[0]));
    let second = u64::from_le_bytes(words[1]) as u32;
    let mut checksum = u64::from(_mm_crc32_u32(checksum as u32, second));
    for word in &words[2..] {
        checksum = _mm_crc32_u64(checksum, u64::from_le_bytes(*word));
    }
    !(checksum as u32)
}

fn head_checksum_any(prefix: &[u8; PREFIX_BYTES], header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&prefix[..PREFIX_BYTES_COVERED]), header)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn head_checksum_sse42(prefix: &[u8; PREFIX_BYTES], header: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u32, _mm_crc32_u64};

    let [first, second] = [0, 8].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&prefix[at..at + 8]);
        u64::from_le_bytes(word)
    });
    let checksum = _mm_crc32_u64(u64::from(u32::MAX), first);
    let mut checksum = u64::from(_mm_crc32_u32(checksum as u32, second as u32));
    let (words, rest) = header.as_chunks();
    debug_assert!(rest.is_empty(), "headers are whole words");
    for word in words {
        checksum = _mm_crc32_u64(checksum, u64::from_le_bytes(*word));
    }
    !(checksum as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unrolled_way_gives_what_the_crate_gives() {
        let bytes: Vec<u8> = (0..256u32)
            .map(|index| ((index * index) >> 2) as u8)
            .collect();
        for start in 0..8 {
            let head: &[u8; 56] = bytes[start..].first_chunk().expect("long enough");
            let (prefix, header) = head.split_first_chunk().expect("longer than a prefix");
            assert_eq!(head_checksum_fixed(head), head_checksum_any(prefix, header));
        }
    }

    #[test]
    fn the_short_way_gives_what_the_crate_gives() {
        let bytes: Vec<u8> = (0..1024u32)
            .map(|index| ((index * index) >> 3) as u8)
            .collect();
        let prefix = bytes.first_chunk().expect("long enough");
        for words in 0..100 {
            // Odd offsets too: receive buffers align nothing.
            for start in 16..24 {
                let header = &bytes[start..start + words * 8];
                assert_eq!(
                    head_checksum(prefix, header),
                    head_checksum_any(prefix, header)
                );
            }
        }
    }
}
