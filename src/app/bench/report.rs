//! What a measurement says, in the form in which it is kept: the JSON schema is this file, and `schema` is its number.

use std::collections::BTreeMap;

use aded::Stats;
use aded::representative::Source;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measure::{Mode, Run};
use super::prompts::Question;
use super::statistics::{Pair, Ratio, Yield, speedup};

/// Changes whenever a reader of the last one would misread this one.
pub(crate) const SCHEMA: u32 = 1;

/// A whole measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    /// Versions and features of this program and its llama.cpp.
    pub(crate) build: Value,
    /// Processor, threads, system.
    pub(crate) machine: Value,
    pub(crate) model: ModelInfo,
    /// Everything that was asked for.
    pub(crate) settings: Value,
    /// One for each category and mode, and for `all`, `repetitive` and `non-repetitive` answers.
    #[serde(default)]
    pub(crate) groups: Vec<Group>,
    /// What rounds cost, as each drafting mode learnt it; or the curve of `--curve`.
    #[serde(default)]
    pub(crate) cost: Vec<Cost>,
    /// How fast prompts are read; of `--curve`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefill: Vec<Prefill>,
    /// Nodes by the source that was surest of them.
    #[serde(default)]
    pub(crate) sources: Vec<SourceTally>,
    /// Nodes by depth.
    #[serde(default)]
    pub(crate) per_depth: Vec<DepthTally>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ModelInfo {
    pub(crate) file: String,
    pub(crate) sha256: String,
    pub(crate) arch: String,
    pub(crate) quant: String,
    pub(crate) params: u64,
}

/// One mode on one group of answers, beside plain decoding of the same prompts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) category: String,
    pub(crate) mode: String,
    /// Questions.
    pub(crate) prompts: usize,
    /// Answers: turns and repetitions counted.
    pub(crate) answers: usize,
    pub(crate) plain: Plain,
    /// The mode's own figures; of `plain` and `stock` as well.
    pub(crate) spec: Spec,
    /// Pooled decode tokens per second over plain's; 1 for plain itself.
    pub(crate) speedup: f64,
    /// 95 % interval by a paired bootstrap over questions.
    pub(crate) speedup_ci95: [f64; 2],
    /// The same with the time for the prompts in both arms.
    pub(crate) speedup_with_prefill: f64,
    /// Over the arm `stock`, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speedup_vs_stock: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speedup_vs_stock_ci95: Option<[f64; 2]>,
    /// Answers that equal plain's token for token.
    pub(crate) identical: usize,
    pub(crate) forks: Vec<ForkInfo>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plain {
    pub(crate) tokens: u64,
    pub(crate) decode_ms: f64,
    pub(crate) tps: f64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) tokens: u64,
    pub(crate) decode_ms: f64,
    pub(crate) tps: f64,
    pub(crate) rounds: u64,
    pub(crate) tokens_per_round: f64,
    /// Roots and nodes.
    pub(crate) rows_per_round: f64,
    pub(crate) draft_us_per_round: f64,
    pub(crate) learn_us_per_round: f64,
    /// Share of the decode time that drafting and learning take.
    pub(crate) overhead_share: f64,
}

/// Where an answer left the plain one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ForkInfo {
    pub(crate) question_id: Value,
    /// Counted from 0.
    pub(crate) turn: usize,
    /// Tokens of the answer before it.
    pub(crate) at: usize,
    /// Difference of the two largest logits there.
    pub(crate) gap: f32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    pub(crate) rows: usize,
    pub(crate) used_cells: usize,
    /// Which kernels computed it: `aded` or `llama.cpp`.
    pub(crate) kernels: String,
    pub(crate) ms: f64,
    pub(crate) samples: u64,
}

