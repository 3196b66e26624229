/* C = A' B' by panels, as BLIS does it, but with both operands packed (and rounded to bf16) once for all threads:
 *
 *   for blocks of columns, of rows, of k:   as much as SQ_PANELS holds, mostly everything
 *       pack the rows and the columns       threads take groups of panels
 *       tiles of C                          threads take tiles as they come; a tile belongs to one thread, which adds
 *                                           up parts of at most kc terms: so the order of each sum is fixed
 * Tile sizes depend on the shape only. Threads meet twice a block: on a busy machine a meeting is what costs. */
#include "cpu.h"

#include <omp.h>
#include <string.h>

struct side {
    struct sq_mat mat;
    int64_t vs, ks, n, w; /* vectors vs apart, their elements ks apart, how many; panels of w */
    float *panels;
};

struct block {
    int64_t i0, m, j0, n, p0, k; /* rows, columns, terms */
    int64_t mt, nt, kc;          /* of a tile; terms of a part */
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* n in equal parts of at most `most`, a multiple of unit */
static int64_t part(int64_t n, int64_t most, int64_t unit)
{
    return ceil_div(ceil_div(n, ceil_div(n, most)), unit) * unit;
}

/* 144 rows of 256 floats stay in an L2 of 256 KiB. Small products get smaller tiles, so that there is enough of them
 * for 16 threads. */
static void choose_tiles(struct block *b, const struct sq_tile *t)
{
    int64_t rows = 144, cols = 512;
    for (;;) {
        b->mt = part(b->m, rows, t->wr);
        b->nt = part(b->n, cols, t->wc);
        if (ceil_div(b->m, b->mt) * ceil_div(b->n, b->nt) >= 64 || (rows <= 48 && cols <= 64))
            return;
        if (cols > 64)
            cols /= 2;
        else
            rows /= 2;
    }
}

/* Panels of the part of k that begins at p: those of earlier parts come before them. */
static float *panels(const struct side *s, int64_t n, int64_t p)
{
    return s->panels + ceil_div(n, s->w) * s->w * p;
}

/* n vectors of k elements into panels; bf16 goes through f32 in this thread's workspace. */
static void pack_piece(float *panel, const struct side *s, int64_t from, int64_t p, int64_t n, int64_t k, bool round)
{
    const int64_t at = from * s->vs + p * s->ks;
    if (s->mat.type == SQ_F32) {
        sq_vec->pack(panel, s->w, (const float *)s->mat.x + at, s->vs, s->ks, n, k, round);
        return;
    }
    const uint16_t *x = (const uint16_t *)s->mat.x + at;
    float *wide = sq_space_private(omp_get_thread_num());
    const bool across = s->ks == 1;
    const int64_t lines = across ? n : k, length = across ? k : n, stride = across ? s->vs : s->ks;
    for (int64_t i = 0; i < lines; i++)
        sq_vec->widen(wide + i * length, x + i * stride, length);
    sq_vec->pack(panel, s->w, wide, across ? k : 1, across ? 1 : n, n, k, false);
}

static void pack_side(const struct side *s, int64_t from, int64_t n, const struct block *b, bool round)
{
    const int64_t group = SQ_MAX(96 / s->w, 1) * s->w, groups = ceil_div(n, group);
#pragma omp for schedule(static) nowait
    for (int64_t t = 0; t < groups * ceil_div(b->k, b->kc); t++) {
        const int64_t i = t % groups * group, p = t / groups * b->kc, k = SQ_MIN(b->kc, b->k - p);
        pack_piece(panels(s, n, p) + i * k, s, from + i, b->p0 + p, SQ_MIN(group, n - i), k, round);
    }
}

static void multiply_tile(float *c, int64_t ldc, const struct side *rows, const struct side *cols, int64_t i0,
                          int64_t j0, const struct block *b, bool add)
{
    const struct sq_tile *t = &sq_tile;
    const int64_t i1 = SQ_MIN(i0 + b->mt, b->m), j1 = SQ_MIN(j0 + b->nt, b->n);
    for (int64_t p = 0; p < b->k; p += b->kc) {
        const int64_t k = SQ_MIN(b->kc, b->k - p);
        const float *x = panels(rows, b->m, p), *y = panels(cols, b->n, p);
#define ONE(i, j)                                                                       \
    t->mul(c + (b->i0 + (i)) * ldc + b->j0 + (j), ldc, x + (i) * k, y + (j) * k,        \
           SQ_MIN(t->wr, i1 - (i)), SQ_MIN(t->wc, j1 - (j)), k, add || p > 0)
        if (t->wide)
            for (int64_t i = i0; i < i1; i += t->wr)
                for (int64_t j = j0; j < j1; j += t->wc)
                    ONE(i, j);
        else
            for (int64_t j = j0; j < j1; j += t->wc)
                for (int64_t i = i0; i < i1; i += t->wr)
                    ONE(i, j);
#undef ONE
    }
}

/* Called by all threads of a parallel region. */
static void multiply_block(float *c, int64_t ldc, const struct side *rows, const struct side *cols, struct block *b,
                           bool add, bool round)
{
    choose_tiles(b, &sq_tile);
    const int64_t mtiles = ceil_div(b->m, b->mt), ntiles = ceil_div(b->n, b->nt);
    pack_side(rows, b->i0, b->m, b, round);
    pack_side(cols, b->j0, b->n, b, round);
#pragma omp barrier
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < mtiles * ntiles; t++)
        multiply_tile(c, ldc, rows, cols, t % mtiles * b->mt, t / mtiles * b->nt, b, add || b->p0 > 0);
}

