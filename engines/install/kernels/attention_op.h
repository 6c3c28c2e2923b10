// The operation FLASH_ATTN_EXT of llama.cpp with the arithmetic of attention.h, divided among threads.

#pragma once

#include "attention.h"

namespace llmrun {

// Whether this is attention as most models have it: 16-bit cache, no bias by position, no cap, no sinks, one mask.
inline bool takes_attention(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float bias_and_cap[2];
    std::memcpy(bias_and_cap, reinterpret_cast<const float *>(op->op_params) + 1, sizeof(bias_and_cap));
    const bool plain = bias_and_cap[0] == 0.0f && bias_and_cap[1] == 0.0f && op->src[4] == nullptr;
    const bool types = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16;
    const auto fits = [](int64_t head) { return head % LANES == 0 && head <= LARGEST_HEAD; };
    const bool shapes = fits(k->ne[0]) && fits(v->ne[0]) && q->ne[2] % k->ne[2] == 0 && k->ne[2] == v->ne[2] &&
                        q->ne[3] == k->ne[3] && q->ne[3] == v->ne[3];
    const bool masks = mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1);
    return plain && types && shapes && masks && q->nb[0] == 4 && k->nb[0] == 2 && v->nb[0] == 2;
}

class Attention {
  public:
    Attention(const ggml_tensor * op, int threads)
        : op(op), q(op->src[0]), k(op->src[1]), v(op->src[2]), mask(op->src[3]), threads(threads) {
        key = k->ne[0];
        head = v->ne[0];
        cells = k->ne[1];
        tokens = q->ne[1];
        shared = q->ne[2] / k->ne[2];
        rows = tokens * shared;
        groups = k->ne[2] * k->ne[3];
        chunks = (cells + CHUNK_CELLS - 1) / CHUNK_CELLS;
        std::memcpy(&scale, op->op_params, sizeof(scale));
        const size_t parts_bytes = groups * rows * chunks * part_floats() * sizeof(float);
        divided = rows <= TILE_ROWS && chunks > 1 && parts_bytes <= LARGEST_PARTS_BYTES;
    }

    size_t work_bytes() const {
        const size_t parts = divided ? groups * rows * chunks * part_floats() : 0;
        return (threads * scratch_floats() + parts) * sizeof(float) + 64;
    }

    void run(const ggml_compute_params * params) {
        const auto start = (reinterpret_cast<uintptr_t>(params->wdata) + 63) / 64 * 64;
        place_scratch(reinterpret_cast<float *>(start) + params->ith * scratch_floats());
        parts = reinterpret_cast<float *>(start) + params->nth * scratch_floats();
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
        const int64_t pieces = groups * (divided ? chunks : tiles);
        for (int64_t piece = params->ith; piece < pieces; piece = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            // The last tiles of a prompt see the most cells, so they come first.
            divided ? run_chunk(piece % groups, piece / groups) : run_tile(piece % groups, tiles - 1 - piece / groups);
        }
        if (divided) {
            ggml_barrier(params->threadpool);
            for (int64_t row = params->ith; row < groups * rows; row += params->nth) {
                join_parts(row / rows, row % rows);
            }
        }
    }

  private:
    int64_t part_floats() const { return head + LANES + 1; }

    int64_t scratch_floats() const {
        const int64_t tile = TILE_ROWS * (key + TILE_CELLS + 2 * head + 1) + TILE_CELLS * (key + head);
        return (tile + 2 * TILE_ROWS * (LANES + 1) + LANES - 1) / LANES * LANES;
    }

    void place_scratch(float * at) {
        const auto take = [&](int64_t count) {
            float * found = at;
            at += count;
            return found;
        };
        queries = take(TILE_ROWS * key);
        scores = take(TILE_ROWS * TILE_CELLS);
        values = take(TILE_ROWS * head);
        totals = take(TILE_ROWS * head);
        keys = take(TILE_CELLS * key);
        cell_values = take(TILE_CELLS * head);
        factors = take(TILE_ROWS);
        softmax = reinterpret_cast<Softmax *>(take(TILE_ROWS * (LANES + 1)));
        total = reinterpret_cast<Softmax *>(take(TILE_ROWS * (LANES + 1)));
    }

