/* Wrong pointers, sizes, numbers, orders and threads: each is answered by a status, and the object goes on working. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aded.h"
#include "misuse.h"


static aded_drafter *shared;

/* Many threads use one drafter: each call ends well, or says that another thread is there. */
static void *disturb(void *unused) {
    (void) unused;
    for (int i = 0; i < 2000; i++) {
        aded_stats stats;
        int32_t reason;
        const aded_status a = aded_drafter_stats(shared, 0, &stats, sizeof stats);
        const aded_status b = aded_drafter_finish(shared, 0, &reason);
        const aded_status c = aded_drafter_forget(shared);
        if ((a != ADED_OK && a != ADED_BUSY) || (b != ADED_OK && b != ADED_BUSY) || (c != ADED_OK && c != ADED_BUSY)) {
            return &shared;
        }
    }
    return NULL;
}

static void *message_of_another_thread(void *out) {
    size_t needed = 0;
    return aded_last_message((char *) out, 64, &needed) == ADED_OK && needed == 1 ? NULL : out;
}

static void nulls(aded_drafter *drafter) {
    aded_drafter_params params;
    aded_prompt prompt;
    aded_stats stats;
    int32_t number = 0;
    size_t size = 0;
    uint32_t slot = 0;
    INVALID(aded_last_message(NULL, 0, NULL));
    INVALID(aded_drafter_default_params(NULL, sizeof params));
    INVALID(aded_prompt_defaults(NULL, sizeof prompt));
    INVALID(aded_drafter_new(NULL, &drafter));
    OK(aded_drafter_default_params(&params, sizeof params));
    INVALID(aded_drafter_new(&params, NULL));
    OK(aded_drafter_free(NULL));
    INVALID(aded_drafter_begin(drafter, 0, NULL));
    INVALID(aded_drafter_begin(NULL, 0, NULL));
    INVALID(aded_drafter_end(NULL, 0));
    INVALID(aded_drafter_draft(NULL, &slot, 1, 0, &size));
    INVALID(aded_drafter_draft(drafter, NULL, 1, 0, &size));
    INVALID(aded_drafter_draft(drafter, &slot, 1, 0, NULL));
    INVALID(aded_drafter_draft(drafter, &slot, SIZE_MAX, 0, &size));
    INVALID(aded_drafter_rows(NULL, 0, NULL, NULL, NULL, NULL, NULL, &size));
    INVALID(aded_drafter_row_ids(NULL, 0, &number, 1, &size));
    INVALID(aded_drafter_ops(NULL, NULL, 0, &size));
    INVALID(aded_drafter_ops(drafter, NULL, 0, NULL));
    INVALID(aded_drafter_next_row(NULL, 0, &number));
    INVALID(aded_drafter_next_row(drafter, 0, NULL));
    INVALID(aded_drafter_look(NULL, 0, NULL, 0, NULL));
    INVALID(aded_drafter_look_top(NULL, 0, NULL, NULL, 0));
    INVALID(aded_drafter_accept(NULL, 0, 1, &number));
    INVALID(aded_drafter_accept(drafter, 0, 1, NULL));
    INVALID(aded_drafter_keep(NULL));
    INVALID(aded_drafter_learn(NULL, NULL));
    INVALID(aded_drafter_abort(NULL));
    INVALID(aded_drafter_emitted(NULL, 0, &number, 1, &size));
    INVALID(aded_drafter_emitted(drafter, 0, &number, 1, NULL));
    INVALID(aded_drafter_finish(drafter, 0, NULL));
    INVALID(aded_drafter_finish(NULL, 0, &number));
    INVALID(aded_drafter_stats(drafter, 0, NULL, sizeof(aded_stats)));
    INVALID(aded_drafter_stats(NULL, 0, &stats, sizeof stats));
    INVALID(aded_drafter_forget(NULL));
    INVALID(aded_drafter_set_corpus(NULL, NULL, NULL));
    INVALID(aded_drafter_open_memory(drafter, NULL, 1, 1));
    INVALID(aded_drafter_open_memory(NULL, "memory.aded", 1, 1));
    INVALID(aded_drafter_save_memory(NULL));
    INVALID(aded_log_set(NULL, NULL, 1));
}

