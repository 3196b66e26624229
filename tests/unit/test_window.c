/* training of one window: the oracle's trajectories, gradients against differences of the whole loss, the guard */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../golden.h"
#include "sq/hash.h"
#include "sq/rng.h"
#include "sq/stop.h"
#include "sq/window.h"

enum { LAYERS = 2, TOKENS = 12, SAMPLES = 8, BATCH = 2 };

static const struct sq_config CFG = {
    .arch = "LlamaForCausalLM", .model_type = "llama", .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16,
    .ffn = 96, .layers = LAYERS, .vocab = 32, .max_positions = 64, .eps = 1e-6, .rope_theta = 1e4,
};

/* The window of window.safetensors with fresh parameters. */
struct fixture {
    const struct sq_ops *ops;
    struct sq_block w[LAYERS];
    struct sq_params p[LAYERS];
    struct sq_member member[LAYERS];
    struct sq_trainer *trainer;
    float *xq, *target;
    double *weight;
    int64_t order[24];
    struct sq_window_job job;
};

static void load_block(struct sq_block *b, const struct golden *g, int layer)
{
    char name[256], linear[SQ_LINEAR_NAME];
    int64_t n;
    assert_int_equal(sq_block_new(b, &CFG, SQ_F32), 0);
    for (int64_t i = 0; i < b->nlinear; i++) {
        snprintf(name, sizeof name, "layers.%d.%s.weight", layer, sq_linear_name(linear, &CFG, i));
        float *x = golden_f32(g, name, &n);
        memcpy(b->w[i], x, (size_t)n * sizeof *x);
        free(x);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "layers.%d.%s", layer, sq_gain_name(i == 0 ? SQ_NORM1 : SQ_NORM2));
        float *x = golden_f32(g, name, &n);
        memcpy(b->gain[i], x, (size_t)n * sizeof *x);
        free(x);
    }
}

static void load_params(struct sq_params *p, const struct golden *g, int layer, const struct sq_scheme *s, bool scaling)
{
    const struct sq_params_spec spec = {.lora = true, .clip = true, .scaling = scaling, .rank = 4, .clip_start = 4.0};
    assert_int_equal(sq_params_new(p, &CFG, s, &spec, layer), 0);
    for (int64_t i = 0; i < p->nparam; i++) {
        char name[256];
        int64_t n;
        snprintf(name, sizeof name, "layers.%d.%s", layer, p->param[i].name);
        if (!golden_has(g, name))
            continue; /* B, u, l and alpha start as docs/method.md 3 says */
        float *x = golden_f32(g, name, &n);
        assert_int_equal(n, p->param[i].n);
        memcpy(p->param[i].x, x, (size_t)n * sizeof *x);
        free(x);
    }
}

