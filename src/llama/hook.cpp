// Puts the kernels of src/kernels into llama.cpp's CPU backend as an extra buffer type, the way its own AMX, KleidiAI and repacking
// plug in (ggml-cpu/traits.h): the backend asks every such type before it computes an operation itself, inside its own threads.
//
// A weight is placed with us when a model is loaded. From then on its layout is ours, so that we answer for every operation on it.
// Attention needs no placement: it is taken over where the shapes allow.
#include "hook.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-cpu/ggml-cpu-impl.h"
#include "ggml-cpu/common.h"
#include "ggml-cpu/traits.h"
#include "ggml-impl.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// The internal headers above have no version of their own: build.rs reads it from the source folder.
static_assert(ADED_GGML_VERSION == 2600, "hook.cpp was written for ggml 0.26.0: check it against this version");

namespace {

const aded_kernels * kernels = nullptr;
std::atomic<uint32_t> parts{0};
std::atomic<uint64_t> n_products{0};
std::atomic<uint64_t> n_attentions{0};

constexpr uint32_t PRODUCTS = 1;
constexpr uint32_t ATTENTION = 2;
constexpr size_t ALIGNMENT = 64;

size_t align(size_t n) {
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

// A placed weight: what `ggml_tensor::extra` points to.
struct Weight {
    void * kernel;
    size_t n_bytes;
    // Bytes that came in pieces which could not be packed by themselves, and how many of them have come.
    std::vector<uint8_t> pieces;
    size_t n_received = 0;

    Weight(void * kernel, size_t n_bytes) : kernel(kernel), n_bytes(n_bytes) {}
    Weight(const Weight &) = delete;
    ~Weight() { kernels->weight_free(kernel); }
};

struct Buffer {
    void * data;
    std::vector<std::unique_ptr<Weight>> weights;
};

ggml_backend_buffer_type_t buffer_type();

bool is_ours(const ggml_tensor * t) {
    return t && t->buffer && t->buffer->buft == buffer_type();
}

size_t packed_bytes(const ggml_tensor * t) {
    return kernels->packed_bytes(t->type, t->ne[1], t->ne[0]);
}

Weight * placed(const ggml_tensor * t) {
    return static_cast<Weight *>(t->extra);
}

// A matrix in ggml's usual layout, of a type and shape for which there is a kernel.
bool can_pack(const ggml_tensor * t) {
    return !t->view_src && ggml_is_contiguous(t) && t->ne[2] == 1 && t->ne[3] == 1 && packed_bytes(t) > 0;
}

// Columns of activations: F32 with contiguous rows is read in place, anything else is copied first.
bool is_plain(const ggml_tensor * x) {
    return x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && x->nb[1] % sizeof(float) == 0;
}

bool can_copy(const ggml_tensor * x) {
    return x->type == GGML_TYPE_F32 ||
           ((x->type == GGML_TYPE_F16 || x->type == GGML_TYPE_BF16) && x->nb[0] == ggml_type_size(x->type));
}

// All columns lie at one distance, in both matrices: one product instead of one for each batch.
bool is_one_batch(const ggml_tensor * x, const ggml_tensor * out) {
    return (x->ne[2] == 1 || x->nb[2] == x->nb[1] * x->ne[1]) && (x->ne[3] == 1 || x->nb[3] == x->nb[2] * x->ne[2]) &&
           (out->ne[2] == 1 || out->nb[2] == out->nb[1] * out->ne[1]) &&
           (out->ne[3] == 1 || out->nb[3] == out->nb[2] * out->ne[2]);
}

// The product that this thread planned last, if it has planned nothing since that may touch the work area, and computed none.
thread_local const ggml_tensor * planned = nullptr;

// Where a planned product notes that its columns lie rounded in the work area: behind what ggml uses of a product's parameters.
constexpr int NOTE = GGML_MAX_OP_PARAMS / sizeof(int32_t) - 1;
constexpr int32_t ROUNDED = 0x61646564;

struct ProductTraits : ggml::cpu::tensor_traits {
    // ggml plans the nodes of a graph in their order, before each computation.
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        size = 0;
        if (op->op == GGML_OP_MUL_MAT) {
            const_cast<ggml_tensor *>(op)->op_params[NOTE] = planned && finds_rounded(planned, op) ? ROUNDED : 0;
            planned = op;
            const ggml_tensor * x = op->src[1];
            const void * weight = placed(op->src[0])->kernel;
            size = align(kernels->scratch_bytes(weight, ggml_nrows(x))) + ALIGNMENT;
            if (!is_plain(x)) {
                size += ggml_nelements(x) * sizeof(float);
            }
        }
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        planned = nullptr;
        if (op->op == GGML_OP_GET_ROWS) {
            look_up(params, op);
        } else {
            multiply(params, op);
        }
        return true;
    }

  private:
    // Query, key and value, or gate and up: consecutive products of the same columns.
    static bool finds_rounded(const ggml_tensor * before, const ggml_tensor * op) {
        const ggml_tensor * x = op->src[1];
        return before != op && before->src[1] == x && is_plain(x) && is_one_batch(x, op) && is_one_batch(x, before) &&
               kernels->shares_scratch(placed(op->src[0])->kernel, placed(before->src[0])->kernel);
    }

    static void multiply(ggml_compute_params * params, ggml_tensor * op) {
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * x = op->src[1];
        const void * weight = placed(w)->kernel;
        const size_t ith = params->ith, nth = params->nth;
        uint8_t * scratch = static_cast<uint8_t *>(params->wdata);
        scratch += (ALIGNMENT - reinterpret_cast<uintptr_t>(scratch) % ALIGNMENT) % ALIGNMENT;

        const bool plain = is_plain(x);
        const bool whole = plain ? is_one_batch(x, op) : ggml_is_contiguous(op);
        const size_t n_batches = whole ? 1 : x->ne[2] * x->ne[3];
        const size_t n_columns = ggml_nrows(x) / n_batches;
        const size_t batch_bytes = kernels->scratch_bytes(weight, n_columns);
        float * copy = reinterpret_cast<float *>(scratch + align(kernels->scratch_bytes(weight, ggml_nrows(x))));
        if (!plain) {
            for (int64_t r = ith; r < ggml_nrows(x); r += nth) {
                copy_row(x, r, copy + r * x->ne[0]);
            }
            ggml_barrier(params->threadpool);
        }

        const bool rounded = op->op_params[NOTE] == ROUNDED;
        const size_t n_items = kernels->n_items(weight, n_columns);
        for (size_t b = 0; b < n_batches && !rounded; ++b) {
            const float * columns = plain ? reinterpret_cast<const float *>(
                                                static_cast<const char *>(x->data) + b % x->ne[2] * x->nb[2] +
                                                b / x->ne[2] * x->nb[3])
                                          : copy + b * n_columns * x->ne[0];
            const size_t stride = plain ? x->nb[1] / sizeof(float) : x->ne[0];
            kernels->quantise(
                weight, columns, stride, n_columns, n_items * ith / nth, n_items * (ith + 1) / nth, scratch + b * batch_bytes);
        }
        if (!rounded) {
            ggml_barrier(params->threadpool);
        }

        const size_t n_groups = kernels->n_groups(weight);
        const size_t begin = n_groups * ith / nth, end = n_groups * (ith + 1) / nth;
        for (size_t b = 0; b < n_batches && begin < end; ++b) {
            char * out = static_cast<char *>(op->data) + b % x->ne[2] * op->nb[2] + b / x->ne[2] * op->nb[3];
            kernels->product(
                weight, w->data, begin, end, scratch + b * batch_bytes, n_columns, reinterpret_cast<float *>(out),
                op->nb[1] / sizeof(float));
        }
        if (ith == 0) {
            n_products.fetch_add(1, std::memory_order_relaxed);
        }
    }

    static void copy_row(const ggml_tensor * x, int64_t row, float * out) {
        const int64_t i1 = row % x->ne[1], i2 = row / x->ne[1] % x->ne[2], i3 = row / x->ne[1] / x->ne[2];
        const char * source = static_cast<const char *>(x->data) + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3];
        if (x->type == GGML_TYPE_F32) {
            for (int64_t i = 0; i < x->ne[0]; ++i) {
                memcpy(out + i, source + i * x->nb[0], sizeof(float));
            }
        } else {
            ggml_get_type_traits(x->type)->to_float(source, out, x->ne[0]);
        }
    }

