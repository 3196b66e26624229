/* Codes and zero points into GGUF blocks. Three families:
 *   centred     value = d (x - half): v = q - z is stored as v + half with d = s, or, when only that reaches, as
 *               half - v with d = -s (q4_0, q5_0, q8_0; q3_k and q6_k choose the sign for each 16 values)
 *   with a min  value = d sc x - dmin m: d = dmin = s, sc = 1, m = z (q2_k, q4_k, q5_k)
 *   float       the product s v itself
 * s is a float16 and v has at most 8 bits and a sign, so every product is exact in float32, whatever the order or
 * fusion of the reader's operations. */
#include <math.h>
#include <string.h>

#include "blocks.h"
#include "sq/pack.h"

/* one block of a row */
struct piece {
    int n;
    const uint8_t *q;
    uint8_t z[BLOCK_MAX];
    int v[BLOCK_MAX]; /* q - z */
    float s;          /* of all its values, or NaN when they differ */
    bool empty;       /* every v is 0: d becomes 0, so that no reader meets a scale without values */
};

static const struct sq_pack_info infos[SQ_PACK_TYPES] = {
    [SQ_PACK_F32] = {"f32", 1, 4, 0, "float32 holds every value"},
    [SQ_PACK_F16] = {"f16", 1, 2, 1, "every value is a float16"},
    [SQ_PACK_Q4_0] = {"q4_0", QK, sizeof(struct block_q4_0), 2, "d(x-8): every code minus its zero fits -8..8"},
    [SQ_PACK_Q4_1] = {"q4_1", QK, sizeof(struct block_q4_1), 3, "d x + m"},
    [SQ_PACK_Q5_0] = {"q5_0", QK, sizeof(struct block_q5_0), 8, "d(x-16): every code minus its zero fits -16..16"},
    [SQ_PACK_Q8_0] = {"q8_0", QK, sizeof(struct block_q8_0), 7, "d x: every code minus its zero fits -128..128"},
    [SQ_PACK_Q2_K] = {"q2_k", QK_K, sizeof(struct block_q2_k), 10, "d x - d z: 2-bit codes, one scale for 256 columns"},
    [SQ_PACK_Q3_K] = {"q3_k", QK_K, sizeof(struct block_q3_k), 11,
                      "d(x-4): 3-bit codes around central zeros, one scale for 256 columns"},
    [SQ_PACK_Q4_K] = {"q4_k", QK_K, sizeof(struct block_q4_k), 14, "d x - d z: 4-bit codes, one scale for 256 columns"},
    [SQ_PACK_Q5_K] = {"q5_k", QK_K, sizeof(struct block_q5_k), 16, "d x - d z: 5-bit codes, one scale for 256 columns"},
    [SQ_PACK_Q6_K] = {"q6_k", QK_K, sizeof(struct block_q6_k), 18,
                      "d(x-32): 6-bit codes around central zeros, one scale for 256 columns"},
    [SQ_PACK_BF16] = {"bf16", 1, 2, 32, "every value is a bfloat16"},
};

const struct sq_pack_info *sq_pack_info(enum sq_pack_type t)
{
    return (int)t >= 0 && t < SQ_PACK_TYPES && infos[t].name ? &infos[t] : NULL;
}

int sq_pack_type_parse(enum sq_pack_type *out, const char *name)
{
    for (int t = 0; t < SQ_PACK_TYPES; t++)
        if (infos[t].name && strcasecmp(infos[t].name, name) == 0) {
            *out = (enum sq_pack_type)t;
            return 0;
        }
    return sq_fail(SQ_E_ARG, "no block type '%s' (f32 f16 bf16 q2_k q3_k q4_0 q4_1 q4_k q5_0 q5_k q6_k q8_0)", name);
}

int64_t sq_pack_row_bytes(enum sq_pack_type t, int64_t cols)
{
    return cols / infos[t].block * infos[t].bytes;
}

