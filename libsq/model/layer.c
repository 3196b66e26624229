#include "sq/layer.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "sq/hash.h"
#include "sq/json.h"

enum { MAX_TENSORS = 1 << 16, MAX_INDEX = 1 << 20 };

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor bytes and digests are little-endian");

static const char *const state_name[] = {
    [SQ_FLOAT] = "float", [SQ_LEARNING] = "learning", [SQ_FINAL] = "final", [SQ_MERGED] = "merged",
};

const char *sq_state_name(enum sq_state s)
{
    return state_name[s];
}

static int parse_state(enum sq_state *out, const char *name)
{
    for (int i = 0; i < SQ_COUNT(state_name); i++)
        if (strcmp(name, state_name[i]) == 0) {
            *out = (enum sq_state)i;
            return 0;
        }
    return sq_fail(SQ_E_FORMAT, "'state' is '%.40s', not float, learning, final or merged", name);
}

void sq_layer_release(struct sq_layer *l)
{
    for (int64_t i = 0; i < l->ntensor; i++)
        sq_tensor_release(&l->tensor[i]);
    sq_free(l->tensor);
    json_decref(l->scheme);
    *l = (struct sq_layer)SQ_LAYER_INIT;
}

struct sq_tensor *sq_layer_find(const struct sq_layer *l, const char *name)
{
    for (int64_t i = 0; i < l->ntensor; i++)
        if (strcmp(l->tensor[i].name, name) == 0)
            return &l->tensor[i];
    return NULL;
}

static int reserve(struct sq_layer *l)
{
    struct sq_tensor *more;
    if (l->ntensor < l->cap)
        return 0;
    const int64_t cap = SQ_MAX(2 * l->cap, 32);
    const int rc = sq_alloc(&more, cap);
    if (rc < 0)
        return rc;
    if (l->ntensor)
        memcpy(more, l->tensor, (size_t)l->ntensor * sizeof *more);
    sq_free(l->tensor);
    l->tensor = more;
    l->cap = cap;
    return 0;
}

int sq_layer_add(struct sq_layer *l, struct sq_tensor *t)
{
    int rc;
    if (sq_layer_find(l, t->name))
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": tensor '%s' is there twice", l->index, t->name);
    if ((rc = reserve(l)) < 0)
        return rc;
    l->tensor[l->ntensor] = (struct sq_tensor)SQ_TENSOR_INIT;
    sq_tensor_move(&l->tensor[l->ntensor++], t);
    return 0;
}

void sq_layer_drop(struct sq_layer *l, const char *name)
{
    struct sq_tensor *t = sq_layer_find(l, name);
    if (!t)
        return;
    sq_tensor_release(t);
    const int64_t at = t - l->tensor;
    memmove(t, t + 1, (size_t)(l->ntensor - at - 1) * sizeof *t);
    l->ntensor--;
}

/* ---- names ---- */

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

const char *sq_layer_role(const char *name)
{
    static const struct {
        const char *end, *role;
    } table[] = {
        {"norm.weight", "gain"}, {"mlp.gate.weight", "router"}, {".weight", "weight"}, {".bias", "bias"},
        {".codes", "codes"},     {".scales", "scales"},         {".zeros", "zeros"},   {".lora_A", "lora"},
        {".lora_B", "lora"},     {".u", "clip"},                {".l", "clip"},
    };
    if (strncmp(name, "alpha.", 6) == 0)
        return "alpha";
    if (strncmp(name, "input_sq.", 9) == 0)
        return "stats";
    for (int i = 0; i < SQ_COUNT(table); i++)
        if (ends_with(name, table[i].end))
            return table[i].role;
    return "other";
}

/* ---- stream ---- */

/* name and dtype with their final zeros, the number of dimensions, each dimension in 8 bytes, the data */
static void hash_tensor(struct sq_hash *h, const struct sq_tensor *t)
{
    const char *dtype = sq_dtype_name(t->dtype);
    const uint8_t ndim = (uint8_t)t->ndim;
    sq_hash_add(h, t->name, strlen(t->name) + 1);
    sq_hash_add(h, dtype, strlen(dtype) + 1);
    sq_hash_add(h, &ndim, 1);
    sq_hash_add(h, t->dim, (size_t)t->ndim * sizeof t->dim[0]);
    sq_hash_add(h, t->data, sq_tensor_bytes(t));
}

int sq_layer_digest(uint64_t *out, const struct sq_layer *l)
{
    struct sq_hash h;
    const int rc = sq_hash_init(&h);
    for (int64_t i = 0; rc == 0 && i < l->ntensor; i++)
        hash_tensor(&h, &l->tensor[i]);
    if (rc == 0)
        *out = sq_hash_value(&h);
    sq_hash_release(&h);
    return rc;
}

