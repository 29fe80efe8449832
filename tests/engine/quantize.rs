//! Writing quantised files.

use aded::llama::{FileType, Model, ModelParams, QuantizeOptions, TensorType, quantize};

use crate::gguf::{self, tiny_llama};

#[test]
fn a_file_is_quantised_and_loads() {
    let folder = tempfile::tempdir().unwrap();
    let input = gguf::write(folder.path(), "tiny.gguf", &tiny_llama(7).bytes());
    let output = folder.path().join("small.gguf");
    std::fs::write(&output, "an older file").unwrap();
    let options = QuantizeOptions {
        token_embedding_type: Some("q8_0".parse().unwrap()),
        output_tensor_type: Some("Q8_0".parse().unwrap()),
        ..QuantizeOptions::default()
    };
    quantize(&input, &output, "q4_0".parse().unwrap(), &options).unwrap();
    let model = Model::load(&output, &ModelParams { use_mmap: false, ..ModelParams::default() }).unwrap();
    assert_eq!(model.file_type(), "Q4_0");
    assert!(std::fs::metadata(&output).unwrap().len() < std::fs::metadata(&input).unwrap().len() / 3);
    // From quantised weights only if that is asked for; what was there stays.
    let again = folder.path().join("again.gguf");
    let refused = quantize(&output, &again, "q8_0".parse().unwrap(), &QuantizeOptions::default()).unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("quantised already"), "{refused}");
    quantize(&output, &again, "q8_0".parse().unwrap(), &QuantizeOptions { allow_requantize: true, ..options }).unwrap();
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "no unfinished file stays: {names:?}");
}

#[test]
fn what_cannot_be_written_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let input = gguf::write(folder.path(), "tiny.gguf", &tiny_llama(7).bytes());
    let to: FileType = "Q8_0".parse().unwrap();
    let options = QuantizeOptions::default();
    assert!(quantize(&input, &input, to, &options).unwrap_err().is_usage());
    assert!(quantize(&input, folder.path(), to, &options).unwrap_err().is_usage());
    assert!(quantize(&input, folder.path().join("no/where.gguf"), to, &options).unwrap_err().is_io());
    assert!(quantize(folder.path().join("none"), folder.path().join("out"), to, &options).unwrap_err().is_io());
    assert!("q9".parse::<FileType>().unwrap_err().to_string().contains("known are F32"));
    assert!("q9".parse::<TensorType>().unwrap_err().is_usage());
}
