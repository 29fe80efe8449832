//! What happened: counts and times of one generation, or of many added up.

use std::fmt;
use std::ops::AddAssign;

use crate::config::MAX_DRAFT_ROWS;
use crate::representative::Source;

/// Counts and times. All times in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// Prompt tokens decoded, and those taken over from an earlier call with the same beginning.
    pub n_prompt: u64,
    /// Prompt tokens that were in memory already.
    pub n_prompt_reused: u64,
    /// Time for the prompt, the first token's sampling included.
    pub prompt_ns: u64,
    /// Rounds after the prompt.
    pub n_rounds: u64,
    /// Rounds that drafted at least one node.
    pub n_draft_rounds: u64,
    /// Tokens emitted by rounds, bonus tokens included; the token sampled at the end of the prompt is not among them.
    pub n_tokens: u64,
    /// Nodes drafted.
    pub n_drafted: u64,
    /// Nodes accepted.
    pub n_accepted: u64,
    /// Accepted nodes that were not the first child of their parent: only a tree finds these.
    pub n_accepted_aside: u64,
    /// Times that a full context was shifted.
    pub n_shifts: u64,
    /// Positions that were computed a second time, alone, because the two best logits lay within the noise of a batch's shape.
    pub n_rechecked: u64,
    /// Wall time of all rounds.
    pub round_ns: u64,
    /// Of it: predicting, searching and laying out.
    pub draft_ns: u64,
    /// Of it: the target's decode calls.
    pub decode_ns: u64,
    /// Of it: sampling visited rows.
    pub sample_ns: u64,
    /// Of it: the target's memory operations that keep the accepted path.
    pub keep_ns: u64,
    /// Of it: learning.
    pub learn_ns: u64,
    /// Rounds by number of accepted nodes.
    #[cfg_attr(feature = "serde", serde(serialize_with = "without_tail"))]
    pub rounds_by_accepted: Histogram,
    /// Rounds by number of nodes drafted.
    #[cfg_attr(feature = "serde", serde(serialize_with = "without_tail"))]
    pub rounds_by_drafted: Histogram,
    /// Nodes drafted and accepted by depth; index 0 is unused.
    #[cfg_attr(feature = "serde", serde(serialize_with = "without_tail"))]
    pub by_depth: [Tally; MAX_DRAFT_ROWS],
    /// Nodes drafted and accepted by source, in the order of [`Source::ALL`].
    pub by_source: [Tally; Source::COUNT],
}

/// Counts of rounds by a number of nodes.
pub type Histogram = [u64; MAX_DRAFT_ROWS];

/// Nodes drafted, and how many of them were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Tally {
    /// Nodes drafted.
    pub drafted: u64,
    /// Nodes accepted.
    pub accepted: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            n_prompt: 0,
            n_prompt_reused: 0,
            prompt_ns: 0,
            n_rounds: 0,
            n_draft_rounds: 0,
            n_tokens: 0,
            n_drafted: 0,
            n_accepted: 0,
            n_accepted_aside: 0,
            n_shifts: 0,
            n_rechecked: 0,
            round_ns: 0,
            draft_ns: 0,
            decode_ns: 0,
            sample_ns: 0,
            keep_ns: 0,
            learn_ns: 0,
            rounds_by_accepted: [0; MAX_DRAFT_ROWS],
            rounds_by_drafted: [0; MAX_DRAFT_ROWS],
            by_depth: [Tally::default(); MAX_DRAFT_ROWS],
            by_source: [Tally::default(); Source::COUNT],
        }
    }
}

impl Stats {
    /// Tokens per round, bonus included; 0 before the first round.
    pub fn tokens_per_round(&self) -> f64 {
        ratio(self.n_tokens, self.n_rounds)
    }

    /// Nodes drafted per round.
    pub fn nodes_per_round(&self) -> f64 {
        ratio(self.n_drafted, self.n_rounds)
    }

