//! The document of an error ("Error responses", Amazon S3 API reference).

use super::write::Writer;
use crate::Error;

/// What of the request the document names; empty strings are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The path as it was asked for.
    pub resource: &'a str,
    /// The bucket, where known.
    pub bucket: &'a str,
    /// The key, where known.
    pub key: &'a str,
    /// The id that `x-amz-request-id` carries too.
    pub request_id: &'a str,
}

/// Appends the document of `error`.
pub fn write(out: &mut Vec<u8>, error: &Error, subject: &Subject<'_>) {
    let mut writer = Writer::bare(out, "Error");
    writer.text("Code", error.code.as_str());
    writer.text("Message", &error.message);
    for (name, value) in [
        ("BucketName", subject.bucket),
        ("Key", subject.key),
        ("Resource", subject.resource),
        ("RequestId", subject.request_id),
    ] {
        writer.optional(name, Some(value).filter(|value| !value.is_empty()));
    }
    writer.close("Error");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn an_error_says_code_message_and_where() {
        let mut out = Vec::new();
        let subject = Subject {
            resource: "/lake/a&b",
            bucket: "lake",
            key: "a&b",
            request_id: "42",
        };
        write(
            &mut out,
            &Error::new(ErrorCode::NoSuchKey, "no <such> key"),
            &subject,
        );
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>\
             <Message>no &lt;such&gt; key</Message><BucketName>lake</BucketName><Key>a&amp;b</Key>\
             <Resource>/lake/a&amp;b</Resource><RequestId>42</RequestId></Error>"
        );
    }
}
