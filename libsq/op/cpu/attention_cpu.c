/* Attention in blocks of QB queries by KB keys. Scores are held transposed, [keys, queries], so that maxima and sums
 * run down the lanes of vectors; every product is made of the register tiles of gemm, in one thread:
 *
 *   forward   S' = K Q', P' = softmax of S' going from block to block, O += P V
 *   backward  S' = K Q', R' = V dO', P' = exp(S' - lse), dS' = P' (R' - rowsum(dO O)),
 *             dV += P' dO, dK += dS' Q, dQ += dS K
 *
 * Tiles above the diagonal are skipped. A thread takes a sample, a kv head with all its query heads, and a range of
 * their queries. So every output of the forward, and dq, has one writer; dk and dv have one for each range, and the
 * ranges, which depend on the shape only, are added in order. Packed keys and values are kept for as many blocks as the
 * workspace holds. */
#include "cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* 96 is whole panels of 6, 12, 16 and 32; 64 to 192 are equally fast. */
enum { EDGE = 96, CHUNK_BLOCKS = 4, TASKS = 16, RANGES_MAX = 8 };

/* One call, and the block sizes that follow from its shape. */
struct att {
    const float *q, *k, *v, *out, *dout, *lse;
    int64_t batch, tokens, heads, kv, dim;
    int64_t qb, kb, ld; /* queries and keys of a block; row length of S' */
    int64_t ldq, ldk;   /* between tokens of q and of k */
    int64_t rowpack, colpack, keep; /* floats of packed blocks; key blocks that are kept */
    float scale;
};

/* Where the pieces of a thread's workspace begin. */
struct room {
    float *s, *ds, *pack, *qcol, *docol, *qcolT, *docolT, *acc, *keys;
    float *top, *sum, *factor, *lse, *delta;
};

/* The packed forms of a key block. */
struct keys {
    float *krow, *vrow, *vcol; /* K over channels; V over channels (backward) ; V (forward) or K (backward) over keys */
};

static int64_t round_up(int64_t a, int64_t unit)
{
    return (a + unit - 1) / unit * unit;
}

/* Floats that a panel set of n vectors of k elements may take, for rows or columns, on a cache line. */
static int64_t pack_size(int64_t n, int64_t k)
{
    return round_up(SQ_MAX(round_up(n, sq_tile.wr), round_up(n, sq_tile.wc)) * k, 16);
}

static struct att describe(int64_t batch, int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    struct att a = {.batch = batch, .tokens = tokens, .heads = heads, .kv = kv, .dim = dim};
    int64_t edge = EDGE;
    while (edge > 8 && 12 * pack_size(edge, dim) + 4 * pack_size(edge, edge) > sq_private / 2)
        edge /= 2;
    a.qb = SQ_MIN(edge, tokens);
    a.kb = SQ_MIN(edge, tokens);
    a.ld = round_up(a.qb, 16);
    a.ldq = heads * dim;
    a.ldk = kv * dim;
    a.rowpack = pack_size(SQ_MAX(a.qb, a.kb), dim);
    a.colpack = pack_size(dim, SQ_MAX(a.qb, a.kb));
    a.scale = (float)(1 / sqrt((double)dim));
    return a;
}

/* Cut this thread's workspace; what is left holds packed key blocks. */
static struct room enter(struct att *a)
{
    struct room r;
    float *at = sq_space_private(omp_get_thread_num()), *const end = at + sq_private;
#define TAKE(field, n)               \
    do {                             \
        r.field = at;                \
        at += round_up((n), 16);     \
    } while (0)
    TAKE(s, a->kb * a->ld);
    TAKE(ds, a->kb * a->ld);
    TAKE(pack, pack_size(a->ld, a->kb));
    TAKE(qcol, a->rowpack);
    TAKE(docol, a->rowpack);
    TAKE(qcolT, a->colpack);
    TAKE(docolT, a->colpack);
    TAKE(acc, a->qb * a->dim);
    TAKE(top, a->ld);
    TAKE(sum, a->ld);
    TAKE(factor, a->ld);
    TAKE(lse, a->ld);
    TAKE(delta, a->ld);
#undef TAKE
    r.keys = at;
    a->keep = (end - at) / (2 * a->rowpack + a->colpack);
    SQ_ASSERT(a->keep >= 1);
    return r;
}

/* ---- products of packed blocks ---- */

