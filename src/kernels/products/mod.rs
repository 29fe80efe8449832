//! Products of quantised weights with a few columns.
//!
//! A weight is a matrix of `rows` x `cols` elements in ggml's blocks, row after row. [`Weight::pack`] rearranges it once: 16 rows
//! side by side (a *group*), at about the file's bits per element. A product then takes two steps, each of which any number of
//! threads may share:
//!
//! 1. [`Weight::quantise`] rounds the columns of activations into a scratch, as llama.cpp's kernel for the type does;
//! 2. [`Weight::product`] multiplies a range of groups with all columns.
//!
//! A group's weights are read and unpacked once for up to eight columns. The sums of a column run in the same order for
//! every number of columns, every split into groups and every position among the columns: products are **bit-identical** for one
//! column and for many. They differ between instruction sets and from llama.cpp's by rounding only.
//!
//! The functions keep no state, allocate nothing but the text of an error, and do not panic.
//!
//! `codes.rs` holds what all quantised types share; `blocks32.rs`, `k_quants.rs` and `floats.rs` one family of types each, written
//! once for all instruction sets (`simd.rs`, with `avx512.rs` and `avx2.rs`); `x86.rs` makes machine code of them;
//! `rounding.rs` prepares activations, laid out as `activations.rs` says.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks32;
mod codes;
mod floats;
mod k_quants;
mod pass;
#[cfg(test)]
mod reference;
#[cfg(target_arch = "x86_64")]
mod rounding;
mod simd;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::isa::Isa;
use crate::error::Error;
use activations::{Format, Matrix, TILE_COLUMNS};
use pass::{GROUP_ROWS, Pass, PassFn, Weights};
use std::ops::Range;

/// Bytes of activations that one sweep over the weights uses: they stay in the second-level cache, beside the weights.
const SWEEP_BYTES: usize = 384 << 10;

/// Types of weights that have kernels.
#[allow(missing_docs, reason = "ggml's names")]
#[allow(non_camel_case_types, reason = "ggml's names")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightType {
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    BF16,
}

impl WeightType {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::BF16,
    ];

    /// From ggml's number of the type (`enum ggml_type`).
    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.to_ggml() == number)
    }

    /// ggml's number of the type.
    pub fn to_ggml(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }
}

/// The routines for one type and instruction set.
#[derive(Clone, Copy, Debug)]
struct Routines {
    block_cols: usize,
    block_bytes: usize,
    unit_blocks: usize,
    unit_bytes: usize,
    pack: fn(&[u8], usize, usize, &mut [u8]),
    unpack: fn(&[u8], usize, usize, &mut [f32]),
    /// For 1, 2, ... columns.
    passes: &'static [PassFn],
}

impl Routines {
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn of<W: Weights>(isa: Isa) -> Self {
        Self {
            block_cols: W::BLOCK_COLS,
            block_bytes: W::BLOCK_BYTES,
            unit_blocks: W::UNIT_BLOCKS,
            unit_bytes: W::UNIT_BYTES,
            pack: W::pack,
            unpack: W::unpack,
            #[cfg(target_arch = "x86_64")]
            passes: x86::passes::<W>(isa),
            #[cfg(not(target_arch = "x86_64"))]
            passes: &[],
        }
    }
}

/// A weight's shape and how it is stored and multiplied. Plain data: cheap to copy and to make anew.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    rows: usize,
    cols: usize,
    format: Format,
    routines: Routines,
}

impl Weight {
    /// A weight of `rows` x `cols` elements (`ne[1]` and `ne[0]` in ggml).
    ///
    /// None where there is no kernel: the machine lacks the instruction set, `cols` is no multiple of the type's block (16 for
    /// floats), or the matrix is empty or too large to address.
    pub fn new(weight_type: WeightType, isa: Isa, rows: usize, cols: usize) -> Option<Self> {
        if !isa.is_available() {
            return None;
        }
        let (format, routines) = Self::choose(weight_type, isa);
        let weight = Self { rows, cols, format, routines };
        // Padding at most doubles a row and adds 15 rows; floats of activations are the largest elements.
        let fits = (rows + GROUP_ROWS).checked_mul(cols + 512)?.checked_mul(4)? <= isize::MAX as usize;
        (rows > 0 && cols > 0 && cols.is_multiple_of(routines.block_cols) && fits).then_some(weight)
    }

