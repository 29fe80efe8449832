//! Replay: recorded answers in place of a model, and a given cost of rows in place of a clock.
//!
//! A recording holds what plain decoding said and the best tokens of every row it came from. Any search and configuration can then be
//! played over it in no time and with no noise: which nodes would have been drafted, which of them accepted, and what the rounds would
//! have taken on a machine whose rows cost so much.
//!
//! What a recording cannot tell: the rows of rejected nodes. A model computes them and recall learns from them; here they teach nothing,
//! so that recall, and searches that explore for its sake, do a little better live than replayed.

mod cost;
mod model;
mod reliability;

pub use cost::{CostPoint, EXAMPLES, RowCost};
pub use model::{RecordedSampler, ReplayModel};
pub use reliability::{Bin, Reliability};

use crate::config::Config;
use crate::error::Error;
use crate::generation::Session;
use crate::representative::Successors;
use crate::representative::recall::TopRow;
use crate::sequence::Request;
use crate::stats::Stats;
use crate::token::Token;

/// One recorded generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    prompt: Vec<Token>,
    output: Vec<Token>,
    tops: Vec<TopRow>,
    greedy: bool,
}

impl Recording {
    /// A recording of `output` after `prompt`, with the best tokens of the row that each output token was sampled from.
    ///
    /// # Errors
    /// A format error if the prompt is empty, if there is not one row for each output token, or if a greedy recording has an output token
    /// that was not its row's best.
    pub fn new(prompt: Vec<Token>, output: Vec<Token>, tops: Vec<TopRow>, greedy: bool) -> Result<Self, Error> {
        if prompt.is_empty() {
            return Err(Error::format("a recording has an empty prompt; record it again"));
        }
        if tops.len() != output.len() {
            let (rows, tokens) = (tops.len(), output.len());
            return Err(Error::format(format!("a recording has {rows} rows for {tokens} tokens; record it again")));
        }
        let other = |(token, top): &(&Token, &TopRow)| top.best() != Some(**token);
        if greedy && let Some((token, _)) = output.iter().zip(&tops).find(other) {
            return Err(Error::format(format!(
                "a recording calls itself greedy, but token {} was not the best of its row; record it again",
                token.0
            )));
        }
        Ok(Self { prompt, output, tops, greedy })
    }

    /// The prompt.
    pub fn prompt(&self) -> &[Token] {
        &self.prompt
    }

    /// What plain decoding said.
    pub fn output(&self) -> &[Token] {
        &self.output
    }

    /// The best tokens of the row that each output token was sampled from.
    pub fn tops(&self) -> &[TopRow] {
        &self.tops
    }

    /// True if each output token was the best of its row.
    pub fn is_greedy(&self) -> bool {
        self.greedy
    }
}

/// Plays recordings one after the other. What is learnt stays, as in a process that answers one prompt after the other.
#[derive(Debug)]
pub struct Replay {
    session: Session<ReplayModel>,
    config: Config,
    /// Guesses at each depth of the round to come.
    ahead: Vec<Successors>,
}

/// What playing one recording gave.
#[derive(Clone, Debug)]
pub struct Played {
    /// Counts, and the times that the cost of rows gives; drafting and learning themselves take none here.
    pub stats: Stats,
    /// Milliseconds that plain decoding takes for the same tokens.
    pub plain_ms: f64,
    /// Milliseconds that the rounds take.
    pub ms: f64,
}

/// Nodes deeper than this are not looked at for [`Reliability`]: they belong to long copies, which are certain.
const RELIABILITY_DEPTH: usize = 12;

impl Replay {
    /// A replay that has learnt nothing, on a machine whose rows cost `cost`, for texts of at most `n_ctx` tokens.
    ///
    /// # Errors
    /// A usage error if the configuration is out of range.
    pub fn new(config: Config, cost: RowCost, n_ctx: u32) -> Result<Self, Error> {
        let ahead = vec![Successors::default(); RELIABILITY_DEPTH];
        Ok(Self { session: Session::new(ReplayModel::new(cost, n_ctx), config.clone())?, config, ahead })
    }

    /// The session, to add a corpus or to look at what was learnt.
    pub fn session_mut(&mut self) -> &mut Session<ReplayModel> {
        &mut self.session
    }

