//! Pages: their headers, what they hold decoded, and how single values are taken out of them.
//!
//! A decoded page stays as near to its bytes as single values allow: dictionary codes stay packed, plain
//! values stay where decompression put them, or lose the bytes that all of them share. So decoding costs little more than decompression, and
//! what is kept takes little more memory than the page.

pub mod codec;
pub mod decode;
pub mod delta;
pub mod header;
pub mod hybrid;
pub mod presence;
pub mod trimmed;
pub mod values;
