#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../memstream.h"
#include "sq/layer.h"

static const struct sq_app plain = {.prog = "sq-test", .no_prov = true};

/* hidden 8, 2 heads of 4, 1 kv head, ffn 12 */
static const struct sq_config cfg = {.arch = "LlamaForCausalLM", .model_type = "llama", .hidden = 8, .heads = 2,
                                     .kv_heads = 1, .head_dim = 4, .ffn = 12, .layers = 3, .vocab = 16};

static void add(struct sq_layer *l, const char *name, enum sq_dtype dtype, int64_t rows, int64_t cols)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    const int64_t dim[2] = {rows ? rows : cols, cols};
    assert_int_equal(sq_tensor_new(&t, name, dtype, rows ? 2 : 1, dim), 0);
    for (size_t i = 0; i < sq_tensor_bytes(&t); i++)
        ((uint8_t *)t.owned)[i] = (uint8_t)(i * 7 + (size_t)l->ntensor);
    assert_int_equal(sq_layer_add(l, &t), 0);
    assert_null(t.data);
}

static void fill(struct sq_layer *l, const struct sq_config *c)
{
    char linear[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
    l->index = 1;
    for (int64_t i = 0; i < sq_config_linears(c); i++) {
        int64_t rows, cols;
        sq_linear_name(linear, c, i);
        sq_linear_shape(&rows, &cols, c, i);
        snprintf(name, sizeof name, "%s.weight", linear);
        add(l, name, SQ_BF16, rows, cols);
        snprintf(name, sizeof name, "%s.bias", linear);
        if (sq_linear_has_bias(c, i))
            add(l, name, SQ_BF16, 0, rows);
    }
    for (int g = 0; g < SQ_GAINS; g++)
        if (sq_gain_size(c, (enum sq_gain_id)g))
            add(l, sq_gain_name((enum sq_gain_id)g), SQ_F32, 0, sq_gain_size(c, (enum sq_gain_id)g));
    if (c->experts)
        add(l, "mlp.gate.weight", SQ_F32, c->experts, c->hidden);
}

static uint8_t *written(const struct sq_layer *l, size_t *n)
{
    struct sq_stream *out;
    int fd;
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    assert_int_equal(sq_layer_write(out, l), 0);
    assert_int_equal(sq_stream_finish(&out), 0);
    return mem_bytes(fd, n);
}

static int read_back(struct sq_layer *l, const uint8_t *bytes, size_t n)
{
    struct sq_stream *in;
    struct sq_record rec = SQ_RECORD_INIT;
    assert_int_equal(mem_reader(&in, bytes, n), 0);
    int rc = sq_stream_next(in, &rec);
    if (rc > 0)
        rc = sq_layer_read(l, in, &rec);
    if (rc == 0)
        rc = sq_stream_next(in, &rec);
    sq_record_release(&rec);
    sq_stream_abort(&in, rc);
    return rc;
}

static void round_trip(void **state)
{
    struct sq_layer a = SQ_LAYER_INIT, b = SQ_LAYER_INIT;
    uint64_t da, db;
    size_t n;

    (void)state;
    fill(&a, &cfg);
    add(&a, "self_attn.q_proj.lora_A", SQ_F32, 4, 8);
    a.state = SQ_LEARNING;
    a.scheme = json_pack("{s:i, s:f}", "wbits", 2, "rate", 0.5);
    uint8_t *bytes = written(&a, &n);
    assert_int_equal(read_back(&b, bytes, n), 0);
    assert_int_equal(b.index, 1);
    assert_int_equal(b.state, SQ_LEARNING);
    assert_true(json_equal(a.scheme, b.scheme));
    assert_int_equal(a.ntensor, b.ntensor);
    for (int64_t i = 0; i < a.ntensor; i++) {
        assert_string_equal(a.tensor[i].name, b.tensor[i].name);
        assert_int_equal(a.tensor[i].dtype, b.tensor[i].dtype);
        assert_int_equal(a.tensor[i].ndim, b.tensor[i].ndim);
        assert_memory_equal(a.tensor[i].data, b.tensor[i].data, sq_tensor_bytes(&a.tensor[i]));
    }
    assert_int_equal(sq_layer_digest(&da, &a), 0);
    assert_int_equal(sq_layer_digest(&db, &b), 0);
    assert_true(da == db);
    sq_layer_drop(&b, "self_attn.q_proj.lora_A");
    sq_layer_drop(&b, "nobody");
    assert_int_equal(b.ntensor, a.ntensor - 1);
    assert_int_equal(sq_layer_digest(&db, &b), 0);
    assert_true(da != db);
    struct sq_tensor again = SQ_TENSOR_INIT;
    assert_int_equal(sq_tensor_copy(&again, sq_layer_find(&b, "mlp.up_proj.weight")), 0);
    assert_int_equal(sq_layer_add(&b, &again), SQ_E_FORMAT);
    sq_tensor_release(&again);
    sq_layer_release(&a);
    sq_layer_release(&b);
    free(bytes);
}

/* A stream with good digests whose layer records lie. */
static int read_lie(int lie)
{
    struct sq_layer b = SQ_LAYER_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_stream *out;
    uint8_t *bytes;
    size_t n;
    int fd;
    json_t *begin = json_pack("{s:s, s:s, s:i, s:s}", "record", "layer", "event", lie == 1 ? "end" : "begin", "index", 1,
                              "state", lie == 2 ? "gas" : "float");
    json_t *file = json_pack("{s:s}", "record", "file");
    json_t *end = json_pack("{s:s, s:s, s:i, s:s}", "record", "layer", "event", lie == 3 ? "begin" : "end", "index",
                            lie == 4 ? 2 : 1, "xxh3", "0123456789abcdef");

    assert_int_equal(sq_tensor_new(&t, "mlp.up_proj.weight", SQ_F32, 1, (int64_t[]){3}), 0);
    mem_writer(&out, &fd);
    assert_int_equal(sq_stream_begin(out, NULL, &plain), 0);
    sq_stream_put(out, begin, NULL, 0);
    sq_stream_put_tensor(out, &t, "weight", lie == 5 ? 2 : lie == 6 ? -1 : 1);
    if (lie == 7)
        sq_stream_put_tensor(out, &t, "weight", 1);
    if (lie == 8)
        sq_stream_put(out, file, NULL, 0);
    if (lie != 9)
        sq_stream_put(out, end, NULL, 0); /* 0: only the digest is wrong */
    assert_int_equal(sq_stream_finish(&out), 0);
    bytes = mem_bytes(fd, &n);
    const int rc = read_back(&b, bytes, n);
    assert_int_equal(b.ntensor, 0);
    sq_tensor_release(&t);
    json_decref(begin);
    json_decref(file);
    json_decref(end);
    free(bytes);
    return rc;
}

static void lies_are_noticed(void **state)
{
    (void)state;
    for (int lie = 0; lie <= 9; lie++)
        if (read_lie(lie) != SQ_E_FORMAT)
            fail_msg("lie %d was not noticed: %s", lie, sq_errmsg());
}

static void checks_against_the_config(void **state)
{
    struct sq_layer l = SQ_LAYER_INIT;
    struct sq_config c = cfg;

    (void)state;
    fill(&l, &cfg);
    assert_int_equal(sq_layer_check(&l, &cfg), 0);
    l.index = 3;
    assert_int_equal(sq_layer_check(&l, &cfg), SQ_E_FORMAT);
    l.index = 2;
    c.ffn = 16;
    assert_int_equal(sq_layer_check(&l, &c), SQ_E_FORMAT);
    c = cfg;
    c.qkv_bias = true;
    assert_int_equal(sq_layer_check(&l, &c), SQ_E_FORMAT);
    assert_string_equal(sq_errmsg(), "layer 2 has no tensor 'self_attn.q_proj.bias'");
    add(&l, "self_attn.q_proj.bias", SQ_F32, 0, 8);
    assert_int_equal(sq_layer_check(&l, &cfg), SQ_E_FORMAT);
    assert_string_equal(sq_errmsg(), "layer 2: tensor 'self_attn.q_proj.bias' has no place in a LlamaForCausalLM");
    sq_layer_drop(&l, "self_attn.q_proj.bias");
    add(&l, "self_attn.q_proj.u", SQ_F32, 8, 1);
    assert_int_equal(sq_layer_check(&l, &cfg), 0);
    sq_layer_drop(&l, "mlp.down_proj.weight");
    add(&l, "mlp.down_proj.weight", SQ_I32, 8, 12);
    assert_int_equal(sq_layer_check(&l, &cfg), SQ_E_FORMAT);
    l.state = SQ_MERGED;
    assert_int_equal(sq_layer_check(&l, &cfg), SQ_E_FORMAT);
    sq_layer_release(&l);

    c = cfg;
    c.qk_norm = true;
    c.experts = 3;
    c.top = 2;
    fill(&l, &c);
    assert_int_equal(sq_layer_check(&l, &c), 0);
    sq_layer_drop(&l, "mlp.gate.weight");
    assert_int_equal(sq_layer_check(&l, &c), SQ_E_FORMAT);
    sq_layer_release(&l);
}

static void roles_come_from_names(void **state)
{
    (void)state;
    assert_string_equal(sq_layer_role("input_layernorm.weight"), "gain");
    assert_string_equal(sq_layer_role("self_attn.q_norm.weight"), "gain");
    assert_string_equal(sq_layer_role("mlp.gate.weight"), "router");
    assert_string_equal(sq_layer_role("mlp.gate_proj.weight"), "weight");
    assert_string_equal(sq_layer_role("mlp.gate_proj.codes"), "codes");
    assert_string_equal(sq_layer_role("mlp.gate_proj.u"), "clip");
    assert_string_equal(sq_layer_role("alpha.qkv"), "alpha");
    assert_string_equal(sq_layer_role("x"), "other");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(lies_are_noticed),
        cmocka_unit_test(checks_against_the_config),
        cmocka_unit_test(roles_come_from_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
