// A C++ program with a llama.cpp of its own, in the manner of llama.cpp's example "simple", with drafting plugged in. The
// lines for it are marked ADED. Link with libaded_core and the llama.cpp at hand:
//
//     host_llama MODEL.gguf [-n 200] [--plain] [--always] [--kernels] [PROMPT]
//
// --plain decodes without ADED, to compare; --always drafts also where the measured times say that it does not pay;
// --kernels is for programs that link libaded, whose llama.cpp has ours.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "llama.h"

#include "aded_llama.h" // ADED

static void print(const llama_vocab * vocab, llama_token token) {
    char piece[256];
    const int n = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, false);
    std::fwrite(piece, 1, n > 0 ? n : 0, stdout);
    std::fflush(stdout);
}

int main(int argc, char ** argv) {
    std::string prompt = "Count from 1 to 40, one number a line:\n1\n2\n3\n4\n5\n6\n";
    int n_predict = 200;
    bool plain = false, always = false;
    const char * path = argc > 1 ? argv[1] : nullptr;
    for (int i = 2; i < argc; i++) {
        if (std::strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
            n_predict = std::atoi(argv[++i]);
        } else if (std::strcmp(argv[i], "--plain") == 0) {
            plain = true;
        } else if (std::strcmp(argv[i], "--always") == 0) {
            always = true;
#ifdef ADED_FULL
        } else if (std::strcmp(argv[i], "--kernels") == 0) {
            aded_kernels_enable(1, nullptr);
#endif
        } else {
            prompt = argv[i];
        }
    }
    if (path == nullptr || n_predict < 1) {
        std::fprintf(stderr, "usage: host_llama MODEL.gguf [-n TOKENS] [--plain] [--always] [PROMPT]\n");
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            std::fputs(text, stderr);
        }
    }, nullptr);
    ggml_backend_load_all();

    llama_model * model = llama_model_load_from_file(path, llama_model_default_params());
    if (model == nullptr) {
        std::fprintf(stderr, "cannot load %s\n", path);
        return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::vector<llama_token> tokens(prompt.size() + 8);
    const int n_prompt = llama_tokenize(
        vocab, prompt.c_str(), (int32_t) prompt.size(), tokens.data(), (int32_t) tokens.size(), true, true);
    if (n_prompt < 1) {
        std::fprintf(stderr, "the prompt has no token: give one of at least a word\n");
        return 2;
    }
    tokens.resize(n_prompt);

    llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t) (n_prompt + n_predict + ADED_LLAMA_MAX_LOGITS_ROWS);
    params.n_batch = params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = 2;
    aded_llama_context_params(&params, model, 1, 16); // ADED
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        std::fprintf(stderr, "cannot make a context of %u tokens\n", params.n_ctx);
        return 1;
    }
    llama_sampler * sampler = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(sampler, llama_sampler_init_greedy());

    int n_decoded = 0, n_calls = 0;
    double seconds = 0;
    int status = 0;
    if (plain) {
        llama_token token = 0;
        llama_batch batch = llama_batch_get_one(tokens.data(), n_prompt);
        int64_t begun = 0;
        for (; n_decoded < n_predict && status == 0; n_decoded++) {
            status = llama_decode(context, batch);
            token = llama_sampler_sample(sampler, context, -1);
            if (begun == 0) {
                begun = llama_time_us(); // the prompt is read
            } else {
                n_calls++;
            }
            if (llama_vocab_is_eog(vocab, token)) {
                n_decoded++;
                break;
            }
            print(vocab, token);
            batch = llama_batch_get_one(&token, 1);
        }
        seconds = (double) (llama_time_us() - begun) * 1e-6;
    } else {
        // ADED: from here on in place of the loop above.
        aded_llama aded;
        aded_drafter_params drafting;
        aded_drafter_default_params(&drafting, sizeof drafting);
        drafting.mode = always ? ADED_MODE_ON : ADED_MODE_AUTO;
        status = aded_llama_init(&aded, context, model, 1, 16, &drafting);
        if (status == ADED_OK) {
            status = aded_llama_begin(&aded, 0, tokens.data(), tokens.size(), 0, (size_t) n_predict, 1);
        }
        int64_t begun = 0;
        for (int32_t finish = ADED_FINISH_NONE; status == ADED_OK && finish == ADED_FINISH_NONE;) {
            llama_token confirmed[ADED_LLAMA_MAX_LOGITS_ROWS];
            size_t n = 0;
            // A null sampler means greedy: the drafter finds the largest logit on its way. `sampler` works as well.
            status = aded_llama_step(&aded, 0, nullptr, confirmed, ADED_LLAMA_MAX_LOGITS_ROWS, &n, &finish);
            for (size_t i = 0; i < n; i++) {
                if (!llama_vocab_is_eog(vocab, confirmed[i])) {
                    print(vocab, confirmed[i]);
                }
            }
            if (n > 0 && begun == 0) {
                begun = llama_time_us(); // the prompt is read
            } else {
                n_calls += n > 0;
            }
            n_decoded += (int) n;
        }
        seconds = (double) (llama_time_us() - begun) * 1e-6;
        if (status != ADED_OK) {
            char message[512];
            size_t needed = 0;
            aded_last_message(message, sizeof message, &needed);
            std::fprintf(stderr, "%s: %s\n", aded_status_text(status), message);
        }
        aded_llama_free(&aded);
    }
    // The first token comes with the prompt.
    std::fprintf(stderr, "\n%d tokens, %d rounds, %.2f tokens per round, %.1f tokens/s\n", n_decoded, n_calls,
        n_calls > 0 ? (double) (n_decoded - 1) / n_calls : 0.0, seconds > 0 ? (n_decoded - 1) / seconds : 0.0);
    llama_sampler_free(sampler);
    llama_free(context);
    llama_model_free(model);
    return status == 0 ? 0 : 1;
}
