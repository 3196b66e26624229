/* Forward and backward of a decoder layer against the oracle (layer_*.safetensors), both backends. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../golden.h"
#include "grads.h"
#include "sq/block.h"
#include "sq/rng.h"

enum { B = 2, T = 24 };

struct layer {
    struct sq_config cfg;
    struct sq_block b, db;
    struct sq_trace *t;
    float *x, *target, *cos, *sin;
    int64_t n; /* elements of x */
};

static struct sq_config config(const char *name)
{
    struct sq_config c = {.hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 96, .layers = 1, .vocab = 8,
                          .max_positions = 64, .eps = 1e-6, .rope_theta = 1e4};
    strcpy(c.model_type, "llama");
    if (!strcmp(name, "qwen2"))
        c.qkv_bias = true;
    if (!strncmp(name, "qwen3", 5))
        c.qk_norm = true, c.head_dim = 24;
    if (!strcmp(name, "qwen3-moe"))
        c.ffn = 32, c.experts = 4, c.top = 2, c.renorm = true;
    return c;
}

static void read_into(float *out, const struct golden *g, const char *name, int64_t want)
{
    int64_t n;
    float *x = golden_f32(g, name, &n);
    assert_int_equal(n, want);
    memcpy(out, x, (size_t)n * sizeof *x);
    free(x);
}

static const struct sq_ops *backend(int which)
{
    const struct sq_ops *ops = NULL;
    assert_int_equal(sq_ops_get(&ops, which ? SQ_BACKEND_CPU : SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    return ops;
}

static void layer_open(struct layer *l, const char *name)
{
    struct golden g;
    char file[64], tensor[SQ_LINEAR_NAME + 16], linear[SQ_LINEAR_NAME];
    snprintf(file, sizeof file, "layer_%s", name);
    golden_open(&g, file);
    l->cfg = config(name);
    assert_int_equal(sq_block_new(&l->b, &l->cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&l->db, &l->cfg, SQ_F32), 0);
    assert_int_equal(sq_trace_new(&l->t, &l->cfg, backend(0), B, T), 0);
    for (int64_t i = 0; i < l->b.nlinear; i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, &l->cfg, i);
        sq_linear_name(linear, &l->cfg, i);
        snprintf(tensor, sizeof tensor, "%s.weight", linear);
        read_into(l->b.w[i], &g, tensor, rows * cols);
        snprintf(tensor, sizeof tensor, "%s.bias", linear);
        assert_int_equal(golden_has(&g, tensor), l->b.bias[i] != NULL);
        if (l->b.bias[i])
            read_into(l->b.bias[i], &g, tensor, rows);
    }
    for (int i = 0; i < SQ_GAINS; i++)
        if (l->b.gain[i])
            read_into(l->b.gain[i], &g, sq_gain_name((enum sq_gain_id)i), sq_gain_size(&l->cfg, (enum sq_gain_id)i));
    if (l->b.router)
        read_into(l->b.router, &g, "mlp.gate.weight", l->cfg.experts * l->cfg.hidden);
    l->x = golden_f32(&g, "x", &l->n);
    assert_int_equal(l->n, B * T * l->cfg.hidden);
    l->target = golden_f32(&g, "target", NULL);
    /* the golden's table repeats its halves */
    const int64_t D = l->cfg.head_dim;
    float *cos = golden_f32(&g, "cos", NULL), *sin = golden_f32(&g, "sin", NULL);
    l->cos = calloc((size_t)(T * D / 2), sizeof(float));
    l->sin = calloc((size_t)(T * D / 2), sizeof(float));
    for (int64_t i = 0; i < T; i++)
        for (int64_t c = 0; c < D / 2; c++)
            l->cos[i * D / 2 + c] = cos[i * D + c], l->sin[i * D / 2 + c] = sin[i * D + c];
    free(cos);
    free(sin);
    golden_close(&g);
}

static void layer_close(struct layer *l)
{
    free(l->sin);
    free(l->cos);
    free(l->target);
    free(l->x);
    sq_trace_free(&l->t);
    sq_block_release(&l->db);
    sq_block_release(&l->b);
}

/* ---- docs/method.md 3 and 7 in double, from the golden's own codes: independent of sq_fold ---------------- */

static void scale_cols(float *w, int64_t rows, int64_t cols, const double *a)
{
    for (int64_t i = 0; i < rows * cols; i++)
        w[i] = (float)(w[i] * a[i % cols]);
}

static void divide_rows(float *w, float *bias, int64_t rows, int64_t cols, const double *a)
{
    for (int64_t i = 0; i < rows * cols; i++)
        w[i] = (float)(w[i] / a[i / cols]);
    for (int64_t i = 0; bias && i < rows; i++)
        bias[i] = (float)(bias[i] / a[i]);
}

static void divide(float *x, int64_t n, const double *a)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(x[i] / a[i]);
}

