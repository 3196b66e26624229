#include "sq/inspect.h"

#include <math.h>
#include <string.h>

#include "sq/json.h"

enum { PER_LINE = 8 };

static const char *text_of(const json_t *head, const char *key)
{
    const char *s = json_string_value(json_object_get(head, key));
    return s ? s : "?";
}

static int64_t int_of(const json_t *head, const char *key)
{
    return json_integer_value(json_object_get(head, key));
}

/* ---- list ---- */

static void print_shape(FILE *f, const json_t *shape)
{
    const json_t *d;
    size_t i;
    fputc('[', f);
    json_array_foreach(shape, i, d)
        fprintf(f, "%s%" JSON_INTEGER_FORMAT, i ? "," : "", json_integer_value(d));
    fputc(']', f);
}

static void print_layer(FILE *f, const json_t *head)
{
    fprintf(f, "%-8s %" PRId64 " ", "layer", int_of(head, "index"));
    if (strcmp(text_of(head, "event"), "begin") != 0) {
        fprintf(f, "ends, xxh3 %s", text_of(head, "xxh3"));
        return;
    }
    fprintf(f, "%s", text_of(head, "state"));
    if (json_object_get(head, "scheme")) {
        fputs(", scheme ", f);
        json_dumpf(json_object_get(head, "scheme"), f, JSON_COMPACT);
    }
}

static void print_model(FILE *f, const json_t *head)
{
    const json_t *c = json_object_get(head, "config");
    fprintf(f,
            "%-8s %s: %" PRId64 " layers, hidden %" PRId64 ", ffn %" PRId64 ", heads %" PRId64 "/%" PRId64
            ", vocabulary %" PRId64 "; %zu tensors",
            "model", text_of(c, "arch"), int_of(c, "layers"), int_of(c, "hidden"), int_of(c, "ffn"),
            int_of(c, "heads"), int_of(c, "kv_heads"), int_of(c, "vocab"),
            json_array_size(json_object_get(head, "manifest")));
}

static void print_record(FILE *f, const struct sq_record *rec)
{
    const json_t *h = rec->head;
    switch (rec->kind) {
    case SQ_REC_MODEL: print_model(f, h); break;
    case SQ_REC_LAYER: print_layer(f, h); break;
    case SQ_REC_TOKENS:
        fprintf(f, "%-8s %" PRId64 " samples of %" PRId64 ", %" PRId64 " held out", "tokens",
                int_of(h, "samples"), int_of(h, "length"), int_of(h, "heldout"));
        break;
    case SQ_REC_FILE: fprintf(f, "%-8s %s", "file", text_of(h, "name")); break;
    case SQ_REC_TENSOR:
        fprintf(f, "%s%-8s %s %s ", json_object_get(h, "layer") ? "  " : "", "tensor", text_of(h, "name"),
                text_of(h, "dtype"));
        print_shape(f, json_object_get(h, "shape"));
        break;
    default: json_dumpf(h, f, JSON_COMPACT);
    }
    if (rec->bytes)
        fprintf(f, ", %" PRId64 " bytes", rec->bytes);
    fputc('\n', f);
}

static int dump_line(FILE *f, const json_t *obj)
{
    if (json_dumpf(obj, f, JSON_COMPACT) < 0 || fputc('\n', f) == EOF)
        return sq_fail(SQ_E_IO, "cannot write the output");
    return 0;
}

static int print_json(FILE *f, struct sq_stream *in, const struct sq_record *rec, struct sq_hash *h)
{
    char text[SQ_HASH_TEXT];
    int rc = 0;
    if (rec->bytes) {
        sq_hash_reset(h);
        SQ_TRY(sq_stream_hash(h, in));
        sq_hash_text(text, sq_hash_value(h));
        json_object_set_new(rec->head, "payload_xxh3", json_string(text));
    }
    SQ_TRY(dump_line(f, rec->head));
out:
    return rc;
}

static void print_begin(FILE *f, const json_t *head)
{
    const json_t *v = json_object_get(head, "version"), *stage;
    size_t i;
    fprintf(f, "%-8s version %" JSON_INTEGER_FORMAT ".%" JSON_INTEGER_FORMAT, "begin",
            json_integer_value(json_array_get(v, 0)), json_integer_value(json_array_get(v, 1)));
    json_array_foreach(json_object_get(head, "provenance"), i, stage)
        fprintf(f, "%s %s", i ? " |" : ",", text_of(stage, "prog"));
    fputc('\n', f);
}

