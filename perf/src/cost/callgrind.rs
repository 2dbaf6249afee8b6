//! Instructions per hit, from DRAM and from the device, and through the S3 face: callgrind counts a script of two lengths,
//! and the difference is what the further hits cost.
//!
//! Costs are told apart by source file, which callgrind names also for inlined code: what stands
//! in the worker, the codecs and the buffers is the worker's; the simulator, the client of
//! the script and the kernel's side are not. Code of no file of ours (the standard library,
//! `memcpy`) counts for whoever called it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::script::Script;

/// Source files that are the worker's; the first match decides.
const OURS: [(&str, bool); 7] = [
    ("io/src/sim/", false),
    ("perf/src/", false),
    ("worker/src/", true),
    ("rpc-schema/src/", true),
    ("s3/src/", true),
    ("placement/src/", true),
    ("io/src/", true),
];

/// Functions that are named, dearest first.
const FUNCTIONS_SHOWN: usize = 12;

/// Whether valgrind is installed.
///
/// # Errors
/// How to install it.
pub fn check_valgrind() -> Result<(), String> {
    let found = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::piped())
        .output();
    if found.is_ok_and(|output| output.status.success()) {
        Ok(())
    } else {
        Err("valgrind is missing; install it: apt-get install valgrind".to_owned())
    }
}

/// Instructions of one hit.
#[derive(Clone, Debug)]
pub struct PerHit {
    /// The worker's.
    pub ours: f64,
    /// With those of the simulator and the script's client.
    pub all: f64,
    /// Hits that were counted.
    pub hits: f64,
    /// The worker's by function, dearest first.
    pub functions: Vec<(f64, String)>,
}

impl PerHit {
    /// Counts hits of `script`: the difference of two runs of `lengths` hits.
    ///
    /// # Errors
    /// When valgrind or the script under it fails.
    pub fn count(script: Script, lengths: [u64; 2]) -> Result<PerHit, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut costs = Vec::new();
        let mut functions = Vec::new();
        for hits in lengths {
            let out = directory.path().join(format!("callgrind-{hits}.out"));
            count(script, hits, &out)?;
            let text = std::fs::read_to_string(&out)
                .map_err(|error| format!("{}: {error}", out.display()))?;
            let profile = Profile::read(&text)?;
            costs.push(profile.cost());
            functions.push(profile.by_function());
        }
        let hits = (lengths[1] - lengths[0]) as f64;
        let mut functions: Vec<(f64, String)> = functions[1]
            .iter()
            .map(|(name, cost)| {
                let before = functions[0].get(name).copied().unwrap_or(0.0);
                ((cost - before) / hits, name.clone())
            })
            .collect();
        functions.sort_by(|left, right| right.0.total_cmp(&left.0));
        Ok(PerHit {
            ours: (costs[1].ours as f64 - costs[0].ours as f64) / hits,
            all: (costs[1].all as f64 - costs[0].all as f64) / hits,
            hits,
            functions,
        })
    }

    /// The count and the dearest functions, a line each.
    pub fn notes(&self, what: &str) -> impl Iterator<Item = String> {
        let PerHit {
            ours, all, hits, ..
        } = self;
        let summary = format!(
            "{what}: {ours:.0}; worker on sim, 32 in flight, {hits} hits counted; {all:.0} with simulator and client"
        );
        let shown = self.functions.iter().take(FUNCTIONS_SHOWN);
        let functions = shown.map(move |(cost, name)| format!("{what}: {cost:.0} in {name}"));
        std::iter::once(summary).chain(functions)
    }
}

/// Runs the script under callgrind.
fn count(script: Script, hits: u64, out: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=yes",
            "--compress-pos=no",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["cost-script", "--hits", &hits.to_string(), "--script"])
        .arg(script.name())
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    Err(format!(
        "the script under valgrind failed ({}): {}",
        output.status,
        last.join(" / ")
    ))
}

/// Instructions of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Costs {
    ours: u64,
    all: u64,
}

/// Whose a piece of code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Worker,
    Others,
    Library,
}

fn owner_of(file: &str) -> Owner {
    match OURS.iter().find(|(part, _)| file.contains(part)) {
        Some((_, true)) => Owner::Worker,
        Some((_, false)) => Owner::Others,
        None => Owner::Library,
    }
}

/// What callgrind wrote: costs by function and file, calls between functions.
#[derive(Debug, Default)]
struct Profile {
    /// File of each function.
    home: HashMap<String, Owner>,
    /// Instructions of functions by the owner of the file that the lines stand in.
    own: HashMap<(String, Owner), u64>,
    /// Inclusive instructions of calls, by caller, owner of the calling line, and callee.
    calls: HashMap<(String, Owner, String), u64>,
    all: u64,
}

