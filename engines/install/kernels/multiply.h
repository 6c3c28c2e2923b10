// The product of a group of 16 rows and up to 16 columns of activations.
//
// Each lane of a register is one row. For a block of 32 weights, 8 instructions (VPDPBUSD: products of unsigned and signed
// bytes, four of them added in each lane) give the exact integer sums of a column; one multiply-add scales them. The
// weights are unpacked once for all columns. Accumulators stay in registers over the whole length of the rows.
//
// A column's result is the same, bit for bit, whatever the number of columns, rows and threads: its sums over the blocks
// are added in one order.

#pragma once

#include <immintrin.h>

#include <utility>

#include "activations.h"
#include "formats.h"

namespace llmrun {

constexpr int64_t AHEAD_BYTES = 4096;  // a single column is read at the speed of memory: ask for it in time

// The 8 vectors of unsigned bytes of one block; vector g holds weights 4·g to 4·g + 3 of each row.
template <class F> struct Weights {
    __m512i g[8];

    explicit Weights(const uint8_t * packed) {
        const auto * vectors = reinterpret_cast<const __m512i *>(packed);
        if (F::bits == 8) {
            for (int i = 0; i < 8; i++) {
                g[i] = _mm512_loadu_si512(vectors + i);
            }
            return;
        }
        const __m512i nibble = _mm512_set1_epi8(15);
        for (int i = 0; i < 4; i++) {
            const __m512i both = _mm512_loadu_si512(vectors + i);
            g[i] = _mm512_and_si512(both, nibble);
            g[4 + i] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        }
        if (F::bits == 5) {
            const auto * masks = reinterpret_cast<const uint64_t *>(packed + F::masks_at);
            const __m512i sixteen = _mm512_set1_epi8(16);
            for (int i = 0; i < 8; i++) {
                g[i] = _mm512_mask_add_epi8(g[i], (__mmask64) masks[i], g[i], sixteen);
            }
        }
    }
};

inline __m512 load_half(const uint8_t * p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}

inline __m512i broadcast(const uint8_t * p) {
    int32_t value;
    std::memcpy(&value, p, 4);
    return _mm512_set1_epi32(value);
}

// Add one block of one column: `q` are its 32 bytes, `scale` its scale, and 4 · W bytes on is its constant part.
template <class F, int W>
inline void add_block(__m512 & sum, const Weights<F> & weights, __m512 d, __m512 m, const uint8_t * q, const uint8_t * scale) {
    __m512i exact = F::minimum ? _mm512_setzero_si512() : broadcast(scale + 4 * W);
    for (int g = 0; g < 8; g++) {
        exact = _mm512_dpbusd_epi32(exact, weights.g[g], broadcast(q + 4 * g));
    }
    const __m512 scales = _mm512_mul_ps(d, _mm512_castsi512_ps(broadcast(scale)));
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), scales, sum);
    if (F::minimum) {
        sum = _mm512_fmadd_ps(m, _mm512_castsi512_ps(broadcast(scale + 4 * W)), sum);
    }
}

// Multiply a group by columns `first` + 0, 1, … of a tile of width W. Results go to out[0, 1, …], where `lanes` says.
template <class F, int W, int... C>
void multiply_columns(const uint8_t * group, const uint8_t * tile, int64_t first, int64_t blocks, float * const * out,
                      __mmask16 lanes, std::integer_sequence<int, C...>) {
    __m512 sums[] = { (static_cast<void>(C), _mm512_setzero_ps())... };
    const uint8_t * q = tile + first * BLOCK_WEIGHTS;
    const uint8_t * scale = tile + W * BLOCK_WEIGHTS + 4 * first;
    for (int64_t b = 0; b < blocks; b++) {
        if (sizeof...(C) == 1) {
            for (int64_t line = 0; line < F::packed_bytes; line += VECTOR_BYTES) {
                _mm_prefetch(reinterpret_cast<const char *>(group + AHEAD_BYTES + line), _MM_HINT_T0);
            }
        }
        const Weights<F> weights(group);
        const __m512 d = load_half(group + F::d_at);
        const __m512 m = F::minimum ? load_half(group + F::m_at) : _mm512_setzero_ps();
        (add_block<F, W>(sums[C], weights, d, m, q + C * BLOCK_WEIGHTS, scale + 4 * C), ...);
        group += F::packed_bytes;
        q += tile_block_bytes(W);
        scale += tile_block_bytes(W);
    }
    (_mm512_mask_storeu_ps(out[C], lanes, sums[C]), ...);
}

template <class F, int W, int N>
void multiply(const uint8_t * group, const uint8_t * tile, int64_t first, int64_t blocks, float * const * out,
              __mmask16 lanes) {
    multiply_columns<F, W>(group, tile, first, blocks, out, lanes, std::make_integer_sequence<int, N>());
}

// Multiply a group by the first `columns` (at most 16) of a tile of 16.
template <class F>
void multiply_tile(const uint8_t * group, const uint8_t * tile, int64_t blocks, int64_t columns, float * const * out,
                   __mmask16 lanes) {
    constexpr int W = TILE_COLUMNS;
    if (columns == W) {
        multiply<F, W, W>(group, tile, 0, blocks, out, lanes);
        return;
    }
    int64_t first = 0;
    if (columns & 8) {
        multiply<F, W, 8>(group, tile, first, blocks, out + first, lanes);
        first += 8;
    }
    if (columns & 4) {
        multiply<F, W, 4>(group, tile, first, blocks, out + first, lanes);
        first += 4;
    }
    if (columns & 2) {
        multiply<F, W, 2>(group, tile, first, blocks, out + first, lanes);
        first += 2;
    }
    if (columns & 1) {
        multiply<F, W, 1>(group, tile, first, blocks, out + first, lanes);
    }
}

}  // namespace llmrun
