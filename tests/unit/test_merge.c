/* Merging of layers and tables: codes of the oracle, stored scales, what a reader gets back, refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../golden.h"
#include "../memstream.h"
#include "sq/merge.h"
#include "sq/rng.h"

static const struct sq_config cfg = {.arch = "LlamaForCausalLM",
                                     .model_type = "llama",
                                     .hidden = 64,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_dim = 16,
                                     .ffn = 96,
                                     .layers = 2,
                                     .vocab = 8,
                                     .max_positions = 64,
                                     .eps = 1e-6,
                                     .rope_theta = 1e4};

static const struct sq_ops *ops(void)
{
    const struct sq_ops *o = NULL;
    assert_int_equal(sq_ops_get(&o, SQ_BACKEND_REF, SQ_F32_PRODUCTS), 0);
    return o;
}

static void add(struct sq_layer *l, const char *name, int64_t rows, int64_t cols, const float *x)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    const int64_t dim[2] = {rows ? rows : cols, cols};
    assert_int_equal(sq_tensor_new(&t, name, SQ_F32, rows ? 2 : 1, dim), 0);
    memcpy(t.owned, x, sq_tensor_bytes(&t));
    assert_int_equal(sq_layer_add(l, &t), 0);
}

static void add_golden(struct sq_layer *l, const struct golden *g, const char *prefix, const char *name,
                       int64_t rows, int64_t cols)
{
    char key[256];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    float *x = golden_f32(g, key, NULL);
    add(l, name, rows, cols, x);
    free(x);
}

static void set_scheme(struct sq_layer *l, const char *name, double rate)
{
    struct sq_scheme s;
    assert_int_equal(sq_scheme_parse(&s, name), 0);
    s.rate = rate;
    json_decref(l->scheme);
    assert_int_equal(sq_scheme_to_json(&l->scheme, &s), 0);
}

/* The float layer of a golden file; prefix "layers.0." or "". */
static void float_layer_of(struct sq_layer *l, const struct golden *g, const char *prefix,
                           const struct sq_config *c)
{
    char name[SQ_NAME_MAX], linear[SQ_LINEAR_NAME];
    *l = (struct sq_layer)SQ_LAYER_INIT;
    l->index = 0;
    for (int64_t k = 0; k < sq_config_linears(c); k++) {
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, c, k);
        snprintf(name, sizeof name, "%s.weight", sq_linear_name(linear, c, k));
        add_golden(l, g, prefix, name, rows, cols);
        snprintf(name, sizeof name, "%s.bias", linear);
        if (sq_linear_has_bias(c, k))
            add_golden(l, g, prefix, name, 0, rows);
    }
    for (int i = 0; i < SQ_GAINS; i++)
        if (sq_gain_size(c, (enum sq_gain_id)i))
            add_golden(l, g, prefix, sq_gain_name((enum sq_gain_id)i), 0,
                       sq_gain_size(c, (enum sq_gain_id)i));
    if (c->experts)
        add_golden(l, g, prefix, "mlp.gate.weight", c->experts, c->hidden);
}

/* ... with what was learned */
static void learned_layer_of(struct sq_layer *l, const struct golden *gw, const struct golden *g,
                             const char *prefix, const struct sq_config *c, const char *scheme)
{
    struct sq_params p;
    struct sq_scheme s;
    char key[256];
    float_layer_of(l, gw, prefix, c);
    assert_int_equal(sq_scheme_parse(&s, scheme), 0);
    snprintf(key, sizeof key, "%salpha.qkv", prefix);
    const struct sq_params_spec spec = {.lora = true, .clip = true, .scaling = golden_has(g, key), .rank = 4};
    assert_int_equal(sq_params_new(&p, c, &s, &spec, 0), 0);
    for (int64_t i = 0; i < p.nparam; i++) {
        snprintf(key, sizeof key, "%s%s", prefix, p.param[i].name);
        float *x = golden_f32(g, key, NULL);
        memcpy(p.param[i].x, x, (size_t)p.param[i].n * sizeof *x);
        free(x);
    }
    assert_int_equal(sq_params_store(l, &p, c), 0);
    assert_int_equal(sq_params_store(l, &p, c), 0); /* replaces */
    set_scheme(l, scheme, 1);
    l->state = SQ_FINAL;
    sq_params_release(&p);
}

