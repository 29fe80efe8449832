//! What a round costs on a given machine: measured points, and straight lines between them.

use crate::error::Error;

/// One measured point.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CostPoint {
    /// Rows of the pass, all with logits.
    pub rows: usize,
    /// Cells in use before it.
    pub used_cells: usize,
    /// Milliseconds of the pass.
    pub ms: f32,
}

/// Milliseconds of a pass by number of rows and cells in use.
#[derive(Clone, Debug, PartialEq)]
pub struct RowCost {
    /// For each context, in rising order: its cells, and (rows, ms) in rising order of rows.
    contexts: Vec<(usize, Vec<(usize, f32)>)>,
    /// What a pass costs on top if its number of rows differs from the last one's, in ms.
    pub switch_ms: f32,
}

/// A built-in table: name, what it stands for, cells, and (rows, ms).
type Example = (&'static str, &'static str, &'static [(usize, &'static [(usize, f32)])]);

/// Built-in tables: SmolLM2-135M-Instruct on 2 cores x86-64 with AVX-512, 2 threads, llama.cpp b11434, logits on all rows.
pub const EXAMPLES: &[Example] = &[
    (
        "stock-q4_1",
        "Q4_1, llama.cpp's kernels, context 64",
        &[(64, &[(1, 6.3), (2, 13.7), (3, 17.5), (4, 19.5), (5, 24.0), (8, 30.0), (16, 49.5), (32, 94.0)])],
    ),
    (
        "stock-q4_0",
        "Q4_0, llama.cpp's kernels, context 64",
        &[(64, &[(1, 4.2), (2, 7.4), (3, 9.7), (4, 9.6), (5, 14.2), (8, 12.6), (16, 17.3), (32, 33.2)])],
    ),
    (
        "stock-q4_0-head",
        "Q4_0 with a Q4_0 head, llama.cpp's kernels, context 64",
        &[(64, &[(1, 4.0), (2, 6.0), (3, 8.2), (4, 6.8), (5, 8.7), (8, 9.4), (16, 14.8), (32, 26.8)])],
    ),
    (
        "stock-q8_0",
        "Q8_0, llama.cpp's kernels",
        &[
            (64, &[(1, 5.8), (2, 14.8), (4, 20.8), (6, 26.1), (8, 24.0), (16, 28.5), (32, 53.1)]),
            (1024, &[(1, 8.2), (2, 18.0), (4, 27.0), (6, 36.0), (8, 38.0), (16, 57.0), (32, 111.0)]),
            (3000, &[(1, 13.0), (2, 30.0), (4, 47.0), (6, 63.0), (8, 70.0), (16, 119.0), (32, 234.0)]),
        ],
    ),
    (
        "prototype-q8_0",
        "Q8_0, an early form of this program's kernels",
        &[
            (64, &[(1, 3.7), (2, 4.0), (4, 4.3), (6, 4.9), (8, 5.5), (16, 10.8), (32, 19.2)]),
            (1024, &[(1, 6.5), (2, 6.6), (4, 7.6), (6, 8.8), (8, 9.5), (16, 15.1), (32, 26.6)]),
            (3000, &[(1, 9.7), (2, 10.0), (4, 11.4), (6, 14.0), (8, 15.1), (16, 24.0), (32, 41.5)]),
        ],
    ),
    (
        "prototype-1b-q8_0",
        "a 1.1B llama shape, Q8_0, an early form of this program's kernels, context 64",
        &[(64, &[(1, 21.4), (2, 22.5), (4, 25.7), (6, 29.9), (8, 35.7), (16, 66.6), (32, 125.0)])],
    ),
];

