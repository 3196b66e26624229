/* config.json in older and newer spelling, what is refused, rope tables */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sq/config.h"
#include "sq/json.h"

#include "../golden.h"

#define GOLDENS "tests/oracle/goldens/models/"

static const char base[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,"
    "\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"vocab_size\":256,\"hidden_act\":\"silu\"}";

/* base with members of change put over it */
static int read_with(struct sq_config *c, const char *change)
{
    json_t *a = NULL, *b = NULL;
    assert_int_equal(sq_json_parse(&a, base, sizeof base - 1, "base"), 0);
    assert_int_equal(sq_json_parse(&b, change, strlen(change), "change"), 0);
    json_object_update(a, b);
    const int rc = sq_config_read(c, a);
    json_decref(a);
    json_decref(b);
    return rc;
}

static void what_is_not_known_is_refused_by_name(void **state)
{
    (void)state;
    const struct {
        const char *change, *text;
        int rc;
    } cases[] = {
        {"{\"architectures\":[\"GPT2LMHeadModel\"]}", "GPT2LMHeadModel", SQ_E_UNSUP},
        {"{\"architectures\":null,\"model_type\":\"mamba\"}", "mamba", SQ_E_UNSUP},
        {"{\"model_type\":\"qwen2\"}", "qwen2", SQ_E_UNSUP},
        {"{\"architectures\":null,\"model_type\":null}", "architectures", SQ_E_FORMAT},
        {"{\"architectures\":[]}", "architectures", SQ_E_FORMAT},
        {"{\"hidden_act\":\"gelu\"}", "gelu", SQ_E_UNSUP},
        {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}", "yarn", SQ_E_UNSUP},
        {"{\"rope_parameters\":{\"rope_type\":\"longrope\"}}", "longrope", SQ_E_UNSUP},
        {"{\"rope_parameters\":{\"full_attention\":{}}}", "layer type", SQ_E_UNSUP},
        {"{\"rope_scaling\":{\"rope_type\":\"linear\"}}", "factor", SQ_E_FORMAT},
        {"{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0}}", "factor", SQ_E_FORMAT},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_"
         "factor\":4,"
         "\"original_max_position_embeddings\":8192}}",
         "high_freq_factor", SQ_E_FORMAT},
        {"{\"rope_theta\":-1}", "rope_theta", SQ_E_FORMAT},
        {"{\"rope_theta\":\"1e4\"}", "rope_theta", SQ_E_FORMAT},
        {"{\"partial_rotary_factor\":0.5}", "partial_rotary_factor", SQ_E_UNSUP},
        {"{\"quantization_config\":{\"quant_method\":\"gptq\"}}", "quantized already", SQ_E_UNSUP},
        {"{\"layer_types\":[\"full_attention\",\"linear_attention\"]}", "linear_attention", SQ_E_UNSUP},
        {"{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"use_sliding_window\":"
         "true,"
         "\"sliding_window\":64,\"max_window_layers\":1}",
         "sliding window", SQ_E_UNSUP},
        {"{\"hidden_size\":0}", "hidden_size", SQ_E_FORMAT},
        {"{\"hidden_size\":1048577}", "hidden_size", SQ_E_FORMAT},
        {"{\"hidden_size\":64.0}", "hidden_size", SQ_E_FORMAT},
        {"{\"hidden_size\":66}", "does not divide", SQ_E_FORMAT},
        {"{\"num_key_value_heads\":3}", "num_key_value_heads", SQ_E_FORMAT},
        {"{\"head_dim\":15}", "odd", SQ_E_FORMAT},
        {"{\"num_attention_heads\":4096,\"head_dim\":4096,\"num_key_value_heads\":1}", "head_dim",
         SQ_E_FORMAT},
        {"{\"num_hidden_layers\":1025}", "num_hidden_layers", SQ_E_FORMAT},
        {"{\"vocab_size\":9223372036854775807}", "vocab_size", SQ_E_FORMAT},
        {"{\"rms_norm_eps\":0}", "rms_norm_eps", SQ_E_FORMAT},
        {"{\"intermediate_size\":null}", "intermediate_size", SQ_E_FORMAT},
    };
    struct sq_config c;
    assert_int_equal(read_with(&c, "{}"), 0);
    for (int i = 0; i < SQ_COUNT(cases); i++) {
        const int rc = read_with(&c, cases[i].change);
        if (rc != cases[i].rc || !strstr(sq_errmsg(), cases[i].text))
            fail_msg("%s: %d %s", cases[i].change, rc, sq_errmsg());
    }
    json_t *list = json_array();
    assert_int_equal(sq_config_read(&c, list), SQ_E_FORMAT);
    json_decref(list);
}