    // All cells for one tile of rows.
    void run_tile(int64_t group, int64_t tile) {
        const int64_t first = tile * TILE_ROWS;
        const int64_t count = std::min(TILE_ROWS, rows - first);
        load_queries(group, first, count);
        for (int64_t r = 0; r < count; r++) {
            total[r].clear();
            std::memset(totals + r * head, 0, head * sizeof(float));
        }
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            if (sum_chunk(group, first, count, chunk)) {
                for (int64_t r = 0; r < count; r++) {
                    total[r].join(totals + r * head, softmax[r], values + r * head, head);
                }
            }
        }
        for (int64_t r = 0; r < count; r++) {
            store(group, first + r, total[r], totals + r * head);
        }
    }

    // One chunk of cells for all rows, which fit in a tile.
    void run_chunk(int64_t group, int64_t chunk) {
        load_queries(group, 0, rows);
        sum_chunk(group, 0, rows, chunk);
        for (int64_t r = 0; r < rows; r++) {
            float * part = part_of(group, r, chunk);
            std::memcpy(part, &softmax[r], sizeof(Softmax));
            std::memcpy(part + LANES + 1, values + r * head, head * sizeof(float));
        }
    }

    void join_parts(int64_t group, int64_t row) {
        total[0].clear();
        std::memset(totals, 0, head * sizeof(float));
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const float * part = part_of(group, row, chunk);
            Softmax of_chunk;
            std::memcpy(&of_chunk, part, sizeof(Softmax));
            total[0].join(totals, of_chunk, part + LANES + 1, head);
        }
        store(group, row, total[0], totals);
    }

    float * part_of(int64_t group, int64_t row, int64_t chunk) {
        return parts + ((group * rows + row) * chunks + chunk) * part_floats();
    }

    // Row r is token r / shared of head r % shared in the group.
    void load_queries(int64_t group, int64_t first, int64_t count) {
        for (int64_t r = 0; r < count; r++) {
            const char * from = static_cast<const char *>(q->data) + (first + r) / shared * q->nb[1];
            from += (group % k->ne[2] * shared + (first + r) % shared) * q->nb[2] + group / k->ne[2] * q->nb[3];
            std::memcpy(queries + r * key, from, key * sizeof(float));
        }
    }

    void store(int64_t group, int64_t row, const Softmax & sums, const float * row_values) {
        const float sum = _mm512_reduce_add_ps(_mm512_loadu_ps(sums.lanes));
        const __m512 factor = _mm512_set1_ps(sum == 0.0f ? 0.0f : 1.0f / sum);
        char * to = static_cast<char *>(op->data) + (group % k->ne[2] * shared + row % shared) * op->nb[1];
        to += row / shared * op->nb[2] + group / k->ne[2] * op->nb[3];
        for (int64_t i = 0; i < head; i += LANES) {
            _mm512_storeu_ps(reinterpret_cast<float *>(to) + i, _mm512_mul_ps(_mm512_loadu_ps(row_values + i), factor));
        }
    }

    // Sum the cells of a chunk for rows that were loaded, into `softmax` and `values`. Return whether there were any.
    bool sum_chunk(int64_t group, int64_t first, int64_t count, int64_t chunk) {
        for (int64_t r = 0; r < count; r++) {
            softmax[r].clear();
            std::memset(values + r * head, 0, head * sizeof(float));
        }
        bool any = false;
        const int64_t last = std::min((chunk + 1) * CHUNK_CELLS, cells);
        for (int64_t cell = chunk * CHUNK_CELLS; cell < last; cell += TILE_CELLS) {
            const int64_t width = std::min(TILE_CELLS, last - cell);
            if (!is_visible(group, first, count, cell, width)) {
                continue;
            }
            any = true;
            prefetch(group, cell + TILE_CELLS);
            unpack_keys(group, cell, width);
            unpack_values(group, cell, width);
            multiply_rows<4>(count, scores, TILE_CELLS, nullptr, queries, key, keys, TILE_CELLS, key);
            for (int64_t r = 0; r < count; r++) {
                factors[r] = exponentiate(softmax[r], scores + r * TILE_CELLS, mask_of(group, (first + r) / shared, cell), width);
            }
            int64_t i = 0;
            for (; i + 64 <= head; i += 64) {
                multiply_rows<4>(count, values + i, head, factors, scores, TILE_CELLS, cell_values + i, head, TILE_CELLS);
            }
            for (; i < head; i += LANES) {
                multiply_rows<1>(count, values + i, head, factors, scores, TILE_CELLS, cell_values + i, head, TILE_CELLS);
            }
        }
        return any;
    }

    const ggml_fp16_t * mask_of(int64_t group, int64_t token, int64_t cell) const {
        if (mask == nullptr) {
            return nullptr;
        }
        const int64_t sequence = group / k->ne[2] % mask->ne[3];
        const char * row = static_cast<const char *>(mask->data) + token * mask->nb[1] + sequence * mask->nb[3];
        return reinterpret_cast<const ggml_fp16_t *>(row) + cell;
    }

    // Whether any of the rows sees any of the cells: −∞ hides a cell.
    bool is_visible(int64_t group, int64_t first, int64_t count, int64_t cell, int64_t width) const {
        if (mask == nullptr) {
            return true;
        }
        const __m512i hidden = _mm512_set1_epi16(static_cast<short>(0xfc00));
        for (int64_t token = first / shared; token <= (first + count - 1) / shared; token++) {
            const ggml_fp16_t * row = mask_of(group, token, cell);
            for (int64_t i = 0; i < width; i += 32) {
                const auto lanes = static_cast<__mmask32>(width - i >= 32 ? ~0u : (1u << (width - i)) - 1);
                if (_mm512_mask_cmpneq_epi16_mask(lanes, _mm512_maskz_loadu_epi16(lanes, row + i), hidden)) {
                    return true;
                }
            }
        }
        return false;
    }

    // Turn a row of products into exponentials of scores, and return the factor for what was summed before.
    float exponentiate(Softmax & row, float * products, const ggml_fp16_t * hidden, int64_t width) const {
        const __m512 infinite = _mm512_set1_ps(-INFINITY);
        __m512 s[4];
        for (int i = 0; i < 4; i++) {
            const int64_t left = std::clamp<int64_t>(width - LANES * i, 0, LANES);
            const auto lanes = static_cast<__mmask16>((1u << left) - 1);
            __m512 add = _mm512_setzero_ps();
            if (hidden != nullptr) {
                add = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, hidden + LANES * i));
            }
            const __m512 scaled = _mm512_fmadd_ps(_mm512_loadu_ps(products + LANES * i), _mm512_set1_ps(scale), add);
            s[i] = _mm512_mask_mov_ps(infinite, lanes, scaled);
        }
        const float here = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3])));
        const float largest = std::max(row.largest, here);
        const float base = largest == -INFINITY ? 0.0f : largest;
        const float factor = exponential(row.largest - base);
        for (int i = 0; i < 4; i++) {
            s[i] = exponential(_mm512_sub_ps(s[i], _mm512_set1_ps(base)));
            _mm512_storeu_ps(products + LANES * i, s[i]);
        }
        const __m512 sum = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
        _mm512_storeu_ps(row.lanes, _mm512_fmadd_ps(_mm512_loadu_ps(row.lanes), _mm512_set1_ps(factor), sum));
        row.largest = largest;
        return factor;
    }

    // The first cell of a group's keys or values.
    const char * cells_of(const ggml_tensor * cache, int64_t group) const {
        const char * data = static_cast<const char *>(cache->data);
        return data + group % k->ne[2] * cache->nb[2] + group / k->ne[2] * cache->nb[3];
    }

    // Ask for the keys and values of a tile: a head's are small pieces far apart, which the processor does not foresee.
    void prefetch(int64_t group, int64_t cell) const {
        const int64_t width = std::min(TILE_CELLS, cells - cell);
        for (const ggml_tensor * cache : { k, v }) {
            const char * at = cells_of(cache, group) + cell * cache->nb[1];
            for (int64_t c = 0; c < width; c++, at += cache->nb[1]) {
                for (int64_t byte = 0; byte < 2 * cache->ne[0]; byte += 64) {
                    _mm_prefetch(at + byte, _MM_HINT_T0);
                }
            }
        }
    }

    static __m512 load_halves(const char * at) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at)));
    }

    // keys[i][c] = K[cell + c][i]; cells beyond `width` are zeros.
    void unpack_keys(int64_t group, int64_t cell, int64_t width) {
        const size_t stride = k->nb[1];
        const char * first = cells_of(k, group) + cell * stride;
        for (int64_t c = 0; c < TILE_CELLS; c += LANES) {
            for (int64_t i = 0; i < key; i += LANES) {
                const char * from = first + c * stride + 2 * i;
                __m512 square[LANES];
                if (width - c >= LANES) {
                    for (int64_t j = 0; j < LANES; j++) {
                        square[j] = load_halves(from + j * stride);
                    }
                } else {
                    for (int64_t j = 0; j < LANES; j++) {
                        square[j] = c + j < width ? load_halves(from + j * stride) : _mm512_setzero_ps();
                    }
                }
                transpose(square);
                for (int64_t j = 0; j < LANES; j++) {
                    _mm512_storeu_ps(keys + (i + j) * TILE_CELLS + c, square[j]);
                }
            }
        }
    }

    void unpack_values(int64_t group, int64_t cell, int64_t width) {
        const char * from = cells_of(v, group) + cell * v->nb[1];
        float * to = cell_values;
        for (int64_t c = 0; c < width; c++, from += v->nb[1], to += head) {
            for (int64_t i = 0; i < head; i += LANES) {
                _mm512_storeu_ps(to + i, load_halves(from + 2 * i));
            }
        }
        std::memset(to, 0, (TILE_CELLS - width) * head * sizeof(float));
    }

    const ggml_tensor *op, *q, *k, *v, *mask;
    int threads;
    int64_t key, head, cells, tokens, shared, rows, groups, chunks;
    float scale;
    bool divided;
    float *queries, *scores, *values, *totals, *keys, *cell_values, *factors, *parts;
    Softmax *softmax, *total;
};

}  // namespace llmrun
