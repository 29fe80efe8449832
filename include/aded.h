/*
 * aded: adaptive draft-and-verify decoding. This header is the manual of the C libraries.
 *
 * Two libraries. `aded_core` needs nothing beside libc: it drafts, and the host decodes with whatever llama.cpp, or
 * other engine, it has already. `aded` has llama.cpp inside, together with all of the core; define ADED_FULL before
 * including this header to see what only it has. A program that links a llama.cpp of its own takes `aded_core`, and
 * aded_llama.h beside this file does the talking to llama.h.
 *
 * What else a program links, on Linux (`pkg-config --static --libs aded-core` or `aded` says it for the machine at hand):
 *
 *     libaded_core.a: -lutil -lrt -lpthread -lm -ldl -lc
 *     libaded.a: -lgomp -lstdc++ -lutil -lrt -lpthread -lm -ldl -lc
 *
 * Rounds. A host that decodes by itself does this for each round, with one slot or several:
 *
 *     aded_drafter_draft     which slots take part; how many rows there are
 *     aded_drafter_ops       orders to the memory, before the rows are decoded
 *     aded_drafter_rows      tokens, positions, parents; aded_drafter_row_ids: sequence ids
 *     (the host decodes the rows in one call; if that fails: aded_drafter_abort)
 *     aded_drafter_next_row  for each slot: sample this row, aded_drafter_accept the token, until there is no next
 *     aded_drafter_keep      then aded_drafter_ops again: the memory keeps what was accepted
 *     aded_drafter_look      show the logits of rows, as many as are at hand: they teach
 *     aded_drafter_learn     the round is over; aded_drafter_finish tells whether a sequence is
 *
 * Output is that of plain decoding: each token is sampled once by the host's own sampler from the model's own logits.
 *
 * Statuses. Every function that can fail returns aded_status. Numbers keep their meaning for ever. aded_last_message
 * has the words. Nothing is printed, but for llama.cpp's own parser, which shows a wrong grammar on standard error. No
 * signal is raised, no exit or abort is called, and errno says nothing. A panic in the library becomes ADED_INTERNAL.
 *
 * Pointers. NULL where a function needs something is ADED_INVALID_ARGUMENT; where NULL is allowed, the function says
 * so. What is not NULL must be as large as the lengths beside it say. Nothing that the caller passes is kept after the
 * call, but for the log callback and its data. Outputs are written on ADED_OK alone, needed sizes also on
 * ADED_TOO_SMALL. Texts are UTF-8 and end with a zero. Arrays and structures that are passed do not overlap those that
 * are written. Callbacks return: they throw no exception and do not jump out.
 *
 * Handles are opaque numbers, not addresses. What is made by aded_..._new or _load is freed by aded_..._free, once; a
 * second time is ADED_NO_SUCH_HANDLE, and so is every use after it.
 *
 * Threads. Every function may be called from any thread. An object serves one call at a time: a second one gets
 * ADED_BUSY. Different objects do not disturb each other. Exceptions are named where they stand.
 *
 * Structures whose first field is `size` may grow at their end; the library reads and writes as much as the caller's
 * header knew of. Before version 1.0 the interface may change between minor versions: link statically, or compare
 * aded_version() with ADED_VERSION_MAJOR, _MINOR and _PATCH.
 *
 * Functions marked ADED_EXPERIMENTAL may change in any version.
 */

#ifndef ADED_H
#define ADED_H

#include <stddef.h>
#include <stdint.h>
/* Marks functions that may change in any version. Define it as something else to be warned of them. */
#ifndef ADED_EXPERIMENTAL
#define ADED_EXPERIMENTAL
#endif

// The version of this header: the library's is that of aded_version().
#define ADED_VERSION_MAJOR 0

#define ADED_VERSION_MINOR 1

#define ADED_VERSION_PATCH 0

// Draft whenever the measured times say that it pays.
#define ADED_MODE_AUTO 0

// Draft in every round for which anything is known.
#define ADED_MODE_ON 1

// Never draft: plain decoding through the same calls.
#define ADED_MODE_OFF 2

// The memory keeps the branches of a tree apart by sequence ids (llama.cpp with a unified KV cache).
#define ADED_SHAPE_TREE 0

// The memory can drop a tail and no more: drafts are chains.
#define ADED_SHAPE_CHAIN 1

// The memory cannot drop anything: no drafts.
#define ADED_SHAPE_NOTHING 2

