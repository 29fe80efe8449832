/*
 * A host whose model is arithmetic and whose memory is made of cells, as llama.cpp's: a cell has a position and a set of
 * sequence ids, and a row sees the cells of its first id at positions up to its own. Whatever the drafter orders, each row
 * must see exactly the text before it, and the output must be that of plain decoding.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aded.h"

enum { N_VOCAB = 40, N_CTX = 512, N_SLOTS = 3, LEAVES = 5, N_IDS = N_SLOTS * LEAVES, MAX_CELLS = 4096, MAX_ROWS = 128 };

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);          \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

static void ok_at(aded_status status, int line) {
    if (status != ADED_OK) {
        char message[512] = "";
        size_t needed = 0;
        aded_last_message(message, sizeof message, &needed);
        fprintf(stderr, "line %d: %s: %s\n", line, aded_status_text((int32_t) status), message);
        exit(1);
    }
}
#define OK(call) ok_at((call), __LINE__)

typedef struct cell {
    int32_t pos, token;
    uint32_t ids; /* a bit for each */
} cell;

static cell cells[MAX_CELLS];
static size_t n_cells;

static void carry_out(aded_drafter *drafter) {
    aded_op ops[512];
    size_t n_ops = 0, left = 0;
    OK(aded_drafter_ops(drafter, ops, 512, &n_ops));
    for (size_t i = 0; i < n_ops; i++) {
        CHECK(ops[i].from >= 0 && ops[i].from < N_IDS);
        for (size_t c = 0; c < n_cells; c++) {
            if (ops[i].kind == ADED_OP_COPY) {
                CHECK(ops[i].to >= 0 && ops[i].to < N_IDS);
                if ((cells[c].ids >> ops[i].from & 1) && cells[c].pos >= ops[i].begin && cells[c].pos < ops[i].end) {
                    cells[c].ids |= 1u << ops[i].to;
                }
            } else if (cells[c].pos >= ops[i].begin) {
                cells[c].ids &= ~(1u << ops[i].from);
            }
        }
    }
    for (size_t c = 0; c < n_cells; c++) {
        if (cells[c].ids != 0) {
            cells[left++] = cells[c];
        }
    }
    n_cells = left;
}

/* The model: the text so far, mostly its last two tokens, decides. */
static void logits_after(const int32_t *text, int32_t n, float *logits) {
    uint32_t state = 2166136261u;
    for (int32_t i = n > 2 ? n - 2 : 0; i < n; i++) {
        state = (state ^ (uint32_t) text[i]) * 16777619u;
    }
    for (int32_t token = 0; token < N_VOCAB; token++) {
        state = state * 1664525u + 1013904223u;
        logits[token] = (float) (state >> 16 & 0xffff) / 6553.6f;
    }
}

static int32_t best(const float *logits) {
    int32_t at = 0;
    for (int32_t token = 1; token < N_VOCAB; token++) {
        at = logits[token] > logits[at] ? token : at;
    }
    return at;
}

static void plain(int32_t *text, int32_t n, int32_t n_max) {
    float logits[N_VOCAB];
    for (int32_t i = 0; i < n_max; i++) {
        logits_after(text, n + i, logits);
        text[n + i] = best(logits);
    }
}

static float logits[MAX_ROWS][N_VOCAB];

static void decode(const aded_drafter *drafter, size_t n_rows, int32_t texts[N_SLOTS][N_CTX]) {
    int32_t tokens[MAX_ROWS], positions[MAX_ROWS], parents[MAX_ROWS];
    uint32_t slots[MAX_ROWS];
    int8_t wants[MAX_ROWS];
    int32_t first_id[MAX_ROWS];
    size_t n = 0;
    OK(aded_drafter_rows(drafter, MAX_ROWS, tokens, positions, parents, slots, wants, &n));
    CHECK(n == n_rows);
    for (size_t row = 0; row < n; row++) {
        int32_t ids[LEAVES];
        size_t n_ids = 0;
        OK(aded_drafter_row_ids(drafter, (uint32_t) row, ids, LEAVES, &n_ids));
        CHECK(n_ids > 0 && n_cells < MAX_CELLS && parents[row] < (int32_t) row);
        first_id[row] = ids[0];
        cells[n_cells].pos = positions[row];
        cells[n_cells].token = tokens[row];
        cells[n_cells].ids = 0;
        for (size_t i = 0; i < n_ids; i++) {
            CHECK(ids[i] >= 0 && ids[i] < N_IDS);
            cells[n_cells].ids |= 1u << ids[i];
        }
        n_cells++;
    }
    for (size_t row = 0; row < n; row++) {
        int32_t seen[N_CTX], count = 0;
        memset(seen, -1, sizeof seen);
        for (size_t c = 0; c < n_cells; c++) {
            if ((cells[c].ids >> first_id[row] & 1) && cells[c].pos <= positions[row]) {
                CHECK(seen[cells[c].pos] == -1); /* two cells at one position */
                seen[cells[c].pos] = cells[c].token;
                count++;
            }
        }
        CHECK(count == positions[row] + 1);
        for (int32_t at = (int32_t) row, pos = positions[row]; pos >= 0; pos--) {
            if (at >= 0) {
                CHECK(seen[pos] == tokens[at] && slots[at] == slots[row]);
                at = parents[at];
            } else {
                CHECK(seen[pos] == texts[slots[row]][pos]);
            }
        }
        if (wants[row]) {
            logits_after(seen, count, logits[row]);
        }
    }
}

