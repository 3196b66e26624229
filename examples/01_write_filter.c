/* Lesson 01: a filter. Reads a stream, doubles every gain, passes all else on.
 *
 *     sq-load examples/tiny | build/gcc/examples/01_write_filter | sq-dump
 *
 * New here: options and provenance (1), two streams (2), passing on what one does not know (3), finishing
 * both (4). */
#include <string.h>

#include "sq/app.h"
#include "sq/layer.h"
#include "sq/stream.h"

static int scale_gains(struct sq_layer *l, float factor)
{
    struct sq_tensor scaled = SQ_TENSOR_INIT;
    int rc = 0;

    for (int64_t i = 0; i < l->ntensor; i++) {
        struct sq_tensor *t = &l->tensor[i];
        if (strcmp(sq_layer_role(t->name), "gain") != 0)
            continue;
        SQ_TRY(sq_tensor_new(&scaled, t->name, SQ_F32, t->ndim, t->dim));
        SQ_TRY(sq_tensor_to_f32(scaled.owned, t));
        for (int64_t k = 0; k < sq_tensor_count(t); k++)
            ((float *)scaled.owned)[k] *= factor;
        sq_tensor_move(t, &scaled);
    }
out:
    sq_tensor_release(&scaled);
    return rc;
}

int main(int argc, char **argv)
{
    struct sq_app app;
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_layer l = SQ_LAYER_INIT;
    double factor = 2.0;
    int rc;

    /* 1. One table makes parser, --help and the provenance entry. -i, -o, --seed and others are there
     * already. */
    const struct sq_opt opts[] = {
        SQ_OPT_REAL(0, "factor", &factor, -1e6, 1e6, "what gains are multiplied with"),
        SQ_OPT_END,
    };
    sq_app_init(&app, "01_write_filter", "", "scale the gains of a model", opts, 0, argc, argv);

    /* 2. The output begins with the input's provenance and an entry for this program. */
    SQ_TRY(sq_stream_open(&in, app.in, SQ_READ));
    SQ_TRY(sq_stream_open(&out, app.out, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, in, &app));

    /* 3. Layers travel as a whole; every other record goes on as it came, those of later versions too. */
    while ((rc = sq_stream_next(in, &rec)) > 0) {
        if (rec.kind != SQ_REC_LAYER) {
            SQ_TRY(sq_stream_copy(out, in, &rec));
            continue;
        }
        SQ_TRY(sq_layer_read(&l, in, &rec));
        SQ_TRY(scale_gains(&l, (float)factor));
        SQ_TRY(sq_layer_write(out, &l));
    }
    if (rc < 0)
        goto out;

    /* 4. Only now does an output file get its name. On the way through out: the next program hears why we
     * stopped. */
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_layer_release(&l);
    sq_record_release(&rec);
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return sq_app_exit(&app, rc);
}
