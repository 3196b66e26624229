/* make bench: rates of the operations at the shapes of three models, products beside bare BLIS of the same shape
 * in the same run. One line each; the best of several runs, as other programs disturb. Arguments: a number of tokens
 * (1536) and the names of the models wanted (all). */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config.h"
#include "sq/op.h"
#include "sq/rng.h"

#if SQ_HAVE_BLIS
#include <blis.h>
#endif

struct shape {
    const char *name;
    int64_t channels, ffn, heads, kv, dim, vocab;
};

static const struct shape shapes[] = {
    {"tiny", 256, 512, 8, 4, 32, 4096},
    {"smollm2", 576, 1536, 9, 3, 64, 49152},
    {"llama-7b", 4096, 11008, 32, 32, 128, 32000},
};

static const struct sq_ops *ops;
static float *pool; /* every operand begins somewhere in it */
static int64_t pool_size;

struct product {
    int64_t m, n, k;
    bool ta, tb, round;
};

static float *operand(int which, int64_t n)
{
    const int64_t at = which * (pool_size / 4);
    SQ_ASSERT(n <= pool_size / 4);
    return pool + at;
}

static void ours(const void *arg)
{
    const struct product *p = arg;
    ops->gemm(operand(2, p->m * p->n), p->n, sq_mat(operand(0, p->m * p->k), p->ta ? p->m : p->k, p->ta),
              sq_mat(operand(1, p->n * p->k), p->tb ? p->k : p->n, p->tb), p->m, p->n, p->k, false, p->round);
}

#if SQ_HAVE_BLIS
static void bare(const void *arg)
{
    const struct product *p = arg;
    float one = 1, zero = 0;
    rntm_t rntm;
    bli_rntm_init(&rntm);
    bli_rntm_set_num_threads(omp_get_max_threads(), &rntm);
    bli_sgemm_ex(p->ta ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, p->tb ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, p->m, p->n,
                 p->k, &one, operand(0, 0), p->ta ? p->m : p->k, 1, operand(1, 0), p->tb ? p->k : p->n, 1, &zero,
                 operand(3, p->m * p->n), p->n, 1, NULL, &rntm);
}
#endif

