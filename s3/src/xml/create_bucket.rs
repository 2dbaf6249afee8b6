//! `CreateBucket`: where the bucket shall be.

use super::read::{Limits, Visitor, set_once, walk};
use crate::Error;

/// Far more than a region takes.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 10;

const LIMITS: Limits = Limits {
    bytes_max: DOCUMENT_BYTES_MAX,
    elements_max: 64,
};

/// Reads the region; `None` where the document, which may be empty, names none.
///
/// # Errors
/// `MalformedXML` for what is no such document.
pub fn read(document: &[u8]) -> Result<Option<String>, Error> {
    if document.trim_ascii().is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::default();
    walk(document, "CreateBucketConfiguration", &LIMITS, &mut reader)?;
    Ok(reader.region.filter(|region| !region.is_empty()))
}

#[derive(Default)]
struct Reader {
    region: Option<String>,
}

impl Visitor for Reader {
    fn open(&mut self, _path: &str) -> Result<(), Error> {
        Ok(())
    }

    fn close(&mut self, path: &str, text: &str) -> Result<(), Error> {
        if path == "LocationConstraint" {
            set_once(&mut self.region, text.trim().to_owned(), path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_optional_and_trimmed() {
        let document =
            b"<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n\
            <LocationConstraint> eu-west-1\n</LocationConstraint></CreateBucketConfiguration>";
        assert_eq!(read(document), Ok(Some("eu-west-1".into())));
        assert_eq!(read(b"<CreateBucketConfiguration/>"), Ok(None));
        assert_eq!(read(b" \n"), Ok(None));
        assert!(read(b"<Other/>").is_err());
    }
}