// Search in order of survival probability: exact for a budget of rows.
#define ADED_SEARCH_BEST_FIRST 0

// Monte Carlo tree search over the same probabilities.
#define ADED_SEARCH_MCTS 1

// The published algorithm as it is, for comparisons.
#define ADED_SEARCH_REFERENCE 2

// The sequence goes on.
#define ADED_FINISH_NONE 0

// An end token was confirmed, or the caller stopped it.
#define ADED_FINISH_STOP 1

// As many tokens as were asked for, or the end of the context.
#define ADED_FINISH_LENGTH 2

// Cancelled.
#define ADED_FINISH_CANCELLED 3

// Cells of `from` at positions `begin` to `end` - 1 belong to `to` as well.
#define ADED_OP_COPY 0

// Cells of `from` at positions from `begin` on no longer belong to it. `to` and `end` are -1.
#define ADED_OP_REMOVE 1

// How a call ended. Numbers are never given a new meaning; later versions may add some.
typedef enum {
    // Done.
    ADED_OK = 0,
    // A pointer is NULL that must not be, or a value is outside its range. Nothing was done.
    ADED_INVALID_ARGUMENT = 1,
    // A buffer is too small; the size that is needed was written. Nothing was done.
    ADED_TOO_SMALL = 2,
    // The call does not belong here: rounds have an order. Nothing was done.
    ADED_WRONG_STATE = 3,
    // Another thread is using the object. Nothing was done.
    ADED_BUSY = 4,
    // The handle was freed or is none. Nothing was done.
    ADED_NO_SUCH_HANDLE = 5,
    // A fault in the library (a panic). The object is of no further use: free it.
    ADED_INTERNAL = 6,
    // An earlier call on this object ended with ADED_INTERNAL: free it.
    ADED_POISONED = 7,
    // Reading or writing a file failed.
    ADED_IO = 8,
    // A file is not what it should be.
    ADED_FORMAT = 9,
    // The model, or llama.cpp, failed.
    ADED_TARGET = 10,
    // The model's memory is full.
    ADED_NO_ROOM = 11,
    // Stopped by aded_session_cancel().
    ADED_CANCELLED = 12,
} aded_status;

// A drafter: what was learnt, and the sequences of one target context. From one thread at a time; a second one gets ADED_BUSY.
typedef struct aded_drafter aded_drafter;

#if defined(ADED_FULL)
// A loaded model. Serves any number of sessions, and any number of threads at once: never ADED_BUSY. May be freed while sessions live.
typedef struct aded_model aded_model;
#endif

#if defined(ADED_FULL)
// A context of a model with one sequence, and what was learnt in it. Prompts that begin like the last one reuse its memory. From one
// thread at a time, but for aded_session_cancel().
typedef struct aded_session aded_session;
#endif

// What a drafter is made with. Fill it with aded_drafter_default_params(), then set n_vocab and n_ctx at least.
typedef struct {
    // sizeof(aded_drafter_params) of the caller's header.
    size_t size;
    // Length of a logits row. Must be set.
    uint32_t n_vocab;
    // Tokens that one slot's sequence can hold. Must be set.
    uint32_t n_ctx;
    // Cells of the memory, over all slots; 0 = n_ctx * n_slots. Smaller where slots share a memory that is not enough for all.
    uint32_t n_cells;
    // Sequences that can be decoded side by side. Default 1.
    uint32_t n_slots;
    // Rows that one decode call can take, prompts included. Default 512.
    uint32_t max_rows;
    // Of them, rows with logits: roots and draft nodes of all slots. Default 64, which is also the most that is ever drafted.
    uint32_t max_logits_rows;
    // Leaves of a slot's tree; the memory needs n_slots * max_leaves sequence ids. 1 where shape is not ADED_SHAPE_TREE. Default 16.
    uint32_t max_leaves;
    // ADED_SHAPE_... Default ADED_SHAPE_TREE.
    int32_t shape;
    // ADED_MODE_... Default ADED_MODE_AUTO.
    int32_t mode;
    // ADED_SEARCH_... Default ADED_SEARCH_BEST_FIRST.
    int32_t search;
    // Nodes of each draft, 1 to 63; 0 = by the measured times, round by round. Default 0.
    uint32_t budget;
    // Deepest node, 1 to 63. Default 63.
    uint32_t max_depth;
    // Start of the random numbers of ADED_SEARCH_REFERENCE. Default 0.
    uint64_t seed;
    // Contexts of counted successors, 64 bytes each. Default 65536.
    size_t overlay_contexts;
    // Contexts of remembered logits rows, 64 bytes each. Default 131072.
    size_t recall_contexts;
    // Tokens of earlier sequences that can be copied from, 16 bytes each. Default 131072.
    size_t log_tokens;
} aded_drafter_params;

