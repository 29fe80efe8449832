//! `aded_drafter_*`: drafting for hosts that decode by themselves. Needs no llama.cpp.

use std::ffi::c_char;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use super::boundary::{
    Answer, Failure, Registry, Versioned, aded_status, array, call, check_out, last_message, put, put_array, put_sized,
    put_text, sized, text,
};
use super::data::{
    ADED_VERSION_MAJOR, ADED_VERSION_MINOR, ADED_VERSION_PATCH, aded_drafter_params, aded_op, aded_prompt, aded_stats,
    aded_times, finish_of, flag, op_of, settings, stats_of, tokens_of,
};
use super::drafter::{Drafter, Start};
use crate::representative::corpus::Corpus;
use crate::representative::recall::TopRow;
use crate::representative::rows::WIDTH;
use crate::representative::store::Fingerprint;
use crate::sequence::Request;

/// A drafter: what was learnt, and the sequences of one target context. From one thread at a time; a second one gets ADED_BUSY.
pub struct aded_drafter {
    _private: [u8; 0],
}

static DRAFTERS: Registry<Drafter> = Registry::new("drafter");

/// The version of the library: major * 65536 + minor * 256 + patch. Safe from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn aded_version() -> u32 {
    ADED_VERSION_MAJOR << 16 | ADED_VERSION_MINOR << 8 | ADED_VERSION_PATCH
}

/// A short description of a status, such as "invalid argument"; "unknown status" for a number that is none. The text lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn aded_status_text(status: i32) -> *const c_char {
    let text = match status {
        0 => c"done",
        1 => c"invalid argument",
        2 => c"the buffer is too small",
        3 => c"the call is out of order",
        4 => c"another thread is using the object",
        5 => c"no such handle: freed before, or never made",
        6 => c"a fault in aded",
        7 => c"the object is of no further use after a fault",
        8 => c"reading or writing failed",
        9 => c"the file is not what it should be",
        10 => c"the model failed",
        11 => c"the memory is full",
        12 => c"cancelled",
        _ => c"unknown status",
    };
    text.as_ptr()
}

/// Copies the message of this thread's last call that did not end with ADED_OK: what was tried, the value, the limit, the way out.
/// `needed` (not NULL) gets its length, the zero at its end included. ADED_TOO_SMALL if `capacity` is less; then nothing is copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_last_message(buffer: *mut c_char, capacity: usize, needed: *mut usize) -> aded_status {
    let message = last_message();
    // SAFETY: as the caller promises.
    let status = call(|| unsafe { put_text(&message, buffer, capacity, needed) });
    if status != aded_status::ADED_OK {
        // The message that was asked for stays the last one.
        _ = call(|| Err(Failure { status, text: message }));
    }
    status
}

/// Fills `params` with the defaults. `size` is sizeof(aded_drafter_params).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_default_params(params: *mut aded_drafter_params, size: usize) -> aded_status {
    // SAFETY: as the caller promises.
    call(|| unsafe { put_sized(&aded_drafter_params::defaults(), params, size, "the parameters") })
}

/// Fills `prompt` with the defaults. `size` is sizeof(aded_prompt).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_prompt_defaults(prompt: *mut aded_prompt, size: usize) -> aded_status {
    // SAFETY: as the caller promises.
    call(|| unsafe { put_sized(&aded_prompt::defaults(), prompt, size, "the prompt") })
}

/// Makes a drafter and writes its handle to `drafter`. Free it with aded_drafter_free(). Takes about 14 MiB with the default tables.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_new(
    params: *const aded_drafter_params,
    drafter: *mut *mut aded_drafter,
) -> aded_status {
    call(|| {
        check_out(drafter, "the place for the drafter")?;
        // SAFETY: as the caller promises.
        let params = unsafe { sized(params, "the parameters")? };
        let (config, limits, n_cells) = settings(&params)?;
        let handle = DRAFTERS.insert(Drafter::new(config, limits, n_cells)?, ());
        // SAFETY: as the caller promises.
        unsafe { put(drafter, handle, "the place for the drafter") }
    })
}

