// The block formats that have a kernel here, and how 16 rows of a matrix are stored for it.
//
// A weight of all of them is d·(q − offset) + m, where q is an unsigned integer of 4, 5 or 8 bits, and d and m (if the
// format has a minimum) belong to a block of 32 weights of one row. Formats without a minimum store q − offset.
//
// Rows are taken in groups of 16, one for each lane of a 512-bit register. Block after block, a group holds
//
//     the low 4 bits    4 × 64 bytes; byte 4·row + j of vector v holds weights 4·v + j and 16 + 4·v + j of the row
//     the fifth bits    8 × 8 bytes; bit 4·row + j of mask g belongs to weight 4·g + j
//     or bytes          8 × 64 bytes; byte 4·row + j of vector g is weight 4·g + j
//     d                 16 × 2 bytes, half precision
//     m                 16 × 2 bytes, likewise
//
// That is as many bytes as the rows had, and they are read strictly in order.
//
// Source of the formats: ggml/src/ggml-common.h (block_q4_0 and so on).

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "ggml.h"

namespace llmrun {

constexpr int64_t GROUP_ROWS = 16;
constexpr int64_t BLOCK_WEIGHTS = 32;
constexpr int64_t VECTOR_BYTES = 64;

template <ggml_type TYPE, int BITS, int OFFSET, bool MINIMUM> struct Format {
    static constexpr ggml_type type = TYPE;
    static constexpr int bits = BITS;
    static constexpr int offset = OFFSET;
    static constexpr bool minimum = MINIMUM;

    // One block of one row, as in the file: d, m, fifth bits, low bits or bytes.
    static constexpr int64_t scale_bytes = 2 * (1 + MINIMUM);
    static constexpr int64_t quant_bytes = BITS == 8 ? 32 : 16;
    static constexpr int64_t file_bytes = scale_bytes + (BITS == 5 ? 4 : 0) + quant_bytes;

    // One block of 16 rows, as stored here.
    static constexpr int64_t masks_at = GROUP_ROWS * quant_bytes;
    static constexpr int64_t d_at = GROUP_ROWS * (file_bytes - scale_bytes);
    static constexpr int64_t m_at = d_at + GROUP_ROWS * 2;
    static constexpr int64_t packed_bytes = GROUP_ROWS * file_bytes;
};

using Q4_0 = Format<GGML_TYPE_Q4_0, 4, 8, false>;
using Q4_1 = Format<GGML_TYPE_Q4_1, 4, 0, true>;
using Q5_0 = Format<GGML_TYPE_Q5_0, 5, 16, false>;
using Q5_1 = Format<GGML_TYPE_Q5_1, 5, 0, true>;
using Q8_0 = Format<GGML_TYPE_Q8_0, 8, 128, false>;

// One 32-bit word of each of 16 rows, all at the same place in a row.
inline __m512i gather_words(const uint8_t * place, __m512i row_offsets, __mmask16 rows) {
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), rows, row_offsets, place, 1);
}

// The mask of weights 4·g to 4·g + 3 from the fifth bits of 16 rows, of which bit k belongs to weight k.
inline uint64_t pack_fifth_bits(__m512i bits, int g) {
    const __m512i four = _mm512_and_si512(_mm512_srli_epi32(bits, 4 * g), _mm512_set1_epi32(15));
    const __m128i pairs = _mm_maddubs_epi16(_mm512_cvtepi32_epi8(four), _mm_set1_epi16(0x1001));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
}

// Pack 16 rows of `blocks` blocks each; rows from `count` on are filled with zeros. Memory sees 16 places that are read
// in turns, which it does not foresee, so the next 16 rows are asked for meanwhile.
template <class F> void pack_group(uint8_t * group, const uint8_t * source, int64_t blocks, int64_t count) {
    const auto rows = static_cast<__mmask16>((1u << count) - 1);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(blocks * F::file_bytes)));
    const __m512i sign = _mm512_set1_epi32(F::bits == 8 ? static_cast<int>(0x80808080u) : 0);
    const uint8_t * next = source + GROUP_ROWS * blocks * F::file_bytes;
    for (int64_t b = 0; b < blocks; b++, group += F::packed_bytes, source += F::file_bytes) {
        for (int64_t line = 0; line < F::packed_bytes; line += VECTOR_BYTES) {
            _mm_prefetch(reinterpret_cast<const char *>(next + b * F::packed_bytes + line), _MM_HINT_T1);
        }
        const __m512i scales = gather_words(source, offsets, rows);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(group + F::d_at), _mm512_cvtepi32_epi16(scales));
        if (F::minimum) {
            const __m512i minima = _mm512_srli_epi32(scales, 16);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(group + F::m_at), _mm512_cvtepi32_epi16(minima));
        }
        if (F::bits == 5) {
            const __m512i fifth = gather_words(source + F::scale_bytes, offsets, rows);
            for (int g = 0; g < 8; g++) {
                const uint64_t mask = pack_fifth_bits(fifth, g);
                std::memcpy(group + F::masks_at + 8 * g, &mask, 8);
            }
        }
        const uint8_t * quants = source + F::file_bytes - F::quant_bytes;
        for (int64_t w = 0; w < F::quant_bytes / 4; w++) {
            const __m512i words = gather_words(quants + 4 * w, offsets, rows);
            _mm512_storeu_si512(group + VECTOR_BYTES * w, _mm512_xor_si512(words, sign));
        }
    }
}

}  // namespace llmrun
