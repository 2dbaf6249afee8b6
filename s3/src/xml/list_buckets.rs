//! `ListBuckets`: the mounts, as buckets.

use super::Owner;
use super::write::Writer;

/// A bucket of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedBucket<'a> {
    /// The bucket.
    pub name: &'a str,
    /// Milliseconds since 1970, UTC.
    pub creation_ms: u64,
}

/// Appends the list.
pub fn write(out: &mut Vec<u8>, owner: &Owner<'_>, buckets: &[ListedBucket<'_>]) {
    let mut writer = Writer::document(out, "ListAllMyBucketsResult");
    writer.owner("Owner", owner);
    writer.open("Buckets");
    for bucket in buckets {
        writer.open("Bucket");
        writer.text("Name", bucket.name);
        writer.time("CreationDate", bucket.creation_ms);
        writer.close("Bucket");
    }
    writer.close("Buckets");
    writer.close("ListAllMyBucketsResult");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stand_under_their_owner() {
        let mut out = Vec::new();
        let owner = Owner {
            id: "o",
            display_name: "d",
        };
        let bucket = ListedBucket {
            name: "lake",
            creation_ms: 1,
        };
        write(&mut out, &owner, &[bucket]);
        assert!(String::from_utf8(out).expect("UTF-8").ends_with(
            "<Owner><ID>o</ID><DisplayName>d</DisplayName></Owner><Buckets><Bucket>\
             <Name>lake</Name><CreationDate>1970-01-01T00:00:00.001Z</CreationDate></Bucket>\
             </Buckets></ListAllMyBucketsResult>"
        ));
    }
}
