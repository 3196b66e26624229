/* merge_rtn MODEL SCHEME [f32] [embed] [final] [nan] [no-files] - a merged stream by plain rounding, to standard output,
 * for tests of what reads merged streams, independent of the stages that usually make them.
 *   f32       scales stay float32 instead of float16
 *   embed     embedding and head as symmetric 8-bit codes, groups of 32
 *   final     the layers claim to be final, not merged
 *   nan       the final norm has a NaN
 *   no-files  without side files */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sq/scheme.h"
#include "sq/source.h"
#include "sq/stream.h"

static bool f32_scales, embed, final, with_nan, no_files;

static int add_part(struct sq_layer *l, const char *base, const char *part, enum sq_dtype dtype, int64_t rows,
                    int64_t cols, const void *data)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    char name[SQ_NAME_MAX];
    snprintf(name, sizeof name, "%s.%s", base, part);
    int rc = sq_tensor_new(&t, name, dtype, 2, (int64_t[]){rows, cols});
    if (rc == 0 && data)
        memcpy(t.owned, data, sq_tensor_bytes(&t));
    return rc < 0 ? rc : sq_layer_add(l, &t);
}

/* Replace the weight of a linear or table by codes, scales and zeros. */
static int round_weight(struct sq_layer *l, const struct sq_tensor *w, const char *base, const struct sq_rowq *q)
{
    const int64_t rows = w->dim[0], cols = w->dim[1], groups = sq_rowq_groups(q, cols), n = rows * groups;
    float *z = NULL, *scale = NULL, *zero = NULL;
    int rc;

    SQ_TRY(sq_alloc(&z, rows * cols));
    SQ_TRY(sq_alloc(&scale, n));
    SQ_TRY(sq_alloc(&zero, n));
    SQ_TRY(sq_tensor_to_f32(z, w));
    sq_rowquant_grid(scale, zero, z, q, NULL, NULL, rows, cols);
    SQ_TRY(add_part(l, base, "codes", SQ_U8, rows, cols, NULL));
    SQ_TRY(add_part(l, base, "scales", f32_scales ? SQ_F32 : SQ_F16, rows, groups, NULL));
    SQ_TRY(add_part(l, base, "zeros", SQ_U8, rows, groups, NULL));
    const int64_t at = l->ntensor;
    for (int64_t i = 0; i < n; i++) {
        uint16_t half = sq_f32_to_f16(scale[i]);
        if (f32_scales)
            ((float *)l->tensor[at - 2].owned)[i] = scale[i];
        else
            ((uint16_t *)l->tensor[at - 2].owned)[i] = half;
        scale[i] = f32_scales ? scale[i] : sq_f16_to_f32(half);
        ((uint8_t *)l->tensor[at - 1].owned)[i] = (uint8_t)(q->sym ? 1 << (q->bits - 1) : (int)zero[i]);
    }
    sq_rowquant_codes(l->tensor[at - 3].owned, z, scale, zero, q, rows, cols);
out:
    sq_free(zero);
    sq_free(scale);
    sq_free(z);
    return rc;
}

static int widen(struct sq_tensor *t)
{
    struct sq_tensor wide = SQ_TENSOR_INIT;
    int rc = sq_tensor_new(&wide, t->name, SQ_F32, t->ndim, t->dim);
    if (rc == 0)
        rc = sq_tensor_to_f32(wide.owned, t);
    if (rc == 0)
        sq_tensor_move(t, &wide);
    sq_tensor_release(&wide);
    return rc;
}

static int merge_layer(struct sq_layer *out, struct sq_layer *l, const struct sq_scheme *s, const struct sq_config *cfg)
{
    const struct sq_rowq q = sq_scheme_weights(s);
    char name[SQ_LINEAR_NAME], weight[SQ_NAME_MAX];
    int rc = 0;

    for (int64_t i = 0; s->wbits < 16 && i < sq_config_linears(cfg); i++) {
        snprintf(weight, sizeof weight, "%s.weight", sq_linear_name(name, cfg, i));
        SQ_TRY(round_weight(out, sq_layer_find(l, weight), name, &q));
        sq_layer_drop(l, weight);
    }
    for (int64_t i = 0; i < l->ntensor; i++) {
        SQ_TRY(widen(&l->tensor[i]));
        SQ_TRY(sq_layer_add(out, &l->tensor[i]));
    }
    out->index = l->index;
    out->state = final ? SQ_FINAL : SQ_MERGED;
    SQ_TRY(sq_scheme_to_json(&out->scheme, s));
out:
    return rc;
}