/* One round of the slots that go on; returns how many. */
static size_t round_of(aded_drafter *drafter, int32_t texts[N_SLOTS][N_CTX], int32_t *lengths, int fails) {
    uint32_t slots[N_SLOTS];
    size_t n_open = 0, n_rows = 0;
    for (uint32_t slot = 0; slot < N_SLOTS; slot++) {
        int32_t finish = -1;
        OK(aded_drafter_finish(drafter, slot, &finish));
        if (finish == ADED_FINISH_NONE) {
            slots[n_open++] = slot;
        }
    }
    if (n_open == 0) {
        return 0;
    }
    OK(aded_drafter_draft(drafter, slots, n_open, 64, &n_rows));
    CHECK(n_rows >= n_open && n_rows <= 64);
    carry_out(drafter);
    decode(drafter, n_rows, texts);
    if (fails) {
        OK(aded_drafter_abort(drafter));
        carry_out(drafter);
        return n_open;
    }
    for (size_t i = 0; i < n_open; i++) {
        int32_t row = -1;
        OK(aded_drafter_next_row(drafter, slots[i], &row));
        while (row >= 0) {
            int32_t token = best(logits[row]), same = -1;
            OK(aded_drafter_look(drafter, (uint32_t) row, logits[row], N_VOCAB, &same));
            CHECK(same == token);
            OK(aded_drafter_accept(drafter, slots[i], token, &row));
        }
    }
    OK(aded_drafter_keep(drafter));
    carry_out(drafter);
    for (size_t row = 0; row < n_rows; row += 2) {
        /* Some rows only, and some by their best tokens. A row without logits is refused. */
        const int32_t tokens[2] = {best(logits[row]), 0};
        const float probabilities[2] = {0.75f, 0.125f};
        const aded_status status = aded_drafter_look_top(drafter, (uint32_t) row, tokens, probabilities, 2);
        CHECK(status == ADED_OK || status == ADED_INVALID_ARGUMENT);
    }
    OK(aded_drafter_learn(drafter, NULL));
    for (size_t i = 0; i < n_open; i++) {
        size_t n = 0;
        OK(aded_drafter_emitted(drafter, slots[i], &texts[slots[i]][lengths[slots[i]]], 64, &n));
        lengths[slots[i]] += (int32_t) n;
    }
    return n_open;
}

int main(int argc, char **argv) {
    aded_drafter_params params;
    aded_drafter *drafter = NULL;
    uint64_t n_accepted = 0;
    OK(aded_drafter_default_params(&params, sizeof params));
    params.n_vocab = N_VOCAB;
    params.n_ctx = N_CTX;
    params.n_slots = N_SLOTS;
    params.max_leaves = LEAVES;
    params.max_rows = 64;
    params.mode = ADED_MODE_ON;
    params.budget = 20;
    OK(aded_drafter_new(&params, &drafter));
    for (int32_t pass = 0; pass < 6; pass++) {
        int32_t texts[N_SLOTS][N_CTX], expected[N_SLOTS][N_CTX], lengths[N_SLOTS];
        for (uint32_t slot = 0; slot < N_SLOTS; slot++) {
            const int32_t n_prompt = slot == 1 ? 150 : 5 + (int32_t) slot, n_max = 200;
            int32_t n_held = 0;
            aded_prompt prompt;
            for (int32_t i = 0; i < n_prompt; i++) {
                texts[slot][i] = (i * 7 + (int32_t) slot + pass) % N_VOCAB;
            }
            if (pass >= 3 && slot == 2) {
                /* The host has decoded all but the last token by itself, into the main sequence. */
                size_t left = 0;
                for (size_t c = 0; c < n_cells; c++) {
                    cells[c].ids &= ~(1u << slot);
                    if (cells[c].ids != 0) {
                        cells[left++] = cells[c];
                    }
                }
                n_cells = left;
                for (n_held = 0; n_held < n_prompt - 1; n_held++) {
                    cells[n_cells].pos = n_held;
                    cells[n_cells].token = texts[slot][n_held];
                    cells[n_cells++].ids = 1u << slot;
                }
            }
            OK(aded_prompt_defaults(&prompt, sizeof prompt));
            prompt.tokens = texts[slot];
            prompt.n_tokens = (size_t) n_prompt;
            prompt.n_held = (size_t) n_held;
            prompt.n_max = (size_t) n_max;
            OK(aded_drafter_begin(drafter, slot, &prompt));
            lengths[slot] = n_prompt;
            memcpy(expected[slot], texts[slot], sizeof expected[slot]);
            plain(expected[slot], n_prompt, n_max);
        }
        for (int32_t n = 0; round_of(drafter, texts, lengths, n % 7 == 3) > 0; n++) {
            CHECK(n < 2000);
        }
        for (uint32_t slot = 0; slot < N_SLOTS; slot++) {
            aded_stats stats;
            OK(aded_drafter_stats(drafter, slot, &stats, sizeof stats));
            n_accepted += stats.n_accepted;
            CHECK(memcmp(texts[slot], expected[slot], (size_t) lengths[slot] * sizeof(int32_t)) == 0);
            CHECK(lengths[slot] == (slot == 1 ? 150 : 5 + (int32_t) slot) + 200);
        }
    }
    CHECK(n_accepted > 500);
    OK(aded_drafter_end(drafter, 0));
    if (argc > 1) {
        /* What was learnt survives the drafter; what another model has learnt is refused. */
        OK(aded_drafter_open_memory(drafter, argv[1], 7, 8));
        OK(aded_drafter_save_memory(drafter));
        OK(aded_drafter_free(drafter));
        OK(aded_drafter_new(&params, &drafter));
        CHECK(aded_drafter_open_memory(drafter, argv[1], 7, 9) == ADED_FORMAT);
        OK(aded_drafter_open_memory(drafter, argv[1], 7, 8));
    }
    OK(aded_drafter_forget(drafter));
    OK(aded_drafter_free(drafter));
    printf("all equal, %llu guesses accepted\n", (unsigned long long) n_accepted);
    return 0;
}
