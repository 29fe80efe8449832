/*
 * aded_llama.h: drafting for programs that decode with a llama.cpp of their own. C99 and C++.
 *
 * Header-only: it is compiled against the llama.h that the program has already, calls nothing else of llama.cpp, and
 * links with libaded_core (or with libaded, whose llama.cpp then is the program's). Written against llama.cpp b11434.
 *
 * A program with one sequence:
 *
 *     aded_llama_context_params(&context_params, model, 1, 16);            before llama_init_from_model
 *     aded_llama_init(&aded, context, model, 1, 16, NULL);
 *     aded_llama_begin(&aded, 0, prompt, n_prompt, 0, n_predict, 1);
 *     do {
 *         aded_llama_step(&aded, 0, sampler, tokens, 64, &n_tokens, &finish);  prompt, draft, decode, sample, learn
 *         (print the n_tokens tokens)
 *     } while (finish == ADED_FINISH_NONE);
 *     aded_llama_free(&aded);
 *
 * Several sequences share a call through aded_llama_round(). A program that puts rows of its own into the same batch
 * (other slots' prompts, embeddings) calls the parts by itself, as aded_llama_round() does: aded_llama_ops(),
 * aded_llama_fill(), llama_decode(), aded_llama_walk(), aded_llama_look().
 *
 * Sequence ids: slot s is sequence s, as in programs without drafts, and the ids from n_slots on belong to the drafter.
 * The memory of a slot may be changed between rounds (context shift, another prompt) if aded_llama_begin() follows, which
 * says what the slot holds then.
 */
#ifndef ADED_LLAMA_H
#define ADED_LLAMA_H

#include <stdlib.h>
#include <string.h>

#include "llama.h"

#include "aded.h"

/* Rows with logits of one call, over all slots. */
#define ADED_LLAMA_MAX_LOGITS_ROWS 64

/* One llama_context and its drafter. Plain data: the fields may be read. From one thread at a time. */
typedef struct aded_llama {
    aded_drafter         *drafter;
    struct llama_context *context;
    struct llama_batch    batch;       /* owned; aded_llama_round() fills it */
    int32_t               max_rows;    /* rows that it has room for */
    int32_t               max_leaves;  /* sequence ids that each row has room for */
    int32_t              *end_tokens;  /* owned: the vocabulary's end-of-generation tokens */
    size_t                n_end_tokens;
    int32_t               status;      /* what llama_decode() returned last */
} aded_llama;

/* Leaves that the memory of a model can keep apart: recurrent and hybrid memory takes chains at most. */
static inline uint32_t aded_llama_leaves(const struct llama_model *model, uint32_t max_leaves) {
    const int has_state = llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
    return has_state || max_leaves == 0 ? 1 : max_leaves;
}

/*
 * Changes what drafts need of a context, to be called before llama_init_from_model(): sequence ids, a unified cache, full
 * sliding windows, room for logits. `n_slots` sequences are decoded side by side, each with trees of up to `max_leaves`
 * leaves; 16 is a good number for one slot. n_slots * max_leaves is at most 256. n_ctx counts the cells of all slots.
 */
static inline void aded_llama_context_params(
    struct llama_context_params *params, const struct llama_model *model, uint32_t n_slots, uint32_t max_leaves) {
    const uint32_t leaves = aded_llama_leaves(model, max_leaves);
    params->n_seq_max = n_slots * leaves;
    if (leaves > 1) {
        params->kv_unified = true;
        params->swa_full = true;
    }
    if (llama_model_is_hybrid(model) && params->n_rs_seq == 0) {
        params->n_rs_seq = 8;
    }
    if (params->n_batch < ADED_LLAMA_MAX_LOGITS_ROWS) {
        params->n_batch = ADED_LLAMA_MAX_LOGITS_ROWS;
    }
    if (params->n_ubatch != 0 && params->n_ubatch < ADED_LLAMA_MAX_LOGITS_ROWS) {
        params->n_ubatch = ADED_LLAMA_MAX_LOGITS_ROWS;
    }
    if (params->n_outputs_max == 0) {
        /* Left alone, llama.cpp keeps room for logits of n_batch rows. */
        params->n_outputs_max =
            params->n_seq_max > ADED_LLAMA_MAX_LOGITS_ROWS ? params->n_seq_max : ADED_LLAMA_MAX_LOGITS_ROWS;
    }
}