/// Frees a drafter. NULL is fine. ADED_NO_SUCH_HANDLE if it was freed before, ADED_BUSY if another thread is using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_free(drafter: *mut aded_drafter) -> aded_status {
    call(|| DRAFTERS.free(drafter))
}

/// Starts a sequence in `slot`, and ends the slot's earlier one. Learns the prompt. Between rounds only.
///
/// The slot's main sequence must hold the first n_held tokens of the prompt and nothing else when the next round is decoded. Orders that
/// see to it, and that empty the slot's leaves, come with the next aded_drafter_ops(). The host may also remove cells by itself before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_begin(
    drafter: *mut aded_drafter,
    slot: u32,
    prompt: *const aded_prompt,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        let prompt = unsafe { sized(prompt, "the prompt")? };
        DRAFTERS.with(drafter, |drafter| {
            // SAFETY: as the caller promises.
            let (tokens, end_tokens) = unsafe {
                (
                    array(prompt.tokens, prompt.n_tokens, "the array of tokens")?,
                    array(prompt.end_tokens, prompt.n_end_tokens, "the array of end tokens")?,
                )
            };
            let is_greedy = flag(prompt.greedy, "greedy")?;
            let prompt_tokens = tokens_of(tokens, drafter.n_vocab(), "the prompt")?;
            let end_tokens = tokens_of(end_tokens, drafter.n_vocab(), "the list of end tokens")?;
            let request = Request { prompt: &prompt_tokens, n_max: prompt.n_max, end_tokens: &end_tokens };
            drafter.begin(slot, &request, &Start { n_held: prompt.n_held, n_learnt: prompt.n_learnt, is_greedy })
        })
    })
}

/// The sequence of `slot` is over; later ones may copy from it. Nothing happens if there is none. Between rounds only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_end(drafter: *mut aded_drafter, slot: u32) -> aded_status {
    call(|| DRAFTERS.with(drafter, |drafter| drafter.end(slot)))
}

/// Begins a round of `n_slots` slots: drafts for those whose prompts are read, lays out pieces of the prompts of the others, and writes
/// the number of rows to `n_rows` (not NULL). `max_rows` is what the host has room for in this call; 0 = as many as the parameters say.
///
/// ADED_NO_ROOM if there are fewer cells, or fewer rows with logits, than slots. Then the host decodes fewer slots, or ends one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_draft(
    drafter: *mut aded_drafter,
    slots: *const u32,
    n_slots: usize,
    max_rows: u32,
    n_rows: *mut usize,
) -> aded_status {
    call(|| {
        check_out(n_rows, "the place for the number of rows")?;
        DRAFTERS.with(drafter, |drafter| {
            // SAFETY: as the caller promises.
            let slots = unsafe { array(slots, n_slots, "the array of slots")? };
            let rows = drafter.draft(slots, if max_rows == 0 { u32::MAX } else { max_rows })?;
            // SAFETY: as the caller promises.
            unsafe { put(n_rows, rows, "the place for the number of rows") }
        })
    })
}

/// The rows of the round under way, parents before children: `n_rows` (not NULL) gets their number. Each array that is not NULL has room
/// for `capacity` entries and gets one for each row: the token to decode, its position, the row before it on its path (-1 where that is
/// the slot's committed text), its slot, and 1 if its logits are needed. ADED_TOO_SMALL if `capacity` is less than the number of rows.
///
/// Each row sees its slot's committed text and its own path, nothing else. Hosts whose memory knows no sequence ids follow `parents`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_rows(
    drafter: *const aded_drafter,
    capacity: usize,
    tokens: *mut i32,
    positions: *mut i32,
    parents: *mut i32,
    slots: *mut u32,
    wants_logits: *mut i8,
    n_rows: *mut usize,
) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            let rows = drafter.batch()?.rows();
            // SAFETY: as the caller promises.
            unsafe {
                // Sizes first, so that nothing is written where one is too small.
                put(n_rows, rows.len(), "the place for the number of rows")?;
                if rows.len() > capacity {
                    put_array(rows, ptr::null_mut(), capacity, n_rows, "each array of rows")?;
                }
                column(rows.iter().map(|row| row.token.0 as i32), tokens);
                column(rows.iter().map(|row| row.pos.0 as i32), positions);
                column(rows.iter().map(|row| row.parent.map_or(-1, |parent| parent.0 as i32)), parents);
                column(rows.iter().map(|row| row.slot.0), slots);
                column(rows.iter().map(|row| i8::from(row.wants_logits)), wants_logits);
            }
            Ok(())
        })
    })
}

