/* A window on a device, which is emulated here, beside the reference: losses, gradients, what is kept or made again, in parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "../emulator.h"
#include "sq/rng.h"
#include "sq/window.h"

/* A sanitizer makes the emulator five times as slow, and sees the same code in fewer modes. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif
enum { LAYERS = 2, TOKENS = 11, SAMPLES = 5, BATCH = 3 };

/* Grouped-query attention, and rows of which a lane of the fold takes neighbours; biases; q/k norms; experts. Sizes that no
 * warp or tile divides. */
enum { EXPERTS = 3 };
static const struct sq_config MODEL[] = {
    {.arch = "LlamaForCausalLM", .model_type = "llama", .hidden = 128, .heads = 4, .kv_heads = 2, .head_dim = 12, .ffn = 132,
     .layers = LAYERS, .vocab = 32, .max_positions = 64, .eps = 1e-6, .rope_theta = 1e4},
    {.arch = "Qwen2ForCausalLM", .model_type = "qwen2", .hidden = 40, .heads = 5, .kv_heads = 1, .head_dim = 8, .ffn = 72,
     .layers = LAYERS, .vocab = 32, .max_positions = 64, .eps = 1e-6, .rope_theta = 1e4, .qkv_bias = true,
     .mlp_bias = true},
    {.arch = "Qwen3ForCausalLM", .model_type = "qwen3", .hidden = 32, .heads = 2, .kv_heads = 2, .head_dim = 20, .ffn = 56,
     .layers = LAYERS, .vocab = 32, .max_positions = 64, .eps = 1e-6, .rope_theta = 1e4, .qk_norm = true},
    {.arch = "Qwen3MoeForCausalLM", .model_type = "qwen3_moe", .hidden = 40, .heads = 4, .kv_heads = 2, .head_dim = 12, .ffn = 24,
     .layers = LAYERS, .vocab = 32, .max_positions = 64, .eps = 1e-6, .rope_theta = 1e4, .qk_norm = true, .experts = 5, .top = 2,
     .renorm = true},
};

struct window {
    const struct sq_config *cfg;
    const struct sq_ops *ops;
    struct sq_block w[LAYERS];
    struct sq_params p[LAYERS];
    struct sq_member member[LAYERS];
    struct sq_trainer *trainer;
    float *xq, *target;
    double *weight;
    struct sq_window_job job;
};

static void normal(float *x, int64_t n, double size, uint64_t what)
{
    struct sq_rng r = sq_rng_init(3, SQ_RNG_TEST, what, 0, 0, 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(size * sq_rng_normal(&r));
}

/* What an expert looks for: as many channels as others have. */
static void add_topic(float *x, const struct sq_config *cfg, int64_t topic, float size)
{
    const int64_t wide = cfg->hidden / cfg->experts;
    for (int64_t i = 0; i < wide; i++)
        x[topic * wide + i] += size;
}

/* A token has two topics that stand out of the rest: rounding moves no choice. Nobody has the last topic. */
static void clear_choices(float *x, const struct sq_config *cfg, int64_t tokens)
{
    const int64_t some = cfg->experts - 1;
    for (int64_t i = 0; i < tokens && cfg->experts; i++) {
        add_topic(x + i * cfg->hidden, cfg, i % some, 2);
        add_topic(x + i * cfg->hidden, cfg, (i + 1 + i / some % (some - 1)) % some, 2);
    }
}

/* Other experts in other layers. */
static void random_router(float *router, const struct sq_config *cfg, uint64_t layer)
{
    normal(router, cfg->experts * cfg->hidden, 0.1 / sqrt((double)cfg->hidden), 100 * layer + 95);
    for (int64_t e = 0; e < cfg->experts; e++)
        add_topic(router + e * cfg->hidden, cfg, (e + (int64_t)layer) % cfg->experts, 0.4f);
}

static void random_layer(struct sq_block *w, const struct sq_config *cfg, enum sq_dtype type, uint64_t layer)
{
    assert_int_equal(sq_block_new(w, cfg, type), 0);
    for (int64_t k = 0; k < w->nlinear; k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, k);
        float *x = malloc((size_t)(rows * cols) * sizeof *x);
        normal(x, rows * cols, 1 / sqrt((double)cols), 100 * layer + (uint64_t)k);
        sq_floats_put((struct sq_floats){type, w->w[k]}, x, rows * cols);
        free(x);
        if (w->bias[k])
            normal(w->bias[k], rows, 0.5, 100 * layer + 50 + (uint64_t)k);
    }
    for (int g = 0; g < SQ_GAINS; g++) {
        normal(w->gain[g], sq_gain_size(cfg, (enum sq_gain_id)g), 0.2, 100 * layer + 90 + (uint64_t)g);
        for (int64_t i = 0; i < sq_gain_size(cfg, (enum sq_gain_id)g); i++)
            w->gain[g][i] += 1;
    }
    if (w->router)
        random_router(w->router, cfg, layer);
}

