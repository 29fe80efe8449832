//! What makes a row cheap on a CPU: products of quantised weights with a few columns, and attention of a few rows, each at
//! the speed of the memory and **bit-identical** for one row at a time and for many.
//!
//! Pure Rust, chosen at run time by instruction set ([`Features::best`]). x86-64 with AVX2 is the least; elsewhere (aarch64
//! too: its assembly cannot be checked on the machines at hand) llama.cpp's own kernels run.
#![allow(unsafe_code)]

pub mod attention;
mod half;
mod isa;
#[cfg(test)]
mod memory;
mod products;

pub use isa::{Feature, Features, Isa};
pub use products::{Weight, WeightType};