/* With one thread the time that this thread was running, so that a busy machine shows less. */
static double now(bool alone)
{
    struct timespec t;
    if (!alone || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0)
        return sq_now();
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* seconds of the best run */
static double best_of(void (*run)(const void *), const void *arg, bool alone)
{
    double best = HUGE_VAL, all = 0;
    run(arg);
    for (int i = 0; i < 10 && (i < 3 || all < 0.3); i++) {
        const double start = now(alone);
        run(arg);
        const double took = now(alone) - start;
        best = fmin(best, took);
        all += took;
    }
    return best;
}

static double rate(void (*run)(const void *), const void *arg, double work, int threads)
{
    omp_set_num_threads(threads);
    return work * 1e-9 / best_of(run, arg, threads == 1);
}

static void product(const char *model, const char *name, struct product p, int threads)
{
    const double work = 2.0 * (double)p.m * (double)p.n * (double)p.k;
    const char *form = p.ta ? "TN" : p.tb ? "NT" : "NN";
    printf("%-9s %-8s %s %5" PRId64 " %5" PRId64 " %5" PRId64, model, name, form, p.m, p.n, p.k);
#if SQ_HAVE_BLIS
    printf("  blis %6.1f %6.1f", rate(bare, &p, work, 1), rate(bare, &p, work, threads));
#endif
    for (int round = 0; round < 2; round++) {
        p.round = round;
        printf("  %s %6.1f %6.1f", round ? "bf16" : "f32", rate(ours, &p, work, 1), rate(ours, &p, work, threads));
    }
    printf("\n");
    fflush(stdout);
}

/* Forward Y = X W', gradients dX = dY W and dW = dY' X of a linear. */
static void linear(const struct shape *s, const char *name, int64_t tokens, int64_t out, int64_t in, int threads)
{
    product(s->name, name, (struct product){tokens, out, in, false, true, false}, threads);
    product(s->name, name, (struct product){tokens, in, out, false, false, false}, threads);
    product(s->name, name, (struct product){out, in, tokens, true, false, false}, threads);
}

struct rows {
    const struct shape *s;
    int64_t batch, tokens, n; /* n: elements */
};

static void attention(const void *arg)
{
    const struct rows *r = arg;
    const struct shape *s = r->s;
    const int64_t nq = r->batch * r->tokens * s->heads * s->dim;
    ops->attention(operand(2, nq), operand(3, nq), operand(0, nq), operand(1, nq), operand(1, nq) + nq, r->batch,
                   r->tokens, s->heads, s->kv, s->dim);
}

static void attention_grad(const void *arg)
{
    const struct rows *r = arg;
    const struct shape *s = r->s;
    const int64_t nq = r->batch * r->tokens * s->heads * s->dim;
    float *g = operand(3, 4 * nq) + nq; /* after lse */
    ops->attention_grad(g, g + nq, g + 2 * nq, operand(1, 3 * nq) + 2 * nq, operand(2, nq), operand(3, nq),
                        operand(0, nq), operand(1, nq), operand(1, nq) + nq, r->batch, r->tokens, s->heads, s->kv,
                        s->dim);
}

static void rmsnorm(const void *arg)
{
    const struct rows *r = arg;
    const int64_t c = r->s->channels;
    ops->rmsnorm(sq_f32(operand(2, r->n)), c, operand(3, r->n), operand(0, r->n), c, operand(1, r->n), 1e-5, r->n / c,
                 c);
}

static void rmsnorm_grad(const void *arg)
{
    const struct rows *r = arg;
    const int64_t c = r->s->channels;
    ops->rmsnorm_grad(operand(2, r->n), c, false, operand(2, 2 * r->n) + r->n, operand(0, r->n), c, operand(1, r->n), c,
                      operand(3, r->n), operand(1, r->n), r->n / c, c);
}

static void swiglu(const void *arg)
{
    const struct rows *r = arg;
    ops->swiglu(sq_f32(operand(2, r->n)), operand(0, r->n), operand(1, r->n), r->n);
}

static void swiglu_grad(const void *arg)
{
    const struct rows *r = arg;
    ops->swiglu_grad(sq_f32(operand(2, r->n)), sq_f32(operand(2, 2 * r->n) + r->n), sq_f32(NULL), operand(3, r->n),
                     operand(0, r->n), operand(1, r->n), r->n);
}

static void adamw(const void *arg)
{
    const struct rows *r = arg;
    float *m = operand(2, 3 * r->n);
    ops->adamw(m, m + r->n, operand(3, r->n), operand(0, r->n), r->n, 10, 1e-6);
}

static void nll(const void *arg)
{
    static double out[64];
    static int32_t target[64];
    const struct rows *r = arg;
    ops->nll(out, operand(0, r->n), target, r->n / r->s->vocab, r->s->vocab);
}

static void line(const char *model, const char *name, void (*run)(const void *), const struct rows *r, double work,
                 const char *unit, int threads)
{
    printf("%-9s %-16s %8.2f %8.2f %s\n", model, name, rate(run, r, work, 1), rate(run, r, work, threads), unit);
    fflush(stdout);
}

static void model(const struct shape *s, int64_t tokens, int threads)
{
    const int64_t c = s->channels, f = s->ffn, q = s->heads * s->dim, kv = s->kv * s->dim;
    linear(s, "q, o", tokens, q, c, threads);
    if (kv != q)
        linear(s, "k, v", tokens, kv, c, threads);
    linear(s, "gate, up", tokens, f, c, threads);
    linear(s, "down", tokens, c, f, threads);
    /* products of attention, the causal half only: 2 forward, 5 backward */
    for (int64_t t = 512; t <= SQ_MIN(2048, tokens); t *= 4) {
        const struct rows r = {s, tokens / t, t, 0};
        const double one = (double)(r.batch * s->heads) * (double)t * (double)(t + 1) * (double)s->dim;
        char name[32];
        snprintf(name, sizeof name, "attention %lld", (long long)t);
        line(s->name, name, attention, &r, 2 * one, "GFLOP/s", threads);
        snprintf(name, sizeof name, "its grad. %lld", (long long)t);
        line(s->name, name, attention_grad, &r, 5 * one, "GFLOP/s", threads);
    }
    const struct rows r = {s, 0, 0, tokens * c}, g = {s, 0, 0, tokens * f}, w = {s, 0, 0, c * f};
    const struct rows v = {s, 0, 0, 32 * s->vocab};
    line(s->name, "rmsnorm", rmsnorm, &r, (double)r.n, "G elements/s", threads);
    line(s->name, "rmsnorm grad.", rmsnorm_grad, &r, (double)r.n, "G elements/s", threads);
    line(s->name, "swiglu", swiglu, &g, (double)g.n, "G elements/s", threads);
    line(s->name, "swiglu grad.", swiglu_grad, &g, (double)g.n, "G elements/s", threads);
    line(s->name, "adamw", adamw, &w, (double)w.n, "G elements/s", threads);
    line(s->name, "nll", nll, &v, (double)v.n, "G elements/s", threads);
}

int main(int argc, char **argv)
{
    const int64_t tokens = argc > 1 ? atoll(argv[1]) : 1536;
    const int threads = omp_get_max_threads();
    if (tokens < 1 || sq_ops_get(&ops, SQ_BACKEND_CPU, SQ_BF16_PRODUCTS) < 0) {
        fprintf(stderr, "bench-ops: error: %s\n", tokens < 1 ? "tokens must be positive" : sq_errmsg());
        return 1;
    }
    printf("%s, %" PRId64 " tokens; GFLOP/s at 1 thread and at %d\n", ops->isa, tokens, threads);
    for (int64_t i = 0; i < SQ_COUNT(shapes); i++) {
        const struct shape *s = &shapes[i];
        bool wanted = argc <= 2;
        for (int a = 2; a < argc; a++)
            wanted |= strcmp(argv[a], s->name) == 0;
        if (!wanted)
            continue;
        const int64_t most = SQ_MAX(SQ_MAX(2 * tokens * s->ffn, 3 * s->channels * s->ffn),
                                    SQ_MAX(SQ_MAX(32 * s->vocab, 2 * tokens * s->channels), 4 * tokens * s->heads * s->dim));
        pool_size = 4 * (most + 64);
        if (sq_alloc(&pool, pool_size) < 0) {
            fprintf(stderr, "bench-ops: error: %s\n", sq_errmsg());
            return 1;
        }
        struct sq_rng rng = sq_rng_init(1, SQ_RNG_TEST, 0, 0, 0, 0);
        for (int64_t j = 0; j < pool_size; j++)
            pool[j] = (float)sq_rng_uniform(&rng) + 0.01f;
        model(s, tokens, threads);
        sq_free(pool);
    }
    return 0;
}
