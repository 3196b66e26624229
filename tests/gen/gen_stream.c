/* gen_stream: a small model stream with every kind of record, or with one of several faults, for tests. The numbers are
 * pseudo-random and always the same. */
#include <string.h>

#include "sq/app.h"
#include "sq/layer.h"
#include "sq/rng.h"

enum fault { NONE, ABORT, SWAP, TWICE, NO_NORM, BAD_SHAPE, LATE_FILE, BAD_TOKEN, STALL };

struct gen {
    struct sq_stream *out;
    struct sq_config cfg;
    int64_t big;
    int state, fault;
    double nudge;
    uint32_t seed;
};

static int put_json(struct sq_stream *out, json_t *head, const void *payload, size_t n)
{
    const int rc = sq_stream_put(out, head, payload, n);
    json_decref(head);
    return rc;
}

static int make(struct gen *g, struct sq_tensor *t, const char *name, enum sq_dtype dtype, int64_t rows, int64_t cols)
{
    const int64_t dim[2] = {rows ? rows : cols, cols};
    const int rc = sq_tensor_new(t, name, dtype, rows ? 2 : 1, dim);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < sq_tensor_count(t); i++) {
        g->seed = g->seed * 1664525u + 1013904223u;
        const float x = (float)(int32_t)g->seed * 0x1p-31f;
        if (dtype == SQ_F32)
            ((float *)t->owned)[i] = x;
        else if (dtype == SQ_BF16)
            ((uint16_t *)t->owned)[i] = sq_f32_to_bf16(x);
        else
            ((uint8_t *)t->owned)[i] = (uint8_t)(g->seed >> 30);
    }
    return 0;
}

static int add(struct gen *g, struct sq_layer *l, const char *name, enum sq_dtype dtype, int64_t rows, int64_t cols)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc = make(g, &t, name, dtype, rows, cols);
    if (rc == 0 && g->nudge != 0 && l->index == 1 && strcmp(name, "mlp.up_proj.weight") == 0 && dtype == SQ_F32)
        ((float *)t.owned)[5] += (float)g->nudge;
    if (rc == 0)
        rc = sq_layer_add(l, &t);
    sq_tensor_release(&t);
    return rc;
}

static int add_linear(struct gen *g, struct sq_layer *l, int64_t i)
{
    char linear[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
    static const struct {
        const char *part;
        bool codes;
    } parts[] = {{"codes", true}, {"scales", false}, {"zeros", true}};
    int64_t rows, cols;
    int rc = 0;
    sq_linear_name(linear, &g->cfg, i);
    sq_linear_shape(&rows, &cols, &g->cfg, i);
    for (int k = 0; k < 3 && g->state == SQ_MERGED; k++) {
        snprintf(name, sizeof name, "%s.%s", linear, parts[k].part);
        SQ_TRY(add(g, l, name, parts[k].codes ? SQ_U8 : SQ_F32, rows, k ? 1 : cols));
    }
    if (g->state == SQ_MERGED)
        return 0;
    snprintf(name, sizeof name, "%s.weight", linear);
    SQ_TRY(add(g, l, name, SQ_F32, rows, g->fault == BAD_SHAPE && l->index == 1 ? cols + 1 : cols));
    if (g->state == SQ_LEARNING) {
        snprintf(name, sizeof name, "%s.u", linear);
        SQ_TRY(add(g, l, name, SQ_F32, rows, 1));
    }
out:
    return rc;
}

static int put_layer(struct gen *g, int64_t index)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc = 0;
    l.index = index;
    l.state = (enum sq_state)g->state;
    if (g->state != SQ_FLOAT)
        l.scheme = json_pack("{s:i, s:i, s:i, s:b, s:f}", "wbits", 2, "abits", 16, "group", 0, "symmetric", 0, "rate", 1.0);
    for (int64_t i = 0; i < sq_config_linears(&g->cfg); i++)
        SQ_TRY(add_linear(g, &l, i));
    for (int i = 0; i < SQ_GAINS; i++)
        if (sq_gain_size(&g->cfg, (enum sq_gain_id)i))
            SQ_TRY(add(g, &l, sq_gain_name((enum sq_gain_id)i), SQ_F32, 0, sq_gain_size(&g->cfg, (enum sq_gain_id)i)));
    SQ_TRY(sq_layer_write(g->out, &l));
out:
    sq_layer_release(&l);
    return rc;
}

static int put_top(struct gen *g, const char *name, const char *role, int64_t rows)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc = make(g, &t, name, SQ_BF16, rows, g->cfg.hidden);
    if (rc == 0)
        rc = sq_stream_put_tensor(g->out, &t, role, -1);
    sq_tensor_release(&t);
    return rc;
}