// A prompt, or a text that is to go on.
typedef struct {
    // sizeof(aded_prompt) of the caller's header.
    size_t size;
    // The tokens, read during the call. At least one.
    const int32_t *tokens;
    // Their number, at most n_ctx of the drafter.
    size_t n_tokens;
    // So many of them have cells in the memory of the slot's main sequence, which holds nothing else. At most n_tokens - 1: the last
    // token is decoded by the first round. Default 0: rounds read the prompt, in as many calls as it takes.
    size_t n_held;
    // So many of them were learnt before, by this drafter, as the beginning of an earlier sequence. Default 0.
    size_t n_learnt;
    // Most tokens to confirm. Default SIZE_MAX: until the slot is full.
    size_t n_max;
    // Tokens that end the sequence; they are confirmed. Read during the call. Default none.
    const int32_t *end_tokens;
    // Their number.
    size_t n_end_tokens;
    // 1 if the host always takes the largest logit, else 0. Statistics are kept apart for both. Default 1.
    int32_t greedy;
} aded_prompt;

// An order to the memory, in the host's sequence ids: main sequences are 0 to n_slots - 1, leaves the ids after them.
typedef struct {
    // ADED_OP_COPY (llama_memory_seq_cp) or ADED_OP_REMOVE (llama_memory_seq_rm).
    int32_t kind;
    // The sequence whose cells they are.
    int32_t from;
    // The sequence that gets them as well; -1 for a removal.
    int32_t to;
    // First position.
    int32_t begin;
    // One past the last position; -1 for a removal: to the end.
    int32_t end;
} aded_op;

// The host's own measurement of a round.
typedef struct {
    // sizeof(aded_times) of the caller's header.
    size_t size;
    // Milliseconds from draft to learn.
    double round_ms;
    // Of them, the sampling.
    double sample_ms;
} aded_times;

// What happened to a sequence so far.
typedef struct {
    // sizeof(aded_stats) of the caller's header.
    size_t size;
    // Prompt tokens that rounds read.
    uint64_t n_prompt;
    // Rounds after the prompt.
    uint64_t n_rounds;
    // Of them, rounds with a draft.
    uint64_t n_draft_rounds;
    // Tokens confirmed by these rounds.
    uint64_t n_tokens;
    // Nodes drafted.
    uint64_t n_drafted;
    // Nodes accepted.
    uint64_t n_accepted;
    // Milliseconds of the prompt's rounds.
    double prompt_ms;
    // Milliseconds of the rounds after the prompt.
    double round_ms;
    // Of them, drafting.
    double draft_ms;
    // Of them, decoding.
    double decode_ms;
    // Of them, sampling.
    double sample_ms;
    // Of them, learning.
    double learn_ms;
} aded_stats;

#if defined(ADED_FULL)
// How a model is loaded.
typedef struct {
    // sizeof(aded_model_params) of the caller's header.
    size_t size;
    // Layers to put on a GPU, negative for all. Default -1.
    int32_t n_gpu_layers;
    // 1 to map the file, 0 to read it. Default 1.
    int32_t use_mmap;
    // 1 to keep the weights from being swapped out. Default 0.
    int32_t use_mlock;
    // Called now and then with the share that is done, 0 to 1, by the thread that loads; loading stops where it returns 0. Default NULL.
    int32_t (*progress)(float share,
                        void *user_data);
    // Handed to `progress`.
    void *user_data;
} aded_model_params;
#endif