    static void look_up(ggml_compute_params * params, ggml_tensor * op) {
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * ids = op->src[1];
        const void * weight = placed(w)->kernel;
        for (int64_t i = params->ith; i < ggml_nelements(ids); i += params->nth) {
            const int64_t i0 = i % ids->ne[0], i1 = i / ids->ne[0] % ids->ne[1], i2 = i / ids->ne[0] / ids->ne[1];
            int32_t row;
            memcpy(&row, static_cast<const char *>(ids->data) + i0 * ids->nb[0] + i1 * ids->nb[1] + i2 * ids->nb[2], sizeof(row));
            GGML_ASSERT(row >= 0 && row < w->ne[1]);
            char * out = static_cast<char *>(op->data) + i0 * op->nb[1] + i1 * op->nb[2] + i2 * op->nb[3];
            kernels->unpack_row(weight, w->data, row, reinterpret_cast<float *>(out));
        }
    }
};

bool describe(const ggml_tensor * op, aded_attention & a) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float settings[3]; // scale, ALiBi's slope, soft cap
    memcpy(settings, op->op_params, sizeof(settings));
    const bool shapes = q->type == GGML_TYPE_F32 && k->type == v->type && op->type == GGML_TYPE_F32 && q->ne[3] == 1 &&
                        k->ne[3] == 1 && v->ne[3] == 1 && q->ne[0] == k->ne[0] && v->ne[0] == k->ne[0] && v->ne[1] == k->ne[1] &&
                        v->ne[2] == k->ne[2] && q->nb[0] == sizeof(float) && k->nb[0] == ggml_type_size(k->type) &&
                        v->nb[0] == ggml_type_size(v->type) && ggml_is_contiguous(op);
    const bool masked = !mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1 &&
                                  mask->ne[0] >= k->ne[1] && mask->ne[1] >= q->ne[1] && mask->nb[0] == sizeof(uint16_t));
    if (!shapes || !masked || op->src[4] || settings[1] != 0.0f) {
        return false;
    }
    const ggml_tensor * cache = k->view_src ? k->view_src : k;
    a = {};
    a.head_size = q->ne[0];
    a.n_heads = q->ne[2];
    a.n_kv_heads = k->ne[2];
    a.n_rows = q->ne[1];
    a.n_cells = k->ne[1];
    a.scale = settings[0];
    a.soft_cap = settings[2];
    a.q = q->data;
    a.q_row_bytes = q->nb[1];
    a.q_head_bytes = q->nb[2];
    a.k = k->data;
    a.k_row_bytes = k->nb[1];
    a.k_head_bytes = k->nb[2];
    a.v = v->data;
    a.v_row_bytes = v->nb[1];
    a.v_head_bytes = v->nb[2];
    a.cell_type = k->type;
    a.mask = mask ? static_cast<const uint16_t *>(mask->data) : nullptr;
    a.mask_row_bytes = mask ? mask->nb[1] : 0;
    a.cache = cache->data;
    a.first_cell = k->nb[1] ? (static_cast<const char *>(k->data) - static_cast<const char *>(cache->data)) / k->nb[1] : 0;
    a.out = static_cast<float *>(op->data);
    return true;
}

