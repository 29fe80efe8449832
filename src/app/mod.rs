//! The program: one file for each subcommand, and what they share.

pub(crate) mod answer;
pub(crate) mod argv;
pub(crate) mod bench;
pub(crate) mod chain;
pub(crate) mod chat;
pub(crate) mod doctor;
pub(crate) mod failure;
pub(crate) mod flags;
pub(crate) mod inspect;
pub(crate) mod interrupt;
pub(crate) mod learn;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod memory;
pub(crate) mod models;
pub(crate) mod output;
pub(crate) mod prompt;
pub(crate) mod quantize;
pub(crate) mod replay;
pub(crate) mod resolve;
pub(crate) mod run;
pub(crate) mod sha256;
pub(crate) mod version;
