//! Commands for a running worker, against a real one.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

use crate::harness::{Worker, command, folder, formatted_device, run};

/// What belongs together. A test that takes it apart keeps the folder: it goes with its handle.
struct World {
    worker: Worker,
    content: Vec<u8>,
    folder: TempDir,
}

/// A worker with /data/big and /data/more/small.
fn world() -> World {
    let folder = folder();
    let files = folder.path().join("files");
    std::fs::create_dir_all(files.join("more")).expect("folders");
    let content: Vec<u8> = (0..500_000_u32)
        .flat_map(|number| (number * 7).to_le_bytes())
        .collect();
    std::fs::write(files.join("big"), &content).expect("a file");
    std::fs::write(files.join("more/small"), "small").expect("a file");
    let device = formatted_device(folder.path());
    let worker = Worker::start(&device, &files);
    World {
        worker,
        content,
        folder,
    }
}

#[test]
fn cat_gives_the_bytes_of_the_file_and_of_ranges() {
    let World {
        worker,
        content,
        folder: _folder,
    } = world();
    let cat =
        |more: &[&str]| run(&[&["cat", "/data/big", "--address", &worker.data], more].concat());
    assert!(cat(&[]).stdout == content);
    assert!(cat(&["--offset", "70000"]).stdout == content[70_000..]);
    assert!(cat(&["--offset", "4095", "--length", "3"]).stdout == content[4095..4098]);
    let beyond = cat(&["--length", "3000000"]);
    assert_eq!(
        (beyond.code, beyond.stdout.len()),
        (1, 0),
        "{}",
        beyond.stderr
    );
    let missing = run(&["cat", "/data/none", "--address", &worker.data]);
    assert_eq!(missing.code, 4, "{}", missing.stderr);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let world = world();
    let mut cat = command(&["cat", "/data/big", "--address", &world.worker.data])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut first = [0; 16];
    let mut stdout = cat.stdout.take().expect("a pipe");
    stdout.read_exact(&mut first).expect("bytes");
    drop(stdout);
    let output = cat.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_load_fills_the_cache_once_and_free_empties_it() {
    let World {
        worker,
        content,
        folder: _folder,
    } = world();
    let cached = || worker.ask(&["stat", "/data/big", "--json"]).json()["bytes_cached"].clone();
    assert_eq!(cached(), 0);
    let load = worker.ask(&["load", "/data", "--recursive", "--json"]);
    assert_eq!(load.code, 0, "{}", load.stderr);
    assert_eq!(load.json()["objects_done"], 2);
    assert_eq!(cached(), content.len());
    let again = worker
        .ask(&["load", "/data", "--recursive", "--json"])
        .json();
    assert_eq!(again["bytes_skipped"], content.len() + 5);
    let verify = worker.ask(&["verify", "/data", "--json"]);
    assert_eq!(
        (verify.code, &verify.json()["blocks_wrong"]),
        (0, &0.into()),
        "{}",
        verify.stderr
    );
    let freed = worker.ask(&["free", "/data", "--recursive", "--json"]);
    assert_eq!(freed.json()["bytes"], content.len() + 5, "{}", freed.stderr);
    assert_eq!(cached(), 0);
    let jobs = worker.ask(&["jobs", "--json"]).json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(3));
}

#[test]
fn ls_lists_one_level_or_all_and_what_is_cached() {
    let world = world();
    let paths = |more: &[&str]| -> Vec<String> {
        let outcome = world.worker.ask(&[&["ls", "--json"], more].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let lines = outcome.text();
        let path = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["path"]
                .as_str()
                .expect("a path")
                .trim_end_matches('/')
                .to_owned()
        };
        lines.lines().map(path).collect()
    };
    assert_eq!(paths(&["/data"]), ["/data/big", "/data/more"]);
    assert_eq!(paths(&["/data", "-r"]), ["/data/big", "/data/more/small"]);
    assert_eq!(paths(&["/data", "-r", "--limit", "1"]), ["/data/big"]);
    assert_eq!(paths(&["/data", "-r", "--cached"]), [""; 0]);
    assert_eq!(world.worker.ask(&["load", "/data/more/small"]).code, 0);
    assert_eq!(paths(&["/data", "-r", "--cached"]), ["/data/more/small"]);
    let table = world.worker.ask(&["ls", "/data"]).text();
    assert!(
        table.contains("/data/more/") && table.contains("1.9 MiB"),
        "{table}"
    );
}