/* Which terms a product may leave out because of causality; row i and column or term p, query i sees key p <= i + d. */
enum shape {
    WHOLE,
    SCORES, /* C is [keys, queries]: tiles that no query sees are not computed */
    UPTO,   /* rows are queries, terms are keys: terms past the last one seen are zero */
    FROM    /* rows are keys, terms are queries: terms before the first that sees any are zero */
};

static void product(float *c, int64_t ldc, const float *a, const float *b, int64_t m, int64_t n, int64_t k, bool add,
                    enum shape shape, int64_t d)
{
    const struct sq_tile *t = &sq_tile;
    for (int64_t i = 0; i < m; i += t->wr) {
        const int64_t rows = SQ_MIN(t->wr, m - i);
        const int64_t from = shape == FROM ? SQ_MAX(i - d, 0) : 0;
        const int64_t to = shape == UPTO ? SQ_MIN(k, i + rows + d) : k;
        if (from >= to)
            continue; /* nothing to add; without add there is always a term */
        for (int64_t j = 0; j < n; j += t->wc) {
            const int64_t cols = SQ_MIN(t->wc, n - j);
            if (shape == SCORES && j + cols + d <= i)
                continue;
            t->mul(c + i * ldc + j, ldc, a + i * k + from * t->wr, b + j * k + from * t->wc, rows, cols, to - from, add);
        }
    }
}

static void pack_rows(float *dst, const float *src, int64_t vs, int64_t ks, int64_t n, int64_t k)
{
    sq_vec->pack(dst, sq_tile.wr, src, vs, ks, n, k, false);
}

static void pack_cols(float *dst, const float *src, int64_t vs, int64_t ks, int64_t n, int64_t k)
{
    sq_vec->pack(dst, sq_tile.wc, src, vs, ks, n, k, false);
}

/* Key block j of (sample, kv head) whose first row of k and v is at `at`: packed now unless it is kept from before. */
static struct keys key_block(const struct att *a, const struct room *r, int64_t at, int64_t j, int64_t *ready,
                             bool backward)
{
    const int64_t slot = SQ_MIN(j, a->keep - 1), n = SQ_MIN(a->kb, a->tokens - j * a->kb);
    float *base = r->keys + slot * (2 * a->rowpack + a->colpack);
    const struct keys p = {base, base + a->rowpack, base + 2 * a->rowpack};
    if (j < *ready && j < a->keep - 1)
        return p;
    const float *k = a->k + at + j * a->kb * a->ldk, *v = a->v + at + j * a->kb * a->ldk;
    pack_rows(p.krow, k, a->ldk, 1, n, a->dim);
    if (backward)
        pack_rows(p.vrow, v, a->ldk, 1, n, a->dim);
    pack_cols(p.vcol, backward ? k : v, 1, a->ldk, a->dim, n);
    *ready = SQ_MAX(*ready, j + 1);
    return p;
}

/* ---- forward ---- */

static void query_block(float *out, float *lse, const struct att *a, const struct room *r, int64_t sample, int64_t h,
                        int64_t i0, int64_t *ready)
{
    const int64_t g = h / (a->heads / a->kv), m = SQ_MIN(a->qb, a->tokens - i0);
    const int64_t at = (sample * a->tokens + i0) * a->ldq + h * a->dim;
    pack_cols(r->qcol, a->q + at, a->ldq, 1, m, a->dim);
    for (int64_t i = 0; i < a->ld; i++) {
        r->top[i] = -INFINITY;
        r->sum[i] = 0;
    }
    for (int64_t j0 = 0; j0 < i0 + m; j0 += a->kb) {
        const int64_t n = SQ_MIN(a->kb, a->tokens - j0), d = i0 - j0;
        const struct keys key =
            key_block(a, r, sample * a->tokens * a->ldk + g * a->dim, j0 / a->kb, ready, false);
        product(r->s, a->ld, key.krow, r->qcol, n, m, a->dim, false, SCORES, d);
        sq_vec->softmax(r->s, a->ld, n, m, d, a->scale, r->top, r->sum, r->factor);
        for (int64_t i = 0; i < m && j0 > 0; i++)
            sq_vec->scale(r->acc + i * a->dim, r->acc + i * a->dim, r->factor[i], a->dim);
        pack_rows(r->pack, r->s, 1, a->ld, m, n);
        product(r->acc, a->dim, r->pack, key.vcol, m, a->dim, n, j0 > 0, UPTO, d);
    }
    for (int64_t i = 0; i < m; i++) {
        sq_vec->scale(out + at + i * a->ldq, r->acc + i * a->dim, 1 / r->sum[i], a->dim);
        lse[(sample * a->heads + h) * a->tokens + i0 + i] = r->top[i] + logf(r->sum[i]);
    }
}