/* one value per kv head channel -> per query head channel */
static void to_heads(double *out, const double *a, const struct sq_config *c)
{
    for (int64_t h = 0; h < c->heads; h++)
        for (int64_t d = 0; d < c->head_dim; d++)
            out[h * c->head_dim + d] = a[h / (c->heads / c->kv_heads) * c->head_dim + d];
}

static void scale_qk(struct sq_block *b, const struct golden *g)
{
    const struct sq_config *c = b->cfg;
    const int64_t D = c->head_dim, half = D / 2, heads = c->qk_norm ? 1 : c->kv_heads;
    int64_t n;
    double *a = golden_f64(g, "alpha.qk", &n), wide[512], inverse[512], q[512];
    assert_int_equal(n, heads * half);
    for (int64_t i = 0; i < heads * D; i++) {
        wide[i] = a[i / D * half + i % half];
        inverse[i] = 1 / wide[i];
    }
    if (c->qk_norm) {
        divide(b->gain[SQ_QNORM], D, wide);
        divide(b->gain[SQ_KNORM], D, inverse);
    } else {
        to_heads(q, wide, c);
        divide_rows(b->w[SQ_Q], b->bias[SQ_Q], c->heads * D, c->hidden, q);
        divide_rows(b->w[SQ_K], b->bias[SQ_K], heads * D, c->hidden, inverse);
    }
    free(a);
}

static void scale_block(struct sq_block *b, const struct golden *g)
{
    const struct sq_config *c = b->cfg;
    const int64_t C = c->hidden, F = c->ffn, Q = c->heads * c->head_dim, KV = c->kv_heads * c->head_dim;
    double *qkv = golden_f64(g, "alpha.qkv", NULL), *fc1 = golden_f64(g, "alpha.fc1", NULL);
    double *out = golden_f64(g, "alpha.out", NULL), *fc2 = golden_f64(g, "alpha.fc2", NULL), wide[512];
    divide(b->gain[SQ_NORM1], C, qkv);
    scale_cols(b->w[SQ_Q], Q, C, qkv);
    scale_cols(b->w[SQ_K], KV, C, qkv);
    scale_cols(b->w[SQ_V], KV, C, qkv);
    divide(b->gain[SQ_NORM2], C, fc1);
    if (b->router)
        scale_cols(b->router, c->experts, C, fc1);
    for (int64_t e = 0; e < SQ_MAX(c->experts, 1); e++) {
        void **w = b->w + 3 * e;
        scale_cols(w[SQ_GATE], F, C, fc1);
        scale_cols(w[SQ_UP], F, C, fc1);
        divide_rows(w[SQ_UP], NULL, F, C, fc2 + e * F);
        scale_cols(w[SQ_DOWN], C, F, fc2 + e * F);
    }
    divide_rows(b->w[SQ_V], b->bias[SQ_V], KV, C, out);
    to_heads(wide, out, c);
    scale_cols(b->w[SQ_O], C, Q, wide);
    free(fc2);
    free(out);
    free(fc1);
    free(qkv);
    scale_qk(b, g);
}

