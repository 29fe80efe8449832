// A graph is bound to its scheduler, which has placed its tensors. Both are private members of a context and are exchanged for another
// pair before a decode call, and put back after it: between calls the context holds what it made itself.
//
// What llama.cpp checks before it uses a graph again (sizes, cells, adapters, outputs) it checks of a kept one too, and builds it anew
// in place if need be. Tensors between the nodes of a graph live for one call, so that all kept graphs share one area of memory.
#include "graphs.h"

#ifdef ADED_LLAMA_INTERNALS

#include "ggml-backend-impl.h"
#include "ggml-cpp.h"
#include "ggml-impl.h"
#include "llama-context.h"
#include "llama-memory.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace {

// The language lets an explicit instantiation name a private member, and a friend defined in it can hand the pointer out.
template <typename Tag, typename Tag::type Member>
struct Reveal {
    friend typename Tag::type member(Tag) { return Member; }
};

#define REVEAL(Name, Type, field)                  \
    struct Name {                                  \
        using type = Type llama_context::*;        \
        friend type member(Name);                  \
    };                                             \
    template struct Reveal<Name, &llama_context::field>

using Results = std::array<llm_graph_result_ptr, 2>;

REVEAL(Scheduler, ggml_backend_sched_ptr, sched);
REVEAL(NeedsReserve, bool, sched_need_reserve);
REVEAL(Backends, std::vector<ggml_backend_t>, backend_ptrs);
REVEAL(BufferTypes, std::vector<ggml_backend_buffer_type_t>, backend_buft);
REVEAL(Previous, Results, gf_res_prev);
REVEAL(Active, llm_graph_result *, gf_res_prev_active);

// Batches of more rows take so long that building their graph does not count, and their logits much memory.
constexpr int32_t MAX_ROWS = 16;
// Chains and trees of the sizes that one text's drafts have. A graph takes about a megabyte for a small model, three for a large one.
constexpr size_t MAX_GRAPHS = 16;
constexpr size_t ALIGNMENT = 64;

// All that llama.cpp's check of a batch looks at, where each token is a step of its own.
struct Shape {
    int32_t n_rows;
    int32_t n_outputs;
    int32_t n_sequences;

    bool operator==(const Shape & other) const {
        return n_rows == other.n_rows && n_outputs == other.n_outputs && n_sequences == other.n_sequences;
    }
};

Shape shape_of(const llama_batch & batch) {
    std::bitset<LLAMA_MAX_SEQ> sequences;
    int32_t n_outputs = 0;
    for (int32_t row = 0; row < batch.n_tokens; row++) {
        n_outputs += batch.logits[row] != 0;
        for (int32_t at = 0; at < batch.n_seq_id[row]; at++) {
            sequences.set(batch.seq_id[row][at]);
        }
    }
    return { batch.n_tokens, n_outputs, static_cast<int32_t>(sequences.count()) };
}

// llama_decode's status where a buffer cannot be had.
constexpr int32_t NO_ROOM = -2;

struct Graph {
    Shape shape;
    uint64_t last_use = 0;
    ggml_backend_sched_ptr scheduler;
    Results results;
    llm_graph_result * active = nullptr;
};

// A graph's time in its context, which an exception ends too.
struct Entered {
    llama_context * context;
    Graph & graph;

    Entered(llama_context * context, Graph & graph) : context(context), graph(graph) { exchange(); }
    Entered(const Entered &) = delete;
    ~Entered() { exchange(); }

    void exchange() {
        std::swap(context->*member(Scheduler()), graph.scheduler);
        std::swap(context->*member(Previous()), graph.results);
        std::swap(context->*member(Active()), graph.active);
    }
};

// The shared area. A graph that needs more gets a larger one, and the smaller stays for those placed in it.
struct Area {
    void * data = nullptr;
    size_t n_bytes = 0;
    std::vector<std::pair<void *, size_t>> smaller;

    ~Area() {
        ggml_aligned_free(data, n_bytes);
        for (const auto & [area, n] : smaller) {
            ggml_aligned_free(area, n);
        }
    }

    bool reserve(size_t n) {
        if (n <= n_bytes) {
            return true;
        }
        n = std::max(n, 2 * n_bytes);
        smaller.reserve(smaller.size() + 1);
        void * larger = ggml_aligned_malloc(n);
        if (!larger) {
            return false;
        }
        if (data) {
            smaller.emplace_back(data, n_bytes);
        }
        data = larger;
        n_bytes = n;
        return true;
    }
};

const char * area_name(ggml_backend_buffer_type_t) {
    return "ADED_GRAPHS";
}