void sq_attention_cpu(float *out, float *lse, const float *q, const float *k, const float *v, int64_t batch,
                      int64_t tokens, int64_t heads, int64_t kv, int64_t dim)
{
    if (batch <= 0 || tokens <= 0 || heads <= 0 || dim <= 0)
        return;
    struct att a = describe(batch, tokens, heads, kv, dim);
    a.q = q;
    a.k = k;
    a.v = v;
    const int64_t step = CHUNK_BLOCKS * a.qb, chunks = (tokens + step - 1) / step;
    const bool large = (double)(batch * heads * dim) * (double)tokens * (double)tokens > 4e6;
    sq_space_lock();
#pragma omp parallel firstprivate(a) num_threads(large ? sq_cpu_threads() : 1)
    {
        const struct room r = enter(&a);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < batch * kv * chunks; t++) { /* the long last chunks first */
            const int64_t i1 = (chunks - t / (batch * kv)) * step, pair = t % (batch * kv), group = heads / kv;
            int64_t ready = 0;
            for (int64_t i = i1 - step; i < SQ_MIN(i1, tokens); i += a.qb)
                for (int64_t h = 0; h < group; h++)
                    query_block(out, lse, &a, &r, pair / kv, pair % kv * group + h, i, &ready);
        }
    }
    sq_space_unlock();
}

/* ---- backward ---- */

/* Gradients of the keys and values of a (sample, kv head); rows ld apart. */
struct target {
    float *dk, *dv;
    int64_t ld;
};

static void query_block_grad(float *dq, const struct target *to, const struct att *a, const struct room *r,
                             int64_t sample, int64_t h, int64_t i0, int64_t *ready)
{
    const int64_t g = h / (a->heads / a->kv), m = SQ_MIN(a->qb, a->tokens - i0), dim = a->dim;
    const int64_t at = (sample * a->tokens + i0) * a->ldq + h * dim, atk = sample * a->tokens * a->ldk + g * dim;
    pack_cols(r->qcol, a->q + at, a->ldq, 1, m, dim);
    pack_cols(r->docol, a->dout + at, a->ldq, 1, m, dim);
    pack_cols(r->qcolT, a->q + at, 1, a->ldq, dim, m);
    pack_cols(r->docolT, a->dout + at, 1, a->ldq, dim, m);
    memcpy(r->lse, a->lse + (sample * a->heads + h) * a->tokens + i0, (size_t)m * sizeof *r->lse);
    for (int64_t i = 0; i < m; i++)
        r->delta[i] = sq_vec->dot(a->dout + at + i * a->ldq, a->out + at + i * a->ldq, dim);
    for (int64_t j0 = 0; j0 < i0 + m; j0 += a->kb) {
        const int64_t n = SQ_MIN(a->kb, a->tokens - j0), d = i0 - j0;
        const struct keys key = key_block(a, r, atk, j0 / a->kb, ready, true);
        product(r->s, a->ld, key.krow, r->qcol, n, m, dim, false, SCORES, d);
        product(r->ds, a->ld, key.vrow, r->docol, n, m, dim, false, SCORES, d);
        sq_vec->soften(r->s, r->ds, a->ld, n, m, d, a->scale, r->lse, r->delta);
        pack_rows(r->pack, r->s, a->ld, 1, n, m);
        product(to->dv + j0 * to->ld, to->ld, r->pack, r->docolT, n, dim, m, true, FROM, d);
        pack_rows(r->pack, r->ds, a->ld, 1, n, m);
        product(to->dk + j0 * to->ld, to->ld, r->pack, r->qcolT, n, dim, m, true, FROM, d);
        pack_rows(r->pack, r->ds, 1, a->ld, m, n);
        product(dq + at, a->ldq, r->pack, key.vcol, m, dim, n, j0 > 0, UPTO, d);
    }
}

/* How queries are cut: range n takes the queries from cut[n] to cut[n + 1], which see the keys up to there. All but the
 * last leave dk, dv in the panels, [pairs of a group][ranges - 1][tokens, dim]. */
struct ranges {
    int64_t n, pairs; /* pairs of a sample and a kv head that are worked on together */
    int64_t cut[RANGES_MAX + 1];
};

