//! What the readers of XML promise for any input at all: no panic, and what they accept is within
//! the limits of S3.

use corelane_s3::xml::{complete, create_bucket, delete};

/// Reads `input` as each document.
///
/// # Panics
/// If a promise does not hold.
pub fn hold(input: &[u8]) {
    if let Ok(delete) = delete::read(input) {
        assert!((1..=delete::KEYS_MAX).contains(&delete.objects.len()));
        assert!(delete.objects.iter().all(|object| !object.key.is_empty()));
    }
    if let Ok(parts) = complete::read(input) {
        assert!(!parts.is_empty() && parts.len() <= complete::PARTS_MAX as usize);
        assert!(parts.is_sorted_by(|a, b| a.number < b.number));
        assert!(parts.iter().all(|part| !part.etag.is_empty()));
    }
    if let Ok(Some(region)) = create_bucket::read(input) {
        assert!(!region.is_empty() && region.len() <= create_bucket::DOCUMENT_BYTES_MAX);
    }
}