    /// Forgets what was learnt from text; the measured costs stay.
    pub fn forget(&mut self) {
        self.session.decoder_mut().forget();
    }

    /// Plays one recording, and notes in `reliability` how true the guesses were.
    ///
    /// # Errors
    /// A usage error if the recording is longer than the context that the replay was made for.
    pub fn play(&mut self, recording: &Recording, reliability: &mut Reliability) -> Result<Played, Error> {
        self.session.target_mut().select(recording);
        let mut sampler = RecordedSampler::new(recording);
        let request = Request { prompt: &recording.prompt, n_max: recording.output.len(), end_tokens: &[] };
        let greedy = recording.greedy;
        let looks = self.config.draft.mode != crate::config::DraftMode::Off;
        let mut generation = self.session.generate(&request, &mut sampler)?;
        let mut n_done = 0;
        loop {
            let to_come = &recording.output[n_done..];
            let n_ahead = if looks && n_done > 0 { to_come.len().min(RELIABILITY_DEPTH) } else { 0 };
            {
                let view = generation.decoder().view(generation.sequence(), greedy);
                look_ahead(&view, &to_come[..n_ahead], &mut self.ahead);
            }
            let Some(emitted) = generation.advance()? else { break };
            n_done += emitted.len();
            for (&taken, guesses) in emitted.iter().zip(&self.ahead[..n_ahead]) {
                reliability.observe(guesses, taken);
            }
        }
        let stats = generation.stats().clone();
        drop(generation);
        let target = self.session.target();
        // The first token comes from the prompt; each later one would take a plain round with one more cell in use.
        let n_prompt = recording.prompt.len();
        let plain_ms = (1..recording.output.len()).map(|index| f64::from(target.cost().ms(1, n_prompt + index))).sum();
        let ms = stats.round_ns as f64 / 1e6;
        Ok(Played { stats, plain_ms, ms })
    }
}

