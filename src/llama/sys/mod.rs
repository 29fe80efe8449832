//! Owning wrappers round llama.cpp's pointers: the one module of the engine with `unsafe`.
//!
//! What llama.cpp answers with an abort of the process (a batch over its limits, a sequence id out of range) is refused here first;
//! what it answers with a C++ exception is caught in `shim.cpp`.
#![allow(unsafe_code)]

mod attention;
mod context;
#[cfg(aded_hook)]
pub(super) mod hook;
mod model;
mod quantize;
mod sampler;

pub(super) use attention::{AttentionShape, attention_ms};
pub(super) use context::{BatchRows, Context, ContextOptions, DecodeFailure};
pub(super) use model::{LoadOptions, ModelHandle};
pub(super) use quantize::{QuantizeRequest, quantize, tensor_type, tensor_type_name};
pub(super) use sampler::{Candidates, ChainOptions, Sampler, json_schema_to_grammar};

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Once;

use llama_cpp_sys_2 as ffi;

use super::log::{self, Level};

#[allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
#[allow(clippy::undocumented_unsafe_blocks)]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}

/// Sequence ids that llama.cpp knows: `LLAMA_MAX_SEQ`, which its headers do not export.
pub(super) const MAX_SEQUENCES: u32 = 256;

/// What the shim wrote about an exception.
struct Failure(shim::aded_failure);

impl Failure {
    fn new() -> Self {
        Self(shim::aded_failure { text: [0; 1024] })
    }

    fn text(&self) -> Option<String> {
        // SAFETY: the shim terminates the text within the array, and it starts out all zero.
        let text = unsafe { CStr::from_ptr(self.0.text.as_ptr()) }.to_string_lossy();
        (!text.is_empty()).then(|| text.into_owned())
    }

    fn text_or(&self, errors: &[String]) -> String {
        self.text()
            .or_else(|| log::cause(errors).map(str::to_owned))
            .unwrap_or_else(|| "llama.cpp gives no reason".to_owned())
    }
}

unsafe extern "C" fn take_log(level: ffi::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp hands out a terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let level = match level {
        ffi::GGML_LOG_LEVEL_CONT => None,
        ffi::GGML_LOG_LEVEL_ERROR => Some(Level::Error),
        ffi::GGML_LOG_LEVEL_WARN => Some(Level::Warn),
        ffi::GGML_LOG_LEVEL_INFO => Some(Level::Info),
        _ => Some(Level::Debug),
    };
    // A panic in a subscriber must not unwind into C++.
    _ = catch_unwind(AssertUnwindSafe(|| log::take(level, &text)));
}

/// Sets llama.cpp up once for the process: its log goes to `tracing`, its backends are known.
pub(super) fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: the callback has the type asked for and needs no data; called once, before any other use of llama.cpp.
        unsafe {
            ffi::llama_log_set(Some(take_log), ptr::null_mut());
            ffi::llama_backend_init();
        }
        // Before the first model is loaded: llama.cpp copies its list of buffer types then.
        #[cfg(aded_hook)]
        hook::register();
    });
}

/// The CPU features that llama.cpp was compiled with, in its own words.
pub(super) fn system_info() -> String {
    start();
    // SAFETY: the function returns a terminated string in static memory; nobody else calls it, and we copy at once.
    unsafe { text_of(ffi::llama_print_system_info()) }
}

/// Names of the devices that llama.cpp can compute on, such as `CPU` or `CUDA0`, each with its description.
pub(super) fn devices() -> Vec<(String, String)> {
    start();
    // SAFETY: indices below the count give valid devices, whose names are terminated strings that outlive the process' use of them.
    unsafe {
        (0..ffi::ggml_backend_dev_count())
            .map(|index| ffi::ggml_backend_dev_get(index))
            .map(|device| {
                let name = text_of(ffi::ggml_backend_dev_name(device));
                (name, text_of(ffi::ggml_backend_dev_description(device)))
            })
            .collect()
    }
}

/// True if layers and memory can be put on a device with memory of its own.
pub(super) fn has_gpu() -> bool {
    // SAFETY: takes nothing and looks through the list of devices.
    unsafe { ffi::llama_supports_gpu_offload() }
}

/// Values and bytes of a block of one of ggml's types; `None` for a number that is no type, or one that was removed.
pub(super) fn type_layout(kind: u32) -> Option<(u64, u64)> {
    if kind >= ffi::GGML_TYPE_COUNT {
        return None;
    }
    // SAFETY: below the count, which is all that the two functions index a table by.
    let (values, bytes) = unsafe { (ffi::ggml_blck_size(kind), ffi::ggml_type_size(kind)) };
    Some((u64::try_from(values).ok()?, bytes as u64)).filter(|&(values, bytes)| values > 0 && bytes > 0)
}

/// # Safety
/// `text` is null or a terminated string.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