static void piece_fill(struct piece *p, const struct sq_grid *g, int64_t row, int64_t col, int n)
{
    const int64_t group = g->group ? g->group : g->cols;
    const int64_t first = row * ((g->cols + group - 1) / group);
    p->n = n;
    p->q = g->codes + row * g->cols + col;
    p->s = g->scales[first + col / group];
    p->empty = true;
    for (int i = 0; i < n;) {
        const int64_t at = first + (col + i) / group;
        const int end = (int)SQ_MIN(n, (at - first + 1) * group - col);
        if (g->scales[at] != p->s)
            p->s = NAN;
        for (; i < end; i++) {
            p->z[i] = g->zeros[at];
            p->v[i] = (int)p->q[i] - (int)p->z[i];
            p->empty &= p->v[i] == 0;
        }
    }
}

/* d = s as float16, sign apart */
static bool half_scale(uint16_t *d, const struct piece *p, float sign, enum sq_pack_loss loss)
{
    *d = p->empty ? 0 : sq_f32_to_f16(sign * p->s);
    const float back = sq_f16_to_f32(*d);
    return p->empty || (isfinite(back) && (loss > SQ_PACK_EXACT ? !isnan(p->s) : back == sign * p->s));
}

/* x = v + half or half - v for n values; *sign is that of d. */
static bool centre(uint8_t *x, float *sign, const int *v, int n, int half)
{
    int lo = 0, hi = 0;
    for (int i = 0; i < n; i++) {
        lo = SQ_MIN(lo, v[i]);
        hi = SQ_MAX(hi, v[i]);
    }
    if (lo < -half || hi > half || (lo == -half && hi == half))
        return false;
    *sign = hi == half ? -1.0f : 1.0f;
    for (int i = 0; i < n; i++)
        x[i] = (uint8_t)(hi == half ? half - v[i] : v[i] + half);
    return true;
}

/* Rounding anew, as ggml's reference does it: the value of largest magnitude lies on the end of the scale. */
static bool round_centred(uint8_t *x, uint16_t *d, const float *w, int half)
{
    float top = 0;
    for (int i = 0; i < QK; i++)
        if (fabsf(w[i]) > fabsf(top))
            top = w[i];
    *d = sq_f32_to_f16(top / (float)-half);
    const float step = sq_f16_to_f32(*d);
    if (!isfinite(step))
        return false;
    for (int i = 0; i < QK; i++) {
        const float t = step == 0 ? 0 : rintf(w[i] / step);
        x[i] = (uint8_t)((int)fmaxf((float)-half, fminf(t, (float)(half - 1))) + half);
    }
    return true;
}

/* The values of a row from col on, as sq_rowquant_dequant gives them. */
static void dequant(float *w, const struct sq_grid *g, int64_t row, int64_t col, int n)
{
    const int64_t group = g->group ? g->group : g->cols;
    const int64_t first = row * ((g->cols + group - 1) / group);
    for (int i = 0; i < n; i++) {
        const int64_t at = first + (col + i) / group;
        w[i] = (float)((int)g->codes[row * g->cols + col + i] - (int)g->zeros[at]) * g->scales[at];
    }
}

static bool centred32(uint8_t *x, uint16_t *d, const struct piece *p, const float *w, int half, enum sq_pack_loss loss)
{
    float sign;
    if (centre(x, &sign, p->v, QK, half) && half_scale(d, p, sign, loss))
        return true;
    return loss == SQ_PACK_ROUNDED && round_centred(x, d, w, half);
}

static bool put_q4_0(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q4_0 *b = out;
    uint8_t x[QK];
    if (!centred32(x, &b->d, p, w, 8, loss))
        return false;
    for (int j = 0; j < 16; j++)
        b->qs[j] = (uint8_t)(x[j] | x[j + 16] << 4);
    return true;
}

static bool put_q5_0(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q5_0 *b = out;
    uint8_t x[QK];
    if (!centred32(x, &b->d, p, w, 16, loss))
        return false;
    memset(b->qh, 0, sizeof b->qh);
    for (int j = 0; j < QK; j++)
        b->qh[j / 8] |= (uint8_t)(x[j] >> 4 << j % 8);
    for (int j = 0; j < 16; j++)
        b->qs[j] = (uint8_t)((x[j] & 15) | x[j + 16] << 4);
    return true;
}

static bool put_q8_0(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q8_0 *b = out;
    uint8_t x[QK];
    if (!centred32(x, &b->d, p, w, 128, loss))
        return false;
    for (int j = 0; j < QK; j++)
        b->qs[j] = (int8_t)((int)x[j] - 128);
    return true;
}

