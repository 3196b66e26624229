/* spoil_stream WHAT - a copy of a stream in which one thing is wrong, for tests of what reads it.
 *   final     merged layers claim to be final
 *   nan       the final norm is NaN
 *   no-files  side files are missing
 *   gradient-nan, gradient-short, gradient-step, gradient-none  the fifth gradient is NaN, lacks a number, is of another
 *             step, was not finite */
#include <stdio.h>
#include <string.h>

#include "sq/stream.h"

static int with_nan(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec)
{
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc = sq_stream_tensor(in, rec, &t);
    if (rc == 0) {
        memset(t.owned, 0xff, sq_tensor_bytes(&t)); /* a NaN in every float type */
        rc = sq_stream_put(out, rec->head, t.data, sq_tensor_bytes(&t));
    }
    sq_tensor_release(&t);
    return rc;
}

static int bad_gradient(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec, const char *how)
{
    const size_t n = (size_t)rec->bytes;
    char *data = NULL;
    int rc;
    SQ_TRY(sq_alloc(&data, rec->bytes));
    SQ_TRY(sq_stream_payload(in, data, n));
    if (strcmp(how, "none") == 0) {
        json_object_del(rec->head, "loss");
        rc = sq_stream_put(out, rec->head, NULL, 0);
        goto out;
    }
    if (strcmp(how, "nan") == 0)
        memset(data + n / 2 / 4 * 4, 0xff, 4);
    if (strcmp(how, "step") == 0)
        json_object_set_new(rec->head, "step", json_integer(7));
    rc = sq_stream_put(out, rec->head, data, strcmp(how, "short") == 0 ? n - 4 : n);
out:
    sq_free(data);
    return rc;
}

static bool is_fifth_gradient(const struct sq_record *rec)
{
    static int seen;
    const char *record = json_string_value(json_object_get(rec->head, "record"));
    return record && strcmp(record, "gradient") == 0 && ++seen == 5;
}

static int spoil(struct sq_stream *out, struct sq_stream *in, const struct sq_record *rec, const char *what)
{
    const char *name = json_string_value(json_object_get(rec->head, "name"));
    if (rec->kind == SQ_REC_FILE && strcmp(what, "no-files") == 0)
        return 0; /* the next sq_stream_next skips its bytes */
    if (rec->kind == SQ_REC_TENSOR && strcmp(what, "nan") == 0 && name && strcmp(name, "model.norm.weight") == 0)
        return with_nan(out, in, rec);
    if (rec->kind == SQ_REC_LAYER && strcmp(what, "final") == 0 && json_object_get(rec->head, "state"))
        json_object_set_new(rec->head, "state", json_string("final"));
    if (strncmp(what, "gradient-", strlen("gradient-")) == 0 && is_fifth_gradient(rec))
        return bad_gradient(out, in, rec, what + strlen("gradient-"));
    return sq_stream_copy(out, in, rec);
}

int main(int argc, char **argv)
{
    struct sq_app app = {.prog = "spoil_stream", .no_prov = true};
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    int rc;

    if (argc != 2)
        SQ_TRY(sq_fail(SQ_E_ARG, "usage: spoil_stream final|nan|no-files|gradient-... <in >out"));
    SQ_TRY(sq_stream_open(&in, "-", SQ_READ));
    SQ_TRY(sq_stream_open(&out, "-", SQ_WRITE));
    SQ_TRY(sq_stream_begin(out, in, &app));
    while ((rc = sq_stream_next(in, &rec)) > 0)
        SQ_TRY(spoil(out, in, &rec, argv[1]));
    if (rc == 0)
        rc = sq_stream_finish(&in);
    if (rc == 0)
        rc = sq_stream_finish(&out);
out:
    if (rc < 0)
        fprintf(stderr, "spoil_stream: %s\n", sq_errmsg());
    sq_record_release(&rec);
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return sq_err_status(rc);
}
