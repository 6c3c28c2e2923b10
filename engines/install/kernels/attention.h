// Attention over a cache of 16-bit floats: softmax(scale · Q·Kᵀ + mask) · V, for one token or many.
//
// The heads that share keys and values, times the tokens, are rows; up to 64 rows go through the cache together, 64 cells
// at a time, so that keys and values are unpacked (and keys transposed) once for all of them. The maximum and the sum of
// the softmax are kept while going (as in "FlashAttention", arXiv:2205.14135), in 32-bit floats.
//
// A row's result is the same, bit for bit, whatever the number of rows and threads: products are added in the order of
// the cache, and every 256 cells are summed for themselves before they join the rest. So a long cache can be divided among
// threads for a single token, and masked cells, which add zeros, can be skipped.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ggml-cpu-impl.h"

namespace llmrun {

constexpr int64_t TILE_ROWS = 64;
constexpr int64_t TILE_CELLS = 64;
constexpr int64_t CHUNK_CELLS = 256;
constexpr int64_t LARGEST_HEAD = 256;
constexpr int64_t LANES = 16;
constexpr size_t LARGEST_PARTS_BYTES = size_t{ 16 } << 20;

// eˣ of 16 numbers up to 0, within 2 units in the last place; exactly 1 for 0, and 0 below −87; no number stays none.
inline __m512 exponential(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    for (const float coefficient : { 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f }) {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
    }
    const __mmask16 not_tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(not_tiny, p, n);
}

inline float exponential(float x) {
    return _mm512_cvtss_f32(exponential(_mm512_set1_ps(x)));
}

inline void transpose(__m512 * rows) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    const auto pairs = [](__m512 x) { return _mm512_castps_pd(x); };
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs(a[i + j]), pairs(a[i + 2 + j])));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs(a[i + j]), pairs(a[i + 2 + j])));
        }
    }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
        a[4 + i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
        a[8 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
        a[12 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm512_shuffle_f32x4(a[i], a[8 + i], 0x88);
        rows[8 + i] = _mm512_shuffle_f32x4(a[i], a[8 + i], 0xdd);
        rows[4 + i] = _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0x88);
        rows[12 + i] = _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0xdd);
    }
}

// c[R][16 · V] = (c · factor, or nothing) + a[R][n] · b[n][16 · V], added in the order of n.
template <int R, int V>
void multiply_floats(float * c, int64_t c_stride, const float * factors, const float * a, int64_t a_stride, const float * b,
                     int64_t b_stride, int64_t n) {
    __m512 sums[R][V];
    for (int r = 0; r < R; r++) {
        for (int v = 0; v < V; v++) {
            sums[r][v] = factors == nullptr ? _mm512_setzero_ps() :
                                              _mm512_mul_ps(_mm512_loadu_ps(c + r * c_stride + LANES * v),
                                                            _mm512_set1_ps(factors[r]));
        }
    }
    for (int64_t i = 0; i < n; i++) {
        __m512 row[V];
        for (int v = 0; v < V; v++) {
            row[v] = _mm512_loadu_ps(b + i * b_stride + LANES * v);
        }
        for (int r = 0; r < R; r++) {
            const __m512 factor = _mm512_set1_ps(a[r * a_stride + i]);
            for (int v = 0; v < V; v++) {
                sums[r][v] = _mm512_fmadd_ps(factor, row[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++) {
        for (int v = 0; v < V; v++) {
            _mm512_storeu_ps(c + r * c_stride + LANES * v, sums[r][v]);
        }
    }
}

template <int V, class... T> void multiply_rows(int64_t rows, float * c, int64_t c_stride, const float * factors,
                                                const float * a, int64_t a_stride, T... rest) {
    const auto next = [&](int64_t count) {
        c += count * c_stride;
        a += count * a_stride;
        factors = factors == nullptr ? nullptr : factors + count;
        rows -= count;
    };
    for (; rows >= 6; next(6)) {
        multiply_floats<6, V>(c, c_stride, factors, a, a_stride, rest...);
    }
    if (rows >= 3) {
        multiply_floats<3, V>(c, c_stride, factors, a, a_stride, rest...);
        next(3);
    }
    for (; rows > 0; next(1)) {
        multiply_floats<1, V>(c, c_stride, factors, a, a_stride, rest...);
    }
}

// What is known of a row after some cells: the largest score, the sum of exponentials in 16 lanes, the sum of values.
struct Softmax {
    float largest;
    float lanes[LANES];

    void clear() {
        largest = -INFINITY;
        std::memset(lanes, 0, sizeof(lanes));
    }

    // Add cells that were summed for themselves; `values` and `other_values` have `head` numbers.
    void join(float * values, const Softmax & other, const float * other_values, int64_t head) {
        const float both = std::max(largest, other.largest);
        const float base = both == -INFINITY ? 0.0f : both;
        const __m512 mine = _mm512_set1_ps(exponential(largest - base));
        const __m512 its = _mm512_set1_ps(exponential(other.largest - base));
        const auto add = [&](float * to, const float * from) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(to), mine);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(from), its, scaled));
        };
        add(lanes, other.lanes);
        for (int64_t i = 0; i < head; i += LANES) {
            add(values + i, other_values + i);
        }
        largest = both;
    }
};

}  // namespace llmrun
