// Several tokens of an answer in one call. A token is computed by reading every weight once, which empties the caches,
// so that whatever runs between two tokens runs cold: a little Python took a fiftieth of the time. Here next to nothing
// runs between them, and the caller does its part once for all tokens, when it is warm after the first.

#include <chrono>
#include <cstdint>

#include "llama.h"

namespace {

constexpr int32_t MOST_CANDIDATES = 256;
constexpr int32_t NO_LOGITS       = -100;

// What stays the same in one answer. engines/llama_cpp/burst.py has the same fields.
struct Burst {
    const llama_vocab * vocab;
    llama_sampler *     chain;         // chooses one of the candidates; null: the most likely token is taken
    int32_t             candidates;    // how many of them the chain needs to see
    int32_t             hash_bits;     // `seen` has 2 to the power of so many bits
    uint64_t *          seen;          // marks of the pairs of neighbours in the text; null: no burst ends at a pair
    llama_token *       tokens;        // out: the tokens that were chosen,
    double *            seconds;       // and when, from the beginning of the burst
    int32_t             status;        // out: what the last llama_decode returned, or NO_LOGITS
};

// Marks a pair of neighbours; returns whether it was marked. Another pair may have set that mark, which ends a burst
// early and changes nothing else.
bool mark_pair(const Burst & burst, llama_token first, llama_token second) {
    const uint64_t pair = (uint64_t(uint32_t(first)) << 32) | uint32_t(second);
    const uint64_t mark = (pair * 0x9E3779B97F4A7C15u) >> (64 - burst.hash_bits);  // 2^64 / golden ratio
    uint64_t &     word = burst.seen[mark / 64];
    const uint64_t bit  = uint64_t(1) << (mark % 64);
    const bool     was  = (word & bit) != 0;
    word |= bit;
    return was;
}

}  // namespace

extern "C" {
GGML_BACKEND_API int32_t llmrun_top_candidates(const float *, int32_t count, int32_t wanted, llama_token_data * found);

LLAMA_API void    llmrun_mark_pairs(const Burst * burst, const llama_token * text, int32_t count);
LLAMA_API int32_t llmrun_decode_burst(llama_context *, Burst *, llama_token token, int32_t most, double most_seconds);
}

// Marks the pairs of neighbours in a piece of text.
void llmrun_mark_pairs(const Burst * burst, const llama_token * text, int32_t count) {
    for (int32_t next = 1; next < count; ++next) {
        mark_pair(*burst, text[next - 1], text[next]);
    }
}

// Runs `token`, chooses the next one, runs that, and so on: until `most` tokens are chosen, the time is over, the
// model ends its turn, two neighbours come that were neighbours before, or llama_decode fails. Returns how many tokens
// were chosen; as many were processed. The last one chosen has not been.
int32_t llmrun_decode_burst(
    llama_context * context, Burst * burst, llama_token token, int32_t most, double most_seconds) {
    using clock = std::chrono::steady_clock;

    llama_token_data found[MOST_CANDIDATES];
    const int32_t    vocabulary_size = llama_vocab_n_tokens(burst->vocab);
    const auto       began           = clock::now();
    int32_t          count           = 0;
    while (count < most) {
        const llama_token last = token;
        burst->status          = llama_decode(context, llama_batch_get_one(&token, 1));
        if (burst->status != 0) {
            break;
        }
        const float * logits = llama_get_logits_ith(context, -1);
        if (logits == nullptr) {
            burst->status = NO_LOGITS;
            break;
        }
        const int32_t size = llmrun_top_candidates(logits, vocabulary_size, burst->candidates, found);
        token              = found[0].id;
        if (burst->chain != nullptr) {
            llama_token_data_array array = { found, size_t(size), -1, true };
            llama_sampler_apply(burst->chain, &array);
            token = array.data[array.selected].id;
        }
        const double seconds  = std::chrono::duration<double>(clock::now() - began).count();
        burst->tokens[count]  = token;
        burst->seconds[count] = seconds;
        ++count;
        const bool ends = llama_vocab_is_eog(burst->vocab, token);
        const bool came = burst->seen != nullptr && mark_pair(*burst, last, token);
        if (ends || came || seconds >= most_seconds) {
            break;
        }
    }
    return count;
}
