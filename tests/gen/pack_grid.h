/* Grids that hold every pair of code and zero point of a width, for the test of the block codecs and for
 * tests/gen/pack_blocks.c, whose output Python dequantises. */
#ifndef TESTS_PACK_GRID_H
#define TESTS_PACK_GRID_H

#include "sq/pack.h"

enum { PACK_COLS = 512 };

struct pack_grid {
    struct sq_grid g;
    uint8_t codes[256 * PACK_COLS], zeros[256 * PACK_COLS / 16];
    float scales[256 * PACK_COLS / 16];
};

/* Row z - zlo: zero point z, and every code of the width, shifted by the row so that all meet all places. Scales are
 * float16 from the smallest subnormal to the largest that keeps 8-bit products finite; one per group. */
static inline void pack_grid_make(struct pack_grid *p, int bits, int zlo, int zhi, int64_t group)
{
    static const uint16_t halves[] = {0x0001, 0x03ff, 0x0400, 0x1234, 0x2e67, 0x3555, 0x3bff, 0x5bff};
    const int64_t groups = group ? PACK_COLS / group : 1, rows = zhi - zlo + 1;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < groups; k++) {
            p->scales[r * groups + k] = sq_f16_to_f32(halves[(r + k) % SQ_COUNT(halves)]);
            p->zeros[r * groups + k] = (uint8_t)(zlo + r);
        }
        for (int64_t c = 0; c < PACK_COLS; c++)
            p->codes[r * PACK_COLS + c] = (uint8_t)((c + 7 * r) % (1 << bits));
    }
    p->g = (struct sq_grid){.name = "w", .codes = p->codes, .scales = p->scales, .zeros = p->zeros, .rows = rows,
                            .cols = PACK_COLS, .group = group};
}

#endif
