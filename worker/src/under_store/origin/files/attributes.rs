//! The headers of a file, in an extended attribute.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::object::HEADERS_BYTES_MAX;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};

/// Lines of `name: value`.
const HEADERS: &str = "user.corelane.headers";

/// On directories that exist only because a key has them.
const IMPLIED: &str = "user.corelane.implied";

/// Remembers `headers` with `file`; forgets them where the file system cannot.
pub(super) fn set_headers(file: impl AsFd, headers: &[(String, String)]) -> Result<(), Fault> {
    if headers.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for (name, value) in headers {
        if value
            .chars()
            .chain(name.chars())
            .any(|character| character.is_ascii_control())
        {
            let cause = format!("the header `{name}` has a control character");
            return Err(Fault::lasting(Kind::Invalid, cause));
        }
        text.push_str(&format!("{name}: {value}\n"));
    }
    if text.len() > HEADERS_BYTES_MAX {
        return Err(too_large(text.len()));
    }
    match fsetxattr(file, HEADERS, text.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        // A file system has far more blocks than an inode has room for attributes.
        Err(Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => Err(too_large(text.len())),
        Err(error) => Err(super::place::fault_of(error.into(), "keep the headers of")),
    }
}

fn too_large(bytes: usize) -> Fault {
    let cause = format!("the file system has no room for {bytes} bytes of headers with a file");
    Fault::lasting(Kind::Invalid, cause).with_code("MetadataTooLarge")
}

/// The headers that were remembered with `file`; none where there is no such attribute.
pub(crate) fn headers_of(file: impl AsFd) -> Vec<(String, String)> {
    let mut text = vec![0; HEADERS_BYTES_MAX];
    let Ok(length) = fgetxattr(file, HEADERS, &mut text[..]) else {
        return Vec::new();
    };
    text.truncate(length);
    let Ok(text) = String::from_utf8(text) else {
        return Vec::new();
    };
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Marks a directory that a key implies. Without the mark it stays when it is empty.
pub(super) fn mark_implied(directory: impl AsFd) {
    // The mark only tidies up; a file system without attributes keeps its directories.
    let _ = fsetxattr(directory, IMPLIED, b"1", XattrFlags::empty());
}

/// Takes the mark off.
///
/// # Errors
/// When the mark is there and stays.
pub(super) fn unmark(directory: impl AsFd) -> io::Result<()> {
    match fremovexattr(directory, IMPLIED) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a directory has the mark.
pub(super) fn is_implied(directory: impl AsFd) -> bool {
    let mut value = [0; 8];
    fgetxattr(directory, IMPLIED, &mut value[..]).is_ok()
}