static void adapt_and_round(struct sq_block *b, const struct golden *g, int64_t linear, int64_t group, double rate)
{
    char name[SQ_LINEAR_NAME], tensor[SQ_LINEAR_NAME + 16];
    int64_t rows, cols, rank;
    sq_linear_shape(&rows, &cols, b->cfg, linear);
    sq_linear_name(name, b->cfg, linear);
    const char *part[] = {"lora_A", "lora_B", "q", "s", "zp"};
    double *v[5];
    for (int i = 0; i < 5; i++) {
        snprintf(tensor, sizeof tensor, "%s.%s", name, part[i]);
        v[i] = golden_f64(g, tensor, i == 0 ? &rank : NULL);
    }
    rank /= cols;
    const int64_t width = group ? group : cols, groups = (cols + width - 1) / width;
    const int64_t all = group ? groups : cols, covered = (int64_t)ceil(rate * (double)all - 1e-9);
    float *w = b->w[linear];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const int64_t at = i * cols + j, gr = i * groups + j / width;
            double sum = 0;
            for (int64_t r = 0; r < rank; r++)
                sum += v[1][i * rank + r] * v[0][r * cols + j];
            w[at] = (float)(w[at] + sum / (double)rank);
            if ((group ? j / width : j) < covered)
                w[at] = (float)((v[2][at] - v[4][gr]) * v[3][gr]);
        }
    for (int i = 0; i < 5; i++)
        free(v[i]);
}

/* ---- comparison ----------------------------------------------------------------------------------- */

static double worst(const float *x, const double *want, int64_t n)
{
    double diff = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        diff = fmax(diff, isnan(x[i]) ? INFINITY : fabs((double)x[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    return diff / size;
}

static double mse(float *dy, const float *y, const float *target, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)y[i] - (double)target[i];
        sum += d * d;
        if (dy)
            dy[i] = (float)(2 * d / (double)n);
    }
    return sum / (double)n;
}

static struct sq_run run_of(const struct layer *l, int which, int abits, double rate)
{
    return (struct sq_run){.ops = backend(which), .cos = l->cos, .sin = l->sin, .tokens = T,
                           .act = {.bits = abits, .rate = rate}};
}

static const char *const models[] = {"llama", "qwen2", "qwen3", "qwen3-moe"};

static void test_float_forward(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int which = 0; which < 2; which++) {
            struct layer l;
            struct golden g;
            char file[64];
            layer_open(&l, models[m]);
            snprintf(file, sizeof file, "layer_%s", models[m]);
            golden_open(&g, file);
            double *want = golden_f64(&g, "y", NULL);
            const struct sq_run r = run_of(&l, which, 16, 1);
            float *y = calloc((size_t)l.n, sizeof *y);
            sq_block_forward(y, l.x, &l.b, &r, B, l.t, NULL);
            const double e = worst(y, want, l.n);
            print_message("%s %s: y %.1e\n", models[m], r.ops->name, e);
            assert_true(e <= 5e-6);
            sq_block_forward(l.x, l.x, &l.b, &r, B, l.t, NULL); /* in place */
            assert_memory_equal(l.x, y, (size_t)l.n * sizeof *y);
            free(y);
            free(want);
            golden_close(&g);
            layer_close(&l);
        }
}