static void multiply(float *c, int64_t ldc, const struct side *rows, const struct side *cols, int64_t k, bool add,
                     bool round)
{
    struct block b = {.kc = part(k, sq_tile.kc, 1)};
    /* Vectors whose panels fit for one part of k, and how many parts fit for as many vectors. */
    const int64_t most = SQ_PANELS / b.kc - SQ_MAX(rows->w, cols->w);
    const int64_t mb = part(rows->n, most, rows->w), nb = part(cols->n, most, cols->w);
    const int64_t kb = SQ_MAX(SQ_PANELS / SQ_MAX(mb, nb) / b.kc, 1) * b.kc;
    for (b.j0 = 0; b.j0 < cols->n; b.j0 += nb)
        for (b.i0 = 0; b.i0 < rows->n; b.i0 += mb)
            for (b.p0 = 0; b.p0 < k; b.p0 += kb) {
                b.m = SQ_MIN(mb, rows->n - b.i0);
                b.n = SQ_MIN(nb, cols->n - b.j0);
                b.k = SQ_MIN(kb, k - b.p0);
                multiply_block(c, ldc, rows, cols, &b, add, round);
            }
}

/* Rounded operands in the processor's own unit; a refusal is said once. */
static bool by_unit(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add)
{
    static bool said;
    if (sq_gemm_onednn(c, ldc, a, b, m, n, k, add, true) == 0)
        return true;
    if (!said)
        sq_log(SQ_WARNING, "%s: such products are made in f32", sq_errmsg());
    said = true;
    return false;
}

static struct side side_of(const struct sq_mat *m, bool along, int64_t n, int64_t w, int which)
{
    return (struct side){*m, along ? 1 : m->ld, along ? m->ld : 1, n, w, sq_space_panels(which)};
}

void sq_gemm_cpu(float *c, int64_t ldc, struct sq_mat a, struct sq_mat b, int64_t m, int64_t n, int64_t k, bool add,
                 bool round_bf16)
{
    if (m <= 0 || n <= 0)
        return;
    if (k <= 0) {
        for (int64_t i = 0; i < m && !add; i++)
            memset(c + i * ldc, 0, (size_t)n * sizeof *c);
        return;
    }
    sq_space_lock();
    if (round_bf16 && sq_bf16_unit && by_unit(c, ldc, a, b, m, n, k, add)) {
        sq_space_unlock();
        return;
    }
    const struct side rows = side_of(&a, a.transposed, m, sq_tile.wr, 0);
    const struct side cols = side_of(&b, !b.transposed, n, sq_tile.wc, 1);
    const bool large = (double)m * (double)n * (double)k > 4e6; /* 100 us: less does not pay for waking threads */
#pragma omp parallel num_threads(large ? sq_cpu_threads() : 1)
    multiply(c, ldc, &rows, &cols, k, add, round_bf16);
    sq_space_unlock();
}
