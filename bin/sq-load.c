/* sq-load.c - read a checkpoint (Hugging Face directory or GGUF file), write a model stream */
#include <stdio.h>
#include <stdlib.h>

#include "sq/app.h"
#include "sq/source.h"
#include "sq/stream.h"

static void say_what(const struct sq_source *src)
{
    const json_t *manifest = sq_source_manifest(src), *t;
    size_t i;
    json_array_foreach(manifest, i, t) {
        char *shape = json_dumps(json_object_get(t, "shape"), JSON_COMPACT);
        printf("tensor\t%s\t%s\t%s\n", json_string_value(json_object_get(t, "name")),
               json_string_value(json_object_get(t, "dtype")), shape ? shape : "?");
        free(shape);
    }
    for (int64_t k = 0; k < sq_source_files(src); k++)
        printf("file\t%s\t%zu\n", sq_source_file(src, k)->name, sq_source_file(src, k)->size);
    const struct sq_config *c = sq_source_config(src);
    printf("total\t%s, %" PRId64 " layers, %zu tensors, %" PRId64 " bytes\n", c->arch, c->layers,
           json_array_size(manifest), sq_source_bytes(src));
}

/* Embedding, or final norm and head; bytes counts what went out. */
static int send_top(struct sq_stream *out, struct sq_source *src, int64_t *bytes)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;
    while ((rc = sq_source_top(src, &t)) > 0) {
        SQ_TRY(sq_tensor_check_finite(&t));
        SQ_TRY(sq_stream_put_tensor(out, &t, sq_source_role(t.name), -1));
        *bytes += (int64_t)sq_tensor_bytes(&t);
    }
out:
    sq_tensor_release(&t);
    return rc;
}

static int send_layers(struct sq_stream *out, struct sq_source *src, int64_t *bytes, struct sq_app *app)
{
    struct sq_layer l = SQ_LAYER_INIT;
    int rc;
    while ((rc = sq_source_layer(src, &l)) > 0) {
        for (int64_t i = 0; i < l.ntensor; i++) {
            rc = sq_tensor_check_finite(&l.tensor[i]);
            if (rc < 0) {
                sq_fail_in(rc, "layer %" PRId64, l.index);
                goto out;
            }
            *bytes += (int64_t)sq_tensor_bytes(&l.tensor[i]);
        }
        SQ_TRY(sq_layer_write(out, &l));
        sq_app_progress(app, (double)*bytes, (double)sq_source_bytes(src), "layer %" PRId64, l.index);
    }
out:
    sq_layer_release(&l);
    return rc;
}

int main(int argc, char **argv)
{
    bool dry_run = false;
    const struct sq_opt opts[] = {
        SQ_OPT_FLAG(0, "dry-run", &dry_run,
                    "check the checkpoint, list what would be sent, send nothing"),
        SQ_OPT_END,
    };
    struct sq_app app;
    struct sq_source *src = NULL;
    struct sq_stream *out = NULL;
    int64_t bytes = 0;
    int rc = 0;

    sq_app_init(&app, "sq-load", "DIR | FILE.gguf", "read a checkpoint, write a model stream", opts, 1,
                argc, argv);
    const char *spec = app.narg ? app.arg[0] : app.in;
    SQ_TRY(sq_source_open(&src, spec));
    if (sq_source_is_stream(src))
        SQ_TRY(sq_fail(SQ_E_ARG, "'%s' is a stream already, not a checkpoint", spec));
    if (dry_run) {
        say_what(src);
        goto out;
    }
    SQ_TRY(sq_stream_open(&out, app.out, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, NULL, &app));
    SQ_TRY(sq_source_put_head(out, src));
    SQ_TRY(send_top(out, src, &bytes));
    SQ_TRY(send_layers(out, src, &bytes, &app));
    SQ_TRY(send_top(out, src, &bytes));
    SQ_TRY(sq_stream_finish(&out));
    sq_log(SQ_INFO, "%" PRId64 " layers, %zu tensors, %.1f MB in %.1f s", sq_source_config(src)->layers,
           json_array_size(sq_source_manifest(src)), (double)bytes / 1e6, sq_now() - app.started);
out:
    sq_stream_abort(&out, rc);
    sq_source_close(&src);
    return sq_app_exit(&app, rc);
}