static void numbers(aded_drafter *drafter) {
    aded_drafter_params good, params;
    aded_drafter *other = NULL;
    aded_prompt prompt;
    const int32_t tokens[3] = {1, 2, 100}, negative = -1;
    aded_stats stats;
    size_t size = 0;
    uint32_t slot = 7, twice[2] = {0, 0};
    INVALID(aded_drafter_default_params(&good, 3));
    INVALID(aded_drafter_default_params(&good, sizeof good + 8));
    OK(aded_drafter_default_params(&good, sizeof good));
    INVALID(aded_drafter_new(&good, &other)); /* no vocabulary */
    good.n_vocab = 100;
    good.n_ctx = 64;
#define REFUSES(field, value)                     \
    do {                                          \
        params = good;                            \
        params.field = (value);                   \
        INVALID(aded_drafter_new(&params, &other)); \
    } while (0)
    REFUSES(size, 0);
    REFUSES(size, sizeof good + 1);
    REFUSES(n_slots, 0);
    REFUSES(n_slots, 1u << 20);
    REFUSES(max_leaves, 0);
    REFUSES(max_leaves, 1u << 17);
    REFUSES(max_rows, 0);
    REFUSES(max_logits_rows, 0);
    REFUSES(n_ctx, UINT32_MAX);
    REFUSES(n_vocab, UINT32_MAX);
    REFUSES(shape, 9);
    REFUSES(shape, ADED_SHAPE_CHAIN); /* with 16 leaves */
    REFUSES(mode, -1);
    REFUSES(search, 3);
    REFUSES(budget, 64);
    REFUSES(max_depth, 0);
    REFUSES(overlay_contexts, 0);
    REFUSES(log_tokens, SIZE_MAX);
    if (other != NULL) {
        exit(1); /* outputs are written on ADED_OK alone */
    }
    OK(aded_prompt_defaults(&prompt, sizeof prompt));
    INVALID(aded_drafter_begin(drafter, 0, &prompt)); /* empty */
    prompt.tokens = tokens;
    prompt.n_tokens = 3;
    INVALID(aded_drafter_begin(drafter, 0, &prompt)); /* token 100 of 100 */
    prompt.tokens = &negative;
    prompt.n_tokens = 1;
    INVALID(aded_drafter_begin(drafter, 0, &prompt));
    prompt.tokens = tokens;
    prompt.n_tokens = SIZE_MAX / 2;
    INVALID(aded_drafter_begin(drafter, 0, &prompt));
    prompt.n_tokens = 2;
    prompt.n_held = 2;
    INVALID(aded_drafter_begin(drafter, 0, &prompt));
    prompt.n_held = 0;
    prompt.greedy = 2;
    INVALID(aded_drafter_begin(drafter, 0, &prompt));
    prompt.greedy = 1;
    prompt.end_tokens = &negative;
    prompt.n_end_tokens = 1;
    INVALID(aded_drafter_begin(drafter, 0, &prompt));
    prompt.tokens = (const int32_t *) (const void *) ((const char *) tokens + 1);
    INVALID(aded_drafter_begin(drafter, 0, &prompt)); /* not aligned */
    prompt.tokens = tokens;
    prompt.n_end_tokens = 0;
    INVALID(aded_drafter_begin(drafter, 7, &prompt));
    INVALID(aded_drafter_draft(drafter, &slot, 1, 0, &size));
    INVALID(aded_drafter_draft(drafter, &slot, 0, 0, &size));
    INVALID(aded_drafter_stats(drafter, 0, &stats, 4));
    OK(aded_drafter_begin(drafter, 0, &prompt));
    INVALID(aded_drafter_draft(drafter, twice, 2, 0, &size));
    GIVES(ADED_IO, aded_drafter_set_corpus(drafter, "/nowhere/corpus.aded", NULL));
    GIVES(ADED_FORMAT, aded_drafter_set_corpus(drafter, __FILE__, NULL));
    GIVES(ADED_WRONG_STATE, aded_drafter_save_memory(drafter));
    GIVES(ADED_FORMAT, aded_drafter_open_memory(drafter, __FILE__, 1, 1));
    GIVES(ADED_WRONG_STATE, aded_drafter_save_memory(drafter)); /* a file of somebody else's is not opened */
}

