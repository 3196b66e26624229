/* config.json of a model in a GGUF file. Keys that would change the arithmetic and that sq does not know
 * are refused; what GGUF does not store (the recipe of stretched RoPE frequencies) is worked out. */
#include "gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sq/config.h"

struct keys {
    const struct sq_gguf *g;
    const char *arch;
    json_t *config;
    int rc;
};

static const char *arch_key(char buf[96], const struct keys *k, const char *key)
{
    snprintf(buf, 96, "%s.%s", k->arch, key);
    return buf;
}

static void set(struct keys *k, const char *name, json_t *value)
{
    if (json_object_set_new(k->config, name, value) < 0 && k->rc == 0)
        k->rc = sq_fail(SQ_E_NOMEM, "no memory for the config");
}

/* The key as a config member; one that is missing is left out when it is optional. */
static void copy_int(struct keys *k, const char *name, const char *key, bool optional)
{
    int64_t x;
    if (k->rc < 0 || (optional && !sq_gguf_has(k->g, key)))
        return;
    k->rc = sq_gguf_int(&x, k->g, key, 0, INT64_MAX);
    if (k->rc == 0)
        set(k, name, json_integer(x));
}

/* The shortest decimal number that is this float32: 1e-05, not 9.999999747378752e-06. */
static double shortest(double x)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        const double y = strtod(text, NULL);
        if ((float)y == (float)x)
            return y;
    }
    return x;
}

static double get_real(struct keys *k, const char *key, double otherwise)
{
    char buf[96];
    double x = otherwise;
    if (k->rc == 0 && sq_gguf_has(k->g, arch_key(buf, k, key)))
        k->rc = sq_gguf_real(&x, k->g, buf);
    return shortest(x);
}

/* A key whose presence with any other value than the harmless one changes the arithmetic. */
static void refuse_others(struct keys *k)
{
    static const struct {
        const char *key;
        double harmless;
    } others[] = {
        {"attention.sliding_window", 0},
        {"expert_count", 0},
        {"logit_scale", 1},
        {"residual_scale", 1},
        {"embedding_scale", 1},
        {"attention.scale", 0},
        {"attention.clamp_kqv", 0},
        {"final_logit_softcapping", 0},
        {"attn_logit_softcapping", 0},
    };
    char buf[96];
    for (int i = 0; i < SQ_COUNT(others) && k->rc == 0; i++) {
        int64_t n = 0;
        double x = 0;
        arch_key(buf, k, others[i].key);
        if (!sq_gguf_has(k->g, buf))
            continue;
        if (sq_gguf_int(&n, k->g, buf, INT64_MIN, INT64_MAX) == 0)
            x = (double)n;
        else
            k->rc = sq_gguf_real(&x, k->g, buf);
        if (k->rc == 0 && x != others[i].harmless)
            k->rc = sq_fail(SQ_E_UNSUP, "key '%s' with value %g is not supported", buf, x);
    }
}

/* Llama 3's stretched frequencies are stored as factors, their recipe is not: find it. With s = factor
 * of a pair, blend = (1 / s - 1 / factor) / (1 - 1 / factor) is linear in 1 / wave length between the
 * ends: two pairs give the line. Only old / (high - low) and low / (high - low) matter, so high - low
 * and old are free: low = 1 as in every model known. */