/* Frees the drafter and the batch; the context stays. Nothing happens to a structure that is all zero. */
static inline void aded_llama_free(aded_llama *aded) {
    aded_drafter_free(aded->drafter);
    if (aded->batch.token != NULL) {
        llama_batch_free(aded->batch);
    }
    free(aded->end_tokens);
    memset(aded, 0, sizeof *aded);
}

static inline aded_status aded_llama_take_end_tokens(aded_llama *aded, const struct llama_vocab *vocab) {
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    size_t n = 0;
    for (int32_t token = 0; token < n_vocab; token++) {
        n += llama_vocab_is_eog(vocab, token) ? 1 : 0;
    }
    aded->end_tokens = (int32_t *) malloc((n + 1) * sizeof *aded->end_tokens);
    if (aded->end_tokens == NULL) {
        return ADED_NO_ROOM;
    }
    for (int32_t token = 0; token < n_vocab; token++) {
        if (llama_vocab_is_eog(vocab, token)) {
            aded->end_tokens[aded->n_end_tokens++] = token;
        }
    }
    return ADED_OK;
}

/*
 * Makes the drafter of a context whose memory is empty and which was created with aded_llama_context_params() and the
 * same n_slots and max_leaves. `params` is NULL or says what is not to be as by default (mode, budget, table sizes); its
 * n_vocab, n_ctx, n_cells, n_slots, max_rows, max_logits_rows, max_leaves and shape are set here. ADED_INVALID_ARGUMENT if
 * `context` or `model` is NULL, or the context was created otherwise. On a failure there is nothing to free.
 */
static inline aded_status aded_llama_init(
    aded_llama *aded, struct llama_context *context, const struct llama_model *model, uint32_t n_slots,
    uint32_t max_leaves, const aded_drafter_params *params) {
    const struct llama_vocab *vocab;
    uint32_t leaves, n_ubatch;
    aded_drafter_params own;
    aded_status status = aded_drafter_default_params(&own, sizeof own);
    memset(aded, 0, sizeof *aded);
    if (status != ADED_OK) {
        return status;
    }
    if (context == NULL || model == NULL) {
        /* llama.cpp gave none: its log says why. */
        return ADED_INVALID_ARGUMENT;
    }
    vocab = llama_model_get_vocab(model);
    leaves = aded_llama_leaves(model, max_leaves);
    n_ubatch = llama_n_ubatch(context);
    if (params != NULL) {
        own = *params;
    }
    if ((uint64_t) llama_n_seq_max(context) < (uint64_t) n_slots * leaves || (leaves > 1 && llama_n_ctx_seq(context) != llama_n_ctx(context))) {
        /* The context was created with other parameters: its memory would compute nonsense, or refuse drafts. */
        return ADED_INVALID_ARGUMENT;
    }
    own.n_vocab = (uint32_t) llama_vocab_n_tokens(vocab);
    own.n_ctx = llama_n_ctx_seq(context);
    own.n_cells = llama_n_ctx(context);
    own.n_slots = n_slots;
    /* One graph for a draft: a second one may overwrite cells that a rollback needs. */
    own.max_rows = n_ubatch < llama_n_batch(context) ? n_ubatch : llama_n_batch(context);
    own.max_logits_rows = ADED_LLAMA_MAX_LOGITS_ROWS;
    own.max_leaves = leaves;
    own.shape = ADED_SHAPE_TREE;
    if (leaves == 1) {
        const uint32_t rollback = llama_n_rs_seq(context);
        const int has_state = llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
        own.shape = has_state && rollback == 0 ? ADED_SHAPE_NOTHING : ADED_SHAPE_CHAIN;
        if (has_state && rollback > 0 && own.max_logits_rows > rollback + 1) {
            own.max_logits_rows = rollback + 1 > n_slots ? rollback + 1 : n_slots;
        }
    }
    aded->context = context;
    aded->max_rows = (int32_t) own.max_rows;
    aded->max_leaves = (int32_t) leaves;
    status = aded_drafter_new(&own, &aded->drafter);
    if (status == ADED_OK) {
        aded->batch = llama_batch_init(aded->max_rows, 0, aded->max_leaves);
        status = aded_llama_take_end_tokens(aded, vocab);
    }
    if (status != ADED_OK) {
        aded_llama_free(aded);
    }
    return status;
}

