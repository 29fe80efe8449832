//! Several sequences in one decode call: each gives what it gives alone, and prompts and drafts share a batch.

use aded::config::{Config, DraftConfig, DraftMode, MAX_DRAFT_ROWS};
use aded::model::{ScriptedModel, TargetModel};
use aded::round::{Decoder, Turn};
use aded::sampling::{Greedy, RowSampler};
use aded::{Request, Sequence, Session, Slot, Token};

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