static void check_scheme(const char *model, const char *scheme, int abits, int64_t group, double rate, int which)
{
    struct layer l;
    struct golden g;
    char name[64];
    layer_open(&l, model);
    snprintf(name, sizeof name, "layer_%s_%s", model, scheme);
    golden_open(&g, name);
    scale_block(&l.b, &g);
    for (int64_t i = 0; i < l.b.nlinear; i++)
        adapt_and_round(&l.b, &g, i, group, rate);
    const struct sq_run r = run_of(&l, which, abits, rate);
    float *y = calloc((size_t)l.n, sizeof *y), *d = calloc((size_t)l.n, sizeof *d);
    double *want[3];
    const char *part[] = {"y", "loss", "dx"};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "rho%03d.%s", (int)lround(100 * rate), part[i]);
        want[i] = golden_f64(&g, name, NULL);
    }
    sq_block_forward(y, l.x, &l.b, &r, B, l.t, NULL);
    const double loss = mse(d, y, l.target, l.n);
    backward(d, &l.db, l.x, &l.b, &r, B, l.t);
    const double ey = worst(y, want[0], l.n), el = fabs(loss / want[1][0] - 1), ed = worst(d, want[2], l.n);
    print_message("%s %s rho %.1f %s: y %.1e loss %.1e dx %.1e\n", model, scheme, rate, r.ops->name, ey, el, ed);
    assert_true(ey <= 5e-6);
    assert_true(el <= 5e-6);
    assert_true(ed <= 2e-5);
    for (int i = 0; i < 3; i++)
        free(want[i]);
    free(d);
    free(y);
    golden_close(&g);
    layer_close(&l);
}

static void test_schemes(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int which = 0; which < 2; which++)
            for (double rate = 0.5; rate <= 1; rate += 0.5) {
                check_scheme(models[m], "w2a16", 16, 0, rate, which);
                check_scheme(models[m], "w4a16g32", 16, 32, rate, which);
                check_scheme(models[m], "w4a4", 4, 0, rate, which);
            }
}

/* (loss(w + step dir) - loss(w - step dir)) / (2 step) */
static double difference(struct layer *l, const struct sq_run *r, float *w, const float *keep, const double *dir,
                         int64_t n, double step)
{
    float *y = calloc((size_t)l->n, sizeof *y);
    double loss[2];
    for (int s = 0; s < 2; s++) {
        for (int64_t i = 0; i < n; i++)
            w[i] = (float)((double)keep[i] + (s ? step : -step) * dir[i]);
        sq_block_forward(y, l->x, &l->b, r, B, l->t, NULL);
        loss[s] = mse(NULL, y, l->target, l->n);
    }
    memcpy(w, keep, (size_t)n * sizeof *w);
    free(y);
    return (loss[1] - loss[0]) / (2 * step);
}

/* Gradients of weights, biases and gains: the slope along a direction in each array, against central differences of
 * two steps, which together have an error of the fourth order. The direction is random, but turned towards the
 * gradient, so that the slope is well above float noise. */
static void check_slope(struct layer *l, const struct sq_run *r, const char *what, float *w, const float *dw, int64_t n,
                        struct sq_rng *rng)
{
    double *dir = calloc((size_t)n, sizeof *dir), slope = 0, size = 0, norm = 0;
    float *keep = calloc((size_t)n, sizeof *keep);
    memcpy(keep, w, (size_t)n * sizeof *w);
    for (int64_t i = 0; i < n; i++) {
        size += (double)dw[i] * (double)dw[i];
        norm += (double)w[i] * (double)w[i];
    }
    for (int64_t i = 0; i < n; i++) {
        dir[i] = (double)dw[i] / sqrt(size) + 0.5 * sq_rng_normal(rng) / sqrt((double)n);
        slope += dir[i] * (double)dw[i];
    }
    const double step = 4e-3 * sqrt(norm);
    const double measured = (4 * difference(l, r, w, keep, dir, n, step / 2) - difference(l, r, w, keep, dir, n, step)) / 3;
    if (!(fabs(measured - slope) <= 1e-3 * fabs(slope)))
        fail_msg("%s: slope %.6e, measured %.6e", what, slope, measured);
    free(keep);
    free(dir);
}

