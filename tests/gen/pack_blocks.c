/* pack_blocks - every pair of code and zero point in every block type that holds it, for tests/long/pack_blocks.py:
 * lines "type rows cols", then the blocks and the expected float32 values, both as hexadecimal text */
#include <stdio.h>
#include <stdlib.h>

#include "pack_grid.h"

static void hex(const void *data, int64_t n)
{
    const uint8_t *b = data;
    for (int64_t i = 0; i < n; i++)
        printf("%02x", b[i]);
    printf("\n");
}

static void show(const struct sq_grid *g, enum sq_pack_type t)
{
    static uint8_t row[PACK_COLS * 4];
    const int64_t group = g->group ? g->group : g->cols;
    printf("%s %" PRId64 " %" PRId64 "\n", sq_pack_info(t)->name, g->rows, g->cols);
    for (int64_t r = 0; r < g->rows; r++) {
        float w[PACK_COLS];
        for (int64_t c = 0; c < g->cols; c++) {
            const int64_t at = r * (g->cols / group) + c / group;
            w[c] = (float)((int)g->codes[r * g->cols + c] - (int)g->zeros[at]) * g->scales[at];
        }
        if (!sq_pack_row(row, g, r, t, SQ_PACK_EXACT))
            exit(1);
        hex(row, sq_pack_row_bytes(t, g->cols));
        hex(w, g->cols * (int64_t)sizeof *w);
    }
}

int main(void)
{
    static struct pack_grid p;
    static const int64_t groups[] = {0, 32, 64, 256};
    for (int bits = 1; bits <= 8; bits++)
        for (int central = 0; central < 2; central++)
            for (int64_t i = 0; i < SQ_COUNT(groups); i++)
                for (int t = 0; t < SQ_PACK_TYPES; t++) {
                    const int top = (1 << bits) - 1;
                    pack_grid_make(&p, bits, central ? top / 2 : 0, central ? top / 2 + 1 : top, groups[i]);
                    if (sq_pack_info((enum sq_pack_type)t) &&
                        sq_pack_fits(&p.g, (enum sq_pack_type)t, SQ_PACK_EXACT))
                        show(&p.g, (enum sq_pack_type)t);
                }
    return 0;
}