static void setup(struct fixture *f, const char *scheme, bool scaling, enum sq_loss_kind loss)
{
    struct golden g;
    int64_t n;
    memset(f, 0, sizeof *f);
    golden_open(&g, "window");
    assert_int_equal(sq_scheme_parse(&f->job.scheme, scheme), 0);
    assert_int_equal(sq_ops_get(&f->ops, SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    for (int i = 0; i < LAYERS; i++) {
        load_block(&f->w[i], &g, i);
        load_params(&f->p[i], &g, i, &f->job.scheme, scaling);
        f->member[i] = (struct sq_member){.w = &f->w[i], .p = &f->p[i]};
    }
    f->xq = golden_f32(&g, "xq", &n);
    f->target = golden_f32(&g, "target", &n);
    double *order = golden_f64(&g, "order", &n);
    assert_int_equal(n, 24);
    for (int i = 0; i < n; i++)
        f->order[i] = (int64_t)order[i];
    free(order);
    f->weight = calloc(SAMPLES * TOKENS, sizeof *f->weight);
    sq_loss_weights(f->weight, loss, (struct sq_floats){SQ_F32, f->target}, SAMPLES * TOKENS, SAMPLES * TOKENS, CFG.hidden);
    assert_int_equal(sq_trainer_new(&f->trainer, &CFG, f->ops, &f->job.scheme, LAYERS, BATCH, TOKENS), 0);
    f->job.member = f->member;
    f->job.n = LAYERS;
    f->job.xq = (struct sq_floats){SQ_F32, f->xq};
    f->job.target = (struct sq_floats){SQ_F32, f->target};
    f->job.weight = f->weight;
    f->job.samples = SAMPLES;
    f->job.batch = BATCH;
    golden_close(&g);
}

static void teardown(struct fixture *f)
{
    sq_trainer_free(&f->trainer);
    for (int i = 0; i < LAYERS; i++) {
        sq_params_release(&f->p[i]);
        sq_block_release(&f->w[i]);
    }
    free(f->xq);
    free(f->target);
    free(f->weight);
}

/* ---- the oracle's trajectories ---- */

struct stage {
    double rate;
    int steps;
};

struct trajectory {
    const char *name, *scheme;
    bool scaling;
    double lr[SQ_P_KINDS]; /* alpha, lora, clip */
    struct stage stage[2];
    double loss, alpha; /* README's tolerances: relative, absolute */
};

struct watch {
    const double *want;
    double limit;
    int64_t at;
};

static int watch_step(void *ctx, int64_t step, int64_t steps, double loss)
{
    struct watch *w = ctx;
    (void)step;
    (void)steps;
    const double want = w->want[w->at++];
    if (!(fabs(loss - want) <= w->limit * want))
        fail_msg("loss of step %d is %.9g, not %.9g", (int)w->at - 1, loss, want);
    return 0;
}

static void check_params(const struct fixture *f, const struct golden *g, const struct trajectory *c)
{
    for (int layer = 0; layer < LAYERS; layer++)
        for (int64_t i = 0; i < f->p[layer].nparam; i++) {
            const struct sq_param *q = &f->p[layer].param[i];
            const double limit = q->kind == SQ_P_ALPHA ? c->alpha : q->kind == SQ_P_LORA ? 2e-5 : 1e-4;
            char name[256];
            int64_t n;
            snprintf(name, sizeof name, "layers.%d.%s", layer, q->name);
            double *want = golden_f64(g, name, &n);
            assert_int_equal(n, q->n);
            for (int64_t k = 0; k < n; k++)
                if (!(fabs((double)q->x[k] - want[k]) <= limit))
                    fail_msg("%s: %s[%d] is %.9g, not %.9g", c->name, name, (int)k, (double)q->x[k], want[k]);
            free(want);
        }
}

static void check_output(struct fixture *f, const struct golden *g, const struct trajectory *c)
{
    int64_t n;
    double *want = golden_f64(g, "y", &n), worst = 0.0, size = 0.0;
    float *y = malloc((size_t)n * sizeof *y);
    assert_int_equal(sq_window_forward((struct sq_floats){SQ_F32, y}, f->trainer, &f->job), 0);
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)y[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    if (!(worst <= 1e-4 * size))
        fail_msg("%s: output differs by %g of its largest value", c->name, worst / size);
    free(want);
    free(y);
}

static void check_codes(struct fixture *f, const struct golden *g, const struct trajectory *c)
{
    int64_t different = 0, total = 0;
    struct sq_block flat;
    assert_int_equal(sq_block_new(&flat, &CFG, SQ_F32), 0);
    for (int layer = 0; layer < LAYERS; layer++) {
        const struct sq_params *p = &f->p[layer];
        const struct sq_rowq rq = sq_scheme_weights(&f->job.scheme);
        sq_fold(&flat, &f->w[layer], p, NULL, f->ops);
        for (int64_t i = 0; i < flat.nlinear; i++) {
            char name[256], linear[SQ_LINEAR_NAME];
            int64_t rows, cols, n;
            sq_linear_shape(&rows, &cols, &CFG, i);
            snprintf(name, sizeof name, "layers.%d.%s.q", layer, sq_linear_name(linear, &CFG, i));
            double *want = golden_f64(g, name, &n);
            assert_int_equal(n, rows * cols);
            float *grid = malloc((size_t)(2 * rows) * sizeof *grid);
            uint8_t *q = malloc((size_t)n);
            sq_rowquant_grid(grid, grid + rows, flat.w[i], &rq, p->u[i]->x, p->l[i]->x, rows, cols);
            sq_rowquant_codes(q, flat.w[i], grid, grid + rows, &rq, rows, cols);
            for (int64_t k = 0; k < n; k++)
                different += q[k] != (uint8_t)want[k];
            total += n;
            free(want);
            free(grid);
            free(q);
        }
    }
    sq_block_release(&flat);
    assert_int_equal(total, 61440);
    if (different > 6)
        fail_msg("%s: %d of %d codes differ", c->name, (int)different, (int)total);
}

static void follow(const struct trajectory *c)
{
    struct fixture f;
    struct golden g;
    int64_t n, at = 0;
    char name[64];
    setup(&f, c->scheme, c->scaling, SQ_LOSS_MSE);
    snprintf(name, sizeof name, "window_%s", c->name);
    golden_open(&g, name);
    double *loss = golden_f64(&g, "loss", &n);
    struct watch w = {.want = loss, .limit = c->loss};
    memcpy(f.job.lr, c->lr, sizeof f.job.lr);
    f.job.step = watch_step;
    f.job.ctx = &w;
    for (int i = 0; i < 2 && c->stage[i].steps; i++) {
        f.job.scheme.rate = c->stage[i].rate;
        f.job.order = f.order + at;
        f.job.picks = f.job.epoch = (int64_t)c->stage[i].steps * BATCH;
        assert_int_equal(sq_window_steps(&f.job), c->stage[i].steps);
        assert_int_equal(sq_window_train(f.trainer, &f.job), 1);
        at += f.job.picks;
    }
    assert_int_equal(w.at, n);
    check_params(&f, &g, c);
    if (golden_has(&g, "y")) {
        check_output(&f, &g, c);
        check_codes(&f, &g, c);
    }
    free(loss);
    golden_close(&g);
    teardown(&f);
}

#define RATE_W {0.0, 5e-4, 1e-2}
#define RATE_WA {1e-3, 1e-4, 1e-2}

static void test_w2a16(void **state)
{
    (void)state;
    follow(&(struct trajectory){"w2a16", "W2A16", false, RATE_W, {{1.0, 12}}, 1e-5, 1e-5});
}

static void test_w4a4(void **state)
{
    (void)state;
    follow(&(struct trajectory){"w4a4", "W4A4", true, RATE_WA, {{1.0, 12}}, 1e-5, 1e-5});
}

static void test_stages(void **state)
{
    (void)state;
    follow(&(struct trajectory){"w2a16_stages", "W2A16", false, RATE_W, {{0.5, 6}, {1.0, 6}}, 1e-5, 1e-5});
}

static void test_half(void **state)
{
    (void)state;
    follow(&(struct trajectory){"w4a4_half", "W4A4", true, RATE_WA, {{0.5, 4}}, 5e-5, 1e-3});
}

/* ---- losses ---- */

static void test_loss(void **state)
{
    (void)state;
    float x[] = {3, 4, 0, 0, 6, 8};
    const float y[] = {3, 5, 1, 0, 6, 8.5f};
    const struct sq_floats t = {SQ_F32, x};
    double w[3];
    float dy[6];
    sq_loss_weights(w, SQ_LOSS_MSE, t, 3, 2, 2);
    const struct sq_ops *ops;
    double sum = 1;
    assert_int_equal(sq_ops_get(&ops, SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    ops->loss(&sum, dy, y, t, w, 3, 2, 1.0 / 3); /* added to what there is */
    assert_true(fabs((sum - 1) / 3 - 2.25 / 6) < 1e-12);
    assert_true(fabs((double)dy[1] - 2.0 / 6) < 1e-7 && dy[0] == 0.0f);
    sq_loss_weights(w, SQ_LOSS_TOKEN, t, 3, 2, 2);
    assert_true(fabs(w[0] - 1.0 / 25) < 1e-12 && fabs(w[2] - 1.0 / 100) < 1e-12);
    assert_true(isfinite(w[1]) && fabs(w[1] * 12.5 - 1e9) < 1.0); /* the floor: 1e-9 of mean |t|^2 over two tokens */
    sq_loss_weights(w, SQ_LOSS_MIX, t, 3, 2, 2);
    assert_true(fabs(w[0] - (0.5 / 25 + 0.5 / 12.5)) < 1e-12);
}

/* ---- gradients of the whole window ---- */

/* The loss of one batch in f32, along a parameter's gradient: (L(x + h d) - L(x - h d)) / 2h against |g|. Float
 * rounding of the loss is about 1e-7 of it, so h is such that the difference is 1e-3 of it. Without rounding (16
 * bits) the function is smooth; the quantizer's own gradient is straight-through and cannot be met by differences. */
static void check_direction(struct fixture *f, struct sq_param *q)
{
    const int64_t pick[BATCH] = {1, 4};
    double loss, up, down, norm = 0.0;
    float *keep = malloc((size_t)q->n * sizeof *keep), *g = malloc((size_t)q->n * sizeof *g);
    assert_int_equal(sq_window_grad(&loss, f->trainer, &f->job, pick, BATCH), 0);
    for (int64_t i = 0; i < q->n; i++)
        norm += (double)q->grad[i] * (double)q->grad[i];
    norm = sqrt(norm);
    assert_true(norm > 0.0);
    const double h = 2e-3 * loss / norm / norm; /* along g itself: L changes by h |g|^2 */
    memcpy(keep, q->x, (size_t)q->n * sizeof *keep);
    memcpy(g, q->grad, (size_t)q->n * sizeof *g);
    for (int64_t i = 0; i < q->n; i++)
        q->x[i] = (float)((double)keep[i] + h * (double)g[i]);
    assert_int_equal(sq_window_grad(&up, f->trainer, &f->job, pick, BATCH), 0);
    for (int64_t i = 0; i < q->n; i++)
        q->x[i] = (float)((double)keep[i] - h * (double)g[i]);
    assert_int_equal(sq_window_grad(&down, f->trainer, &f->job, pick, BATCH), 0);
    memcpy(q->x, keep, (size_t)q->n * sizeof *keep);
    const double slope = (up - down) / (2.0 * h), want = norm * norm;
    if (!(fabs(slope - want) <= 5e-3 * want))
        fail_msg("%s: slope %g along the gradient, not %g", q->name, slope, want);
    free(keep);
    free(g);
}

static void test_differences(void **state)
{
    (void)state;
    const enum sq_loss_kind kind[] = {SQ_LOSS_MSE, SQ_LOSS_TOKEN, SQ_LOSS_MIX};
    for (int k = 0; k < SQ_COUNT(kind); k++) {
        struct fixture f;
        setup(&f, "W16A16", true, kind[k]);
        struct sq_rng r = sq_rng_init(1, SQ_RNG_TEST, 0, 0, 0, 0);
        for (int layer = 0; layer < LAYERS; layer++)
            for (int64_t i = 0; i < f.p[layer].nparam; i++) {
                struct sq_param *q = &f.p[layer].param[i];
                for (int64_t j = 0; q->kind == SQ_P_LORA && j < q->n; j++) /* away from B = 0, where A has no slope */
                    q->x[j] += (float)(0.1 * sq_rng_normal(&r));
            }
        for (int layer = 0; layer < LAYERS; layer++)
            for (int64_t i = 0; i < f.p[layer].nparam; i++)
                if (f.p[layer].param[i].kind == SQ_P_LORA)
                    check_direction(&f, &f.p[layer].param[i]);
        teardown(&f);
    }
}

/* The clipping's gradient: at 8 bits the rounding is fine enough that the range alone decides. */
static void test_clip_direction(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, "W8A16", false, SQ_LOSS_MSE);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int64_t i = 0; i < f.p[layer].nparam; i++)
            if (f.p[layer].param[i].kind == SQ_P_CLIP)
                for (int64_t j = 0; j < f.p[layer].param[i].n; j++)
                    f.p[layer].param[i].x[j] = 0.5f; /* clips in earnest: factor .62 */
    const int64_t pick[BATCH] = {1, 4};
    double before, after;
    assert_int_equal(sq_window_grad(&before, f.trainer, &f.job, pick, BATCH), 0);
    double change = 0.0;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int64_t i = 0; i < f.p[layer].nparam; i++) {
            struct sq_param *q = &f.p[layer].param[i];
            for (int64_t j = 0; q->kind == SQ_P_CLIP && j < q->n; j++) {
                change += (double)q->grad[j] * (double)q->grad[j];
            }
        }
    const double h = 0.05 * before / change;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int64_t i = 0; i < f.p[layer].nparam; i++) {
            struct sq_param *q = &f.p[layer].param[i];
            for (int64_t j = 0; q->kind == SQ_P_CLIP && j < q->n; j++)
                q->x[j] -= (float)(h * (double)q->grad[j]);
        }
    assert_int_equal(sq_window_grad(&after, f.trainer, &f.job, pick, BATCH), 0);
    if (!(fabs((before - after) - h * change) <= 0.1 * h * change))
        fail_msg("loss fell by %g along the clipping gradient, not by %g", before - after, h * change);
    teardown(&f);
}