/* As after some steps: nothing is where it started. */
/* scaled: with scales, and a rank of 3; else 4, which folds in its own way where rows are wide */
static void random_params(struct sq_params *p, const struct sq_config *cfg, const struct sq_scheme *s, bool scaled, int64_t layer)
{
    const struct sq_params_spec spec = {.lora = true, .clip = true, .scaling = scaled, .rank = scaled ? 3 : 4, .clip_start = 2.0, .seed = 7};
    assert_int_equal(sq_params_new(p, cfg, s, &spec, layer), 0);
    for (int64_t i = 0; i < p->nparam; i++) {
        float *add = malloc((size_t)p->param[i].n * sizeof *add);
        normal(add, p->param[i].n, p->param[i].kind == SQ_P_CLIP ? 0.5 : 0.05, 1000 + 100 * (uint64_t)layer + (uint64_t)i);
        for (int64_t k = 0; k < p->param[i].n; k++)
            p->param[i].x[k] += add[k];
        free(add);
    }
}

struct mode {
    int model;
    const char *scheme;
    double rate;
    enum sq_precision precision;
    enum sq_dtype weights;
    bool unscaled; /* scales are not learned */
};

static void setup(struct window *w, const struct mode *m, enum sq_backend backend)
{
    const struct sq_config *cfg = &MODEL[m->model];
    const int64_t n = SAMPLES * TOKENS * cfg->hidden;
    memset(w, 0, sizeof *w);
    w->cfg = cfg;
    assert_int_equal(sq_scheme_parse(&w->job.scheme, m->scheme), 0);
    w->job.scheme.rate = m->rate;
    if (sq_ops_get(&w->ops, backend, m->precision) < 0)
        fail_msg("%s", sq_errmsg());
    for (int i = 0; i < LAYERS; i++) {
        random_layer(&w->w[i], cfg, m->weights, (uint64_t)i + 1);
        random_params(&w->p[i], cfg, &w->job.scheme, !m->unscaled, i);
        w->member[i] = (struct sq_member){.w = &w->w[i], .p = &w->p[i]};
    }
    w->xq = malloc((size_t)n * sizeof *w->xq);
    w->target = malloc((size_t)n * sizeof *w->target);
    w->weight = malloc(SAMPLES * TOKENS * sizeof *w->weight);
    normal(w->xq, n, 1, 5000);
    clear_choices(w->xq, cfg, SAMPLES * TOKENS);
    normal(w->target, n, 2, 5001);
    sq_loss_weights(w->weight, SQ_LOSS_MIX, (struct sq_floats){SQ_F32, w->target}, SAMPLES * TOKENS, SAMPLES * TOKENS,
                    cfg->hidden);
    if (sq_trainer_new(&w->trainer, cfg, w->ops, &w->job.scheme, LAYERS, BATCH, TOKENS) < 0)
        fail_msg("%s", sq_errmsg());
    w->job.member = w->member;
    w->job.n = LAYERS;
    w->job.xq = (struct sq_floats){SQ_F32, w->xq};
    w->job.target = (struct sq_floats){SQ_F32, w->target};
    w->job.weight = w->weight;
    w->job.samples = SAMPLES;
    w->job.heldout = 1;
    w->job.batch = BATCH;
    for (int i = 0; i < SQ_P_KINDS; i++)
        w->job.lr[i] = 1e-3;
}

static void teardown(struct window *w)
{
    sq_trainer_free(&w->trainer);
    for (int i = 0; i < LAYERS; i++) {
        sq_params_release(&w->p[i]);
        sq_block_release(&w->w[i]);
    }
    free(w->xq);
    free(w->target);
    free(w->weight);
}

