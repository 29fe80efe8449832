//! Products of quantised weights beside what the machine can read and multiply.
//!
//! `cargo bench --no-default-features --bench kernels [-- FILTER]`, such as `-- products/avx512-vnni/Q8_0`
//!
//! One iteration is one product of a weight too large for the caches, on [`THREADS`] threads; bytes are those of the packed
//! weight, elements are multiply-adds. `machine/read` and `machine/multiply-add` are the limits: plain reading of as many
//! bytes, and byte multiply-adds between registers.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use aded::kernels::{Isa, Weight, WeightType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const THREADS: usize = 2;
/// Four times the largest last-level cache of the machines at hand, or so.
const WEIGHT_BYTES: usize = 128 << 20;
const COLS: usize = 2048;

/// A buffer whose lines are cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([1; 64]); bytes.div_ceil(64)]
}

/// Addresses that threads share; each thread writes its own part.
struct Shared<T>(*mut T);

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: `product` writes the rows of its groups only, and every thread has its own groups.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// Runs `work(thread)` on all threads `iterations` times, all threads together each time.
fn timed(iterations: u64, work: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(THREADS);
    let repeat = |thread: usize| {
        for _ in 0..iterations {
            barrier.wait();
            work(thread);
        }
        barrier.wait();
    };
    std::thread::scope(|scope| {
        for thread in 1..THREADS {
            let repeat = &repeat;
            scope.spawn(move || repeat(thread));
        }
        let begin = Instant::now();
        repeat(0);
        begin.elapsed()
    })
}

fn machine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    let memory = lines(WEIGHT_BYTES);
    group.throughput(Throughput::Bytes(WEIGHT_BYTES as u64));
    group.bench_function("read", |bencher| {
        bencher.iter_custom(|iterations| {
            timed(iterations, |thread| {
                let part = &memory[memory.len() * thread / THREADS..memory.len() * (thread + 1) / THREADS];
                // One word of each line is enough to bring the line in.
                let word = |line: &Line| u64::from_ne_bytes(line.0[..8].try_into().unwrap_or_default());
                black_box(part.iter().fold(0u64, |sum, line| sum.wrapping_add(word(line))));
            })
        });
    });
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512Vnni.is_available() {
        const STEPS: usize = 1 << 20;
        group.throughput(Throughput::Elements((STEPS * 16 * 64 * THREADS) as u64));
        group.bench_function("multiply-add", |bencher| {
            // SAFETY: the instruction set is there.
            bencher.iter_custom(|iterations| timed(iterations, |_| unsafe { multiply_add(STEPS) }));
        });
    }
    group.finish();
}

/// Sixteen independent multiply-adds of 64 bytes each, `steps` times.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn multiply_add(steps: usize) {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_si512(); 16];
    let (w, a) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(-5)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, w, a);
        }
    }
    black_box(sums);
}

/// Rows and packed bytes of the weight that is measured.
fn shape(weight_type: WeightType, isa: Isa) -> Option<(usize, usize)> {
    let group_bytes = Weight::new(weight_type, isa, 16, COLS)?.packed_bytes();
    let n_groups = WEIGHT_BYTES / group_bytes;
    Some((n_groups * 16, n_groups * group_bytes))
}

/// A weight of the type, packed from arbitrary codes with small scales.
fn packed(weight_type: WeightType, isa: Isa) -> Option<(Weight, Vec<Line>)> {
    let weight = Weight::new(weight_type, isa, shape(weight_type, isa)?.0, COLS)?;
    let mut lines = lines(weight.packed_bytes());
    // SAFETY: the lines are plain bytes, at least as many.
    let packed = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), weight.packed_bytes()) };
    // No bit that could make a half-precision scale large.
    let source: Vec<u8> = (0..16 * weight.row_bytes()).map(|i| ((i * 40_503) >> 5) as u8 & 0x2f).collect();
    for group in packed.chunks_exact_mut(weight.group_bytes()) {
        weight.pack(&source, group).ok()?;
    }
    Some((weight, lines))
}

fn products(criterion: &mut Criterion) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for weight_type in WeightType::ALL {
            let mut group = criterion.benchmark_group(format!("products/{}/{weight_type:?}", isa.name()));
            let Some((rows, bytes)) = shape(weight_type, isa) else { continue };
            let mut prepared = None;
            for n_columns in [1, 2, 4, 8, 16, 256] {
                let elements = (rows * COLS * n_columns) as u64;
                group.throughput(Throughput::ElementsAndBytes { elements, bytes: bytes as u64 });
                group.bench_function(BenchmarkId::from_parameter(n_columns), |bencher| {
                    // Packed only if the filter lets one of the group's benches run.
                    let Some((weight, lines)) = prepared.get_or_insert_with(|| packed(weight_type, isa)) else {
                        return;
                    };
                    let x: Vec<f32> = (0..COLS * n_columns).map(|i| (i % 997) as f32 / 500.0 - 1.0).collect();
                    let mut scratch = self::lines(weight.scratch_bytes(n_columns));
                    let mut out = vec![0.0; weight.rows() * n_columns];
                    // SAFETY: the buffers have the sizes that the weight asks for.
                    unsafe {
                        let items = 0..weight.quantise_items(n_columns);
                        weight.quantise(x.as_ptr(), COLS, n_columns, items, scratch.as_mut_ptr().cast());
                    }
                    let out = Shared(out.as_mut_ptr());
                    bencher.iter_custom(|iterations| {
                        timed(iterations, |thread| {
                            let groups =
                                weight.n_groups() * thread / THREADS..weight.n_groups() * (thread + 1) / THREADS;
                            // SAFETY: as above, and the threads' groups do not meet.
                            unsafe {
                                weight.product(
                                    lines.as_ptr().cast(),
                                    groups,
                                    scratch.as_ptr().cast(),
                                    n_columns,
                                    out.get(),
                                    weight.rows(),
                                );
                            }
                        })
                    });
                });
            }
            group.finish();
        }
    }
}

/// Enough for a median on a quiet machine; an iteration takes milliseconds.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = kernels; config = quick(); targets = machine, products }
criterion_main!(kernels);
