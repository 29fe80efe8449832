//! The measurement itself: every prompt in every mode, one right after the other.
//!
//! What makes the arms comparable is here. A prompt runs in all modes before the next one begins, in an order that alternates, so that
//! a machine that slows down slows all modes alike. Each mode has a context of its own. What a mode learns belongs to that mode and
//! that repetition; plain decoding learns nothing. Later turns put the answer of the *plain* arm before every mode, so that all modes
//! read the same text.

use aded::model::TargetModel;
use aded::representative::recall::{RowScan, TopRow};
use aded::round::Decoder;
use aded::sampling::{Greedy, RowSampler};
use aded::{Config, DraftMode, Error, Finish, Request, SearchKind, Session, Stats, Token};

use super::prompts::Question;
use super::statistics::is_repetitive;

/// A way of decoding that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, clap::ValueEnum)]
pub(crate) enum Mode {
    /// The best plain decoding of this program.
    Plain,
    /// Plain decoding with llama.cpp's own kernels.
    Stock,
    /// The default mode.
    Auto,
    /// Best-first search.
    BestFirst,
    /// Monte Carlo tree search.
    Mcts,
    /// The published algorithm.
    Reference,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stock => "stock",
            Self::Auto => "auto",
            Self::BestFirst => "best-first",
            Self::Mcts => "mcts",
            Self::Reference => "reference",
        }
    }

    /// True for modes that draft.
    pub(crate) fn drafts(self) -> bool {
        !matches!(self, Self::Plain | Self::Stock)
    }

    /// The mode's configuration, where `given` is what the user set.
    pub(crate) fn config(self, given: &Config) -> Config {
        let mut config = given.clone();
        match self {
            Self::Plain | Self::Stock => config.draft.mode = DraftMode::Off,
            Self::Auto => {}
            Self::BestFirst => config.draft.search = SearchKind::BestFirst,
            Self::Mcts => config.draft.search = SearchKind::Mcts,
            Self::Reference => config.draft.search = SearchKind::Reference,
        }
        config
    }
}

/// What is measured: how its prompts, samplers and texts are made.
pub(crate) trait Subject {
    /// The target of its sessions.
    type Target: TargetModel;

    /// A session of a mode; called once for each mode.
    fn session(&self, mode: Mode) -> anyhow::Result<Session<Self::Target>>;

    /// A decoder of a mode that has learnt nothing but what the user gave; called once for each mode and repetition.
    fn decoder(&self, mode: Mode) -> anyhow::Result<Decoder>;

    /// Called before each run: what must be switched for the mode.
    fn enter(&self, mode: Mode);

    /// The tokens before the model, for earlier turns with their answers and the next turn.
    fn prompt(&self, earlier: &[(String, String)], turn: &str) -> anyhow::Result<Vec<Token>>;

    /// The text of an answer.
    fn text(&self, tokens: &[Token]) -> anyhow::Result<String>;

    /// Tokens that end an answer.
    fn end_tokens(&self) -> &[Token];

    /// The user's sampler after a prompt, in the same state each time.
    fn sampler(&self, prompt: &[Token]) -> anyhow::Result<Box<dyn RowSampler>>;
}

/// How to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The modes; plain is among them and first.
    pub(crate) modes: Vec<Mode>,
    /// Most tokens of an answer.
    pub(crate) n_max: usize,
    /// Passes over all questions.
    pub(crate) repetitions: usize,
    /// Forget what was learnt before each question.
    pub(crate) cold: bool,
    /// Keep the best tokens of the plain arm's rows. Greedy decoding looks for them anyway; in sampled decoding this slows the plain arm
    /// by one look at each row.
    pub(crate) records: bool,
}