/* All gradients of a batch in so many parts, one after the other. */
static float *grads_of(struct fixture *f, int64_t shards, int64_t *n)
{
    const int64_t pick[BATCH] = {1, 4};
    float *all = NULL;
    double loss;
    f->job.shards = shards;
    assert_int_equal(sq_window_grad(&loss, f->trainer, &f->job, pick, BATCH), 0);
    assert_true(isfinite(loss));
    *n = 0;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int64_t i = 0; i < f->p[layer].nparam; i++) {
            const struct sq_param *q = &f->p[layer].param[i];
            all = realloc(all, (size_t)(*n + q->n) * sizeof *all);
            memcpy(all + *n, q->grad, (size_t)q->n * sizeof *all);
            *n += q->n;
        }
    return all;
}

/* Parts add up to the batch, but for the rounding of f32 sums; a part without samples is none. */
static void test_shards(void **state)
{
    (void)state;
    struct fixture f;
    int64_t n;
    double norm = 0.0, off = 0.0;
    setup(&f, "W4A16", true, SQ_LOSS_MIX);
    for (int i = 0; i < SQ_P_KINDS; i++)
        f.job.lr[i] = 1e-3;
    float *one = grads_of(&f, 1, &n), *two = grads_of(&f, 2, &n), *three = grads_of(&f, 3, &n);
    for (int64_t i = 0; i < n; i++) {
        norm += (double)one[i] * (double)one[i];
        off += pow((double)two[i] - (double)one[i], 2);
    }
    if (!(off > 0.0 && sqrt(off) <= 1e-5 * sqrt(norm)))
        fail_msg("two parts are off by %g of the gradient", sqrt(off / norm));
    assert_memory_equal(two, three, (size_t)n * sizeof *two);
    free(one);
    free(two);
    free(three);
    teardown(&f);
}

