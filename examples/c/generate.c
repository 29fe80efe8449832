/*
 * Answers a question with the full library, libaded:
 *
 *     generate MODEL.gguf "Why is the sky blue?"
 */
#include <stdio.h>
#include <stdlib.h>

#include "aded.h"

/* Ends the program with the library's own words if a call did not succeed. */
static void check(aded_status status) {
    if (status != ADED_OK) {
        char message[1024];
        size_t needed = 0;
        const int whole = aded_last_message(message, sizeof message, &needed) == ADED_OK;
        fprintf(stderr, "generate: %s\n", whole ? message : aded_status_text(status));
        exit(1);
    }
}

int main(int argc, char **argv) {
    const char *roles[] = {"user"};
    const char *texts[] = {argc > 2 ? argv[2] : "Why is the sky blue?"};
    int32_t prompt[4096], tokens[64];
    size_t n_prompt = 0, n_tokens = 0;
    aded_model *model = NULL;
    aded_session *session = NULL;
    aded_stats stats;

    if (argc < 2) {
        fprintf(stderr, "usage: generate MODEL.gguf [QUESTION]\n");
        return 2;
    }
    check(aded_kernels_enable(1, NULL)); /* before the model is loaded */
    check(aded_model_new(argv[1], NULL, &model));
    check(aded_session_new(model, NULL, &session));
    check(aded_model_chat(model, roles, texts, 1, prompt, 4096, &n_prompt));
    check(aded_session_begin(session, prompt, n_prompt, 200, NULL)); /* NULL: the likeliest token each time */
    do {
        char text[4096];
        size_t needed = 0;
        check(aded_session_next(session, tokens, 64, &n_tokens));
        check(aded_session_text(session, text, sizeof text, &needed));
        fputs(text, stdout);
        fflush(stdout);
    } while (n_tokens > 0);

    check(aded_session_stats(session, &stats, sizeof stats));
    fprintf(stderr, "\n%.1f tokens/s, %.2f tokens per round, %llu of %llu guesses accepted\n",
        stats.round_ms > 0 ? (double) stats.n_tokens / stats.round_ms * 1e3 : 0.0,
        stats.n_rounds > 0 ? (double) stats.n_tokens / (double) stats.n_rounds : 0.0,
        (unsigned long long) stats.n_accepted, (unsigned long long) stats.n_drafted);
    check(aded_session_free(session));
    check(aded_model_free(model));
    return 0;
}