/*
 * Starts a sequence in a slot. The rounds read the prompt; `n_held` tokens of it, less than all, are in the slot's memory
 * already, which holds nothing else. At most `n_max` tokens are confirmed; the vocabulary's end-of-generation tokens end it.
 * `greedy`: 1 if the sampler always takes the largest logit.
 */
static inline aded_status aded_llama_begin(
    aded_llama *aded, uint32_t slot, const llama_token *tokens, size_t n_tokens, size_t n_held, size_t n_max, int greedy) {
    aded_prompt prompt;
    const aded_status status = aded_prompt_defaults(&prompt, sizeof prompt);
    if (status != ADED_OK) {
        return status;
    }
    prompt.tokens = tokens;
    prompt.n_tokens = n_tokens;
    prompt.n_held = n_held;
    prompt.n_learnt = n_held;
    prompt.n_max = n_max;
    prompt.end_tokens = aded->end_tokens;
    prompt.n_end_tokens = aded->n_end_tokens;
    prompt.greedy = greedy;
    return aded_drafter_begin(aded->drafter, slot, &prompt);
}

/* Carries out the drafter's orders. ADED_TARGET if the memory cannot remove a tail: drafts need another shape then. */
static inline aded_status aded_llama_ops(aded_drafter *drafter, struct llama_context *context) {
    aded_op few[128];
    aded_op *ops = few;
    size_t capacity = sizeof few / sizeof *few;
    size_t n_ops = 0;
    aded_status status = aded_drafter_ops(drafter, ops, capacity, &n_ops);
    if (status == ADED_TOO_SMALL) {
        capacity = n_ops;
        ops = (aded_op *) malloc(capacity * sizeof *ops);
        status = ops == NULL ? ADED_NO_ROOM : aded_drafter_ops(drafter, ops, capacity, &n_ops);
    }
    for (size_t i = 0; status == ADED_OK && i < n_ops; i++) {
        llama_memory_t memory = llama_get_memory(context);
        if (ops[i].kind == ADED_OP_COPY) {
            llama_memory_seq_cp(memory, ops[i].from, ops[i].to, ops[i].begin, ops[i].end);
        } else if (!llama_memory_seq_rm(memory, ops[i].from, ops[i].begin, ops[i].end)) {
            status = ADED_TARGET;
        }
    }
    if (ops != few) {
        free(ops);
    }
    return status;
}

/*
 * Appends the rows of the round to a batch of the host's: it has room for `max_rows` rows, each with room for `max_ids`
 * sequence ids, as given to llama_batch_init(). Row r of the drafter becomes row n + r of the batch, n being its n_tokens
 * before the call.
 */
static inline aded_status aded_llama_fill(
    aded_drafter *drafter, struct llama_batch *batch, int32_t max_rows, int32_t max_ids) {
    const int32_t first = batch->n_tokens;
    size_t n_rows = 0;
    aded_status status = first > max_rows ? ADED_INVALID_ARGUMENT : aded_drafter_rows(
        drafter, (size_t) (max_rows - first), batch->token + first, batch->pos + first, NULL, NULL,
        batch->logits + first, &n_rows);
    for (size_t row = 0; status == ADED_OK && row < n_rows; row++) {
        size_t n_ids = 0;
        status = aded_drafter_row_ids(
            drafter, (uint32_t) row, batch->seq_id[first + (int32_t) row], (size_t) max_ids, &n_ids);
        batch->n_seq_id[first + (int32_t) row] = (int32_t) n_ids;
    }
    if (status == ADED_OK) {
        batch->n_tokens = first + (int32_t) n_rows;
    }
    return status;
}

/*
 * Samples each row that the accepted path of a slot visits, once, with the host's sampler; NULL takes the largest logit.
 * `first` is the row of the batch that the drafter's row 0 became.
 */