/// One answer in one mode.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Index of the question.
    pub(crate) question: usize,
    pub(crate) turn: usize,
    pub(crate) mode: Mode,
    pub(crate) repetition: usize,
    pub(crate) n_prompt: usize,
    pub(crate) output: Vec<Token>,
    pub(crate) finish: Option<Finish>,
    pub(crate) stats: Stats,
    /// The plain answer repeats itself.
    pub(crate) repetitive: bool,
    /// Where the answer leaves the plain one, if it does.
    pub(crate) fork: Option<Fork>,
    /// The best tokens of the row that each output token came from; of plain runs, if the plan asks for them.
    pub(crate) tops: Vec<TopRow>,
}

/// The first token at which an answer differs from the plain one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fork {
    /// Tokens of the answer before it.
    pub(crate) at: usize,
    /// Difference of the two largest logits there, decoded again in the plain arm's context. Noise where it is small.
    pub(crate) gap: f32,
}

/// Is told of each answer and its prompt, once it is compared; for records and for the progress bar.
pub(crate) type Listener<'a> = dyn FnMut(&Run, &[Token]) -> anyhow::Result<()> + 'a;

/// A session for each mode.
pub(crate) type Arms<T> = Vec<(Mode, Session<T>)>;

/// Measures all questions and gives the sessions back, with what each mode has learnt in its last repetition.
pub(crate) fn measure<S: Subject>(
    subject: &S,
    plan: &Plan,
    questions: &[Question],
    listener: &mut Listener<'_>,
) -> anyhow::Result<(Vec<Run>, Arms<S::Target>)> {
    let mut arms = Vec::new();
    for &mode in &plan.modes {
        subject.enter(mode);
        arms.push((mode, subject.session(mode)?));
    }
    let mut runs = Vec::new();
    for repetition in 0..plan.repetitions {
        for (mode, session) in &mut arms {
            *session.decoder_mut() = subject.decoder(*mode)?;
        }
        warm_up(subject, &mut arms)?;
        for (index, question) in questions.iter().enumerate() {
            for (_, session) in &mut arms {
                session.reset();
                if plan.cold {
                    session.decoder_mut().forget();
                }
            }
            let mut earlier = Vec::new();
            for (turn, text) in question.turns.iter().enumerate() {
                let prompt = subject.prompt(&earlier, text)?;
                let first = runs.len();
                for place in 0..arms.len() {
                    // Forwards and backwards by turns.
                    let place = if (index + repetition).is_multiple_of(2) { place } else { arms.len() - 1 - place };
                    let (mode, session) = &mut arms[place];
                    let records = plan.records && *mode == Mode::Plain;
                    let mut run = answer(subject, session, *mode, &prompt, plan.n_max, records)?;
                    (run.question, run.turn, run.repetition) = (index, turn, repetition);
                    runs.push(run);
                }
                let plain = compare(subject, &mut arms[0].1, &prompt, &mut runs[first..])?;
                for run in &mut runs[first..] {
                    listener(run, &prompt)?;
                    run.tops = Vec::new();
                }
                earlier.push((text.clone(), subject.text(&plain)?));
            }
        }
    }
    Ok((runs, arms))
}

/// A prompt that no file holds: touches fresh memory, builds the graphs, and gives the cost table its first rounds.
fn warm_up<S: Subject>(subject: &S, arms: &mut [(Mode, Session<S::Target>)]) -> anyhow::Result<()> {
    const N: usize = 48;
    let prompt = subject.prompt(&[], "Count from one to twenty, and say which of these numbers are odd.")?;
    for (mode, session) in arms {
        answer(subject, session, *mode, &prompt, N, false)?;
    }
    Ok(())
}

