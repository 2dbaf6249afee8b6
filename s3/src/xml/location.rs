//! `GetBucketLocation`.

use super::write::Writer;

/// Appends the region of a bucket. `us-east-1` is said by an empty element, as Amazon S3 says it.
pub fn write(out: &mut Vec<u8>, region: &str) {
    let region = if region == "us-east-1" { "" } else { region };
    // The root itself holds the text.
    let mut writer = Writer::document(out, "LocationConstraint");
    writer.escaped(region);
    writer.close("LocationConstraint");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_region_has_no_name() {
        let (mut first, mut other) = (Vec::new(), Vec::new());
        write(&mut first, "us-east-1");
        write(&mut other, "eu-west-1");
        assert!(first.ends_with(b"/\"></LocationConstraint>"));
        assert!(other.ends_with(b">eu-west-1</LocationConstraint>"));
    }
}