static int put_tops(struct sq_stream *out, struct sq_source *in)
{
    static const struct sq_rowq q8 = {.bits = 8, .sym = true, .zero = true, .group = 32, .rate = 1};
    struct sq_layer bag = SQ_LAYER_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;

    while ((rc = sq_source_top(in, &t)) > 0) {
        char base[SQ_NAME_MAX];
        snprintf(base, sizeof base, "%.*s", (int)(strlen(t.name) - strlen(".weight")), t.name);
        if (embed && t.ndim == 2) {
            SQ_TRY(round_weight(&bag, &t, base, &q8));
        } else {
            if (t.ndim == 1)
                SQ_TRY(widen(&t));
            if (with_nan && t.ndim == 1)
                ((float *)t.owned)[1] = NAN;
            SQ_TRY(sq_layer_add(&bag, &t));
        }
    }
    for (int64_t i = 0; rc == 0 && i < bag.ntensor; i++)
        rc = sq_stream_put_tensor(out, &bag.tensor[i], NULL, -1);
out:
    sq_layer_release(&bag);
    sq_tensor_release(&t);
    return rc;
}

static int put_files(struct sq_stream *out, const struct sq_source *in)
{
    int rc = 0;
    for (int64_t i = 0; !no_files && i < sq_source_files(in); i++) {
        const struct sq_side *f = sq_source_file(in, i);
        json_t *head = json_pack("{s:s, s:s, s:I}", "record", "file", "name", f->name, "bytes", (json_int_t)f->size);
        rc = sq_stream_put(out, head, f->data, f->size);
        json_decref(head);
    }
    return rc;
}

static int convert(const char *model, const char *scheme)
{
    struct sq_app app = {.prog = "merge_rtn", .no_prov = true};
    struct sq_layer l = SQ_LAYER_INIT, merged = SQ_LAYER_INIT;
    struct sq_source *in = NULL;
    struct sq_stream *out = NULL;
    json_t *config = NULL, *head = NULL;
    struct sq_scheme s;
    int rc;

    SQ_TRY(sq_scheme_parse(&s, scheme));
    SQ_TRY(sq_source_open(&in, model));
    SQ_TRY(sq_config_to_json(&config, sq_source_config(in)));
    head = json_pack("{s:s, s:O, s:O, s:O}", "record", "model", "config", config, "original", sq_source_original(in),
                     "manifest", sq_source_manifest(in));
    SQ_TRY(sq_stream_open(&out, "-", SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, NULL, &app));
    SQ_TRY(sq_stream_put(out, head, NULL, 0));
    SQ_TRY(put_files(out, in));
    SQ_TRY(put_tops(out, in));
    while ((rc = sq_source_layer(in, &l)) > 0) {
        SQ_TRY(merge_layer(&merged, &l, &s, sq_source_config(in)));
        SQ_TRY(sq_layer_write(out, &merged));
        sq_layer_release(&merged);
    }
    if (rc == 0)
        rc = put_tops(out, in);
    if (rc == 0)
        rc = sq_stream_finish(&out);
out:
    sq_layer_release(&merged);
    sq_layer_release(&l);
    json_decref(head);
    json_decref(config);
    sq_stream_abort(&out, rc);
    sq_source_close(&in);
    return rc;
}

int main(int argc, char **argv)
{
    for (int i = 3; i < argc; i++) {
        f32_scales |= strcmp(argv[i], "f32") == 0;
        embed |= strcmp(argv[i], "embed") == 0;
        final |= strcmp(argv[i], "final") == 0;
        with_nan |= strcmp(argv[i], "nan") == 0;
        no_files |= strcmp(argv[i], "no-files") == 0;
    }
    const int rc = argc < 3 ? sq_fail(SQ_E_ARG, "usage: merge_rtn MODEL SCHEME [f32] [embed] [final] [nan] [no-files]")
                            : convert(argv[1], argv[2]);
    if (rc < 0)
        fprintf(stderr, "merge_rtn: %s\n", sq_errmsg());
    return sq_err_status(rc);
}
