//! The four kinds of integer, as types of their own so that they cannot be mixed.

/// A vocabulary entry of the target model. llama.cpp's `llama_token` is the same number as `i32`; it is never negative here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
#[repr(transparent)]
pub struct Token(pub u32);

/// A position in a sequence, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Pos(pub u32);

/// An entry of a [`DraftTree`](crate::draft::DraftTree), counted from 0 in the tree's order. The root is no node: it is the last
/// confirmed token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct NodeId(pub u32);

/// An entry of a [`DraftBatch`](crate::batch::DraftBatch), counted from 0 over all sequences of the decode call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct RowId(pub u32);

/// One of the sequences that share a target model's memory, counted from 0. A program that answers one prompt at a time uses slot 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Slot(pub u32);