impl Profile {
    /// Reads the format that the Callgrind manual describes, as far as it is used here.
    fn read(text: &str) -> Result<Profile, String> {
        let mut profile = Profile::default();
        let mut files = Names::default();
        let mut functions = Names::default();
        let (mut function, mut owner, mut callee) = (String::new(), Owner::Library, String::new());
        let mut is_call = false;
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=') {
                match key {
                    "fl" | "fi" | "fe" => owner = owner_of(&files.resolve(value)),
                    "fn" => {
                        function = functions.resolve(value);
                        profile.home.insert(function.clone(), owner);
                    }
                    "cfi" | "cfl" => drop(files.resolve(value)),
                    "cfn" => callee = functions.resolve(value),
                    "calls" => is_call = true,
                    _ => {}
                }
                continue;
            }
            let mut fields = line.split_ascii_whitespace();
            let (Some(position), Some(cost)) = (fields.next(), fields.next()) else {
                continue;
            };
            if !position
                .starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-' || c == '*')
            {
                continue;
            }
            let cost: u64 = cost
                .parse()
                .map_err(|_| format!("callgrind's line `{line}` is not a cost"))?;
            if std::mem::take(&mut is_call) {
                *profile
                    .calls
                    .entry((function.clone(), owner, callee.clone()))
                    .or_default() += cost;
            } else {
                *profile.own.entry((function.clone(), owner)).or_default() += cost;
                profile.all += cost;
            }
        }
        if profile.all == 0 {
            return Err("callgrind wrote no costs".to_owned());
        }
        Ok(profile)
    }

    fn cost(&self) -> Costs {
        let ours: f64 = self.by_function().values().sum();
        Costs {
            ours: ours.round() as u64,
            all: self.all,
        }
    }

    /// The worker's instructions by the function that executed them.
    fn by_function(&self) -> HashMap<String, f64> {
        let shares = self.library_shares();
        let mut costs = HashMap::new();
        for ((function, owner), cost) in &self.own {
            let share = match self.charged(function, *owner) {
                Owner::Worker => 1.0,
                Owner::Others => 0.0,
                Owner::Library => shares.get(function.as_str()).copied().unwrap_or(0.0),
            };
            if share > 0.0 {
                // Without the number, which another run may give to another function.
                let name = function
                    .rsplit_once('(')
                    .map_or(function.as_str(), |(name, _)| name);
                *costs.entry(name.to_owned()).or_default() += share * *cost as f64;
            }
        }
        costs
    }

    fn home(&self, function: &str) -> Owner {
        self.home.get(function).copied().unwrap_or(Owner::Library)
    }

    /// Lines of the standard library inlined into a function are that function's.
    fn charged(&self, function: &str, owner: Owner) -> Owner {
        if owner == Owner::Library {
            self.home(function)
        } else {
            owner
        }
    }

    /// The part of each library function that was done for the worker: by the inclusive costs of
    /// the calls to it, where callers in the library pass on their own part.
    fn library_shares(&self) -> HashMap<&str, f64> {
        let mut shares: HashMap<&str, f64> = HashMap::new();
        // Chains of library calls are a handful deep; recursion converges far sooner than this.
        for _ in 0..64 {
            let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
            for ((caller, owner, callee), cost) in &self.calls {
                if self.home(callee) != Owner::Library || caller == callee {
                    continue;
                }
                let share = match self.charged(caller, *owner) {
                    Owner::Worker => 1.0,
                    Owner::Others => 0.0,
                    Owner::Library => shares.get(caller.as_str()).copied().unwrap_or(0.0),
                };
                let (ours, all) = sums.entry(callee.as_str()).or_default();
                *ours += share * *cost as f64;
                *all += *cost as f64;
            }
            let next = sums
                .into_iter()
                .map(|(callee, (ours, all))| (callee, if all > 0.0 { ours / all } else { 0.0 }));
            let next: HashMap<&str, f64> = next.collect();
            let settled = next.iter().all(|(name, share)| {
                shares
                    .get(name)
                    .is_some_and(|old| (old - share).abs() < 1e-6)
            });
            shares = next;
            if settled {
                break;
            }
        }
        shares
    }
}

/// Names that callgrind writes once as `(number) name` and later as `(number)`.
#[derive(Debug, Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn resolve(&mut self, text: &str) -> String {
        let Some((number, name)) = text.split_once(')') else {
            return text.to_owned();
        };
        let name = name.trim_start();
        if name.is_empty() {
            return self.0.get(number).cloned().unwrap_or_default();
        }
        // Functions of one name in several objects are told apart by their number.
        let unique = format!("{name}{number})");
        self.0.insert(number.to_owned(), unique.clone());
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_go_to_the_file_they_stand_in_and_library_code_to_its_caller() {
        let text = "version: 1\npositions: line\nevents: Ir\n\n\
            fl=(1) /src/worker/src/shard/read.rs\nfn=(1) read\n10 100\n\
            fi=(2) /rustc/core/num.rs\n7 10\n\
            fi=(3) /src/io/src/sim/net.rs\n8 1000\nfe=(1)\n\
            cfi=(4) ??\ncfn=(2) memcpy\ncalls=1 0\n11 40\n\
            cfi=(4)\ncfn=(4) poll\ncalls=1 0\n13 170\n\
            cfi=(5) /src/perf/src/gate/script.rs\ncfn=(3) client\ncalls=1 0\n12 5000\n\n\
            fl=(4)\nfn=(2)\n0 60\n\n\
            fl=(4)\nfn=(4)\n0 30\ncfi=(6) /src/worker/src/shard/fill.rs\ncfn=(5) fill\ncalls=1 0\n0 140\n\n\
            fl=(6)\nfn=(5)\n0 140\n\n\
            fl=(5)\nfn=(3)\n1 500\ncfi=(4)\ncfn=(2)\ncalls=1 0\n2 20\n";
        let profile = Profile::read(text).expect("a profile");
        let expected = Costs {
            // What the library calls back is counted where it stands, once.
            ours: 100 + 10 + 40 + 30 + 140,
            all: 100 + 10 + 1000 + 60 + 30 + 140 + 500,
        };
        assert_eq!(profile.cost(), expected);
    }

    #[test]
    fn an_empty_profile_is_an_error() {
        assert!(Profile::read("version: 1\n").is_err());
    }

    #[test]
    fn the_simulator_is_not_the_worker() {
        assert_eq!(owner_of("/w/io/src/sim/net.rs"), Owner::Others);
        assert_eq!(owner_of("/w/io/src/stream.rs"), Owner::Worker);
        assert_eq!(owner_of("/rustc/alloc/vec.rs"), Owner::Library);
    }
}