/* ---- beside the reference ---- */

/* The chain of a window has about a hundred operations of sums of up to 132 terms; each errs by an NMSE of at most 132 U^2 / 2
 * beside the reference, U = 2^-24; sums of scales and softmax cancel, which costs some more: in all 100 x 66 U^2 x 50. */
static const double F32_LIMIT = 100.0 * 66 * 50 / (1 << 24) / (1 << 24);
/* Products of operands rounded to bf16 see a difference as one of 2^-8 wherever it moves an operand over an edge. The device
 * rounds operands of attention's backward, too, which moves its gradients by 5e-3 of themselves (device_check_ops.c), about a
 * unit of bf16: what is rounded behind it is rounded independently of the reference. Five of attention's products come to the 14
 * of the linears' backward, so seen from the result in f32 the device's roundings cost 1.4 of the reference's; the forward and
 * the weights are rounded alike, so seen from the reference they cost no more than its own. That is so on average (geometric, of
 * all gradients of a window: of the order of fifty, the logarithm of each off by 0.6, and not independent); a gradient of a few
 * elements may have had luck on one side. */
static const double FROM_F32 = 1.5, FROM_BF16 = 1.0, LUCK = 10;

static double nmse(const float *got, const float *want, int64_t n)
{
    double err = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - (double)want[i];
        err += d * d;
        all += (double)want[i] * (double)want[i];
    }
    return err == 0 ? 0 : err / all;
}

static void near(const char *what, double got, double want, double limit)
{
    if (!(fabs(got - want) <= limit * fabs(want)))
        fail_msg("%s is %.9g, not %.9g", what, got, want);
}

/* Scales between the norms of queries and keys cancel in their products; only rounding of queries and keys sees them. */
static bool cancels(const struct window *w, const struct sq_param *q)
{
    return w->cfg->qk_norm && w->job.scheme.abits >= 16 && strcmp(q->name, "alpha.qk") == 0;
}

static double largest(const struct sq_param *q)
{
    double top = 0;
    for (int64_t i = 0; i < q->n; i++)
        top = fmax(top, fabs((double)q->grad[i]));
    return top;
}

/* Gradients of a window, as parts of their limits: the furthest one, and how far all are on average, in logarithms. */
struct distance {
    double worst, from_bf16, from_f32;
    int n;
};

static void compare_gradient(struct distance *x, const char *name, const float *got, const float *want, const float *in_f32,
                             int64_t n)
{
    const double rounding = nmse(want, in_f32, n), e = nmse(got, want, n), limit = F32_LIMIT + LUCK * rounding;
    if (!(e <= limit))
        fail_msg("gradient of %s: NMSE %.2e above %.2e", name, e, limit);
    x->worst = fmax(x->worst, e / limit);
    if (rounding < F32_LIMIT)
        return;
    x->from_bf16 += log(e / rounding / FROM_BF16);
    x->from_f32 += log(nmse(got, in_f32, n) / rounding / FROM_F32);
    x->n++;
}

/* exact: the reference with products in f32. */
static struct distance compare_gradients(const struct window *d, const struct window *r, const struct window *exact)
{
    struct distance x = {0};
    for (int k = 0; k < LAYERS; k++)
        for (int64_t i = 0; i < r->p[k].nparam; i++) {
            const struct sq_param *q = &r->p[k].param[i];
            if (cancels(r, q)) {
                const double size = largest(r->p[k].alpha[SQ_AT_QKV]);
                const double noise = r->ops->precision == SQ_F32_PRODUCTS ? 1e-5 : 1e-2;
                assert_true(largest(q) < noise * size && largest(&d->p[k].param[i]) < noise * size);
                continue;
            }
            compare_gradient(&x, q->name, d->p[k].param[i].grad, q->grad, exact->p[k].param[i].grad, q->n);
        }
    x.from_bf16 = x.n ? exp(x.from_bf16 / x.n) : 0;
    x.from_f32 = x.n ? exp(x.from_f32 / x.n) : 0;
    return x;
}

/* of a loss, relative: rounding may move it either way and stop anywhere, so this only has the size of what it does, or of a
 * quarter of bf16's unit */