    fn choose(weight_type: WeightType, isa: Isa) -> (Format, Routines) {
        use blocks32::Blocks32;
        use floats::Floats;
        use k_quants::KQuants;
        let signed_offset = if isa == Isa::Avx2 { 0 } else { 128 };
        match weight_type {
            WeightType::Q4_0 => (Format::Q8_0 { offset: 8 }, Routines::of::<Blocks32<4, false>>(isa)),
            WeightType::Q4_1 => (Format::Q8_1, Routines::of::<Blocks32<4, true>>(isa)),
            WeightType::Q5_0 => (Format::Q8_0 { offset: 16 }, Routines::of::<Blocks32<5, false>>(isa)),
            WeightType::Q5_1 => (Format::Q8_1, Routines::of::<Blocks32<5, true>>(isa)),
            WeightType::Q8_0 => (Format::Q8_0 { offset: signed_offset }, Routines::of::<Blocks32<8, false>>(isa)),
            WeightType::Q4_K => (Format::Q8KPairs, Routines::of::<KQuants<4>>(isa)),
            WeightType::Q5_K => (Format::Q8KPairs, Routines::of::<KQuants<5>>(isa)),
            WeightType::Q6_K => (Format::Q8KOffset { offset: 32 }, Routines::of::<KQuants<6>>(isa)),
            WeightType::F16 => (Format::F16, Routines::of::<Floats<false>>(isa)),
            WeightType::BF16 => (Format::Bf16, Routines::of::<Floats<true>>(isa)),
        }
    }

    /// Rows of the matrix, `ne[1]` in ggml.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row, `ne[0]` in ggml.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Groups of 16 rows, the last one padded: the unit in which threads divide a product.
    pub fn n_groups(&self) -> usize {
        self.rows.div_ceil(GROUP_ROWS)
    }

