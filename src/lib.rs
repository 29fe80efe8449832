//! Adaptive draft-and-verify decoding (ADED) for llama.cpp.

pub mod error;
pub mod sampling;
pub mod token;

pub use error::Error;
pub use token::{NodeId, Pos, RowId, Slot, Token};
