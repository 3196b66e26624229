/* A model in a GGUF file: ggml's names and keys become those of Hugging Face, rows of q and k of architecture
 * llama go back to their order there, quantized types become f32. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "map.h"
#include "sq/gguf.h"

enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 30 }; /* ggml's numbers */

struct entry {
    struct sq_tensor t; /* Hugging Face name, shape, dtype of delivery; no data */
    int64_t index;      /* in the file */
    int64_t heads;      /* rows to un-permute in so many heads, 0: none */
};

struct gm {
    struct sq_gguf *file;
    struct entry *entry; /* by name */
    int64_t n;
    char arch[32];
    bool permuted; /* llama: pairs of RoPE are neighbours, not halves apart */
    int64_t layers;
};

static const struct {
    const char *arch, *model_type, *name;
    bool permuted;
} archs[] = {
    {"llama", "llama", "LlamaForCausalLM", true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false},
};

static const struct {
    const char *gguf, *hf;
} top_names[] = {
    {"token_embd.weight", SQ_EMBED_NAME}, {"output_norm.weight", SQ_FINAL_NORM_NAME}, {"output.weight", SQ_HEAD_NAME}};

static const struct {
    const char *gguf, *hf;
} layer_names[] = {
    {"attn_norm", "input_layernorm"},        {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},          {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},          {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},     {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},           {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

/* ---- tensors by their Hugging Face names ---- */

static int64_t gm_count(const void *impl)
{
    return ((const struct gm *)impl)->n;
}

static const struct sq_tensor *gm_info(const void *impl, int64_t id)
{
    return &((const struct gm *)impl)->entry[id].t;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->t.name, ((const struct entry *)b)->t.name);
}

static int64_t gm_find(const void *impl, const char *name)
{
    const struct gm *m = impl;
    struct entry want;
    if (!m->n || strlen(name) >= sizeof want.t.name)
        return -1;
    strcpy(want.t.name, name);
    const struct entry *e = bsearch(&want, m->entry, (size_t)m->n, sizeof *m->entry, by_name);
    return e ? e - m->entry : -1;
}

/* Row r of a head of dim rows: the file has the pair (j, j + dim / 2) side by side, at 2 j and 2 j + 1. */
static int64_t row_in_file(int64_t row, int64_t dim)
{
    const int64_t r = row % dim, half = dim / 2;
    return row - r + (r < half ? 2 * r : 2 * (r - half) + 1);
}

static int gm_get(struct sq_tensor *out, void *impl, int64_t id)
{
    const struct gm *m = impl;
    const struct entry *e = &m->entry[id];
    const struct sq_gguf_tensor *f = sq_gguf_tensor(m->file, e->index);
    const size_t size = sq_dtype_size(e->t.dtype);
    const bool plain = f->type == TYPE_F32 || f->type == TYPE_F16 || f->type == TYPE_BF16; /* bytes as they are */
    int rc = 0;

    if (plain && !e->heads && (uintptr_t)f->data % size == 0) {
        SQ_TRY(sq_tensor_shape(out, e->t.name, e->t.dtype, e->t.ndim, e->t.dim));
        out->data = f->data;
        return 0;
    }
    SQ_TRY(sq_tensor_new(out, e->t.name, e->t.dtype, e->t.ndim, e->t.dim));
    /* a vector is a column: rows of one element, never quantized */
    const int64_t rows = e->t.dim[0], cols = e->t.ndim == 2 ? e->t.dim[1] : 1, dim = e->heads ? rows / e->heads : 1;
    const size_t row_bytes = f->size / (size_t)rows;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *src = f->data + (size_t)(e->heads ? row_in_file(r, dim) : r) * row_bytes;
        uint8_t *dst = (uint8_t *)out->owned + (size_t)(r * cols) * size;
        if (plain)
            memcpy(dst, src, row_bytes);
        else
            sq_gguf_dequant((float *)(void *)dst, f->type, src, cols);
    }
out:
    return rc;
}