static void check_slopes(const char *model, int which, bool renorm)
{
    struct layer l;
    layer_open(&l, model);
    if (l.cfg.experts) { /* with every expert chosen, no step changes the choice: the loss is smooth */
        l.cfg.top = l.cfg.experts;
        l.cfg.renorm = renorm;
        sq_trace_free(&l.t);
        assert_int_equal(sq_trace_new(&l.t, &l.cfg, backend(0), B, T), 0);
    }
    const struct sq_run r = run_of(&l, which, 16, 1);
    struct sq_rng rng = sq_rng_init(7, SQ_RNG_TEST, 0, 0, 0, 0);
    float *y = calloc((size_t)l.n, sizeof *y);
    char name[SQ_LINEAR_NAME];
    sq_block_forward(y, l.x, &l.b, &r, B, l.t, NULL);
    mse(y, y, l.target, l.n);
    backward(y, &l.db, l.x, &l.b, &r, B, l.t);
    for (int64_t i = 0; i < l.b.nlinear; i++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, &l.cfg, i);
        sq_linear_name(name, &l.cfg, i);
        check_slope(&l, &r, name, l.b.w[i], l.db.w[i], rows * cols, &rng);
        /* the softmax does not see a constant added to all scores: the bias of k has no gradient */
        if (l.b.bias[i] && i != SQ_K)
            check_slope(&l, &r, name, l.b.bias[i], l.db.bias[i], rows, &rng);
    }
    for (int i = 0; i < SQ_GAINS; i++)
        if (l.b.gain[i])
            check_slope(&l, &r, sq_gain_name((enum sq_gain_id)i), l.b.gain[i], l.db.gain[i],
                        sq_gain_size(&l.cfg, (enum sq_gain_id)i), &rng);
    if (l.b.router)
        check_slope(&l, &r, "router", l.b.router, l.db.router, l.cfg.experts * l.cfg.hidden, &rng);
    free(y);
    layer_close(&l);
}

static void test_weight_gradients(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int which = 0; which < 2; which++)
            check_slopes(models[m], which, true);
    check_slopes("qwen3-moe", 0, false);
}

/* gate and down of a layer so wide that their gradients come in strips */
static void test_gradient_strips(void **state)
{
    (void)state;
    struct layer l = {.cfg = config("llama"), .n = B * T * 64};
    struct sq_rng rng = sq_rng_init(8, SQ_RNG_TEST, 0, 0, 0, 0);
    l.cfg.ffn = 140000;
    assert_int_equal(sq_block_new(&l.b, &l.cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&l.db, &l.cfg, SQ_F32), 0);
    assert_int_equal(sq_trace_new(&l.t, &l.cfg, backend(0), B, T), 0);
    for (int64_t i = 0; i < l.b.count; i++)
        l.b.all[i] = 0.1f * (float)(sq_rng_uniform(&rng) - 0.5);
    l.x = calloc((size_t)l.n, sizeof *l.x);
    l.target = calloc((size_t)l.n, sizeof *l.target);
    for (int64_t i = 0; i < l.n; i++)
        l.x[i] = (float)(sq_rng_uniform(&rng) - 0.5);
    l.cos = calloc((size_t)(T * 8), sizeof *l.cos);
    l.sin = calloc((size_t)(T * 8), sizeof *l.sin);
    sq_rope_table(l.cos, l.sin, &l.cfg, T);
    const struct sq_run r = run_of(&l, 1, 16, 1);
    float *y = calloc((size_t)l.n, sizeof *y);
    sq_block_forward(y, l.x, &l.b, &r, B, l.t, NULL);
    mse(y, y, l.target, l.n);
    backward(y, &l.db, l.x, &l.b, &r, B, l.t);
    check_slope(&l, &r, "gate", l.b.w[SQ_GATE], l.db.w[SQ_GATE], 64 * l.cfg.ffn, &rng);
    check_slope(&l, &r, "down", l.b.w[SQ_DOWN], l.db.w[SQ_DOWN], 64 * l.cfg.ffn, &rng);
    free(y);
    layer_close(&l);
}

