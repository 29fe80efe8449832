//! A context, its memory and its batches.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_sys_2 as ffi;

use super::{Failure, MAX_SEQUENCES, ModelHandle, shim};
use crate::cancel::CancelFlag;
use crate::leaf_ids::SeqOp;
use crate::llama::log;
use crate::token::Token;

/// All sequence ids in order. A row's ids are contiguous, so each row of a batch points into this one table.
static SEQUENCE_IDS: [ffi::llama_seq_id; MAX_SEQUENCES as usize] = {
    let mut ids = [0; MAX_SEQUENCES as usize];
    let mut index = 0;
    while index < ids.len() {
        ids[index] = index as ffi::llama_seq_id;
        index += 1;
    }
    ids
};

/// What a context is created with, checked by the caller.
pub(crate) struct ContextOptions {
    pub(crate) n_ctx: u32,
    pub(crate) n_batch: u32,
    pub(crate) n_ubatch: u32,
    pub(crate) n_sequences: u32,
    pub(crate) n_state_snapshots: u32,
    pub(crate) n_outputs_max: u32,
    pub(crate) n_threads: u32,
    pub(crate) n_threads_batch: u32,
    pub(crate) flash_attention: Option<bool>,
    pub(crate) type_k: ffi::ggml_type,
    pub(crate) type_v: ffi::ggml_type,
    pub(crate) swa_full: bool,
    pub(crate) offload_kqv: bool,
}

/// A context: the memory of all sequences, the compute buffers, the logits of the last batch.
pub(crate) struct Context {
    ptr: NonNull<ffi::llama_context>,
    /// Null where none are kept.
    graphs: *mut shim::aded_graphs,
    /// Looked at by llama.cpp between graph nodes; kept here so that its address stays valid.
    cancel: CancelFlag,
    n_vocab: usize,
    n_batch: u32,
    n_sequences: u32,
    n_outputs_max: u32,
    /// Held so that it outlives the context, which needs it.
    _model: Arc<ModelHandle>,
}

// SAFETY: a context may be used from any thread, from one at a time; nothing in it is bound to the thread that made it.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both pointers are freed once, the graphs before their context and the context before its model.
        unsafe {
            shim::aded_graphs_free(self.graphs);
            ffi::llama_free(self.ptr.as_ptr());
        }
    }
}

