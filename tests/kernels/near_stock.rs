//! Our kernels compute what llama.cpp's compute, but for the noise that its own ways of computing make.

use std::sync::Arc;

use aded::Token;
use aded::llama::{ContextParams, FlashAttention, Kernels, Model, ModelParams, QuantizeOptions, Target, quantize};

use crate::{GEMMA3, SMOLLM2, each_set, gguf, load, logits, params, text, with};

/// Rows that are compared.
const ROWS: usize = 48;

/// The root of the mean square of the distances.
fn distance(left: &[f32], right: &[f32]) -> f64 {
    assert_eq!(left.len(), right.len());
    let squares = left.iter().zip(right).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / left.len() as f64).sqrt()
}

/// Logits of the first tokens in calls of `n_rows`.
fn of(model: &Arc<Model>, tokens: &[Token], flash_attention: FlashAttention, n_rows: usize) -> Vec<f32> {
    let params = ContextParams { flash_attention, ..params(128, 16) };
    let mut target = Target::new(model.clone(), &params).unwrap();
    logits(&mut target, &tokens[..ROWS], n_rows)
}

/// Every instruction set against llama.cpp's kernels. How far the latter's logits lie from each other for other numbers of rows and for
/// attention in one step or in several is the noise of rounding activations and sums.
fn check(name: &str, load: &dyn Fn() -> Arc<Model>, tokens: &dyn Fn(&Model) -> Vec<Token>) {
    let (stock, noise) = with(Kernels::off(), || {
        let model = load();
        let tokens = tokens(&model);
        let stock = of(&model, &tokens, FlashAttention::On, 1);
        let other_ways =
            [(FlashAttention::On, 4), (FlashAttention::On, 16), (FlashAttention::Off, 1), (FlashAttention::Off, 16)];
        let noise = other_ways.map(|(attention, n_rows)| distance(&stock, &of(&model, &tokens, attention, n_rows)));
        println!("{name}: {noise:?} between llama.cpp's ways");
        (stock, noise.into_iter().fold(0.0, f64::max))
    });
    for kernels in each_set() {
        with(kernels, || {
            let model = load();
            let moved = distance(&stock, &of(&model, &tokens(&model), FlashAttention::On, 4));
            println!("{name}, {:?}: {moved} from llama.cpp's, whose own noise is {noise}", kernels.isa());
            assert!(moved <= 2.0 * noise, "{name}, {:?}: {moved}, noise {noise}", kernels.isa());
        });
    }
}

fn real(name: &str) {
    check(name, &|| load(name), &|model| model.tokenize_prompt(&text()).unwrap());
}

#[test]
fn the_default_model_s_logits_are_stock_s() {
    real(SMOLLM2);
}

#[test]
fn those_of_a_model_with_a_sliding_window_are_stock_s() {
    real(GEMMA3);
}

#[test]
fn a_tiny_model_of_each_type_has_stock_s_logits() {
    let folder = tempfile::tempdir().unwrap();
    let floats = gguf::write(folder.path(), "floats.gguf", &gguf::llama(7, 1.5, 256).bytes());
    for (file_type, tensor_type) in [
        ("F16", "f16"),
        ("BF16", "bf16"),
        ("Q4_0", "q4_0"),
        ("Q4_1", "q4_1"),
        ("Q5_0", "q5_0"),
        ("Q5_1", "q5_1"),
        ("Q8_0", "q8_0"),
        ("Q4_K_S", "q4_K"),
        ("Q5_K_S", "q5_K"),
        ("Q6_K", "q6_K"),
    ] {
        let kind = Some(tensor_type.parse().unwrap());
        let options =
            QuantizeOptions { token_embedding_type: kind, output_tensor_type: kind, ..QuantizeOptions::default() };
        let file = folder.path().join(file_type);
        quantize(&floats, &file, file_type.parse().unwrap(), &options).unwrap();
        let load = || Model::load(&file, &ModelParams { use_mmap: false, ..ModelParams::default() }).unwrap();
        let tokens = |_: &Model| (0..ROWS as u32).map(|index| Token(4 + index * index * 31 % 256)).collect();
        check(file_type, &load, &tokens);
    }
}
