// A CPU buffer type of llama.cpp that packs the matrices which are loaded into it, and multiplies by them.
//
// llama.cpp asks each buffer type, in order, whether it can run the operation that a weight is for. This one takes
// matrices of the formats in formats.h that are multiplied by 32-bit floats, and nothing else: experts (MUL_MAT_ID),
// tables of embeddings (GET_ROWS) and other formats go on to the next type in the list, as if this one did not exist.

#include "buffer_type.h"

#include <algorithm>

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#include "attention_op.h"
#include "matrix.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using llmrun::GROUP_ROWS;

class Traits : public ggml::cpu::tensor_traits {
  public:
    virtual void pack(ggml_tensor * tensor, const void * data) const = 0;
};

template <class F> class FormatTraits : public Traits {
  public:
    void pack(ggml_tensor * tensor, const void * data) const override {
        llmrun::pack_matrix<F>(static_cast<uint8_t *>(tensor->data), static_cast<const uint8_t *>(data),
                               tensor->ne[0] / llmrun::BLOCK_WEIGHTS, tensor->ne[1]);
    }

    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        size = llmrun::work_bytes(threads, op->src[0]->ne[0], ggml_nrows(op->src[1]));
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        llmrun::multiply_matrix<F>(params, op);
        return true;
    }
};

class AttentionTraits : public ggml::cpu::tensor_traits {
  public:
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        size = llmrun::Attention(op, threads).work_bytes();
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        llmrun::Attention(op, params->nth).run(params);
        return true;
    }
};

Traits * find_traits(ggml_type type) {
    static FormatTraits<llmrun::Q4_0> q4_0;
    static FormatTraits<llmrun::Q4_1> q4_1;
    static FormatTraits<llmrun::Q5_0> q5_0;
    static FormatTraits<llmrun::Q5_1> q5_1;
    static FormatTraits<llmrun::Q8_0> q8_0;
    switch (type) {
        case GGML_TYPE_Q4_0: return &q4_0;
        case GGML_TYPE_Q4_1: return &q4_1;
        case GGML_TYPE_Q5_0: return &q5_0;
        case GGML_TYPE_Q5_1: return &q5_1;
        case GGML_TYPE_Q8_0: return &q8_0;
        default: return nullptr;
    }
}

// Return the traits of a whole matrix that can be packed, or a null pointer.
Traits * find_traits(const ggml_tensor * tensor) {
    const bool whole = tensor->view_src == nullptr && ggml_is_contiguous(tensor);
    return whole && ggml_n_dims(tensor) == 2 && tensor->ne[1] >= GROUP_ROWS ? find_traits(tensor->type) : nullptr;
}

ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    tensor->extra = static_cast<ggml::cpu::tensor_traits *>(find_traits(tensor));
    return GGML_STATUS_SUCCESS;
}

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor) && "packed tensors are set as a whole");
    const Traits * traits = find_traits(tensor);
    GGML_ASSERT(traits != nullptr && "this tensor cannot be packed");
    traits->pack(tensor, data);
}

// Reading gigabytes of weights in order is faster from large pages: fewer of them to look up, and the processor reads
// ahead within a page only. Linux gives them when asked; where it does not, nothing is lost.
void ask_for_large_pages(void * memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = uintptr_t{ 2 } << 20;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
    const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
    if (first < last) {
        madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
    }
#else
    GGML_UNUSED(memory);
    GGML_UNUSED(bytes);
#endif
}

const char * get_name(ggml_backend_buffer_type_t) {
    return "CPU_LLMRUN";
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t bytes) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), bytes);
    if (buffer == nullptr) {
        return nullptr;
    }
    if (bytes > 0) {
        ask_for_large_pages(ggml_backend_buffer_get_base(buffer), bytes);
    }
    buffer->buft = type;
    buffer->iface.init_tensor = init_tensor;
    buffer->iface.set_tensor = set_tensor;
    buffer->iface.get_tensor = nullptr;
    buffer->iface.cpy_tensor = nullptr;
    return buffer;
}

size_t get_alignment(ggml_backend_buffer_type_t) {
    return llmrun::VECTOR_BYTES;
}

// The last group of rows is filled up to 16.
size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    const size_t bytes = ggml_nbytes(tensor);
    if (find_traits(tensor) == nullptr) {
        return bytes;
    }
    const int64_t groups = (tensor->ne[1] + GROUP_ROWS - 1) / GROUP_ROWS;
    return bytes / tensor->ne[1] * groups * GROUP_ROWS;
}

class BufferType : public ggml::cpu::extra_buffer_type {
  public:
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor * weights = op->src[0];
        const ggml_tensor * activations = op->src[1];
        if (op->op != GGML_OP_MUL_MAT || !is_packed(weights) || find_traits(weights) == nullptr) {
            return false;
        }
        const bool on_host = activations->buffer == nullptr || ggml_backend_buft_is_host(activations->buffer->buft);
        return on_host && activations->type == GGML_TYPE_F32;
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static AttentionTraits attention;
        if (op->op == GGML_OP_FLASH_ATTN_EXT) {
            return llmrun::takes_attention(op) ? &attention : nullptr;
        }
        const bool ours = op->op == GGML_OP_MUL_MAT && is_packed(op->src[0]);
        return ours ? static_cast<ggml::cpu::tensor_traits *>(op->src[0]->extra) : nullptr;
    }

  private:
    static bool is_packed(const ggml_tensor * tensor) {
        return tensor->buffer != nullptr && tensor->buffer->buft == llmrun_packed_buffer_type();
    }
};

}  // namespace

ggml_backend_buffer_type_t llmrun_packed_buffer_type(void) {
    if (!__builtin_cpu_supports("avx512vnni")) {
        return nullptr;  // a library that was copied to another machine
    }
    static BufferType context;
    static ggml_backend_buffer_type type = {
        /* .iface   = */ { get_name, alloc_buffer, get_alignment, nullptr, get_alloc_size, nullptr },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ &context,
    };
    return &type;
}

#else

ggml_backend_buffer_type_t llmrun_packed_buffer_type(void) {
    return nullptr;
}

#endif
