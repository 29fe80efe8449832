//! Several sequences in one decode call: each gives what it gives alone, and prompts and drafts share a batch.

use aded::batch::DraftBatch;
use aded::config::{Config, DraftConfig, DraftMode, MAX_DRAFT_ROWS};
use aded::model::{Limits, ScriptedModel, TargetModel};
use aded::round::{Decoder, Turn};
use aded::sampling::{Greedy, RowSampler};
use aded::token::RowId;
use aded::{Error, Request, Sequence, Session, Slot, Token};

fn alone(model: &ScriptedModel, prompt: &[Token], n_max: usize) -> Vec<Token> {
    let draft = DraftConfig { mode: DraftMode::Off, ..DraftConfig::default() };
    let mut session = Session::new(model.clone(), Config { draft, ..Config::default() }).expect("valid");
    let request = Request { prompt, n_max, end_tokens: &[Token(3)] };
    session.generate(&request, &mut Greedy).expect("starts").map(|token| token.expect("decodes")).collect()
}

#[test]
fn sequences_that_share_calls_do_not_mix() {
    for (seed, budget) in [(1, Some(12)), (2, Some(3)), (3, None), (4, Some(40))] {
        let model = ScriptedModel::new(30, 2, 9.0, seed);
        let mut target = model.clone();
        let draft = DraftConfig { mode: DraftMode::On, budget, ..DraftConfig::default() };
        let mut decoder = Decoder::new(Config { draft, ..Config::default() }).expect("valid");
        // Prompts of different lengths, so that one still reads while others draft.
        let prompts: Vec<Vec<Token>> = [2usize, 700, 9]
            .iter()
            .map(|&n| (0..n as u32).map(|i| Token((i * 7 + seed as u32) % 30)).collect())
            .collect();
        let mut sequences: Vec<Sequence> =
            (0..3).map(|slot| Sequence::new(Slot(slot), target.limits().n_ctx)).collect();
        let mut outputs = vec![Vec::new(); 3];
        for (sequence, prompt) in sequences.iter_mut().zip(&prompts) {
            decoder.begin(sequence, &Request { prompt, n_max: 200, end_tokens: &[Token(3)] }, 0);
        }
        let mut samplers: Vec<Box<dyn RowSampler>> = (0..3).map(|_| Box::new(Greedy) as Box<dyn RowSampler>).collect();
        let mut n_rounds = 0;
        while sequences.iter().any(|sequence| sequence.finish().is_none()) {
            let mut turns: Vec<Turn<'_>> = sequences
                .iter_mut()
                .zip(&mut samplers)
                .filter(|(sequence, _)| sequence.finish().is_none())
                .map(|(sequence, sampler)| Turn { sequence, sampler: &mut **sampler })
                .collect();
            decoder.round(&mut target, &mut turns).expect("decodes");
            for turn in &turns {
                outputs[turn.sequence.slot().0 as usize].extend_from_slice(turn.sequence.emitted());
                assert!(turn.sequence.draft().len() < MAX_DRAFT_ROWS);
            }
            n_rounds += 1;
            assert!(n_rounds < 2000, "no livelock");
        }
        for (output, prompt) in outputs.iter().zip(&prompts) {
            assert_eq!(output, &alone(&model, prompt, 200), "seed {seed}");
        }
        let accepted: u64 = sequences.iter().map(|sequence| sequence.stats.n_accepted).sum();
        assert!(accepted > 0, "drafts took part");
    }
}

/// A target on which every row costs the same, so that no draft can pay; the first round of as many rows as there are slots is interrupted
/// by something else and takes twenty times as long.
struct Dear {
    model: ScriptedModel,
    n_slots: usize,
    ms: f32,
    was_interrupted: bool,
    total_ms: f32,
}

const ROW_MS: f32 = 3.0;

impl TargetModel for Dear {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.ms = ROW_MS * batch.len() as f32;
        if batch.len() == self.n_slots && !self.was_interrupted {
            self.was_interrupted = true;
            self.ms *= 20.0;
        } else {
            self.total_ms += self.ms;
        }
        self.model.decode(batch)
    }

    fn logits(&self, row: RowId) -> &[f32] {
        self.model.logits(row)
    }

    fn reckoned_ms(&self) -> Option<f32> {
        Some(self.ms)
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        self.model.keep(slot, last)
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        self.model.truncate(slot, n_tokens)
    }
}

#[test]
fn one_long_round_does_not_make_drafts_of_several_sequences_look_cheap() {
    for n_slots in [2, 3] {
        // Sharp rows: what was said before is nearly sure to be said again, and there is always something to draft.
        let model = ScriptedModel::new(30, 1, 20.0, 5);
        let mut target = Dear { model, n_slots, ms: 0.0, was_interrupted: false, total_ms: 0.0 };
        let mut decoder = Decoder::new(Config::default()).expect("valid");
        let n_ctx = target.limits().n_ctx;
        let mut sequences: Vec<Sequence> = (0..n_slots as u32).map(|slot| Sequence::new(Slot(slot), n_ctx)).collect();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            let prompt = [Token(index as u32), Token(7)];
            decoder.begin(sequence, &Request { prompt: &prompt, n_max: 400, end_tokens: &[] }, 0);
        }
        let mut samplers = vec![Greedy; n_slots];
        let (mut n_tokens, mut n_drafted) = (0, 0);
        while sequences.iter().any(|sequence| sequence.finish().is_none()) {
            let turns = sequences.iter_mut().zip(&mut samplers);
            let turns = turns.filter(|(sequence, _)| sequence.finish().is_none());
            let mut turns: Vec<Turn<'_>> = turns.map(|(sequence, sampler)| Turn { sequence, sampler }).collect();
            decoder.round(&mut target, &mut turns).expect("decodes");
            n_tokens += turns.iter().map(|turn| turn.sequence.emitted().len()).sum::<usize>();
            n_drafted += turns.iter().map(|turn| turn.sequence.draft().len()).sum::<usize>();
        }
        assert!(n_tokens == 400 * n_slots && n_drafted > 0, "{n_tokens} tokens, {n_drafted} nodes");
        let plain_ms = ROW_MS * n_tokens as f32;
        assert!(target.total_ms < 1.1 * plain_ms, "{n_slots} slots: {} ms, plainly {plain_ms}", target.total_ms);
    }
}
