//! Adaptive draft-and-verify decoding (ADED, arXiv 2407.12021) for llama.cpp: local GGUF models answer faster, with the same output
//! distribution, no training and no second model.
//!
//! Plain decoding runs the whole model once per token. ADED guesses the next tokens from a cheap, adaptive *representative* of the
//! model, arranges the guesses in a tree, lets the model verify the whole tree in one batch, keeps what the model itself would have
//! said, and learns from the result. How many guesses are worth their time is measured while decoding; where none is, none is made.
//!
//! # Layers
//!
//! * The core (no features) needs no C++ toolchain: bring an engine of your own by implementing [`model::TargetModel`].
#![cfg_attr(feature = "llama", doc = "* [`llama`] runs GGUF models by llama.cpp (feature `llama`, on by default).")]
#![cfg_attr(not(feature = "llama"), doc = "* `llama` runs GGUF models by llama.cpp (feature `llama`, on by default).")]
//!
//! # Example
//!
//! The scripted model stands for a real one here.
//!
//! ```
//! use aded::model::ScriptedModel;
//! use aded::sampling::Greedy;
//! use aded::{Config, Request, Session, Token};
//!
//! # fn main() -> Result<(), aded::Error> {
//! let mut session = Session::new(ScriptedModel::new(100, 2, 8.0, 1), Config::default())?;
//! let mut sampler = Greedy;
//! let request = Request { prompt: &[Token(1), Token(2)], n_max: 50, end_tokens: &[] };
//! for token in session.generate(&request, &mut sampler)? {
//!     print!("{} ", token?.0);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # When it does not help
//!
//! On text that is close to random (high temperature without a cut-off), and where a verified row costs nearly a whole step, guesses do
//! not pay. The budget then drafts nothing and decoding is as fast as without this crate, not faster.
//!
//! # Failure
//!
//! Drafting and verifying cannot fail. Errors come from loading, saving, validating and the target; see [`Error`].
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | (none) | the core |
//! | `llama` | the engine for GGUF models; needs cmake, a C++ compiler and libclang to build |
//! | `cli` | the program `aded` |
//! | `hub` | fetching models by name in the program |
//! | `serde` | statistics as data |
//! | `llama-cpp-2` | drafting for programs that decode through the crate llama-cpp-2: `llama_cpp_2` |
//! | `capi` | the C interface, `include/aded.h`; `make lib` builds the libraries |
//! | `metal`, `cuda`, `vulkan`, `rocm` | llama.cpp's GPU backends |

pub mod batch;
pub mod cancel;
#[cfg(feature = "capi")]
mod capi;
pub mod config;
pub mod draft;
pub mod error;
pub mod generation;
pub mod kernels;
pub mod leaf_ids;
#[cfg(feature = "llama")]
pub mod llama;
#[cfg(feature = "llama-cpp-2")]
pub mod llama_cpp_2;
pub mod log;
pub mod model;
pub mod noise;
pub mod replay;
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
pub use generation::{Generation, Session};
pub use sequence::{Finish, Request, Sequence};
pub use stats::Stats;
pub use token::{NodeId, Pos, RowId, Slot, Token};
