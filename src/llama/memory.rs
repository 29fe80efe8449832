//! How a memory gives up rows that were not accepted, and the text from which a slot is made anew where a failed call has destroyed
//! what it held.

use std::fmt;

use crate::token::{Slot, Token};

/// How a context's memory gives up rows that were not accepted. Found out by trial when the context is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemoryKind {
    /// A cell for each token: rows are dropped one by one, and branches kept apart.
    Cells,
    /// Cells, of which layers with a sliding window keep the window of so many tokens alone.
    Window(u32),
    /// A state for all tokens together, and a copy of it for each of the last so many tokens.
    Snapshots(u32),
    /// A state without copies: saved before a draft, and run forward again over what was accepted.
    Replay,
}

impl MemoryKind {
    /// True if what the memory holds of a token is not a cell of its own.
    pub fn has_state(self) -> bool {
        matches!(self, Self::Snapshots(_) | Self::Replay)
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cells => write!(f, "a cell per token"),
            Self::Window(n) => write!(f, "a sliding window of {n} tokens"),
            Self::Snapshots(n) => write!(f, "a state with {n} snapshots"),
            Self::Replay => write!(f, "a state, saved and run forward again"),
        }
    }
}

/// What is known of the slots' memory beyond their sequence ids.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) kind: MemoryKind,
    slots: Vec<SlotMemory>,
}

#[derive(Clone, Debug, Default)]
struct SlotMemory {
    /// The committed tokens. Empty where every token has cells that a failed call leaves alone.
    text: Vec<Token>,
    /// The memory no longer holds what `text` says: it must be decoded anew.
    is_lost: bool,
    /// The state before the draft under way.
    saved: Vec<u8>,
}

impl Memory {
    pub(super) fn new(kind: MemoryKind, n_slots: u32) -> Self {
        Self { kind, slots: vec![SlotMemory::default(); n_slots as usize] }
    }

    /// The slots hold nothing.
    pub(super) fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.text.clear();
            slot.is_lost = false;
        }
    }

    /// Tokens were committed to a slot.
    pub(super) fn commit(&mut self, slot: Slot, tokens: &[Token]) {
        if self.kind != MemoryKind::Cells
            && let Some(memory) = self.slots.get_mut(slot.0 as usize)
        {
            memory.text.extend_from_slice(tokens);
        }
    }

    /// A slot holds its first `n_tokens` alone.
    pub(super) fn truncate(&mut self, slot: Slot, n_tokens: u32) {
        if let Some(memory) = self.slots.get_mut(slot.0 as usize) {
            memory.text.truncate(n_tokens as usize);
            memory.is_lost &= n_tokens > 0;
        }
    }

    /// A slot's tokens `keep..keep + discard` are gone.
    pub(super) fn shift(&mut self, slot: Slot, keep: u32, discard: u32) {
        if let Some(memory) = self.slots.get_mut(slot.0 as usize) {
            let end = ((keep + discard) as usize).min(memory.text.len());
            memory.text.drain((keep as usize).min(end)..end);
        }
    }

    /// What a slot held is destroyed.
    pub(super) fn lose(&mut self, slot: Slot) {
        if let Some(memory) = self.slots.get_mut(slot.0 as usize) {
            memory.is_lost = true;
        }
    }

    pub(super) fn is_lost(&self, slot: Slot) -> bool {
        self.slots.get(slot.0 as usize).is_some_and(|memory| memory.is_lost)
    }

    /// A slot holds again what its text says.
    pub(super) fn recovered(&mut self, slot: Slot) {
        if let Some(memory) = self.slots.get_mut(slot.0 as usize) {
            memory.is_lost = false;
        }
    }

    /// The committed tokens, to be given back by [`put_text`](Self::put_text): the context is needed beside them.
    pub(super) fn take_text(&mut self, slot: Slot) -> Vec<Token> {
        self.slots.get_mut(slot.0 as usize).map(|memory| std::mem::take(&mut memory.text)).unwrap_or_default()
    }

    pub(super) fn put_text(&mut self, slot: Slot, text: Vec<Token>) {
        if let Some(memory) = self.slots.get_mut(slot.0 as usize) {
            memory.text = text;
        }
    }

    /// The buffer of a slot's saved state, to be given back by [`put_saved`](Self::put_saved).
    pub(super) fn take_saved(&mut self, slot: Slot) -> Vec<u8> {
        self.slots.get_mut(slot.0 as usize).map(|memory| std::mem::take(&mut memory.saved)).unwrap_or_default()
    }

    pub(super) fn put_saved(&mut self, slot: Slot, saved: Vec<u8>) {
        if let Some(memory) = self.slots.get_mut(slot.0 as usize) {
            memory.saved = saved;
        }
    }
}
