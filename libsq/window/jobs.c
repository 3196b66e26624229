/* Windows as jobs: streams of a window's layers with the float activations in front of them, which any host can learn
 * without the rest of the model. sq-merge joins what comes back.
 *
 * A job is a stream: {"record":"job","first","last","made"}, the model's record, the tokens, a cursor in front of the first
 * layer, in which Xq is Xf, and the layers. */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pass.h"
#include "sq/fault.h"
#include "sq/json.h"
#include "sq/stop.h"
#include "sq/temp.h"

/* Options that say where and how fast, not what. */
static bool decides_bytes(const char *given)
{
    static const char *const other[] = {"in",      "out",    "verbose", "quiet", "debug",  "threads", "progress",
                                        "metrics", "config", "work",    "spill", "memory", "jobs",    "job",
                                        "windows", "no-cursor", "workers", "worker", "key",    "allow",   "server", "insecure", "timeout", "wait"};
    const size_t n = strcspn(given, "=");
    for (int i = 0; i < SQ_COUNT(other); i++)
        if (strlen(other[i]) == n && strncmp(given, other[i], n) == 0)
            return false;
    return true;
}

/* A job is of its own window whichever were chosen. */
static int made_of_job(json_t **out, const struct pass *e)
{
    struct sq_plan plan = *e->plan;
    plan.windows = NULL;
    return made_of(out, &plan, e->ops);
}

/* ---- running one ---- */

int pass_take_job(struct pass *e)
{
    const char *kind = json_string_value(json_object_get(e->rec.head, "record"));
    if (!kind || strcmp(kind, "job") != 0)
        return 0;
    if (!e->plan->job)
        return sq_fail(SQ_E_FORMAT, "this stream is one window's job: sq-window --job FILE runs it");
    if (e->have_model || e->is_job)
        return sq_fail(SQ_E_FORMAT, "a job record comes first, and once");
    json_t *mine = NULL, *said;
    int rc;
    SQ_TRY(sq_json_object(&said, e->rec.head, "made"));
    SQ_TRY(made_of_job(&mine, e));
    if (made_compare(said, mine, "the job") < 0)
        SQ_TRY(sq_fail(SQ_E_ARG, "%s: --config FOLDER/arguments gives it its options", sq_errmsg()));
    SQ_TRY(sq_json_int(&e->job.first, e->rec.head, "first", 0, 1023));
    SQ_TRY(sq_json_int(&e->job.last, e->rec.head, "last", e->job.first, 1023));
    e->is_job = true;
out:
    json_decref(mine);
    return rc < 0 ? sq_fail_in(rc, "job record") : 0;
}

/* ---- writing them ---- */

#define PLAN "plan.tsv"
#define ARGUMENTS "arguments"

struct jobs {
    struct pass *e;
    const char *dir;
    json_t *made;
    struct sq_temp plan, arguments;
    struct sq_stream *out; /* of the window at hand */
};

static int path_of(char *path, size_t size, const struct jobs *j, const char *name)
{
    if (snprintf(path, size, "%s/%s", j->dir, name) >= (int)size)
        return sq_fail(SQ_E_ARG, "the name of folder '%s' is too long", j->dir);
    return 0;
}

static int open_text(struct sq_temp *t, const struct jobs *j, const char *name)
{
    char path[SQ_TEMP_TARGET];
    const int rc = path_of(path, sizeof path, j, name);
    return rc < 0 ? rc : sq_temp_file(t, path);
}

SQ_PRINTF(2, 3) static int put_text(const struct sq_temp *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const int n = sq_fault(SQ_FAULT_WRITE) ? -1 : vdprintf(t->fd, fmt, ap);
    va_end(ap);
    return n < 0 ? sq_fail(SQ_E_IO, "cannot write '%s': %s", t->target, strerror(errno)) : 0;
}

static int finish_text(struct sq_temp *t)
{
    if (sq_fault(SQ_FAULT_SYNC) || fsync(t->fd) < 0)
        return sq_fail(SQ_E_IO, "cannot write '%s': %s", t->target, strerror(errno));
    return sq_temp_finish(t);
}

/* Options, a job, or the beginning of one: what a run that was stopped has left, as the plan comes last. */
static bool is_leftover(const char *name)
{
    const char *temp = strstr(name, ".sq-tmp-");
    const size_t n = temp ? (size_t)(temp - name) : strlen(name);
    int end = 0;
    (void)sscanf(name, "%*4[0-9]-%*4[0-9].sq%n", &end);
    return (end > 0 && (size_t)end == n) || (n == strlen(ARGUMENTS) && strncmp(name, ARGUMENTS, n) == 0);
}

