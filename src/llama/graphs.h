// Compute graphs that are kept for the shapes of draft batches. llama.cpp keeps one graph, and builds and places another wherever
// the number of rows changes; with drafts of changing sizes that is a tenth of the time of a small model.
#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aded_graphs aded_graphs;

// Null where the context computes elsewhere than on the CPU, or where memory is short: it then works as it does without. Freed before
// the context is.
aded_graphs * aded_graphs_new(struct llama_context * context);
void aded_graphs_free(aded_graphs * graphs);

// llama_decode, with the graph that is kept for the batch's shape.
int32_t aded_graphs_decode(aded_graphs * graphs, struct llama_batch batch);

#ifdef __cplusplus
}
#endif
