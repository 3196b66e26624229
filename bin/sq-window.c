/* bin/sq-window.c - learn LoRA, clipping and channel scaling, window after window of layers */
#include "sq/app.h"
#include "sq/engine.h"
#include "sq/op.h"
#include "sq/stop.h"
#include "sq/stream.h"

static int print_plan(const struct sq_app *app, const struct sq_plan *plan, int64_t layers)
{
    struct sq_stream *in = NULL;
    int rc = 0;
    if (layers == 0) {
        SQ_TRY(sq_stream_open(&in, app->in, SQ_READ));
        SQ_TRY(sq_window_layers(&layers, in));
    }
    SQ_TRY(sq_plan_print(plan, layers));
out:
    sq_stream_abort(&in, rc);
    return rc;
}

int main(int argc, char **argv)
{
    struct sq_window_opts o = SQ_WINDOW_OPTS_INIT;
    const struct sq_opt opts[] = {SQ_WINDOW_OPTS(o), SQ_OPT_END};
    struct sq_app app;
    struct sq_plan plan;
    struct sq_stream *in = NULL, *out = NULL;
    int rc;

    sq_app_init(&app, "sq-window", "<model+calibration >model+parameters",
                "learn what rounding needs, window after window of layers", opts, 0, argc, argv);
    sq_stop_catch();
    rc = sq_plan_make(&plan, &o, app.seed);
    if (rc < 0) {
        sq_app_exit(&app, rc);
        return 2;
    }
    if (o.plan) {
        SQ_TRY(print_plan(&app, &plan, o.layers));
        goto out;
    }
    sq_ops_choose(&app);
    if (o.worker) {
        SQ_TRY(sq_stream_open(&in, app.in, SQ_READ));
        SQ_TRY(sq_stream_open(&out, app.out, SQ_WRITE));
        SQ_TRY(sq_window_worker(out, in, &plan, &app));
        SQ_TRY(sq_stream_finish(&in));
        SQ_TRY(sq_stream_finish(&out));
        goto out;
    }
    SQ_TRY(sq_stream_open(&in, o.job ? o.job : app.in, SQ_READ));
    if (o.jobs) {
        SQ_TRY(sq_window_jobs(in, &plan, &app, o.jobs));
        SQ_TRY(sq_stream_finish(&in));
        goto out;
    }
    if (o.dry_run) {
        SQ_TRY(sq_window_estimate(in, &plan, &app));
        goto out;
    }
    SQ_TRY(sq_stream_open(&out, app.out, SQ_WRITE));
    SQ_TRY(sq_window_passes(out, in, &plan, &app));
    SQ_TRY(sq_stream_finish(&in));
    SQ_TRY(sq_stream_finish(&out));
out:
    sq_stream_abort(&out, rc);
    sq_stream_abort(&in, rc);
    rc = sq_app_exit(&app, rc);
    sq_stop_raise();
    return rc;
}
