//! `DeleteObjects`: keys in, what became of each out.

use super::read::{Limits, Visitor, malformed, set_once, walk};
use super::write::Writer;
use crate::Error;

/// S3's limit of keys in one request.
pub const KEYS_MAX: usize = 1000;

/// Twice the thousand longest keys: room for elements and references, and little for anybody's bomb.
pub const DOCUMENT_BYTES_MAX: usize = 2 << 20;

const LIMITS: Limits = Limits {
    bytes_max: DOCUMENT_BYTES_MAX,
    // Object, Key, VersionId, ETag, LastModifiedTime and Size for every key; the root and Quiet.
    elements_max: KEYS_MAX * 6 + 8,
};

/// What a client wants deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Between 1 and [`KEYS_MAX`].
    pub objects: Vec<Deletion>,
    /// Whether the answer says errors only.
    pub is_quiet: bool,
}

/// One object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// As written, with its white space, which is part of a key.
    pub key: String,
    /// The version, where one is named.
    pub version_id: Option<String>,
    /// The etag that the object must have, where one is named.
    pub etag: Option<String>,
}

/// Reads the document.
///
/// # Errors
/// `MalformedXML` for what is not such a document, and for more than [`KEYS_MAX`] keys.
pub fn read(document: &[u8]) -> Result<Delete, Error> {
    let mut reader = Reader::default();
    walk(document, "Delete", &LIMITS, &mut reader)?;
    if reader.objects.is_empty() {
        return Err(malformed("it names no object"));
    }
    Ok(Delete {
        objects: reader.objects,
        is_quiet: reader.is_quiet.unwrap_or(false),
    })
}

#[derive(Default)]
struct Reader {
    objects: Vec<Deletion>,
    is_quiet: Option<bool>,
    key: Option<String>,
    version_id: Option<String>,
    etag: Option<String>,
}

impl Visitor for Reader {
    fn open(&mut self, path: &str) -> Result<(), Error> {
        if path == "Object" && self.objects.len() == KEYS_MAX {
            return Err(malformed(format_args!(
                "it names more than {KEYS_MAX} objects"
            )));
        }
        Ok(())
    }

    fn close(&mut self, path: &str, text: &str) -> Result<(), Error> {
        match path {
            "Quiet" => {
                let is_quiet = text.trim().eq_ignore_ascii_case("true");
                set_once(&mut self.is_quiet, is_quiet, "Quiet")
            }
            "Object/Key" => set_once(&mut self.key, text.to_owned(), "Key"),
            "Object/VersionId" => {
                set_once(&mut self.version_id, text.trim().to_owned(), "VersionId")
            }
            "Object/ETag" => set_once(&mut self.etag, text.trim().to_owned(), "ETag"),
            "Object" => {
                let key = self.key.take().filter(|key| !key.is_empty());
                self.objects.push(Deletion {
                    key: key.ok_or_else(|| malformed("an object has no key"))?,
                    version_id: self.version_id.take(),
                    etag: self.etag.take(),
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The key.
    pub key: &'a str,
    /// Why it is still there, if it is.
    pub error: Option<&'a Error>,
}

/// Appends the answer; `is_quiet` leaves out what went well.
pub fn write_result(out: &mut Vec<u8>, outcomes: &[Outcome<'_>], is_quiet: bool) {
    let mut writer = Writer::document(out, "DeleteResult");
    for outcome in outcomes {
        match outcome.error {
            Some(error) => {
                writer.open("Error");
                writer.text("Key", outcome.key);
                writer.text("Code", error.code.as_str());
                writer.text("Message", &error.message);
                writer.close("Error");
            }
            None if is_quiet => {}
            None => {
                writer.open("Deleted");
                writer.text("Key", outcome.key);
                writer.close("Deleted");
            }
        }
    }
    writer.close("DeleteResult");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn keys_keep_their_white_space_and_references_and_unknown_elements_are_skipped() {
        let document = b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n<!-- c --><s3:Delete xmlns:s3=\"urn:x\">\n\
            <Quiet> true </Quiet><Object><Key> a&amp;b&#x1;&lt;<![CDATA[<c>]]> </Key><Odd><Key>no</Key>\
            </Odd></Object><Object><VersionId>v</VersionId><Key>k</Key><ETag>&quot;e&quot;</ETag>\
            </Object></s3:Delete>\n";
        let delete = read(document).expect("a document");
        assert!(delete.is_quiet);
        assert_eq!(delete.objects[0].key, " a&b\u{1}<<c> ");
        assert_eq!(delete.objects[1].version_id.as_deref(), Some("v"));
        assert_eq!(delete.objects[1].etag.as_deref(), Some("\"e\""));
        assert_eq!(delete.objects.len(), 2);
    }

    #[test]
    fn bombs_and_what_is_no_such_document_are_refused() {
        let object = "<Object><Key>k</Key></Object>";
        let many = format!("<Delete>{}</Delete>", object.repeat(KEYS_MAX + 1));
        let odd = format!("<Delete>{}</Delete>", "<x/>".repeat(10_000));
        let deep = "<Delete>".to_owned() + &"<a>".repeat(100_000);
        let long = format!("<Delete>{}</Delete>", " ".repeat(DOCUMENT_BYTES_MAX));
        let laughs = "<!DOCTYPE d [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Delete><Object>\
                      <Key>&b;</Key></Object></Delete>";
        for document in [
            "",
            "k",
            "<Delete/>",
            "<Remove><Object><Key>k</Key></Object></Remove>",
            "<Delete><Object></Object></Delete>",
            "<Delete><Object><Key></Key></Object></Delete>",
            "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
            "<Delete><Object><Key>a</Key></Object>",
            "<Delete><Object><Key>a</Object></Key></Delete>",
            "<Delete><Object><Key>&x;</Key></Object></Delete>",
            "<Delete><Object><Key>&#xD800;</Key></Object></Delete>",
            "<Delete><Object><Key>a</Key></Object></Delete><Delete/>",
            "<Delete><Object><Key>a</Key></Object></Delete>more",
            laughs,
            &many,
            &odd,
            &deep,
            &long,
        ] {
            let error = read(document.as_bytes()).expect_err(&document[..document.len().min(80)]);
            assert_eq!(error.code, ErrorCode::MalformedXml);
        }
        let full = format!("<Delete>{}</Delete>", object.repeat(KEYS_MAX));
        assert_eq!(
            read(full.as_bytes()).map(|delete| delete.objects.len()),
            Ok(KEYS_MAX)
        );
        assert!(read(b"<Delete><Object><Key>\xff</Key></Object></Delete>").is_err());
    }

    #[test]
    fn a_quiet_answer_says_errors_only() {
        let error = Error::new(ErrorCode::AccessDenied, "no");
        let outcomes = [
            Outcome {
                key: "a",
                error: None,
            },
            Outcome {
                key: "b",
                error: Some(&error),
            },
        ];
        let (mut loud, mut quiet) = (Vec::new(), Vec::new());
        write_result(&mut loud, &outcomes, false);
        write_result(&mut quiet, &outcomes, true);
        let failed = "<Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
                      </DeleteResult>";
        let (loud, quiet) = (String::from_utf8(loud), String::from_utf8(quiet));
        assert!(
            loud.expect("UTF-8")
                .ends_with(&format!("<Deleted><Key>a</Key></Deleted>{failed}"))
        );
        assert!(quiet.expect("UTF-8").ends_with(&format!("/\">{failed}")));
    }
}
