// The few largest of many logits, in every build of llmrun's own. llama.cpp's samplers copy each logit of the vocabulary
// into a structure before they look for the largest ones, which takes ten times as long as finding those few. Nothing
// here is special to a processor: the compiler makes vector code of the inner loop.

#include <algorithm>
#include <cstdint>

#include "ggml-backend.h"

namespace {

constexpr int32_t STEP = 32;  // logits that are looked at together: most steps have none that is large enough

// As llama.cpp's llama_token_data, which samplers take.
struct Candidate {
    int32_t id;
    float   logit;
    float   p;
};

// Whether one goes before another: the more likely one, and of equals the one with the smaller id.
bool goes_before(const Candidate & one, const Candidate & other) {
    return one.logit != other.logit ? one.logit > other.logit : one.id < other.id;
}

}  // namespace

extern "C" {  // GCC refuses the `extern` of this macro in a definition
GGML_BACKEND_API int32_t llmrun_top_candidates(const float * logits, int32_t count, int32_t wanted, Candidate * found);
}

// Put the `wanted` largest of `count` logits into `found`, the largest first and with p = 0; return how many they are.
int32_t llmrun_top_candidates(const float * logits, int32_t count, int32_t wanted, Candidate * found) {
    const int32_t size = std::min(count, wanted);
    if (size <= 0) {
        return 0;
    }
    int32_t id = 0;
    for (; id < size; ++id) {
        found[id] = { id, logits[id], 0.0f };
    }
    // A heap with the least of them in front: a logit that is not above that one is passed over.
    std::make_heap(found, found + size, goes_before);
    while (id < count) {
        const int32_t end   = std::min(id + STEP, count);
        const float   least = found->logit;
        int           any   = 0;
        for (int32_t next = id; next < end; ++next) {
            any |= logits[next] > least;
        }
        for (int32_t next = id; any && next < end; ++next) {
            if (logits[next] > found->logit) {
                std::pop_heap(found, found + size, goes_before);
                found[size - 1] = { next, logits[next], 0.0f };
                std::push_heap(found, found + size, goes_before);
            }
        }
        id = end;
    }
    std::sort(found, found + size, goes_before);
    return size;
}
