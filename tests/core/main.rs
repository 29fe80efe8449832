//! The core without a real model: data suites, invariants, exactness on a scripted target.

mod api;
mod exact_mode;
mod exactness;
mod faults;
#[path = "../support/faulty.rs"]
#[allow(unreachable_pub)]
mod faulty;
mod formats;
mod fuzz_regressions;
mod layering;
mod limits;
mod memory_files;
mod shared_calls;
mod steady_state;
mod suite;
mod threads;
