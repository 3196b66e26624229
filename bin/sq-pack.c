/* sq-pack - a merged stream into a file that others read: GGUF, a Hugging Face directory, the stream itself */
#include <string.h>
#include <sys/stat.h>

#include "sq/pack.h"
#include "sq/stream.h"

enum { FORMAT_AUTO, FORMAT_GGUF, FORMAT_HF, FORMAT_SQ };

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* -f, or what the name of -o says */
static int choose_format(int *format, const char *out)
{
    struct stat st;
    if (*format == FORMAT_AUTO)
        *format = ends_with(out, ".gguf")                                              ? FORMAT_GGUF
                  : ends_with(out, ".sq")                                              ? FORMAT_SQ
                  : ends_with(out, "/") || (stat(out, &st) == 0 && S_ISDIR(st.st_mode)) ? FORMAT_HF
                                                                                       : FORMAT_AUTO;
    if (*format == FORMAT_AUTO)
        return sq_fail(SQ_E_ARG, "the name '%s' does not say which format is wanted: give -f gguf, hf or sq", out);
    if (*format != FORMAT_SQ && !sq_stream_is_path(out))
        return sq_fail(SQ_E_ARG, "this format is written to a path: give -o");
    return 0;
}

/* What gets its name when it is complete: a FIFO, a device or a peer takes the stream as it comes. */
static bool needs_room(const char *out)
{
    struct stat st;
    return sq_stream_is_path(out) && (stat(out, &st) < 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

/* dry_run: read, and look whether there is room */
static int copy_stream(const struct sq_app *app, bool dry_run)
{
    struct sq_stream *in = NULL, *out = NULL;
    struct sq_record rec = {0};
    int rc;

    SQ_TRY(sq_stream_open(&in, app->in, SQ_READ));
    if (!dry_run) {
        SQ_TRY(sq_stream_open(&out, app->out, SQ_WRITE));
        SQ_TRY(sq_stream_begin(out, in, app));
    }
    while ((rc = sq_stream_next(in, &rec)) > 0)
        if (out)
            SQ_TRY(sq_stream_copy(out, in, &rec));
    if (rc < 0)
        goto out;
    if (dry_run && needs_room(app->out))
        SQ_TRY(sq_pack_room(app->out, false, sq_stream_bytes(in)));
    SQ_TRY(sq_stream_finish(&in));
    if (out)
        rc = sq_stream_finish(&out);
out:
    sq_record_release(&rec);
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    return rc;
}

static int pack(struct sq_app *app, const struct sq_pack_opts *o)
{
    struct sq_source *in = NULL;
    struct sq_pack_report rep;
    json_t *numbers = NULL;
    int rc;

    SQ_TRY(sq_source_open(&in, app->in));
    SQ_TRY(sq_pack_model(&rep, in, o, app));
    if (sq_log_level() >= SQ_WARNING) {
        fprintf(stderr, "sq-pack: %s%s\n", o->out, o->dry_run ? ": nothing written (--dry-run)" : "");
        sq_pack_print(stderr, &rep);
    }
    SQ_TRY(sq_pack_json(&numbers, &rep));
    rc = sq_app_metric(app, "packed", numbers);
out:
    sq_source_close(&in);
    return rc;
}

int main(int argc, char **argv)
{
    struct sq_pack_opts o = {.type = SQ_PACK_AUTO, .dtype = SQ_F32, .shard = INT64_C(5) << 30};
    const char *type = NULL;
    int format = FORMAT_AUTO, dtype = 0;
    struct sq_app app;
    int rc;

    const struct sq_opt opts[] = {
        SQ_OPT_ENUM('f', "format", &format, "auto|gguf|hf|sq", "what to write; auto: as the name of -o says"),
        SQ_OPT_STR(0, "type", &type, "TYPE", "gguf: block type of all linears, instead of the smallest exact one of each"),
        SQ_OPT_FLAG(0, "lossy", &o.lossy, "gguf: where no type is exact, take the nearest and print the error"),
        SQ_OPT_STR(0, "name", &o.name, "TEXT", "gguf: general.name"),
        SQ_OPT_FLAG(0, "no-tokenizer", &o.no_tokenizer, "gguf: leave the tokenizer out; readers take ids only"),
        SQ_OPT_ENUM(0, "dtype", &dtype, "f32|bf16", "hf: of the weights; bf16 rounds them"),
        SQ_OPT_INT(0, "shard-size", &o.shard, 1, INT64_C(1) << 50, "hf: largest file, in bytes"),
        SQ_OPT_FLAG(0, "dry-run", &o.dry_run, "check, choose types, report sizes, look for room; write nothing"),
        SQ_OPT_END,
    };
    sq_app_init(&app, "sq-pack", "", "write a merged stream as a file: gguf, Hugging Face directory, stream", opts, 0,
                argc, argv);
    SQ_TRY(choose_format(&format, app.out));
    if (type)
        SQ_TRY(sq_pack_type_parse(&o.type, type));
    if (format == FORMAT_SQ) {
        rc = copy_stream(&app, o.dry_run);
        goto out;
    }
    o.out = app.out;
    o.format = format == FORMAT_GGUF ? SQ_PACK_GGUF : SQ_PACK_HF;
    o.dtype = dtype ? SQ_BF16 : SQ_F32;
    rc = pack(&app, &o);
out:
    return sq_app_exit(&app, rc);
}
