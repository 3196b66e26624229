/* What the fold on a device keeps there beside the parameters. */
#ifndef SQ_QUANT_FOLD_DEVICE_H
#define SQ_QUANT_FOLD_DEVICE_H

#include "fold.h"

/* fold_map_at() as tables: at[i] is the scale of use i; from[first[k]] ... from[first[k+1] - 1] are the uses of
 * scale k. */
struct fold_map_table {
    int32_t *at, *first, *from;
    int64_t uses, scales;
};

struct fold_maps {
    struct fold_map_table map[FOLD_MAPS];
    int32_t *all;
    float *sums, *dc, *dr, *product; /* sums: the allocation; [cols], [rows], [rows] of any linear */
};

#endif