static void float_layer(struct sq_layer *l, const struct golden *g)
{
    float_layer_of(l, g, "layers.0.", &cfg);
}

static void learned_layer(struct sq_layer *l, const struct golden *gw, const struct golden *g,
                          const char *scheme)
{
    learned_layer_of(l, gw, g, "layers.0.", &cfg, scheme);
}

static const struct sq_tensor *part(const struct sq_layer *l, const char *linear, const char *what)
{
    char name[SQ_NAME_MAX];
    snprintf(name, sizeof name, "%s.%s", linear, what);
    const struct sq_tensor *t = sq_layer_find(l, name);
    assert_non_null(t);
    return t;
}

/* Codes that differ from the oracle's; scales and zero points must agree. */
static int64_t compare_codes(const struct sq_layer *l, const struct golden *g, const char *prefix,
                             const struct sq_config *c)
{
    int64_t differ = 0;
    for (int64_t k = 0; k < sq_config_linears(c); k++) {
        char linear[SQ_LINEAR_NAME], key[256];
        static const char *const name[] = {"q", "s", "zp"};
        double *want[3];
        int64_t n[3];
        sq_linear_name(linear, c, k);
        for (int i = 0; i < 3; i++) {
            snprintf(key, sizeof key, "%s%s.%s", prefix, linear, name[i]);
            want[i] = golden_f64(g, key, n + i);
        }
        const uint8_t *q = part(l, linear, "codes")->data, *zero = part(l, linear, "zeros")->data;
        const float *scale = part(l, linear, "scales")->data;
        for (int64_t i = 0; i < n[0]; i++)
            differ += (double)q[i] != want[0][i];
        for (int64_t i = 0; i < n[1]; i++) {
            assert_true(fabs((double)scale[i] - want[1][i]) <= 3e-5 * want[1][i]);
            assert_true((double)zero[i] == want[2][i]);
        }
        free(want[0]), free(want[1]), free(want[2]);
    }
    return differ;
}

/* Merge with f32 scales: what a reader gets equals the rounded fold, bit for bit. Returns codes that differ
 * from the oracle's. */
static int64_t merge_and_compare(const char *float_file, const char *file, const char *prefix,
                                 const struct sq_config *c, const char *scheme)
{
    struct golden gw, g;
    struct sq_layer l;
    struct sq_block w, b;
    struct sq_params p;
    struct sq_scheme s;
    golden_open(&gw, float_file);
    golden_open(&g, file);
    learned_layer_of(&l, &gw, &g, prefix, c, scheme);
    assert_int_equal(sq_scheme_parse(&s, scheme), 0);
    assert_int_equal(sq_block_load(&w, c, &l), 0);
    assert_int_equal(sq_params_load(&p, c, &s, &l), 0);
    assert_int_equal(p.rank, 4);
    const int64_t before = l.ntensor - p.nparam;
    sq_fold(&w, &w, &p, &s, ops());
    assert_int_equal(sq_layer_merge(&l, c, SQ_F32, ops()), 0);
    assert_int_equal(l.state, SQ_MERGED);
    assert_int_equal(l.ntensor, before + 2 * w.nlinear); /* codes, scales, zeros in place of a weight */
    const int64_t differ = compare_codes(&l, &g, prefix, c);
    assert_int_equal(sq_block_load(&b, c, &l), 0);
    assert_memory_equal(b.all, w.all, (size_t)w.count * sizeof(float));
    sq_block_release(&b), sq_block_release(&w), sq_params_release(&p), sq_layer_release(&l);
    golden_close(&g), golden_close(&gw);
    return differ;
}

