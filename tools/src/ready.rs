//! What a worker says on standard output once it serves, one line a listener:
//!
//! ```text
//! data 127.0.0.1:7410 shard 0 cpu 1
//! control 127.0.0.1:7400
//! operations http://127.0.0.1:7401/
//! serving: worker 6f3c… epoch 2, 61 blocks recovered in 0.004 s
//! ```

use std::io::BufRead;

/// Where a worker listens, and what came back from its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Data-plane address of each shard.
    pub data: Vec<String>,
    /// Control plane.
    pub control: String,
    /// Operations port.
    pub operations: String,
    /// Blocks that came back from the devices.
    pub recovered_blocks: u64,
    /// How long that took.
    pub recovery_seconds: f64,
}

impl Ready {
    /// Reads lines until the one that says that the worker serves; nothing if it never comes.
    pub fn read(lines: impl BufRead) -> Option<Ready> {
        let mut ready = Ready::default();
        for line in lines.lines() {
            let line = line.ok()?;
            let (word, rest) = line.split_once(' ')?;
            match word {
                "data" => ready.data.push(rest.split(' ').next()?.to_owned()),
                "control" => rest.clone_into(&mut ready.control),
                "operations" => rest.trim_end_matches('/').clone_into(&mut ready.operations),
                "serving:" => {
                    let (_, recovered) = rest.split_once(", ")?;
                    let mut words = recovered.split(' ');
                    ready.recovered_blocks = words.next()?.parse().ok()?;
                    ready.recovery_seconds = words.nth(3)?.parse().ok()?;
                    return (!ready.data.is_empty() && !ready.control.is_empty()).then_some(ready);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "data 127.0.0.1:7410 shard 0 cpu 1\n\
                         data 127.0.0.1:7411 shard 1 cpu 2\n\
                         control 127.0.0.1:7400\n\
                         operations http://127.0.0.1:7401/\n\
                         serving: worker a-b epoch 2, 61 blocks recovered in 0.004 s\n";

    #[test]
    fn addresses_and_recovery_are_read_from_the_lines() {
        let ready = Ready::read(LINES.as_bytes()).expect("it serves");
        assert_eq!(ready.data, ["127.0.0.1:7410", "127.0.0.1:7411"]);
        assert_eq!(ready.control, "127.0.0.1:7400");
        assert_eq!(ready.operations, "http://127.0.0.1:7401");
        assert_eq!(
            (ready.recovered_blocks, ready.recovery_seconds),
            (61, 0.004)
        );
    }

    #[test]
    fn a_worker_that_ends_before_it_serves_is_not_ready() {
        let unfinished = LINES.split_inclusive('\n').take(4).collect::<String>();
        assert_eq!(Ready::read(unfinished.as_bytes()), None);
        assert_eq!(Ready::read("".as_bytes()), None);
    }
}