static int fit_llama3(struct sq_config *c, const float *factor, int64_t n)
{
    double max = 1, sx = 0, sy = 0, sxx = 0, sxy = 0, m = 0;
    float base[1024], got[1024];
    struct sq_config plain = *c;

    plain.rope_type = SQ_ROPE_DEFAULT;
    sq_rope_freqs(base, &plain);
    for (int64_t i = 0; i < n; i++)
        max = fmax(max, (double)factor[i]);
    for (int64_t i = 0; i < n; i++) {
        const double s = (double)factor[i];
        if (s <= 1.0001 || s >= max * 0.9999)
            continue;
        const double x = (double)base[i] / (2 * M_PI), y = (1 / s - 1 / max) / (1 - 1 / max);
        sx += x, sy += y, sxx += x * x, sxy += x * y, m++;
    }
    /* y = (old x - low) / (high - low) */
    c->rope_type = SQ_ROPE_LLAMA3;
    c->rope_factor = shortest(max);
    c->rope_low = 1, c->rope_high = 4, c->rope_original = 8192;
    if (m >= 2 && m * sxx > sx * sx) {
        const double slope = (m * sxy - sx * sy) / (m * sxx - sx * sx), cut = (slope * sx - sy) / m;
        const double original = slope / cut, high = 1 + 1 / cut;
        if (!(cut > 0) || !(original >= 1 && original < 1 << 30))
            return sq_fail(
                SQ_E_UNSUP,
                "the factors in tensor 'rope_freqs.weight' are not those of rope type 'llama3'");
        c->rope_original = llround(original);
        c->rope_high = fabs(high - round(high)) < 1e-3 ? round(high) : high;
    } else if (m > 0 && sx > 0) { /* one pair: high is taken as in every model known, too */
        c->rope_original = llround(((c->rope_high - 1) * sy / m + 1) / (sx / m));
    }
    sq_rope_freqs(got, c);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)base[i] / (double)got[i] / (double)factor[i] - 1) < 1e-4))
            return sq_fail(
                SQ_E_UNSUP,
                "the factors in tensor 'rope_freqs.weight' are not those of rope type 'llama3'");
    return 0;
}

static void set_rope_freqs(struct keys *k, int64_t index, double theta, int64_t head_dim)
{
    const struct sq_gguf_tensor *t = sq_gguf_tensor(k->g, index);
    struct sq_config c = {.rope_theta = theta, .head_dim = head_dim};
    float factor[1024];
    bool any = false;

    if (json_object_get(k->config, "rope_scaling")) {
        k->rc =
            sq_fail(SQ_E_UNSUP, "tensor 'rope_freqs.weight' beside a rope scaling key is not supported");
        return;
    }
    if (t->type != TYPE_F32 || t->ndim != 1 || t->ne[0] != head_dim / 2 || t->ne[0] > 1024) {
        k->rc = sq_fail(SQ_E_FORMAT, "tensor 'rope_freqs.weight' is not f32 with %" PRId64 " elements",
                        head_dim / 2);
        return;
    }
    sq_gguf_dequant(factor, t->type, t->data, t->ne[0]);
    for (int64_t i = 0; i < t->ne[0]; i++)
        any |= factor[i] != 1;
    if (!any)
        return;
    k->rc = fit_llama3(&c, factor, t->ne[0]);
    if (k->rc == 0)
        set(k, "rope_scaling",
            json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", c.rope_factor,
                      "low_freq_factor", c.rope_low, "high_freq_factor", c.rope_high,
                      "original_max_position_embeddings", (json_int_t)c.rope_original));
}

static void set_rope(struct keys *k, int64_t head_dim)
{
    char buf[96];
    const int64_t freqs = sq_gguf_find(k->g, "rope_freqs.weight");
    const double theta = get_real(k, "rope.freq_base", 1e4);
    int64_t rotated = head_dim;

    set(k, "rope_theta", json_real(theta));
    if (k->rc == 0 && sq_gguf_has(k->g, arch_key(buf, k, "rope.dimension_count")))
        k->rc = sq_gguf_int(&rotated, k->g, buf, 0, INT64_MAX);
    if (k->rc == 0 && rotated != head_dim)
        k->rc = sq_fail(SQ_E_UNSUP, "key '%s' is %" PRId64 ", not the head size %" PRId64, buf, rotated,
                        head_dim);
    arch_key(buf, k, "rope.scaling.type");
    if (k->rc == 0 && sq_gguf_has(k->g, buf) && !sq_gguf_is(k->g, buf, "none")) {
        const char *type = "?";
        size_t n = 1;
        if (!sq_gguf_is(k->g, buf, "linear"))
            k->rc =
                sq_gguf_str(&type, &n, k->g, buf) < 0
                    ? SQ_E_FORMAT
                    : sq_fail(SQ_E_UNSUP, "rope type '%.*s' is not supported", (int)SQ_MIN(n, 60), type);
        else
            set(k, "rope_scaling",
                json_pack("{s:s, s:f}", "rope_type", "linear", "factor",
                          get_real(k, "rope.scaling.factor", 1)));
    }
    if (k->rc == 0 && freqs >= 0)
        set_rope_freqs(k, freqs, theta, head_dim);
}

