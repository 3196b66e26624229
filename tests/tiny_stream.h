/* A small random Llama with calibration tokens, written as a stream: what sq-load and sq-calib would send.
 * The same numbers for the same arguments. */
#ifndef TINY_STREAM_H
#define TINY_STREAM_H

#include <stdio.h>
#include <string.h>

#include "sq/layer.h"
#include "sq/rng.h"
#include "sq/stream.h"

struct tiny {
    int64_t layers, samples, length, heldout, hidden, ffn, vocab, seed;
    bool no_tokens;
};

static inline int tiny_tensor(struct sq_tensor *t, const char *name, int64_t rows, int64_t cols, double mean,
                              double std,
                              struct sq_rng *r)
{
    const int64_t dim[2] = {rows, cols};
    const int rc = sq_tensor_new(t, name, SQ_F32, cols ? 2 : 1, dim);
    for (int64_t i = 0; rc == 0 && i < sq_tensor_count(t); i++)
        ((float *)t->owned)[i] = (float)(mean + std * sq_rng_normal(r));
    return rc;
}

static inline int tiny_layer(struct sq_stream *out, const struct sq_config *cfg, int64_t index, int64_t seed)
{
    struct sq_rng r = sq_rng_init((uint64_t)seed, SQ_RNG_TEST, 1, (uint64_t)index, 0, 0);
    struct sq_layer l = SQ_LAYER_INIT;
    char linear[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
    int rc = 0;
    l.index = index;
    for (int i = 0; rc == 0 && i < 2; i++) {
        struct sq_tensor t = SQ_TENSOR_INIT;
        rc = tiny_tensor(&t, sq_gain_name(i ? SQ_NORM2 : SQ_NORM1), cfg->hidden, 0, 1.0, 0.1, &r);
        if (rc == 0)
            rc = sq_layer_add(&l, &t);
    }
    for (int64_t i = 0; rc == 0 && i < sq_config_linears(cfg); i++) {
        struct sq_tensor t = SQ_TENSOR_INIT;
        int64_t rows, cols;
        sq_linear_shape(&rows, &cols, cfg, i);
        snprintf(name, sizeof name, "%s.weight", sq_linear_name(linear, cfg, i));
        rc = tiny_tensor(&t, name, rows, cols, 0.0, 0.5 / (double)(cols > 64 ? 10 : 6), &r);
        if (rc == 0)
            rc = sq_layer_add(&l, &t);
    }
    if (rc == 0)
        rc = sq_layer_write(out, &l);
    sq_layer_release(&l);
    return rc;
}

static inline int tiny_tokens(struct sq_stream *out, const struct tiny *m)
{
    struct sq_rng r = sq_rng_init((uint64_t)m->seed, SQ_RNG_TEST, 2, 0, 0, 0);
    int32_t *ids = NULL;
    int rc = sq_alloc(&ids, m->samples * m->length);
    for (int64_t i = 0; rc == 0 && i < m->samples * m->length; i++)
        ids[i] = (int32_t)sq_rng_below(&r, (uint64_t)m->vocab);
    json_t *head = json_pack("{s:s, s:I, s:I, s:s, s:I}", "record", "tokens", "samples", (json_int_t)m->samples,
                             "length",
                             (json_int_t)m->length, "dtype", "i32", "heldout", (json_int_t)m->heldout);
    if (rc == 0)
        rc = sq_stream_put(out, head, ids, (size_t)(4 * m->samples * m->length));
    json_decref(head);
    sq_free(ids);
    return rc;
}

static inline struct sq_config tiny_config(const struct tiny *m)
{
    return (struct sq_config){.arch = "LlamaForCausalLM", .model_type = "llama", .hidden = m->hidden, .heads = 4,
                              .kv_heads = 2, .head_dim = m->hidden / 4, .ffn = m->ffn, .layers = m->layers,
                              .vocab = m->vocab, .max_positions = 512, .eps = 1e-6, .rope_theta = 1e4};
}

/* To an endpoint ("-" or a path). */
static inline int tiny_write(const char *endpoint, const struct tiny *m)
{
    const struct sq_app app = {.prog = "tiny-stream", .no_prov = true};
    const struct sq_config cfg = tiny_config(m);
    struct sq_rng r = sq_rng_init((uint64_t)m->seed, SQ_RNG_TEST, 3, 0, 0, 0);
    struct sq_tensor t = SQ_TENSOR_INIT;
    struct sq_stream *out = NULL;
    json_t *config = NULL, *head = NULL;
    int rc;
    SQ_TRY(sq_stream_open(&out, endpoint, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, NULL, &app));
    SQ_TRY(sq_config_to_json(&config, &cfg));
    head = json_pack("{s:s, s:O}", "record", "model", "config", config);
    SQ_TRY(sq_stream_put(out, head, NULL, 0));
    if (!m->no_tokens)
        SQ_TRY(tiny_tokens(out, m));
    SQ_TRY(tiny_tensor(&t, SQ_EMBED_NAME, cfg.vocab, cfg.hidden, 0.0, 1.0, &r));
    SQ_TRY(sq_stream_put_tensor(out, &t, "embed", -1));
    for (int64_t i = 0; i < m->layers; i++)
        SQ_TRY(tiny_layer(out, &cfg, i, m->seed));
    sq_tensor_release(&t);
    SQ_TRY(tiny_tensor(&t, SQ_FINAL_NORM_NAME, cfg.hidden, 0, 1.0, 0.1, &r));
    SQ_TRY(sq_stream_put_tensor(out, &t, "norm", -1));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stream_abort(&out, rc);
    sq_tensor_release(&t);
    json_decref(config);
    json_decref(head);
    return rc;
}

#endif
