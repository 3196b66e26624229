/* The fold of learnable parameters, its codes and its gradient against the oracle (layer_*, window_*). */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../golden.h"
#include "grads.h"
#include "sq/params.h"
#include "sq/rng.h"

enum { B = 2, T = 24 };

static struct sq_config config(const char *name)
{
    struct sq_config c = {.hidden = 64,
                          .heads = 4,
                          .kv_heads = 2,
                          .head_dim = 16,
                          .ffn = 96,
                          .layers = 1,
                          .vocab = 8,
                          .max_positions = 64,
                          .eps = 1e-6,
                          .rope_theta = 1e4};
    strcpy(c.model_type, "llama");
    c.qkv_bias = !strcmp(name, "qwen2");
    if (!strncmp(name, "qwen3", 5))
        c.qk_norm = true, c.head_dim = 24;
    if (!strcmp(name, "qwen3-moe"))
        c.ffn = 32, c.experts = 4, c.top = 2, c.renorm = true;
    return c;
}

static void read_into(float *out, const struct golden *g, const char *prefix, const char *name,
                      const char *part, int64_t want)
{
    char key[256];
    int64_t n;
    snprintf(key, sizeof key, "%s%s%s", prefix, name, part);
    float *x = golden_f32(g, key, &n);
    assert_int_equal(n, want);
    memcpy(out, x, (size_t)n * sizeof *x);
    free(x);
}

static void block_open(struct sq_block *b, const struct sq_config *cfg, const struct golden *g,
                       const char *prefix)
{
    char name[SQ_LINEAR_NAME];
    assert_int_equal(sq_block_new(b, cfg, SQ_F32), 0);
    for (int64_t k = 0; k < b->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, k);
        sq_linear_name(name, cfg, k);
        read_into(b->w[k], g, prefix, name, ".weight", rows * cols);
        if (b->bias[k])
            read_into(b->bias[k], g, prefix, name, ".bias", rows);
    }
    for (int i = 0; i < SQ_GAINS; i++)
        if (b->gain[i])
            read_into(b->gain[i], g, prefix, sq_gain_name((enum sq_gain_id)i), "",
                      sq_gain_size(cfg, (enum sq_gain_id)i));
    if (b->router)
        read_into(b->router, g, prefix, "mlp.gate.weight", "", cfg->experts * cfg->hidden);
}

static void params_open(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s,
                        const struct golden *g, const char *prefix)
{
    char key[256];
    snprintf(key, sizeof key, "%salpha.qkv", prefix);
    const struct sq_params_spec spec = {
        .lora = true, .clip = true, .scaling = golden_has(g, key), .rank = 4, .clip_start = 4, .seed = 1};
    assert_int_equal(sq_params_new(p, cfg, s, &spec, 0), 0);
    for (int64_t i = 0; i < p->nparam; i++)
        read_into(p->param[i].x, g, prefix, p->param[i].name, "", p->param[i].n);
}

