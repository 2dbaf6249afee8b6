//! `CreateMultipartUpload`: the id of an upload.

use super::write::Writer;

/// Appends the answer.
pub fn write_created(out: &mut Vec<u8>, bucket: &str, key: &str, upload_id: &str) {
    let mut writer = Writer::document(out, "InitiateMultipartUploadResult");
    writer.text("Bucket", bucket);
    writer.text("Key", key);
    writer.text("UploadId", upload_id);
    writer.close("InitiateMultipartUploadResult");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_named_by_bucket_key_and_id() {
        let mut out = Vec::new();
        write_created(&mut out, "lake", "<k>", "u1");
        assert!(out.ends_with(
            b"<Bucket>lake</Bucket><Key>&lt;k&gt;</Key><UploadId>u1</UploadId>\
              </InitiateMultipartUploadResult>"
        ));
    }
}