static struct ranges cut_queries(const struct att *a)
{
    const int64_t pairs = a->batch * a->kv, blocks = (a->tokens + a->qb - 1) / a->qb, size = a->tokens * a->dim;
    struct ranges c = {.n = SQ_MIN(SQ_MIN((TASKS + pairs - 1) / pairs, RANGES_MAX), blocks)};
    c.n = SQ_MAX(SQ_MIN(c.n, 1 + sq_partials / size), 1);
    c.pairs = c.n == 1 ? pairs : sq_partials / (size * (c.n - 1));
    for (int64_t i = 0; i < c.n; i++) /* equal shares of the triangle */
        c.cut[i] = (int64_t)((double)blocks * sqrt((double)i / (double)c.n)) * a->qb;
    c.cut[c.n] = a->tokens;
    return c;
}

/* Where range n of a pair, the i-th of its group, leaves dk and dv; zeroed. */
static struct target clear_target(float *dk, float *dv, const struct att *a, const struct ranges *c, int64_t pair,
                                  int64_t i, int64_t n)
{
    const int64_t at = pair / a->kv * a->tokens * a->ldk + pair % a->kv * a->dim;
    struct target to = {dk + at, dv + at, a->ldk};
    if (n < c->n - 1) {
        const int64_t slot = (i * (c->n - 1) + n) * a->tokens * a->dim;
        to = (struct target){sq_space_panels(0) + slot, sq_space_panels(1) + slot, a->dim};
    }
    for (int64_t t = 0; t < c->cut[n + 1]; t++) {
        memset(to.dk + t * to.ld, 0, (size_t)a->dim * sizeof *dk);
        memset(to.dv + t * to.ld, 0, (size_t)a->dim * sizeof *dv);
    }
    return to;
}

/* One token of a pair: what the earlier ranges found, in their order. */
static void add_ranges(float *dk, float *dv, const struct att *a, const struct ranges *c, int64_t pair, int64_t i,
                       int64_t token)
{
    const int64_t at = (pair / a->kv * a->tokens + token) * a->ldk + pair % a->kv * a->dim;
    for (int64_t n = 0; n < c->n - 1; n++) {
        const int64_t slot = ((i * (c->n - 1) + n) * a->tokens + token) * a->dim;
        if (token >= c->cut[n + 1])
            continue;
        sq_vec->add(dk + at, sq_space_panels(0) + slot, a->dim);
        sq_vec->add(dv + at, sq_space_panels(1) + slot, a->dim);
    }
}

void sq_attention_grad_cpu(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                           const float *q, const float *k, const float *v, int64_t batch, int64_t tokens,
                           int64_t heads, int64_t kv, int64_t dim)
{
    if (batch <= 0 || tokens <= 0 || heads <= 0 || dim <= 0)
        return;
    struct att a = describe(batch, tokens, heads, kv, dim);
    a.q = q;
    a.k = k;
    a.v = v;
    a.out = out;
    a.dout = dout;
    a.lse = lse;
    const struct ranges c = cut_queries(&a);
    const bool large = (double)(batch * heads * dim) * (double)tokens * (double)tokens > 4e6;
    sq_space_lock();
#pragma omp parallel firstprivate(a) num_threads(large ? sq_cpu_threads() : 1)
    {
        const struct room r = enter(&a);
        for (int64_t first = 0; first < batch * kv; first += c.pairs) {
            const int64_t pairs = SQ_MIN(c.pairs, batch * kv - first), group = heads / kv;
#pragma omp for schedule(dynamic)
            for (int64_t t = 0; t < pairs * c.n; t++) { /* the last range has the most keys to pack */
                const int64_t n = c.n - 1 - t / pairs, i = t % pairs, pair = first + i;
                const struct target to = clear_target(dk, dv, &a, &c, pair, i, n);
                int64_t ready = 0;
                for (int64_t j = c.cut[n]; j < c.cut[n + 1]; j += a.qb)
                    for (int64_t h = 0; h < group; h++)
                        query_block_grad(dq, &to, &a, &r, pair / kv, pair % kv * group + h, j, &ready);
            }
#pragma omp for schedule(static)
            for (int64_t t = 0; t < pairs * tokens; t++)
                add_ranges(dk, dv, &a, &c, first + t / tokens, t / tokens, t % tokens);
        }
    }
    sq_space_unlock();
}