fn answer<S: Subject>(
    subject: &S,
    session: &mut Session<S::Target>,
    mode: Mode,
    prompt: &[Token],
    n_max: usize,
    records: bool,
) -> anyhow::Result<Run> {
    subject.enter(mode);
    let mut sampler = subject.sampler(prompt)?;
    let mut recorder = Recorder { inner: None, scan: RowScan::default(), tops: Vec::new() };
    if records {
        recorder.inner = Some(sampler);
        sampler = Box::new(Greedy);
    }
    let sampler: &mut dyn RowSampler = if records { &mut recorder } else { &mut *sampler };
    let request = Request { prompt, n_max, end_tokens: subject.end_tokens() };
    let mut generation = session.generate(&request, sampler)?;
    let mut output = Vec::new();
    while let Some(tokens) = generation.advance()? {
        output.extend_from_slice(tokens);
    }
    if generation.finish() == Some(Finish::Cancelled) {
        return Err(Error::cancelled().into());
    }
    let (finish, stats) = (generation.finish(), generation.stats().clone());
    drop(generation);
    Ok(Run {
        question: 0,
        turn: 0,
        mode,
        repetition: 0,
        n_prompt: prompt.len(),
        output,
        finish,
        stats,
        repetitive: false,
        fork: None,
        tops: recorder.tops,
    })
}

/// Compares the answers to one prompt with the plain one, which it gives.
fn compare<S: Subject>(
    subject: &S,
    plain_session: &mut Session<S::Target>,
    prompt: &[Token],
    runs: &mut [Run],
) -> anyhow::Result<Vec<Token>> {
    let plain = runs.iter().find(|run| run.mode == Mode::Plain).map(|run| run.output.clone()).unwrap_or_default();
    let repetitive = is_repetitive(&plain);
    let mut known: Vec<Fork> = Vec::new();
    for run in runs {
        run.repetitive = repetitive;
        if run.output == plain {
            continue;
        }
        let at = run.output.iter().zip(&plain).take_while(|(own, other)| own == other).count();
        let fork = match known.iter().find(|fork| fork.at == at) {
            Some(fork) => *fork,
            None => {
                subject.enter(Mode::Plain);
                let text = [prompt, &plain[..at]].concat();
                let mut sampler = GapSampler::default();
                let request = Request { prompt: &text, n_max: 1, end_tokens: &[] };
                let mut generation = plain_session.generate(&request, &mut sampler)?;
                while generation.advance()?.is_some() {}
                drop(generation);
                Fork { at, gap: sampler.gap }
            }
        };
        known.push(fork);
        run.fork = Some(fork);
    }
    Ok(plain)
}

/// Keeps the best tokens of each row on its way to another sampler.
struct Recorder {
    inner: Option<Box<dyn RowSampler>>,
    scan: RowScan,
    tops: Vec<TopRow>,
}

impl RowSampler for Recorder {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let top = self.scan.top(logits);
        self.tops.push(top);
        match (&mut self.inner, top.best()) {
            (Some(inner), Some(best)) if inner.is_greedy() => Ok(best),
            (Some(inner), _) => inner.sample(logits),
            (None, _) => Greedy.sample(logits),
        }
    }

    fn is_greedy(&self) -> bool {
        // So that every row comes here.
        false
    }
}

/// Notes how far the largest logit is ahead of the second.
#[derive(Default)]
struct GapSampler {
    gap: f32,
}

impl RowSampler for GapSampler {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, Error> {
        let mut best = (f32::NEG_INFINITY, 0);
        let mut second = f32::NEG_INFINITY;
        for (token, &logit) in (0..).zip(logits) {
            if logit > best.0 {
                (second, best) = (best.0, (logit, token));
            } else if logit > second {
                second = logit;
            }
        }
        self.gap = best.0 - second;
        Ok(Token(best.1))
    }

    fn is_greedy(&self) -> bool {
        // So that every row comes here.
        false
    }
}

#[cfg(test)]
pub(super) mod tests {
    use aded::config::DraftConfig;
    use aded::model::ScriptedModel;

    use super::*;

    /// A scripted model whose tokens are bytes.
    pub(in super::super) struct Scripted {
        pub(in super::super) config: Config,
    }

    impl Subject for Scripted {
        type Target = ScriptedModel;

        fn session(&self, mode: Mode) -> anyhow::Result<Session<ScriptedModel>> {
            Ok(Session::new(ScriptedModel::new(256, 1, 12.0, 5), mode.config(&self.config))?)
        }

        fn decoder(&self, mode: Mode) -> anyhow::Result<Decoder> {
            Ok(Decoder::new(mode.config(&self.config))?)
        }