    /// Bytes of ggml's row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.routines.block_cols * self.routines.block_bytes
    }

    /// Bytes of a packed group.
    pub fn group_bytes(&self) -> usize {
        self.n_units() * self.routines.unit_bytes
    }

    /// Bytes of the packed weight. Place it at a multiple of 64, for speed.
    pub fn packed_bytes(&self) -> usize {
        self.n_groups() * self.group_bytes()
    }

    fn n_units(&self) -> usize {
        (self.cols / self.routines.block_cols).div_ceil(self.routines.unit_blocks)
    }

    /// Packs consecutive rows.
    ///
    /// `source` holds whole rows in ggml's blocks, the first of them a multiple of 16 in the matrix; `packed` is where their groups
    /// go: from byte `first_row / 16 * group_bytes()`, as many groups as the rows need. Only the last rows of
    /// the matrix may leave a group unfilled. Parts can be packed by several threads at once.
    ///
    /// # Errors
    /// If a size does not fit; nothing is written then.
    pub fn pack(&self, source: &[u8], packed: &mut [u8]) -> Result<(), Error> {
        let (row_bytes, unit_bytes, block_bytes) =
            (self.row_bytes(), self.routines.unit_bytes, self.routines.block_bytes);
        let rows = source.len() / row_bytes;
        if !source.len().is_multiple_of(row_bytes) || packed.len() != rows.div_ceil(GROUP_ROWS) * self.group_bytes() {
            return Err(Error::usage(format!(
                "cannot pack {} bytes of weights into {}: rows have {row_bytes} bytes and groups of 16 take {}",
                source.len(),
                packed.len(),
                self.group_bytes()
            )));
        }
        let groups = packed.chunks_exact_mut(self.group_bytes());
        for (group, source) in groups.zip(source.chunks(GROUP_ROWS * row_bytes)) {
            group.fill(0);
            for (at, unit) in group.chunks_exact_mut(unit_bytes).enumerate() {
                for (row, source) in source.chunks_exact(row_bytes).enumerate() {
                    let blocks = source.chunks_exact(block_bytes).skip(at * self.routines.unit_blocks);
                    for (index, block) in blocks.take(self.routines.unit_blocks).enumerate() {
                        (self.routines.pack)(block, index, row, unit);
                    }
                }
            }
        }
        Ok(())
    }

    /// Row `row` of a packed weight as floats: exactly what ggml's dequantisation of that row gives.
    ///
    /// # Errors
    /// If `packed` is not a whole packed weight, `row` is none of its rows, or `values` does not have `cols` elements.
    pub fn unpack_row(&self, packed: &[u8], row: usize, values: &mut [f32]) -> Result<(), Error> {
        if packed.len() != self.packed_bytes() || row >= self.rows || values.len() != self.cols {
            return Err(Error::usage(format!(
                "cannot look up row {row} of {} x {} in {} of {} bytes for {} values",
                self.rows,
                self.cols,
                packed.len(),
                self.packed_bytes(),
                values.len()
            )));
        }
        let group = &packed[row / GROUP_ROWS * self.group_bytes()..];
        let units = group.chunks_exact(self.routines.unit_bytes);
        let unit_cols = self.routines.block_cols * self.routines.unit_blocks;
        for (unit, values) in units.zip(values.chunks_mut(unit_cols)) {
            for (index, values) in values.chunks_exact_mut(self.routines.block_cols).enumerate() {
                (self.routines.unpack)(unit, index, row % GROUP_ROWS, values);
            }
        }
        Ok(())
    }

    /// Units of a column of activations.
    fn activation_units(&self) -> usize {
        self.n_units() * self.routines.unit_blocks * self.routines.block_cols / self.format.unit_cols()
    }

    /// Bytes of scratch for `n_columns` columns of activations.
    pub fn scratch_bytes(&self, n_columns: usize) -> usize {
        n_columns * self.activation_units() * self.format.unit_words() * 4
    }

    /// True if columns rounded for `other` serve this weight too.
    pub fn shares_scratch(&self, other: &Self) -> bool {
        (self.format, self.cols, self.activation_units()) == (other.format, other.cols, other.activation_units())
    }

    /// Items of work in rounding `n_columns` columns, for threads to divide.
    pub fn quantise_items(&self, n_columns: usize) -> usize {
        n_columns * self.activation_units()
    }

    /// Rounds a range of items of a matrix of activations into `scratch`. All items must be there before a product begins.
    ///
    /// Column `c` stands at `x + c * x_stride`, counted in floats.
    ///
    /// # Safety
    /// `x` is valid for `cols` floats in each of the columns. `scratch` is valid for writes of [`scratch_bytes`](Self::scratch_bytes),
    /// aligned to 4. `items` lies within [`quantise_items`](Self::quantise_items), and no two threads share an item.
    pub unsafe fn quantise(
        &self,
        x: *const f32,
        x_stride: usize,
        n_columns: usize,
        items: Range<usize>,
        scratch: *mut u8,
    ) {
        let units = self.activation_units();
        // SAFETY: `new` saw an instruction set that includes AVX2, FMA and F16C; the rest is the caller's promise.
        unsafe {
            let x = Matrix { first: x, stride: x_stride, cols: self.cols };
            activations::quantise(self.format, x, n_columns, units, items, scratch);
        }
    }

    /// Multiplies a range of groups with all columns: `out[c * out_stride + r]` is row `r` times column `c`, for the rows of the groups.
    ///
    /// # Safety
    /// `packed` is valid for reads of [`packed_bytes`](Self::packed_bytes) that [`pack`](Self::pack) wrote. `scratch` holds all items of
    /// `n_columns` columns, rounded by this weight or one that [shares](Self::shares_scratch) its scratch. `groups` lies within
    /// [`n_groups`](Self::n_groups). `out` is valid for writes of every column's rows, and no other thread writes the same rows.
    pub unsafe fn product(
        &self,
        packed: *const u8,
        groups: Range<usize>,
        scratch: *const u8,
        n_columns: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        let column_bytes = self.scratch_bytes(1);
        let sweep = (SWEEP_BYTES / column_bytes / TILE_COLUMNS).max(1) * TILE_COLUMNS;
        for begin in (0..n_columns).step_by(sweep) {
            let columns = begin..n_columns.min(begin + sweep);
            for group in groups.clone() {
                for tile in columns.clone().step_by(TILE_COLUMNS) {
                    let width = TILE_COLUMNS.min(n_columns - tile);
                    // SAFETY: the tile and the group exist.
                    unsafe {
                        let activations = scratch.add(tile * column_bytes);
                        let out = out.add(tile * out_stride);
                        self.product_tile(packed, group, activations, width, out, out_stride);
                    }
                }
            }
        }
    }

    /// One group times one tile, in passes of nearly equal width.
    ///
    /// # Safety
    /// As [`product`](Self::product), for the tile's `width` columns.
    unsafe fn product_tile(
        &self,
        packed: *const u8,
        group: usize,
        activations: *const u8,
        width: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        let row = group * GROUP_ROWS;
        let n_passes = width.div_ceil(self.routines.passes.len());
        for pass in 0..n_passes {
            let columns = width * pass / n_passes..width * (pass + 1) / n_passes;
            // SAFETY: the columns lie in the tile, `new` saw the instruction set, and the rest is the caller's promise.
            unsafe {
                let job = Pass {
                    packed: packed.add(group * self.group_bytes()),
                    n_units: self.n_units(),
                    activations: activations.add(columns.start * 4),
                    step: width * 4,
                    out: out.add(columns.start * out_stride + row),
                    out_stride,
                    rows: GROUP_ROWS.min(self.rows - row),
                };
                (self.routines.passes[columns.len() - 1])(&job);
            }
        }
    }
}
