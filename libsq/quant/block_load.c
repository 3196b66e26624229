/* Tensors of a layer -> arrays of a block. Lives in quant, because the codes of a merged layer mean nothing
 * without its scheme. */
#include "sq/block.h"
#include "sq/scheme.h"

#include <stdio.h>

static int want(const struct sq_tensor **out, const struct sq_layer *l, const char *name, int64_t rows, int64_t cols)
{
    const struct sq_tensor *t = sq_layer_find(l, name);
    if (!t)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " has no tensor '%s'", l->index, name);
    if (sq_tensor_rows(t) != rows || sq_tensor_cols(t) != cols)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": tensor '%s' is %" PRId64 " x %" PRId64 ", not %" PRId64
                       " x %" PRId64, l->index, name, sq_tensor_rows(t), sq_tensor_cols(t), rows, cols);
    *out = t;
    return 0;
}

static int load_float(float *out, const struct sq_layer *l, const char *name, int64_t rows, int64_t cols)
{
    const struct sq_tensor *t = NULL;
    int rc = want(&t, l, name, rows, cols);
    if (rc == 0)
        rc = sq_tensor_to_f32(out, t);
    return rc < 0 ? sq_fail_in(rc, "layer %" PRId64, l->index) : 0;
}

/* The tensor's data as it is, after the checks of load_float. */
static int borrow_float(void **out, const struct sq_layer *l, const char *name, int64_t rows, int64_t cols)
{
    const struct sq_tensor *t = NULL;
    int rc = want(&t, l, name, rows, cols);
    if (rc == 0)
        rc = sq_tensor_check_finite(t);
    if (rc < 0)
        return sq_fail_in(rc, "layer %" PRId64, l->index);
    *out = (void *)(uintptr_t)t->data; /* nobody writes to a view */
    return 0;
}

/* Codes, scales and zero points of a merged linear -> weights. */
static int load_codes(float *w, const struct sq_layer *l, const char *linear, const struct sq_rowq *p, int64_t rows,
                      int64_t cols)
{
    const struct sq_tensor *codes = NULL, *scales = NULL, *zeros = NULL;
    const int64_t groups = sq_rowq_groups(p, cols);
    char name[SQ_NAME_MAX];
    float *scale = NULL;
    int rc;

    snprintf(name, sizeof(name), "%s.codes", linear);
    SQ_TRY(want(&codes, l, name, rows, cols));
    snprintf(name, sizeof(name), "%s.scales", linear);
    SQ_TRY(want(&scales, l, name, rows, groups));
    snprintf(name, sizeof(name), "%s.zeros", linear);
    SQ_TRY(want(&zeros, l, name, rows, groups));
    if (codes->dtype != SQ_U8 || zeros->dtype != SQ_U8)
        SQ_TRY(sq_fail(SQ_E_FORMAT, "layer %" PRId64 ": codes and zeros of '%s' must be u8", l->index, linear));
    const uint8_t *q = codes->data;
    for (int64_t i = 0; i < rows * cols; i++)
        if (q[i] >> p->bits)
            SQ_TRY(sq_fail(SQ_E_VALUE, "layer %" PRId64 ": a code of '%s' is %d, more than %d bits hold", l->index,
                           linear, q[i], p->bits));
    SQ_TRY(sq_alloc(&scale, rows * groups));
    rc = sq_tensor_to_f32(scale, scales);
    if (rc < 0)
        SQ_TRY(sq_fail_in(rc, "layer %" PRId64, l->index));
    sq_rowquant_dequant(w, q, scale, zeros->data, p, rows, cols);
    rc = 0;
out:
    sq_free(scale);
    return rc;
}

static int load_linear(struct sq_block *b, const struct sq_layer *l, int64_t linear, const struct sq_rowq *codes)
{
    char short_name[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
    int64_t rows, cols;
    int rc;
    sq_linear_shape(&rows, &cols, b->cfg, linear);
    sq_linear_name(short_name, b->cfg, linear);
    snprintf(name, sizeof(name), "%s.weight", short_name);
    rc = codes             ? load_codes(b->w[linear], l, short_name, codes, rows, cols)
         : b->w[linear]    ? load_float(b->w[linear], l, name, rows, cols)
                           : borrow_float(&b->w[linear], l, name, rows, cols);
    if (rc < 0 || !b->bias[linear])
        return rc;
    snprintf(name, sizeof(name), "%s.bias", short_name);
    return load_float(b->bias[linear], l, name, 1, rows);
}

/* bits 16 unless codes stand for the weights */
static int codes_of(struct sq_rowq *p, const struct sq_layer *l)
{
    struct sq_scheme s;
    *p = (struct sq_rowq){.bits = 16};
    if (l->state != SQ_MERGED)
        return 0;
    if (!l->scheme)
        return sq_fail(SQ_E_FORMAT, "layer %" PRId64 " is merged but has no scheme", l->index);
    const int rc = sq_scheme_from_json(&s, l->scheme);
    if (rc < 0)
        return sq_fail_in(rc, "layer %" PRId64, l->index);
    *p = sq_scheme_weights(&s);
    return 0;
}

/* The type that all weights of the linears have; SQ_DTYPES when they differ. */
static enum sq_dtype common_type(const struct sq_config *cfg, const struct sq_layer *l)
{
    enum sq_dtype type = SQ_DTYPES;
    for (int64_t i = 0; i < sq_config_linears(cfg); i++) {
        char linear[SQ_LINEAR_NAME], name[SQ_NAME_MAX];
        snprintf(name, sizeof(name), "%s.weight", sq_linear_name(linear, cfg, i));
        const struct sq_tensor *t = sq_layer_find(l, name);
        if (!t || (i > 0 && t->dtype != type))
            return SQ_DTYPES;
        type = t->dtype;
    }
    return type;
}

/* everything, or everything but borrowed weights */
static int load_arrays(struct sq_block *b, const struct sq_layer *l, const struct sq_rowq *codes)
{
    int rc = 0;
    for (int64_t i = 0; i < b->nlinear; i++)
        SQ_TRY(load_linear(b, l, i, codes->bits < 16 ? codes : NULL));
    for (int g = 0; g < SQ_GAINS; g++)
        if (b->gain[g])
            SQ_TRY(load_float(b->gain[g], l, sq_gain_name((enum sq_gain_id)g), 1,
                              sq_gain_size(b->cfg, (enum sq_gain_id)g)));
    if (b->router)
        SQ_TRY(load_float(b->router, l, "mlp.gate.weight", b->cfg->experts, b->cfg->hidden));
    rc = 0;
out:
    return rc;
}

static int open_block(struct sq_block *b, const struct sq_config *cfg, const struct sq_layer *l, bool borrow)
{
    struct sq_rowq codes;
    int rc;
    *b = (struct sq_block){.cfg = cfg};
    SQ_TRY(codes_of(&codes, l));
    const enum sq_dtype type = borrow && codes.bits >= 16 ? common_type(cfg, l) : SQ_DTYPES;
    const bool stays = type == SQ_F32 || type == SQ_BF16;
    SQ_TRY(stays ? sq_block_frame(b, cfg, type) : sq_block_new(b, cfg, SQ_F32));
    SQ_TRY(load_arrays(b, l, &codes));
out:
    if (rc < 0)
        sq_block_release(b);
    return rc;
}

int sq_block_load(struct sq_block *b, const struct sq_config *cfg, const struct sq_layer *l)
{
    return open_block(b, cfg, l, false);
}

int sq_block_view(struct sq_block *b, const struct sq_config *cfg, const struct sq_layer *l)
{
    return open_block(b, cfg, l, true);
}
