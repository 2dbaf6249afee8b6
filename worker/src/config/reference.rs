//! `docs/configuration.md`, made of the table of keys.

use std::fmt::Write;

use super::keys::{Key, SECTIONS, Section};

const HEAD: &str = "# Configuration

Generated from the table in `worker/src/config/keys.rs`; `cargo test -p corelane-worker --test config`
fails when it differs, and rewrites it with `CORELANE_REWRITE=1`.

`corelane-worker --config FILE` reads a TOML file. Every key has a default except where it says *required*.
Unknown keys and wrong values are refused, all of them at once, each with file, line and column.
`--check-config` does that and no more. Flags override the file: `--device`, `--size`, `--mount`, `--mount-root`, `--cores`,
`--dram`, `--listen`, `--control`, `--operations`, `--spin`, `--insecure`, `--log`.

Sizes: `4096`, `512M`, `64MiB`, `1.5G` (powers of 1024), `8GB` (powers of 1000). Durations: `50us`, `10ms`, `30s`, `5m`.

Keys marked *reload* take effect on SIGHUP; the log then lists what changed, and what needs a restart.
A file with a mistake changes nothing.
";

/// The page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for section in SECTIONS {
        write_section(&mut page, section);
    }
    page
}

fn write_section(page: &mut String, section: &Section) {
    let title = match (section.name, section.is_list) {
        ("", _) => "Top level".to_owned(),
        (name, false) => format!("[{name}]"),
        (name, true) => format!("[[{name}]]"),
    };
    let _ = write!(page, "\n## {title}\n\n{}\n", section.doc);
    for key in section.keys {
        write_key(page, key);
    }
}

fn write_key(page: &mut String, key: &Key) {
    let default = match key.default {
        _ if key.doc.contains("Required.") => "required".to_owned(),
        "" => "not set".to_owned(),
        text => format!("`{text}`"),
    };
    let reload = if key.is_reloadable {
        " · *reload*"
    } else {
        ""
    };
    let expected = key.kind.expected();
    let _ = write!(
        page,
        "\n### `{}`\n{expected} · default: {default}{reload}\n\n{}\n",
        key.name, key.doc
    );
}