static double slack(double rounded, double exact)
{
    return sqrt(F32_LIMIT) + (rounded == exact ? 0 : SQ_MAX(fabs(rounded / exact - 1), 1.0 / (1 << 10)));
}

static void beside_reference(const struct mode *m)
{
    const int64_t pick[BATCH] = {3, 0, 2};
    struct mode f32 = *m;
    struct window w[3]; /* the device, the reference, the reference in f32 */
    struct sq_losses loss[3];
    double batch[3];
    f32.precision = SQ_F32_PRODUCTS;
    for (int i = 0; i < 3; i++)
        setup(&w[i], i < 2 ? m : &f32, i ? SQ_BACKEND_REF : SQ_BACKEND_CUDA);
    for (int plain = 0; plain < 2; plain++) {
        for (int i = 0; i < 3; i++)
            assert_int_equal(sq_window_eval(&loss[i], w[i].trainer, &w[i].job, plain), 0);
        near("loss", loss[0].train, loss[1].train, slack(loss[1].train, loss[2].train));
        near("held-out loss", loss[0].heldout, loss[1].heldout, slack(loss[1].heldout, loss[2].heldout));
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(sq_window_grad(&batch[i], w[i].trainer, &w[i].job, pick, BATCH), 0);
    near("loss of a batch", batch[0], batch[1], slack(batch[1], batch[2]));
    const struct distance x = compare_gradients(&w[0], &w[1], &w[2]);
    print_message("model %d %s rate %.1f %s: gradients %.2f of the limit, on average %.2f from bf16, %.2f from f32 (%d)\n",
                  m->model, m->scheme, m->rate, m->precision == SQ_F32_PRODUCTS ? "f32" : "bf16", x.worst, x.from_bf16,
                  x.from_f32, x.n);
    assert_true(x.from_bf16 <= 1 && x.from_f32 <= 1);
    assert_true((x.n > 20) == (m->precision == SQ_BF16_PRODUCTS));
    for (int i = 0; i < 3; i++)
        teardown(&w[i]);
}

static void test_reference(void **state)
{
    (void)state;
    for (int model = 0; model < SQ_COUNT(MODEL); model++) {
        beside_reference(&(struct mode){model, "W2A16", 1.0, SQ_F32_PRODUCTS, SQ_BF16, false});
        if (SLOW)
            continue;
        beside_reference(&(struct mode){model, "W3A16g8", 0.5, SQ_F32_PRODUCTS, SQ_F32, false});
        beside_reference(&(struct mode){model, "W4A4", 0.5, SQ_F32_PRODUCTS, SQ_F32, false});
        beside_reference(&(struct mode){model, "W2A16", 1.0, SQ_BF16_PRODUCTS, SQ_BF16, false});
    }
    beside_reference(&(struct mode){EXPERTS, "W4A4", 1.0, SQ_BF16_PRODUCTS, SQ_BF16, false});
    if (SLOW)
        return;
    /* channels that have no gradient of the weight, with a short last group, and of an expert without tokens */
    beside_reference(&(struct mode){0, "W2A16", 0.5, SQ_BF16_PRODUCTS, SQ_BF16, true});
    beside_reference(&(struct mode){1, "W3A16g16", 0.5, SQ_F32_PRODUCTS, SQ_F32, true});
    beside_reference(&(struct mode){EXPERTS, "W2A16", 0.5, SQ_F32_PRODUCTS, SQ_BF16, true});
    beside_reference(&(struct mode){EXPERTS, "W2A16", 0.5, SQ_BF16_PRODUCTS, SQ_BF16, true});
}

/* ---- the same bytes ---- */

/* The device's table, but for its recordings. */
static const struct sq_ops *device;
static struct sq_ops table;
static int replays;

static bool count_replay(enum sq_part part, int64_t key)
{
    const bool done = device->replay(part, key);
    replays += done;
    return done;
}

static bool never_replay(enum sq_part part, int64_t key)
{
    (void)part;
    (void)key;
    return false;
}

static void record_nothing(enum sq_part part)
{
    (void)part;
}

struct how {
    bool recompute, records;
    int64_t shards;
    const char *order;
};

/* Some steps, the last of an epoch a short one; the parameters as one array, to be freed. */
static float *trained(const struct mode *m, struct how how, size_t *bytes)
{
    const int64_t picks[] = {0, 1, 2, 3, 4, 3, 1, 0, 4, 2};
    struct window w;
    int64_t n = 0;
    if (how.order)
        setenv("SQ_EMU_SEED", how.order, 1);
    setup(&w, m, SQ_BACKEND_CUDA);
    device = w.ops;
    table = *device;
    table.replay = how.records ? count_replay : never_replay;
    table.recorded = how.records ? device->recorded : record_nothing;
    sq_trainer_free(&w.trainer);
    assert_int_equal(sq_trainer_new(&w.trainer, w.cfg, &table, &w.job.scheme, LAYERS, BATCH, TOKENS), 0);
    replays = 0;
    w.job.order = picks;
    w.job.picks = SQ_COUNT(picks);
    w.job.epoch = SAMPLES;
    w.job.batch = 2;
    w.job.heldout = 0;
    w.job.recompute = how.recompute;
    w.job.shards = how.shards;
    assert_int_equal(sq_window_train(w.trainer, &w.job), 1);
    /* 6 steps of 2, 2, 1 samples: weights are folded as recorded from the second, parts of 2 (in shards, of 1) go as recorded
     * from the second, too, but not with experts; the recording itself is replayed once more and not counted */
    const int parts = w.cfg->experts > 0 ? 0 : how.shards == 1 ? 2 * 2 : 2 * 8;
    assert_int_equal(replays, how.records ? 4 + parts : 0);
    unsetenv("SQ_EMU_SEED");
    for (int k = 0; k < LAYERS; k++)
        for (int64_t i = 0; i < w.p[k].nparam; i++)
            n += w.p[k].param[i].n;
    float *all = malloc((size_t)n * sizeof *all), *at = all;
    for (int k = 0; k < LAYERS; k++)
        for (int64_t i = 0; i < w.p[k].nparam; at += w.p[k].param[i++].n)
            memcpy(at, w.p[k].param[i].x, (size_t)w.p[k].param[i].n * sizeof *at);
    *bytes = (size_t)n * sizeof *all;
    teardown(&w);
    return all;
}

/* In another order of threads and streams; with forwards made again; without recordings: the first `ways` of these. */
static void same_bytes(const struct mode *m, int ways)
{
    const struct how plain = {.records = true, .shards = 1};
    struct how others[] = {plain, plain, plain};
    size_t bytes, n;
    float *want = trained(m, plain, &bytes);
    others[0].order = "17";
    others[1].recompute = true;
    others[2].records = false;
    for (int i = 0; i < ways; i++) {
        float *got = trained(m, others[i], &n);
        assert_memory_equal(got, want, bytes);
        free(got);
    }
    free(want);
}

/* Other sums, nearly the same. */
static void parts_are_near(const struct mode *m)
{
    size_t bytes, n;
    float *whole = trained(m, (struct how){.records = true, .shards = 1}, &bytes),
          *parts = trained(m, (struct how){.records = true, .shards = 2}, &n);
    assert_memory_not_equal(parts, whole, bytes);
    assert_true(nmse(parts, whole, (int64_t)(bytes / sizeof *whole)) < 1e-4);
    free(parts);
    free(whole);
}

static void test_bytes(void **state)
{
    (void)state;
    same_bytes(&(struct mode){0, "W2A16", 1.0, SQ_BF16_PRODUCTS, SQ_BF16, false}, SLOW ? 1 : 3);
    if (SLOW)
        return;
    same_bytes(&(struct mode){0, "W3A16g16", 0.5, SQ_BF16_PRODUCTS, SQ_BF16, true}, 3);
    same_bytes(&(struct mode){1, "W4A4", 0.5, SQ_F32_PRODUCTS, SQ_F32, false}, 1);
    same_bytes(&(struct mode){EXPERTS, "W4A4", 0.5, SQ_BF16_PRODUCTS, SQ_F32, false}, 2);
    parts_are_near(&(struct mode){1, "W2A16", 1.0, SQ_F32_PRODUCTS, SQ_F32, false});
}

/* ---- layers on their own ---- */

static void layers(int model)
{
    const struct mode m = {model, "W4A4", 1.0, SQ_F32_PRODUCTS, SQ_BF16, false};
    const double limit = F32_LIMIT;
    struct window w[2];
    struct sq_input_stats s[2];
    float *first = NULL;
    int64_t n = 0;
    for (int i = 0; i < 2; i++) {
        setup(&w[i], &m, i ? SQ_BACKEND_REF : SQ_BACKEND_CUDA);
        n = SAMPLES * TOKENS * w[i].cfg->hidden;
        const struct sq_floats x = {SQ_F32, w[i].xq};
        assert_int_equal(sq_input_stats_new(&s[i], w[i].cfg, w[i].ops->host), 0);
        assert_int_equal(sq_trainer_float(w[i].trainer, x, SAMPLES, &w[i].w[0], &s[i]), 0);
        assert_int_equal(sq_trainer_float(w[i].trainer, x, SAMPLES, &w[i].w[1], NULL), 0);
        assert_int_equal(sq_trainer_rounded(w[i].trainer, x, SAMPLES, &w[i].member[0], &w[i].job.scheme), 0);
        assert_int_equal(sq_window_forward(x, w[i].trainer, &w[i].job), 0);
        if (!first) {
            first = malloc((size_t)n * sizeof *first);
            memcpy(first, w[i].xq, (size_t)n * sizeof *first);
        }
    }
    assert_true(nmse(first, w[1].xq, n) <= limit);
    assert_int_equal(s[0].tokens, SAMPLES * TOKENS);
    for (int64_t i = 0; i < s[1].count; i++)
        near("a sum of squares", s[0].qkv[i], s[1].qkv[i], sqrt(limit));
    for (int i = 0; i < 2; i++) {
        sq_input_stats_release(&s[i]);
        teardown(&w[i]);
    }
    free(first);
}

static void test_layers(void **state)
{
    (void)state;
    layers(1);
    layers(EXPERTS);
}

/* ---- the search of clipping factors: IEEE operations, sums of a given order, so the reference's bits ---- */

static void search_beside_reference(const struct mode *m, bool weighted)
{
    struct window w[2];
    for (int i = 0; i < 2; i++) {
        struct sq_input_stats s;
        setup(&w[i], m, i ? SQ_BACKEND_REF : SQ_BACKEND_CUDA);
        assert_int_equal(sq_input_stats_new(&s, w[i].cfg, w[i].ops->host), 0);
        for (int64_t k = 0; k < s.count; k++)
            s.qkv[k] = 1 + (double)(k * k % 101);
        if (sq_trainer_search(w[i].trainer, &w[i].member[0], &w[i].job.scheme, weighted ? &s : NULL) < 0)
            fail_msg("%s", sq_errmsg());
        sq_input_stats_release(&s);
    }
    for (int64_t i = 0; i < w[0].p[0].nparam; i++) {
        const struct sq_param *d = &w[0].p[0].param[i];
        assert_memory_equal(d->x, w[1].p[0].param[i].x, (size_t)d->n * sizeof *d->x);
    }
    for (int i = 0; i < 2; i++)
        teardown(&w[i]);
}

static void test_search(void **state)
{
    (void)state;
    search_beside_reference(&(struct mode){0, "W2A16", 1.0, SQ_F32_PRODUCTS, SQ_BF16, false}, true);
    search_beside_reference(&(struct mode){1, "W4A16g32s", 0.5, SQ_F32_PRODUCTS, SQ_F32, false}, false);
    search_beside_reference(&(struct mode){2, "W3A16g32", 1.0, SQ_F32_PRODUCTS, SQ_BF16, false}, true);
}

/* ---- what goes wrong ---- */

static void test_not_finite(void **state)
{
    (void)state;
    const struct mode m = {0, "W2A16", 1.0, SQ_F32_PRODUCTS, SQ_F32, false};
    const int64_t picks[] = {0, 1, 2, 3};
    struct window w;
    setup(&w, &m, SQ_BACKEND_CUDA);
    w.job.order = picks;
    w.job.picks = w.job.epoch = 4;
    w.target[7] = NAN; /* of sample 0 */
    assert_int_equal(sq_window_train(w.trainer, &w.job), 0);
    w.target[7] = 0;
    assert_int_equal(sq_window_train(w.trainer, &w.job), 1); /* nothing of it stays */
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_bytes),   cmocka_unit_test(test_layers),
        cmocka_unit_test(test_search),    cmocka_unit_test(test_not_finite),
    };
    emulator_use();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