/* d and gradients of the layer's first sample, whose forward left the trace to another one: where it was set aside, its
 * trace came back; else it was made again and rounded alike. */
static void grad_after_other(float *d, struct layer *l, const struct sq_run *r, struct sq_kept *kept, enum sq_dtype type)
{
    float *y = calloc((size_t)l->n, sizeof *y);
    sq_trace_keep(l->t, kept);
    sq_block_forward(y, l->x, &l->b, r, 1, l->t, NULL);
    mse(d, y, l->target, l->n / B);
    sq_trace_keep(l->t, NULL);
    sq_block_forward(y, l->target, &l->b, r, B, l->t, NULL);
    sq_trace_restore(l->t, kept, T);
    if (!kept) {
        sq_block_forward(y, l->x, &l->b, r, 1, l->t, NULL);
        sq_trace_round(l->t, type, T);
    }
    memset(l->db.all, 0, (size_t)l->db.count * sizeof *l->db.all);
    backward(d, &l->db, l->x, &l->b, r, 1, l->t);
    sq_trace_keep(l->t, NULL);
    free(y);
}

/* |a - b| / |b| of a linear's gradient */
static double far_from(const float *a, const float *b, const struct layer *l, int64_t linear)
{
    int64_t rows, cols;
    const int64_t at = (const float *)l->db.w[linear] - l->db.all;
    double far = 0, size = 0;
    sq_linear_shape(&rows, &cols, &l->cfg, linear);
    for (int64_t i = at; i < at + rows * cols; i++)
        far += pow((double)a[i] - (double)b[i], 2), size += pow((double)b[i], 2);
    return sqrt(far / size);
}

static void test_set_aside(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int bits = 4; bits <= 16; bits += 12) {
            struct layer l;
            layer_open(&l, models[m]);
            for (int64_t i = 0; l.b.bias[SQ_K] && bits == 16 && i < 2; i++) /* cancels, where softmax's rows are exact */
                l.b.bias[SQ_K][i] = 60;
            const struct sq_run r = run_of(&l, 1, bits, 1);
            const size_t all = (size_t)l.db.count * sizeof(float);
            float *exact = malloc(all), *once = malloc(all), *d = calloc((size_t)l.n, sizeof *d);
            for (enum sq_dtype type = SQ_F32; type <= SQ_BF16; type += SQ_BF16 - SQ_F32) {
                struct sq_kept *kept;
                assert_int_equal(sq_kept_new(&kept, &l.cfg, backend(0), B, T, type), 0);
                grad_after_other(d, &l, &r, NULL, type);
                memcpy(once, l.db.all, all);
                if (type == SQ_F32)
                    memcpy(exact, once, all);
                memset(d, 0, (size_t)l.n * sizeof *d);
                grad_after_other(d, &l, &r, kept, type);
                assert_memory_equal(once, l.db.all, all);
                for (int64_t k = SQ_Q; k <= SQ_O; k++) {
                    const double far = far_from(once, exact, &l, k);
                    printf("%s a%d linear %d: %.1e\n", models[m], bits, (int)k, far);
                    /* every output is rounded to 2^-9 of itself; where activations are rounded, some cross a step of 1/15; a bias
                     * of 60 on all keys makes much of little: 0.025 of dq, 0.08 if rounded queries met an exact log-sum-exp */
                    const double limit = bits == 4 ? 0.1 : l.b.bias[SQ_K] ? 0.05 : 0x1p-6;
                    assert_true(type == SQ_F32 ? far == 0 : far > 0 && far < limit);
                }
                sq_kept_free(&kept);
            }
            free(once);
            free(d);
            free(exact);
            layer_close(&l);
        }
}