static void gm_drop(void *impl, int64_t id)
{
    const struct gm *m = impl;
    sq_gguf_drop(m->file, m->entry[id].index);
}

static void gm_close(void *impl)
{
    struct gm *m = impl;
    sq_gguf_close(&m->file);
    sq_free(m->entry);
    sq_free(m);
}

static const struct sq_format gm_format = {gm_count, gm_info, gm_find, gm_get, gm_drop, gm_close};

/* "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; false for a name without a counterpart. */
static bool hf_name(char out[SQ_NAME_MAX], const char *name)
{
    int layer, used = 0;
    for (int i = 0; i < SQ_COUNT(top_names); i++)
        if (strcmp(name, top_names[i].gguf) == 0) {
            strcpy(out, top_names[i].hf);
            return true;
        }
    if (sscanf(name, "blk.%9d.%n", &layer, &used) != 1 || !used || layer < 0)
        return false;
    const char *local = name + used, *dot = strrchr(local, '.');
    for (int i = 0; dot && i < SQ_COUNT(layer_names); i++)
        if (strlen(layer_names[i].gguf) == (size_t)(dot - local) &&
            memcmp(layer_names[i].gguf, local, (size_t)(dot - local)) == 0) {
            snprintf(out, SQ_NAME_MAX, "model.layers.%d.%s%s", layer, layer_names[i].hf, dot);
            return true;
        }
    return false;
}

static bool is_q_or_k(const char *name, bool *k)
{
    *k = strstr(name, ".self_attn.k_proj.") != NULL;
    return *k || strstr(name, ".self_attn.q_proj.") != NULL;
}

static int add_entry(struct gm *m, int64_t index, const struct sq_config *c)
{
    const struct sq_gguf_tensor *f = sq_gguf_tensor(m->file, index);
    struct entry *e = &m->entry[m->n];
    enum sq_dtype dtype = SQ_F32;
    int64_t dim[SQ_MAX_DIMS];
    char name[SQ_NAME_MAX];
    bool k;

    if (strcmp(f->name, "rope_freqs.weight") == 0) /* in the config already */
        return 0;
    if (!hf_name(name, f->name))
        return sq_fail(SQ_E_UNSUP, "tensor '%s' is not part of a %s model that sq knows", f->name, m->arch);
    if (f->type == TYPE_F16)
        dtype = SQ_F16;
    if (f->type == TYPE_BF16)
        dtype = SQ_BF16;
    if (f->ndim == 1 && dtype == SQ_F32 && f->type != TYPE_F32)
        return sq_fail(SQ_E_UNSUP, "tensor '%s' is a vector of %s, not of a float type", f->name,
                       sq_gguf_type_name(f->type));
    for (int i = 0; i < f->ndim; i++)
        dim[i] = f->ne[f->ndim - 1 - i];
    e->index = index;
    e->heads = m->permuted && is_q_or_k(name, &k) ? k ? c->kv_heads : c->heads : 0;
    m->n++;
    return sq_tensor_shape(&e->t, name, dtype, f->ndim, dim);
}

/* ---- the config ---- */

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
        {"attention.sliding_window", 0}, {"expert_count", 0},     {"logit_scale", 1},
        {"residual_scale", 1},           {"embedding_scale", 1},  {"attention.scale", 0},
        {"attention.clamp_kqv", 0},      {"final_logit_softcapping", 0}, {"attn_logit_softcapping", 0},
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

/* Llama 3's stretched frequencies are stored as factors, their recipe is not: find it. With s = factor of a pair,
 * blend = (1 / s - 1 / factor) / (1 - 1 / factor) is linear in 1 / wave length between the ends: two pairs give the line.
 * Only old / (high - low) and low / (high - low) matter, so high - low and old are free: low = 1 as in every model known. */
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
            return sq_fail(SQ_E_UNSUP, "the factors in tensor 'rope_freqs.weight' are not those of rope type 'llama3'");
        c->rope_original = llround(original);
        c->rope_high = fabs(high - round(high)) < 1e-3 ? round(high) : high;
    }
    sq_rope_freqs(got, c);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)base[i] / (double)got[i] / (double)factor[i] - 1) < 1e-4))
            return sq_fail(SQ_E_UNSUP, "the factors in tensor 'rope_freqs.weight' are not those of rope type 'llama3'");
    return 0;
}

