/*
 * Faults that a sanitizer must see, so that a check that sees nothing is noticed (scripts/check-capi.sh):
 *
 *     planted overrun    the library is told that there are more tokens than the caller has
 *     planted leak       the caller loses memory
 */
#include <stdlib.h>
#include <string.h>

#include "aded.h"

int main(int argc, char **argv) {
    aded_drafter_params params;
    aded_prompt prompt;
    aded_drafter *drafter = NULL;
    int32_t *tokens = (int32_t *) calloc(2, sizeof *tokens);
    if (argc != 2 || tokens == NULL) {
        return 0; /* the caller waits for a failure */
    }
    aded_drafter_default_params(&params, sizeof params);
    params.n_vocab = params.n_ctx = 64;
    aded_drafter_new(&params, &drafter);
    aded_prompt_defaults(&prompt, sizeof prompt);
    prompt.tokens = tokens;
    prompt.n_tokens = strcmp(argv[1], "overrun") == 0 ? 32 : 2;
    aded_drafter_begin(drafter, 0, &prompt);
    aded_drafter_free(drafter);
    if (strcmp(argv[1], "leak") != 0) {
        free(tokens);
    }
    tokens = NULL;
    return 0;
}
