/* Hidden states, logits, likelihoods and figures of whole models against the oracle's goldens. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "../golden.h"
#include "sq/eval.h"
#include "sq/json.h"
#include "sq/scheme.h"

#define TINYSTORIES "../shared/data/models/TinyStories-656K"

static const struct sq_ops *backend(int which)
{
    const struct sq_ops *ops = NULL;
    assert_int_equal(sq_ops_get(&ops, which ? SQ_BACKEND_CPU : SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    return ops;
}

static struct sq_windows windows_of(const struct golden *g)
{
    int64_t dim[4] = {0}, n;
    const char *dtype;
    struct sq_windows w;
    const char *raw = golden_raw(g, "ids", &dtype, &n, dim);
    struct sq_ids ids = {.v = malloc((size_t)n * sizeof(int32_t)), .n = n};
    memcpy(ids.v, raw, (size_t)n * sizeof *ids.v);
    assert_int_equal(sq_windows_cut(&w, &ids, dim[1], 0), 0);
    free(ids.v);
    return w;
}

/* ---- whole models: hidden states behind every layer, logits, likelihood ------------------------ */

struct seen {
    double *hidden; /* of the golden, [L, n, T, C] */
    int64_t size;   /* n T C */
    double worst;
    int64_t layers;
};

static double far(const float *x, const double *want, int64_t n)
{
    double diff = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        diff = fmax(diff, isnan(x[i]) ? INFINITY : fabs((double)x[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    return diff / size;
}

static void see(void *user, int64_t layer, const float *hidden)
{
    struct seen *s = user;
    assert_int_equal(layer, s->layers++);
    s->worst = fmax(s->worst, far(hidden, s->hidden + layer * s->size, s->size));
}

static void check_model(const char *dir, const char *file, int which)
{
    struct golden g;
    struct sq_source *src = NULL;
    struct sq_states s;
    struct sq_metric m;
    struct seen seen = {0};
    const struct sq_watch watch = {.layer = see, .user = &seen};
    int64_t nhidden, nlogits;
    golden_open(&g, file);
    struct sq_windows w = windows_of(&g);
    if (sq_source_open(&src, dir) < 0)
        fail_msg("%s", sq_errmsg());
    seen.hidden = golden_f64(&g, "hidden", &nhidden);
    seen.size = nhidden / sq_source_config(src)->layers;
    double *logits = golden_f64(&g, "logits", &nlogits), *nll = golden_f64(&g, "nll", NULL);
    if (sq_states_run(&s, src, &w, backend(which), &watch) < 0)
        fail_msg("%s: %s", dir, sq_errmsg());
    assert_int_equal(seen.layers, s.cfg.layers);
    const int64_t rows = w.n * w.length;
    assert_int_equal(nlogits, rows * s.cfg.vocab);
    float *got = malloc((size_t)nlogits * sizeof *got);
    assert_int_equal(sq_states_logits(got, &s, 0, rows), 0);
    const double e = far(got, logits, nlogits);
    assert_int_equal(sq_perplexity(&m, NULL, &s, &w), 0);
    print_message("%s %s: hidden %.1e logits %.1e nll %.1e\n", dir, s.ops->name, seen.worst, e, log(m.value) - *nll);
    assert_true(seen.worst <= 1e-5);
    assert_true(e <= 1e-5);
    assert_true(fabs(log(m.value) - *nll) <= 1e-5);
    free(got);
    free(nll);
    free(logits);
    free(seen.hidden);
    sq_states_release(&s);
    sq_source_close(&src);
    sq_windows_release(&w);
    golden_close(&g);
}

static void test_models(void **state)
{
    (void)state;
    const char *const models[] = {"llama3", "qwen2", "qwen3", "qwen3-moe", "llama-48"};
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int which = 0; which < 2; which++) {
            char dir[128], file[128];
            snprintf(dir, sizeof dir, "tests/oracle/goldens/models/%s", models[m]);
            snprintf(file, sizeof file, "models/%s/logits", models[m]);
            check_model(dir, file, which);
        }
}

static void skip_without_tinystories(void)
{
    if (access(TINYSTORIES "/config.json", R_OK) != 0) {
        print_message("skipped: " TINYSTORIES " is absent\n");
        skip();
    }
}

static void test_tinystories(void **state)
{
    (void)state;
    skip_without_tinystories();
    check_model(TINYSTORIES, "model_tinystories", 1);
}

/* ---- plain rounding ---------------------------------------------------------------------------- */

/* Likelihood of the oracle's windows with every layer rounded on its min-max grid: a layer that learns, but has no
 * parameters yet. */
static void rounded_nll(struct sq_metric *m, double *nll, const struct sq_windows *w, const char *scheme_name)
{
    struct sq_source *src = NULL;
    struct sq_states s;
    struct sq_scheme scheme;
    struct sq_table embed = SQ_TABLE_INIT;
    struct sq_tensor norm = SQ_TENSOR_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    const bool rounds = strcmp(scheme_name, "float") != 0;
    assert_int_equal(sq_source_open(&src, TINYSTORIES), 0);
    assert_int_equal(sq_source_top(src, &embed.weight), 1);
    assert_int_equal(sq_states_embed(&s, sq_source_config(src), &embed, w, backend(1), NULL), 0);
    struct sq_tensor rest = SQ_TENSOR_INIT;
    assert_int_equal(sq_source_top(src, &rest), 0);
    while (sq_source_layer(src, &l) > 0) {
        if (rounds) {
            assert_int_equal(sq_scheme_parse(&scheme, scheme_name), 0);
            assert_int_equal(sq_scheme_to_json(&l.scheme, &scheme), 0);
            l.state = SQ_LEARNING;
        }
        if (sq_states_layer(&s, &l) < 0)
            fail_msg("%s", sq_errmsg());
    }
    assert_int_equal(sq_source_top(src, &norm), 1);
    assert_int_equal(sq_states_head(&s, &norm, &embed), 0); /* tied */
    assert_int_equal(sq_perplexity(m, nll, &s, w), 0);
    sq_layer_release(&l);
    sq_tensor_release(&norm);
    sq_table_release(&embed);
    sq_states_release(&s);
    sq_source_close(&src);
}

static void test_rounding(void **state)
{
    (void)state;
    const char *const scheme[] = {"float", "W4A16", "W3A16", "W2A16", "W4A4"};
    struct sq_ids ids = SQ_IDS_INIT;
    struct sq_windows w;
    json_t *golden = NULL;
    skip_without_tinystories();
    assert_int_equal(sq_json_load(&golden, "tests/oracle/goldens/rtn.json"), 0);
    const json_t *list = json_object_get(golden, "ids");
    for (size_t i = 0; i < json_array_size(list); i++)
        assert_int_equal(sq_ids_push(&ids, (int32_t)json_integer_value(json_array_get(list, i))), 0);
    assert_int_equal(sq_windows_cut(&w, &ids, 256, 0), 0);
    assert_int_equal(w.n, 16);
    for (int i = 0; i < SQ_COUNT(scheme); i++) {
        const json_t *want = json_object_get(json_object_get(golden, "nll"), scheme[i]);
        const json_t *each = json_object_get(want, "per_window");
        const double f32 = json_real_value(json_object_get(want, "f32")), f64 = json_real_value(json_object_get(want, "f64"));
        const double limit = strcmp(scheme[i], "W4A4") ? 1e-5 : 5e-3;
        double nll[16], worst = 0;
        struct sq_metric m;
        rounded_nll(&m, nll, &w, scheme[i]);
        for (int j = 0; j < 16; j++)
            worst = fmax(worst, fabs(nll[j] - json_real_value(json_array_get(each, (size_t)j))));
        print_message("%s: nll %.8f, oracle %.8f (f64 %.8f), windows within %.1e\n", scheme[i], log(m.value), f32, f64, worst);
        assert_true(fabs(log(m.value) - f64) <= limit);
        assert_true(worst <= 10 * limit);
        assert_true(m.error > 0);
    }
    json_decref(golden);
    sq_windows_release(&w);
    sq_ids_release(&ids);
}

/* ---- figures ------------------------------------------------------------------------------------ */

/* States whose logits are known: a head that is the identity. */
static struct sq_states known(float *x, float *head, int64_t n, int64_t length, int64_t vocab)
{
    memset(head, 0, (size_t)(vocab * vocab) * sizeof *head);
    for (int64_t i = 0; i < vocab; i++)
        head[i * vocab + i] = 1;
    return (struct sq_states){.cfg = {.hidden = vocab, .vocab = vocab}, .n = n, .length = length, .x = x, .head = head,
                              .ops = backend(0)};
}

static void test_figures(void **state)
{
    (void)state;
    enum { N = 2, T = 3, V = 4 };
    float x[N * T * V] = {0}, z[N * T * V] = {0}, head[V * V], other[V * V];
    int32_t ids[N * T] = {0, 1, 2, 3, 0, 1};
    /* window 0: uniform, nll log 4; window 1: the right token has probability e^2 / (e^2 + 3) */
    x[(T + 0) * V + 0] = 2;
    x[(T + 1) * V + 1] = 2;
    const struct sq_windows w = {.ids = ids, .n = N, .length = T};
    struct sq_states s = known(x, head, N, T, V), base = known(z, other, N, T, V);
    struct sq_metric m, kl, top;
    double nll[N];
    assert_int_equal(sq_perplexity(&m, nll, &s, &w), 0);
    const double a = log(4), b = log(exp(2) + 3) - 2, mean = (a + b) / 2;
    assert_true(fabs(nll[0] - a) < 1e-7 && fabs(nll[1] - b) < 1e-7);
    assert_true(fabs(m.value - exp(mean)) < 1e-6);
    assert_true(fabs(m.error - exp(mean) * fabs(a - b) / 2) < 1e-6); /* of two values: half their distance */

    /* base uniform: KL is log of the mean of e^z less the mean of z; the first of equal logits is on top */
    const double far_apart = log((exp(2) + 3) / 4) - 0.5;
    assert_int_equal(sq_divergence(&kl, &top, &s, &base), 0);
    assert_true(fabs(kl.value - far_apart / 2) < 1e-6);
    assert_true(fabs(kl.error - far_apart / 2) < 1e-6);
    assert_true(fabs(top.value - 0.75) < 1e-9); /* both have token 0 but in one of four places */
    assert_int_equal(sq_divergence(&kl, &top, &s, &s), 0);
    assert_true(kl.value == 0 && top.value == 1);

    s.n = base.n = 1; /* one window has no standard error */
    const struct sq_windows one = {.ids = ids, .n = 1, .length = T};
    assert_int_equal(sq_perplexity(&m, NULL, &s, &one), 0);
    assert_true(fabs(m.value - 4) < 1e-6 && isnan(m.error));

    base.cfg.vocab = V + 1;
    assert_int_equal(sq_divergence(&kl, &top, &s, &base), SQ_E_ARG);
}

static void test_not_finite(void **state)
{
    (void)state;
    enum { N = 3, T = 5, V = 4 };
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float x[N * T * V] = {0}, head[V * V];
        int32_t ids[N * T] = {0};
        const struct sq_windows w = {.ids = ids, .n = N, .length = T};
        struct sq_states s = known(x, head, N, T, V);
        struct sq_metric m;
        x[(2 * T + 1) * V] = bad[i];
        assert_int_equal(sq_perplexity(&m, NULL, &s, &w), SQ_E_VALUE);
        assert_non_null(strstr(sq_errmsg(), "window 2"));
        assert_non_null(strstr(sq_errmsg(), "token 1"));
    }
}

/* ---- windows ----------------------------------------------------------------------------- */

static void test_windows(void **state)
{
    (void)state;
    int32_t v[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    const struct sq_ids ids = {.v = v, .n = 10, .cap = 10};
    struct sq_windows w;
    assert_int_equal(sq_windows_cut(&w, &ids, 4, 0), 0);
    assert_int_equal(w.n, 2);
    assert_int_equal(w.ids[7], 7);
    sq_windows_release(&w);
    assert_int_equal(sq_windows_cut(&w, &ids, 4, 1), 0);
    assert_int_equal(w.n, 1);
    sq_windows_release(&w);
    assert_int_equal(sq_windows_cut(&w, &ids, 11, 0), SQ_E_ARG);
    assert_int_equal(sq_windows_cut(&w, &ids, 1, 0), SQ_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows), cmocka_unit_test(test_figures),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_models), cmocka_unit_test(test_tinystories),
        cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