static void print_end(FILE *f, const json_t *head)
{
    fprintf(f, "%-8s %" PRId64 " records, %" PRId64 " bytes, xxh3 %s\n", "end", int_of(head, "records"),
            int_of(head, "size"), text_of(head, "xxh3"));
}

int sq_inspect_list(FILE *f, const char *spec, bool json)
{
    struct sq_stream *in = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_hash h = {.state = NULL};
    int rc;

    SQ_TRY(sq_hash_init(&h));
    SQ_TRY(sq_stream_open(&in, spec, SQ_READ));
    if (json)
        SQ_TRY(dump_line(f, sq_stream_header(in)));
    else
        print_begin(f, sq_stream_header(in));
    while ((rc = sq_stream_next(in, &rec)) > 0)
        if (json)
            SQ_TRY(print_json(f, in, &rec, &h));
        else
            print_record(f, &rec);
    if (rc < 0)
        goto out;
    if (json)
        SQ_TRY(dump_line(f, sq_stream_trailer(in)));
    else
        print_end(f, sq_stream_trailer(in));
    SQ_TRY(sq_stream_finish(&in));
out:
    sq_record_release(&rec);
    sq_stream_abort(&in, rc);
    sq_hash_release(&h);
    return rc;
}

/* ---- provenance ---- */

static void print_stage(FILE *f, const json_t *stage)
{
    const json_t *arg;
    size_t i;
    fprintf(f, "%s", text_of(stage, "prog"));
    json_array_foreach(json_object_get(stage, "argv"), i, arg)
        fprintf(f, " %s", json_string_value(arg) ? json_string_value(arg) : "?");
    fprintf(f, "  # %s, seed %" PRId64 ", backend %s, %s, %s\n", text_of(stage, "version"),
            int_of(stage, "seed"), text_of(stage, "backend"), text_of(stage, "precision"),
            text_of(stage, "isa"));
}

int sq_inspect_provenance(FILE *f, const char *spec, bool json)
{
    struct sq_stream *in = NULL;
    const json_t *stage;
    size_t i;
    int rc;

    SQ_TRY(sq_stream_open(&in, spec, SQ_READ));
    json_array_foreach(json_object_get(sq_stream_header(in), "provenance"), i, stage)
        if (json)
            SQ_TRY(dump_line(f, stage));
        else
            print_stage(f, stage);
    rc = 0;
out:
    sq_stream_abort(&in, rc);
    return rc;
}

/* ---- one tensor ---- */

void sq_tensor_stats_of(struct sq_tensor_stats *out, const struct sq_tensor *t)
{
    struct sq_tensor_stats s = {.n = sq_tensor_count(t), .min = INFINITY, .max = -INFINITY};
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < s.n; i++) {
        const double x = sq_tensor_at(t, i);
        s.nan += isnan(x);
        s.inf += isinf(x) != 0;
        s.zeros += x == 0.0;
        if (!isfinite(x))
            continue;
        s.min = fmin(s.min, x);
        s.max = fmax(s.max, x);
        sum += x;
        squares += x * x;
    }
    const int64_t finite = s.n - s.nan - s.inf;
    if (!finite)
        s.min = s.max = 0;
    s.mean = finite ? sum / (double)finite : 0;
    s.rms = finite ? sqrt(squares / (double)finite) : 0;
    *out = s;
}

static void print_values(FILE *f, const struct sq_tensor *t, int64_t values)
{
    const bool real = t->dtype == SQ_F32 || t->dtype == SQ_F16 || t->dtype == SQ_BF16 || t->dtype == SQ_F64;
    const int digits = t->dtype == SQ_F64   ? 17
                       : t->dtype == SQ_F32 ? 9
                                            : 5; /* enough to tell any two apart */
    const int64_t n = SQ_MIN(values, sq_tensor_count(t)), cols = sq_tensor_cols(t);
    for (int64_t i = 0; i < n; i++) {
        const bool starts = i % cols % PER_LINE == 0;
        if (starts)
            fprintf(f, "%s[%" PRId64 ",%" PRId64 "]", i ? "\n" : "", i / cols, i % cols);
        if (real)
            fprintf(f, " %.*g", digits, sq_tensor_at(t, i));
        else
            fprintf(f, " %" PRId64, (int64_t)sq_tensor_at(t, i));
    }
    fputs(n ? "\n" : "", f);
    if (n < sq_tensor_count(t))
        fprintf(f, "... %" PRId64 " more (--values)\n", sq_tensor_count(t) - n);
}

