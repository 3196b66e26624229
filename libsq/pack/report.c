#include <math.h>
#include <stdio.h>

#include "packer.h"

void pack_note(struct sq_pack_report *rep, const char *fmt, ...)
{
    va_list ap;
    if (rep->notes == SQ_PACK_NOTES)
        return;
    va_start(ap, fmt);
    vsnprintf(rep->note[rep->notes++], SQ_PACK_NOTE, fmt, ap);
    va_end(ap);
}

static struct sq_pack_tally sum(const struct sq_pack_tally *t)
{
    struct sq_pack_tally all = {0};
    for (int i = 0; i < SQ_PACK_TYPES; i++) {
        all.tensors += t[i].tensors;
        all.values += t[i].values;
        all.bytes += t[i].bytes;
        all.lossy += t[i].lossy;
    }
    return all;
}

static double bits(int64_t bytes, int64_t values)
{
    return values ? 8.0 * (double)bytes / (double)values : 0;
}

static void print_types(FILE *f, const char *what, const struct sq_pack_tally *t)
{
    for (int i = 0; i < SQ_PACK_TYPES; i++)
        if (t[i].tensors)
            fprintf(f, "  %-7s %-5s %5" PRId64 " tensors %14" PRId64 " values %7.4f bits: %s%s\n", what,
                    sq_pack_info((enum sq_pack_type)i)->name, t[i].tensors, t[i].values, bits(t[i].bytes, t[i].values),
                    t[i].lossy ? "nearest, not exact" : sq_pack_info((enum sq_pack_type)i)->why,
                    t[i].lossy && t[i].lossy < t[i].tensors ? " for some" : "");
}

void sq_pack_print(FILE *f, const struct sq_pack_report *rep)
{
    const struct sq_pack_tally lin = sum(rep->linear);

    print_types(f, "linear", rep->linear);
    print_types(f, "other", rep->other);
    fprintf(f, "  %s%s: %.4f bits a weight in the linears, %.4f in the whole file (%.2f MB)\n", rep->scheme,
            rep->mixed ? " and others" : "", bits(lin.bytes, lin.values), bits(rep->file_bytes, rep->values),
            (double)rep->file_bytes / 1e6);
    fprintf(f, "  largest difference from the stream %.9g%s%s", rep->max_diff, rep->max_name[0] ? " in " : "",
            rep->max_name);
    if (rep->checked)
        fprintf(f, "; read back: %" PRId64 " tensors equal, %" PRId64 " NaN, %" PRId64 " infinite, %" PRId64
                " zero blocks", rep->checked, rep->nan, rep->inf, rep->zero_blocks);
    fprintf(f, "\n");
    for (int i = 0; i < rep->notes; i++)
        fprintf(f, "  note: %s\n", rep->note[i]);
}

static json_t *types_json(const struct sq_pack_tally *t)
{
    json_t *all = json_object();
    for (int i = 0; i < SQ_PACK_TYPES; i++)
        if (t[i].tensors)
            json_object_set_new(all, sq_pack_info((enum sq_pack_type)i)->name,
                                json_pack("{s:I, s:I, s:I, s:I}", "tensors", (json_int_t)t[i].tensors, "values",
                                          (json_int_t)t[i].values, "bytes", (json_int_t)t[i].bytes, "lossy",
                                          (json_int_t)t[i].lossy));
    return all;
}

int sq_pack_json(json_t **out, const struct sq_pack_report *rep)
{
    const struct sq_pack_tally lin = sum(rep->linear);
    json_t *notes = json_array();

    for (int i = 0; i < rep->notes; i++)
        json_array_append_new(notes, json_string(rep->note[i]));
    *out = json_pack("{s:s, s:o, s:o, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:o}", "scheme", rep->scheme, "linear",
                     types_json(rep->linear), "other", types_json(rep->other), "values", (json_int_t)rep->values,
                     "file_bytes", (json_int_t)rep->file_bytes, "bits_linears", bits(lin.bytes, lin.values),
                     "bits_file", bits(rep->file_bytes, rep->values), "max_diff", rep->max_diff, "checked",
                     (json_int_t)rep->checked, "zero_blocks", (json_int_t)rep->zero_blocks, "notes", notes);
    return *out ? 0 : sq_fail(SQ_E_NOMEM, "no memory for a report");
}
