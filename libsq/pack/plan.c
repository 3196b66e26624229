#include "plan.h"

#include <stdio.h>
#include <string.h>

#include "sq/layer.h"

static const char *const linear_names[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
                                           "ffn_down"};
static const char *const gain_names[SQ_GAINS] = {"attn_norm.weight", "ffn_norm.weight", "attn_q_norm.weight",
                                              "attn_k_norm.weight"};

static struct plan_entry *add(struct plan *p, enum plan_kind kind, int64_t layer, int64_t rows, int64_t cols)
{
    struct plan_entry *e = &p->entry[p->n++];
    *e = (struct plan_entry){.kind = kind, .layer = layer, .rows = rows, .cols = cols, .vector = kind == PLAN_VECTOR,
                             .local = e->hf};
    return e;
}

static void add_top(struct plan *p, enum plan_kind kind, int64_t rows, int64_t cols, const char *hf, const char *gguf)
{
    struct plan_entry *e = add(p, kind, -1, rows, cols);
    snprintf(e->hf, sizeof e->hf, "%s", hf);
    snprintf(e->gguf, sizeof e->gguf, "%s", gguf);
}

static void name_local(struct plan_entry *e, const char *local, const char *gguf, const char *end)
{
    const int n = snprintf(e->hf, sizeof e->hf, "model.layers.%" PRId64 ".", e->layer);
    e->local = e->hf + n;
    snprintf(e->hf + n, sizeof e->hf - (size_t)n, "%s%s", local, end);
    snprintf(e->gguf, sizeof e->gguf, "blk.%" PRId64 ".%s%s", e->layer, gguf, end);
}

static void add_linear(struct plan *p, const struct sq_config *cfg, int64_t layer, int64_t lin)
{
    const char *gguf = linear_names[lin < SQ_GATE ? lin : SQ_GATE + (lin - SQ_GATE) % 3];
    const int64_t head_dim = lin <= SQ_K && strcmp(cfg->model_type, "llama") == 0 ? cfg->head_dim : 0;
    char name[SQ_LINEAR_NAME];
    int64_t rows, cols;

    sq_linear_shape(&rows, &cols, cfg, lin);
    struct plan_entry *e = add(p, PLAN_LINEAR, layer, rows, cols);
    e->head_dim = head_dim;
    name_local(e, sq_linear_name(name, cfg, lin), gguf, ".weight");
    if (!sq_linear_has_bias(cfg, lin))
        return;
    e = add(p, PLAN_VECTOR, layer, 1, rows);
    e->head_dim = head_dim;
    name_local(e, name, gguf, ".bias");
}

int plan_new(struct plan *p, const struct sq_config *cfg)
{
    const int64_t linears = sq_config_linears(cfg);
    int rc = sq_alloc(&p->entry, 4 + cfg->layers * (2 * linears + SQ_GAINS + 1));

    p->n = p->hint = 0;
    if (rc < 0)
        return rc;
    add_top(p, PLAN_TABLE, cfg->vocab, cfg->hidden, SQ_EMBED_NAME, "token_embd.weight");
    for (int64_t l = 0; l < cfg->layers; l++) {
        for (int g = 0; g < SQ_GAINS; g++) {
            const int64_t size = sq_gain_size(cfg, (enum sq_gain_id)g);
            if (size)
                name_local(add(p, PLAN_VECTOR, l, 1, size), sq_gain_name((enum sq_gain_id)g), gain_names[g], "");
        }
        for (int64_t i = 0; i < linears; i++)
            add_linear(p, cfg, l, i);
        if (cfg->experts)
            name_local(add(p, PLAN_TABLE, l, cfg->experts, cfg->hidden), "mlp.gate", "ffn_gate_inp", ".weight");
    }
    add_top(p, PLAN_VECTOR, 1, cfg->hidden, SQ_FINAL_NORM_NAME, "output_norm.weight");
    if (!cfg->tied)
        add_top(p, PLAN_TABLE, cfg->vocab, cfg->hidden, SQ_HEAD_NAME, "output.weight");
    return 0;
}

void plan_release(struct plan *p)
{
    sq_free(p->entry);
    *p = (struct plan){0};
}

struct plan_entry *plan_find(struct plan *p, int64_t layer, const char *local)
{
    for (int64_t i = 0; i < p->n; i++) {
        struct plan_entry *e = &p->entry[(p->hint + i) % p->n];
        if (e->layer == layer && strcmp(e->local, local) == 0) {
            p->hint = e - p->entry;
            return e;
        }
    }
    return NULL;
}

int64_t plan_gguf_row(const struct plan_entry *e, int64_t r)
{
    if (!e->head_dim)
        return r;
    const int64_t half = e->head_dim / 2, at = r % e->head_dim;
    return r - at + 2 * (at % half) + at / half;
}
