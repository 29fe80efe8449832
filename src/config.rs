//! Every tunable, as plain data. The defaults are the tuned automatic mode; nobody has to set anything.

use crate::error::Error;
use crate::representative::Source;

/// When to draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum DraftMode {
    /// Whenever the measured times say that it pays; nothing otherwise.
    #[default]
    Auto,
    /// At least one node in every round for which anything is known.
    On,
    /// Never: plain decoding.
    Off,
}

/// How the tree is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum SearchKind {
    /// Expansion in order of survival probability: exact for a budget of rows.
    #[default]
    BestFirst,
    /// Monte Carlo tree search over the same probabilities, with an exploration bonus for contexts that were hardly ever verified.
    Mcts,
    /// The published algorithm with its constants, update rule, score and cut, seeded. Fixed tree size, whatever it costs.
    Reference,
}

/// What to draft.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftConfig {
    /// When to draft. Default: `Auto`.
    pub mode: DraftMode,
    /// How to search. Default: `BestFirst`.
    pub search: SearchKind,
    /// Nodes per round, 1..=63; `None` (the default) decides by the measured cost of a row, round by round.
    pub budget: Option<u16>,
    /// Deepest node, 1..=63. Default 63: a certain copy may be as long as the largest batch.
    pub max_depth: u16,
    /// Simulations per round of `Mcts`, 1..=4096. Default 48.
    pub iterations: u16,
    /// Seed of searches that roll dice (`Reference`).
    pub seed: u64,
}

impl Default for DraftConfig {
    fn default() -> Self {
        Self {
            mode: DraftMode::Auto,
            search: SearchKind::BestFirst,
            budget: None,
            max_depth: 63,
            iterations: 48,
            seed: 0,
        }
    }
}

/// Sizes of the learnt tables; each is a cap that is never passed.
#[derive(Clone, Debug, PartialEq)]
pub struct RepresentativeConfig {
    /// Contexts of counted successors, 64 bytes each. Default 65,536 (4 MiB).
    pub overlay_contexts: usize,
    /// Contexts of remembered logits rows, 64 bytes each. Default 131,072 (8 MiB).
    pub recall_contexts: usize,
    /// Tokens of earlier generations that can be copied from, about 16 bytes each. Default 131,072 (2 MiB).
    pub log_tokens: usize,
    /// Sources that are switched off. Default: none.
    pub without: Vec<Source>,
}

impl Default for RepresentativeConfig {
    fn default() -> Self {
        Self { overlay_contexts: 1 << 16, recall_contexts: 1 << 17, log_tokens: 1 << 17, without: Vec::new() }
    }
}

/// All tunables.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Config {
    /// What to draft.
    pub draft: DraftConfig,
    /// What is learnt.
    pub representative: RepresentativeConfig,
}

/// Most rows of a decode call that drafts may take, the roots included.
pub const MAX_DRAFT_ROWS: usize = 64;

impl Config {
    /// Checks every range.
    ///
    /// # Errors
    /// A usage error that names the value and its range.
    pub fn validate(&self) -> Result<(), Error> {
        let draft = &self.draft;
        let most = MAX_DRAFT_ROWS as u16 - 1;
        check("draft budget (nodes per round)", draft.budget.unwrap_or(1).into(), 1, most.into())?;
        check("draft depth", draft.max_depth.into(), 1, most.into())?;
        check("search iterations", draft.iterations.into(), 1, 4096)?;
        let tables = &self.representative;
        check("overlay contexts", tables.overlay_contexts, 16, 1 << 26)?;
        check("recall contexts", tables.recall_contexts, 16, 1 << 26)?;
        check("log tokens", tables.log_tokens, 16, 1 << 28)
    }
}

fn check(name: &str, value: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::usage(format!("{name} is {value}; give a number from {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_errors_name_the_range() {
        let mut config = Config::default();
        config.validate().expect("defaults are in range");
        config.draft.budget = Some(64);
        let text = config.validate().expect_err("one too many").to_string();
        assert_eq!(text, "draft budget (nodes per round) is 64; give a number from 1 to 63");
    }
}
