//! Where the threads of the fetch runtime run: on their own CPUs, away from the data cores.

use corelane_io::{IoError, IoErrorKind, cores};

/// CPUs and niceness of a group of threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// CPUs that the threads may use; empty leaves them where the process may run.
    pub cpus: Vec<usize>,
    /// Niceness, from 0 to 19; 0 leaves it as it is.
    pub nice: i32,
}

impl Placement {
    /// Tries the placement out on a thread of its own.
    ///
    /// # Errors
    /// When the system refuses it; with what to change.
    pub fn check(&self) -> Result<(), IoError> {
        let placement = self.clone();
        std::thread::Builder::new()
            .name("fetch-probe".to_owned())
            .spawn(move || placement.apply())
            .map_err(|error| {
                IoError::from_std(
                    &error,
                    "cannot start a thread; raise the limit on processes",
                )
            })?
            .join()
            .expect("the probe does not panic")
    }

    /// Places the calling thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn apply(&self) -> Result<(), IoError> {
        if !self.cpus.is_empty() {
            // SAFETY: a CPU set is plain bits, for which all zeroes is the empty set.
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            for &cpu in &self.cpus {
                if cpu >= libc::CPU_SETSIZE as usize {
                    let error = IoError::new(
                        IoErrorKind::InvalidInput,
                        "a fetch thread's CPU number is too large",
                    );
                    return Err(error.with("cpu", cpu));
                }
                // SAFETY: `cpu` is below the size of the set, checked above.
                unsafe { libc::CPU_SET(cpu, &mut set) };
            }
            // SAFETY: the set is valid for the size given; 0 is the calling thread.
            let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
            if result != 0 {
                let error = std::io::Error::last_os_error();
                return Err(IoError::from_std(
                    &error,
                    "cannot pin fetch threads; name CPUs that this process may use",
                )
                .with("cpus", format!("{:?}", self.cpus)));
            }
        }
        if self.nice != 0 {
            cores::give_way(self.nice)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_placed_where_it_may_run_and_refused_elsewhere() {
        Placement {
            cpus: vec![0],
            nice: 5,
        }
        .check()
        .expect("CPU 0 exists");
        let error = Placement {
            cpus: vec![1 << 20],
            nice: 0,
        }
        .check()
        .expect_err("no such CPU");
        assert!(error.to_string().contains("cpu 1048576"), "{error}");
    }
}