static inline aded_status aded_llama_walk(
    aded_drafter *drafter, struct llama_context *context, uint32_t slot, struct llama_sampler *sampler, int32_t first) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    int32_t row = -1;
    aded_status status = aded_drafter_next_row(drafter, slot, &row);
    while (status == ADED_OK && row >= 0) {
        llama_token token = -1;
        if (sampler != NULL) {
            token = llama_sampler_sample(sampler, context, first + row);
        } else {
            const float *logits = llama_get_logits_ith(context, first + row);
            status = aded_drafter_look(drafter, (uint32_t) row, logits, (size_t) n_vocab, &token);
        }
        if (status == ADED_OK) {
            status = aded_drafter_accept(drafter, slot, token, &row);
        }
    }
    return status;
}

/* Shows the drafter the logits of all rows that have some. `first` as above, `batch` the one that was decoded. */
static inline aded_status aded_llama_look(
    aded_drafter *drafter, struct llama_context *context, const struct llama_batch *batch, int32_t first, size_t n_rows) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    aded_status status = ADED_OK;
    for (size_t row = 0; status == ADED_OK && row < n_rows; row++) {
        if (batch->logits[first + (int32_t) row]) {
            const float *logits = llama_get_logits_ith(context, first + (int32_t) row);
            status = aded_drafter_look(drafter, (uint32_t) row, logits, (size_t) n_vocab, NULL);
        }
    }
    return status;
}

/*
 * One round of several slots: each of them advances by one token at least, or by a piece of its prompt. `samplers` has an
 * entry for each slot, NULL for a greedy one. Afterwards aded_drafter_emitted() and aded_drafter_finish() tell what came
 * out. If the rows cannot be decoded, the round is given up, ADED_NO_ROOM (no room), ADED_CANCELLED (abort callback) or
 * ADED_TARGET is returned, and the `status` field has llama_decode()'s own number.
 */
static inline aded_status aded_llama_round(
    aded_llama *aded, const uint32_t *slots, struct llama_sampler *const *samplers, size_t n_slots) {
    size_t n_rows = 0;
    aded_status status = aded_drafter_draft(aded->drafter, slots, n_slots, (uint32_t) aded->max_rows, &n_rows);
    if (status != ADED_OK) {
        return status;
    }
    aded->batch.n_tokens = 0;
    status = aded_llama_ops(aded->drafter, aded->context);
    if (status == ADED_OK) {
        status = aded_llama_fill(aded->drafter, &aded->batch, aded->max_rows, aded->max_leaves);
    }
    if (status == ADED_OK) {
        aded->status = llama_decode(aded->context, aded->batch);
        status = aded->status == 0 ? ADED_OK
               : aded->status == 1 ? ADED_NO_ROOM
               : aded->status == 2 ? ADED_CANCELLED
                                   : ADED_TARGET;
    }
    if (status != ADED_OK) {
        if (aded_drafter_abort(aded->drafter) == ADED_OK) {
            aded_llama_ops(aded->drafter, aded->context);
        }
        return status;
    }
    llama_synchronize(aded->context);
    for (size_t i = 0; status == ADED_OK && i < n_slots; i++) {
        status = aded_llama_walk(aded->drafter, aded->context, slots[i], samplers[i], 0);
    }
    if (status == ADED_OK) {
        status = aded_drafter_keep(aded->drafter);
    }
    if (status == ADED_OK) {
        status = aded_llama_ops(aded->drafter, aded->context);
    }
    if (status == ADED_OK) {
        status = aded_llama_look(aded->drafter, aded->context, &aded->batch, 0, n_rows);
    }
    if (status == ADED_OK) {
        status = aded_drafter_learn(aded->drafter, NULL);
    }
    return status;
}

/*
 * The whole step for a program with one sequence, or one that takes its slots in turn: a round of `slot`, the tokens that
 * it confirmed (at most 64), and whether the sequence goes on (ADED_FINISH_...).
 */
static inline aded_status aded_llama_step(
    aded_llama *aded, uint32_t slot, struct llama_sampler *sampler, llama_token *tokens, size_t capacity,
    size_t *n_tokens, int32_t *finish) {
    aded_status status = aded_llama_round(aded, &slot, &sampler, 1);
    if (status == ADED_OK) {
        status = aded_drafter_emitted(aded->drafter, slot, tokens, capacity, n_tokens);
    }
    if (status == ADED_OK) {
        status = aded_drafter_finish(aded->drafter, slot, finish);
    }
    return status;
}

#endif /* ADED_LLAMA_H */
