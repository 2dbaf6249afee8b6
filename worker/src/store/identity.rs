//! Which set a device belongs to, read from its superblock without opening the store: what has to
//! be known before any shard runs.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use corelane_io::{IoError, PAGE_SIZE};
use ring::digest::{SHA256, digest};
use rkyv::util::AlignedVec;

use super::claim::check_type;
use super::error::StoreError;
use super::superblock::{SUPERBLOCK_OFFSETS, Superblock};

/// What a superblock says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// Where it was found.
    pub path: PathBuf,
    /// Names the set of devices that belong together.
    pub set_uuid: [u8; 16],
    /// Names this device.
    pub uuid: [u8; 16],
    /// Its place in the set.
    pub ordinal: u16,
    /// Devices in the set.
    pub devices: u16,
    /// Partitions of the worker.
    pub partitions: u32,
    /// Bytes in a region.
    pub region_bytes: u32,
    /// Regions.
    pub regions: u32,
    /// Starts of the worker since format.
    pub epoch: u64,
}

/// Reads the identity of the device at `path`, which may be in use.
///
/// # Errors
/// When it cannot be read, or is not one of ours; the latter names the command that would format it.
pub fn read_identity(path: &Path) -> Result<DeviceIdentity, StoreError> {
    let name = path.display().to_string();
    let cannot = |error: std::io::Error| {
        let sentence =
            format!("cannot read the superblock of {name}; check the path and the permissions");
        StoreError::from(IoError::from_std(&error, sentence))
    };
    let kind = std::fs::metadata(path).map_err(cannot)?.file_type();
    check_type(path, kind)?;
    let file = File::open(path).map_err(cannot)?;
    let mut pages = [AlignedVec::<16>::new(), AlignedVec::<16>::new()];
    for (page, offset) in pages.iter_mut().zip(SUPERBLOCK_OFFSETS) {
        page.resize(PAGE_SIZE, 0);
        // A device that ends before is as little ours as one that holds something else.
        match file.read_exact_at(page, offset) {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(cannot(error));
            }
            _ => {}
        }
    }
    let length = length_of(&file).map_err(cannot)?;
    let (superblock, _, _) = Superblock::choose([&pages[0], &pages[1]], &name, length)?;
    Ok(DeviceIdentity {
        path: path.to_owned(),
        set_uuid: superblock.set_uuid,
        uuid: superblock.uuid,
        ordinal: superblock.ordinal,
        devices: superblock.devices,
        partitions: superblock.partitions,
        region_bytes: superblock.region_bytes,
        regions: superblock.regions,
        epoch: superblock.epoch,
    })
}

fn length_of(file: &File) -> std::io::Result<u64> {
    use std::io::Seek;
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        // A block device has no length in its metadata.
        return (&mut &*file).seek(std::io::SeekFrom::End(0));
    }
    Ok(metadata.len())
}

/// The id under which readers see a device set or a device with this uuid. It does not tell the uuid, from which
/// the checksums of records begin: an author of objects who knew it could write pages that pass for records.
pub fn public_id(uuid: &str) -> String {
    let digest = digest(&SHA256, format!("corelane public id\0{uuid}").as_bytes());
    let bytes = digest.as_ref()[..16].iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{FormatOptions, format_paths};

    #[test]
    fn a_public_id_is_always_the_same_and_tells_no_part_of_the_uuid() {
        let uuid = "0123456789abcdef0123456789abcdef";
        let id = public_id(uuid);
        assert_eq!((id.len(), &id), (32, &public_id(uuid)));
        assert_ne!(id, public_id("0123456789abcdef0123456789abcdee"));
        assert_ne!(&id[..4], &uuid[..4]);
    }

    #[test]
    fn a_formatted_device_says_what_it_is_and_another_file_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("device");
        let options = FormatOptions {
            region_bytes: 1 << 20,
            partitions: 64,
            set_uuid: [7; 16],
        };
        format_paths(&[&path], Some(64 << 20), options, false)
            .expect("a new file can be formatted");
        let identity = read_identity(&path).expect("it was formatted");
        assert_eq!(
            (identity.set_uuid, identity.partitions, identity.devices),
            ([7; 16], 64, 1)
        );
        assert_eq!(
            (identity.ordinal, identity.region_bytes, identity.epoch),
            (0, 1 << 20, 0)
        );

        let other = folder.path().join("other");
        std::fs::write(&other, b"not a device").expect("a small file");
        let error = read_identity(&other).expect_err("it was never formatted");
        assert!(
            matches!(&error, StoreError::NotOurs { .. } | StoreError::Mismatch(_)),
            "{error}"
        );
    }
}
