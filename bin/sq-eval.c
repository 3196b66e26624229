/* bin/sq-eval.c - how good is a model: perplexity, and how far it is from another one */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sq/app.h"
#include "sq/calib.h"
#include "sq/eval.h"
#include "sq/op.h"

static const char protocol[] = "windows one after the other, last partial one dropped; per window mean nll of tokens "
                               "2..length; mean over windows";

struct options {
    struct sq_app app;
    const char *text, *ids, *base;
    int64_t length, windows;
    int precision;
    bool json;
};

/* Progress over one or two models and their metrics. */
struct stage {
    struct sq_app *app;
    const char *what;
    double before, total; /* layers */
};

static void show(void *user, double done)
{
    const struct stage *s = user;
    sq_app_progress(s->app, s->before + done, s->total, "%s", s->what);
}

static int report(const struct options *o, const struct sq_windows *w, const char *metric, const char *unit,
                  const struct sq_metric *m)
{
    char error[48] = "";
    if (!isnan(m->error))
        snprintf(error, sizeof error, " +- %.2g", m->error);
    if (sq_log_level() > SQ_ERROR)
        fprintf(stderr, "sq-eval: %s %.6g%s%s (%" PRId64 " window%s of %" PRId64 " tokens)\n", metric, m->value, unit,
                error, w->n, w->n == 1 ? "" : "s", w->length);
    if (!o->json)
        return 0;
    json_t *line = json_pack("{s:s, s:f, s:o, s:I, s:I, s:I, s:s, s:s}", "metric", metric, "value", m->value, "stderr",
                             isnan(m->error) ? json_null() : json_real(m->error), "tokens",
                             (json_int_t)(w->n * (w->length - 1)), "windows", (json_int_t)w->n, "length",
                             (json_int_t)w->length, "precision", o->precision == SQ_F32_PRODUCTS ? "f32" : "bf16",
                             "protocol", protocol);
    const int bad = !line || json_dumpf(line, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF || fflush(stdout) == EOF;
    json_decref(line);
    return bad ? sq_fail(SQ_E_IO, "cannot write to stdout") : 0;
}

static int64_t cap_length(int64_t length, const struct sq_source *src, const char *spec)
{
    const int64_t max = sq_source_config(src)->max_positions;
    if (max < 2 || length <= max)
        return length;
    sq_log(SQ_WARNING, "'%s' has %" PRId64 " positions: windows of that length, not of %" PRId64, spec, max, length);
    return max;
}

/* The windows to measure on: ids or text with the model's tokenizer. */
static int windows_of(struct sq_windows *w, const struct options *o, const struct sq_source *model, int64_t length)
{
    struct sq_ids ids = SQ_IDS_INIT;
    int rc;
    SQ_TRY(o->ids ? sq_ids_read(&ids, o->ids) : sq_ids_from_text(&ids, model, o->text));
    SQ_TRY(sq_ids_check(&ids, sq_source_config(model)->vocab));
    SQ_TRY(sq_windows_cut(w, &ids, length, o->windows));
out:
    sq_ids_release(&ids);
    return rc;
}

static int measure(struct options *o, const char *spec)
{
    struct sq_source *model = NULL, *base = NULL;
    struct sq_windows w = {0};
    struct sq_states states = {0}, other = {0};
    struct sq_metric m, top1;
    struct stage now = {.app = &o->app, .what = "base"};
    const struct sq_watch watch = {.progress = show, .user = &now};
    const struct sq_ops *ops = NULL;
    int64_t length = o->length;
    int rc;

    sq_ops_choose(&o->app);
    SQ_TRY(sq_ops_of(&ops, &o->app, (enum sq_precision)o->precision));
    SQ_TRY(sq_source_open(&model, spec));
    length = cap_length(length, model, spec);
    now.total = (double)sq_source_config(model)->layers + 1;
    if (o->base) {
        SQ_TRY(sq_source_open(&base, o->base));
        length = cap_length(length, base, o->base);
        if (sq_source_config(base)->vocab != sq_source_config(model)->vocab)
            SQ_TRY(sq_fail(SQ_E_ARG, "'%s' has a vocabulary of %" PRId64 ", '%s' one of %" PRId64, o->base,
                           sq_source_config(base)->vocab, spec, sq_source_config(model)->vocab));
        now.total += (double)sq_source_config(base)->layers + 1;
    }
    SQ_TRY(windows_of(&w, o, model, length));
    if (base) {
        rc = sq_states_run(&other, base, &w, ops, &watch);
        if (rc < 0)
            SQ_TRY(sq_fail_in(rc, "'%s'", o->base));
        sq_source_close(&base);
        now.before = (double)other.cfg.layers;
    }
    now.what = "model";
    rc = sq_states_run(&states, model, &w, ops, &watch);
    if (rc < 0)
        SQ_TRY(sq_fail_in(rc, "'%s'", spec));
    SQ_TRY(sq_perplexity(&m, NULL, &states, &w));
    SQ_TRY(report(o, &w, "perplexity", "", &m));
    if (o->base) {
        now.before += 1;
        SQ_TRY(sq_divergence(&m, &top1, &states, &other));
        SQ_TRY(report(o, &w, "kl", " nats", &m));
        SQ_TRY(report(o, &w, "top1", "", &top1));
    }
out:
    sq_states_release(&states);
    sq_states_release(&other);
    sq_windows_release(&w);
    sq_source_close(&base);
    sq_source_close(&model);
    return rc;
}

static int check(const struct options *o, const char *spec)
{
    if (!o->text == !o->ids)
        return sq_fail(SQ_E_ARG, "one of --text and --ids is needed");
    if (o->base && strcmp(o->base, spec) == 0 && strcmp(spec, "-") == 0)
        return sq_fail(SQ_E_ARG, "model and --base cannot both come from stdin");
    if (strcmp(spec, "-") == 0 && isatty(0))
        return sq_fail(SQ_E_ARG, "no model: name a directory, a file, or pipe a stream into sq-eval");
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {.length = 2048, .precision = SQ_F32_PRODUCTS};
    const struct sq_opt opts[] = {
        SQ_OPT_STR('t', "text", &o.text, "FILE", "text to measure on, tokenised with the model's tokenizer"),
        SQ_OPT_STR(0, "ids", &o.ids, "FILE", "token ids in place of a text: numbers between white space, commas or brackets"),
        SQ_OPT_INT('l', "length", &o.length, 2, 1 << 24, "tokens of a window; at most the model's positions"),
        SQ_OPT_INT('n', "windows", &o.windows, 0, INT64_C(1) << 40, "how many windows; 0: all of the text"),
        SQ_OPT_STR(0, "base", &o.base, "MODEL", "also KL divergence from, and top-1 agreement with, this model"),
        SQ_OPT_FLAG(0, "json", &o.json, "one JSON object a metric on stdout"),
        SQ_OPT_ENUM(0, "precision", &o.precision, "bf16|f32", "operands of products; sums are f32"),
        SQ_OPT_END,
    };
    sq_app_init(&o.app, "sq-eval", "[MODEL]", "perplexity of a model: directory, GGUF file or stream", opts, 1, argc, argv);
    const char *spec = o.app.narg ? o.app.arg[0] : o.app.in;
    const int rc = check(&o, spec);
    if (rc < 0) {
        sq_app_exit(&o.app, rc);
        return 2;
    }
    return sq_app_exit(&o.app, measure(&o, spec));
}