/* Forwards made again in the backward: the same bits, with weights and with activations rounded. */
static void test_recompute(void **state)
{
    (void)state;
    static const char *const scheme[] = {"W2A16", "W4A4"};
    struct fixture f;
    for (int s = 0; s < SQ_COUNT(scheme); s++) {
        const int64_t pick[BATCH] = {1, 4};
        float *first[LAYERS];
        double loss[2];
        setup(&f, scheme[s], true, SQ_LOSS_MSE);
        sq_trainer_free(&f.trainer); /* as in earnest: bf16 products, and codes where there is a unit for them */
        assert_int_equal(sq_ops_get(&f.ops, SQ_BACKEND_CPU, SQ_BF16_PRODUCTS), 0);
        assert_int_equal(sq_trainer_new(&f.trainer, &CFG, f.ops, &f.job.scheme, LAYERS + 1, BATCH, TOKENS), 0);
        f.job.scheme.rate = s ? 1 : 0.5;
        struct sq_params last = {0}; /* one more layer behind them, so that two wait for the backward */
        const struct sq_member member[] = {f.member[0], f.member[1], {.w = f.member[0].w, .p = &last}};
        const struct sq_params_spec spec = {.lora = true, .rank = 2, .seed = 1};
        assert_int_equal(sq_params_new(&last, &CFG, &f.job.scheme, &spec, LAYERS), 0);
        f.job.member = member;
        f.job.n = SQ_COUNT(member);
        for (int again = 0; again < 2; again++) {
            f.job.recompute = again;
            assert_int_equal(sq_window_grad(&loss[again], f.trainer, &f.job, pick, BATCH), 0);
            for (int layer = 0; layer < LAYERS; layer++) {
                const struct sq_params *p = &f.p[layer];
                int64_t n = 0;
                for (int64_t i = 0; i < p->nparam; i++)
                    n += 3 * p->param[i].n;
                if (!again)
                    first[layer] = memcpy(malloc((size_t)n * 4), p->moments, (size_t)n * 4);
                else
                    assert_memory_equal(first[layer], p->moments, (size_t)n * 4);
            }
        }
        assert_true(loss[0] == loss[1]);
        assert_true(sq_trainer_bytes(&CFG, f.ops, &f.job.scheme, LAYERS, BATCH, TOKENS, true) <
                    sq_trainer_bytes(&CFG, f.ops, &f.job.scheme, LAYERS, BATCH, TOKENS, false));
        for (int layer = 0; layer < LAYERS; layer++)
            free(first[layer]);
        sq_params_release(&last);
        teardown(&f);
    }
}