/* largest difference over the largest value, which is at least `size` */
static double worst(const float *x, const double *want, int64_t n, double size)
{
    double diff = 0;
    for (int64_t i = 0; i < n; i++) {
        diff = fmax(diff, isnan(x[i]) ? INFINITY : fabs((double)x[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    return diff / size;
}

/* Codes that differ; scales must agree to 3e-5, zero points exactly. */
static int64_t check_codes(const struct sq_block *flat, const struct sq_params *p, const struct sq_scheme *s,
                           const struct golden *g, const char *prefix, int64_t *count)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    int64_t differ = 0;
    for (int64_t k = 0; k < flat->nlinear; k++) {
        char name[SQ_LINEAR_NAME], key[256];
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, flat->cfg, k);
        sq_linear_name(name, flat->cfg, k);
        const int64_t n = rows * cols, ng = rows * sq_rowq_groups(&q, cols);
        float *scale = malloc((size_t)ng * 4), *zero = malloc((size_t)ng * 4);
        uint8_t *codes = malloc((size_t)n);
        double *want[3];
        for (int i = 0; i < 3; i++) {
            snprintf(key, sizeof key, "%s%s.%s", prefix, name, i == 0 ? "q" : i == 1 ? "s" : "zp");
            want[i] = golden_f64(g, key, NULL);
        }
        sq_rowquant_grid(scale, zero, flat->w[k], &q, p->u[k]->x, p->l[k]->x, rows, cols);
        sq_rowquant_codes(codes, flat->w[k], scale, zero, &q, rows, cols);
        for (int64_t i = 0; i < ng; i++) {
            assert_true(fabs((double)scale[i] - want[1][i]) <= 3e-5 * want[1][i]);
            assert_true((double)zero[i] == want[2][i]);
        }
        for (int64_t i = 0; i < n; i++)
            differ += (double)codes[i] != want[0][i];
        *count += n;
        free(scale), free(zero), free(codes), free(want[0]), free(want[1]), free(want[2]);
    }
    return differ;
}

static const struct sq_ops *backend(int which)
{
    const struct sq_ops *ops = NULL;
    assert_int_equal(sq_ops_get(&ops, which ? SQ_BACKEND_CPU : SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    return ops;
}

static const char *const models[] = {"llama", "qwen2", "qwen3", "qwen3-moe"};
static const struct {
    const char *name, *scheme;
} schemes[] = {{"w2a16", "W2A16"}, {"w4a4", "W4A4"}, {"w4a16g32", "W4A16g32"}};

static void test_layer_codes(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int i = 0; i < SQ_COUNT(schemes); i++) {
            struct golden g, gw;
            struct sq_block w, flat;
            struct sq_params p;
            struct sq_scheme s;
            char name[64];
            const struct sq_config cfg = config(models[m]);
            assert_int_equal(sq_scheme_parse(&s, schemes[i].scheme), 0);
            snprintf(name, sizeof name, "layer_%s", models[m]);
            golden_open(&gw, name);
            snprintf(name, sizeof name, "layer_%s_%s", models[m], schemes[i].name);
            golden_open(&g, name);
            block_open(&w, &cfg, &gw, "");
            params_open(&p, &cfg, &s, &g, "");
            assert_int_equal(sq_block_new(&flat, &cfg, SQ_F32), 0);
            sq_fold(&flat, &w, &p, NULL, backend(0));
            int64_t count = 0;
            assert_int_equal(check_codes(&flat, &p, &s, &g, "", &count), 0);
            sq_fold(&w, &w, &p, NULL, backend(0)); /* in place */
            assert_memory_equal(w.all, flat.all, (size_t)w.count * sizeof(float));
            sq_block_release(&flat), sq_block_release(&w), sq_params_release(&p);
            golden_close(&g), golden_close(&gw);
        }
}

/* limits of tests/oracle/README.md */
static double limit_of(const struct sq_param *a)
{
    return a->kind == SQ_P_LORA ? 2e-5 : 5e-5;
}

static void check_gradients(const char *model, int which_scheme, int which, double rate)
{
    struct golden g, gw;
    struct sq_block w, rounded, db;
    struct sq_params p;
    struct sq_scheme s;
    struct sq_trace *t;
    char name[256];
    const struct sq_config cfg = config(model);
    const struct sq_ops *ops = backend(which);
    const int64_t n = B * T * cfg.hidden;
    assert_int_equal(sq_scheme_parse(&s, schemes[which_scheme].scheme), 0);
    s.rate = rate;
    snprintf(name, sizeof name, "layer_%s", model);
    golden_open(&gw, name);
    snprintf(name, sizeof name, "layer_%s_%s", model, schemes[which_scheme].name);
    golden_open(&g, name);
    block_open(&w, &cfg, &gw, "");
    params_open(&p, &cfg, &s, &g, "");
    assert_int_equal(sq_block_new(&rounded, &cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&db, &cfg, SQ_F32), 0);
    assert_int_equal(sq_trace_new(&t, &cfg, backend(0), B, T), 0);
    float *x = golden_f32(&gw, "x", NULL), *target = golden_f32(&gw, "target", NULL);
    float *y = calloc((size_t)n, 4), *dy = calloc((size_t)n, 4), *cos = calloc(T * 32, 4),
          *sin = calloc(T * 32, 4);
    sq_rope_table(cos, sin, &cfg, T);
    const struct sq_run r = {.ops = ops, .cos = cos, .sin = sin, .tokens = T, .act = sq_scheme_acts(&s)};
    sq_fold(&rounded, &w, &p, &s, ops);
    sq_block_forward(y, x, &rounded, &r, B, t, NULL);
    for (int64_t i = 0; i < n; i++)
        dy[i] = (float)(2 * ((double)y[i] - (double)target[i]) / (double)n);
    backward(dy, &db, x, &rounded, &r, B, t);
    for (int again = 0; again < 2; again++) /* train() twice: the second one clears */
        assert_int_equal(sq_params_train(&p), 0);
    fold_grad(&p, &db, &w, &s, ops);
    double top[SQ_P_KINDS] = {0}, least = 0;
    /* With q/k norm and float activations the gradient of alpha.qk is the difference of equal terms: zero but
     * for rounding, so it is measured against these terms. */
    for (int64_t i = 0; cfg.qk_norm && i < cfg.head_dim; i++)
        least = fmax(least, fabs((double)db.gain[SQ_KNORM][i] * (double)w.gain[SQ_KNORM][i]));
    for (int64_t i = 0; i < p.nparam; i++) {
        const struct sq_param *a = &p.param[i];
        snprintf(name, sizeof name, "rho%03d.d%s", (int)lround(100 * rate), a->name);
        double *want = golden_f64(&g, name, NULL);
        const double e = worst(a->grad, want, a->n, a == p.alpha[SQ_AT_QK] ? least : 0);
        if (!(e <= limit_of(a)))
            fail_msg("%s %s %s: d%s is off by %g", model, s.rate < 1 ? "rho 0.5" : "rho 1",
                     schemes[which_scheme].name, a->name, e);
        top[a->kind] = fmax(top[a->kind], e);
        free(want);
    }
    print_message("%s %s rho %.1f %s: dalpha %.1e dA,dB %.1e du,dl %.1e\n", model, schemes[which_scheme].name,
                  rate, ops->name, top[0], top[1], top[2]);
    free(x), free(target), free(y), free(dy), free(cos), free(sin);
    sq_trace_free(&t);
    sq_block_release(&db), sq_block_release(&rounded), sq_block_release(&w);
    sq_params_release(&p);
    golden_close(&g), golden_close(&gw);
}

static void test_layer_gradients(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int i = 0; i < SQ_COUNT(schemes); i++)
            for (int which = 0; which < 2; which++)
                for (double rate = 0.5; rate <= 1; rate += 0.5)
                    check_gradients(models[m], i, which, rate);
}

/* A forward that multiplies codes against one of the rounded floats. Their sums differ by 2^-22; where that moves a value
 * over the edge between two codes, one of thousands, a token changes by a step: so the mean over all of them is compared. */
static void test_codes(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (double rate = 0.4; rate <= 1; rate += 0.6) {
            struct golden g, gw;
            struct sq_block w, rounded[2];
            struct sq_params p;
            struct sq_scheme s;
            struct sq_trace *t;
            char name[256];
            const struct sq_config cfg = config(models[m]);
            const struct sq_ops *ops = backend(1);
            const int64_t n = B * T * cfg.hidden;
            assert_int_equal(sq_scheme_parse(&s, "W4A4"), 0);
            s.rate = rate;
            snprintf(name, sizeof name, "layer_%s", models[m]);
            golden_open(&gw, name);
            snprintf(name, sizeof name, "layer_%s_w4a4", models[m]);
            golden_open(&g, name);
            block_open(&w, &cfg, &gw, "");
            params_open(&p, &cfg, &s, &g, "");
            assert_int_equal(sq_trace_new(&t, &cfg, backend(0), B, T), 0);
            float *x = golden_f32(&gw, "x", NULL), *y[2], *cos = calloc(T * 32, 4), *sin = calloc(T * 32, 4);
            sq_rope_table(cos, sin, &cfg, T);
            const struct sq_run r = {.ops = ops, .cos = cos, .sin = sin, .tokens = T, .act = sq_scheme_acts(&s)};
            for (int i = 0; i < 2; i++) {
                assert_int_equal(sq_block_new(&rounded[i], &cfg, SQ_F32), 0);
                if (i)
                    assert_int_equal(sq_block_codes(&rounded[i]), 0);
                sq_fold(&rounded[i], &w, &p, &s, ops);
                y[i] = calloc((size_t)n, 4);
                sq_block_forward(y[i], x, &rounded[i], &r, B, t, NULL);
            }
            double error = 0, size = 0;
            for (int64_t i = 0; i < n; i++) {
                error += pow((double)y[1][i] - (double)y[0][i], 2);
                size += pow((double)y[0][i] - (double)x[i], 2); /* what the layer adds */
            }
            print_message("%s rho %.1f: codes against floats %.1e\n", models[m], rate, error / size);
            assert_true(error < 1e-5 * size && memcmp(y[0], y[1], (size_t)n * 4) != 0);
            for (int i = 0; i < 2; i++)
                free(y[i]), sq_block_release(&rounded[i]);
            free(x), free(cos), free(sin);
            sq_trace_free(&t);
            sq_block_release(&w), sq_params_release(&p);
            golden_close(&g), golden_close(&gw);
        }
}

static void test_window_merge(void **state)
{
    (void)state;
    static const struct {
        const char *file, *scheme;
    } windows[] = {{"window_w2a16", "W2A16"}, {"window_w4a4", "W4A4"}, {"window_w2a16_stages", "W2A16"}};
    struct golden gw;
    const struct sq_config cfg = config("llama");
    golden_open(&gw, "window");
    for (int f = 0; f < SQ_COUNT(windows); f++) {
        struct golden g;
        struct sq_scheme s;
        int64_t count = 0, differ = 0;
        golden_open(&g, windows[f].file);
        assert_int_equal(sq_scheme_parse(&s, windows[f].scheme), 0);
        for (int l = 0; l < 2; l++) {
            struct sq_block w, flat;
            struct sq_params p;
            char prefix[32], merged[32], name[SQ_LINEAR_NAME], key[256];
            snprintf(prefix, sizeof prefix, "layers.%d.", l);
            snprintf(merged, sizeof merged, "layers.%d.merged.", l);
            block_open(&w, &cfg, &gw, prefix);
            params_open(&p, &cfg, &s, &g, prefix);
            assert_int_equal(sq_block_new(&flat, &cfg, SQ_F32), 0);
            sq_fold(&flat, &w, &p, NULL, backend(0));
            for (int64_t k = 0; k < flat.nlinear; k++) {
                int64_t rows, cols;
                sq_linear_shape(&rows, &cols, &cfg, k);
                snprintf(key, sizeof key, "%s%s.weight", merged, sq_linear_name(name, &cfg, k));
                double *want = golden_f64(&g, key, NULL);
                assert_true(worst(flat.w[k], want, rows * cols, 0) <= 2e-6);
                free(want);
            }
            for (int i = 0; i < 2; i++) {
                snprintf(key, sizeof key, "%s%s", merged, sq_gain_name((enum sq_gain_id)i));
                double *want = golden_f64(&g, key, NULL);
                assert_true(worst(flat.gain[i], want, cfg.hidden, 0) <= 2e-6);
                free(want);
            }
            differ += check_codes(&flat, &p, &s, &g, prefix, &count);
            sq_block_release(&flat), sq_block_release(&w), sq_params_release(&p);
        }
        print_message("%s: %d of %d codes differ\n", windows[f].file, (int)differ, (int)count);
        assert_int_equal(count, 61440);
        assert_true(differ <= 6);
        golden_close(&g);
    }
    golden_close(&gw);
}

static void test_project(void **state)
{
    (void)state;
    struct golden g;
    int64_t n;
    golden_open(&g, "alpha_keep");
    double *before = golden_f64(&g, "alpha", &n), *kept = golden_f64(&g, "kept", NULL);
    const struct sq_config cfg = config("llama");
    const struct sq_scheme s = {.wbits = 4, .abits = 16, .rate = 1};
    const struct sq_params_spec spec = {.scaling = true};
    struct sq_params p;
    assert_int_equal(sq_params_new(&p, &cfg, &s, &spec, 0), 0);
    for (int at = 0; at < SQ_PLACES; at++)
        for (int64_t i = 0; i < p.alpha[at]->n; i++)
            p.alpha[at]->x[i] = (float)before[i % n];
    sq_params_project(&p, backend(0));
    for (int at = 0; at < SQ_PLACES; at++)
        for (int64_t i = 0; i < p.alpha[at]->n; i++)
            assert_true(p.alpha[at]->x[i] == (float)kept[i % n]);
    sq_params_release(&p);
    free(before), free(kept);
    golden_close(&g);
}

static struct sq_config wide(void)
{
    struct sq_config c = config("qwen2");
    c.hidden = 132, c.ffn = 777, c.heads = 6, c.head_dim = 22;
    return c;
}

static void fill(float *x, int64_t n, uint64_t key, double size)
{
    struct sq_rng r = sq_rng_init(key, SQ_RNG_TEST, 0, 0, 0, 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(size * sq_rng_normal(&r));
}

/* The same bytes for 1, 2 and 4 threads, odd sizes. */
static void test_threads(void **state)
{
    (void)state;
    const struct sq_config cfg = wide();
    const struct sq_scheme s = {.wbits = 3, .abits = 16, .group = 32, .rate = 0.5};
    const struct sq_params_spec spec = {
        .lora = true, .clip = true, .scaling = true, .rank = 5, .clip_start = 2};
    const int before = omp_get_max_threads();
    for (int which = 0; which < 2; which++) {
        float *first = NULL;
        for (int threads = 1; threads <= 4; threads *= 2) {
            struct sq_block w, db;
            struct sq_params p;
            omp_set_num_threads(threads);
            assert_int_equal(sq_block_new(&w, &cfg, SQ_F32), 0);
            assert_int_equal(sq_block_new(&db, &cfg, SQ_F32), 0);
            assert_int_equal(sq_params_new(&p, &cfg, &s, &spec, 3), 0);
            assert_int_equal(sq_params_train(&p), 0);
            fill(w.all, w.count, 1, 0.1);
            fill(db.all, db.count, 2, 1);
            for (int64_t k = 0; k < p.nlinear; k++)
                fill(p.b[k]->x, p.b[k]->n, 3 + (uint64_t)k, 0.01);
            for (int at = 0; at < SQ_PLACES; at++)
                fill(p.alpha[at]->x, p.alpha[at]->n, 20 + (uint64_t)at, 1);
            sq_params_project(&p, backend(0));
            fold_grad(&p, &db, &w, &s, backend(which));
            int64_t n = 0;
            for (int64_t i = 0; i < p.nparam; i++)
                n += p.param[i].n;
            if (!first) {
                first = malloc((size_t)(3 * n) * 4);
                memcpy(first, p.moments, (size_t)(3 * n) * 4);
            }
            assert_memory_equal(first, p.moments, (size_t)(3 * n) * 4);
            sq_params_release(&p), sq_block_release(&db), sq_block_release(&w);
        }
        free(first);
    }
    omp_set_num_threads(before);
}

/* Gradients of a linear function of the flat layer (weights stay float: bits 16) against central differences
 * in every parameter, for all forms of a layer; with one place at a time as well, which takes the other
 * branches. */
static double objective(const struct sq_block *flat, const struct sq_block *c)
{
    double sum = 0;
    for (int64_t i = 0; i < flat->count; i++)
        sum += (double)flat->all[i] * (double)c->all[i];
    return sum;
}

static void check_differences(const struct sq_config *cfg, int only)
{
    const struct sq_scheme s = {.wbits = 16, .abits = 16, .rate = 1};
    const struct sq_params_spec spec = {.lora = only < 0, .scaling = true, .rank = 3};
    struct sq_block w, flat, c, db;
    struct sq_params p;
    assert_int_equal(sq_block_new(&w, cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&flat, cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&c, cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&db, cfg, SQ_F32), 0);
    assert_int_equal(sq_params_new(&p, cfg, &s, &spec, 0), 0);
    for (int at = 0; at < SQ_PLACES; at++) {
        for (int64_t i = 0; i < p.alpha[at]->n; i++)
            p.alpha[at]->x[i] = (i % 3 ? 1.0f : -1.0f) * (0.7f + 0.05f * (float)(i % 13));
        if (only >= 0 && at != only)
            p.alpha[at] = NULL;
    }
    for (int64_t k = 0; k < p.nlinear && only < 0; k++)
        fill(p.b[k]->x, p.b[k]->n, 5 + (uint64_t)k, 1);
    assert_int_equal(sq_params_train(&p), 0);
    fill(w.all, w.count, 1, 1);
    fill(c.all, c.count, 2, 1);
    memcpy(db.all, c.all, (size_t)c.count * sizeof(float));
    sq_fold(&flat, &w, &p, NULL, backend(0));
    fold_grad(&p, &db, &w, &s, backend(0));
    for (int64_t i = 0; i < p.nparam; i++) {
        struct sq_param *a = &p.param[i];
        if (only >= 0 && a != p.alpha[only])
            continue;
        for (int64_t j = 0; j < a->n; j += SQ_MAX(1, a->n / 7)) {
            const float keep = a->x[j],
                        step = 1.0f / 256; /* the function is smooth, sums hold ~1e5 float terms */
            a->x[j] = keep + step;
            sq_fold(&flat, &w, &p, NULL, backend(0));
            const double up = objective(&flat, &c);
            a->x[j] = keep - step;
            sq_fold(&flat, &w, &p, NULL, backend(0));
            const double d = (up - objective(&flat, &c)) / (2 * (double)step);
            a->x[j] = keep;
            /* rounding of the changed products: 2^-24 of about 100 terms of size 1, over the step; curvature
             * step^2 */
            if (!(fabs(d - (double)a->grad[j]) <= 2e-3 + 2e-3 * fabs(d)))
                fail_msg("%s[%d]: gradient %g, difference %g", a->name, (int)j, (double)a->grad[j], d);
        }
    }
    sq_params_release(&p), sq_block_release(&db), sq_block_release(&c), sq_block_release(&flat),
        sq_block_release(&w);
}

static void test_differences(void **state)
{
    (void)state;
    for (int m = 0; m < SQ_COUNT(models); m++) {
        struct sq_config cfg = config(models[m]);
        cfg.mlp_bias = cfg.o_bias = cfg.qkv_bias = m == 1;
        for (int only = -1; only < SQ_PLACES; only++)
            check_differences(&cfg, only);
    }
}

/* A layer held in bf16 folds as the same values in f32 do, and gives the same gradients; folded to bf16 it is what f32
 * rounds to. The same bits. */
static void test_bf16(void **state)
{
    (void)state;
    const struct sq_config cfg = wide();
    const struct sq_scheme s = {.wbits = 3, .abits = 16, .group = 32, .rate = 1};
    const struct sq_params_spec spec = {
        .lora = true, .clip = true, .scaling = true, .rank = 5, .clip_start = 2};
    struct sq_block w, w16, to[3], db[2];
    struct sq_params p;
    float *first = NULL;
    assert_int_equal(sq_block_new(&w, &cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&w16, &cfg, SQ_BF16), 0);
    assert_true(w16.count < w.count * 6 / 10);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sq_block_new(&to[i], &cfg, i < 2 ? SQ_F32 : SQ_BF16), 0);
    fill(w.all, w.count, 1, 0.1);
    for (int64_t k = 0; k < w.nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, &cfg, k);
        sq_bf16_narrow(w16.w[k], w.w[k], rows * cols);
        sq_bf16_widen(w.w[k], w16.w[k], rows * cols);
        if (w.bias[k])
            memcpy(w16.bias[k], w.bias[k], (size_t)rows * sizeof(float));
    }
    for (int i = 0; i < SQ_GAINS; i++)
        if (w.gain[i])
            memcpy(w16.gain[i], w.gain[i], (size_t)sq_gain_size(&cfg, (enum sq_gain_id)i) * sizeof(float));
    assert_int_equal(sq_params_new(&p, &cfg, &s, &spec, 3), 0);
    assert_int_equal(sq_params_train(&p), 0);
    for (int64_t k = 0; k < p.nlinear; k++)
        fill(p.b[k]->x, p.b[k]->n, 3 + (uint64_t)k, 0.01);
    for (int i = 0; i < 3; i++)
        sq_fold(&to[i], i ? &w16 : &w, &p, &s, backend(1));
    assert_memory_equal(to[0].all, to[1].all, (size_t)to[0].count * sizeof(float));
    for (int64_t k = 0; k < w.nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, &cfg, k);
        for (int64_t i = 0; i < rows * cols; i++)
            assert_int_equal(((uint16_t *)to[2].w[k])[i], sq_f32_to_bf16(((float *)to[0].w[k])[i]));
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sq_block_new(&db[i], &cfg, SQ_F32), 0);
        fill(db[i].all, db[i].count, 2, 1);
        fold_grad(&p, &db[i], i ? &w16 : &w, &s, backend(1));
        int64_t n = 0;
        for (int64_t j = 0; j < p.nparam; j++)
            n += p.param[j].n;
        if (!first)
            first = malloc((size_t)(3 * n) * 4), memcpy(first, p.moments, (size_t)(3 * n) * 4);
        assert_memory_equal(first, p.moments, (size_t)(3 * n) * 4);
        sq_block_release(&db[i]);
    }
    for (int i = 0; i < 3; i++)
        sq_block_release(&to[i]);
    free(first), sq_block_release(&w), sq_block_release(&w16), sq_params_release(&p);
}