static int put_and_drop(struct sq_stream *out, json_t *head)
{
    const int rc = head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for a header");
    json_decref(head);
    return rc;
}

int sq_layer_write(struct sq_stream *out, const struct sq_layer *l)
{
    char text[SQ_HASH_TEXT];
    uint64_t digest;
    int rc;

    json_t *begin = json_pack("{s:s, s:s, s:I, s:s}", "record", "layer", "event", "begin", "index",
                              (json_int_t)l->index, "state", sq_state_name(l->state));
    if (begin && l->scheme)
        json_object_set(begin, "scheme", l->scheme);
    SQ_TRY(put_and_drop(out, begin));
    for (int64_t i = 0; i < l->ntensor; i++)
        SQ_TRY(sq_stream_put_tensor(out, &l->tensor[i], sq_layer_role(l->tensor[i].name), l->index));
    SQ_TRY(sq_layer_digest(&digest, l));
    sq_hash_text(text, digest);
    SQ_TRY(put_and_drop(out, json_pack("{s:s, s:s, s:I, s:s}", "record", "layer", "event", "end", "index",
                                       (json_int_t)l->index, "xxh3", text)));
out:
    return rc;
}

/* the begin record's members */
static int read_begin(struct sq_layer *l, const json_t *head)
{
    const char *event, *state;
    json_t *scheme = json_object_get(head, "scheme");
    int rc;

    SQ_TRY(sq_json_int(&l->index, head, "index", 0, MAX_INDEX));
    SQ_TRY(sq_json_str(&event, head, "event"));
    if (strcmp(event, "begin") != 0)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": a closing record without its beginning", l->index));
    SQ_TRY(sq_json_str(&state, head, "state"));
    SQ_TRY(parse_state(&l->state, state));
    if (scheme && !json_is_object(scheme))
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": 'scheme' is not an object", l->index));
    l->scheme = json_incref(scheme);
out:
    return rc;
}

static int read_tensor(struct sq_layer *l, struct sq_stream *in, const struct sq_record *rec)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int64_t layer;
    int rc;

    if (l->ntensor == MAX_TENSORS)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has more than %d tensors", l->index, MAX_TENSORS));
    SQ_TRY(sq_json_int(&layer, rec->head, "layer", 0, MAX_INDEX));
    if (layer != l->index)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "a tensor of layer %" PRId64 " inside layer %" PRId64, layer, l->index));
    SQ_TRY(sq_stream_tensor(in, rec, &t));
    SQ_TRY(sq_layer_add(l, &t));
out:
    sq_tensor_release(&t);
    return rc;
}

static int check_end(const struct sq_layer *l, const json_t *head)
{
    const char *event, *xxh3;
    char text[SQ_HASH_TEXT];
    uint64_t digest;
    int64_t index;
    int rc;

    SQ_TRY(sq_json_str(&event, head, "event"));
    SQ_TRY(sq_json_int(&index, head, "index", 0, MAX_INDEX));
    if (strcmp(event, "end") != 0 || index != l->index)
        SQ_TRY(
            sq_fail(SQ_E_FORMAT, "layer %" PRId64 " (%.20s) inside layer %" PRId64, index, event, l->index));
    SQ_TRY(sq_json_str(&xxh3, head, "xxh3"));
    SQ_TRY(sq_layer_digest(&digest, l));
    sq_hash_text(text, digest);
    if (strcmp(text, xxh3) != 0)
        SQ_TRY(sq_fail(SQ_E_FORMAT,
                       "layer %" PRId64 ": the digest of its tensors is %s, its record says %.32s", l->index,
                       text, xxh3));
out:
    return rc;
}

int sq_layer_read(struct sq_layer *l, struct sq_stream *in, const struct sq_record *rec)
{
    struct sq_record next = SQ_RECORD_INIT;
    int rc;

    sq_layer_release(l);
    if (rec->kind != SQ_REC_LAYER)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "a %s record where a layer begins",
                       sq_kind_name(rec->kind) ? sq_kind_name(rec->kind) : "strange"));
    SQ_TRY(read_begin(l, rec->head));
    while ((rc = sq_stream_next(in, &next)) > 0 && next.kind == SQ_REC_TENSOR)
        SQ_TRY(read_tensor(l, in, &next));
    if (rc < 0)
        goto out;
    if (rc == 0 || next.kind != SQ_REC_LAYER)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": a %s record inside the layer", l->index,
                       rc == 0 ? "end" : sq_kind_name(next.kind) ? sq_kind_name(next.kind) : "strange"));
    SQ_TRY(check_end(l, next.head));