static void order(aded_drafter *drafter) {
    static float logits[100];
    aded_prompt prompt;
    aded_times times = {sizeof times, 1.0, 0.5};
    const int32_t tokens[3] = {1, 2, 3};
    const float probabilities[2] = {0.25f, 0.5f};
    int32_t row = 5, next = 5, ids[16];
    int8_t wants[64];
    size_t n_rows = 0, n = 0;
    uint32_t slot = 0, other = 1;
    OK(aded_drafter_end(drafter, 0));
    GIVES(ADED_WRONG_STATE, aded_drafter_draft(drafter, &slot, 1, 0, &n_rows)); /* no sequence */
    OK(aded_prompt_defaults(&prompt, sizeof prompt));
    prompt.tokens = tokens;
    prompt.n_tokens = 3;
    prompt.n_max = 2;
    OK(aded_drafter_begin(drafter, 0, &prompt));
    GIVES(ADED_WRONG_STATE, aded_drafter_next_row(drafter, 0, &row));
    GIVES(ADED_WRONG_STATE, aded_drafter_accept(drafter, 0, 1, &row));
    GIVES(ADED_WRONG_STATE, aded_drafter_look(drafter, 0, logits, 100, NULL));
    GIVES(ADED_WRONG_STATE, aded_drafter_keep(drafter));
    GIVES(ADED_WRONG_STATE, aded_drafter_learn(drafter, NULL));
    GIVES(ADED_WRONG_STATE, aded_drafter_abort(drafter));
    GIVES(ADED_WRONG_STATE, aded_drafter_rows(drafter, 64, NULL, NULL, NULL, NULL, NULL, &n));
    OK(aded_drafter_draft(drafter, &slot, 1, 0, &n_rows));
    GIVES(ADED_WRONG_STATE, aded_drafter_draft(drafter, &slot, 1, 0, &n_rows));
    GIVES(ADED_WRONG_STATE, aded_drafter_begin(drafter, 0, &prompt));
    GIVES(ADED_WRONG_STATE, aded_drafter_end(drafter, 0));
    GIVES(ADED_WRONG_STATE, aded_drafter_forget(drafter));
    GIVES(ADED_WRONG_STATE, aded_drafter_learn(drafter, NULL));
    GIVES(ADED_WRONG_STATE, aded_drafter_keep(drafter)); /* nothing was sampled */
    GIVES(ADED_WRONG_STATE, aded_drafter_next_row(drafter, other, &row));
    GIVES(ADED_TOO_SMALL, aded_drafter_rows(drafter, n_rows - 1, NULL, NULL, NULL, NULL, wants, &n));
    if (n != n_rows) {
        exit(1);
    }
    INVALID(aded_drafter_rows(drafter, 64, NULL, NULL, NULL, NULL, wants, NULL));
    OK(aded_drafter_rows(drafter, 64, NULL, NULL, NULL, NULL, wants, &n));
    INVALID(aded_drafter_row_ids(drafter, (uint32_t) n_rows, ids, 16, &n));
    INVALID(aded_drafter_row_ids(drafter, 0, ids, 16, NULL));
    GIVES(ADED_TOO_SMALL, aded_drafter_row_ids(drafter, 0, NULL, 0, &n));
    GIVES(ADED_TOO_SMALL, aded_drafter_ops(drafter, NULL, 0, &n));
    /* Outputs are written on success alone: not the number either, where its array is NULL. */
    n = 77;
    INVALID(aded_drafter_row_ids(drafter, 0, NULL, 16, &n));
    INVALID(aded_drafter_ops(drafter, NULL, 64, &n));
    if (n != 77) {
        exit(1);
    }
    OK(aded_drafter_next_row(drafter, 0, &row));
    INVALID(aded_drafter_look(drafter, (uint32_t) row, logits, 99, NULL));
    INVALID(aded_drafter_look(drafter, 63, logits, 100, NULL));
    INVALID(aded_drafter_look(drafter, 0, logits, 100, NULL)); /* a prompt row without logits */
    INVALID(aded_drafter_look(drafter, (uint32_t) row, NULL, 100, NULL));
    INVALID(aded_drafter_look_top(drafter, (uint32_t) row, tokens, probabilities, 2)); /* rising */
    INVALID(aded_drafter_look_top(drafter, (uint32_t) row, NULL, probabilities, 2));
    INVALID(aded_drafter_look_top(drafter, (uint32_t) row, tokens, NULL, 2));
    INVALID(aded_drafter_accept(drafter, 0, -1, &next));
    INVALID(aded_drafter_accept(drafter, 0, 100, &next));
    OK(aded_drafter_accept(drafter, 0, 9, &next));
    GIVES(ADED_WRONG_STATE, aded_drafter_accept(drafter, 0, 9, &next)); /* the walk is over */
    OK(aded_drafter_keep(drafter));
    GIVES(ADED_WRONG_STATE, aded_drafter_keep(drafter));
    GIVES(ADED_WRONG_STATE, aded_drafter_abort(drafter));
    times.round_ms = -1.0;
    INVALID(aded_drafter_learn(drafter, &times));
    times.round_ms = 0.0 / (times.sample_ms - 0.5);
    INVALID(aded_drafter_learn(drafter, &times));
    times.round_ms = 1.0;
    OK(aded_drafter_learn(drafter, &times));
    GIVES(ADED_TOO_SMALL, aded_drafter_emitted(drafter, 0, NULL, 0, &n));
    /* Given up again and again, it stays where it was. */
    for (int i = 0; i < 3; i++) {
        OK(aded_drafter_draft(drafter, &slot, 1, 0, &n_rows));
        OK(aded_drafter_abort(drafter));
    }
    OK(aded_drafter_draft(drafter, &slot, 1, 0, &n_rows));
    OK(aded_drafter_next_row(drafter, 0, &row));
    OK(aded_drafter_accept(drafter, 0, 9, &next));
    OK(aded_drafter_keep(drafter));
    OK(aded_drafter_learn(drafter, NULL));
    OK(aded_drafter_finish(drafter, 0, &row));
    if (row != ADED_FINISH_LENGTH) {
        exit(1);
    }
    GIVES(ADED_WRONG_STATE, aded_drafter_draft(drafter, &slot, 1, 0, &n_rows)); /* it has ended */
}

