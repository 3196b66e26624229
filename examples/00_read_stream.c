/* Lesson 00: read a stream.
 *
 *     sq-load examples/tiny | build/gcc/examples/00_read_stream
 *
 * A stream is a sequence of records; a record is a header, here a JSON object, and sometimes a payload. This
 * program adds up the weights of every layer: 1 opens, 2 loops over the records, 3 takes tensors, 4 checks
 * that nothing was lost. */
#include <stdio.h>

#include "sq/stream.h"

int main(int argc, char **argv)
{
    struct sq_stream *in = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    int64_t weights = 0, tensors = 0;
    int rc;

    /* 1. "-" is stdin, anything else a path or fd:N. The begin record is read and its version checked here.
     * SQ_TRY goes to out when a call fails: every function of libsq returns a negative code then, and keeps a
     * text for people. */
    SQ_TRY(sq_stream_open(&in, argc > 1 ? argv[1] : "-", SQ_READ));

    /* 2. 1: a record, 0: the end record came and its digest is right, negative: the input is broken or
     * incomplete. */
    while ((rc = sq_stream_next(in, &rec)) > 0) {
        if (rec.kind == SQ_REC_MODEL)
            printf("a %s\n", json_string_value(json_object_get(json_object_get(rec.head, "config"), "arch")));
        if (rec.kind != SQ_REC_TENSOR)
            continue; /* the payload of a record that nobody takes is skipped */

        /* 3. Memory for the elements is t's and reused by the next call. */
        SQ_TRY(sq_stream_tensor(in, &rec, &t));
        weights += sq_tensor_count(&t);
        tensors++;
    }
    if (rc < 0)
        goto out;

    /* 4. A reader that leaves without this has not noticed that half of the model is missing. */
    SQ_TRY(sq_stream_finish(&in));
    printf("%" PRId64 " weights in %" PRId64 " tensors\n", weights, tensors);
out:
    if (rc < 0)
        fprintf(stderr, "00_read_stream: error: %s\n", sq_errmsg());
    sq_tensor_release(&t);
    sq_record_release(&rec);
    sq_stream_abort(&in, rc); /* does nothing after finish */
    return sq_err_status(rc);
}