ggml_backend_buffer_t area_buffer(ggml_backend_buffer_type_t type, size_t n_bytes) {
    auto * area = static_cast<Area *>(type->context);
    try {
        return area->reserve(n_bytes) ? ggml_backend_cpu_buffer_from_ptr(area->data, n_bytes) : nullptr;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

size_t area_alignment(ggml_backend_buffer_type_t) {
    return ALIGNMENT;
}

bool area_is_host(ggml_backend_buffer_type_t) {
    return true;
}

} // namespace

struct aded_graphs {
    llama_context * context;
    Area area;
    ggml_backend_buffer_type type{};
    std::vector<Graph> graphs;
    uint64_t n_uses = 0;
    bool is_stopped = false;

    explicit aded_graphs(llama_context * context) : context(context) {
        type.iface.get_name = area_name;
        type.iface.alloc_buffer = area_buffer;
        type.iface.get_alignment = area_alignment;
        type.iface.is_host = area_is_host;
        type.device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        type.context = &area;
        graphs.reserve(MAX_GRAPHS);
    }

    Graph & find(const Shape & shape) {
        for (Graph & graph : graphs) {
            if (graph.shape == shape) {
                return graph;
            }
        }
        if (graphs.size() < MAX_GRAPHS) {
            Graph graph{};
            graph.scheduler = new_scheduler();
            graph.shape = shape;
            if (!reserve(graph)) {
                throw std::bad_alloc();
            }
            graphs.push_back(std::move(graph));
            return graphs.back();
        }
        // llama.cpp sees that it is of another shape, and builds it anew.
        const auto older = [](const Graph & a, const Graph & b) { return a.last_use < b.last_use; };
        Graph & oldest = *std::min_element(graphs.begin(), graphs.end(), older);
        oldest.shape = shape;
        return oldest;
    }

    // Where there is no room for graphs, it goes without: rather slower than not at all.
    void stop() {
        graphs.clear();
        is_stopped = true;
    }

    ggml_backend_sched_ptr new_scheduler() {
        std::vector<ggml_backend_t> & backends = context->*member(Backends());
        std::vector<ggml_backend_buffer_type_t> types(backends.size(), &type);
        const size_t n_nodes = context->get_gf_res_reserve()->get_max_nodes();
        return ggml_backend_sched_ptr(ggml_backend_sched_new(
            backends.data(), types.data(), static_cast<int>(backends.size()), n_nodes, false, context->get_cparams().op_offload));
    }

    // Places the largest graph of the shape once, so that its buffer need not grow with the text.
    bool reserve(Graph & graph) {
        const llama_memory_context_ptr full = llama_get_memory(context)->init_full();
        const Entered entered(context, graph);
        const int32_t n_outputs = std::max(graph.shape.n_outputs, 1); // llama.cpp aborts at none
        return full && context->graph_reserve(graph.shape.n_rows, 1, n_outputs, full.get());
    }

    // The graph for a batch, or null if the context's own is to serve.
    Graph * serving(const llama_batch & batch) {
        if (is_stopped || batch.n_tokens > MAX_ROWS) {
            return nullptr;
        }
        if (context->*member(NeedsReserve())) {
            // Adapters or the like have changed: the call makes a scheduler anew, and the graphs are of no more use.
            graphs.clear();
            return nullptr;
        }
        try {
            Graph & graph = find(shape_of(batch));
            graph.last_use = ++n_uses;
            return &graph;
        } catch (const std::bad_alloc &) {
            stop();
            return nullptr;
        }
    }
};

aded_graphs * aded_graphs_new(llama_context * context) {
    const std::vector<ggml_backend_t> & backends = context->*member(Backends());
    for (size_t i = 0; i < backends.size(); i++) {
        const ggml_backend_dev_t device = ggml_backend_get_device(backends[i]);
        const enum ggml_backend_dev_type kind = ggml_backend_dev_type(device);
        const bool is_cpu = kind == GGML_BACKEND_DEVICE_TYPE_CPU || kind == GGML_BACKEND_DEVICE_TYPE_ACCEL;
        if (!is_cpu || !ggml_backend_buft_is_host((context->*member(BufferTypes()))[i])) {
            return nullptr;
        }
    }
    try {
        return context->get_cparams().pipeline_parallel ? nullptr : new aded_graphs(context);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void aded_graphs_free(aded_graphs * graphs) {
    delete graphs;
}

int32_t aded_graphs_decode(aded_graphs * graphs, llama_batch batch) {
    if (Graph * graph = graphs->serving(batch)) {
        int32_t status;
        {
            const Entered entered(graphs->context, *graph);
            status = llama_decode(graphs->context, batch);
        }
        if (status != NO_ROOM) {
            return status;
        }
        graphs->stop();
    }
    return llama_decode(graphs->context, batch);
}

#else

aded_graphs * aded_graphs_new(llama_context *) {
    return nullptr;
}

void aded_graphs_free(aded_graphs *) {}

int32_t aded_graphs_decode(aded_graphs *, llama_batch) {
    return -1;
}

#endif
