/* copy_stream: the smallest filter; passes every record on and signs in the provenance. */
#include "sq/app.h"
#include "sq/stream.h"

int main(int argc, char **argv)
{
    struct sq_app app;
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    const struct sq_opt opts[] = {SQ_OPT_END};
    int rc;

    sq_app_init(&app, "copy_stream", "", "copy a stream", opts, 0, argc, argv);
    SQ_TRY(sq_stream_open(&in, app.in, SQ_READ));
    SQ_TRY(sq_stream_open(&out, app.out, SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, in, &app));
    while ((rc = sq_stream_next(in, &rec)) > 0)
        SQ_TRY(sq_stream_copy(out, in, &rec));
    if (rc < 0)
        goto out;
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_record_release(&rec);
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return sq_app_exit(&app, rc);
}
