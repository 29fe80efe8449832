#include "shim.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "json-schema-to-grammar.h"
#include "json.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

// Runs `body`; if it throws, notes the text and gives `otherwise`.
template <typename T, typename F>
T guarded(aded_failure * failure, T otherwise, F && body) noexcept {
    failure->text[0] = '\0';
    try {
        return body();
    } catch (const std::exception & exception) {
        std::snprintf(failure->text, sizeof failure->text, "%s", exception.what());
    } catch (...) {
        std::snprintf(failure->text, sizeof failure->text, "an exception that is no std::exception");
    }
    return otherwise;
}

// What llama.cpp computes of a layer's attention once queries, keys and values are there: the values go into the memory, then the rows
// attend to it. Gives the mask, to be filled.
ggml_tensor * expand_attention(
    ggml_cgraph * graph, ggml_context * context, const aded_attention & shape, int32_t n_rows, bool is_fused) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_size));
    const int64_t width = int64_t{ shape.head_size } * shape.n_kv_heads;
    ggml_tensor * q = ggml_permute(
        context, ggml_new_tensor_3d(context, GGML_TYPE_F32, shape.head_size, shape.n_heads, n_rows), 0, 2, 1, 3);
    ggml_tensor * k = ggml_permute(
        context, ggml_new_tensor_3d(context, shape.type_k, shape.head_size, shape.n_kv_heads, shape.n_cells), 0, 2, 1, 3);
    ggml_tensor * new_values = ggml_new_tensor_2d(context, GGML_TYPE_F32, width, n_rows);
    ggml_tensor * mask = ggml_new_tensor_2d(context, is_fused ? GGML_TYPE_F16 : GGML_TYPE_F32, shape.n_cells, n_rows);
    if (is_fused) {
        ggml_tensor * v = ggml_new_tensor_3d(context, shape.type_v, shape.head_size, shape.n_kv_heads, shape.n_cells);
        ggml_tensor * places = ggml_new_tensor_1d(context, GGML_TYPE_I64, n_rows);
        ggml_build_forward_expand(
            graph, ggml_set_rows(context, ggml_reshape_2d(context, v, width, shape.n_cells), new_values, places));
        v = ggml_permute(context, v, 0, 2, 1, 3);
        ggml_build_forward_expand(graph, ggml_flash_attn_ext(context, q, k, v, mask, scale, 0.0f, 0.0f));
        return mask;
    }
    // Without the fused step the memory holds values by element, not by cell, and they are put there one by one.
    ggml_tensor * v = ggml_new_tensor_3d(context, shape.type_v, shape.n_cells, shape.head_size, shape.n_kv_heads);
    ggml_tensor * places = ggml_new_tensor_1d(context, GGML_TYPE_I64, width * n_rows);
    ggml_build_forward_expand(
        graph,
        ggml_set_rows(context, ggml_reshape_2d(context, v, 1, width * shape.n_cells),
                      ggml_reshape_2d(context, new_values, 1, width * n_rows), places));
    ggml_tensor * weights = ggml_soft_max_ext(context, ggml_mul_mat(context, k, q), mask, scale, 0.0f);
    ggml_build_forward_expand(
        graph, ggml_cont(context, ggml_permute(context, ggml_mul_mat(context, v, weights), 0, 2, 1, 3)));
    return mask;
}

// Cells from `n_used` on are masked, as those that hold nothing yet are.
void fill_mask(ggml_tensor * mask, int32_t n_used) {
    const bool is_half = mask->type == GGML_TYPE_F16;
    const size_t size = ggml_type_size(mask->type);
    constexpr uint16_t half = 0xfc00;
    constexpr float single = -INFINITY;
    std::vector<uint8_t> bytes(ggml_nbytes(mask), 0);
    for (int64_t at = 0; at < ggml_nelements(mask); at++) {
        if (at % mask->ne[0] >= n_used) {
            std::memcpy(bytes.data() + at * size, is_half ? static_cast<const void *>(&half) : &single, size);
        }
    }
    ggml_backend_tensor_set(mask, bytes.data(), 0, bytes.size());
}

struct sampler_free {
    void operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }
};

} // namespace

llama_model * aded_model_load(const char * path, llama_model_params params, aded_failure * failure) {
    return guarded<llama_model *>(failure, nullptr, [&] { return llama_model_load_from_file(path, params); });
}