/* A signal that is there when a step begins: nothing is folded, nothing must be multiplied. In a process of its own, as a
 * signal stays. */
static void test_signal(void **state)
{
    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        const int64_t pick[BATCH] = {1, 4};
        struct fixture f;
        double loss;
        omp_set_num_threads(1); /* the parent's threads are not here */
        setup(&f, "W4A4", true, SQ_LOSS_MSE);
        sq_trainer_free(&f.trainer);
        if (sq_ops_get(&f.ops, SQ_BACKEND_CPU, SQ_BF16_PRODUCTS) < 0 ||
            sq_trainer_new(&f.trainer, &CFG, f.ops, &f.job.scheme, LAYERS, BATCH, TOKENS) < 0)
            _exit(2);
        sq_stop_catch();
        raise(SIGTERM);
        _exit(sq_window_grad(&loss, f.trainer, &f.job, pick, BATCH) == SQ_E_IO ? 0 : 1);
    }
    int status = -1;
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_int_equal(status, 0);
}

/* ---- guard, order, threads ---- */

static void train_setup(struct fixture *f, const char *scheme, int64_t *order, int64_t picks)
{
    const struct sq_window w = {.first = 0, .last = 1};
    setup(f, scheme, false, SQ_LOSS_MIX);
    f->job.heldout = 2;
    f->job.epoch = SAMPLES - f->job.heldout;
    f->job.picks = picks;
    f->job.order = order;
    f->job.lr[SQ_P_LORA] = 5e-4;
    f->job.lr[SQ_P_CLIP] = 1e-2;
    assert_int_equal(sq_window_order(order, picks, f->job.epoch, 7, &w, 1.0), 0);
}

