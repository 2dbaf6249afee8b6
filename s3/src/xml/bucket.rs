//! What clients ask of a bucket beside its objects, and has one answer here.

use super::Owner;
use super::write::Writer;

/// Appends `GetBucketVersioning`: nothing here keeps versions.
pub fn write_versioning(out: &mut Vec<u8>) {
    Writer::document(out, "VersioningConfiguration").close("VersioningConfiguration");
}

/// Appends `GetBucketAcl`: `owner` has full control, and who else may do what is not in lists of S3's.
pub fn write_acl(out: &mut Vec<u8>, owner: &Owner<'_>) {
    let mut writer = Writer::document(out, "AccessControlPolicy");
    writer.owner("Owner", owner);
    writer.open("AccessControlList");
    writer.open("Grant");
    writer.raw("<Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\">");
    writer.text("ID", owner.id);
    writer.text("DisplayName", owner.display_name);
    writer.close("Grantee");
    writer.text("Permission", "FULL_CONTROL");
    writer.close("Grant");
    writer.close("AccessControlList");
    writer.close("AccessControlPolicy");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_closed() {
        let (mut versioning, mut acl) = (Vec::new(), Vec::new());
        write_versioning(&mut versioning);
        let owner = Owner {
            id: "a<b",
            display_name: "b",
        };
        write_acl(&mut acl, &owner);
        assert!(versioning.ends_with(b"></VersioningConfiguration>"));
        let acl = String::from_utf8(acl).expect("text");
        assert!(acl.contains("<ID>a&lt;b</ID>") && acl.ends_with("</AccessControlPolicy>"));
    }
}