llama_context * aded_context_new(llama_model * model, llama_context_params params, aded_failure * failure) {
    return guarded<llama_context *>(failure, nullptr, [&] { return llama_init_from_model(model, params); });
}

int32_t aded_decode(llama_context * context, aded_graphs * graphs, llama_batch batch, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&] {
        const int32_t status = graphs ? aded_graphs_decode(graphs, batch) : llama_decode(context, batch);
        if (status == 0) {
            // On a device the work may still be running; its errors belong to this call, and so does its time.
            llama_synchronize(context);
        }
        return status;
    });
}

float * aded_logits(llama_context * context, int32_t row, aded_failure * failure) {
    return guarded<float *>(failure, nullptr, [&] { return llama_get_logits_ith(context, row); });
}

int32_t aded_sequence_remove(
    llama_context * context, llama_seq_id sequence, llama_pos begin, llama_pos end, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        return llama_memory_seq_rm(llama_get_memory(context), sequence, begin, end) ? 1 : 0;
    });
}

int32_t aded_sequence_copy(
    llama_context * context, llama_seq_id from, llama_seq_id to, llama_pos begin, llama_pos end,
    aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        llama_memory_seq_cp(llama_get_memory(context), from, to, begin, end);
        return 0;
    });
}

size_t aded_state_size(llama_context * context, llama_seq_id sequence, aded_failure * failure) {
    return guarded<size_t>(failure, 0, [&] {
        return llama_state_seq_get_size_ext(context, sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    });
}

size_t aded_state_save(
    llama_context * context, llama_seq_id sequence, uint8_t * bytes, size_t n_bytes, aded_failure * failure) {
    return guarded<size_t>(failure, 0, [&] {
        return llama_state_seq_get_data_ext(context, bytes, n_bytes, sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    });
}

size_t aded_state_load(
    llama_context * context, llama_seq_id sequence, const uint8_t * bytes, size_t n_bytes, aded_failure * failure) {
    return guarded<size_t>(failure, 0, [&] {
        return llama_state_seq_set_data_ext(context, bytes, n_bytes, sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    });
}

int32_t aded_sequence_shift(
    llama_context * context, llama_seq_id sequence, llama_pos begin, llama_pos end, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        llama_memory_t memory = llama_get_memory(context);
        if (!llama_memory_seq_rm(memory, sequence, begin, end)) {
            return 0;
        }
        llama_memory_seq_add(memory, sequence, end, -1, begin - end);
        return 1;
    });
}

char * aded_json_schema_to_grammar(const char * schema, aded_failure * failure) {
    return guarded<char *>(failure, nullptr, [&]() -> char * {
        const std::string grammar = json_schema_to_grammar(common_json::parse(schema));
        // Not `new`: the other side frees it through us, and knows no C++ type.
        char * text = static_cast<char *>(std::malloc(grammar.size() + 1));
        if (!text) {
            throw std::bad_alloc();
        }
        std::memcpy(text, grammar.c_str(), grammar.size() + 1);
        return text;
    });
}

void aded_text_free(char * text) {
    std::free(text);
}

int32_t aded_tokenize(
    const llama_vocab * vocab, const char * text, int32_t n_bytes, llama_token * tokens, int32_t n_tokens_max,
    bool add_special, bool parse_special, aded_failure * failure) {
    return guarded<int32_t>(failure, INT32_MIN, [&] {
        return llama_tokenize(vocab, text, n_bytes, tokens, n_tokens_max, add_special, parse_special);
    });
}

int32_t aded_token_to_piece(
    const llama_vocab * vocab, llama_token token, char * bytes, int32_t n_bytes_max, bool special,
    aded_failure * failure) {
    return guarded<int32_t>(
        failure, INT32_MIN, [&] { return llama_token_to_piece(vocab, token, bytes, n_bytes_max, 0, special); });
}

llama_sampler * aded_sampler_new(const llama_vocab * vocab, const aded_sampling * sampling, aded_failure * failure) {
    return guarded<llama_sampler *>(failure, nullptr, [&] {
        const aded_sampling & s = *sampling;
        const int32_t n_vocab = llama_vocab_n_tokens(vocab);
        llama_sampler_chain_params params = llama_sampler_chain_default_params();
        params.no_perf = true;
        std::unique_ptr<llama_sampler, sampler_free> chain(llama_sampler_chain_init(params));
        const auto add = [&](llama_sampler * stage) { llama_sampler_chain_add(chain.get(), stage); };

        // The order is that of llama.cpp's own programs, so that one seed and one set of numbers mean the same there and here.
        if (s.n_logit_bias > 0) {
            add(llama_sampler_init_logit_bias(n_vocab, s.n_logit_bias, s.logit_bias));
        }
        if (s.mirostat != 0) {
            add(llama_sampler_init_temp(s.temperature));
            add(s.mirostat == 1 ? llama_sampler_init_mirostat(n_vocab, s.seed, s.mirostat_tau, s.mirostat_eta, 100)
                                : llama_sampler_init_mirostat_v2(s.seed, s.mirostat_tau, s.mirostat_eta));
            return chain.release();
        }
        add(llama_sampler_init_penalties(
            n_vocab, s.penalty_last_n, s.penalty_repeat, s.penalty_frequency, s.penalty_presence));
        add(llama_sampler_init_dry(
            vocab, s.dry_multiplier, s.dry_base, s.dry_allowed_length, s.dry_last_n, s.dry_breakers, s.n_dry_breakers));
        add(llama_sampler_init_top_n_sigma(s.top_n_sigma));
        add(llama_sampler_init_top_k(s.top_k));
        add(llama_sampler_init_typical(s.typical_p, 0));
        add(llama_sampler_init_top_p(s.top_p, 0));
        add(llama_sampler_init_min_p(s.min_p, 0));
        add(llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 0, s.seed));
        add(llama_sampler_init_temp_ext(s.temperature, s.dynatemp_range, s.dynatemp_exponent));
        add(llama_sampler_init_dist(s.seed));
        return chain.release();
    });
}

