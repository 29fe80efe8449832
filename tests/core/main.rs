//! The core without a real model: data suites, invariants, exactness on a scripted target.

mod exactness;
mod layering;
mod steady_state;
mod suite;