struct AttentionTraits : ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override {
        aded_attention a;
        if (!describe(op, a)) {
            return false;
        }
        const size_t ours = kernels->attention_bytes(&a, n_threads);
        if (ours == 0) {
            return false;
        }
        // The switch may be turned between planning and computing: stock kernels must find room too.
        const size_t d = a.head_size, tile = GGML_FA_TILE_Q * d + 2 * GGML_FA_TILE_Q * GGML_FA_TILE_KV + GGML_FA_TILE_Q * d +
                                             2 * GGML_FA_TILE_KV * d;
        const size_t split = a.n_heads * (2 + d) + 3 * d + 64;
        size = std::max(ours, (tile + split) * n_threads * sizeof(float));
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        aded_attention a;
        if (params->use_ref || !describe(op, a)) {
            return false;
        }
        const size_t needed = kernels->attention_bytes(&a, params->nth);
        if (needed == 0 || needed > params->wsize) {
            return false;
        }
        if (kernels->attention_run(&a, params->wdata, params->ith, params->nth)) {
            ggml_barrier(params->threadpool);
            kernels->attention_merge(&a, params->wdata, params->ith, params->nth);
        }
        if (params->ith == 0) {
            n_attentions.fetch_add(1, std::memory_order_relaxed);
        }
        return true;
    }
};