/* More slots than the call has rows with logits, and than the memory has cells. */
static void rooms(void) {
    aded_drafter_params params;
    aded_drafter *small = NULL;
    aded_prompt prompt;
    const int32_t tokens[2] = {1, 2};
    const uint32_t slots[2] = {0, 1};
    size_t n_rows = 0;
    OK(aded_drafter_default_params(&params, sizeof params));
    params.n_vocab = 100;
    params.n_ctx = 64;
    params.n_slots = 2;
    params.n_cells = 1;
    OK(aded_drafter_new(&params, &small));
    OK(aded_prompt_defaults(&prompt, sizeof prompt));
    prompt.tokens = tokens;
    prompt.n_tokens = 2;
    for (uint32_t slot = 0; slot < 2; slot++) {
        OK(aded_drafter_begin(small, slot, &prompt));
    }
    GIVES(ADED_NO_ROOM, aded_drafter_draft(small, slots, 2, 0, &n_rows));
    OK(aded_drafter_draft(small, slots, 1, 0, &n_rows)); /* fewer slots, as the message says */
    OK(aded_drafter_free(small)); /* a round under way does not keep it */
}

static void ignore(int32_t level, const char *text, void *user_data) {
    (void) level;
    (void) text;
    (void) user_data;
}

static void messages(aded_drafter *drafter) {
    char small[8] = "untouch", message[256];
    size_t needed = 0;
    pthread_t thread;
    void *failed = NULL;
    INVALID(aded_drafter_finish(drafter, 99, NULL));
    GIVES(ADED_TOO_SMALL, aded_last_message(small, sizeof small, &needed));
    if (strcmp(small, "untouch") != 0 || needed <= sizeof small) {
        exit(1);
    }
    OK(aded_last_message(message, sizeof message, &needed));
    if (strlen(message) + 1 != needed || strstr(message, "slot 99 does not exist") == NULL) {
        fprintf(stderr, "message: %s\n", message);
        exit(1);
    }
    /* Each thread has its own. */
    pthread_create(&thread, NULL, message_of_another_thread, message);
    pthread_join(thread, &failed);
    if (failed != NULL || strcmp(aded_status_text(-5), "unknown status") != 0) {
        exit(1);
    }
}

