//! `aded bench --curve`: what a pass costs by its number of rows, with logits on all of them.

use std::time::{Duration, Instant};

use aded::batch::DraftBatch;
use aded::draft::DraftTree;
use aded::model::TargetModel;
use aded::{Error, Pos, RowId, Slot, Token};

use super::report::Cost;
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

/// Medians for 1 to `max_rows` rows after `used_cells` tokens. `text` is any text, longer than that.
pub(crate) fn curve(
    target: &mut dyn TargetModel,
    text: &[Token],
    used_cells: usize,
    max_rows: usize,
    kernels: &str,
) -> Result<Vec<Cost>, Error> {
    let limits = target.limits();
    let max_rows = max_rows.min(limits.max_logits_rows as usize);
    if used_cells + max_rows > limits.n_ctx as usize || text.len() < used_cells + max_rows {
        return Err(Error::usage(format!(
            "a curve at {used_cells} cells needs a context of {}, and it has {}",
            used_cells + max_rows,
            limits.n_ctx
        )));
    }
    fill(target, &text[..used_cells])?;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); max_rows + 1];
    for sweep in 0..N_SWEEPS {
        for place in 0..max_rows {
            let rows = if sweep % 2 == 0 { place + 1 } else { max_rows - place };
            time(target, &text[used_cells..used_cells + rows], used_cells, &mut samples[rows])?;
        }
    }
    target.truncate(Slot(0), 0)?;
    Ok((1..=max_rows)
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

/// Reads a text into an empty slot.
fn fill(target: &mut dyn TargetModel, text: &[Token]) -> Result<(), Error> {
    target.truncate(Slot(0), 0)?;
    let mut batch = DraftBatch::new();
    let mut pos = 0;
    for piece in text.chunks(target.limits().max_rows as usize) {
        batch.clear();
        batch.push_prompt(Slot(0), Pos(pos), piece, false);
        target.decode(&batch)?;
        target.keep(Slot(0), RowId(piece.len() as u32 - 1))?;
        pos += piece.len() as u32;
    }
    Ok(())
}

/// Passes with the rows of one chain; the tokens are forgotten after each.
fn time(target: &mut dyn TargetModel, tokens: &[Token], used_cells: usize, out: &mut Vec<f64>) -> Result<(), Error> {
    let mut tree = DraftTree::new();
    let mut parent = None;
    for &token in &tokens[1..] {
        parent = Some(tree.add(parent, token, 0.5));
    }
    let mut batch = DraftBatch::new();
    batch.push_draft(Slot(0), Pos(used_cells as u32), tokens[0], &tree);
    let begun = Instant::now();
    for pass in 0..N_UNCOUNTED + N_PASSES {
        let start = Instant::now();
        target.decode(&batch)?;
        // A device may still be at work until its results are asked for.
        let looked_at: f32 = (0..tokens.len() as u32).map(|row| target.logits(RowId(row))[0]).sum();
        let took = start.elapsed();
        std::hint::black_box(looked_at);
        target.keep(Slot(0), RowId(0))?;
        target.truncate(Slot(0), used_cells as u32)?;
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
        let cost = curve(&mut model, &text, 600, 8, "aded").expect("fits");
        let rows: Vec<usize> = cost.iter().map(|entry| entry.rows).collect();
        assert_eq!(rows, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(cost.iter().all(|entry| entry.ms > 0.0 && entry.samples >= 6 && entry.used_cells == 600));
        assert!(model.held(Slot(0)).is_empty());
        assert!(curve(&mut model, &text, 5000, 8, "aded").is_err_and(|error| error.is_usage()));
    }
}
