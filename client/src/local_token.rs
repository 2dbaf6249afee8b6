//! The token of a worker of the same user on this machine, which it wrote where that user finds it.

use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use corelane_rpc_schema::local_token::{LOCAL_TOKEN_FILE_BYTES_MAX, Surroundings, file_names_for};

/// The local token of the worker that listens at `address` (host:port), if it runs on this machine as the user
/// of this process, or this process may read its file. Host names other than `localhost` are not looked up.
pub fn find(address: &str) -> Option<String> {
    let addresses: Vec<SocketAddr> = match address.parse() {
        Ok(address) => vec![address],
        Err(_) if address.starts_with("localhost:") => address.to_socket_addrs().ok()?.collect(),
        Err(_) => return None,
    };
    let surroundings = Surroundings::of_process()?;
    let folders = surroundings.folders_of_client();
    let names: Vec<String> = addresses.into_iter().flat_map(file_names_for).collect();
    let mut paths = folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    paths.find_map(|path| read(&path, surroundings.user))
}

/// `token`, or the local one for `address` where none was given.
pub(crate) fn or_local(token: &str, address: &str) -> String {
    match token {
        "" => find(address).unwrap_or_default(),
        given => given.to_owned(),
    }
}

fn read(path: &Path, user: u32) -> Option<String> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    // What another user left there is not this user's token. Root reads those of services, from where only they
    // and root can put them.
    let is_trusted = metadata.uid() == user || user == 0 && path.starts_with("/run");
    if !metadata.is_file() || !is_trusted || metadata.mode() & 0o077 != 0 {
        return None;
    }
    let mut text = String::new();
    file.take(LOCAL_TOKEN_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    let token = text.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_private_files_of_the_user_are_taken() {
        let folder = std::env::temp_dir().join(format!("corelane-find-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        let path = folder.join("token");
        std::fs::write(&path, "secret\n").expect("a file");
        let user = std::fs::metadata(&path).expect("it is there").uid();
        let mode = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("it is ours");
        };
        mode(0o644);
        assert_eq!(read(&path, user), None, "others can read it");
        mode(0o600);
        assert_eq!(read(&path, user).as_deref(), Some("secret"));
        assert_eq!(read(&path, user + 1), None, "another user's");
        let link = folder.join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert_eq!(read(&link, user), None, "a link");
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }
}