/// Reading a prompt into an empty context.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Prefill {
    pub(crate) tokens: usize,
    pub(crate) kernels: String,
    pub(crate) ms: f64,
    pub(crate) tps: f64,
    pub(crate) samples: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SourceTally {
    pub(crate) mode: String,
    pub(crate) source: String,
    pub(crate) drafted: u64,
    pub(crate) accepted: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DepthTally {
    pub(crate) mode: String,
    pub(crate) depth: usize,
    pub(crate) drafted: u64,
    pub(crate) accepted: u64,
}

/// Groups of all runs: `all` first, then the two kinds of text, then the categories in the order of the file.
pub(crate) fn groups(questions: &[Question], runs: &[Run], modes: &[Mode]) -> Vec<Group> {
    let mut categories: Vec<&str> = Vec::new();
    for question in questions {
        if !categories.contains(&question.category.as_str()) {
            categories.push(&question.category);
        }
    }
    type Belongs<'a> = Box<dyn Fn(&Run) -> bool + 'a>;
    let mut kinds: Vec<(&str, Belongs<'_>)> = vec![
        ("all", Box::new(|_| true)),
        ("repetitive", Box::new(|run| run.repetitive)),
        ("non-repetitive", Box::new(|run| !run.repetitive)),
    ];
    for category in categories {
        kinds.push((category, Box::new(move |run| questions[run.question].category == category)));
    }
    let mut groups = Vec::new();
    for (category, belongs) in &kinds {
        let of = |mode: Mode| -> Vec<&Run> { runs.iter().filter(|run| run.mode == mode && belongs(run)).collect() };
        let (plain, stock) = (of(Mode::Plain), of(Mode::Stock));
        for &mode in modes {
            groups.extend(group(category, mode, &of(mode), &plain, &stock, questions));
        }
    }
    groups
}

fn group(
    category: &str,
    mode: Mode,
    runs: &[&Run],
    plain: &[&Run],
    stock: &[&Run],
    questions: &[Question],
) -> Option<Group> {
    if runs.is_empty() {
        return None;
    }
    let decode = |run: &Run| Yield { tokens: run.stats.n_tokens, ns: run.stats.round_ns };
    // The first token comes with the prompt.
    let whole = |run: &Run| Yield { tokens: run.output.len() as u64, ns: run.stats.round_ns + run.stats.prompt_ns };
    let gain = speedup(&pairs(plain, runs, decode)).unwrap_or(Ratio { value: 1.0, low: 1.0, high: 1.0 });
    let with_prefill = speedup(&pairs(plain, runs, whole)).map_or(1.0, |ratio| ratio.value);
    let over_stock = speedup(&pairs(stock, runs, decode)).filter(|_| mode != Mode::Stock && !stock.is_empty());
    let n_questions = runs.iter().map(|run| run.question).collect::<std::collections::BTreeSet<_>>().len();
    let fork = |run: &&Run| {
        run.fork.map(|fork| ForkInfo {
            question_id: questions[run.question].question_id.clone(),
            turn: run.turn,
            at: fork.at,
            gap: fork.gap,
        })
    };
    Some(Group {
        category: category.to_owned(),
        mode: mode.name().to_owned(),
        prompts: n_questions,
        answers: runs.len(),
        plain: plain_of(&sum(plain)),
        spec: spec_of(&sum(runs)),
        speedup: gain.value,
        speedup_ci95: [gain.low, gain.high],
        speedup_with_prefill: with_prefill,
        speedup_vs_stock: over_stock.map(|ratio| ratio.value),
        speedup_vs_stock_ci95: over_stock.map(|ratio| [ratio.low, ratio.high]),
        identical: runs.iter().filter(|run| run.fork.is_none()).count(),
        forks: runs.iter().filter_map(fork).collect(),
    })
}

/// What two arms did with each question, turns and repetitions added up.
fn pairs(base: &[&Run], tried: &[&Run], of: impl Fn(&Run) -> Yield) -> Vec<Pair> {
    let mut pairs: BTreeMap<usize, Pair> = BTreeMap::new();
    for run in base {
        pairs.entry(run.question).or_default().base.add(of(run));
    }
    for run in tried {
        pairs.entry(run.question).or_default().tried.add(of(run));
    }
    pairs.into_values().collect()
}

pub(crate) fn sum(runs: &[&Run]) -> Stats {
    let mut sum = Stats::default();
    runs.iter().for_each(|run| sum += &run.stats);
    sum
}

fn plain_of(stats: &Stats) -> Plain {
    Plain { tokens: stats.n_tokens, decode_ms: stats.round_ns as f64 / 1e6, tps: stats.tokens_per_second() }
}

pub(crate) fn spec_of(stats: &Stats) -> Spec {
    let us_per_round = |ns: u64| if stats.n_rounds == 0 { 0.0 } else { ns as f64 / 1e3 / stats.n_rounds as f64 };
    Spec {
        tokens: stats.n_tokens,
        decode_ms: stats.round_ns as f64 / 1e6,
        tps: stats.tokens_per_second(),
        rounds: stats.n_rounds,
        tokens_per_round: stats.tokens_per_round(),
        rows_per_round: if stats.n_rounds == 0 { 0.0 } else { 1.0 + stats.nodes_per_round() },
        draft_us_per_round: us_per_round(stats.draft_ns),
        learn_us_per_round: us_per_round(stats.learn_ns),
        overhead_share: stats.overhead_share(),
    }
}

/// Nodes by source and by depth, for each mode that drafts.
pub(crate) fn tallies(runs: &[Run], modes: &[Mode]) -> (Vec<SourceTally>, Vec<DepthTally>) {
    let (mut sources, mut depths) = (Vec::new(), Vec::new());
    for mode in modes.iter().filter(|mode| mode.drafts()) {
        let stats = sum(&runs.iter().filter(|run| run.mode == *mode).collect::<Vec<_>>());
        for (source, tally) in Source::ALL.iter().zip(stats.by_source).filter(|(_, tally)| tally.drafted > 0) {
            let (drafted, accepted) = (tally.drafted, tally.accepted);
            sources.push(SourceTally { mode: mode.name().into(), source: source.name().into(), drafted, accepted });
        }
        for (depth, tally) in stats.by_depth.iter().enumerate().filter(|(_, tally)| tally.drafted > 0) {
            let (drafted, accepted) = (tally.drafted, tally.accepted);
            depths.push(DepthTally { mode: mode.name().into(), depth, drafted, accepted });
        }
    }
    (sources, depths)
}

#[cfg(test)]
mod tests {
    use aded::Config;

    use super::super::measure::tests::{Scripted, questions, silent};
    use super::super::measure::{Plan, measure};
    use super::*;

    #[test]
    fn groups_add_up_and_empty_ones_are_left_out() {
        let modes = vec![Mode::Plain, Mode::Stock, Mode::Auto];
        let plan = Plan { modes: modes.clone(), n_max: 80, repetitions: 2, cold: false, records: false };
        let questions = questions();
        let subject = Scripted { config: Config::default() };
        let (mut runs, _) = measure(&subject, &plan, &questions, &mut silent).expect("runs");
        // Times of its own, so that the figures are known.
        for run in &mut runs {
            run.repetitive = false;
            run.stats.round_ns = run.stats.n_tokens * if run.mode == Mode::Auto { 500 } else { 1000 };
            run.stats.prompt_ns = 1000;
        }
        let groups = groups(&questions, &runs, &modes);
        let names: Vec<(&str, &str)> = groups.iter().map(|group| (&*group.category, &*group.mode)).collect();
        let all = ["all", "non-repetitive", "qa", "rag"];
        let expected: Vec<(&str, &str)> =
            all.iter().flat_map(|category| modes.iter().map(move |mode| (*category, mode.name()))).collect();
        assert_eq!(names, expected);
        let auto = &groups[2];
        assert_eq!((auto.prompts, auto.answers, auto.identical), (3, 8, 8));
        assert!((auto.speedup - 2.0).abs() < 1e-9 && auto.speedup_ci95.iter().all(|end| (end - 2.0).abs() < 1e-9));
        assert!(auto.speedup_with_prefill < 2.0 && auto.speedup_with_prefill > 1.5);
        assert!(auto.speedup_vs_stock.is_some_and(|ratio| (ratio - 2.0).abs() < 1e-9));
        assert_eq!(groups[1].speedup, 1.0);
        assert_eq!(groups[1].speedup_vs_stock, None);
        let tokens: u64 = groups.iter().filter(|g| ["qa", "rag"].contains(&&*g.category)).map(|g| g.spec.tokens).sum();
        assert_eq!(tokens, groups[0].spec.tokens + groups[1].spec.tokens + groups[2].spec.tokens);
        let text = serde_json::to_string(&groups).expect("serialises");
        assert_eq!(serde_json::from_str::<Vec<Group>>(&text).expect("reads back").len(), groups.len());
    }
}
