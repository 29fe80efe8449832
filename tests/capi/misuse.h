/* What the programs of the misuse suite assert: a call gives this status. The place and the status given are printed otherwise. */
#ifndef ADED_TESTS_MISUSE_H
#define ADED_TESTS_MISUSE_H

#include <stdio.h>
#include <stdlib.h>

#include "aded.h"

#define GIVES(status, call)                                                                                   \
    do {                                                                                                      \
        const aded_status given = (call);                                                                     \
        if (given != (status)) {                                                                              \
            fprintf(stderr, "line %d: %s gives %d in place of %d\n", __LINE__, #call, (int) given, (int) (status)); \
            exit(1);                                                                                          \
        }                                                                                                     \
    } while (0)

#define INVALID(call) GIVES(ADED_INVALID_ARGUMENT, call)
#define OK(call) GIVES(ADED_OK, call)

#endif