/* One of the folder's files that is not the plan at hand: results of other jobs must not be taken for those of new ones. */
static int look_at(const struct jobs *j, int folder, const char *name, bool clear)
{
    static const char other[] = PLAN ".sq-tmp-";
    if (strncmp(name, other, strlen(other)) == 0)
        return sq_fail(SQ_E_ARG, "another program writes jobs into '%s': wait for it, or remove '%s'", j->dir, name);
    if (!is_leftover(name))
        return sq_fail(SQ_E_ARG, "'%s' is not empty, it has '%s': run the jobs in it, or name another folder", j->dir, name);
    if (clear && unlinkat(folder, name, 0) < 0)
        return sq_fail(SQ_E_IO, "cannot remove '%s/%s': %s", j->dir, name, strerror(errno));
    return 0;
}

static int look_through(const struct jobs *j, bool clear)
{
    const char *own = strrchr(j->plan.path, '/') + 1;
    int rc = 0;
    DIR *d = sq_fault(SQ_FAULT_OPEN) ? NULL : opendir(j->dir);
    if (!d)
        return sq_fail(SQ_E_IO, "cannot read folder '%s': %s", j->dir, strerror(errno));
    for (const struct dirent *e; rc == 0 && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && strcmp(e->d_name, own) != 0)
            rc = look_at(j, dirfd(d), e->d_name, clear);
    closedir(d);
    return rc;
}

/* The plan, which appears when all its jobs are there, is what two programs cannot both write. */
static int make_folder(struct jobs *j)
{
    int rc;
    if (sq_fault(SQ_FAULT_OPEN) || (mkdir(j->dir, 0777) < 0 && errno != EEXIST))
        return sq_fail(SQ_E_IO, "cannot make folder '%s': %s", j->dir, strerror(errno));
    SQ_TRY(open_text(&j->plan, j, PLAN));
    SQ_TRY(look_through(j, false));
out:
    return rc;
}

/* "name=value", as --config reads them */
static int write_arguments(struct jobs *j)
{
    const json_t *given = j->e->app->given;
    int rc;
    SQ_TRY(open_text(&j->arguments, j, ARGUMENTS));
    for (size_t i = 0; i < json_array_size(given); i++) {
        const char *text = json_string_value(json_array_get(given, i)) + strlen("--");
        if (decides_bytes(text))
            SQ_TRY(put_text(&j->arguments, "%s\n", text));
    }
    SQ_TRY(finish_text(&j->arguments));
out:
    return rc;
}

static int write_job(struct sq_stream *out, const struct sq_window *w, const json_t *made)
{
    json_t *head = json_pack("{s:s, s:I, s:I, s:O}", "record", "job", "first", (json_int_t)w->first, "last",
                             (json_int_t)w->last, "made", made);
    const int rc = head ? sq_stream_put(out, head, NULL, 0) : sq_fail(SQ_E_NOMEM, "no memory for a job record");
    json_decref(head);
    return rc;
}

enum { ID = 48 };

static const char *id_of(char id[ID], const struct sq_window *w)
{
    snprintf(id, ID, "%03" PRId64 "-%03" PRId64, w->first, w->last);
    return id;
}

/* The job's stream as far as its first layer. */
static int begin_job(struct jobs *j, const struct sq_window *w)
{
    struct pass *e = j->e;
    struct cursor c = {.layer = w->first, .float_layer = w->first, .scheme = e->plan->scheme, .same = true};
    char id[ID], name[ID + 4], path[4096];
    int rc;
    c.scheme.rate = pass_rate_behind(e);
    snprintf(name, sizeof name, "%s.sq", id_of(id, w));
    SQ_TRY(path_of(path, sizeof path, j, name));
    SQ_TRY(sq_stream_open(&j->out, path, SQ_WRITE));
    SQ_TRY(sq_stream_begin(j->out, e->in, e->app));
    SQ_TRY(write_job(j->out, w, j->made));
    SQ_TRY(sq_stream_put(j->out, e->model, NULL, 0));
    SQ_TRY(sq_stream_put(j->out, e->tokens, e->acts.ids,
                         (size_t)(e->acts.samples * e->acts.tokens) * sizeof *e->acts.ids));
    SQ_TRY(cursor_announce(j->out, &c, &e->acts, e->ops));
    SQ_TRY(cursor_write(j->out, &c, &e->acts, e->ops, &e->seen));
out:
    return rc;
}