// Computes nothing: learns which position is written to which cell of a cache, from the operations that do it. The positions
// come with the rotation of the keys, the cells with their storing; both are seen by thread 0, which is the same thread for a whole graph.
struct CellTraits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t &) override {
        return false;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->ith == 0) {
            if (op->op == GGML_OP_ROPE) {
                rotated(op);
            } else {
                stored(op);
            }
        }
        return false;
    }

    static bool is_key_cache(const ggml_tensor * t) {
        return t && strncmp(t->name, "cache_k_l", 9) == 0;
    }

  private:
    struct Positions {
        const ggml_tensor * tensor = nullptr;
        std::vector<int32_t> values;
    };

    static Positions & latest() {
        static thread_local Positions positions;
        return positions;
    }

    static void rotated(const ggml_tensor * op) {
        const ggml_tensor *x = op->src[0], *positions = op->src[1];
        const int32_t * values = static_cast<const int32_t *>(positions->data);
        if (is_key_cache(op->view_src)) {
            // A context shift turns the stored keys; it moves every cell by its own distance.
            kernels->cells_shifted(op->view_src->data, values, positions->ne[0]);
            return;
        }
        Positions & now = latest();
        now.tensor = positions->ne[0] == x->ne[2] ? positions : nullptr;
        if (now.tensor) {
            now.values.assign(values, values + positions->ne[0]);
        }
    }

    static void stored(const ggml_tensor * op) {
        const ggml_tensor *cells = op->src[1], *cache = op->view_src;
        const Positions & now = latest();
        const bool known = now.tensor && positions_of(op->src[0]) == now.tensor && (int64_t) now.values.size() == cells->ne[0];
        kernels->cells_written(
            cache->data, ggml_nrows(cache), static_cast<const int64_t *>(cells->data), known ? now.values.data() : nullptr,
            cells->ne[0]);
    }

    // The positions by which stored keys were rotated, found backwards through what may stand between.
    static const ggml_tensor * positions_of(const ggml_tensor * keys) {
        for (int step = 0; step < 8 && keys; ++step) {
            switch (keys->op) {
                case GGML_OP_ROPE:
                    return keys->src[1];
                case GGML_OP_MUL_MAT:
                    keys = keys->src[1];
                    break;
                default:
                    keys = keys->src[0];
            }
        }
        return nullptr;
    }
};

struct Kernels : ggml::cpu::extra_buffer_type {
    ProductTraits product;
    AttentionTraits attention;
    CellTraits cells;

    // Asked when a weight is to be placed (it has no data yet), and for every operation on a placed one.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor *w = op->src[0], *x = op->src[1];
        if (!is_ours(w) || is_ours(x)) {
            return false;
        }
        if (!placed(w) && (!(parts.load(std::memory_order_relaxed) & PRODUCTS) || !can_pack(w))) {
            return false;
        }
        if (x->buffer && !ggml_backend_buft_is_host(x->buffer->buft)) {
            return false;
        }
        switch (op->op) {
            case GGML_OP_MUL_MAT:
                return can_copy(x) && op->type == GGML_TYPE_F32;
            case GGML_OP_GET_ROWS:
                // Other tables that are looked up may be used in ways of their own; this one is also the head of many models.
                return strcmp(w->name, "token_embd.weight") == 0 && x->type == GGML_TYPE_I32 && op->type == GGML_TYPE_F32;
            default:
                return false;
        }
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT && !ggml_op_is_empty(op->op)) {
            planned = nullptr;
        }
        switch (op->op) {
            case GGML_OP_MUL_MAT:
            case GGML_OP_GET_ROWS:
                if (is_ours(op->src[0]) && placed(op->src[0])) {
                    return &product;
                }
                planned = nullptr;
                return nullptr;
            case GGML_OP_FLASH_ATTN_EXT:
                return parts.load(std::memory_order_relaxed) & ATTENTION ? &attention : nullptr;
            case GGML_OP_ROPE:
                return parts.load(std::memory_order_relaxed) & ATTENTION ? &cells : nullptr;
            case GGML_OP_SET_ROWS:
                return parts.load(std::memory_order_relaxed) & ATTENTION && CellTraits::is_key_cache(op->view_src) &&
                               op->src[1]->type == GGML_TYPE_I64
                           ? &cells
                           : nullptr;
            default:
                return nullptr;
        }
    }
};

void buffer_free(ggml_backend_buffer_t buffer) {
    Buffer * b = static_cast<Buffer *>(buffer->context);
    ggml_aligned_free(b->data, buffer->size);
    delete b;
}

void * buffer_base(ggml_backend_buffer_t buffer) {
    return static_cast<Buffer *>(buffer->context)->data;
}

ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * t) {
    if (!can_pack(t)) {
        return GGML_STATUS_SUCCESS;
    }
    void * kernel = kernels->weight_new(t->type, t->ne[1], t->ne[0]);
    if (!kernel) {
        return GGML_STATUS_FAILED;
    }
    Buffer * b = static_cast<Buffer *>(buffer->context);
    b->weights.push_back(std::make_unique<Weight>(kernel, packed_bytes(t)));
    t->extra = b->weights.back().get();
    return GGML_STATUS_SUCCESS;
}

