// Activations in 8 bits: each block of 32 numbers of a column becomes 32 signed bytes and a scale, x ≈ d·q. The bytes are
// x · 127 / max |x|, rounded; d is then what fits them best (least squares), which is a little nearer than max |x| / 127.
//
// Columns are stored in tiles, block after block, so that the product of a tile reads its memory in order:
//
//     32 · W bytes   q of the first column, then of the second, …
//      4 · W bytes   d, a float for each column
//      4 · W bytes   what a column adds for each weight's constant part: Σ q · −offset as an integer, or d·Σ q
//
// W is 16, or 1 for a single column.

#pragma once

#include <immintrin.h>

#include "formats.h"

namespace llmrun {

constexpr int64_t TILE_COLUMNS = 16;

constexpr int64_t tile_block_bytes(int64_t width) {
    return width * (BLOCK_WEIGHTS + 8);
}

// Quantize one column of `blocks` blocks into its place in a tile. The result does not depend on the tile's width.
template <class F> void quantize_column(uint8_t * tile, int64_t width, int64_t column, const float * x, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, tile += tile_block_bytes(width), x += BLOCK_WEIGHTS) {
        const __m512 low = _mm512_loadu_ps(x);
        const __m512 high = _mm512_loadu_ps(x + 16);
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        const __m512 inverse = _mm512_set1_ps(largest > 1e-30f ? 127.0f / largest : 0.0f);
        const __m512i low_q = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        const __m512i high_q = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        const __m512 low_r = _mm512_cvtepi32_ps(low_q);
        const __m512 high_r = _mm512_cvtepi32_ps(high_q);
        const float squares = _mm512_reduce_add_ps(_mm512_fmadd_ps(high_r, high_r, _mm512_mul_ps(low_r, low_r)));
        const float products = _mm512_reduce_add_ps(_mm512_fmadd_ps(high, high_r, _mm512_mul_ps(low, low_r)));
        const float d = squares > 0.0f ? products / squares : largest / 127.0f;
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low_q, high_q));

        auto * q = reinterpret_cast<__m128i *>(tile + column * BLOCK_WEIGHTS);
        _mm_storeu_si128(q, _mm512_cvtsepi32_epi8(low_q));
        _mm_storeu_si128(q + 1, _mm512_cvtsepi32_epi8(high_q));
        uint8_t * scales = tile + width * BLOCK_WEIGHTS + 4 * column;
        std::memcpy(scales, &d, 4);
        if (F::minimum) {
            const float constant = d * (float) sum;
            std::memcpy(scales + 4 * width, &constant, 4);
        } else {
            const int32_t constant = -F::offset * sum;
            std::memcpy(scales + 4 * width, &constant, 4);
        }
    }
}

}  // namespace llmrun