/* m = -s z is a float16 for few pairs only; otherwise it is rounded, which SQ_PACK_ROUNDED allows. */
static bool put_q4_1(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q4_1 *b = out;
    (void)w;
    if (!half_scale(&b->d, p, 1, loss))
        return false;
    const float m = -sq_f16_to_f32(b->d) * (float)p->z[0];
    b->m = sq_f32_to_f16(m);
    if (!isfinite(sq_f16_to_f32(b->m)) || (loss < SQ_PACK_ROUNDED && sq_f16_to_f32(b->m) != m))
        return false;
    for (int j = 0; j < QK; j++)
        if (p->q[j] > 15 || p->z[j] != p->z[0])
            return false;
    for (int j = 0; j < 16; j++)
        b->qs[j] = (uint8_t)(p->q[j] | p->q[j + 16] << 4);
    return true;
}

/* d and dmin of the types with a min, after the check that codes, and zeros of each `sub` values, fit. */
static bool with_min(uint16_t *d, uint16_t *dmin, const struct piece *p, int sub, int qmax, int zmax,
                     enum sq_pack_loss loss)
{
    for (int i = 0; i < QK_K; i++)
        if (p->q[i] > qmax || p->z[i] > zmax || p->z[i] != p->z[i / sub * sub])
            return false;
    const bool ok = half_scale(d, p, 1, loss);
    *dmin = *d;
    return ok;
}

/* 128 values in 32 bytes, two bits each */
static void put_pairs(uint8_t out[64], const uint8_t *x, int shift)
{
    for (int i = 0; i < 64; i++) {
        const uint8_t *y = x + i / 32 * 128 + i % 32;
        out[i] = (uint8_t)((y[0] >> shift & 3) | (y[32] >> shift & 3) << 2 | (y[64] >> shift & 3) << 4 |
                           (y[96] >> shift & 3) << 6);
    }
}

static bool put_q2_k(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q2_k *b = out;
    (void)w;
    if (!with_min(&b->d, &b->dmin, p, 16, 3, 15, loss))
        return false;
    for (int j = 0; j < 16; j++)
        b->scales[j] = (uint8_t)(1 | p->z[16 * j] << 4);
    put_pairs(b->qs, p->q, 0);
    return true;
}

/* Six-bit scales and mins of 32 values each: 0-3 in bytes 0-3 and 4-7, of 4-7 the low nibbles in bytes 8-11, the
 * high bits on top of bytes 0-7. */
static void put_scales(uint8_t out[12], const struct piece *p)
{
    memset(out, 0, 12);
    for (int j = 0; j < 4; j++) {
        const uint8_t lo = p->z[32 * j], hi = p->z[32 * (j + 4)];
        out[j] = 1;
        out[j + 4] = (uint8_t)(lo | hi >> 4 << 6);
        out[j + 8] = (uint8_t)(1 | (hi & 15) << 4);
    }
}

static void put_nibbles(uint8_t out[128], const uint8_t *x)
{
    for (int i = 0; i < 128; i++) {
        const uint8_t *y = x + i / 32 * 64 + i % 32;
        out[i] = (uint8_t)((y[0] & 15) | (y[32] & 15) << 4);
    }
}

static void put_bits(uint8_t out[32], const uint8_t *x, int shift)
{
    memset(out, 0, 32);
    for (int i = 0; i < QK_K; i++)
        out[i % 32] |= (uint8_t)((x[i] >> shift & 1) << i / 32);
}

static bool put_q4_k(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q4_k *b = out;
    (void)w;
    if (!with_min(&b->d, &b->dmin, p, 32, 15, 63, loss))
        return false;
    put_scales(b->scales, p);
    put_nibbles(b->qs, p->q);
    return true;
}

static bool put_q5_k(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q5_k *b = out;
    (void)w;
    if (!with_min(&b->d, &b->dmin, p, 32, 31, 63, loss))
        return false;
    put_scales(b->scales, p);
    put_nibbles(b->qs, p->q);
    put_bits(b->qh, p->q, 4);
    return true;
}

/* x and the sign of each 16 values */
static bool centred256(uint8_t x[QK_K], float sign[16], uint16_t *d, const struct piece *p, int half,
                       enum sq_pack_loss loss)
{
    for (int j = 0; j < 16; j++)
        if (!centre(x + 16 * j, &sign[j], p->v + 16 * j, 16, half))
            return false;
    return half_scale(d, p, 1, loss);
}

