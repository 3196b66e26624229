/* In `pass` order every stage is one run of the engine; between two of them the stream waits in an unlinked
 * file, so that one process and a pipe of processes do the same. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pass.h"
#include "scratch.h"
#include "sq/json.h"
#include "sq/work.h"

/* A stream on a duplicate of the descriptor, from the beginning of the file; the stream's close leaves fd
 * alone. */
static int spool_stream(struct sq_stream **s, int fd, enum sq_dir dir)
{
    char spec[32];
    if (lseek(fd, 0, SEEK_SET) < 0)
        return sq_fail(SQ_E_IO, "spool file: %s", strerror(errno));
    const int other = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (other < 0)
        return sq_fail(SQ_E_IO, "spool file: %s", strerror(errno));
    snprintf(spec, sizeof spec, "fd:%d", other);
    return sq_stream_open(s, spec, dir);
}

static int one_pass(struct sq_stream *out, struct sq_stream *in, const struct sq_plan *p, struct sq_app *app,
                    struct tally *tally, const double *rate, int nrate)
{
    struct pass e;
    int rc = pass_init(&e, p, app, tally, in, out, rate, nrate);
    if (rc == 0)
        rc = sq_stream_begin(out, in, app);
    if (rc == 0)
        rc = pass_run(&e);
    pass_release(&e);
    return rc;
}

/* Every pass but the last writes a spool file, every pass but the first reads the one before it. */
static int chain(struct sq_stream *out, struct sq_stream *in, const struct sq_plan *p, struct sq_app *app,
                 struct tally *tally)
{
    struct sq_stream *from = in, *to = NULL, *spool = NULL;
    int fd = -1, old = -1, rc = 0;
    for (int i = 0; i < p->nrate; i++) {
        const bool last = i == p->nrate - 1;
        if (!last) {
            SQ_TRY(scratch_open(&fd, p->work));
            SQ_TRY(spool_stream(&to, fd, SQ_WRITE));
        }
        SQ_TRY(one_pass(last ? out : to, from, p, app, tally, &p->rate[i], 1));
        if (spool)
            SQ_TRY(sq_stream_finish(&spool));
        if (old >= 0)
            close(old);
        old = -1;
        if (last)
            break;
        sq_log(SQ_INFO, "pass at rate %g done; %.1f MB wait in the spool file", p->rate[i],
               (double)sq_stream_bytes(to) / 1e6);
        SQ_TRY(sq_stream_finish(&to));
        old = fd;
        fd = -1;
        SQ_TRY(spool_stream(&spool, old, SQ_READ));
        from = spool;
    }
out:
    if (rc < 0 && to && sq_stream_put_data(to, NULL, 0) < 0) /* its failure is kept */
        sq_fail_in(rc, "spool file in folder '%s'", scratch_dir(p->work));
    sq_stream_abort(&to, rc);
    sq_stream_abort(&spool, rc);
    if (fd >= 0)
        close(fd);
    if (old >= 0)
        close(old);
    return rc;
}

static json_t *work_fields(void)
{
    double seconds[SQ_WORKS];
    json_t *f = json_object();
    sq_work_seconds(seconds);
    for (int i = 0; i < SQ_WORKS; i++)
        json_object_set_new(f, sq_work_name(i), json_real(seconds[i]));
    return f;
}

static void log_work(void)
{
    double seconds[SQ_WORKS], all = 0.0;
    char text[200];
    size_t n = 0;
    sq_work_seconds(seconds);
    for (int i = 0; i < SQ_WORKS; i++)
        all += seconds[i];
    for (int i = 1; i <= SQ_WORKS && n < sizeof text; i++) /* the rest comes last */
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s %.0f %%", i > 1 ? ", " : "",
                              sq_work_name(i % SQ_WORKS), 100.0 * seconds[i % SQ_WORKS] / fmax(all, 1e-9));
    sq_log(SQ_INFO, "%s", text);
}

static int report_all(struct sq_app *app, const struct tally *t)
{
    const struct sq_usage u = sq_usage();
    const double seconds = sq_now() - app->started;
    sq_log(t->fallbacks ? SQ_WARNING : SQ_INFO,
           "%" PRId64 " windows, %" PRId64 " of them from the work folder, %" PRId64 " retried, %" PRId64
           " fell back, %.1f s, processor %.1f s, peak %.1f MB",
           t->windows, t->restored, t->retries, t->fallbacks, seconds, u.cpu_seconds, (double)u.peak_bytes / 1e6);
    log_work();
    return sq_app_metric(app, "done",
                         json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:o}", "windows", (json_int_t)t->windows,
                                   "restored", (json_int_t)t->restored, "retries",
                                   (json_int_t)t->retries, "fallbacks", (json_int_t)t->fallbacks, "seconds", seconds,
                                   "cpu_seconds", u.cpu_seconds, "peak_bytes", (json_int_t)u.peak_bytes, "work",
                                   work_fields()));
}

int sq_window_passes(struct sq_stream *out, struct sq_stream *in, const struct sq_plan *p, struct sq_app *app)
{
    struct tally tally = {0};
    int rc = folder_open(&tally.folder, p, app);
    if (rc == 0)
        rc = workers_open(&tally.workers, p, app);
    if (rc == 0)
        rc = p->window_order ? one_pass(out, in, p, app, &tally, p->rate, p->nrate) : chain(out, in, p, app, &tally);
    if (rc == 0)
        rc = workers_finish(&tally.workers);
    if (rc == 0)
        rc = report_all(app, &tally);
    workers_abort(&tally.workers, rc);
    folder_close(&tally.folder);
    return rc;
}

int sq_window_layers(int64_t *layers, struct sq_stream *in)
{
    struct sq_record rec = {0};
    struct sq_config cfg;
    json_t *config;
    int rc;
    while ((rc = sq_stream_next(in, &rec)) > 0 && rec.kind != SQ_REC_MODEL)
        ;
    if (rc == 0)
        rc = sq_fail(SQ_E_FORMAT, "the stream has no model record");
    if (rc > 0)
        rc = sq_json_object(&config, rec.head, "config");
    if (rc == 0)
        rc = sq_config_from_json(&cfg, config);
    if (rc == 0)
        *layers = cfg.layers;
    sq_record_release(&rec);
    return rc;
}