#if defined(ADED_FULL)
// What a session is made with.
typedef struct {
    // sizeof(aded_session_params) of the caller's header.
    size_t size;
    // Tokens that prompt and answer may have together; 0 = as many as the model was trained with. Default 4096.
    uint32_t n_ctx;
    // Rows that one call can take. Default 2048.
    uint32_t n_batch;
    // Rows that are computed at once. Default 512.
    uint32_t n_ubatch;
    // Threads; 0 = one for each physical core. Default 0.
    uint32_t n_threads;
    // Threads for prompts and drafts; 0 = as n_threads. Default 0.
    uint32_t n_threads_batch;
    // Fused attention: 1 on, 0 off, -1 where the backend supports it. Default -1.
    int32_t flash_attention;
    // Rows with logits: a draft's nodes and its root. Default 64.
    uint32_t max_logits_rows;
    // Leaves of a draft. Default 16.
    uint32_t max_leaves;
    // ADED_MODE_... Default ADED_MODE_AUTO.
    int32_t mode;
    // Nodes of each draft, 1 to 63; 0 = by the measured times. Default 0.
    uint32_t budget;
} aded_session_params;
#endif

#if defined(ADED_FULL)
// How tokens are chosen: llama.cpp's samplers, in the order of its own programs.
typedef struct {
    // sizeof(aded_sampling) of the caller's header.
    size_t size;
    // Start of the random numbers; UINT32_MAX = another one each time. Default UINT32_MAX.
    uint32_t seed;
    // 0 or less takes the likeliest token. Default 0.8.
    float temperature;
    // Keep the so many likeliest tokens; 0 = all. Default 40.
    int32_t top_k;
    // Keep the likeliest tokens that together have this probability; 1 = all. Default 0.95.
    float top_p;
    // Keep tokens with at least this share of the likeliest one's probability; 0 = all. Default 0.05.
    float min_p;
    // Divisor of repeated tokens' logits; 1 = off. Default 1.
    float repeat_penalty;
    // Tokens that the penalties look back. Default 64.
    uint32_t repeat_last_n;
    // Taken off a logit once if its token occurred; 0 = off. Default 0.
    float presence_penalty;
    // Taken off a logit for each time that its token occurred; 0 = off. Default 0.
    float frequency_penalty;
    // A grammar in llama.cpp's GBNF notation, or NULL. Read during the call. Default NULL.
    const char *grammar;
} aded_sampling;
#endif

