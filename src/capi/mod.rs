//! The C interface (feature `capi`): the functions of `include/aded.h`, which is generated from the documentation here.
//!
//! `core.rs` works without llama.cpp: the host decodes, and `drafter.rs` is what it drives. `llama.rs` is the engine with llama.cpp.
//! Nothing of the method is here; `boundary.rs` alone decides what happens to wrong pointers, panics and calls from several threads.
#![allow(unsafe_code, non_camel_case_types)]
// What a caller has to see to stands in each function's documentation, which becomes the header.
#![allow(clippy::missing_safety_doc)]
// The library has no Rust callers; `extern "C"` makes the functions public.
#![allow(unreachable_pub)]

mod boundary;
mod core;
mod data;
mod drafter;
#[cfg(feature = "llama")]
mod llama;
mod log;
