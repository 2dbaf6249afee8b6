//! What a worker stands on: a folder with a device, an under-store and a configuration file.

use std::fs;
use std::path::{Path, PathBuf};

use super::content::content;
use super::process::Process;

/// Block size of the mounts here: the smallest, so that small files have several blocks.
pub const BLOCK: usize = 64 << 10;

/// A mount of a folder of the bed.
pub struct Mount {
    /// Its path.
    pub path: &'static str,
    /// Its URI.
    pub uri: String,
    /// Keys of its section, as in the file.
    pub keys: String,
}

/// A folder of its own, removed at the end.
pub struct Bed {
    folder: tempfile::TempDir,
    /// The device file.
    pub device: PathBuf,
    /// Further device files.
    pub more_devices: Vec<PathBuf>,
    /// `device_size`, such as `66M`.
    pub device_size: &'static str,
    /// Cores that run shards: one or two.
    pub cores: usize,
    /// `dram`.
    pub dram: String,
    /// `dram_policy`.
    pub dram_policy: &'static str,
    /// `backend`.
    pub backend: &'static str,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Address of the data plane.
    pub listen: String,
    /// Further keys of the file, a line each.
    pub keys: String,
    /// Sections.
    pub sections: String,
}

impl Bed {
    /// On a real file system that takes direct I/O: the build's folder.
    pub fn on_disk() -> Self {
        Bed::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// In memory, for tests that are not about the device.
    pub fn in_memory() -> Self {
        Bed::within(Path::new("/dev/shm"))
    }

    fn within(folder: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("corelane-")
            .tempdir_in(folder)
            .expect("a folder for the test");
        let bed = Bed {
            device: folder.path().join("device"),
            more_devices: Vec::new(),
            device_size: "66M",
            cores: 2,
            dram: "160M".to_owned(),
            dram_policy: "s3-fifo",
            backend: "uring",
            mounts: vec![Mount {
                path: "/data",
                uri: format!("file://{}", folder.path().join("source").display()),
                keys: "freshness = \"immutable\"".to_owned(),
            }],
            listen: "127.0.0.1:0".to_owned(),
            keys: String::new(),
            sections: String::new(),
            folder,
        };
        fs::create_dir(bed.path("source")).expect("a folder for the objects");
        bed
    }

    /// The same bed with another freshness of its first mount.
    pub fn freshness(mut self, freshness: &str) -> Self {
        self.mounts[0].keys = format!("freshness = \"{freshness}\"");
        self
    }

    /// A path in the bed's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another mount, of a folder that is created.
    pub fn add_mount(&mut self, path: &'static str, folder: &'static str, keys: &str) {
        fs::create_dir(self.path(folder)).expect("a folder for the objects");
        self.mounts.push(Mount {
            path,
            uri: format!("file://{}", self.path(folder).display()),
            keys: keys.to_owned(),
        });
    }

    /// Another mount, of an HTTP store.
    pub fn add_remote(&mut self, path: &'static str, uri: &str) {
        self.mounts.push(Mount {
            path,
            uri: uri.to_owned(),
            keys: "freshness = \"immutable\"\noptions = { allow_http = \"true\" }".to_owned(),
        });
    }

    /// Writes an object of `length` bytes that follow from `seed`; gives them back.
    pub fn write(&self, name: &str, seed: u64, length: usize) -> Vec<u8> {
        let bytes = content(seed, length);
        let path = self.path("source").join(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("its folder");
        fs::write(path, &bytes).expect("an object can be written");
        bytes
    }

    /// Writes the configuration file as the bed is now.
    pub fn write_config(&self) -> PathBuf {
        let cores: Vec<String> = (0..self.cores).map(|core| core.to_string()).collect();
        let devices: Vec<String> = std::iter::once(&self.device)
            .chain(&self.more_devices)
            .map(|device| format!("\"{}\"", device.display()))
            .collect();
        let mut text = format!(
            "cores = [{}]\ndevices = [{}]\ndevice_size = \"{}\"\nregion_size = \"1M\"\npartitions = 16\n\
             dram = \"{}\"\ndram_policy = \"{}\"\nbackend = \"{}\"\nlisten = \"{}\"\ncontrol = \"127.0.0.1:0\"\n\
             operations = \"127.0.0.1:0\"\n",
            cores.join(","),
            devices.join(","),
            self.device_size,
            self.dram,
            self.dram_policy,
            self.backend,
            self.listen,
        );
        text.push_str(&self.keys);
        for mount in &self.mounts {
            text.push_str(&format!(
                "[[mount]]\npath = \"{}\"\nuri = \"{}\"\n",
                mount.path, mount.uri
            ));
            if !mount.keys.contains("block_size") {
                text.push_str(&format!("block_size = \"{BLOCK}\"\n"));
            }
            text.push_str(&mount.keys);
            text.push('\n');
        }
        text.push_str(&self.sections);
        let path = self.path("worker.toml");
        fs::write(&path, text).expect("the configuration can be written");
        path
    }

    /// Starts a worker and waits until it serves.
    ///
    /// # Panics
    /// With its log, if it does not.
    #[track_caller]
    pub fn start(&self) -> Process {
        match Process::start(&self.write_config()) {
            Ok(process) => process,
            Err(refusal) => panic!("the worker did not start: {refusal:?}"),
        }
    }
}
