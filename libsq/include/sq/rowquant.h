/* sq/rowquant.h - the uniform quantizer of docs/method.md 1 on rows: weights per output channel or group,
 * activations per token or per token and head. Forward, gradient, integer codes. */
#ifndef SQ_ROWQUANT_H
#define SQ_ROWQUANT_H

#include "sq/base.h"

SQ_BEGIN_DECLS

#define SQ_SCALE_MIN 1e-5f
#define SQ_SCALE_MAX 1e4f
#define SQ_ZERO_MAX 1e4f

/* How rows are rounded. */
struct sq_rowq {
    int bits;      /* 1..8; >= 16: identity */
    bool sym;      /* symmetric, bits >= 2 */
    bool zero;     /* hi <- max(hi,0), lo <- min(lo,0), so that zero points fit packed formats */
    int64_t group; /* channels per group, 0: the whole row; a last group may be short */
    double rate;   /* rho: the first ceil(rho n - 1e-9) channels (groups) are rounded, 0 < rho <= 1 */
};

/* groups of a row of cols channels: 1 when group is 0 */
int64_t sq_rowq_groups(const struct sq_rowq *p, int64_t cols);
/* how many of n channels (or groups) are rounded at a rate */
int64_t sq_rowq_covered(int64_t n, double rate);

/* The rounded channels of rows as integers: row i, channel j is (q[i * ld + j] - zero[i]) * scale[i], j < cols.
 * For products of codes: rows have one group, zero points need not lie in the range of the codes. Borrowed. */
struct sq_codes {
    uint8_t *q;
    int64_t ld, cols;
    float *scale, *zero; /* [rows]; zero is a whole number */
    int32_t *sum;        /* [rows] of the codes */
    int bits;
};

/* May k codes of a bits be multiplied with codes of b bits? Pairs of products must fit 16 bits on processors without an
 * instruction for them, and libraries add parts of a sum as floats. */
static inline bool sq_codes_multiply(int a, int b, int64_t k)
{
    if (a > 8 || b > 7)
        return false;
    const int64_t most = (int64_t)((1 << a) - 1) * ((1 << b) - 1);
    return 2 * most <= INT16_MAX && k <= (1 << 24) / most;
}

/* Reference implementations (float32 in exactly the order of docs/method.md 1; reductions in double).
 *   z, y, dz, dy [rows, cols]; u, l, du, dl [rows, G] or NULL (no clipping: factor 1)
 *   y = z with its first covered channels on the grid; y == z allowed in the forward
 *   dz, du, dl overwritten; dz == dy allowed; du, dl NULL when u, l are. */
void sq_rowquant_ref(float *y, const float *z, const struct sq_rowq *p, const float *u, const float *l,
                     int64_t rows, int64_t cols);
void sq_rowquant_grad_ref(float *dz, float *du, float *dl, const float *dy, const float *z,
                          const struct sq_rowq *p, const float *u, const float *l, int64_t rows,
                          int64_t cols);

/* The first covered channels of z as codes, as sq_rowquant_ref rounds them; p->group is 0. Sets to->cols and bits. */
void sq_rowquant_encode_ref(struct sq_codes *to, const float *z, const struct sq_rowq *p, const float *u,
                            const float *l, int64_t rows, int64_t cols);

/* What a search over grids compares (rowquant_search in sq/op.h): err[t] = sum over n channels of
 * weight (z - rounded z)^2 on grid t; weight NULL: 1. */
void sq_rowquant_error_ref(double *err, const float *z, const float *weight, const struct sq_rowq *p,
                           const float *scale, const float *zero, int64_t tries, int64_t n);

/* The grid alone: scale, zero [rows, G] (zero is 0 when symmetric; not clamped to the code range). */
void sq_rowquant_grid(float *scale, float *zero, const float *z, const struct sq_rowq *p, const float *u,
                      const float *l, int64_t rows, int64_t cols);
/* The grid of one group from its clipped extremes hi = sigma(u) max, lo = sigma(l) min (before the flag
 * `zero`). */
void sq_rowquant_grid_of(float *scale, float *zero, float hi, float lo, const struct sq_rowq *p);
/* sigma(u) as the quantizer computes it */
float sq_rowquant_factor(float u);
/* Codes on a given grid: clamp(round(z / s) + zp), stored u8; symmetric codes are stored + 2^(bits-1). */
void sq_rowquant_codes(uint8_t *q, const float *z, const float *scale, const float *zero,
                       const struct sq_rowq *p, int64_t rows, int64_t cols);
/* y = (q - zp) * s, the one dequantisation function of evaluation and packing; zero u8 [rows, G] as stored:
 * 2^(bits-1) when symmetric, so that the formula is the same for both. */
void sq_rowquant_dequant(float *y, const uint8_t *q, const float *scale, const uint8_t *zero,
                         const struct sq_rowq *p, int64_t rows, int64_t cols);

SQ_END_DECLS
#endif