static void set_sizes(struct keys *k)
{
    static const struct {
        const char *name, *key;
        bool optional;
    } ints[] = {
        {"hidden_size", "embedding_length", false},
        {"intermediate_size", "feed_forward_length", false},
        {"num_hidden_layers", "block_count", false},
        {"num_attention_heads", "attention.head_count", false},
        {"max_position_embeddings", "context_length", true},
    };
    static const struct {
        const char *name, *key;
    } tokens[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                  {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                  {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    const int64_t embed = sq_gguf_find(k->g, "token_embd.weight");
    char buf[96];

    for (int i = 0; i < SQ_COUNT(ints); i++)
        copy_int(k, ints[i].name, arch_key(buf, k, ints[i].key), ints[i].optional);
    copy_int(k, "num_key_value_heads", arch_key(buf, k, "attention.head_count"),
             false); /* when it is not said */
    copy_int(k, "num_key_value_heads", arch_key(buf, k, "attention.head_count_kv"), true);
    if (embed < 0 && k->rc == 0)
        k->rc = sq_fail(SQ_E_FORMAT, "tensor 'token_embd.weight' is missing");
    if (k->rc == 0)
        set(k, "vocab_size", json_integer(sq_gguf_tensor(k->g, embed)->ne[1]));
    for (int i = 0; i < SQ_COUNT(tokens); i++) {
        int64_t id;
        if (sq_gguf_has(k->g, tokens[i].key) && sq_gguf_int(&id, k->g, tokens[i].key, 0, INT32_MAX) == 0)
            set(k, tokens[i].name, json_integer(id)); /* 2^32 - 1 says that there is none */
    }
}

static int64_t head_dim_of(struct keys *k)
{
    const int64_t c = json_integer_value(json_object_get(k->config, "hidden_size"));
    const int64_t h = json_integer_value(json_object_get(k->config, "num_attention_heads"));
    char buf[96];
    int64_t dim = h > 0 ? c / h : 0, value;
    if (k->rc == 0 && sq_gguf_has(k->g, arch_key(buf, k, "attention.key_length")))
        k->rc = sq_gguf_int(&dim, k->g, buf, 2, 2048);
    value = dim;
    if (k->rc == 0 && sq_gguf_has(k->g, arch_key(buf, k, "attention.value_length")))
        k->rc = sq_gguf_int(&value, k->g, buf, 0, INT64_MAX);
    if (k->rc == 0 && value != dim)
        k->rc =
            sq_fail(SQ_E_UNSUP, "key '%s' is %" PRId64 ", not the key length %" PRId64, buf, value, dim);
    if (k->rc == 0 && (dim < 2 || dim > 2048))
        k->rc = sq_fail(SQ_E_FORMAT, "heads of %" PRId64 " channels are not supported", dim);
    return dim;
}

int sq_gguf_config(json_t **out, const struct sq_gguf *g, const struct sq_gguf_arch *a)
{
    struct keys k = {.g = g, .arch = a->arch, .config = json_object(), .rc = 0};

    set(&k, "architectures", json_pack("[s]", a->name));
    set(&k, "model_type", json_string(a->model_type));
    refuse_others(&k);
    set_sizes(&k);
    const int64_t head_dim = head_dim_of(&k);
    set(&k, "head_dim", json_integer(head_dim));
    set(&k, "hidden_act", json_string("silu"));
    set(&k, "rms_norm_eps", json_real(get_real(&k, "attention.layer_norm_rms_epsilon", 1e-6)));
    if (k.rc == 0)
        set_rope(&k, head_dim);
    set(&k, "attention_bias",
        json_boolean(a->permuted && sq_gguf_find(g, "blk.0.attn_output.bias") >= 0));
    set(&k, "mlp_bias", json_boolean(sq_gguf_find(g, "blk.0.ffn_gate.bias") >= 0));
    set(&k, "tie_word_embeddings", json_boolean(sq_gguf_find(g, "output.weight") < 0));
    set(&k, "torch_dtype", json_string("float32"));
    *out = k.config;
    return k.rc;
}