static int put_head(struct gen *g)
{
    static const char text[] = "{\"version\": \"1.0\"}";
    int32_t ids[4][8];
    json_t *config = NULL;
    int rc;
    SQ_TRY(sq_config_to_json(&config, &g->cfg));
    SQ_TRY(put_json(g->out, json_pack("{s:s, s:o, s:{}, s:[{s:s, s:s, s:[i,i]}]}", "record", "model", "config", config, "original",
                                      "manifest", "name", SQ_EMBED_NAME, "dtype", "bf16", "shape", (int)g->cfg.vocab,
                                      (int)g->cfg.hidden), NULL, 0));
    SQ_TRY(put_json(g->out, json_pack("{s:s, s:s, s:i}", "record", "file", "name", "tokenizer.json", "bytes", 0), text,
                    sizeof text - 1));
    for (int i = 0; i < 32; i++)
        ids[i / 8][i % 8] = g->fault == BAD_TOKEN && i == 20 ? 32 : i * 7 % 32;
    SQ_TRY(put_json(g->out, json_pack("{s:s, s:i, s:i, s:i, s:s, s:i}", "record", "tokens", "samples", 4, "length", 8, "heldout",
                                      1, "dtype", "i32", "bytes", 0), ids, sizeof ids));
    SQ_TRY(put_json(g->out, json_pack("{s:s, s:i}", "record", "from-a-later-version", "x", 1), NULL, 0));
    SQ_TRY(put_top(g, SQ_EMBED_NAME, "embedding", g->cfg.vocab));
out:
    return rc;
}

static int put_model(struct gen *g)
{
    int rc;
    SQ_TRY(put_head(g));
    for (int64_t i = 0; i < g->cfg.layers; i++) {
        if (g->fault == ABORT && i == 1)
            SQ_TRY(sq_fail(SQ_E_VALUE, "layer 1 is rotten"));
        while (g->fault == STALL && i == 1)
            ; /* until somebody kills us */
        SQ_TRY(put_layer(g, g->fault == SWAP && i < 2 ? 1 - i : g->fault == TWICE && i ? i - 1 : i));
    }
    if (g->fault == LATE_FILE)
        SQ_TRY(put_json(g->out, json_pack("{s:s, s:s}", "record", "file", "name", "late"), "x", 1));
    if (g->fault != NO_NORM)
        SQ_TRY(put_top(g, SQ_FINAL_NORM_NAME, "norm", 0));
    SQ_TRY(put_top(g, SQ_HEAD_NAME, "head", g->cfg.vocab));
out:
    return rc;
}

/* one tensor of that many MiB, whose memory is written again and again */
static int put_big(struct gen *g)
{
    enum { MIB = 1 << 20 };
    static uint8_t data[MIB];
    json_t *head = json_pack("{s:s, s:s, s:s, s:[I]}", "record", "tensor", "name", "big", "dtype", "u8", "shape",
                             (json_int_t)(g->big * MIB));
    int rc = sq_stream_put_head(g->out, head, g->big * MIB);
    for (int64_t i = 0; rc == 0 && i < g->big; i++)
        rc = sq_stream_put_data(g->out, data, MIB);
    json_decref(head);
    return rc;
}

int main(int argc, char **argv)
{
    struct sq_app app;
    struct gen g = {.cfg = {.arch = "LlamaForCausalLM", .model_type = "llama", .hidden = 16, .heads = 2, .kv_heads = 1,
                            .head_dim = 8, .ffn = 24, .layers = 2, .vocab = 32, .max_positions = 64, .eps = 1e-5,
                            .rope_theta = 1e4, .rope_factor = 1.0, .rope_low = 1.0, .rope_high = 4.0,
                            .rope_original = 64},
                    .seed = 1};
    const struct sq_opt opts[] = {
        SQ_OPT_INT(0, "layers", &g.cfg.layers, 1, 1024, "of the model"),
        SQ_OPT_INT(0, "big", &g.big, 0, 1 << 20, "one tensor of N MiB in place of a model"),
        SQ_OPT_ENUM(0, "state", &g.state, "float|learning|final|merged", "of the layers"),
        SQ_OPT_REAL(0, "nudge", &g.nudge, -1e9, 1e9, "added to one weight of layer 1"),
        SQ_OPT_ENUM(0, "fault", &g.fault, "none|abort|swap|twice|no-norm|bad-shape|late-file|bad-token|stall", "what goes wrong"),
        SQ_OPT_END,
    };
    int rc;

    sq_app_init(&app, "gen_stream", "", "write a small model stream", opts, 0, argc, argv);
    SQ_TRY(sq_stream_open(&g.out, app.out, SQ_WRITE));
    SQ_TRY(sq_stream_begin(g.out, NULL, &app));
    SQ_TRY(g.big ? put_big(&g) : put_model(&g));
    SQ_TRY(sq_stream_finish(&g.out));
out:
    sq_stream_abort(&g.out, rc);
    return sq_app_exit(&app, rc);
}
