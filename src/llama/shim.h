// What Rust calls instead of the llama.cpp functions that can throw: a C++ exception must not cross into Rust. Each function
// turns one into a status or a null pointer and leaves its text in `failure`.
#pragma once

#include "graphs.h"
#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

// Text of the exception that ended a call; empty if there was none. Cut to fit, always terminated.
typedef struct aded_failure {
    char text[1024];
} aded_failure;

// Returned by the functions that give a status where an exception ended the call; llama.cpp uses none so low.
#define ADED_EXCEPTION (-1000)

struct llama_model * aded_model_load(const char * path, struct llama_model_params params, aded_failure * failure);

struct llama_context * aded_context_new(
    struct llama_model * model, struct llama_context_params params, aded_failure * failure);

// `graphs` are those of the context, or null.
int32_t aded_decode(
    struct llama_context * context, aded_graphs * graphs, struct llama_batch batch, aded_failure * failure);

// The logits of a row of the last batch; null if the row has none.
float * aded_logits(struct llama_context * context, int32_t row, aded_failure * failure);

// 1 if removed, 0 if the memory cannot remove a part, ADED_EXCEPTION. A negative end means all positions from begin on.
int32_t aded_sequence_remove(
    struct llama_context * context, llama_seq_id sequence, llama_pos begin, llama_pos end, aded_failure * failure);

int32_t aded_sequence_copy(
    struct llama_context * context, llama_seq_id from, llama_seq_id to, llama_pos begin, llama_pos end,
    aded_failure * failure);

// The state of a sequence that cannot be told from its cells: all of a recurrent memory, the recurrent part of a hybrid one. 0 where an
// exception ended the call, or where the bytes do not fit.
size_t aded_state_size(struct llama_context * context, llama_seq_id sequence, aded_failure * failure);
size_t aded_state_save(
    struct llama_context * context, llama_seq_id sequence, uint8_t * bytes, size_t n_bytes, aded_failure * failure);
size_t aded_state_load(
    struct llama_context * context, llama_seq_id sequence, const uint8_t * bytes, size_t n_bytes, aded_failure * failure);

// Forgets the positions begin to end and moves the later ones down to begin. As aded_sequence_remove.
int32_t aded_sequence_shift(
    struct llama_context * context, llama_seq_id sequence, llama_pos begin, llama_pos end, aded_failure * failure);

// The grammar in GBNF of a JSON schema, by llama.cpp's converter: a terminated text for aded_text_free, or null.
char * aded_json_schema_to_grammar(const char * schema, aded_failure * failure);
void aded_text_free(char * text);

// llama_tokenize; INT32_MIN also where an exception ended the call.
int32_t aded_tokenize(
    const struct llama_vocab * vocab, const char * text, int32_t n_bytes, llama_token * tokens, int32_t n_tokens_max,
    bool add_special, bool parse_special, aded_failure * failure);

// llama_token_to_piece; INT32_MIN where an exception ended the call.
int32_t aded_token_to_piece(
    const struct llama_vocab * vocab, llama_token token, char * bytes, int32_t n_bytes_max, bool special,
    aded_failure * failure);

// A sampler chain as plain numbers; the meaning and the values that switch a stage off are llama.cpp's.
typedef struct aded_sampling {
    uint32_t seed;
    float    temperature;
    float    dynatemp_range;
    float    dynatemp_exponent;
    int32_t  top_k;
    float    top_p;
    float    min_p;
    float    typical_p;
    float    top_n_sigma;
    float    xtc_probability;
    float    xtc_threshold;
    int32_t  penalty_last_n;
    float    penalty_repeat;
    float    penalty_frequency;
    float    penalty_presence;
    float    dry_multiplier;
    float    dry_base;
    int32_t  dry_allowed_length;
    int32_t  dry_last_n;
    const char ** dry_breakers;
    size_t   n_dry_breakers;
    int32_t  mirostat;
    float    mirostat_tau;
    float    mirostat_eta;
    const llama_logit_bias * logit_bias;
    int32_t  n_logit_bias;
} aded_sampling;

struct llama_sampler * aded_sampler_new(
    const struct llama_vocab * vocab, const aded_sampling * sampling, aded_failure * failure);

// Null where the grammar does not parse; llama.cpp says why in its log.
struct llama_sampler * aded_sampler_new_grammar(
    const struct llama_vocab * vocab, const char * grammar, const char * root, aded_failure * failure);

struct llama_sampler * aded_sampler_clone(const struct llama_sampler * sampler, aded_failure * failure);

// 0 or ADED_EXCEPTION.
int32_t aded_sampler_apply(struct llama_sampler * sampler, llama_token_data_array * candidates, aded_failure * failure);
int32_t aded_sampler_accept(struct llama_sampler * sampler, llama_token token, aded_failure * failure);
int32_t aded_sampler_reset(struct llama_sampler * sampler, aded_failure * failure);

// The attention of one layer on the CPU, as llama.cpp lays it out: shapes, the memory's cells and how many of them hold something, its
// types, threads.
typedef struct aded_attention {
    int32_t        head_size;
    int32_t        n_heads;
    int32_t        n_kv_heads;
    int32_t        n_cells;
    int32_t        n_used;
    int32_t        n_threads;
    enum ggml_type type_k;
    enum ggml_type type_v;
} aded_attention;

// Milliseconds that the layer takes for so many rows, in one fused step or in several: the fastest of a few runs. Negative where it cannot
// be run.
double aded_attention_ms(const aded_attention * attention, int32_t n_rows, bool is_fused, aded_failure * failure);

// 0 if the file was written.
int32_t aded_quantize(
    const char * input, const char * output, const llama_model_quantize_params * params, aded_failure * failure);

#ifdef __cplusplus
}
#endif
