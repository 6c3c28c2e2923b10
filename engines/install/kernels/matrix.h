// The product of a packed matrix and a batch of activations, divided among threads.
//
// A few columns (decoding) are quantized by every thread for itself, which costs less than waiting for each other, and
// the rows are divided evenly. Of many columns (a prompt) each is quantized once; then threads take pieces of work until
// none is left, so that one that is held up by another process does not hold up all. Neither changes any result.

#pragma once

#include <algorithm>

#include "ggml-cpu-impl.h"
#include "multiply.h"

namespace llmrun {

constexpr int64_t FEW_COLUMNS = 4;
constexpr int64_t PIECES_PER_THREAD = 4;
constexpr int64_t CACHED_TILE_BYTES = 384 << 10;  // quantized columns that stay in a core's second-level cache

template <class F> int64_t group_bytes(int64_t blocks) {
    return blocks * F::packed_bytes;
}

template <class F> void pack_matrix(uint8_t * packed, const uint8_t * source, int64_t blocks, int64_t rows) {
    for (int64_t row = 0; row < rows; row += GROUP_ROWS) {
        pack_group<F>(packed, source, blocks, std::min(GROUP_ROWS, rows - row));
        packed += group_bytes<F>(blocks);
        source += GROUP_ROWS * blocks * F::file_bytes;
    }
}

inline int64_t tile_count(int64_t columns) {
    return (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
}

inline int64_t tile_bytes(int64_t width, int64_t blocks) {
    const int64_t bytes = blocks * tile_block_bytes(width);
    return (bytes + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES;
}

// Return the work memory of one operation: each thread's own tile of few columns, or all tiles of many.
inline size_t work_bytes(int threads, int64_t row_weights, int64_t columns) {
    const int64_t tiles = columns <= FEW_COLUMNS ? threads : tile_count(columns);
    return tiles * tile_bytes(TILE_COLUMNS, row_weights / BLOCK_WEIGHTS) + VECTOR_BYTES;
}

// One operation: the matrix, the columns of activations (of all planes, in order), and where results go.
template <class F> class Product {
  public:
    Product(const ggml_compute_params * params, const ggml_tensor * op)
        : weights(op->src[0]), activations(op->src[1]), result(op), params(params) {
        GGML_ASSERT(activations->nb[0] == sizeof(float) && result->nb[0] == sizeof(float));
        blocks = weights->ne[0] / BLOCK_WEIGHTS;
        rows = weights->ne[1];
        groups = (rows + GROUP_ROWS - 1) / GROUP_ROWS;
        columns = ggml_nrows(activations);
        const auto start = reinterpret_cast<uintptr_t>(params->wdata);
        work = reinterpret_cast<uint8_t *>((start + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES);
    }

    void run() {
        if (columns <= FEW_COLUMNS) {
            run_few();
        } else {
            run_many();
        }
    }

  private:
    void run_few() {
        const int64_t width = columns == 1 ? 1 : TILE_COLUMNS;
        const int64_t first = groups * params->ith / params->nth;
        const int64_t last = groups * (params->ith + 1) / params->nth;
        if (first == last) {
            return;
        }
        uint8_t * tile = work + params->ith * tile_bytes(TILE_COLUMNS, blocks);
        for (int64_t c = 0; c < columns; c++) {
            quantize_column<F>(tile, width, c, column_of(activations, c), blocks);
        }
        for (int64_t g = first; g < last; g++) {
            multiply_one(tile, g, 0, columns);
        }
    }

    void run_many() {
        const int64_t tiles = tile_count(columns);
        const int64_t each = tile_bytes(TILE_COLUMNS, blocks);
        for (int64_t t = params->ith; t < tiles; t += params->nth) {
            for (int64_t c = t * TILE_COLUMNS; c < std::min((t + 1) * TILE_COLUMNS, columns); c++) {
                quantize_column<F>(work + t * each, TILE_COLUMNS, c % TILE_COLUMNS, column_of(activations, c), blocks);
            }
        }
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        const int64_t tiles_each = std::max<int64_t>(1, CACHED_TILE_BYTES / each);
        const int64_t strips = (tiles + tiles_each - 1) / tiles_each;
        const int64_t groups_each = std::max<int64_t>(1, groups / (PIECES_PER_THREAD * params->nth));
        const int64_t pieces = (groups + groups_each - 1) / groups_each;
        for (int64_t piece = params->ith; piece < strips * pieces;
             piece = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t first_tile = piece / pieces * tiles_each;
            const int64_t last_tile = std::min(first_tile + tiles_each, tiles);
            const int64_t first_group = piece % pieces * groups_each;
            for (int64_t g = first_group; g < std::min(first_group + groups_each, groups); g++) {
                for (int64_t t = first_tile; t < last_tile; t++) {
                    multiply_one(work + t * each, g, t * TILE_COLUMNS, std::min(TILE_COLUMNS, columns - t * TILE_COLUMNS));
                }
            }
        }
    }

    // Multiply one group of rows by one tile that starts at column `first`.
    void multiply_one(const uint8_t * tile, int64_t group, int64_t first, int64_t count) {
        float * out[TILE_COLUMNS];
        for (int64_t c = 0; c < count; c++) {
            out[c] = column_of(result, first + c) + group * GROUP_ROWS;
        }
        const auto lanes = static_cast<__mmask16>((1u << std::min(GROUP_ROWS, rows - group * GROUP_ROWS)) - 1);
        const uint8_t * packed = static_cast<const uint8_t *>(weights->data) + group * group_bytes<F>(blocks);
        if (columns == 1) {
            multiply<F, 1, 1>(packed, tile, 0, blocks, out, lanes);
        } else {
            multiply_tile<F>(packed, tile, blocks, count, out, lanes);
        }
    }

    static float * column_of(const ggml_tensor * tensor, int64_t column) {
        const int64_t plane = column / tensor->ne[1];
        char * data = static_cast<char *>(tensor->data) + column % tensor->ne[1] * tensor->nb[1];
        data += plane % tensor->ne[2] * tensor->nb[2] + plane / tensor->ne[2] * tensor->nb[3];
        return reinterpret_cast<float *>(data);
    }

    const ggml_tensor * weights;
    const ggml_tensor * activations;
    const ggml_tensor * result;
    const ggml_compute_params * params;
    uint8_t * work;
    int64_t blocks, rows, groups, columns;
};

template <class F> void multiply_matrix(const ggml_compute_params * params, const ggml_tensor * op) {
    Product<F>(params, op).run();
}

}  // namespace llmrun
