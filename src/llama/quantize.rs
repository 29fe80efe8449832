//! Writing a model file with smaller weights.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

use llama_cpp_sys_2 as ffi;

use super::gguf::Header;
use super::sys::{self, QuantizeRequest};
use crate::error::Error;

/// The types that a whole file can be quantised to, by the names that llama.cpp's own program takes.
const FILE_TYPES: &[(&str, ffi::llama_ftype)] = &[
    ("F32", ffi::LLAMA_FTYPE_ALL_F32),
    ("F16", ffi::LLAMA_FTYPE_MOSTLY_F16),
    ("BF16", ffi::LLAMA_FTYPE_MOSTLY_BF16),
    ("Q8_0", ffi::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("Q6_K", ffi::LLAMA_FTYPE_MOSTLY_Q6_K),
    ("Q5_K_M", ffi::LLAMA_FTYPE_MOSTLY_Q5_K_M),
    ("Q5_K_S", ffi::LLAMA_FTYPE_MOSTLY_Q5_K_S),
    ("Q5_1", ffi::LLAMA_FTYPE_MOSTLY_Q5_1),
    ("Q5_0", ffi::LLAMA_FTYPE_MOSTLY_Q5_0),
    ("Q4_K_M", ffi::LLAMA_FTYPE_MOSTLY_Q4_K_M),
    ("Q4_K_S", ffi::LLAMA_FTYPE_MOSTLY_Q4_K_S),
    ("Q4_1", ffi::LLAMA_FTYPE_MOSTLY_Q4_1),
    ("Q4_0", ffi::LLAMA_FTYPE_MOSTLY_Q4_0),
    ("IQ4_NL", ffi::LLAMA_FTYPE_MOSTLY_IQ4_NL),
    ("IQ4_XS", ffi::LLAMA_FTYPE_MOSTLY_IQ4_XS),
    ("Q3_K_L", ffi::LLAMA_FTYPE_MOSTLY_Q3_K_L),
    ("Q3_K_M", ffi::LLAMA_FTYPE_MOSTLY_Q3_K_M),
    ("Q3_K_S", ffi::LLAMA_FTYPE_MOSTLY_Q3_K_S),
    ("Q2_K", ffi::LLAMA_FTYPE_MOSTLY_Q2_K),
];

/// The type of a whole file, such as `Q4_0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileType(ffi::llama_ftype);

impl FileType {
    /// All names that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILE_TYPES.iter().map(|(name, _)| *name)
    }
}

impl FromStr for FileType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        FILE_TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, kind)| Self(*kind)).ok_or_else(
            || {
                let known = Self::names().collect::<Vec<_>>().join(", ");
                Error::usage(format!("the file type {text:?} is not known; known are {known}"))
            },
        )
    }
}

/// The type of single tensors, by ggml's names, such as `q8_0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorType(u32);

impl TensorType {
    /// The type of that number in a file.
    pub fn from_number(kind: u32) -> Option<Self> {
        sys::tensor_type_name(kind).map(|_| Self(kind))
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sys::tensor_type_name(self.0).unwrap_or_default())
    }
}

impl FromStr for TensorType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        sys::tensor_type(text).map(Self).ok_or_else(|| {
            Error::usage(format!("the tensor type {text:?} is not known; examples are q8_0, q4_0, q6_K, f16"))
        })
    }
}

/// How a file is quantised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizeOptions {
    /// Take weights that are quantised already: loses more than from the original. Default false.
    pub allow_requantize: bool,
    /// Type of the token embeddings; `None` = what the file type brings with it.
    pub token_embedding_type: Option<TensorType>,
    /// Type of the output head; `None` = what the file type brings with it.
    pub output_tensor_type: Option<TensorType>,
    /// Threads; 0 = as many as the machine has.
    pub n_threads: u32,
}

/// Writes `input` to `output` with weights of another type. A file that is there stays until the new one is complete.
///
/// # Errors
/// [`Error::is_io`] and [`Error::is_format`] if the input cannot be used, [`Error::is_usage`] if output and input are one file,
/// [`Error::is_target`] if llama.cpp cannot do it: weights that are quantised already, no room on the disk.
pub fn quantize(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    to: FileType,
    options: &QuantizeOptions,
) -> Result<(), Error> {
    let (input, output) = (input.as_ref(), output.as_ref());
    Header::read(input, sys::type_layout)?;
    let same = |left: &Path, right: &Path| {
        fs::canonicalize(left).ok().is_some_and(|left| fs::canonicalize(right).ok() == Some(left))
    };
    if same(input, output) {
        return Err(Error::usage(format!("{} is input and output: choose another output", input.display())));
    }
    let io_error = |error: io::Error| Error::io(format!("cannot write {}: {error}", output.display()), error);
    if output.is_dir() {
        return Err(Error::usage(format!("{} is a folder: give a file name", output.display())));
    }
    let partial = Partial(partial_file(output));
    // llama.cpp does not say why a file cannot be created; the attempt here does.
    fs::File::create(&partial.0).map_err(io_error)?;
    let text = |path: &Path| {
        let bytes =
            path.to_str().ok_or_else(|| Error::usage(format!("the path {} is not valid UTF-8", path.display())))?;
        CString::new(bytes).map_err(|_| Error::usage(format!("the path {bytes:?} holds a zero byte")))
    };
    let request = QuantizeRequest {
        input: &text(input)?,
        output: &text(&partial.0)?,
        file_type: to.0,
        n_threads: options.n_threads as i32,
        allow_requantize: options.allow_requantize,
        token_embedding_type: options.token_embedding_type.map(|kind| kind.0),
        output_tensor_type: options.output_tensor_type.map(|kind| kind.0),
    };
    sys::quantize(&request).map_err(|reason| {
        let name = input.display();
        if let Some(at) = reason.find("requantizing") {
            let reason = &reason[at..];
            Error::usage(format!(
                "the weights of {name} are quantised already ({reason}): allow requantizing, or take the original"
            ))
        } else if reason.contains("iostream error") {
            Error::target(format!("cannot write {}: is there room on the disk? ({reason})", output.display()))
        } else {
            Error::target(format!("cannot quantize {name}: {reason}"))
        }
    })?;
    let file = fs::File::open(&partial.0).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    fs::rename(&partial.0, output).map_err(io_error)
}

/// The name under which [`quantize`] writes until the file is complete, for a process that may have to end before and remove it.
pub fn partial_file(output: impl AsRef<Path>) -> PathBuf {
    let output = output.as_ref();
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    output.with_file_name(name)
}

/// A file in the making; removed if it is still there at the end.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After success it has its final name; where removing fails, so did writing, which is reported.
        _ = fs::remove_file(&self.0);
    }
}