static void set_rope_freqs(struct keys *k, int64_t index, double theta, int64_t head_dim)
{
    const struct sq_gguf_tensor *t = sq_gguf_tensor(k->g, index);
    struct sq_config c = {.rope_theta = theta, .head_dim = head_dim};
    float factor[1024];
    bool any = false;

    if (json_object_get(k->config, "rope_scaling")) {
        k->rc = sq_fail(SQ_E_UNSUP, "tensor 'rope_freqs.weight' beside a rope scaling key is not supported");
        return;
    }
    if (t->type != TYPE_F32 || t->ndim != 1 || t->ne[0] != head_dim / 2 || t->ne[0] > 1024) {
        k->rc = sq_fail(SQ_E_FORMAT, "tensor 'rope_freqs.weight' is not f32 with %" PRId64 " elements", head_dim / 2);
        return;
    }
    sq_gguf_dequant(factor, t->type, t->data, t->ne[0]);
    for (int64_t i = 0; i < t->ne[0]; i++)
        any |= factor[i] != 1;
    if (!any)
        return;
    k->rc = fit_llama3(&c, factor, t->ne[0]);
    if (k->rc == 0)
        set(k, "rope_scaling", json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", c.rope_factor,
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
        k->rc = sq_fail(SQ_E_UNSUP, "key '%s' is %" PRId64 ", not the head size %" PRId64, buf, rotated, head_dim);
    arch_key(buf, k, "rope.scaling.type");
    if (k->rc == 0 && sq_gguf_has(k->g, buf) && !sq_gguf_is(k->g, buf, "none")) {
        const char *type = "?";
        size_t n = 1;
        if (!sq_gguf_is(k->g, buf, "linear"))
            k->rc = sq_gguf_str(&type, &n, k->g, buf) < 0
                        ? SQ_E_FORMAT
                        : sq_fail(SQ_E_UNSUP, "rope type '%.*s' is not supported", (int)SQ_MIN(n, 60), type);
        else
            set(k, "rope_scaling", json_pack("{s:s, s:f}", "rope_type", "linear", "factor",
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
        {"hidden_size", "embedding_length", false},           {"intermediate_size", "feed_forward_length", false},
        {"num_hidden_layers", "block_count", false},          {"num_attention_heads", "attention.head_count", false},
        {"max_position_embeddings", "context_length", true},
    };
    static const struct {
        const char *name, *key;
    } tokens[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"}, {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                  {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    const int64_t embed = sq_gguf_find(k->g, "token_embd.weight");
    char buf[96];

    for (int i = 0; i < SQ_COUNT(ints); i++)
        copy_int(k, ints[i].name, arch_key(buf, k, ints[i].key), ints[i].optional);
    copy_int(k, "num_key_value_heads", arch_key(buf, k, "attention.head_count"), false); /* when it is not said */
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
        k->rc = sq_fail(SQ_E_UNSUP, "key '%s' is %" PRId64 ", not the key length %" PRId64, buf, value, dim);
    if (k->rc == 0 && (dim < 2 || dim > 2048))
        k->rc = sq_fail(SQ_E_FORMAT, "heads of %" PRId64 " channels are not supported", dim);
    return dim;
}

static int make_config(json_t **out, struct gm *m, const char *name, const char *model_type)
{
    struct keys k = {.g = m->file, .arch = m->arch, .config = json_object(), .rc = 0};

    set(&k, "architectures", json_pack("[s]", name));
    set(&k, "model_type", json_string(model_type));
    refuse_others(&k);
    set_sizes(&k);
    const int64_t head_dim = head_dim_of(&k);
    set(&k, "head_dim", json_integer(head_dim));
    set(&k, "hidden_act", json_string("silu"));
    set(&k, "rms_norm_eps", json_real(get_real(&k, "attention.layer_norm_rms_epsilon", 1e-6)));
    if (k.rc == 0)
        set_rope(&k, head_dim);
    set(&k, "attention_bias", json_boolean(m->permuted && sq_gguf_find(m->file, "blk.0.attn_output.bias") >= 0));
    set(&k, "mlp_bias", json_boolean(sq_gguf_find(m->file, "blk.0.ffn_gate.bias") >= 0));
    set(&k, "tie_word_embeddings", json_boolean(sq_gguf_find(m->file, "output.weight") < 0));
    set(&k, "torch_dtype", json_string("float32"));
    *out = k.config;
    return k.rc;
}

/* ---- opening ---- */

static int find_arch(struct sq_source *s, struct gm *m)
{
    const char *arch;
    size_t n;
    int rc = sq_gguf_str(&arch, &n, m->file, "general.architecture");
    if (rc < 0)
        return rc;
    for (int i = 0; i < SQ_COUNT(archs); i++)
        if (strlen(archs[i].arch) == n && memcmp(archs[i].arch, arch, n) == 0) {
            snprintf(m->arch, sizeof m->arch, "%s", archs[i].arch);
            m->permuted = archs[i].permuted;
            rc = make_config(&s->original, m, archs[i].name, archs[i].model_type);
            return rc < 0 ? rc : sq_config_read(&s->cfg, s->original);
        }
    return sq_fail(SQ_E_UNSUP, "architecture '%.*s' is not supported (llama, qwen2, qwen3 are)", (int)SQ_MIN(n, 60), arch);
}

static int add_text(struct sq_source *s, const char *name, const char *text, size_t n)
{
    char *copy = NULL;
    const int rc = sq_alloc(&copy, (int64_t)n);
    if (rc < 0)
        return rc;
    if (n)
        memcpy(copy, text, n);
    return sq_source_add_owned(s, name, copy, n);
}

/* The tokenizer's keys as JSON, and what the file may carry in its own form. */
static int add_sides(struct sq_source *s, const struct sq_gguf *g)
{
    static const struct {
        const char *key, *file;
    } whole[] = {{"tokenizer.huggingface.json", "tokenizer.json"}, {"tokenizer.chat_template", "chat_template.jinja"}};
    json_t *keys = NULL;
    char *text = NULL;
    const char *value;
    size_t n;
    int rc = 0;

    SQ_TRY(sq_gguf_json(&keys, g, "tokenizer."));
    if (json_object_size(keys)) {
        text = json_dumps(keys, JSON_COMPACT);
        rc = text ? add_text(s, "tokenizer.gguf.json", text, strlen(text)) : sq_fail(SQ_E_NOMEM, "no memory for its keys");
    }
    for (int i = 0; i < SQ_COUNT(whole) && rc == 0; i++)
        if (sq_gguf_has(g, whole[i].key)) {
            SQ_TRY(sq_gguf_str(&value, &n, g, whole[i].key));
            SQ_TRY(add_text(s, whole[i].file, value, n));
        }
out:
    free(text);
    json_decref(keys);
    return rc;
}

int sq_source_open_gguf(struct sq_source *s)
{
    struct gm *m = NULL;
    int rc = 0;

    SQ_TRY(sq_alloc(&m, 1));
    s->impl = m;
    s->format = &gm_format;
    SQ_TRY(sq_gguf_open(&m->file, s->spec));
    rc = find_arch(s, m);
    if (rc == 0)
        rc = sq_alloc(&m->entry, sq_gguf_tensors(m->file));
    for (int64_t i = 0; i < sq_gguf_tensors(m->file) && rc == 0; i++)
        rc = add_entry(m, i, &s->cfg);
    if (rc == 0 && m->n)
        qsort(m->entry, (size_t)m->n, sizeof *m->entry, by_name);
    if (rc == 0)
        rc = sq_source_plan(s);
    if (rc == 0)
        rc = add_sides(s, m->file);
    if (rc < 0)
        sq_fail_in(rc, "'%s'", s->spec);
out:
    return rc;
}