        fn enter(&self, _mode: Mode) {}

        fn prompt(&self, earlier: &[(String, String)], turn: &str) -> anyhow::Result<Vec<Token>> {
            let said = earlier.iter().flat_map(|(turn, answer)| turn.bytes().chain(answer.bytes()));
            Ok(said.chain(turn.bytes()).map(|byte| Token(byte.into())).collect())
        }

        fn text(&self, tokens: &[Token]) -> anyhow::Result<String> {
            Ok(tokens.iter().map(|token| char::from((token.0 % 128) as u8)).collect())
        }

        fn end_tokens(&self) -> &[Token] {
            &[]
        }

        fn sampler(&self, _prompt: &[Token]) -> anyhow::Result<Box<dyn RowSampler>> {
            Ok(Box::new(Greedy))
        }
    }

    pub(in super::super) fn silent(_: &Run, _: &[Token]) -> anyhow::Result<()> {
        Ok(())
    }

    pub(in super::super) fn questions() -> Vec<Question> {
        let question = |id: u32, category: &str, turns: &[&str]| Question {
            question_id: id.into(),
            category: category.to_owned(),
            turns: turns.iter().map(|turn| (*turn).to_owned()).collect(),
        };
        vec![question(1, "qa", &["why", "and then"]), question(2, "rag", &["what"]), question(3, "qa", &["who"])]
    }

    #[test]
    fn every_repetition_starts_from_nothing() {
        let draft = DraftConfig { budget: Some(8), ..DraftConfig::default() };
        let subject = Scripted { config: Config { draft, ..Config::default() } };
        for cold in [false, true] {
            let modes = vec![Mode::Plain, Mode::Auto, Mode::Mcts];
            let plan = Plan { modes, n_max: 60, repetitions: 3, cold, records: true };
            let mut listener = |run: &Run, _: &[Token]| {
                let best: Vec<Option<Token>> = run.tops.iter().map(TopRow::best).collect();
                let said: Vec<Option<Token>> = run.output.iter().copied().map(Some).collect();
                assert_eq!(best, if run.mode == Mode::Plain { said } else { vec![] });
                Ok(())
            };
            let (runs, arms) = measure(&subject, &plan, &questions(), &mut listener).expect("runs");
            assert_eq!((runs.len(), arms.len()), (3 * 3 * 4, 3));
            for run in &runs {
                let first = runs
                    .iter()
                    .find(|other| (other.question, other.turn, other.mode) == (run.question, run.turn, run.mode))
                    .expect("itself");
                assert_eq!((run.stats.n_rounds, run.stats.n_drafted), (first.stats.n_rounds, first.stats.n_drafted));
                assert_eq!(run.stats.n_prompt, first.stats.n_prompt);
                assert!(run.fork.is_none());
                assert_eq!(run.mode.drafts(), run.stats.n_drafted > 0);
            }
        }
    }

    #[test]
    fn the_gap_at_a_fork_is_that_of_the_plain_arm() {
        let subject = Scripted { config: Config::default() };
        let mut session = subject.session(Mode::Plain).expect("a session");
        let prompt = subject.prompt(&[], "why").expect("tokens");
        let plain = answer(&subject, &mut session, Mode::Plain, &prompt, 20, false).expect("runs");
        let mut other = plain.clone();
        other.mode = Mode::Auto;
        other.output[7] = Token(other.output[7].0 ^ 1);
        let mut runs = [plain.clone(), other];
        compare(&subject, &mut session, &prompt, &mut runs).expect("compares");
        let mut logits = vec![0.0; 256];
        let text = [&prompt[..], &plain.output[..7]].concat();
        ScriptedModel::new(256, 1, 12.0, 5).logits_after(&text, &mut logits);
        logits.sort_unstable_by(f32::total_cmp);
        assert_eq!(runs[1].fork, Some(Fork { at: 7, gap: logits[255] - logits[254] }));
        assert_eq!(runs[0].fork, None);
    }
}