static void assert_same(const struct sq_block *a, const struct sq_block *b)
{
    for (int64_t k = 0; k < a->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, a->cfg, k);
        assert_memory_equal(a->w[k], b->w[k], (size_t)(rows * cols) * sizeof(float));
        if (a->bias[k])
            assert_memory_equal(a->bias[k], b->bias[k], (size_t)rows * sizeof(float));
    }
    for (int i = 0; i < SQ_GAINS; i++)
        if (a->gain[i])
            assert_memory_equal(a->gain[i], b->gain[i],
                                (size_t)sq_gain_size(a->cfg, (enum sq_gain_id)i) * sizeof(float));
}

/* A is keyed by seed, layer and linear, inside its bound; B is zero: the fold changes nothing at the start.
 */
static void test_start(void **state)
{
    (void)state;
    const struct sq_config cfg = wide();
    const struct sq_scheme s = {.wbits = 2, .abits = 16, .rate = 1};
    struct sq_params_spec spec = {
        .lora = true, .clip = true, .scaling = true, .rank = 4, .clip_start = 4, .seed = 7};
    struct sq_params p, q;
    struct sq_block w, flat;
    assert_int_equal(sq_params_new(&p, &cfg, &s, &spec, 1), 0);
    assert_int_equal(sq_params_new(&q, &cfg, &s, &spec, 2), 0);
    assert_memory_not_equal(p.a[0]->x, q.a[0]->x, 16);
    assert_memory_not_equal(p.a[0]->x, p.a[1]->x, 16);
    double top = 0;
    for (int64_t i = 0; i < p.a[SQ_DOWN]->n; i++)
        top = fmax(top, fabs((double)p.a[SQ_DOWN]->x[i]));
    assert_true(top <= 1 / sqrt(777) && top > 0.98 / sqrt(777));
    assert_true(p.u[0]->x[0] == 4 && p.l[6]->x[131] == 4 && p.u[6]->n == 132);
    assert_int_equal(sq_block_new(&w, &cfg, SQ_F32), 0);
    assert_int_equal(sq_block_new(&flat, &cfg, SQ_F32), 0);
    fill(w.all, w.count, 1, 1);
    sq_fold(&flat, &w, &p, NULL, backend(0));
    assert_same(&flat, &w);
    sq_params_release(&p), sq_params_release(&q);
    const struct sq_params none = {.nparam = 0};
    memset(flat.all, 0, (size_t)flat.count * sizeof(float));
    sq_fold(&flat, &w, &none, NULL, backend(0));
    assert_same(&flat, &w);
    spec.rank = 0;
    assert_int_equal(sq_params_new(&p, &cfg, &s, &spec, 1), SQ_E_ARG);
    sq_block_release(&flat), sq_block_release(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_codes),  cmocka_unit_test(test_layer_gradients),
        cmocka_unit_test(test_window_merge), cmocka_unit_test(test_project),
        cmocka_unit_test(test_threads),      cmocka_unit_test(test_differences),
        cmocka_unit_test(test_start), cmocka_unit_test(test_bf16), cmocka_unit_test(test_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