static void test_guard(void **state)
{
    (void)state;
    struct fixture f;
    struct sq_window_result r;
    int64_t order[24];
    train_setup(&f, "W2A16", order, 24);
    assert_int_equal(sq_window_learn(&r, f.trainer, &f.job), 0);
    assert_true(r.exit.train < r.entry.train && r.retries == 0 && r.fallbacks == 0);
    assert_true(r.plain.train > 0.0 && r.exit.heldout > 0.0 && r.exit.heldout != r.exit.train);

    /* a rate that destroys everything: retried, then the entry parameters stay, bit for bit */
    const struct sq_param *q = f.p[0].a[SQ_Q];
    float *keep = malloc((size_t)q->n * sizeof *keep);
    memcpy(keep, q->x, (size_t)q->n * sizeof *keep);
    f.job.lr[SQ_P_LORA] = 1e6;
    assert_int_equal(sq_window_learn(&r, f.trainer, &f.job), 0);
    assert_int_equal(r.retries, 1);
    assert_int_equal(r.fallbacks, 1);
    assert_true(r.exit.train == r.entry.train);
    assert_memory_equal(keep, q->x, (size_t)q->n * sizeof *keep);
    f.job.lr[SQ_P_LORA] = NAN;
    f.job.lr[SQ_P_CLIP] = INFINITY;
    assert_int_equal(sq_window_learn(&r, f.trainer, &f.job), 0);
    assert_int_equal(r.fallbacks, 1);
    assert_memory_equal(keep, q->x, (size_t)q->n * sizeof *keep);
    free(keep);
    teardown(&f);
}

