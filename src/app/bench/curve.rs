//! `aded bench --curve`: what a pass costs by its number of rows, with logits on all of them, and how fast prompts are read.

use std::time::{Duration, Instant};

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::model::TargetModel;
use aded::{Error, Pos, RowId, Slot, Token};

use super::report::{Cost, Prefill};
use super::statistics::median;

/// Rows of the longest pass.
pub(crate) const MAX_ROWS: usize = 32;

/// Passes of a size that are not counted: llama.cpp builds its graph when the number of rows changes.
const N_UNCOUNTED: usize = 2;

/// Counted passes in one go, and how long one go may take before it is cut short.
const N_PASSES: usize = 12;
const LONGEST: Duration = Duration::from_millis(600);

/// Goes over all sizes, up and down by turns, so that a machine that slows down does not tilt the curve.
const N_SWEEPS: usize = 2;

/// Tokens of the prompt whose reading is timed where the context is shorter, and how often it is read.
pub(crate) const PROMPT: usize = 512;
const N_READS: usize = 3;

/// The median time in which an empty slot reads `n_tokens` of a text, 512 at least; of the last one the logits are asked for.
pub(crate) fn prefill(
    target: &mut dyn TargetModel,
    text: &[Token],
    n_tokens: usize,
    kernels: &str,
) -> Result<Prefill, Error> {
    let n_tokens = n_tokens.max(PROMPT).min(text.len());
    let mut samples = Vec::new();
    for _ in 0..N_READS {
        let start = Instant::now();
        fill(target, &text[..n_tokens], true)?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    target.truncate(Slot(0), 0)?;
    let ms = median(&mut samples);
    Ok(Prefill {
        tokens: n_tokens,
        kernels: kernels.to_owned(),
        ms,
        tps: n_tokens as f64 * 1e3 / ms,
        samples: N_READS as u64,
    })
}

/// Medians for the given numbers of rows after `used_cells` tokens. `text` is any text, longer than that.
pub(crate) fn curve(
    target: &mut dyn TargetModel,
    text: &[Token],
    used_cells: usize,
    sizes: &[usize],
    kernels: &str,
) -> Result<Vec<Cost>, Error> {
    let limits = target.limits();
    let sizes: Vec<usize> = sizes.iter().copied().filter(|&rows| rows <= limits.max_logits_rows as usize).collect();
    let max_rows = sizes.iter().copied().max().unwrap_or(0);
    if used_cells + max_rows > limits.n_ctx as usize || text.len() < used_cells + max_rows {
        return Err(Error::usage(format!(
            "a curve at {used_cells} cells needs a context of {}, and it has {}",
            used_cells + max_rows,
            limits.n_ctx
        )));
    }
    fill(target, &text[..used_cells], false)?;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); max_rows + 1];
    for sweep in 0..N_SWEEPS {
        for place in 0..sizes.len() {
            let rows = sizes[if sweep % 2 == 0 { place } else { sizes.len() - 1 - place }];
            time(target, &text[used_cells..used_cells + rows], used_cells, &mut samples[rows])?;
        }
    }
    target.truncate(Slot(0), 0)?;
    Ok(sizes
        .into_iter()
        .map(|rows| Cost {
            mode: None,
            rows,
            used_cells,
            kernels: kernels.to_owned(),
            samples: samples[rows].len() as u64,
            ms: median(&mut samples[rows]),
        })
        .collect())
}

/// Reads a text into an empty slot; if `looks`, up to the logits of its last token.
pub(crate) fn fill(target: &mut dyn TargetModel, text: &[Token], looks: bool) -> Result<(), Error> {
    target.truncate(Slot(0), 0)?;
    let mut batch = DraftBatch::new();
    let mut pos = 0;
    for piece in text.chunks(target.limits().max_rows as usize) {
        batch.clear();
        let is_last = pos as usize + piece.len() == text.len();
        batch.push_prompt(Slot(0), Pos(pos), piece, looks && is_last);
        target.decode(&batch)?;
        if looks && is_last {
            // A device may still be at work until its results are asked for.
            std::hint::black_box(target.logits(RowId(piece.len() as u32 - 1))[0]);
        }
        target.keep(Slot(0), RowId(piece.len() as u32 - 1))?;
        pos += piece.len() as u32;
    }
    Ok(())
}

/// A batch of one chain after `used_cells` tokens.
pub(crate) struct Chain {
    batch: DraftBatch,
    used_cells: u32,
}

impl Chain {
    /// The rows hold these tokens, one at least.
    pub(crate) fn new(tokens: &[Token], used_cells: usize) -> Self {
        let mut tree = DraftTree::new();
        let mut parent = None;
        for &token in &tokens[1..] {
            parent = Some(tree.add(parent, token, 0.5));
        }
        let mut batch = DraftBatch::new();
        batch.push_draft(Slot(0), Pos(used_cells as u32), tokens[0], &tree);
        Self { batch, used_cells: used_cells as u32 }
    }

    /// The time of one pass; the tokens are forgotten after it.
    pub(crate) fn pass(&self, target: &mut dyn TargetModel) -> Result<Duration, Error> {
        let start = Instant::now();
        target.decode(&self.batch)?;
        // A device may still be at work until its results are asked for.
        let looked_at: f32 = (0..self.batch.len() as u32).map(|row| target.logits(RowId(row))[0]).sum();
        let took = start.elapsed();
        std::hint::black_box(looked_at);
        target.keep(Slot(0), RowId(0))?;
        target.truncate(Slot(0), self.used_cells)?;
        Ok(took)
    }
}

/// Passes with the rows of one chain.
fn time(target: &mut dyn TargetModel, tokens: &[Token], used_cells: usize, out: &mut Vec<f64>) -> Result<(), Error> {
    let chain = Chain::new(tokens, used_cells);
    let begun = Instant::now();
    for pass in 0..N_UNCOUNTED + N_PASSES {
        let took = chain.pass(target)?;
        if pass >= N_UNCOUNTED {
            out.push(took.as_secs_f64() * 1e3);
            if begun.elapsed() > LONGEST && pass >= N_UNCOUNTED + 2 {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aded::model::ScriptedModel;

    use super::*;

    #[test]
    fn every_size_is_timed_and_the_slot_is_left_empty() {
        let mut model = ScriptedModel::new(50, 2, 8.0, 1);
        let text: Vec<Token> = (0..700).map(|n| Token(n % 50)).collect();
        let cost = curve(&mut model, &text, 600, &[1, 2, 3, 8], "aded").expect("fits");
        let rows: Vec<usize> = cost.iter().map(|entry| entry.rows).collect();
        assert_eq!(rows, [1, 2, 3, 8]);
        assert!(cost.iter().all(|entry| entry.ms > 0.0 && entry.samples >= 6 && entry.used_cells == 600));
        assert!(model.held(Slot(0)).is_empty());
        let read = prefill(&mut model, &text, 600, "aded").expect("fits");
        assert_eq!((read.tokens, read.samples), (600, 3));
        assert!(read.tps > 0.0 && model.held(Slot(0)).is_empty());
        assert!(curve(&mut model, &text, 5000, &[8], "aded").is_err_and(|error| error.is_usage()));
    }
}
