/*
 * Wrong pointers, sizes, numbers, orders and threads at the functions that only libaded has: each is answered by a status,
 * and the object goes on working. The model file is the argument.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aded.h"
#include "misuse.h"

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: not true: %s\n", __LINE__, #condition);         \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

enum { MAX_TOKENS = 256 };

static aded_model *model;
static aded_session *session;
static const char *ROLES[] = {"user"};
static const char *TEXTS[] = {"Count from 1 to 200."};

static int32_t stops(float share, void *calls) {
    (void) share;
    *(int *) calls += 1;
    return 0;
}

static void nulls(const char *path) {
    aded_model *other = NULL;
    aded_session *none = NULL;
    int32_t tokens[MAX_TOKENS] = {1}, reason = 0;
    size_t n = 0;
    char text[16];
    const char *nothing = NULL;
    OK(aded_kernels_enable(1, NULL));
    INVALID(aded_model_default_params(NULL, sizeof(aded_model_params)));
    INVALID(aded_model_new(NULL, NULL, &other));
    INVALID(aded_model_new(path, NULL, NULL));
    OK(aded_model_free(NULL));
    INVALID(aded_model_tokenize(NULL, "a", tokens, MAX_TOKENS, &n));
    INVALID(aded_model_tokenize(model, NULL, tokens, MAX_TOKENS, &n));
    INVALID(aded_model_tokenize(model, "a", NULL, MAX_TOKENS, &n));
    INVALID(aded_model_tokenize(model, "a", tokens, MAX_TOKENS, NULL));
    INVALID(aded_model_chat(NULL, ROLES, TEXTS, 1, tokens, MAX_TOKENS, &n));
    INVALID(aded_model_chat(model, NULL, TEXTS, 1, tokens, MAX_TOKENS, &n));
    INVALID(aded_model_chat(model, ROLES, NULL, 1, tokens, MAX_TOKENS, &n));
    INVALID(aded_model_chat(model, ROLES, TEXTS, 1, NULL, MAX_TOKENS, &n));
    INVALID(aded_model_chat(model, ROLES, TEXTS, 1, tokens, MAX_TOKENS, NULL));
    INVALID(aded_model_chat(model, &nothing, TEXTS, 1, tokens, MAX_TOKENS, &n)); /* a NULL inside */
    INVALID(aded_model_fingerprint(NULL, &(uint64_t){0}));
    INVALID(aded_model_fingerprint(model, NULL));
    INVALID(aded_session_default_params(NULL, sizeof(aded_session_params)));
    INVALID(aded_session_new(NULL, NULL, &none));
    INVALID(aded_session_new(model, NULL, NULL));
    OK(aded_session_free(NULL));
    INVALID(aded_sampling_defaults(NULL, sizeof(aded_sampling)));
    INVALID(aded_session_begin(NULL, tokens, 1, 1, NULL));
    INVALID(aded_session_begin(session, NULL, 1, 1, NULL));
    INVALID(aded_session_next(NULL, tokens, MAX_TOKENS, &n));
    INVALID(aded_session_next(session, NULL, MAX_TOKENS, &n));
    INVALID(aded_session_next(session, tokens, MAX_TOKENS, NULL));
    INVALID(aded_session_text(NULL, text, sizeof text, &n));
    INVALID(aded_session_text(session, NULL, sizeof text, &n));
    INVALID(aded_session_text(session, text, sizeof text, NULL));
    INVALID(aded_session_stop(NULL));
    INVALID(aded_session_cancel(NULL));
    INVALID(aded_session_finish(NULL, &reason));
    INVALID(aded_session_finish(session, NULL));
    INVALID(aded_session_stats(NULL, &(aded_stats){0}, sizeof(aded_stats)));
    INVALID(aded_session_stats(session, NULL, sizeof(aded_stats)));
    INVALID(aded_session_forget(NULL));
    CHECK(other == NULL && none == NULL); /* outputs are written on ADED_OK alone */
}