static void test_order(void **state)
{
    (void)state;
    const struct sq_window w = {.first = 3, .last = 4};
    int64_t a[17], b[17], c[17], seen[7] = {0};
    assert_int_equal(sq_window_order(a, 17, 7, 1, &w, 0.5), 0);
    assert_int_equal(sq_window_order(b, 17, 7, 1, &w, 0.5), 0);
    assert_int_equal(sq_window_order(c, 17, 7, 1, &w, 1.0), 0);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    for (int i = 0; i < 7; i++)
        seen[a[i]]++;
    for (int i = 0; i < 7; i++)
        assert_int_equal(seen[i], 1);
    assert_memory_not_equal(a, a + 7, 7 * sizeof *a); /* the next epoch has another order */
}

/* epochs end with a smaller batch: 5 picks of 2 are 3 steps, and 12 picks in epochs of 5 are 3 + 3 + 1 */
static void test_steps(void **state)
{
    (void)state;
    assert_int_equal(sq_window_steps(&(struct sq_window_job){.picks = 5, .epoch = 5, .batch = 2}), 3);
    assert_int_equal(sq_window_steps(&(struct sq_window_job){.picks = 12, .epoch = 5, .batch = 2}), 7);
    assert_int_equal(sq_window_steps(&(struct sq_window_job){.picks = 0, .epoch = 5, .batch = 2}), 0);
}

static void test_threads(void **state)
{
    (void)state;
    uint64_t digest[3];
    const int threads[] = {1, 2, 4}, before = omp_get_max_threads();
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        struct sq_window_result r;
        int64_t order[24];
        omp_set_num_threads(threads[i]);
        train_setup(&f, "W4A4", order, 24);
        assert_int_equal(sq_window_learn(&r, f.trainer, &f.job), 0);
        uint64_t all = 0;
        for (int layer = 0; layer < LAYERS; layer++)
            for (int64_t k = 0; k < f.p[layer].nparam; k++)
                all = 31 * all + sq_hash_of(f.p[layer].param[k].x, (size_t)f.p[layer].param[k].n * sizeof(float));
        digest[i] = all ^ sq_hash_of(&r.exit, sizeof r.exit);
        teardown(&f);
    }
    omp_set_num_threads(before);
    assert_true(digest[0] == digest[1] && digest[0] == digest[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_w2a16),       cmocka_unit_test(test_w4a4),
        cmocka_unit_test(test_stages),      cmocka_unit_test(test_half),
        cmocka_unit_test(test_loss),        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_recompute), cmocka_unit_test(test_signal),   cmocka_unit_test(test_shards),
        cmocka_unit_test(test_clip_direction), cmocka_unit_test(test_guard),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_steps),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