/// The sequence ids that row `row` belongs to: its slot's main sequence (the slot's number) and leaves (numbers from n_slots on). The
/// first one decides what the row sees. `n_ids` (not NULL) gets their number, at most max_leaves; ADED_TOO_SMALL if `capacity` is less.
/// From draft to keep.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_row_ids(
    drafter: *const aded_drafter,
    row: u32,
    ids: *mut i32,
    capacity: usize,
    n_ids: *mut usize,
) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            let own: Vec<i32> = drafter.row_ids(row)?.map(|id| id as i32).collect();
            // SAFETY: as the caller promises.
            unsafe { put_array(&own, ids, capacity, n_ids, "the array of sequence ids") }
        })
    })
}

/// Fetches the orders to the memory since the last fetch, to be carried out in order: before a round is decoded, and after keep and
/// abort. `n_ops` (not NULL) gets their number. ADED_TOO_SMALL if `capacity` is less; then they stay for the next fetch. A call with
/// capacity 0 asks for the number. There are never more than 4 * n_slots * max_leaves where they are fetched after each step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_ops(
    drafter: *mut aded_drafter,
    ops: *mut aded_op,
    capacity: usize,
    n_ops: *mut usize,
) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            let own: Vec<aded_op> = drafter.ops().map(op_of).collect();
            // SAFETY: as the caller promises.
            unsafe { put_array(&own, ops, capacity, n_ops, "the array of orders")? };
            drafter.clear_ops();
            Ok(())
        })
    })
}

/// The row of `slot` to sample next, after the round was decoded: `row` (not NULL) gets it, or -1 where there is none: the walk is over,
/// or the slot's prompt is still being read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_next_row(drafter: *mut aded_drafter, slot: u32, row: *mut i32) -> aded_status {
    call(|| {
        check_out(row, "the place for the row")?;
        DRAFTERS.with(drafter, |drafter| {
            let next = drafter.next_row(slot)?;
            // SAFETY: as the caller promises.
            unsafe { put(row, row_number(next), "the place for the row") }
        })
    })
}

/// Shows the drafter the logits of a row: `n_logits` = n_vocab numbers, read during the call. Every row with logits that was shown teaches
/// it, whether its token was accepted or not, and a second showing does nothing. `best` (or NULL) gets the token of the largest logit, the
/// lowest such token, -1 if no logit is a number: what a greedy host accepts, so that it need not look for it. From draft to learn; rows
/// that are not sampled are best shown after keep.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_look(
    drafter: *mut aded_drafter,
    row: u32,
    logits: *const f32,
    n_logits: usize,
    best: *mut i32,
) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            if n_logits != drafter.n_vocab() as usize {
                let text = format!("{n_logits} logits are given, but a row has {}", drafter.n_vocab());
                return Err(Failure::invalid(text));
            }
            // SAFETY: as the caller promises.
            let logits = unsafe { array(logits, n_logits, "the array of logits")? };
            let top = drafter.look(row, |scan| scan.top(logits))?;
            if !best.is_null() {
                // SAFETY: as the caller promises.
                unsafe { put(best, top.best().map_or(-1, |token| token.0 as i32), "the place for the best token")? };
            }
            Ok(())
        })
    })
}

