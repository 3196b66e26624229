/* What folding a linear and its backward share. */
#ifndef SQ_QUANT_FOLD_H
#define SQ_QUANT_FOLD_H

#include "private.h"
#include "sq/params.h"

/* STRIP: floats in a strip; CHUNK: summed in float at a time; SMALL: operations that are not worth waking other threads */
enum { STRIP = 1 << 14, CHUNK = 512, SMALL = 1 << 16 };

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

static inline const float *fold_alpha(const struct sq_params *p, enum sq_place place)
{
    return fold_values(p->alpha[place]);
}

/* q, k, v, o, gate, up or down, whatever the expert */
int64_t fold_kind(int64_t linear);
/* kv channel that column i of o (row i of a query head) belongs to */
int64_t fold_kv_channel(const struct sq_config *c, int64_t i);
/* index into alpha.qk of a kv channel: one value per RoPE pair */
int64_t fold_pair(const struct sq_config *c, int64_t channel);

struct linear fold_linear_of(const struct sq_params *p, const struct sq_config *c, int64_t k);
/* Fills p's workspace. */
struct sides fold_sides(const struct sq_params *p, const struct sq_config *c, int64_t k);
/* Rows first ... last - 1 of W~, given as those of W from `first` on; f == w allowed. */
void fold_rows(float *f, const float *w, const struct linear *l, struct sides s, int64_t first, int64_t last);
/* Elements from `at` on of stored weights as f32: where they are, or widened into space. */
const float *fold_floats(float *space, struct sq_floats w, int64_t at, int64_t n);

int64_t fold_strip_rows(int64_t cols);
float *fold_strip(float *strip, int64_t cols); /* this thread's two strips */
/* most: as many as there are strips; 0: none are needed */
int fold_threads(int most, int64_t elements);

#endif
