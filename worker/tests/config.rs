//! The configuration as an operator meets it: mistakes with their places, defaults, flags, the
//! rule about loopback, what a reload applies, and the page that documents it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use corelane_worker::config::{Changes, Config, Mistakes, WorkerFlags, reference};

fn read(text: &str, flags: &WorkerFlags) -> Result<Config, Mistakes> {
    Config::on_cpus(Path::new("w.toml"), text, flags, &[0, 1, 2, 3])
}

fn flags() -> WorkerFlags {
    WorkerFlags {
        device: vec!["/nonexistent".to_owned()],
        size: Some("8G".to_owned()),
        ..WorkerFlags::default()
    }
}

/// A file with a mistake, and the start of what is said about each.
const MISTAKES: &[(&str, &[&str])] = &[
    (
        "dram = \"lots\"",
        &["w.toml:1:8: `dram`: `lots` is not a size such as 512M, 64MiB or 8G"],
    ),
    (
        "dram = \"1M\"",
        &["w.toml:1:8: `dram`: expected a size such as 512M, 64MiB or 8G, 32MiB to 16TiB, found"],
    ),
    (
        "\n  dran = \"1G\"",
        &["w.toml:2:3: unknown key `dran` at the top level; did you mean `dram`?"],
    ),
    (
        "scrub_reads = 0",
        &["w.toml:1:1: unknown key `scrub_reads` at the top level; it belongs into [limits]"],
    ),
    (
        "[limits]\ndram = 1",
        &["w.toml:2:1: unknown key `dram` in [limits]; it belongs to the top level"],
    ),
    (
        "spin = 5",
        &[
            "w.toml:1:8: `spin`: expected a duration such as 50us, 10ms, 30s, 5m or 1h, at most 1s, found integer",
        ],
    ),
    (
        "insecure = \"yes\"",
        &["w.toml:1:12: `insecure`: expected true or false, found the text \"yes\""],
    ),
    (
        "cores = [0, \"b\"]",
        &["w.toml:1:13: `cores`: expected CPU numbers such as \"0-3,8\" or [0, 1], found string"],
    ),
    (
        "cores = \"0-9\"",
        &["w.toml:1:9: `cores`: CPU 4-9 is not among those that the process may use: 0-3"],
    ),
    (
        "cores = []",
        &["w.toml:1:9: `cores`: expected at least one CPU"],
    ),
    (
        "partitions = 100",
        &["w.toml:1:14: `partitions`: expected a number from 1 to 1024, a power of two, found 100"],
    ),
    (
        "partitions = 2",
        &["w.toml:1:14: `partitions`: 2 are fewer than the 3 cores; expected at least 4"],
    ),
    (
        "control = \"localhost\"",
        &["w.toml:1:11: `control`: expected an IP address and a port"],
    ),
    (
        "control = \"127.0.0.1:7411\"",
        &["w.toml:1:11: `control`: port 7411 is one of the data plane's ports 7410 to 7412"],
    ),
    (
        "listen = \"127.0.0.1:65535\"",
        &["w.toml:1:10: `listen`: 3 shards from port 65535 on need ports up to 65537"],
    ),
    (
        "[log]\nformat = \"xml\"",
        &["w.toml:2:10: `format`: expected \"text\" or \"json\", found the text \"xml\""],
    ),
    (
        "[log]\nlevel = \"info,=x=\"",
        &["w.toml:2:9: `level`: expected error, warn, info"],
    ),
    (
        "limits = 3",
        &["w.toml:1:10: expected a table [limits], found integer"],
    ),
    (
        "[mount]\npath = \"/a\"",
        &["w.toml:1:1: expected tables [[mount]], found one table"],
    ),
    (
        "[[mount]]\npath = \"/a\"",
        &["w.toml:1:1: `uri` is missing; expected s3://, gs://"],
    ),
    (
        "[[mount]]\npath = \"a\"\nuri = \"s3://b\"",
        &["w.toml:2:8: `path`: expected an absolute path such as /data"],
    ),
    (
        "[[mount]]\npath = \"/a\"\nuri = \"ftp://b\"",
        &["w.toml:3:7: `uri`: expected s3://, gs://"],
    ),
    (
        "[[mount]]\npath = \"/a\"\nuri = \"s3://b\"\nblock_size = \"3M\"",
        &["w.toml:4:14: `block_size`: expected a size"],
    ),
    (
        "[[mount]]\npath = \"/a\"\nuri = \"s3://b\"\nreaders = [\"x\"]",
        &["w.toml:4:11: `readers`: no [[token]] or [[s3_key]] is named x"],
    ),
    (
        "[s3]\nanonymous = [\"look\"]",
        &["w.toml:2:13: `anonymous`: expected some of read, list, write and delete, found `look`"],
    ),
    (
        "[s3]\nlisten = \"0.0.0.0:80\"\nanonymous = [\"read\"]",
        &["w.toml:3:13: `anonymous`: 0.0.0.0:80 is reachable from other machines"],
    ),
    (
        "[s3]\ntls_key = \"k.pem\"",
        &["w.toml:2:11: `tls_certificate`: expected with `tls_key`"],
    ),
    (
        "[[s3_key]]\nsecret = \"0123456789abcdef\"",
        &["w.toml:1:1: `id` is missing"],
    ),
    (
        "[[s3_key]]\nid = \"abc\"\nsecret = \"short\"",
        &["w.toml:3:10: `secret`: expected 16 to 256 bytes, found 5"],
    ),
    (
        "[[mount]]\npath = \"/a\"\nuri = \"s3://b\"\n[[mount]]\npath = \"/a/\"\nuri = \"s3://c\"",
        &["w.toml:5:8: `path`: a second mount at /a; expected each path once"],
    ),
    (
        "[[token]]\nname = \"a\"",
        &["w.toml:1:1: expected one of `secret` and `secret_file` in each [[token]]"],
    ),
    (
        "[[token]]\nname = \"a\"\nsecret = \"short\"",
        &["w.toml:3:10: `secret`: expected 16 to 256 bytes, found 5"],
    ),
    (
        "[[token]]\nname = \"a\"\nsecret = \"0123456789abcdef\"\n[[token]]\nname = \"b\"\nsecret = \"0123456789abcdef\"",
        &["w.toml:4:1: `secret`: the tokens a and b have the same"],
    ),
    (
        "mount_roots = [\"s3://a\", \"/srv\"]",
        &["w.toml:1:15: `mount_roots`: expected places such as s3://bucket"],
    ),
    (
        "[[mount]]\npath = \"/a\\nb\"\nuri = \"s3://b\"",
        &["w.toml:2:8: `path`: expected a path without control characters"],
    ),
    ("dram = 1G", &["w.toml:1:8: "]),
];