/// As aded_drafter_look(), for hosts that have the best tokens of a row and not its logits: `n` tokens with their probabilities at
/// temperature 1, likeliest first. More than 8 are not needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_look_top(
    drafter: *mut aded_drafter,
    row: u32,
    tokens: *const i32,
    probabilities: *const f32,
    n: usize,
) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            // SAFETY: as the caller promises.
            let (tokens, probabilities) = unsafe {
                (array(tokens, n, "the array of tokens")?, array(probabilities, n, "the array of probabilities")?)
            };
            let best = &tokens[..n.min(WIDTH)];
            let tokens = tokens_of(best, drafter.n_vocab(), "the array of tokens")?;
            let mut top = TopRow::default();
            for (index, token) in tokens.into_iter().enumerate() {
                let probability = probabilities[index];
                let most = if index == 0 { 1.0 } else { probabilities[index - 1] };
                if !(0.0..=most).contains(&probability) {
                    return Err(Failure::invalid(format!(
                        "probability {index} is {probability}; give falling numbers from 1 to 0"
                    )));
                }
                (top.tokens[index], top.probabilities[index]) = (token, probability);
            }
            drafter.look(row, |_| top).map(|_| ())
        })
    })
}

/// Takes the token that the host sampled at the slot's next row, and that it has confirmed by that. `next_row` (not NULL) gets the row to
/// sample after it, -1 where the walk is over: the draft holds no such token there, or the sequence ends with it. The host may stop
/// earlier, after one token at least.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_accept(
    drafter: *mut aded_drafter,
    slot: u32,
    token: i32,
    next_row: *mut i32,
) -> aded_status {
    call(|| {
        check_out(next_row, "the place for the next row")?;
        DRAFTERS.with(drafter, |drafter| {
            let token = tokens_of(&[token], drafter.n_vocab(), "the sample")?[0];
            let next = drafter.accept(slot, token)?;
            // SAFETY: as the caller promises.
            unsafe { put(next_row, row_number(next), "the place for the next row") }
        })
    })
}

/// Commits what was accepted, for all slots of the round. The orders that make the memory follow come with aded_drafter_ops(), and are to
/// be carried out before the next round is decoded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_keep(drafter: *mut aded_drafter) -> aded_status {
    call(|| DRAFTERS.with(drafter, Drafter::keep))
}

/// Ends the round: text, rows and times are learnt. `times` is NULL where the drafter measures by itself, from aded_drafter_draft() to the
/// end of this call; the first call about a row stands for the end of the decode call, so that a host on a device waits for the device
/// before it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_learn(drafter: *mut aded_drafter, times: *const aded_times) -> aded_status {
    call(|| {
        let times = if times.is_null() {
            None
        } else {
            // SAFETY: as the caller promises.
            let times = unsafe { sized(times, "the times")? };
            Some((duration(times.round_ms, "round_ms")?, duration(times.sample_ms, "sample_ms")?))
        };
        DRAFTERS.with(drafter, |drafter| drafter.learn(times))
    })
}

/// Gives a round up that could not be decoded, before keep. The sequences stay as they were before it; tokens that were accepted do not
/// count. Orders that remove what the memory may hold of the round come with aded_drafter_ops().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_abort(drafter: *mut aded_drafter) -> aded_status {
    call(|| DRAFTERS.with(drafter, Drafter::abort))
}

/// The tokens that the last round confirmed for `slot`, in order: `n_tokens` (not NULL) gets their number, 0 while a prompt is being read.
/// ADED_TOO_SMALL if `capacity` is less; there are never more than max_logits_rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_emitted(
    drafter: *const aded_drafter,
    slot: u32,
    tokens: *mut i32,
    capacity: usize,
    n_tokens: *mut usize,
) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            let own: Vec<i32> = drafter.emitted(slot)?.iter().map(|token| token.0 as i32).collect();
            // SAFETY: as the caller promises.
            unsafe { put_array(&own, tokens, capacity, n_tokens, "the array of tokens") }
        })
    })
}