/* Scales are stored + 32: 33 is 1, 31 is -1. Low nibbles j and j + 8 share byte j; the top two bits of scales j,
 * j + 4, j + 8, j + 12 share byte 8 + j. */
static bool put_q3_k(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q3_k *b = out;
    uint8_t x[QK_K];
    float sign[16];
    (void)w;
    if (!centred256(x, sign, &b->d, p, 4, loss))
        return false;
    memset(b->scales, 0, sizeof b->scales);
    for (int j = 0; j < 16; j++) {
        const int sc = sign[j] > 0 ? 33 : 31;
        b->scales[j % 8] |= (uint8_t)((sc & 15) << 4 * (j / 8));
        b->scales[8 + j % 4] |= (uint8_t)(sc >> 4 << 2 * (j / 4));
    }
    put_pairs(b->qs, x, 0);
    put_bits(b->hmask, x, 2);
    return true;
}

static bool put_q6_k(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss)
{
    struct block_q6_k *b = out;
    uint8_t x[QK_K];
    float sign[16];
    (void)w;
    if (!centred256(x, sign, &b->d, p, 32, loss))
        return false;
    for (int j = 0; j < 16; j++)
        b->scales[j] = sign[j] > 0 ? 1 : -1;
    for (int i = 0; i < 128; i++) {
        const uint8_t *y = x + i / 64 * 128 + i % 64;
        b->ql[i] = (uint8_t)((y[0] & 15) | (y[64] & 15) << 4);
    }
    put_pairs(b->qh, x, 4);
    return true;
}

bool pack_floats(void *out, const float *w, int64_t n, enum sq_pack_type t, enum sq_pack_loss loss)
{
    uint16_t *h = out;
    if (t == SQ_PACK_F32) {
        memcpy(out, w, (size_t)n * sizeof *w);
        return true;
    }
    for (int64_t i = 0; i < n; i++) {
        h[i] = t == SQ_PACK_F16 ? sq_f32_to_f16(w[i]) : sq_f32_to_bf16(w[i]);
        const float back = t == SQ_PACK_F16 ? sq_f16_to_f32(h[i]) : sq_bf16_to_f32(h[i]);
        if (!isfinite(back) || (loss < SQ_PACK_ROUNDED && back != w[i]))
            return false;
    }
    return true;
}

typedef bool put_fn(void *out, const struct piece *p, const float *w, enum sq_pack_loss loss);
static put_fn *const put[SQ_PACK_TYPES] = {
    [SQ_PACK_Q4_0] = put_q4_0, [SQ_PACK_Q4_1] = put_q4_1, [SQ_PACK_Q5_0] = put_q5_0,
    [SQ_PACK_Q8_0] = put_q8_0, [SQ_PACK_Q2_K] = put_q2_k, [SQ_PACK_Q3_K] = put_q3_k,
    [SQ_PACK_Q4_K] = put_q4_k, [SQ_PACK_Q5_K] = put_q5_k, [SQ_PACK_Q6_K] = put_q6_k,
};

bool pack_part(void *out, const struct sq_grid *g, int64_t row, int64_t col, int n, enum sq_pack_type t,
               enum sq_pack_loss loss)
{
    float w[BLOCK_MAX];
    struct piece p;

    if (!put[t] || loss == SQ_PACK_ROUNDED)
        dequant(w, g, row, col, n);
    if (!put[t])
        return pack_floats(out, w, n, t, loss);
    piece_fill(&p, g, row, col, n);
    return put[t](out, &p, w, loss);
}

bool sq_pack_row(void *out, const struct sq_grid *g, int64_t row, enum sq_pack_type t, enum sq_pack_loss loss)
{
    const struct sq_pack_info *info = &infos[t];
    const int step = info->block > 1 ? (int)info->block : BLOCK_MAX;
    uint8_t *at = out;

    if (g->cols % info->block)
        return false;
    for (int64_t col = 0; col < g->cols; col += step) {
        const int n = (int)SQ_MIN(step, g->cols - col);
        if (!pack_part(at, g, row, col, n, t, loss))
            return false;
        at += n / info->block * info->bytes;
    }
    return true;
}