static void numbers(const char *path) {
    aded_model_params loading;
    aded_session_params params;
    aded_sampling sampling;
    aded_model *other = NULL;
    aded_session *none = NULL;
    aded_stats stats;
    int32_t tokens[MAX_TOKENS] = {1, 2, 3};
    volatile float zero = 0.0f;
    int calls = 0;
    size_t n = 0;
    INVALID(aded_kernels_enable(2, NULL));
    INVALID(aded_model_default_params(&loading, 3));
    OK(aded_model_default_params(&loading, sizeof loading));
    GIVES(ADED_IO, aded_model_new("/nowhere/model.gguf", NULL, &other));
    GIVES(ADED_FORMAT, aded_model_new(__FILE__, NULL, &other));
    INVALID(aded_model_new("\xff\xfe", NULL, &other)); /* no UTF-8 */
    loading.use_mmap = 7;
    INVALID(aded_model_new(path, &loading, &other));
    OK(aded_model_default_params(&loading, sizeof loading));
    loading.size += 8;
    INVALID(aded_model_new(path, &loading, &other));
    loading.size -= 8;
    loading.progress = stops;
    loading.user_data = &calls;
    GIVES(ADED_CANCELLED, aded_model_new(path, &loading, &other));
    CHECK(other == NULL && calls == 1);

    GIVES(ADED_TOO_SMALL, aded_model_tokenize(model, "one two three", NULL, 0, &n));
    GIVES(ADED_TOO_SMALL, aded_model_tokenize(model, "one two three", tokens, n - 1, &n));
    CHECK(tokens[0] == 1 && n >= 3);
    GIVES(ADED_TOO_SMALL, aded_model_chat(model, ROLES, TEXTS, 1, NULL, 0, &n));
    INVALID(aded_model_chat(model, ROLES, TEXTS, SIZE_MAX, tokens, MAX_TOKENS, &n));

    INVALID(aded_session_default_params(&params, sizeof params + 1));
#define REFUSES(field, value)                                                \
    do {                                                                     \
        OK(aded_session_default_params(&params, sizeof params));             \
        params.field = (value);                                              \
        INVALID(aded_session_new(model, &params, &none));                    \
    } while (0)
    REFUSES(size, 0);
    REFUSES(n_batch, 0);
    REFUSES(n_ubatch, 0);
    REFUSES(flash_attention, 5);
    REFUSES(max_logits_rows, 0);
    REFUSES(max_leaves, 0);
    REFUSES(max_leaves, 1u << 20);
    REFUSES(mode, 9);
    REFUSES(budget, 64);
    OK(aded_session_default_params(&params, sizeof params));
    params.n_ctx = 1u << 30; /* terabytes */
    GIVES(ADED_TARGET, aded_session_new(model, &params, &none));
    CHECK(none == NULL);

    INVALID(aded_sampling_defaults(&sampling, 3));
#define REFUSES_SAMPLING(field, value)                                       \
    do {                                                                     \
        OK(aded_sampling_defaults(&sampling, sizeof sampling));              \
        sampling.field = (value);                                            \
        INVALID(aded_session_begin(session, tokens, 3, 1, &sampling));       \
    } while (0)
    REFUSES_SAMPLING(size, 1);
    REFUSES_SAMPLING(top_p, zero / zero); /* not a number */
    REFUSES_SAMPLING(temperature, 1.0f / zero);
    REFUSES_SAMPLING(repeat_penalty, -1.0f);
    REFUSES_SAMPLING(grammar, "root ::= (");
    REFUSES_SAMPLING(grammar, "\xff");

    INVALID(aded_session_begin(session, tokens, 0, 1, NULL)); /* empty */
    INVALID(aded_session_begin(session, tokens, SIZE_MAX, 1, NULL));
    INVALID(aded_session_begin(session, (const int32_t *) (const void *) ((const char *) tokens + 1), 1, 1, NULL));
    tokens[1] = -1;
    INVALID(aded_session_begin(session, tokens, 3, 1, NULL));
    tokens[1] = 1 << 30;
    INVALID(aded_session_begin(session, tokens, 3, 1, NULL));
    tokens[1] = 2;
    INVALID(aded_session_next(session, tokens, 0, &n));
    INVALID(aded_session_stats(session, &stats, 4));
}