static void test_windows(void **state)
{
    (void)state;
    assert_true(merge_and_compare("window", "window_w2a16", "layers.0.", &cfg, "W2A16") <= 3);
    assert_true(merge_and_compare("window", "window_w4a4", "layers.1.", &cfg, "W4A4") <= 3);
}

static void test_models(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "qwen2", "qwen3", "qwen3-moe"};
    static const struct {
        const char *name, *scheme;
    } schemes[] = {{"w2a16", "W2A16"}, {"w4a4", "W4A4"}, {"w4a16g32", "W4A16g32"}};
    for (int m = 0; m < SQ_COUNT(models); m++)
        for (int i = 0; i < SQ_COUNT(schemes); i++) {
            struct sq_config c = cfg;
            char float_file[64], file[128];
            c.qkv_bias = m == 1;
            c.qk_norm = m >= 2;
            c.head_dim = m >= 2 ? 24 : 16;
            if (m == 3)
                c.experts = 4, c.top = 2, c.ffn = 32;
            snprintf(float_file, sizeof float_file, "layer_%s", models[m]);
            snprintf(file, sizeof file, "%s_%s", float_file, schemes[i].name);
            assert_int_equal(merge_and_compare(float_file, file, "", &c, schemes[i].scheme), 0);
        }
}

static void test_stored_scales(void **state)
{
    (void)state;
    struct golden gw;
    struct sq_layer l;
    golden_open(&gw, "window");
    float_layer(&l, &gw);
    set_scheme(&l, "W4A16g32", 0.5); /* the rate does not matter: everything is rounded */
    float *w = sq_layer_find(&l, "self_attn.q_proj.weight")->owned, keep[64 * 64];
    for (int j = 0; j < 64; j++) {
        w[j] = 0;                            /* row 0: zeros */
        w[64 + j] = (float)(j % 32) * 5e-7f; /* row 1: smaller than f16 resolves, one-sided */
        w[128 + j] = 3 + (float)(j % 7);     /* row 2: positive */
        w[192 + j] = -3 - (float)(j % 7);    /* row 3: negative */
    }
    memcpy(keep, w, sizeof keep);
    assert_int_equal(sq_layer_merge(&l, &cfg, SQ_F16, ops()), 0);
    const uint16_t *h = part(&l, "self_attn.q_proj", "scales")->data;
    const uint8_t *q = part(&l, "self_attn.q_proj", "codes")->data,
                  *zero = part(&l, "self_attn.q_proj", "zeros")->data;
    assert_int_equal(part(&l, "self_attn.q_proj", "scales")->dtype, SQ_F16);
    assert_int_equal(part(&l, "self_attn.q_proj", "scales")->dim[1], 2);
    for (int64_t i = 0; i < 64 * 64; i++) {
        const int64_t grp = i / 32;
        const float s = sq_f16_to_f32(h[grp]), x = ((float)q[i] - (float)zero[grp]) * s;
        assert_true(s >= 6.103515625e-05f && q[i] <= 15 && zero[grp] <= 15);
        /* half a step, half a step again where the scale was rounded down (2^-11 of 15 steps), nothing more
         */
        assert_true(fabsf(x - keep[i]) <= s * 0.51f + 15 * s / 2048);
        /* the code is the formula's on the stored scale */
        const float r = rintf(keep[i] / s) + (float)zero[grp];
        assert_true((float)q[i] == fminf(fmaxf(r, 0), 15));
        if (i < 64)
            assert_true(x == 0 && !signbit(x));
    }
    assert_true(zero[4] == 0 && zero[6] == 15);
    struct sq_merge_counts c = {0};
    assert_int_equal(sq_merge_count(&c, &l, &cfg), 0);
    assert_int_equal(c.codes, 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96);
    assert_int_equal(c.groups, c.codes / 32);
    assert_int_equal(c.small_scales, 4);
    assert_int_equal(c.zero_groups, 4); /* row 1 is rounded to zero, as it is smaller than half a step */
    assert_true(c.low > c.groups / 2 && c.high > c.groups / 2 && c.low + c.high < c.codes / 2);
    double rate = 0;
    rate = json_real_value(json_object_get(l.scheme, "rate"));
    assert_true(rate == 1);
    sq_layer_release(&l);
    golden_close(&gw);
}

