//! Prebuilt replies, one behind the other, so that any number of them up to a limit is one slice.

use corelane_rpc_schema::frame::ReadSource;

use crate::ceiling::conversation::{Conversation, Greeting};
use crate::ceiling::{PAGE, page, prebuilt_head};

/// Replies in one send. Twice the deepest pipeline that is measured.
const REPLIES_MAX: usize = 64;

/// Bytes of the object that the servers pretend to have: enough for reads of every size to be drawn.
const OBJECT_BYTES: u64 = 64 << 20;

/// What every connection of an echo server answers with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replies {
    block: &'static [u8],
    each: usize,
}

impl Replies {
    /// Replies with `reply_bytes` of payload. Their memory lives as long as the process.
    pub fn new(reply_bytes: u32) -> Result<Replies, String> {
        if reply_bytes == 0 || reply_bytes as usize > PAGE {
            return Err(format!(
                "replies of an echo have 1 to {PAGE} bytes, not {reply_bytes}"
            ));
        }
        let mut reply = prebuilt_head(reply_bytes, ReadSource::Dram);
        reply.extend_from_slice(&page()[..reply_bytes as usize]);
        reply.resize(reply.len().next_multiple_of(8), 0);
        let each = reply.len();
        let block = Box::leak(reply.repeat(REPLIES_MAX).into_boxed_slice());
        Ok(Replies { block, each })
    }

    /// A connection's conversation.
    pub fn conversation(&self, port: u16) -> Conversation {
        Conversation::new(Greeting {
            port,
            object_bytes: OBJECT_BYTES,
        })
    }

    /// The next replies of `owed`, which gets less by their number.
    pub fn take(&self, owed: &mut u64) -> &'static [u8] {
        let count = (*owed).min(REPLIES_MAX as u64);
        *owed -= count;
        &self.block[..count as usize * self.each]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::frame::{Decoded, Frame, decode};

    #[test]
    fn any_number_of_replies_is_that_many_frames() {
        for reply_bytes in [64, 100, 4096] {
            let replies = Replies::new(reply_bytes).expect("a size that is answered");
            let mut owed = REPLIES_MAX as u64 + 3;
            let mut frames = 0;
            while owed > 0 {
                let mut bytes = replies.take(&mut owed);
                while !bytes.is_empty() {
                    let Ok(Decoded::Frame {
                        frame: Frame::ReadAnswer(answer, payload),
                        consumed,
                    }) = decode(bytes)
                    else {
                        panic!("not a READ answer");
                    };
                    assert_eq!(payload.len(), reply_bytes as usize);
                    assert_eq!(answer.checksums.verify(payload), Ok(()));
                    bytes = &bytes[consumed..];
                    frames += 1;
                }
            }
            assert_eq!(frames, REPLIES_MAX + 3);
        }
        assert!(Replies::new(0).is_err() && Replies::new(8192).is_err());
    }
}
