//! `aded quantize`: a model file with smaller weights.

use aded::Error;
use aded::llama::{FileType, QuantizeOptions, TensorType, default_threads, partial_file, quantize as write};
use anyhow::Result;

use super::flags::QuantizeArgs;
use super::output::note;
use super::{interrupt, log};

/// Writes the file.
///
/// # Errors
/// If a type is not known, the input is no model, or the output cannot be written; an older file then stays as it was.
pub(crate) fn quantize(args: &QuantizeArgs) -> Result<()> {
    log::install(&args.log)?;
    // llama.cpp cannot be stopped half-way, so that Ctrl-C ends the process, and the file in the making goes with it.
    interrupt::install()?;
    interrupt::remove_then(partial_file(&args.output));
    let kind: FileType = args.kind.parse()?;
    let tensor_type = |name: &Option<String>| name.as_deref().map(str::parse::<TensorType>).transpose();
    let options = QuantizeOptions {
        allow_requantize: args.allow_requantize,
        token_embedding_type: tensor_type(&args.token_embedding_type)?,
        output_tensor_type: tensor_type(&args.output_tensor_type)?,
        n_threads: args.threads.unwrap_or_else(default_threads),
    };
    write(&args.input, &args.output, kind, &options).map_err(|error| {
        let is_requantizing = error.is_usage() && !args.allow_requantize && error.to_string().contains("requantizing");
        if is_requantizing { Error::usage(format!("{error} (--allow-requantize does the former)")) } else { error }
    })?;
    let mebibytes = |path| std::fs::metadata(path).map_or(0.0, |meta| meta.len() as f64 / f64::from(1 << 20));
    let (input, output) = (mebibytes(&args.input), mebibytes(&args.output));
    note(&format!("{}: {output:.1} MiB, from {input:.1} MiB", args.output.display()));
    Ok(())
}
