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

// Spread the fifth bits of one row (bit k belongs to weight k) over the masks of its group.
inline void pack_fifth_bits(uint64_t * masks, int64_t row, uint32_t bits) {
    for (int g = 0; g < 8; g++) {
        masks[g] |= (uint64_t) ((bits >> (4 * g)) & 15) << (4 * row);
    }
}

// Pack 16 rows of `blocks` blocks each; rows from `rows` on are filled with zeros, so that no lane computes with noise.
template <class F> void pack_group(uint8_t * group, const uint8_t * source, int64_t blocks, int64_t rows) {
    constexpr int64_t words = F::quant_bytes / 4;
    for (int64_t b = 0; b < blocks; b++, group += F::packed_bytes) {
        if (rows < GROUP_ROWS) {
            std::memset(group, 0, F::packed_bytes);
        }
        auto * quants = reinterpret_cast<uint32_t *>(group);
        auto * d = reinterpret_cast<uint16_t *>(group + F::d_at);
        auto * m = reinterpret_cast<uint16_t *>(group + F::m_at);
        uint64_t masks[8] = {};
        for (int64_t row = 0; row < rows; row++) {
            const uint8_t * block = source + (row * blocks + b) * F::file_bytes;
            std::memcpy(d + row, block, 2);
            if (F::minimum) {
                std::memcpy(m + row, block + 2, 2);
            }
            if (F::bits == 5) {
                uint32_t fifth;
                std::memcpy(&fifth, block + F::scale_bytes, 4);
                pack_fifth_bits(masks, row, fifth);
            }
            uint32_t word[words];
            std::memcpy(word, block + F::file_bytes - F::quant_bytes, sizeof(word));
            for (int64_t w = 0; w < words; w++) {
                quants[w * GROUP_ROWS + row] = F::bits == 8 ? word[w] ^ 0x80808080u : word[w];
            }
        }
        if (F::bits == 5) {
            std::memcpy(group + F::masks_at, masks, sizeof(masks));
        }
    }
}

}  // namespace llmrun