impl RowCost {
    /// A table from measured points. Points with the same rows and cells are averaged.
    ///
    /// # Errors
    /// A format error if there is no point with one row, or a time that is not a positive number.
    pub fn new(points: &[CostPoint]) -> Result<Self, Error> {
        if let Some(point) = points.iter().find(|point| !(point.ms.is_finite() && point.ms > 0.0) || point.rows == 0) {
            return Err(Error::format(format!(
                "the cost table says that {} rows take {} ms; a positive number is needed",
                point.rows, point.ms
            )));
        }
        let mut points = points.to_vec();
        points.sort_by_key(|point| (point.used_cells, point.rows));
        let mut contexts: Vec<(usize, Vec<(usize, f32)>)> = Vec::new();
        for same in points.chunk_by(|a, b| (a.used_cells, a.rows) == (b.used_cells, b.rows)) {
            let ms = same.iter().map(|point| point.ms).sum::<f32>() / same.len() as f32;
            let first = same[0];
            match contexts.last_mut() {
                Some((cells, curve)) if *cells == first.used_cells => curve.push((first.rows, ms)),
                _ => contexts.push((first.used_cells, vec![(first.rows, ms)])),
            }
        }
        // A context without its plain step says nothing about what drafting gains there.
        contexts.retain(|(_, curve)| curve[0].0 == 1);
        if contexts.is_empty() {
            return Err(Error::format("the cost table has no time for one row; measure it with `aded bench --curve`"));
        }
        Ok(Self { contexts, switch_ms: 0.0 })
    }

    /// A built-in table of [`EXAMPLES`].
    pub fn named(name: &str) -> Option<Self> {
        let (_, _, contexts) = EXAMPLES.iter().find(|(known, ..)| *known == name)?;
        let contexts = contexts.iter().map(|(cells, curve)| (*cells, curve.to_vec())).collect();
        Some(Self { contexts, switch_ms: 0.0 })
    }

    /// Milliseconds of a pass with `rows` rows while `used_cells` cells are in use. Between points a straight line; beyond the last one
    /// the line through the last two; before the first one its value.
    pub fn ms(&self, rows: usize, used_cells: usize) -> f32 {
        line(&self.contexts, used_cells, |curve| line(curve, rows, |ms| *ms))
    }
}

/// The value at `x` of a piecewise straight line through points in rising order of x.
fn line<T>(points: &[(usize, T)], x: usize, value: impl Fn(&T) -> f32) -> f32 {
    let next = points.partition_point(|(at, _)| *at < x);
    let (left, right) = match next {
        0 => return value(&points[0].1),
        _ if points.len() == 1 => return value(&points[0].1),
        _ if next == points.len() => (&points[next - 2], &points[next - 1]),
        _ => (&points[next - 1], &points[next]),
    };
    let (low, high) = (value(&left.1), value(&right.1));
    let share = (x as f32 - left.0 as f32) / (right.0 - left.0) as f32;
    (low + (high - low) * share).max(0.1 * low.min(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_run_between_the_points_and_on_beyond_them() {
        let point = |rows, used_cells, ms| CostPoint { rows, used_cells, ms };
        let cost = RowCost::new(&[
            point(4, 100, 8.0),
            point(1, 100, 4.0),
            point(1, 100, 6.0),
            point(1, 300, 9.0),
            point(4, 300, 12.0),
            point(4, 500, 1.0),
        ])
        .expect("points");
        assert_eq!((cost.ms(1, 100), cost.ms(4, 100), cost.ms(1, 0)), (5.0, 8.0, 5.0));
        assert_eq!((cost.ms(2, 100), cost.ms(7, 100)), (6.0, 11.0));
        assert_eq!((cost.ms(1, 200), cost.ms(1, 500)), (7.0, 13.0));
    }

    #[test]
    fn every_example_knows_a_plain_step_and_bad_tables_are_refused() {
        for (name, ..) in EXAMPLES {
            let cost = RowCost::named(name).expect("listed");
            assert!(cost.ms(1, 200) > 0.0 && cost.ms(64, 4000) > cost.ms(1, 200), "{name}");
        }
        assert!(RowCost::named("none").is_none());
        assert!(RowCost::new(&[]).is_err());
        assert!(RowCost::new(&[CostPoint { rows: 1, used_cells: 0, ms: f32::NAN }]).is_err());
        assert!(RowCost::new(&[CostPoint { rows: 2, used_cells: 0, ms: 1.0 }]).is_err());
    }
}