/* Leaving out what nobody wants changes nothing of the rest. */
static void test_unwanted(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int bits = 4; bits <= 16; bits += 12) {
            struct layer l;
            layer_open(&l, models[m]);
            const struct sq_run r = run_of(&l, 1, bits, 1);
            float *d = calloc((size_t)l.n, sizeof *d), *all = calloc((size_t)l.db.count, sizeof *all);
            for (int pass = 0; pass < 2; pass++) {
                struct sq_grads g = grads_to(&l.db);
                if (pass == 0)
                    g.router = NULL, g.input = false, memset(g.gain, 0, sizeof g.gain);
                memcpy(all, l.db.all, (size_t)l.db.count * sizeof *all);
                memset(l.db.all, 0, (size_t)l.db.count * sizeof *all);
                sq_block_forward(d, l.x, &l.b, &r, B, l.t, NULL);
                mse(d, d, l.target, l.n);
                sq_block_backward(d, &g, l.x, &l.b, &r, B, l.t);
            }
            const int64_t linears = l.db.gain[SQ_NORM1] - l.db.all, rest = l.db.count - linears;
            assert_memory_equal(all, l.db.all, (size_t)linears * sizeof *all);
            for (int64_t i = 0; i < rest; i++)
                assert_true(all[linears + i] == 0);
            assert_true(l.db.gain[SQ_NORM1][0] != 0);
            free(all);
            free(d);
            layer_close(&l);
        }
}

static void test_gradients_accumulate(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l, "qwen2");
    const struct sq_run r = run_of(&l, 0, 4, 1);
    float *d = calloc((size_t)l.n, sizeof *d), *once = calloc((size_t)l.db.count, sizeof *once);
    for (int pass = 0; pass < 2; pass++) {
        sq_block_forward(d, l.x, &l.b, &r, B, l.t, NULL);
        mse(d, d, l.target, l.n);
        backward(d, &l.db, l.x, &l.b, &r, B, l.t);
        if (pass == 0)
            memcpy(once, l.db.all, (size_t)l.db.count * sizeof *once);
    }
    double size = 0;
    for (int64_t i = 0; i < l.db.count; i++)
        size = fmax(size, fabs((double)once[i]));
    for (int64_t i = 0; i < l.db.count; i++)
        assert_true(fabs((double)l.db.all[i] - 2.0 * (double)once[i]) <= 1e-6 * size);
    free(once);
    free(d);
    layer_close(&l);
}

/* Same bits for 1, 2 and 4 threads. */
static void check_threads(const char *model)
{
    const int before = omp_get_max_threads(), threads[] = {1, 2, 4};
    for (int which = 0; which < 2; which++) {
        float *first = NULL, *y1 = NULL;
        for (int i = 0; i < 3; i++) {
            struct layer l;
            omp_set_num_threads(threads[i]);
            layer_open(&l, model);
            const struct sq_run r = run_of(&l, which, 4, 1);
            float *y = calloc((size_t)l.n, sizeof *y);
            sq_block_forward(y, l.x, &l.b, &r, B, l.t, NULL);
            mse(y, y, l.target, l.n);
            backward(y, &l.db, l.x, &l.b, &r, B, l.t);
            if (i == 0) {
                y1 = y;
                first = malloc((size_t)l.db.count * sizeof *first);
                memcpy(first, l.db.all, (size_t)l.db.count * sizeof *first);
            } else {
                assert_memory_equal(y, y1, (size_t)l.n * sizeof *y);
                assert_memory_equal(l.db.all, first, (size_t)l.db.count * sizeof *first);
                free(y);
            }
            layer_close(&l);
        }
        free(first);
        free(y1);
    }
    omp_set_num_threads(before);
}

static void test_threads(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        check_threads(models[m]);
}

