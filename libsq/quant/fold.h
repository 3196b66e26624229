/* What folding a linear and its backward share. */
#ifndef SQ_QUANT_FOLD_H
#define SQ_QUANT_FOLD_H

#include "private.h"
#include "sq/params.h"

/* STRIP: floats in a strip; CHUNK: summed in float at a time; SMALL: operations that are not worth waking other threads */
enum { STRIP = 1 << 14, CHUNK = 512, SMALL = 1 << 16 };

/* Which channel scale belongs to a column or row i of a linear, or to a gain's: docs/method.md 3. */
enum fold_map {
    FOLD_SAME,
    FOLD_HEADS, /* of a channel of a query head: the one of its kv head */
    FOLD_PAIRS, /* of a channel of a kv head: one value per RoPE pair */
    FOLD_QUERY, /* both */
    FOLD_HEAD,  /* of a channel of any head: its pair within the head */
    FOLD_ROWS,  /* of the router's weights, one row behind the other: its column */
    FOLD_MAPS
};
int64_t fold_map_at(const struct sq_config *c, enum fold_map map, int64_t i);

/* Times a scale, or divided by it; alpha NULL: not at all. */
struct side {
    enum sq_place place;
    enum fold_map map;
    bool inverse;
    int64_t first; /* of the place's values: an expert's own */
    const struct sq_param *alpha;
};
struct side fold_col_side(const struct sq_params *p, const struct sq_config *c, int64_t linear);
struct side fold_row_side(const struct sq_params *p, const struct sq_config *c, int64_t linear);
struct side fold_gain_side(const struct sq_params *p, const struct sq_config *c, enum sq_gain_id gain);
struct side fold_router_side(const struct sq_params *p);

/* The scale vectors of a linear: NULL where there is none. */
struct sides {
    const float *cols, *rows;
};

struct linear {
    int64_t rank, rows, cols;
    const float *a, *b; /* NULL without LoRA */
};

static inline const float *fold_values(const struct sq_param *p)
{
    return p ? p->x : NULL;
}

struct linear fold_linear_of(const struct sq_params *p, const struct sq_config *c, int64_t k);
/* Fills p's workspace. */
struct sides fold_sides(const struct sq_params *p, const struct sq_config *c, int64_t k);
/* Rows first ... last - 1 of W~, given as those of W from `first` on; f == w allowed. */
void fold_rows(float *f, const float *w, const struct linear *l, struct sides s, int64_t first, int64_t last);
/* Elements from `at` on of stored weights as f32: where they are, or widened into space. */
const float *fold_floats(float *space, struct sq_floats w, int64_t at, int64_t n);

/* ---- fold_device.c: the same where the parameters lie on a device ---- */
void fold_device(struct sq_block *to, const struct sq_block *w, const struct sq_params *p, const struct sq_rowq *q);
void fold_grad_device(struct sq_params *p, int64_t linear, int64_t first, int64_t last, float *dw, const float *dbias,
                      const struct sq_block *w, const struct sq_block *flat, const struct sq_rowq *q);
void fold_gains_device(struct sq_params *p, const struct sq_grads *g, const struct sq_block *w);

int64_t fold_strip_rows(int64_t cols);
float *fold_strip(float *strip, int64_t cols); /* this thread's two strips */
/* most: as many as there are strips; 0: none are needed */
int fold_threads(int most, int64_t elements);

#endif