void buffer_set_tensor(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    Weight * w = placed(t);
    GGML_ASSERT(w && offset + size <= ggml_nbytes(t));
    const size_t group = 16 * t->nb[1];
    const bool whole_groups = offset % group == 0 && (size % group == 0 || offset + size == ggml_nbytes(t));
    if (whole_groups && w->pieces.empty()) {
        GGML_ASSERT(kernels->pack(w->kernel, data, offset / t->nb[1], size / t->nb[1], t->data));
        return;
    }
    w->pieces.resize(ggml_nbytes(t));
    memcpy(w->pieces.data() + offset, data, size);
    w->n_received += size;
    if (w->n_received >= ggml_nbytes(t)) {
        GGML_ASSERT(kernels->pack(w->kernel, w->pieces.data(), 0, t->ne[1], t->data));
        std::vector<uint8_t>().swap(w->pieces);
        w->n_received = 0;
    }
}

void buffer_get_tensor(ggml_backend_buffer_t, const ggml_tensor * t, void *, size_t, size_t) {
    GGML_ABORT("%s was packed for aded's kernels and cannot be read back; load the model without them", t->name);
}

void buffer_memset_tensor(ggml_backend_buffer_t, ggml_tensor * t, uint8_t value, size_t, size_t) {
    memset(t->data, value, placed(t)->n_bytes);
}

void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    memset(static_cast<Buffer *>(buffer->context)->data, value, buffer->size);
}

const char * type_name(ggml_backend_buffer_type_t) {
    return "ADED";
}

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    void * data = ggml_aligned_malloc(size);
    if (!data) {
        return nullptr;
    }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // Fewer page walks while the weights stream past. Only whole pages; it is a wish, so the answer does not matter.
    const uintptr_t huge = uintptr_t(2) << 20, begin = (reinterpret_cast<uintptr_t>(data) + huge - 1) / huge * huge,
                    end = (reinterpret_cast<uintptr_t>(data) + size) / huge * huge;
    if (begin < end) {
        madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
    }
#endif
    ggml_backend_buffer_i interface = {};
    interface.free_buffer = buffer_free;
    interface.get_base = buffer_base;
    interface.init_tensor = buffer_init_tensor;
    interface.memset_tensor = buffer_memset_tensor;
    interface.set_tensor = buffer_set_tensor;
    interface.get_tensor = buffer_get_tensor;
    interface.clear = buffer_clear;
    return ggml_backend_buffer_init(type, interface, new Buffer{data, {}}, size);
}

size_t type_alignment(ggml_backend_buffer_type_t) {
    return ALIGNMENT;
}

size_t type_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * t) {
    const size_t packed = placed(t) ? placed(t)->n_bytes : can_pack(t) ? packed_bytes(t) : 0;
    return std::max(packed, ggml_nbytes(t));
}

ggml_backend_buffer_type_t buffer_type() {
    static Kernels context;
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type t = {};
        t.iface.get_name = type_name;
        t.iface.alloc_buffer = type_alloc;
        t.iface.get_alignment = type_alignment;
        t.iface.get_alloc_size = type_alloc_size;
        t.device = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
        t.context = static_cast<ggml::cpu::extra_buffer_type *>(&context);
        return t;
    }();
    return &type;
}

} // namespace

bool aded_hook_register(const aded_kernels * table) {
    static std::once_flag once;
    std::call_once(once, [&] {
        kernels = table;
        auto & types = ggml_backend_cpu_get_extra_buffer_types();
        // llama.cpp offers a weight to the types in their order. Ours come first on x86, where they were measured against AMX
        // (benches/record/2026-11-24); KleidiAI keeps what it takes.
        auto place = std::find_if(types.begin(), types.end(), [](ggml_backend_buffer_type_t t) {
            return strcmp(ggml_backend_buft_name(t), "CPU_KLEIDIAI") != 0;
        });
        types.insert(place, buffer_type());
    });
    return true;
}

void aded_hook_switch(uint32_t wanted) {
    parts.store(wanted, std::memory_order_relaxed);
}

void aded_hook_counts(uint64_t * products, uint64_t * attentions) {
    *products = n_products.load(std::memory_order_relaxed);
    *attentions = n_attentions.load(std::memory_order_relaxed);
}