unsafe extern "C" fn is_cancelled(data: *mut c_void) -> bool {
    // SAFETY: `data` points to the flag that the context keeps alive.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

/// How a decode call ended, if not well.
pub(crate) enum DecodeFailure {
    /// No room in the memory.
    Full,
    /// The cancel flag was raised.
    Cancelled,
    /// Anything else, in words.
    Other(String),
}

impl Context {
    /// Creates a context; `Err` holds llama.cpp's reason.
    pub(crate) fn new(model: Arc<ModelHandle>, options: &ContextOptions) -> Result<Self, String> {
        static CREATING: Mutex<()> = Mutex::new(());
        assert!(options.n_sequences <= MAX_SEQUENCES && options.n_sequences <= options.n_outputs_max);
        // SAFETY: returns plain data.
        let mut params = unsafe { ffi::llama_context_default_params() };
        params.n_ctx = options.n_ctx;
        params.n_batch = options.n_batch;
        params.n_ubatch = options.n_ubatch;
        params.n_seq_max = options.n_sequences;
        params.n_rs_seq = options.n_state_snapshots;
        params.n_outputs_max = options.n_outputs_max;
        params.n_threads = options.n_threads as i32;
        params.n_threads_batch = options.n_threads_batch as i32;
        params.flash_attn_type = match options.flash_attention {
            None => ffi::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Some(false) => ffi::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            Some(true) => ffi::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        };
        params.type_k = options.type_k;
        params.type_v = options.type_v;
        params.swa_full = options.swa_full;
        params.offload_kqv = options.offload_kqv;
        // One buffer for all sequences: the leaves of a tree share the cells of the committed tokens.
        params.kv_unified = true;
        params.no_perf = false;
        let mut failure = Failure::new();
        // Creating a context may write to the model (its trained context size, for some rope scalings).
        let guard = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        let (ptr, errors) = log::errors_of(|| {
            // SAFETY: the model is valid and kept alive; `failure` lives for the call.
            unsafe { shim::aded_context_new(model.0.as_ptr(), params, &mut failure.0) }
        });
        drop(guard);
        let ptr = NonNull::new(ptr).ok_or_else(|| failure.text_or(&errors))?;
        let mut context = Self {
            ptr,
            // SAFETY: the context is valid, and outlives its graphs.
            graphs: unsafe { shim::aded_graphs_new(ptr.as_ptr()) },
            cancel: CancelFlag::new(),
            n_vocab: model.n_vocab() as usize,
            n_batch: 0,
            n_sequences: options.n_sequences,
            n_outputs_max: options.n_outputs_max,
            _model: model,
        };
        // SAFETY: the context is valid. llama.cpp may have lowered the number that was asked for.
        context.n_batch = unsafe { ffi::llama_n_batch(ptr.as_ptr()) };
        context.set_cancel_flag(CancelFlag::new());
        Ok(context)
    }

    pub(crate) fn cancel_flag(&self) -> &CancelFlag {
        &self.cancel
    }

    /// From now on a raised `flag` ends a decode call that is under way.
    pub(crate) fn set_cancel_flag(&mut self, flag: CancelFlag) {
        let data = ptr::from_ref(flag.as_atomic()).cast_mut().cast();
        // SAFETY: the context is valid; the flag is kept by `self.cancel` as long as llama.cpp may look at it.
        unsafe { ffi::llama_set_abort_callback(self.ptr.as_ptr(), Some(is_cancelled), data) };
        self.cancel = flag;
    }

    pub(crate) fn n_ctx(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_n_ctx(self.ptr.as_ptr()) }
    }

    pub(crate) fn n_batch(&self) -> u32 {
        self.n_batch
    }

    pub(crate) fn n_ubatch(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_n_ubatch(self.ptr.as_ptr()) }
    }

    /// Snapshots of the state that the memory keeps; 0 for memory without a state, and where the architecture cannot.
    pub(crate) fn n_state_snapshots(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_n_rs_seq(self.ptr.as_ptr()) }
    }

    pub(crate) fn set_n_threads(&mut self, n_threads: u32, n_threads_batch: u32) {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_set_n_threads(self.ptr.as_ptr(), n_threads as i32, n_threads_batch as i32) }
    }

    /// Times that llama.cpp used its compute graph again since the context was created.
    pub(crate) fn n_graph_reuses(&self) -> u32 {
        // SAFETY: the context is valid; returns plain data.
        unsafe { ffi::llama_perf_context(self.ptr.as_ptr()) }.n_reused.max(0) as u32
    }

    /// Decodes the rows.
    pub(crate) fn decode(&mut self, rows: &mut BatchRows) -> Result<(), DecodeFailure> {
        let refuse = |text: String| Err(DecodeFailure::Other(text));
        let n_rows = rows.tokens.len();
        if n_rows == 0 || n_rows > self.n_batch as usize {
            return refuse(format!("a batch of {n_rows} rows, but 1 to {} fit", self.n_batch));
        }
        if rows.n_outputs > self.n_outputs_max {
            return refuse(format!("{} rows with logits, but {} fit", rows.n_outputs, self.n_outputs_max));
        }
        if rows.end_id > self.n_sequences {
            return refuse(format!("sequence id {}, but there are {}", rows.end_id - 1, self.n_sequences));
        }
        if let Some(token) = rows.tokens.iter().find(|&&token| token < 0 || token as usize >= self.n_vocab) {
            return refuse(format!("token {token} is outside the vocabulary of {}", self.n_vocab));
        }
        let batch = ffi::llama_batch {
            n_tokens: n_rows as i32,
            token: rows.tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: rows.positions.as_mut_ptr(),
            n_seq_id: rows.n_ids.as_mut_ptr(),
            seq_id: rows.ids.as_mut_ptr(),
            logits: rows.outputs.as_mut_ptr(),
        };
        let mut failure = Failure::new();
        let (status, errors) = log::errors_of(|| {
            // SAFETY: all arrays have `n_rows` entries, and each `ids` entry points to as many ids as `n_ids` says (`BatchRows::push`).
            // llama.cpp copies the batch and writes to none of it. The numbers that it would abort on were checked above. The graphs are
            // those of this context.
            unsafe { shim::aded_decode(self.ptr.as_ptr(), self.graphs, batch, &mut failure.0) }
        });
        match status {
            0 => Ok(()),
            1 => Err(DecodeFailure::Full),
            2 => Err(DecodeFailure::Cancelled),
            shim::ADED_EXCEPTION => refuse(failure.text_or(&errors)),
            status => refuse(format!("{} (status {status})", failure.text_or(&errors))),
        }
    }

    /// The logits of a row of the last batch; `None` if it asked for none.
    pub(crate) fn logits(&self, row: u32) -> Option<&[f32]> {
        let mut failure = Failure::new();
        // SAFETY: the context is valid. The call may reorder llama.cpp's output rows once after a batch, which moves no row handed out
        // before it, since any earlier call has done so already; `Context` is not `Sync`.
        let logits = unsafe { shim::aded_logits(self.ptr.as_ptr(), i32::try_from(row).ok()?, &mut failure.0) };
        // SAFETY: a logits row has as many entries as the vocabulary and stays until the next decode call, which needs `&mut self`.
        (!logits.is_null()).then(|| unsafe { std::slice::from_raw_parts(logits, self.n_vocab) })
    }

    /// Carries out an order; false if the memory cannot remove a part.
    pub(crate) fn carry_out(&mut self, op: SeqOp) -> Result<bool, String> {
        let mut failure = Failure::new();
        // SAFETY: the context is valid.
        let context = self.ptr.as_ptr();
        let status = match op {
            SeqOp::Copy { from, to, begin, end } => {
                assert!(from.max(to) < self.n_sequences, "sequence ids {from} and {to} of {}", self.n_sequences);
                // SAFETY: both ids are below n_seq_max, which llama.cpp would abort on.
                match unsafe {
                    shim::aded_sequence_copy(context, from as i32, to as i32, begin as i32, end as i32, &mut failure.0)
                } {
                    0 => 1,
                    status => status,
                }
            }
            SeqOp::Remove { id, begin } => {
                assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
                // SAFETY: the id is below n_seq_max, which llama.cpp would abort on.
                unsafe { shim::aded_sequence_remove(context, id as i32, begin as i32, -1, &mut failure.0) }
            }
        };
        match status {
            shim::ADED_EXCEPTION => Err(failure.text_or(&[])),
            status => Ok(status == 1),
        }
    }

    /// Forgets the positions `begin..end` of a sequence id and moves the later ones down to `begin`; false if the memory cannot.
    pub(crate) fn shift(&mut self, id: u32, begin: u32, end: u32) -> Result<bool, String> {
        assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
        let mut failure = Failure::new();
        // SAFETY: the context is valid and the id below n_seq_max, which llama.cpp would abort on.
        match unsafe {
            shim::aded_sequence_shift(self.ptr.as_ptr(), id as i32, begin as i32, end as i32, &mut failure.0)
        } {
            shim::ADED_EXCEPTION => Err(failure.text_or(&[])),
            status => Ok(status == 1),
        }
    }

    /// True if positions can be moved: llama.cpp aborts the process at the next decode call where they cannot.
    pub(crate) fn can_shift(&self) -> bool {
        // SAFETY: the context is valid.
        unsafe { ffi::llama_memory_can_shift(ffi::llama_get_memory(self.ptr.as_ptr())) }
    }

    /// Copies out what of a sequence cannot be told from its cells.
    pub(crate) fn save_state(&mut self, id: u32, bytes: &mut Vec<u8>) -> Result<(), String> {
        assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
        let mut failure = Failure::new();
        // SAFETY: the context is valid and the id below n_seq_max, which llama.cpp would abort on.
        let n_bytes = unsafe { shim::aded_state_size(self.ptr.as_ptr(), id as i32, &mut failure.0) };
        bytes.resize(n_bytes, 0);
        // SAFETY: as above; the buffer has `n_bytes` bytes.
        let n_written =
            unsafe { shim::aded_state_save(self.ptr.as_ptr(), id as i32, bytes.as_mut_ptr(), n_bytes, &mut failure.0) };
        if n_bytes == 0 || n_written == 0 { Err(failure.text_or(&[])) } else { Ok(()) }
    }

    /// Puts back what [`save_state`](Self::save_state) copied out of the same sequence.
    pub(crate) fn load_state(&mut self, id: u32, bytes: &[u8]) -> Result<(), String> {
        assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
        let mut failure = Failure::new();
        let (n_read, errors) = log::errors_of(|| {
            // SAFETY: the context is valid and the id below n_seq_max; the buffer has the length given.
            unsafe { shim::aded_state_load(self.ptr.as_ptr(), id as i32, bytes.as_ptr(), bytes.len(), &mut failure.0) }
        });
        if n_read == 0 { Err(failure.text_or(&errors)) } else { Ok(()) }
    }

    /// First and last position that the memory holds for a sequence id; `None` if it holds none.
    pub(crate) fn positions(&self, id: u32) -> Option<(u32, u32)> {
        assert!(id < self.n_sequences, "sequence id {id} of {}", self.n_sequences);
        // SAFETY: the context is valid and the id below n_seq_max, which llama.cpp would abort on.
        let (first, last) = unsafe {
            let memory = ffi::llama_get_memory(self.ptr.as_ptr());
            (ffi::llama_memory_seq_pos_min(memory, id as i32), ffi::llama_memory_seq_pos_max(memory, id as i32))
        };
        Some((u32::try_from(first).ok()?, u32::try_from(last).ok()?))
    }

    /// Empties the memory.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the context is valid; cells without an owner are never read, so their data may stay.
        unsafe { ffi::llama_memory_clear(ffi::llama_get_memory(self.ptr.as_ptr()), false) }
    }
}