out:
    sq_record_release(&next);
    if (rc < 0)
        sq_layer_release(l);
    return rc;
}

/* ---- against the architecture ---- */

static int check_tensor(const struct sq_layer *l, const char *name, int64_t rows, int64_t cols)
{
    const struct sq_tensor *t = sq_layer_find(l, name);
    const int ndim = rows ? 2 : 1;

    if (!t)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has no tensor '%s'", l->index, name);
    if (t->dtype != SQ_F32 && t->dtype != SQ_F16 && t->dtype != SQ_BF16 && t->dtype != SQ_F64)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": tensor '%s' is %s, not a float type", l->index, name,
                       sq_dtype_name(t->dtype));
    if (t->ndim != ndim || t->dim[ndim - 1] != cols || (rows && t->dim[0] != rows))
        return sq_fail(SQ_E_FORMAT,
                       "layer %" PRId64 ": tensor '%s' is %d-d %" PRId64 " x %" PRId64
                       ", the config needs %d-d %" PRId64 " x %" PRId64,
                       l->index, name, t->ndim, sq_tensor_rows(t), sq_tensor_cols(t), ndim, SQ_MAX(rows, 1),
                       cols);
    return 0;
}

static int check_linear(const struct sq_layer *l, const struct sq_config *cfg, int64_t i, int64_t *found)
{
    char linear[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
    int64_t rows, cols;
    int rc;

    sq_linear_name(linear, cfg, i);
    sq_linear_shape(&rows, &cols, cfg, i);
    snprintf(name, sizeof name, "%s.weight", linear);
    SQ_TRY(check_tensor(l, name, rows, cols));
    ++*found;
    if (sq_linear_has_bias(cfg, i)) {
        snprintf(name, sizeof name, "%s.bias", linear);
        SQ_TRY(check_tensor(l, name, 0, rows));
        ++*found;
    }
out:
    return rc;
}

/* Is name among the weights and biases that cfg demands? Slow: for the message about one that is not. */
static bool demanded(const struct sq_config *cfg, const char *name)
{
    char linear[SQ_LINEAR_NAME], want[SQ_NAME_MAX];
    for (int64_t i = 0; i < sq_config_linears(cfg); i++) {
        sq_linear_name(linear, cfg, i);
        snprintf(want, sizeof want, "%s.weight", linear);
        if (strcmp(want, name) == 0)
            return true;
        snprintf(want, sizeof want, "%s.bias", linear);
        if (sq_linear_has_bias(cfg, i) && strcmp(want, name) == 0)
            return true;
    }
    for (int g = 0; g < SQ_GAINS; g++)
        if (sq_gain_size(cfg, (enum sq_gain_id)g) && strcmp(sq_gain_name((enum sq_gain_id)g), name) == 0)
            return true;
    return cfg->experts && strcmp(name, "mlp.gate.weight") == 0;
}

/* A bias that nobody adds would change the model without a word. */
static int check_superfluous(const struct sq_layer *l, const struct sq_config *cfg, int64_t found)
{
    int64_t n = 0;
    for (int64_t i = 0; i < l->ntensor; i++)
        n += ends_with(l->tensor[i].name, ".weight") || ends_with(l->tensor[i].name, ".bias");
    if (n == found)
        return 0;
    for (int64_t i = 0; i < l->ntensor; i++) {
        const char *name = l->tensor[i].name;
        if ((ends_with(name, ".weight") || ends_with(name, ".bias")) && !demanded(cfg, name))
            return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": tensor '%s' has no place in a %s", l->index, name,
                           cfg->arch);
    }
    return 0;
}

int sq_layer_check(const struct sq_layer *l, const struct sq_config *cfg)
{
    int64_t found = 0;
    int rc;

    if (l->index < 0 || l->index >= cfg->layers)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 " of a model with %" PRId64 " layers", l->index,
                       cfg->layers));
    if (l->state == SQ_MERGED)
        SQ_TRY(
            sq_fail(SQ_E_FORMAT, "layer %" PRId64 " is merged: it has no float weights any more", l->index));
    for (int64_t i = 0; i < sq_config_linears(cfg); i++)
        SQ_TRY(check_linear(l, cfg, i, &found));
    for (int g = 0; g < SQ_GAINS; g++) {
        const int64_t n = sq_gain_size(cfg, (enum sq_gain_id)g);
        if (n)
            SQ_TRY(check_tensor(l, sq_gain_name((enum sq_gain_id)g), 0, n));
        found += n != 0;
    }
    if (cfg->experts) {
        SQ_TRY(check_tensor(l, "mlp.gate.weight", cfg->experts, cfg->hidden));
        found++;
    }
    rc = check_superfluous(l, cfg, found);
out:
    return rc;
}