// Takes a line of the log: a level from 1 (error) to 5 (trace), and the text, which is gone when the function returns. It may be called
// from any thread, from several at once, and must not call the library.
typedef void (*aded_log_callback)(int32_t level,
                                  const char *text,
                                  void *user_data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library: major * 65536 + minor * 256 + patch. Safe from any thread.
uint32_t aded_version(void);

// A short description of a status, such as "invalid argument"; "unknown status" for a number that is none. The text lives for ever.
const char *aded_status_text(int32_t status);

// Copies the message of this thread's last call that did not end with ADED_OK: what was tried, the value, the limit, the way out.
// `needed` (not NULL) gets its length, the zero at its end included. ADED_TOO_SMALL if `capacity` is less; then nothing is copied.
aded_status aded_last_message(char *buffer,
                              size_t capacity,
                              size_t *needed);

// Fills `params` with the defaults. `size` is sizeof(aded_drafter_params).
aded_status aded_drafter_default_params(aded_drafter_params *params,
                                        size_t size);

// Fills `prompt` with the defaults. `size` is sizeof(aded_prompt).
aded_status aded_prompt_defaults(aded_prompt *prompt,
                                 size_t size);

// Makes a drafter and writes its handle to `drafter`. Free it with aded_drafter_free(). Takes about 14 MiB with the default tables.
aded_status aded_drafter_new(const aded_drafter_params *params,
                             aded_drafter **drafter);

// Frees a drafter. NULL is fine. ADED_NO_SUCH_HANDLE if it was freed before, ADED_BUSY if another thread is using it.
aded_status aded_drafter_free(aded_drafter *drafter);

// Starts a sequence in `slot`, and ends the slot's earlier one. Learns the prompt. Between rounds only.
//
// The slot's main sequence must hold the first n_held tokens of the prompt and nothing else when the next round is decoded. Orders that
// see to it, and that empty the slot's leaves, come with the next aded_drafter_ops(). The host may also remove cells by itself before.
aded_status aded_drafter_begin(aded_drafter *drafter,
                               uint32_t slot,
                               const aded_prompt *prompt);

// The sequence of `slot` is over; later ones may copy from it. Nothing happens if there is none. Between rounds only.
aded_status aded_drafter_end(aded_drafter *drafter,
                             uint32_t slot);

// Begins a round of `n_slots` slots: drafts for those whose prompts are read, lays out pieces of the prompts of the others, and writes
// the number of rows to `n_rows` (not NULL). `max_rows` is what the host has room for in this call; 0 = as many as the parameters say.
//
// ADED_NO_ROOM if there are fewer cells, or fewer rows with logits, than slots. Then the host decodes fewer slots, or ends one.
aded_status aded_drafter_draft(aded_drafter *drafter,
                               const uint32_t *slots,
                               size_t n_slots,
                               uint32_t max_rows,
                               size_t *n_rows);

// The rows of the round under way, parents before children: `n_rows` (not NULL) gets their number. Each array that is not NULL has room
// for `capacity` entries and gets one for each row: the token to decode, its position, the row before it on its path (-1 where that is
// the slot's committed text), its slot, and 1 if its logits are needed. ADED_TOO_SMALL if `capacity` is less than the number of rows.
//
// Each row sees its slot's committed text and its own path, nothing else. Hosts whose memory knows no sequence ids follow `parents`.
aded_status aded_drafter_rows(const aded_drafter *drafter,
                              size_t capacity,
                              int32_t *tokens,
                              int32_t *positions,
                              int32_t *parents,
                              uint32_t *slots,
                              int8_t *wants_logits,
                              size_t *n_rows);

// The sequence ids that row `row` belongs to: its slot's main sequence (the slot's number) and leaves (numbers from n_slots on). The
// first one decides what the row sees. `n_ids` (not NULL) gets their number, at most max_leaves; ADED_TOO_SMALL if `capacity` is less.
// From draft to keep.
aded_status aded_drafter_row_ids(const aded_drafter *drafter,
                                 uint32_t row,
                                 int32_t *ids,
                                 size_t capacity,
                                 size_t *n_ids);

// Fetches the orders to the memory since the last fetch, to be carried out in order: before a round is decoded, and after keep and
// abort. `n_ops` (not NULL) gets their number. ADED_TOO_SMALL if `capacity` is less; then they stay for the next fetch. A call with
// capacity 0 asks for the number. There are never more than 4 * n_slots * max_leaves where they are fetched after each step.
aded_status aded_drafter_ops(aded_drafter *drafter,
                             aded_op *ops,
                             size_t capacity,
                             size_t *n_ops);

// The row of `slot` to sample next, after the round was decoded: `row` (not NULL) gets it, or -1 where there is none: the walk is over,
// or the slot's prompt is still being read.
aded_status aded_drafter_next_row(aded_drafter *drafter,
                                  uint32_t slot,
                                  int32_t *row);

// Shows the drafter the logits of a row: `n_logits` = n_vocab numbers, read during the call. Every row with logits that was shown teaches
// it, whether its token was accepted or not, and a second showing does nothing. `best` (or NULL) gets the token of the largest logit, the
// lowest such token, -1 if no logit is a number: what a greedy host accepts, so that it need not look for it. From draft to learn; rows
// that are not sampled are best shown after keep.
aded_status aded_drafter_look(aded_drafter *drafter,
                              uint32_t row,
                              const float *logits,
                              size_t n_logits,
                              int32_t *best);

// As aded_drafter_look(), for hosts that have the best tokens of a row and not its logits: `n` tokens with their probabilities at
// temperature 1, likeliest first. More than 8 are not needed.
aded_status aded_drafter_look_top(aded_drafter *drafter,
                                  uint32_t row,
                                  const int32_t *tokens,
                                  const float *probabilities,
                                  size_t n);

// Takes the token that the host sampled at the slot's next row, and that it has confirmed by that. `next_row` (not NULL) gets the row to
// sample after it, -1 where the walk is over: the draft holds no such token there, or the sequence ends with it. The host may stop
// earlier, after one token at least.
aded_status aded_drafter_accept(aded_drafter *drafter,
                                uint32_t slot,
                                int32_t token,
                                int32_t *next_row);

// Commits what was accepted, for all slots of the round. The orders that make the memory follow come with aded_drafter_ops(), and are to
// be carried out before the next round is decoded.
aded_status aded_drafter_keep(aded_drafter *drafter);

// Ends the round: text, rows and times are learnt. `times` is NULL where the drafter measures by itself, from aded_drafter_draft() to the
// end of this call; the first call about a row stands for the end of the decode call, so that a host on a device waits for the device
// before it.
aded_status aded_drafter_learn(aded_drafter *drafter,
                               const aded_times *times);

// Gives a round up that could not be decoded, before keep. The sequences stay as they were before it; tokens that were accepted do not
// count. Orders that remove what the memory may hold of the round come with aded_drafter_ops().
aded_status aded_drafter_abort(aded_drafter *drafter);

// The tokens that the last round confirmed for `slot`, in order: `n_tokens` (not NULL) gets their number, 0 while a prompt is being read.
// ADED_TOO_SMALL if `capacity` is less; there are never more than max_logits_rows.
aded_status aded_drafter_emitted(const aded_drafter *drafter,
                                 uint32_t slot,
                                 int32_t *tokens,
                                 size_t capacity,
                                 size_t *n_tokens);

// Why the sequence of `slot` ended: `reason` (not NULL) gets ADED_FINISH_..., ADED_FINISH_NONE while it goes on. Known after learn.
aded_status aded_drafter_finish(const aded_drafter *drafter,
                                uint32_t slot,
                                int32_t *reason);

// What happened to the sequence of `slot` so far. `size` is sizeof(aded_stats).
aded_status aded_drafter_stats(const aded_drafter *drafter,
                               uint32_t slot,
                               aded_stats *stats,
                               size_t size);

// Forgets everything that was learnt from texts; the corpus and the measured times stay. Between rounds only.
aded_status aded_drafter_forget(aded_drafter *drafter);

// Drafts from a corpus file (`aded learn`) as well, in place of an earlier one; `path` NULL takes it away. `fingerprint` (or NULL) is the
// tokenizer's, as the program and the full library compute it; a corpus made for another one is refused with ADED_FORMAT.
//
ADED_EXPERIMENTAL
aded_status aded_drafter_set_corpus(aded_drafter *drafter,
                                    const char *path,
                                    const uint64_t *fingerprint);

// Adds what the file at `path` holds to what the drafter knows, and has aded_drafter_save_memory() save there; a file that does not exist
// yet is fine. `tokenizer` and `model` are numbers of the host's choice that tell whose memory it is; a file with other ones is refused
// with ADED_FORMAT and left alone. The file tells much about what was said: it holds texts. Between rounds only.
//
ADED_EXPERIMENTAL
aded_status aded_drafter_open_memory(aded_drafter *drafter,
                                     const char *path,
                                     uint64_t tokenizer,
                                     uint64_t model);

// Saves what the drafter knows to the file that was opened, whole or not at all. ADED_WRONG_STATE if none was opened. Between rounds only.
//
ADED_EXPERIMENTAL
aded_status aded_drafter_save_memory(aded_drafter *drafter);

#if defined(ADED_FULL)
// Switches our kernels for quantised weights and attention on CPUs: `on` is 1 or 0. They are off until this is called. Call it before the
// first model is loaded, be it by aded_model_new() or, in a program that takes the llama.cpp in this library as its own, by
// llama_model_load_from_file(): weights are laid out while a model is loaded. `name` (or NULL) gets the instruction set that the kernels
// use, such as "avx512-vnni", or "none" where llama.cpp's own run; the text lives for ever. Safe from any thread.
aded_status aded_kernels_enable(int32_t on,
                                const char **name);
#endif

#if defined(ADED_FULL)
// Fills `params` with the defaults. `size` is sizeof(aded_model_params).
aded_status aded_model_default_params(aded_model_params *params,
                                      size_t size);
#endif

#if defined(ADED_FULL)
// Loads a GGUF file; `params` NULL means the defaults. Free the model with aded_model_free().
aded_status aded_model_new(const char *path,
                           const aded_model_params *params,
                           aded_model **model);
#endif

#if defined(ADED_FULL)
// Frees a model; its memory goes with the last session that uses it. NULL is fine; a second time is ADED_NO_SUCH_HANDLE.
aded_status aded_model_free(aded_model *model);
#endif

#if defined(ADED_FULL)
// The tokens of a prompt that is no chat, with the begin token that the model wants; names of control tokens stand for those tokens.
// `n_tokens` (not NULL) gets their number; ADED_TOO_SMALL if `capacity` is less.
aded_status aded_model_tokenize(const aded_model *model,
                                const char *prompt,
                                int32_t *tokens,
                                size_t capacity,
                                size_t *n_tokens);
#endif

#if defined(ADED_FULL)
// The tokens that put a chat before the model by the template in its file, up to the opening of the model's answer: `n_messages` roles
// ("system", "user", "assistant") and as many texts. `n_tokens` (not NULL) gets their number; ADED_TOO_SMALL if `capacity` is less,
// ADED_FORMAT if the file has no template.
aded_status aded_model_chat(const aded_model *model,
                            const char *const *roles,
                            const char *const *texts,
                            size_t n_messages,
                            int32_t *tokens,
                            size_t capacity,
                            size_t *n_tokens);
#endif

#if defined(ADED_FULL)
// What kind of tokenizer the model has: two models with the same `fingerprint` (not NULL) can share a corpus.
aded_status aded_model_fingerprint(const aded_model *model,
                                   uint64_t *fingerprint);
#endif

#if defined(ADED_FULL)
// Fills `params` with the defaults. `size` is sizeof(aded_session_params).
aded_status aded_session_default_params(aded_session_params *params,
                                        size_t size);
#endif

#if defined(ADED_FULL)
// Makes a session of a model; `params` NULL means the defaults. Free it with aded_session_free(). ADED_TARGET, above all, where there is
// no room for the context's memory; the message says how much it needs.
aded_status aded_session_new(const aded_model *model,
                             const aded_session_params *params,
                             aded_session **session);
#endif

#if defined(ADED_FULL)
// Frees a session. NULL is fine. ADED_NO_SUCH_HANDLE if it was freed before, ADED_BUSY if another thread is using it.
aded_status aded_session_free(aded_session *session);
#endif

#if defined(ADED_FULL)
// Fills `sampling` with the defaults. `size` is sizeof(aded_sampling).
aded_status aded_sampling_defaults(aded_sampling *sampling,
                                   size_t size);
#endif

#if defined(ADED_FULL)
// Starts a generation of at most `n_max` tokens after a prompt, and ends an earlier one; aded_session_next() runs it. `sampling` NULL
// takes the likeliest token each time. A cancellation that came before is taken back.
aded_status aded_session_begin(aded_session *session,
                               const int32_t *tokens,
                               size_t n_tokens,
                               size_t n_max,
                               const aded_sampling *sampling);
#endif

#if defined(ADED_FULL)
// Runs the generation until tokens are confirmed: one or more, or none once it has ended. `tokens` gets as many as `capacity` (at least 1)
// allows, the others come first in the next call; `n_tokens` (not NULL) gets their number.
aded_status aded_session_next(aded_session *session,
                              int32_t *tokens,
                              size_t capacity,
                              size_t *n_tokens);
#endif

#if defined(ADED_FULL)
// The text of the tokens confirmed since the last fetch, whole characters only, UTF-8 with a zero at its end. `needed` (not NULL) gets the
// size, that zero included; ADED_TOO_SMALL if `capacity` is less, and the text stays. After the end of the generation, the rest.
aded_status aded_session_text(aded_session *session,
                              char *buffer,
                              size_t capacity,
                              size_t *needed);
#endif

#if defined(ADED_FULL)
// Ends the generation as if the model had: for stop strings and the like.
aded_status aded_session_stop(aded_session *session);
#endif

#if defined(ADED_FULL)
// Stops the generation within a round, also while another thread is in aded_session_next(), and also inside a long prompt on a CPU. Safe
// from any thread at any time; not from signal handlers. The flag stays up until the next aded_session_begin().
aded_status aded_session_cancel(const aded_session *session);
#endif

#if defined(ADED_FULL)
// Why the generation ended: `reason` (not NULL) gets ADED_FINISH_..., ADED_FINISH_NONE while it goes on.
aded_status aded_session_finish(const aded_session *session,
                                int32_t *reason);
#endif

#if defined(ADED_FULL)
// What happened in the last generation so far. `size` is sizeof(aded_stats).
aded_status aded_session_stats(const aded_session *session,
                               aded_stats *stats,
                               size_t size);
#endif

#if defined(ADED_FULL)
// Forgets what was learnt from texts, and the memory of the last prompt. The measured times stay.
aded_status aded_session_forget(aded_session *session);
#endif

// Has log lines up to `max_level` (1 errors, 2 warnings, 3 information, 4 and 5 everything) handed to `callback`, together with
// `user_data`. Without this call nothing is logged. Once for each process: a second call is ADED_WRONG_STATE. Safe from any thread.
aded_status aded_log_set(aded_log_callback callback,
                         void *user_data,
                         int32_t max_level);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ADED_H */

/* Generated from src/capi by cbindgen; do not edit. */