/// The arrays of a `llama_batch`, used again from call to call.
#[derive(Default)]
pub(crate) struct BatchRows {
    tokens: Vec<ffi::llama_token>,
    positions: Vec<ffi::llama_pos>,
    n_ids: Vec<i32>,
    ids: Vec<*mut ffi::llama_seq_id>,
    outputs: Vec<i8>,
    n_outputs: u32,
    /// One past the highest sequence id.
    end_id: u32,
}

// SAFETY: the pointers lead to a static table that nobody writes to.
unsafe impl Send for BatchRows {}

impl BatchRows {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.n_ids.clear();
        self.ids.clear();
        self.outputs.clear();
        self.n_outputs = 0;
        self.end_id = 0;
    }

    /// Adds a row that belongs to all of `ids`.
    pub(crate) fn push(&mut self, token: Token, pos: u32, ids: Range<u32>, wants_logits: bool) {
        let table = &SEQUENCE_IDS[ids.start as usize..ids.end as usize];
        assert!(!table.is_empty(), "a row belongs to at least one sequence");
        self.tokens.push(token.0 as ffi::llama_token);
        self.positions.push(pos as ffi::llama_pos);
        self.n_ids.push(table.len() as i32);
        self.ids.push(table.as_ptr().cast_mut());
        self.outputs.push(i8::from(wants_logits));
        self.n_outputs += u32::from(wants_logits);
        self.end_id = self.end_id.max(ids.end);
    }
}