/* Before a generation, after it, and interrupted ones: what was called too early or too late does nothing. */
static void order(void) {
    int32_t prompt[MAX_TOKENS], tokens[MAX_TOKENS], reason = -1;
    char text[4096];
    size_t n_prompt = 0, n = 99, total = 0;
    aded_stats stats;
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n)); /* nothing was begun: nothing comes */
    CHECK(n == 0);
    OK(aded_session_text(session, text, sizeof text, &n));
    CHECK(n == 1 && text[0] == '\0');
    OK(aded_session_stop(session));
    OK(aded_session_forget(session));
    OK(aded_model_chat(model, ROLES, TEXTS, 1, prompt, MAX_TOKENS, &n_prompt));
    OK(aded_session_begin(session, prompt, n_prompt, 8, NULL));
    OK(aded_session_finish(session, &reason));
    CHECK(reason == ADED_FINISH_NONE);
    /* One at a time: what did not fit comes with the next call. */
    do {
        OK(aded_session_next(session, tokens, 1, &n));
        CHECK(n <= 1);
        total += n;
        CHECK(total <= 8);
    } while (n > 0);
    CHECK(total == 8);
    OK(aded_session_finish(session, &reason));
    CHECK(reason == ADED_FINISH_LENGTH);
    GIVES(ADED_TOO_SMALL, aded_session_text(session, text, 1, &n));
    CHECK(n > 1);
    OK(aded_session_text(session, text, n, &n)); /* it stayed */
    CHECK(strlen(text) + 1 == n);
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n)); /* it has ended */
    CHECK(n == 0);
    OK(aded_session_stats(session, &stats, sizeof stats));
    CHECK(stats.n_tokens + 1 >= 8 && stats.n_prompt > 0);
    /* Cancelled before it begins, the flag is taken back; cancelled after, it stops. */
    OK(aded_session_cancel(session));
    OK(aded_session_begin(session, prompt, n_prompt, 8, NULL));
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n));
    CHECK(n > 0);
    /* A generation that cannot begin leaves the earlier one as it is. */
    INVALID(aded_session_begin(session, prompt, 0, 8, NULL));
    OK(aded_session_finish(session, &reason));
    CHECK(reason == ADED_FINISH_NONE);
    OK(aded_session_cancel(session));
    INVALID(aded_session_begin(session, prompt, 0, 8, NULL)); /* and its cancellation too */
    while (aded_session_next(session, tokens, MAX_TOKENS, &n) == ADED_OK && n > 0) {
    }
    OK(aded_session_finish(session, &reason));
    CHECK(reason == ADED_FINISH_CANCELLED);
    /* Stopped, forgotten and begun again in the middle. */
    OK(aded_session_begin(session, prompt, n_prompt, SIZE_MAX, NULL));
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n));
    OK(aded_session_stop(session));
    OK(aded_session_finish(session, &reason));
    CHECK(reason == ADED_FINISH_STOP);
    OK(aded_session_begin(session, prompt, n_prompt, 8, NULL));
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n));
    OK(aded_session_forget(session));
    OK(aded_session_begin(session, prompt, n_prompt, 2, NULL));
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n));
    CHECK(n > 0);
}

/* Uses the session and the model while the main thread does: each call ends well, or says that another thread is there. */
static void *disturb(void *rounds) {
    for (int i = 0; i < *(int *) rounds; i++) {
        aded_stats stats;
        int32_t tokens[MAX_TOKENS], reason;
        size_t n;
        const aded_status statuses[] = {
            aded_session_stats(session, &stats, sizeof stats),
            aded_session_finish(session, &reason),
            aded_session_begin(session, tokens, 0, 1, NULL),
        };
        for (size_t at = 0; at < sizeof statuses / sizeof *statuses; at++) {
            if (statuses[at] != ADED_OK && statuses[at] != ADED_BUSY && statuses[at] != ADED_INVALID_ARGUMENT) {
                return &session;
            }
        }
        /* A model serves every thread at once. */
        if (aded_model_tokenize(model, "one two three", tokens, MAX_TOKENS, &n) != ADED_OK) {
            return &model;
        }
    }
    return NULL;
}

