/* Packing of panels and our own register tile; included by the kernel files of each instruction set. */
#include "cpu.h"
#include "vec.h"

/* AVX-512 has 32 registers of 16 floats: 12 x 2 sums, 2 of b; a is read by the multiplication. AVX2 has 16 of 8: 6 x 2 sums,
 * 2 of b, 1 of a. SSE2 has 16 of 4: 4 x 2 sums. */
#if LANES == 16
enum { TILE_ROWS = 12, TILE_VECS = 2 };
#elif defined __AVX2__
enum { TILE_ROWS = 6, TILE_VECS = 2 };
#else
enum { TILE_ROWS = 4, TILE_VECS = 1 };
#endif

static void tile_mul(float *c, int64_t ldc, const float *a, const float *b, int64_t m, int64_t n, int64_t k, bool add)
{
    enum { COLS = TILE_VECS * LANES };
    vf sum[TILE_ROWS][TILE_VECS] = {{{0}}};
    for (int64_t p = 0; p < k; p++, a += TILE_ROWS, b += COLS) {
        vf bp[TILE_VECS];
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECS; j++)
            bp[j] = vload(b + j * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 2
            for (int j = 0; j < TILE_VECS; j++)
                sum[i][j] = vfma(vset(a[i]), bp[j], sum[i][j]);
    }
#pragma GCC unroll 12
    for (int i = 0; i < TILE_ROWS; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECS; j++) {
            const int64_t left = i < m ? n - j * LANES : 0;
            float *out = c + i * ldc + j * LANES;
            if (left >= LANES)
                vstore(out, add ? vload(out) + sum[i][j] : sum[i][j]);
            else if (left > 0)
                vstore_n(out, add ? vload_n(out, left) + sum[i][j] : sum[i][j], left);
        }
    }
}

/* the first n lanes; n is a constant where this is called */
VEC_INLINE void store_lanes(float *p, vf v, int64_t n)
{
    float t[LANES];
    if (n == LANES) {
        vstore(p, v);
        return;
    }
    vstore(t, v);
    if (n & 8)
        memcpy(p, t, 8 * sizeof *t);
    if (n & 4)
        memcpy(p + (n & 8), t + (n & 8), 4 * sizeof *t);
    if (n & 2)
        memcpy(p + (n & 12), t + (n & 12), 2 * sizeof *t);
    if (n & 1)
        p[n - 1] = t[n - 1];
}

VEC_INLINE vf rounded(vf v, bool round)
{
    return round ? vround_bf16(v) : v;
}

VEC_INLINE void transpose(vf r[LANES])
{
    vf t[LANES], u[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = EVERY4(r[i], r[i + 1], 0, 4, 1, 5);
        t[i + 1] = EVERY4(r[i], r[i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = EVERY4(t[i + j], t[i + j + 2], 0, 1, 4, 5);
            u[i + 2 * j + 1] = EVERY4(t[i + j], t[i + j + 2], 2, 3, 6, 7);
        }
    for (int i = 0; i < 4; i++) {
#if LANES == 16
        const vf a = FOURS(u[i], u[i + 4], 0, 1, 4, 5), b = FOURS(u[i], u[i + 4], 2, 3, 6, 7);
        const vf c = FOURS(u[i + 8], u[i + 12], 0, 1, 4, 5), d = FOURS(u[i + 8], u[i + 12], 2, 3, 6, 7);
        r[i] = FOURS(a, c, 0, 2, 4, 6);
        r[i + 4] = FOURS(a, c, 1, 3, 5, 7);
        r[i + 8] = FOURS(b, d, 0, 2, 4, 6);
        r[i + 12] = FOURS(b, d, 1, 3, 5, 7);
#else
        r[i] = FOURS(u[i], u[i + 4], 0, 2);
        r[i + 4] = FOURS(u[i], u[i + 4], 1, 3);
#endif
    }
}

/* `lanes` vectors whose elements lie side by side: square transposes; those at valid and after are zeros */
VEC_INLINE void pack_lanes(float *dst, int64_t w, int64_t lanes, const float *src, int64_t vs, int64_t valid, int64_t k,
                           bool round)
{
    for (int64_t p = 0; p < k; p += LANES) {
        const int64_t some = SQ_MIN(k - p, LANES);
        vf r[LANES];
        for (int i = 0; i < LANES; i++) {
            const float *from = src + i * vs + p;
            r[i] = i >= lanes || i >= valid ? vset(0) : rounded(some == LANES ? vload(from) : vload_n(from, some), round);
        }
        transpose(r);
        if (some == LANES)
            for (int i = 0; i < LANES; i++)
                store_lanes(dst + (p + i) * w, r[i], lanes);
        else
            for (int i = 0; i < some; i++)
                store_lanes(dst + (p + i) * w, r[i], lanes);
    }
}

VEC_INLINE void pack_across(float *dst, int64_t w, const float *src, int64_t vs, int64_t n, int64_t k, bool round)
{
    for (int64_t i = 0; i < n; i += w)
        for (int64_t j = 0; j < w; j += LANES) {
            const int64_t valid = SQ_MAX(SQ_MIN(n - i - j, LANES), 0);
            pack_lanes(dst + i * k + j, w, SQ_MIN(w - j, LANES), src + (i + j) * vs, vs, valid, k, round);
        }
}

/* Vectors whose elements lie ks apart: a row of all vectors at a time, so that every cache line is read once. */
VEC_INLINE void pack_along(float *dst, int64_t w, const float *src, int64_t ks, int64_t n, int64_t k, bool round)
{
    for (int64_t p = 0; p < k; p++)
        for (int64_t i = 0; i < n; i += w)
            for (int64_t j = 0; j < w; j += LANES) {
                const int64_t valid = SQ_MAX(SQ_MIN(n - i - j, LANES), 0);
                const float *from = src + p * ks + i + j;
                const vf v = valid == LANES ? vload(from) : valid > 0 ? vload_n(from, valid) : vset(0);
                store_lanes(dst + i * k + p * w + j, rounded(v, round), SQ_MIN(w - j, LANES));
            }
}

/* One copy of the loops for each width that occurs: there, all about lanes is known to the compiler. */
VEC_INLINE void pack_width(float *dst, int64_t w, const float *src, int64_t vs, int64_t ks, int64_t n, int64_t k,
                           bool round)
{
    if (ks == 1)
        pack_across(dst, w, src, vs, n, k, round);
    else
        pack_along(dst, w, src, ks, n, k, round);
}

static void pack(float *dst, int64_t w, const float *src, int64_t vs, int64_t ks, int64_t n, int64_t k, bool round)
{
#define PACK_CASE(x)                                    \
    case x:                                             \
        if (round)                                      \
            pack_width(dst, x, src, vs, ks, n, k, true); \
        else                                            \
            pack_width(dst, x, src, vs, ks, n, k, false); \
        break
    switch (w) {
        PACK_CASE(4);
        PACK_CASE(6);
        PACK_CASE(8);
        PACK_CASE(12);
        PACK_CASE(16);
        PACK_CASE(32);
    default:
        pack_width(dst, w, src, vs, ks, n, k, round);
    }
#undef PACK_CASE
}

static void widen(float *out, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}