/// Why the sequence of `slot` ended: `reason` (not NULL) gets ADED_FINISH_..., ADED_FINISH_NONE while it goes on. Known after learn.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_finish(drafter: *const aded_drafter, slot: u32, reason: *mut i32) -> aded_status {
    call(|| {
        DRAFTERS.with(drafter, |drafter| {
            // SAFETY: as the caller promises.
            unsafe { put(reason, finish_of(drafter.finish(slot)?), "the place for the reason") }
        })
    })
}

/// What happened to the sequence of `slot` so far. `size` is sizeof(aded_stats).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_stats(
    drafter: *const aded_drafter,
    slot: u32,
    stats: *mut aded_stats,
    size: usize,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        DRAFTERS.with(drafter, |drafter| unsafe {
            put_sized(&stats_of(drafter.stats(slot)?), stats, size, "the statistics")
        })
    })
}

/// Forgets everything that was learnt from texts; the corpus and the measured times stay. Between rounds only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_forget(drafter: *mut aded_drafter) -> aded_status {
    call(|| DRAFTERS.with(drafter, Drafter::forget))
}

/// Drafts from a corpus file (`aded learn`) as well, in place of an earlier one; `path` NULL takes it away. `fingerprint` (or NULL) is the
/// tokenizer's, as the program and the full library compute it; a corpus made for another one is refused with ADED_FORMAT.
///
/// cbindgen:prefix=ADED_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_set_corpus(
    drafter: *mut aded_drafter,
    path: *const c_char,
    fingerprint: *const u64,
) -> aded_status {
    call(|| {
        let corpus = if path.is_null() {
            None
        } else {
            // SAFETY: as the caller promises.
            let (path, fingerprint) =
                unsafe { (text(path, "the path")?, array(fingerprint, usize::from(!fingerprint.is_null()), "")?) };
            Some(Corpus::load(Path::new(path), fingerprint.first().copied().map(Fingerprint))?)
        };
        DRAFTERS.with(drafter, |drafter| drafter.set_corpus(corpus))
    })
}

/// Adds what the file at `path` holds to what the drafter knows, and has aded_drafter_save_memory() save there; a file that does not exist
/// yet is fine. `tokenizer` and `model` are numbers of the host's choice that tell whose memory it is; a file with other ones is refused
/// with ADED_FORMAT and left alone. The file tells much about what was said: it holds texts. Between rounds only.
///
/// cbindgen:prefix=ADED_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_open_memory(
    drafter: *mut aded_drafter,
    path: *const c_char,
    tokenizer: u64,
    model: u64,
) -> aded_status {
    call(|| {
        // SAFETY: as the caller promises.
        let path = unsafe { text(path, "the path")? };
        DRAFTERS.with(drafter, |drafter| drafter.open_memory(path, Fingerprint(tokenizer), model))
    })
}

/// Saves what the drafter knows to the file that was opened, whole or not at all. ADED_WRONG_STATE if none was opened. Between rounds only.
///
/// cbindgen:prefix=ADED_EXPERIMENTAL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_drafter_save_memory(drafter: *mut aded_drafter) -> aded_status {
    call(|| DRAFTERS.with(drafter, Drafter::save_memory))
}

/// Writes a column of the rows where the caller wants it.
///
/// # Safety
/// `out` is NULL or has room for all values.
unsafe fn column<T>(values: impl Iterator<Item = T>, out: *mut T) {
    if out.is_null() {
        return;
    }
    for (index, value) in values.enumerate() {
        // SAFETY: as the caller promises; written by bytes, so that alignment does not matter.
        unsafe { out.add(index).write_unaligned(value) };
    }
}

fn row_number(row: Option<u32>) -> i32 {
    row.map_or(-1, |row| row as i32)
}

fn duration(ms: f64, name: &str) -> Answer<Duration> {
    Duration::try_from_secs_f64(ms * 1e-3)
        .map_err(|_| Failure::invalid(format!("{name} is {ms}; give milliseconds, 0 or more")))
}
