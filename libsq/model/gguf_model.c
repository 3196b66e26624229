/* A model in a GGUF file: ggml's names and keys become those of Hugging Face, rows of q and k of
 * architecture llama go back to their order there, quantized types become f32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "gguf_model.h"

struct entry {
    struct sq_tensor t; /* Hugging Face name, shape, dtype of delivery; no data */
    int64_t index;      /* in the file */
    int64_t heads;      /* rows to un-permute in so many heads, 0: none */
};

struct gm {
    struct sq_gguf *file;
    struct entry *entry; /* by name */
    int64_t n;
    const struct sq_gguf_arch *arch;
};

static const struct sq_gguf_arch archs[] = {
    {"llama", "llama", "LlamaForCausalLM", true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false},
};

static const struct {
    const char *gguf, *hf;
} top_names[] = {{"token_embd.weight", SQ_EMBED_NAME},
                 {"output_norm.weight", SQ_FINAL_NORM_NAME},
                 {"output.weight", SQ_HEAD_NAME}};

static const struct {
    const char *gguf, *hf;
} layer_names[] = {
    {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
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

/* Row r of a head of dim rows: the file has the pair (j, j + dim / 2) side by side, at 2 j and 2 j + 1.
 */
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
    const bool plain =
        f->type == TYPE_F32 || f->type == TYPE_F16 || f->type == TYPE_BF16; /* bytes as they are */
    int rc = 0;

    if (plain && !e->heads && (uintptr_t)f->data % size == 0) {
        SQ_TRY(sq_tensor_shape(out, e->t.name, e->t.dtype, e->t.ndim, e->t.dim));
        out->data = f->data;
        return 0;
    }
    SQ_TRY(sq_tensor_new(out, e->t.name, e->t.dtype, e->t.ndim, e->t.dim));
    /* a vector is a column: rows of one element, never quantized */
    const int64_t rows = e->t.dim[0], cols = e->t.ndim == 2 ? e->t.dim[1] : 1,
                  dim = e->heads ? rows / e->heads : 1;
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

/* "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; false for a name without a
 * counterpart. */
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
        return sq_fail(SQ_E_UNSUP, "tensor '%s' is not part of a %s model that sq knows", f->name,
                       m->arch->arch);
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
    e->heads = m->arch->permuted && is_q_or_k(name, &k) ? k ? c->kv_heads : c->heads : 0;
    m->n++;
    return sq_tensor_shape(&e->t, name, dtype, f->ndim, dim);
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
            m->arch = &archs[i];
            rc = sq_gguf_config(&s->original, m->file, m->arch);
            return rc < 0 ? rc : sq_config_read(&s->cfg, s->original);
        }
    return sq_fail(SQ_E_UNSUP, "architecture '%.*s' is not supported (llama, qwen2, qwen3 are)",
                   (int)SQ_MIN(n, 60), arch);
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
    } whole[] = {{"tokenizer.huggingface.json", "tokenizer.json"},
                 {"tokenizer.chat_template", "chat_template.jinja"}};
    json_t *keys = NULL;
    char *text = NULL;
    const char *value;
    size_t n;
    int rc = 0;

    SQ_TRY(sq_gguf_json(&keys, g, "tokenizer."));
    if (json_object_size(keys)) {
        text = json_dumps(keys, JSON_COMPACT);
        rc = text ? add_text(s, "tokenizer.gguf.json", text, strlen(text))
                  : sq_fail(SQ_E_NOMEM, "no memory for its keys");
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