static void *generates(void *status) {
    int32_t tokens[MAX_TOKENS];
    size_t n = 1;
    while (n > 0) {
        const aded_status given = aded_session_next(session, tokens, MAX_TOKENS, &n);
        if (given != ADED_OK && given != ADED_BUSY) {
            *(aded_status *) status = given;
            return NULL;
        }
    }
    return NULL;
}

static void threads(void) {
    pthread_t others[3];
    int32_t prompt[MAX_TOKENS], reason = ADED_FINISH_NONE;
    size_t n_prompt = 0;
    int rounds = 300;
    void *failed = NULL;
    aded_status status = ADED_OK;
    OK(aded_model_chat(model, ROLES, TEXTS, 1, prompt, MAX_TOKENS, &n_prompt));
    OK(aded_session_begin(session, prompt, n_prompt, SIZE_MAX, NULL));
    CHECK(pthread_create(&others[0], NULL, generates, &status) == 0);
    for (int i = 1; i < 3; i++) {
        CHECK(pthread_create(&others[i], NULL, disturb, &rounds) == 0);
    }
    for (int i = 1; i < 3; i++) {
        pthread_join(others[i], &failed);
        CHECK(failed == NULL);
    }
    /* Another thread is generating, or has just ended: cancelling is never refused. */
    OK(aded_session_cancel(session));
    pthread_join(others[0], NULL);
    CHECK(status == ADED_OK || status == ADED_CANCELLED);
    OK(aded_session_finish(session, &reason));
    CHECK(reason == ADED_FINISH_CANCELLED || reason == ADED_FINISH_LENGTH || reason == ADED_FINISH_STOP);
}

int main(int argc, char **argv) {
    aded_session_params params;
    int32_t tokens[MAX_TOKENS] = {1};
    size_t n = 0;
    const char *name = NULL;
    uint64_t fingerprint = 0;
    int32_t reason = 0;
    aded_stats stats;
    char text[16];
    if (argc != 2) {
        fprintf(stderr, "usage: misuse_full MODEL.gguf\n");
        return 2;
    }
    OK(aded_kernels_enable(1, &name));
    CHECK(name != NULL && strlen(name) > 0);
    OK(aded_model_new(argv[1], NULL, &model));
    OK(aded_session_default_params(&params, sizeof params));
    params.n_ctx = 512;
    params.n_threads = 2;
    OK(aded_session_new(model, &params, &session));
    nulls(argv[1]);
    numbers(argv[1]);
    order();
    threads();
    /* The model goes first; the session works on. */
    OK(aded_model_free(model));
    GIVES(ADED_NO_SUCH_HANDLE, aded_model_free(model));
    GIVES(ADED_NO_SUCH_HANDLE, aded_model_tokenize(model, "a", tokens, MAX_TOKENS, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_model_chat(model, ROLES, TEXTS, 1, tokens, MAX_TOKENS, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_model_fingerprint(model, &fingerprint));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_new(model, NULL, &session));
    OK(aded_session_begin(session, tokens, 1, 2, NULL));
    OK(aded_session_next(session, tokens, MAX_TOKENS, &n));
    CHECK(n > 0);
    OK(aded_session_free(session));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_free(session));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_begin(session, tokens, 1, 2, NULL));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_next(session, tokens, MAX_TOKENS, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_text(session, text, sizeof text, &n));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_stop(session));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_cancel(session));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_finish(session, &reason));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_stats(session, &stats, sizeof stats));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_forget(session));
    GIVES(ADED_NO_SUCH_HANDLE, aded_session_free((aded_session *) (void *) &params));
    return 0;
}