static void print_tensor(FILE *f, const struct sq_record *rec, const struct sq_tensor *t, int64_t values)
{
    char digest[SQ_HASH_TEXT];
    struct sq_tensor_stats s;
    sq_tensor_stats_of(&s, t);
    sq_hash_text(digest, sq_hash_of(t->data, sq_tensor_bytes(t)));
    print_record(f, rec);
    fprintf(f,
            "xxh3 %s\n%" PRId64 " values: min %.9g, max %.9g, mean %.9g, rms %.9g; %" PRId64 " zero, %" PRId64
            " NaN, %" PRId64 " infinite\n",
            digest, s.n, s.min, s.max, s.mean, s.rms, s.zeros, s.nan, s.inf);
    print_values(f, t, values);
}

static int print_tensor_json(FILE *f, const struct sq_record *rec, const struct sq_tensor *t, int64_t values)
{
    char digest[SQ_HASH_TEXT];
    struct sq_tensor_stats s;
    json_t *list = json_array(), *obj = NULL;
    int rc;
    sq_tensor_stats_of(&s, t);
    sq_hash_text(digest, sq_hash_of(t->data, sq_tensor_bytes(t)));
    for (int64_t i = 0; i < SQ_MIN(values, s.n); i++) {
        const double x = sq_tensor_at(t, i);
        json_array_append_new(list, isfinite(x) ? json_real(x) : json_null());
    }
    obj = json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:O}", "xxh3", digest, "count",
                    (json_int_t)s.n, "zeros", (json_int_t)s.zeros, "nan", (json_int_t)s.nan, "inf",
                    (json_int_t)s.inf, "min", s.min, "max", s.max, "mean", s.mean, "rms", s.rms, "values",
                    list);
    if (!obj || json_object_update_missing(obj, rec->head) < 0)
        SQ_TRY(sq_fail(SQ_E_NOMEM, "no memory for JSON"));
    SQ_TRY(dump_line(f, obj));
out:
    json_decref(list);
    json_decref(obj);
    return rc;
}

static bool wanted(const struct sq_inspect_tensor *want, const struct sq_tensor *t, int64_t layer)
{
    char full[SQ_NAME_MAX + 40];
    if (want->layer >= 0 && want->layer != layer)
        return false;
    snprintf(full, sizeof full, "model.layers.%" PRId64 ".%s", layer, t->name);
    return strcmp(want->name, t->name) == 0 || (layer >= 0 && strcmp(want->name, full) == 0);
}

int sq_inspect_tensor(FILE *f, const char *spec, const struct sq_inspect_tensor *want, bool json)
{
    struct sq_stream *in = NULL;
    struct sq_record rec = SQ_RECORD_INIT;
    struct sq_tensor t = SQ_TENSOR_INIT;
    int rc;

    SQ_TRY(sq_stream_open(&in, spec, SQ_READ));
    while ((rc = sq_stream_next(in, &rec)) > 0) {
        int64_t layer = -1;
        if (rec.kind != SQ_REC_TENSOR)
            continue;
        SQ_TRY(sq_record_tensor(&t, &rec));
        SQ_TRY(sq_json_int_opt(&layer, rec.head, "layer", 0, INT64_MAX));
        if (!wanted(want, &t, layer))
            continue;
        SQ_TRY(sq_stream_tensor(in, &rec, &t));
        if (json)
            SQ_TRY(print_tensor_json(f, &rec, &t, want->values));
        else
            print_tensor(f, &rec, &t, want->values);
        rc = 0; /* what follows in the stream is not looked at */
        goto out;
    }
    if (rc == 0)
        rc = sq_fail(SQ_E_ARG, "the stream has no tensor '%s'%s", want->name,
                     want->layer >= 0 ? " in that layer" : "");
out:
    sq_record_release(&rec);
    sq_tensor_release(&t);
    sq_stream_abort(&in, rc);
    return rc;
}