/* A sample's result does not depend on the batch it is in, and smaller batches fit a larger trace. */
static void test_batch(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l, "llama");
    const struct sq_run r = run_of(&l, 0, 4, 1);
    const int64_t half = l.n / 2;
    float *y = calloc((size_t)l.n, sizeof *y), *one = calloc((size_t)half, sizeof *one);
    sq_block_forward(y, l.x, &l.b, &r, B, l.t, NULL);
    for (int s = 0; s < 2; s++) {
        sq_block_forward(one, l.x + s * half, &l.b, &r, 1, l.t, NULL);
        assert_memory_equal(one, y + s * half, (size_t)half * sizeof *one);
    }
    free(one);
    free(y);
    layer_close(&l);
}

static void test_stats(void **state)
{
    (void)state;
    struct layer l;
    layer_open(&l, "llama");
    const struct sq_run r = run_of(&l, 0, 16, 1);
    double qkv[64] = {0}, out[64] = {0}, fc1[64] = {0}, fc2[96] = {0};
    struct sq_input_stats s = {.qkv = qkv, .out = out, .fc1 = fc1, .fc2 = fc2};
    float *y = calloc((size_t)l.n, sizeof *y);
    sq_block_forward(y, l.x, &l.b, &r, B, l.t, &s);
    assert_int_equal(s.tokens, B * T);
    /* the inputs of q, k, v are gain * x / rms */
    double want[64] = {0};
    for (int64_t i = 0; i < B * T; i++) {
        double sum = 0;
        for (int64_t c = 0; c < 64; c++)
            sum += (double)l.x[i * 64 + c] * (double)l.x[i * 64 + c];
        for (int64_t c = 0; c < 64; c++)
            want[c] += pow((double)l.x[i * 64 + c] * (double)l.b.gain[SQ_NORM1][c], 2) / (sum / 64 + l.cfg.eps);
    }
    for (int64_t c = 0; c < 64; c++) {
        assert_true(fabs(qkv[c] / want[c] - 1) < 1e-5);
        assert_true(out[c] > 0 && fc1[c] > 0 && fc2[c] > 0);
    }
    sq_block_forward(y, l.x, &l.b, &r, B, l.t, &s);
    assert_int_equal(s.tokens, 2 * B * T);
    assert_true(fabs(qkv[5] / want[5] - 2) < 2e-5);
    free(y);
    layer_close(&l);
}

static void test_sizes(void **state)
{
    (void)state;
    struct sq_config c = config("qwen2");
    struct sq_block b;
    assert_int_equal(sq_block_new(&b, &c, SQ_F32), 0);
    for (int64_t i = 0; i < b.nlinear; i++)
        assert_int_equal((uintptr_t)b.w[i] % 64, 0);
    assert_true(b.w[SQ_Q] == b.all && b.bias[SQ_Q] && !b.bias[SQ_O] && !b.gain[SQ_QNORM] && !b.router);
    for (int64_t i = 0; i < b.count; i++)
        assert_true(b.all[i] == 0);
    sq_block_release(&b);
    sq_block_release(&b);
    assert_true(sq_trace_bytes(&c, backend(0), 1, T) > T * (2 * c.ffn + 4 * c.hidden) * 4);
    const int64_t kept = 2 * sq_kept_bytes(&c, 1, T, SQ_F32) - sq_kept_bytes(&c, 2, T, SQ_F32);
    assert_true(kept >= 0 && kept < 16 * 64); /* arrays start on cache lines */
    assert_true(sq_kept_bytes(&c, 2, T, SQ_BF16) < sq_kept_bytes(&c, 2, T, SQ_F32) * 7 / 10);
    assert_true(sq_kept_bytes(&c, 2, T, SQ_F32) < sq_trace_bytes(&c, backend(0), 2, T));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),          cmocka_unit_test(test_float_forward), cmocka_unit_test(test_schemes),
        cmocka_unit_test(test_weight_gradients), cmocka_unit_test(test_gradients_accumulate),
        cmocka_unit_test(test_gradient_strips),  cmocka_unit_test(test_unwanted),
        cmocka_unit_test(test_set_aside),
        cmocka_unit_test(test_threads),        cmocka_unit_test(test_batch),         cmocka_unit_test(test_stats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
