/*
 * Two sequences that share the decode calls of one llama_context: a server's slots in small. Links like host_llama.
 *
 *     two_slots MODEL.gguf [-n 100] [--alone] [--kernels]
 *
 * --alone decodes one after the other, to compare; --kernels is for programs that link libaded, whose llama.cpp has ours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

#include "aded_llama.h"

enum { N_SLOTS = 2, MAX_TOKENS = 1024 };

static const char *PROMPTS[N_SLOTS] = {
    "red green blue yellow, red green blue yellow, red green blue yellow, red green blue yellow, red green blue yellow, red",
    "1 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8 9 10 1 2 3",
};

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static void print(const struct llama_vocab *vocab, const llama_token *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char piece[256];
        const int32_t length = llama_token_to_piece(vocab, tokens[i], piece, sizeof piece, 0, false);
        fwrite(piece, 1, length > 0 ? (size_t) length : 0, stdout);
    }
    fputs("\n----\n", stdout);
}

/* Decodes the slots from `first` on, `n_slots` of them, until all have ended. */
static aded_status decode(
    aded_llama *aded, uint32_t first, uint32_t n_slots, llama_token output[N_SLOTS][MAX_TOKENS], size_t *n_output,
    int *n_rounds) {
    aded_status status = ADED_OK;
    for (;;) {
        uint32_t slots[N_SLOTS];
        struct llama_sampler *samplers[N_SLOTS] = {NULL, NULL}; /* greedy */
        size_t n_open = 0;
        for (uint32_t slot = first; status == ADED_OK && slot < first + n_slots; slot++) {
            int32_t finish = ADED_FINISH_NONE;
            status = aded_drafter_finish(aded->drafter, slot, &finish);
            if (finish == ADED_FINISH_NONE) {
                slots[n_open++] = slot;
            }
        }
        if (status != ADED_OK || n_open == 0) {
            return status;
        }
        status = aded_llama_round(aded, slots, samplers, n_open);
        *n_rounds += 1;
        for (size_t i = 0; status == ADED_OK && i < n_open; i++) {
            size_t n = 0, *used = &n_output[slots[i]];
            status = aded_drafter_emitted(
                aded->drafter, slots[i], &output[slots[i]][*used], MAX_TOKENS - *used, &n);
            *used += n;
        }
    }
}

int main(int argc, char **argv) {
    int n_predict = 100, alone = 0, n_rounds = 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
            n_predict = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--alone") == 0) {
            alone = 1;
#ifdef ADED_FULL
        } else if (strcmp(argv[i], "--kernels") == 0) {
            aded_kernels_enable(1, NULL);
#endif
        }
    }
    if (argc < 2 || n_predict < 1 || n_predict > MAX_TOKENS) {
        fprintf(stderr, "usage: two_slots MODEL.gguf [-n TOKENS] [--alone]\n");
        return 2;
    }
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == NULL) {
        fprintf(stderr, "two_slots: cannot load %s\n", argv[1]);
        return 1;
    }
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 2 * (MAX_TOKENS + 512);
    params.n_threads = params.n_threads_batch = 2;
    aded_llama_context_params(&params, model, N_SLOTS, 8);
    struct llama_context *context = llama_init_from_model(model, params);

    static llama_token output[N_SLOTS][MAX_TOKENS];
    size_t n_output[N_SLOTS] = {0, 0};
    aded_llama aded;
    aded_status status = context == NULL ? ADED_TARGET : aded_llama_init(&aded, context, model, N_SLOTS, 8, NULL);
    for (uint32_t slot = 0; status == ADED_OK && slot < N_SLOTS; slot++) {
        llama_token prompt[512];
        const int32_t n = llama_tokenize(
            vocab, PROMPTS[slot], (int32_t) strlen(PROMPTS[slot]), prompt, 512, true, true);
        status = n < 1 ? ADED_INVALID_ARGUMENT
                       : aded_llama_begin(&aded, slot, prompt, (size_t) n, 0, (size_t) n_predict, 1);
        if (status == ADED_OK && alone) {
            status = decode(&aded, slot, 1, output, n_output, &n_rounds);
        }
    }
    if (status == ADED_OK && !alone) {
        status = decode(&aded, 0, N_SLOTS, output, n_output, &n_rounds);
    }
    if (status != ADED_OK) {
        char message[512];
        size_t needed = 0;
        const int known = aded_last_message(message, sizeof message, &needed) == ADED_OK;
        fprintf(stderr, "two_slots: %s: %s\n", aded_status_text((int32_t) status), known ? message : "");
    } else {
        for (int slot = 0; slot < N_SLOTS; slot++) {
            print(vocab, output[slot], n_output[slot]);
        }
        fprintf(stderr, "%zu and %zu tokens in %d calls\n", n_output[0], n_output[1], n_rounds);
    }
    if (context != NULL) {
        aded_llama_free(&aded);
        llama_free(context);
    }
    llama_model_free(model);
    return status == ADED_OK ? 0 : 1;
}