#[test]
fn every_mistake_is_reported_with_its_place_and_what_was_expected() {
    for (text, expected) in MISTAKES {
        let mistakes = read(text, &flags()).expect_err(text);
        let shown: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
        for start in *expected {
            assert!(
                shown.iter().any(|line| line.starts_with(start)),
                "{text}\n  wanted {start}\n  found {shown:#?}"
            );
        }
    }
}

#[test]
fn a_backend_that_was_not_built_is_refused_with_how_to_build_it() {
    use corelane_worker::config::Backend;
    let uring = read("backend = \"uring\"", &flags()).expect("always there");
    assert_eq!(uring.backend, Backend::Uring);
    let glommio = read("backend = \"glommio\"", &flags());
    #[cfg(feature = "glommio")]
    {
        assert_eq!(glommio.expect("it was built").backend, Backend::Glommio);
        let text = "backend = \"glommio\"\nsend_zero_copy_above = \"64K\"";
        let mistakes = read(text, &flags())
            .expect_err("glommio copies")
            .to_string();
        assert!(mistakes.contains("always copies"), "{mistakes}");
    }
    #[cfg(not(feature = "glommio"))]
    {
        let mistakes = glommio.expect_err("it was not built").to_string();
        assert!(
            mistakes.contains("w.toml:1:11") && mistakes.contains("--features glommio"),
            "{mistakes}"
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = "dram = \"x\"\n[limits]\nscrub = 1\n[log]\nformat = 1\n";
    let flags = WorkerFlags {
        spin: Some("1 day".to_owned()),
        ..flags()
    };
    let mistakes = read(text, &flags).expect_err("four mistakes");
    let places: Vec<String> = mistakes
        .0
        .iter()
        .map(|mistake| mistake.origin.to_string())
        .collect();
    assert_eq!(
        places,
        ["w.toml:1:8", "w.toml:3:1", "w.toml:5:10", "--spin"],
        "{mistakes}"
    );
}

#[test]
fn a_worker_without_devices_or_with_missing_ones_is_told_how_to_make_one() {
    let mistakes = read("", &WorkerFlags::default()).expect_err("no device");
    assert!(
        mistakes
            .to_string()
            .contains("expected at least one device"),
        "{mistakes}"
    );
    let missing = WorkerFlags {
        size: None,
        ..flags()
    };
    let mistakes = read("", &missing).expect_err("a missing device");
    let text = mistakes.to_string();
    assert!(
        text.starts_with("--device: `devices`: /nonexistent does not exist; --size SIZE"),
        "{text}"
    );
    let small = WorkerFlags {
        size: Some("2G".to_owned()),
        ..flags()
    };
    let mistakes = read("", &small).expect_err("too small a device");
    assert!(
        mistakes.to_string().contains("expected at least 2050MiB"),
        "{mistakes}"
    );
}

#[test]
fn defaults_leave_the_first_cpu_to_control_and_fetch() {
    let config = read("", &flags()).expect("defaults and a device");
    assert_eq!(
        (config.cores, config.control_cpus, config.fetch_cpus),
        (vec![1, 2, 3], vec![0], vec![0])
    );
    let one = Config::on_cpus(Path::new("w.toml"), "", &flags(), &[5]).expect("one CPU does");
    assert_eq!((one.cores, one.control_cpus), (vec![5], vec![5]));
}

#[test]
fn flags_win_over_the_file_and_mounts_are_replaced_by_path() {
    let text = "dram = \"2G\"\nspin = \"1ms\"\n[[mount]]\npath = \"/a\"\nuri = \"s3://old\"\n";
    let flags = WorkerFlags {
        dram: Some("3G".to_owned()),
        mount: vec![
            "/a=s3://new/x/?region=eu&block-size=4M&freshness=immutable&admission=second-touch"
                .to_owned(),
        ],
        ..flags()
    };
    let config = read(text, &flags).expect("valid");
    assert_eq!(
        (config.dram_bytes, config.spin),
        (3 << 30, Duration::from_millis(1))
    );
    let mount = &config.mounts[0];
    assert_eq!(
        (config.mounts.len(), mount.uri.as_str(), mount.block_bytes),
        (1, "s3://new/x", 4 << 20)
    );
    assert_eq!(
        (mount.freshness.to_string(), mount.admission.to_string()),
        ("immutable".into(), "second-touch".into())
    );
    assert_eq!(mount.options.get("region").map(String::as_str), Some("eu"));
}

#[test]
fn beyond_loopback_a_token_or_the_word_insecure_is_needed() {
    for key in ["listen", "control", "operations"] {
        let text = format!("{key} = \"0.0.0.0:9000\"");
        let mistakes = read(&text, &flags()).expect_err(&text);
        assert!(
            mistakes
                .to_string()
                .contains("reachable from other machines"),
            "{mistakes}"
        );
        let insecure = format!("insecure = true\n{text}");
        assert!(read(&insecure, &flags()).is_ok());
        let token = format!("{text}\n[[token]]\nname = \"a\"\nsecret = \"0123456789abcdef\"");
        assert!(read(&token, &flags()).is_ok());
        let loopback = format!("{key} = \"[::1]:9000\"");
        assert!(read(&loopback, &flags()).is_ok());
    }
}

#[test]
fn a_reload_applies_what_can_change_and_lists_what_cannot() {
    let before = "[limits]\nscrub_reads = \"1M\"\n[[token]]\nname = \"a\"\nsecret = \"0123456789abcdef\"\n\
                  [[mount]]\npath = \"/a\"\nuri = \"s3://a\"\n";
    let after = "spin = \"1ms\"\n[limits]\nscrub_reads = 0\n[[token]]\nname = \"a\"\nsecret = \"fedcba9876543210\"\n\
                 [[mount]]\npath = \"/b\"\nuri = \"s3://b\"\n";
    let (mut old, new) = (
        read(before, &flags()).expect("valid"),
        read(after, &flags()).expect("valid"),
    );
    let changes = Changes::between(&old, &new);
    assert_eq!(changes.need_restart, ["spin: 50us -> 1ms"]);
    assert_eq!(
        changes.applied,
        [
            "limits.scrub_reads: 1048576 -> 0",
            "token a: secret: (secret) -> (secret)",
            "mount /b: added",
            "mount /a: removed",
        ]
    );
    old.take_over(&new);
    // What needs a restart is listed again until there was one; the rest is done.
    let again = Changes::between(&old, &new);
    assert_eq!((again.applied.len(), again.need_restart.len()), (0, 1));
    assert_eq!(
        (old.limits.scrub_bytes_per_second, old.spin),
        (0, Duration::from_micros(50))
    );
}

#[test]
fn secrets_are_not_shown_by_debug_output() {
    let text = "[[token]]\nname = \"a\"\nsecret = \"0123456789abcdef\"\n[[mount]]\npath = \"/a\"\nuri = \"s3://a\"\n\
                options = { secret_access_key = \"hidden-value\" }";
    let config = read(text, &flags()).expect("valid");
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("0123456789abcdef") && !shown.contains("hidden-value"),
        "{shown}"
    );
}

#[test]
fn shards_share_the_limits_and_no_limit_stays_none() {
    let text = "[limits]\ndevice_writes = \"300M\"\nscrub_reads = 0";
    let limits = read(text, &flags()).expect("valid").shard_limits();
    assert_eq!(
        (
            limits.device_write_bytes_per_second,
            limits.scrub_bytes_per_second
        ),
        (100 << 20, 0)
    );
}

#[test]
fn the_documentation_says_what_the_code_does() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = reference::markdown();
    if std::env::var_os("CORELANE_REWRITE").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).expect("docs/configuration.md");
    assert!(
        written == page,
        "docs/configuration.md has drifted: run this test with CORELANE_REWRITE=1"
    );
}
