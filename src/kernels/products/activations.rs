//! Activations on their way into a product: rounded as llama.cpp's own kernel for the weight's type rounds them, and laid
//! out so that a product reads them from front to back.
//!
//! Columns stand in tiles of [`TILE_COLUMNS`] (the last tile is as wide as there are columns left), a tile in units of
//! consecutive elements, a unit in words of 4 bytes, and a word for all columns of the tile side by side.

/// Columns side by side in a full tile.
pub(super) const TILE_COLUMNS: usize = 16;

/// How a weight's type wants its activations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Blocks of 32 bytes as ggml's Q8_0; then the scale, and the sum of the bytes times `-offset`.
    Q8_0 { offset: i32 },
    /// Blocks of 32 bytes as ggml's Q8_1; then the scale, and the scale times the sum of the bytes.
    Q8_1,
    /// Blocks of 256 bytes as ggml's Q8_K; then the scale, and four words, each the sums of two runs of 32 bytes in 16 bits.
    Q8KPairs,
    /// Blocks of 256 bytes as ggml's Q8_K; then the scale, and sixteen words, each the sum of 16 bytes times `-offset`.
    Q8KOffset { offset: i32 },
    /// Floats rounded to half precision.
    F16,
    /// Floats rounded to bfloat16.
    Bf16,
}

impl Format {
    /// Elements of a unit.
    pub(super) const fn unit_cols(self) -> usize {
        match self {
            Self::Q8_0 { .. } | Self::Q8_1 => 32,
            Self::Q8KPairs | Self::Q8KOffset { .. } => 256,
            Self::F16 | Self::Bf16 => 16,
        }
    }

    /// Words of 4 bytes of a unit, for one column.
    pub(super) const fn unit_words(self) -> usize {
        match self {
            Self::Q8_0 { .. } | Self::Q8_1 => 8 + 2,
            Self::Q8KPairs => 64 + 1 + 4,
            Self::Q8KOffset { .. } => 64 + 1 + 16,
            Self::F16 | Self::Bf16 => 16,
        }
    }
}

/// Columns of floats, `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) first: *const f32,
    pub(super) stride: usize,
    pub(super) cols: usize,
}

/// Where one column's words of one unit go.
pub(super) struct Place {
    pub(super) first: *mut u32,
    /// The tile's width.
    pub(super) step: usize,
}

impl Place {
    /// # Safety
    /// The word is one of the unit's.
    #[inline(always)]
    pub(super) unsafe fn put(&self, word: usize, value: u32) {
        // SAFETY: `quantise` placed the unit inside the scratch; writing unaligned asks nothing of its address.
        unsafe { self.first.add(word * self.step).write_unaligned(value) }
    }
}

/// Rounds some (column, unit) items of a matrix into `scratch`. Items go tile by tile, in a tile unit by unit, in a unit column by
/// column: as they lie in the scratch, so that threads that divide them write to different cache lines.
///
/// Units that begin at or after `cols` are written as zeros.
///
/// # Safety
/// The processor has AVX2, FMA and F16C. `x` holds `cols` floats for each column, columns `x_stride` floats apart. `scratch` is
/// valid for `n_columns * n_units * unit_words` words, and no other thread writes the same items.
pub(super) unsafe fn quantise(
    format: Format,
    x: Matrix,
    n_columns: usize,
    n_units: usize,
    items: std::ops::Range<usize>,
    scratch: *mut u8,
) {
    let (words, unit_cols) = (format.unit_words(), format.unit_cols());
    let tile_items = TILE_COLUMNS * n_units;
    let mut item = items.start;
    while item < items.end {
        let tile = item / tile_items;
        let first = tile * TILE_COLUMNS;
        let width = TILE_COLUMNS.min(n_columns - first);
        let end = items.end.min(tile * tile_items + width * n_units);
        let (mut unit, mut column) = ((item - tile * tile_items) / width, (item - tile * tile_items) % width);
        for _ in item..end {
            let begin = (first * n_units + unit * width) * words + column;
            // SAFETY: the item's words lie inside the scratch, and its elements inside the column, as the caller promises.
            unsafe {
                let place = Place { first: scratch.cast::<u32>().add(begin), step: width };
                if unit * unit_cols >= x.cols {
                    (0..words).for_each(|word| place.put(word, 0));
                } else {
                    #[cfg(target_arch = "x86_64")]
                    super::rounding::round(format, x.first.add((first + column) * x.stride + unit * unit_cols), &place);
                }
            }
            column += 1;
            if column == width {
                (unit, column) = (unit + 1, 0);
            }
        }
        item = end;
    }
}