static void both_spellings_say_the_same(void **state)
{
    (void)state;
    struct sq_config a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    assert_int_equal(read_with(&a,
                               "{\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,"
                               "\"low_freq_factor\":1,\"high_freq_factor\":4,"
                               "\"original_max_position_embeddings\":256}}"),
                     0);
    assert_int_equal(
        read_with(&b, "{\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8,"
                      "\"low_freq_factor\":1,\"high_freq_factor\":4,"
                      "\"original_max_position_embeddings\":256}}"),
        0);
    json_t *ja = NULL, *jb = NULL;
    assert_int_equal(sq_config_to_json(&ja, &a), 0);
    assert_int_equal(sq_config_to_json(&jb, &b), 0);
    assert_true(json_equal(ja, jb));
    assert_int_equal(a.rope_type, SQ_ROPE_LLAMA3);
    struct sq_config back;
    assert_int_equal(sq_config_from_json(&back, ja), 0);
    json_t *jc = NULL;
    assert_int_equal(sq_config_to_json(&jc, &back), 0);
    assert_true(json_equal(ja, jc));
    json_object_del(ja, "eps");
    assert_int_equal(sq_config_from_json(&back, ja), SQ_E_FORMAT);
    json_object_set_new(jb, "kv_heads", json_integer(3));
    assert_int_equal(sq_config_from_json(&back, jb), SQ_E_FORMAT);
    json_decref(ja);
    json_decref(jb);
    json_decref(jc);
}

static void biases_follow_the_architecture(void **state)
{
    (void)state;
    struct sq_config c;
    assert_int_equal(read_with(&c, "{}"), 0);
    assert_false(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm || c.tied);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(
        read_with(&c, "{\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true}"), 0);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias && c.tied);
    assert_true(sq_linear_has_bias(&c, SQ_O) && sq_linear_has_bias(&c, SQ_DOWN));
    assert_int_equal(
        read_with(&c, "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\"}"), 0);
    assert_true(c.qkv_bias && !c.o_bias && sq_linear_has_bias(&c, SQ_V) &&
                !sq_linear_has_bias(&c, SQ_O));
    assert_int_equal(
        read_with(&c, "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"}"), 0);
    assert_true(c.qk_norm && !c.qkv_bias);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(sq_gain_size(&c, SQ_QNORM), 128);
}

static void linears_have_names_and_shapes(void **state)
{
    (void)state;
    struct sq_config c;
    char name[SQ_LINEAR_NAME];
    int64_t r, k;
    assert_int_equal(read_with(&c, "{\"head_dim\":24}"), 0);
    const struct {
        const char *name;
        int64_t r, k;
    } want[] = {{"self_attn.q_proj", 96, 64}, {"self_attn.k_proj", 48, 64}, {"self_attn.v_proj", 48, 64},
                {"self_attn.o_proj", 64, 96}, {"mlp.gate_proj", 96, 64},    {"mlp.up_proj", 96, 64},
                {"mlp.down_proj", 64, 96}};
    assert_int_equal(sq_config_linears(&c), SQ_COUNT(want));
    for (int i = 0; i < SQ_COUNT(want); i++) {
        assert_string_equal(sq_linear_name(name, &c, i), want[i].name);
        sq_linear_shape(&r, &k, &c, i);
        assert_true(r == want[i].r && k == want[i].k);
    }
    c.experts = 4;
    assert_int_equal(sq_config_linears(&c), 16);
    assert_string_equal(sq_linear_name(name, &c, SQ_UP + 9), "mlp.experts.3.up_proj");
    assert_string_equal(sq_gain_name(SQ_KNORM), "self_attn.k_norm.weight");
}

/* The reference's own frequencies, to the rounding of its float32 power function. */
static void frequencies_are_the_references(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-48", "llama3", "qwen2", "qwen3", "qwen3-moe"};
    for (int m = 0; m < SQ_COUNT(models); m++) {
        struct sq_config c;
        struct golden g;
        json_t *j = NULL;
        char path[256];
        int64_t n;
        float inv[64], cosine[3 * 64], sine[3 * 64];
        snprintf(path, sizeof path, GOLDENS "%s/config.json", models[m]);
        assert_int_equal(sq_json_load(&j, path), 0);
        assert_int_equal(sq_config_read(&c, j), 0);
        snprintf(path, sizeof path, "models/%s/logits", models[m]);
        golden_open(&g, path);
        float *want = golden_f32(&g, "inv_freq", &n);
        assert_int_equal(c.head_dim, 2 * n);
        sq_rope_freqs(inv, &c);
        sq_rope_table(cosine, sine, &c, 3);
        for (int64_t i = 0; i < n; i++) {
            assert_true(fabsf(inv[i] - want[i]) <= 4e-7f * want[i]);
            assert_true(cosine[i] == 1 && sine[i] == 0);
            assert_true(fabs((double)sine[2 * n + i] - sin(2.0 * (double)inv[i])) < 1e-7);
        }
        free(want);
        golden_close(&g);
        json_decref(j);
    }
}

static void experts_are_read(void **state)
{
    (void)state;
    struct sq_config c;
    json_t *j = NULL;
    assert_int_equal(sq_json_load(&j, GOLDENS "qwen3-moe/config.json"), 0);
    assert_int_equal(sq_config_read(&c, j), 0);
    assert_true(c.experts == 4 && c.top == 2 && c.renorm && c.ffn == 32 && c.qk_norm);
    json_object_set_new(j, "mlp_only_layers", json_pack("[i]", 0));
    assert_int_equal(sq_config_read(&c, j), SQ_E_UNSUP);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_known_is_refused_by_name),
        cmocka_unit_test(both_spellings_say_the_same),
        cmocka_unit_test(biases_follow_the_architecture),
        cmocka_unit_test(linears_have_names_and_shapes),
        cmocka_unit_test(frequencies_are_the_references),
        cmocka_unit_test(experts_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