#[test]
fn pins_show_and_end() {
    let world = world();
    let pinned = || world.worker.ask(&["stat", "/data/big", "--json"]).json()["pinned"].clone();
    assert_eq!(world.worker.ask(&["load", "/data/big"]).code, 0);
    assert_eq!(pinned(), false);
    assert_eq!(
        world.worker.ask(&["pin", "/data/big", "--json"]).json()["objects"],
        1
    );
    assert_eq!(pinned(), true);
    assert_eq!(
        world.worker.ask(&["unpin", "/data/big", "--json"]).json()["objects"],
        1
    );
    assert_eq!(pinned(), false);
}

#[test]
fn a_mount_made_by_hand_serves_until_it_is_removed() {
    let World {
        worker,
        folder,
        content: _,
    } = world();
    let other = folder.path().join("files-more");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("file"), "hello").expect("a file");
    let mount = format!("/other=file://{}", other.display());
    let refused = worker.ask(&["mount", &mount, "--freshness", "immutable"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("512KiB"), "{}", refused.stderr);
    let fitting = ["--freshness", "immutable", "--block-size", "512KiB"];
    let made = worker.ask(&[["mount", mount.as_str()].as_slice(), &fitting].concat());
    assert_eq!(made.code, 0, "{}", made.stderr);
    let mounts = worker.ask(&["mount", "--json"]).json();
    assert_eq!(mounts.as_array().map(Vec::len), Some(2), "{mounts}");
    let hello = run(&["cat", "/other/file", "--address", &worker.data]);
    assert_eq!(hello.text(), "hello", "{}", hello.stderr);
    assert_eq!(worker.ask(&["unmount", "/other"]).code, 0);
    assert_eq!(
        run(&["cat", "/other/file", "--address", &worker.data]).code,
        4
    );
    assert_eq!(worker.ask(&["unmount", "/other"]).code, 4);
    let elsewhere = worker.ask(&["mount", "/etc=file:///etc", "--block-size", "512KiB"]);
    assert_eq!(elsewhere.code, 6, "{}", elsewhere.stderr);
    assert!(
        elsewhere.stderr.contains("mount_roots"),
        "{}",
        elsewhere.stderr
    );
}

#[test]
fn the_user_of_the_worker_is_its_operator_and_others_need_a_token() {
    let world = world();
    let asked = |token: &str, homes: &[&str]| {
        let mut status = command(&["status", "--control", &world.worker.control]);
        status.env("CORELANE_TOKEN", token);
        // The worker's surroundings need not be those of the command.
        for home in homes {
            status.env(home, "/nonexistent");
        }
        status.output().expect("the program runs").status.code()
    };
    assert_eq!(asked("", &[]), Some(0));
    assert_eq!(asked("a-token-that-is-not-its", &[]), Some(6));
    let session = std::env::var_os("XDG_RUNTIME_DIR");
    if session.is_none() {
        assert_eq!(asked("", &["XDG_RUNTIME_DIR"]), Some(0));
    }
}

#[test]
fn status_shows_the_worker_its_device_and_its_counters() {
    let world = world();
    let worker = &world.worker;
    let status = worker.ask(&["status", "--json"]).json();
    assert_eq!(status["epoch"], 1);
    assert_eq!(status["devices"][0]["healthy"], true);
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(1));
    assert!(status["counters"]["reads_dram"].is_u64(), "{status}");
    let text = worker.ask(&["status", "--counters"]).text();
    assert!(
        text.contains("healthy") && text.contains("reads_dram"),
        "{text}"
    );
}

#[test]
fn what_is_not_there_ends_with_4() {
    let world = world();
    for line in [
        &["stat", "/data/none"][..],
        &["stat", "/nowhere/x"],
        &["jobs", "--cancel", "99"],
    ] {
        let outcome = world.worker.ask(line);
        assert_eq!(outcome.code, 4, "{line:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_worker_stops_in_good_order_and_keeps_its_cache() {
    let World {
        worker,
        folder,
        content,
    } = world();
    assert_eq!(worker.ask(&["load", "/data/big"]).code, 0);
    worker.stop();
    let files: &Path = &folder.path().join("files");
    let worker = Worker::start(&folder.path().join("device"), files);
    let stat = worker.ask(&["stat", "/data/big", "--json"]).json();
    assert_eq!(stat["bytes_cached"], content.len(), "{stat}");
    let status = worker.ask(&["status", "--json"]).json();
    assert_eq!(status["epoch"], 2);
}
