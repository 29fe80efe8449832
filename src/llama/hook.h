// Our kernels inside llama.cpp's CPU backend. The C++ side decides what is taken over and finds the pointers; all arithmetic is
// called through this table, which Rust hands over once.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// One attention, as `Attention` in src/kernels/attention/mod.rs describes it.
typedef struct aded_attention {
    size_t head_size, n_heads, n_kv_heads, n_rows, n_cells;
    float scale, soft_cap;
    const void * q;
    size_t q_row_bytes, q_head_bytes;
    const void * k;
    size_t k_row_bytes, k_head_bytes;
    const void * v;
    size_t v_row_bytes, v_head_bytes;
    uint32_t cell_type; // ggml's number
    const uint16_t * mask;
    size_t mask_row_bytes;
    // The cache tensor that the keys are a view of, and the number of the first cell in it: where positions are kept.
    const void * cache;
    size_t first_cell;
    float * out;
} aded_attention;

// `weight` is what weight_new gave. Every function may be called by several threads at once.
typedef struct aded_kernels {
    // Bytes of a packed weight of ggml's type number; 0 if there is no kernel for it.
    size_t (*packed_bytes)(uint32_t type, size_t n_rows, size_t n_cols);
    // Null if there is no kernel. Freed by weight_free.
    void * (*weight_new)(uint32_t type, size_t n_rows, size_t n_cols);
    void (*weight_free)(void * weight);
    // Packs whole rows, the first a multiple of 16; false if the sizes are wrong.
    bool (*pack)(const void * weight, const void * rows, size_t first_row, size_t n_rows, void * packed);
    void (*unpack_row)(const void * weight, const void * packed, size_t row, float * values);
    size_t (*scratch_bytes)(const void * weight, size_t n_columns);
    // Columns rounded for one weight serve the other too.
    bool (*shares_scratch)(const void * weight, const void * other);
    size_t (*n_items)(const void * weight, size_t n_columns);
    size_t (*n_groups)(const void * weight);
    void (*quantise)(
        const void * weight, const float * x, size_t x_stride, size_t n_columns, size_t begin, size_t end, void * scratch);
    void (*product)(
        const void * weight, const void * packed, size_t begin, size_t end, const void * scratch, size_t n_columns, float * out,
        size_t out_stride);
    // 0 if the kernels cannot compute it.
    size_t (*attention_bytes)(const aded_attention * attention, size_t n_threads);
    // True if attention_merge must follow, after a barrier.
    bool (*attention_run)(const aded_attention * attention, void * work, size_t thread, size_t n_threads);
    void (*attention_merge)(const aded_attention * attention, void * work, size_t thread, size_t n_threads);
    // Tokens are written to cells of a cache of keys; `positions` is null where they are not known.
    void (*cells_written)(const void * cache, size_t n_cells, const int64_t * cells, const int32_t * positions, size_t n);
    // The positions of the first n cells move by `shift`.
    void (*cells_shifted)(const void * cache, const int32_t * shift, size_t n);
} aded_kernels;

// Adds our buffer type to the CPU backend's. Once, before the first model is loaded; `kernels` must live on. False if llama.cpp has
// no CPU backend to add to.
bool aded_hook_register(const aded_kernels * kernels);

// What is taken over from now on: 1 products (of models loaded while it is on), 2 attention. Weights that lie in our buffers are
// computed by us in any case.
void aded_hook_switch(uint32_t parts);

// How many products and attentions were computed by us since the start.
void aded_hook_counts(uint64_t * n_products, uint64_t * n_attentions);

#ifdef __cplusplus
}
#endif
