//! Running a test over many seeds, and replaying the one that failed.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs only this seed.
pub(super) const REPLAY_VARIABLE: &str = "CORELANE_SIM_SEED";

/// Runs this many seeds instead of a test's own number.
const COUNT_VARIABLE: &str = "CORELANE_SIM_SEEDS";

/// The seeds that a test runs: `0..default_count`, or as many as `CORELANE_SIM_SEEDS` says, or only
/// the one that `CORELANE_SIM_SEED` names.
///
/// # Panics
/// If one of the variables is set and is not a number.
pub fn seeds(default_count: u64) -> impl Iterator<Item = u64> {
    match (number(REPLAY_VARIABLE), number(COUNT_VARIABLE)) {
        (Some(seed), _) => seed..=seed,
        (None, count) => {
            let count = count.unwrap_or(default_count);
            assert!(count > 0, "{COUNT_VARIABLE} must be at least 1");
            0..=count - 1
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    match value.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} must be a number, but is {value:?}"),
    }
}

/// The command that runs the test `test_name` of the running test binary with `seed` alone.
pub fn replay_command(test_name: &str, seed: u64) -> String {
    let profile = if cfg!(debug_assertions) {
        ""
    } else {
        " --release"
    };
    let package = env::var("CARGO_PKG_NAME").ok();
    let target = package
        .as_deref()
        .map_or_else(String::new, target_arguments);
    format!("{REPLAY_VARIABLE}={seed} cargo test{profile}{target} {test_name}")
}

/// Names package and target of the running binary, which cargo calls `target-0123456789abcdef`.
fn target_arguments(package: &str) -> String {
    let binary = env::current_exe().ok();
    let stem = binary
        .as_deref()
        .and_then(|path| path.file_stem())
        .and_then(|stem| stem.to_str());
    match stem
        .and_then(|stem| stem.rsplit_once('-'))
        .map(|(target, _)| target)
    {
        Some(target) if target == package.replace('-', "_") => format!(" -p {package} --lib"),
        Some(target) => format!(" -p {package} --test {target}"),
        None => format!(" -p {package}"),
    }
}

/// Runs `run` for each of [`seeds`]. If one panics, prints the command that replays it.
///
/// # Panics
/// When `run` does.
pub fn check_seeds(test_name: &str, default_count: u64, run: impl Fn(u64)) {
    for seed in seeds(default_count) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!(
                "seed {seed} failed; replay it with\n  {}",
                replay_command(test_name, seed)
            );
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replay_command_names_seed_package_and_test() {
        let command = replay_command("a_test", 17);
        assert!(
            command.starts_with("CORELANE_SIM_SEED=17 cargo test"),
            "{command}"
        );
        assert!(command.contains("-p corelane-io --lib"), "{command}");
        assert!(command.ends_with(" a_test"), "{command}");
    }

    #[test]
    fn the_panic_of_a_seed_goes_on_to_the_test() {
        let failed = catch_unwind(|| check_seeds("a_test", 3, |_| panic!("found")));
        let panic = failed.expect_err("the panic goes on");
        assert_eq!(panic.downcast_ref(), Some(&"found"));
    }
}
