//! llama.cpp's quantisation of model files.

use std::ffi::CStr;

use llama_cpp_sys_2 as ffi;

use super::{Failure, shim, start, text_of};
use crate::llama::log;

/// What to write.
pub(crate) struct QuantizeRequest<'a> {
    pub(crate) input: &'a CStr,
    pub(crate) output: &'a CStr,
    pub(crate) file_type: u32,
    pub(crate) n_threads: i32,
    pub(crate) allow_requantize: bool,
    pub(crate) token_embedding_type: Option<u32>,
    pub(crate) output_tensor_type: Option<u32>,
}

/// Writes the file; `Err` holds llama.cpp's reason.
pub(crate) fn quantize(request: &QuantizeRequest<'_>) -> Result<(), String> {
    start();
    // SAFETY: returns plain data.
    let mut params = unsafe { ffi::llama_model_quantize_default_params() };
    params.ftype = request.file_type;
    params.nthread = request.n_threads;
    params.allow_requantize = request.allow_requantize;
    if let Some(kind) = request.token_embedding_type {
        params.token_embedding_type = kind;
    }
    if let Some(kind) = request.output_tensor_type {
        params.output_tensor_type = kind;
    }
    let mut failure = Failure::new();
    let (status, errors) = log::errors_of(|| {
        // SAFETY: both paths are terminated; the params hold no pointers of ours.
        unsafe { shim::aded_quantize(request.input.as_ptr(), request.output.as_ptr(), &params, &mut failure.0) }
    });
    if status == 0 { Ok(()) } else { Err(failure.text_or(&errors)) }
}

/// The number of a tensor type by ggml's name, in any case.
pub(crate) fn tensor_type(name: &str) -> Option<u32> {
    (0..ffi::GGML_TYPE_COUNT).find(|&kind| tensor_type_name(kind).is_some_and(|known| known.eq_ignore_ascii_case(name)))
}

/// ggml's name of one of its types.
pub(crate) fn tensor_type_name(kind: u32) -> Option<String> {
    // SAFETY: below the count; the name is null for removed types, else a terminated string in static memory.
    super::type_layout(kind).map(|_| unsafe { text_of(ffi::ggml_type_name(kind)) })
}