static int end_job(struct jobs *j, const struct sq_window *w)
{
    char id[ID];
    const int rc = sq_stream_finish(&j->out);
    id_of(id, w);
    return rc < 0 ? rc
                  : put_text(&j->plan, "%s\t%s.sq\tsq-window --config arguments --job %s.sq -o %s.out\t%s.out\n",
                             id, id, id, id, id);
}

/* Layer i: into the job that it belongs to; Xf through it, if a later window wants that. */
static int one_layer(struct jobs *j, int64_t i, const struct sq_window *w, bool forward)
{
    struct pass *e = j->e;
    struct sq_layer l = SQ_LAYER_INIT;
    struct sq_block b = {0};
    int rc;
    if (w && i == w->first)
        SQ_TRY(begin_job(j, w));
    SQ_TRY(pass_read_layer(e, &l, i));
    if (w)
        SQ_TRY(sq_layer_write(j->out, &l));
    if (w && i == w->last)
        SQ_TRY(end_job(j, w));
    if (forward) {
        SQ_TRY(sq_block_view(&b, &e->cfg, &l));
        SQ_TRY(sq_trainer_float(e->trainer, e->acts.xf, e->acts.samples, &b, NULL));
    }
    sq_app_progress(e->app, (double)(i + 1), (double)e->cfg.layers, "layer %" PRId64, i);
out:
    sq_block_release(&b);
    sq_layer_release(&l);
    return rc;
}

/* The chosen window that holds layer i, or NULL. */
static const struct sq_window *window_of(const struct pass *e, int64_t i)
{
    for (int64_t k = e->first; k < e->stop; k++)
        if (e->chosen[k] && e->schedule.window[k].first <= i && i <= e->schedule.window[k].last)
            return &e->schedule.window[k];
    return NULL;
}

static int check_windows(const struct pass *e)
{
    for (int64_t k = e->first, end = -1; k < e->stop; k++) {
        const struct sq_window *w = &e->schedule.window[k];
        if (!e->chosen[k])
            continue;
        if (w->first <= end)
            return sq_fail(SQ_E_ARG,
                           "--jobs: window %" PRId64 "-%" PRId64 " shares layers with the one before; jobs are "
                           "independent: --schedule blocks:N or layer",
                           w->first, w->last);
        end = w->last;
    }
    return 0;
}

static int write_all(struct jobs *j)
{
    struct pass *e = j->e;
    const int64_t stop = e->schedule.window[e->stop - 1].first; /* nobody wants Xf behind it */
    int rc;
    SQ_TRY(check_windows(e));
    SQ_TRY(sq_trainer_new(&e->trainer, &e->cfg, e->ops, &e->plan->scheme, 1, pass_part(e), e->acts.tokens));
    SQ_TRY(made_of_job(&j->made, e));
    SQ_TRY(look_through(j, true));
    SQ_TRY(write_arguments(j));
    for (int64_t i = 0; i < e->cfg.layers; i++) {
        SQ_TRY(one_layer(j, i, window_of(e, i), i < stop));
        SQ_TRY(sq_stop_check());
    }
    while ((rc = sq_stream_next(e->in, &e->rec)) > 0)
        ;
    if (rc == 0)
        rc = finish_text(&j->plan);
out:
    return rc;
}

int sq_window_jobs(struct sq_stream *in, const struct sq_plan *p, struct sq_app *app, const char *dir)
{
    struct sq_plan plan = *p;
    struct tally tally = {0};
    struct pass e;
    struct jobs j = {.e = &e, .dir = dir};
    plan.no_cursor = true; /* a window in front of which float activations are wanted has them from the tokens */
    int rc = pass_init(&e, &plan, app, &tally, in, NULL, plan.rate, plan.nrate);
    if (rc == 0 && !p->needs_acts)
        rc = sq_fail(SQ_E_ARG, "--jobs: with these options nothing is learned, and a job would have nothing to do");
    if (rc == 0)
        rc = make_folder(&j);
    if (rc == 0)
        rc = pass_prelude(&e);
    if (rc == 0)
        rc = write_all(&j);
    sq_stream_abort(&j.out, rc);
    sq_temp_remove(&j.plan);
    sq_temp_remove(&j.arguments);
    json_decref(j.made);
    pass_release(&e);
    return rc;
}
