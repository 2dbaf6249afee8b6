//! `CopyObject` and `UploadPartCopy`: what a copy became.

use super::write::Writer;

/// Appends the answer to `CopyObject`. `etag` with its quotes, the time in milliseconds since 1970.
pub fn write_object(out: &mut Vec<u8>, etag: &str, last_modified_ms: u64) {
    write(out, "CopyObjectResult", etag, last_modified_ms);
}

/// Appends the answer to `UploadPartCopy`, in the same terms.
pub fn write_part(out: &mut Vec<u8>, etag: &str, last_modified_ms: u64) {
    write(out, "CopyPartResult", etag, last_modified_ms);
}

fn write(out: &mut Vec<u8>, root: &str, etag: &str, last_modified_ms: u64) {
    let mut writer = Writer::document(out, root);
    writer.time("LastModified", last_modified_ms);
    writer.etag(etag);
    writer.close(root);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_its_etag_in_quotes_whether_or_not_they_came() {
        for etag in ["\"e\"", "e"] {
            let mut out = Vec::new();
            write_part(&mut out, etag, 0);
            assert!(out.ends_with(
                b"<LastModified>1970-01-01T00:00:00.000Z</LastModified>\
                  <ETag>&quot;e&quot;</ETag></CopyPartResult>"
            ));
        }
    }
}
