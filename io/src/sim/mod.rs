//! The deterministic backend: one thread, virtual time, and every decision from one seed.
//!
//! A [`World`] owns devices, a network, a clock and the tasks of any number of cores. The same seed
//! and the same program give the same run, step by step; [`World::trace_hash`] proves it. Devices
//! outlive cores, so a test can crash the cores, start new ones and look at what is left.
//!
//! The invariant: nothing here reads the wall clock, the address of anything, a thread or the
//! order of a hash map. What happens is a function of the seed, the [`Faults`] and the program.
//!
//! It must not know what runs on it: faults are injected below the [`Io`](crate::Io) traits only.
//!
//! ```
//! use corelane_io::sim::{Faults, World};
//! use corelane_io::{Device, Io};
//!
//! let world = World::new(7, Faults::none());
//! world.add_device("/dev/nvme0", 1 << 20);
//! let io = world.core();
//! let device = world.block_on(async { io.open_device("/dev/nvme0".as_ref()).await });
//! assert_eq!(device.unwrap().unwrap().geometry().length, 1 << 20);
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `world` | [`World`]: the loop over all cores, crashes |
//! | `inspection` | what a test can look at and break from outside |
//! | `state` | what all handles of a world share |
//! | `handle` | [`SimIo`]: the [`Io`](crate::Io) of one core |
//! | `tasks` | runnable tasks and the seeded choice among them |
//! | `operations` | timers and device operations in flight, the event queue |
//! | `device`, `disk` | the device handle; the bytes behind it and how they break |
//! | `net`, `pipe` | listeners and streams; the bytes on their way |
//! | `faults` | rates, and the log of what was injected |
//! | `trace` | the hash and the tail of what happened |
//! | `random` | the generator that decides everything |
//! | `seeds` | running a test over many seeds, replaying one |

mod device;
mod disk;
mod faults;
mod handle;
mod inspection;
mod net;
mod operations;
mod pipe;
mod random;
mod seeds;
mod state;
mod tasks;
mod trace;
mod world;

pub use device::SimDevice;
pub use faults::{Fault, Faults, Hang, Injection};
pub use handle::SimIo;
pub use net::{Received, SimListener, SimStream};
pub use random::Prng;
pub use seeds::{check_seeds, replay_command, seeds};
pub use world::{Crash, CrashPoint, CrashSwitch, Crashed, TURNS_MAX_DEFAULT, World};
