//! The bytes of every version of every object, as a pure function of where they are.
//!
//! Whoever holds a byte can say which version it must be of: no two versions, objects or places
//! have the same eight bytes, but for a chance of 2^-64.

const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn key_of(uri: &str, version: u32) -> u64 {
    let of_uri = uri
        .bytes()
        .fold(INCREMENT, |hash, byte| mix(hash ^ u64::from(byte)));
    mix(of_uri ^ u64::from(version) << 32)
}

/// Overwrites `out` with the bytes from `offset` of `version` of the object at `uri`.
pub fn fill(uri: &str, version: u32, offset: u64, out: &mut [u8]) {
    let key = key_of(uri, version);
    let mut word = offset / 8;
    let mut skipped = (offset % 8) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let bytes = mix(key.wrapping_add(word.wrapping_mul(INCREMENT))).to_le_bytes();
        let taken = (8 - skipped).min(rest.len());
        rest[..taken].copy_from_slice(&bytes[skipped..skipped + taken]);
        rest = &mut rest[taken..];
        (word, skipped) = (word + 1, 0);
    }
}

/// The bytes from `offset` of `version` of the object at `uri`.
pub fn bytes(uri: &str, version: u32, offset: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    fill(uri, version, offset, &mut out);
    out
}

/// The first place at which `found` is not what it should be, if any.
pub fn first_difference(uri: &str, version: u32, offset: u64, found: &[u8]) -> Option<u64> {
    let expected = bytes(uri, version, offset, found.len());
    let place = expected
        .iter()
        .zip(found)
        .position(|(left, right)| left != right)?;
    Some(offset + place as u64)
}

#[test]
fn bytes_depend_on_the_place_alone() {
    let whole = bytes("s3://a/b", 3, 0, 100);
    assert_eq!(whole[13..77], bytes("s3://a/b", 3, 13, 64));
    assert_ne!(whole, bytes("s3://a/b", 4, 0, 100));
    assert_ne!(whole, bytes("s3://a/c", 3, 0, 100));
    assert_eq!(first_difference("s3://a/b", 3, 5, &whole[5..]), None);
    assert_eq!(first_difference("s3://a/b", 4, 0, &whole), Some(0));
}