static void test_symmetric_and_float(void **state)
{
    (void)state;
    struct golden gw;
    struct sq_layer l;
    struct sq_block w, b;
    golden_open(&gw, "window");
    for (int k = 0; k < 2; k++) {
        struct sq_scheme s;
        float_layer(&l, &gw);
        set_scheme(&l, k ? "W16A8" : "W3A16s", 1);
        assert_int_equal(sq_scheme_from_json(&s, l.scheme), 0);
        json_object_set_new(l.scheme, "later", json_string("kept"));
        struct sq_tensor extra = SQ_TENSOR_INIT;
        assert_int_equal(sq_tensor_new(&extra, "later.thing", SQ_I32, 1, (int64_t[]){3}), 0);
        assert_int_equal(sq_layer_add(&l, &extra), 0);
        assert_int_equal(sq_block_load(&w, &cfg, &l), 0);
        const struct sq_params none = {.nparam = 0};
        sq_fold(&w, &w, &none, &s, ops());
        assert_int_equal(sq_layer_merge(&l, &cfg, SQ_F32, ops()), 0);
        assert_int_equal(sq_block_load(&b, &cfg, &l), 0);
        assert_memory_equal(b.all, w.all, (size_t)w.count * sizeof(float));
        assert_non_null(sq_layer_find(&l, "later.thing"));
        assert_string_equal(json_string_value(json_object_get(l.scheme, "later")), "kept");
        if (!k)
            assert_int_equal(*(const uint8_t *)part(&l, "mlp.up_proj", "zeros")->data, 4);
        sq_block_release(&b), sq_block_release(&w), sq_layer_release(&l);
    }
    golden_close(&gw);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static struct sq_tensor *find(struct sq_layer *l, const char *name)
{
    struct sq_tensor *t = sq_layer_find(l, name);
    assert_non_null(t);
    return t;
}

static void put_f32(struct sq_layer *l, const char *name, int64_t rows, int64_t cols)
{
    float *zeros = calloc((size_t)(SQ_MAX(rows, 1) * cols + 1), 4);
    sq_layer_drop(l, name);
    add(l, name, rows, cols, zeros);
    free(zeros);
}

static void spoil(struct sq_layer *l, int how)
{
    switch (how) {
    case 0: sq_layer_drop(l, "mlp.up_proj.weight"); break;
    case 1: put_f32(l, "mlp.up_proj.weight", 64, 96); break;
    case 2: ((float *)find(l, "mlp.down_proj.weight")->owned)[77] = NAN; break;
    case 3: json_decref(l->scheme), l->scheme = NULL; break;
    case 4: l->state = SQ_MERGED; break;
    case 5: sq_layer_drop(l, "self_attn.k_proj.lora_B"); break;
    case 6: sq_layer_drop(l, "self_attn.k_proj.u"); break;
    case 7: put_f32(l, "self_attn.k_proj.u", 32, 2); break;
    case 8: put_f32(l, "mlp.gate_proj.lora_A", 3, 64); break;
    case 9: put_f32(l, "alpha.out", 0, 64); break;
    case 10: ((float *)find(l, "alpha.fc2")->owned)[5] = INFINITY; break;
    case 11:
        ((float *)find(l, "self_attn.o_proj.lora_B")->owned)[9] = 3e38f,
                          ((float *)find(l, "self_attn.o_proj.lora_A")->owned)[65] = 3e38f;
        break;
    case 12: json_object_set_new(l->scheme, "wbits", json_integer(11)); break;
    case 13: ((float *)find(l, "input_layernorm.weight")->owned)[0] = NAN; break;
    case 14: l->index = 2; break;
    case 15: find(l, "self_attn.q_proj.l")->dtype = SQ_I32; break;
    default: put_f32(l, "self_attn.q_proj.bias", 0, 64);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        int rc;
        const char *word;
    } want[] = {{SQ_E_FORMAT, "mlp.up_proj.weight"},
                {SQ_E_FORMAT, "mlp.up_proj.weight"},
                {SQ_E_VALUE, "mlp.down_proj.weight"},
                {SQ_E_ARG, "scheme"},
                {SQ_E_FORMAT, "merged"},
                {SQ_E_FORMAT, "self_attn.k_proj"},
                {SQ_E_FORMAT, "self_attn.k_proj"},
                {SQ_E_FORMAT, "self_attn.k_proj.u"},
                {SQ_E_FORMAT, "mlp.gate_proj.lora_A"},
                {SQ_E_FORMAT, "alpha.out"},
                {SQ_E_VALUE, "alpha.fc2"},
                {SQ_E_VALUE, "self_attn.o_proj"},
                {SQ_E_FORMAT, "scheme"},
                {SQ_E_VALUE, "input_layernorm.weight"},
                {SQ_E_FORMAT, "layer 2"},
                {SQ_E_FORMAT, "self_attn.q_proj.l"},
                {SQ_E_FORMAT, "self_attn.q_proj.bias"}};
    struct golden gw, g;
    golden_open(&gw, "window");
    golden_open(&g, "window_w4a4");
    for (int i = 0; i < SQ_COUNT(want); i++) {
        struct sq_layer l;
        learned_layer(&l, &gw, &g, "W4A4");
        spoil(&l, i);
        const int rc = sq_layer_merge(&l, &cfg, SQ_F16, ops());
        if (rc != want[i].rc || !strstr(sq_errmsg(), want[i].word) || !strstr(sq_errmsg(), "layer "))
            fail_msg("case %d: %d '%s'", i, rc, rc < 0 ? sq_errmsg() : "");
        sq_layer_release(&l);
    }
    golden_close(&g), golden_close(&gw);
}

/* ---- tables -------------------------------------------------------------------------------- */

static const struct sq_app plain = {.prog = "sq-test", .no_prov = true};

static int round_table(uint8_t **bytes, size_t *n, const struct sq_tensor *t, const char *scheme,
                       enum sq_dtype type, struct sq_merge_counts *c)
{
    struct sq_stream *in, *out;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_scheme s;
    int fd, rc;
    assert_int_equal(sq_scheme_parse_tensor(&s, scheme), 0);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    assert_int_equal(sq_stream_put_tensor(out, t, "embedding", -1), 0);
    assert_int_equal(sq_stream_finish(&out), 0);
    *bytes = mem_bytes(fd, n);
    assert_int_equal(mem_reader(&in, *bytes, *n), 0);
    free(*bytes);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    assert_int_equal(sq_stream_next(in, &rec), 1);
    rc = sq_table_round(out, in, &rec, &s, type, c);
    sq_record_release(&rec);
    if (rc == 0)
        rc = sq_stream_finish(&out);
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    *bytes = mem_bytes(fd, n);
    return rc;
}

static void test_table(void **state)
{
    (void)state;
    enum { R = 37, C = 96 };
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_rng r = sq_rng_init(1, SQ_RNG_TEST, 0, 0, 0, 0);
    assert_int_equal(sq_tensor_new(&t, "model.embed_tokens.weight", SQ_BF16, 2, (int64_t[]){R, C}), 0);
    for (int64_t i = 0; i < R * C; i++)
        ((uint16_t *)t.owned)[i] = sq_f32_to_bf16((float)sq_rng_normal(&r));
    for (int type = 0; type < 2; type++)
        for (int grouped = 0; grouped < 2; grouped++) {
            struct sq_merge_counts c = {0};
            struct sq_table back = SQ_TABLE_INIT, plain_table = SQ_TABLE_INIT;
            struct sq_record rec = SQ_RECORD_INIT;
            struct sq_stream *in;
            struct sq_scheme s;
            uint8_t *bytes;
            size_t n;
            float x[R * C], y[R * C], want[R * C];
            assert_int_equal(
                round_table(&bytes, &n, &t, grouped ? "W6g32" : "W6", type ? SQ_F32 : SQ_F16, &c), 0);
            assert_int_equal(c.codes, R * C);
            assert_int_equal(c.groups, R * (grouped ? 3 : 1));
            assert_int_equal(mem_reader(&in, bytes, n), 0);
            int rc, parts = 0;
            while ((rc = sq_stream_next(in, &rec)) > 0) {
                struct sq_tensor u = SQ_TENSOR_INIT;
                assert_string_equal(json_string_value(json_object_get(rec.head, "role")), "embedding");
                assert_int_equal(sq_scheme_from_json(&s, json_object_get(rec.head, "scheme")), 0);
                assert_true(s.wbits == 6 && s.sym && s.group == (grouped ? 32 : 0));
                assert_int_equal(sq_stream_tensor(in, &rec, &u), 0);
                assert_int_equal(sq_table_offer(&back, &u, "lm_head.weight"), 0);
                assert_int_equal(sq_table_offer(&back, &u, "model.embed_tokens.weight"), 1);
                assert_int_equal(sq_table_ready(&back, "x"), ++parts == 3 ? 1 : SQ_E_FORMAT);
            }
            assert_int_equal(rc, 0);
            assert_int_equal(parts, 3);
            assert_true(sq_table_rows(&back) == R && sq_table_cols(&back) == C);
            struct sq_tensor copy = SQ_TENSOR_INIT;
            assert_int_equal(sq_tensor_copy(&copy, &t), 0);
            assert_int_equal(sq_table_offer(&plain_table, &copy, "model.embed_tokens.weight"), 1);
            assert_int_equal(sq_table_ready(&plain_table, "x"), 1);
            assert_int_equal(sq_table_read(x, &plain_table, 0, R), 0);
            assert_int_equal(sq_table_read(y, &back, 0, 5), 0);
            assert_int_equal(sq_table_read(y + 5 * C, &back, 5, R - 5), 0);
            assert_int_equal(sq_table_read(y, &back, 5, R - 4), SQ_E_ARG);
            const struct sq_rowq q = sq_scheme_weights(&s);
            sq_rowquant_ref(want, x, &q, NULL, NULL, R, C);
            if (type)
                assert_memory_equal(want, y, sizeof y);
            for (int64_t i = 0; i < R * C;
                 i++) /* a step is at most 4.5/31; f16 moves codes at the ends by 2^-11 of 31 steps */
                assert_true(fabsf(y[i] - x[i]) < 0.55f * 4.5f / 31);
            sq_record_release(&rec);
            sq_stream_abort(&in, 0);
            sq_table_release(&back), sq_table_release(&plain_table);
            free(bytes);
        }
    struct sq_merge_counts c = {0};
    uint8_t *bytes;
    size_t n;
    assert_int_equal(round_table(&bytes, &n, &t, "W8g64", SQ_F16, &c), SQ_E_UNSUP);
    assert_non_null(strstr(sq_errmsg(), "group 64"));
    free(bytes);
    ((uint16_t *)t.owned)[20 * C + 3] = 0x7fc0;
    assert_int_equal(round_table(&bytes, &n, &t, "W8g32", SQ_F16, &c), SQ_E_VALUE);
    free(bytes);
    sq_tensor_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),       cmocka_unit_test(test_models),
        cmocka_unit_test(test_stored_scales), cmocka_unit_test(test_symmetric_and_float),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