llama_sampler * aded_sampler_new_grammar(
    const llama_vocab * vocab, const char * grammar, const char * root, aded_failure * failure) {
    return guarded<llama_sampler *>(
        failure, nullptr, [&] { return llama_sampler_init_grammar(vocab, grammar, root); });
}

llama_sampler * aded_sampler_clone(const llama_sampler * sampler, aded_failure * failure) {
    return guarded<llama_sampler *>(failure, nullptr, [&] { return llama_sampler_clone(sampler); });
}

int32_t aded_sampler_apply(llama_sampler * sampler, llama_token_data_array * candidates, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        llama_sampler_apply(sampler, candidates);
        return 0;
    });
}

int32_t aded_sampler_accept(llama_sampler * sampler, llama_token token, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        llama_sampler_accept(sampler, token);
        return 0;
    });
}

int32_t aded_sampler_reset(llama_sampler * sampler, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        llama_sampler_reset(sampler);
        return 0;
    });
}

int32_t aded_quantize(
    const char * input, const char * output, const llama_model_quantize_params * params, aded_failure * failure) {
    return guarded<int32_t>(failure, ADED_EXCEPTION, [&]() -> int32_t {
        return static_cast<int32_t>(llama_model_quantize(input, output, params));
    });
}

double aded_attention_ms(const aded_attention * attention, int32_t n_rows, bool is_fused, aded_failure * failure) {
    constexpr double cannot = -1.0;
    constexpr int    n_runs = 8;
    return guarded<double>(failure, cannot, [&]() -> double {
        const ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        const ggml_backend_ptr   backend(device ? ggml_backend_dev_init(device, nullptr) : nullptr);
        const ggml_init_params   params  = { 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
        const ggml_context_ptr   context(ggml_init(params));
        if (!backend || !context) {
            return cannot;
        }
        const auto set_n_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
            ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
        if (set_n_threads) {
            set_n_threads(backend.get(), attention->n_threads);
        }
        ggml_cgraph * graph = ggml_new_graph(context.get());
        ggml_tensor * mask  = expand_attention(graph, context.get(), *attention, n_rows, is_fused);
        const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
        if (!buffer) {
            return cannot;
        }
        ggml_backend_buffer_clear(buffer.get(), 0);
        fill_mask(mask, attention->n_used);
        double best = cannot;
        for (int run = 0; run < n_runs; run++) {
            const auto begun = std::chrono::steady_clock::now();
            if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) {
                return cannot;
            }
            const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
            // The first run touches fresh memory and starts threads.
            if (run > 0) {
                best = best < 0.0 ? took.count() : std::min(best, took.count());
            }
        }
        return best;
    });
}
