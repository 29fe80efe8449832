//! The core without a real model: data suites, invariants, exactness on a scripted target.

mod exactness;
mod layering;
mod shared_calls;
mod steady_state;
mod suite;