/// The guesses at each node that the recorded path will visit, as long as it is followed.
fn look_ahead(predict: &dyn crate::representative::Predict, to_come: &[Token], ahead: &mut [Successors]) {
    let mut context = predict.root();
    for (&taken, guesses) in to_come.iter().zip(ahead) {
        predict.successors(&context, guesses);
        context = predict.child(&context, taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DraftConfig, DraftMode};
    use crate::model::{ScriptedModel, TargetModel};
    use crate::representative::Source;
    use crate::representative::recall::RowScan;
    use crate::sampling::RowSampler;

    /// Records what a scripted model says, as a program does that decodes plainly.
    fn record(model: &ScriptedModel, prompt: &[Token], n: usize) -> Recording {
        struct Spy(RowScan, Vec<TopRow>);
        impl RowSampler for Spy {
            fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
                let top = self.0.top(logits);
                self.1.push(top);
                Ok(top.best().expect("a number"))
            }
            fn is_greedy(&self) -> bool {
                false
            }
        }
        let mut spy = Spy(RowScan::default(), Vec::new());
        let mut session = Session::new(model.clone(), plain()).expect("valid");
        let request = Request { prompt, n_max: n, end_tokens: &[] };
        let output = session.generate(&request, &mut spy).expect("starts").map(|token| token.expect("decodes"));
        let output = output.collect();
        Recording::new(prompt.to_vec(), output, spy.1, true).expect("whole")
    }

    fn plain() -> Config {
        Config { draft: DraftConfig { mode: DraftMode::Off, ..DraftConfig::default() }, ..Config::default() }
    }

    /// Without recall, the one source that learns more live.
    fn budget(nodes: u16) -> Config {
        let mut config =
            Config { draft: DraftConfig { budget: Some(nodes), ..DraftConfig::default() }, ..Config::default() };
        config.representative.without = vec![Source::RecallPair, Source::RecallToken];
        config
    }

    fn flat() -> RowCost {
        RowCost::new(&[CostPoint { rows: 1, used_cells: 0, ms: 4.0 }, CostPoint { rows: 32, used_cells: 0, ms: 4.0 }])
            .expect("two points")
    }

    #[test]
    fn a_replayed_model_says_what_it_said_and_drafts_as_it_would() {
        let model = ScriptedModel::new(60, 1, 20.0, 7);
        let recording = record(&model, &[Token(1), Token(2)], 200);
        let mut live = Session::new(model.clone(), budget(8)).expect("valid");
        let mut greedy = crate::sampling::Greedy;
        let request = Request { prompt: &[Token(1), Token(2)], n_max: 200, end_tokens: &[] };
        let mut generation = live.generate(&request, &mut greedy).expect("starts");
        while generation.advance().expect("decodes").is_some() {}
        let live_tokens_per_round = generation.stats().tokens_per_round();
        assert!(live_tokens_per_round > 2.0);
        let mut replay = Replay::new(budget(8), flat(), 4096).expect("valid");
        let mut reliability = Reliability::default();
        let played = replay.play(&recording, &mut reliability).expect("plays");
        assert_eq!(played.stats.n_tokens, 199);
        let replayed = played.stats.tokens_per_round();
        assert_eq!(replayed, live_tokens_per_round);
        let gain = played.plain_ms / played.ms;
        assert!(
            (gain - replayed).abs() < 1e-3,
            "rows are free here, so the gain is tokens per round: {gain} {replayed}"
        );
        assert!(reliability.bins().iter().map(|bin| bin.n).sum::<u64>() > 100);
    }

    #[test]
    fn playing_twice_gives_the_same() {
        let model = ScriptedModel::new(300, 2, 12.0, 3);
        let recordings: Vec<Recording> = (0..4).map(|seed| record(&model, &[Token(seed), Token(9)], 100)).collect();
        let cost = RowCost::named("prototype-q8_0").expect("built in");
        let run = || {
            let mut replay = Replay::new(Config::default(), cost.clone(), 4096).expect("valid");
            let mut reliability = Reliability::default();
            let play = |recording| replay.play(recording, &mut reliability).expect("plays").stats;
            recordings.iter().map(play).collect::<Vec<Stats>>()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn broken_recordings_are_refused() {
        let top = TopRow::default();
        let refused = |prompt: &[u32], output: &[u32], n_tops: usize, greedy: bool| {
            let tokens = |tokens: &[u32]| tokens.iter().copied().map(Token).collect::<Vec<Token>>();
            Recording::new(tokens(prompt), tokens(output), vec![top; n_tops], greedy)
                .map(drop)
                .map_err(|e| e.to_string())
        };
        assert!(refused(&[], &[1], 1, false).is_err_and(|text| text.contains("empty prompt")));
        assert!(refused(&[1], &[1, 2], 1, false).is_err_and(|text| text.contains("1 rows for 2 tokens")));
        assert!(refused(&[1], &[1], 1, true).is_err_and(|text| text.contains("not the best")));
        assert_eq!(refused(&[1], &[1], 1, false), Ok(()));
    }

    #[test]
    fn rows_off_the_recorded_path_are_unknown() {
        let model = ScriptedModel::new(60, 1, 20.0, 7);
        let recording = record(&model, &[Token(1), Token(2)], 20);
        let mut replayed = ReplayModel::new(flat(), 100);
        replayed.select(&recording);
        let mut tree = crate::draft::DraftTree::new();
        let right = tree.add(None, recording.output()[1], 0.5);
        let wrong = Token((recording.output()[1].0 + 1) % 60);
        tree.add(None, wrong, 0.3);
        tree.add(Some(right), recording.output()[2], 0.5);
        let mut batch = crate::batch::DraftBatch::new();
        batch.push_prompt(crate::Slot(0), crate::Pos(0), recording.prompt(), true);
        replayed.decode(&batch).expect("prompt");
        assert_eq!(replayed.top(crate::RowId(1)), Some(recording.tops()[0]));
        replayed.keep(crate::Slot(0), crate::RowId(1)).expect("kept");
        batch.clear();
        batch.push_draft(crate::Slot(0), crate::Pos(2), recording.output()[0], &tree);
        replayed.decode(&batch).expect("draft");
        let tops: Vec<_> = (0..4).map(|row| replayed.top(crate::RowId(row)).expect("always some")).collect();
        assert_eq!(tops[..3], recording.tops()[1..4]);
        assert_eq!(tops[3], TopRow::default());
    }
}
