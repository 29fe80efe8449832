//! Adaptive draft-and-verify decoding (ADED) for llama.cpp.

pub mod batch;
pub mod draft;
pub mod error;
pub mod kernels;
pub mod model;
pub mod sampling;
pub mod token;

pub use error::Error;
pub use token::{NodeId, Pos, RowId, Slot, Token};
