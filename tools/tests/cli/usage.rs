//! Mistakes, and the codes that scripts branch on.

use crate::harness::{command, run};

/// A port of loopback that nobody listens on.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_wrong_command_line_ends_with_2() {
    for line in [
        &["no-such-command"][..],
        &["stat"],
        &["lookup"],
        &["lookup", "/x", "--format", "xml"],
        &["lookup", "/x", "--scan-bytes-max", "some"],
        &["mount", "no-path"],
        &["mount", "/data=file:///x", "--block-size", "many"],
        &["device", "format", "/dev/null", "--size", "a lot"],
        &["demo", "--scale", "100"],
        &["status", "--timeout", "0"],
        &["serve", "--device", "x", "--dram", "little"],
    ] {
        let outcome = run(line);
        assert_eq!(outcome.code, 2, "{line:?}: {}", outcome.stderr);
        assert!(outcome.stdout.is_empty(), "{line:?}: {}", outcome.text());
    }
}

#[test]
fn a_worker_that_is_not_there_ends_with_3_and_says_how_to_start_one() {
    for line in [
        &["status", "--control", NOBODY][..],
        &["ls", "/", "--control", NOBODY],
        &["load", "/data", "--control", NOBODY],
        &["cat", "/data/x", "--address", NOBODY],
        &["lookup", "/data/x", "--address", NOBODY],
        &["lookup", "/data/", "--control", NOBODY],
    ] {
        let outcome = run(line);
        assert_eq!(outcome.code, 3, "{line:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("corelane serve"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn errors_are_json_too_when_asked_for() {
    let outcome = run(&["status", "--json", "--control", NOBODY]);
    let error: serde_json::Value = serde_json::from_str(&outcome.stderr).expect("JSON");
    assert_eq!(error["error"]["kind"], "unreachable");
    assert!(
        error["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains(NOBODY))
    );
}

#[test]
fn the_help_lists_every_exit_code() {
    let help = run(&["--help"]).text();
    for code in 0..=6 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code}: {help}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = run(&["completions", shell]);
        assert_eq!(outcome.code, 0);
        assert!(outcome.text().contains("unmount"), "{shell}");
        assert!(outcome.text().contains("scan-bytes-max"), "{shell}");
    }
}

#[test]
fn a_token_file_that_is_not_there_is_the_callers_mistake() {
    let outcome = run(&[
        "status",
        "--token-file",
        "/no/such/file",
        "--control",
        NOBODY,
    ]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
}

#[test]
fn the_address_may_come_from_the_environment() {
    let output = command(&["status"])
        .env("CORELANE_CONTROL", NOBODY)
        .output()
        .expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains(NOBODY));
}
