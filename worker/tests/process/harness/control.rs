//! Messages of the control plane, byte by byte, for clients that no library would write.

/// A `bootstrap` with a question's number.
pub fn bootstrap_message(number: u32) -> [u8; 48] {
    let mut message = [0; 48];
    for (at, word) in [
        (4, 5u32),
        (12, 0x1_0001),
        (16, 8),
        (28, 0x1_0001),
        (32, number),
    ] {
        message[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    message
}
