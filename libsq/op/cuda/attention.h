/* attention.h - what attention's kernels share. Private to attention_cuda.cu (f32, tf32) and attention_bf16_cuda.cu. */
#ifndef SQ_ATTENTION_H
#define SQ_ATTENTION_H

#include "gpu.h"

enum { MOST_BF16 = 128 }; /* channels of a head: sums of more do not fit into registers */

struct sizes {
    int64_t tokens, heads, kv, dim;
    float scale;
};

/* Rows of one head: row r begins at x + r * stride; rows are there up to `rows`. */
struct head_rows {
    const float *x;
    int64_t stride, rows;
};

/* From row `first` on, `most` of them. */
static __device__ inline head_rows head_of(const float *x, int64_t sample, int64_t first, int64_t head, int64_t heads,
                                           const sizes &z, int most)
{
    return {x + ((sample * z.tokens + first) * heads + head) * z.dim, heads * z.dim,
            SQ_MIN((int64_t)most, z.tokens - first)};
}

/* With operands in bf16, on devices that have units for it, for heads of up to MOST_BF16 channels. */
void attention_bf16(struct sq_gpu *g, float *out, float *lse, const float *q, const float *k, const float *v,
                    unsigned batch, sizes z);
void attention_grad_bf16(struct sq_gpu *g, float *dq, float *dk, float *dv, const float *dout, const float *lse,
                         const float *delta, const float *q, const float *k, const float *v, unsigned batch, sizes z);

#endif
