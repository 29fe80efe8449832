//! Adaptive draft-and-verify decoding (ADED) for llama.cpp.

pub mod batch;
pub mod cancel;
pub mod config;
pub mod draft;
pub mod error;
pub mod generation;
pub mod kernels;
pub mod model;
pub mod representative;
pub mod round;
pub mod sampling;
pub mod sequence;
pub mod stats;
pub mod token;
pub mod verify;

pub use cancel::CancelFlag;
pub use config::{Config, DraftMode, SearchKind};
pub use error::Error;
pub use generation::{Generation, Request, Session};
pub use sequence::{Finish, Sequence};
pub use stats::Stats;
pub use token::{NodeId, Pos, RowId, Slot, Token};