/* A handle that was freed, or never was one, is refused by everything that takes one. */
static void freed(aded_drafter *drafter) {
    aded_prompt prompt;
    aded_stats stats;
    const int32_t tokens[1] = {1};
    const float values[1] = {1.0f};
    int32_t number = 0;
    uint32_t slot = 0;
    size_t n = 0;
    OK(aded_prompt_defaults(&prompt, sizeof prompt));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_free(drafter));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_begin(drafter, 0, &prompt));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_end(drafter, 0));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_draft(drafter, &slot, 1, 0, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_rows(drafter, 0, NULL, NULL, NULL, NULL, NULL, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_row_ids(drafter, 0, &number, 1, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_ops(drafter, NULL, 0, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_next_row(drafter, 0, &number));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_look(drafter, 0, values, 1, NULL));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_look_top(drafter, 0, tokens, values, 1));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_accept(drafter, 0, 1, &number));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_keep(drafter));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_learn(drafter, NULL));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_abort(drafter));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_emitted(drafter, 0, &number, 1, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_finish(drafter, 0, &number));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_stats(drafter, 0, &stats, sizeof stats));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_forget(drafter));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_set_corpus(drafter, NULL, NULL));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_open_memory(drafter, "memory.aded", 1, 1));
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_save_memory(drafter));
}

int main(void) {
    aded_drafter_params params;
    aded_drafter *drafter = NULL, *forged = (aded_drafter *) (void *) &params;
    pthread_t threads[4];
    if (aded_version() != (ADED_VERSION_MAJOR << 16 | ADED_VERSION_MINOR << 8 | ADED_VERSION_PATCH)) {
        return 1;
    }
    OK(aded_drafter_default_params(&params, sizeof params));
    params.n_vocab = 100;
    params.n_ctx = 64;
    params.n_slots = 2;
    OK(aded_drafter_new(&params, &drafter));
    nulls(drafter);
    numbers(drafter);
    order(drafter);
    messages(drafter);
    rooms();
    INVALID(aded_log_set(ignore, NULL, 9));
    OK(aded_log_set(ignore, NULL, 5));
    GIVES(ADED_WRONG_STATE, aded_log_set(ignore, NULL, 5)); /* once for each process */
    shared = drafter;
    for (int i = 0; i < 4; i++) {
        if (pthread_create(&threads[i], NULL, disturb, NULL) != 0) {
            return 1;
        }
    }
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        if (failed != NULL) {
            return 1;
        }
    }
    OK(aded_drafter_free(drafter));
    freed(drafter);
    GIVES(ADED_NO_SUCH_HANDLE, aded_drafter_free(forged));
    return 0;
}