    /// Prompt tokens decoded per second.
    pub fn prompt_per_second(&self) -> f64 {
        ratio(self.n_prompt, self.prompt_ns) * 1e9
    }

    /// Tokens emitted per second of rounds.
    pub fn tokens_per_second(&self) -> f64 {
        ratio(self.n_tokens, self.round_ns) * 1e9
    }

    /// Share of the rounds' time that drafting and learning took.
    pub fn overhead_share(&self) -> f64 {
        ratio(self.draft_ns + self.learn_ns, self.round_ns)
    }
}

impl AddAssign<&Stats> for Stats {
    fn add_assign(&mut self, other: &Stats) {
        let pairs = [
            (&mut self.n_prompt, other.n_prompt),
            (&mut self.n_prompt_reused, other.n_prompt_reused),
            (&mut self.prompt_ns, other.prompt_ns),
            (&mut self.n_rounds, other.n_rounds),
            (&mut self.n_draft_rounds, other.n_draft_rounds),
            (&mut self.n_tokens, other.n_tokens),
            (&mut self.n_drafted, other.n_drafted),
            (&mut self.n_accepted, other.n_accepted),
            (&mut self.n_accepted_aside, other.n_accepted_aside),
            (&mut self.n_shifts, other.n_shifts),
            (&mut self.n_rechecked, other.n_rechecked),
            (&mut self.round_ns, other.round_ns),
            (&mut self.draft_ns, other.draft_ns),
            (&mut self.decode_ns, other.decode_ns),
            (&mut self.sample_ns, other.sample_ns),
            (&mut self.keep_ns, other.keep_ns),
            (&mut self.learn_ns, other.learn_ns),
        ];
        for (own, others) in pairs {
            *own += others;
        }
        for index in 0..MAX_DRAFT_ROWS {
            self.rounds_by_accepted[index] += other.rounds_by_accepted[index];
            self.rounds_by_drafted[index] += other.rounds_by_drafted[index];
            self.by_depth[index].add(other.by_depth[index]);
        }
        for (own, others) in self.by_source.iter_mut().zip(other.by_source) {
            own.add(others);
        }
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }
}

impl fmt::Display for Stats {
    /// One line: rates, tokens and nodes per round, acceptance, and what drafting itself costs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "prompt {:.1} t/s, generation {:.1} t/s, {:.2} tokens per round, {:.2} nodes per round, {}/{} accepted, {:.1} % of the time spent drafting",
            self.prompt_per_second(),
            self.tokens_per_second(),
            self.tokens_per_round(),
            self.nodes_per_round(),
            self.n_accepted,
            self.n_drafted,
            self.overhead_share() * 100.0
        )?;
        if self.n_rechecked > 0 {
            write!(f, ", {} ties computed again alone", self.n_rechecked)?;
        }
        if self.n_shifts > 0 {
            write!(f, ", context shifted {} times", self.n_shifts)?;
        }
        Ok(())
    }
}

/// Writes an array without the defaults at its end: deep nodes are rare.
#[cfg(feature = "serde")]
fn without_tail<T: serde::Serialize + PartialEq + Default, S: serde::Serializer>(
    values: &[T; MAX_DRAFT_ROWS],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let n = values.iter().rposition(|value| *value != T::default()).map_or(0, |last| last + 1);
    serializer.collect_seq(&values[..n])
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_add_and_an_empty_record_prints() {
        let mut sum = Stats::default();
        assert!(sum.to_string().contains("0.00 tokens per round"));
        let mut one = Stats { n_rounds: 2, n_tokens: 5, round_ns: 1_000_000_000, ..Stats::default() };
        one.by_source[1] = Tally { drafted: 3, accepted: 2 };
        sum += &one;
        sum += &one;
        assert_eq!((sum.tokens_per_round(), sum.tokens_per_second()), (2.5, 5.0));
        assert_eq!(sum.by_source[1], Tally { drafted: 6, accepted: 4 });
    }
}
